//! Gathered patches, for convolutions whose channels can be read neither where they lie nor by rows of the kernel: `[pixel][K]` with K =
//! (kernel row, kernel column, channel of the group) padded to a multiple of four, the order of the packed weights.

use std::ops::Range;

use crate::conv::pixels::{runs, tap_position};
use crate::conv::shape::{CheckedShape, ConvShape};

/// Gathers the patches of one group and fills the table of their offsets.
#[expect(clippy::too_many_arguments, reason = "the state of a chunk")]
pub(super) fn gather_patches(
    shape: &ConvShape,
    checked: &CheckedShape,
    input: &[u8],
    zero: u8,
    group: usize,
    pixels: Range<usize>,
    patches: &mut [u8],
    table: &mut [u32],
) {
    let depth = checked.k.next_multiple_of(4);
    let channels = checked.group_in;
    for (i, offset) in table.iter_mut().enumerate().take(pixels.len()) {
        *offset = (i * depth) as u32;
    }
    let line_len = shape.kernel_w * channels;
    for run in runs(checked, pixels) {
        for tap_y in 0..shape.kernel_h {
            let first = run.first * depth + tap_y * line_len;
            let (stride, dilation) = (shape.stride_h, shape.dilation_h);
            let y = tap_position(run.y, stride, tap_y, dilation, shape.pad_top, shape.in_h);
            for i in 0..run.len {
                let line = &mut patches[first + i * depth..][..line_len];
                let Some(y) = y else {
                    line.fill(zero);
                    continue;
                };
                let row = (run.image * shape.in_h + y) * shape.in_w;
                let at = (run.x + i) * shape.stride_w;
                for (tap_x, piece) in line.chunks_exact_mut(channels).enumerate() {
                    let x = (at + tap_x * shape.dilation_w).checked_sub(shape.pad_left);
                    match x.filter(|&x| x < shape.in_w) {
                        Some(x) => {
                            let from = (row + x) * shape.in_c + group * channels;
                            piece.copy_from_slice(&input[from..from + channels]);
                        }
                        None => piece.fill(zero),
                    }
                }
            }
        }
    }
}
