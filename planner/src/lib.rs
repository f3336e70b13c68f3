//! Pipelines to plans to processes; see ARCHITECTURE.md for the map.

pub mod diagnostic;
pub mod load;
pub mod step;
