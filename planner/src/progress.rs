//! What a person sees while actions run: one live line on a terminal, plain lines elsewhere, both on stderr.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// An action's process was started.
    Started {
        /// Its address.
        address: &'a str,
    },
    /// An action's process is over.
    Ended {
        /// Its address.
        address: &'a str,
    },
    /// A step has its outputs; `wall` is `None` if nothing ran for it.
    Step {
        /// Its address.
        address: &'a str,
        /// How long its action ran.
        wall: Option<Duration>,
        /// Steps that are done, of all.
        done: usize,
        /// All steps of this run.
        total: usize,
    },
    /// A search learned the answer of a probe.
    Probe {
        /// The search's address.
        address: &'a str,
        /// Which repeat: its labels.
        repeat: &'a str,
        /// The rate, requests per second.
        rate: f64,
        /// Whether the SLO held.
        pass: bool,
        /// Highest rate that passed, lowest that failed.
        bracket: (Option<f64>, Option<f64>),
    },
    /// Anything else worth a line: a failure, a retry.
    Note(&'a str),
}

/// Shows events.
pub trait Progress {
    /// Takes one event.
    fn event(&mut self, event: &Event<'_>);
    /// Clears what is transient.
    fn finish(&mut self);
}

/// The one that suits stderr.
pub fn for_stderr() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Terminal::new()) } else { Box::new(Lines) }
}

/// Shows nothing.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: &Event<'_>) {}
    fn finish(&mut self) {}
}

/// A line a step that ran, a probe, a note.
#[derive(Debug)]
pub struct Lines;

impl Progress for Lines {
    fn event(&mut self, event: &Event<'_>) {
        if let Some(line) = line(event) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
    fn finish(&mut self) {}
}

fn line(event: &Event<'_>) -> Option<String> {
    match event {
        Event::Started { .. } | Event::Ended { .. } | Event::Step { wall: None, .. } => None,
        Event::Step { address, wall: Some(wall), done, total } => {
            Some(format!("[{done}/{total}] {address}  {:.2} s", wall.as_secs_f64()))
        }
        Event::Probe { address, repeat, rate, pass, bracket } => {
            let verdict = if *pass { "passes" } else { "fails" };
            Some(format!("        {address} {repeat}: {rate} qps {verdict}, {}", interval(*bracket)))
        }
        Event::Note(text) => Some((*text).to_owned()),
    }
}

fn interval((low, high): (Option<f64>, Option<f64>)) -> String {
    let show = |rate: Option<f64>| rate.map_or_else(|| "?".to_owned(), |rate| rate.to_string());
    format!("capacity in [{}, {}]", show(low), show(high))
}

/// One line that is drawn over: steps done, what runs, elapsed.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    running: BTreeSet<String>,
    bracket: String,
    actions: usize,
}

impl Terminal {
    /// A line on stderr, drawn at most ten times a second.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("[{pos}/{len}] {elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, running: BTreeSet::new(), bracket: String::new(), actions: 0 }
    }

    fn redraw(&self) {
        let shown = self.running.iter().next().map_or("", String::as_str);
        let others = match self.running.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        self.bar.set_message(format!("{} actions  {shown}{others}  {}", self.actions, self.bracket));
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Terminal {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { address } => {
                self.running.insert((*address).to_owned());
            }
            Event::Ended { address } => {
                self.running.remove(*address);
                self.actions += 1;
            }
            Event::Step { done, total, .. } => {
                self.bar.set_length(*total as u64);
                self.bar.set_position(*done as u64);
            }
            Event::Probe { address, bracket, .. } => {
                let name = address.rsplit('/').next().unwrap_or(address);
                self.bracket = format!("{name}: {}", interval(*bracket));
            }
            Event::Note(text) => self.bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "{text}");
            }),
        }
        self.redraw();
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn lines_say_what_ran_and_what_was_learned() {
        let step = |wall| Event::Step { address: "p/a", wall, done: 3, total: 9 };
        expect!["[3/9] p/a  0.06 s"].assert_eq(&line(&step(Some(Duration::from_millis(61)))).unwrap());
        assert_eq!(line(&step(None)), None);
        let probe = Event::Probe {
            address: "p/capacity/x",
            repeat: "seed=42",
            rate: 1.6,
            pass: false,
            bracket: (Some(0.8), None),
        };
        expect!["        p/capacity/x seed=42: 1.6 qps fails, capacity in [0.8, ?]"]
            .assert_eq(&line(&probe).unwrap());
    }
}
