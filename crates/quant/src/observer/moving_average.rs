//! Extremes of each batch, averaged exponentially: `m += c·(cur - m)`, the first batch copies.
//!
//! The rule of torch's `MovingAverageMinMaxObserver`, for quantization-aware training: the weights move, and old
//! batches must fade. The result depends on the order of the batches, so there is no merge.

use serde::{Deserialize, Serialize};

use super::scan::scan;
use super::{MovingAverageSettings, ObserveError};

/// Averaged extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovingAverage {
    settings: MovingAverageSettings,
    range: Option<(f32, f32)>,
    count: u64,
}

impl MovingAverage {
    /// An empty average.
    pub fn new(settings: MovingAverageSettings) -> Self {
        Self {
            settings,
            range: None,
            count: 0,
        }
    }

    /// The averaging constant.
    pub fn settings(&self) -> MovingAverageSettings {
        self.settings
    }

    /// Takes in a batch; an empty one changes nothing.
    ///
    /// # Errors
    /// When a value is NaN or infinite.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        let found = scan(values)?;
        if values.is_empty() {
            return Ok(());
        }
        // A constant outside of 0..=1 would leave the hull of what was seen.
        let c = self.settings.constant.clamp(0.0, 1.0);
        let toward = |mean: f32, now: f32| mean + c * (now - mean);
        self.range = Some(match self.range {
            None => (found.min, found.max),
            // The difference of two huge bounds may overflow; the newest value then wins.
            Some((min, max)) => (
                finite_or(toward(min, found.min), found.min),
                finite_or(toward(max, found.max), found.max),
            ),
        });
        self.count = self.count.saturating_add(values.len() as u64);
        Ok(())
    }

    /// The averaged extremes.
    pub fn observed(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.count
    }
}

fn finite_or(value: f32, other: f32) -> f32 {
    if value.is_finite() { value } else { other }
}
