//! Summaries, figures and claim checks from the raw records of Chariot's trials.
//!
//! `cli -> {figure, report, compare, check, judge} -> summary -> metric -> records -> columns`. Depends on no other crate of ours.
pub mod cli;
pub mod columns;
pub mod error;
pub mod files;
pub mod judge;
pub mod metric;
pub mod predicate;
pub mod quantile;
pub mod records;
pub mod report;
pub mod series;
pub mod statistics;
pub mod summary;
