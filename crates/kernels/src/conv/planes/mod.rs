//! Depthwise convolution where images lie channels-first on both sides: bytes in, floats out.
//!
//! A layer that is quantized between float neighbours would have its image moved to channels-last and back, which takes longer than the few
//! products of a depthwise kernel. Here a plane is copied to scratch memory with its padding around it, and the sums run along its rows. The
//! sums and floats are those of the channels-last kernels, bit for bit; both engines share this kernel, which has packed weights of its own.

use std::ops::Range;

use super::output::{Activations, Float, float_value};
use super::shape::{CheckedShape, ConvShape, product};
use crate::error::{check_len, check_scratch};
use crate::shared::check_range;
use crate::shared::dispatch::isa_versions;
use crate::table::{Family, Kernel};
use crate::{Isa, KernelError};

#[cfg(target_arch = "x86_64")]
mod avx512vnni;

/// The kernels of this module, for the table of all kernels.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel {
        family: Family::QConvDepthwisePlanes,
        isa: Isa::Scalar,
        name: "qconv_depthwise_planes_u8s8__scalar",
        tile: (1, 1),
    },
    Kernel {
        family: Family::QConvDepthwisePlanes,
        isa: Isa::Avx2,
        name: "qconv_depthwise_planes_u8s8__avx2",
        tile: (1, 1),
    },
    Kernel {
        family: Family::QConvDepthwisePlanes,
        isa: Isa::Avx512Vnni,
        name: "qconv_depthwise_planes_u8s8_64x1__avx512vnni",
        tile: (64, 1),
    },
    Kernel {
        family: Family::QConvDepthwisePlanes,
        isa: Isa::Neon,
        name: "qconv_depthwise_planes_u8s8__neon",
        tile: (1, 1),
    },
];

/// Bytes behind the last padded row that a vector may read.
const SLACK: usize = 64;

/// The bytes of the packed weights: `[channel][kernel row][kernel column]`, each row padded with zeros to groups of four.
///
/// # Errors
/// When the sizes describe no depthwise convolution, or one too large to address.
pub fn packed_len(shape: &ConvShape) -> Result<usize, KernelError> {
    check(shape)?;
    let row = shape.kernel_w.next_multiple_of(4);
    product("the packed weights", &[shape.out_c, shape.kernel_h, row])
}

/// Packs weights `[channels, 1, kernel_h, kernel_w]`.
///
/// # Errors
/// As [`packed_len`], and when the number of weights is another.
pub fn pack(shape: &ConvShape, weights: &[i8]) -> Result<Vec<u8>, KernelError> {
    let mut packed = vec![0; packed_len(shape)?];
    let taps = shape.kernel_h * shape.kernel_w;
    check_len("the weights", shape.out_c * taps, weights.len())?;
    let rows = packed.chunks_exact_mut(shape.kernel_w.next_multiple_of(4));
    for (packed, row) in rows.zip(weights.chunks_exact(shape.kernel_w)) {
        for (packed, &weight) in packed.iter_mut().zip(row) {
            *packed = weight as u8;
        }
    }
    Ok(packed)
}

/// The number of scratch bytes that [`conv_planes`] needs, whatever the range.
///
/// # Errors
/// As [`packed_len`].
pub fn scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    Ok(Padded::new(shape, &check(shape)?)?.len)
}

/// Computes the output planes `planes` of `batch · channels`.
///
/// - `shape`: its sizes, which are named as those of channels-last images;
/// - `input`: all of `[batch, channels, in_h, in_w]`;
/// - `packed`: from [`pack`] for the same shape;
/// - `stage`: its constants have one entry for each channel;
/// - `output`: the values of these planes, `[planes.len(), out_h, out_w]`;
/// - `scratch`: at least [`scratch_len`] bytes with any content, not shared with a concurrent call.
///
/// # Errors
/// When a length does not fit the sizes, when the sizes describe no depthwise convolution, when the zero point is outside of its type, or when
/// the processor does not have `isa`. Nothing was written then.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a thing of its own; a struct would only rename them"
)]
pub fn conv_planes(
    isa: Isa,
    shape: &ConvShape,
    input: Activations<'_>,
    packed: &[u8],
    stage: &Float<'_>,
    planes: Range<usize>,
    output: &mut [f32],
    scratch: &mut [u8],
) -> Result<(), KernelError> {
    let checked = check(shape)?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let channels = shape.out_c;
    check_range("planes", &planes, shape.batch * channels)?;
    check_len("the input", checked.input_len, input.data.len())?;
    check_len("the packed weights", packed_len(shape)?, packed.len())?;
    for len in [stage.correction.len(), stage.scale.len(), stage.bias.len()] {
        check_len("the constants of the output stage", channels, len)?;
    }
    let size = checked.out_h * checked.out_w;
    check_len("the output", planes.len() * size, output.len())?;
    let padded = Padded::new(shape, &checked)?;
    check_scratch(padded.len, scratch.len())?;
    let flip = if input.signed { 0x80 } else { 0 };
    let (image, sums) = scratch[..padded.len].split_at_mut(padded.image);
    image.fill(input.zero_byte()? ^ flip);
    // SAFETY: every bit pattern is an i32.
    let (_, sums, _) = unsafe { sums.align_to_mut::<i32>() };
    let plane_len = shape.in_h * shape.in_w;
    for (plane, output) in planes.zip(output.chunks_exact_mut(size)) {
        let rows = input.data[plane * plane_len..][..plane_len].chunks_exact(shape.in_w);
        let first = shape.pad_top * padded.stride + shape.pad_left;
        for (from, to) in rows.zip(image[first..].chunks_mut(padded.stride)) {
            for (from, to) in from.iter().zip(to) {
                *to = from ^ flip;
            }
        }
        let channel = plane % channels;
        let kernel = packed.len() / channels;
        let plane = Plane {
            shape,
            out_h: checked.out_h,
            out_w: checked.out_w,
            image,
            stride: padded.stride,
            weights: &packed[channel * kernel..][..kernel],
            correction: stage.correction[channel],
            scale: stage.scale[channel],
            bias: stage.bias[channel],
            clamp: stage.clamp,
        };
        match isa {
            // SAFETY: the processor has the instruction set, and the plane was made as its invariants ask.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni if avx512vnni::takes(shape) => unsafe {
                avx512vnni::plane(&plane, output);
            },
            _ => plane_slice(isa, &plane, output, sums)?,
        }
    }
    Ok(())
}

