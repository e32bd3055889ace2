//! The float micro kernels for NEON: a panel of 16 channels is four vectors.
//!
//! Registers of the 6 x 16 tile: 24 sums, 4 vectors of weights, 1 broadcast, of 32.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::aarch64::*;

use super::scalar::finished;
use super::{Micro, PANEL, Tile};

const LANES: usize = 4;
const VECTORS: usize = PANEL / LANES;

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
/// The invariants of [`Tile`] hold for `R` rows and one panel, and the processor has the feature.
#[target_feature(enable = "neon")]
unsafe fn compute<const R: usize>(tile: &Tile) {
    let mut acc = [[vdupq_n_f32(0.0); VECTORS]; R];
    let mut weights = tile.weights;
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const f32; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        for k in 0..tile.depth {
            // SAFETY: the panel has four vectors for each step.
            let w: [float32x4_t; VECTORS] =
                std::array::from_fn(|v| unsafe { vld1q_f32(weights.add(v * LANES)) });
            for r in 0..R {
                // SAFETY: `depth` floats are readable at each row.
                let x = vdupq_n_f32(unsafe { *rows[r].add(k) });
                for v in 0..VECTORS {
                    acc[r][v] = vfmaq_f32(acc[r][v], x, w[v]);
                }
            }
            weights = weights.wrapping_add(PANEL);
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(tile, &acc) };
}

/// Applies bias, residual and bounds, and stores.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and one panel, and the processor has the feature.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const R: usize>(tile: &Tile, acc: &[[float32x4_t; VECTORS]; R]) {
    let (lo, hi) = (vdupq_n_f32(tile.clamp.lo), vdupq_n_f32(tile.clamp.hi));
    for v in 0..VECTORS {
        let first = v * LANES;
        if first + LANES > tile.channels {
            break;
        }
        for r in 0..R {
            let at = r * tile.output_stride + first;
            let mut sum = acc[r][v];
            // SAFETY: bias and residual, where they are, and output have four channels from here on in each row.
            unsafe {
                if !tile.bias.is_null() {
                    sum = vaddq_f32(sum, vld1q_f32(tile.bias.add(first)));
                }
                if !tile.residual.is_null() {
                    sum = vaddq_f32(sum, vld1q_f32(tile.residual.add(at)));
                }
                // Comparisons, since NaN passes through; a zero keeps its sign as in the other kernels.
                sum = vbslq_f32(vcltq_f32(sum, lo), lo, sum);
                sum = vbslq_f32(vcgtq_f32(sum, hi), hi, sum);
                vst1q_f32(tile.output.add(at), sum);
            }
        }
    }
    // The last vector may have fewer channels.
    let first = tile.channels.min(PANEL) / LANES * LANES;
    if first == tile.channels.min(PANEL) {
        return;
    }
    for r in 0..R {
        let mut sums = [0.0; LANES];
        // SAFETY: the array has four floats; the tile has the row and the channels.
        unsafe {
            vst1q_f32(sums.as_mut_ptr(), acc[r][first / LANES]);
            for (c, &sum) in (first..tile.channels).zip(&sums) {
                *tile.output.add(r * tile.output_stride + c) = finished(tile, sum, r, c);
            }
        }
    }
}
