//! What a client did wrong, or what went wrong for it, in the shape that OpenAI's clients read. Knows no route.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiError {
    /// HTTP status.
    pub(super) status: u16,
    /// OpenAI's class of it.
    pub(super) kind: &'static str,
    /// For programs, where there is one.
    pub(super) code: Option<&'static str>,
    /// The member of the request that it is about.
    pub(super) field: Option<String>,
    /// For people.
    pub(super) message: String,
    /// Seconds after which to try again.
    pub(super) retry_after_s: Option<u64>,
}

/// What a handler or a parser comes to.
pub(super) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(status: u16, kind: &'static str, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self { status, kind, code: None, field: None, message, retry_after_s: None }
    }

    /// The request cannot be understood.
    pub(super) fn malformed(message: impl fmt::Display) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// A member is not what it must be.
    pub(super) fn field(name: &str, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        let message = format!("{name}: expected {expected}, found {found}");
        Self { field: Some(name.to_owned()), ..Self::malformed(message) }
    }

    /// Prompt and output do not fit.
    pub(super) fn too_long(name: &str, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self { code: Some("context_length_exceeded"), ..Self::field(name, expected, found) }
    }

    /// There is no such model.
    pub(super) fn no_model(expected: &str, found: &str) -> Self {
        let error = Self::field("model", format_args!("`{expected}`"), format_args!("`{found}`"));
        Self { status: 404, code: Some("model_not_found"), ..error }
    }

    /// There is no such page.
    pub(super) fn no_path(path: &str) -> Self {
        Self::new(404, "invalid_request_error", format_args!("expected a path of this server, found {path}"))
    }

    /// The page takes another method.
    pub(super) fn method(path: &str, found: &str) -> Self {
        Self::new(
            405,
            "invalid_request_error",
            format_args!("expected another method for {path}, found {found}"),
        )
    }

    /// The body is longer than allowed.
    pub(super) fn body(bytes_max: usize) -> Self {
        Self::new(
            413,
            "invalid_request_error",
            format_args!("expected a body of at most {bytes_max} bytes, found more"),
        )
    }

    /// The body did not come in time.
    pub(super) fn slow(read_by: Duration) -> Self {
        let message = format!("expected the body within {} s, found it unfinished", read_by.as_secs());
        Self::new(408, "invalid_request_error", message)
    }

    /// As many requests as are taken at once are there already.
    pub(super) fn queue_full(held: usize, retry_after_s: u64) -> Self {
        let message = format!("the queue is full: {held} requests run or wait; try again later");
        Self {
            code: Some("queue_full"),
            retry_after_s: Some(retry_after_s),
            ..Self::new(429, "rate_limit_error", message)
        }
    }

    /// The engine failed.
    pub(super) fn lost(message: impl fmt::Display) -> Self {
        Self::new(500, "server_error", message)
    }

    /// No new requests are taken.
    pub(super) fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(503, "server_error", message)
    }

    /// The body of the answer.
    pub(super) fn json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.field, "code": self.code}})
    }
}
