//! Operators that move elements.
//!
//! One kernel, [`Movement`], computes all of them. They differ in the tables that say where each axis of the result takes its elements from. This file makes the tables once
//! for each specialization.

use octofold_kernels::shared::movement::{BORDER, Movement};
use octofold_ops::Op;
use octofold_ops::families::{BlockOrder, Pad, PadMode, Resize, Slice};
use octofold_tensor::{DType, Dim};

use super::{Argument, Arguments, BYTES, Work, part_len};
use crate::StepError;

/// For each axis of the result, the offsets of its positions in elements of the operand, or [`BORDER`].
type Offsets = Vec<Vec<usize>>;

/// The longest axis of a table. Tables have one entry for each position, and sizes come from files.
const LONGEST: usize = 1 << 24;

/// The work of an operator that moves elements.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let operand = arguments.operand(0)?;
    arguments.result().expect(operand.dtype)?;
    let size = operand
        .dtype
        .size()
        .ok_or_else(|| arguments.wrong_operator())?;
    let mut sizes = operand.shape.iter().chain(arguments.result().shape);
    if sizes.any(|&size| size > LONGEST) {
        return Err(StepError::invalid(format!(
            "an axis of {:?} or {:?} is longer than {LONGEST}",
            operand.shape,
            arguments.result().shape
        )));
    }
    // An empty result needs no tables.
    let mut axes = match arguments.result().len() {
        0 => vec![vec![]],
        _ => offsets(arguments)?,
    };
    let shape: Vec<usize> = axes.iter().map(Vec::len).collect();
    if arguments.result().len() > 0 {
        arguments.expect_result(&shape)?;
    }
    for offset in axes
        .iter_mut()
        .flatten()
        .filter(|offset| **offset != BORDER)
    {
        *offset *= size;
    }
    let movement = Movement::new(&axes, size)?;
    let fill = match &arguments.step.op {
        Op::Pad(_) => fill(arguments, size)?,
        _ => Vec::new(),
    };
    let part = part_len(movement.rows(), 2 * movement.width(), BYTES, 1);
    let (tables, width) = (movement.table_bytes(), movement.width());
    let work = Work::new(move |call, output| {
        if width == 0 {
            return Ok(());
        }
        let input = call.operand(0);
        (call.pool).run_parts(output, part * width, 0, |first, output, _| {
            let rows = first / width..(first + output.len()) / width;
            Ok(movement.run(input, &fill, rows, output)?)
        })
    });
    Ok(work.with_tables(tables))
}

/// The byte offset of a slice in its operand, if the elements of the slice are contiguous there.
///
/// # Errors
/// As binding it.
pub(crate) fn slice_start(arguments: &Arguments<'_>) -> Result<Option<usize>, StepError> {
    let size = arguments.result().dtype.size().unwrap_or(1);
    let shape = arguments.result().shape;
    let mut sizes = arguments.operand(0)?.shape.iter().chain(shape);
    if arguments.result().len() == 0 || sizes.any(|&size| size > LONGEST) {
        return Ok(None);
    }
    let axes = offsets(arguments)?;
    if !axes.iter().map(Vec::len).eq(shape.iter().copied()) {
        return Ok(None);
    }
    let follows = |(offsets, stride): (&Vec<usize>, usize)| {
        let mut pairs = offsets.windows(2);
        pairs.all(|pair| pair[0].checked_add(stride) == Some(pair[1]))
    };
    let known = axes.iter().flatten().all(|&offset| offset != BORDER);
    let whole = known && axes.iter().zip(strides(shape)).all(follows);
    let start = axes.iter().filter_map(|offsets| offsets.first());
    Ok(whole.then(|| start.sum::<usize>() * size))
}

/// The bytes of the element that fills the border.
fn fill(arguments: &Arguments<'_>, size: usize) -> Result<Vec<u8>, StepError> {
    match arguments.operands.get(2).copied().flatten() {
        None => Ok(vec![0; size]),
        Some(value) => {
            value.expect(arguments.result().dtype)?;
            let bytes = value.constant.filter(|bytes| bytes.len() == size);
            bytes
                .map(<[u8]>::to_vec)
                .ok_or_else(|| StepError::invalid("the filling is not one constant"))
        }
    }
}

/// The integers of a constant operand; `None` when the operand is absent.
pub(super) fn list(arguments: &Arguments<'_>, slot: usize) -> Result<Option<Vec<i64>>, StepError> {
    let Some(argument) = arguments.operands.get(slot).copied().flatten() else {
        return Ok(None);
    };
    let not_constant = || StepError::invalid(format!("operand {slot} is not a constant list"));
    let bytes = argument.constant.ok_or_else(not_constant)?;
    match argument.dtype {
        DType::I64 => {
            let numbers = bytes.as_chunks::<8>().0.iter();
            Ok(Some(
                numbers.map(|&word| i64::from_ne_bytes(word)).collect(),
            ))
        }
        DType::I32 => {
            let numbers = bytes.as_chunks::<4>().0.iter();
            let wide = numbers.map(|&word| i32::from_ne_bytes(word).into());
            Ok(Some(wide.collect()))
        }
        _ => Err(not_constant()),
    }
}

