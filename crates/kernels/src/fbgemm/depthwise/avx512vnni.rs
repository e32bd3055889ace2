//! The depthwise kernel for AVX-512 with VNNI: 64 channels of up to 4 neighbouring outputs.
//!
//! For each column of the input under the tile, four kernel rows are loaded (64 channels each) and
//! interleaved to dwords of four taps with eight unpacks; the result serves every output of the tile that has
//! this column under its kernel. Unpacks work within 128-bit lanes, so the sums come in the order of
//! [`mod@super::super::pack`]'s depthwise form, and packing to bytes restores the order of the channels.
//! Registers: 16 sums, 4 interleaved vectors, 8 temporaries; weights are memory operands.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::super::avx512vnni::Finish;
use super::super::pack::depthwise_quads;
use super::Segment;
use super::lines::{Lines, MAX_ROWS};
use super::narrow;
use crate::conv::output::{OutputStage, Quantized, store_float_row};

/// Channels of a block.
const WIDTH: usize = 64;

/// Computes the pixels of one run.
///
/// # Safety
/// The invariants of [`Segment`] hold, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn segment(mut segment: Segment<'_>) {
    if segment.rows.len() > MAX_ROWS {
        return super::scalar::segment(segment);
    }
    let (pixels, shape) = (segment.pixels, segment.shape);
    let size = (shape.kernel_w, segment.rows.len() / 4, shape.stride_w);
    for first in (0..segment.channels).step_by(WIDTH) {
        let lines = Lines::new(&segment, first);
        // Few channels of several pixels fill a vector; all but the pixels at the borders are computed so.
        let narrow = narrow::tiles(&segment);
        let mut pixel = 0;
        while pixel < pixels {
            if !narrow.is_empty() && pixel == narrow.start {
                // SAFETY: passed on from the caller.
                pixel = unsafe { narrow::run(&mut segment, &lines, narrow.clone()) };
                continue;
            }
            let before_narrow = pixel < narrow.start;
            // Columns are shared between outputs only where the kernel has no holes. The last tile may
            // compute pixels a second time, which is cheaper than single ones.
            let wide = shape.dilation_w == 1 && pixels >= 4 && !before_narrow;
            let start = if wide { pixel.min(pixels - 4) } else { pixel };
            let segment = &mut segment;
            // SAFETY: passed on from the caller; the pixels and the channels exist, and the size is that of
            // the shape.
            unsafe {
                match (wide, size) {
                    (true, (3, 1, 1)) => tile::<4, 3, 1, 1>(segment, &lines, start),
                    (true, (3, 1, 2)) => tile::<4, 3, 1, 2>(segment, &lines, start),
                    (true, (5, 2, 1)) => tile::<4, 5, 2, 1>(segment, &lines, start),
                    (true, (5, 2, 2)) => tile::<4, 5, 2, 2>(segment, &lines, start),
                    (true, _) => tile::<4, 0, 0, 0>(segment, &lines, start),
                    (false, _) => tile::<1, 0, 0, 0>(segment, &lines, start),
                }
            }
            pixel = start + if wide { 4 } else { 1 };
        }
    }
}

/// Picks the block for the number of channels and the type of the activations.
///
/// # Safety
/// As [`block`], for the channels that there are.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const T: usize, const WIDE: usize, const QUADS: usize, const STRIDE: usize>(
    segment: &mut Segment<'_>,
    lines: &Lines,
    pixel: usize,
) {
    let whole = segment.channels - lines.first >= WIDTH;
    // SAFETY: passed on from the caller.
    unsafe {
        match (whole, segment.signed) {
            (true, false) => block::<T, true, false, WIDE, QUADS, STRIDE>(segment, lines, pixel),
            (true, true) => block::<T, true, true, WIDE, QUADS, STRIDE>(segment, lines, pixel),
            (false, false) => block::<T, false, false, WIDE, QUADS, STRIDE>(segment, lines, pixel),
            (false, true) => block::<T, false, true, WIDE, QUADS, STRIDE>(segment, lines, pixel),
        }
    }
}

/// Computes `T` pixels from `pixel` on, for the channels of a block, which are 64 if `WHOLE`.
///
/// `WIDE` is the width of the kernel, `QUADS` its height in groups of four, and `STRIDE` the horizontal
/// stride, so that the loops of common kernels unroll; all three are 0 for any other size.
///
/// # Safety
/// The invariants of [`Segment`] hold, the pixels exist, the dilation is 1 where `T` is not, and the
/// processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn block<
    const T: usize,
    const WHOLE: bool,
    const SIGNED: bool,
    const WIDE: usize,
    const QUADS: usize,
    const STRIDE: usize,
