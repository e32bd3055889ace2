//! The micro kernels for AVX-512 with VNNI: `vpdpbusd` on 64 products at a time.
//!
//! A step takes four consecutive activations of each row (one dword, broadcast from where it lies in memory)
//! and one 64-byte block of each panel. Registers of the 6 x 64 tile: 24 sums, 4 blocks, 1 broadcast, of 32.
//! Narrower tiles have more rows, so that enough sums are in flight to hide the latency of the instruction.
//! `vpdpbusd` wraps at 32 bits (it is `vpdpbusds` that saturates), and its sums of four products are exact.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::pack::{BLOCK, FORM, PANEL};
use crate::conv::scalar::store_floats;
use crate::conv::tile::{Micro, Tile};
use crate::conv::{OutputStage, Quantized};

/// 6 x 64, 8 x 48, 12 x 32 and 12 x 16.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 4,
    fit_rows,
    run,
};

/// The tallest tile with code of its own that is not taller than `rows`.
fn fit_rows(rows: usize, panels: usize) -> usize {
    match (panels, rows) {
        (4, rows) => rows.min(6),
        (3, 8..) => 8,
        (1 | 2, 12..) => 12,
        (_, 6..) => 6,
        (_, rows) => rows.min(4),
    }
}

/// Picks the tile of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has the instruction set.
unsafe fn run(tile: &Tile<'_>, rows: usize, panels: usize) {
    macro_rules! pick {
        ($(($rows:literal, $panels:literal)),*) => {
            match (rows, panels) {
                // SAFETY: passed on from the caller.
                $(($rows, $panels) => unsafe {
                    if tile.signed {
                        compute::<$rows, $panels, true>(tile);
                    } else {
                        compute::<$rows, $panels, false>(tile);
                    }
                },)*
                _ => unreachable!("`fit_rows` gives the sizes above only"),
            }
        };
    }
    pick!(
        (1, 4),
        (2, 4),
        (3, 4),
        (4, 4),
        (5, 4),
        (6, 4),
        (1, 3),
        (2, 3),
        (3, 3),
        (4, 3),
        (6, 3),
        (8, 3),
        (1, 2),
        (2, 2),
        (3, 2),
        (4, 2),
        (6, 2),
        (12, 2),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (6, 1),
        (12, 1)
    );
}

/// Computes a tile of `R` rows by `P` panels.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and `P` panels, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn compute<const R: usize, const P: usize, const SIGNED: bool>(tile: &Tile<'_>) {
    let mut acc = [[_mm512_setzero_si512(); P]; R];
    let flip = _mm512_set1_epi8(-128);
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const u8; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        // SAFETY: each panel has `taps · quads` blocks.
        let mut blocks = unsafe { tile.weights.add(tap * tile.quads * BLOCK) };
        for quad in 0..tile.quads {
            // SAFETY: `P` panels, `panel_stride` apart, have this block.
            let weights: [__m512i; P] = std::array::from_fn(|p| unsafe {
                _mm512_loadu_si512(blocks.add(p * tile.panel_stride).cast())
            });
            for r in 0..R {
                // SAFETY: `4 · quads` bytes are readable at each row.
                let four = unsafe { rows[r].add(quad * 4).cast::<i32>().read_unaligned() };
                let mut x = _mm512_set1_epi32(four);
                if SIGNED {
                    x = _mm512_xor_si512(x, flip);
                }
                for p in 0..P {
                    acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, weights[p]);
                }
            }
            blocks = blocks.wrapping_add(BLOCK);
        }
    }
    match tile.stage {
        // SAFETY: passed on from the caller.
        OutputStage::Quantized(stage) => unsafe { store_bytes(tile, stage, &acc) },
        // SAFETY: each row of `acc` has `16 · P` numbers, and the stage gives floats.
        _ => acc.iter().enumerate().for_each(|(r, acc)| unsafe {
            let sums = std::slice::from_raw_parts(acc.as_ptr().cast(), tile.channels);
            store_floats(tile, r, sums);
        }),
    }
}

/// The constants of a [`Quantized`] stage that do not depend on the channel.
struct Constants {
    zero_point: __m512i,
    lo: __m512,
    hi: __m512,
}

