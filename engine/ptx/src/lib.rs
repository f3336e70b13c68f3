//! An interpreter of PTX, the text that NVRTC compiles CUDA kernels to, for tests without a GPU ([docs/ptx.md](../../../docs/ptx.md)).
//! It knows the instructions that the kernels of the CUDA backend use and refuses all others by name. It finds accesses out of
//! bounds, memory and registers read before they are written, races, and barriers that some threads do not reach. It knows no SASS
//! and no time.
//!
//! ```text
//! text -> decode -> parse -> module ; race -> memory -> execute -> launch
//! ```

mod decode;
mod error;
mod execute;
mod instruction;
mod launch;
mod memory;
mod module;
mod parse;
mod race;
mod text;

pub use error::{Fault, LaunchError, ParseError};
pub use launch::{Argument, Shape};
pub use memory::{Buffer, Memory};
pub use module::Module;
pub use parse::parse;
