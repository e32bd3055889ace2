//! Float arithmetic element by element: sums, differences, products, quotients, and clipping.
//!
//! An operand may be one element, as in the integer kernels. A fused activation is the bounds.

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
    }
}

isa_versions!(fn sums(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) = sums_loop);
isa_versions!(
    fn differences(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) = differences_loop
);
isa_versions!(
    fn products(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) = products_loop
);
isa_versions!(
    fn quotients(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) = quotients_loop
);

#[inline(always)]
fn sums_loop(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) {
    each_pair(a, b, output, |a, b| bounds.clamp(a + b));
}

#[inline(always)]
fn differences_loop(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) {
    each_pair(a, b, output, |a, b| bounds.clamp(a - b));
}

#[inline(always)]
fn products_loop(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) {
    each_pair(a, b, output, |a, b| bounds.clamp(a * b));
}

#[inline(always)]
fn quotients_loop(a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) {
    each_pair(a, b, output, |a, b| bounds.clamp(a / b));
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

    fn apply(op: Binary, a: f32, b: f32) -> f32 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
        }
    }

    #[test]
    fn all_operations_and_lengths_agree() {
        let mut random = Random::new(41);
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            for (a_len, b_len) in [(len, len), (len, 1), (1, len), (1, 1)] {
                let (a, b) = (random.floats(a_len), random.floats(b_len));
                for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
                    for bounds in [Bounds::NONE, Bounds::new(0.0, 0.5)] {
                        for isa in Isa::supported() {
                            let mut output = vec![777.0; len];
                            binary(isa, op, &a, &b, bounds, &mut output).unwrap();
                            for (i, y) in output.iter().enumerate() {
                                let expected = apply(op, a[i % a_len], b[i % b_len]);
                                let expected = expected.max(bounds.lo).min(bounds.hi);
                                assert_eq!(*y, expected, "{isa} {op:?} {a_len} {b_len} {i}");
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
