//! The micro kernels for NEON: QNNPACK's 8 x 8 tile, and depthwise.
//!
//! Four products of eight channels are loaded as four vectors, one for each product (`ld4`), and widened to 16 bits, as
//! the activations are; `smlal` by lane then adds the products of one activation with four channels in 32 bits, where
//! nothing overflows. Registers: 16 sums, 8 rows of activations, 1 vector of weights.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::aarch64::*;

use super::depthwise::{self, channels_of};
use super::pack::{FORM, PANEL};
use crate::conv::scalar::store_floats;
use crate::conv::tile::{Micro, Tile, partial};
use crate::conv::{OutputStage, Quantized};

/// Rows of the tallest tile.
pub(super) const ROWS: usize = 8;

/// 8 x 8.
pub(super) const MICRO: Micro = Micro {
    form: FORM,
    max_panels: 1,
    fit: |rows, _| (fit_rows(rows), 1),
    run,
    widen: None,
};

/// The tallest compiled tile that is not taller than `rows`.
pub(super) fn fit_rows(rows: usize) -> usize {
    match rows {
        8.. => ROWS,
        4.. => 4,
        rows => rows.min(2),
    }
}

/// Calls the function of the tile's height, `compute::<R>(tile)`, for the heights that [`fit_rows`] gives.
macro_rules! by_rows {
    ($compute:ident, $tile:expr, $rows:expr) => {
        match $rows {
            1 => $compute::<1>($tile),
            2 => $compute::<2>($tile),
            4 => $compute::<4>($tile),
            $crate::qnnpack::neon::ROWS => $compute::<{ $crate::qnnpack::neon::ROWS }>($tile),
            _ => unreachable!("`fit_rows` gives the heights above only"),
        }
    };
}
pub(super) use by_rows;

/// Picks the tile of the size asked for.
///
/// # Safety
/// The invariants of [`Tile`] hold, and the processor has NEON.
unsafe fn run(tile: &Tile<'_>, rows: usize, _panels: usize) {
    // SAFETY: passed on from the caller.
    unsafe { by_rows!(compute, tile, rows) }
}

/// Adds to the sums of each row the products of one lane of its activations with the weights of eight channels.
macro_rules! add_lanes {
    ($acc:ident, $x:ident, $products:ident, $($product:tt => $lane:literal),*) => {$({
        let weights = vmovl_s8($products.$product);
        for r in 0..R {
            $acc[r][0] =
                vmlal_laneq_s16::<$lane>($acc[r][0], vget_low_s16(weights), $x[r]);
            $acc[r][1] = vmlal_high_laneq_s16::<$lane>($acc[r][1], weights, $x[r]);
        }
    })*};
}

