//! The micro kernel for AVX2: the two halves of each 64-byte block are eight channels each.

use super::pack::{BLOCK, FORM};
use crate::conv::avx2;
use crate::conv::tile::{Micro, Tile};

/// 3 x 32, in blocks of up to 126 rows.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 2,
    fit: |rows, _| (avx2::block_rows(rows), 1),
    run,
    widen: Some(avx2::widen),
};

/// Computes a block of one or two panels.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has AVX2.
unsafe fn run(tile: &Tile<'_>, rows: usize, panels: usize) {
    let half = |panel: usize, half: usize| {
        (tile.weights).wrapping_add(panel * tile.panel_stride + half * (BLOCK / 2))
    };
    // SAFETY: passed on from the caller; a half of a block is 32 bytes.
    unsafe {
        if panels == 2 {
            let halves = [half(0, 0), half(0, 1), half(1, 0), half(1, 1)];
            avx2::run::<BLOCK, 4>(tile, rows, halves);
        } else {
            avx2::run::<BLOCK, 2>(tile, rows, [half(0, 0), half(0, 1)]);
        }
    }
}
