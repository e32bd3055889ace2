//! Quantizes weights to 8 bits and biases to 32 bits, so that no accumulator can overflow.
//!
//! The scale of channel `c` comes from its largest magnitude ([`choose_qparams`]). The layer that uses the weights
//! ([`Accumulation`]) then changes two kinds of scales:
//!
//! - An all-zero channel takes `s_w = s_y / (256·s_x)`: its bias has the scale `s_x·s_w`, which must be fine
//!   compared with a step of the output. Neither 1 nor the smallest scale would be.
//! - A scale is widened until `(qmax_x - qmin_x)·Σ|q_w - z_w| + |b| < 2^31`, and the widening is reported. ONNX Runtime
//!   does the same for biases (its pull request 22020).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::affine::quantize;
use crate::choose::choose_qparams;
use crate::{Granularity, QParams, QParamsError, QuantParams, QuantRange, QuantSpec, QuantType};

/// What is known of the layer that multiplies the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accumulation<'a> {
    /// The axis of the weights that becomes the output's channels.
    pub output_axis: usize,
    /// The scale of the layer's input.
    pub input_scale: f32,
    /// The integers of the layer's input.
    pub input_range: QuantRange,
    /// The scale of the layer's output, unless that is float.
    pub output_scale: Option<f32>,
    /// The float bias; a multiple of the output axis in length (groups of a transposed convolution repeat it).
    pub bias: Option<&'a [f32]>,
}

/// A scale that had to grow so that the accumulator cannot overflow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Widened {
    /// The output channel, or the one that decided for a whole tensor.
    pub channel: usize,
    /// The scale that the weights alone would have had.
    pub from: f32,
    /// The scale used.
    pub to: f32,
}

/// Quantized weights.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeights {
    /// The integers, in the order of the weights.
    pub values: Arc<Vec<i8>>,
    /// Their qparams, with the granularity of the specification.
    pub params: QuantParams,
    /// The scales that grew, in the order of the channels.
    pub widened: Vec<Widened>,
}

/// Why weights or a bias cannot be quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// A weight or bias that is NaN or infinite.
    #[error("element {index} of the {what} is {value}")]
    NotFinite {
        /// `weights` or `bias`.
        what: &'static str,
        /// Its index.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A shape whose product is not the number of weights.
    #[error("{len} weights cannot have the shape {shape:?}")]
    Shape {
        /// The number of weights.
        len: usize,
        /// The shape given.
        shape: Vec<usize>,
    },
    /// An axis that the weights do not have, or that is not the layer's output axis.
    #[error("axis {axis} of weights of rank {rank} cannot have one scale an index")]
    Axis {
        /// The axis.
        axis: usize,
        /// The number of dimensions.
        rank: usize,
    },
    /// A type or range of integers that is not within `int8`.
    #[error("weights become 8-bit signed integers, not {0:?}")]
    Range(QuantRange),
    /// A bias whose length is no multiple of the channels.
    #[error("{bias} biases for {channels} channels")]
    BiasLength {
        /// The number of biases.
        bias: usize,
        /// The number of output channels.
        channels: usize,
    },
    /// A scale that is not a positive normal number, given or resulting.
    #[error(transparent)]
    Params(#[from] QParamsError),
    /// A bias so large that no finite scale brings it into 32 bits.
    #[error("no scale keeps the accumulator of channel {channel} within 32 bits")]
    Overflow {
        /// The output channel.
        channel: usize,
    },
}

/// Accumulators stay below this.
const ACCUMULATOR_LIMIT: f64 = 2_147_483_648.0;

/// A weight tensor as `outer x channels x inner`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    channels: usize,
    inner: usize,
}

impl Layout {
    fn new(shape: &[usize], axis: usize) -> Result<Self, WeightError> {
        let rank = shape.len();
        let channels = *shape.get(axis).ok_or(WeightError::Axis { axis, rank })?;
        let inner = shape[axis + 1..].iter().product();
        Ok(Self { channels, inner })
    }

    /// Calls `each` with the channel and the elements of each run that is contiguous in memory, in the order of memory.
    fn for_each_run<T>(self, elements: &[T], mut each: impl FnMut(usize, &[T])) {
        let row = (self.channels * self.inner).max(1);
        for row in elements.chunks(row) {
            for (channel, run) in row.chunks(self.inner.max(1)).enumerate() {
                each(channel, run);
            }
        }
    }

    /// The indices of one channel's elements.
    fn indices(self, channel: usize, len: usize) -> impl Iterator<Item = usize> {
        let row = self.channels * self.inner;
        let starts = (channel * self.inner..len).step_by(row.max(1));
        starts.flat_map(move |start| start..start + self.inner)
    }
}

