//! Depthwise convolution: one kernel a channel, no sum over channels.
//!
//! Two neighbouring pixels are computed at a time, and the offsets of their taps are made for the two alone: a table
//! for the whole image would take more memory than the sums are worth. The taps come in pairs, so that
//! instructions which add two products (`vpmaddwd`) do two taps of a channel.

use std::ops::Range;

use super::pack::{PANEL, depthwise_panel_len};
use crate::Isa;
use crate::conv::ConvCall;
use crate::conv::offsets::OUTSIDE;
use crate::conv::pixels::tap_position;
use crate::conv::scalar::store_row;
use crate::conv::shape::CheckedShape;
use crate::conv::tile::Tile;

/// Pixels computed at a time.
pub(super) const ROWS: usize = 2;

/// A depthwise micro kernel: up to [`ROWS`] pixels by all channels.
///
/// The tile's `input` and `extras` start at channel 0, and `quads` is unused; its taps are even in number, the last one
/// possibly of zero weights. Kernels read no channel beyond `channels`.
///
/// # Safety
/// The invariants of [`Tile`] hold, with `channels` readable bytes at each offset and extra row instead of `4 · quads`.
pub(super) type DepthwiseKernel = unsafe fn(tile: &Tile<'_>, rows: usize);

fn kernel(isa: Isa) -> DepthwiseKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512Vnni => super::avx2::depthwise,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => super::neon::depthwise,
        _ => scalar,
    }
}

/// The bytes of scratch memory of a depthwise convolution: a row of zero points, and the offsets of a tile.
pub(crate) fn scratch_len(sizes: &CheckedShape) -> usize {
    zero_len(sizes) + (even_taps(sizes) * ROWS + 1) * 4
}

fn zero_len(sizes: &CheckedShape) -> usize {
    sizes.shape.in_c.next_multiple_of(64)
}

fn even_taps(sizes: &CheckedShape) -> usize {
    sizes.taps.next_multiple_of(2)
}

/// Computes a call.
///
/// # Safety
/// The processor has the instruction set, and the call was checked against `sizes`.
pub(crate) unsafe fn run(isa: Isa, sizes: &CheckedShape, call: ConvCall<'_>) {
    let (channels, pixels, input) = (sizes.shape.out_c, call.rows, call.input);
    let (zero, offsets) = call.scratch.split_at_mut(zero_len(sizes));
    zero.fill(input.zero_byte());
    // SAFETY: every bit pattern is a u32.
    let (_, offsets, _) = unsafe { offsets.align_to_mut::<u32>() };
    let (kernel, output) = (kernel(isa), call.output.rows(channels));
    let mut pixel = pixels.start;
    while pixel < pixels.end {
        let rows = ROWS.min(pixels.end - pixel);
        tile_offsets(sizes, pixel..pixel + rows, offsets);
        let tile = Tile {
            input: input.data.as_ptr(),
            extras: zero.as_ptr(),
            offsets: offsets.as_ptr(),
            offset_stride: ROWS,
            taps: even_taps(sizes),
            quads: 0,
            weights: call.weights.as_ptr(),
            panel_stride: depthwise_panel_len(sizes),
            wide: std::ptr::null(),
            signed: input.signed,
            stage: call.stage,
            row: pixel,
            channel: 0,
            channels,
            all_channels: channels,
            // SAFETY: the pixel is inside of the output.
            output: unsafe { output.at(pixel - pixels.start, 0) },
            output_stride: output.pitch,
            tiles: 1,
        };
        // SAFETY: the offsets are those of pixels of the image, each with `channels` bytes, or the zero row's.
        unsafe { kernel(&tile, rows) };
        pixel += rows;
    }
}

/// Fills the offsets of up to [`ROWS`] pixels: `[tap][ROWS]`, with one tap more where their number is odd.
fn tile_offsets(sizes: &CheckedShape, pixels: Range<usize>, offsets: &mut [u32]) {
    let shape = &sizes.shape;
    if !sizes.taps.is_multiple_of(2) {
        offsets[sizes.taps * ROWS..][..ROWS].fill(OUTSIDE);
    }
    for (r, pixel) in pixels.enumerate() {
        let (image, y, x) = (
            pixel / sizes.out_w / sizes.out_h,
            pixel / sizes.out_w % sizes.out_h,
            pixel % sizes.out_w,
        );
        let (stride, dilation) = (shape.stride_h, shape.dilation_h);
        for tap_y in 0..shape.kernel_h {
            let line = tap_position(y, stride, tap_y, dilation, shape.pad_top, shape.in_h);
            let line = line.map(|y| (image * shape.in_h + y) * shape.in_w);
            for tap_x in 0..shape.kernel_w {
                let (stride, dilation) = (shape.stride_w, shape.dilation_w);
                let column = tap_position(x, stride, tap_x, dilation, shape.pad_left, shape.in_w);
                let offset = line.zip(column).map(|(line, x)| (line + x) * shape.in_c);
                // Offsets fit, since the input is addressed with 32 bits.
                offsets[(tap_y * shape.kernel_w + tap_x) * ROWS + r] =
                    offset.map_or(OUTSIDE, |offset| offset as u32);
            }
        }
    }
}

/// The part of a tile of all channels that begins with channel `first`, a multiple of [`PANEL`], and has `count`.
///
/// # Safety
/// The invariants of [`DepthwiseKernel`] hold, and the channels exist.
#[inline(always)]
pub(super) unsafe fn channels_of<'a>(tile: &Tile<'a>, first: usize, count: usize) -> Tile<'a> {
    // SAFETY: passed on from the caller; pixels have these channels, and each panel its weights.
    unsafe {
        Tile {
            input: tile.input.add(first),
            extras: tile.extras.add(first),
            weights: tile.weights.add(first / PANEL * tile.panel_stride),
            ..tile.channels_from(first, count)
        }
    }
}

/// The portable kernel, and the reference of the others.
///
/// # Safety
/// The invariants of [`DepthwiseKernel`] hold.
unsafe fn scalar(tile: &Tile<'_>, rows: usize) {
    let flip = if tile.signed { 0x80 } else { 0 };
    for first in (0..tile.channels).step_by(PANEL) {
        let count = PANEL.min(tile.channels - first);
        // SAFETY: passed on from the caller; the channels exist.
        let tile = unsafe { channels_of(tile, first, count) };
        for r in 0..rows {
            let mut acc = [0_i32; PANEL];
            for tap in 0..tile.taps {
                // SAFETY: each tap has an offset, behind which the channels are; a panel has 16 weights for each
                // pair of taps.
                let (x, weights) = unsafe {
                    let pair = tile.weights.add(tap / 2 * 2 * PANEL);
                    (
                        std::slice::from_raw_parts(tile.row_start(tap, r), count),
                        std::slice::from_raw_parts(pair, 2 * PANEL),
                    )
                };
                for ((acc, &x), weights) in acc.iter_mut().zip(x).zip(weights.chunks_exact(2)) {
                    let product = i32::from(x ^ flip) * i32::from(weights[tap % 2] as i8);
                    *acc = acc.wrapping_add(product);
                }
            }
            // SAFETY: passed on from the caller.
            unsafe { store_row(&tile, r, &acc[..count]) };
        }
    }
}