impl Constants {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(zero_point: i32, lo: i32, hi: i32) -> Self {
        Self {
            zero_point: _mm512_set1_epi32(zero_point),
            lo: _mm512_set1_ps((lo - zero_point) as f32),
            hi: _mm512_set1_ps((hi - zero_point) as f32),
        }
    }

    /// Clamps and rounds to steps from the zero point. NaN gives the lower bound, as in the definition.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn steps(&self, value: __m512) -> __m512i {
        let clamped = _mm512_min_ps(_mm512_max_ps(value, self.lo), self.hi);
        _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped)
    }
}

/// The output stage of 16 channels: everything that does not change from row to row.
pub(super) struct Finish {
    first: Constants,
    /// Zero point of the residual, the two ratios, and the constants of the sum.
    residual: Option<(__m512i, __m512, __m512, Constants, bool)>,
}

impl Finish {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(stage: &Quantized<'_>) -> Self {
        let residual = stage.residual.as_ref().map(|residual| {
            (
                _mm512_set1_epi32(residual.residual_zero_point),
                _mm512_set1_ps(residual.output_ratio),
                _mm512_set1_ps(residual.residual_ratio),
                Constants::new(residual.zero_point, residual.lo, residual.hi),
                residual.signed,
            )
        });
        Self {
            first: Constants::new(stage.zero_point, stage.lo, stage.hi),
            residual,
        }
    }

    /// The quantized values of 16 sums; `residual` gives the residual's 16 bytes if it is asked.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn apply(
        &self,
        acc: __m512i,
        bias: __m512i,
        multiplier: __m512,
        residual: impl FnOnce() -> __m128i,
    ) -> __m512i {
        let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(acc, bias));
        let steps = self.first.steps(_mm512_mul_ps(sum, multiplier));
        let Some((zero_point, output_ratio, residual_ratio, second, signed)) = &self.residual
        else {
            return _mm512_add_epi32(steps, self.first.zero_point);
        };
        let bytes = residual();
        let r = if *signed {
            _mm512_cvtepi8_epi32(bytes)
        } else {
            _mm512_cvtepu8_epi32(bytes)
        };
        let r = _mm512_cvtepi32_ps(_mm512_sub_epi32(r, *zero_point));
        let left = _mm512_mul_ps(_mm512_cvtepi32_ps(steps), *output_ratio);
        let steps = second.steps(_mm512_add_ps(left, _mm512_mul_ps(r, *residual_ratio)));
        _mm512_add_epi32(steps, second.zero_point)
    }
}

/// Requantizes and stores a tile.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and `P` panels, `stage` is that of the tile, and the
/// processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store_bytes<const R: usize, const P: usize>(
    tile: &Tile<'_>,
    stage: &Quantized<'_>,
    acc: &[[__m512i; P]; R],
) {
    let finish = Finish::new(stage);
    let residual = stage
        .residual
        .map_or(std::ptr::null(), |residual| residual.data.as_ptr());
    for p in 0..P {
        let channel = tile.channel + p * PANEL;
        let mask = channel_mask(tile.channels - p * PANEL);
        // SAFETY: the constants have an entry for each channel; masked lanes are not read.
        let (bias, multiplier) = unsafe {
            (
                _mm512_maskz_loadu_epi32(mask, stage.bias.as_ptr().add(channel)),
                _mm512_maskz_loadu_ps(mask, stage.multiplier.as_ptr().add(channel)),
            )
        };
        for r in 0..R {
            let values = finish.apply(acc[r][p], bias, multiplier, || {
                let at = (tile.row + r) * tile.all_channels + channel;
                // SAFETY: the residual has an element for each row and channel; masked lanes are not read.
                unsafe { _mm_maskz_loadu_epi8(mask, residual.add(at).cast()) }
            });
            let bytes = _mm512_cvtepi32_epi8(values);
            // SAFETY: the output is writable for each row and channel of the tile; masked lanes are not
            // written.
            unsafe {
                let output = tile.output.add(r * tile.output_stride + p * PANEL);
                if mask == u16::MAX {
                    _mm_storeu_si128(output.cast(), bytes);
                } else {
                    _mm_mask_storeu_epi8(output.cast(), mask, bytes);
                }
            }
        }
    }
}

/// A mask of the first `channels` lanes of 16.
fn channel_mask(channels: usize) -> u16 {
    if channels >= PANEL {
        u16::MAX
    } else {
        (1 << channels) - 1
    }
}
