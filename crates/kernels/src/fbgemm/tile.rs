//! What a micro kernel computes: a tile of rows by panels of 16 channels, over the whole depth.
//!
//! `acc[r][c] = Σ_tap Σ_k input[offset(tap, r) + k] · weights[c][tap][k]`, followed by the output stage. The
//! sums stay in registers over the whole depth, so that nothing but final values is ever written. Row `r` of
//! tap `tap` starts at an offset from a table, or at the zero row where the tap lies outside of the image.

use super::output::OutputStage;
use crate::Isa;

/// Offset that stands for the zero row.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// The arguments of a micro kernel. Pointers, since the tiles of one call overlap in what they read.
///
/// Invariants that the driver keeps and micro kernels rely on, for the `rows` and `panels` of the call:
/// - `offsets` has, for each tap `t < taps`, `rows` entries from `t · offset_stride` on; each is [`OUTSIDE`]
///   or such that `4 · quads` bytes are readable at `input + offset`;
/// - `zero` has `4 · quads` readable bytes;
/// - `weights` has `panels` panels, `panel_stride` bytes apart, each of `taps · quads` blocks of 64 bytes;
/// - `stage` passed [`OutputStage::check`] for channels up to `channel + channels` and rows up to `row +
///   rows`;
/// - `16 · (panels - 1) < channels <= 16 · panels`;
/// - `output` is writable at `r · output_stride + c` for `r < rows`, `c < channels`, counted in elements of
///   the type that the stage gives, and nothing else refers to these elements.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) input: *const u8,
    pub(super) zero: *const u8,
    pub(super) offsets: *const u32,
    pub(super) offset_stride: usize,
    pub(super) taps: usize,
    /// Groups of four products a tap.
    pub(super) quads: usize,
    pub(super) weights: *const u8,
    pub(super) panel_stride: usize,
    /// Whether the activations are `i8`: their sign bit is flipped while loading.
    pub(super) signed: bool,
    pub(super) stage: &'a OutputStage<'a>,
    /// The first row of the tile, as the stage counts rows.
    pub(super) row: usize,
    /// The first channel of the tile, as the stage counts channels.
    pub(super) channel: usize,
    /// Channels of the tile that exist.
    pub(super) channels: usize,
    /// All channels: the distance of two rows in the residual.
    pub(super) all_channels: usize,
    pub(super) output: *mut u8,
    pub(super) output_stride: usize,
}

impl Tile<'_> {
    /// Where row `row` of tap `tap` starts.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold, with `row < rows` and `tap < taps`.
    #[inline(always)]
    pub(super) unsafe fn row_start(&self, tap: usize, row: usize) -> *const u8 {
        // SAFETY: the table has an entry for each row of each tap, and the offset lies inside of the input.
        unsafe {
            let offset = *self.offsets.add(tap * self.offset_stride + row);
            if offset == OUTSIDE {
                self.zero
            } else {
                self.input.add(offset as usize)
            }
        }
    }

    /// What loading adds to each activation, as a value: 128 where the sign bit is flipped.
    #[inline(always)]
    pub(super) fn shift(&self) -> i32 {
        if self.signed { 128 } else { 0 }
    }
}

/// The micro kernels of one instruction set and the tiles that they like.
#[derive(Clone, Copy)]
pub(super) struct Micro {
    /// Panels of 16 channels computed at a time.
    pub(super) max_panels: usize,
    /// How many of `rows` remaining rows the next tile of `panels` panels takes; at least one.
    pub(super) fit_rows: fn(rows: usize, panels: usize) -> usize,
    /// Computes a tile of `rows` by `panels`, as `fit_rows` and `max_panels` allow.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold, and the processor has the instruction set.
    pub(super) run: unsafe fn(tile: &Tile<'_>, rows: usize, panels: usize),
}

impl Micro {
    /// The micro kernels of `isa`, which the caller has found supported.
    pub(super) fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => super::avx512vnni::MICRO,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::MICRO,
            _ => super::scalar::MICRO,
        }
    }
}
