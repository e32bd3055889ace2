//! Normalizations.
//!
//! Layer and instance norms and `LpNormalization` of floats of 32 bits are computed step by step in f32, with sums in the order of `octofold_quant::fold`, as the
//! kernels do it. All others are computed in f64 and rounded once.

use octofold_quant::fold::Fold;
use octofold_quant::functions;
use octofold_tensor::{DType, Tensor, TensorData};

use super::real::{real_tensor, reals};
use super::reduce::fold_line;
use super::softmax::{map_float_rows, map_rows};
use super::support::{broadcast_shapes, broadcast_strides, copy_strided, normalize_axis};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `BatchNormalization` (opset 15) in its inference form: `(x - mean)/sqrt(var + epsilon)·scale + bias` for each channel.
    ///
    /// Inputs: `x` [N, C, …] (or `[N]`, one channel), `scale`, `bias`, `mean`, `var` `[C]`. Output: the shape of `x`. With `training_mode` it is unsupported here:
    /// training has its own operators.
    "" "BatchNormalization" inputs(5..=5)
    pub struct BatchNormalization {
        /// Added to the variance.
        epsilon: f32 = 1e-5,
        /// The weight of the running statistics; of no effect in inference.
        momentum: f32 = 0.9,
        /// Whether statistics come from the batch; refused.
        training_mode: bool = false,
    }

    /// ONNX `InstanceNormalization` (opset 6, 22): each channel of each sample normalized by its own mean and variance.
    ///
    /// Inputs: `x` [N, C, D1, …], `scale` `[C]`, `bias` `[C]`. Output: the shape of `x`.
    "" "InstanceNormalization" inputs(3..=3)
    pub struct InstanceNormalization {
        /// Added to the variance.
        epsilon: f32 = 1e-5,
    }

    /// ONNX `LayerNormalization` (opset 17): normalization over the axes from `axis` on.
    ///
    /// Inputs: `x`, `scale`, optional `bias`, both broadcast to the normalized axes. Outputs: `y` (the shape of `x`), and optionally the mean and the inverse standard
    /// deviation (f32; the shape of `x` with the normalized axes set to 1).
    "" "LayerNormalization" inputs(2..=3) outputs(1..=3)
    pub struct LayerNormalization {
        /// The first normalized axis; negative counts from the end.
        axis: i64 = -1,
        /// Added to the variance.
        epsilon: f32 = 1e-5,
        /// The type of the computation, as a number of `TensorProto.DataType`; it is f64 here whatever the value, and the statistics are f32.
        stash_type: i64 = 1,
    }

    /// ONNX `LpNormalization` (opset 1, 22): `x` divided by its norm along an axis; a zero norm gives zeros.
    ///
    /// Input: `x`. Output: the shape of `x`.
    "" "LpNormalization" inputs(1..=1)
    pub struct LpNormalization {
        /// The axis; negative counts from the end.
        axis: i64 = -1,
        /// 1 or 2: which norm.
        p: i64 = 2,
    }

    /// ONNX `LRN` (opset 13): local response normalization over neighbouring channels,
    /// `x / (bias + alpha/size·Σ x²)^beta`, the sum over channels `c - floor((size-1)/2) ..= c + ceil((size-1)/2)`.
    ///
    /// Input: `x` [N, C, …]. Output: the shape of `x`.
    "" "LRN" inputs(1..=1)
    pub struct Lrn {
        /// The factor of the sum of squares.
        alpha: f32 = 1e-4,
        /// The exponent.
        beta: f32 = 0.75,
        /// The constant of the denominator.
        bias: f32 = 1.0,
        /// The number of channels summed.
        size: i64,
    }
}

/// The numbers of input `index`, one for each of `count` channels.
fn channel_values(inputs: Inputs<'_>, index: usize, count: usize) -> Result<Vec<f64>, OpError> {
    let tensor = inputs.required(index)?;
    if tensor.shape() != [count] {
        let shape = tensor.shape();
        return Err(OpError::invalid(format!(
            "input {index} has the shape {shape:?}, not [{count}]"
        )));
    }
    reals(tensor, index)
}

/// Mean and variance (of the population) of some numbers.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (
        mean,
        values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count,
    )
}

