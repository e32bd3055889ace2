//! Which observer a value gets: names, settings and their text form.
//!
//! The text form is the name, with an optional main setting behind `=`: `minmax`, `histogram`,
//! `percentile=99.9`, `moving_average=0.01`. Configuration files may also give every setting by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{CustomObserver, Observer};

/// Number of histogram bins over both signs unless a configuration says otherwise.
///
/// The largest magnitude falls into the upper half of the bins of its sign, so a one-sided value has 1024 to
/// 2048 bins in use: 4 to 8 for each of the 255 steps of an 8-bit quantizer.
pub const DEFAULT_BINS: u32 = 4096;

/// The kind of an observer, with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum ObserverKind {
    /// No observation: the value stays float, or its range comes from elsewhere.
    None,
    /// The smallest and the largest value ever seen.
    #[serde(rename = "minmax")]
    MinMax,
    /// Smallest and largest value of a batch, averaged exponentially. Depends on the order of batches.
    MovingAverage(MovingAverageSettings),
    /// The mean over calls of the smallest and the largest value (NNCF's default): observe one sample a call.
    #[serde(rename = "mean_minmax")]
    MeanMinMax,
    /// The range with the least squared error, searched over both ends on a histogram: the default of activations.
    Histogram(HistogramSettings),
    /// The range that leaves out a share of the values, from a histogram.
    Percentile(PercentileSettings),
    /// The range whose quantized distribution has the least relative entropy (Kullback-Leibler divergence).
    Entropy(EntropySettings),
    /// The least squared error over a given number of ranges, all shrunk from the full one by one factor.
    Mse(MseSettings),
    /// Given parameters, whatever is observed.
    Fixed(FixedSettings),
    /// Keeps the values themselves, for debugging.
    Recording(RecordingSettings),
    /// An [`Observer`](super::Observer) of the program.
    Custom(CustomObserver),
}

/// Settings of [`ObserverKind::MovingAverage`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MovingAverageSettings {
    /// The weight of the newest batch, above 0 and at most 1.
    pub constant: f32,
}

impl Default for MovingAverageSettings {
    fn default() -> Self {
        Self { constant: 0.01 }
    }
}

/// Settings of [`ObserverKind::Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistogramSettings {
    /// Bins over both signs: a power of two from 64 to 65536.
    pub bins: u32,
}

impl Default for HistogramSettings {
    fn default() -> Self {
        Self { bins: DEFAULT_BINS }
    }
}

/// Settings of [`ObserverKind::Percentile`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PercentileSettings {
    /// The percentage of the values that stays inside, above 50 and at most 100; each end loses half of the rest.
    pub percentile: f64,
    /// Bins over both signs: a power of two from 64 to 65536.
    pub bins: u32,
}

impl Default for PercentileSettings {
    fn default() -> Self {
        Self {
            percentile: 99.999,
            bins: DEFAULT_BINS,
        }
    }
}

/// Settings of [`ObserverKind::Entropy`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropySettings {
    /// Bins over both signs: a power of two from 64 to 65536. ONNX Runtime and TensorRT compare their
    /// candidates on a coarser histogram of 128 and 2048 bins.
    pub bins: u32,
    /// Bins that stand for the integers of a candidate (128 in ONNX Runtime and TensorRT), from 2 to `bins`.
    pub quantized_bins: u32,
}

impl Default for EntropySettings {
    fn default() -> Self {
        Self {
            bins: DEFAULT_BINS,
            quantized_bins: 128,
        }
    }
}

/// Settings of [`ObserverKind::Mse`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MseSettings {
    /// Number of ranges tried, from the full one downwards in equal steps, 1 to 10000.
    pub candidates: u32,
    /// Bins over both signs: a power of two from 64 to 65536.
    pub bins: u32,
}

impl Default for MseSettings {
    fn default() -> Self {
        Self {
            candidates: 100,
            bins: DEFAULT_BINS,
        }
    }
}