/// The factors by which a `Resize` with constant lists scales the axes of its operand.
///
/// # Errors
/// Also when the result has other sizes than the plan says, before any table is made.
pub(super) fn resized(op: &Resize, arguments: &Arguments<'_>) -> Result<Vec<f32>, StepError> {
    let shape = arguments.operand(0)?.shape;
    let dims: Vec<Dim> = shape.iter().map(|&size| size.into()).collect();
    let scales = floats(arguments.operands.get(2).copied().flatten())?;
    let sizes = list(arguments, 3)?.filter(|sizes| !sizes.is_empty());
    let sizes: Option<Vec<Dim>> = sizes.map(|sizes| sizes.into_iter().map(Dim::Known).collect());
    let resized = op.resized(&dims, scales.as_deref(), sizes.as_deref())?;
    let sizes = resized.sizes.iter().map(|size| {
        let size = size.as_ref()?.known()?;
        usize::try_from(size).ok()
    });
    let sizes: Option<Vec<usize>> = sizes.collect();
    if sizes.as_deref() != Some(arguments.result().shape) {
        return Err(arguments.wrong_operator());
    }
    Ok(resized.scales)
}

/// The floats of a constant operand; `None` when it is absent or has no elements.
fn floats(argument: Option<Argument<'_>>) -> Result<Option<Vec<f32>>, StepError> {
    let Some(argument) = argument.filter(|argument| argument.len() > 0) else {
        return Ok(None);
    };
    argument.expect(DType::F32)?;
    let bytes = argument
        .constant
        .ok_or_else(|| StepError::invalid("the scales are not constant"))?;
    let numbers = bytes.as_chunks::<4>().0.iter();
    Ok(Some(
        numbers.map(|&word| f32::from_ne_bytes(word)).collect(),
    ))
}

/// The distance between neighbours along each axis, in elements.
fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}

/// A position in the form of the kernel.
fn position(index: i64, stride: usize) -> usize {
    usize::try_from(index).map_or(BORDER, |index| index * stride)
}

fn offsets(arguments: &Arguments<'_>) -> Result<Offsets, StepError> {
    let shape = arguments.operand(0)?.shape;
    let stride = strides(shape);
    let along = |axis: usize, positions: Vec<usize>| -> Vec<usize> {
        positions
            .into_iter()
            .map(|index| index * stride[axis])
            .collect()
    };
    match &arguments.step.op {
        Op::Transpose(op) => {
            let axes = op.axes(shape.len())?;
            let axes = axes.into_iter();
            Ok(axes
                .map(|axis| along(axis, (0..shape[axis]).collect()))
                .collect())
        }
        Op::Slice(_) => slice(arguments, shape, &stride),
        Op::Pad(op) => pad(op, arguments, shape, &stride),
        Op::Resize(op) => {
            let scales = resized(op, arguments)?;
            let positions = op.nearest_positions(shape, arguments.result().shape, &scales);
            let positions = positions.ok_or_else(|| arguments.wrong_operator())?;
            Ok(positions
                .into_iter()
                .enumerate()
                .map(|(axis, positions)| along(axis, positions))
                .collect())
        }
        Op::DepthToSpace(op) => blocks(arguments, op.blocksize, op.mode, [0, 1, 2, 3]),
        Op::NhwcDepthToSpace(op) => blocks(arguments, op.blocksize, op.mode, [0, 3, 1, 2]),
        Op::Expand(_) | Op::Tile(_) => {
            // Both repeat an axis to fill the result; missing leading axes have no extent.
            let result = arguments.result().shape;
            let missing = result.len().checked_sub(shape.len());
            let missing = missing.ok_or_else(|| arguments.wrong_operator())?;
            let tables = result.iter().enumerate().map(|(axis, &size)| {
                let Some(own) = axis.checked_sub(missing) else {
                    return Some(vec![0; size]);
                };
                let whole = shape[own] > 0 && size % shape[own] == 0;
                whole.then(|| along(own, (0..size).map(|index| index % shape[own]).collect()))
            });
            tables
                .collect::<Option<_>>()
                .ok_or_else(|| arguments.wrong_operator())
        }
        Op::Gather(op) => {
            let rank = shape.len() as i64;
            let axis = if op.axis < 0 { op.axis + rank } else { op.axis };
            let axis = usize::try_from(axis)
                .ok()
                .filter(|&axis| axis < shape.len());
            let axis = axis.ok_or_else(|| arguments.wrong_operator())?;
            gather(arguments, shape, &stride, axis)
        }
        _ => Err(arguments.wrong_operator()),
    }
}

