//! Keeps the values themselves, up to a limit, for debugging and for comparing observers.

use serde::{Deserialize, Serialize};

use super::{MinMax, ObserveError, RecordingSettings};

/// The first values of a stream, and exact extremes of all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    settings: RecordingSettings,
    values: Vec<f32>,
    extremes: MinMax,
}

impl Recording {
    /// An empty recording.
    pub fn new(settings: RecordingSettings) -> Self {
        Self {
            settings,
            values: Vec::new(),
            extremes: MinMax::default(),
        }
    }

    /// The limit.
    pub fn settings(&self) -> RecordingSettings {
        self.settings
    }

    /// The values kept, in the order of observation.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Takes in a batch.
    ///
    /// # Errors
    /// When a value is NaN or infinite.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        self.extremes.observe(values)?;
        self.keep(values);
        Ok(())
    }

    /// Appends another recording.
    pub fn merge(&mut self, other: &Self) {
        self.extremes.merge(&other.extremes);
        self.keep(&other.values);
    }

    fn keep(&mut self, values: &[f32]) {
        let room = self.settings.limit.saturating_sub(self.values.len());
        self.values
            .extend_from_slice(&values[..values.len().min(room)]);
    }

    /// The extremes of everything seen.
    pub fn observed(&self) -> Option<(f32, f32)> {
        self.extremes.observed()
    }

    /// How many values were seen, kept or not.
    pub fn count(&self) -> u64 {
        self.extremes.count()
    }
}
