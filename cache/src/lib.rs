//! Content-addressed store and action cache; see ARCHITECTURE.md for the map.
//!
//! ```text
//! .chariot/cas/ab/cdef...       blobs, named by the BLAKE3 of their bytes, read-only
//! .chariot/actions/ab/cdef...   one record an action: its manifest, and which blobs it made
//! .chariot/index/{blobs,files}  what a file's digest was when its stat was last seen; a mere accelerator
//! .chariot/quarantine/          damaged files, moved aside for people to look at
//! .chariot/tmp/                 files being written
//! .chariot/lock                 held by whoever runs or collects garbage
//! ```
//!
//! It knows nothing of pipelines, processes or plans, and reads no clock but to tell fresh timestamps from old ones.
//!
//! Modules: `gc -> store -> {action_cache, lock} -> {cas, manifest} -> stamps -> {sealed, durable, error} -> digest`; `journal -> {durable, error}`.

mod action_cache;
mod cas;
mod digest;
mod durable;
mod error;
mod gc;
mod journal;
mod lock;
mod manifest;
mod sealed;
mod stamps;
mod store;

pub use action_cache::{ActionCache, ActionRecord, Found, Run};
pub use cas::{Blob, Cas, Check, LINK_MIN_BYTES};
pub use digest::{Digest, ParseDigestError};
pub use durable::write_atomic;
pub use error::{Error, Result};
pub use gc::{Collected, Roots, Verified};
pub use journal::{Journal, Lines};
pub use lock::Lock;
pub use manifest::{Change, Manifest};
pub use stamps::FileDigests;
pub use store::{Lookup, Miss, Store};
