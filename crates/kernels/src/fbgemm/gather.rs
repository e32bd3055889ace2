//! Gathered patches, for convolutions whose channels cannot be read where they lie: `[pixel][K]` with K = (kernel row, kernel column, channel of the group) padded to a multiple of four, the order of the
//! packed weights.

use std::ops::Range;

use crate::conv::pixels::{Run, runs, tap_position};
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
    // The columns of a kernel row are one piece of memory when nothing lies between them.
    let joined = shape.dilation_w == 1 && shape.groups == 1;
    let line_len = shape.kernel_w * channels;
    for run in runs(checked, pixels) {
        let inside = if joined {
            inside_columns(shape, &run)
        } else {
            0..0
        };
        for tap_y in 0..shape.kernel_h {
            let first = run.first * depth + tap_y * line_len;
            let (stride, dilation) = (shape.stride_h, shape.dilation_h);
            let y = tap_position(run.y, stride, tap_y, dilation, shape.pad_top, shape.in_h);
            let Some(y) = y else {
                for i in 0..run.len {
                    patches[first + i * depth..][..line_len].fill(zero);
                }
                continue;
            };
            let row = (run.image * shape.in_h + y) * shape.in_w;
            for i in (0..inside.start).chain(inside.end..run.len) {
                let at = (run.x + i) * shape.stride_w;
                let line = &mut patches[first + i * depth..][..line_len];
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
            if !inside.is_empty() {
                let x = (run.x + inside.start) * shape.stride_w - shape.pad_left;
                let from = &input[(row + x) * channels..];
                let to = &mut patches[first + inside.start * depth..];
                let distances = (shape.stride_w * channels, depth);
                copy_lines(from, to, distances, line_len, inside.len());
            }
        }
    }
}

/// The pixels of a run under which the kernel lies inside of the image, from left to right.
fn inside_columns(shape: &ConvShape, run: &Run) -> Range<usize> {
    let inside = |i: usize| {
        let x = (run.x + i) * shape.stride_w;
        x >= shape.pad_left && x - shape.pad_left + shape.kernel_w <= shape.in_w
    };
    let start = (0..run.len).position(inside).unwrap_or(0);
    let len = (start..run.len)
        .position(|i| !inside(i))
        .unwrap_or(run.len - start);
    if inside(start) {
        start..start + len
    } else {
        0..0
    }
}

/// Copies `count` pieces of `len` bytes, whose starts are `distances` apart in the source and in the target.
///
/// A call of `memcpy` for each short piece would take longer than the products of a first layer.
fn copy_lines(from: &[u8], to: &mut [u8], distances: (usize, usize), len: usize, count: usize) {
    match len {
        65.. => {
            for i in 0..count {
                let from = &from[i * distances.0..][..len];
                to[i * distances.1..][..len].copy_from_slice(from);
            }
        }
        49.. => copy_words::<16, 4>(from, to, distances, len, count),
        33.. => copy_words::<16, 3>(from, to, distances, len, count),
        17.. => copy_words::<16, 2>(from, to, distances, len, count),
        16 => copy_words::<16, 1>(from, to, distances, len, count),
        8.. => copy_words::<8, 2>(from, to, distances, len, count),
        4.. => copy_words::<4, 2>(from, to, distances, len, count),
        2.. => copy_words::<2, 2>(from, to, distances, len, count),
        _ => copy_words::<1, 1>(from, to, distances, len, count),
    }
}

/// Copies pieces of more than `(N - 1)·W` and at most `N·W` bytes by `N` words of `W` bytes, of which the
/// last overlaps the one before it.
fn copy_words<const W: usize, const N: usize>(
    from: &[u8],
    to: &mut [u8],
    (from_distance, to_distance): (usize, usize),
    len: usize,
    count: usize,
) {
    assert!(len >= (N - 1) * W && len >= W && count > 0);
    assert!((count - 1) * from_distance + len <= from.len());
    assert!((count - 1) * to_distance + len <= to.len());
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    for i in 0..count {
        // SAFETY: the asserts hold for the last piece, and so for all; each word starts at least `W` bytes
        // before the end of its piece. The slices do not overlap, since one is exclusive.
        unsafe {
            let (from, to) = (from.add(i * from_distance), to.add(i * to_distance));
            for word in 0..N {
                let at = if word + 1 == N { len - W } else { word * W };
                let word = from.add(at).cast::<[u8; W]>().read_unaligned();
                to.add(at).cast::<[u8; W]>().write_unaligned(word);
            }
        }
    }
}
