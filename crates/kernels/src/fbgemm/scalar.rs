//! The portable micro kernel: the definition of a tile in plain Rust, and the reference of the others.
//!
//! It reads the packed weights like the vector kernels do, so it checks the packing as well, and it
//! takes its arithmetic from `octofold_quant::requantize`.

use super::output::{OutputStage, store_float_row};
use super::pack::{BLOCK, PANEL};
use super::tile::{Micro, Tile};

/// 4 rows by 16 channels: 64 sums, which the compiler keeps in vector registers of any width.
pub(super) const MICRO: Micro = Micro {
    max_panels: 1,
    fit_rows: |rows, _| rows.min(4),
    run: tile,
};

/// Computes a tile of up to 4 rows by one panel.
///
/// # Safety
/// The invariants of [`Tile`] hold.
unsafe fn tile(tile: &Tile<'_>, rows: usize, _panels: usize) {
    let mut acc = [[0_i32; PANEL]; 4];
    let flip = if tile.signed { 0x80 } else { 0 };
    for tap in 0..tile.taps {
        for (row, acc) in acc.iter_mut().enumerate().take(rows) {
            // SAFETY: a row has `quads` groups of four bytes at each tap, and a panel as many blocks.
            let (input, blocks) = unsafe {
                let start = tile.row_start(tap, row);
                let blocks = tile.weights.add(tap * tile.quads * BLOCK);
                (
                    std::slice::from_raw_parts(start, tile.quads * 4),
                    std::slice::from_raw_parts(blocks, tile.quads * BLOCK),
                )
            };
            for (x, block) in input.chunks_exact(4).zip(blocks.chunks_exact(BLOCK)) {
                for (acc, weights) in acc.iter_mut().zip(block.chunks_exact(4)) {
                    let products = x.iter().zip(weights);
                    let sum = products.map(|(&x, &w)| i32::from(x ^ flip) * i32::from(w as i8));
                    *acc = acc.wrapping_add(sum.sum());
                }
            }
        }
    }
    for (r, acc) in acc.iter().enumerate().take(rows) {
        let acc = &acc[..tile.channels];
        let (row, start) = (tile.row + r, r * tile.output_stride);
        if let OutputStage::Quantized(stage) = tile.stage {
            for (c, &acc) in acc.iter().enumerate() {
                let channel = tile.channel + c;
                let value = stage.value(acc, channel, row * tile.all_channels + channel);
                // SAFETY: the output is writable for each row and channel of the tile.
                unsafe { *tile.output.add(start + c) = value };
            }
        } else {
            // SAFETY: as above; the stage gives floats, so the output was made from a slice of them.
            let output = unsafe {
                std::slice::from_raw_parts_mut(tile.output.cast::<f32>().add(start), acc.len())
            };
            store_float_row(tile.stage, acc, (row, tile.shift()), tile.channel, output);
        }
    }
}
