//! Sizes of convolutions and matrix products, checked once before anything is addressed with them.
//!
//! Activations are dense and channels-last (`[batch, height, width, channels]`, "NHWC"), weights come
//! as `[out channels, in channels / groups, kernel height, kernel width]` ("OIHW"). The output size is
//! that of ONNX `Conv` with explicit pads: `(in + pads - (dilation·(kernel - 1) + 1)) / stride + 1`.

use super::offsets::EXTRA;
use crate::KernelError;

/// Largest number of bytes, elements or coordinates that kernels address: offsets are 32 bits wide, and the
/// last few are no offsets.
const LIMIT: usize = EXTRA as usize;

/// The sizes of a convolution over channels-last activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Height of the input.
    pub in_h: usize,
    /// Width of the input.
    pub in_w: usize,
    /// Channels of the input, all groups together.
    pub in_c: usize,
    /// Channels of the output, all groups together.
    pub out_c: usize,
    /// Height of the kernel.
    pub kernel_h: usize,
    /// Width of the kernel.
    pub kernel_w: usize,
    /// Vertical distance between two outputs, in inputs.
    pub stride_h: usize,
    /// Horizontal distance between two outputs, in inputs.
    pub stride_w: usize,
    /// Vertical distance between two taps, in inputs.
    pub dilation_h: usize,
    /// Horizontal distance between two taps, in inputs.
    pub dilation_w: usize,
    /// Rows of padding above.
    pub pad_top: usize,
    /// Columns of padding at the left.
    pub pad_left: usize,
    /// Rows of padding below.
    pub pad_bottom: usize,
    /// Columns of padding at the right.
    pub pad_right: usize,
    /// Groups of channels, each of which is convolved on its own.
    pub groups: usize,
    /// A third axis, of planes above each other.
    pub depth: Depth,
}

/// How a window moves over a third axis: the planes of a volume, each of which has a height and a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Depth {
    /// Planes of the input.
    pub input: usize,
    /// Planes of the kernel.
    pub kernel: usize,
    /// Distance between two outputs, in inputs.
    pub stride: usize,
    /// Distance between two taps, in inputs.
    pub dilation: usize,
    /// Planes of padding before the first.
    pub pad_front: usize,
    /// Planes of padding behind the last.
    pub pad_back: usize,
}

impl Depth {
    /// Images of one plane.
    pub const ONE: Self = Self {
        input: 1,
        kernel: 1,
        stride: 1,
        dilation: 1,
        pad_front: 0,
        pad_back: 0,
    };
}

impl ConvShape {
    /// A convolution of one image by a 1x1 kernel, without groups.
    pub const fn pointwise(in_h: usize, in_w: usize, in_c: usize, out_c: usize) -> Self {
        Self {
            batch: 1,
            in_h,
            in_w,
            in_c,
            out_c,
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: 0,
            pad_left: 0,
            pad_bottom: 0,
            pad_right: 0,
            groups: 1,
            depth: Depth::ONE,
        }
    }

    /// The same with a square kernel, and one stride and one padding for all sides.
    pub const fn with_kernel(self, kernel: usize, stride: usize, pad: usize) -> Self {
        Self {
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: stride,
            stride_w: stride,
            pad_top: pad,
            pad_left: pad,
            pad_bottom: pad,
            pad_right: pad,
            ..self
        }
    }

    /// The height of the output, or `None` for sizes that describe no convolution.
    pub fn out_h(&self) -> Option<usize> {
        let padded = padded(self.in_h, self.pad_top, self.pad_bottom)?;
        out_size(padded, self.kernel_h, self.dilation_h, self.stride_h)
    }

    /// The width of the output, or `None` for sizes that describe no convolution.
    pub fn out_w(&self) -> Option<usize> {
        let padded = padded(self.in_w, self.pad_left, self.pad_right)?;
        out_size(padded, self.kernel_w, self.dilation_w, self.stride_w)
    }

