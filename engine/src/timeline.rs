//! A trial as a Chrome trace (chrome://tracing, ui.perfetto.dev): stages, batches, sequences and counters.
//! Collects events and writes JSON to any sink; knows no file and no executor.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::executor::{Operation, StageOperations, StageStay};
use crate::sched::batch::Batch;
use crate::sched::{NewSequence, Outcome, Scheduler};
use crate::units::{Nanos, SeqId};

/// Tracks, as process numbers of the trace.
const STAGES: u32 = 1;
const BATCHES: u32 = 2;
const SEQUENCES: u32 = 3;
const COUNTERS: u32 = 4;

/// What happened in a trial.
#[derive(Debug, Default)]
pub struct Timeline {
    batches: Vec<BatchLife>,
    sequences: Vec<Phase>,
    /// The phase each sequence is in.
    current: Vec<Option<&'static str>>,
    counters: Vec<Counters>,
    is_measured: bool,
}

#[derive(Debug)]
struct BatchLife {
    scheduled: Nanos,
    start: Nanos,
    end: Nanos,
    sequences: usize,
    prefill_tokens: u32,
    decode_tokens: u32,
}

/// A sequence leaves one phase of its life for another.
#[derive(Debug)]
struct Phase {
    seq: SeqId,
    at: Nanos,
    enters: Option<&'static str>,
    leaves: Option<&'static str>,
}

#[derive(Debug)]
struct Counters {
    at: Nanos,
    running: u32,
    waiting: usize,
    kv_blocks: u32,
}

const QUEUED: &str = "queued";
const PREFILL: &str = "prefill";
const DECODE: &str = "decode";

impl Timeline {
    /// Of a trial that runs for real; the default is a simulated one.
    pub fn measured() -> Self {
        Self { is_measured: true, ..Self::default() }
    }

    fn provenance(&self) -> &'static str {
        if self.is_measured { "measured" } else { "simulated" }
    }

    /// A request arrived.
    pub fn arrived(&mut self, seq: &NewSequence) {
        self.enter(seq.id, seq.arrival, Some(QUEUED));
    }

    /// A batch was formed.
    pub fn scheduled(&mut self, batch: &Batch, now: Nanos, scheduler: &Scheduler) {
        for &seq in &batch.preempted {
            self.enter(seq, now, Some(QUEUED));
        }
        for chunk in batch.chunks.iter().filter(|chunk| chunk.is_prefill && chunk.context == 0) {
            self.enter(chunk.seq, now, Some(PREFILL));
        }
        self.batches.push(BatchLife {
            scheduled: now,
            start: now,
            end: now,
            sequences: batch.chunks.len(),
            prefill_tokens: batch.prefill_tokens(),
            decode_tokens: batch.decode_tokens(),
        });
        self.counters.push(Counters {
            at: now,
            running: scheduler.running(),
            waiting: scheduler.waiting(),
            kv_blocks: scheduler.blocks().total() - scheduler.blocks().free(),
        });
    }

    /// A batch is complete.
    pub fn completed(&mut self, batch: &Batch, outcomes: &[Outcome], start: Nanos, end: Nanos) {
        let life = &mut self.batches[batch.id.0 as usize];
        (life.start, life.end) = (start, end);
        for outcome in outcomes.iter().filter(|outcome| outcome.prefill_ended || outcome.finished) {
            self.enter(outcome.seq, end, Some(DECODE).filter(|_| !outcome.finished));
        }
    }

    /// A sequence leaves the phase it is in, for the next or for good.
    fn enter(&mut self, seq: SeqId, at: Nanos, enters: Option<&'static str>) {
        let index = seq.0 as usize;
        if index >= self.current.len() {
            self.current.resize(index + 1, None);
        }
        let leaves = std::mem::replace(&mut self.current[index], enters);
        self.sequences.push(Phase { seq, at, enters, leaves });
    }

    /// Writes the trace; `stays` are the batches' stays in the stages. `title` names the trial.
    /// `operations` are what they did there, where that is known.
    pub fn write(
        &self,
        title: &str,
        stays: &[StageStay],
        operations: &[StageOperations],
        sink: impl Write,
    ) -> io::Result<()> {
        let mut events = Events { sink, first: true };
        let provenance = self.provenance();
        write!(
            events.sink,
            "{{\"otherData\":{{\"provenance\":\"{provenance}\",\"trial\":{}}},",
            quoted(title)
        )?;
        write!(events.sink, "\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        let tracks =
            [(STAGES, "stages"), (BATCHES, "batches"), (SEQUENCES, "sequences"), (COUNTERS, "counters")];
        for (process, name) in tracks {
            events.name_process(process, &format!("{name} ({provenance})"))?;
        }
        self.write_stays(stays, operations, &mut events)?;
        self.write_batches(&mut events)?;
        self.write_sequences(&mut events)?;
        self.write_counters(&mut events)?;
        writeln!(events.sink, "\n]}}")?;
        events.sink.flush()
    }

    fn write_stays<W: Write>(
        &self,
        stays: &[StageStay],
        operations: &[StageOperations],
        events: &mut Events<W>,
    ) -> io::Result<()> {
        let known: BTreeMap<(u32, u32), &[Operation]> =
            operations.iter().map(|of| ((of.batch.0, of.stage), &of.operations[..])).collect();
        for stay in stays {
            let batch = &self.batches[stay.batch.0 as usize];
            let operations = known.get(&(stay.batch.0, stay.stage)).copied().unwrap_or_default();
            events.push(format_args!(
                r#""ph":"X","pid":{STAGES},"tid":{},"name":"batch {}","ts":{},"dur":{},"args":{}"#,
                stay.stage,
                stay.batch.0,
                Micros(stay.start),
                Micros(stay.end - stay.start),
                batch.args_with(operations),
            ))?;
        }
        Ok(())
    }

    fn write_batches<W: Write>(&self, events: &mut Events<W>) -> io::Result<()> {
        for (number, batch) in
            self.batches.iter().enumerate().filter(|(_, batch)| batch.end > batch.scheduled)
        {
            events.span(BATCHES, "batch", number, "queued", batch.scheduled, batch.start, &batch.args())?;
            events.span(BATCHES, "batch", number, "in stages", batch.start, batch.end, &batch.args())?;
        }
        Ok(())
    }

    fn write_sequences<W: Write>(&self, events: &mut Events<W>) -> io::Result<()> {
        for Phase { seq, at, enters, leaves } in &self.sequences {
            for (phase, name) in [("e", leaves), ("b", enters)] {
                let Some(name) = name else { continue };
                events.push(format_args!(
                    r#""ph":"{phase}","pid":{SEQUENCES},"tid":0,"cat":"sequence","id":{},"name":"{name}","ts":{}"#,
                    seq.0,
                    Micros(*at),
                ))?;
            }
        }
        Ok(())
    }

    fn write_counters<W: Write>(&self, events: &mut Events<W>) -> io::Result<()> {
        for Counters { at, running, waiting, kv_blocks } in &self.counters {
            let at = Micros(*at);
            events.push(format_args!(
                r#""ph":"C","pid":{COUNTERS},"name":"sequences","ts":{at},"args":{{"running":{running},"waiting":{waiting}}}"#,
            ))?;
            events.push(format_args!(
                r#""ph":"C","pid":{COUNTERS},"name":"KV blocks","ts":{at},"args":{{"used":{kv_blocks}}}"#,
            ))?;
        }
        Ok(())
    }
}

