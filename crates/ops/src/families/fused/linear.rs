//! Convolution and linear layers: exact sums, and what becomes of them.

use octofold_quant::QParams;
use octofold_quant::requantize::{self, Operand};
use octofold_tensor::{DType, Element, Tensor};

use super::{
    Finished, FusedConv, FusedLinear, Layout, Output, OutputQuantization, quantized_input,
};
use crate::families::matmul::MatMulShape;
use crate::families::product::{IntegerProduct, Outcome, Product};
use crate::families::quantized::checked_multiplier;
use crate::families::real::{accumulator, quantized_bytes, reals};
use crate::families::support::{checked_elements, copy_strided, expect_type};
use crate::families::window::WindowAttributes;
use crate::families::{AutoPad, ConvShape};
use crate::{Inputs, OpError, Operator, bail};

/// Elements minus their zero point, as f64.
fn centered(values: &[i32], zero_point: i32) -> Vec<f64> {
    values
        .iter()
        .map(|value| f64::from(value - zero_point))
        .collect()
}

/// The elements of an f32 input as f64.
fn floats(inputs: Inputs<'_>, index: usize) -> Result<Vec<f64>, OpError> {
    let tensor = inputs.required(index)?;
    expect_type(tensor, index, DType::F32)?;
    reals(tensor, index)
}

/// The elements of both operands, without zero points, as f64.
fn operands(product: &Product, inputs: Inputs<'_>) -> Result<[Vec<f64>; 2], OpError> {
    let Product::Integer(product) = product else {
        return Ok([floats(inputs, 0)?, floats(inputs, 1)?]);
    };
    let (x, params) = quantized_input(inputs, 0, product.operands()?.x)?;
    let (w, _) = quantized_bytes(inputs.required(1)?, 1)?;
    Ok([centered(&x, params.zero_point), centered(&w, 0)])
}

/// An output of `count` elements of the type of the result.
fn output(product: &Product, count: usize) -> Output {
    Output::new(count, product.result_type())
}

/// How the exact sum of an output channel becomes a result.
enum Finish {
    /// `f32(sum + bias)`: everything was float.
    Float { bias: Vec<f64> },
    /// `f32(acc)·scale + bias`: integer sums, float result.
    Dequantize { scales: Vec<f32>, bias: Vec<f32> },
    /// Requantization to bytes.
    Requantize {
        multipliers: Vec<f32>,
        bias: Vec<i32>,
        y: OutputQuantization,
    },
    /// The sums as they are.
    Accumulate { bias: Vec<i32> },
}

/// The elements of the bias at input 2, one an output channel; zeros where there is none.
fn bias<T: Element + Default>(inputs: Inputs<'_>, count: usize) -> Result<Vec<T>, OpError> {
    let Some(bias) = inputs.optional(2) else {
        return Ok(vec![T::default(); count]);
    };
    if bias.shape() != [count] {
        bail!("the bias does not have {count} elements");
    }
    Ok(inputs.values(2)?.to_vec())
}

impl Finish {
    /// The form of the result, for `count` output channels.
    fn new(product: &Product, inputs: Inputs<'_>, count: usize) -> Result<Self, OpError> {
        let Product::Integer(product) = product else {
            let bias = bias::<f32>(inputs, count)?.into_iter().map(f64::from);
            return Ok(Self::Float {
                bias: bias.collect(),
            });
        };
        let operands = product.operands()?;
        let scales = operands.scales(count)?;
        let x = operands.x.scale;
        Ok(match product.result {
            Outcome::Float(_) => Self::Dequantize {
                scales: scales.iter().map(|w| x * w).collect(),
                bias: bias(inputs, count)?,
            },
            Outcome::Accumulators => Self::Accumulate {
                bias: bias(inputs, count)?,
            },
            Outcome::Bytes(y) | Outcome::Residual { own: y, .. } => {
                let multipliers = scales
                    .iter()
                    .map(|&w| checked_multiplier(x, w, y.params.scale));
                Self::Requantize {
                    multipliers: multipliers.collect::<Result<_, _>>()?,
                    bias: bias(inputs, count)?,
                    y,
                }
            }
        })
    }

    /// The result of a sum of output channel `channel`.
    fn apply(&self, channel: usize, sum: f64) -> Result<Finished, OpError> {
        Ok(match self {
            Self::Float { bias } => Finished::Float((sum + bias[channel]) as f32),
            Self::Dequantize { scales, bias } => {
                let acc = accumulator(sum)?;
                Finished::Float(requantize::dequantize_accumulator(
                    acc,
                    scales[channel],
                    bias[channel],
                ))
            }
            Self::Requantize {
                multipliers,
                bias,
                y,
            } => {
                let acc = accumulator(sum + f64::from(bias[channel]))?;
                let zero = y.params.zero_point;
                Finished::Quantized(requantize::requantize(
                    acc,
                    multipliers[channel],
                    zero,
                    y.lo,
                    y.hi,
                ))
            }
            Self::Accumulate { bias } => {
                Finished::Quantized(accumulator(sum + f64::from(bias[channel]))?)
            }
        })
    }
}

