//! First layers and others with a few channels: each row of the kernel is one tap.
//!
//! The columns under a row of the kernel follow each other in memory, channels and all, so that the row is one run of `kernel_w · in_c` bytes,
//! read in place. Up to three bytes behind it are read too, times weights of zero. Where the kernel reaches into the padding left or right of the
//! image, and where those bytes would be behind the input, the run is copied to an extra row.

use std::ops::Range;

use super::conv::Chunk;
use crate::conv::offsets::{EXTRA, OUTSIDE};
use crate::conv::pixels::{Run, fill_steps, runs};
use crate::conv::shape::ConvShape;

/// Bytes of an extra row, for runs of `quads` groups of four.
pub(super) const fn extra_len(quads: usize) -> usize {
    4 * quads
}

/// Fills the table `[kernel row][pixel]` of a chunk, and the extra rows that it names: `extras` begins with the zero row, behind
/// which, from byte `first_extra` on, there is room for each row of the kernel under each pixel.
pub(super) fn line_table(
    chunk: &Chunk<'_>,
    quads: usize,
    extras: &mut [u8],
    first_extra: usize,
    table: &mut [u32],
) {
    let (shape, input) = (&chunk.sizes.shape, chunk.input);
    let (count, channels) = (chunk.pixels.len(), shape.in_c);
    let len = shape.kernel_w * channels;
    let mut extra = first_extra;
    for run in runs(chunk.sizes, chunk.pixels.clone()) {
        let inside = inside_columns(shape, &run);
        for tap in 0..chunk.sizes.kernel_lines {
            let entries = &mut table[tap * count + run.first..][..run.len];
            let Some(line) = chunk.sizes.input_line(run.image, run.y, tap) else {
                entries.fill(OUTSIDE);
                continue;
            };
            let row = line * shape.in_w;
            // Pixels whose run of whole groups of four is in the input. It is addressed with 32 bits.
            let first = (row + run.x * shape.stride_w) * channels;
            let (pad, step) = (shape.pad_left * channels, shape.stride_w * channels);
            let room = (input.len() + pad).checked_sub(first + 4 * quads);
            let readable = inside.start..inside.end.min(room.map_or(0, |room| room / step + 1));
            if !readable.is_empty() {
                let offset = (first + readable.start * step - pad) as u32;
                fill_steps(&mut entries[readable.clone()], offset, step as u32);
            }
            for i in (0..readable.start).chain(readable.end.max(readable.start)..run.len) {
                // Columns of the kernel before the image, in it, and behind it.
                let x = (run.x + i) * shape.stride_w;
                let before = shape.pad_left.saturating_sub(x).min(shape.kernel_w);
                let end = (shape.in_w + shape.pad_left).saturating_sub(x);
                let end = end.clamp(before, shape.kernel_w);
                let copy = &mut extras[extra..][..len];
                copy[..before * channels].fill(chunk.zero);
                copy[end * channels..].fill(chunk.zero);
                if before < end {
                    let from = (row + x + before - shape.pad_left) * channels;
                    let inside = &mut copy[before * channels..end * channels];
                    inside.copy_from_slice(&input[from..][..inside.len()]);
                }
                entries[i] = EXTRA + extra as u32;
                extra += extra_len(quads);
            }
        }
    }
}

/// The pixels of a run under which the kernel, whose columns are adjacent, is inside of the image.
fn inside_columns(shape: &ConvShape, run: &Run) -> Range<usize> {
    let stride = shape.stride_w;
    let start = shape.pad_left.div_ceil(stride).saturating_sub(run.x);
    let end = (shape.in_w + shape.pad_left)
        .checked_sub(shape.kernel_w)
        .map_or(0, |last| (last / stride + 1).saturating_sub(run.x))
        .min(run.len);
    start.min(end)..end
}