>(
    segment: &mut Segment<'_>,
    lines: &Lines,
    pixel: usize,
) {
    let Segment {
        shape, channels, ..
    } = *segment;
    let first = lines.first;
    let count = if WHOLE {
        WIDTH
    } else {
        (channels - first).min(WIDTH)
    };
    let mask = lanes(count);
    let weight_stride = count.next_multiple_of(16);
    let weight_mask = lanes(weight_stride);
    let (width, quads, stride) = if WIDE == 0 {
        (shape.kernel_w, segment.rows.len() / 4, shape.stride_w)
    } else {
        (WIDE, QUADS, STRIDE)
    };
    // SAFETY: a channel block starts after the whole blocks before it, 64 channels each.
    let weights = unsafe {
        segment
            .packed
            .as_ptr()
            .add(first * depthwise_quads(shape) * 4)
    };
    let flip = _mm512_set1_epi8(-128);
    let mut acc = [[_mm512_setzero_si512(); 4]; T];
    let start = segment.x + (pixel * stride) as isize;
    for column in 0..(T - 1) * stride + width {
        let at = Lines::column(segment, start + (column * shape.dilation_w) as isize);
        for quad in 0..quads {
            let load = |row: usize| {
                let from = lines.pixel(quad * 4 + row, at);
                // SAFETY: `count` channels follow at the zero row and at each column inside of the image;
                // masked lanes are not read.
                let bytes = unsafe {
                    if WHOLE {
                        _mm512_loadu_si512(from.cast())
                    } else {
                        _mm512_maskz_loadu_epi8(mask, from.cast())
                    }
                };
                if SIGNED {
                    _mm512_xor_si512(bytes, flip)
                } else {
                    bytes
                }
            };
            let (r0, r1, r2, r3) = (load(0), load(1), load(2), load(3));
            let (low01, high01) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
            let values = [
                _mm512_unpacklo_epi16(low01, low23),
                _mm512_unpackhi_epi16(low01, low23),
                _mm512_unpacklo_epi16(high01, high23),
                _mm512_unpackhi_epi16(high01, high23),
            ];
            for t in 0..T {
                // Wraps to a large number left of the kernel.
                let tap = column.wrapping_sub(t * stride);
                if tap < width {
                    // SAFETY: the packed weights have this group of four taps.
                    let weights = unsafe { weights.add((tap * quads + quad) * 4 * weight_stride) };
                    for j in 0..4 {
                        // SAFETY: it has four quarters of `weight_stride` bytes; masked lanes are not read.
                        let weights = unsafe {
                            if WHOLE {
                                _mm512_loadu_si512(weights.add(j * WIDTH).cast())
                            } else {
                                let at = weights.add(j * weight_stride);
                                _mm512_maskz_loadu_epi8(weight_mask, at.cast())
                            }
                        };
                        acc[t][j] = _mm512_dpbusd_epi32(acc[t][j], values[j], weights);
                    }
                }
            }
        }
    }
    match segment.stage {
        OutputStage::Quantized(stage) => {
            // SAFETY: passed on from the caller.
            unsafe { store_bytes(segment, stage, (first, mask), pixel, &acc) };
        }
        stage => {
            let shift = if SIGNED { 128 } else { 0 };
            for (t, acc) in acc.iter().enumerate() {
                let sums = in_order(acc);
                let at = (pixel + t) * channels + first;
                let output = &mut segment.floats[at..at + count];
                store_float_row(
                    stage,
                    &sums[..count],
                    (segment.row + pixel + t, shift),
                    first,
                    output,
                );
            }
        }
    }
}

/// Requantizes and stores a block.
///
/// # Safety
/// As [`block`]; `mask` has the channels that exist.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store_bytes<const T: usize>(
    segment: &mut Segment<'_>,
    stage: &Quantized<'_>,
    (first, mask): (usize, u64),
    pixel: usize,
    acc: &[[__m512i; 4]; T],
) {
    let finish = Finish::new(stage);
    let bias = &segment.bias[first..first + WIDTH];
    let multiplier = &segment.multiplier[first..first + WIDTH];
    let low_byte = _mm512_set1_epi32(0xFF);
    for (t, acc) in acc.iter().enumerate() {
        let value = |j: usize| {
            // SAFETY: both slices have 64 elements.
            let (bias, multiplier) = unsafe {
                (
                    _mm512_loadu_si512(bias.as_ptr().add(j * 16).cast()),
                    _mm512_loadu_ps(multiplier.as_ptr().add(j * 16)),
                )
            };
            let values = finish.apply(acc[j], bias, multiplier, || {
                let Some(residual) = stage.residual else {
                    return _mm_setzero_si128();
                };
                let at = (segment.row + pixel + t) * segment.channels + first;
                // SAFETY: the residual has all channels of this pixel; masked lanes are not read.
                let bytes =
                    unsafe { _mm512_maskz_loadu_epi8(mask, residual.data.as_ptr().add(at).cast()) };
                let j = j as i32;
                let order =
                    _mm512_setr_epi32(j, j + 4, j + 8, j + 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, bytes))
            });
            _mm512_and_si512(values, low_byte)
        };
        let low = _mm512_packus_epi32(value(0), value(1));
        let high = _mm512_packus_epi32(value(2), value(3));
        let bytes = _mm512_packus_epi16(low, high);
        let at = (pixel + t) * segment.channels + first;
        // SAFETY: the output has all channels of this pixel; masked lanes are not written.
        unsafe {
            let output = segment.bytes.as_mut_ptr().add(at);
            if mask == u64::MAX {
                _mm512_storeu_si512(output.cast(), bytes);
            } else {
                _mm512_mask_storeu_epi8(output.cast(), mask, bytes);
            }
        }
    }
}

/// The sums in the order of the channels.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(acc: &[__m512i; 4]) -> [i32; WIDTH] {
    let mut sums = [0; WIDTH];
    for (j, &acc) in acc.iter().enumerate() {
        let mut quarter = [0_i32; 16];
        // SAFETY: 16 numbers are as large as a vector.
        unsafe { _mm512_storeu_si512(quarter.as_mut_ptr().cast(), acc) };
        for (panel, four) in quarter.chunks_exact(4).enumerate() {
            sums[panel * 16 + j * 4..][..4].copy_from_slice(four);
        }
    }
    sums
}

/// A mask of the first `count` of 64 bytes.
fn lanes(count: usize) -> u64 {
    if count >= WIDTH {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
