//! Reductions of floats along an axis: sums, means, norms, products and extremes.
//!
//! A tensor is `[outer, len, inner]`, and the result `[outer, inner]`. `octofold_quant::fold` defines the order of the elements: 16 partial results where the
//! axis is the last one (`inner` is 1), ascending otherwise. Several rows of an inner part are added at a time, so that the partial result is read and
//! written less often; the order stays.

use std::ops::Range;

use octofold_quant::float::exp;
use octofold_quant::fold::{Fold, LANES};
use octofold_quant::functions;

use super::AxisShape;
use crate::error::check_len;
use crate::shared::check_range;
use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// What is computed of the elements along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// A fold.
    Fold(Fold),
    /// `m + ln Σ e^(x - m)`, `m` the largest element.
    LogSumExp,
}

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finish {
    /// Nothing.
    None,
    /// It is divided by a number.
    Divide(f32),
    /// Its square root.
    Root,
    /// Its natural logarithm.
    Log,
}

/// A reduction along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reduce {
    /// The sizes.
    pub shape: AxisShape,
    /// What is computed.
    pub reduction: Reduction,
    /// What becomes of it.
    pub finish: Finish,
}

/// `output[i] = finish(reduction of line i)`, for a range of the `outer · inner` lines.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn reduce(
    isa: Isa,
    call: &Reduce,
    input: &[f32],
    lines: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", call.shape.elements()?, input.len())?;
    check_range("lines", &lines, call.shape.lines()?)?;
    check_len("the output", lines.len(), output.len())?;
    reduce_lines(isa, call, input, lines.start, output)
}

isa_versions!(
    fn reduce_lines(call: &Reduce, input: &[f32], first: usize, output: &mut [f32]) = reduce_loop
);

#[inline(always)]
fn reduce_loop(call: &Reduce, input: &[f32], first: usize, output: &mut [f32]) {
    match call.reduction {
        Reduction::Fold(Fold::Sum) => fold(call, input, first, output, Fold::Sum),
        Reduction::Fold(Fold::Magnitudes) => fold(call, input, first, output, Fold::Magnitudes),
        Reduction::Fold(Fold::Squares) => fold(call, input, first, output, Fold::Squares),
        Reduction::Fold(Fold::Product) => fold(call, input, first, output, Fold::Product),
        Reduction::Fold(Fold::Max) => fold(call, input, first, output, Fold::Max),
        Reduction::Fold(Fold::Min) => fold(call, input, first, output, Fold::Min),
        Reduction::LogSumExp => log_sum_exp(call, input, first, output),
    }
}

/// The number of results that are computed at a time where `inner` is not 1.
pub(crate) const BLOCK: usize = 1024;

/// Calls `each(lines, output)` for blocks of lines that are neighbours: `lines` begins with the first element of the first of them.
#[inline(always)]
pub(crate) fn for_each_block<'a, T>(
    shape: AxisShape,
    input: &'a [f32],
    first: usize,
    output: &mut [T],
    mut each: impl FnMut(&'a [f32], &mut [T]),
) {
    let (mut line, mut rest) = (first, output);
    while !rest.is_empty() {
        let (outer, offset) = (line / shape.inner, line % shape.inner);
        let width = (shape.inner - offset).min(rest.len()).min(BLOCK);
        let (block, behind) = rest.split_at_mut(width);
        let plane = shape.len * shape.inner;
        // A tensor without elements has no first element.
        each(input.get(outer * plane + offset..).unwrap_or(&[]), block);
        line += width;
        rest = behind;
    }
}

#[inline(always)]
fn fold(call: &Reduce, input: &[f32], first: usize, output: &mut [f32], fold: Fold) {
    let AxisShape { len, inner, .. } = call.shape;
    if inner == 1 {
        let rows = &input[first * len..][..output.len() * len];
        match fold {
            Fold::Max => extremes(rows, len, output, Fold::Max),
            Fold::Min => extremes(rows, len, output, Fold::Min),
            _ => {
                for (index, y) in output.iter_mut().enumerate() {
                    *y = row(fold, &rows[index * len..][..len]);
                }
            }
        }
        finish(call.finish, output);
        return;
    }
    for_each_block(call.shape, input, first, output, |lines, block| {
        columns(fold, lines, (len, inner), block);
        finish(call.finish, block);
    });
}

