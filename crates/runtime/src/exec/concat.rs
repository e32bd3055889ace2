//! Concatenation: of quantized values with different qparams, and of unchanged bytes.

use octofold_kernels::conv::RowStride;
use octofold_kernels::shared::concat::{ConcatInput, concat};
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::Op;
use octofold_quant::QParams;
use smallvec::SmallVec;

use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;

/// The rows of a result. Each is made of one row of each operand.
#[derive(Debug)]
struct Rows {
    outer: usize,
    /// Bytes of a row of each operand.
    inner: Vec<usize>,
    /// Bytes of a row of the result, and of an element.
    width: usize,
    size: usize,
}

impl Rows {
    /// Checks that the operands join to the result along the step's axis.
    fn new(arguments: &Arguments<'_>) -> Result<Self, StepError> {
        let result = arguments.result();
        let rank = result.shape.len();
        let axis = match &arguments.step.op {
            Op::FusedConcat(op) => op.axis,
            Op::Concat(op) if op.axis < 0 => op.axis.saturating_add(rank as i64),
            Op::Concat(op) => op.axis,
            _ => return Err(arguments.wrong_operator()),
        };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < rank);
        let axis = axis.ok_or_else(|| arguments.wrong_operator())?;
        let size = result.dtype.size();
        let size = size.ok_or_else(|| arguments.wrong_operator())?;
        let mut inner = Vec::with_capacity(arguments.operands.len());
        let mut along = 0_usize;
        for slot in 0..arguments.operands.len() {
            let operand = arguments.operand(slot)?;
            let fits = operand.shape.len() == rank
                && operand.shape[..axis] == result.shape[..axis]
                && operand.shape[axis + 1..] == result.shape[axis + 1..];
            if !fits {
                return Err(StepError::invalid(format!(
                    "operand {slot} is {:?}, which does not join to {:?}",
                    operand.shape, result.shape
                )));
            }
            along = along.saturating_add(operand.shape[axis]);
            inner.push(operand.shape[axis..].iter().product::<usize>() * size);
        }
        if along != result.shape[axis] {
            return Err(StepError::invalid(format!(
                "the operands have {along} along the axis, the result {}",
                result.shape[axis]
            )));
        }
        Ok(Self {
            outer: result.shape[..axis].iter().product(),
            inner,
            width: result.shape[axis..].iter().product::<usize>() * size,
            size,
        })
    }

    /// Rows of a part.
    fn part(&self) -> usize {
        part_len(self.outer, 2 * self.width, BYTES, 1)
    }
}

/// For each operand, the position of its rows in the rows of the result; `None` for an operand that is rescaled.
///
/// # Errors
/// As binding it.
pub(crate) fn places(arguments: &Arguments<'_>) -> Result<Vec<Option<Placed>>, StepError> {
    let rows = Rows::new(arguments)?;
    let quantization = match arguments.step.op {
        Op::FusedConcat(_) => Some(quantization(arguments)?),
        _ => None,
    };
    let mut offset = 0;
    let placed = rows.inner.iter().enumerate().map(|(slot, &inner)| {
        let row_stride = RowStride {
            pitch: rows.width,
            offset,
        };
        offset += inner;
        let copied = match &quantization {
            Some((inputs, target)) => Target8::full(inputs[slot]) == *target,
            None => true,
        };
        let last = arguments.operands[slot]?.shape.last()?;
        copied.then_some(Placed {
            contiguous: rows.outer == 1,
            along_last: last * rows.size == inner,
            row_stride,
        })
    });
    Ok(placed.collect())
}

/// See [`places`].
pub(crate) struct Placed {
    /// Whether the operand has one row, and so is contiguous in the result.
    pub(crate) contiguous: bool,
    /// Whether the rows are those of the last axis, the channels of a pixel.
    pub(crate) along_last: bool,
    pub(crate) row_stride: RowStride,
}

/// The quantization of each operand and of the result.
fn quantization(arguments: &Arguments<'_>) -> Result<(Vec<Quant8>, Target8), StepError> {
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
    let mut inputs = Vec::with_capacity(count);
    for (slot, (&scale, &zero_point)) in op.x_scale.iter().zip(&op.x_zero_point).enumerate() {
        let zero_point = i32::try_from(zero_point).map_err(|_| arguments.wrong_operator())?;
        inputs.push(
            arguments
                .operand(slot)?
                .quant(QParams { scale, zero_point })?,
        );
    }
    Ok((inputs, arguments.target(&op.y)?))
}

/// The work of a `FusedConcat`.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let rows = Rows::new(arguments)?;
    let (inputs, target) = quantization(arguments)?;
    let in_place = |slot: usize| arguments.layout.in_place_operands.contains(&slot);
    let inputs = inputs.into_iter().enumerate();
    let inputs: Vec<(Quant8, bool)> = inputs
        .map(|(slot, quant)| (quant, in_place(slot)))
        .collect();
    let (width, part) = (rows.width, rows.part() * rows.width);
    Ok(Work::new(move |call, output| {
        if width == 0 {
            return Ok(());
        }
        let operands = inputs.iter().zip(&rows.inner).enumerate();
        let operands = operands.map(|(slot, (&(quant, in_place), &inner))| ConcatInput {
            data: (!in_place).then(|| call.operand(slot)),
            quant,
            inner,
        });
        let operands: SmallVec<[ConcatInput<'_>; 8]> = operands.collect();
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let lines = first / width..(first + output.len()) / width;
            Ok(concat(
                call.isa, &operands, target, rows.outer, lines, output,
            )?)
        })
    }))
}

/// The work of a `Concat`.
pub(super) fn bind_plain(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let rows = Rows::new(arguments)?;
    let slots = 0..arguments.operands.len();
    for slot in slots.clone() {
        arguments.operand(slot)?.expect(arguments.result().dtype)?;
    }
    let in_place = slots.map(|slot| arguments.layout.in_place_operands.contains(&slot));
    let in_place: Vec<bool> = in_place.collect();
    let (width, part) = (rows.width, rows.part() * rows.width);
    Ok(Work::new(move |call, output| {
        if width == 0 {
            return Ok(());
        }
        call.pool.run_parts(output, part, 0, |first, output, _| {
            for (index, mut row) in output.chunks_exact_mut(width).enumerate() {
                let line = first / width + index;
                for (slot, &inner) in rows.inner.iter().enumerate() {
                    let (target, rest) = row.split_at_mut(inner);
                    row = rest;
                    if in_place[slot] {
                        continue;
                    }
                    let source = call.operand(slot).get(line * inner..(line + 1) * inner);
                    let source = source.ok_or_else(|| {
                        StepError::invalid("an operand is shorter than the result")
                    })?;
                    target.copy_from_slice(source);
                }
            }
            Ok(())
        })
    }))
}
