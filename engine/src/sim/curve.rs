//! A function known at some points and straight between them. Knows nothing of what it says.

use serde::{Deserialize, Serialize};

/// Points `[x, y]` in order of x.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Curve(pub Vec<[f64; 2]>);

impl Curve {
    /// The value at `x`: the first one before the first point, and beyond the last as the last piece goes on.
    pub fn at(&self, x: f64) -> f64 {
        match &self.0[..] {
            [] => 0.0,
            [[_, y]] => *y,
            [[first, y], ..] if x <= *first => *y,
            [.., from, to] if x >= to[0] => straight(*from, *to, x).max(0.0),
            _ => self.held_at(x),
        }
    }

    /// The value at `x`: the first one before the first point, the last one beyond the last.
    pub fn held_at(&self, x: f64) -> f64 {
        let Some(&[_, last]) = self.0.last() else { return 0.0 };
        match self.0.partition_point(|point| point[0] < x) {
            0 => self.0[0][1],
            after if after == self.0.len() => last,
            after => straight(self.0[after - 1], self.0[after], x),
        }
    }

    /// What it should have been, where points are out of order or values out of range.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let numbers = self.0.iter().flatten();
        if !numbers.into_iter().all(|value| value.is_finite() && *value >= 0.0) {
            return Err("points [x, y] of numbers from 0 up");
        }
        match self.0.windows(2).all(|pair| pair[0][0] < pair[1][0]) {
            true => Ok(()),
            false => Err("points [x, y] in order of x, each x once"),
        }
    }
}

fn straight([x0, y0]: [f64; 2], [x1, y1]: [f64; 2], x: f64) -> f64 {
    y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> Curve {
        Curve(vec![[1.0, 10.0], [2.0, 12.0], [4.0, 20.0]])
    }

    #[test]
    fn a_point_is_met_exactly_and_between_two_it_is_straight() {
        for [x, y] in curve().0 {
            assert_eq!((curve().at(x), curve().held_at(x)), (y, y));
        }
        assert_eq!((curve().at(1.5), curve().at(3.0)), (11.0, 16.0));
    }

    #[test]
    fn outside_it_goes_on_or_is_held() {
        assert_eq!((curve().at(0.0), curve().held_at(0.0)), (10.0, 10.0));
        assert_eq!((curve().at(8.0), curve().held_at(8.0)), (36.0, 20.0));
        let falling = Curve(vec![[1.0, 3.0], [2.0, 1.0]]);
        assert_eq!((falling.at(9.0), falling.held_at(9.0)), (0.0, 1.0));
    }

    #[test]
    fn few_points_will_do() {
        assert_eq!((Curve::default().at(3.0), Curve::default().held_at(3.0)), (0.0, 0.0));
        let one = Curve(vec![[8.0, 2.0]]);
        assert_eq!((one.at(1.0), one.at(99.0), one.held_at(99.0)), (2.0, 2.0, 2.0));
    }

    #[test]
    fn it_rises_where_its_points_do() {
        let mut last = 0.0;
        for step in 0..1000 {
            let value = curve().at(f64::from(step) * 0.01);
            assert!(value >= last, "{step}: {value} after {last}");
            last = value;
        }
    }

    #[test]
    fn points_out_of_order_are_refused() {
        assert!(curve().check().is_ok());
        assert!(Curve(vec![[2.0, 1.0], [1.0, 2.0]]).check().is_err());
        assert!(Curve(vec![[1.0, 1.0], [1.0, 2.0]]).check().is_err());
        assert!(Curve(vec![[1.0, -1.0]]).check().is_err());
        assert!(Curve(vec![[1.0, f64::NAN]]).check().is_err());
    }
}
