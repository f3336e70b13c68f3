//! Tests of the records: what was told is what is read back, whatever the row groups; the early stop is exact.

mod early_stop;
mod round_trip;
mod story;
