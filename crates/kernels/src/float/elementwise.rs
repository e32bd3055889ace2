//! Float arithmetic element by element: sums, differences, products, quotients, and clipping.
//!
//! One operand may repeat, as in the integer kernels: a scalar, or one value a channel of channels-last
//! pixels. A fused activation is the bounds.

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
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

/// `output[i] = clamp(a[i % a.len()] op b[i % b.len()])`.
///
/// At least one operand is as long as the output; the other's length divides it. Parts of the output are calls of
/// their own, and start at multiples of the length of a repeated operand.
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
    if a.len() == output.len() {
        check_repeats(b.len(), output.len())?;
        repeat(a, b, output, |a, b, output| {
            binary_slices(isa, op, a, b, bounds, output)
        })
    } else {
        check_len("the second operand", output.len(), b.len())?;
        check_repeats(a.len(), output.len())?;
        repeat(b, a, output, |b, a, output| {
            binary_slices(isa, op, a, b, bounds, output)
        })
    }
}

fn check_repeats(len: usize, output: usize) -> Result<(), KernelError> {
    // A multiple of 0 is only 0, so that no empty operand meets a non-empty output.
    if output.is_multiple_of(len) {
        return Ok(());
    }
    Err(KernelError::Shape(
        "an operand does not repeat to the output",
    ))
}

/// Calls `kernel` on parts of equal lengths; a short repeated operand is first unrolled on the stack.
fn repeat(
    long: &[f32],
    short: &[f32],
    output: &mut [f32],
    mut kernel: impl FnMut(&[f32], &[f32], &mut [f32]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    const TILE: usize = 1024;
    const SHORT: usize = 128;
    if short.len() == long.len() {
        return kernel(long, short, output);
    }
    let mut tile = [0.0; TILE];
    let short = if short.len() <= SHORT {
        let copies = TILE / short.len();
        let tile = &mut tile[..copies * short.len()];
        tile.chunks_exact_mut(short.len())
            .for_each(|part| part.copy_from_slice(short));
        &*tile
    } else {
        short
    };
    for (long, output) in long.chunks(short.len()).zip(output.chunks_mut(short.len())) {
        kernel(long, &short[..long.len()], output)?;
    }
    Ok(())
}

isa_versions!(
    fn binary_slices(op: Binary, a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) =
        binary_loop
);

#[inline(always)]
fn binary_loop(op: Binary, a: &[f32], b: &[f32], bounds: Bounds, output: &mut [f32]) {
    let terms = a.iter().zip(b).zip(output);
    match op {
        Binary::Add => terms.for_each(|((a, b), y)| *y = bounds.clamp(a + b)),
        Binary::Sub => terms.for_each(|((a, b), y)| *y = bounds.clamp(a - b)),
        Binary::Mul => terms.for_each(|((a, b), y)| *y = bounds.clamp(a * b)),
        Binary::Div => terms.for_each(|((a, b), y)| *y = bounds.clamp(a / b)),
    }
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
    fn all_operations_lengths_and_repetitions_agree() {
        let mut random = Random::new(41);
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            let total = len * 5;
            for (a_len, b_len) in [
                (total, total),
                (total, len),
                (total, 1),
                (len, total),
                (1, total),
            ] {
                let (a, b) = (random.floats(a_len), random.floats(b_len));
                for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
                    for bounds in [Bounds::NONE, Bounds::new(0.0, 0.5)] {
                        for isa in Isa::supported() {
                            let mut output = vec![777.0; total];
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
        assert_eq!(call(6, 3, 6), Ok(()));
        assert_eq!(call(0, 0, 0), Ok(()));
        assert!(call(3, 2, 6).is_err());
        assert!(call(0, 6, 6).is_err());
        assert!(call(6, 12, 6).is_err());
        assert!(call(6, 4, 6).is_err());
        assert!(clip(Isa::Scalar, &[0.0], Bounds::new(1.0, 0.0), &mut [0.0]).is_err());
        assert!(clip(Isa::Scalar, &[0.0], Bounds::new(f32::NAN, 0.0), &mut [0.0]).is_err());
        assert!(clip(Isa::Scalar, &[0.0; 2], Bounds::NONE, &mut [0.0]).is_err());
    }
}
