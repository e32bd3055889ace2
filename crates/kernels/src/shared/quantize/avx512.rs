//! Quantization by AVX-512, and with it the change of layout to channels-last.
//!
//! A quotient is between the products with numbers a little below and a little above the reciprocal, which are further from it than the roundings of both.
//! Where such products round to the same step, that is the quotient's too, and elsewhere it is divided.

use std::arch::x86_64::*;

use super::{CHANNELS, PIXELS};
use crate::shared::Target8;
use crate::shared::layout::x86::transpose_dwords;

/// All lanes.
pub(crate) const ALL: __mmask16 = 0xFFFF;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The first `count` lanes, at most all.
#[inline(always)]
pub(crate) fn first_lanes(count: usize) -> __mmask16 {
    ((1_u32 << count.min(LANES)) - 1) as u16
}

/// What makes bytes of floats, one a dword: unsigned ones, which are larger by 128 than signed ones.
#[derive(Clone, Copy)]
pub(crate) struct Quantizer {
    scale: __m512,
    /// Bounds of the steps from the zero point.
    steps: [__m512; 2],
    zero_point: __m512i,
    /// Whether neither the scale nor its reciprocal is near the ends of the type's range.
    ordinary: bool,
    /// Bounds of the floats, which leave all steps possible.
    bounds: [__m512; 2],
    /// A little less than the reciprocal, and a little more.
    around: [__m512; 2],
    /// 1.5 · 2^23 and the zero point: sums with it are whole numbers, the lowest byte of which is the result.
    rounder: __m512,
}

impl Quantizer {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn new(to: Target8) -> Self {
        /// Four times the largest error of a rounding.
        const APART: f32 = 1.0 / (1 << 22) as f32;
        const ROUNDER: f32 = 12_582_912.0;
        let shift = if to.quant.signed { 128 } else { 0 };
        let (scale, zero_point) = (to.quant.params.scale, to.quant.params.zero_point);
        let [lo, hi] = [to.lo, to.hi].map(|bound| (bound - zero_point) as f32);
        let all = |value: f32| _mm512_set1_ps(value);
        Self {
            scale: all(scale),
            steps: [all(lo), all(hi)],
            zero_point: _mm512_set1_epi32(zero_point + shift),
            ordinary: (1e-30..1e30).contains(&scale),
            bounds: [all((lo - 0.25) * scale), all((hi + 0.25) * scale)],
            around: [1.0 - APART, 1.0 + APART].map(|by| all(scale.recip() * by)),
            rounder: all(ROUNDER + (zero_point + shift) as f32),
        }
    }

    /// Whether products decide anything.
    #[inline(always)]
    pub(crate) fn multiplies(&self) -> bool {
        self.ordinary
    }

    /// The bytes by both products, in the lowest bits of each dword; the other bits mean nothing.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn multiply(&self, x: __m512) -> [__m512i; 2] {
        // The second operand is the result when the first is NaN.
        let x = _mm512_min_ps(_mm512_max_ps(x, self.bounds[0]), self.bounds[1]);
        [
            _mm512_castps_si512(_mm512_fmadd_ps(x, self.around[0], self.rounder)),
            _mm512_castps_si512(_mm512_fmadd_ps(x, self.around[1], self.rounder)),
        ]
    }

    /// The bytes by the definition.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn divide(&self, x: __m512) -> __m512i {
        let steps = _mm512_max_ps(_mm512_div_ps(x, self.scale), self.steps[0]);
        let steps = _mm512_min_ps(steps, self.steps[1]);
        // A sum with the rounder would round halves to numbers that are even with the zero point.
        _mm512_add_epi32(_mm512_cvtps_epi32(steps), self.zero_point)
    }
}

/// `differences | (a ^ b)`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn add_differences(differences: __m512i, [a, b]: [__m512i; 2]) -> __m512i {
    _mm512_ternarylogic_epi32::<0xF6>(differences, a, b)
}

/// A few pixels of a few channels of one image.
///
/// Invariants: `count` floats, at most [`PIXELS`], are readable at each of `channels` pointers, at most [`CHANNELS`] but not none, that begin at `input`
/// and follow each other every `plane` floats; and `channels` bytes are writable at each of `count` pointers, every `stride` bytes from `output` on.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) input: *const f32,
    pub(super) plane: usize,
    pub(super) output: *mut u8,
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) channels: usize,
}

