//! Quantities as a pipeline writes them: times with units, percentages, statistics and SLO predicates. Knows nothing of recipes.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::diagnostic::nearest;

/// Units of time: name, seconds, and what people write instead.
const TIME_UNITS: [(&str, f64, &[&str]); 7] = [
    ("ns", 1e-9, &["nanosecond", "nanoseconds", "nsec", "nanos"]),
    ("us", 1e-6, &["µs", "μs", "microsecond", "microseconds", "usec", "micros"]),
    ("ms", 1e-3, &["millisecond", "milliseconds", "msec", "millis"]),
    ("s", 1.0, &["sec", "secs", "second", "seconds"]),
    ("min", 60.0, &["m", "mn", "mins", "minute", "minutes"]),
    ("h", 3600.0, &["hr", "hrs", "hour", "hours"]),
    ("d", 86400.0, &["day", "days"]),
];

/// Summary statistics that have no number in their name.
const STATISTICS: [&str; 5] = ["median", "mean", "std", "min", "max"];

/// Metrics that a predicate may limit.
const SLO_METRICS: [&str; 3] = ["tbt", "ttft", "scheduling_delay"];

/// A quantity read from text: says what it expects, and fails with a message whose second line is the fix.
pub trait Quantity: FromStr<Err = String> {
    /// "a time such as `30 min`".
    const EXPECTED: &'static str;
    /// For the schema.
    const PATTERN: &'static str;
    /// What a bare number should have been written as.
    fn with_unit(number: &str) -> String;
}

struct QuantityVisitor<T>(PhantomData<T>);

impl<T: Quantity> QuantityVisitor<T> {
    fn bare<E: de::Error>(number: &str) -> E {
        E::custom(format!("expected {}, found the number `{number}`\n{}", T::EXPECTED, T::with_unit(number)))
    }
}

impl<T: Quantity> Visitor<'_> for QuantityVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Err(Self::bare(&number.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        Err(Self::bare(&number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        Err(Self::bare(&number.to_string()))
    }
}

macro_rules! quantity {
    ($type:ident) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(QuantityVisitor(PhantomData))
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $type::PATTERN, "description": $type::EXPECTED})
            }
        }
    };
}

/// A length of time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// Seconds, finite and not negative.
    pub seconds: f64,
}
quantity!(Time);

impl Quantity for Time {
    const EXPECTED: &'static str = "a time with its unit, such as `30 min`";
    const PATTERN: &'static str = r"^[0-9.]+([eE][-+]?[0-9]+)? *(ns|us|ms|s|min|h|d)$";

    fn with_unit(number: &str) -> String {
        format!("write `{number} s`, or another of the units {}", units())
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected {}, found `{text}`\nunits: {}", Self::EXPECTED, units());
        let (number, unit) = split_unit(text).ok_or_else(expected)?;
        if unit.is_empty() {
            return Err(format!(
                "expected {}, found `{text}`\n{}",
                Self::EXPECTED,
                Self::with_unit(text.trim())
            ));
        }
        let Some((_, seconds, _)) = TIME_UNITS.iter().find(|(name, ..)| *name == unit) else {
            return Err(unknown_time_unit(text, unit));
        };
        // Division by a whole power of ten rounds once where multiplication by 1e-3 would round twice.
        let seconds = if *seconds < 1.0 { number / (1.0 / seconds).round() } else { number * seconds };
        if !seconds.is_finite() || seconds < 0.0 {
            return Err(expected());
        }
        Ok(Self { seconds })
    }
}

fn unknown_time_unit(text: &str, unit: &str) -> String {
    let meant = TIME_UNITS.iter().find(|(_, _, also)| also.contains(&unit.to_lowercase().as_str()));
    let meant = meant.map(|(name, ..)| *name).or_else(|| nearest(unit, TIME_UNITS.iter().map(|u| u.0)));
    let help = meant.map_or_else(|| format!("units: {}", units()), |name| format!("did you mean `{name}`?"));
    format!("unknown unit of time `{unit}` in `{text}`\n{help}")
}

fn units() -> String {
    TIME_UNITS.map(|(name, ..)| format!("`{name}`")).join(", ")
}

/// `1.5 min` to its number and unit; the unit may be empty.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let is_exponent = |at: usize| {
        let rest = text[at + 1..].trim_start_matches(['+', '-']);
        text[..at].ends_with(|c: char| c.is_ascii_digit() || c == '.')
            && rest.starts_with(|c: char| c.is_ascii_digit())
    };
    let end = text
        .char_indices()
        .find(|(at, c)| {
            !(c.is_ascii_digit()
                || matches!(c, '.' | '+' | '-')
                || matches!(c, 'e' | 'E') && is_exponent(*at))
        })
        .map_or(text.len(), |(at, _)| at);
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start()))
}

