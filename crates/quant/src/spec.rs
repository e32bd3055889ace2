//! How one value is quantized: plain data, as a configuration file can hold it.
//!
//! The defaults are those of `docs/numerics.md`: activations `uint8`, affine, per tensor, full range, histogram
//! observer; weights `int8`, symmetric, per output channel, -127..=127, min-max.

use serde::{Deserialize, Serialize};

use crate::choose::DEFAULT_EPS;
use crate::observer::{Choice, FinishError, FixedSettings, ObserverKindError, ObserverState};
use crate::{ObserverKind, QuantRange, QuantType, Scheme};

/// What shares one scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// The whole tensor.
    PerTensor,
    /// Each index along an axis.
    PerChannel {
        /// The axis, counted from 0.
        axis: usize,
    },
}

/// How one value is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantSpec {
    /// The type of the integers.
    pub dtype: QuantType,
    /// The smallest integer in use.
    pub quant_min: i32,
    /// The largest integer in use.
    pub quant_max: i32,
    /// How a range becomes a scale and a zero point.
    pub scheme: Scheme,
    /// What shares one scale.
    pub granularity: Granularity,
    /// How the range is found.
    pub observer: ObserverKind,
    /// The smallest scale.
    pub eps: f32,
}

/// Why a specification is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Bounds that are not in order or not within the type.
    #[error("{min}..={max} is no range of {dtype} values")]
    Range {
        /// The type.
        dtype: QuantType,
        /// The smallest integer.
        min: i32,
        /// The largest integer.
        max: i32,
    },
    /// A signed range without positive or without negative integers, which a symmetric quantizer needs.
    #[error(
        "a symmetric quantizer of {dtype} needs integers on both sides of its zero, not {min}..={max}"
    )]
    OneSided {
        /// The type.
        dtype: QuantType,
        /// The smallest integer.
        min: i32,
        /// The largest integer.
        max: i32,
    },
    /// Given parameters whose zero point is not among the integers in use.
    #[error("zero point {zero_point} is not within {min}..={max}")]
    ZeroPoint {
        /// The zero point.
        zero_point: i32,
        /// The smallest integer.
        min: i32,
        /// The largest integer.
        max: i32,
    },
    /// A smallest scale that is not a positive normal number.
    #[error("the smallest scale is {0}, must be a positive normal number")]
    Eps(f32),
    /// An observer's setting.
    #[error(transparent)]
    Observer(#[from] ObserverKindError),
}

impl QuantSpec {
    /// The default of activations: `uint8`, affine, per tensor, full range, histogram observer.
    pub fn activation() -> Self {
        Self {
            dtype: QuantType::Uint8,
            quant_min: QuantType::Uint8.min(),
            quant_max: QuantType::Uint8.max(),
            scheme: Scheme::Affine,
            granularity: Granularity::PerTensor,
            observer: ObserverKind::default(),
            eps: DEFAULT_EPS,
        }
    }

    /// The default of weights whose output channels are on `axis`: `int8`, symmetric, -127..=127, min-max.
    pub fn weight(axis: usize) -> Self {
        let range = QuantRange::symmetric(QuantType::Int8);
        Self {
            dtype: range.dtype,
            quant_min: range.min,
            quant_max: range.max,
            scheme: Scheme::Symmetric,
            granularity: Granularity::PerChannel { axis },
            observer: ObserverKind::MinMax,
            eps: DEFAULT_EPS,
        }
    }

    /// The fixed parameters of sigmoid and hard-sigmoid, and of a classifier's softmax: s = 1/256, zp 0.
    pub fn sigmoid() -> Self {
        Self::activation().fixed(1.0 / 256.0, 0)
    }

    /// The fixed parameters of tanh: s = 2/256, zp 128.
    pub fn tanh() -> Self {
        Self::activation().fixed(2.0 / 256.0, 128)
    }

    /// The same specification with given parameters in place of an observer.
    #[must_use]
    pub fn fixed(mut self, scale: f32, zero_point: i32) -> Self {
        self.observer = ObserverKind::Fixed(FixedSettings { scale, zero_point });
        self
    }