/// Quantizes weights of the given shape (row-major) by the type, range, scheme, granularity and eps of `spec`;
/// the range of the values is their min-max, whatever `spec.observer` says. `layer` adds what the
/// accumulator needs.
///
/// # Errors
/// When a weight or bias is not finite, when shape, axis or bias do not fit, or when no scale keeps the accumulator
/// within 32 bits.
pub fn quantize_weights(
    weights: &[f32],
    shape: &[usize],
    spec: &QuantSpec,
    layer: Option<&Accumulation<'_>>,
) -> Result<QuantizedWeights, WeightError> {
    WeightSearch::new(weights, shape, spec)?.for_layer(layer)
}

/// Weights as they are quantized alone: what all layers with the same weights share.
#[derive(Clone, Debug)]
pub struct WeightSearch<'a> {
    weights: &'a [f32],
    shape: &'a [usize],
    spec: &'a QuantSpec,
    layout: Layout,
    /// For each channel.
    params: Vec<QParams>,
    /// The channels without another weight than zero.
    zeros: Vec<bool>,
    values: Arc<Vec<i8>>,
}

impl<'a> WeightSearch<'a> {
    /// Quantizes weights as [`quantize_weights`] without a layer.
    ///
    /// # Errors
    /// When a weight is not finite, or when shape, type or axis do not fit.
    pub fn new(
        weights: &'a [f32],
        shape: &'a [usize],
        spec: &'a QuantSpec,
    ) -> Result<Self, WeightError> {
        let range = spec.range();
        if !matches!(range.dtype, QuantType::Int8 | QuantType::Int4)
            || range.min < range.dtype.min()
            || range.max > range.dtype.max()
            || range.min >= range.max
        {
            return Err(WeightError::Range(range));
        }
        let product = shape
            .iter()
            .try_fold(1_usize, |product, &n| product.checked_mul(n));
        if product != Some(weights.len()) {
            let shape = shape.to_vec();
            return Err(WeightError::Shape {
                len: weights.len(),
                shape,
            });
        }
        require_finite(weights, "weights")?;
        let layout = match spec.granularity {
            Granularity::PerTensor => Layout {
                channels: 1,
                inner: weights.len(),
            },
            Granularity::PerChannel { axis } => Layout::new(shape, axis)?,
        };
        let (params, zeros) = channel_params(weights, layout, spec);
        let mut values = Vec::with_capacity(weights.len());
        layout.for_each_run(weights, |channel, run| {
            let params = params[channel];
            // The range was checked to be within i8.
            values.extend((run.iter()).map(|&w| quantize(w, params, range.min, range.max) as i8));
        });
        Ok(Self {
            weights,
            shape,
            spec,
            layout,
            params,
            zeros,
            values: Arc::new(values),
        })
    }

    /// The weights for a layer that multiplies them. They share their integers with other layers, unless a scale has to grow.
    ///
    /// # Errors
    /// When the bias or the output axis do not fit, a bias is not finite, or no scale keeps the accumulator within 32 bits.
    pub fn for_layer(
        &self,
        layer: Option<&Accumulation<'_>>,
    ) -> Result<QuantizedWeights, WeightError> {
        let mut params = self.params.clone();
        let mut values = Arc::clone(&self.values);
        let mut widened = Vec::new();
        if let Some(layer) = layer {
            let output = Layout::new(self.shape, layer.output_axis)?;
            if let Granularity::PerChannel { axis } = self.spec.granularity
                && axis != layer.output_axis
            {
                let rank = self.shape.len();
                return Err(WeightError::Axis { axis, rank });
            }
            check_layer(layer, output.channels)?;
            // Zeros are the same integers with any scale.
            self.fill_zero_channels(layer, &mut params);
            let before = params.clone();
            widened = self.widen(output, layer, &mut params)?;
            let range = self.spec.range();
            for (channel, &params) in params.iter().enumerate() {
                if params == before[channel] {
                    continue;
                }
                let values = Arc::make_mut(&mut values);
                for index in self.layout.indices(channel, self.weights.len()) {
                    let weight = self.weights[index];
                    values[index] = quantize(weight, params, range.min, range.max) as i8;
                }
            }
        }
        let params = match self.spec.granularity {
            Granularity::PerTensor => {
                QuantParams::PerTensor(params.first().copied().unwrap_or(QParams::IDENTITY))
            }
            Granularity::PerChannel { axis } => QuantParams::PerChannel {
                axis,
                channels: params,
            },
        };
        Ok(QuantizedWeights {
            values,
            params,
            widened,
        })
    }

