//! The micro kernels for AVX-512 with VNNI: `vpdpbusd` on 64 products at a time.
//!
//! A step takes four consecutive activations of each row (one dword, broadcast from memory)
//! and one 64-byte block of each panel.
//! `vpdpbusd` wraps at 32 bits (it is `vpdpbusds` that saturates), and its sums of four products are exact.
use std::arch::x86_64::*;

use super::finish::{ByteRows, FloatFinish, channel_mask, packed_rows};
use super::pack::{BLOCK, FORM, PANEL};
use crate::conv::OutputStage;
use crate::conv::offsets::EXTRA;
use crate::conv::tile::{Micro, Tile};

/// Up to 6 x 64, 9 x 48, 14 x 32 and 14 x 16.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 4,
    fit,
    run,
    widen: None,
};

/// Tiles of `panels` panels, with as many rows as fit: 24 to 28 sums, the blocks, a broadcast and the sign flip are up to 32 registers. The more panels
/// share a broadcast the better: the processor takes four instructions at a time, and half of that where another program runs on the same core.
fn fit(rows: usize, panels: usize) -> (usize, usize) {
    let most = match panels {
        4.. => 6,
        3 => 9,
        _ => 14,
    };
    // The half of what remains, where it is less than two: a short tile at the end would wait for its own sums.
    if rows.is_multiple_of(most) {
        (most, rows / most)
    } else if rows >= 2 * most {
        (most, rows / most - 1)
    } else if rows > most {
        (rows.div_ceil(2), if rows.is_multiple_of(2) { 2 } else { 1 })
    } else {
        (rows, 1)
    }
}

/// Picks the tiles of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold for each of the tiles, and the processor has the instruction set.
unsafe fn run(tile: &Tile<'_>, rows: usize, panels: usize) {
    macro_rules! pick {
        ($($panels:literal: $($rows:literal)*;)*) => {
            match (rows, panels) {
                // SAFETY: passed on from the caller.
                $($(($rows, $panels) => unsafe {
                    if tile.signed {
                        compute::<$rows, $panels, true>(tile);
                    } else {
                        compute::<$rows, $panels, false>(tile);
                    }
                },)*)*
                _ => unreachable!("`fit` and `max_panels` give the sizes above only"),
            }
        };
    }
    pick!(
        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        3: 1 2 3 4 5 6 7 8 9;
        4: 1 2 3 4 5 6;
    );
}

/// Bytes of weights that are worth asking for in advance: fewer are there soon enough.
const FAR: usize = 16 << 10;

