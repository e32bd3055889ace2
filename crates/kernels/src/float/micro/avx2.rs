//! The float micro kernels for AVX2 with FMA: a panel of 16 channels is two vectors.
//!
//! Registers of the 6 x 16 tile: 12 sums, 2 vectors of weights, 1 broadcast, of 16.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::{Micro, PANEL, Tile};

const LANES: usize = 8;

/// Up to 6 x 16.
pub(super) const MICRO: Micro = Micro {
    fit_panels: |_, _, _| 1,
    max_rows: |_| 6,
    run,
};

/// Picks the tile of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has the instruction set.
unsafe fn run(tile: &Tile, rows: usize, _panels: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match rows {
            1 => compute::<1>(tile),
            2 => compute::<2>(tile),
            3 => compute::<3>(tile),
            4 => compute::<4>(tile),
            5 => compute::<5>(tile),
            6 => compute::<6>(tile),
            _ => unreachable!("`max_rows` gives the sizes above only"),
        }
    }
}

/// Computes a tile of `R` rows by one panel.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and one panel, and the processor has the features.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute<const R: usize>(tile: &Tile) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    let mut weights = tile.weights;
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const f32; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        for k in 0..tile.depth {
            // SAFETY: the panel has two vectors for each step.
            let w = unsafe {
                [
                    _mm256_loadu_ps(weights),
                    _mm256_loadu_ps(weights.add(LANES)),
                ]
            };
            for r in 0..R {
                // SAFETY: `depth` floats are readable at each row.
                let x = _mm256_set1_ps(unsafe { *rows[r].add(k) });
                for p in 0..2 {
                    acc[r][p] = _mm256_fmadd_ps(x, w[p], acc[r][p]);
                }
            }
            weights = weights.wrapping_add(PANEL);
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(tile, &acc) };
}

/// Applies bias, residual and bounds, and stores. There may be no channel in the second vector: then its addresses mean nothing.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and one panel, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store<const R: usize>(tile: &Tile, acc: &[[__m256; 2]; R]) {
    let (lo, hi) = (_mm256_set1_ps(tile.clamp.lo), _mm256_set1_ps(tile.clamp.hi));
    for p in 0..2 {
        let mask = mask(tile.channels.saturating_sub(p * LANES));
        let bias = (!tile.bias.is_null()).then(|| {
            // SAFETY: the bias has each channel; masked lanes are not read.
            unsafe { _mm256_maskload_ps(tile.bias.wrapping_add(p * LANES), mask) }
        });
        for r in 0..R {
            let at = r * tile.output_stride + p * LANES;
            let mut sum = acc[r][p];
            if let Some(bias) = bias {
                sum = _mm256_add_ps(sum, bias);
            }
            if !tile.residual.is_null() {
                // SAFETY: the residual has each row and channel; masked lanes are not read.
                let residual = unsafe { _mm256_maskload_ps(tile.residual.wrapping_add(at), mask) };
                sum = _mm256_add_ps(sum, residual);
            }
            // The second operand is the result when one of them is NaN.
            sum = _mm256_min_ps(hi, _mm256_max_ps(lo, sum));
            // SAFETY: the output has each row and channel; masked lanes are not written.
            unsafe { _mm256_maskstore_ps(tile.output.wrapping_add(at), mask, sum) };
        }
    }
}

/// A mask of the first `channels` lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(channels: usize) -> __m256i {
    let order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(channels.min(LANES) as i32), order)
}
