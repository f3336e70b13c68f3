//! `chariot-engine serve` through the real binary: its answers, limits and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod answers;
mod client;
mod ends;
mod folder;
mod limits;
mod server;
mod texts;
