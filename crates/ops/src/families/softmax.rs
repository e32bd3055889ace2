//! Softmax and its logarithm along one axis.
//!
//! With `m` the largest element, `e = exp(x - m)` and `r = 1 / Σ e`, the results are `e · r`, or `x - m - ln Σ e`. Floats of 32 bits are computed step by step
//! in f32, with sums in the order of `octofold_quant::fold`, as the kernels do it; others in f64.

use octofold_quant::float::exp_to_one;
use octofold_quant::fold::Fold;
use octofold_quant::functions;
use octofold_tensor::{Tensor, TensorData};

use super::real::{real_tensor, reals};
use super::reduce::fold_line;
use super::support::{map_lines, normalize_axis};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `Softmax` (opset 13): `exp(x) / Σ exp(x)` along an axis, computed from `x - max`.
    ///
    /// Input: `x`, float. Output: its shape and type. Before opset 13 the input was flattened to two axes; the importer rewrites that form.
    "" "Softmax" inputs(1..=1)
    pub struct Softmax {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
    }

    /// ONNX `LogSoftmax` (opset 13): the logarithm of [`Softmax`], `x - max - ln Σ exp(x - max)`.
    "" "LogSoftmax" inputs(1..=1)
    pub struct LogSoftmax {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
    }
}

/// Replaces each row along an axis, read in order, by what `row` makes of it in place.
pub(crate) fn map_rows(
    x: &Tensor,
    axis: i64,
    mut row: impl FnMut(&mut [f64]),
) -> Result<Tensor, OpError> {
    let axis = normalize_axis(axis, x.rank())?;
    let mut values = reals(x, 0)?;
    map_lines(&mut values, x.shape(), axis, |line, _| row(line));
    real_tensor(x.dtype(), x.shape(), values)
}

/// As [`map_rows`], of floats of 32 bits; `row` also gets the distance between neighbours in memory.
pub(crate) fn map_float_rows(
    x: &Tensor,
    values: &[f32],
    axis: i64,
    row: impl FnMut(&mut [f32], usize),
) -> Result<Tensor, OpError> {
    let axis = normalize_axis(axis, x.rank())?;
    let mut values = values.to_vec();
    map_lines(&mut values, x.shape(), axis, row);
    Ok(Tensor::new(x.shape().iter().copied(), values)?)
}

/// Subtracts the largest element of a row from all.
fn shift(row: &mut [f32], inner: usize) {
    let max = fold_line(Fold::Max, row.iter().copied(), inner);
    row.iter_mut().for_each(|x| *x -= max);
}

/// The largest number of a row; NaN when there is one.
fn largest(row: &[f64]) -> f64 {
    row.iter().fold(f64::NEG_INFINITY, |max, &x| {
        if x > max || x.is_nan() { x } else { max }
    })
}

impl Operator for Softmax {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        if let TensorData::F32(values) = x.data() {
            let y = map_float_rows(x, values, self.axis, |row, inner| {
                shift(row, inner);
                row.iter_mut().for_each(|x| *x = exp_to_one(*x));
                let factor = 1.0 / fold_line(Fold::Sum, row.iter().copied(), inner);
                row.iter_mut().for_each(|x| *x *= factor);
            })?;
            return Ok(vec![y]);
        }
        let y = map_rows(x, self.axis, |row| {
            let max = largest(row);
            row.iter_mut().for_each(|x| *x = functions::exp(*x - max));
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        })?;
        Ok(vec![y])
    }
}

impl Operator for LogSoftmax {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        if let TensorData::F32(values) = x.data() {
            let y = map_float_rows(x, values, self.axis, |row, inner| {
                shift(row, inner);
                let powers = row.iter().map(|&x| exp_to_one(x));
                let log = functions::log(fold_line(Fold::Sum, powers, inner).into()) as f32;
                row.iter_mut().for_each(|x| *x -= log);
            })?;
            return Ok(vec![y]);
        }
        let y = map_rows(x, self.axis, |row| {
            let max = largest(row);
            let sum: f64 = row.iter().map(|x| functions::exp(x - max)).sum();
            let log = functions::log(sum);
            row.iter_mut().for_each(|x| *x = *x - max - log);
        })?;
        Ok(vec![y])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_along_any_axis_sum_to_one() {
        let x = Tensor::new([2, 3, 2], (0..12).map(|i| (i * i % 7) as f32).collect()).unwrap();
        for axis in -3..3 {
            let y = Softmax { axis }
                .evaluate(Inputs(&[Some(&x)]), 1)
                .unwrap()
                .remove(0);
            let log = LogSoftmax { axis }
                .evaluate(Inputs(&[Some(&x)]), 1)
                .unwrap()
                .remove(0);
            let (y, log) = (y.values::<f32>().unwrap(), log.values::<f32>().unwrap());
            assert!(
                y.iter()
                    .zip(log)
                    .all(|(y, log)| (y.ln() - log).abs() < 1e-5)
            );
            let rows = 12.0 / x.shape()[normalize_axis(axis, 3).unwrap()] as f32;
            assert!((y.iter().sum::<f32>() - rows).abs() < 1e-5);
        }
        for axis in [-4, 3, i64::MIN, i64::MAX] {
            assert!(Softmax { axis }.evaluate(Inputs(&[Some(&x)]), 1).is_err());
        }
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        let x = Tensor::vector(vec![1000.0_f32, 1001.0, f32::NEG_INFINITY]);
        let y = Softmax { axis: 0 }
            .evaluate(Inputs(&[Some(&x)]), 1)
            .unwrap()
            .remove(0);
        let y = y.values::<f32>().unwrap();
        assert!((y[0] - 0.268_941_4).abs() < 1e-6 && y[2] == 0.0);
    }
}