    /// Gives all-zero channels the scale of [`zero_channel_scale`].
    fn fill_zero_channels(&self, layer: &Accumulation<'_>, params: &mut [QParams]) {
        let channels = self.layout.channels;
        for (channel, params) in params.iter_mut().enumerate() {
            if !self.zeros[channel] {
                continue;
            }
            let biases = layer.bias.unwrap_or_default().iter().enumerate();
            let own = biases.filter(|(i, _)| i % channels == channel);
            let max_bias = own.fold(0.0_f32, |max, (_, b)| max.max(b.abs()));
            if max_bias > 0.0 || layer.output_scale.is_some() {
                params.scale = zero_channel_scale(layer.input_scale, layer.output_scale, max_bias);
            }
        }
    }

    /// Widens scales until every accumulator fits 32 bits.
    fn widen(
        &self,
        output: Layout,
        layer: &Accumulation<'_>,
        params: &mut [QParams],
    ) -> Result<Vec<Widened>, WeightError> {
        let mut widened = Vec::new();
        let shared = params.len() == 1;
        for (channel, &own) in self.sums(output).iter().enumerate() {
            let slot = if shared { 0 } else { channel };
            let Some(params) = params.get_mut(slot) else {
                continue;
            };
            let from = params.scale;
            for attempt in 0.. {
                let sum = match self.params[slot].scale == params.scale || self.zeros[slot] {
                    true => own,
                    false => self.sum(output, channel, *params),
                };
                let bound = accumulator_bound(sum, output, channel, layer, *params);
                if bound < ACCUMULATOR_LIMIT {
                    break;
                }
                // Sums and bias shrink in proportion as the scale grows; the margin, and the doubling at the end, cover rounding.
                let factor = (bound / ACCUMULATOR_LIMIT * (1.0 + 1.0 / 4096.0))
                    .max(if attempt < 8 { 1.0 } else { 2.0 });
                params.scale = (f64::from(params.scale) * factor) as f32;
                if !(params.scale * layer.input_scale).is_finite() || !params.scale.is_finite() {
                    return Err(WeightError::Overflow { channel });
                }
            }
            if params.scale != from {
                widened.push(Widened {
                    channel,
                    from,
                    to: params.scale,
                });
            }
        }
        Ok(widened)
    }

    /// `Σ|q_w - z_w|` of each output channel, with the scales of the weights alone.
    fn sums(&self, output: Layout) -> Vec<u64> {
        let mut sums = vec![0; output.channels];
        output.for_each_run(&self.values, |channel, run| {
            let slot = if self.params.len() == 1 { 0 } else { channel };
            let zero_point = self.params[slot].zero_point;
            let steps = run.iter().map(|&q| i32::from(q).abs_diff(zero_point));
            sums[channel] += steps.map(u64::from).sum::<u64>();
        });
        sums
    }

    /// `Σ|q_w - z_w|` of an output channel with another scale.
    fn sum(&self, output: Layout, channel: usize, params: QParams) -> u64 {
        let range = self.spec.range();
        let steps = |index: usize| {
            let q = quantize(self.weights[index], params, range.min, range.max);
            u64::from(q.abs_diff(params.zero_point))
        };
        output.indices(channel, self.weights.len()).map(steps).sum()
    }
}

fn require_finite(values: &[f32], what: &'static str) -> Result<(), WeightError> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => Err(WeightError::NotFinite {
            what,
            index,
            value: values[index],
        }),
    }
}

fn check_layer(layer: &Accumulation<'_>, channels: usize) -> Result<(), WeightError> {
    QParams::new(layer.input_scale, 0, QuantType::Int32)?;
    if let Some(scale) = layer.output_scale {
        QParams::new(scale, 0, QuantType::Int32)?;
    }
    let Some(bias) = layer.bias else {
        return Ok(());
    };
    require_finite(bias, "bias")?;
    if bias.is_empty() || channels == 0 || !bias.len().is_multiple_of(channels) {
        return Err(WeightError::BiasLength {
            bias: bias.len(),
            channels,
        });
    }
    Ok(())
}

