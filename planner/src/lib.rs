//! Pipelines to plans to processes; see ARCHITECTURE.md for the map.

pub mod action;
pub mod clock;
pub mod decode;
pub mod diagnostic;
pub mod execute;
pub mod explain;
pub mod facts;
pub mod graph;
pub mod history;
pub mod host;
pub mod load;
pub mod node;
pub mod out_dir;
pub mod plan;
pub mod probes;
pub mod process;
pub mod progress;
pub mod project;
pub mod resources;
pub mod schedule;
pub mod search;
pub mod session;
pub mod step;
pub mod work_dir;
pub mod yaml;
