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
//! One observer a file: extremes, their moving average, their mean over samples, the recording and the histogram;
//! percentile, entropy, mse and the default range search are ways to read the histogram.

mod entropy;
mod histogram;
mod kind;
mod mean_min_max;
mod min_max;
mod moving_average;
mod mse;
mod per_channel;
mod percentile;
mod recording;
mod scan;
mod search;

use serde::{Deserialize, Serialize};

use crate::choose::choose_qparams;
use crate::{QParams, QParamsError, QuantParams, QuantRange, Scheme};

pub use histogram::{Cell, Histogram};
pub use kind::{
    DEFAULT_BINS, EntropySettings, FixedSettings, HistogramSettings, MovingAverageSettings,
    MseSettings, ObserverKind, ObserverKindError, PercentileSettings, RecordingSettings,
};
pub use mean_min_max::MeanMinMax;
pub use min_max::MinMax;
pub use moving_average::MovingAverage;
pub use per_channel::PerChannel;
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
    /// A batch whose length is not `outer * channels * inner`.
    #[error("{len} values cannot be {outer} x {channels} x {inner}")]
    Shape {
        /// The number of values.
        len: usize,
        /// The product of the dimensions before the channel axis.
        outer: usize,
        /// The dimension of the channel axis.
        channels: usize,
        /// The product of the dimensions behind the channel axis.
        inner: usize,
    },
    /// A batch with another number of channels than before; 0 stands for a state without channels.
    #[error("{found} channels, but {expected} were observed before")]
    Channels {
        /// The number so far.
        expected: usize,
        /// The number of the refused batch.
        found: usize,
    },
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
    /// States with different numbers of channels; 0 stands for a state without channels.
    #[error("observers of {left} and of {right} channels cannot be merged")]
    Channels {
        /// Channels of the state that should take the other in.
        left: usize,
        /// Channels of the other.
        right: usize,
    },
}

/// Why a state has no qparams.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// Nothing was observed.
    #[error("nothing was observed{}", channel.map_or_else(String::new, |c| format!(" of channel {c}")))]
    Empty {
        /// The channel without values, when channels are observed one by one.
        channel: Option<usize>,
    },
    /// The observer `none` has no range.
    #[error("the observer `none` keeps no range")]
    NoRange,
    /// One pair of parameters was asked of a state with channels, or the other way round.
    #[error(
        "{channels} channels were observed (0 stands for a whole tensor), parameters were asked {asked}"
    )]
    Granularity {
        /// Observed channels.
        channels: usize,
        /// What was asked.
        asked: &'static str,
    },
    /// An empty range of integers: the largest is not above the smallest.
    #[error("no integers between {} and {}", .0.min, .0.max)]
    EmptyRange(QuantRange),
    /// Fixed qparams that do not fit the quantizer.
    #[error(transparent)]
    Params(#[from] QParamsError),
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
    /// One state a channel.
    PerChannel(PerChannel),
}