/// Settings of [`ObserverKind::Fixed`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedSettings {
    /// The scale, a positive normal number.
    pub scale: f32,
    /// The zero point, within the integers of the quantizer.
    pub zero_point: i32,
}

/// Settings of [`ObserverKind::Recording`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingSettings {
    /// The largest number of values kept; later ones only count for the range.
    pub limit: usize,
}

impl Default for RecordingSettings {
    fn default() -> Self {
        Self { limit: 1 << 20 }
    }
}

/// An invalid setting, or an unknown name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserverKindError {
    /// A name that no observer has.
    #[error(
        "`{0}` is no observer; the observers are none, minmax, moving_average, mean_minmax, histogram, \
         percentile, entropy, mse, fixed and recording"
    )]
    Name(String),
    /// A setting behind `=` that cannot be read, or that the observer does not have.
    #[error("observer `{name}` cannot take `{value}`: {expected}")]
    Value {
        /// The observer's name.
        name: &'static str,
        /// The text behind `=`.
        value: String,
        /// What is allowed there.
        expected: &'static str,
    },
    /// A setting out of its range.
    #[error("{setting} of observer `{name}` is {value}, must be {expected}")]
    Setting {
        /// The observer's name.
        name: &'static str,
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// The values it may have.
        expected: &'static str,
    },
}

impl Default for ObserverKind {
    /// The default of activations: the histogram.
    fn default() -> Self {
        Self::Histogram(HistogramSettings::default())
    }
}

impl ObserverKind {
    /// The kind of an observer of one's own.
    pub const fn custom<T: Observer>() -> Self {
        Self::Custom(CustomObserver::of::<T>())
    }

    /// The name in configurations and reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::MinMax => "minmax",
            Self::MovingAverage(_) => "moving_average",
            Self::MeanMinMax => "mean_minmax",
            Self::Histogram(_) => "histogram",
            Self::Percentile(_) => "percentile",
            Self::Entropy(_) => "entropy",
            Self::Mse(_) => "mse",
            Self::Fixed(_) => "fixed",
            Self::Recording(_) => "recording",
            Self::Custom(own) => own.name(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`ObserverKindError::Setting`] names the first setting out of its range.
    pub fn check(&self) -> Result<(), ObserverKindError> {
        let name = self.name();
        let require = |holds: bool, setting, value: f64, expected| {
            if holds {
                return Ok(());
            }
            Err(ObserverKindError::Setting {
                name,
                setting,
                value,
                expected,
            })
        };
        let bins = |bins: u32| {
            let holds = bins.is_power_of_two() && (64..=65536).contains(&bins);
            require(
                holds,
                "bins",
                bins.into(),
                "a power of two from 64 to 65536",
            )
        };
        match *self {
            Self::None | Self::MinMax | Self::MeanMinMax | Self::Recording(_) | Self::Custom(_) => {
                Ok(())
            }
            Self::MovingAverage(s) => {
                let holds = s.constant > 0.0 && s.constant <= 1.0;
                require(
                    holds,
                    "constant",
                    s.constant.into(),
                    "above 0 and at most 1",
                )
            }
            Self::Histogram(s) => bins(s.bins),
            Self::Percentile(s) => {
                let holds = s.percentile > 50.0 && s.percentile <= 100.0;
                require(
                    holds,
                    "percentile",
                    s.percentile,
                    "above 50 and at most 100",
                )?;
                bins(s.bins)
            }
            Self::Entropy(s) => {
                bins(s.bins)?;
                let holds = (2..=s.bins).contains(&s.quantized_bins);
                require(
                    holds,
                    "quantized_bins",
                    s.quantized_bins.into(),
                    "from 2 to the number of bins",
                )
            }
            Self::Mse(s) => {
                let holds = (1..=10_000).contains(&s.candidates);
                require(holds, "candidates", s.candidates.into(), "from 1 to 10000")?;
                bins(s.bins)
            }
            Self::Fixed(s) => {
                let holds = s.scale.is_normal() && s.scale > 0.0;
                require(holds, "scale", s.scale.into(), "a positive normal number")
            }
        }
    }
}

