//! The portable float micro kernel: the definition of a tile in plain Rust.
//!
//! A product and a sum are rounded once, as by the vector kernels. Where the compiler may not use such an instruction, it calls the
//! mathematical library, which is slow; the numbers are the same.

use super::{Micro, PANEL, Tile};

/// Rows of a tile.
const ROWS: usize = 4;

/// Up to 4 x 16.
pub(super) const MICRO: Micro = Micro {
    fit_panels: |_, _, _| 1,
    max_rows: |_| ROWS,
    run,
};

/// Computes a tile of up to [`ROWS`] rows by one panel.
///
/// # Safety
/// The invariants of [`Tile`] hold.
unsafe fn run(tile: &Tile, rows: usize, _panels: usize) {
    let channels = tile.channels.min(PANEL);
    let mut acc = [[0.0_f32; PANEL]; ROWS];
    for (r, acc) in acc.iter_mut().enumerate().take(rows) {
        // SAFETY: the output has each row and channel, and nothing else refers to it.
        let output = unsafe {
            std::slice::from_raw_parts_mut(tile.output.add(r * tile.output_stride), channels)
        };
        for tap in 0..tile.taps {
            // SAFETY: a row has `depth` floats at each tap, and a panel as many steps.
            let (row, weights) = unsafe {
                let weights = tile.weights.add(tap * tile.depth * PANEL);
                (
                    std::slice::from_raw_parts(tile.row_start(tap, r), tile.depth),
                    std::slice::from_raw_parts(weights, tile.depth * PANEL),
                )
            };
            for (&x, weights) in row.iter().zip(weights.chunks_exact(PANEL)) {
                for (sum, &w) in acc[..channels].iter_mut().zip(weights) {
                    *sum = x.mul_add(w, *sum);
                }
            }
        }
        for (c, (output, &sum)) in output.iter_mut().zip(acc.iter()).enumerate() {
            // SAFETY: the tile has this row and channel.
            *output = unsafe { finished(tile, sum, r, c) };
        }
    }
}

/// The value of a complete sum.
///
/// # Safety
/// The invariants of [`Tile`] hold, with a row `r` and a channel `c`.
pub(super) unsafe fn finished(tile: &Tile, mut sum: f32, r: usize, c: usize) -> f32 {
    if !tile.bias.is_null() {
        // SAFETY: the bias has this channel.
        sum += unsafe { *tile.bias.add(c) };
    }
    if !tile.residual.is_null() {
        // SAFETY: the residual has this row and channel.
        sum += unsafe { *tile.residual.add(r * tile.output_stride + c) };
    }
    tile.clamp.clamp(sum)
}
