//! The planner's one look at the clocks: how long things take, and when they were done.

use std::time::Instant;

/// Now, for measuring.
#[expect(clippy::disallowed_methods, reason = "the planner measures how long actions take")]
pub fn now() -> Instant {
    Instant::now()
}

/// Now, for people: UTC, to the second.
pub fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
