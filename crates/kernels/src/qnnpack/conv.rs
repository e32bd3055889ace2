//! The driver: from checked arguments to tiles.

use super::pack::{group_len, quads};
use super::{Indirection, micro};
use crate::Isa;
use crate::conv::ConvCall;
use crate::conv::shape::CheckedShape;
use crate::conv::tile::Part;

/// Computes a call of a convolution that is not depthwise.
///
/// # Safety
/// The processor has the instruction set, and the call was checked against `sizes`, from which `indirection` was made.
pub(crate) unsafe fn run(
    isa: Isa,
    sizes: &CheckedShape,
    indirection: &Indirection,
    call: ConvCall<'_>,
) {
    let (shape, pixels, channels, input) = (&sizes.shape, call.rows, call.columns, call.input);
    let (micro, group_len) = (micro(isa), group_len(sizes));
    let (extras, rest) = call.scratch.split_at_mut(indirection.extras_len());
    let (wide, table) = rest.split_at_mut(indirection.wide_len());
    // SAFETY: every bit pattern is a u32.
    let (_, table, _) = unsafe { table.align_to_mut::<u32>() };
    let output = call.output.rows(channels.len());
    let image_len = sizes.in_lines * shape.in_w * shape.in_c;
    let mut start = pixels.start;
    while start < pixels.end {
        let (image, first) = (start / indirection.pixels, start % indirection.pixels);
        let len = (indirection.pixels - first)
            .min(indirection.strip)
            .min(pixels.end - start);
        let end = start + len;
        let (offsets, offset_stride) = indirection.table(first..first + len, table);
        let image_input = &input.data[image * image_len..(image + 1) * image_len];
        // SAFETY: `output` has a row for each pixel.
        let output = unsafe { output.skip(start - pixels.start) };
        for group in 0..shape.groups {
            let group_channels = group * sizes.group_out..(group + 1) * sizes.group_out;
            let wanted =
                group_channels.start.max(channels.start)..group_channels.end.min(channels.end);
            if wanted.is_empty() {
                continue;
            }
            indirection.fill_extras(image_input, group, input.zero_byte(), extras);
            let part = Part {
                input: &image_input[group * sizes.group_in..],
                extras,
                offsets,
                offset_stride,
                taps: sizes.taps,
                quads: quads(sizes),
                weights: &call.weights[group * group_len..][..group_len],
                signed: input.signed,
                stage: call.stage,
                all_channels: shape.out_c,
                origin: channels.start,
                output,
            };
            // SAFETY: the lengths were checked. Offsets of the table are in an image, such that the
            // channels of the last group and up to three bytes follow; all others name the zero row or the copy
            // of a pixel. The table has an entry for each tap of each of the pixels.
            unsafe { part.run(micro, start..end, group_channels.start, wanted, wide) };
        }
        start = end;
    }
}
