//! The micro kernels for AVX2, so that a phone's plan runs on a workstation: up to four panels of eight channels at a time.

use std::arch::x86_64::*;

use super::depthwise::{ROWS, channels_of};
use super::pack::{FORM, PANEL};
use crate::conv::avx2;
use crate::conv::tile::{Micro, Tile, partial};

/// 3 x 32, in blocks of up to 126 rows.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 4,
    fit: |rows, _| (avx2::block_rows(rows), 1),
    run,
    widen: Some(avx2::widen),
};

/// Computes a block of up to four panels; the last of an odd number is computed twice, and its second copy is not stored.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has AVX2.
unsafe fn run(tile: &Tile<'_>, rows: usize, panels: usize) {
    let panel = |panel: usize| {
        let start = panel.min(panels - 1) * tile.panel_stride;
        tile.weights.wrapping_add(start + FORM.header)
    };
    // SAFETY: passed on from the caller; the blocks of a panel follow its header.
    unsafe {
        if panels > 2 {
            let halves = [panel(0), panel(1), panel(2), panel(3)];
            avx2::run::<{ FORM.block() }, 4>(tile, rows, halves);
        } else {
            avx2::run::<{ FORM.block() }, 2>(tile, rows, [panel(0), panel(1)]);
        }
    }
}

/// Depthwise, 16 channels at a time: the bytes of two taps are interleaved and widened, and `vpmaddwd` adds their
/// products.
///
/// # Safety
/// The invariants of [`super::depthwise::DepthwiseKernel`] hold, and the processor has AVX2.
pub(super) unsafe fn depthwise(tile: &Tile<'_>, rows: usize) {
    for first in (0..tile.channels).step_by(16) {
        let count = 16.min(tile.channels - first);
        // SAFETY: passed on from the caller; the channels exist.
        unsafe {
            let tile = channels_of(tile, first, count);
            match (rows, count) {
                (ROWS, 16) => block::<ROWS, true>(&tile),
                (ROWS, _) => block::<ROWS, false>(&tile),
                (_, 16) => block::<1, true>(&tile),
                _ => block::<1, false>(&tile),
            }
        }
    }
}

/// Loads `count` bytes, at most 16, followed by zeros.
///
/// # Safety
/// `count` bytes are readable, 16 if `WHOLE`.
#[inline(always)]
unsafe fn load<const WHOLE: bool>(from: *const u8, count: usize) -> __m128i {
    // SAFETY: passed on from the caller.
    unsafe {
        if WHOLE {
            return _mm_loadu_si128(from.cast());
        }
        _mm_loadu_si128(partial::<u8, 16>(from, count).as_ptr().cast())
    }
}

/// Computes `R` pixels by up to 16 channels, 16 if `WHOLE`.
///
/// # Safety
/// The invariants of [`super::depthwise::DepthwiseKernel`] hold, and the processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn block<const R: usize, const WHOLE: bool>(tile: &Tile<'_>) {
    let flip = _mm_set1_epi8(if tile.signed { -128 } else { 0 });
    let mut acc = [[_mm256_setzero_si256(); 2]; R];
    // A panel alone is read twice.
    let second = if tile.channels > PANEL {
        tile.panel_stride
    } else {
        0
    };
    for pair in 0..tile.taps / 2 {
        let at = pair * 2 * PANEL;
        // SAFETY: each of the panels has 16 weights for each pair of taps.
        let weights = [at, second + at].map(|at| unsafe {
            _mm256_cvtepi8_epi16(_mm_loadu_si128(tile.weights.add(at).cast()))
        });
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: each tap has an offset, behind which the channels are.
            let taps = [2 * pair, 2 * pair + 1].map(|tap| unsafe {
                _mm_xor_si128(load::<WHOLE>(tile.row_start(tap, r), tile.channels), flip)
            });
            let halves = [
                _mm_unpacklo_epi8(taps[0], taps[1]),
                _mm_unpackhi_epi8(taps[0], taps[1]),
            ];
            for ((acc, half), weights) in acc.iter_mut().zip(halves).zip(weights) {
                let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(half), weights);
                *acc = _mm256_add_epi32(*acc, products);
            }
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { avx2::store(tile, &acc) };
}
