//! The output stage for AVX2: of tiles of 16 channels, and of 8 sums for kernels with their own order of channels.

use std::arch::x86_64::*;

use crate::Bounds;
use crate::conv::output::{Float, OutputStage, Quantized};
use crate::conv::scalar::store_floats;
use crate::conv::tile::{Tile, partial};

/// Channels of a tile.
const CHANNELS: usize = 16;

/// Passes the sums of a tile through the output stage.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and at most 16 channels, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn store<const R: usize>(tile: &Tile<'_>, acc: &[[__m256i; 2]; R]) {
    // SAFETY: passed on from the caller; two vectors are 16 numbers.
    unsafe {
        match tile.stage {
            OutputStage::Quantized(stage) => store_bytes(tile, stage, acc),
            OutputStage::Float(stage) if tile.channels == CHANNELS => {
                store_whole_floats(tile, stage, acc);
            }
            OutputStage::Float(stage) => {
                for (r, acc) in acc.iter().enumerate() {
                    let sums = std::slice::from_raw_parts(acc.as_ptr().cast(), tile.channels);
                    store_floats(tile, stage, r, sums);
                }
            }
        }
    }
}

/// Stores the floats of a tile of 16 channels.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and 16 channels, `stage` is that of the tile, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_whole_floats<const R: usize>(
    tile: &Tile<'_>,
    stage: &Float<'_>,
    acc: &[[__m256i; 2]; R],
) {
    for half in 0..2 {
        let channel = tile.channel + half * 8;
        // SAFETY: the constants have an entry for each channel.
        let (correction, scale, bias) = unsafe {
            (
                _mm256_loadu_si256(stage.correction.as_ptr().add(channel).cast()),
                _mm256_loadu_ps(stage.scale.as_ptr().add(channel)),
                _mm256_loadu_ps(stage.bias.as_ptr().add(channel)),
            )
        };
        for (r, acc) in acc.iter().enumerate() {
            let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(acc[half], correction));
            let mut value = _mm256_add_ps(_mm256_mul_ps(sum, scale), bias);
            if let Some(Bounds { lo, hi }) = stage.clamp {
                // The second operand is the result when it is NaN, and when both are zeros.
                value = _mm256_max_ps(_mm256_set1_ps(lo), value);
                value = _mm256_min_ps(_mm256_set1_ps(hi), value);
            }
            // SAFETY: the output is writable for each row and channel of the tile, and was made from a slice of floats.
            unsafe {
                let output = tile.output.cast::<f32>();
                _mm256_storeu_ps(output.add(r * tile.output_stride + half * 8), value);
            }
        }
    }
}

/// The constants of a [`Quantized`] stage that do not depend on the channel.
struct Constants {
    zero_point: __m256i,
    lo: __m256,
    hi: __m256,
}

impl Constants {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(zero_point: i32, lo: i32, hi: i32) -> Self {
        Self {
            zero_point: _mm256_set1_epi32(zero_point),
            lo: _mm256_set1_ps((lo - zero_point) as f32),
            hi: _mm256_set1_ps((hi - zero_point) as f32),
        }
    }

    /// Clamps and rounds to steps from the zero point. NaN gives the lower bound, as in the definition.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn steps(&self, value: __m256) -> __m256i {
        let clamped = _mm256_min_ps(_mm256_max_ps(value, self.lo), self.hi);
        let rounded = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped);
        _mm256_cvtps_epi32(rounded)
    }
}

/// The output stage of 8 channels: everything that does not change from row to row.
pub(crate) struct Finish {
    first: Constants,
    /// Zero point of the residual, the two ratios, and the constants of the sum.
    residual: Option<(__m256i, __m256, __m256, Constants, bool)>,
}

