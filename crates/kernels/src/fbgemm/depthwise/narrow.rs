//! The depthwise kernel for AVX-512 with VNNI and blocks of 16 or 32 channels: 64 bytes are neighbouring pixels.
//!
//! So few channels leave most of a vector empty, so that a vector holds those of 4 or 2 neighbouring pixels. Where a pixel has no other channels,
//! each kernel column is one load for all of them (two and a shuffle with a stride of 2); else one for each. Everything else is as with 64
//! channels, with weights, bias and multipliers repeated for each pixel: interleaving works within 128 bits, which no two pixels share. Pixels
//! whose kernel reaches into the padding beside the image are left to the other kernel, and so are rows that reach above or below it.
//! Registers: 4 sums, 4 interleaved vectors, 8 temporaries.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::pack::depthwise_quads;
use super::Segment;
use super::avx512vnni::Block;
use crate::conv::output::OutputStage;

/// Bytes of a vector.
const WIDTH: usize = 64;

/// The first pixels of the tiles that this kernel may compute for the channels from `first` on: none but for 16 or 32 channels, and without a
/// residual. `inside` are the pixels whose kernel lies inside of the image.
pub(super) fn tiles(segment: &Segment<'_>, first: usize, inside: &Range<usize>) -> Range<usize> {
    let count = segment.channels - first;
    let plain = matches!(segment.stage, OutputStage::Quantized(stage) if stage.residual.is_none());
    if !plain || !matches!(count, 16 | 32) {
        return 0..0;
    }
    // With a stride of 2, vectors of neighbouring pixels hold one column more than the kernel takes.
    let end = inside
        .end
        .saturating_sub(usize::from(step(segment, count) == 2));
    inside.start..(end + 1).saturating_sub(WIDTH / count).max(inside.start)
}

/// The distance of the pixels of a vector if they have no other channels: 1 or 2 pixels; 0 where they are apart.
fn step(segment: &Segment<'_>, count: usize) -> usize {
    match segment.shape.stride_w {
        stride @ (1 | 2) if segment.channels == count => stride,
        _ => 0,
    }
}

/// Computes the pixels of the tiles that start in `tiles`, which [`tiles()`] gave; gives the first pixel behind them.
///
/// # Safety
/// The invariants of [`Segment`] hold, `block` was made of it, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(
    segment: &mut Segment<'_>,
    block: &Block<'_>,
    tiles: Range<usize>,
) -> usize {
    let count = segment.channels - block.first;
    let common = segment.shape.kernel_h == 3 && segment.shape.kernel_w == 3 && !segment.signed;
    // SAFETY: passed on from the caller.
    unsafe {
        match (count, step(segment, count), common) {
            (16, 1, true) => run_tiles::<16, 1, 3>(segment, block, tiles),
            (16, 2, true) => run_tiles::<16, 2, 3>(segment, block, tiles),
            (16, _, true) => run_tiles::<16, 0, 3>(segment, block, tiles),
            (16, 1, _) => run_tiles::<16, 1, 0>(segment, block, tiles),
            (16, 2, _) => run_tiles::<16, 2, 0>(segment, block, tiles),
            (16, _, _) => run_tiles::<16, 0, 0>(segment, block, tiles),
            (_, 1, true) => run_tiles::<32, 1, 3>(segment, block, tiles),
            (_, 2, true) => run_tiles::<32, 2, 3>(segment, block, tiles),
            (_, _, true) => run_tiles::<32, 0, 3>(segment, block, tiles),
            (_, 1, _) => run_tiles::<32, 1, 0>(segment, block, tiles),
            (_, 2, _) => run_tiles::<32, 2, 0>(segment, block, tiles),
            (_, _, _) => run_tiles::<32, 0, 0>(segment, block, tiles),
        }
    }
}

/// [`run`] for `COUNT` channels whose [`step`] is `STEP`. `SIZE` is the height and width of the kernel over `u8`, or 0 for any kernel and type.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn run_tiles<const COUNT: usize, const STEP: usize, const SIZE: usize>(
    segment: &mut Segment<'_>,
    block: &Block<'_>,
    tiles: Range<usize>,
) -> usize {
    let (last, pixels) = (tiles.end - 1, WIDTH / COUNT);
    let mut pixel = tiles.start;
    loop {
        // SAFETY: passed on from the caller; all columns of the tile are in the image.
        unsafe { tile::<COUNT, STEP, SIZE>(segment, block, pixel) };
        if pixel == last {
            return pixel + pixels;
        }
        // The last tile may compute pixels a second time.
        pixel = (pixel + pixels).min(last);
    }
}

/// Loads `COUNT` channels of each of as many pixels as 64 bytes hold, `distance` bytes apart, as [`step`] says.
///
/// # Safety
/// They are readable, and with a `STEP` of 2 one pixel more; the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load<const COUNT: usize, const STEP: usize>(from: *const u8, distance: usize) -> __m512i {
    // SAFETY: passed on from the caller.
    unsafe {
        let whole = |offset: usize| _mm512_loadu_si512(from.add(offset).cast());
        match (STEP, COUNT) {
            (1, _) => whole(0),
            (2, 16) => _mm512_shuffle_i64x2::<0b10_00_10_00>(whole(0), whole(WIDTH)),
            (2, _) => _mm512_shuffle_i64x2::<0b01_00_01_00>(whole(0), whole(WIDTH)),
            (_, 16) => {
                let quarter = |pixel: usize| {
                    let bytes = _mm_loadu_si128(from.add(pixel * distance).cast());
                    _mm512_broadcast_i32x4(bytes)
                };
                let low = _mm512_mask_blend_epi64(0b0000_1100, quarter(0), quarter(1));
                let high = _mm512_mask_blend_epi64(0b1100_0000, quarter(2), quarter(3));
                _mm512_mask_blend_epi64(0b1111_0000, low, high)
            }
            _ => {
                let half = |pixel: usize| _mm256_loadu_si256(from.add(pixel * distance).cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(0)), half(1))
            }
        }
    }
}

