//! Collects the events of a trial and writes them out, whole row groups at a time.

use std::collections::VecDeque;
use std::io::Write;

use super::columns::{BatchWriter, RequestWriter};
use super::hopeless::Watch;
use super::rows::{BatchRow, NEVER, RequestRow};
use crate::sched::{NewSequence, Outcome, batch::Batch};
use crate::units::{Nanos, SeqId};

/// When a row group is written: as soon as it holds this much.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupSize {
    pub(super) output_tokens: usize,
    pub(super) requests: usize,
    pub(super) batches: usize,
}

/// Some 10 MB of memory a group.
const GROUP_SIZE: GroupSize = GroupSize { output_tokens: 1 << 20, requests: 1 << 16, batches: 1 << 16 };

/// Why records cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write records")]
pub struct RecordError(#[from] pub(super) parquet::errors::ParquetError);

/// Collects raw events. Rows that can no longer change leave memory as row groups.
pub struct Recorder<W: Write + Send> {
    requests: RequestWriter<W>,
    batches: Option<BatchWriter<W>>,
    watch: Watch,
    group: GroupSize,
    /// Requests not yet written; the first has number `first_request`.
    rows: VecDeque<RequestRow>,
    first_request: u32,
    /// Leading rows that are done, and their output tokens.
    done_rows: usize,
    done_tokens: usize,
    /// Batches that an unwritten row may refer to; the first has number `first_batch`.
    history: VecDeque<BatchRow>,
    first_batch: u32,
    /// The sequences of each batch in flight, oldest first, and buffers for those to come.
    in_flight: VecDeque<Vec<SeqId>>,
    spare: Vec<Vec<SeqId>>,
    /// Number of the first batch not yet handed to the writer.
    next_unwritten: u32,
    /// Number of the first batch not yet completed.
    next_incomplete: u32,
}

impl<W: Write + Send> Recorder<W> {
    /// Records go to `requests` and, if given, `batches`; `watch` sees every sample.
    pub fn new(requests: W, batches: Option<W>, watch: Watch) -> Result<Self, RecordError> {
        Self::with_groups(requests, batches, watch, GROUP_SIZE)
    }

    pub(super) fn with_groups(
        requests: W,
        batches: Option<W>,
        watch: Watch,
        group: GroupSize,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            group,
            requests: RequestWriter::new(requests)?,
            batches: batches.map(BatchWriter::new).transpose()?,
            watch,
            rows: VecDeque::new(),
            first_request: 0,
            done_rows: 0,
            done_tokens: 0,
            history: VecDeque::new(),
            first_batch: 0,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            next_unwritten: 0,
            next_incomplete: 0,
        })
    }

    /// A request has arrived; `ignored`: the scheduler refused it. Requests come in order, from number 0.
    pub fn arrived(&mut self, seq: &NewSequence, ignored: bool) {
        let next = self.first_request + self.rows.len() as u32;
        assert_eq!(seq.id.0, next, "expected requests to arrive in order");
        self.rows.push_back(RequestRow::new(seq.arrival, seq.prompt_tokens, seq.output_tokens, ignored));
        self.watch.arrived(seq, ignored);
    }

    /// A batch was scheduled at `now`.
    pub fn scheduled(&mut self, batch: &Batch, now: Nanos) {
        assert_eq!(batch.id.0, self.next_batch(), "expected batches in order");
        for &seq in &batch.preempted {
            let row = row_of(&mut self.rows, self.first_request, seq);
            row.restarts += 1;
            row.count_pauses(batch.id.0);
            row.allocated = false;
        }
        let (mut prefill_tokens, mut decode_tokens) = (0, 0);
        for chunk in &batch.chunks {
            if !chunk.is_prefill {
                decode_tokens += chunk.tokens;
                continue;
            }
            prefill_tokens += chunk.tokens;
            if chunk.context == 0 {
                self.admitted(chunk.seq, batch.id.0, now);
            }
        }
        let mut sequences = self.spare.pop().unwrap_or_default();
        sequences.extend(batch.chunks.iter().map(|chunk| chunk.seq));
        self.in_flight.push_back(sequences);
        self.history.push_back(BatchRow {
            id: batch.id.0,
            scheduled: now.0,
            start: NEVER,
            end: NEVER,
            sequences: batch.chunks.len() as u32,
            prefill_tokens,
            decode_tokens,
            preemptions: batch.preempted.len() as u32,
        });
    }

    /// Batch number `batch` has the first chunk of a sequence, or its first since a preemption.
    fn admitted(&mut self, seq: SeqId, batch: u32, now: Nanos) {
        let row = row_of(&mut self.rows, self.first_request, seq);
        row.allocated = true;
        row.eligible_from = batch;
        if row.scheduled == NEVER {
            row.scheduled = now.0;
            self.watch.scheduled(seq, Nanos(now.0 - row.arrival));
        }
    }

    /// A batch that ran from `start` (first stage) to `end` (last stage) did `outcomes`, one a chunk.
    pub fn completed(
        &mut self,
        batch: &Batch,
        outcomes: &[Outcome],
        start: Nanos,
        end: Nanos,
    ) -> Result<(), RecordError> {
        assert_eq!(batch.chunks.len(), outcomes.len(), "expected one outcome a chunk");
        assert_eq!(batch.id.0, self.next_incomplete, "expected batches to complete in order");
        self.next_incomplete += 1;
        self.spare.extend(self.in_flight.pop_front().map(|mut sequences| {
            sequences.clear();
            sequences
        }));
        let next_batch = self.next_batch();
        let entry = &mut self.history[(batch.id.0 - self.first_batch) as usize];
        (entry.start, entry.end) = (start.0, end.0);
        for outcome in outcomes {
            let row = row_of(&mut self.rows, self.first_request, outcome.seq);
            row.execution += end.0 - start.0;
            row.count_pauses(batch.id.0);
            row.eligible_from = next_batch;
            if outcome.emitted {
                match row.tokens.last() {
                    None => {
                        row.tokens.reserve_exact(row.output_tokens as usize);
                        self.watch.first_token(outcome.seq, Nanos(end.0 - row.arrival));
                    }
                    Some(last) if self.watch.watches_gaps() => {
                        let last_end = self.history[(last - self.first_batch) as usize].end;
                        self.watch.gap(Nanos(end.0 - last_end));
                    }
                    Some(_) => {}
                }
                row.tokens.push(batch.id.0);
            }
            if outcome.prefill_ended && row.prefill_end == NEVER {
                row.prefill_end = end.0;
            }
            if outcome.finished {
                row.completed = end.0;
                row.close(end.0);
            }
        }
        self.write_full_groups()
    }

    /// The predicate that can no longer hold, whatever comes after `now`.
    pub fn hopeless(&mut self, now: Nanos) -> Option<&str> {
        self.watch.hopeless(now)
    }

    /// The trial ended at `end`; writes what is left and hands the sinks back. Batches still in flight are left out.
    pub fn finish(mut self, end: Nanos) -> Result<(W, Option<W>), RecordError> {
        self.close_unfinished(end);
        self.write_requests(self.rows.len())?;
        self.write_batches()?;
        let batches = self.batches.map(BatchWriter::close).transpose()?;
        Ok((self.requests.close()?, batches))
    }

    /// Counts times and pauses of what has not finished, up to `end` or the batch in flight that holds it.
    fn close_unfinished(&mut self, end: Nanos) {
        let next_batch = self.next_batch();
        for row in self.rows.iter_mut().filter(|row| !row.is_done() && row.scheduled != NEVER) {
            row.close(end.0);
        }
        for (batch, sequences) in (self.next_incomplete..).zip(&self.in_flight) {
            let scheduled = self.history[(batch - self.first_batch) as usize].scheduled;
            for &seq in sequences {
                let row = row_of(&mut self.rows, self.first_request, seq);
                row.close(scheduled);
                row.count_pauses(batch);
                row.allocated = false;
            }
        }
        for row in self.rows.iter_mut().filter(|row| !row.is_done() && row.allocated) {
            row.count_pauses(next_batch);
        }
    }

    fn next_batch(&self) -> u32 {
        self.first_batch + self.history.len() as u32
    }

    /// Writes row groups that are full and forgets what no later row needs.
    fn write_full_groups(&mut self) -> Result<(), RecordError> {
        while let Some(row) = self.rows.get(self.done_rows).filter(|row| row.is_done()) {
            self.done_rows += 1;
            self.done_tokens += row.tokens.len();
        }
        let batches_full = (self.next_incomplete - self.next_unwritten) as usize >= self.group.batches;
        let requests_full =
            self.done_tokens >= self.group.output_tokens || self.done_rows >= self.group.requests;
        if batches_full {
            self.write_batches()?;
        }
        if requests_full {
            self.write_requests(self.done_rows)?;
        }
        if batches_full || requests_full {
            self.forget_batches();
        }
        Ok(())
    }

    fn write_requests(&mut self, count: usize) -> Result<(), RecordError> {
        let rows = &self.rows.make_contiguous()[..count];
        if !rows.is_empty() {
            self.requests.write(rows, self.first_request, &self.history, self.first_batch)?;
        }
        self.rows.drain(..count);
        self.first_request += count as u32;
        (self.done_rows, self.done_tokens) = (0, 0);
        Ok(())
    }

    fn write_batches(&mut self) -> Result<(), RecordError> {
        let range = (self.next_unwritten - self.first_batch) as usize
            ..(self.next_incomplete - self.first_batch) as usize;
        self.next_unwritten = self.next_incomplete;
        let rows = &self.history.make_contiguous()[range];
        match &mut self.batches {
            Some(batches) if !rows.is_empty() => Ok(batches.write(rows)?),
            _ => Ok(()),
        }
    }

    /// Drops written batches older than the first token of every unwritten request. Requests are scheduled in order, so
    /// the search ends at the first that never was.
    fn forget_batches(&mut self) {
        let scheduled = self.rows.iter().take_while(|row| row.ignored || row.scheduled != NEVER);
        let oldest = scheduled.filter_map(|row| row.tokens.first()).min();
        let keep_from = oldest.map_or(self.next_unwritten, |&oldest| oldest.min(self.next_unwritten));
        self.history.drain(..(keep_from - self.first_batch) as usize);
        self.first_batch = keep_from;
    }
}

fn row_of(rows: &mut VecDeque<RequestRow>, first_request: u32, seq: SeqId) -> &mut RequestRow {
    &mut rows[(seq.0 - first_request) as usize]
}
