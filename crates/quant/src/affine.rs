//! Affine quantization of single values: the rule of ONNX `QuantizeLinear` and `DequantizeLinear`.
//!
//! `q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)` and
//! `x' = (q - zero_point) * scale`. It divides; multiplying by the reciprocal
//! gives another integer for some inputs (x = 0.273939937, scale = 0.00214854861 gives 127 by division and
//! 128 by multiplication; FBGEMM multiplies). Infinities saturate and NaN gives `qmin`, as in ONNX Runtime.

use crate::{QParams, QuantType};

/// Quantizes one value to the integers `qmin..=qmax`.
pub fn quantize(x: f32, params: QParams, qmin: i32, qmax: i32) -> i32 {
    let steps = (x / params.scale).round_ties_even();
    // In f64 the sum is exact for every finite `steps` that can be in range, and the clamp handles infinities.
    let shifted = f64::from(steps) + f64::from(params.zero_point);
    if shifted.is_nan() {
        return qmin;
    }
    shifted.clamp(f64::from(qmin), f64::from(qmax)) as i32
}

/// The real value of one quantized integer.
pub fn dequantize(q: i32, params: QParams) -> f32 {
    q.wrapping_sub(params.zero_point) as f32 * params.scale
}

/// Quantizes and dequantizes one value: the rounding that quantization would cause, still in float.
pub fn fake_quantize(x: f32, params: QParams, qmin: i32, qmax: i32) -> f32 {
    dequantize(quantize(x, params, qmin, qmax), params)
}

/// Quantizes one value to the full range of `dtype`.
pub fn quantize_to(x: f32, params: QParams, dtype: QuantType) -> i32 {
    quantize(x, params, dtype.min(), dtype.max())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(scale: f32, zero_point: i32) -> QParams {
        QParams { scale, zero_point }
    }

    #[test]
    fn quantize_divides_instead_of_multiplying_by_the_reciprocal() {
        let (x, scale) = (0.273_939_94_f32, 0.002_148_548_6_f32);
        assert_eq!(quantize_to(x, params(scale, 0), QuantType::Uint8), 127);
        assert_eq!((x * (1.0 / scale)).round_ties_even(), 128.0);
    }

    #[test]
    fn ties_round_to_even_before_the_zero_point_is_added() {
        for (x, expected) in [(0.5, 3), (1.5, 5), (2.5, 5), (-0.5, 3), (-1.5, 1)] {
            assert_eq!(
                quantize_to(x, params(1.0, 3), QuantType::Uint8),
                expected,
                "{x}"
            );
        }
    }

    #[test]
    fn infinities_saturate_and_nan_gives_the_lower_bound() {
        let p = params(0.1, 5);
        assert_eq!(quantize_to(f32::INFINITY, p, QuantType::Uint8), 255);
        assert_eq!(quantize_to(f32::NEG_INFINITY, p, QuantType::Int8), -128);
        assert_eq!(quantize_to(f32::NAN, p, QuantType::Uint8), 0);
        assert_eq!(quantize_to(f32::MAX, p, QuantType::Int32), i32::MAX);
    }

    #[test]
    fn fake_quantize_keeps_every_representable_value() {
        let p = params(0.037, 77);
        for q in 0..=255 {
            let x = dequantize(q, p);
            assert_eq!(fake_quantize(x, p, 0, 255).to_bits(), x.to_bits());
        }
    }
}