/// Computes a tile of `R` rows.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and one panel, and the processor has NEON.
#[target_feature(enable = "neon")]
unsafe fn compute<const R: usize>(tile: &Tile<'_>) {
    let mut acc = [[vdupq_n_s32(0); 2]; R];
    let flip = vdup_n_u8(if tile.signed { 0x80 } else { 0 });
    let block = FORM.block();
    for tap in 0..tile.taps {
        // SAFETY: `R` rows have an entry at each tap.
        let rows: [*const u8; R] = std::array::from_fn(|r| unsafe { tile.row_start(tap, r) });
        // SAFETY: behind the header, the panel has `taps · quads` blocks.
        let blocks = unsafe { tile.weights.add(FORM.header + tap * tile.quads * block) };
        let widen = |bytes: uint8x8_t| vreinterpretq_s16_u16(vmovl_u8(veor_u8(bytes, flip)));
        for pair in 0..tile.quads / 2 {
            // SAFETY: `4 · quads` bytes are readable at each row, and eight of them belong to this pair of quads.
            let x: [int16x8_t; R] =
                std::array::from_fn(|r| widen(unsafe { vld1_u8(rows[r].add(pair * 8)) }));
            // SAFETY: each of the two blocks has 32 bytes.
            let (first, second) = unsafe {
                let at = blocks.add(pair * 2 * block).cast::<i8>();
                (vld4_s8(at), vld4_s8(at.add(block)))
            };
            add_lanes!(acc, x, first, 0 => 0, 1 => 1, 2 => 2, 3 => 3);
            add_lanes!(acc, x, second, 0 => 4, 1 => 5, 2 => 6, 3 => 7);
        }
        if tile.quads % 2 == 1 {
            let last = tile.quads - 1;
            // SAFETY: as above, for the four bytes of the last quad.
            let x: [int16x8_t; R] = std::array::from_fn(|r| unsafe {
                let four = rows[r].add(last * 4).cast::<u32>().read_unaligned();
                widen(vcreate_u8(four.into()))
            });
            // SAFETY: as above.
            let products = unsafe { vld4_s8(blocks.add(last * block).cast()) };
            add_lanes!(acc, x, products, 0 => 0, 1 => 1, 2 => 2, 3 => 3);
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(tile, &acc) };
}

/// The constants of a [`Quantized`] stage that do not depend on the channel.
struct Constants {
    zero_point: int32x4_t,
    lo: float32x4_t,
    hi: float32x4_t,
}

impl Constants {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(zero_point: i32, lo: i32, hi: i32) -> Self {
        Self {
            zero_point: vdupq_n_s32(zero_point),
            lo: vdupq_n_f32((lo - zero_point) as f32),
            hi: vdupq_n_f32((hi - zero_point) as f32),
        }
    }

    /// Clamps and rounds to steps from the zero point, half to even. NaN gives the lower bound, as in the definition.
    #[inline]
    #[target_feature(enable = "neon")]
    fn steps(&self, value: float32x4_t) -> int32x4_t {
        vcvtnq_s32_f32(vminq_f32(vmaxnmq_f32(value, self.lo), self.hi))
    }
}

/// Passes the sums of a tile of up to eight channels through the output stage.
///
/// # Safety
/// The invariants of [`Tile`] hold for `R` rows and at most 8 channels, and the processor has NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store<const R: usize>(tile: &Tile<'_>, acc: &[[int32x4_t; 2]; R]) {
    // SAFETY: passed on from the caller; two vectors are 8 numbers.
    unsafe {
        match tile.stage {
            OutputStage::Quantized(stage) => store_bytes(tile, stage, acc),
            OutputStage::Float(stage) => {
                for (r, acc) in acc.iter().enumerate() {
                    let sums = std::slice::from_raw_parts(acc.as_ptr().cast(), tile.channels);
                    store_floats(tile, stage, r, sums);
                }
            }
        }
    }
}

