//! Serving engine and simulator of Chariot; see ARCHITECTURE.md for the map.

pub mod executor;
pub mod record;
pub mod sched;
pub mod shape;
pub mod shard;
pub mod sim;
pub mod units;
pub mod workload;
