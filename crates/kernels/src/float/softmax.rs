//! Softmax and its logarithm along an axis.
//!
//! With `m` the largest element of a line, `e = exp(x - m)` and `r = 1 / Σ e`, the results are `e · r`, or `x - m - ln Σ e`. The sum has the order of
//! `octofold_quant::fold`.

use octofold_quant::float::exp_to_one;
use octofold_quant::fold::Fold;
use octofold_quant::functions;

use super::AxisShape;
use super::reduce::{BLOCK, columns, largest_number, mapped_row, row};
use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// `output = softmax(input)` along the axis, or its logarithm. Parts of a tensor are calls of their own, with whole planes `[len, inner]`.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn softmax(
    isa: Isa,
    shape: AxisShape,
    logarithm: bool,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", shape.elements()?, input.len())?;
    check_len("the output", input.len(), output.len())?;
    match (input.is_empty(), shape.inner) {
        (true, _) => Ok(()),
        (_, 1) => softmax_rows(isa, shape.len, logarithm, input, output),
        _ => softmax_planes(isa, shape, logarithm, input, output),
    }
}

isa_versions!(
    fn softmax_rows(width: usize, logarithm: bool, input: &[f32], output: &mut [f32]) = rows_loop
);

/// Elements of the rows that are taken at a time, so that each pass over them finds them in the cache.
const ROWS: usize = 2048;

#[inline(always)]
fn rows_loop(width: usize, logarithm: bool, input: &[f32], output: &mut [f32]) {
    let block = (ROWS / width).max(1) * width;
    for (input, output) in input.chunks(block).zip(output.chunks_mut(block)) {
        let rows = input.chunks_exact(width);
        for (x, y) in rows.zip(output.chunks_exact_mut(width)) {
            // A NaN makes the sum and so the whole row NaN.
            let max = largest_number(x);
            x.iter().zip(y).for_each(|(x, y)| *y = x - max);
        }
        if logarithm {
            for y in output.chunks_exact_mut(width) {
                let log =
                    functions::log(mapped_row(Fold::Sum, y, f32::NEG_INFINITY, exp_to_one).into())
                        as f32;
                y.iter_mut().for_each(|y| *y -= log);
            }
            continue;
        }
        // Rows may be short: the exponentials of many of them are one loop.
        output.iter_mut().for_each(|y| *y = exp_to_one(*y));
        for y in output.chunks_exact_mut(width) {
            let factor = 1.0 / row(Fold::Sum, y);
            y.iter_mut().for_each(|y| *y *= factor);
        }
    }
}

isa_versions!(
    fn softmax_planes(shape: AxisShape, logarithm: bool, input: &[f32], output: &mut [f32]) =
        planes_loop
);

#[inline(always)]
fn planes_loop(shape: AxisShape, logarithm: bool, input: &[f32], output: &mut [f32]) {
    let (len, inner) = (shape.len, shape.inner);
    let (mut max, mut sum) = ([0.0; BLOCK], [0.0; BLOCK]);
    let planes = input.chunks_exact(len * inner);
    for (input, output) in planes.zip(output.chunks_exact_mut(len * inner)) {
        for start in (0..inner).step_by(BLOCK) {
            let width = BLOCK.min(inner - start);
            let (max, sum) = (&mut max[..width], &mut sum[..width]);
            columns(Fold::Max, &input[start..], (len, inner), max);
            sum.fill(0.0);
            for (x, y) in input
                .chunks_exact(inner)
                .zip(output.chunks_exact_mut(inner))
            {
                let (x, y) = (&x[start..start + width], &mut y[start..start + width]);
                for i in 0..width {
                    let shifted = x[i] - max[i];
                    let power = exp_to_one(shifted);
                    sum[i] += power;
                    y[i] = if logarithm { shifted } else { power };
                }
            }
            if logarithm {
                sum.iter_mut()
                    .for_each(|it| *it = functions::log((*it).into()) as f32);
            } else {
                sum.iter_mut().for_each(|it| *it = 1.0 / *it);
            }
            for y in output.chunks_exact_mut(inner) {
                for (y, &it) in y[start..start + width].iter_mut().zip(&*sum) {
                    *y = if logarithm { *y - it } else { *y * it };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    /// Softmax in f64.
    fn exact(line: &[f64], logarithm: bool) -> Vec<f64> {
        let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = line.iter().map(|x| (x - max).exp()).sum();
        let of = |x: &f64| match logarithm {
            true => x - max - sum.ln(),
            false => (x - max).exp() / sum,
        };
        line.iter().map(of).collect()
    }

    #[test]
    fn lines_along_any_axis_agree_with_f64() {
        let mut random = Random::new(9);
        for (outer, len, inner) in [(3, 1, 1), (5, 2, 1), (3, 17, 1), (2, 100, 1), (1, 2500, 1)]
            .into_iter()
            .chain([(2, 1, 3), (2, 5, 16), (1, 21, 1100), (3, 40, 2)])
        {
            let shape = AxisShape { outer, len, inner };
            let input: Vec<f32> = (random.floats(outer * len * inner).iter())
                .map(|x| x * 8.0)
                .collect();
            for logarithm in [false, true] {
                let mut first = None;
                for isa in Isa::supported() {
                    let mut output = vec![7.0; input.len()];
                    softmax(isa, shape, logarithm, &input, &mut output).unwrap();
                    for line in 0..outer * inner {
                        let places =
                            (0..len).map(|i| (line / inner * len + i) * inner + line % inner);
                        let x: Vec<f64> = places.clone().map(|i| input[i].into()).collect();
                        for (place, y) in places.zip(exact(&x, logarithm)) {
                            let error = (f64::from(output[place]) - y).abs();
                            let scale = y.abs() + f64::from(u8::from(logarithm));
                            assert!(error <= 2e-6 * scale + 1e-30, "{isa} {shape:?}: {y}");
                        }
                    }
                    assert_eq!(*first.get_or_insert(output.clone()), output, "{isa}");
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let shape = AxisShape {
            outer: 2,
            len: 3,
            inner: 1,
        };
        let call = |x: usize, y: usize| {
            softmax(Isa::Scalar, shape, false, &vec![0.0; x], &mut vec![0.0; y])
        };
        assert_eq!(call(6, 6), Ok(()));
        assert!(call(5, 6).is_err());
        assert!(call(6, 5).is_err());
        let empty = AxisShape { len: 0, ..shape };
        assert_eq!(softmax(Isa::Scalar, empty, true, &[], &mut []), Ok(()));
    }
}
