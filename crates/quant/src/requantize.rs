//! From 32-bit accumulators to 8-bit results: the output stages of the integer operators.
//!
//! Kernels reproduce each function here bit for bit. Products and sums are
//! rounded one by one to f32 (no fused multiply-add), and each conversion rounds half to even.
//! The form is that of FBGEMM and ONNX Runtime (float multiplier), with the clamp done in float before
//! the conversion, as in MLAS and XNNPACK, so that nothing overflows.

use crate::QParams;

/// The multiplier that takes an accumulator on the scale `input * weight` to steps of `output`:
/// `f32(f32(input * weight) / output)`, in this order.
pub fn multiplier(input: f32, weight: f32, output: f32) -> f32 {
    (input * weight) / output
}

/// Rounds `steps` half to even, adds the zero point, and clamps to `lo..=hi`.
///
/// `lo` and `hi` are quantized values; a fused ReLU or Clip narrows them. NaN gives `lo`.
pub fn to_steps(steps: f32, zero_point: i32, lo: i32, hi: i32) -> i32 {
    let (lo, hi) = ((lo - zero_point) as f32, (hi - zero_point) as f32);
    // Written as comparisons so that a NaN ends at `lo`, which is what `maxps(lo, x)` gives a kernel.
    let clamped = if steps > lo { steps } else { lo };
    let clamped = if clamped < hi { clamped } else { hi };
    clamped.round_ties_even() as i32 + zero_point
}

/// Requantizes one accumulator (bias included): `clamp(rne(f32(acc) * multiplier) + zero_point)`.
pub fn requantize(acc: i32, multiplier: f32, zero_point: i32, lo: i32, hi: i32) -> i32 {
    to_steps(acc as f32 * multiplier, zero_point, lo, hi)
}

/// Moves one quantized value to other parameters: `rne(f32(q - z) * f32(s / s_y)) + z_y`.
///
/// Concat, nearest-neighbour Resize, MaxPool and explicit requantization use it.
pub fn rescale(q: i32, from: QParams, to: QParams, lo: i32, hi: i32) -> i32 {
    let ratio = from.scale / to.scale;
    to_steps((q - from.zero_point) as f32 * ratio, to.zero_point, lo, hi)
}

/// The real value of an accumulator: `f32(acc) * scale + bias`, multiplied, then added.
pub fn dequantize_accumulator(acc: i32, scale: f32, bias: f32) -> f32 {
    acc as f32 * scale + bias
}

/// An operand of [`add`] or [`mul`].
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// The quantized value.
    pub value: i32,
    /// Its scale and zero point.
    pub params: QParams,
}

impl Operand {
    /// A quantized value with its parameters.
    pub const fn new(value: i32, params: QParams) -> Self {
        Self { value, params }
    }

    /// The value less its zero point.
    const fn steps(self) -> i32 {
        self.value - self.params.zero_point
    }
}

/// What the results of [`add`] and [`mul`] are quantized to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Scale and zero point.
    pub params: QParams,
    /// The smallest result, a quantized value.
    pub lo: i32,
    /// The largest result.
    pub hi: i32,
}

/// The sum of two quantized values: `rne(f32(a - z_a)·f32(s_a/s_y) + f32(b - z_b)·f32(s_b/s_y)) + z_y`.
pub fn add(a: Operand, b: Operand, to: Target) -> i32 {
    let left = a.steps() as f32 * (a.params.scale / to.params.scale);
    let right = b.steps() as f32 * (b.params.scale / to.params.scale);
    to_steps(left + right, to.params.zero_point, to.lo, to.hi)
}

/// The product of two quantized values: `rne(f32((a - z_a)(b - z_b))·f32(f32(s_a·s_b)/s_y)) + z_y`.
pub fn mul(a: Operand, b: Operand, to: Target) -> i32 {
    let product = a.steps() * b.steps();
    let ratio = multiplier(a.params.scale, b.params.scale, to.params.scale);
    to_steps(product as f32 * ratio, to.params.zero_point, to.lo, to.hi)
}

/// The mean of `count` quantized values whose exact sum, zero points subtracted, is `sum`:
/// `rne(f32(sum)·f32(s/(n·s_y))) + z_y`.
pub fn mean(sum: i32, count: usize, from: QParams, to: QParams, lo: i32, hi: i32) -> i32 {
    to_steps(
        sum as f32 * mean_multiplier(count, from, to),
        to.zero_point,
        lo,
        hi,
    )
}

/// The mean of a window whose `count` dequantized values have the f32 sum `sum`: `rne(f32(f32(sum / n) / s_y)) + z_y`.
///
/// This is the reference graph's own arithmetic (dequantize, `AveragePool`, quantize) and not that of [`mean`]: where operand and result
/// have one scale, means of an even count are ties, and the rounding of the float sum decides them.
pub fn real_mean(sum: f32, count: usize, to: QParams, lo: i32, hi: i32) -> i32 {
    to_steps(sum / count as f32 / to.scale, to.zero_point, lo, hi)
}

/// The multiplier of [`mean`]: `f32(s / f32(n·s_y))`.
pub fn mean_multiplier(count: usize, from: QParams, to: QParams) -> f32 {
    from.scale / (count as f32 * to.scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_round_to_even_and_the_clamp_comes_first() {
        for (acc, expected) in [(1, 10), (3, 12), (5, 12), (-1, 10), (-3, 8)] {
            assert_eq!(requantize(acc, 0.5, 10, 0, 255), expected, "{acc}");
        }
        assert_eq!(requantize(i32::MAX, 1e30, 10, 0, 255), 255);
        assert_eq!(requantize(i32::MIN, 1e30, 10, 3, 255), 3);
    }

    #[test]
    fn a_real_number_survives_addition_within_half_a_step() {
        let operand = |value, scale, zero_point| Operand::new(value, QParams { scale, zero_point });
        let to = Target {
            params: QParams {
                scale: 0.031,
                zero_point: 40,
            },
            lo: 0,
            hi: 255,
        };
        for a in 0..=255 {
            for b in 0..=255 {
                let exact = f64::from(a - 12) * f64::from(0.02_f32)
                    + f64::from(b - 130) * f64::from(0.013_f32);
                let steps = exact / f64::from(0.031_f32) + 40.0;
                let got = add(operand(a, 0.02, 12), operand(b, 0.013, 130), to);
                let got = f64::from(got);
                assert!(
                    (got - steps.clamp(0.0, 255.0)).abs() <= 0.5 + 1e-4,
                    "{a} + {b}"
                );
            }
        }
    }
}
