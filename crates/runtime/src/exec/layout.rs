//! Transposing images between channels-first and channels-last.

use bytemuck::Pod;
use octofold_kernels::shared::{ImageShape, layout};
use octofold_ops::Op;
use octofold_ops::families::{Layout as Order, Transpose};

use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;
use crate::plan::Axes;

/// The work of a `Transpose` between the layouts.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::Transpose(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let operand = arguments.operand(0)?;
    arguments.result().expect(operand.dtype)?;
    let rank = operand.shape.len();
    let (shape, to_nhwc) = match arguments.step.kernel.result() {
        Axes::Any => rotated(op, arguments)?,
        Axes::Nhwc if op.perm == Order::Nhwc.permutation(rank) => (images(arguments)?, true),
        Axes::Nchw if op.perm == Order::Nchw.permutation(rank) => (images(arguments)?, false),
        _ => return Err(arguments.wrong_operator()),
    };
    match operand.dtype.size() {
        Some(1) => Ok(work::<u8>(shape, to_nhwc)),
        Some(4) => Ok(work::<u32>(shape, to_nhwc)),
        _ => Err(arguments.wrong_operator()),
    }
}

/// A `Transpose` that exchanges two groups of axes, as a change of layout, and whether to channels-last. The shorter group is the channels: the kernels
/// are made for fewer channels than pixels.
fn rotated(op: &Transpose, arguments: &Arguments<'_>) -> Result<(ImageShape, bool), StepError> {
    let shape = arguments.operand(0)?.shape;
    let (kept, moved) = op
        .rotation(shape.len())
        .ok_or_else(|| arguments.wrong_operator())?;
    let (outer, rest) = shape.split_at(kept);
    let (first, second) = rest.split_at(moved);
    arguments.expect_result(&[outer, second, first].concat())?;
    let [batch, first, second] =
        [outer, first, second].map(|sizes| sizes.iter().product::<usize>());
    let to_nhwc = first <= second;
    let (channels, pixels) = if to_nhwc {
        (first, second)
    } else {
        (second, first)
    };
    let shape = ImageShape {
        batch,
        channels,
        pixels,
    };
    Ok((shape, to_nhwc))
}

/// The images of a step that changes their layout to that of its kernel's results.
pub(super) fn images(arguments: &Arguments<'_>) -> Result<ImageShape, StepError> {
    let (from, to) = match arguments.step.kernel.result() {
        Axes::Nhwc => (Order::Nchw, Order::Nhwc),
        Axes::Nchw => (Order::Nhwc, Order::Nchw),
        Axes::Any => return Err(arguments.wrong_operator()),
    };
    let operand = arguments.operand(0)?;
    let sizes = from.channels_first(operand.shape);
    let sizes = sizes.map_err(|_| arguments.wrong_operator())?;
    arguments.expect_result(&to.arrange(sizes))?;
    operand.pixels(from)
}

/// The pixels (to channels-last) or planes (to channels-first) of a part: as many as fill cache lines of `element` bytes each, which are read. `cost` is the
/// number of bytes that are read and written for each.
pub(super) fn part(shape: ImageShape, to_nhwc: bool, element: usize, cost: usize) -> usize {
    const LINE: usize = 64;
    let (items, width) = if to_nhwc {
        (shape.batch * shape.pixels, shape.channels)
    } else {
        (shape.batch * shape.channels, shape.pixels)
    };
    part_len(items, width * cost, BYTES, LINE / element)
}

/// The work of a change of layout of elements of some type.
fn work<T: Pod + Send + Sync + layout::Element>(shape: ImageShape, to_nhwc: bool) -> Work {
    let part = part(shape, to_nhwc, size_of::<T>(), size_of::<T>());
    let width = if to_nhwc {
        shape.channels
    } else {
        shape.pixels
    };
    Work::new(move |call, output: &mut [T]| {
        if width == 0 {
            return Ok(());
        }
        let input = call.numbers::<T>(0)?;
        (call.pool).run_parts(output, part * width, 0, |first, output, _| {
            let range = first / width..(first + output.len()) / width;
            match to_nhwc {
                true => layout::nchw_to_nhwc(call.isa, &shape, input, range, output)?,
                false => layout::nhwc_to_nchw(call.isa, &shape, input, range, output)?,
            }
            Ok(())
        })
    })
}