    /// The planes of the output, or `None` for sizes that describe no convolution.
    pub fn out_d(&self) -> Option<usize> {
        let depth = &self.depth;
        let padded = padded(depth.input, depth.pad_front, depth.pad_back)?;
        out_size(padded, depth.kernel, depth.dilation, depth.stride)
    }

    /// The number of output pixels of all images, `batch · out_d · out_h · out_w`.
    ///
    /// # Errors
    /// When the sizes describe no convolution, or one too large to address.
    pub fn pixels(&self) -> Result<usize, KernelError> {
        Ok(self.check()?.pixels)
    }

    /// The number of products of the whole convolution.
    ///
    /// # Errors
    /// As [`ConvShape::pixels`].
    pub fn macs(&self) -> Result<u64, KernelError> {
        let checked = self.check()?;
        let per_pixel = checked.k as u64 * self.out_c as u64;
        let macs = per_pixel.checked_mul(checked.pixels as u64);
        macs.ok_or(KernelError::TooLarge {
            what: "the number of products",
        })
    }

    /// Whether each output pixel is computed from the input pixel at its place alone.
    pub(crate) fn is_pointwise(&self) -> bool {
        let ones = [self.kernel_h, self.kernel_w, self.stride_h, self.stride_w];
        let pads = [self.pad_top, self.pad_left, self.pad_bottom, self.pad_right];
        ones == [1; 4] && pads == [0; 4] && self.depth == Depth::ONE
    }

    /// Whether each group has one channel, and the images one plane.
    pub fn is_depthwise(&self) -> bool {
        let channels = (self.in_c, self.out_c) == (self.groups, self.groups);
        self.groups > 1 && channels && self.depth == Depth::ONE
    }

    /// Checks the sizes and derives what the drivers need.
    pub(crate) fn check(&self) -> Result<CheckedShape, KernelError> {
        let sizes = [
            self.batch,
            self.in_h,
            self.in_w,
            self.in_c,
            self.out_c,
            self.kernel_h,
            self.kernel_w,
            self.stride_h,
            self.stride_w,
            self.dilation_h,
            self.dilation_w,
            self.groups,
            self.depth.input,
            self.depth.kernel,
            self.depth.stride,
            self.depth.dilation,
        ];
        if sizes.contains(&0) {
            return Err(KernelError::Shape("a size is zero"));
        }
        if !self.in_c.is_multiple_of(self.groups) || !self.out_c.is_multiple_of(self.groups) {
            return Err(KernelError::Shape("the groups do not divide the channels"));
        }
        let too_small = KernelError::Shape("the kernel is larger than the padded input");
        let out_h = self.out_h().ok_or(too_small.clone())?;
        let out_w = self.out_w().ok_or(too_small.clone())?;
        let out_d = self.out_d().ok_or(too_small)?;
        // Coordinates in the padded input, so that no position of a tap overflows either.
        product(
            "the padded height",
            &[self.in_h + self.pad_top + self.pad_bottom],
        )?;
        product(
            "the padded width",
            &[self.in_w + self.pad_left + self.pad_right],
        )?;
        let depth = &self.depth;
        product(
            "the padded depth",
            &[depth.input + depth.pad_front + depth.pad_back],
        )?;
        let in_lines = product("the input", &[depth.input, self.in_h])?;
        let input_len = product("the input", &[self.batch, in_lines, self.in_w, self.in_c])?;
        let out_lines = product("the output", &[out_d, out_h])?;
        let pixels = product("the output", &[self.batch, out_lines, out_w])?;
        product("the output", &[pixels, self.out_c])?;
        let group_in = self.in_c / self.groups;
        let group_out = self.out_c / self.groups;
        let kernel_lines = product("the kernel", &[depth.kernel, self.kernel_h])?;
        let taps = product("the kernel", &[kernel_lines, self.kernel_w])?;
        let k = product("the kernel", &[taps, group_in])?;
        product("the weights", &[k, self.out_c])?;
        Ok(CheckedShape {
            shape: *self,
            out_h,
            out_w,
            in_lines,
            out_lines,
            kernel_lines,
            pixels,
            input_len,
            group_in,
            group_out,
            taps,
            k,
            depthwise: self.is_depthwise(),
        })
    }
}

