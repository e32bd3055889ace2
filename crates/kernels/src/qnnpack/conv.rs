//! The driver: from checked arguments to tiles.

use std::ops::Range;

use super::pack::{PANEL, group_len, packed_len, quads};
use super::{Indirection, depthwise, micro};
use crate::conv::tile::Part;
use crate::conv::{Activations, OutputSlice, OutputStage};
use crate::error::{check_len, check_scratch};
use crate::shared::check_range;
use crate::{Isa, KernelError};

/// Computes output pixels by output channels of a convolution, grouped, depthwise or neither.
///
/// - `input`: `[batch, in_h, in_w, in_c]`;
/// - `packed`: from [`super::pack()`] for the same shape;
/// - `stage`: its constants have one entry for each of `out_c` channels;
/// - `pixels`: a part of `0..batch·out_h·out_w`; calls for disjoint parts may run at the same time;
/// - `channels`: starts at a multiple of [`PANEL`] and ends at one, or at `out_c`; all channels of a grouped
///   convolution;
/// - `output`: the values, `[pixels.len(), channels.len()]`. With all channels, or one pixel, this is a
///   contiguous part of the whole output, unless its rows are apart;
/// - `scratch`: at least [`Indirection::scratch_len`] bytes with any content, not shared with a concurrent call.
///
/// # Errors
/// When a length does not fit the sizes, when a constant is outside of its range, or when the processor does not
/// have `isa`. Nothing was written then.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a thing of its own; a struct would only rename them"
)]
pub fn conv(
    isa: Isa,
    indirection: &Indirection,
    input: Activations<'_>,
    packed: &[u8],
    stage: &OutputStage<'_>,
    pixels: Range<usize>,
    channels: Range<usize>,
    output: OutputSlice<'_>,
    scratch: &mut [u8],
) -> Result<(), KernelError> {
    let (shape, checked) = (&indirection.shape, &indirection.checked);
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    check_range("pixels", &pixels, checked.pixels)?;
    check_range("channels", &channels, shape.out_c)?;
    let whole_panels = channels.start.is_multiple_of(PANEL)
        && (channels.end.is_multiple_of(PANEL) || channels.end == shape.out_c);
    let all = channels == (0..shape.out_c);
    if !whole_panels || (shape.groups > 1 && !all) {
        let (what, range, len) = ("channels", channels, shape.out_c);
        return Err(KernelError::Range { what, range, len });
    }
    check_len("the input", checked.input_len, input.data.len())?;
    check_len("the packed weights", packed_len(shape)?, packed.len())?;
    let block = (pixels.len(), channels.len());
    stage.check(checked.pixels, shape.out_c, &output, block)?;
    check_scratch(indirection.scratch_len(), scratch.len())?;
    let zero = input.zero_byte()?;
    let element = stage.element();
    let (output, output_stride) = output.start(channels.len());
    if checked.depthwise {
        let input = (input, zero);
        // SAFETY: all lengths and constants were checked, and `output` has a row of all channels for each pixel.
        unsafe {
            depthwise::run(
                isa,
                indirection,
                input,
                packed,
                stage,
                pixels,
                (output, output_stride, element),
                scratch,
            );
        }
        return Ok(());
    }

    let (micro, group_len) = (micro(isa), group_len(checked)?);
    let (extras, rest) = scratch.split_at_mut(indirection.extras_len());
    let (wide, table) = rest.split_at_mut(indirection.wide_len());
    // SAFETY: every bit pattern is a u32.
    let (_, table, _) = unsafe { table.align_to_mut::<u32>() };
    let image_len = shape.in_h * shape.in_w * shape.in_c;
    let mut start = pixels.start;
    while start < pixels.end {
        let (image, first) = (start / indirection.pixels, start % indirection.pixels);
        let len = (indirection.pixels - first)
            .min(indirection.strip)
            .min(pixels.end - start);
        let end = start + len;
        let (offsets, offset_stride) = indirection.table(first..first + len, table);
        let image_input = &input.data[image * image_len..(image + 1) * image_len];
        // SAFETY: `output` has one row of `output_stride` elements for each pixel.
        let output = unsafe { output.add((start - pixels.start) * output_stride * element) };
        for group in 0..shape.groups {
            let group_channels = group * checked.group_out..(group + 1) * checked.group_out;
            let wanted =
                group_channels.start.max(channels.start)..group_channels.end.min(channels.end);
            if wanted.is_empty() {
                continue;
            }
            indirection.fill_extras(image_input, group, zero, extras);
            let part = Part {
                input: &image_input[group * checked.group_in..],
                extras,
                offsets,
                offset_stride,
                taps: checked.taps,
                quads: quads(checked),
                weights: &packed[group * group_len..(group + 1) * group_len],
                signed: input.signed,
                stage,
                all_channels: shape.out_c,
                origin: channels.start,
                output,
                output_stride,
                element,
            };
            // SAFETY: the lengths were checked above. Offsets of the table lie in an image, such that the
            // channels of the last group and up to three bytes follow; all others name the zero row or the copy
            // of a pixel. The table has an entry for each tap of each of the pixels.
            unsafe { part.run(micro, start..end, group_channels.start, wanted, wide) };
        }
        start = end;
    }
    Ok(())
}
