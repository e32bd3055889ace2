//! What a micro kernel computes, and the loops that hand it its tiles.
//!
//! A tile is some rows (pixels) by some panels of output channels, over the whole depth:
//! `acc[r][c] = Σ_tap Σ_k input[offset(tap, r) + k] · weights[c][tap][k]`, followed by the output stage. The
//! sums stay in registers over the whole depth, so that nothing but final values is ever written. Row `r` of
//! tap `tap` starts at an offset from a table, or at an extra row, where the tap is outside of the image.
//!
//! [`Part::run`] takes panels outside and rows inside, the scheme of MLAS: the weights of a panel stay in the
//! nearest cache while the pixels pass by. Where a micro kernel wants its rows widened, rows are outside, and are widened once for all panels,
//! as FBGEMM packs them.

use std::ops::Range;

use super::offsets::EXTRA;
use super::output::{OutputRows, OutputStage};

/// The form of packed weights that a micro kernel reads: panels of `[K/4][channels][4]` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelForm {
    /// Output channels of a panel.
    pub(crate) channels: usize,
    /// Bytes before the products of a panel.
    pub(crate) header: usize,
}

impl PanelForm {
    /// Bytes of a block: four products of each channel.
    pub(crate) const fn block(self) -> usize {
        4 * self.channels
    }
}

/// The arguments of a micro kernel. Pointers, since the tiles of one call overlap in what they read.
///
/// Invariants that drivers keep and micro kernels rely on, for the `rows` and `panels` of the call:
/// - `offsets` has, for each tap `t < taps`, `rows` entries from `t · offset_stride` on; `4 · quads` bytes are readable
///   at `input + offset`, or from [`EXTRA`] on, at `extras + (offset - EXTRA)`;
/// - `weights` has `panels` panels of the engine's form, one every `panel_stride` bytes, each of `taps · quads` blocks;
/// - `stage` passed [`OutputStage::check`] for channels up to `channel + channels` and rows up to `row +
///   rows`;
/// - `wide` has what [`Micro::widen`] gave for these rows, if there is one;
/// - `panels` are as many as `channels` channels take;
/// - `output` is writable at `r · output_stride + c` for `r < rows`, `c < channels`, counted in elements of
///   the type that the stage gives, and nothing else refers to these elements.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) input: *const u8,
    pub(crate) extras: *const u8,
    pub(crate) offsets: *const u32,
    pub(crate) offset_stride: usize,
    pub(crate) taps: usize,
    /// Groups of four products a tap.
    pub(crate) quads: usize,
    pub(crate) weights: *const u8,
    pub(crate) panel_stride: usize,
    /// The widened rows, of micro kernels that have [`Micro::widen`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for AVX2"))]
    pub(crate) wide: *const u8,
    /// Whether the activations are `i8`: kernels compute on the `u8` that is larger by 128.
    pub(crate) signed: bool,
    pub(crate) stage: &'a OutputStage<'a>,
    /// The first row of the tile, as the stage counts rows.
    pub(crate) row: usize,
    /// The first channel of the tile, as the stage counts channels.
    pub(crate) channel: usize,
    /// Channels of the tile that exist.
    pub(crate) channels: usize,
    /// All channels: the distance of two rows in the residual.
    pub(crate) all_channels: usize,
    pub(crate) output: *mut u8,
    pub(crate) output_stride: usize,
    /// Tiles of this size to compute, each with the rows behind those of the one before; see [`Micro::fit`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for AVX-512"))]
    pub(crate) tiles: usize,
}

