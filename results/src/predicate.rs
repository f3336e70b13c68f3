//! SLO predicates such as `p99(tbt) <= 1.0 s`. Knows text; knows no record.

use std::fmt;

use crate::error::{Error, Result, hint};

/// What a predicate may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Gap between output tokens.
    Tbt,
    /// Time to first token.
    Ttft,
    /// Arrival to first scheduled.
    SchedulingDelay,
}

const SUBJECTS: [(&str, Subject); 3] =
    [("tbt", Subject::Tbt), ("ttft", Subject::Ttft), ("scheduling_delay", Subject::SchedulingDelay)];

const UNITS: [(&str, f64); 5] = [("ns", 1e9), ("us", 1e6), ("ms", 1e3), ("s", 1.0), ("min", 1.0 / 60.0)];

/// A quantile of a time and its upper limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    /// As it was written.
    pub text: String,
    /// In [0, 1].
    pub quantile: f64,
    /// Of what.
    pub subject: Subject,
    /// Largest value that still passes.
    pub limit_s: f64,
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The quantile in [0, 1] of a name such as `p99.9`.
pub fn parse_quantile(name: &str) -> Option<f64> {
    let digits = name.strip_prefix('p').filter(|d| d.starts_with(|c: char| c.is_ascii_digit()))?;
    // Shifted as decimal text: 99.9 / 100.0 is not the number nearest to 0.999.
    let share: f64 = format!("{digits}e-2").parse().ok()?;
    (0.0..=1.0).contains(&share).then_some(share)
}

/// Parses `QUANTILE(METRIC) <= LIMIT [UNIT]`; without a unit the limit is in seconds.
pub fn parse(text: &str) -> Result<Predicate> {
    let bad = |expected: String| Error::Input(format!("predicate `{text}`: {expected}"));
    let shape = || bad("expected `QUANTILE(METRIC) <= LIMIT`, such as `p99(tbt) <= 1.0 s`".to_owned());
    let (left, right) = text.split_once("<=").ok_or_else(shape)?;
    let (quantile, metric) =
        left.trim().strip_suffix(')').and_then(|l| l.split_once('(')).ok_or_else(shape)?;
    let (quantile, metric) = (quantile.trim(), metric.trim());
    let q = parse_quantile(quantile)
        .ok_or_else(|| bad(format!("expected a quantile p0 to p100, such as `p99`, found `{quantile}`")))?;
    let (_, subject) = SUBJECTS.iter().find(|(name, _)| *name == metric).ok_or_else(|| {
        let names = SUBJECTS.map(|(name, _)| name);
        bad(format!("expected one of {}, found `{metric}`{}", names.join(", "), hint(metric, names)))
    })?;
    let limit_s = parse_seconds(right.trim()).map_err(bad)?;
    Ok(Predicate { text: text.trim().to_owned(), quantile: q, subject: *subject, limit_s })
}

fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E').unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    let unit = if unit.is_empty() { "s" } else { unit };
    let (_, per_second) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
        let names = UNITS.map(|(name, _)| name);
        format!("expected a unit of {}, found `{unit}`{}", names.join(", "), hint(unit, names))
    })?;
    let value: Option<f64> = number.parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0);
    value.map(|v| v / per_second).ok_or_else(|| format!("expected a limit >= 0 in seconds, found `{number}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_should() {
        for (text, quantile, subject, limit_s) in [
            ("p99(tbt) <= 1.0", 0.99, Subject::Tbt, 1.0),
            ("p50(scheduling_delay)<=2", 0.5, Subject::SchedulingDelay, 2.0),
            (" p99.9( ttft ) <= 500 ms ", 0.999, Subject::Ttft, 0.5),
            ("p100(tbt) <= 1e-1s", 1.0, Subject::Tbt, 0.1),
            ("p0(tbt) <= 1.5min", 0.0, Subject::Tbt, 90.0),
        ] {
            let p = parse(text).unwrap();
            assert_eq!((p.quantile, p.subject), (quantile, subject), "{text}");
            assert!((p.limit_s - limit_s).abs() < 1e-12, "{text}: {}", p.limit_s);
        }
    }

    fn check(text: &str, expect: Expect) {
        expect.assert_eq(&parse(text).unwrap_err().to_string());
    }

    #[test]
    fn says_what_is_wrong() {
        check(
            "p99(tbt) < 1",
            expect![[
                r#"predicate `p99(tbt) < 1`: expected `QUANTILE(METRIC) <= LIMIT`, such as `p99(tbt) <= 1.0 s`"#
            ]],
        );
        check(
            "p99(tbtt) <= 1",
            expect![[
                r#"predicate `p99(tbtt) <= 1`: expected one of tbt, ttft, scheduling_delay, found `tbtt`; did you mean `tbt`?"#
            ]],
        );
        check(
            "p101(tbt) <= 1",
            expect![[
                r#"predicate `p101(tbt) <= 1`: expected a quantile p0 to p100, such as `p99`, found `p101`"#
            ]],
        );
        check(
            "p99(tbt) <= 1 sec",
            expect![[r#"predicate `p99(tbt) <= 1 sec`: expected a unit of ns, us, ms, s, min, found `sec`"#]],
        );
        check(
            "p99(tbt) <= -1",
            expect![[r#"predicate `p99(tbt) <= -1`: expected a limit >= 0 in seconds, found `-1`"#]],
        );
        check(
            "p99(tbt) <= inf",
            expect!["predicate `p99(tbt) <= inf`: expected a unit of ns, us, ms, s, min, found `inf`"],
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = parse(&text);
            let _ = parse(&format!("p99(tbt) <= {text}"));
        }
    }
}
