//! Observers: they watch the distribution of a value and choose its range.
//!
//! An [`ObserverState`] is created for an [`ObserverKind`]. [`ObserverState::observe`] shows it a batch, states of
//! shards can be merged and stored (serde), and [`ObserverState::finish`] chooses the qparams.
//! The size of a state does not depend on the number of values that it has seen, except for `recording`.
//!
//! The result does not depend on the order, the size and the sharding of the batches, because extremes and counts
//! are exact. The moving average is the exception; `mean_minmax` depends on what one sample is, and sums in f64.
//! Values must be finite; a batch with NaN or an infinity is refused as a whole and leaves the state as it was.
//!
//! A program can bring an [`Observer`] of its own.
//!
//! One observer a file: extremes, their moving average, their mean over samples, the recording and the histogram;
//! percentile, entropy, mse and the default range search are ways to read the histogram.

mod custom;
mod entropy;
mod histogram;
mod kind;
mod mean_min_max;
mod min_max;
mod moving_average;
mod mse;
mod percentile;
mod recording;
mod scan;
mod search;

use serde::{Deserialize, Serialize};

use crate::choose::choose_qparams;
use crate::{QParams, QParamsError, QuantRange, Scheme};

pub use custom::{CustomObserver, CustomState, Observer};
pub use histogram::{Cell, Histogram};
pub use kind::{
    DEFAULT_BINS, EntropySettings, FixedSettings, HistogramSettings, MovingAverageSettings,
    MseSettings, ObserverKind, ObserverKindError, PercentileSettings, RecordingSettings,
};
pub use mean_min_max::MeanMinMax;
pub use min_max::MinMax;
pub use moving_average::MovingAverage;
pub use recording::Recording;
pub use search::squared_error;

/// Why a batch was refused. The caller knows the value's name and adds it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// A value that is NaN or infinite.
    #[error("element {index} is {value}, and a range can only be found for finite values")]
    NotFinite {
        /// Its index in the batch.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A saved state of an observer that this program does not have.
    #[error("this program has no observer `{0}`")]
    Unknown(String),
}

/// Why two states cannot become one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// Moving averages depend on the order of the batches, and two separate states have no common order.
    #[error("moving averages depend on the order of the batches and cannot be merged")]
    OrderDependent,
    /// States of different observers, or of the same one with different settings.
    #[error("an observer `{left}` cannot be merged with an observer `{right}`")]
    Kinds {
        /// The observer that should take the other in.
        left: String,
        /// The other.
        right: String,
    },
}

/// Why a state has no qparams.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// Nothing was observed.
    #[error("nothing was observed")]
    Empty,
    /// A saved state of an observer that this program does not have.
    #[error("this program has no observer `{0}`")]
    Unknown(String),
    /// The observer `none` has no range.
    #[error("the observer `none` keeps no range")]
    NoRange,
    /// Parameters for each channel were asked of an observer, which watches a tensor as a whole.
    #[error("an observed value has one scale and zero point, not one for each channel")]
    PerChannel,
    /// An empty range of integers: the largest is not above the smallest.
    #[error("no integers between {} and {}", .0.min, .0.max)]
    EmptyRange(QuantRange),
    /// Fixed qparams that do not fit the quantizer.
    #[error(transparent)]
    Params(#[from] QParamsError),
}

/// Why a stored state cannot be what an observer has seen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A lower end above the upper one, or an end that is no number.
    #[error("the range from {min} to {max} is none")]
    Range {
        /// The lower end.
        min: f32,
        /// The upper end.
        max: f32,
    },
    /// A range of no values, or values without a range.
    #[error("{count} values were observed, and the range is {range:?}")]
    Count {
        /// The number of values.
        count: u64,
        /// The range.
        range: Option<(f32, f32)>,
    },
}

/// The parameters that an observer chose, and the real range that they came from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Scale and zero point.
    pub params: QParams,
    /// The lower end that was handed to [`choose_qparams`].
    pub min: f32,
    /// The upper end.
    pub max: f32,
}

impl Choice {
    /// The parameters that [`choose_qparams`] gives for `min..=max`.
    pub fn new(min: f32, max: f32, range: QuantRange, scheme: Scheme, eps: f32) -> Self {
        Self {
            params: choose_qparams(min, max, range, scheme, eps),
            min,
            max,
        }
    }
}

