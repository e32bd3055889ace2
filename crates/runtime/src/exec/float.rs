//! Elementwise float operators, and float pooling.

use octofold_kernels::Bounds;
use octofold_kernels::float::elementwise::{Binary, binary, clip};
use octofold_kernels::float::pool::{average_pool, global_average_pool, max_pool};
use octofold_kernels::shared::{ImageShape, PoolShape};
use octofold_ops::Op;
use octofold_ops::families::{BinaryForm, BinaryKind, FusedBinary, Layout, PoolKind};
use octofold_tensor::DType;

use super::broadcast::Broadcast;
use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

#[derive(Debug)]
struct Arithmetic {
    op: Binary,
    clamp: Bounds,
    broadcast: Broadcast<2>,
}

/// The work of a float function of two operands.
pub(super) fn bind_binary(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let (op, clamp) = match &arguments.step.op {
        Op::Add(_) => (Binary::Add, Bounds::NONE),
        Op::Sub(_) => (Binary::Sub, Bounds::NONE),
        Op::Mul(_) => (Binary::Mul, Bounds::NONE),
        Op::Div(_) => (Binary::Div, Bounds::NONE),
        Op::Max(_) => (Binary::Max, Bounds::NONE),
        Op::Min(_) => (Binary::Min, Bounds::NONE),
        Op::Pow(_) => (Binary::Pow, Bounds::NONE),
        Op::PRelu(_) => (Binary::PRelu, Bounds::NONE),
        Op::FusedBinary(FusedBinary {
            kind,
            form: BinaryForm::Float(activation),
        }) => {
            let kind = match kind {
                BinaryKind::Add => Binary::Add,
                BinaryKind::Mul => Binary::Mul,
            };
            (kind, activation.bounds().into())
        }
        _ => return Err(arguments.wrong_operator()),
    };
    let operands = [arguments.operand(0)?, arguments.operand(1)?];
    if arguments.operands.len() != 2 {
        return Err(arguments.wrong_operator());
    }
    for operand in operands.iter().chain([&arguments.result()]) {
        operand.expect(DType::F32)?;
    }
    let broadcast =
        Broadcast::new(arguments.result(), operands).ok_or_else(|| arguments.wrong_operator())?;
    Ok(Box::new(Arithmetic {
        op,
        clamp,
        broadcast,
    }))
}

impl Work for Arithmetic {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        self.broadcast.run(
            (call.isa, call.pool),
            [call.operand(0), call.operand(1)],
            only(outputs)?,
            |[a, b], output| {
                let (a, b) = (numbers(a)?, numbers(b)?);
                let output = numbers_mut(output)?;
                Ok(binary(call.isa, self.op, a, b, self.clamp, output)?)
            },
        )
    }
}

#[derive(Debug)]
struct Clip {
    bounds: Bounds,
    part: usize,
}

/// The work of a float `Relu`, or of a `Clip` with constant bounds.
pub(super) fn bind_clip(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    arguments.expect_result(operand.shape)?;
    let bounds = match &arguments.step.op {
        Op::Relu(_) => Bounds::new(0.0, f32::INFINITY),
        Op::Clip(_) => {
            let bound =
                |slot: usize, default: f32| match arguments.operands.get(slot).copied().flatten() {
                    None => Ok(default),
                    Some(bound) => {
                        bound.expect(DType::F32)?;
                        let bytes = bound
                            .constant
                            .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
                        bytes
                            .map(f32::from_le_bytes)
                            .ok_or_else(|| StepError::invalid("a bound is no constant"))
                    }
                };
            Bounds::new(bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?)
        }
        _ => return Err(arguments.wrong_operator()),
    };
    if bounds.lo.is_nan() || bounds.hi.is_nan() || bounds.lo > bounds.hi {
        return Err(arguments.wrong_operator());
    }
    let part = part_len(operand.len(), 8, BYTES, 64);
    Ok(Box::new(Clip { bounds, part }))
}

impl Work for Clip {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let output = numbers_mut(only(outputs)?)?;
        call.pool
            .run_parts(output, self.part, 0, |first, output, _| {
                let input = input.get(first..first + output.len()).unwrap_or(&[]);
                Ok(clip(call.isa, input, self.bounds, output)?)
            })
    }
}

#[derive(Debug)]
struct Pool {
    kind: PoolKind,
    shape: PoolShape,
    count_padding: bool,
    part: usize,
}

/// The work of a float `FusedPool`, or of a `FusedGlobalPool` by the maximum.
pub(super) fn bind_pool(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let (kind, count_padding) = match &arguments.step.op {
        Op::FusedPool(op) if op.rescale.is_none() => (op.kind, op.count_include_pad),
        Op::FusedGlobalPool(op) if op.rescale.is_none() => (op.kind, false),
        _ => return Err(arguments.wrong_operator()),
    };
    arguments.operand(0)?.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    let shape = super::pool::pool_shape(arguments)?;
    // Refuses invalid sizes.
    shape.rows()?;
    Ok(Box::new(Pool {
        kind,
        count_padding,
        part: super::pool::part(&shape),
        shape,
    }))
}

impl Work for Pool {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let width = self.shape.out_w * self.shape.channels;
        let output = numbers_mut(only(outputs)?)?;
        call.pool
            .run_parts(output, self.part * width, 0, |first, output, _| {
                let rows = first / width..(first + output.len()) / width;
                let result = match self.kind {
                    PoolKind::Max => max_pool(call.isa, &self.shape, input, rows, output),
                    PoolKind::Average => average_pool(
                        call.isa,
                        &self.shape,
                        self.count_padding,
                        input,
                        rows,
                        output,
                    ),
                };
                Ok(result?)
            })
    }
}

#[derive(Debug)]
struct GlobalAverage {
    shape: ImageShape,
    part: usize,
}

/// The work of a float `FusedGlobalPool` by the mean.
pub(super) fn bind_global(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::FusedGlobalPool(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (None, PoolKind::Average, Layout::Nhwc) = (op.rescale, op.kind, op.layout) else {
        return Err(arguments.wrong_operator());
    };
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    let shape = super::pool::pooled_images(arguments)?;
    Ok(Box::new(GlobalAverage {
        // Each part reads its channels of all pixels. It has as many channels as the kernel sums at a time, because skipped cache lines are fetched anyway.
        part: part_len(shape.batch * shape.channels, 4 * shape.pixels, BYTES, 64),
        shape,
    }))
}

impl Work for GlobalAverage {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let output = numbers_mut(only(outputs)?)?;
        call.pool
            .run_parts(output, self.part, 0, |first, output, _| {
                Ok(global_average_pool(
                    call.isa,
                    &self.shape,
                    input,
                    first..first + output.len(),
                    output,
                )?)
            })
    }
}
