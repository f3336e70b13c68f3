//! Pipelines to plans to processes; see ARCHITECTURE.md for the map.

pub mod facts;
pub mod graph;
pub mod process;
pub mod resources;
pub mod search;
pub mod step;