impl ObserverState {
    /// An empty state. [`ObserverState::observe_per_channel`] turns it into one state a channel.
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
        }
    }

    /// The kind and settings of this state, or of its channels.
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
            Self::PerChannel(p) => p.kind(),
        }
    }

    /// The number of channels observed one by one, or `None` for a whole tensor.
    pub fn channels(&self) -> Option<usize> {
        match self {
            Self::PerChannel(p) => Some(p.states().len()),
            _ => None,
        }
    }

    /// Takes in one batch (for `mean_minmax`: one sample). An empty batch changes nothing.
    ///
    /// # Errors
    /// When a value is NaN or infinite, or when channels were observed before. The state is then unchanged.
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
            Self::PerChannel(p) => Err(ObserveError::Channels {
                expected: p.states().len(),
                found: 0,
            }),
        }
    }

    /// Takes in one batch of shape `outer x channels x inner` (row-major), one state a channel.
    ///
    /// # Errors
    /// When a value is NaN or infinite (its index is that in `values`), when the length is not the product, or
    /// when another number of channels, or a whole tensor, was observed before. The state is then unchanged.
    pub fn observe_per_channel(
        &mut self,
        values: &[f32],
        outer: usize,
        channels: usize,
        inner: usize,
    ) -> Result<(), ObserveError> {
        if outer
            .checked_mul(channels)
            .and_then(|n| n.checked_mul(inner))
            != Some(values.len())
        {
            let len = values.len();
            return Err(ObserveError::Shape {
                len,
                outer,
                channels,
                inner,
            });
        }
        if let Self::PerChannel(p) = self {
            return p.observe(values, outer, channels, inner);
        }
        if self.count() > 0 {
            return Err(ObserveError::Channels {
                expected: 0,
                found: channels,
            });
        }
        let mut split = PerChannel::new(&self.kind(), channels);
        split.observe(values, outer, channels, inner)?;
        *self = Self::PerChannel(split);
        Ok(())
    }

    /// Forgets everything observed; kind, settings and channels stay.
    pub fn reset(&mut self) {
        match self {
            Self::PerChannel(p) => *p = PerChannel::new(&p.kind(), p.states().len()),
            other => *other = Self::new(&other.kind()),
        }
    }

    /// Adds what `other` has observed, as if this state had seen both streams.
    ///
    /// # Errors
    /// When kinds, settings or channels differ, and for moving averages. The state is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.kind() != other.kind() {
            return Err(MergeError::Kinds {
                left: self.kind().to_string(),
                right: other.kind().to_string(),
            });
        }
        match (self, other) {
            (Self::None, Self::None) => Ok(()),
            (Self::MinMax(a), Self::MinMax(b)) | (Self::Fixed(_, a), Self::Fixed(_, b)) => {
                a.merge(b);
                Ok(())
            }
            (Self::MovingAverage(_), Self::MovingAverage(_)) => Err(MergeError::OrderDependent),
            (Self::MeanMinMax(a), Self::MeanMinMax(b)) => {
                a.merge(b);
                Ok(())
            }
            (Self::Histogram(a), Self::Histogram(b))
            | (Self::Percentile(_, a), Self::Percentile(_, b))
            | (Self::Entropy(_, a), Self::Entropy(_, b))
            | (Self::Mse(_, a), Self::Mse(_, b)) => {
                a.merge(b);
                Ok(())
            }
            (Self::Recording(a), Self::Recording(b)) => {
                a.merge(b);
                Ok(())
            }
            (Self::PerChannel(a), Self::PerChannel(b)) => a.merge(b),
            (left, right) => Err(MergeError::Channels {
                left: left.channels().unwrap_or(0),
                right: right.channels().unwrap_or(0),
            }),
        }
    }

    /// The smallest and the largest value ever seen (for averages: the averaged ones); over all channels.
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
            Self::PerChannel(p) => {
                let ranges = p.states().iter().filter_map(Self::observed);
                ranges.reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))
            }
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
            Self::PerChannel(p) => p
                .states()
                .iter()
                .map(Self::count)
                .fold(0, u64::saturating_add),
        }
    }

    /// The parameters of the whole tensor for the integers of `range`, and the real range used.
    ///
    /// # Errors
    /// When nothing was observed, for the observer `none`, for a state with channels, and for fixed parameters
    /// that do not fit `range`.
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
            Self::PerChannel(p) => {
                return Err(FinishError::Granularity {
                    channels: p.states().len(),
                    asked: "of the whole tensor",
                });
            }
            _ => self
                .observed()
                .ok_or(FinishError::Empty { channel: None })?,
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

    /// The parameters of each channel for the integers of `range`, and the real ranges used. `axis` is the
    /// channels' axis and only becomes part of the result.
    ///
    /// # Errors
    /// As [`ObserverState::finish`], for the first channel with an error; also for a state without channels.
    pub fn finish_per_channel(
        &self,
        axis: usize,
        range: QuantRange,
        scheme: Scheme,
        eps: f32,
    ) -> Result<(QuantParams, Vec<Choice>), FinishError> {
        let states = match self {
            Self::PerChannel(p) if !p.states().is_empty() => p.states(),
            _ => {
                return Err(FinishError::Granularity {
                    channels: 0,
                    asked: "channel by channel",
                });
            }
        };
        let choices = states.iter().enumerate().map(|(channel, state)| {
            state
                .finish(range, scheme, eps)
                .map_err(|error| match error {
                    FinishError::Empty { .. } => FinishError::Empty {
                        channel: Some(channel),
                    },
                    other => other,
                })
        });
        let choices = choices.collect::<Result<Vec<_>, _>>()?;
        let channels = choices.iter().map(|choice| choice.params).collect();
        Ok((QuantParams::PerChannel { axis, channels }, choices))
    }
}

#[cfg(test)]
mod tests;
