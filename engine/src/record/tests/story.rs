//! A trial to record: a scheduler on a fake pipeline, its events, and the rows that they must give, computed anew from
//! the whole list of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;

use parquet::file::reader::{FileReader, SerializedFileReader};

use super::super::recorder::{GroupSize, Recorder};
use super::super::*;
use crate::sched::{Admission, NewSequence, Outcome, Scheduler, SchedulerConfig, batch::Batch};
use crate::units::{Nanos, SeqId};

/// What happened, in order.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Arrived(NewSequence, bool),
    Scheduled(Batch, Nanos),
    Completed { batch: Batch, outcomes: Vec<Outcome>, start: Nanos, end: Nanos },
}

/// Events up to the end of the trial.
#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) events: Vec<Event>,
    pub(super) end: Nanos,
}

/// Runs `requests` until all is done or `completions` batches have completed.
pub(super) fn tell(cfg: SchedulerConfig, requests: &[NewSequence], completions: usize) -> Story {
    let stages = u64::from(cfg.stages);
    let mut scheduler = Scheduler::new(cfg).unwrap();
    let mut arrivals = requests.iter().peekable();
    let mut in_flight: VecDeque<(Batch, Nanos, Nanos)> = VecDeque::new();
    let (mut events, mut left) = (Vec::new(), completions);
    let (mut now, mut free) = (Nanos::ZERO, Nanos::ZERO);
    while left > 0 {
        while let Some(&new) = arrivals.next_if(|new| new.arrival <= now) {
            events.push(Event::Arrived(new, scheduler.add(new) == Admission::Ignored));
        }
        if let Some(batch) = scheduler.schedule() {
            let stage = Nanos(10 + u64::from(batch.prefill_tokens()) + 2 * batch.chunks.len() as u64);
            let start = now.max(free);
            free = start + stage;
            let last_end = in_flight.back().map_or(Nanos::ZERO, |&(_, _, end)| end);
            events.push(Event::Scheduled(batch.clone(), now));
            in_flight.push_back((batch, start, last_end.max(start + Nanos(stage.0 * stages))));
            now += Nanos(1);
        } else if let Some((batch, start, end)) = in_flight.pop_front() {
            now = now.max(end);
            let outcomes = scheduler.complete(&batch, &[]).to_vec();
            events.push(Event::Completed { batch, outcomes, start, end });
            left -= 1;
        } else if let Some(new) = arrivals.peek() {
            now = new.arrival;
        } else {
            break;
        }
    }
    Story { events, end: now + Nanos(5) }
}

/// Row groups so large that all is one, or of the sizes given.
pub(super) fn record(story: &Story, group: Option<GroupSize>) -> (Vec<u8>, Vec<u8>) {
    let all = GroupSize { output_tokens: usize::MAX, requests: usize::MAX, batches: usize::MAX };
    let mut recorder =
        Recorder::with_groups(Vec::new(), Some(Vec::new()), Watch::default(), group.unwrap_or(all)).unwrap();
    for event in &story.events {
        match event {
            Event::Arrived(new, ignored) => recorder.arrived(new, *ignored),
            Event::Scheduled(batch, now) => recorder.scheduled(batch, *now),
            Event::Completed { batch, outcomes, start, end } => {
                recorder.completed(batch, outcomes, *start, *end).unwrap();
            }
        }
    }
    let (requests, batches) = recorder.finish(story.end).unwrap();
    (requests, batches.unwrap())
}

/// All rows of a Parquet file, one a line, and its number of row groups.
pub(super) fn read(file: &[u8]) -> (Vec<String>, usize) {
    let mut on_disk = tempfile::tempfile().unwrap();
    on_disk.write_all(file).unwrap();
    let reader = SerializedFileReader::new(on_disk).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
    (rows, reader.num_row_groups())
}

