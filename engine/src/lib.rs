//! Serving engine and simulator of Chariot; see ARCHITECTURE.md for the map.

pub mod backend;
pub mod bring_up;
mod clock;
pub mod comm;
pub mod engine;
pub mod executor;
pub mod manifest;
pub mod model;
pub mod profile;
pub mod record;
pub mod runtime;
pub mod sched;
pub mod selftest;
pub mod serve;
pub mod shape;
pub mod shard;
pub mod sim;
pub mod timeline;
pub mod trial;
pub mod units;
pub mod workload;
