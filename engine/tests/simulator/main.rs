//! The simulator as a whole, through the library as a trial goes, and read back from the records and the timeline.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod bubbles;
mod closed_forms;
mod latency_trials;
mod models;
mod setting;