impl Finish {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) fn new(stage: &Quantized<'_>) -> Self {
        let residual = stage.residual.as_ref().map(|residual| {
            (
                _mm256_set1_epi32(residual.residual_zero_point),
                _mm256_set1_ps(residual.output_ratio),
                _mm256_set1_ps(residual.residual_ratio),
                Constants::new(residual.zero_point, residual.lo, residual.hi),
                residual.signed,
            )
        });
        Self {
            first: Constants::new(stage.zero_point, stage.lo, stage.hi),
            residual,
        }
    }

    /// The quantized values of 8 sums; `residual` gives the residual's 8 bytes if it is asked.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) fn apply(
        &self,
        acc: __m256i,
        bias: __m256i,
        multiplier: __m256,
        residual: impl FnOnce() -> __m128i,
    ) -> __m256i {
        let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(acc, bias));
        let steps = self.first.steps(_mm256_mul_ps(sum, multiplier));
        let Some((zero_point, output_ratio, residual_ratio, second, signed)) = &self.residual
        else {
            return _mm256_add_epi32(steps, self.first.zero_point);
        };
        let bytes = residual();
        let r = if *signed {
            _mm256_cvtepi8_epi32(bytes)
        } else {
            _mm256_cvtepu8_epi32(bytes)
        };
        let r = _mm256_cvtepi32_ps(_mm256_sub_epi32(r, *zero_point));
        let left = _mm256_mul_ps(_mm256_cvtepi32_ps(steps), *output_ratio);
        let steps = second.steps(_mm256_add_ps(left, _mm256_mul_ps(r, *residual_ratio)));
        _mm256_add_epi32(steps, second.zero_point)
    }
}

/// Requantizes and stores a tile.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and at most 16 channels, `stage` is that of the tile, and the processor
/// has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_bytes<const R: usize>(
    tile: &Tile<'_>,
    stage: &Quantized<'_>,
    acc: &[[__m256i; 2]; R],
) {
    let finish = Finish::new(stage);
    let count = tile.channels;
    // SAFETY: the constants have an entry for each channel; fewer than 16 are copied before they are loaded.
    let (bias, multiplier) = unsafe {
        let bias = stage.bias.as_ptr().add(tile.channel);
        let multiplier = stage.multiplier.as_ptr().add(tile.channel);
        let load_bias = |p: *const i32| {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(8).cast()),
            ]
        };
        let load_multiplier = |p: *const f32| [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))];
        if count == CHANNELS {
            (load_bias(bias), load_multiplier(multiplier))
        } else {
            let bias: [_; CHANNELS] = partial(bias, count);
            let multiplier: [_; CHANNELS] = partial(multiplier, count);
            (
                load_bias(bias.as_ptr()),
                load_multiplier(multiplier.as_ptr()),
            )
        }
    };
    let low_byte = _mm256_set1_epi32(0xFF);
    for (r, acc) in acc.iter().enumerate() {
        let residual = stage.residual.map_or([0; CHANNELS], |residual| {
            let at = (tile.row + r) * tile.all_channels + tile.channel;
            // SAFETY: the residual has an element for each row and channel of the tile.
            unsafe { partial(residual.data.as_ptr().add(at), count) }
        });
        let value = |half: usize| {
            let values = finish.apply(acc[half], bias[half], multiplier[half], || {
                // SAFETY: 8 of 16 bytes.
                unsafe { _mm_loadl_epi64(residual.as_ptr().add(half * 8).cast()) }
            });
            _mm256_and_si256(values, low_byte)
        };
        // Packing interleaves the halves of both vectors; the permutation brings them in order.
        let words = _mm256_packus_epi32(value(0), value(1));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm_packus_epi16(
            _mm256_castsi256_si128(words),
            _mm256_extracti128_si256::<1>(words),
        );
        // SAFETY: the output is writable for each row and channel of the tile.
        unsafe {
            let output = tile.output.add(r * tile.output_stride);
            if count == CHANNELS {
                _mm_storeu_si128(output.cast(), bytes);
            } else {
                let mut all = [0_u8; CHANNELS];
                _mm_storeu_si128(all.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(all.as_ptr(), output, count);
            }
        }
    }
}
