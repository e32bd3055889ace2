//! The mean over samples of the smallest and of the largest value: NNCF's default for activations.
//!
//! Each call of [`MeanMinMax::observe`] is one sample. The sums are f64, so the order of the samples can change
//! the last bit of a sum, which the rounding to f32 hides in all but contrived cases.

use serde::{Deserialize, Serialize};

use super::ObserveError;
use super::scan::scan;

/// Sums of extremes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanMinMax {
    min_sum: f64,
    max_sum: f64,
    samples: u64,
    count: u64,
}

impl MeanMinMax {
    /// Takes in one sample; an empty one changes nothing.
    ///
    /// # Errors
    /// When a value is NaN or infinite.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        let found = scan(values)?;
        if !values.is_empty() {
            self.merge(&Self {
                min_sum: found.min.into(),
                max_sum: found.max.into(),
                samples: 1,
                count: values.len() as u64,
            });
        }
        Ok(())
    }

    /// Adds what another state has seen.
    pub fn merge(&mut self, other: &Self) {
        self.min_sum += other.min_sum;
        self.max_sum += other.max_sum;
        self.samples = self.samples.saturating_add(other.samples);
        self.count = self.count.saturating_add(other.count);
    }

    /// The mean extremes.
    pub fn observed(&self) -> Option<(f32, f32)> {
        let samples = self.samples as f64;
        (self.samples > 0).then(|| {
            (
                (self.min_sum / samples) as f32,
                (self.max_sum / samples) as f32,
            )
        })
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.count
    }
}
