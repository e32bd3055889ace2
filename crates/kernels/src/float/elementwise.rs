//! Float arithmetic of two operands element by element, and clipping.
//!
//! An operand may be one element, as in the integer kernels. A fused activation is the bounds.

use octofold_quant::float::pow;

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::shared::expand::{check_repeats, each_pair};
use crate::{Bounds, Isa, KernelError};

/// An operation on two floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// The larger one; NaN when either is.
    Max,
    /// The smaller one; NaN when either is.
    Min,
    /// `a ^ b`: see [`pow`].
    Pow,
    /// `a`, or `b·a` below zero.
    PRelu,
}

/// `output[i] = clamp(a[i] op b[i])`. Each operand is as long as the output, or is one element.
///
/// # Errors
/// For lengths that do not fit, unordered bounds, and a missing instruction set.
pub fn binary(
    isa: Isa,
    op: Binary,
    a: &[f32],
    b: &[f32],
    bounds: Bounds,
    output: &mut [f32],
) -> Result<(), KernelError> {
    bounds.check()?;
    check_repeats("the first operand", a.len(), output.len())?;
    check_repeats("the second operand", b.len(), output.len())?;
    match op {
        Binary::Add => sums(isa, a, b, bounds, output),
        Binary::Sub => differences(isa, a, b, bounds, output),
        Binary::Mul => products(isa, a, b, bounds, output),
        Binary::Div => quotients(isa, a, b, bounds, output),
        Binary::Max => maxima(isa, a, b, bounds, output),
        Binary::Min => minima(isa, a, b, bounds, output),
        Binary::Pow => powers(isa, a, b, bounds, output),
        Binary::PRelu => slopes(isa, a, b, bounds, output),
    }
}

/// Defines the loop of each operation, one function for each instruction set.
macro_rules! operations {
    ($($name:ident, $loop:ident: |$a:ident, $b:ident| $value:expr;)*) => {$(
        isa_versions!(
            fn $name(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) = $loop
        );

        #[inline(always)]
        fn $loop(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) {
            each_pair(a, b, output, |$a, $b| bounds.clamp($value));
        }
    )*};
}

operations! {
    sums, sums_loop: |a, b| a + b;
    differences, differences_loop: |a, b| a - b;
    products, products_loop: |a, b| a * b;
    quotients, quotients_loop: |a, b| a / b;
    maxima, maxima_loop: |a, b| if (a >= b) | a.is_nan() { a } else { b };
    minima, minima_loop: |a, b| if (a <= b) | a.is_nan() { a } else { b };
    powers, powers_loop: |a, b| pow(a, b.into());
    slopes, slopes_loop: |a, b| if a < 0.0 { b * a } else { a };
}

/// `output[i] = clamp(input[i])`: Clip, and Relu with the bounds 0 and ∞. NaN stays NaN.
///
/// # Errors
/// For lengths that differ, unordered bounds, and a missing instruction set.
pub fn clip(
    isa: Isa,
    input: &[f32],
    bounds: Bounds,
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the output", input.len(), output.len())?;
    bounds.check()?;
    clip_slice(isa, input, bounds, output)
}

isa_versions!(fn clip_slice(input: &[f32], bounds: Bounds, output: &mut [f32]) = clip_loop);

#[inline(always)]
fn clip_loop(input: &[f32], bounds: Bounds, output: &mut [f32]) {
    for (&x, y) in input.iter().zip(output) {
        *y = bounds.clamp(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::{LENGTHS, Random};

    const OPERATIONS: [Binary; 8] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Max,
        Binary::Min,
        Binary::Pow,
        Binary::PRelu,
    ];

    fn apply(op: Binary, a: f32, b: f32) -> f32 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max => a.max(b),
            Binary::Min => a.min(b),
            Binary::Pow => f64::from(a).powf(b.into()) as f32,
            Binary::PRelu => a.max(0.0) + b * a.min(0.0),
        }
    }

    #[test]
    fn all_operations_and_lengths_agree() {
        let mut random = Random::new(41);
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            for (a_len, b_len) in [(len, len), (len, 1), (1, len), (1, 1)] {
                let (a, b) = (random.floats(a_len), random.floats(b_len));
                for op in OPERATIONS {
                    for bounds in [Bounds::NONE, Bounds::new(0.0, 0.5)] {
                        for isa in Isa::supported() {
                            let mut output = vec![777.0; len];
                            binary(isa, op, &a, &b, bounds, &mut output).unwrap();
                            for (i, y) in output.iter().enumerate() {
                                let expected = apply(op, a[i % a_len], b[i % b_len]);
                                // Only powers are not exact; a negative number has none.
                                let (expected, error) = match op {
                                    Binary::Pow => (expected, 1e-7 * expected.abs()),
                                    _ => (expected, 0.0),
                                };
                                let clamped = expected.max(bounds.lo).min(bounds.hi);
                                let close = (y - clamped).abs() <= error;
                                let undefined = y.is_nan() && expected.is_nan();
                                assert!(close || undefined, "{isa} {op:?} {a_len} {b_len} {i}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn clipping_keeps_nan_and_infinities_in_bounds() {
        let input = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 3.0];
        for isa in Isa::supported() {
            let mut output = [777.0; 5];
            clip(isa, &input, Bounds::new(0.0, 6.0), &mut output).unwrap();
            assert!(output[0].is_nan());
            assert_eq!(output[1..], [6.0, 0.0, 0.0, 3.0]);
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let call = |a: usize, b: usize, y: usize| {
            let (a, b) = (vec![0.0; a], vec![0.0; b]);
            binary(
                Isa::Scalar,
                Binary::Add,
                &a,
                &b,
                Bounds::NONE,
                &mut vec![0.0; y],
            )
        };
        assert_eq!(call(6, 1, 6), Ok(()));
        assert_eq!(call(0, 0, 0), Ok(()));
        assert_eq!(call(0, 1, 0), Ok(()));
        assert!(call(3, 6, 6).is_err());
        assert!(call(0, 6, 6).is_err());
        assert!(call(6, 12, 6).is_err());
        assert!(clip(Isa::Scalar, &[0.0], Bounds::new(1.0, 0.0), &mut [0.0]).is_err());
        assert!(clip(Isa::Scalar, &[0.0], Bounds::new(f32::NAN, 0.0), &mut [0.0]).is_err());
        assert!(clip(Isa::Scalar, &[0.0; 2], Bounds::NONE, &mut [0.0]).is_err());
    }
}