/// The mean of a row of floats, and `1 / √(variance + ε)`.
fn float_moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = Fold::Sum.row(row.iter().copied()) / count;
    let variance = Fold::Squares.row(row.iter().map(|x| x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

impl Operator for BatchNormalization {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        if self.training_mode {
            return Err(OpError::Unsupported(
                "BatchNormalization in training mode".to_owned(),
            ));
        }
        let x = inputs.required(0)?;
        let channels = match x.shape() {
            [] => return Err(OpError::invalid("BatchNormalization of a scalar")),
            [_] => 1,
            [_, channels, ..] => *channels,
        };
        let of_channel = |index| channel_values(inputs, index, channels);
        let (scale, bias, mean, var) = (
            of_channel(1)?,
            of_channel(2)?,
            of_channel(3)?,
            of_channel(4)?,
        );
        let mut values = reals(x, 0)?;
        if !values.is_empty() {
            let size = x.shape().iter().skip(2).product();
            for (plane, channel) in values.chunks_exact_mut(size).zip((0..channels).cycle()) {
                let factor = scale[channel] / (var[channel] + f64::from(self.epsilon)).sqrt();
                plane
                    .iter_mut()
                    .for_each(|x| *x = (*x - mean[channel]) * factor + bias[channel]);
            }
        }
        Ok(vec![real_tensor(x.dtype(), x.shape(), values)?])
    }
}

impl Operator for InstanceNormalization {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let &[_, channels, ref spatial @ ..] = x.shape() else {
            return Err(OpError::invalid(format!(
                "InstanceNormalization of an input of rank {}",
                x.rank()
            )));
        };
        let scale = channel_values(inputs, 1, channels)?;
        let bias = channel_values(inputs, 2, channels)?;
        if let TensorData::F32(values) = x.data() {
            let mut values = values.to_vec();
            let rows = values.chunks_mut(spatial.iter().product::<usize>().max(1));
            for (row, channel) in rows.zip((0..channels).cycle()) {
                let (mean, factor) = float_moments(row, self.epsilon);
                let factor = factor * scale[channel] as f32;
                let bias = bias[channel] as f32;
                row.iter_mut()
                    .for_each(|x| *x = (*x - mean) * factor + bias);
            }
            return Ok(vec![Tensor::new(x.shape().iter().copied(), values)?]);
        }
        let mut values = reals(x, 0)?;
        if !values.is_empty() {
            let size = spatial.iter().product();
            for (plane, channel) in values.chunks_exact_mut(size).zip((0..channels).cycle()) {
                let (mean, var) = moments(plane);
                let factor = scale[channel] / (var + f64::from(self.epsilon)).sqrt();
                plane
                    .iter_mut()
                    .for_each(|x| *x = (*x - mean) * factor + bias[channel]);
            }
        }
        Ok(vec![real_tensor(x.dtype(), x.shape(), values)?])
    }
}