impl BatchLife {
    /// The members, and microseconds and calls of each operation.
    fn args_with(&self, operations: &[Operation]) -> String {
        let mut args = self.args();
        if !operations.is_empty() {
            let one = |operation: &Operation| {
                let Operation { name, calls, time } = operation;
                format!(r#"{}:{{"us":{},"calls":{calls}}}"#, quoted(name), Micros(*time))
            };
            let all: Vec<String> = operations.iter().map(one).collect();
            args.truncate(args.len() - 1);
            args.push_str(&format!(r#","operations":{{{}}}}}"#, all.join(",")));
        }
        args
    }

    fn args(&self) -> String {
        let Self { sequences, prefill_tokens, decode_tokens, .. } = self;
        format!(
            r#"{{"sequences":{sequences},"prefill_tokens":{prefill_tokens},"decode_tokens":{decode_tokens}}}"#
        )
    }
}

/// Events of the trace, one a line.
struct Events<W> {
    sink: W,
    first: bool,
}

impl<W: Write> Events<W> {
    fn push(&mut self, members: std::fmt::Arguments<'_>) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(self.sink, "{comma}\n{{{members}}}")
    }

    fn name_process(&mut self, process: u32, name: &str) -> io::Result<()> {
        self.push(format_args!(
            r#""ph":"M","pid":{process},"name":"process_name","args":{{"name":{}}}"#,
            quoted(name)
        ))
    }

    #[expect(clippy::too_many_arguments, reason = "the members of one trace event")]
    fn span(
        &mut self,
        process: u32,
        category: &str,
        id: usize,
        name: &str,
        start: Nanos,
        end: Nanos,
        args: &str,
    ) -> io::Result<()> {
        for (phase, at) in [("b", start), ("e", end)] {
            self.push(format_args!(
                r#""ph":"{phase}","pid":{process},"tid":0,"cat":"{category}","id":{id},"name":"{name}","ts":{},"args":{args}"#,
                Micros(at),
            ))?;
        }
        Ok(())
    }
}

/// Microseconds with all nanoseconds, as trace viewers want them.
struct Micros(Nanos);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0.0 / 1000, self.0.0 % 1000)
    }
}

/// A JSON string.
fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}