/// Computes [`Tile::tiles`] tiles of `R` rows by `P` panels.
///
/// # Safety
/// The invariants of [`Tile`] hold for each of them, with `R` rows and `P` panels, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn compute<const R: usize, const P: usize, const SIGNED: bool>(tile: &Tile<'_>) {
    // What is added once to the sums of a channel.
    let constants = match tile.stage {
        OutputStage::Quantized(stage) => stage.bias,
        OutputStage::Float(stage) => stage.correction,
    };
    let bias: [__m512i; P] = std::array::from_fn(|p| {
        let mask = channel_mask(tile.channels - p * PANEL);
        let from = constants.as_ptr().wrapping_add(tile.channel + p * PANEL);
        // SAFETY: both have an entry for each channel; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_epi32(mask, from) }
    });
    let bytes = match tile.stage {
        // SAFETY: passed on from the caller.
        OutputStage::Quantized(stage) => Some(unsafe { ByteRows::new::<P>(tile, stage) }),
        OutputStage::Float(_) => None,
    };
    let floats: Option<[FloatFinish; P]> = match tile.stage {
        OutputStage::Float(stage) => Some(std::array::from_fn(|p| {
            let first = p * PANEL;
            // SAFETY: the stage has constants for each channel of the tile.
            unsafe { FloatFinish::new(stage, tile.channel + first, tile.channels - first) }
        })),
        OutputStage::Quantized(_) => None,
    };
    // Many weights come from far away: those of the next channels are asked for, evenly over all turns, so that none waits for them.
    let weights = P * tile.panel_stride;
    let turns = tile.tiles * tile.taps * (tile.quads / 2);
    let (first, distance) = if weights < FAR {
        (0, 0)
    } else {
        (weights, weights.div_ceil(turns.max(1)))
    };
    let mut ahead = tile.weights.wrapping_add(first);
    let mut tile = *tile;
    for left in (0..tile.tiles).rev() {
        let mut acc = [bias; R];
        for tap in 0..tile.taps {
            // SAFETY: `R` rows have an entry at each tap.
            let rows: [*const u8; R] = unsafe { row_starts(&tile, tap) };
            // SAFETY: each panel has `taps · quads` blocks.
            let mut blocks = unsafe { tile.weights.add(tap * tile.quads * BLOCK) };
            let pairs = if P > 2 { tile.quads / 2 } else { 0 };
            // Two groups of four at a time: there are fewer other instructions.
            for pair in 0..pairs {
                // SAFETY: as for one below.
                unsafe {
                    step::<R, P, SIGNED>(&mut acc, &rows, pair * 2, blocks, tile.panel_stride);
                    let next = blocks.add(BLOCK);
                    step::<R, P, SIGNED>(&mut acc, &rows, pair * 2 + 1, next, tile.panel_stride);
                }
                blocks = blocks.wrapping_add(2 * BLOCK);
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(distance);
            }
            for quad in 2 * pairs..tile.quads {
                // SAFETY: each of `R` rows has `4 · quads` bytes, and each of `P` panels `quads` blocks.
                unsafe { step::<R, P, SIGNED>(&mut acc, &rows, quad, blocks, tile.panel_stride) };
                blocks = blocks.wrapping_add(BLOCK);
            }
        }
        // The sums of a row, by its number, so that they have no address and stay in registers.
        macro_rules! each_row {
            (|$r:ident| $do:expr; $($row:literal)*) => {{
                $(if $row < R {
                    const $r: usize = $row;
                    $do
                })*
            }};
        }
        if let Some(bytes) = &bytes {
            each_row!(|FIRST| {
                if FIRST.is_multiple_of(packed_rows(P)) {
                    let rows = packed_rows(P).min(R - FIRST % R);
                    let sums = std::array::from_fn(|i| acc[(FIRST + i / P) % R][i % P]);
                    // SAFETY: passed on from the caller.
                    unsafe {
                        if bytes.plain {
                            bytes.store::<P, true>(&tile, FIRST, rows, sums);
                        } else {
                            bytes.store::<P, false>(&tile, FIRST, rows, sums);
                        }
                    }
                }
            }; 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        } else if let Some(floats) = &floats {
            each_row!(|ROW| {
                let output = tile.output.cast::<f32>();
                let output = output.wrapping_add(ROW * tile.output_stride);
                for (p, finish) in floats.iter().enumerate() {
                    // SAFETY: the output is writable for each row and channel.
                    unsafe { finish.store(acc[ROW % R][p], output.wrapping_add(p * PANEL)) };
                }
            }; 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        }
        if left > 0 {
            // SAFETY: the invariants hold for the next tile.
            tile = unsafe { tile.next(R) };
        }
    }
}

/// Adds the products of group of four `quad` of each row with a block of each panel.
///
/// # Safety
/// Four bytes of each row at `4 · quad` are readable, and a block of each of `P` panels, one every `panel_stride`.
#[inline(always)]
unsafe fn step<const R: usize, const P: usize, const SIGNED: bool>(
    acc: &mut [[__m512i; P]; R],
    rows: &[*const u8; R],
    quad: usize,
    blocks: *const u8,
    panel_stride: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let weights: [__m512i; P] =
            std::array::from_fn(|p| _mm512_loadu_si512(blocks.add(p * panel_stride).cast()));
        for r in 0..R {
            let four = rows[r].add(quad * 4).cast::<i32>().read_unaligned();
            let mut x = _mm512_set1_epi32(four);
            if SIGNED {
                x = _mm512_xor_si512(x, _mm512_set1_epi8(-128));
            }
            for p in 0..P {
                acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, weights[p]);
            }
        }
    }
}

/// Where the rows of tap `tap` start: [`Tile::row_start`] for eight rows at a time.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows, `tap < taps`, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn row_starts<const R: usize>(tile: &Tile<'_>, tap: usize) -> [*const u8; R] {
    let mut starts: [*const u8; 16] = [std::ptr::null(); 16];
    let input = _mm512_set1_epi64(tile.input.expose_provenance() as i64);
    let extras = tile.extras.expose_provenance().wrapping_sub(EXTRA as usize);
    let extras = _mm512_set1_epi64(extras as i64);
    for first in (0..R).step_by(8) {
        let mask = if R - first >= 8 {
            u8::MAX
        } else {
            (1 << (R - first)) - 1
        };
        // SAFETY: the table has an entry for each row of each tap; masked lanes are not read. `starts` has 16 entries.
        unsafe {
            let entries = tile.offsets.add(tap * tile.offset_stride + first);
            let offsets = _mm256_maskz_loadu_epi32(mask, entries.cast());
            let is_extra = _mm256_cmpge_epu32_mask(offsets, _mm256_set1_epi32(EXTRA as i32));
            let base = _mm512_mask_blend_epi64(is_extra, input, extras);
            let addresses = _mm512_add_epi64(base, _mm512_cvtepu32_epi64(offsets));
            _mm512_storeu_si512(starts.as_mut_ptr().add(first).cast(), addresses);
        }
    }
    std::array::from_fn(|r| starts[r])
}
