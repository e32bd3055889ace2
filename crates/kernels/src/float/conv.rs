//! Float convolution, channels-last: the drivers, from checked arguments to tiles.
//!
//! `y[p][o] = clamp(Σ_k patch[p][k] · w[k][o] + bias[o] + residual[p][o])`, with `k` over kernel planes, rows, columns and
//! input channels of the group, in this order; see `micro` for how it is rounded. Taps outside of the image are zeros that are
//! multiplied like all others.
//!
//! Activations are read in place, through a table of offsets for some pixels; nothing is gathered. The result does not
//! depend on which pixels are computed in one call.

use std::ops::Range;

use super::Block;
use super::micro::{Micro, PANEL, Part};
use super::pack::group_len;
pub use super::pack::{pack, packed_len};
use crate::conv::ConvShape;
use crate::conv::pixels::offset_table;
use crate::conv::shape::{CheckedShape, product};
use crate::error::{check_len, check_scratch};
use crate::shared::check_range;
use crate::{Bounds, Isa, KernelError};

/// The data of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvData<'a> {
    /// All of `[batch, in_h, in_w, in_c]`.
    pub input: &'a [f32],
    /// What [`pack()`] gives for the same shape.
    pub weights: &'a [f32],
    /// `[out_c]`.
    pub bias: Option<&'a [f32]>,
    /// Added after the bias; laid out like the output, and of the same pixels.
    pub residual: Option<&'a [f32]>,
    /// The bounds of a fused activation, applied last.
    pub clamp: Bounds,
}

/// Floats of scratch memory that [`conv`] needs for each thread, whatever the range.
///
/// # Errors
/// When the sizes describe no convolution, or one too large to address.
pub fn scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    scratch(&shape.check()?)
}

/// Computes the output pixels `pixels` of `batch · out_h · out_w`.
///
/// `output` holds exactly these pixels, `[pixels.len(), out_c]`; calls for disjoint ranges may run at the same time. `scratch` may
/// hold anything; its length is at least [`scratch_len`].
///
/// # Errors
/// For lengths that do not fit the shape, pixels that do not exist, unordered bounds, and a missing instruction
/// set. Nothing was written then.
pub fn conv(
    isa: Isa,
    shape: &ConvShape,
    data: &ConvData<'_>,
    pixels: Range<usize>,
    scratch: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    let block = Block {
        rows: pixels,
        columns: 0..shape.out_c,
    };
    run(isa, shape, data, block, scratch, output)
}

/// Pixels that are computed between two looks at the weights.
///
/// What they read should stay in the second-level cache (of 1 MiB) with the weights of a few panels, and their table in the first.
fn chunk(sizes: &CheckedShape) -> usize {
    let shape = &sizes.shape;
    let fresh = shape.stride_h.min(shape.kernel_h) * shape.stride_w.min(shape.kernel_w);
    let input = (96 << 10) / (fresh * shape.in_c);
    let table = (16 << 10) / sizes.taps;
    let most = input.min(table).max(84);
    // All chunks about the same.
    sizes.pixels.div_ceil(sizes.pixels.div_ceil(most))
}

fn scratch(sizes: &CheckedShape) -> Result<usize, KernelError> {
    let what = "the scratch buffer";
    let table = product(what, &[sizes.taps, chunk(sizes)])?;
    product(what, &[table + sizes.group_in])
}

/// Computes a block, `[rows.len(), columns.len()]`: its rows are pixels, and its columns are channels, which start at the start of a
/// group plus a multiple of [`PANEL`].
pub(super) fn run(
    isa: Isa,
    shape: &ConvShape,
    data: &ConvData<'_>,
    block: Block,
    scratch_memory: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    let sizes = shape.check()?;
    let (pixels, channels) = (block.rows, block.columns);
    check_range("pixels", &pixels, sizes.pixels)?;
    check_range("channels", &channels, shape.out_c)?;
    let outputs = product("the output", &[pixels.len(), channels.len()])?;
    check_len("the output", outputs, output.len())?;
    check_len("the input", sizes.input_len, data.input.len())?;
    check_len("the weights", packed_len(shape)?, data.weights.len())?;
    if let Some(bias) = data.bias {
        check_len("the bias", shape.out_c, bias.len())?;
    }
    if let Some(residual) = data.residual {
        check_len("the residual", output.len(), residual.len())?;
    }
    check_scratch(scratch(&sizes)?, scratch_memory.len())?;
    data.clamp.check()?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let micro = Micro::of(isa);
    let group_len = group_len(&sizes)?;
    let panel_len = sizes.k * PANEL;
    let (zeros, table) = scratch_memory.split_at_mut(sizes.group_in);
    zeros.fill(0.0);
    // SAFETY: every bit pattern is a float and a number, both of the same size and alignment.
    let (_, table, _) = unsafe { table.align_to_mut::<u32>() };
    let width = channels.len();
    let most = chunk(&sizes);
    for start in pixels.clone().step_by(most) {
        let chunk = start..pixels.end.min(start + most);
        offset_table(&sizes, chunk.clone(), table);
        let first = (start - pixels.start) * width;
        let output = &mut output[first..][..chunk.len() * width];
        for group in 0..shape.groups {
            let group_start = group * sizes.group_out;
            let wanted =
                group_start.max(channels.start)..(group_start + sizes.group_out).min(channels.end);
            if wanted.is_empty() {
                continue;
            }
            let panel = (wanted.start - group_start) / PANEL;
            let column = wanted.start - channels.start;
            let part = Part {
                input: &data.input[group * sizes.group_in..],
                zeros,
                offsets: table,
                pixels: chunk.len(),
                taps: sizes.taps,
                group_in: sizes.group_in,
                weights: &data.weights[group * group_len..][panel * panel_len..group_len],
                bias: data.bias.map(|bias| &bias[wanted.clone()]),
                residual: data.residual.map(|residual| &residual[first + column..]),
                clamp: data.clamp,
                channels: wanted.len(),
                output_stride: width,
            };
            // SAFETY: `is_supported` found the instruction set. Offsets come from `offset_table`, whose pixels are in the image, so
            // that `in_c` floats follow each, and `group_in` in the part of the group. The other lengths were checked above.
            unsafe { part.run(micro, &mut output[column..]) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
