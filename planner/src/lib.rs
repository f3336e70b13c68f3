//! Pipelines to plans to processes; see ARCHITECTURE.md for the map.

pub mod search;
pub mod step;