/// What an observer has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObserverState {
    /// Nothing at all.
    None,
    /// Exact extremes.
    MinMax(MinMax),
    /// Averaged extremes and the averaging constant.
    MovingAverage(MovingAverage),
    /// Sums of extremes.
    MeanMinMax(MeanMinMax),
    /// A histogram, read by the range search.
    Histogram(Histogram),
    /// A histogram, read by its quantiles.
    Percentile(PercentileSettings, Histogram),
    /// A histogram, read by relative entropy.
    Entropy(EntropySettings, Histogram),
    /// A histogram, read by a plain search.
    Mse(MseSettings, Histogram),
    /// Given parameters; extremes are kept for reports.
    Fixed(FixedSettings, MinMax),
    /// The first values, and exact extremes of all.
    Recording(Recording),
    /// What an observer of the program has seen.
    Custom(CustomState),
}

impl ObserverState {
    /// An empty state.
    ///
    /// Settings out of range are clamped; [`ObserverKind::check`] finds them.
    pub fn new(kind: &ObserverKind) -> Self {
        match *kind {
            ObserverKind::None => Self::None,
            ObserverKind::MinMax => Self::MinMax(MinMax::default()),
            ObserverKind::MovingAverage(s) => Self::MovingAverage(MovingAverage::new(s)),
            ObserverKind::MeanMinMax => Self::MeanMinMax(MeanMinMax::default()),
            ObserverKind::Histogram(s) => Self::Histogram(Histogram::new(s.bins)),
            ObserverKind::Percentile(s) => Self::Percentile(s, Histogram::new(s.bins)),
            ObserverKind::Entropy(s) => Self::Entropy(s, Histogram::new(s.bins)),
            ObserverKind::Mse(s) => Self::Mse(s, Histogram::new(s.bins)),
            ObserverKind::Fixed(s) => Self::Fixed(s, MinMax::default()),
            ObserverKind::Recording(s) => Self::Recording(Recording::new(s)),
            ObserverKind::Custom(own) => Self::Custom(CustomState::new(own)),
        }
    }

    /// A state that may come from a file, as one of an observer; `None` when another observer saw it.
    pub fn known_as(&self, kind: &ObserverKind) -> Option<Self> {
        match (self, kind) {
            (Self::Custom(state), ObserverKind::Custom(own)) => {
                state.known_as(*own).map(Self::Custom)
            }
            _ => (self.kind() == *kind && !matches!(self, Self::Custom(_))).then(|| self.clone()),
        }
    }

    /// The observer that saw it, as reports call it.
    pub fn observer(&self) -> String {
        match self {
            Self::Custom(state) => state.name().to_owned(),
            _ => self.kind().to_string(),
        }
    }

    /// The kind and settings of this state; `None` for a saved state of an observer that is not [known](Self::known_as).
    pub fn kind(&self) -> ObserverKind {
        match self {
            Self::None => ObserverKind::None,
            Self::MinMax(_) => ObserverKind::MinMax,
            Self::MovingAverage(s) => ObserverKind::MovingAverage(s.settings()),
            Self::MeanMinMax(_) => ObserverKind::MeanMinMax,
            Self::Histogram(h) => ObserverKind::Histogram(HistogramSettings { bins: h.bins() }),
            Self::Percentile(s, _) => ObserverKind::Percentile(*s),
            Self::Entropy(s, _) => ObserverKind::Entropy(*s),
            Self::Mse(s, _) => ObserverKind::Mse(*s),
            Self::Fixed(s, _) => ObserverKind::Fixed(*s),
            Self::Recording(r) => ObserverKind::Recording(r.settings()),
            Self::Custom(state) => state
                .kind()
                .map_or(ObserverKind::None, ObserverKind::Custom),
        }
    }

