//! Depthwise convolution where images are channels-first on both sides: bytes or floats in, floats out.
//!
//! A layer that is quantized between float neighbours would have its image moved to channels-last and back, which takes longer than the few
//! products of a depthwise kernel. Here the sums run along the rows of a plane, which is quantized on the way if it is one of floats. The
//! sums and floats are those of the channels-last kernels, bit for bit; both engines share this kernel, which has its own form of packed weights.

use std::ops::Range;

use super::output::{Activations, Float};
use super::shape::{CheckedShape, ConvShape, product};
use crate::error::{check_len, check_scratch};
use crate::shared::{Quant8, check_range};
use crate::{Bounds, Isa, KernelError};

#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod padded;

/// The images of a layer, `[batch, channels, in_h, in_w]`.
#[derive(Clone, Copy, Debug)]
pub enum Planes<'a> {
    /// Bytes.
    Bytes(Activations<'a>),
    /// Floats, and the bytes that each plane is quantized to before it is read, as [`crate::shared::quantize::quantize`] gives them.
    Floats(&'a [f32], Quant8),
}

impl Planes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(input) => input.data.len(),
            Self::Floats(input, _) => input.len(),
        }
    }

    /// One of the planes of `len` elements.
    fn plane(&self, plane: usize, len: usize) -> Self {
        let range = plane * len..(plane + 1) * len;
        match *self {
            Self::Bytes(input) => Self::Bytes(Activations {
                data: &input.data[range],
                ..input
            }),
            Self::Floats(input, to) => Self::Floats(&input[range], to),
        }
    }

    /// The byte that stands for zero, and whether bytes are signed; the parameters are checked.
    fn quantization(&self) -> Result<(u8, bool), KernelError> {
        let (signed, zero_point) = match self {
            Self::Bytes(input) => (input.signed, input.zero_point),
            Self::Floats(_, to) => {
                to.check()?;
                (to.signed, to.params.zero_point)
            }
        };
        let empty = Activations {
            data: &[],
            signed,
            zero_point,
        };
        empty.check()?;
        Ok((empty.zero_byte(), signed))
    }
}

/// The bytes of the packed weights: `[channel][four kernel rows][kernel column][4]`, the lowest of four rows first, with rows of zeros above the first of
/// the kernel that fill up the fours.
///
/// # Errors
/// When the sizes describe no depthwise convolution, or one too large to address.
pub fn packed_len(shape: &ConvShape) -> Result<usize, KernelError> {
    check(shape)?;
    let rows = shape.kernel_h.next_multiple_of(4);
    product("the packed weights", &[shape.out_c, rows, shape.kernel_w])
}

/// Packs weights `[channels, 1, kernel_h, kernel_w]`.
///
/// # Errors
/// As [`packed_len`], and when the number of weights is another.
pub fn pack(shape: &ConvShape, weights: &[i8]) -> Result<Vec<u8>, KernelError> {
    let mut packed = vec![0; packed_len(shape)?];
    let taps = shape.kernel_h * shape.kernel_w;
    check_len("the weights", shape.out_c * taps, weights.len())?;
    let kernels = packed.chunks_exact_mut(shape.kernel_h.next_multiple_of(4) * shape.kernel_w);
    for (packed, kernel) in kernels.zip(weights.chunks_exact(taps)) {
        for (tap, &weight) in kernel.iter().enumerate() {
            let (row, column) = (tap / shape.kernel_w, tap % shape.kernel_w);
            packed[position(shape, row, column)] = weight as u8;
        }
    }
    Ok(packed)
}

/// Where the weight of a tap is among those of its channel.
fn position(shape: &ConvShape, row: usize, column: usize) -> usize {
    let row = row + shape.kernel_h.next_multiple_of(4) - shape.kernel_h;
    (row / 4 * shape.kernel_w + column) * 4 + 3 - row % 4
}

/// The number of scratch bytes that [`conv_planes`] needs, whatever the range.
///
/// # Errors
/// As [`packed_len`].
pub fn scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    scratch(&check(shape)?)
}

fn scratch(sizes: &CheckedShape) -> Result<usize, KernelError> {
    let padded = padded::Padded::new(sizes)?.len;
    #[cfg(target_arch = "x86_64")]
    if avx512vnni::takes(&sizes.shape) {
        return Ok(padded.max(avx512vnni::Lines::new(sizes)?.len));
    }
    Ok(padded)
}

