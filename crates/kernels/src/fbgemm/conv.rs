//! The drivers: from checked arguments to tiles.
//!
//! A range of output pixels is cut into chunks; for each chunk a table of offsets says where every tap of
//! every pixel starts (a tap may be a row of the kernel, or all of a patch that is gathered into scratch, where the channels do not allow
//! reading each where it lies), and then the loops are: panels of up to 64 channels outside, tiles of a few pixels inside. So the
//! weights of a panel stay in the nearest cache while the pixels of the chunk pass by, the scheme of MLAS.
//! There is no blocking over the depth: sums stay in registers.

use std::ops::Range;

use super::gather::gather_patches;
use super::lines::{extra_len, line_table};
use super::pack::{PANEL, Reading, Source, packed_len};
use super::{depthwise, micro};
use crate::conv::pixels::offset_table;
use crate::conv::shape::{CheckedShape, ConvShape, LinearShape, product};
use crate::conv::tile::{Part, wide_len};
use crate::conv::{Activations, OutputSlice, OutputStage};
use crate::error::{check_len, check_scratch};
use crate::shared::check_range;
use crate::{Isa, KernelError};

/// A multiple of the tile heights for 16, 32 and 64 channels at a time (14, 14 and 6): ranges of pixels or rows that are multiples of it have no
/// short tiles then.
///
/// Any other range works too, and gives the same bytes.
pub const PIXEL_GRAIN: usize = 42;

/// Most pixels of a chunk: a multiple of [`PIXEL_GRAIN`], so that only the last tile of a range is short.
const CHUNK: usize = 24 * PIXEL_GRAIN;

/// The number of scratch bytes that [`conv`] needs, whatever the range.
///
/// # Errors
/// When the sizes describe no convolution, or one too large to address.
pub fn conv_scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    let checked = shape.check()?;
    if checked.depthwise {
        return depthwise::scratch_len(shape);
    }
    Ok(Scratch::new(shape, &checked)?.len)
}

/// Computes output pixels by output channels of a convolution, grouped, depthwise or neither.
///
/// - `input`: `[batch, in_h, in_w, in_c]`;
/// - `packed`: from [`super::pack()`] for the same shape;
/// - `stage`: its constants have one entry for each of `out_c` channels;
/// - `pixels`: a part of `0..batch·out_h·out_w`; calls for disjoint parts may run at the same time;
/// - `channels`: starts at a multiple of 16 and ends at one, or at `out_c`; all channels of a grouped convolution;
/// - `output`: the values, `[pixels.len(), channels.len()]`. With all channels, or one pixel, this is a contiguous part of the whole output, unless its rows
///   are apart;
/// - `scratch`: at least [`conv_scratch_len`] bytes with any content, not shared with a concurrent call.
///
/// # Errors
/// When a length does not fit the sizes, when the sizes describe no convolution, when a constant is outside
/// of its range, or when the processor does not have `isa`. Nothing was written then.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a thing of its own; a struct would only rename them"
)]
pub fn conv(
    isa: Isa,
    shape: &ConvShape,
    input: Activations<'_>,
    packed: &[u8],
    stage: &OutputStage<'_>,
    pixels: Range<usize>,
    channels: Range<usize>,
    output: OutputSlice<'_>,
    scratch: &mut [u8],
) -> Result<(), KernelError> {
    run(
        isa,
        shape,
        input,
        packed,
        stage,
        (pixels, channels),
        output,
        scratch,
    )
}

/// The number of scratch bytes that [`linear`] needs, whatever the ranges; it never shrinks with more rows.
///
/// # Errors
/// When a size is zero or too large to address.
pub fn linear_scratch_len(shape: &LinearShape) -> Result<usize, KernelError> {
    conv_scratch_len(&shape.as_conv())
}

/// Computes a block of a matrix product: rows `rows` by columns `columns` of `[rows, k] · [n, k]ᵀ`.
///
/// - `input`: all rows, `[rows, k]`;
/// - `packed`: from [`super::pack()`] for [`LinearShape::as_conv`], whose weights `[n, k]` are one row an
///   output column;
/// - `stage`: its constants have one entry for each of `n` columns;
/// - `columns`: starts at a multiple of 16 and ends at one, or at `n`;
/// - `output`: the values of the block, `[rows.len(), columns.len()]`. With all columns, or one row, this is
///   a contiguous part of the whole output.
///
/// Otherwise as [`conv`].
///
/// # Errors
/// As [`conv`].
#[expect(
    clippy::too_many_arguments,
    reason = "each is a thing of its own; a struct would only rename them"
)]
pub fn linear(
    isa: Isa,
    shape: &LinearShape,
    input: Activations<'_>,
    packed: &[u8],
    stage: &OutputStage<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    output: OutputSlice<'_>,
    scratch: &mut [u8],
) -> Result<(), KernelError> {
    let shape = shape.as_conv();
    run(
        isa,
        &shape,
        input,
        packed,
        stage,
        (rows, columns),
        output,
        scratch,
    )
}

/// How the scratch buffer is divided: extra rows, table of offsets, gathered patches.
struct Scratch {
    /// Pixels of a chunk.
    chunk: usize,
    /// Bytes of the zero row.
    zero: usize,
    /// Bytes of all extra rows.
    extras: usize,
    table: usize,
    patches: usize,
    /// Bytes of the widened rows of a tile.
    wide: usize,
    len: usize,
}

