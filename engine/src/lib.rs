//! Serving engine and simulator of Chariot; see ARCHITECTURE.md for the map.

pub mod executor;
pub mod record;
pub mod sched;
pub mod units;
pub mod workload;
