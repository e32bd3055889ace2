//! Linear and cubic interpolation of floats along one axis or two neighbouring axes.
//!
//! A tensor is `[outer, rows, columns, inner]`. An element of the result is a weighted sum over `columns`, and then over `rows`: `((w₀·x₀) + w₁·x₁) + …` in
//! the order of the taps, each operation rounded. The rows of the input that are resized along `columns` are kept until the rows of the result no longer need
//! them, so that each is resized once for neighbouring rows.

use std::ops::Range;

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::shared::{check_range, product};
use crate::{Isa, KernelError};

/// The number of resized rows that are kept, at most.
const KEPT: usize = 32;

/// The taps of each position of the result along an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Taps {
    input: usize,
    count: usize,
    positions: Box<[u32]>,
    weights: Box<[f32]>,
    /// The largest distance between two positions of an output position, and 1.
    span: usize,
}

impl Taps {
    /// `count` taps for each position of the result, of an axis of size `input`.
    ///
    /// # Errors
    /// When there are no taps, not as many weights, or a position is outside of the axis.
    pub fn new(
        input: usize,
        count: usize,
        positions: &[usize],
        weights: &[f32],
    ) -> Result<Self, KernelError> {
        check_len("the weights", positions.len(), weights.len())?;
        if count == 0 || !positions.len().is_multiple_of(count) {
            return Err(KernelError::Shape("there are no whole taps"));
        }
        let inside = |&position: &usize| u32::try_from(position).ok().filter(|_| position < input);
        let narrow: Option<Box<[u32]>> = positions.iter().map(inside).collect();
        let spans = positions.chunks_exact(count).map(|taps| {
            let ends = (taps.iter().min(), taps.iter().max());
            ends.1.zip(ends.0).map_or(0, |(last, first)| last - first)
        });
        Ok(Self {
            input,
            count,
            positions: narrow.ok_or(KernelError::Shape("a position is outside of the axis"))?,
            weights: weights.into(),
            span: spans.max().unwrap_or(0) + 1,
        })
    }

    /// An axis that stays as it is.
    pub fn unchanged(size: usize) -> Self {
        Self {
            input: size,
            count: 1,
            positions: (0..size as u32).collect(),
            weights: vec![1.0; size].into(),
            span: 1,
        }
    }

    /// The size of the result's axis.
    pub fn output(&self) -> usize {
        self.positions.len() / self.count
    }

    /// The taps of a position of the result.
    #[inline(always)]
    fn at(&self, index: usize) -> (&[u32], &[f32]) {
        let range = index * self.count..(index + 1) * self.count;
        (&self.positions[range.clone()], &self.weights[range])
    }
}

/// A resize along two neighbouring axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// The number of positions before the axes.
    pub outer: usize,
    /// The first of the axes.
    pub rows: Taps,
    /// The second one.
    pub columns: Taps,
    /// The number of positions behind the axes.
    pub inner: usize,
}

impl Resize {
    /// The number of elements of a row of the result.
    pub fn width(&self) -> usize {
        self.columns.output() * self.inner
    }

    /// The number of floats of scratch memory.
    pub fn scratch_len(&self) -> usize {
        self.rows.span * self.width()
    }

    /// Checks that the sizes can be computed, and that the taps are near each other.
    ///
    /// # Errors
    /// Otherwise.
    pub fn check(&self) -> Result<(), KernelError> {
        let sizes = |rows: usize, columns: usize| [self.outer, rows, columns, self.inner];
        product("the input", &sizes(self.rows.input, self.columns.input))?;
        product(
            "the result",
            &sizes(self.rows.output(), self.columns.output()),
        )?;
        product("the scratch memory", &[self.rows.span, self.width()])?;
        match self.rows.span <= KEPT {
            true => Ok(()),
            false => Err(KernelError::Shape("the taps of a row are too far apart")),
        }
    }
}

