//! One number of the cost model, or the range in which it lies. Knows nothing of what it multiplies.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which end of the uncertain coefficients a trial takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// The fast end of each cost.
    Low,
    /// The likeliest value.
    Central,
    /// The slow end of each cost.
    High,
}

impl Band {
    /// As in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Central => "central",
            Self::High => "high",
        }
    }
}

/// Whether more of a coefficient costs more time, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A time: more costs more; may be zero.
    Cost,
    /// A speed: more costs less; never zero.
    Rate,
}

/// A value and the band it lies in; written as a number where the band has no width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficient {
    low: f64,
    central: f64,
    high: f64,
}

impl Coefficient {
    /// A value held for certain.
    pub const fn certain(value: f64) -> Self {
        Self { low: value, central: value, high: value }
    }

    /// A band; `low` is the end at which work is fast.
    pub const fn uncertain(low: f64, central: f64, high: f64) -> Self {
        Self { low, central, high }
    }

    /// The value at one end or in the middle.
    pub fn at(self, band: Band) -> f64 {
        match band {
            Band::Low => self.low,
            Band::Central => self.central,
            Band::High => self.high,
        }
    }

    /// What it should have been, where it is out of order or out of range.
    pub(super) fn check(self, direction: Direction) -> Result<(), &'static str> {
        let Self { low, central, high } = self;
        let finite = [low, central, high].iter().all(|value| value.is_finite());
        match direction {
            Direction::Cost if !(finite && low >= 0.0) => Err("a time of 0 or more"),
            Direction::Cost if !(low <= central && central <= high) => {
                Err("low <= central <= high (low: fast)")
            }
            Direction::Rate if !(finite && low > 0.0 && central > 0.0 && high > 0.0) => Err("a rate above 0"),
            Direction::Rate if !(low >= central && central >= high) => {
                Err("low >= central >= high (low: fast)")
            }
            Direction::Cost | Direction::Rate => Ok(()),
        }
    }
}

impl fmt::Display for Coefficient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low == self.high && self.low == self.central {
            true => write!(f, "{}", self.central),
            false => write!(f, "{{low: {}, central: {}, high: {}}}", self.low, self.central, self.high),
        }
    }
}

impl Serialize for Coefficient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.low == self.high && self.low == self.central {
            return serializer.serialize_f64(self.central);
        }
        let mut band = serializer.serialize_struct("Coefficient", 3)?;
        band.serialize_field("low", &self.low)?;
        band.serialize_field("central", &self.central)?;
        band.serialize_field("high", &self.high)?;
        band.end()
    }
}

impl<'de> Deserialize<'de> for Coefficient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrBand)
    }
}

struct NumberOrBand;

impl<'de> Visitor<'de> for NumberOrBand {
    type Value = Coefficient;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or {low, central, high}")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Coefficient, E> {
        Ok(Coefficient::certain(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Coefficient, E> {
        Ok(Coefficient::certain(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Coefficient, E> {
        Ok(Coefficient::certain(value as f64))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Coefficient, A::Error> {
        let (mut low, mut central, mut high) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let end = match key.as_str() {
                "low" => &mut low,
                "central" => &mut central,
                "high" => &mut high,
                _ => return Err(A::Error::unknown_field(&key, &["low", "central", "high"])),
            };
            if end.replace(map.next_value::<f64>()?).is_some() {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            }
        }
        let given = |end: Option<f64>, name| end.ok_or_else(|| A::Error::missing_field(name));
        Ok(Coefficient {
            low: given(low, "low")?,
            central: given(central, "central")?,
            high: given(high, "high")?,
        })
    }
}
