//! Transposing images between channels-first and channels-last.

use bytemuck::Pod;
use octofold_kernels::shared::{ImageShape, layout};
use octofold_ops::Op;
use octofold_ops::families::{Layout as Order, Transpose};

use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::plan::Axes;
use crate::values::{numbers, numbers_mut};

/// The number of planes of a part, for a transposition to channels-first, is a multiple of this: one cache line of bytes.
pub(super) const PLANES: usize = 64;

#[derive(Debug)]
struct Layout {
    shape: ImageShape,
    to_nhwc: bool,
    /// Bytes of an element.
    size: usize,
    /// Pixels, or planes, of a part.
    part: usize,
}

/// The work of a `Transpose` between the layouts.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
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
    let size = match operand.dtype.size() {
        Some(size @ (1 | 4)) => size,
        _ => return Err(arguments.wrong_operator()),
    };
    let part = part(shape, to_nhwc, size);
    Ok(Box::new(Layout {
        shape,
        to_nhwc,
        size,
        part,
    }))
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

/// The pixels (to channels-last) or planes (to channels-first) of a part.
pub(super) fn part(shape: ImageShape, to_nhwc: bool, size: usize) -> usize {
    let (items, cost, unit) = if to_nhwc {
        (shape.batch * shape.pixels, shape.channels * size, 64)
    } else {
        (shape.batch * shape.channels, shape.pixels * size, PLANES)
    };
    part_len(items, cost, BYTES, unit)
}

impl Layout {
    fn run_typed<T: Pod + Send + Sync + layout::Element>(
        &self,
        call: Call<'_>,
        output: &mut [u8],
    ) -> Result<(), StepError> {
        let input = numbers::<T>(call.operand(0))?;
        let output = numbers_mut::<T>(output)?;
        let width = if self.to_nhwc {
            self.shape.channels
        } else {
            self.shape.pixels
        };
        if width == 0 {
            return Ok(());
        }
        let each = |first: usize, output: &mut [T], _: &mut [u8]| {
            let range = first / width..(first + output.len()) / width;
            let result = if self.to_nhwc {
                layout::nchw_to_nhwc(call.isa, &self.shape, input, range, output)
            } else {
                layout::nhwc_to_nchw(call.isa, &self.shape, input, range, output)
            };
            Ok(result?)
        };
        call.pool.run_parts(output, self.part * width, 0, each)
    }
}

impl Work for Layout {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let output = only(outputs)?;
        if self.size == 1 {
            self.run_typed::<u8>(call, output)
        } else {
            self.run_typed::<u32>(call, output)
        }
    }
}
