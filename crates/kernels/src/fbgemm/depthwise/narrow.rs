//! The depthwise kernel for AVX-512 with VNNI and 16 or 32 channels: 64 bytes are neighbouring pixels.
//!
//! So few channels leave most of a vector empty. But channels-last pixels follow each other in memory, so a vector holds those of 4 or 2 neighbouring
//! pixels, and each kernel column is one load for all of them (two and a shuffle with a stride of 2). Everything else is as with 64 channels, with
//! weights, bias and multipliers repeated for each pixel: interleaving works within 128 bits, which no two pixels share. Pixels whose kernel
//! reaches into the padding beside the image are left to the other kernel.
//! Registers: 4 sums, 4 interleaved vectors, 8 temporaries.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx512vnni::Finish;
use super::Segment;
use super::lines::{Column, Lines};
use crate::conv::output::{OutputStage, Quantized};

/// Bytes of a vector.
const WIDTH: usize = 64;

/// The first pixels of the tiles that this kernel may compute: none but for 16 or 32 channels, strides of 1 or 2, no dilation and no residual.
pub(super) fn tiles(segment: &Segment<'_>) -> Range<usize> {
    let (shape, channels) = (segment.shape, segment.channels);
    let plain = matches!(segment.stage, OutputStage::Quantized(stage) if stage.residual.is_none());
    let fits = matches!(channels, 16 | 32)
        && matches!(shape.stride_w, 1 | 2)
        && (shape.dilation_w == 1 || shape.kernel_w == 1);
    if !(plain && fits) {
        return 0..0;
    }
    let (stride, pixels) = (shape.stride_w as isize, (WIDTH / channels) as isize);
    let first =
        (-segment.x).max(0).div_euclid(stride) + isize::from((-segment.x).max(0) % stride != 0);
    // Columns that a tile reads, the last one of each pair included that a stride of 2 skips.
    let reach = (pixels - 1) * stride + shape.kernel_w as isize + stride - 1;
    let last = (shape.in_w as isize - reach - segment.x).div_euclid(stride);
    let last = last.min(segment.pixels as isize - pixels);
    if last < first {
        return 0..0;
    }
    first as usize..last as usize + 1
}

/// Computes the pixels of the tiles that start in `tiles`, which [`tiles()`] gave; gives the first pixel behind them.
///
/// # Safety
/// The invariants of [`Segment`] hold, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(segment: &mut Segment<'_>, lines: &Lines, tiles: Range<usize>) -> usize {
    let OutputStage::Quantized(stage) = segment.stage else {
        return tiles.start;
    };
    let (step, last) = (WIDTH / segment.channels, tiles.end - 1);
    let mut pixel = tiles.start;
    while pixel < last + step {
        // The last tile may compute pixels a second time.
        let start = pixel.min(last);
        // SAFETY: passed on from the caller; all columns of the tile are in the image.
        unsafe {
            match (segment.channels, segment.shape.stride_w) {
                (16, 1) => tile::<16, 1>(segment, stage, lines, start),
                (16, _) => tile::<16, 2>(segment, stage, lines, start),
                (_, 1) => tile::<32, 1>(segment, stage, lines, start),
                _ => tile::<32, 2>(segment, stage, lines, start),
            }
        }
        pixel = start + step;
    }
    pixel
}

/// Computes as many pixels from `pixel` on as 64 bytes hold.
///
/// # Safety
/// The invariants of [`Segment`] hold, it has `CHANNELS` channels and the horizontal stride `STRIDE`, a tile starts at `pixel`, and the processor has
/// the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const CHANNELS: usize, const STRIDE: usize>(
    segment: &mut Segment<'_>,
    stage: &Quantized<'_>,
    lines: &Lines,
    pixel: usize,
) {
    let (width, quads) = (segment.shape.kernel_w, segment.rows.len() / 4);
    let flip = _mm512_set1_epi8(if segment.signed { -128 } else { 0 });
    let mut acc = [_mm512_setzero_si512(); 4];
    let start = segment.x + (pixel * STRIDE) as isize;
    for column in 0..width {
        let offset = (start + column as isize) as usize * CHANNELS;
        for quad in 0..quads {
            let load = |row: usize| {
                let at = |offset: usize| {
                    let from = lines.pixel(
                        quad * 4 + row,
                        Column {
                            inside: true,
                            offset,
                        },
                    );
                    // SAFETY: `tiles` keeps 64 bytes from each column within its row of the image, and the zero row has 64 bytes.
                    unsafe { _mm512_loadu_si512(from.cast()) }
                };
                let bytes = match (STRIDE, CHANNELS) {
                    (1, _) => at(offset),
                    // Every second quarter.
                    (_, 16) => {
                        _mm512_shuffle_i64x2::<0b10_00_10_00>(at(offset), at(offset + WIDTH))
                    }
                    // Every second half.
                    _ => _mm512_shuffle_i64x2::<0b01_00_01_00>(at(offset), at(offset + WIDTH)),
                };
                _mm512_xor_si512(bytes, flip)
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
            let weights = &segment.packed[(column * quads + quad) * 4 * CHANNELS..][..4 * CHANNELS];
            for (j, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the group of four taps has four quarters of `CHANNELS` bytes.
                let weights = unsafe { repeated::<CHANNELS>(weights.as_ptr().add(j * CHANNELS)) };
                *acc = _mm512_dpbusd_epi32(*acc, values[j], weights);
            }
        }
    }
    let finish = Finish::new(stage);
    let (bias, multiplier) = (&segment.bias[..WIDTH], &segment.multiplier[..WIDTH]);
    let low_byte = _mm512_set1_epi32(0xFF);
    let value = |j: usize| {
        // SAFETY: both slices have 64 elements, and a quarter is `CHANNELS / 4` of the 16 from `16·j` on.
        let (bias, multiplier) = unsafe {
            (
                repeated::<CHANNELS>(bias.as_ptr().add(j * 16).cast()),
                repeated::<CHANNELS>(multiplier.as_ptr().add(j * 16).cast()),
            )
        };
        let multiplier = _mm512_castsi512_ps(multiplier);
        let values = finish.apply(acc[j], bias, multiplier, || _mm_setzero_si128());
        _mm512_and_si512(values, low_byte)
    };
    let low = _mm512_packus_epi32(value(0), value(1));
    let high = _mm512_packus_epi32(value(2), value(3));
    let bytes = _mm512_packus_epi16(low, high);
    let output = &mut segment.bytes[pixel * CHANNELS..][..WIDTH];
    // SAFETY: the slice has 64 bytes.
    unsafe { _mm512_storeu_si512(output.as_mut_ptr().cast(), bytes) };
}

/// `CHANNELS` bytes, over and over.
///
/// # Safety
/// They are readable, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn repeated<const CHANNELS: usize>(bytes: *const u8) -> __m512i {
    // SAFETY: passed on from the caller.
    unsafe {
        if CHANNELS == 16 {
            _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.cast()))
        } else {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.cast()))
        }
    }
}