fn check(shape: &ConvShape) -> Result<CheckedShape, KernelError> {
    let checked = shape.check()?;
    if checked.depthwise {
        Ok(checked)
    } else {
        Err(KernelError::Shape("the convolution is not depthwise"))
    }
}

/// How the scratch buffer is divided: a plane with its padding, and the sums of an output row.
struct Padded {
    /// From one row to the next.
    stride: usize,
    /// Bytes of the plane.
    image: usize,
    len: usize,
}

impl Padded {
    fn new(shape: &ConvShape, checked: &CheckedShape) -> Result<Self, KernelError> {
        let what = "the scratch buffer";
        let stride = shape.in_w + shape.pad_left + shape.pad_right;
        let rows = shape.in_h + shape.pad_top + shape.pad_bottom;
        let image = product(what, &[rows, stride])? + SLACK;
        // One number more, since the buffer need not be aligned.
        let sums = product(what, &[checked.out_w + 1, 4])?;
        Ok(Self {
            stride,
            image,
            len: image + sums,
        })
    }
}

/// One plane.
///
/// Invariants that vector kernels rely on: `image` has `in_h + pads` rows of `stride = in_w + pads` bytes and [`SLACK`] bytes behind them; `weights`
/// are those of the channel as [`pack`] gives them; and the output has `out_h · out_w` elements, which follow from the shape.
struct Plane<'a> {
    shape: &'a ConvShape,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for AVX-512"))]
    out_h: usize,
    out_w: usize,
    image: &'a [u8],
    stride: usize,
    weights: &'a [u8],
    correction: i32,
    scale: f32,
    bias: f32,
    clamp: Option<(f32, f32)>,
}

isa_versions!(
    fn plane_slice(plane: &Plane<'_>, output: &mut [f32], sums: &mut [i32]) = plane_loop
);

/// Tap by tap along the rows, which compilers vectorize.
#[inline(always)]
fn plane_loop(plane: &Plane<'_>, output: &mut [f32], sums: &mut [i32]) {
    let shape = plane.shape;
    let sums = &mut sums[..plane.out_w];
    let kernel_rows = shape.kernel_w.next_multiple_of(4);
    for (y, output) in output.chunks_exact_mut(plane.out_w).enumerate() {
        sums.fill(plane.correction);
        for (row, weights) in plane.weights.chunks_exact(kernel_rows).enumerate() {
            let row = (y * shape.stride_h + row * shape.dilation_h) * plane.stride;
            for (column, &weight) in weights[..shape.kernel_w].iter().enumerate() {
                let weight = i32::from(weight as i8);
                let bytes = &plane.image[row + column * shape.dilation_w..];
                match shape.stride_w {
                    1 => add_products(sums, bytes.iter(), weight),
                    // In whole pairs: bytes follow the last row.
                    2 => add_products(
                        sums,
                        bytes.as_chunks::<2>().0.iter().map(|[x, _]| x),
                        weight,
                    ),
                    stride => add_products(sums, bytes.iter().step_by(stride), weight),
                }
            }
        }
        for (output, &sum) in output.iter_mut().zip(&*sums) {
            *output = float_value(sum, plane.scale, plane.bias, plane.clamp);
        }
    }
}

#[inline(always)]
fn add_products<'a>(sums: &mut [i32], bytes: impl Iterator<Item = &'a u8>, weight: i32) {
    for (sum, &byte) in sums.iter_mut().zip(bytes) {
        *sum = sum.wrapping_add(i32::from(byte) * weight);
    }
}

#[cfg(test)]
mod tests;
