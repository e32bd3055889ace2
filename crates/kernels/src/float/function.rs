//! Functions of one float, element by element, and softmax along rows.
//!
//! The exponential is `2^n · e^r` with `n = round(x / ln 2)`, `r = x - n·ln 2` (ln 2 in two parts, Cody and Waite) and the polynomial of Cephes' `expf` for
//! `e^r`. It errs by less than 2 units in the last place, and as all of it is plain arithmetic, a loop over it is vectorized. NaN passes through.

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Bounds, Isa, KernelError};

/// A function of one float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `e^x`
    Exp,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `max(0, min(1, slope·x + offset))`
    HardSigmoid {
        /// The slope.
        slope: f32,
        /// The value at zero.
        offset: f32,
    },
    /// `x · max(0, min(1, x/6 + 1/2))`
    HardSwish,
}

/// The bounds of hard functions.
const UNIT: Bounds = Bounds::new(0.0, 1.0);

/// `output[i] = f(input[i])`.
///
/// # Errors
/// For lengths that differ, and a missing instruction set.
pub fn function(
    isa: Isa,
    f: Function,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", input.len(), output.len())?;
    function_slices(isa, f, input, output)
}

isa_versions!(fn function_slices(f: Function, input: &[f32], output: &mut [f32]) = function_loop);

#[inline(always)]
fn function_loop(f: Function, input: &[f32], output: &mut [f32]) {
    let each = input.iter().zip(output);
    match f {
        Function::Exp => each.for_each(|(x, y)| *y = exp(*x)),
        Function::Sigmoid => each.for_each(|(x, y)| *y = 1.0 / (1.0 + exp(-x))),
        Function::HardSigmoid { slope, offset } => {
            each.for_each(|(x, y)| *y = UNIT.clamp(slope * x + offset));
        }
        Function::HardSwish => {
            each.for_each(|(x, y)| *y = x * UNIT.clamp(x / 6.0 + 0.5));
        }
    }
}

/// `output[i] = e^(x[i] - max x) / Σ e^(x - max x)` for each row of `width` elements.
///
/// # Errors
/// For lengths that differ or are no whole rows, and a missing instruction set.
pub fn softmax(
    isa: Isa,
    width: usize,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", input.len(), output.len())?;
    // A multiple of 0 is only 0.
    if !output.len().is_multiple_of(width) {
        return Err(KernelError::Shape("the rows are not whole"));
    }
    softmax_rows(isa, width, input, output)
}

isa_versions!(fn softmax_rows(width: usize, input: &[f32], output: &mut [f32]) = softmax_loop);

/// The partial sums of a row: as many as the widest vectors have lanes, whatever the instruction set, so that all give the same bits.
const LANES: usize = 16;

/// Elements of the rows that are taken at a time, so that each pass over them finds them in the cache.
const BLOCK: usize = 2048;

#[inline(always)]
fn softmax_loop(width: usize, input: &[f32], output: &mut [f32]) {
    let width = width.max(1);
    let block = (BLOCK / width).max(1) * width;
    for (input, output) in input.chunks(block).zip(output.chunks_mut(block)) {
        let rows = input
            .chunks_exact(width)
            .zip(output.chunks_exact_mut(width));
        for (x, y) in rows {
            let max = x
                .iter()
                .fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
            x.iter().zip(y).for_each(|(x, y)| *y = x - max);
        }
        // Rows may be short: the exponentials of many of them are one loop.
        output.iter_mut().for_each(|y| *y = exp(*y));
        output.chunks_exact_mut(width).for_each(normalize);
    }
}

/// Divides a row by its sum.
#[inline(always)]
fn normalize(row: &mut [f32]) {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut sum = 0.0;
    if !blocks.is_empty() {
        let mut sums = [0.0_f32; LANES];
        for block in blocks {
            sums.iter_mut().zip(block).for_each(|(sum, y)| *sum += y);
        }
        sum = sums.iter().sum();
    }
    rest.iter().for_each(|y| sum += y);
    row.iter_mut().for_each(|y| *y /= sum);
}