/// Computes a range of the `outer · rows` rows of the result. `scratch` is any memory of [`Resize::scratch_len`] floats.
///
/// # Errors
/// What [`Resize::check`] refuses, lengths that do not fit, and a missing instruction set.
pub fn resize(
    isa: Isa,
    call: &Resize,
    input: &[f32],
    rows: Range<usize>,
    scratch: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    call.check()?;
    let plane = call.rows.input * call.columns.input * call.inner;
    check_len("the input", call.outer * plane, input.len())?;
    check_range("rows", &rows, call.outer * call.rows.output())?;
    check_len("the output", rows.len() * call.width(), output.len())?;
    if scratch.len() < call.scratch_len() {
        return Err(KernelError::Shape("the scratch memory is too short"));
    }
    if output.is_empty() {
        return Ok(());
    }
    resize_rows(isa, call, input, rows.start, scratch, output)
}

isa_versions!(
    fn resize_rows(
        call: &Resize,
        input: &[f32],
        first: usize,
        scratch: &mut [f32],
        output: &mut [f32],
    ) = resize_loop
);

#[inline(always)]
fn resize_loop(
    call: &Resize,
    input: &[f32],
    first: usize,
    scratch: &mut [f32],
    output: &mut [f32],
) {
    let (width, span) = (call.width(), call.rows.span);
    let line = call.columns.input * call.inner;
    // Which row of the input each kept row is made of.
    let mut kept = [usize::MAX; KEPT];
    for (row, output) in (first..).zip(output.chunks_exact_mut(width)) {
        let (outer, y) = (row / call.rows.output(), row % call.rows.output());
        let (positions, weights) = call.rows.at(y);
        for &position in positions {
            let source = outer * call.rows.input + position as usize;
            let slot = position as usize % span;
            if kept[slot] != source {
                let to = &mut scratch[slot * width..][..width];
                resize_columns(
                    &call.columns,
                    &input[source * line..][..line],
                    call.inner,
                    to,
                );
                kept[slot] = source;
            }
        }
        let kept_row = |position: u32| &scratch[position as usize % span * width..][..width];
        combine(positions, weights, kept_row, output);
    }
}

/// A row of the input resized along the columns.
#[inline(always)]
fn resize_columns(taps: &Taps, input: &[f32], inner: usize, output: &mut [f32]) {
    if inner > 1 {
        for (x, output) in output.chunks_exact_mut(inner).enumerate() {
            let (positions, weights) = taps.at(x);
            let column = |position: u32| &input[position as usize * inner..][..inner];
            combine(positions, weights, column, output);
        }
        return;
    }
    match taps.count {
        1 => single_columns::<1>(taps, input, output),
        2 => single_columns::<2>(taps, input, output),
        4 => single_columns::<4>(taps, input, output),
        _ => {
            for (x, y) in output.iter_mut().enumerate() {
                let (positions, weights) = taps.at(x);
                let term = |(&position, &weight): (&u32, &f32)| weight * input[position as usize];
                let terms = positions.iter().zip(weights).map(term);
                *y = terms.reduce(|sum, term| sum + term).unwrap_or(0.0);
            }
        }
    }
}

/// [`resize_columns`] of single elements, with `N` taps.
#[inline(always)]
fn single_columns<const N: usize>(taps: &Taps, input: &[f32], output: &mut [f32]) {
    let positions = taps.positions.as_chunks::<N>().0;
    let weights = taps.weights.as_chunks::<N>().0;
    for ((y, positions), weights) in output.iter_mut().zip(positions).zip(weights) {
        let mut sum = weights[0] * input[positions[0] as usize];
        for i in 1..N {
            sum += weights[i] * input[positions[i] as usize];
        }
        *y = sum;
    }
}