/// Extremes of rows. Rows may be short, so the search for NaN is one loop over many of them.
#[inline(always)]
fn extremes(rows: &[f32], len: usize, output: &mut [f32], fold: Fold) {
    /// Elements that are searched at a time, so that the extremes find them in the cache.
    const ELEMENTS: usize = 4096;
    let block = (ELEMENTS / len.max(1)).max(1);
    for (index, output) in output.chunks_mut(block).enumerate() {
        let rows = &rows[index * block * len..][..output.len() * len];
        let numbers = !has_nan(rows);
        for (index, y) in output.iter_mut().enumerate() {
            let elements = &rows[index * len..][..len];
            *y = match (numbers, fold) {
                (true, Fold::Max) => largest_number(elements),
                (true, Fold::Min) => smallest_number(elements),
                _ => row(fold, elements),
            };
        }
    }
}

#[inline(always)]
fn has_nan(x: &[f32]) -> bool {
    x.iter().fold(false, |any, x| any | x.is_nan())
}

/// The fold of a row.
#[inline(always)]
pub(crate) fn row(fold: Fold, row: &[f32]) -> f32 {
    match fold {
        Fold::Max | Fold::Min if has_nan(row) => f32::NAN,
        Fold::Max => largest_number(row),
        Fold::Min => smallest_number(row),
        Fold::Product => mapped_row(fold, row, 1.0, |x| x),
        _ => mapped_row(fold, row, 0.0, |x| x),
    }
}

/// The largest number of a row, which may have NaN in it.
#[inline(always)]
pub(crate) fn largest_number(row: &[f32]) -> f32 {
    extreme(row, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// The smallest number of a row without NaN.
#[inline(always)]
fn smallest_number(row: &[f32]) -> f32 {
    extreme(row, f32::INFINITY, |a, b| if b < a { b } else { a })
}

/// The maximum or minimum of a row without NaN: a choice between two numbers is one instruction. The order of the elements does not matter.
#[inline(always)]
fn extreme(row: &[f32], start: f32, choose: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let Some(last) = row.last_chunk::<LANES>() else {
        return row.iter().copied().fold(start, choose) + 0.0;
    };
    // What is left behind the blocks is in the last 16 elements.
    let mut parts = *last;
    for block in row.as_chunks::<LANES>().0 {
        for (part, &x) in parts.iter_mut().zip(block) {
            *part = choose(*part, x);
        }
    }
    join_extremes(&parts, choose) + 0.0
}

/// The extreme of the partial results of a row. It is not inlined, because LLVM would then cut the loop before it into vectors of two elements.
#[inline(never)]
fn join_extremes(parts: &[f32; LANES], choose: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|j| choose(parts[j], parts[j + 8]));
    let four: [f32; 4] = std::array::from_fn(|j| choose(eight[j], eight[j + 4]));
    let two: [f32; 2] = std::array::from_fn(|j| choose(four[j], four[j + 2]));
    choose(two[0], two[1])
}

/// The fold of a function of the elements of a row. `f(pad)` is neutral: it fills the last block.
#[inline(always)]
pub(crate) fn mapped_row(fold: Fold, row: &[f32], pad: f32, f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    if blocks.is_empty() {
        // Each partial result has one element, or is neutral.
        return rest
            .iter()
            .fold(fold.start(), |result, &x| fold.step(result, f(x)));
    }
    let mut parts = [fold.start(); LANES];
    for block in blocks {
        for (part, &x) in parts.iter_mut().zip(block) {
            *part = fold.step(*part, f(x));
        }
    }
    if !rest.is_empty() {
        let mut block = [pad; LANES];
        block[..rest.len()].copy_from_slice(rest);
        for (part, &x) in parts.iter_mut().zip(&block) {
            *part = fold.step(*part, f(x));
        }
    }
    fold.join(parts)
}

/// The fold of each of the neighbouring lines, `len` elements that are `inner` apart.
#[inline(always)]
pub(crate) fn columns(fold: Fold, lines: &[f32], (len, inner): (usize, usize), output: &mut [f32]) {
    const ROWS: usize = 4;
    output.fill(fold.start());
    let width = output.len();
    let row = |index: usize| &lines[index * inner..][..width];
    let whole = len - len % ROWS;
    for index in (0..whole).step_by(ROWS) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| row(index + i));
        for (i, y) in output.iter_mut().enumerate() {
            *y = [a[i], b[i], c[i], d[i]]
                .into_iter()
                .fold(*y, |y, x| fold.step(y, x));
        }
    }
    for index in whole..len {
        for (y, &x) in output.iter_mut().zip(row(index)) {
            *y = fold.step(*y, x);
        }
    }
}

