//! Members of a JSON object, read so that a mistake names the member, what was expected and what was found.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::{ApiError, Result};

/// Characters of a found value that a message shows.
const SHOWN_MAX: usize = 60;

/// A request's members. One that is null counts as absent.
pub(super) struct Fields(Map<String, Value>);

/// A value as messages show it.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl Fields {
    /// A request's body.
    pub(super) fn parse(body: &[u8]) -> Result<Self> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(ApiError::malformed(format_args!(
                "body: expected a JSON object, found {}",
                shown(&other)
            ))),
            Err(error) => Err(ApiError::malformed(format_args!("body: expected JSON, found {error}"))),
        }
    }

    /// A member as it is.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A member that must be there.
    pub(super) fn need(&self, name: &str, expected: &str) -> Result<&Value> {
        self.get(name).ok_or_else(|| ApiError::field(name, expected, "none"))
    }

    fn read<T>(
        &self,
        name: &str,
        expected: impl fmt::Display,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| ApiError::field(name, expected, shown(value)))
    }

    /// True or false; absent: false.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.read(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, name: &str) -> Result<Option<u32>> {
        let read = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|count| *count > 0);
        self.read(name, "a whole number of at least 1", read)
    }

    /// A number within `range`.
    pub(super) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.read(name, expected, |value| value.as_f64().filter(|number| range.contains(number)))
    }

    /// A whole number of 64 bits, with a sign or without; the bits count.
    pub(super) fn bits(&self, name: &str) -> Result<Option<u64>> {
        let read = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        self.read(name, "a whole number of 64 bits", read)
    }

    /// Token ids.
    pub(super) fn ids(&self, name: &str) -> Result<Option<Vec<u32>>> {
        self.read(name, "an array of token ids", ids)
    }

    /// One string, or up to `most` of them, none empty.
    pub(super) fn strings(&self, name: &str, most: usize) -> Result<Vec<String>> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let read = |value: &Value| match value {
            Value::Array(items) if items.len() <= most => items.iter().map(text).collect(),
            other => Some(vec![text(other)?]),
        };
        let expected = format!("a string or up to {most} of them, none empty");
        Ok(self.read(name, expected, read)?.unwrap_or_default())
    }

    /// Refuses a member that is known but has no effect here, unless it asks for nothing.
    pub(super) fn refuse(
        &self,
        name: &str,
        expected: &str,
        is_nothing: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        match self.get(name) {
            Some(value) if !is_nothing(value) => Err(ApiError::field(name, expected, shown(value))),
            _ => Ok(()),
        }
    }
}

/// An array of token ids, if it is one.
pub(super) fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    value.as_array()?.iter().map(id).collect()
}
