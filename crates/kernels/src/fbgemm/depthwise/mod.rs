//! Depthwise convolution: one kernel a channel, no sum over channels.
//!
//! `acc[c] = Σ_(row, column) x[y·s + row·d - pad][x·s + column·d - pad][c] · w[c][row][column]`. The bytes of
//! four kernel rows of one column are interleaved, so that one dot instruction does four taps (FBGEMM's idea,
//! turned by ninety degrees: FBGEMM interleaves along the kernel, this along its columns, so that
//! neighbouring outputs share the interleaved columns). A 3x3 kernel takes three dot instructions for 16
//! channels.
//!
//! The driver cuts the range into runs along output rows; a run is the unit of the kernels.

use std::ops::Range;

use crate::conv::pixels::{Run, runs, tap_position};
use crate::conv::shape::{CheckedShape, ConvShape, product};
use crate::conv::tile::OUTSIDE;
use crate::conv::{Activations, OutputSlice, OutputStage};
use crate::{Isa, KernelError};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod lines;
#[cfg(target_arch = "x86_64")]
mod narrow;
mod scalar;

/// Kernel rows that the vector kernels take; taller kernels are left to the portable kernel.
#[cfg(target_arch = "x86_64")]
const MAX_ROWS: usize = 32;

/// Pixels of one output row, the unit of the kernels.
///
/// Invariants that the driver keeps and vector kernels rely on:
/// - `rows` has a multiple of four entries, at least `kernel_h`; each is [`OUTSIDE`] or the offset of the
///   first pixel of an input row, so that `in_w · channels` bytes follow it in `input`;
/// - `zero` has at least `channels` bytes;
/// - `packed` is what [`super::pack()`] gives for the shape;
/// - `stage` passed [`OutputStage::check`] for all channels and for rows up to `row + pixels`;
/// - `bytes`, or `floats` where the stage gives floats, has `pixels · channels` elements.
struct Segment<'a> {
    shape: &'a ConvShape,
    channels: usize,
    input: &'a [u8],
    signed: bool,
    zero: &'a [u8],
    rows: &'a [u32],
    /// Column of the input under the first column of the kernel at the first pixel; may be in the padding.
    x: isize,
    pixels: usize,
    packed: &'a [u8],
    stage: &'a OutputStage<'a>,
    /// Bias and multiplier of a quantized stage in the order of the packed weights (64 channels a block: the
    /// first four of each panel, the next four, …), zero beyond the channels; a multiple of 64 elements.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "the portable kernel takes them from the stage")
    )]
    bias: &'a [i32],
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "the portable kernel takes them from the stage")
    )]
    multiplier: &'a [f32],
    /// Index of the first pixel, as the stage counts rows.
    row: usize,
    bytes: &'a mut [u8],
    floats: &'a mut [f32],
}

/// The scratch bytes of a depthwise convolution.
pub(super) fn scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    let (zero, rows) = parts(shape);
    product("the scratch buffer", &[zero + rows + 2 * 4 * zero + 64])
}

/// Bytes of the zero row and of the table of rows.
fn parts(shape: &ConvShape) -> (usize, usize) {
    let rows = shape.kernel_h.next_multiple_of(4) * 4;
    (shape.in_c.next_multiple_of(64), rows)
}

/// Computes a range of pixels; all arguments were checked by the caller.
#[expect(
    clippy::too_many_arguments,
    reason = "the arguments of the public function"
)]
pub(super) fn run(
    isa: Isa,
    (shape, checked): (&ConvShape, &CheckedShape),
    (input, zero_byte): (Activations<'_>, u8),
    packed: &[u8],
    stage: &OutputStage<'_>,
    pixels: Range<usize>,
    mut output: OutputSlice<'_>,
    scratch: &mut [u8],
) {
    let channels = shape.out_c;
    let (zero_len, rows_len) = parts(shape);
    let (zero, rest) = scratch.split_at_mut(zero_len);
    zero.fill(zero_byte);
    // SAFETY: every bit pattern is a u32, an i32 and an f32.
    let (_, words, _) = unsafe { rest.align_to_mut::<u32>() };
    let (rows, words) = words.split_at_mut(rows_len / 4);
    let (bias, words) = words.split_at_mut(zero_len);
    // SAFETY: as above.
    let (_, bias, _) = unsafe { bias.align_to_mut::<i32>() };
    // SAFETY: as above.
    let (_, multiplier, _) = unsafe { words[..zero_len].align_to_mut::<f32>() };
    if let OutputStage::Quantized(stage) = stage {
        for i in 0..zero_len {
            let (block, quarter, panel, lane) = (i / 64, i / 16 % 4, i / 4 % 4, i % 4);
            let channel = block * 64 + panel * 16 + quarter * 4 + lane;
            bias[i] = stage.bias.get(channel).copied().unwrap_or(0);
            multiplier[i] = stage.multiplier.get(channel).copied().unwrap_or(0.0);
        }
    }
    for run in runs(checked, pixels.clone()) {
        row_offsets(shape, &run, rows);
        let part = run.first * channels..(run.first + run.len) * channels;
        let (bytes, floats) = match &mut output {
            OutputSlice::Bytes(data) => (&mut data[part], Default::default()),
            OutputSlice::Floats(data) => (Default::default(), &mut data[part]),
        };
        let segment = Segment {
            shape,
            channels,
            input: input.data,
            signed: input.signed,
            zero,
            rows,
            x: (run.x * shape.stride_w) as isize - shape.pad_left as isize,
            pixels: run.len,
            packed,
            stage,
            bias,
            multiplier,
            row: pixels.start + run.first,
            bytes,
            floats,
        };
        match isa {
            // SAFETY: the caller found `isa` supported. Rows and columns of the table lie inside of the
            // image, and all lengths were checked against the shape.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { avx512vnni::segment(segment) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::segment(segment) },
            _ => scalar::segment(segment),
        }
    }
}

/// Fills the table of the input rows under one output row.
fn row_offsets(shape: &ConvShape, run: &Run, rows: &mut [u32]) {
    rows.fill(OUTSIDE);
    for (tap, offset) in rows.iter_mut().enumerate().take(shape.kernel_h) {
        let (stride, dilation) = (shape.stride_h, shape.dilation_h);
        let y = tap_position(run.y, stride, tap, dilation, shape.pad_top, shape.in_h);
        if let Some(y) = y {
            *offset = ((run.image * shape.in_h + y) * shape.in_w * shape.in_c) as u32;
        }
    }
}
