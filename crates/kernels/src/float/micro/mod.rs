//! What a float micro kernel computes, and the loops that hand it its tiles.
//!
//! A tile is some rows (pixels) by some panels of 16 output channels:
//! `sum[r][c] = Σ_tap Σ_k input[offset(tap, r) + k] · weights[c][tap][k]`, every product and sum rounded once, one after the
//! other in this order, from zero on. The order does not depend on the tile, so each instruction set and each way of
//! cutting the output gives the same bits.
//!
//! [`Part::run`] takes panels outside and rows inside: the weights of two or three panels (600 KB for sums of 4600 products) stay in the
//! second-level cache while the rows pass by, so that they are read from memory once. The sums stay in registers over the whole depth;
//! cutting the depth as well was not faster.

use crate::conv::offsets::OUTSIDE;
use crate::{Bounds, Isa};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Output channels of a panel of packed weights.
pub(super) const PANEL: usize = 16;

/// The arguments of a micro kernel. Pointers, since the tiles of one call overlap in what they read.
///
/// Invariants that drivers keep and micro kernels rely on, for the `rows` and `panels` of the call:
/// - `offsets` has, for each tap `t < taps`, `rows` entries from `t · offset_stride` on; each is [`OUTSIDE`] or such that
///   `depth` floats are readable at `input + offset`;
/// - `depth` floats are readable at `zeros`;
/// - `weights` has `panels` panels, one every `panel_stride` floats, of which `taps · depth · PANEL` floats are readable;
/// - `panels` are as many as `channels` channels take, and at least one;
/// - `bias`, where it is not null, has `channels` readable floats, and `residual`, where it is not null, as many at
///   `r · output_stride` for each `r < rows`;
/// - `output` is writable at `r · output_stride + c` for `r < rows`, `c < channels`, and nothing else refers to these
///   elements.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    input: *const f32,
    zeros: *const f32,
    offsets: *const u32,
    offset_stride: usize,
    taps: usize,
    /// Products a tap.
    depth: usize,
    weights: *const f32,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "for several panels")
    )]
    panel_stride: usize,
    /// Channels of the tile that exist.
    channels: usize,
    output: *mut f32,
    output_stride: usize,
    bias: *const f32,
    residual: *const f32,
    clamp: Bounds,
}

impl Tile {
    /// Where row `row` of tap `tap` starts.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold, with `row < rows` and `tap < taps`.
    #[inline(always)]
    unsafe fn row_start(&self, tap: usize, row: usize) -> *const f32 {
        // SAFETY: the table has an entry for each row of each tap.
        let offset = unsafe { *self.offsets.add(tap * self.offset_stride + row) };
        // Borders come in no order that a processor could predict.
        let inside = self.input.wrapping_add(offset as usize);
        std::hint::select_unpredictable(offset == OUTSIDE, self.zeros, inside)
    }
}

/// The micro kernels of one instruction set and the tiles that they like.
#[derive(Clone, Copy)]
pub(super) struct Micro {
    /// How many of `panels` remaining panels the next tiles take, for `rows` rows in all and sums of `k` products; at least one.
    fit_panels: fn(rows: usize, k: usize, panels: usize) -> usize,
    /// The most rows of a tile of `panels` panels.
    max_rows: fn(panels: usize) -> usize,
    /// Computes a tile of `rows` by `panels`, as the others allow.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold, and the processor has the instruction set.
    run: unsafe fn(tile: &Tile, rows: usize, panels: usize),
}

impl Micro {
    /// The micro kernels of `isa`, which the caller has found supported.
    pub(super) fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512::MICRO,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::MICRO,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => neon::MICRO,
            _ => scalar::MICRO,
        }
    }
}

/// What the tiles of one group of channels and some pixels have in common.
pub(super) struct Part<'a> {
    /// The input from the first channel of the group on.
    pub(super) input: &'a [f32],
    /// `group_in` zeros.
    pub(super) zeros: &'a [f32],
    /// `[taps][pixels]`, see [`offset_table`](crate::conv::pixels::offset_table).
    pub(super) offsets: &'a [u32],
    pub(super) pixels: usize,
    pub(super) taps: usize,
    /// Input channels of the group.
    pub(super) group_in: usize,
    /// The panels of the channels to compute.
    pub(super) weights: &'a [f32],
    /// Of the channels to compute.
    pub(super) bias: Option<&'a [f32]>,
    /// From the first pixel and channel to compute on, like the output.
    pub(super) residual: Option<&'a [f32]>,
    pub(super) clamp: Bounds,
    /// Channels to compute.
    pub(super) channels: usize,
    /// From one pixel to the next.
    pub(super) output_stride: usize,
}

impl Part<'_> {
    /// Computes all channels of all pixels; `output` starts with the first channel of the first pixel.
    ///
    /// # Safety
    /// The processor has the instruction set of `micro`; each offset is [`OUTSIDE`] or one from which `input` has `group_in` floats;
    /// `zeros`, `offsets`, `weights` and `bias` have the lengths above; residual and output have
    /// `channels` floats at each multiple of `output_stride` below `pixels · output_stride`.
    pub(super) unsafe fn run(&self, micro: Micro, output: &mut [f32]) {
        let k = self.taps * self.group_in;
        let panel_stride = k * PANEL;
        debug_assert!(self.weights.len() >= self.channels.div_ceil(PANEL) * panel_stride);
        let mut channel = 0;
        while channel < self.channels {
            let remaining = (self.channels - channel).div_ceil(PANEL);
            let panels = (micro.fit_panels)(self.pixels, k, remaining);
            let channels = (self.channels - channel).min(panels * PANEL);
            let tile = Tile {
                input: self.input.as_ptr(),
                zeros: self.zeros.as_ptr(),
                offsets: self.offsets.as_ptr(),
                offset_stride: self.pixels,
                taps: self.taps,
                depth: self.group_in,
                weights: self.weights[channel / PANEL * panel_stride..].as_ptr(),
                panel_stride,
                channels,
                output: output[channel..].as_mut_ptr(),
                output_stride: self.output_stride,
                bias: self
                    .bias
                    .map_or(std::ptr::null(), |bias| bias[channel..].as_ptr()),
                residual: self
                    .residual
                    .map_or(std::ptr::null(), |residual| residual[channel..].as_ptr()),
                clamp: self.clamp,
            };
            // SAFETY: passed on from the caller.
            unsafe { rows(micro, tile, self.pixels, panels) };
            channel += channels;
        }
    }
}

/// Computes all rows of some panels, in tiles of about the same height.
///
/// # Safety
/// The invariants of [`Tile`] hold for `count` rows, and the processor has the instruction set.
unsafe fn rows(micro: Micro, mut tile: Tile, count: usize, panels: usize) {
    let max = (micro.max_rows)(panels);
    let mut row = 0;
    while row < count {
        let remaining = count - row;
        let rows = remaining.div_ceil(remaining.div_ceil(max));
        // SAFETY: these rows are some of the caller's.
        unsafe { (micro.run)(&tile, rows, panels) };
        row += rows;
        let step = rows * tile.output_stride;
        // Never read or written after the last rows.
        tile.offsets = tile.offsets.wrapping_add(rows);
        tile.output = tile.output.wrapping_add(step);
        if !tile.residual.is_null() {
            tile.residual = tile.residual.wrapping_add(step);
        }
    }
}
