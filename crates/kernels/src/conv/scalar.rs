//! The portable micro kernel: the definition of a tile in plain Rust, and the reference of the others.
//!
//! It reads the packed weights like the vector kernels do, so it checks the packing as well, and it
//! takes its arithmetic from `octofold_quant::requantize`.

use super::output::{Float, OutputStage};
use super::tile::Tile;

/// Rows of a tile: with 8 or 16 channels few enough sums for vector registers of any width.
pub(crate) const ROWS: usize = 4;

/// Computes a tile of up to [`ROWS`] rows by one panel of `CHANNELS` channels, whose products follow `HEADER`
/// bytes.
///
/// # Safety
/// The invariants of [`Tile`] hold for weights of this form.
pub(crate) unsafe fn tile<const CHANNELS: usize, const HEADER: usize>(
    tile: &Tile<'_>,
    rows: usize,
    _panels: usize,
) {
    let block = 4 * CHANNELS;
    let mut acc = [[0_i32; CHANNELS]; ROWS];
    let flip = if tile.signed { 0x80 } else { 0 };
    for tap in 0..tile.taps {
        for (row, acc) in acc.iter_mut().enumerate().take(rows) {
            // SAFETY: a row has `quads` groups of four bytes at each tap, and a panel as many blocks.
            let (input, blocks) = unsafe {
                let start = tile.row_start(tap, row);
                let blocks = tile.weights.add(HEADER + tap * tile.quads * block);
                (
                    std::slice::from_raw_parts(start, tile.quads * 4),
                    std::slice::from_raw_parts(blocks, tile.quads * block),
                )
            };
            for (x, block) in input.chunks_exact(4).zip(blocks.chunks_exact(block)) {
                for (acc, weights) in acc.iter_mut().zip(block.chunks_exact(4)) {
                    let products = x.iter().zip(weights);
                    let sum = products.map(|(&x, &w)| i32::from(x ^ flip) * i32::from(w as i8));
                    *acc = acc.wrapping_add(sum.sum());
                }
            }
        }
    }
    for (r, acc) in acc.iter().enumerate().take(rows) {
        // SAFETY: passed on from the caller.
        unsafe { store_row(tile, r, &acc[..tile.channels]) };
    }
}

/// Passes the sums of row `r` of a tile through the output stage, one by one.
///
/// # Safety
/// The invariants of [`Tile`] hold, the tile has this row, and `acc` has a sum for each of its channels.
pub(crate) unsafe fn store_row(tile: &Tile<'_>, r: usize, acc: &[i32]) {
    match tile.stage {
        OutputStage::Quantized(stage) => {
            let (row, start) = (tile.row + r, r * tile.output_stride);
            for (c, &acc) in acc.iter().enumerate() {
                let channel = tile.channel + c;
                let value = stage.value(acc, channel, row * tile.all_channels + channel);
                // SAFETY: the output is writable for each row and channel of the tile.
                unsafe { *tile.output.add(start + c) = value };
            }
        }
        // SAFETY: passed on from the caller.
        OutputStage::Float(stage) => unsafe { store_floats(tile, stage, r, acc) },
    }
}

/// As [`store_row`], for a stage that gives floats; always inlined, so that each instruction set compiles it for
/// its own vectors.
///
/// # Safety
/// As [`store_row`], and `stage` is that of the tile.
#[inline(always)]
pub(crate) unsafe fn store_floats(tile: &Tile<'_>, stage: &Float<'_>, r: usize, acc: &[i32]) {
    // SAFETY: the output is writable for each row and channel of the tile, and was made from a slice of floats.
    let output = unsafe {
        let output = tile.output.cast::<f32>().add(r * tile.output_stride);
        std::slice::from_raw_parts_mut(output, acc.len())
    };
    stage.store(acc, tile.channel, output);
}
