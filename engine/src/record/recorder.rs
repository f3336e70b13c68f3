//! Collects the events of a trial and writes them out, whole row groups at a time.

use std::collections::VecDeque;
use std::io::Write;

use super::columns::{BatchWriter, RequestWriter};
use super::hopeless::Watch;
use super::rows::{BatchRow, NEVER, Place, RequestRow};
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
            let row = &mut self.rows[(seq.0 - self.first_request) as usize];
            row.restarts += 1;
            row.pauses += batch.id.0 - row.batch;
            row.place = Place::Queue;
        }
        let (mut prefill_tokens, mut decode_tokens) = (0, 0);
        for chunk in &batch.chunks {
            *if chunk.is_prefill { &mut prefill_tokens } else { &mut decode_tokens } += chunk.tokens;
            let row = &mut self.rows[(chunk.seq.0 - self.first_request) as usize];
            if row.place == Place::Idle {
                row.pauses += batch.id.0 - row.batch;
            } else if row.scheduled == NEVER {
                (row.scheduled, row.idle_since) = (now.0, now.0);
                self.watch.scheduled(chunk.seq, Nanos(now.0 - row.arrival));
            }
            (row.place, row.batch) = (Place::InFlight, batch.id.0);
        }
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

    /// A batch that ran from `start` (first stage) to `end` (last stage) did `outcomes`, one a chunk.
    pub fn completed(
        &mut self,
        batch: &Batch,
        outcomes: &[Outcome],
        start: Nanos,
        end: Nanos,
    ) -> Result<(), RecordError> {
        assert_eq!(batch.chunks.len(), outcomes.len(), "expected one outcome a chunk");
        let next_batch = self.next_batch();
        let entry = &mut self.history[(batch.id.0 - self.first_batch) as usize];
        (entry.start, entry.end) = (start.0, end.0);
        self.next_incomplete = batch.id.0 + 1;
        for outcome in outcomes {
            let row = &mut self.rows[(outcome.seq.0 - self.first_request) as usize];
            row.execution += end.0 - start.0;
            row.preemption += start.0 - row.idle_since;
            row.idle_since = end.0;
            (row.place, row.batch) = (Place::Idle, next_batch);
            if outcome.prefill_ended && row.prefill_end == NEVER {
                row.prefill_end = end.0;
            }
            if outcome.emitted {
                emit(row, &mut self.watch, outcome.seq, batch.id.0, end);
            }
            if outcome.finished {
                row.completed = end.0;
                row.done = true;
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
        let next_batch = self.next_batch();
        for row in self.rows.iter_mut().filter(|row| !row.done && row.scheduled != NEVER) {
            let idle_until = match row.place {
                Place::InFlight => self.history[(row.batch - self.first_batch) as usize].scheduled,
                Place::Idle | Place::Queue => end.0,
            };
            row.preemption += idle_until - row.idle_since;
            if row.place == Place::Idle {
                row.pauses += next_batch - row.batch;
            }
        }
        self.write_requests(self.rows.len())?;
        self.write_batches()?;
        let batches = self.batches.map(BatchWriter::close).transpose()?;
        Ok((self.requests.close()?, batches))
    }

    fn next_batch(&self) -> u32 {
        self.first_batch + self.history.len() as u32
    }

    /// Writes row groups that are full and forgets what no later row needs.
    fn write_full_groups(&mut self) -> Result<(), RecordError> {
        while let Some(row) = self.rows.get(self.done_rows).filter(|row| row.done) {
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

/// One more output token of `row` left at `end`.
fn emit(row: &mut RequestRow, watch: &mut Watch, seq: SeqId, batch: u32, end: Nanos) {
    if row.last_token == NEVER {
        row.tokens.reserve_exact(row.output_tokens as usize);
        watch.first_token(seq, Nanos(end.0 - row.arrival));
    } else {
        watch.gap(Nanos(end.0 - row.last_token));
    }
    row.last_token = end.0;
    row.tokens.push(batch);
}