/// A percentage, as a fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// 0.025 for `2.5 %`.
    pub fraction: f64,
}
quantity!(Share);

impl Quantity for Share {
    const EXPECTED: &'static str = "a percentage, such as `2.5 %`";
    const PATTERN: &'static str = r"^[0-9.]+ *%$";

    fn with_unit(number: &str) -> String {
        format!("write `{number} %`")
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match split_unit(text) {
            Some((number, "%")) if number >= 0.0 => Ok(Self { fraction: number / 100.0 }),
            Some((_, "")) => {
                Err(format!("expected {}, found `{text}`\n{}", Self::EXPECTED, Self::with_unit(text.trim())))
            }
            Some((number, _)) if number >= 0.0 => {
                Err(format!("expected {}, found `{text}`\nthe only unit here is `%`", Self::EXPECTED))
            }
            _ => Err(format!("expected {}, found `{text}`", Self::EXPECTED)),
        }
    }
}

/// A finite number above zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Positive(pub f64);

impl<'de> Deserialize<'de> for Positive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if number.is_finite() && number > 0.0 {
            return Ok(Self(number));
        }
        Err(de::Error::custom(format!("expected a number above 0, found `{number}`")))
    }
}

impl JsonSchema for Positive {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Positive".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "exclusiveMinimum": 0})
    }
}

/// A number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fraction(pub f64);

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&number) {
            return Ok(Self(number));
        }
        Err(de::Error::custom(format!("expected a number from 0 to 1, found `{number}`")))
    }
}

impl JsonSchema for Fraction {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Fraction".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 1})
    }
}

/// A statistic of a metric: `p99(tbt)`, `median(ttft)`, `mean(batch_size)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Statistic {
    /// `p50`, `p99.9`, `mean`, `std`, `min` or `max`.
    pub statistic: String,
    /// The metric's name.
    pub metric: String,
}
quantity!(Statistic);

impl Quantity for Statistic {
    const EXPECTED: &'static str = "a statistic of a metric, such as `p99(tbt)`";
    const PATTERN: &'static str = r"^(p[0-9.]+|median|mean|std|min|max)\([a-z_0-9]+\)$";

    fn with_unit(_: &str) -> String {
        "write `p50(METRIC)`, `p99(METRIC)`, `mean(METRIC)`".to_owned()
    }
}

impl FromStr for Statistic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inner = text.trim().strip_suffix(')').and_then(|t| t.split_once('('));
        let Some((statistic, metric)) = inner.map(|(s, m)| (s.trim(), m.trim())) else {
            return Err(format!("expected {}, found `{text}`", Self::EXPECTED));
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if metric.is_empty() || !metric.chars().all(is_name) {
            return Err(format!("expected a metric's name in the brackets, found `{metric}`"));
        }
        Ok(Self { statistic: statistic_name(statistic)?, metric: metric.to_owned() })
    }
}

/// `median` is `p50`; a quantile is `p` and a number from 0 to 100.
fn statistic_name(text: &str) -> Result<String, String> {
    if text == "median" {
        return Ok("p50".to_owned());
    }
    if STATISTICS.contains(&text) {
        return Ok(text.to_owned());
    }
    let digits = text.strip_prefix('p').filter(|d| d.chars().all(|c| c.is_ascii_digit() || c == '.'));
    if let Some(percent) = digits.and_then(|d| d.parse::<f64>().ok()) {
        return match (0.0..=100.0).contains(&percent) {
            true => Ok(format!("p{percent}")),
            false => Err(format!("expected a quantile from p0 to p100, found `{text}`")),
        };
    }
    let help = match nearest(text, STATISTICS) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "write a quantile such as `p99`, or `median`, `mean`, `std`, `min`, `max`".to_owned(),
    };
    Err(format!("unknown statistic `{text}`\n{help}"))
}

/// What a service must keep to: a quantile of a metric and its upper limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    /// The quantile, e.g. `p99`.
    pub quantile: String,
    /// `tbt`, `ttft` or `scheduling_delay`.
    pub metric: String,
    /// The limit.
    pub limit: Time,
}
quantity!(Predicate);

impl Quantity for Predicate {
    const EXPECTED: &'static str = "a predicate such as `p99(tbt) <= 1 s`";
    const PATTERN: &'static str = r"^(p[0-9.]+|median)\((tbt|ttft|scheduling_delay)\) *<= *.+$";

    fn with_unit(number: &str) -> String {
        format!("write `p99(tbt) <= {number} s`")
    }
}