fn slice(
    arguments: &Arguments<'_>,
    shape: &[usize],
    stride: &[usize],
) -> Result<Offsets, StepError> {
    let missing = || StepError::invalid("a slice has starts and ends");
    let (starts, ends) = (
        list(arguments, 1)?.ok_or_else(missing)?,
        list(arguments, 2)?.ok_or_else(missing)?,
    );
    let (axes, steps) = (list(arguments, 3)?, list(arguments, 4)?);
    let lists = Slice::lists(
        &starts,
        &ends,
        axes.as_deref(),
        steps.as_deref(),
        shape.len(),
    )?;
    let whole = shape.iter().zip(stride);
    let mut tables: Offsets = whole
        .map(|(&size, &stride)| (0..size).map(|index| index * stride).collect())
        .collect();
    for (axis, start, end, step) in lists {
        let (start, count) = Slice::range(start, end, step, shape[axis] as i64)?;
        // The last index is inside the axis, so all indices before it are.
        let index = |i: i64| start.saturating_add(step.saturating_mul(i));
        tables[axis] = (0..count)
            .map(|i| position(index(i), stride[axis]))
            .collect();
    }
    Ok(tables)
}

fn pad(
    op: &Pad,
    arguments: &Arguments<'_>,
    shape: &[usize],
    stride: &[usize],
) -> Result<Offsets, StepError> {
    let pads = list(arguments, 1)?.ok_or_else(|| arguments.wrong_operator())?;
    let axes = list(arguments, 3)?;
    let borders = Pad::borders(&pads, axes.as_deref(), shape.len())?;
    let result = arguments.result().shape;
    if result.len() != shape.len() {
        return Err(arguments.wrong_operator());
    }
    let tables = borders
        .into_iter()
        .enumerate()
        .map(|(axis, (before, after))| {
            let cut = before.min(0).unsigned_abs() as i64;
            let size = (shape[axis] as i64)
                .checked_sub(cut)?
                .checked_add(after.min(0))?;
            let padded = size.checked_add(before.max(0))?.checked_add(after.max(0))?;
            // The plan has computed the size. Refuse another one before a table of it is made.
            let count = usize::try_from(padded)
                .ok()
                .filter(|&count| count == result[axis])?;
            let known = size > 0 || (size == 0 && op.mode == PadMode::Constant);
            (known || count == 0).then_some(())?;
            let index = |i: usize| op.mode.source(i as i64 - before.max(0), size);
            Some(
                (0..count)
                    .map(|i| index(i).map_or(BORDER, |index| position(index + cut, stride[axis])))
                    .collect(),
            )
        });
    tables
        .collect::<Option<_>>()
        .ok_or_else(|| arguments.wrong_operator())
}

/// The tables of `DepthToSpace`; `order` says which axes of the operand are batch, channels, height and width.
fn blocks(
    arguments: &Arguments<'_>,
    blocksize: i64,
    mode: BlockOrder,
    order: [usize; 4],
) -> Result<Offsets, StepError> {
    let shape: [usize; 4] = arguments
        .operand(0)?
        .shape
        .try_into()
        .map_err(|_| arguments.wrong_operator())?;
    let stride = strides(&shape);
    let [n, c, h, w] = order.map(|axis| (shape[axis], stride[axis]));
    let block = usize::try_from(blocksize).ok().filter(|&b| b > 0);
    let area = block.and_then(|b| b.checked_mul(b));
    let area = area.filter(|area| c.0 > 0 && c.0 % area == 0);
    let (Some(block), Some(area)) = (block, area) else {
        return Err(arguments.wrong_operator());
    };
    let depth = c.0 / area;
    // The number of channels between neighbouring positions of a block, and between neighbouring channels of the result.
    let (place, channel) = match mode {
        BlockOrder::Dcr => (depth, 1),
        BlockOrder::Crd => (1, area),
    };
    let spread = |(size, stride): (usize, usize), step: usize| -> Vec<usize> {
        let index = |i: usize| i / block * stride + i % block * step * c.1;
        (0..size * block).map(index).collect()
    };
    let tables = [
        (0..n.0).map(|i| i * n.1).collect(),
        (0..depth).map(|i| i * channel * c.1).collect(),
        spread(h, block * place),
        spread(w, place),
    ];
    let mut sorted: Vec<(usize, Vec<usize>)> = order.into_iter().zip(tables).collect();
    sorted.sort_by_key(|&(axis, _)| axis);
    Ok(sorted.into_iter().map(|(_, table)| table).collect())
}

/// The tables of a `Gather` along an axis by a constant list of indices.
fn gather(
    arguments: &Arguments<'_>,
    shape: &[usize],
    stride: &[usize],
    axis: usize,
) -> Result<Offsets, StepError> {
    let indices = list(arguments, 1)?.ok_or_else(|| arguments.wrong_operator())?;
    let size = shape[axis] as i64;
    let picked = indices.iter().map(|&index| {
        let index = if index < 0 {
            index.checked_add(size)?
        } else {
            index
        };
        (0..size)
            .contains(&index)
            .then(|| position(index, stride[axis]))
    });
    let picked: Option<Vec<usize>> = picked.collect();
    let picked = picked.ok_or_else(|| StepError::invalid("an index is out of range"))?;
    let whole = |axis: usize| (0..shape[axis]).map(|index| index * stride[axis]).collect();
    let mut tables: Offsets = (0..axis).map(whole).collect();
    if arguments.operand(1)?.shape.len() != 1 {
        return Err(arguments.wrong_operator());
    }
    tables.push(picked);
    tables.extend((axis + 1..shape.len()).map(whole));
    Ok(tables)
}