/// What is known of one request.
#[derive(Debug, Default)]
struct Facts {
    scheduled: Option<u64>,
    prefill_end: Option<u64>,
    /// When each token left, and whether its batch carried no prompt token.
    tokens: Vec<(u64, bool)>,
    completed: Option<u64>,
    /// From first stage to last stage, of each completed batch it was in.
    runs: Vec<(u64, u64)>,
    /// When the batch that holds it at the end was scheduled.
    holds: Option<u64>,
    restarts: u32,
    pauses: u32,
}

/// The rows of `records.parquet` that `story` must give.
pub(super) fn expected_rows(story: &Story) -> Vec<String> {
    let facts = facts(story);
    let arrivals = story.events.iter().filter_map(|event| match event {
        Event::Arrived(new, ignored) => Some((new, *ignored)),
        _ => None,
    });
    arrivals.map(|(new, ignored)| facts[&new.id].row(new, ignored, story.end.0)).collect()
}

fn facts(story: &Story) -> BTreeMap<SeqId, Facts> {
    let mut facts: BTreeMap<SeqId, Facts> = BTreeMap::new();
    let (mut allocated, mut flying) = (BTreeSet::new(), BTreeSet::new());
    for event in &story.events {
        match event {
            Event::Arrived(new, _) => assert!(facts.insert(new.id, Facts::default()).is_none()),
            Event::Scheduled(batch, now) => {
                for seq in &batch.preempted {
                    allocated.remove(seq);
                    facts.get_mut(seq).unwrap().restarts += 1;
                }
                for chunk in &batch.chunks {
                    allocated.insert(chunk.seq);
                    flying.insert(chunk.seq);
                    let fact = facts.get_mut(&chunk.seq).unwrap();
                    fact.scheduled.get_or_insert(now.0);
                    fact.holds = Some(now.0);
                }
                for seq in allocated.difference(&flying) {
                    facts.get_mut(seq).unwrap().pauses += 1;
                }
            }
            Event::Completed { batch, outcomes, start, end } => {
                let decode_only = batch.chunks.iter().all(|chunk| !chunk.is_prefill);
                for outcome in outcomes {
                    flying.remove(&outcome.seq);
                    let fact = facts.get_mut(&outcome.seq).unwrap();
                    fact.complete(outcome, start.0, end.0, decode_only);
                    if outcome.finished {
                        allocated.remove(&outcome.seq);
                    }
                }
            }
        }
    }
    facts
}

impl Facts {
    fn complete(&mut self, outcome: &Outcome, start: u64, end: u64, decode_only: bool) {
        self.holds = None;
        self.runs.push((start, end));
        if outcome.prefill_ended {
            self.prefill_end.get_or_insert(end);
        }
        if outcome.emitted {
            self.tokens.push((end, decode_only));
        }
        self.completed = outcome.finished.then_some(end);
    }

    fn row(&self, new: &NewSequence, ignored: bool, end: u64) -> String {
        let execution: u64 = self.runs.iter().map(|(start, end)| end - start).sum();
        let until = self.completed.or(self.holds).unwrap_or(end);
        let preemption = self.scheduled.map_or(0, |scheduled| until - scheduled - execution);
        let time = |time: Option<u64>| time.map_or("null".to_owned(), |time| time.to_string());
        let gaps: Vec<u64> = self.tokens.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        let decode_only: Vec<bool> = self.tokens.iter().skip(1).map(|token| token.1).collect();
        format!(
            "{{request_id: {}, arrival_ns: {}, prompt_tokens: {}, output_tokens: {}, ignored: {ignored}, \
             scheduled_ns: {}, prefill_end_ns: {}, first_token_ns: {}, last_token_ns: {}, completed_ns: {}, \
             tokens_out: {}, execution_ns: {execution}, preemption_ns: {preemption}, restarts: {}, pauses: {}, \
             tbt_ns: {gaps:?}, tbt_decode_only: {decode_only:?}}}",
            new.id.0,
            new.arrival.0,
            new.prompt_tokens,
            new.output_tokens,
            time(self.scheduled),
            time(self.prefill_end),
            time(self.tokens.first().map(|token| token.0)),
            time(self.tokens.last().map(|token| token.0)),
            time(self.completed),
            self.tokens.len(),
            self.restarts,
            self.pauses,
        )
    }
}