/// Requantizes and stores a tile.
///
/// # Safety
/// As [`store`], and `stage` is that of the tile.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_bytes<const R: usize>(
    tile: &Tile<'_>,
    stage: &Quantized<'_>,
    acc: &[[int32x4_t; 2]; R],
) {
    let first = Constants::new(stage.zero_point, stage.lo, stage.hi);
    let count = tile.channels;
    // SAFETY: the constants have an entry for each channel; those that exist are copied before they are loaded.
    let (bias, multiplier) = unsafe {
        let bias: [_; PANEL] = partial(stage.bias.as_ptr().add(tile.channel), count);
        let multiplier: [_; PANEL] = partial(stage.multiplier.as_ptr().add(tile.channel), count);
        (
            [vld1q_s32(bias.as_ptr()), vld1q_s32(bias.as_ptr().add(4))],
            [
                vld1q_f32(multiplier.as_ptr()),
                vld1q_f32(multiplier.as_ptr().add(4)),
            ],
        )
    };
    for (r, acc) in acc.iter().enumerate() {
        let mut values = [vdupq_n_s32(0); 2];
        for half in 0..2 {
            let sum = vcvtq_f32_s32(vaddq_s32(acc[half], bias[half]));
            values[half] = first.steps(vmulq_f32(sum, multiplier[half]));
        }
        if let Some(residual) = &stage.residual {
            let at = (tile.row + r) * tile.all_channels + tile.channel;
            // SAFETY: the residual has an element for each row and channel of the tile.
            let bytes: [_; PANEL] = unsafe { partial(residual.data.as_ptr().add(at), count) };
            // SAFETY: eight bytes.
            let bytes = unsafe { vld1_u8(bytes.as_ptr()) };
            let words = if residual.signed {
                vmovl_s8(vreinterpret_s8_u8(bytes))
            } else {
                vreinterpretq_s16_u16(vmovl_u8(bytes))
            };
            let words = [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)];
            let second = Constants::new(residual.zero_point, residual.lo, residual.hi);
            for half in 0..2 {
                let r = vsubq_s32(words[half], vdupq_n_s32(residual.residual_zero_point));
                let left = vmulq_n_f32(vcvtq_f32_s32(values[half]), residual.output_ratio);
                let right = vmulq_n_f32(vcvtq_f32_s32(r), residual.residual_ratio);
                let steps = second.steps(vaddq_f32(left, right));
                values[half] = vaddq_s32(steps, second.zero_point);
            }
        } else {
            values = values.map(|steps| vaddq_s32(steps, first.zero_point));
        }
        // The values fit a byte: their low bytes are the result.
        let words = vcombine_s16(vmovn_s32(values[0]), vmovn_s32(values[1]));
        let bytes = vreinterpret_u8_s8(vmovn_s16(words));
        // SAFETY: the output is writable for each row and channel of the tile.
        unsafe {
            let output = tile.output.add(r * tile.output_stride);
            if count == PANEL {
                vst1_u8(output, bytes);
            } else {
                let mut all = [0_u8; PANEL];
                vst1_u8(all.as_mut_ptr(), bytes);
                std::ptr::copy_nonoverlapping(all.as_ptr(), output, count);
            }
        }
    }
}

/// Depthwise, 8 channels at a time: the weights of two taps are loaded as two vectors (`ld2`), and everything is widened
/// to 16 bits.
///
/// # Safety
/// The invariants of [`depthwise::DepthwiseKernel`] hold, and the processor has NEON.
pub(super) unsafe fn depthwise(tile: &Tile<'_>, rows: usize) {
    for first in (0..tile.channels).step_by(PANEL) {
        let count = PANEL.min(tile.channels - first);
        // SAFETY: passed on from the caller; the channels exist.
        unsafe {
            let tile = channels_of(tile, first, count);
            if rows == depthwise::ROWS {
                depthwise_block::<{ depthwise::ROWS }>(&tile);
            } else {
                depthwise_block::<1>(&tile);
            }
        }
    }
}

/// Computes `R` pixels by up to 8 channels.
///
/// # Safety
/// The invariants of [`depthwise::DepthwiseKernel`] hold, and the processor has NEON.
#[target_feature(enable = "neon")]
unsafe fn depthwise_block<const R: usize>(tile: &Tile<'_>) {
    let flip = vdup_n_u8(if tile.signed { 0x80 } else { 0 });
    let mut acc = [[vdupq_n_s32(0); 2]; R];
    for pair in 0..tile.taps / 2 {
        // SAFETY: a panel has 16 weights for each pair of taps.
        let weights = unsafe { vld2_s8(tile.weights.add(pair * 2 * PANEL).cast()) };
        for (side, weights) in [weights.0, weights.1].into_iter().enumerate() {
            let weights = vmovl_s8(weights);
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: each tap has an offset, behind which the channels are.
                let bytes = unsafe {
                    let from = tile.row_start(2 * pair + side, r);
                    if tile.channels == PANEL {
                        vld1_u8(from)
                    } else {
                        vld1_u8(partial::<_, PANEL>(from, tile.channels).as_ptr())
                    }
                };
                let x = vreinterpretq_s16_u16(vmovl_u8(veor_u8(bytes, flip)));
                acc[0] = vmlal_s16(acc[0], vget_low_s16(x), vget_low_s16(weights));
                acc[1] = vmlal_high_s16(acc[1], x, weights);
            }
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(tile, &acc) };
}
