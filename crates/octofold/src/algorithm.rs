//! The algorithms of quantization.

use std::fmt;
use std::str::FromStr;

/// When the ranges of activations are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Before the model runs, from calibration data.
    #[default]
    Static,
    /// Each time the model runs.
    Dynamic,
    /// Never: only weights are quantized.
    WeightOnly,
    /// While the model is trained.
    Qat,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Static, Self::Dynamic, Self::WeightOnly, Self::Qat];

    /// The name, as flags and configuration files have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::WeightOnly => "weight-only",
            Self::Qat => "qat",
        }
    }
}

/// The algorithm in words.
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static quantization",
            Self::Dynamic => "dynamic quantization",
            Self::WeightOnly => "weight-only quantization",
            Self::Qat => "quantization-aware training",
        })
    }
}

/// A name that no algorithm has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no algorithm `{0}`; there are static, dynamic, weight-only and qat")]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}