/// The largest element if it is finite, or 0, so that differences from it are no NaN.
#[inline(always)]
fn shift(max: f32) -> f32 {
    if max.is_finite() { max } else { 0.0 }
}

#[inline(always)]
fn log_sum_exp(call: &Reduce, input: &[f32], first: usize, output: &mut [f32]) {
    let AxisShape { len, inner, .. } = call.shape;
    let log = |sum: f32, shift: f32| functions::log(sum.into()) as f32 + shift;
    if inner == 1 {
        let rows = &input[first * len..];
        for (index, y) in output.iter_mut().enumerate() {
            let x = &rows[index * len..][..len];
            let shift = shift(row(Fold::Max, x));
            let sum = mapped_row(Fold::Sum, x, f32::NEG_INFINITY, |x| exp(x - shift));
            *y = log(sum, shift);
        }
    } else {
        for_each_block(call.shape, input, first, output, |lines, block| {
            columns(Fold::Max, lines, (len, inner), block);
            let mut sums = [0.0; BLOCK];
            block.iter_mut().for_each(|y| *y = shift(*y));
            for index in 0..len {
                let row = &lines[index * inner..][..block.len()];
                for ((sum, &x), &shift) in sums.iter_mut().zip(row).zip(&*block) {
                    *sum += exp(x - shift);
                }
            }
            for (y, &sum) in block.iter_mut().zip(&sums) {
                *y = log(sum, *y);
            }
        });
    }
    finish(call.finish, output);
}

