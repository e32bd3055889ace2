//! Where the taps of an output pixel are in the input.
//!
//! A table of offsets is `[tap][pixel]`, so that any number of neighbouring pixels makes a tile. Taps outside of
//! the image get [`OUTSIDE`], for which micro kernels read the zero row.

use std::ops::Range;

use super::offsets::OUTSIDE;
use super::shape::{CheckedShape, ConvShape};

/// Neighbouring output pixels of one output row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Index of the first pixel in the range that was cut.
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) image: usize,
    /// Line of the output image.
    pub(crate) y: usize,
    /// Column of the first pixel.
    pub(crate) x: usize,
}

/// Cuts a range of flattened output pixels into runs along output rows.
pub(crate) fn runs(sizes: &CheckedShape, pixels: Range<usize>) -> impl Iterator<Item = Run> {
    let (lines, out_w) = (sizes.out_lines, sizes.out_w);
    let mut at = pixels.start;
    std::iter::from_fn(move || {
        if at >= pixels.end {
            return None;
        }
        let x = at % out_w;
        let run = Run {
            first: at - pixels.start,
            len: (out_w - x).min(pixels.end - at),
            image: at / out_w / lines,
            y: at / out_w % lines,
            x,
        };
        at += run.len;
        Some(run)
    })
}

/// The input coordinate of a tap, or `None` outside of the image.
pub(crate) fn tap_position(
    out: usize,
    stride: usize,
    tap: usize,
    dilation: usize,
    pad: usize,
    size: usize,
) -> Option<usize> {
    let position = (out * stride + tap * dilation).checked_sub(pad)?;
    (position < size).then_some(position)
}

impl CheckedShape {
    /// The line of the input of all images that is under line `tap` of the kernel, for line `y` of an output image; `None` in the padding.
    pub(crate) fn input_line(&self, image: usize, y: usize, tap: usize) -> Option<usize> {
        let (shape, depth) = (&self.shape, &self.shape.depth);
        let (plane, y) = (y / self.out_h, y % self.out_h);
        let (tap_z, tap_y) = (tap / shape.kernel_h, tap % shape.kernel_h);
        let (stride, dilation) = (shape.stride_h, shape.dilation_h);
        let y = tap_position(y, stride, tap_y, dilation, shape.pad_top, shape.in_h)?;
        let (stride, dilation) = (depth.stride, depth.dilation);
        let z = tap_position(plane, stride, tap_z, dilation, depth.pad_front, depth.input)?;
        Some(image * self.in_lines + z * shape.in_h + y)
    }
}

/// Fills `entries` with `first`, `first + step`, and so on. Additions only: compilers make vectors of them, which is what the tables of short
/// kernels need.
pub(crate) fn fill_steps(entries: &mut [u32], first: u32, step: u32) {
    let mut offset = first;
    for entry in entries {
        *entry = offset;
        offset = offset.wrapping_add(step);
    }
}

/// Fills the first `taps · pixels.len()` entries of `table` with the offset of every tap of every pixel.
///
/// An offset is that of channel 0 of the pixel in the whole input, or [`OUTSIDE`].
pub(crate) fn offset_table(sizes: &CheckedShape, pixels: Range<usize>, table: &mut [u32]) {
    let (shape, count) = (&sizes.shape, pixels.len());
    let channels = shape.in_c;
    if shape.is_pointwise() {
        // Offsets fit 32 bits: see `shape`.
        fill_steps(
            &mut table[..count],
            (pixels.start * channels) as u32,
            channels as u32,
        );
        return;
    }
    for run in runs(sizes, pixels) {
        for tap_y in 0..sizes.kernel_lines {
            let line = sizes.input_line(run.image, run.y, tap_y);
            for tap_x in 0..shape.kernel_w {
                let start = (tap_y * shape.kernel_w + tap_x) * count + run.first;
                let entries = &mut table[start..start + run.len];
                let Some(line) = line else {
                    entries.fill(OUTSIDE);
                    continue;
                };
                let inside = inside(shape, &run, tap_x);
                entries[..inside.start].fill(OUTSIDE);
                entries[inside.end..].fill(OUTSIDE);
                let row = line * shape.in_w;
                let x = (run.x + inside.start) * shape.stride_w + tap_x * shape.dilation_w;
                // Where no pixel is inside, the column may be in the padding, and is not used.
                let first = (row + x)
                    .wrapping_sub(shape.pad_left)
                    .wrapping_mul(channels);
                let step = shape.stride_w * channels;
                fill_steps(&mut entries[inside], first as u32, step as u32);
            }
        }
    }
}

/// The pixels of a run whose column of the kernel `tap` is in the image.
fn inside(shape: &ConvShape, run: &Run, tap: usize) -> Range<usize> {
    let (stride, first) = (
        shape.stride_w,
        run.x * shape.stride_w + tap * shape.dilation_w,
    );
    let end = shape.in_w + shape.pad_left;
    let last = first + (run.len - 1) * stride;
    if first >= shape.pad_left && last < end {
        return 0..run.len;
    }
    let start = shape.pad_left.saturating_sub(first).div_ceil(stride);
    let end = end.saturating_sub(first).div_ceil(stride).min(run.len);
    start.min(end)..end
}
