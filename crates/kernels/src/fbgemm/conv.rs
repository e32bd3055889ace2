//! The driver: from checked arguments to tiles.
//!
//! A range of output pixels is cut into chunks. For each chunk a table of offsets says where every tap of
//! every pixel starts. A tap is a position of the kernel, a row of the kernel, or all of a patch that is gathered into scratch memory; see
//! [`Source`]. Then the loops are: panels of up to 64 channels outside, tiles of a few pixels inside. So the
//! weights of a panel stay in the nearest cache while the pixels of the chunk pass by, the scheme of MLAS.
//! There is no blocking over the depth: sums stay in registers.

use std::ops::Range;

use super::gather::gather_patches;
use super::lines::{extra_len, line_table};
use super::micro;
use super::pack::{Reading, Source};
use crate::conv::ConvCall;
use crate::conv::pixels::offset_table;
use crate::conv::shape::{CheckedShape, product};
use crate::conv::tile::{Part, wide_len};
use crate::{Isa, KernelError};

/// A multiple of the tile heights for 16, 32 and 64 channels at a time (14, 14 and 6): chunks that are multiples of it have no short tiles.
const PIXEL_GRAIN: usize = 42;

/// Most pixels of a chunk: a multiple of [`PIXEL_GRAIN`], so that only the last tile of a range is short.
const CHUNK: usize = 24 * PIXEL_GRAIN;

/// How a convolution reads its input, and how it divides the scratch buffer: extra rows, table of offsets, gathered patches, widened rows.
#[derive(Debug)]
pub(crate) struct Layout {
    reading: Reading,
    /// Bytes of the packed weights of a group.
    group_len: usize,
    /// Pixels of a chunk.
    chunk: usize,
    /// Bytes of the zero row.
    zero: usize,
    /// Bytes of all extra rows.
    extras: usize,
    /// Bytes of the table.
    table: usize,
    /// Bytes of the gathered patches.
    patches: usize,
    /// Bytes of the widened rows of a tile.
    wide: usize,
}

impl Layout {
    /// # Errors
    /// When the scratch buffer would be too large to address.
    pub(crate) fn new(sizes: &CheckedShape) -> Result<Self, KernelError> {
        let what = "the scratch buffer";
        let reading = Reading::new(sizes);
        let depth = sizes.k.next_multiple_of(4);
        // Patches and tables stay in the first-level cache with the weights of a panel.
        let (limit, per_pixel) = match reading.source {
            Source::Patches => (24 << 10, depth),
            Source::Taps | Source::Lines => (8 << 10, 4 * reading.taps),
        };
        let fitting = limit / per_pixel / PIXEL_GRAIN * PIXEL_GRAIN;
        // All weights are read once a chunk, so that a large kernel has a larger table instead.
        let least = match reading.source {
            Source::Patches => PIXEL_GRAIN,
            Source::Taps | Source::Lines => 6 * PIXEL_GRAIN,
        };
        let chunk = fitting.clamp(least, CHUNK).min(sizes.pixels);
        let zero = sizes.group_in.max(4 * reading.quads).next_multiple_of(64);
        let copies = match reading.source {
            Source::Lines => product(what, &[chunk, reading.taps, extra_len(reading.quads)])?,
            Source::Taps | Source::Patches => 0,
        };
        let patches = match reading.source {
            Source::Patches => product(what, &[chunk, depth])? + 64,
            Source::Taps | Source::Lines => 0,
        };
        Ok(Self {
            reading,
            group_len: reading.group_len(sizes)?,
            chunk,
            zero,
            extras: zero + copies,
            // One entry more, since the start of the buffer need not be aligned.
            table: product(what, &[reading.taps * chunk + 1, 4])?.next_multiple_of(64),
            patches,
            wide: wide_len(chunk, reading.taps, reading.quads),
        })
    }

    /// Bytes of scratch memory of a call.
    pub(crate) fn scratch_len(&self) -> usize {
        self.extras + self.table + self.patches + self.wide
    }
}

/// Some output pixels, with what their taps read.
pub(super) struct Chunk<'a> {
    pub(super) sizes: &'a CheckedShape,
    pub(super) input: &'a [u8],
    /// What taps outside of the image read.
    pub(super) zero: u8,
    pub(super) pixels: Range<usize>,
}

/// Computes a call of a convolution that is not depthwise.
///
/// # Safety
/// The processor has the instruction set, and the call was checked against `sizes`, from which `layout` was made.
pub(crate) unsafe fn run(isa: Isa, sizes: &CheckedShape, layout: &Layout, call: ConvCall<'_>) {
    let (pixels, channels, input) = (call.rows, call.columns, call.input);
    let (extras, rest) = call.scratch.split_at_mut(layout.extras);
    let (table, rest) = rest.split_at_mut(layout.table);
    let (patches, rest) = rest.split_at_mut(layout.patches);
    let wide = &mut rest[..layout.wide];
    extras[..layout.zero].fill(input.zero_byte());
    // SAFETY: every bit pattern is a u32.
    let (_, table, _) = unsafe { table.align_to_mut::<u32>() };
    let output = call.output.rows(channels.len());
    let (reading, micro) = (&layout.reading, micro(isa));
    for start in pixels.clone().step_by(layout.chunk) {
        let chunk = Chunk {
            sizes,
            input: input.data,
            zero: input.zero_byte(),
            pixels: start..pixels.end.min(start + layout.chunk),
        };
        // SAFETY: `output` has a row for each pixel, and the chunk starts at this one.
        let output = unsafe { output.skip(start - pixels.start) };
        match reading.source {
            Source::Taps => offset_table(sizes, chunk.pixels.clone(), table),
            Source::Lines => line_table(&chunk, reading.quads, extras, layout.zero, table),
            Source::Patches => {}
        }
        for group in 0..sizes.shape.groups {
            let part_input = if reading.source == Source::Patches {
                gather_patches(&chunk, group, patches, table);
                &*patches
            } else {
                &input.data[group * sizes.group_in..]
            };
            let group_channels = group * sizes.group_out..(group + 1) * sizes.group_out;
            let part = Part {
                input: part_input,
                extras,
                offsets: table,
                offset_stride: chunk.pixels.len(),
                taps: reading.taps,
                quads: reading.quads,
                weights: &call.weights[group * layout.group_len..][..layout.group_len],
                signed: input.signed,
                stage: call.stage,
                all_channels: sizes.shape.out_c,
                origin: channels.start,
                output,
            };
            let wanted =
                group_channels.start.max(channels.start)..group_channels.end.min(channels.end);
            let pixels = chunk.pixels.clone();
            // SAFETY: the lengths were checked. Offsets come from `offset_table`, whose pixels are in
            // the image, so that `in_c` bytes follow each and `group_in` bytes follow it in the part of the
            // group; from `line_table`, which leaves whole groups of four inside of the input or copies them; or from `gather_patches`, with
            // whole padded patches. `output` has the rows of the chunk.
            unsafe { part.run(micro, pixels, group_channels.start, wanted, wide) };
        }
    }
}
