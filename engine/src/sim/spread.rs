//! How measured times lie about their median, by how long the stage takes: what delays a stage of 2 ms by half is not noticed in
//! one of 60 ms. Pure data and a look-up.

use serde::{Deserialize, Serialize};

use super::curve::Curve;
use crate::units::BatchId;

/// Bands of stage times, shortest first; what is longer than the last keeps to the last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spread(pub Vec<SpreadBand>);

/// Stages that take about equally long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpreadBand {
    /// Medians of at most so many milliseconds.
    pub up_to_ms: f64,
    /// Quantile -> time over its median.
    pub factors: Curve,
}

impl Spread {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How far a stage's time for a batch is from its median of so many seconds: a quantile that batch and stage alone decide.
    pub(super) fn factor(&self, median: f64, batch: BatchId, stage: usize) -> f64 {
        let Some(last) = self.0.last() else { return 1.0 };
        let band = self.0.iter().find(|band| median * 1e3 <= band.up_to_ms).unwrap_or(last);
        // One step of SplitMix64 (Steele, Lea and Flood 2014).
        let state = (u64::from(batch.0) << 16 | stage as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        band.factors.held_at(((state ^ (state >> 31)) >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// The path of what is wrong, and what it should be.
    pub(super) fn check(&self) -> Result<(), (String, &'static str)> {
        let rises = self.0.windows(2).all(|pair| pair[0].up_to_ms < pair[1].up_to_ms);
        if !(rises && self.0.iter().all(|band| band.up_to_ms.is_finite() && band.up_to_ms > 0.0)) {
            return Err((String::new(), "bands whose up_to_ms rises from above 0"));
        }
        self.0.iter().enumerate().try_for_each(|(index, band)| {
            let named = |expected| (format!("[{index}].factors"), expected);
            if band.factors.0.is_empty() {
                return Err(named("at least one point"));
            }
            band.factors.check().map_err(named)
        })
    }
}