impl fmt::Display for ObserverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::None | Self::MinMax | Self::MeanMinMax | Self::Custom(_) => Ok(()),
            Self::MovingAverage(s) => write!(f, "={}", s.constant),
            Self::Histogram(s) => write!(f, "={}", s.bins),
            Self::Percentile(s) => write!(f, "={}", s.percentile),
            Self::Entropy(s) => write!(f, "={}", s.quantized_bins),
            Self::Mse(s) => write!(f, "={}", s.candidates),
            Self::Fixed(s) => write!(f, "={}:{}", s.scale, s.zero_point),
            Self::Recording(s) => write!(f, "={}", s.limit),
        }
    }
}

/// Reads the setting behind `=`, or gives the default when there is none.
fn setting<T: FromStr>(
    name: &'static str,
    value: Option<&str>,
    default: T,
    expected: &'static str,
) -> Result<T, ObserverKindError> {
    let Some(value) = value else {
        return Ok(default);
    };
    value.trim().parse().map_err(|_| ObserverKindError::Value {
        name,
        value: value.to_owned(),
        expected,
    })
}

impl FromStr for ObserverKind {
    type Err = ObserverKindError;

    /// Reads `name` or `name=setting`; `fixed` needs `fixed=SCALE:ZERO_POINT`. Hyphens count as underscores.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let plain = |kind: Self| match value {
            None => Ok(kind),
            Some(value) => Err(ObserverKindError::Value {
                name: kind.name(),
                value: value.to_owned(),
                expected: "it has no setting",
            }),
        };
        let kind = match name.trim().to_ascii_lowercase().replace('-', "_").as_str() {
            "none" => plain(Self::None)?,
            "minmax" | "min_max" => plain(Self::MinMax)?,
            "mean_minmax" | "mean_min_max" => plain(Self::MeanMinMax)?,
            "moving_average" => {
                let default = MovingAverageSettings::default().constant;
                let constant = setting("moving_average", value, default, "the averaging constant")?;
                Self::MovingAverage(MovingAverageSettings { constant })
            }
            "histogram" => {
                let bins = setting("histogram", value, DEFAULT_BINS, "the number of bins")?;
                Self::Histogram(HistogramSettings { bins })
            }
            "percentile" => {
                let default = PercentileSettings::default();
                let percentile = setting(
                    "percentile",
                    value,
                    default.percentile,
                    "a percentage such as 99.99",
                )?;
                Self::Percentile(PercentileSettings {
                    percentile,
                    ..default
                })
            }
            "entropy" => {
                let default = EntropySettings::default();
                let quantized_bins = setting(
                    "entropy",
                    value,
                    default.quantized_bins,
                    "the number of quantized bins",
                )?;
                Self::Entropy(EntropySettings {
                    quantized_bins,
                    ..default
                })
            }
            "mse" => {
                let default = MseSettings::default();
                let candidates =
                    setting("mse", value, default.candidates, "the number of candidates")?;
                Self::Mse(MseSettings {
                    candidates,
                    ..default
                })
            }
            "fixed" => fixed(value.unwrap_or_default())?,
            "recording" => {
                let default = RecordingSettings::default().limit;
                let limit = setting("recording", value, default, "the number of values to keep")?;
                Self::Recording(RecordingSettings { limit })
            }
            _ => return Err(ObserverKindError::Name(name.to_owned())),
        };
        kind.check()?;
        Ok(kind)
    }
}

/// Reads `SCALE:ZERO_POINT`.
fn fixed(value: &str) -> Result<ObserverKind, ObserverKindError> {
    let expected = "SCALE:ZERO_POINT";
    let error = || ObserverKindError::Value {
        name: "fixed",
        value: value.to_owned(),
        expected,
    };
    let (scale, zero_point) = value.split_once(':').ok_or_else(error)?;
    Ok(ObserverKind::Fixed(FixedSettings {
        scale: scale.trim().parse().map_err(|_| error())?,
        zero_point: zero_point.trim().parse().map_err(|_| error())?,
    }))
}
