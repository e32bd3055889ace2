//! Softmax and its logarithm along one axis.

use octofold_quant::functions;
use octofold_tensor::Tensor;

use super::real::{real_tensor, reals};
use super::support::normalize_axis;
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
}

attributes! {
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
    if values.is_empty() {
        return real_tensor(x.dtype(), x.shape(), values);
    }
    let (size, inner) = (
        x.shape()[axis],
        x.shape()[axis + 1..].iter().product::<usize>(),
    );
    let mut buffer = vec![0.0; size];
    for block in values.chunks_exact_mut(size * inner) {
        for offset in 0..inner {
            for (slot, value) in buffer.iter_mut().zip(block[offset..].iter().step_by(inner)) {
                *slot = *value;
            }
            row(&mut buffer);
            for (value, slot) in block[offset..].iter_mut().step_by(inner).zip(&buffer) {
                *value = *slot;
            }
        }
    }
    real_tensor(x.dtype(), x.shape(), values)
}

/// The largest number of a row; NaN when there is one.
fn largest(row: &[f64]) -> f64 {
    row.iter().fold(f64::NEG_INFINITY, |max, &x| {
        if x > max || x.is_nan() { x } else { max }
    })
}

impl Operator for Softmax {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let y = map_rows(inputs.required(0)?, self.axis, |row| {
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
        let y = map_rows(inputs.required(0)?, self.axis, |row| {
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
