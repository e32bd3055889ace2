//! Softmax, its logarithm and its limit along one axis.
//!
//! With `m` the largest element, `e = exp(x - m)` and `r = 1 / Σ e`, the results are `e · r`, or `x - m - ln Σ e`. Floats of 32 bits are computed step by step
//! in f32, with sums in the order of `octofold_quant::fold`, as the kernels do it; others in f64.

use octofold_quant::float::exp_to_one;
use octofold_quant::fold::Fold;
use octofold_quant::functions;
use octofold_tensor::{Tensor, TensorData};

use super::number::{Number, for_numbers};
use super::real::{real_tensor, reals};
use super::reduce::fold_line;
use super::support::{map_lines, normalize_axis, wrong_type};
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

    /// ONNX `Hardmax` (opset 13): along an axis, 1 at the first of the largest elements and 0 elsewhere. NaN is larger than all numbers.
    ///
    /// Input: `x`, float. Output: its shape and type. Before opset 13 the input was flattened, as that of [`Softmax`].
    "" "Hardmax" inputs(1..=1)
    pub struct Hardmax {
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

impl Operator for Hardmax {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        fn hardmax<T: Number>(values: &[T], shape: &[usize], axis: usize) -> TensorData {
            let mut values = values.to_vec();
            map_lines(&mut values, shape, axis, |line, _| {
                // The last of equal keys from the end is the first one.
                let from_end = (0..line.len()).rev();
                let first = from_end.max_by_key(|&index| line[index].sort_key());
                line.fill(T::ZERO);
                if let Some(one) = first.and_then(|index| line.get_mut(index)) {
                    *one = T::ONE;
                }
            });
            T::wrap(values.into())
        }
        let x = inputs.required(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let data = for_numbers!(float x.data(), values => hardmax(values, x.shape(), axis), else return Err(wrong_type(x, 0, "float")));
        Ok(vec![Tensor::from_data(x.shape().iter().copied(), data)?])
    }
}

#[cfg(test)]
mod tests {
    use octofold_tensor::f16;

    use super::*;

    #[test]
    fn hardmax_marks_the_first_of_the_largest() {
        let hardmax = |x: &Tensor, axis| Hardmax { axis }.evaluate(Inputs(&[Some(x)]), 1);
        let x = Tensor::new([2, 3], vec![1.0_f32, 3.0, 3.0, -0.0, 0.0, f32::NAN]).unwrap();
        let y = hardmax(&x, -1).unwrap().remove(0);
        assert_eq!(y.values::<f32>().unwrap(), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let y = hardmax(&x, 0).unwrap().remove(0);
        assert_eq!(y.values::<f32>().unwrap(), [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let half = [-f16::ONE, f16::NEG_INFINITY, -f16::ONE];
        let y = hardmax(&Tensor::vector(half.to_vec()), 0)
            .unwrap()
            .remove(0);
        assert_eq!(y.values::<f16>().unwrap(), [f16::ONE, f16::ZERO, f16::ZERO]);
        let empty = Tensor::new([2, 0], Vec::<f64>::new()).unwrap();
        assert_eq!(hardmax(&empty, 1).unwrap().remove(0).shape(), [2, 0]);
        assert!(hardmax(&x, 2).is_err() && hardmax(&Tensor::vector(vec![1_i32]), 0).is_err());
    }

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
