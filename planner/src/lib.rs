//! Pipelines to plans to processes; see ARCHITECTURE.md for the map.

pub mod decode;
pub mod diagnostic;
pub mod expand;
pub mod load;
pub mod lower;
pub mod node;
pub mod pipeline;
pub mod quantity;
pub mod recipe;
pub mod resolve;
pub mod schema;
pub mod scope;
pub mod step;
pub mod value;
pub mod yaml;
