//! Elementwise float operators, and float pooling.

use octofold_kernels::Bounds;
use octofold_kernels::float::elementwise::{Binary, binary, clip};
use octofold_kernels::float::pool::{average_pool, global_average_pool, max_pool};
use octofold_ops::Op;
use octofold_ops::families::{BinaryForm, BinaryKind, FusedBinary, Layout, PoolKind};
use octofold_tensor::DType;

use super::broadcast::Broadcast;
use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

/// The work of a float function of two operands.
pub(super) fn bind_binary(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    Ok(broadcast.work(move |isa, [a, b], output| {
        let (a, b) = (numbers(a)?, numbers(b)?);
        Ok(binary(isa, op, a, b, clamp, numbers_mut(output)?)?)
    }))
}

/// The work of a float `Relu`, or of a `Clip` with constant bounds.
pub(super) fn bind_clip(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    Ok(Work::of_elements(part, move |isa, input, output| {
        clip(isa, input, bounds, output)
    }))
}

/// The work of a float `FusedPool`, or of a `FusedGlobalPool` by the maximum.
pub(super) fn bind_pool(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    let part = super::pool::part(&shape);
    let width = shape.out_w * shape.channels;
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        (call.pool).run_parts(output, part * width, 0, |first, output, _| {
            let rows = first / width..(first + output.len()) / width;
            match kind {
                PoolKind::Max => max_pool(call.isa, &shape, input, rows, output)?,
                PoolKind::Average => {
                    average_pool(call.isa, &shape, count_padding, input, rows, output)?;
                }
            }
            Ok(())
        })
    }))
}

/// The work of a float `FusedGlobalPool` by the mean.
pub(super) fn bind_global(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    // Each part reads its channels of all pixels. It has as many channels as the kernel sums at a time, because skipped cache lines are fetched anyway.
    let part = part_len(shape.batch * shape.channels, 4 * shape.pixels, BYTES, 64);
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let planes = first..first + output.len();
            Ok(global_average_pool(
                call.isa, &shape, input, planes, output,
            )?)
        })
    }))
}
