//! The micro kernel for AVX-512 with VNNI: `vpdpbusd` on pairs of panels, 16 channels a vector.
//!
//! The 32-byte blocks of two panels are loaded into the halves of a vector. Registers of a tile of 6 rows by 8 panels: 24
//! sums, 4 pairs of blocks, 1 broadcast, of 32. Narrower tiles have more rows, so that enough sums are in flight.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::pack::{FORM, PANEL};
use crate::conv::avx2;
use crate::conv::tile::{Micro, Tile};

/// 6 x 64, 6 x 48, 12 x 32 and 12 x 16.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 8,
    fit: |rows, panels| (fit_rows(rows, panels), 1),
    run,
    widen: None,
};

/// The tallest compiled tile that is not taller than `rows`.
fn fit_rows(rows: usize, panels: usize) -> usize {
    match rows {
        12.. if panels <= 4 => 12,
        6.. => 6,
        rows => rows.min(4),
    }
}

/// Picks the tile of the size asked for; an odd panel is computed twice, and its second copy is not stored.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has the instruction set.
unsafe fn run(tile: &Tile<'_>, rows: usize, panels: usize) {
    macro_rules! pick {
        ($(($rows:literal, $pairs:literal)),*) => {
            match (rows, panels.div_ceil(2)) {
                // SAFETY: passed on from the caller.
                $(($rows, $pairs) => unsafe { compute::<$rows, $pairs>(tile, panels) },)*
                _ => unreachable!("`fit_rows` gives the sizes above only"),
            }
        };
    }
    pick!(
        (1, 4),
        (2, 4),
        (3, 4),
        (4, 4),
        (6, 4),
        (1, 3),
        (2, 3),
        (3, 3),
        (4, 3),
        (6, 3),
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

/// Computes a tile of `R` rows by `panels` panels, of which there are `P` pairs.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and `panels` panels, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512dq,avx512vnni")]
unsafe fn compute<const R: usize, const P: usize>(tile: &Tile<'_>, panels: usize) {
    let mut acc = [[_mm512_setzero_si512(); P]; R];
    let flip = if tile.signed {
        0x8080_8080_u32 as i32
    } else {
        0
    };
    let block = FORM.block();
    let panel = |panel: usize| {
        let start = panel.min(panels - 1) * tile.panel_stride;
        tile.weights.wrapping_add(start + FORM.header)
    };
    let pairs: [[*const u8; 2]; P] = std::array::from_fn(|p| [panel(2 * p), panel(2 * p + 1)]);
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const u8; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        for quad in 0..tile.quads {
            let at = (tap * tile.quads + quad) * block;
            let weights: [__m512i; P] = std::array::from_fn(|p| {
                // SAFETY: behind its header, each panel has `taps · quads` blocks of 32 bytes.
                let [low, high] =
                    pairs[p].map(|panel| unsafe { _mm256_loadu_si256(panel.add(at).cast()) });
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            });
            for r in 0..R {
                // SAFETY: `4 · quads` bytes are readable at each row.
                let four = unsafe { rows[r].add(quad * 4).cast::<i32>().read_unaligned() };
                let x = _mm512_set1_epi32(four ^ flip);
                for p in 0..P {
                    acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, weights[p]);
                }
            }
        }
    }
    for p in 0..P {
        let sums: [[__m256i; 2]; R] = std::array::from_fn(|r| {
            let (low, high) = (
                _mm512_castsi512_si256(acc[r][p]),
                _mm512_extracti64x4_epi64::<1>(acc[r][p]),
            );
            [low, high]
        });
        // SAFETY: passed on from the caller; the pair has the channels from its first one on.
        unsafe { avx2::store(&tile.channels_from(p * 2 * PANEL, 2 * PANEL), &sums) };
    }
}