/// The qparams from the extremes of each channel, and which channels are zero. A channel of zeros takes the smallest scale
/// of the others until its bias is known.
fn channel_params(weights: &[f32], layout: Layout, spec: &QuantSpec) -> (Vec<QParams>, Vec<bool>) {
    let mut extremes = vec![(0.0_f32, 0.0_f32); layout.channels];
    layout.for_each_run(weights, |channel, run| {
        let wider = |(min, max): (f32, f32), &w: &f32| (min.min(w), max.max(w));
        extremes[channel] = run.iter().fold(extremes[channel], wider);
    });
    let params = extremes
        .iter()
        .map(|&(min, max)| choose_qparams(min, max, spec.range(), spec.scheme, spec.eps));
    let mut params: Vec<QParams> = params.collect();
    let zeros: Vec<bool> = extremes.iter().map(|&found| found == (0.0, 0.0)).collect();
    let others = params.iter().zip(&zeros).filter(|(_, is_zero)| !**is_zero);
    let smallest = others.fold(f32::INFINITY, |min, (params, _)| min.min(params.scale));
    if smallest.is_finite() {
        for (params, _) in params
            .iter_mut()
            .zip(&zeros)
            .filter(|(_, is_zero)| **is_zero)
        {
            params.scale = smallest;
        }
    }
    (params, zeros)
}

/// The scale of an all-zero channel: fine enough for its bias, coarse enough for 32 bits.
///
/// `s_y / (256·s_x)` puts the bias on a 256th of an output step. Where `output_scale` is `None` the output is float, and
/// the bias keeps the 24 bits of an f32. `max_bias` is the largest magnitude; without one, and without an output
/// scale, there is nothing to represent and the result is 1.
pub fn zero_channel_scale(input_scale: f32, output_scale: Option<f32>, max_bias: f32) -> f32 {
    let (s_x, bias) = (f64::from(input_scale), f64::from(max_bias));
    let fine = match output_scale {
        Some(s_y) => f64::from(s_y) / (256.0 * s_x),
        None if bias > 0.0 => bias / (s_x * f64::from(1 << 24)),
        None => 1.0,
    };
    let coarse_enough = bias / (s_x * f64::from(1 << 30));
    // Both the scale and its product with s_x have to be normal numbers.
    let smallest = 2.0 * f64::from(f32::MIN_POSITIVE) * (1.0 / s_x).max(1.0);
    fine.max(coarse_enough).max(smallest).min(f32::MAX.into()) as f32
}

/// `(qmax_x - qmin_x)·Σ|q_w - z_w| + |b|` of one output channel, as a float that is exact where it matters.
fn accumulator_bound(
    sum: u64,
    output: Layout,
    channel: usize,
    layer: &Accumulation<'_>,
    params: QParams,
) -> f64 {
    let scale = f64::from(layer.input_scale * params.scale);
    let biases = layer.bias.unwrap_or_default().iter().enumerate();
    let own = biases.filter(|(i, _)| i % output.channels == channel);
    let bias = own
        .map(|(_, &b)| (f64::from(b) / scale).abs() + 0.5)
        .fold(0.0, f64::max);
    layer.input_range.steps() as f64 * sum as f64 + bias
}

/// Quantizes a bias to `int32` on the scale `f32(input_scale · s_w[c])`, zero point 0.
///
/// Bias `i` belongs to channel `i mod channels`. The parameters of the result have one scale a bias, along axis 0, or one in
/// all where the weights have one.
///
/// # Errors
/// When a bias is not finite, when its length is no multiple of the channels, or when a scale's product is not a
/// positive normal number.
pub fn quantize_bias(
    bias: &[f32],
    input_scale: f32,
    weights: &QuantParams,
) -> Result<(Vec<i32>, QuantParams), WeightError> {
    require_finite(bias, "bias")?;
    let scale = |weight: QParams| QParams::new(input_scale * weight.scale, 0, QuantType::Int32);
    let quantized = |b: f32, params: QParams| quantize(b, params, i32::MIN, i32::MAX);
    match weights {
        QuantParams::PerTensor(weight) => {
            let params = scale(*weight)?;
            let values = bias.iter().map(|&b| quantized(b, params)).collect();
            Ok((values, QuantParams::PerTensor(params)))
        }
        QuantParams::PerChannel { channels, .. } => {
            if channels.is_empty() || !bias.len().is_multiple_of(channels.len()) {
                let channels = channels.len();
                return Err(WeightError::BiasLength {
                    bias: bias.len(),
                    channels,
                });
            }
            let scales: Vec<f32> = channels
                .iter()
                .cycle()
                .map(|c| input_scale * c.scale)
                .take(bias.len())
                .collect();
            let params =
                QuantParams::per_channel(0, &scales, &vec![0; bias.len()], QuantType::Int32)?;
            let values = bias.iter().zip(&scales).map(|(&b, &scale)| {
                quantized(
                    b,
                    QParams {
                        scale,
                        zero_point: 0,
                    },
                )
            });
            Ok((values.collect(), params))
        }
    }
}

#[cfg(test)]
mod tests;
