//! Pipelines to plans to processes; see ARCHITECTURE.md for the map.

pub mod decode;
pub mod diagnostic;
pub mod load;
pub mod node;
pub mod step;
pub mod yaml;
