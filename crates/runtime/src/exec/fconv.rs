//! Float convolutions and linear layers.

use octofold_kernels::conv::{ConvShape, LinearShape};
use octofold_kernels::float::conv::{ConvData, chunk_len, conv, scratch_len};
use octofold_kernels::float::depthwise::{DepthwiseData, depthwise};
use octofold_kernels::float::linear::{self, LinearData, linear};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::conv::{conv_shape, linear_shape};
use super::{Arguments, Call, Work};
use crate::StepError;
use crate::plan::Kernel;
use crate::values::{numbers, numbers_mut};

/// The products that pay for a second thread.
const MACS: u64 = 1 << 18;

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
    clamp: (f32, f32),
    /// Elements of the output that are computed alike whatever else a call computes: the shape decides.
    chunk: usize,
    /// Elements of a part: whole chunks.
    part: usize,
    /// Floats of scratch.
    scratch: usize,
}

/// The work of a float `FusedConv` or `FusedLinear`.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let step = arguments.step;
    arguments.operand(0)?.expect(DType::F32)?;
    arguments.result.expect(DType::F32)?;
    let weights: usize = step
        .weights
        .iter()
        .try_fold(1_usize, |len, &size| len.checked_mul(size))
        .unwrap_or(usize::MAX);
    let residual = arguments.operands.get(3).copied().flatten();
    let (sizes, activation, chunk, scratch) = match (&step.op, step.kernel) {
        (Op::FusedConv(op), Kernel::FConv | Kernel::FConvDepthwise)
            if op.x.is_none() && op.y.is_none() && op.sum.is_none() =>
        {
            let shape = conv_shape(op, arguments)?;
            if step.kernel == Kernel::FConvDepthwise {
                if residual.is_some() || shape.groups != shape.in_c || shape.out_c != shape.in_c {
                    return Err(arguments.wrong_operator());
                }
                let width = arguments.result.image()?[2] * shape.out_c;
                (Sizes::Depthwise(shape), op.activation, width, 0)
            } else {
                (
                    Sizes::Conv(shape),
                    op.activation,
                    chunk_len(&shape)?,
                    scratch_len(&shape)?,
                )
            }
        }
        (Op::FusedLinear(op), Kernel::FLinear) if op.x.is_none() && op.y.is_none() => {
            let shape = linear_shape(arguments)?;
            linear::chunks(&shape)?;
            (
                Sizes::Linear(shape),
                op.activation,
                linear::chunk_len(&shape),
                0,
            )
        }
        _ => return Err(arguments.wrong_operator()),
    };
    if let Some(residual) = residual {
        residual.expect(DType::F32)?;
        if residual.shape != arguments.result.shape {
            return Err(StepError::invalid(
                "the residual does not have the size of the result",
            ));
        }
    }
    let channels = match &sizes {
        Sizes::Conv(shape) | Sizes::Depthwise(shape) => shape.out_c,
        Sizes::Linear(shape) => shape.n,
    };
    arguments.expect_packed(&[(DType::F32, weights), (DType::F32, channels)])?;
    let macs = match &sizes {
        Sizes::Conv(shape) | Sizes::Depthwise(shape) => shape.macs()?,
        Sizes::Linear(shape) => (arguments.result.len() as u64).saturating_mul(shape.k as u64),
    };
    // A part takes as many chunks as pay for a thread.
    let chunks = arguments.result.len().div_ceil(chunk.max(1)).max(1);
    let per_part =
        (MACS.saturating_mul(chunks as u64) / macs.max(1)).clamp(1, chunks as u64) as usize;
    Ok(Box::new(FloatConv {
        sizes,
        residual: residual.is_some(),
        clamp: activation.bounds(),
        chunk: chunk.max(1),
        part: chunk.max(1).saturating_mul(per_part),
        scratch,
    }))
}

impl Work for FloatConv {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let weights = numbers::<f32>(call.packed(0))?;
        let bias = Some(numbers::<f32>(call.packed(1))?);
        let residual = if self.residual {
            numbers::<f32>(call.operand(3))?
        } else {
            &[]
        };
        let (isa, clamp) = (call.isa, self.clamp);
        let scratch_bytes = self.scratch.saturating_mul(4);
        call.pool.run_parts(
            numbers_mut::<f32>(call.output)?,
            self.part,
            scratch_bytes,
            |first, output, scratch| {
                let chunks = first / self.chunk..(first + output.len()).div_ceil(self.chunk);
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
                        conv(isa, shape, &data, chunks, numbers_mut(scratch)?, output)?;
                    }
                    Sizes::Depthwise(shape) => {
                        let data = DepthwiseData {
                            input,
                            weights,
                            bias,
                            clamp,
                        };
                        depthwise(isa, shape, &data, chunks, output)?;
                    }
                    Sizes::Linear(shape) => {
                        let data = LinearData {
                            input,
                            weights,
                            bias,
                            clamp,
                        };
                        linear(isa, shape, &data, chunks, output)?;
                    }
                }
                Ok(())
            },
        )
    }
}