/// The sizes of a matrix product: `rows` rows of `k` activations by weights `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearShape {
    /// Rows of the input and of the output.
    pub rows: usize,
    /// Elements of an input row: the depth of the sums.
    pub k: usize,
    /// Elements of an output row.
    pub n: usize,
}

impl LinearShape {
    /// The same product as a 1x1 convolution over one row of pixels; both have the same packed weights.
    pub const fn as_conv(&self) -> ConvShape {
        ConvShape::pointwise(1, self.rows, self.k, self.n)
    }
}

/// A [`ConvShape`] that describes a convolution of addressable size, with what follows from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckedShape {
    pub(crate) shape: ConvShape,
    pub(crate) out_h: usize,
    pub(crate) out_w: usize,
    /// Lines of an input image: of all its planes.
    pub(crate) in_lines: usize,
    /// Lines of an output image.
    pub(crate) out_lines: usize,
    /// Lines of the kernel: of all its planes.
    pub(crate) kernel_lines: usize,
    /// Output pixels of all images.
    pub(crate) pixels: usize,
    pub(crate) input_len: usize,
    /// Input channels a group.
    pub(crate) group_in: usize,
    /// Output channels a group.
    pub(crate) group_out: usize,
    /// Positions of the kernel.
    pub(crate) taps: usize,
    /// Products an output: `taps · group_in`.
    pub(crate) k: usize,
    /// Whether each group has one input and one output channel.
    pub(crate) depthwise: bool,
}

fn padded(size: usize, before: usize, after: usize) -> Option<usize> {
    size.checked_add(before)?.checked_add(after)
}

fn out_size(padded: usize, kernel: usize, dilation: usize, stride: usize) -> Option<usize> {
    let reach = kernel
        .checked_sub(1)?
        .checked_mul(dilation)?
        .checked_add(1)?;
    padded
        .checked_sub(reach)?
        .checked_div(stride)?
        .checked_add(1)
}

/// The product of sizes, refused where it exceeds what 32-bit offsets address.
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<usize, KernelError> {
    let product = sizes
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size));
    let product = product.filter(|&product| product <= LIMIT);
    product.ok_or(KernelError::TooLarge { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_onnx() {
        let first = ConvShape::pointwise(224, 224, 3, 64).with_kernel(7, 2, 3);
        assert_eq!((first.out_h(), first.out_w()), (Some(112), Some(112)));
        assert_eq!(first.macs(), Ok(112 * 112 * 64 * 147));
        let dilated = ConvShape {
            dilation_h: 2,
            pad_top: 1,
            ..ConvShape::pointwise(6, 6, 4, 8).with_kernel(3, 1, 0)
        };
        assert_eq!((dilated.out_h(), dilated.out_w()), (Some(3), Some(4)));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let good = ConvShape::pointwise(8, 8, 4, 8).with_kernel(3, 1, 0);
        for bad in [
            ConvShape { batch: 0, ..good },
            ConvShape {
                stride_w: 0,
                ..good
            },
            ConvShape { groups: 3, ..good },
            ConvShape {
                kernel_h: 9,
                ..good
            },
            ConvShape {
                kernel_w: usize::MAX,
                ..good
            },
            ConvShape {
                pad_left: usize::MAX,
                ..good
            },
            ConvShape {
                pad_left: usize::MAX / 2,
                ..good
            },
            ConvShape {
                in_h: 1 << 20,
                in_w: 1 << 20,
                ..good
            },
            ConvShape {
                batch: usize::MAX,
                ..good
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
