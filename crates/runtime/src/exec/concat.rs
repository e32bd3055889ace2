//! Concatenation: of quantized values with parameters of their own, and of bytes as they are.

use octofold_kernels::shared::concat::{ConcatInput, concat};
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::Op;
use octofold_quant::QParams;
use smallvec::SmallVec;

use super::{Arguments, BYTES, Call, Work, part_len};
use crate::StepError;

#[derive(Debug)]
struct Concat {
    /// What the bytes of each operand mean, and the bytes of a row of it.
    inputs: Vec<(Quant8, usize)>,
    target: Target8,
    outer: usize,
    /// Bytes of a row of the result.
    width: usize,
    /// Rows of a part.
    part: usize,
}

/// The work of a `FusedConcat`.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::FusedConcat(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let count = arguments.operands.len();
    if op.x_scale.len() != count || op.x_zero_point.len() != count {
        return Err(StepError::invalid(format!(
            "{count} operands with {} scales",
            op.x_scale.len()
        )));
    }
    let result = arguments.result.shape;
    let axis = usize::try_from(op.axis)
        .ok()
        .filter(|&axis| axis < result.len());
    let axis = axis.ok_or_else(|| arguments.wrong_operator())?;
    let target = arguments.target(&op.y)?;
    let mut inputs = Vec::with_capacity(count);
    let mut along = 0;
    for (slot, (&scale, &zero_point)) in op.x_scale.iter().zip(&op.x_zero_point).enumerate() {
        let operand = arguments.operand(slot)?;
        let zero_point = i32::try_from(zero_point).map_err(|_| arguments.wrong_operator())?;
        let quant = operand.quant(QParams { scale, zero_point })?;
        let fits = operand.shape.len() == result.len()
            && operand.shape[..axis] == result[..axis]
            && operand.shape[axis + 1..] == result[axis + 1..];
        if !fits {
            return Err(StepError::invalid(format!(
                "operand {slot} is {:?}, which does not join to {result:?}",
                operand.shape
            )));
        }
        along += operand.shape[axis];
        inputs.push((quant, operand.shape[axis..].iter().product()));
    }
    if along != result[axis] {
        return Err(StepError::invalid(format!(
            "the operands have {along} along the axis, the result {}",
            result[axis]
        )));
    }
    let outer = result[..axis].iter().product();
    let width = result[axis..].iter().product();
    let part = part_len(outer, 2 * width, BYTES, 1);
    Ok(Box::new(Concat {
        inputs,
        target,
        outer,
        width,
        part,
    }))
}

impl Work for Concat {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        if self.width == 0 {
            return Ok(());
        }
        let inputs = self
            .inputs
            .iter()
            .enumerate()
            .map(|(slot, &(quant, inner))| ConcatInput {
                data: call.operand(slot),
                quant,
                inner,
            });
        let inputs: SmallVec<[ConcatInput<'_>; 8]> = inputs.collect();
        call.pool.run_parts(
            call.output,
            self.part * self.width,
            0,
            |first, output, _| {
                let rows = first / self.width..(first + output.len()) / self.width;
                Ok(concat(
                    call.isa,
                    &inputs,
                    self.target,
                    self.outer,
                    rows,
                    output,
                )?)
            },
        )
    }
}

#[derive(Debug)]
struct Plain {
    /// Bytes of a row of each operand.
    inner: Vec<usize>,
    /// Bytes of a row of the result.
    width: usize,
    /// Rows of a part.
    part: usize,
}

/// The work of a `Concat`.
pub(super) fn bind_plain(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::Concat(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let result = arguments.result;
    let rank = result.shape.len();
    let axis = if op.axis < 0 {
        op.axis.saturating_add(rank as i64)
    } else {
        op.axis
    };
    let axis = usize::try_from(axis)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| arguments.wrong_operator())?;
    let size = result
        .dtype
        .size()
        .ok_or_else(|| arguments.wrong_operator())?;
    let mut inner = Vec::with_capacity(arguments.operands.len());
    for slot in 0..arguments.operands.len() {
        let operand = arguments.operand(slot)?;
        operand.expect(result.dtype)?;
        let fits = operand.shape.len() == rank
            && operand.shape[..axis] == result.shape[..axis]
            && operand.shape[axis + 1..] == result.shape[axis + 1..];
        if !fits {
            return Err(StepError::invalid(format!(
                "operand {slot} is {:?}, which does not join to {:?}",
                operand.shape, result.shape
            )));
        }
        inner.push(operand.shape[axis..].iter().product::<usize>() * size);
    }
    let outer = result.shape[..axis].iter().product();
    let width = result.shape[axis..].iter().product::<usize>() * size;
    if inner.iter().sum::<usize>() != width {
        return Err(StepError::invalid(
            "the operands do not add up to the result",
        ));
    }
    let part = part_len(outer, 2 * width, BYTES, 1);
    Ok(Box::new(Plain { inner, width, part }))
}

impl Work for Plain {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        if self.width == 0 {
            return Ok(());
        }
        let shared = call.shared();
        call.pool.run_parts(
            call.output,
            self.part * self.width,
            0,
            |first, output, _| {
                for (index, mut row) in output.chunks_exact_mut(self.width).enumerate() {
                    let line = first / self.width + index;
                    for (slot, &inner) in self.inner.iter().enumerate() {
                        let source = shared.operand(slot).get(line * inner..(line + 1) * inner);
                        let source = source.ok_or_else(|| {
                            StepError::invalid("an operand is shorter than the result")
                        })?;
                        let (target, rest) = row.split_at_mut(inner);
                        target.copy_from_slice(source);
                        row = rest;
                    }
                }
                Ok(())
            },
        )
    }
}
