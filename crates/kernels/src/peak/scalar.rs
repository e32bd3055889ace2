//! Plain Rust: the loops of the portable kernels, on operands that stay in the first cache.

use std::hint::black_box;

use super::Loops;
use super::caches::Line;

pub(super) const LOOPS: Loops = Loops {
    int8,
    float,
    read,
    write,
};

/// Rows and channels of a tile, as in `conv/scalar.rs`, and the products of one sum.
const ROWS: usize = 4;
const CHANNELS: usize = 16;
const DEPTH: usize = 64;
/// Operations on a tile.
const OPERATIONS: u64 = (2 * ROWS * CHANNELS * DEPTH) as u64;
/// Tiles of one call.
const ROUNDS: u64 = 16;

/// The tile of `conv/scalar.rs` without its output stage.
fn int8() -> u64 {
    let input = [[0xC3_u8; DEPTH]; ROWS];
    let blocks = [0xA7_u8; CHANNELS * DEPTH];
    let mut acc = [[0_i32; CHANNELS]; ROWS];
    for _ in 0..ROUNDS {
        let (input, blocks) = black_box((&input, &blocks));
        for (input, acc) in input.iter().zip(&mut acc) {
            for (x, block) in input.chunks_exact(4).zip(blocks.chunks_exact(4 * CHANNELS)) {
                for (acc, weights) in acc.iter_mut().zip(block.chunks_exact(4)) {
                    let products = x.iter().zip(weights);
                    let sum = products.map(|(&x, &w)| i32::from(x) * i32::from(w as i8));
                    *acc = acc.wrapping_add(sum.sum());
                }
            }
        }
    }
    black_box(acc);
    ROUNDS * OPERATIONS
}

/// Products and sums, each rounded: Rust fuses them only where it is told to.
fn float() -> u64 {
    let input = [[1.01_f32; ROWS]; DEPTH];
    let weights = [[0.001_f32; CHANNELS]; DEPTH];
    let mut acc = [[0_f32; CHANNELS]; ROWS];
    for _ in 0..ROUNDS {
        let (input, weights) = black_box((&input, &weights));
        for (x, weights) in input.iter().zip(weights) {
            for (x, acc) in x.iter().zip(&mut acc) {
                for (acc, w) in acc.iter_mut().zip(weights) {
                    *acc += x * w;
                }
            }
        }
    }
    black_box(acc);
    ROUNDS * OPERATIONS
}

fn read(lines: &[Line]) {
    let mut acc = [0_u64; 8];
    for line in lines {
        for (acc, word) in acc.iter_mut().zip(line.0) {
            *acc |= word;
        }
    }
    black_box(acc);
}

fn write(lines: &mut [Line]) {
    lines.fill(black_box(Line([3; 8])));
    black_box(lines);
}
