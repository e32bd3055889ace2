//! The micro kernel for AVX2: the two halves of each 64-byte block are eight channels each.

use super::pack::{BLOCK, FORM};
use crate::conv::avx2;
use crate::conv::tile::{Micro, Tile};

/// 6 x 16.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 1,
    fit_rows: |rows, _| rows.min(avx2::ROWS),
    most_tiles: 1,
    run,
    widen: Some(avx2::widen),
};

/// Computes a tile of one panel.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has AVX2.
unsafe fn run(tile: &Tile<'_>, rows: usize, _panels: usize) {
    let halves = [tile.weights, tile.weights.wrapping_add(BLOCK / 2)];
    // SAFETY: passed on from the caller; a half of a block is 32 bytes.
    unsafe { avx2::run::<BLOCK>(tile, rows, halves) };
}