/// `e^x` within 2 units in the last place; 0 far below, infinite far above.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// The first bits of ln 2, so that products with small integers are exact, and the rest of it.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    /// Adding it rounds to the nearest integer.
    const ROUNDER: f32 = 12_582_912.0;
    // Beyond these, the result is 0 or infinite. NaN stays NaN.
    let x = Bounds::new(-104.0, 89.0).clamp(x);
    let n = x * std::f32::consts::LOG2_E + ROUNDER - ROUNDER;
    let r = x - n * LN2.0 - n * LN2.1;
    let tail = 1.987_569_1e-4;
    let tail = tail * r + 1.398_199_9e-3;
    let tail = tail * r + 8.333_452e-3;
    let tail = tail * r + 4.166_579_6e-2;
    let tail = tail * r + 1.666_666_5e-1;
    let tail = tail * r + 0.5;
    let y = tail * (r * r) + r + 1.0;
    // Two factors, since 2^n may be below or above the normal numbers while the result does not.
    let n = n as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    y * power(half) * power(n - half)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 2^12th float, in units in the last place against f64.
    #[test]
    fn the_exponential_is_exact_to_two_units() {
        let mut worst = 0.0_f64;
        for bits in (0..=u32::MAX).step_by(1 << 12) {
            let x = f32::from_bits(bits);
            let (found, exact) = (exp(x), f64::from(x).exp());
            if x.is_nan() {
                assert!(found.is_nan());
                continue;
            }
            let rounded = exact as f32;
            if rounded == 0.0 || rounded.is_infinite() {
                // Next to the ends, one unit is allowed, too.
                assert!(found == rounded || (found - rounded).abs() <= 1e-45 || found > 3.4e38);
                continue;
            }
            let unit = f64::from(rounded.next_up() - rounded);
            worst = worst.max((f64::from(found) - exact).abs() / unit);
        }
        assert!(worst < 2.0, "{worst}");
    }

    #[test]
    fn functions_are_their_definitions_on_every_instruction_set() {
        let input: Vec<f32> = (-300..300).map(|i| i as f32 * 0.07).collect();
        let hard = Function::HardSigmoid {
            slope: 0.2,
            offset: 0.5,
        };
        type Definition = fn(f64) -> f64;
        let cases: [(Function, Definition); 4] = [
            (Function::Exp, f64::exp),
            (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (hard, |x| (0.2 * x + 0.5).clamp(0.0, 1.0)),
            (Function::HardSwish, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        ];
        for isa in Isa::supported() {
            for (f, definition) in cases {
                let mut output = vec![7.0; input.len()];
                function(isa, f, &input, &mut output).unwrap();
                for (&x, &y) in input.iter().zip(&output) {
                    let exact = definition(x.into());
                    let error = (f64::from(y) - exact).abs();
                    assert!(error <= 4e-7 * exact.abs() + 3e-7, "{isa} {f:?} {x}: {y}");
                }
            }
            assert!(function(isa, Function::Exp, &input, &mut [0.0; 3]).is_err());
        }
    }

    #[test]
    fn rows_of_softmax_add_up_and_agree_with_f64() {
        for width in [1, 2, 15, 16, 17, 100] {
            let input: Vec<f32> = (0..3 * width)
                .map(|i| (i * 37 % 101) as f32 * 0.3 - 9.0)
                .collect();
            let mut first = None;
            for isa in Isa::supported() {
                let mut output = vec![7.0; input.len()];
                softmax(isa, width, &input, &mut output).unwrap();
                for (x, y) in input.chunks(width).zip(output.chunks(width)) {
                    let powers: Vec<f64> = x.iter().map(|&x| f64::from(x).exp()).collect();
                    let sum: f64 = powers.iter().sum();
                    for (power, &y) in powers.iter().zip(y) {
                        assert!((f64::from(y) - power / sum).abs() <= 4e-6 * power / sum);
                    }
                }
                assert_eq!(*first.get_or_insert(output.clone()), output);
            }
        }
        assert!(softmax(Isa::Scalar, 2, &[0.0; 3], &mut [0.0; 3]).is_err());
        assert!(softmax(Isa::Scalar, 0, &[0.0; 3], &mut [0.0; 3]).is_err());
        softmax(Isa::Scalar, 0, &[], &mut []).unwrap();
    }
}
