//! Float convolutions and linear layers.

use octofold_kernels::Bounds;
use octofold_kernels::conv::{ConvShape, LinearShape};
use octofold_kernels::float::Block;
use octofold_kernels::float::conv::{self, ConvData, conv};
use octofold_kernels::float::depthwise::{DepthwiseData, depthwise};
use octofold_kernels::float::linear::{self, LinearData, linear};
use octofold_ops::Op;
use octofold_ops::families::{Layout, Product};
use octofold_tensor::DType;

use super::conv::{conv_shape, linear_shape};
use super::split::{self, Parts};
use super::{Arguments, Call, Work, only};
use crate::StepError;
use crate::plan::Core;
use crate::values::{numbers, numbers_mut};

/// From this number of products on, a second thread saves time in a depthwise convolution.
const MACS: usize = 1 << 18;

#[derive(Debug)]
enum Sizes {
    Conv(ConvShape),
    Depthwise(ConvShape),
    Linear(LinearShape),
}

#[derive(Debug)]
struct FloatConv {
    sizes: Sizes,
    residual: bool,
    clamp: Bounds,
    /// The output elements of an item: a pixel or row, a row of pixels of a depthwise convolution, or one column of a single row.
    item: usize,
    parts: Parts,
    /// Floats of scratch.
    scratch: usize,
}

/// The work of a float `FusedConv` or `FusedLinear`.
pub(super) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Box<dyn Work>, StepError> {
    let step = arguments.step;
    arguments.operand(0)?.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    let residual = arguments.operands.get(3).copied().flatten();
    let (sizes, activation) = match (&step.op, step.kernel.core()) {
        (Op::FusedConv(op), Core::FConv | Core::FConvDepthwise)
            if let Product::Float(activation) = op.product =>
        {
            let shape = conv_shape(op, arguments, (Layout::Nhwc, Layout::Nhwc))?;
            if step.kernel.core() == Core::FConvDepthwise {
                if residual.is_some() || shape.groups != shape.in_c || shape.out_c != shape.in_c {
                    return Err(arguments.wrong_operator());
                }
                (Sizes::Depthwise(shape), activation)
            } else {
                (Sizes::Conv(shape), activation)
            }
        }
        (Op::FusedLinear(op), Core::FLinear) if let Product::Float(activation) = op.product => {
            (Sizes::Linear(linear_shape(arguments)?), activation)
        }
        _ => return Err(arguments.wrong_operator()),
    };
    if let Some(residual) = residual {
        residual.expect(DType::F32)?;
        if residual.shape != arguments.result().shape {
            return Err(StepError::invalid(
                "the residual does not have the size of the result",
            ));
        }
    }
    let (weights, channels, scratch) = match &sizes {
        Sizes::Conv(shape) => (
            conv::packed_len(shape)?,
            shape.out_c,
            conv::scratch_len(shape)?,
        ),
        Sizes::Depthwise(shape) => (
            step.weights.iter().copied().fold(1, usize::saturating_mul),
            shape.out_c,
            0,
        ),
        Sizes::Linear(shape) => (
            linear::packed_len(shape.k, shape.n)?,
            shape.n,
            linear::scratch_len(shape)?,
        ),
    };
    arguments.expect_packed(&[(DType::F32, weights), (DType::F32, channels)])?;
    let len = arguments.result().len();
    let (item, parts) = match &sizes {
        Sizes::Conv(shape) => {
            let macs = usize::try_from(shape.macs()?).unwrap_or(usize::MAX);
            (channels, split::rows(shape.pixels()?, macs, threads))
        }
        Sizes::Linear(shape) => {
            let macs = len.saturating_mul(shape.k);
            if shape.rows == 1 {
                (1, split::columns(macs, threads))
            } else {
                (channels, split::rows(shape.rows, macs, threads))
            }
        }
        Sizes::Depthwise(shape) => {
            let row = arguments.result().image()?[2] * channels;
            let macs = usize::try_from(shape.macs()?).unwrap_or(usize::MAX);
            let rows = (len / row.max(1)).max(1);
            // A part has enough rows to be worth a thread.
            let rows_a_part = if threads == 1 {
                rows
            } else {
                (MACS / (macs / rows).max(1)).clamp(1, rows)
            };
            let count = rows.div_ceil(rows_a_part);
            (row, Parts { unit: 1, count })
        }
    };
    Ok(Box::new(FloatConv {
        sizes,
        residual: residual.is_some(),
        clamp: activation.bounds().into(),
        item: item.max(1),
        parts,
        scratch,
    }))
}

impl Work for FloatConv {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let weights = numbers::<f32>(call.packed(0))?;
        let bias = Some(numbers::<f32>(call.packed(1))?);
        let residual = if self.residual {
            numbers::<f32>(call.operand(3))?
        } else {
            &[]
        };
        let (isa, clamp) = (call.isa, self.clamp);
        call.pool.run_units(
            numbers_mut::<f32>(only(outputs)?)?,
            self.parts.unit.saturating_mul(self.item),
            self.parts.count,
            self.scratch.saturating_mul(4),
            |first, output, scratch| {
                let items = first / self.item..(first + output.len()) / self.item;
                match &self.sizes {
                    Sizes::Conv(shape) => {
                        let residual = self
                            .residual
                            .then(|| residual.get(first..first + output.len()).unwrap_or(&[]));
                        let data = ConvData {
                            input,
                            weights,
                            bias,
                            residual,
                            clamp,
                        };
                        conv(isa, shape, &data, items, numbers_mut(scratch)?, output)?;
                    }
                    Sizes::Depthwise(shape) => {
                        let data = DepthwiseData {
                            input,
                            weights,
                            bias,
                            clamp,
                        };
                        depthwise(isa, shape, &data, items, output)?;
                    }
                    Sizes::Linear(shape) => {
                        let data = LinearData {
                            input,
                            weights,
                            bias,
                            clamp,
                        };
                        let (rows, columns) = if shape.rows == 1 {
                            (0..1, items)
                        } else {
                            (items, 0..shape.n)
                        };
                        let block = Block { rows, columns };
                        linear(isa, shape, &data, block, numbers_mut(scratch)?, output)?;
                    }
                }
                Ok(())
            },
        )
    }
}
