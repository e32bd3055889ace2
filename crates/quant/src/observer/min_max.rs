//! The smallest and the largest value ever seen.

use serde::{Deserialize, Serialize};

use super::ObserveError;
use super::scan::scan;

/// Exact extremes and the number of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinMax {
    range: Option<(f32, f32)>,
    count: u64,
}

impl MinMax {
    /// Takes in a batch.
    ///
    /// # Errors
    /// When a value is NaN or infinite.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        let found = scan(values)?;
        if !values.is_empty() {
            self.add(found.min, found.max, values.len() as u64);
        }
        Ok(())
    }

    /// Takes in `count` values of which only the extremes are known.
    pub(super) fn add(&mut self, min: f32, max: f32, count: u64) {
        let (a, b) = self.range.unwrap_or((min, max));
        self.range = Some((a.min(min), b.max(max)));
        self.count = self.count.saturating_add(count);
    }

    /// Adds what another state has seen.
    pub fn merge(&mut self, other: &Self) {
        if let Some((min, max)) = other.range {
            self.add(min, max, other.count);
        }
    }

    /// The extremes.
    pub fn observed(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.count
    }
}