    /// Takes in one batch (for `mean_minmax`: one sample). An empty batch changes nothing.
    ///
    /// # Errors
    /// When a value is NaN or infinite. The state is then unchanged.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        if values.is_empty() {
            return Ok(());
        }
        match self {
            Self::None => Ok(()),
            Self::MinMax(s) => s.observe(values),
            Self::MovingAverage(s) => s.observe(values),
            Self::MeanMinMax(s) => s.observe(values),
            Self::Histogram(h) | Self::Percentile(_, h) | Self::Entropy(_, h) | Self::Mse(_, h) => {
                h.observe(values)
            }
            Self::Fixed(_, s) => s.observe(values),
            Self::Recording(s) => s.observe(values),
            Self::Custom(state) => state.observe(values),
        }
    }

    /// Adds what `other` has observed, as if this state had seen both streams.
    ///
    /// # Errors
    /// When kinds or settings differ, and for moving averages. The state is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        let kinds = MergeError::Kinds {
            left: self.observer(),
            right: other.observer(),
        };
        if self.kind() != other.kind() {
            return Err(kinds);
        }
        match (self, other) {
            (Self::None, Self::None) => {}
            (Self::MinMax(a), Self::MinMax(b)) | (Self::Fixed(_, a), Self::Fixed(_, b)) => {
                a.merge(b);
            }
            (Self::MovingAverage(_), Self::MovingAverage(_)) => {
                return Err(MergeError::OrderDependent);
            }
            (Self::MeanMinMax(a), Self::MeanMinMax(b)) => a.merge(b),
            (Self::Histogram(a), Self::Histogram(b))
            | (Self::Percentile(_, a), Self::Percentile(_, b))
            | (Self::Entropy(_, a), Self::Entropy(_, b))
            | (Self::Mse(_, a), Self::Mse(_, b)) => a.merge(b),
            (Self::Recording(a), Self::Recording(b)) => a.merge(b),
            (Self::Custom(a), Self::Custom(b)) => {
                return if a.merge(b)? { Ok(()) } else { Err(kinds) };
            }
            _ => return Err(kinds),
        }
        Ok(())
    }

    /// The smallest and the largest value ever seen (for averages: the averaged ones).
    pub fn observed(&self) -> Option<(f32, f32)> {
        match self {
            Self::None => None,
            Self::MinMax(s) | Self::Fixed(_, s) => s.observed(),
            Self::MovingAverage(s) => s.observed(),
            Self::MeanMinMax(s) => s.observed(),
            Self::Histogram(h) | Self::Percentile(_, h) | Self::Entropy(_, h) | Self::Mse(_, h) => {
                h.observed()
            }
            Self::Recording(s) => s.observed(),
            Self::Custom(state) => state.observed(),
        }
    }

    /// Checks a state that comes from a file.
    ///
    /// # Errors
    /// When it has a range that is none, a range of no values, or values without a range.
    pub fn check(&self) -> Result<(), StateError> {
        let (range, count) = (self.observed(), self.count());
        if range.is_some() != (count > 0) {
            return Err(StateError::Count { count, range });
        }
        match range {
            Some((min, max)) if !(min.is_finite() && max.is_finite() && min <= max) => {
                Err(StateError::Range { min, max })
            }
            _ => Ok(()),
        }
    }

    /// How many values were observed.
    pub fn count(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::MinMax(s) | Self::Fixed(_, s) => s.count(),
            Self::MovingAverage(s) => s.count(),
            Self::MeanMinMax(s) => s.count(),
            Self::Histogram(h) | Self::Percentile(_, h) | Self::Entropy(_, h) | Self::Mse(_, h) => {
                h.count()
            }
            Self::Recording(s) => s.count(),
            Self::Custom(state) => state.count(),
        }
    }

    /// The parameters of the whole tensor for the integers of `range`, and the real range used.
    ///
    /// # Errors
    /// When nothing was observed, for the observer `none`, and for fixed parameters that do not fit `range`.
    pub fn finish(
        &self,
        range: QuantRange,
        scheme: Scheme,
        eps: f32,
    ) -> Result<Choice, FinishError> {
        if range.min >= range.max {
            return Err(FinishError::EmptyRange(range));
        }
        if let Self::Fixed(s, _) = self {
            let params = QParams::new(s.scale, s.zero_point, range.dtype)?;
            return Ok(Choice {
                params,
                min: crate::affine::dequantize(range.min, params),
                max: crate::affine::dequantize(range.max, params),
            });
        }
        let (min, max) = match self {
            Self::None => return Err(FinishError::NoRange),
            Self::Custom(state) if state.kind().is_none() => {
                return Err(FinishError::Unknown(state.name().to_owned()));
            }
            Self::Custom(state) => {
                return state.choose(range, scheme, eps).ok_or(FinishError::Empty);
            }
            _ => self.observed().ok_or(FinishError::Empty)?,
        };
        Ok(match self {
            Self::Histogram(h) => search::search(h, range, scheme, eps),
            Self::Percentile(s, h) => {
                let (min, max) = percentile::range(h, s.percentile).unwrap_or((min, max));
                Choice::new(min, max, range, scheme, eps)
            }
            Self::Entropy(s, h) => {
                let (min, max) = entropy::range(h, s.quantized_bins).unwrap_or((min, max));
                Choice::new(min, max, range, scheme, eps)
            }
            Self::Mse(s, h) => mse::search(h, s.candidates, range, scheme, eps),
            _ => Choice::new(min, max, range, scheme, eps),
        })
    }
}

#[cfg(test)]
mod tests;