#[inline(always)]
fn finish(finish: Finish, output: &mut [f32]) {
    match finish {
        Finish::None => {}
        Finish::Divide(count) => output.iter_mut().for_each(|y| *y /= count),
        Finish::Root => output.iter_mut().for_each(|y| *y = y.sqrt()),
        Finish::Log => (output.iter_mut()).for_each(|y| *y = functions::log((*y).into()) as f32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    const FOLDS: [Fold; 6] = [
        Fold::Sum,
        Fold::Magnitudes,
        Fold::Squares,
        Fold::Product,
        Fold::Max,
        Fold::Min,
    ];

    /// The elements of a line.
    fn line(shape: AxisShape, input: &[f32], number: usize) -> Vec<f32> {
        let start = number / shape.inner * shape.len * shape.inner + number % shape.inner;
        (0..shape.len)
            .map(|i| input[start + i * shape.inner])
            .collect()
    }

    fn definition(call: &Reduce, line: Vec<f32>) -> f32 {
        let Reduction::Fold(fold) = call.reduction else {
            let sum: f64 = line.iter().map(|&x| f64::from(x).exp()).sum();
            return sum.ln() as f32;
        };
        let result = match call.shape.inner {
            1 => fold.row(line.into_iter()),
            _ => fold.ascending(line.into_iter()),
        };
        match call.finish {
            Finish::None => result,
            Finish::Divide(count) => result / count,
            Finish::Root => result.sqrt(),
            Finish::Log => f64::from(result).ln() as f32,
        }
    }

    /// Compares all lines, computed in two calls, with the definition.
    fn check(call: &Reduce, input: &[f32], exact: bool) {
        let lines = call.shape.lines().unwrap();
        let expected: Vec<f32> = (0..lines)
            .map(|number| definition(call, line(call.shape, input, number)))
            .collect();
        let mut first = None;
        for isa in Isa::supported() {
            let mut output = vec![777.0; lines];
            let middle = lines / 3;
            let (a, b) = output.split_at_mut(middle);
            reduce(isa, call, input, 0..middle, a).unwrap();
            reduce(isa, call, input, middle..lines, b).unwrap();
            for (y, x) in output.iter().zip(&expected) {
                let close = (y - x).abs() <= 4e-6 * x.abs().max(1.0);
                let same = y.to_bits() == x.to_bits() || y.is_nan() && x.is_nan();
                assert!(same || !exact && close, "{isa} {call:?}: {y} is not {x}");
            }
            let bits: Vec<u32> = output.iter().map(|y| y.to_bits()).collect();
            assert_eq!(*first.get_or_insert(bits.clone()), bits, "{isa} {call:?}");
        }
    }

    #[test]
    fn every_reduction_is_that_of_the_definition() {
        let mut random = Random::new(17);
        for (outer, len, inner) in [(5, 1, 1), (5, 15, 1), (5, 16, 1), (3, 37, 1), (2, 300, 1)]
            .into_iter()
            .chain([
                (1, 1, 7),
                (2, 3, 16),
                (2, 4, 33),
                (1, 21, 2100),
                (3, 50, 3),
                (3, 0, 2),
                (3, 0, 1),
            ])
        {
            let shape = AxisShape { outer, len, inner };
            let input = random.floats(outer * len * inner);
            for fold in FOLDS {
                for finish in [Finish::None, Finish::Divide(len as f32), Finish::Root] {
                    let reduction = Reduction::Fold(fold);
                    check(
                        &Reduce {
                            shape,
                            reduction,
                            finish,
                        },
                        &input,
                        true,
                    );
                }
            }
            let logs = [
                (Reduction::Fold(Fold::Squares), Finish::Log),
                (Reduction::LogSumExp, Finish::None),
            ];
            for (reduction, finish) in logs {
                check(
                    &Reduce {
                        shape,
                        reduction,
                        finish,
                    },
                    &input,
                    false,
                );
            }
        }
    }

    #[test]
    fn extremes_and_sums_keep_nan_and_infinities() {
        for inner in [1, 2] {
            let shape = AxisShape {
                outer: 1,
                len: 20,
                inner,
            };
            let mut input = vec![1.0; 20 * inner];
            input[7 * inner] = f32::NAN;
            for fold in FOLDS {
                let reduction = Reduction::Fold(fold);
                let call = Reduce {
                    shape,
                    reduction,
                    finish: Finish::None,
                };
                check(&call, &input, true);
            }
            for value in [f32::INFINITY, f32::NEG_INFINITY] {
                input.fill(value);
                let (reduction, finish) = (Reduction::LogSumExp, Finish::None);
                check(
                    &Reduce {
                        shape,
                        reduction,
                        finish,
                    },
                    &input,
                    true,
                );
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let shape = AxisShape {
            outer: 2,
            len: 3,
            inner: 2,
        };
        let (reduction, finish) = (Reduction::Fold(Fold::Sum), Finish::None);
        let call = Reduce {
            shape,
            reduction,
            finish,
        };
        let run = |x: usize, lines: Range<usize>, y: usize| {
            reduce(Isa::Scalar, &call, &vec![0.0; x], lines, &mut vec![0.0; y])
        };
        assert_eq!(run(12, 1..4, 3), Ok(()));
        assert!(run(11, 0..4, 4).is_err());
        assert!(run(12, 0..5, 5).is_err());
        assert!(run(12, 0..4, 3).is_err());
    }
}