/// Computes as many pixels from `pixel` on as 64 bytes hold, for the `COUNT` channels of a block. `STEP` and `SIZE` are those of
/// [`run_tiles`].
///
/// # Safety
/// The invariants of [`Segment`] hold, `block` was made of it, a tile starts at `pixel`, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const COUNT: usize, const STEP: usize, const SIZE: usize>(
    segment: &mut Segment<'_>,
    block: &Block<'_>,
    pixel: usize,
) {
    let Some(finish) = &block.finish else {
        return;
    };
    let (shape, channels) = (segment.shape, segment.channels);
    let (height, width) = match SIZE {
        0 => (shape.kernel_h, shape.kernel_w),
        size => (size, size),
    };
    let quads = height.div_ceil(4);
    let flip = _mm512_set1_epi8(if segment.signed { -128 } else { 0 });
    let bias = &segment.bias[block.first..][..WIDTH];
    let multiplier = &segment.multiplier[block.first..][..WIDTH];
    let packed = &segment.packed[block.first * depthwise_quads(shape) * 4..];
    // SAFETY: the slice has 64 elements, and a quarter is `COUNT / 4` of the 16 from `16·j` on.
    let mut acc: [__m512i; 4] =
        std::array::from_fn(|j| unsafe { repeated::<COUNT>(bias.as_ptr().add(j * 16).cast()) });
    let start = segment.x + (pixel * shape.stride_w) as isize;
    for column in 0..width {
        let x = start + (column * shape.dilation_w) as isize;
        let offset = x as usize * channels + block.first;
        for quad in 0..quads {
            let load = |row: usize| {
                // The weights behind the last row are zero, so that any value serves there.
                let row = (quad * 4 + row).min(height - 1);
                // SAFETY: `tiles` keeps what is read from each column on within its row of the image.
                let bytes = unsafe {
                    let from = block.rows.start[row].add(offset);
                    load::<COUNT, STEP>(from, shape.stride_w * channels)
                };
                if SIZE == 0 {
                    _mm512_xor_si512(bytes, flip)
                } else {
                    bytes
                }
            };
            let (r0, r1, r2) = (load(0), load(1), load(2));
            let r3 = if quad * 4 + 3 < height { load(3) } else { r2 };
            let (low01, high01) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
            let values = [
                _mm512_unpacklo_epi16(low01, low23),
                _mm512_unpackhi_epi16(low01, low23),
                _mm512_unpacklo_epi16(high01, high23),
                _mm512_unpackhi_epi16(high01, high23),
            ];
            let weights = &packed[(column * quads + quad) * 4 * COUNT..][..4 * COUNT];
            for (j, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the group of four taps has four quarters of `COUNT` bytes.
                let weights = unsafe { repeated::<COUNT>(weights.as_ptr().add(j * COUNT)) };
                *acc = _mm512_dpbusd_epi32(*acc, values[j], weights);
            }
        }
    }
    // SAFETY: as for the bias.
    let multiplier = [0, 1, 2, 3].map(|j| unsafe {
        let multiplier = multiplier.as_ptr().add(j * 16);
        _mm512_castsi512_ps(repeated::<COUNT>(multiplier.cast()))
    });
    let bytes = if block.plain {
        finish.bytes::<true>([0, 1, 2, 3].map(|j| finish.steps::<true>(acc[j], multiplier[j])))
    } else {
        finish.bytes::<false>([0, 1, 2, 3].map(|j| finish.steps::<false>(acc[j], multiplier[j])))
    };
    let first = pixel * channels + block.first;
    let output = &mut segment.bytes[first..][..(WIDTH / COUNT - 1) * channels + COUNT];
    let output = output.as_mut_ptr();
    // SAFETY: the slice has `COUNT` channels of each pixel.
    unsafe {
        match COUNT {
            _ if channels == COUNT => _mm512_storeu_si512(output.cast(), bytes),
            16 => {
                let quarters = [
                    _mm512_castsi512_si128(bytes),
                    _mm512_extracti32x4_epi32::<1>(bytes),
                    _mm512_extracti32x4_epi32::<2>(bytes),
                    _mm512_extracti32x4_epi32::<3>(bytes),
                ];
                for (i, quarter) in quarters.into_iter().enumerate() {
                    _mm_storeu_si128(output.add(i * channels).cast(), quarter);
                }
            }
            _ => {
                _mm256_storeu_si256(output.cast(), _mm512_castsi512_si256(bytes));
                let high = _mm512_extracti64x4_epi64::<1>(bytes);
                _mm256_storeu_si256(output.add(channels).cast(), high);
            }
        }
    }
}

/// `COUNT` bytes, over and over.
///
/// # Safety
/// They are readable, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn repeated<const COUNT: usize>(bytes: *const u8) -> __m512i {
    // SAFETY: passed on from the caller.
    unsafe {
        if COUNT == 16 {
            _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.cast()))
        } else {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.cast()))
        }
    }
}
