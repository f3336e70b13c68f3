//! A deterministic executor that runs batches in order, and checks after each step that nothing is lost, doubled or
//! overdrawn. It keeps its own books and compares.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use super::super::batch::{Batch, Chunk};
use super::super::*;
use crate::units::SeqId;

/// A livelock shows as more batches than any of the small workloads can need.
const BATCHES_MAX: usize = 200_000;

/// When a request of a test arrives: just before this batch is formed, or as soon as nothing is left to do.
pub(super) type Arrival = (usize, NewSequence);

/// What is known of a sequence from the outside.
#[derive(Debug, Clone)]
struct Book {
    new: NewSequence,
    emitted: u32,
    /// Context its next chunk must have; None while it waits.
    context: Option<u32>,
    /// Tokens of the prefill at hand.
    target: u32,
}

/// Drives a scheduler to the end.
pub(super) struct Checker {
    pub(super) scheduler: Scheduler,
    pub(super) trace: String,
    books: BTreeMap<SeqId, Book>,
    /// Tokens of every sequence so far, outputs included.
    lengths: Vec<u32>,
    in_flight: VecDeque<Batch>,
    batches: usize,
    /// Which sequence ends early after which output token.
    ends_early: BTreeMap<SeqId, u32>,
    /// Which sequences are given up just before which batch.
    aborts: BTreeSet<(usize, SeqId)>,
    /// Given up in flight.
    doomed: BTreeSet<SeqId>,
    /// Given up, in flight or not.
    aborted: BTreeSet<SeqId>,
}

