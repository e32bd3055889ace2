//! The portable kernel: a plane is copied to scratch memory with its padding around it, and summed up tap by tap along the rows, which compilers
//! vectorize.

use super::{Plane, Planes, position};
use crate::conv::output::float_value;
use crate::conv::shape::{CheckedShape, product};
use crate::shared::Target8;
use crate::shared::dispatch::isa_versions;
use crate::shared::quantize::quantize;
use crate::{Isa, KernelError};

/// How the scratch buffer is divided: a plane with its padding, the bytes of a plane of floats, and the sums of an output row.
pub(super) struct Padded {
    /// From one row to the next.
    stride: usize,
    /// Bytes of the plane.
    image: usize,
    pub(super) len: usize,
}

impl Padded {
    pub(super) fn new(sizes: &CheckedShape) -> Result<Self, KernelError> {
        let shape = &sizes.shape;
        let what = "the scratch buffer";
        let stride = shape.in_w + shape.pad_left + shape.pad_right;
        let rows = shape.in_h + shape.pad_top + shape.pad_bottom;
        // One byte more: see `plane_loop`.
        let image = product(what, &[rows, stride])? + 1;
        let quantized = product(what, &[shape.in_h, shape.in_w])?;
        // One number more, since the buffer need not be aligned.
        let sums = product(what, &[sizes.out_w + 1, 4])?;
        Ok(Self {
            stride,
            image,
            len: image + quantized + sums,
        })
    }

    /// Computes a plane.
    pub(super) fn plane(
        &self,
        isa: Isa,
        plane: &Plane<'_>,
        output: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let shape = plane.shape;
        let (image, rest) = scratch[..self.len].split_at_mut(self.image);
        let (quantized, sums) = rest.split_at_mut(shape.in_h * shape.in_w);
        let bytes = match plane.input {
            Planes::Bytes(input) => input.data,
            Planes::Floats(input, to) => {
                quantize(isa, input, Target8::full(to), quantized)?;
                &*quantized
            }
        };
        image.fill(plane.zero);
        let first = shape.pad_top * self.stride + shape.pad_left;
        let rows = image[first..].chunks_mut(self.stride);
        for (from, to) in bytes.chunks_exact(shape.in_w).zip(rows) {
            for (from, to) in from.iter().zip(to) {
                *to = from ^ plane.flip;
            }
        }
        // SAFETY: every bit pattern is an i32.
        let (_, sums, _) = unsafe { sums.align_to_mut::<i32>() };
        let image = Image {
            bytes: image,
            stride: self.stride,
        };
        plane_slice(isa, plane, image, output, sums)
    }
}

/// A plane with its padding.
#[derive(Clone, Copy)]
struct Image<'a> {
    bytes: &'a [u8],
    /// From one row to the next.
    stride: usize,
}

isa_versions!(
    fn plane_slice(plane: &Plane<'_>, image: Image<'_>, output: &mut [f32], sums: &mut [i32]) = plane_loop
);

#[inline(always)]
fn plane_loop(plane: &Plane<'_>, image: Image<'_>, output: &mut [f32], sums: &mut [i32]) {
    let (shape, Image { bytes, stride }) = (plane.shape, image);
    let sums = &mut sums[..plane.out_w];
    for (y, output) in output.chunks_exact_mut(plane.out_w).enumerate() {
        sums.fill(plane.correction);
        for row in 0..shape.kernel_h {
            let start = (y * shape.stride_h + row * shape.dilation_h) * stride;
            for column in 0..shape.kernel_w {
                let weight = i32::from(plane.weights[position(shape, row, column)] as i8);
                let bytes = &bytes[start + column * shape.dilation_w..];
                match shape.stride_w {
                    1 => add_products(sums, bytes.iter(), weight),
                    // In whole pairs: a byte follows the last row.
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
