//! Gathered patches, for convolutions whose channels can be read in place neither by taps nor by rows of the kernel: `[pixel][K]` with K =
//! (kernel row, kernel column, channel of the group) padded to a multiple of four, the order of the packed weights.

use super::conv::Chunk;
use crate::conv::pixels::runs;

/// Gathers the patches of one group and fills the table of their offsets.
pub(super) fn gather_patches(
    chunk: &Chunk<'_>,
    group: usize,
    patches: &mut [u8],
    table: &mut [u32],
) {
    let (sizes, shape) = (chunk.sizes, &chunk.sizes.shape);
    let depth = sizes.k.next_multiple_of(4);
    let channels = sizes.group_in;
    for (i, offset) in table.iter_mut().enumerate().take(chunk.pixels.len()) {
        *offset = (i * depth) as u32;
    }
    let line_len = shape.kernel_w * channels;
    for run in runs(sizes, chunk.pixels.clone()) {
        for tap_y in 0..sizes.kernel_lines {
            let first = run.first * depth + tap_y * line_len;
            let input_line = sizes.input_line(run.image, run.y, tap_y);
            for i in 0..run.len {
                let line = &mut patches[first + i * depth..][..line_len];
                let Some(input_line) = input_line else {
                    line.fill(chunk.zero);
                    continue;
                };
                let row = input_line * shape.in_w;
                let at = (run.x + i) * shape.stride_w;
                for (tap_x, piece) in line.chunks_exact_mut(channels).enumerate() {
                    let x = (at + tap_x * shape.dilation_w).checked_sub(shape.pad_left);
                    match x.filter(|&x| x < shape.in_w) {
                        Some(x) => {
                            let from = (row + x) * shape.in_c + group * channels;
                            piece.copy_from_slice(&chunk.input[from..from + channels]);
                        }
                        None => piece.fill(chunk.zero),
                    }
                }
            }
        }
    }
}