impl Operator for LayerNormalization {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let (kept, normalized) = x.shape().split_at(axis);
        let spread = |index: usize, tensor: &Tensor| {
            // The parameters may have leading axes of size 1, as long as they repeat for every row.
            let shape = tensor.shape();
            let extra = shape.len().saturating_sub(normalized.len());
            let own = &shape[extra..];
            let fits = shape[..extra].iter().all(|&size| size == 1)
                && broadcast_shapes(&[own, normalized])
                    .is_ok_and(|out| out.as_slice() == normalized);
            if !fits {
                return Err(OpError::invalid(format!(
                    "input {index} of shape {shape:?} does not broadcast to the normalized axes {normalized:?}"
                )));
            }
            let values = reals(tensor, index)?;
            if values.is_empty() {
                return Ok(values);
            }
            Ok(copy_strided(
                &values,
                0,
                normalized,
                &broadcast_strides(own, normalized),
            ))
        };
        let mut values = reals(x, 0)?;
        let scale = spread(1, inputs.required(1)?)?;
        let bias = inputs.optional(2).map(|bias| spread(2, bias)).transpose()?;
        if let (TensorData::F32(values), 1) = (x.data(), outputs) {
            let mut values = values.to_vec();
            for row in values.chunks_mut(normalized.iter().product::<usize>().max(1)) {
                let (mean, factor) = float_moments(row, self.epsilon);
                for (i, x) in row.iter_mut().enumerate() {
                    let y = (*x - mean) * factor * scale[i] as f32;
                    *x = bias.as_ref().map_or(y, |bias| y + bias[i] as f32);
                }
            }
            return Ok(vec![Tensor::new(x.shape().iter().copied(), values)?]);
        }
        let (mut means, mut factors) = (Vec::new(), Vec::new());
        if !values.is_empty() {
            for row in values.chunks_exact_mut(normalized.iter().product()) {
                let (mean, var) = moments(row);
                let factor = 1.0 / (var + f64::from(self.epsilon)).sqrt();
                for (i, value) in row.iter_mut().enumerate() {
                    *value =
                        (*value - mean) * factor * scale[i] + bias.as_ref().map_or(0.0, |b| b[i]);
                }
                means.push(mean);
                factors.push(factor);
            }
        }
        let mut out = vec![real_tensor(x.dtype(), x.shape(), values)?];
        if outputs > 1 {
            let shape: Vec<_> = kept
                .iter()
                .copied()
                .chain(normalized.iter().map(|_| 1))
                .collect();
            if x.is_empty() {
                // Rows of nothing have no mean.
                let rows = super::support::checked_elements(&shape)?;
                (means, factors) = (vec![f64::NAN; rows], vec![f64::NAN; rows]);
            }
            out.push(real_tensor(DType::F32, &shape, means)?);
            out.push(real_tensor(DType::F32, &shape, factors)?);
            out.truncate(outputs);
        }
        Ok(out)
    }
}

impl Operator for LpNormalization {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let norm: fn(&[f64]) -> f64 = match self.p {
            1 => |row| row.iter().map(|x| x.abs()).sum(),
            2 => |row| row.iter().map(|x| x * x).sum::<f64>().sqrt(),
            p => return Err(OpError::attribute("p", format!("{p} is neither 1 nor 2"))),
        };
        let x = inputs.required(0)?;
        if let TensorData::F32(values) = x.data() {
            let y = map_float_rows(x, values, self.axis, |row, inner| {
                let elements = row.iter().copied();
                let norm = match self.p {
                    1 => fold_line(Fold::Magnitudes, elements, inner),
                    _ => fold_line(Fold::Squares, elements, inner).sqrt(),
                };
                (row.iter_mut()).for_each(|x| *x = if norm == 0.0 { 0.0 } else { *x / norm });
            })?;
            return Ok(vec![y]);
        }
        let y = map_rows(x, self.axis, |row| {
            let norm = norm(row);
            row.iter_mut()
                .for_each(|x| *x = if norm == 0.0 { 0.0 } else { *x / norm });
        })?;
        Ok(vec![y])
    }
}

impl Lrn {
    /// The number of channels summed, checked.
    ///
    /// # Errors
    /// When it is not positive.
    pub fn channels(&self) -> Result<usize, OpError> {
        let size = usize::try_from(self.size).ok().filter(|&size| size > 0);
        size.ok_or_else(|| OpError::attribute("size", format!("{} is not positive", self.size)))
    }
}