impl Tile<'_> {
    /// The tile of the same size with the `rows` rows behind those of this one.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold for these rows too.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) unsafe fn next(&self, rows: usize) -> Self {
        // SAFETY: the table has entries for these rows, and the output is writable there.
        unsafe {
            Self {
                offsets: self.offsets.add(rows),
                row: self.row + rows,
                output: (self.output).add(rows * self.output_stride * self.stage.element()),
                ..*self
            }
        }
    }

    /// Where row `row` of tap `tap` starts.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold, with `row < rows` and `tap < taps`.
    #[inline(always)]
    pub(crate) unsafe fn row_start(&self, tap: usize, row: usize) -> *const u8 {
        // SAFETY: the table has an entry for each row of each tap.
        let offset = unsafe { *self.offsets.add(tap * self.offset_stride + row) };
        let base = if offset >= EXTRA {
            self.extras.wrapping_sub(EXTRA as usize)
        } else {
            self.input
        };
        base.wrapping_add(offset as usize)
    }

    /// The same tile from channel `first` of it on, with at most `most` channels: for storing the channels of some registers. Its weights
    /// are still those of the first channel.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold, and the tile has channel `first`.
    #[inline(always)]
    pub(crate) unsafe fn channels_from(&self, first: usize, most: usize) -> Self {
        Self {
            channel: self.channel + first,
            channels: (self.channels - first).min(most),
            // SAFETY: the output is writable for this channel.
            output: unsafe { self.output.add(first * self.stage.element()) },
            ..*self
        }
    }
}

/// Up to `N` values: the `count` values at `from`, and zeros.
///
/// # Safety
/// `count` values, at most `N`, are readable at `from`.
#[inline(always)]
pub(crate) unsafe fn partial<T: Copy + Default, const N: usize>(
    from: *const T,
    count: usize,
) -> [T; N] {
    let mut values = [T::default(); N];
    // SAFETY: passed on from the caller.
    unsafe { std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count) };
    values
}

/// The micro kernels of one instruction set and the tiles that they like.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    /// The form of the weights.
    pub(crate) form: PanelForm,
    /// The most panels computed at a time.
    pub(crate) max_panels: usize,
    /// How many of `rows` remaining rows the next tile of `panels` panels takes, and how many tiles of this size come next; at least one each.
    pub(crate) fit: fn(rows: usize, panels: usize) -> (usize, usize),
    /// Computes tiles of `rows` by `panels`, as `fit` and `max_panels` allow.
    ///
    /// # Safety
    /// The invariants of [`Tile`] hold for each of the tiles, and the processor has the instruction set.
    pub(crate) run: unsafe fn(tile: &Tile<'_>, rows: usize, panels: usize),
    /// Widens the rows of a tile for all its panels, into [`wide_len`] bytes; `fit` gives one tile then, whatever the panels.
    pub(crate) widen: Option<Widen>,
}

/// See [`Micro::widen`].
///
/// # Safety
/// The invariants of [`Tile`] hold for `rows` rows but for `wide`, `into` has [`wide_len`] bytes, and the processor has the instruction set.
pub(crate) type Widen = unsafe fn(tile: &Tile<'_>, rows: usize, into: *mut u8);

/// Most rows of a tile whose rows are widened.
pub(crate) const WIDE_ROWS: usize = 126;

/// Bytes of scratch memory for the widened rows of a tile, of at most `rows`: eight for each four activations; 0 where no instruction set widens.
pub(crate) const fn wide_len(rows: usize, taps: usize, quads: usize) -> usize {
    if cfg!(not(target_arch = "x86_64")) {
        return 0;
    }
    let rows = if rows < WIDE_ROWS { rows } else { WIDE_ROWS };
    rows * taps * quads * 8
}

/// What the tiles of one group of channels and one range of pixels have in common.
pub(crate) struct Part<'a> {
    pub(crate) input: &'a [u8],
    /// The extra rows, the first of which is the zero row.
    pub(crate) extras: &'a [u8],
    /// Tables of pixels from the first one on, `offset_stride` entries a tap.
    pub(crate) offsets: &'a [u32],
    pub(crate) offset_stride: usize,
    pub(crate) taps: usize,
    pub(crate) quads: usize,
    /// The packed weights of the group.
    pub(crate) weights: &'a [u8],
    pub(crate) signed: bool,
    pub(crate) stage: &'a OutputStage<'a>,
    pub(crate) all_channels: usize,
    /// The channel that is the first of an output row.
    pub(crate) origin: usize,
    /// Row 0 is the first pixel.
    pub(crate) output: OutputRows,
}