/// Quantizes a block and moves it to channels-last.
///
/// # Safety
/// The invariants of [`Block`] hold, and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn to_nhwc(block: Block, to: Target8) {
    let quantizer = Quantizer::new(to);
    // `[16 pixels][four channels]`, with the bytes of the four channels in a dword.
    let mut fours = [[_mm512_setzero_si512(); CHANNELS / 4]; PIXELS / LANES];
    let flip = _mm512_set1_epi8(if to.quant.signed { -128 } else { 0 });
    let whole = block.count / LANES;
    for i in 0..block.channels.div_ceil(4) {
        // A missing channel is read as the last one, and not written.
        let planes = [0, 1, 2, 3].map(|c| {
            let channel = (4 * i + c).min(block.channels - 1);
            block.input.wrapping_add(channel * block.plane)
        });
        let four = |vector: usize, mask| {
            // SAFETY: the pixels of the mask exist in each channel; the others are not read.
            let x = planes.map(|p| unsafe { _mm512_maskz_loadu_ps(mask, p.add(vector * LANES)) });
            _mm512_xor_si512(quantize_four(&quantizer, x), flip)
        };
        for (vector, fours) in fours.iter_mut().take(whole).enumerate() {
            fours[i] = four(vector, ALL);
        }
        if whole * LANES < block.count {
            fours[whole][i] = four(whole, first_lanes(block.count - whole * LANES));
        }
    }
    let mask = u64::MAX >> (CHANNELS - block.channels);
    let vectors = block.count.div_ceil(LANES);
    for (vector, fours) in fours.iter().take(vectors).enumerate() {
        let output = block.output.wrapping_add(vector * LANES * block.stride);
        let pixels = block.count - vector * LANES;
        for (p, bytes) in transpose_dwords(fours).into_iter().take(pixels).enumerate() {
            // SAFETY: the pixel exists, and the mask has its channels.
            unsafe { _mm512_mask_storeu_epi8(output.add(p * block.stride).cast(), mask, bytes) };
        }
    }
}

/// Quantizes floats in their order.
///
/// # Safety
/// Both slices have the same length, and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn bytes(input: &[f32], to: Target8, output: &mut [u8]) {
    let quantizer = Quantizer::new(to);
    let flip = _mm512_set1_epi8(if to.quant.signed { -128 } else { 0 });
    // Each quarter of a vector has four bytes of four vectors: they are brought together, and then the quarters.
    let together = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    ));
    let quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let (input, len) = (input.as_ptr(), input.len());
    let output = output.as_mut_ptr();
    let four = |start: usize, masks: [__mmask16; 4]| {
        // SAFETY: the input has the floats of the masks; the others are not read.
        let x = std::array::from_fn(|i| unsafe {
            _mm512_maskz_loadu_ps(masks[i], input.wrapping_add(start + i * LANES))
        });
        let bytes = _mm512_xor_si512(quantize_four(&quantizer, x), flip);
        _mm512_permutexvar_epi32(quarters, _mm512_shuffle_epi8(bytes, together))
    };
    let whole = len / (4 * LANES) * (4 * LANES);
    for start in (0..whole).step_by(4 * LANES) {
        // SAFETY: the output has 64 bytes from here on.
        unsafe { _mm512_storeu_si512(output.add(start).cast(), four(start, [ALL; 4])) };
    }
    if whole < len {
        let count = len - whole;
        let masks = [0, 1, 2, 3].map(|i| first_lanes(count.saturating_sub(i * LANES)));
        // SAFETY: the output has the bytes of the mask.
        unsafe {
            let mask = (1_u64 << count) - 1;
            _mm512_mask_storeu_epi8(output.add(whole).cast(), mask, four(whole, masks));
        }
    }
}

/// Quantizes pixels of three planes and interleaves them.
///
/// # Safety
/// The planes have the same length, `output` has three bytes for each of their pixels, and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn rgb(planes: [&[f32]; 3], to: Target8, output: &mut [u8]) {
    let quantizer = Quantizer::new(to);
    let flip = _mm512_set1_epi8(if to.quant.signed { -128 } else { 0 });
    // Three bytes of each dword, and then three dwords of each quarter, without gaps.
    let three = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
    ));
    let packed = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 15, 15, 15);
    let len = planes[0].len();
    for pixel in (0..len).step_by(LANES) {
        let count = (len - pixel).min(LANES);
        let mask = first_lanes(count);
        // SAFETY: the planes have the pixels of the mask; the others are not read.
        let [r, g, b] =
            planes.map(|plane| unsafe { _mm512_maskz_loadu_ps(mask, plane.as_ptr().add(pixel)) });
        let bytes = _mm512_xor_si512(quantize_four(&quantizer, [r, g, b, b]), flip);
        let bytes = _mm512_permutexvar_epi32(packed, _mm512_shuffle_epi8(bytes, three));
        let mask = (1_u64 << (3 * count)) - 1;
        let output = output[3 * pixel..].as_mut_ptr();
        // SAFETY: the output has the bytes of the mask.
        unsafe { _mm512_mask_storeu_epi8(output.cast(), mask, bytes) };
    }
}

/// The bytes of four channels of 16 pixels, those of a pixel in a dword.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn quantize_four(quantizer: &Quantizer, x: [__m512; 4]) -> __m512i {
    let products = x.map(|x| quantizer.multiply(x));
    let differences = products.iter().fold(_mm512_setzero_si512(), |all, &pair| {
        add_differences(all, pair)
    });
    let mut bytes = products.map(|[less, _]| less);
    if !quantizer.multiplies() || _mm512_test_epi32_mask(differences, differences) != 0 {
        bytes = x.map(|x| quantizer.divide(x));
    }
    let [a, b, c, d] = bytes;
    // The bits above the lowest byte are shifted out, or covered by the next one.
    let low =
        _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi32(0xFF), a, _mm512_slli_epi32::<8>(b));
    let high = _mm512_ternarylogic_epi32::<0xCA>(
        _mm512_set1_epi32(0xFF_FFFF),
        _mm512_slli_epi32::<16>(c),
        _mm512_slli_epi32::<24>(d),
    );
    _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi32(0xFFFF), low, high)
}
