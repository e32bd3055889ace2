//! The inner loop and the output stage for AVX2, exact: products of 16-bit halves by `vpmaddwd`.
//!
//! `vpmaddubsw` would saturate, so bytes are widened first, and without a shuffle: of four bytes in a dword,
//! masking (or shifting left and back, for signed ones) leaves the even two as 16-bit numbers, and shifting
//! right leaves the odd two. Activations and packed weights are both split that way, and `even·even + odd·odd` is the sum of four products, in 32
//! bits, where nothing overflows. The rows of a tile are widened once, for all panels ([`widen`]), the weights in the loop. Registers of a tile of 6
//! rows by 16 channels: 12 sums, 2 halves of weights, 1 broadcast, 1 temporary: 16.

use std::arch::x86_64::*;
use std::ops::Range;

use super::output::{OutputStage, Quantized};
use super::scalar::store_floats;
use super::tile::{Tile, partial};

/// Channels of a tile.
const CHANNELS: usize = 16;

/// The even bytes of each dword as two 16-bit numbers: signed ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn even_signed(bytes: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes))
}

/// The odd bytes of each dword as two 16-bit numbers: signed ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn odd_signed(bytes: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(bytes)
}

/// The even bytes of each dword as two 16-bit numbers: unsigned ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn even_unsigned(bytes: __m256i) -> __m256i {
    _mm256_and_si256(bytes, _mm256_set1_epi16(0xFF))
}

/// The odd bytes of each dword as two 16-bit numbers: unsigned ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn odd_unsigned(bytes: __m256i) -> __m256i {
    _mm256_srli_epi16::<8>(bytes)
}

/// Rows of the tallest tile of [`run`].
pub(crate) const ROWS: usize = 6;

/// Bytes of the widened rows of a tile: eight for each four activations.
pub(crate) const fn wide_len(taps: usize, quads: usize) -> usize {
    ROWS * taps * quads * 8
}

/// Widens the rows of a tile: `[row][tap][quad]` of the even two and the odd two of four activations, as `u16`.
///
/// # Safety
/// The invariants of [`Tile`] hold for `rows` rows, at most [`ROWS`]; `into` has [`wide_len`] bytes; the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn widen(tile: &Tile<'_>, rows: usize, into: *mut u8) {
    let flip = if tile.signed { 0x8080_8080_u32 } else { 0 };
    let flips = _mm256_set1_epi32(flip as i32);
    for r in 0..rows {
        for tap in 0..tile.taps {
            // SAFETY: the row has an entry at this tap, from which `quads` groups of four are readable, and the target has eight bytes for each.
            unsafe {
                let from = tile.row_start(tap, r);
                let into = into.add((r * tile.taps + tap) * tile.quads * 8);
                let mut quad = 0;
                while quad + 8 <= tile.quads {
                    let bytes = _mm256_loadu_si256(from.add(quad * 4).cast());
                    let bytes = _mm256_xor_si256(bytes, flips);
                    let (even, odd) = (even_unsigned(bytes), odd_unsigned(bytes));
                    let low = _mm256_unpacklo_epi32(even, odd);
                    let high = _mm256_unpackhi_epi32(even, odd);
                    let into = into.add(quad * 8).cast::<__m256i>();
                    _mm256_storeu_si256(into, _mm256_permute2x128_si256::<0x20>(low, high));
                    _mm256_storeu_si256(into.add(1), _mm256_permute2x128_si256::<0x31>(low, high));
                    quad += 8;
                }
                for quad in quad..tile.quads {
                    let four = from.add(quad * 4).cast::<u32>().read_unaligned() ^ flip;
                    let halves = [four & 0x00FF_00FF, four >> 8 & 0x00FF_00FF];
                    into.add(quad * 8)
                        .cast::<[u32; 2]>()
                        .write_unaligned(halves);
                }
            }
        }
    }
}

/// Computes a tile of up to [`ROWS`] widened rows by 16 channels, which are two halves of eight: `halves` point to the blocks
/// of the halves, 32 bytes each, that follow each other in a distance of `STEP` bytes.
///
/// # Safety
/// The invariants of [`Tile`] hold, `wide` has its rows as [`widen`] gives them, `halves` have `taps · quads` blocks each, and the processor has AVX2.
pub(crate) unsafe fn run<const STEP: usize>(tile: &Tile<'_>, rows: usize, halves: [*const u8; 2]) {
    // SAFETY: passed on from the caller.
    unsafe {
        match rows {
            1 => compute::<1, STEP>(tile, halves),
            2 => compute::<2, STEP>(tile, halves),
            3 => compute::<3, STEP>(tile, halves),
            4 => compute::<4, STEP>(tile, halves),
            5 => compute::<5, STEP>(tile, halves),
            6 => compute::<6, STEP>(tile, halves),
            _ => unreachable!("a tile has at most 6 rows"),
        }
    }
}

/// Computes a tile of `R` rows.
///
/// # Safety
/// As [`run`], for `R` rows.
#[target_feature(enable = "avx2")]
unsafe fn compute<const R: usize, const STEP: usize>(tile: &Tile<'_>, halves: [*const u8; 2]) {
    let mut acc = [[_mm256_setzero_si256(); 2]; R];
    let depth = tile.taps * tile.quads;
    for start in (0..depth).step_by(PASS) {
        let quads = start..depth.min(start + PASS);
        // Two passes, since there are registers for one kind of halves only.
        // SAFETY: passed on from the caller.
        unsafe {
            pass::<R, STEP, 0>(tile, halves, quads.clone(), &mut acc);
            pass::<R, STEP, 1>(tile, halves, quads, &mut acc);
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(tile, &acc) };
}

/// Groups of four products between two passes: their blocks stay in the first cache.
const PASS: usize = 64;

/// Adds the products of the even halves (`KIND` is 0) or the odd ones (1) of some groups of four.
///
/// # Safety
/// As [`run`], for `R` rows; the groups exist.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pass<const R: usize, const STEP: usize, const KIND: usize>(
    tile: &Tile<'_>,
    halves: [*const u8; 2],
    quads: Range<usize>,
    acc: &mut [[__m256i; 2]; R],
) {
    let depth = tile.taps * tile.quads;
    let mut sums = *acc;
    for quad in quads {
        // SAFETY: a block has 32 bytes.
        let weights = halves.map(|half| unsafe {
            let bytes = _mm256_loadu_si256(half.add(quad * STEP).cast());
            if KIND == 0 {
                even_signed(bytes)
            } else {
                odd_signed(bytes)
            }
        });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a row has two pairs for each group of four.
            let pair = unsafe {
                let pairs = tile.wide.cast::<i32>().add((r * depth + quad) * 2 + KIND);
                _mm256_set1_epi32(pairs.read_unaligned())
            };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, weights));
            }
        }
    }
    *acc = sums;
}

/// Passes the sums of a tile through the output stage.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and at most 16 channels, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn store<const R: usize>(tile: &Tile<'_>, acc: &[[__m256i; 2]; R]) {
    // SAFETY: passed on from the caller; two vectors are 16 numbers.
    unsafe {
        if let OutputStage::Quantized(stage) = tile.stage {
            return store_bytes(tile, stage, acc);
        }
        for (r, acc) in acc.iter().enumerate() {
            let sums = std::slice::from_raw_parts(acc.as_ptr().cast(), tile.channels);
            store_floats(tile, r, sums);
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
