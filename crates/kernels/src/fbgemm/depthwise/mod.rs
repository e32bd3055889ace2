//! Depthwise convolution: one kernel a channel, no sum over channels.
//!
//! `acc[c] = Σ_(row, column) x[y·s + row·d - pad][x·s + column·d - pad][c] · w[c][row][column]`. The bytes of
//! four kernel rows of one column are interleaved, so that one dot instruction does four taps (FBGEMM's idea,
//! turned by ninety degrees: FBGEMM interleaves along the kernel, this along its columns, so that
//! neighbouring outputs share the interleaved columns). A 3x3 kernel takes three dot instructions for 16
//! channels.
//!
//! The range is cut into runs along output rows, of which the kernel for AVX-512 takes several at a time, and the others one.

use crate::conv::offsets::OUTSIDE;
use crate::conv::pixels::{Run, runs, tap_position};
use crate::conv::shape::{CheckedShape, ConvShape};
use crate::conv::{ConvCall, OutputSlice, OutputStage, RowStride};
use crate::{Isa, KernelError};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod lines;
mod scalar;

/// Kernel rows that the vector kernels take; taller kernels are left to the portable kernel.
#[cfg(target_arch = "x86_64")]
const MAX_ROWS: usize = 32;

/// What all pixels of a convolution have in common.
///
/// Invariants that the driver keeps and vector kernels rely on:
/// - the input has the length that `sizes` says;
/// - `zero` has at least `channels` bytes, a multiple of 64, all of them the zero point;
/// - `packed` is what [`super::pack()`] gives for the shape;
/// - `stage` passed [`OutputStage::check`] for all channels and all pixels that are computed.
struct Layer<'a> {
    shape: &'a ConvShape,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for AVX-512"))]
    sizes: &'a CheckedShape,
    channels: usize,
    input: &'a [u8],
    signed: bool,
    zero: &'a [u8],
    packed: &'a [u8],
    stage: &'a OutputStage<'a>,
    /// How the pixels of the output follow each other.
    output: RowStride,
}

/// Pixels of one output row, the unit of the kernels for AVX2 and of the portable one.
///
/// Further invariants to those of [`Layer`]:
/// - `rows` has a multiple of four entries, at least `kernel_h`; each is [`OUTSIDE`] or the offset of the
///   first pixel of an input row, so that `in_w · channels` bytes follow it in `input`;
/// - `bytes`, or `floats` where the stage gives floats, has `pixels · output.pitch` elements.
struct Segment<'a> {
    layer: &'a Layer<'a>,
    rows: &'a [u32],
    /// Column of the input under the first column of the kernel at the first pixel; may be in the padding.
    x: isize,
    pixels: usize,
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

/// The channels of a block or of a pass: `count` from `first` on.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Channels {
    first: usize,
    count: usize,
}

/// The scratch bytes of a depthwise convolution.
pub(crate) fn scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    let what = "the scratch buffer";
    let (zero, words) = parts(shape);
    #[cfg(target_arch = "x86_64")]
    let vector = avx512vnni::scratch_len(shape);
    #[cfg(not(target_arch = "x86_64"))]
    let vector = Some(0_usize);
    let sum = vector.and_then(|vector| vector.checked_add(zero)?.checked_add(words));
    sum.ok_or(KernelError::TooLarge { what })
}

/// Bytes of the zero row, and of the table of rows and the ordered constants, with room for aligning them. Shapes were checked: a channel takes
/// more than these in the input or the weights.
fn parts(shape: &ConvShape) -> (usize, usize) {
    let channels = shape.in_c.next_multiple_of(64);
    let rows = shape.kernel_h.next_multiple_of(4);
    (channels, 4 * (rows + 2 * channels + 1))
}

/// Computes a call.
///
/// # Safety
/// The processor has the instruction set, and the call was checked against `sizes`.
pub(crate) unsafe fn run(isa: Isa, sizes: &CheckedShape, call: ConvCall<'_>) {
    let (shape, channels, pixels, stage) = (&sizes.shape, sizes.shape.out_c, call.rows, call.stage);
    let mut output = call.output;
    let (zero_len, words_len) = parts(shape);
    let (zero, rest) = call.scratch.split_at_mut(zero_len);
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "for AVX-512")
    )]
    let (words, vector) = rest.split_at_mut(words_len);
    zero.fill(call.input.zero_byte());
    // SAFETY: every bit pattern is a u32, an i32 and an f32.
    let (_, words, _) = unsafe { words.align_to_mut::<u32>() };
    let (rows, words) = words.split_at_mut(shape.kernel_h.next_multiple_of(4));
    let (bias, multiplier) = words[..2 * zero_len].split_at_mut(zero_len);
    // SAFETY: as above.
    let (_, bias, _) = unsafe { bias.align_to_mut::<i32>() };
    // SAFETY: as above.
    let (_, multiplier, _) = unsafe { multiplier.align_to_mut::<f32>() };
    let layer = Layer {
        shape,
        sizes,
        channels,
        input: call.input.data,
        signed: call.input.signed,
        zero,
        packed: call.weights,
        stage,
        output: output.row_stride(channels),
    };
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Vnni {
        // SAFETY: passed on from the caller.
        if unsafe { avx512vnni::run(&layer, pixels.clone(), &mut output, vector) } {
            return;
        }
    }
    if let OutputStage::Quantized(stage) = stage {
        for i in 0..zero_len {
            let (block, quarter, panel, lane) = (i / 64, i / 16 % 4, i / 4 % 4, i % 4);
            let channel = block * 64 + panel * 16 + quarter * 4 + lane;
            bias[i] = stage.bias.get(channel).copied().unwrap_or(0);
            multiplier[i] = stage.multiplier.get(channel).copied().unwrap_or(0.0);
        }
    }
    for run in runs(sizes, pixels.clone()) {
        row_offsets(shape, &run, rows);
        let pitch = layer.output.pitch;
        let part = run.first * pitch..(run.first + run.len) * pitch;
        let (bytes, floats) = match &mut output {
            OutputSlice::Bytes(data) | OutputSlice::Strided(data, _) => {
                (&mut data[part], Default::default())
            }
            OutputSlice::Floats(data) => (Default::default(), &mut data[part]),
        };
        let segment = Segment {
            layer: &layer,
            rows,
            x: (run.x * shape.stride_w) as isize - shape.pad_left as isize,
            pixels: run.len,
            bias,
            multiplier,
            row: pixels.start + run.first,
            bytes,
            floats,
        };
        match isa {
            // SAFETY: the caller found `isa` supported. Rows and columns of the table are inside of the
            // image, and all lengths were checked against the shape.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::segment(segment) },
            _ => scalar::segment(segment),
        }
    }
}

/// Fills the table of the input rows under one output row. Entries behind the kernel, up to a multiple of four, are those of the rows that follow
/// if these serve other output rows, and otherwise that of its last row again: the weights there are zero, so that any value serves.
fn row_offsets(shape: &ConvShape, run: &Run, rows: &mut [u32]) {
    let (stride, dilation) = (shape.stride_h, shape.dilation_h);
    let follow = (stride, dilation) == (1, 1);
    for (tap, offset) in rows.iter_mut().enumerate() {
        let tap = if follow {
            tap
        } else {
            tap.min(shape.kernel_h - 1)
        };
        let y = tap_position(run.y, stride, tap, dilation, shape.pad_top, shape.in_h);
        *offset = y.map_or(OUTSIDE, |y| {
            ((run.image * shape.in_h + y) * shape.in_w * shape.in_c) as u32
        });
    }
}
