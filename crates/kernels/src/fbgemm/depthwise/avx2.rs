//! The depthwise kernel for AVX2, exact: 32 channels of up to 2 neighbouring outputs.
//!
//! Four kernel rows of a column are interleaved to dwords of four taps, and instead of `vpdpbusd` the even and odd bytes are widened and multiplied by
//! `vpmaddwd` (see [`crate::conv::avx2`]). A block of 64 channels of packed weights serves two passes.
//! Registers: 8 sums, 4 interleaved vectors, 4 temporaries.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::super::pack::depthwise_quads;
use super::MAX_ROWS;
use super::lines::Lines;
use super::{Channels, Layer, Segment};
use crate::conv::avx2::{Finish, even_signed, even_unsigned, odd_signed, odd_unsigned};
use crate::conv::tile::partial;
use crate::conv::{OutputStage, Quantized, RowStride};

/// Channels of a pass.
const WIDTH: usize = 32;

/// Computes the pixels of one run.
///
/// # Safety
/// The invariants of [`Segment`] hold, and the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn segment(mut segment: Segment<'_>) {
    if segment.rows.len() > MAX_ROWS {
        return super::scalar::segment(segment);
    }
    let pixels = segment.pixels;
    for first in (0..segment.layer.channels).step_by(WIDTH) {
        let lines = Lines::new(&segment, first);
        let whole = segment.layer.channels - first >= WIDTH;
        let mut pixel = 0;
        while pixel < pixels {
            // Columns are shared between outputs only where the kernel has no holes. The last tile may overlap the one before.
            let wide = segment.layer.shape.dilation_w == 1 && pixels >= 2;
            let start = if wide { pixel.min(pixels - 2) } else { pixel };
            let segment = &mut segment;
            // SAFETY: passed on from the caller; the pixels and the channels exist.
            unsafe {
                match (wide, whole) {
                    (true, true) => block::<2, true>(segment, &lines, start),
                    (true, false) => block::<2, false>(segment, &lines, start),
                    (false, true) => block::<1, true>(segment, &lines, start),
                    (false, false) => block::<1, false>(segment, &lines, start),
                }
            }
            pixel = start + if wide { 2 } else { 1 };
        }
    }
}

/// Loads `count` bytes, at most 32, followed by zeros.
///
/// # Safety
/// `count` bytes are readable, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8, count: usize) -> __m256i {
    // SAFETY: passed on from the caller.
    unsafe {
        if count >= WIDTH {
            return _mm256_loadu_si256(from.cast());
        }
        let bytes: [u8; WIDTH] = partial(from, count);
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

/// Computes `T` pixels from `pixel` on, for the channels of a pass, which are 32 if `WHOLE`.
///
/// # Safety
/// The invariants of [`Segment`] hold, the pixels exist, the dilation is 1 where `T` is not, and the
/// processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn block<const T: usize, const WHOLE: bool>(
    segment: &mut Segment<'_>,
    lines: &Lines,
    pixel: usize,
) {
    let Layer {
        shape, channels, ..
    } = *segment.layer;
    let first = lines.first;
    let count = if WHOLE {
        WIDTH
    } else {
        (channels - first).min(WIDTH)
    };
    // The packed weights come in blocks of up to 64 channels, of which this pass takes a half.
    let block_start = first / 64 * 64;
    let weight_stride = (channels - block_start).min(64).next_multiple_of(16);
    let weight_count = count.next_multiple_of(16);
    let quads = segment.rows.len() / 4;
    let (width, stride) = (shape.kernel_w, shape.stride_w);
    // SAFETY: a channel block starts after the whole blocks before it, 64 channels each.
    let weights = unsafe {
        let block = segment
            .layer
            .packed
            .as_ptr()
            .add(block_start * depthwise_quads(shape) * 4);
        block.add(first - block_start)
    };
    let flip = _mm256_set1_epi8(if segment.layer.signed { -128 } else { 0 });
    let mut acc = [[_mm256_setzero_si256(); 4]; T];
    let start = segment.x + (pixel * stride) as isize;
    for column in 0..(T - 1) * stride + width {
        let at = Lines::column(segment, start + (column * shape.dilation_w) as isize);
        for quad in 0..quads {
            let row = |row: usize| {
                // SAFETY: `count` channels follow at the zero row and at each column inside of the image.
                let bytes = unsafe { load(lines.pixel(quad * 4 + row, at), count) };
                _mm256_xor_si256(bytes, flip)
            };
            let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
            let (low01, high01) = (_mm256_unpacklo_epi8(r0, r1), _mm256_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm256_unpacklo_epi8(r2, r3), _mm256_unpackhi_epi8(r2, r3));
            let values = [
                _mm256_unpacklo_epi16(low01, low23),
                _mm256_unpackhi_epi16(low01, low23),
                _mm256_unpacklo_epi16(high01, high23),
                _mm256_unpackhi_epi16(high01, high23),
            ];
            for t in 0..T {
                // Wraps to a large number left of the kernel.
                let tap = column.wrapping_sub(t * stride);
                if tap >= width {
                    continue;
                }
                for j in 0..4 {
                    let at = ((tap * quads + quad) * 4 + j) * weight_stride;
                    // SAFETY: the packed weights have this quarter of a group of four taps.
                    let weights =
                        unsafe { load(weights.add(at), if WHOLE { WIDTH } else { weight_count }) };
                    let even = _mm256_madd_epi16(even_unsigned(values[j]), even_signed(weights));
                    let odd = _mm256_madd_epi16(odd_unsigned(values[j]), odd_signed(weights));
                    acc[t][j] = _mm256_add_epi32(acc[t][j], _mm256_add_epi32(even, odd));
                }
            }
        }
    }
    match segment.layer.stage {
        OutputStage::Quantized(stage) => {
            // SAFETY: passed on from the caller.
            unsafe { store_bytes(segment, stage, Channels { first, count }, pixel, &acc) };
        }
        OutputStage::Float(stage) => {
            for (t, acc) in acc.iter().enumerate() {
                let sums = in_order(acc);
                let at = (pixel + t) * channels + first;
                let output = &mut segment.floats[at..at + count];
                stage.store(&sums[..count], first, output);
            }
        }
    }
}

