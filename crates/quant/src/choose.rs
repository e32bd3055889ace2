//! From an observed range to a scale and a zero point.
//!
//! The range always contains 0, so that padding and ReLU stay exact. Affine parameters spread the
//! range over all integers; symmetric ones put the zero point in the middle.

use crate::{QParams, QParamsError, QuantType};

/// The smallest scale that is chosen unless a configuration says otherwise: f32's epsilon, as in torch.
pub const DEFAULT_EPS: f32 = f32::EPSILON;

/// How a range becomes a scale and a zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// The whole range over all integers, with a zero point.
    Affine,
    /// Zero point in the middle; the largest magnitude becomes `qmax` (`absmax / 127` at 8 bits).
    Symmetric,
    /// As torch's observers have it: `absmax / ((qmax - qmin) / 2)`, that is `absmax / 127.5` over -128..127.
    SymmetricTorch,
}

/// The integers that a quantizer may use: a type and the part of its range in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct QuantRange {
    /// The type of the integers.
    pub dtype: QuantType,
    /// The smallest integer in use.
    pub min: i32,
    /// The largest integer in use.
    pub max: i32,
}

impl QuantRange {
    /// The full range of a type.
    pub const fn full(dtype: QuantType) -> Self {
        Self {
            dtype,
            min: dtype.min(),
            max: dtype.max(),
        }
    }

    /// The range of symmetric weights: -127..=127 for `int8`, as wide as the type allows around 0.
    pub const fn symmetric(dtype: QuantType) -> Self {
        let min = if dtype.is_signed() { -dtype.max() } else { 0 };
        Self {
            dtype,
            min,
            max: dtype.max(),
        }
    }

    /// The number of steps between the ends.
    pub const fn steps(self) -> i64 {
        self.max as i64 - self.min as i64
    }
}

/// The parameters of ONNX `DynamicQuantizeLinear` for values in `min..=max`: u8, affine, over the full range.
///
/// The range is first widened to contain 0. An empty range gives the identity.
///
/// # Errors
/// When a bound, or their distance, is not finite.
pub fn dynamic_params(min: f32, max: f32) -> Result<QParams, QParamsError> {
    let (min, max) = (min.min(0.0), max.max(0.0));
    let width = max - min;
    if !width.is_finite() {
        return Err(QParamsError::Width { min, max });
    }
    let scale = width / 255.0;
    if !scale.is_normal() {
        return Ok(QParams::IDENTITY);
    }
    let zero_point = (-min / scale).clamp(0.0, 255.0).round_ties_even() as i32;
    QParams::new(scale, zero_point, QuantType::Uint8)
}

/// Chooses parameters for values in `min..=max`, which is first widened to contain 0.
///
/// The result is always valid: the scale is at least `eps` and finite, and a range of zero width gives the identity.
/// Callers pass finite bounds; observers refuse NaN and infinities before.
pub fn choose_qparams(min: f32, max: f32, range: QuantRange, scheme: Scheme, eps: f32) -> QParams {
    let (min, max) = (min.min(0.0), max.max(0.0));
    if min == 0.0 && max == 0.0 {
        return QParams {
            scale: 1.0,
            zero_point: 0_i32.clamp(range.min, range.max),
        };
    }
    let middle = if range.dtype.is_signed() {
        0
    } else {
        ((i64::from(range.min) + i64::from(range.max) + 1) / 2) as i32
    };
    let limit = (-min).max(max);
    let (scale, zero_point) = match scheme {
        Scheme::Affine => {
            // Half of each end first: the difference of two large finite bounds may overflow.
            let half = max / 2.0 - min / 2.0;
            let scale = (half / (range.steps() as f32 / 2.0)).max(eps);
            let zero_point = f64::from(range.min) - f64::from((min / scale).round_ties_even());
            let (lo, hi) = (f64::from(range.min), f64::from(range.max));
            (scale, zero_point.clamp(lo, hi) as i32)
        }
        Scheme::Symmetric => (
            (limit / (range.max - middle).max(1) as f32).max(eps),
            middle,
        ),
        Scheme::SymmetricTorch => ((limit / (range.steps() as f32 / 2.0)).max(eps), middle),
    };
    QParams { scale, zero_point }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U8: QuantRange = QuantRange::full(QuantType::Uint8);

    #[test]
    fn affine_spreads_the_range_and_keeps_zero_exact() {
        let p = choose_qparams(-1.0, 3.0, U8, Scheme::Affine, DEFAULT_EPS);
        assert_eq!(p.scale, 4.0 / 255.0);
        assert_eq!(p.zero_point, 64);
        let positive = choose_qparams(0.5, 2.0, U8, Scheme::Affine, DEFAULT_EPS);
        assert_eq!((positive.scale, positive.zero_point), (2.0 / 255.0, 0));
        let negative = choose_qparams(-2.0, -0.5, U8, Scheme::Affine, DEFAULT_EPS);
        assert_eq!((negative.scale, negative.zero_point), (2.0 / 255.0, 255));
    }

    #[test]
    fn symmetric_divides_by_qmax_and_torch_by_half_the_range() {
        let s8 = QuantRange::symmetric(QuantType::Int8);
        assert_eq!(
            choose_qparams(-0.5, 1.27, s8, Scheme::Symmetric, DEFAULT_EPS).scale,
            1.27 / 127.0
        );
        let full = QuantRange::full(QuantType::Int8);
        let torch = choose_qparams(-0.5, 1.275, full, Scheme::SymmetricTorch, DEFAULT_EPS);
        assert_eq!((torch.scale, torch.zero_point), (1.275 / 127.5, 0));
        let unsigned = choose_qparams(-1.0, 1.0, U8, Scheme::Symmetric, DEFAULT_EPS);
        assert_eq!((unsigned.scale, unsigned.zero_point), (1.0 / 127.0, 128));
    }

    #[test]
    fn extreme_ranges_still_give_valid_parameters() {
        for (min, max) in [
            (0.0, 0.0),
            (-f32::MAX, f32::MAX),
            (0.0, 1e-40),
            (-1e-40, 1e-38),
        ] {
            for scheme in [Scheme::Affine, Scheme::Symmetric, Scheme::SymmetricTorch] {
                let p = choose_qparams(min, max, U8, scheme, DEFAULT_EPS);
                assert!(
                    QParams::new(p.scale, p.zero_point, QuantType::Uint8).is_ok(),
                    "{p:?}"
                );
            }
        }
    }
}