/// The arguments of a call that computes some output planes.
#[derive(Debug)]
pub struct PlanesCall<'a> {
    /// All planes.
    pub input: Planes<'a>,
    /// The packed weights, from [`pack`] for the same shape.
    pub weights: &'a [u8],
    /// What happens to the sums; its constants have one entry for each channel.
    pub stage: Float<'a>,
    /// A part of the planes `0..batch·channels`. Calls for disjoint parts may run at the same time.
    pub planes: Range<usize>,
    /// The values of these planes, `[planes.len(), out_h, out_w]`.
    pub output: &'a mut [f32],
    /// At least [`scratch_len`] bytes with any content, not shared with a concurrent call.
    pub scratch: &'a mut [u8],
}

/// Computes output planes. `shape` names the sizes as those of channels-last images.
///
/// # Errors
/// When a length does not fit the sizes, when the sizes describe no depthwise convolution, when a parameter of the quantization is refused, or when
/// the processor does not have `isa`. Nothing was written then.
pub fn conv_planes(isa: Isa, shape: &ConvShape, call: PlanesCall<'_>) -> Result<(), KernelError> {
    let sizes = check(shape)?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let (channels, input, stage) = (shape.out_c, call.input, call.stage);
    check_range("planes", &call.planes, shape.batch * channels)?;
    check_len("the input", sizes.input_len, input.len())?;
    check_len("the packed weights", packed_len(shape)?, call.weights.len())?;
    for len in [stage.correction.len(), stage.scale.len(), stage.bias.len()] {
        check_len("the constants of the output stage", channels, len)?;
    }
    let size = sizes.out_h * sizes.out_w;
    check_len("the output", call.planes.len() * size, call.output.len())?;
    check_scratch(scratch(&sizes)?, call.scratch.len())?;
    let (zero_byte, signed) = input.quantization()?;
    let flip = if signed { 0x80 } else { 0 };
    let outputs = call.planes.zip(call.output.chunks_exact_mut(size));
    let kernel = call.weights.len() / channels;
    let layers = outputs.map(|(plane, output)| {
        let channel = plane % channels;
        let plane = Plane {
            shape,
            out_w: sizes.out_w,
            input: input.plane(plane, shape.in_h * shape.in_w),
            flip,
            zero: zero_byte ^ flip,
            weights: &call.weights[channel * kernel..][..kernel],
            correction: stage.correction[channel],
            scale: stage.scale[channel],
            bias: stage.bias[channel],
            clamp: stage.clamp,
        };
        (plane, output)
    });
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Vnni && avx512vnni::takes(shape) {
        let lines = avx512vnni::Lines::new(&sizes)?;
        for (plane, output) in layers {
            // SAFETY: the processor has the instruction set, the plane was made as its invariants ask, and the scratch buffer is large enough.
            unsafe { avx512vnni::plane(&plane, &lines, output, call.scratch) };
        }
        return Ok(());
    }
    let padded = padded::Padded::new(&sizes)?;
    for (plane, output) in layers {
        padded.plane(isa, &plane, output, call.scratch)?;
    }
    Ok(())
}

fn check(shape: &ConvShape) -> Result<CheckedShape, KernelError> {
    let sizes = shape.check()?;
    if sizes.depthwise {
        Ok(sizes)
    } else {
        Err(KernelError::Shape("the convolution is not depthwise"))
    }
}

/// One plane.
///
/// Invariants that vector kernels rely on: `input` has `in_h · in_w` elements, with parameters that were checked; `weights`
/// are those of the channel as [`pack`] gives them; and the output has `out_h · out_w` elements, which follow from the shape.
struct Plane<'a> {
    shape: &'a ConvShape,
    out_w: usize,
    input: Planes<'a>,
    /// What makes unsigned bytes of signed ones, which are larger by 128: 0 where they are unsigned.
    flip: u8,
    /// The unsigned byte that stands for zero.
    zero: u8,
    weights: &'a [u8],
    correction: i32,
    scale: f32,
    bias: f32,
    clamp: Option<Bounds>,
}

#[cfg(test)]
mod tests;
