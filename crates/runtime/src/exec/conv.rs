//! Convolutions and linear layers of quantized values.

use octofold_kernels::fbgemm::{
    Activations, ConvShape, Float, LinearShape, OutputSlice, OutputStage, Quantized, Residual,
    conv, conv_scratch_len, linear, linear_scratch_len, packed_len,
};
use octofold_ops::Op;
use octofold_ops::families::{Activation, FusedConv, Layout, OutputQuantization};
use octofold_quant::{QParams, QuantType};
use octofold_tensor::DType;

use super::pool::{pads, pair};
use super::{Arguments, Call, Work};
use crate::StepError;
use crate::plan::Kernel;
use crate::values::{numbers, numbers_mut};

/// The products that pay for a second thread.
const MACS: usize = 1 << 19;

/// A convolution, or a matrix product.
#[derive(Debug)]
enum Sizes {
    Conv(ConvShape),
    Linear(LinearShape),
}

/// What becomes of the sums; the constants are packed.
#[derive(Debug)]
enum Stage {
    Quantized {
        y: OutputQuantization,
        /// The parameters of the residual, and the quantization of the sum.
        residual: Option<(QParams, OutputQuantization)>,
    },
    Float {
        clamp: Option<(f32, f32)>,
    },
}

#[derive(Debug)]
struct Conv {
    sizes: Sizes,
    x: QParams,
    signed: bool,
    stage: Stage,
    scratch: usize,
    /// Output channels.
    channels: usize,
    /// Output pixels, or rows.
    rows: usize,
    /// Rows of a part; of a single row, columns.
    part: usize,
}

/// The work of an integer `FusedConv` or `FusedLinear`.
pub(super) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Box<dyn Work>, StepError> {
    let step = arguments.step;
    let input = arguments.operand(0)?;
    let signed = input.signed()?;
    let (sizes, x, stage) = match (&step.op, step.kernel) {
        (Op::FusedConv(op), Kernel::QConv | Kernel::QConvDepthwise) => {
            let shape = conv_shape(op, arguments)?;
            let x = op.x.ok_or_else(|| arguments.wrong_operator())?;
            (Sizes::Conv(shape), x, conv_stage(op, arguments)?)
        }
        (Op::FusedLinear(op), Kernel::QLinear) => {
            let shape = linear_shape(arguments)?;
            let x = op.x.ok_or_else(|| arguments.wrong_operator())?;
            let stage = match op.y {
                Some(y) => quantized_stage(arguments, y, None)?,
                None => float_stage(arguments, op.activation)?,
            };
            (Sizes::Linear(shape), x, stage)
        }
        _ => return Err(arguments.wrong_operator()),
    };
    let quant = input.quant(x)?;
    let shape = sizes.as_conv();
    let (rows, channels) = (shape.pixels()?, shape.out_c);
    let weights = (DType::U8, packed_len(&shape)?);
    match stage {
        Stage::Quantized { .. } => {
            arguments.expect_packed(&[weights, (DType::I32, channels), (DType::F32, channels)])?
        }
        Stage::Float { .. } => {
            arguments.expect_packed(&[
                weights,
                (DType::I32, channels),
                (DType::F32, channels),
                (DType::F32, channels),
            ])?;
        }
    }
    let scratch = match &sizes {
        Sizes::Conv(shape) => conv_scratch_len(shape)?,
        Sizes::Linear(shape) => linear_scratch_len(shape)?,
    };
    let macs = usize::try_from(shape.macs()?).unwrap_or(usize::MAX);
    let linear = matches!(sizes, Sizes::Linear(_));
    Ok(Box::new(Conv {
        part: part(rows, channels, macs, threads, linear),
        sizes,
        x: quant.params,
        signed,
        stage,
        scratch,
        channels,
        rows,
    }))
}

/// How many rows make a part; of a matrix product with a single row, how many columns.
///
/// Few rows are split once a thread, since every part reads all weights. Parts are whole tiles of six rows. None of this shows in the results.
pub(super) fn part(
    rows: usize,
    channels: usize,
    macs: usize,
    threads: usize,
    linear: bool,
) -> usize {
    /// Rows that the kernels compute between two looks at the weights.
    const CHUNK: usize = 240;
    let (items, unit) = if linear && rows == 1 {
        (channels, 64)
    } else {
        (rows, 6)
    };
    let parts = if items <= CHUNK || rows == 1 {
        threads
    } else {
        4 * threads
    };
    let parts = if threads == 1 {
        1
    } else {
        parts.min(macs / MACS).max(1)
    };
    items
        .div_ceil(parts)
        .next_multiple_of(unit)
        .min(items.max(1))
}

impl Sizes {
    fn as_conv(&self) -> ConvShape {
        match self {
            Self::Conv(shape) => *shape,
            Self::Linear(shape) => shape.as_conv(),
        }
    }
}

/// The sizes of a channels-last convolution with packed weights.
pub(super) fn conv_shape(
    op: &FusedConv,
    arguments: &Arguments<'_>,
) -> Result<ConvShape, StepError> {
    if op.layout != Layout::Nhwc {
        return Err(arguments.wrong_operator());
    }
    let [batch, in_h, in_w, in_c] = arguments.operand(0)?.image()?;
    let &[out_c, group_in, kernel_h, kernel_w] = &*arguments.step.weights else {
        return Err(StepError::invalid(
            "the weights of a convolution have four axes",
        ));
    };
    let groups = usize::try_from(op.group).map_err(|_| arguments.wrong_operator())?;
    if groups.checked_mul(group_in) != Some(in_c) {
        return Err(StepError::invalid(format!(
            "{groups} groups of {group_in} channels where the operand has {in_c}"
        )));
    }
    let [stride_h, stride_w] = pair(&op.strides, "strides")?;
    let [dilation_h, dilation_w] = pair(&op.dilations, "dilations")?;
    let [pad_top, pad_left, pad_bottom, pad_right] = pads(&op.pads)?;
    let shape = ConvShape {
        batch,
        in_h,
        in_w,
        in_c,
        out_c,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        pad_bottom,
        pad_right,
        groups,
    };
    shape.pixels()?;
    let (Some(out_h), Some(out_w)) = (shape.out_h(), shape.out_w()) else {
        return Err(arguments.wrong_operator());
    };
    arguments.expect_result(&[batch, out_h, out_w, out_c])?;
    Ok(shape)
}

