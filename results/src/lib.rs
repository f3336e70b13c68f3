//! Summaries, figures and claim checks from the raw records of Chariot's trials.
//!
//! `cli -> {figure, report, compare, check, judge} -> summary -> metric -> records -> columns`. Depends on no other crate of ours.
pub mod axis;
pub mod capacity;
pub mod chart;
pub mod check;
pub mod cli;
pub mod columns;
pub mod compare;
pub mod csv;
pub mod error;
pub mod figure;
pub mod files;
pub mod font;
pub mod judge;
pub mod metric;
pub mod parity;
pub mod point;
pub mod predicate;
pub mod quantile;
pub mod records;
pub mod report;
pub mod series;
pub mod spec;
pub mod statistics;
pub mod summary;
pub mod svg;