/// The weighted sum of rows.
#[inline(always)]
fn combine<'a>(
    positions: &[u32],
    weights: &[f32],
    row: impl Fn(u32) -> &'a [f32],
    output: &mut [f32],
) {
    let len = output.len();
    match (positions, weights) {
        (&[a, b], &[wa, wb]) => {
            let (a, b) = (&row(a)[..len], &row(b)[..len]);
            for i in 0..len {
                output[i] = wa * a[i] + wb * b[i];
            }
        }
        (&[a, b, c, d], &[wa, wb, wc, wd]) => {
            let [a, b, c, d] = [a, b, c, d].map(|position| &row(position)[..len]);
            for i in 0..len {
                output[i] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
            }
        }
        _ => {
            for (number, (&position, &weight)) in positions.iter().zip(weights).enumerate() {
                for (y, &x) in output.iter_mut().zip(row(position)) {
                    *y = if number == 0 {
                        weight * x
                    } else {
                        *y + weight * x
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    /// `count` neighbouring positions for each output position, with random weights.
    fn taps(random: &mut Random, input: usize, output: usize, count: usize) -> Taps {
        let start = |y: usize| y * input / output;
        let positions: Vec<usize> = (0..output)
            .flat_map(|y| (0..count).map(move |i| (start(y) + i).min(input - 1)))
            .collect();
        let weights = random.floats(output * count);
        Taps::new(input, count, &positions, &weights).unwrap()
    }

    /// The sums by their definition, element by element.
    fn definition(call: &Resize, input: &[f32]) -> Vec<f32> {
        let (inner, columns) = (call.inner, call.columns.input);
        let sum = |terms: Vec<f32>| terms.into_iter().reduce(|sum, term| sum + term).unwrap();
        let mut output = Vec::new();
        for row in 0..call.outer * call.rows.output() {
            let (outer, y) = (row / call.rows.output(), row % call.rows.output());
            for element in 0..call.width() {
                let (x, channel) = (element / inner, element % inner);
                let (rows, row_weights) = call.rows.at(y);
                let (positions, weights) = call.columns.at(x);
                let across = |row: u32| {
                    let start = (outer * call.rows.input + row as usize) * columns;
                    let pixels = positions.iter().zip(weights);
                    sum(pixels
                        .map(|(&p, w)| w * input[(start + p as usize) * inner + channel])
                        .collect())
                };
                let rows = rows.iter().zip(row_weights);
                output.push(sum(rows.map(|(&row, w)| w * across(row)).collect()));
            }
        }
        output
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        let mut random = Random::new(23);
        for (outer, inner) in [(1, 1), (3, 1), (2, 19)] {
            for (rows, columns) in [
                ((5, 9, 2), (7, 15, 2)),
                ((6, 3, 4), (5, 8, 4)),
                ((9, 4, 7), (8, 3, 7)),
                ((4, 4, 1), (3, 9, 3)),
            ] {
                let call = Resize {
                    outer,
                    rows: taps(&mut random, rows.0, rows.1, rows.2),
                    columns: taps(&mut random, columns.0, columns.1, columns.2),
                    inner,
                };
                let input = random.floats(outer * rows.0 * columns.0 * inner);
                let expected = definition(&call, &input);
                let all = outer * rows.1;
                for isa in Isa::supported() {
                    let mut output = vec![777.0; expected.len()];
                    let mut scratch = vec![777.0; call.scratch_len()];
                    let (a, b) = output.split_at_mut(2 * call.width());
                    resize(isa, &call, &input, 0..2, &mut scratch, a).unwrap();
                    resize(isa, &call, &input, 2..all, &mut scratch, b).unwrap();
                    assert_eq!(output, expected, "{isa} {call:?}");
                }
            }
        }
    }

    #[test]
    fn unchanged_axes_and_wrong_sizes() {
        let call = Resize {
            outer: 1,
            rows: Taps::unchanged(2),
            columns: Taps::unchanged(3),
            inner: 1,
        };
        let input = [1.0, -2.0, 3.0, 4.0, 5.0, -6.0];
        let mut output = [0.0; 6];
        let run = |input: &[f32], rows: Range<usize>, scratch: usize, output: &mut [f32]| {
            resize(
                Isa::Scalar,
                &call,
                input,
                rows,
                &mut vec![0.0; scratch],
                output,
            )
        };
        run(&input, 0..2, 3, &mut output).unwrap();
        assert_eq!(output, input);
        assert!(run(&input[1..], 0..2, 3, &mut output).is_err());
        assert!(run(&input, 0..3, 3, &mut output).is_err());
        assert!(run(&input, 0..2, 2, &mut output).is_err());
        assert!(run(&input, 0..1, 3, &mut output).is_err());
        assert!(Taps::new(3, 1, &[3], &[1.0]).is_err());
        assert!(Taps::new(3, 2, &[1, 2, 0], &[1.0; 3]).is_err());
        assert!(Taps::new(3, 0, &[], &[]).is_err());
        let far = Taps::new(100, 2, &[0, 99], &[1.0; 2]).unwrap();
        let far = Resize { rows: far, ..call };
        assert!(far.check().is_err());
    }
}