    /// The integers in use.
    pub const fn range(&self) -> QuantRange {
        QuantRange {
            dtype: self.dtype,
            min: self.quant_min,
            max: self.quant_max,
        }
    }

    /// Checks all fields.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn check(&self) -> Result<(), SpecError> {
        let (dtype, min, max) = (self.dtype, self.quant_min, self.quant_max);
        if min < dtype.min() || max > dtype.max() || min >= max {
            return Err(SpecError::Range { dtype, min, max });
        }
        if self.scheme != Scheme::Affine && dtype.is_signed() && (min >= 0 || max <= 0) {
            return Err(SpecError::OneSided { dtype, min, max });
        }
        if let ObserverKind::Fixed(FixedSettings { zero_point, .. }) = self.observer
            && !(min..=max).contains(&zero_point)
        {
            return Err(SpecError::ZeroPoint {
                zero_point,
                min,
                max,
            });
        }
        if !(self.eps.is_normal() && self.eps > 0.0) {
            return Err(SpecError::Eps(self.eps));
        }
        Ok(self.observer.check()?)
    }

    /// An empty state of the observer.
    pub fn observer(&self) -> ObserverState {
        ObserverState::new(&self.observer)
    }

    /// The qparams that this specification chooses for a state, and the real range that they came from.
    ///
    /// # Errors
    /// As [`ObserverState::finish`]; also when the specification asks for parameters for each channel.
    pub fn finish(&self, state: &ObserverState) -> Result<Choice, FinishError> {
        match self.granularity {
            Granularity::PerTensor => state.finish(self.range(), self.scheme, self.eps),
            Granularity::PerChannel { .. } => Err(FinishError::PerChannel),
        }
    }
}

impl Default for QuantSpec {
    /// The default of activations.
    fn default() -> Self {
        Self::activation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults are a promise to users: this test changes only together with `docs/numerics.md`.
    #[test]
    fn defaults_are_pinned() {
        let activation = r#"{"dtype":"uint8","quant_min":0,"quant_max":255,"scheme":"affine","granularity":"per_tensor","observer":{"name":"histogram","bins":4096},"eps":1.1920929e-7}"#;
        let weight = r#"{"dtype":"int8","quant_min":-127,"quant_max":127,"scheme":"symmetric","granularity":{"per_channel":{"axis":0}},"observer":{"name":"minmax"},"eps":1.1920929e-7}"#;
        assert_eq!(
            serde_json::to_string(&QuantSpec::default()).unwrap(),
            activation
        );
        assert_eq!(
            serde_json::to_string(&QuantSpec::weight(0)).unwrap(),
            weight
        );
        assert_eq!(
            serde_json::from_str::<QuantSpec>(weight).unwrap(),
            QuantSpec::weight(0)
        );
        let settings = [
            "none",
            "minmax",
            "moving_average=0.01",
            "mean_minmax",
            "histogram=4096",
            "percentile=99.999",
            "entropy=128",
            "mse=100",
            "fixed=0.00390625:0",
            "recording=1048576",
        ];
        for text in settings {
            let name = text.split('=').next().unwrap();
            let parsed: ObserverKind = if name == "fixed" { text } else { name }.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(
            QuantSpec::sigmoid().observer.to_string(),
            "fixed=0.00390625:0"
        );
        assert_eq!(
            QuantSpec::tanh().observer.to_string(),
            "fixed=0.0078125:128"
        );
    }

    #[test]
    fn senseless_specifications_are_refused() {
        let mut spec = QuantSpec::activation();
        assert_eq!(spec.check(), Ok(()));
        spec.quant_max = 256;
        assert!(matches!(
            spec.check(),
            Err(SpecError::Range { max: 256, .. })
        ));
        let spec = QuantSpec {
            quant_min: 0,
            ..QuantSpec::weight(1)
        };
        assert!(matches!(spec.check(), Err(SpecError::OneSided { .. })));
        let spec = QuantSpec {
            eps: 0.0,
            ..QuantSpec::activation()
        };
        assert_eq!(spec.check(), Err(SpecError::Eps(0.0)));
    }
}