impl Operator for Lrn {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let size = self.channels()?;
        let &[_, channels, ..] = x.shape() else {
            return Err(OpError::invalid(format!(
                "LRN of an input of rank {}",
                x.rank()
            )));
        };
        let (before, after) = ((size - 1) / 2, size / 2);
        let factor = f64::from(self.alpha) / size as f64;
        let y = map_rows(x, 1, |row| {
            let squares: Vec<_> = row.iter().map(|x| x * x).collect();
            for (c, x) in row.iter_mut().enumerate() {
                let last = channels.min(c.saturating_add(after).saturating_add(1));
                let sum: f64 = squares[c.saturating_sub(before)..last].iter().sum();
                *x /= functions::pow(f64::from(self.bias) + factor * sum, self.beta.into());
            }
        })?;
        Ok(vec![y])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        op: &impl Operator,
        inputs: &[Option<&Tensor>],
        outputs: usize,
    ) -> Result<Vec<Tensor>, OpError> {
        op.evaluate(Inputs(inputs), outputs)
    }

    fn floats(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
    }

    fn assert_close(tensor: &Tensor, expected: &[f32]) {
        let values = tensor.values::<f32>().unwrap();
        assert_eq!(values.len(), expected.len());
        for (a, b) in values.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{values:?} is not {expected:?}");
        }
    }

    #[test]
    fn batch_normalization_uses_the_running_statistics() {
        let op = BatchNormalization {
            epsilon: 0.0,
            momentum: 0.9,
            training_mode: false,
        };
        let x = floats(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let (two, half) = (floats(&[2], &[2.0, 2.0]), floats(&[2], &[0.5, -0.5]));
        let (mean, var) = (floats(&[2], &[1.0, 3.0]), floats(&[2], &[4.0, 0.25]));
        let inputs = [Some(&x), Some(&two), Some(&half), Some(&mean), Some(&var)];
        assert_close(&run(&op, &inputs, 1).unwrap()[0], &[0.5, 1.5, -0.5, 3.5]);
        let wrong = [Some(&x), Some(&two), Some(&half), Some(&mean), Some(&x)];
        assert!(run(&op, &wrong, 1).is_err());
        assert!(
            run(
                &BatchNormalization {
                    training_mode: true,
                    ..op
                },
                &inputs,
                1
            )
            .is_err()
        );
    }

    #[test]
    fn instance_and_layer_normalization_give_zero_mean_and_unit_variance() {
        let x = floats(&[1, 2, 2], &[1.0, 3.0, -2.0, 6.0]);
        let (scale, bias) = (floats(&[2], &[1.0, 2.0]), floats(&[2], &[0.0, 1.0]));
        let op = InstanceNormalization { epsilon: 0.0 };
        let y = run(&op, &[Some(&x), Some(&scale), Some(&bias)], 1).unwrap();
        assert_close(&y[0], &[-1.0, 1.0, -1.0, 3.0]);
        let op = LayerNormalization {
            axis: -1,
            epsilon: 0.0,
            stash_type: 1,
        };
        let y = run(&op, &[Some(&x), Some(&scale), Some(&bias)], 3).unwrap();
        assert_close(&y[0], &[-1.0, 3.0, -1.0, 3.0]);
        assert_close(&y[1], &[2.0, 2.0]);
        assert_close(&y[2], &[1.0, 0.25]);
        assert_eq!(y[1].shape(), [1, 2, 1]);
        assert!(run(&op, &[Some(&x), Some(&floats(&[3], &[0.0; 3]))], 1).is_err());
        let empty = floats(&[3, 0], &[]);
        assert!(run(&op, &[Some(&empty), Some(&floats(&[0], &[]))], 3).is_ok());
    }

    #[test]
    fn lp_normalization_of_zeros_is_zero() {
        let x = floats(&[2, 2], &[3.0, -4.0, 0.0, 0.0]);
        let y = run(&LpNormalization { axis: 1, p: 2 }, &[Some(&x)], 1).unwrap();
        assert_close(&y[0], &[0.6, -0.8, 0.0, 0.0]);
        let y = run(&LpNormalization { axis: 0, p: 1 }, &[Some(&x)], 1).unwrap();
        assert_close(&y[0], &[1.0, -1.0, 0.0, 0.0]);
        assert!(run(&LpNormalization { axis: 0, p: 3 }, &[Some(&x)], 1).is_err());
    }

    #[test]
    fn lrn_sums_neighbouring_channels() {
        let x = floats(&[1, 3, 1], &[1.0, 2.0, 3.0]);
        let op = Lrn {
            alpha: 2.0,
            beta: 1.0,
            bias: 1.0,
            size: 2,
        };
        // Of two channels: itself and the next one.
        let expected = [1.0 / (1.0 + 5.0), 2.0 / (1.0 + 13.0), 3.0 / (1.0 + 9.0)];
        assert_close(&run(&op, &[Some(&x)], 1).unwrap()[0], &expected);
        assert!(
            run(
                &Lrn {
                    size: 0,
                    ..op.clone()
                },
                &[Some(&x)],
                1
            )
            .is_err()
        );
        assert!(
            run(
                &Lrn {
                    size: i64::MAX,
                    ..op
                },
                &[Some(&x)],
                1
            )
            .is_ok()
        );
    }
}