impl Part<'_> {
    /// Computes channels `channels` (all in the group that starts at `group_start`) of the pixels `pixels`. `wide` has [`wide_len`] bytes.
    ///
    /// # Safety
    /// The processor has the instruction set of `micro`; `offsets`, `extras` and `weights` fit `input`, `taps`
    /// and `quads` as [`Tile`] asks, with an offset for each tap and pixel; `stage` was checked for these
    /// channels and pixels; `output` has a row that starts with channel
    /// `origin` for each pixel.
    pub(crate) unsafe fn run(
        &self,
        micro: Micro,
        pixels: Range<usize>,
        group_start: usize,
        channels: Range<usize>,
        wide: &mut [u8],
    ) {
        let form = micro.form;
        let panel_stride = form.header + self.taps * self.quads * form.block();
        let wide = wide.as_mut_ptr();
        // The tile of `count` channels from `channel` on, with the rows from `row` on.
        let tile = |row: usize, channel: usize, count: usize| {
            let weights = &self.weights[(channel - group_start) / form.channels * panel_stride..];
            debug_assert!(weights.len() >= count.div_ceil(form.channels) * panel_stride);
            Tile {
                input: self.input.as_ptr(),
                extras: self.extras.as_ptr(),
                offsets: self.offsets[row..].as_ptr(),
                offset_stride: self.offset_stride,
                taps: self.taps,
                quads: self.quads,
                weights: weights.as_ptr(),
                panel_stride,
                wide,
                signed: self.signed,
                stage: self.stage,
                row: pixels.start + row,
                channel,
                channels: count,
                all_channels: self.all_channels,
                // SAFETY: the row and the channel are inside of the output.
                output: unsafe { self.output.at(row, channel - self.origin) },
                output_stride: self.output.pitch,
                tiles: 1,
            }
        };
        // As few groups as can be, of almost the same number of panels.
        let groups = || {
            let mut panels = channels.len().div_ceil(form.channels);
            let mut channel = channels.start;
            std::iter::from_fn(move || {
                let now = panels.div_ceil(panels.div_ceil(micro.max_panels).max(1));
                let group = (channel, (channels.end - channel).min(now * form.channels));
                panels -= now;
                channel += group.1;
                (now > 0).then_some(group)
            })
        };
        if let Some(widen) = micro.widen {
            let mut row = 0;
            while row < pixels.len() {
                let (rows, _) = (micro.fit)(pixels.len() - row, 1);
                for (i, (channel, count)) in groups().enumerate() {
                    let tile = tile(row, channel, count);
                    // SAFETY: passed on from the caller; the tables have one entry a pixel for each tap, and this
                    // tile takes `rows` of them from `row` on. Its rows were widened before its first channels were computed.
                    unsafe {
                        if i == 0 {
                            widen(&tile, rows, wide);
                        }
                        (micro.run)(&tile, rows, count.div_ceil(form.channels));
                    }
                }
                row += rows;
            }
            return;
        }
        for (channel, count) in groups() {
            let panels = count.div_ceil(form.channels);
            let mut row = 0;
            while row < pixels.len() {
                let (rows, tiles) = (micro.fit)(pixels.len() - row, panels);
                let tile = Tile {
                    tiles,
                    ..tile(row, channel, count)
                };
                // SAFETY: passed on from the caller; the tables have one entry a pixel for each tap, and these
                // tiles take `tiles · rows` of them from `row` on.
                unsafe { (micro.run)(&tile, rows, panels) };
                row += tiles * rows;
            }
        }
    }
}