impl Scratch {
    fn new(shape: &ConvShape, checked: &CheckedShape) -> Result<Self, KernelError> {
        let what = "the scratch buffer";
        let reading = Reading::new(shape, checked);
        let depth = checked.k.next_multiple_of(4);
        // Patches and tables stay in the first-level cache with the weights of a panel.
        let (limit, per_pixel) = match reading.source {
            Source::Patches => (24 << 10, depth),
            Source::Taps | Source::Lines => (8 << 10, 4 * reading.taps),
        };
        let fitting = limit / per_pixel / PIXEL_GRAIN * PIXEL_GRAIN;
        // All weights are read once a chunk: that of a large kernel has a larger table instead.
        let least = match reading.source {
            Source::Patches => PIXEL_GRAIN,
            Source::Taps | Source::Lines => 6 * PIXEL_GRAIN,
        };
        let chunk = fitting.clamp(least, CHUNK).min(checked.pixels);
        let zero = checked.group_in.max(4 * reading.quads).next_multiple_of(64);
        let copies = match reading.source {
            Source::Lines => product(what, &[chunk, reading.taps, extra_len(reading.quads)])?,
            Source::Taps | Source::Patches => 0,
        };
        let extras = zero + copies;
        // One entry more, since the start of the buffer need not be aligned.
        let table = product(what, &[reading.taps * chunk + 1, 4])?.next_multiple_of(64);
        let patches = match reading.source {
            Source::Patches => product(what, &[chunk, depth])? + 64,
            Source::Taps | Source::Lines => 0,
        };
        let wide = wide_len(chunk, reading.taps, reading.quads);
        Ok(Self {
            chunk,
            zero,
            extras,
            table,
            patches,
            wide,
            len: extras + table + patches + wide,
        })
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the arguments of the public functions"
)]
fn run(
    isa: Isa,
    shape: &ConvShape,
    input: Activations<'_>,
    packed: &[u8],
    stage: &OutputStage<'_>,
    (pixels, channels): (Range<usize>, Range<usize>),
    output: OutputSlice<'_>,
    scratch: &mut [u8],
) -> Result<(), KernelError> {
    let checked = shape.check()?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    check_range("pixels", &pixels, checked.pixels)?;
    check_range("channels", &channels, shape.out_c)?;
    let whole_panels = channels.start.is_multiple_of(PANEL)
        && (channels.end.is_multiple_of(PANEL) || channels.end == shape.out_c);
    let all = channels == (0..shape.out_c);
    if !whole_panels || (shape.groups > 1 && !all) {
        let (what, len) = ("channels", shape.out_c);
        return Err(KernelError::Range {
            what,
            range: channels,
            len,
        });
    }
    check_len("the input", checked.input_len, input.data.len())?;
    check_len("the packed weights", packed_len(shape)?, packed.len())?;
    let block = (pixels.len(), channels.len());
    stage.check(checked.pixels, shape.out_c, &output, block)?;
    check_scratch(conv_scratch_len(shape)?, scratch.len())?;
    let zero_byte = input.zero_byte()?;
    if checked.depthwise {
        let (sizes, input) = ((shape, &checked), (input, zero_byte));
        depthwise::run(isa, sizes, input, packed, stage, pixels, output, scratch);
        return Ok(());
    }

    let layout = Scratch::new(shape, &checked)?;
    let (extras, rest) = scratch.split_at_mut(layout.extras);
    let (table, rest) = rest.split_at_mut(layout.table);
    let (patches, rest) = rest.split_at_mut(layout.patches);
    let wide = &mut rest[..layout.wide];
    extras[..layout.zero].fill(zero_byte);
    // SAFETY: every bit pattern is a u32.
    let (_, table, _) = unsafe { table.align_to_mut::<u32>() };
    let element = stage.element();
    let (output, output_stride) = output.start(channels.len());
    let reading = Reading::new(shape, &checked);
    let group_len = reading.group_len(&checked)?;
    let micro = micro(isa);
    let mut start = pixels.start;
    while start < pixels.end {
        let chunk = start..pixels.end.min(start + layout.chunk);
        // SAFETY: `output` has one row of `output_stride` elements for each pixel, and the chunk starts at
        // this one.
        let output = unsafe { output.add((start - pixels.start) * output_stride * element) };
        match reading.source {
            Source::Taps => offset_table(shape, &checked, chunk.clone(), table),
            Source::Lines => line_table(
                shape,
                &checked,
                reading.quads,
                input.data,
                zero_byte,
                chunk.clone(),
                (&mut *extras, layout.zero),
                table,
            ),
            Source::Patches => {}
        }
        for group in 0..shape.groups {
            let part_input = if reading.source == Source::Patches {
                gather_patches(
                    shape,
                    &checked,
                    input.data,
                    zero_byte,
                    group,
                    chunk.clone(),
                    patches,
                    table,
                );
                &*patches
            } else {
                &input.data[group * checked.group_in..]
            };
            let group_channels = group * checked.group_out..(group + 1) * checked.group_out;
            let part = Part {
                input: part_input,
                extras,
                offsets: table,
                offset_stride: chunk.len(),
                taps: reading.taps,
                quads: reading.quads,
                weights: &packed[group * group_len..(group + 1) * group_len],
                signed: input.signed,
                stage,
                all_channels: shape.out_c,
                origin: channels.start,
                output,
                output_stride,
                element,
            };
            let wanted =
                group_channels.start.max(channels.start)..group_channels.end.min(channels.end);
            // SAFETY: the lengths were checked above. Offsets come from `offset_table`, whose pixels lie in
            // the image, so that `in_c` bytes follow each and `group_in` bytes follow it in the part of the
            // group; from `line_table`, which leaves whole groups of four inside of the input or copies them; or from `gather_patches`, with
            // whole padded patches. `output` has the rows of the chunk.
            unsafe { part.run(micro, chunk.clone(), group_channels.start, wanted, wide) };
        }
        start = chunk.end;
    }
    Ok(())
}
