//! Tests of the whole tool on records that the tests write themselves.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, missing_docs, reason = "tests")]

mod figures;
mod fixture;
mod judging;
mod metrics;