/// Requantizes and stores a block.
///
/// # Safety
/// As [`block`]; the channels exist.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_bytes<const T: usize>(
    segment: &mut Segment<'_>,
    stage: &Quantized<'_>,
    channels: Channels,
    pixel: usize,
    acc: &[[__m256i; 4]; T],
) {
    let Channels { first, count } = channels;
    let finish = Finish::new(stage);
    // Within its 64 channels, a quarter of the ordered constants has four of each panel: this pass takes two
    // panels.
    let constants = first / 64 * 64 + first % 64 / 16 * 4;
    let bias = &segment.bias[constants..constants + 56];
    let multiplier = &segment.multiplier[constants..constants + 56];
    let low_byte = _mm256_set1_epi32(0xFF);
    for (t, acc) in acc.iter().enumerate() {
        let at = (segment.row + pixel + t) * segment.layer.channels + first;
        // SAFETY: the residual has `count` channels at this pixel.
        let residual = stage
            .residual
            .map(|residual| unsafe { load(residual.data.as_ptr().add(at), count) });
        let value = |j: usize| {
            // SAFETY: both slices have 56 elements, 8 from 48 on.
            let (bias, multiplier) = unsafe {
                (
                    _mm256_loadu_si256(bias.as_ptr().add(j * 16).cast()),
                    _mm256_loadu_ps(multiplier.as_ptr().add(j * 16)),
                )
            };
            let values = finish.apply(acc[j], bias, multiplier, || {
                let j = j as i32;
                let order = _mm256_setr_epi32(j, j + 4, 0, 0, 0, 0, 0, 0);
                let bytes = residual.unwrap_or(low_byte);
                _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order))
            });
            _mm256_and_si256(values, low_byte)
        };
        let low = _mm256_packus_epi32(value(0), value(1));
        let high = _mm256_packus_epi32(value(2), value(3));
        let bytes = _mm256_packus_epi16(low, high);
        let RowStride { pitch, offset } = segment.layer.output;
        let at = (pixel + t) * pitch + offset + first;
        // SAFETY: the output has `count` channels at this pixel.
        unsafe {
            let output = segment.bytes.as_mut_ptr().add(at);
            if count == WIDTH {
                _mm256_storeu_si256(output.cast(), bytes);
            } else {
                let mut all = [0_u8; WIDTH];
                _mm256_storeu_si256(all.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(all.as_ptr(), output, count);
            }
        }
    }
}

/// The sums in the order of the channels.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(acc: &[__m256i; 4]) -> [i32; WIDTH] {
    let mut sums = [0; WIDTH];
    for (j, &acc) in acc.iter().enumerate() {
        let mut quarter = [0_i32; 8];
        // SAFETY: 8 numbers are as large as a vector.
        unsafe { _mm256_storeu_si256(quarter.as_mut_ptr().cast(), acc) };
        for (panel, four) in quarter.chunks_exact(4).enumerate() {
            sums[panel * 16 + j * 4..][..4].copy_from_slice(four);
        }
    }
    sums
}
