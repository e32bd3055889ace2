//! The float micro kernels for AVX-512: a fused multiply-add of 16 channels for each activation, which is broadcast.
//!
//! Registers of the 9 x 48 tile: 27 sums, 3 vectors of weights, 1 broadcast, of 32. Wide tiles start and end with less work for few
//! products; tall tiles read less of the weights, which for deep sums come from the second-level cache. More than 12 rows
//! would not fit their pointers into registers.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::{Micro, PANEL, Tile};

/// 6 x 64, 9 x 48, 12 x 32 and 12 x 16.
pub(super) const MICRO: Micro = Micro {
    fit_panels,
    max_rows: |panels| match panels {
        4 => 6,
        3 => 9,
        _ => 12,
    },
    run,
};

/// The tiles that measured best.
fn fit_panels(rows: usize, k: usize, panels: usize) -> usize {
    /// Sums of fewer products are short.
    const SHORT: usize = 160;
    match panels {
        4.. if rows <= 6 => 4,
        3.. if panels.is_multiple_of(3) => 3,
        4.. if k <= SHORT => 4,
        // What remains is even.
        3.. if panels % 2 == 1 => 3,
        _ => panels.min(2),
    }
}

/// Picks the tile of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has the instruction set.
unsafe fn run(tile: &Tile, rows: usize, panels: usize) {
    macro_rules! pick {
        ($($panels:literal: $($rows:literal)*;)*) => {
            match (rows, panels) {
                // SAFETY: passed on from the caller.
                $($(($rows, $panels) => unsafe { compute::<$rows, $panels>(tile) },)*)*
                _ => unreachable!("`fit_panels` and `max_rows` give the sizes above only"),
            }
        };
    }
    pick!(
        1: 1 2 3 4 5 6 7 8 9 10 11 12;
        2: 1 2 3 4 5 6 7 8 9 10 11 12;
        3: 1 2 3 4 5 6 7 8 9;
        4: 1 2 3 4 5 6;
    );
}

/// Computes a tile of `R` rows by `P` panels.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and `P` panels, and the processor has the feature.
#[target_feature(enable = "avx512f")]
unsafe fn compute<const R: usize, const P: usize>(tile: &Tile) {
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    let mut weights = tile.weights;
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const f32; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        for k in 0..tile.depth {
            // SAFETY: `P` panels, one every `panel_stride`, have a vector for each step.
            let w: [__m512; P] = std::array::from_fn(|p| unsafe {
                _mm512_loadu_ps(weights.add(p * tile.panel_stride))
            });
            for r in 0..R {
                // SAFETY: `depth` floats are readable at each row.
                let x = _mm512_set1_ps(unsafe { *rows[r].add(k) });
                for p in 0..P {
                    acc[r][p] = _mm512_fmadd_ps(x, w[p], acc[r][p]);
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
/// The invariants of [`Tile`] hold for `R` rows and `P` panels, and the processor has the feature.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const R: usize, const P: usize>(tile: &Tile, acc: &[[__m512; P]; R]) {
    let (lo, hi) = (_mm512_set1_ps(tile.clamp.lo), _mm512_set1_ps(tile.clamp.hi));
    for p in 0..P {
        let mask = mask(tile.channels - p * PANEL);
        let bias = (!tile.bias.is_null()).then(|| {
            // SAFETY: the bias has each channel; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(mask, tile.bias.add(p * PANEL)) }
        });
        for r in 0..R {
            let at = r * tile.output_stride + p * PANEL;
            let mut sum = acc[r][p];
            if let Some(bias) = bias {
                sum = _mm512_add_ps(sum, bias);
            }
            if !tile.residual.is_null() {
                // SAFETY: the residual has each row and channel; masked lanes are not read.
                let residual = unsafe { _mm512_maskz_loadu_ps(mask, tile.residual.add(at)) };
                sum = _mm512_add_ps(sum, residual);
            }
            // The second operand is the result when one of them is NaN.
            sum = _mm512_min_ps(hi, _mm512_max_ps(lo, sum));
            // SAFETY: the output has each row and channel; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(tile.output.add(at), mask, sum) };
        }
    }
}

/// A mask of the first `channels` lanes.
fn mask(channels: usize) -> __mmask16 {
    if channels >= PANEL {
        __mmask16::MAX
    } else {
        (1 << channels) - 1
    }
}
