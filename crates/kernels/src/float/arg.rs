//! The position of the largest or smallest float along an axis.
//!
//! NaN wins over every number. Of equal elements the first or the last wins, as asked. Lines are read in vectors: along a row, lane `j mod 16` keeps its
//! best element and position, and the lanes are compared at the end; otherwise neighbouring lines are lanes.

use std::ops::Range;

use octofold_quant::fold::LANES;

use super::AxisShape;
use super::reduce::{BLOCK, for_each_block};
use crate::error::check_len;
use crate::shared::check_range;
use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// Which element of a line is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The largest, or the smallest.
    pub largest: bool,
    /// The last of equal elements, or the first.
    pub last: bool,
}

/// `output[i]` is the position in line `i` of the element that is looked for, for a range of the `outer · inner` lines.
///
/// # Errors
/// For lengths that do not fit, an axis without elements or with more than 2^31, and a missing instruction set.
pub fn arg(
    isa: Isa,
    shape: AxisShape,
    which: Arg,
    input: &[f32],
    lines: Range<usize>,
    output: &mut [i64],
) -> Result<(), KernelError> {
    check_len("the input", shape.elements()?, input.len())?;
    check_range("lines", &lines, shape.lines()?)?;
    check_len("the output", lines.len(), output.len())?;
    if shape.len == 0 || i32::try_from(shape.len).is_err() {
        return Err(KernelError::Shape("an axis is empty or too long"));
    }
    match which.largest {
        true => largest(isa, shape, which.last, input, lines.start, output),
        false => smallest(isa, shape, which.last, input, lines.start, output),
    }
}

isa_versions!(
    fn largest(shape: AxisShape, last: bool, input: &[f32], first: usize, output: &mut [i64]) =
        largest_loop
);
isa_versions!(
    fn smallest(shape: AxisShape, last: bool, input: &[f32], first: usize, output: &mut [i64]) =
        smallest_loop
);

#[inline(always)]
fn largest_loop(shape: AxisShape, last: bool, input: &[f32], first: usize, output: &mut [i64]) {
    match last {
        true => lines(shape, input, first, output, |a, b| {
            (a >= b) & !b.is_nan() | a.is_nan()
        }),
        false => lines(shape, input, first, output, |a, b| {
            (a > b) | a.is_nan() & !b.is_nan()
        }),
    }
}

#[inline(always)]
fn smallest_loop(shape: AxisShape, last: bool, input: &[f32], first: usize, output: &mut [i64]) {
    match last {
        true => lines(shape, input, first, output, |a, b| {
            (a <= b) & !b.is_nan() | a.is_nan()
        }),
        false => lines(shape, input, first, output, |a, b| {
            (a < b) | a.is_nan() & !b.is_nan()
        }),
    }
}

/// `better(a, b)`: whether `a`, at a later position, is chosen instead of `b`.
#[inline(always)]
fn lines(
    shape: AxisShape,
    input: &[f32],
    first: usize,
    output: &mut [i64],
    better: impl Fn(f32, f32) -> bool + Copy,
) {
    let AxisShape { len, inner, .. } = shape;
    if inner == 1 {
        let rows = input[first * len..].chunks_exact(len);
        output
            .iter_mut()
            .zip(rows)
            .for_each(|(y, x)| *y = row(x, better));
        return;
    }
    let (mut best, mut places) = ([0.0; BLOCK], [0_i32; BLOCK]);
    for_each_block(shape, input, first, output, |lines, block| {
        let width = block.len();
        let (best, places) = (&mut best[..width], &mut places[..width]);
        best.copy_from_slice(&lines[..width]);
        places.fill(0);
        for index in 1..len {
            let x = &lines[index * inner..][..width];
            for i in 0..width {
                let chosen = better(x[i], best[i]);
                best[i] = if chosen { x[i] } else { best[i] };
                places[i] = if chosen { index as i32 } else { places[i] };
            }
        }
        block
            .iter_mut()
            .zip(&*places)
            .for_each(|(y, &place)| *y = place.into());
    });
}

/// The position in a row.
#[inline(always)]
fn row(x: &[f32], better: impl Fn(f32, f32) -> bool) -> i64 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let rest_start = x.len() - rest.len();
    let (mut best, mut place) = (x[0], 0);
    if let [first, blocks @ ..] = blocks {
        let (mut values, mut places) = (*first, std::array::from_fn::<i32, LANES, _>(|j| j as i32));
        for (block, index) in blocks.iter().zip(1..) {
            for j in 0..LANES {
                let chosen = better(block[j], values[j]);
                values[j] = if chosen { block[j] } else { values[j] };
                places[j] = if chosen {
                    index * LANES as i32 + j as i32
                } else {
                    places[j]
                };
            }
        }
        (best, place) = (values[0], places[0]);
        for (&value, &at) in values.iter().zip(&places).skip(1) {
            // Lanes have their positions in any order; `better` compares an earlier with a later one.
            let later_wins = match at > place {
                true => better(value, best),
                false => !better(best, value),
            };
            (best, place) = if later_wins {
                (value, at)
            } else {
                (best, place)
            };
        }
    }
    for (&value, at) in rest.iter().zip(rest_start as i32..) {
        if better(value, best) {
            (best, place) = (value, at);
        }
    }
    place.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    /// By the definition, one element after the other.
    fn definition(line: &[f32], which: Arg) -> i64 {
        let mut place = 0;
        for (i, &x) in line.iter().enumerate().skip(1) {
            let best = line[place];
            let strictly = if which.largest { x > best } else { x < best };
            let equal = x == best || (x.is_nan() && best.is_nan());
            if strictly || (x.is_nan() && !best.is_nan()) || (which.last && equal) {
                place = i;
            }
        }
        place as i64
    }

    #[test]
    fn positions_are_those_of_the_definition() {
        let mut random = Random::new(3);
        for (outer, len, inner) in [(4, 1, 1), (4, 7, 1), (4, 16, 1), (4, 33, 1), (4, 200, 1)]
            .into_iter()
            .chain([(2, 1, 5), (2, 9, 20), (1, 12, 1500), (2, 40, 3)])
        {
            let shape = AxisShape { outer, len, inner };
            // Few values, so that many are equal, and some NaN.
            let input: Vec<f32> = (random.bytes(outer * len * inner).iter())
                .map(|byte| match byte {
                    250.. => f32::NAN,
                    byte => f32::from(byte % 5),
                })
                .collect();
            for (largest, last) in [(true, false), (true, true), (false, false), (false, true)] {
                let which = Arg { largest, last };
                let expected: Vec<i64> = (0..outer * inner)
                    .map(|line| {
                        let start = line / inner * len * inner + line % inner;
                        let line: Vec<f32> = (0..len).map(|i| input[start + i * inner]).collect();
                        definition(&line, which)
                    })
                    .collect();
                for isa in Isa::supported() {
                    let mut output = vec![-1; expected.len()];
                    let (a, b) = output.split_at_mut(expected.len() / 2);
                    let middle = a.len();
                    arg(isa, shape, which, &input, 0..middle, a).unwrap();
                    arg(isa, shape, which, &input, middle..expected.len(), b).unwrap();
                    assert_eq!(output, expected, "{isa} {shape:?} {which:?}");
                }
            }
        }
        let empty = AxisShape {
            outer: 1,
            len: 0,
            inner: 1,
        };
        let which = Arg {
            largest: true,
            last: false,
        };
        assert!(arg(Isa::Scalar, empty, which, &[], 0..1, &mut [0]).is_err());
    }
}