/// The sizes of a linear layer with packed weights.
pub(super) fn linear_shape(arguments: &Arguments<'_>) -> Result<LinearShape, StepError> {
    let input = arguments.operand(0)?;
    let (&[k, n], Some((&last, outer))) = (&*arguments.step.weights, input.shape.split_last())
    else {
        return Err(arguments.wrong_operator());
    };
    if last != k {
        return Err(StepError::invalid(format!(
            "rows of {last} elements where the weights take {k}"
        )));
    }
    let mut result = outer.to_vec();
    result.push(n);
    arguments.expect_result(&result)?;
    Ok(LinearShape {
        rows: outer.iter().product(),
        k,
        n,
    })
}

fn conv_stage(op: &FusedConv, arguments: &Arguments<'_>) -> Result<Stage, StepError> {
    let has_residual = arguments.operands.get(3).copied().flatten().is_some();
    match (op.y, op.residual, op.sum, has_residual) {
        (Some(y), Some(residual), Some(sum), true) => {
            quantized_stage(arguments, y, Some((residual, sum)))
        }
        (Some(y), None, None, false) => quantized_stage(arguments, y, None),
        (None, None, None, false) => float_stage(arguments, op.activation),
        _ => Err(arguments.wrong_operator()),
    }
}

fn quantized_stage(
    arguments: &Arguments<'_>,
    y: OutputQuantization,
    residual: Option<(QParams, OutputQuantization)>,
) -> Result<Stage, StepError> {
    match &residual {
        None => drop(arguments.target(&y)?),
        Some((params, sum)) => {
            let operand = arguments.operand(3)?;
            operand.quant(*params)?;
            arguments.target(sum)?;
            if operand.shape != arguments.result.shape {
                return Err(StepError::invalid(
                    "the residual does not have the size of the result",
                ));
            }
        }
    }
    Ok(Stage::Quantized { y, residual })
}

fn float_stage(arguments: &Arguments<'_>, activation: Activation) -> Result<Stage, StepError> {
    arguments.result.expect(DType::F32)?;
    let clamp = (activation != Activation::None).then(|| activation.bounds());
    Ok(Stage::Float { clamp })
}

impl Work for Conv {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        match self.stage {
            Stage::Quantized { y, residual } => {
                let residual = residual.map(|(params, sum)| {
                    let data = (call.operand(3), sum.dtype == QuantType::Int8);
                    Residual::new(data, params, y.params, sum.params, (sum.lo, sum.hi))
                });
                let stage = OutputStage::Quantized(Quantized {
                    bias: numbers(call.packed(1))?,
                    multiplier: numbers(call.packed(2))?,
                    zero_point: y.params.zero_point,
                    lo: y.lo,
                    hi: y.hi,
                    residual,
                });
                self.run_parts(&call.shared(), &stage, call.output, |part| {
                    OutputSlice::Bytes(part)
                })
            }
            Stage::Float { clamp } => {
                let stage = OutputStage::Float(Float {
                    correction: numbers(call.packed(1))?,
                    scale: numbers(call.packed(2))?,
                    bias: numbers(call.packed(3))?,
                    clamp,
                });
                let shared = call.shared();
                self.run_parts(&shared, &stage, numbers_mut(call.output)?, |part| {
                    OutputSlice::Floats(part)
                })
            }
        }
    }
}

impl Conv {
    fn run_parts<T: Send>(
        &self,
        call: &super::Shared<'_>,
        stage: &OutputStage<'_>,
        output: &mut [T],
        slice: impl Fn(&mut [T]) -> OutputSlice<'_> + Sync,
    ) -> Result<(), StepError> {
        let input = Activations {
            data: call.operand(0),
            signed: self.signed,
            zero_point: self.x.zero_point,
        };
        let weights = call.packed(0);
        let (isa, channels) = (call.isa, self.channels);
        let single_row = self.rows == 1 && matches!(self.sizes, Sizes::Linear(_));
        let part = if single_row {
            self.part
        } else {
            self.part * channels
        };
        call.pool
            .run_parts(output, part, self.scratch, |first, output, scratch| {
                let end = first + output.len();
                let output = slice(output);
                match &self.sizes {
                    Sizes::Conv(shape) => conv(
                        isa,
                        shape,
                        input,
                        weights,
                        stage,
                        first / channels..end / channels,
                        output,
                        scratch,
                    )?,
                    Sizes::Linear(shape) if single_row => linear(
                        isa,
                        shape,
                        input,
                        weights,
                        stage,
                        0..1,
                        first..end,
                        output,
                        scratch,
                    )?,
                    Sizes::Linear(shape) => {
                        let rows = first / channels..end / channels;
                        linear(
                            isa,
                            shape,
                            input,
                            weights,
                            stage,
                            rows,
                            0..channels,
                            output,
                            scratch,
                        )?;
                    }
                }
                Ok(())
            })
    }
}
