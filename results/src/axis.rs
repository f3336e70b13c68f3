//! Ticks and the mapping of values to heights. Knows no drawing.

use libm::{log10, pow};

use crate::spec::Axis;

/// A y axis from `from` to `to`, with its ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruler {
    kind: Axis,
    from: f64,
    to: f64,
    /// Values to mark, ascending.
    pub ticks: Vec<f64>,
}

impl Ruler {
    /// An axis that holds all `values`, the largest at most `room` (a share of the height) up.
    pub fn new(kind: Axis, values: &[f64], room: f64) -> Self {
        let positive = || values.iter().copied().filter(|v| *v > 0.0);
        let max = positive().fold(0.0, f64::max);
        let min = positive().fold(f64::INFINITY, f64::min);
        match kind {
            _ if max == 0.0 => Self { kind: Axis::Linear, from: 0.0, to: 1.0, ticks: vec![0.0, 0.5, 1.0] },
            Axis::Linear => Self::linear(max / room),
            Axis::Log => Self::log(min, max, room),
        }
    }

    fn linear(max: f64) -> Self {
        let step = nice_step(max / 5.0);
        let count = (max / step).ceil();
        let ticks = (0..=count as u32).map(|k| f64::from(k) * step).collect();
        Self { kind: Axis::Linear, from: 0.0, to: count * step, ticks }
    }

    fn log(min: f64, max: f64, room: f64) -> Self {
        let marks: Vec<f64> = (log10(min).floor() as i32 - 1..=log10(max).ceil() as i32 + 1)
            .flat_map(|decade| [1.0, 2.0, 5.0].map(|m| m * pow(10.0, f64::from(decade))))
            .collect();
        let from = marks.iter().copied().filter(|mark| *mark <= min * 0.8).fold(marks[0], f64::max);
        let span = (log10(max / from) / room).max(0.75);
        let to = from * pow(10.0, span);
        let sparse = span > 2.5;
        let is_decade = |mark: f64| (log10(mark) - log10(mark).round()).abs() < 1e-9;
        let inside =
            |mark: &f64| *mark >= from * 0.999 && *mark <= to * 1.001 && (!sparse || is_decade(*mark));
        Self { kind: Axis::Log, from, to, ticks: marks.into_iter().filter(inside).collect() }
    }

    /// Where the axis begins and ends.
    pub fn ends(&self) -> (f64, f64) {
        (self.from, self.to)
    }

    /// The share of the height at which a value stands, 0 to 1.
    pub fn share(&self, value: f64) -> f64 {
        let share = match self.kind {
            Axis::Linear => (value - self.from) / (self.to - self.from),
            Axis::Log if value <= self.from => 0.0,
            Axis::Log => log10(value / self.from) / log10(self.to / self.from),
        };
        share.clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `step`.
fn nice_step(step: f64) -> f64 {
    let decade = pow(10.0, log10(step).floor());
    let mantissa = [1.0, 2.0, 2.5, 5.0].into_iter().find(|m| m * decade >= step * (1.0 - 1e-9));
    mantissa.unwrap_or(10.0) * decade
}

/// A value on an axis or over a bar: three significant digits, no trailing zeros.
pub fn tick_label(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = (2 - log10(value.abs()).floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(Ruler::new(Axis::Linear, &[93.0], 0.9).ticks, [0.0, 25.0, 50.0, 75.0, 100.0, 125.0]);
        assert_eq!(Ruler::new(Axis::Linear, &[], 0.9).ticks, [0.0, 0.5, 1.0]);
        let labels: Vec<_> =
            Ruler::new(Axis::Log, &[0.13, 9.0], 0.9).ticks.iter().map(|t| tick_label(*t)).collect();
        assert_eq!(labels, ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        let labels: Vec<_> = [0.0, 0.05, 1.234, 105.26, 12345.0].map(tick_label).into();
        assert_eq!(labels, ["0", "0.05", "1.23", "105", "12345"]);
    }

    proptest! {
        #[test]
        fn every_value_is_inside(values in prop::collection::vec(1e-6..1e9f64, 1..20), log in any::<bool>()) {
            let kind = if log { Axis::Log } else { Axis::Linear };
            let ruler = Ruler::new(kind, &values, 0.85);
            for value in &values {
                prop_assert!(ruler.share(*value) <= 0.85 + 1e-9);
                prop_assert!(ruler.share(*value) > 0.0);
            }
            prop_assert!(ruler.ticks.len() >= 2 && ruler.ticks.len() <= 40, "{:?}", ruler.ticks);
        }
    }
}