impl Checker {
    pub(super) fn new(cfg: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(cfg).unwrap(),
            trace: String::new(),
            books: BTreeMap::new(),
            lengths: Vec::new(),
            in_flight: VecDeque::new(),
            batches: 0,
            ends_early: BTreeMap::new(),
            aborts: BTreeSet::new(),
            doomed: BTreeSet::new(),
            aborted: BTreeSet::new(),
        }
    }

    pub(super) fn end_early(&mut self, seq: SeqId, after: u32) {
        self.ends_early.insert(seq, after);
    }

    pub(super) fn abort_before(&mut self, batch: usize, seq: SeqId) {
        self.aborts.insert((batch, seq));
    }

    /// Gives up who is to be by now and is there.
    fn abort(&mut self) {
        let later = self.aborts.split_off(&(self.batches + 1, SeqId(0)));
        for (_, seq) in std::mem::replace(&mut self.aborts, later) {
            if !self.books.contains_key(&seq) || !self.aborted.insert(seq) {
                continue;
            }
            let flies = self.in_flight.iter().flat_map(|batch| &batch.chunks).any(|chunk| chunk.seq == seq);
            let _ = writeln!(self.trace, "abort {}", seq.0);
            assert_eq!(self.scheduler.abort(seq), !flies);
            if flies {
                self.doomed.insert(seq);
            } else {
                self.books.remove(&seq);
                assert_eq!(self.scheduler.block_table(seq), None);
            }
            self.check_blocks();
        }
    }

    /// Runs everything. `hasty`: bit b tells whether batch b (modulo 64) is awaited at once although more could be
    /// scheduled.
    pub(super) fn run(&mut self, arrivals: &[Arrival], hasty: u64) {
        let mut arrivals = arrivals.iter().peekable();
        loop {
            while let Some((_, new)) = arrivals.next_if(|(batch, _)| *batch <= self.batches) {
                self.add(*new);
            }
            if self.step(hasty) {
                continue;
            }
            let Some((_, new)) = arrivals.next() else { break };
            self.add(*new);
        }
        self.check_end();
    }

    /// Schedules or completes one batch; false if there was nothing to do.
    fn step(&mut self, hasty: u64) -> bool {
        self.abort();
        if let Some(batch) = self.scheduler.schedule() {
            assert!(self.batches < BATCHES_MAX, "no end in sight");
            self.check_scheduled(&batch);
            self.in_flight.push_back(batch);
            let wait = hasty >> (self.batches % 64) & 1 == 1;
            self.batches += 1;
            if !wait {
                return true;
            }
        }
        let Some(batch) = self.in_flight.pop_front() else { return false };
        self.complete(batch);
        true
    }

    pub(super) fn add(&mut self, new: NewSequence) -> Admission {
        let admission = self.scheduler.add(new);
        if admission == Admission::Waiting {
            self.lengths.push(new.prompt_tokens + new.output_tokens);
            self.books.insert(new.id, Book { new, emitted: 0, context: None, target: new.prompt_tokens });
        } else {
            let _ = writeln!(self.trace, "ignored {}", new.id.0);
        }
        admission
    }

    fn check_scheduled(&mut self, batch: &Batch) {
        self.write_trace(batch);
        let flying: BTreeSet<SeqId> = self.in_flight.iter().flat_map(|b| &b.chunks).map(|c| c.seq).collect();
        for seq in &batch.preempted {
            assert!(!flying.contains(seq), "{seq:?} was preempted in flight");
            // It may have been given up between its preemption and this batch.
            let Some(book) = self.books.get_mut(seq) else {
                assert!(self.aborted.contains(seq), "{seq:?} is nobody");
                continue;
            };
            assert!(book.context.take().is_some(), "{seq:?} was preempted while it waited");
        }
        let mut seen = flying;
        for chunk in &batch.chunks {
            assert!(seen.insert(chunk.seq), "{:?} is in two chunks at once", chunk.seq);
            self.check_chunk(chunk);
        }
        self.check_budget(batch);
        self.check_blocks();
        let cfg = self.scheduler.config();
        assert!(self.scheduler.in_flight() <= cfg.stages);
        assert!(self.scheduler.running() <= cfg.batch_cap);
        assert!(!batch.chunks.is_empty());
        let admitted = batch.chunks.iter().any(|c| c.is_prefill && c.context == 0);
        assert!(!admitted || self.scheduler.blocks().free() >= cfg.watermark_blocks(), "below the watermark");
    }

    fn check_chunk(&mut self, chunk: &Chunk) {
        let honest = self.scheduler.config().compat == Compat::Honest;
        if self.books[&chunk.seq].context.is_none() {
            let oldest = self.books.values().find(|book| book.context.is_none()).unwrap().new.id;
            assert_eq!(chunk.seq, oldest, "an older sequence was overtaken");
        }
        let book = self.books.get_mut(&chunk.seq).unwrap();
        let context = book.context.unwrap_or_else(|| {
            book.target = book.new.prompt_tokens + book.emitted;
            0
        });
        let is_prefill = context < book.target;
        let refed = !honest && context == book.target;
        let expected = if refed && chunk.context + 1 == context { context - 1 } else { context };
        assert_eq!((chunk.context, chunk.is_prefill), (expected, is_prefill), "{chunk:?} of {book:?}");
        let end = chunk.context + chunk.tokens;
        assert!(chunk.tokens >= 1 && (is_prefill || chunk.tokens == 1));
        assert!(!is_prefill || end <= book.target, "more than the prompt");
        assert_eq!(chunk.emits_token, !is_prefill || honest && end == book.target);
        book.context = Some(end);
        let table = self.scheduler.block_table(chunk.seq).unwrap();
        assert!(
            table.len() as u32 * self.scheduler.config().block_size >= end,
            "no block for the last token"
        );
    }

    fn check_budget(&self, batch: &Batch) {
        let (prefill, decode) = (batch.prefill_tokens(), batch.decode_tokens());
        let mixed = prefill > 0 && decode > 0;
        match self.scheduler.config().policy {
            Policy::Sarathi { chunk: ChunkSchedule::Fixed(chunk) } => {
                assert!(prefill == 0 || prefill + decode <= chunk, "over the chunk");
            }
            Policy::Sarathi { chunk: ChunkSchedule::Dynamic { low, high, .. } } => {
                // Rounding to the nearest step adds at most half of one.
                let largest = high + low.min(32) / 2;
                assert!(prefill == 0 || prefill + decode <= largest, "over the largest chunk");
            }
            Policy::Vllm { max_batched_tokens } => assert!(!mixed && prefill <= max_batched_tokens),
            Policy::Orca => {}
            Policy::FasterTransformer => assert!(!mixed),
            Policy::SimpleChunking { chunk } => assert!(!mixed && prefill <= chunk),
        }
    }

    fn check_blocks(&self) {
        let tables = self.books.keys().filter_map(|&seq| self.scheduler.block_table(seq));
        let taken: Vec<u32> = tables.flatten().map(|block| block.0).collect();
        let distinct: BTreeSet<u32> = taken.iter().copied().collect();
        assert_eq!(taken.len(), distinct.len(), "a block has two owners");
        let blocks = self.scheduler.blocks();
        assert_eq!(taken.len() as u32 + blocks.free(), blocks.total(), "a block is lost");
        assert!(distinct.iter().all(|&block| block < blocks.total()));
        let in_use_max = self.scheduler.config().blocks_in_use_max(self.lengths.iter().copied());
        assert!(
            distinct.iter().all(|&block| block < in_use_max),
            "memory of the lowest blocks alone is touched beforehand"
        );
    }

    fn complete(&mut self, batch: Batch) {
        let ends = |chunk: &&Chunk| {
            let after = self.ends_early.get(&chunk.seq);
            chunk.emits_token && after.is_some_and(|&after| self.books[&chunk.seq].emitted + 1 >= after)
        };
        let ended: Vec<SeqId> = batch.chunks.iter().filter(ends).map(|c| c.seq).collect();
        let outcomes = self.scheduler.complete(&batch, &ended).to_vec();
        for (chunk, outcome) in batch.chunks.iter().zip(&outcomes) {
            let book = self.books.get_mut(&chunk.seq).unwrap();
            book.emitted += u32::from(chunk.emits_token);
            let ended =
                chunk.emits_token && (book.emitted == book.new.output_tokens || ended.contains(&chunk.seq));
            let finished = self.doomed.remove(&chunk.seq) || ended;
            let prefill_ended = chunk.is_prefill && chunk.context + chunk.tokens == book.target;
            let expected = Outcome { seq: chunk.seq, emitted: chunk.emits_token, prefill_ended, finished };
            assert_eq!(*outcome, expected);
            if finished {
                self.books.remove(&chunk.seq);
                assert_eq!(self.scheduler.block_table(chunk.seq), None);
            }
        }
        self.check_blocks();
        assert_eq!(self.scheduler.unfinished(), self.books.len(), "a sequence is lost");
        self.scheduler.recycle(batch);
    }

    fn check_end(&self) {
        assert!(self.books.is_empty(), "never finished: {:?}", self.books);
        assert_eq!((self.scheduler.unfinished(), self.scheduler.in_flight()), (0, 0));
        assert_eq!(self.scheduler.blocks().free(), self.scheduler.blocks().total());
    }

    /// `3: d0@9 p1@0+4! | -2 | free 5`: batch 3 decodes sequence 0 at context 9, prefills 4 tokens of sequence 1, which
    /// ends its prompt (!), and had to preempt sequence 2.
    fn write_trace(&mut self, batch: &Batch) {
        let _ = write!(self.trace, "{}:", batch.id.0);
        for chunk in &batch.chunks {
            let (seq, context, tokens) = (chunk.seq.0, chunk.context, chunk.tokens);
            let mark = if chunk.emits_token { "!" } else { "" };
            let _ = match chunk.is_prefill {
                true => write!(self.trace, " p{seq}@{context}+{tokens}{mark}"),
                false => write!(self.trace, " d{seq}@{context}"),
            };
        }
        for seq in &batch.preempted {
            let _ = write!(self.trace, " -{}", seq.0);
        }
        let _ = writeln!(self.trace, " free {}", self.scheduler.blocks().free());
    }
}
