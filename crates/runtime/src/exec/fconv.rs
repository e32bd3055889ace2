//! Float convolutions and linear layers.

use octofold_kernels::conv::{ConvShape, LinearShape};
use octofold_kernels::float::Block;
use octofold_kernels::float::conv::{self, ConvData, conv};
use octofold_kernels::float::depthwise::{DepthwiseData, depthwise};
use octofold_kernels::float::linear::{self, LinearData, linear, linear_unpacked};
use octofold_kernels::{Bounds, KernelError};
use octofold_ops::Op;
use octofold_ops::families::{Layout, Product};
use octofold_tensor::DType;

use super::conv::{conv_shape, linear_shape};
use super::split::{self, Parts};
use super::{Argument, Arguments, Call, Work};
use crate::StepError;
use crate::plan::Core;
use crate::pool::Columns;
use crate::values::{numbers, numbers_mut};

/// From this number of products on, a second thread saves time in a depthwise convolution.
const MACS: usize = 1 << 18;

#[derive(Debug)]
enum Sizes {
    Conv(ConvShape),
    Depthwise(ConvShape),
    Linear(LinearShape),
}

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
pub(super) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Work, StepError> {
    arguments.operand(0)?.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    let Some(Product::Float(activation)) = arguments.step.op.product() else {
        return Err(arguments.wrong_operator());
    };
    let residual = arguments.operands.get(3).copied().flatten();
    if let Some(residual) = residual {
        residual.expect(DType::F32)?;
        if residual.shape != arguments.result().shape {
            return Err(StepError::invalid(
                "the residual does not have the size of the result",
            ));
        }
    }
    let sizes = Sizes::new(arguments, residual.is_some())?;
    if let (Sizes::Linear(shape), [_]) = (&sizes, &arguments.packed[..]) {
        return bind_unpacked(arguments, *shape, activation.bounds().into());
    }
    let packed = [
        (DType::F32, sizes.packed_len()?),
        (DType::F32, sizes.channels()),
    ];
    arguments.expect_packed(&packed)?;
    let (item, parts) = sizes.split(arguments.result(), threads)?;
    let conv = FloatConv {
        scratch: sizes.scratch_len()?,
        sizes,
        residual: residual.is_some(),
        clamp: activation.bounds().into(),
        item: item.max(1),
        parts,
    };
    Ok(Work::new(move |call, output| conv.run(call, output)))
}

impl Sizes {
    fn new(arguments: &Arguments<'_>, has_residual: bool) -> Result<Self, StepError> {
        let step = arguments.step;
        let conv = |op| conv_shape(op, arguments, (Layout::Nhwc, Layout::Nhwc));
        match (&step.op, step.kernel.core()) {
            (Op::FusedConv(op), Core::FConv) => Ok(Self::Conv(conv(op)?)),
            (Op::FusedConv(op), Core::FConvDepthwise) => {
                let shape = conv(op)?;
                match shape.is_depthwise() && !has_residual {
                    true => Ok(Self::Depthwise(shape)),
                    false => Err(arguments.wrong_operator()),
                }
            }
            (Op::FusedLinear(_), Core::FLinear) => Ok(Self::Linear(linear_shape(arguments)?)),
            _ => Err(arguments.wrong_operator()),
        }
    }

    /// Output channels.
    fn channels(&self) -> usize {
        match self {
            Self::Conv(shape) | Self::Depthwise(shape) => shape.out_c,
            Self::Linear(shape) => shape.n,
        }
    }

    /// Floats of packed weights.
    fn packed_len(&self) -> Result<usize, KernelError> {
        match self {
            Self::Conv(shape) => conv::packed_len(shape),
            Self::Depthwise(shape) => {
                let sizes = [shape.kernel_h, shape.kernel_w];
                Ok(sizes.into_iter().fold(shape.out_c, usize::saturating_mul))
            }
            Self::Linear(shape) => linear::packed_len(shape.k, shape.n),
        }
    }

    /// Floats of scratch.
    fn scratch_len(&self) -> Result<usize, KernelError> {
        match self {
            Self::Conv(shape) => conv::scratch_len(shape),
            Self::Depthwise(_) => Ok(0),
            Self::Linear(shape) => linear::scratch_len(shape),
        }
    }

    /// The elements of an item of the output, and the parts of the items.
    fn split(&self, result: Argument<'_>, threads: usize) -> Result<(usize, Parts), StepError> {
        let macs = |shape: &ConvShape| {
            let macs = shape.macs()?;
            Ok::<_, KernelError>(usize::try_from(macs).unwrap_or(usize::MAX))
        };
        Ok(match self {
            Self::Conv(shape) => {
                let parts = split::rows(shape.pixels()?, macs(shape)?, threads);
                (shape.out_c, parts)
            }
            Self::Linear(shape) => {
                let macs = result.len().saturating_mul(shape.k);
                match shape.rows {
                    1 => (1, split::columns(macs, threads)),
                    rows => (shape.n, split::rows(rows, macs, threads)),
                }
            }
            Self::Depthwise(shape) => {
                let row = shape.out_w().unwrap_or(1) * shape.out_c;
                let rows = (result.len() / row.max(1)).max(1);
                // A part has enough rows to be worth a thread.
                let rows_a_part = match threads {
                    1 => rows,
                    _ => (MACS / (macs(shape)? / rows).max(1)).clamp(1, rows),
                };
                let count = rows.div_ceil(rows_a_part);
                (row, Parts { unit: 1, count })
            }
        })
    }
}

impl FloatConv {
    fn run(&self, call: Call<'_>, output: &mut [f32]) -> Result<(), StepError> {
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
            output,
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

/// The columns of weights that are packed at a time.
const UNPACKED_COLUMNS: usize = 64;

/// The work of a linear layer whose weights are those of the operator, and are packed in each run.
fn bind_unpacked(
    arguments: &Arguments<'_>,
    shape: LinearShape,
    clamp: Bounds,
) -> Result<Work, StepError> {
    arguments.expect_packed(&[(DType::F32, shape.n)])?;
    let weights = arguments.operand(1)?;
    weights.expect(DType::F32)?;
    if weights.shape != [shape.k, shape.n] {
        return Err(arguments.wrong_operator());
    }
    // Some columns of the result, and what the kernel needs.
    let floats = linear::unpacked_scratch_len(&shape, UNPACKED_COLUMNS)?
        .saturating_add(shape.rows.saturating_mul(UNPACKED_COLUMNS));
    let scratch = floats.saturating_mul(4);
    Ok(Work::new(move |call, output: &mut [f32]| {
        let data = LinearData {
            input: call.numbers(0)?,
            weights: call.numbers(1)?,
            bias: Some(numbers(call.packed(0))?),
            clamp,
        };
        let each = |first: usize, output: &mut Columns<'_, f32>, scratch: &mut [u8]| {
            let width = output.width();
            let (result, scratch) = numbers_mut(scratch)?.split_at_mut(shape.rows * width);
            let columns = first..first + width;
            linear_unpacked(call.isa, &shape, &data, columns, scratch, result)?;
            for (row, from) in result.chunks_exact(width).enumerate() {
                output.rows(row..row + 1)?[0].copy_from_slice(from);
            }
            Ok(())
        };
        (call.pool).run_columns(output, shape.n, UNPACKED_COLUMNS, scratch, each)
    }))
}
