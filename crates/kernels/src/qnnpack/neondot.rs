//! The micro kernel for NEON with dot products: `sdot`, four products of four channels in one instruction.
//!
//! `sdot` multiplies signed bytes, so it sees `x - 128`, and the sums start from the `128·Σw` in front of each panel. Four
//! quads of a row are one load, and the instruction picks its quad by index. Registers: 16 sums, 8 rows, 2 weights. The
//! intrinsic of the instruction is not stable in Rust, hence the assembly.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{by_rows, fit_rows, store};
use super::pack::FORM;
use crate::conv::tile::{Micro, Tile};

/// 8 x 8.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 1,
    fit: |rows, _| (fit_rows(rows), 1),
    run,
    widen: None,
};

/// Picks the tile of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has NEON and dot products.
unsafe fn run(tile: &Tile<'_>, rows: usize, _panels: usize) {
    // SAFETY: passed on from the caller.
    unsafe { by_rows!(compute, tile, rows) }
}

/// Adds to the sums of each row the products of quad `$lane` of its activations with the block at `$block`.
macro_rules! add_quad {
    ($acc:ident, $x:ident, $block:expr, $lane:literal) => {{
        let block: *const i8 = $block;
        // SAFETY: a block has 32 bytes.
        let weights = unsafe { [vld1q_s8(block), vld1q_s8(block.add(16))] };
        for r in 0..R {
            for half in 0..2 {
                // SAFETY: the processor has the instruction; it reads and writes registers only.
                unsafe {
                    asm!(
                        concat!("sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
                        acc = inout(vreg) $acc[r][half],
                        w = in(vreg) weights[half],
                        x = in(vreg) $x[r],
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
    }};
}

/// Computes a tile of `R` rows.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and one panel, and the processor has NEON and dot products.
#[target_feature(enable = "neon,dotprod")]
unsafe fn compute<const R: usize>(tile: &Tile<'_>) {
    // SAFETY: the header of a panel is eight numbers.
    let start = unsafe {
        let header = tile.weights.cast::<i32>();
        [
            vreinterpretq_s32_u8(vld1q_u8(header.cast())),
            vreinterpretq_s32_u8(vld1q_u8(header.add(4).cast())),
        ]
    };
    let mut acc = [start; R];
    let flip = vdupq_n_u8(if tile.signed { 0 } else { 0x80 });
    let block = FORM.block();
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const u8; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        // SAFETY: behind the header, the panel has `taps · quads` blocks.
        let blocks = unsafe { tile.weights.add(FORM.header + tap * tile.quads * block) };
        let mut quad = 0;
        while quad + 4 <= tile.quads {
            // SAFETY: `4 · quads` bytes are readable at each row, and 16 of them belong to these quads.
            let x: [uint8x16_t; R] =
                std::array::from_fn(|r| veorq_u8(unsafe { vld1q_u8(rows[r].add(quad * 4)) }, flip));
            let at = blocks.wrapping_add(quad * block).cast::<i8>();
            add_quad!(acc, x, at, 0);
            add_quad!(acc, x, at.wrapping_add(block), 1);
            add_quad!(acc, x, at.wrapping_add(2 * block), 2);
            add_quad!(acc, x, at.wrapping_add(3 * block), 3);
            quad += 4;
        }
        while quad < tile.quads {
            // SAFETY: as above, for the four bytes of one quad.
            let x: [uint8x16_t; R] = std::array::from_fn(|r| unsafe {
                let four = rows[r].add(quad * 4).cast::<u32>().read_unaligned();
                veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), flip)
            });
            let at = blocks.wrapping_add(quad * block).cast::<i8>();
            add_quad!(acc, x, at, 0);
            quad += 1;
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(tile, &acc) };
}