/// A residual that a convolution adds, and how.
enum Residual<'a> {
    None,
    Float(&'a [f32]),
    Quantized {
        values: Vec<i32>,
        params: QParams,
        y: QParams,
        sum: OutputQuantization,
    },
}

impl FusedConv {
    /// Whether the float convolution, with weights of this shape and without a residual, has one tap and one channel in
    /// each group: a factor and a summand for each channel. There is a kernel for either layout.
    pub fn is_affine(&self, weights: &[usize], has_residual: bool) -> bool {
        let depthwise = weights.first().copied() == usize::try_from(self.group).ok();
        let single = weights.len() > 1 && weights[1..].iter().all(|&size| size == 1);
        let still =
            self.strides.iter().all(|&step| step == 1) && self.pads.iter().all(|&pad| pad == 0);
        depthwise && single && still && self.product.is_float() && !has_residual
    }

    /// The shape arithmetic of the convolution.
    pub fn shape(&self) -> ConvShape<'_> {
        ConvShape {
            window: WindowAttributes {
                auto_pad: AutoPad::NotSet,
                dilations: &self.dilations,
                pads: &self.pads,
                strides: &self.strides,
                ceil_mode: false,
            },
            kernel_shape: &[],
            group: self.group,
        }
    }

    fn residual<'a>(&self, inputs: Inputs<'a>, shape: &[usize]) -> Result<Residual<'a>, OpError> {
        let Some(tensor) = inputs.optional(3) else {
            return Ok(Residual::None);
        };
        if tensor.shape() != shape {
            let found = tensor.shape();
            bail!("a residual of shape {found:?} for a result of shape {shape:?}");
        }
        let Product::Integer(IntegerProduct {
            result: Outcome::Residual { own, residual, sum },
            ..
        }) = self.product
        else {
            return Ok(Residual::Float(inputs.values::<f32>(3)?));
        };
        let (values, params) = quantized_input(inputs, 3, residual)?;
        Ok(Residual::Quantized {
            values,
            params,
            y: own.params,
            sum,
        })
    }
}

impl Operator for FusedConv {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        self.product.check_residual(inputs.optional(3).is_some())?;
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        let sizes = self.layout.channels_first(x.shape())?;
        let loops = self.shape().loops(&sizes, w.shape(), None)?;
        let count = w.shape()[0];
        let [x_values, w_values] = operands(&self.product, inputs)?;
        let shape = self.layout.arrange(loops.shape.clone());
        if shape.contains(&0) {
            return Ok(vec![output(&self.product, 0).tensor(&shape)?]);
        }
        let x_values = match self.layout {
            Layout::Nchw => x_values,
            Layout::Nhwc if x_values.is_empty() => x_values,
            Layout::Nhwc => {
                let (channels, pixels) = (sizes[1], sizes[2..].iter().product::<usize>());
                let strides = [(pixels * channels) as isize, 1, channels as isize];
                copy_strided(&x_values, 0, &[sizes[0], channels, pixels], &strides)
            }
        };
        let finish = Finish::new(&self.product, inputs, count)?;
        let residual = self.residual(inputs, &shape)?;
        let activation = self.product.activation().unwrap_or_default();
        let mut y = output(&self.product, checked_elements(&shape)?);
        let planes = self.layout.planes(sizes[0], count);
        loops.run(&x_values, &w_values, |batch, channel, sums| {
            for (position, &sum) in sums.iter().enumerate() {
                let index = planes.index(batch, channel, sums.len(), position);
                let value = match (finish.apply(channel, sum)?, &residual) {
                    (Finished::Float(value), Residual::Float(residual)) => {
                        Finished::Float(activation.apply(value + residual[index]))
                    }
                    (Finished::Float(value), _) => Finished::Float(activation.apply(value)),
                    (
                        Finished::Quantized(q),
                        Residual::Quantized {
                            values,
                            params,
                            y,
                            sum,
                        },
                    ) => {
                        let own = Operand::new(q, *y);
                        let residual = Operand::new(values[index], *params);
                        Finished::Quantized(requantize::add(own, residual, sum.target()))
                    }
                    (value, _) => value,
                };
                y.set(index, value);
            }
            Ok(())
        })?;
        Ok(vec![y.tensor(&shape)?])
    }
}

impl Operator for FusedLinear {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        self.product.check_residual(inputs.optional(3).is_some())?;
        let layer = self.product.of_run(inputs)?;
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        let &[_, count] = w.shape() else {
            bail!("weights of rank {}, not 2", w.rank());
        };
        let product = MatMulShape::new(x.shape(), w.shape())?;
        let [x_values, w_values] = operands(&layer, inputs)?;
        if product.shape.contains(&0) {
            return Ok(vec![output(&layer, 0).tensor(&product.shape)?]);
        }
        let finish = Finish::new(&layer, inputs, count)?;
        let activation = layer.activation().unwrap_or_default();
        let sums = product.run(&x_values, &w_values);
        let mut y = output(&layer, sums.len());
        for (index, &sum) in sums.iter().enumerate() {
            let value = match finish.apply(index % count, sum)? {
                Finished::Float(value) => Finished::Float(activation.apply(value)),
                value => value,
            };
            y.set(index, value);
        }
        Ok(vec![y.tensor(&product.shape)?])
    }
}
