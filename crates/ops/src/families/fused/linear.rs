//! Convolution and linear layers: exact sums, and what becomes of them.

use octofold_quant::{QParams, QuantType, requantize};
use octofold_tensor::{DType, Tensor};

use super::{
    Finished, FusedConv, FusedLinear, Layout, Output, OutputQuantization, quantized_input,
};
use crate::families::matmul::MatMulShape;
use crate::families::quantized::checked_multiplier;
use crate::families::real::{accumulator, quantized_bytes, reals};
use crate::families::support::{checked_elements, copy_strided, expect_type};
use crate::families::window::WindowAttributes;
use crate::families::{AutoPad, ConvShape};
use crate::{Arity, Inputs, OpError, Operator};

/// One checked scale for each of `count` output channels.
fn channel_scales(scales: &[f32], count: usize) -> Result<Vec<f32>, OpError> {
    for &scale in scales {
        QParams::new(scale, 0, QuantType::Int8)?;
    }
    match scales {
        [scale] => Ok(vec![*scale; count]),
        _ if scales.len() == count => Ok(scales.to_vec()),
        _ => {
            let reason = format!("has {} numbers for {count} output channels", scales.len());
            Err(OpError::attribute("w_scale", reason))
        }
    }
}

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
}

impl Finish {
    /// The form that the attributes ask for, with the bias at input 2.
    fn new(
        inputs: Inputs<'_>,
        count: usize,
        x: Option<QParams>,
        w_scale: &[f32],
        y: Option<OutputQuantization>,
    ) -> Result<Self, OpError> {
        let bias = inputs.optional(2);
        if bias.is_some_and(|bias| bias.shape() != [count]) {
            return Err(OpError::invalid(format!(
                "the bias does not have {count} elements"
            )));
        }
        let Some(x) = x else {
            if y.is_some() || !w_scale.is_empty() {
                return Err(OpError::attribute(
                    "x_scale",
                    "is missing, but the result or weights are quantized",
                ));
            }
            let bias = bias.map(|_| floats(inputs, 2)).transpose()?;
            return Ok(Self::Float {
                bias: bias.unwrap_or_else(|| vec![0.0; count]),
            });
        };
        let scales = channel_scales(w_scale, count)?;
        match y {
            None => {
                let bias = bias.map(|_| inputs.values::<f32>(2)).transpose()?;
                let scales = scales.iter().map(|w| x.scale * w).collect();
                Ok(Self::Dequantize {
                    scales,
                    bias: bias.map_or_else(|| vec![0.0; count], <[f32]>::to_vec),
                })
            }
            Some(y) => {
                y.check()?;
                let multipliers = scales
                    .iter()
                    .map(|&w| checked_multiplier(x.scale, w, y.params.scale));
                let multipliers = multipliers.collect::<Result<_, _>>()?;
                let bias = bias.map(|_| inputs.values::<i32>(2)).transpose()?;
                let bias = bias.map_or_else(|| vec![0; count], <[i32]>::to_vec);
                Ok(Self::Requantize {
                    multipliers,
                    bias,
                    y,
                })
            }
        }
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

    /// The quantization of what the operator gives: that of the sum when there is one.
    pub fn result(&self) -> Option<OutputQuantization> {
        self.sum.or(self.y)
    }

    /// Checks that the quantization attributes go together.
    ///
    /// # Errors
    /// When one that another needs is absent.
    pub fn check(&self, with_residual: bool) -> Result<(), OpError> {
        let missing = |name, of| {
            Err(OpError::attribute(
                name,
                format!("is missing, but {of} is given"),
            ))
        };
        match (self.x, self.y, self.residual, self.sum) {
            (None, Some(_), ..) => missing("x_scale", "`y_scale`"),
            (_, None, _, Some(_)) => missing("y_scale", "`sum_scale`"),
            (_, None, Some(_), _) => missing("y_scale", "`residual_scale`"),
            (_, Some(_), Some(_), None) => missing("sum_scale", "`residual_scale`"),
            (_, Some(_), None, Some(_)) => missing("residual_scale", "`sum_scale`"),
            (_, Some(_), None, None) if with_residual => missing("residual_scale", "a residual"),
            (_, Some(_), Some(_), _) if !with_residual => Err(OpError::attribute(
                "residual_scale",
                "is given without a residual",
            )),
            (Some(_), None, ..) if with_residual => Err(OpError::Unsupported(
                "a residual of an integer convolution with a float result".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn residual<'a>(&self, inputs: Inputs<'a>, shape: &[usize]) -> Result<Residual<'a>, OpError> {
        let Some(tensor) = inputs.optional(3) else {
            return Ok(Residual::None);
        };
        if tensor.shape() != shape {
            let found = tensor.shape();
            return Err(OpError::invalid(format!(
                "a residual of shape {found:?} for a result of shape {shape:?}"
            )));
        }
        match (self.y, self.residual, self.sum) {
            (Some(y), Some(params), Some(sum)) => {
                sum.check()?;
                let (values, params) = quantized_input(inputs, 3, params)?;
                Ok(Residual::Quantized {
                    values,
                    params,
                    y: y.params,
                    sum,
                })
            }
            _ => Ok(Residual::Float(inputs.values::<f32>(3)?)),
        }
    }
}

impl Operator for FusedConv {
    fn arity(&self) -> Arity {
        Arity::of(2..=4)
    }

    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        self.check(inputs.optional(3).is_some())?;
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        let [batch, channels, height, width] = self.layout.to_nchw(x.shape())?;
        let loops = self
            .shape()
            .loops(&[batch, channels, height, width], w.shape(), None)?;
        let count = w.shape()[0];
        let (x_values, w_values) = match self.x {
            None => (floats(inputs, 0)?, floats(inputs, 1)?),
            Some(params) => {
                let (values, params) = quantized_input(inputs, 0, params)?;
                (
                    centered(&values, params.zero_point),
                    centered(&quantized_bytes(w, 1)?.0, 0),
                )
            }
        };
        if loops.shape.contains(&0) {
            let nchw = [
                loops.shape[0],
                loops.shape[1],
                loops.shape[2],
                loops.shape[3],
            ];
            return Ok(vec![
                Output::new(0, self.result()).tensor(&self.layout.arrange(nchw))?,
            ]);
        }
        let x_values = match self.layout {
            Layout::Nchw => x_values,
            Layout::Nhwc if x_values.is_empty() => x_values,
            Layout::Nhwc => {
                let (row, plane) = (
                    (width * channels) as isize,
                    (height * width * channels) as isize,
                );
                let strides = [plane, 1, row, channels as isize];
                copy_strided(&x_values, 0, &[batch, channels, height, width], &strides)
            }
        };
        let finish = Finish::new(inputs, count, self.x, &self.w_scale, self.y)?;
        let nchw = [
            loops.shape[0],
            loops.shape[1],
            loops.shape[2],
            loops.shape[3],
        ];
        let shape = self.layout.arrange(nchw);
        let residual = self.residual(inputs, &shape)?;
        let mut y = Output::new(checked_elements(&shape)?, self.result());
        let planes = self.layout.planes(batch, count);
        loops.run(&x_values, &w_values, |batch, channel, sums| {
            for (position, &sum) in sums.iter().enumerate() {
                let index = planes.index(batch, channel, sums.len(), position);
                let value = match (finish.apply(channel, sum)?, &residual) {
                    (Finished::Float(value), Residual::Float(residual)) => {
                        Finished::Float(self.activation.apply(value + residual[index]))
                    }
                    (Finished::Float(value), _) => Finished::Float(self.activation.apply(value)),
                    (
                        Finished::Quantized(q),
                        Residual::Quantized {
                            values,
                            params,
                            y,
                            sum,
                        },
                    ) => {
                        let r = values[index];
                        Finished::Quantized(requantize::add(
                            q, *y, r, *params, sum.params, sum.lo, sum.hi,
                        ))
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
    fn arity(&self) -> Arity {
        Arity::of(2..=3)
    }

    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        let &[_, count] = w.shape() else {
            return Err(OpError::invalid(format!(
                "weights of rank {}, not 2",
                w.rank()
            )));
        };
        let product = MatMulShape::new(x.shape(), w.shape())?;
        let (x_values, w_values) = match self.x {
            None => (floats(inputs, 0)?, floats(inputs, 1)?),
            Some(params) => {
                let (values, params) = quantized_input(inputs, 0, params)?;
                (
                    centered(&values, params.zero_point),
                    centered(&quantized_bytes(w, 1)?.0, 0),
                )
            }
        };
        if product.shape.contains(&0) {
            return Ok(vec![Output::new(0, self.y).tensor(&product.shape)?]);
        }
        let finish = Finish::new(inputs, count, self.x, &self.w_scale, self.y)?;
        let sums = product.run(&x_values, &w_values);
        let mut y = Output::new(sums.len(), self.y);
        for (index, &sum) in sums.iter().enumerate() {
            let value = match finish.apply(index % count, sum)? {
                Finished::Float(value) => Finished::Float(self.activation.apply(value)),
                value => value,
            };
            y.set(index, value);
        }
        Ok(vec![y.tensor(&product.shape)?])
    }
}