impl FromStr for Predicate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((left, right)) = text.split_once("<=") else {
            let help = if text.contains('<') { "\nwrite `<=`" } else { "" };
            return Err(format!("expected {}, found `{text}`{help}", Self::EXPECTED));
        };
        let Statistic { statistic, metric } = left.parse()?;
        if !statistic.starts_with('p') {
            return Err(format!("expected a quantile such as `p99`, found `{statistic}`"));
        }
        if !SLO_METRICS.contains(&metric.as_str()) {
            let help = nearest(&metric, SLO_METRICS).map_or_else(
                || "an SLO can limit `tbt`, `ttft`, `scheduling_delay`".to_owned(),
                |m| format!("did you mean `{m}`?"),
            );
            return Err(format!("unknown metric `{metric}` in an SLO\n{help}"));
        }
        Ok(Self { quantile: statistic, metric, limit: right.trim().parse()? })
    }
}

/// As the judge reads it: the limit in seconds.
impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}) <= {:?}", self.quantile, self.metric, self.limit.seconds)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check<T: Quantity + fmt::Debug>(text: &str, expected: Expect) {
        expected.assert_eq(&match text.parse::<T>() {
            Ok(value) => format!("{value:?}"),
            Err(message) => message,
        });
    }

    #[test]
    fn times() {
        check::<Time>("30 min", expect!["Time { seconds: 1800.0 }"]);
        check::<Time>("500ms", expect!["Time { seconds: 0.5 }"]);
        check::<Time>("1.5e2 us", expect!["Time { seconds: 0.00015 }"]);
        check::<Time>("2 h", expect!["Time { seconds: 7200.0 }"]);
        check::<Time>(
            "5",
            expect![[r#"
            expected a time with its unit, such as `30 min`, found `5`
            write `5 s`, or another of the units `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]],
        );
        check::<Time>(
            "30 minutes",
            expect![[r#"
            unknown unit of time `minutes` in `30 minutes`
            did you mean `min`?"#]],
        );
        check::<Time>(
            "1 fortnight",
            expect![[r#"
            unknown unit of time `fortnight` in `1 fortnight`
            units: `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]],
        );
        check::<Time>(
            "soon",
            expect![[r#"
            expected a time with its unit, such as `30 min`, found `soon`
            units: `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]],
        );
        check::<Time>(
            "-1 s",
            expect![[r#"
            expected a time with its unit, such as `30 min`, found `-1 s`
            units: `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]],
        );
    }

    #[test]
    fn shares() {
        check::<Share>("2.5 %", expect!["Share { fraction: 0.025 }"]);
        check::<Share>(
            "2.5",
            expect![[r#"
            expected a percentage, such as `2.5 %`, found `2.5`
            write `2.5 %`"#]],
        );
        check::<Share>(
            "2.5 s",
            expect![[r#"
            expected a percentage, such as `2.5 %`, found `2.5 s`
            the only unit here is `%`"#]],
        );
    }

    #[test]
    fn statistics() {
        check::<Statistic>("p99.9(tbt)", expect![[r#"Statistic { statistic: "p99.9", metric: "tbt" }"#]]);
        check::<Statistic>("median(tbt)", expect![[r#"Statistic { statistic: "p50", metric: "tbt" }"#]]);
        check::<Statistic>(
            "meen(tbt)",
            expect![[r#"
            unknown statistic `meen`
            did you mean `mean`?"#]],
        );
        check::<Statistic>("p101(tbt)", expect!["expected a quantile from p0 to p100, found `p101`"]);
        check::<Statistic>(
            "tbt",
            expect!["expected a statistic of a metric, such as `p99(tbt)`, found `tbt`"],
        );
    }

    #[test]
    fn predicates() {
        let shown = |text: &str| text.parse::<Predicate>().map_or_else(|e| e, |p| p.to_string());
        expect!["p99(tbt) <= 1.0"].assert_eq(&shown("p99(tbt) <= 1 s"));
        expect!["p50(scheduling_delay) <= 0.2"].assert_eq(&shown("median(scheduling_delay)<=200 ms"));
        expect![[r#"
            expected a predicate such as `p99(tbt) <= 1 s`, found `p99(tbt) < 1 s`
            write `<=`"#]]
        .assert_eq(&shown("p99(tbt) < 1 s"));
        expect![[r#"
            unknown metric `tbtt` in an SLO
            did you mean `tbt`?"#]]
        .assert_eq(&shown("p99(tbtt) <= 1 s"));
        expect![[r#"
            expected a time with its unit, such as `30 min`, found `1`
            write `1 s`, or another of the units `ns`, `us`, `ms`, `s`, `min`, `h`, `d`"#]]
        .assert_eq(&shown("p99(tbt) <= 1"));
    }
}
