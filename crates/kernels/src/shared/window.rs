//! Windows that slide over an image: the sizes of poolings, which float depthwise convolutions share.

use std::ops::Range;

use super::{check_range, product};
use crate::KernelError;
use crate::conv::Depth;
use crate::error::check_len;

/// The sizes of a pooling over `[batch, in_h, in_w, channels]`.
///
/// The output size is given, not computed, so that both rounding modes of ONNX are the caller's choice: windows may
/// reach beyond the padding, where nothing counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolShape {
    /// Images.
    pub batch: usize,
    /// Height of the input.
    pub in_h: usize,
    /// Width of the input.
    pub in_w: usize,
    /// Channels of input and output.
    pub channels: usize,
    /// Height of the output.
    pub out_h: usize,
    /// Width of the output.
    pub out_w: usize,
    /// Height of the window.
    pub kernel_h: usize,
    /// Width of the window.
    pub kernel_w: usize,
    /// Vertical distance between two windows, in inputs.
    pub stride_h: usize,
    /// Horizontal distance between two windows, in inputs.
    pub stride_w: usize,
    /// Vertical distance between two values of a window, in inputs.
    pub dilation_h: usize,
    /// Horizontal distance between two values of a window, in inputs.
    pub dilation_w: usize,
    /// Rows of padding above.
    pub pad_top: usize,
    /// Columns of padding at the left.
    pub pad_left: usize,
    /// Rows of padding below.
    pub pad_bottom: usize,
    /// Columns of padding at the right.
    pub pad_right: usize,
    /// A third axis, of planes above each other.
    pub depth: Depth,
    /// Planes of the output.
    pub out_d: usize,
}

impl PoolShape {
    /// Rows of output pixels, `batch · out_d · out_h`: the unit in which the work is split.
    ///
    /// # Errors
    /// For sizes that describe no pooling.
    pub fn rows(&self) -> Result<usize, KernelError> {
        self.check()?;
        product("the output", &[self.batch, self.out_d, self.out_h])
    }

    /// The bytes of scratch memory that [`max_pool`](super::pool::max_pool) and [`average_pool`](super::pool::average_pool) need, whatever
    /// the rows: a number for each element of a row of the input, and
    /// for each channel of a window.
    ///
    /// # Errors
    /// When they are too many to address.
    pub fn scratch_len(&self) -> Result<usize, KernelError> {
        let what = "the scratch buffer";
        let columns = product(what, &[self.in_w, self.channels])?;
        // One number more, since the buffer need not be aligned.
        product(
            what,
            &[columns.saturating_add(self.channels).saturating_add(1), 4],
        )
    }

    /// Checks that no position overflows and that a slice can hold input and output.
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let positive = [
            self.batch,
            self.in_h,
            self.in_w,
            self.channels,
            self.out_h,
            self.out_w,
            self.kernel_h,
            self.kernel_w,
            self.stride_h,
            self.stride_w,
            self.dilation_h,
            self.dilation_w,
            self.out_d,
            self.depth.input,
            self.depth.kernel,
            self.depth.stride,
            self.depth.dilation,
        ];
        if positive.contains(&0) {
            return Err(KernelError::Shape("a size is zero"));
        }
        let pads = [
            self.pad_top,
            self.pad_left,
            self.pad_bottom,
            self.pad_right,
            self.depth.pad_front,
            self.depth.pad_back,
        ];
        // Positions are sums of two products of two such numbers, in i64.
        if positive.iter().chain(&pads).any(|&size| size >= 1 << 30) {
            return Err(KernelError::TooLarge { what: "a size" });
        }
        self.input_len()?;
        let sizes = [self.batch, self.out_d, self.out_h, self.out_w];
        let pixels = product("the output", &sizes)?;
        product("the output", &[pixels, self.channels])?;
        Ok(())
    }

    fn input_len(&self) -> Result<usize, KernelError> {
        let sizes = [self.batch, self.depth.input, self.in_h, self.in_w];
        let pixels = product("the input", &sizes)?;
        product("the input", &[pixels, self.channels])
    }

    /// Checks the lengths of the input and of the output rows `rows`.
    pub(crate) fn check_slices(
        &self,
        input: usize,
        rows: &Range<usize>,
        output: usize,
    ) -> Result<(), KernelError> {
        check_range("output rows", rows, self.rows()?)?;
        check_len("the input", self.input_len()?, input)?;
        let expected = [rows.len(), self.out_w, self.channels];
        check_len("the output", product("the output", &expected)?, output)
    }

    /// The lines of the input under the windows of an output row.
    #[inline(always)]
    pub(crate) fn lines(&self, row: usize) -> Lines {
        let vertical = Axis {
            kernel: self.kernel_h,
            dilation: self.dilation_h,
            size: self.in_h,
            before: self.pad_top,
            after: self.pad_bottom,
        };
        let depth = &self.depth;
        let planes = Axis {
            kernel: depth.kernel,
            dilation: depth.dilation,
            size: depth.input,
            before: depth.pad_front,
            after: depth.pad_back,
        };
        let plane = row / self.out_h;
        Lines {
            planes: planes.window(plane % self.out_d * depth.stride),
            vertical: vertical.window(row % self.out_h * self.stride_h),
            image: plane / self.out_d * depth.input,
            height: self.in_h,
        }
    }

    /// The horizontal extent of the windows of output column `x`.
    #[inline(always)]
    pub(crate) fn window_w(&self, x: usize) -> Window {
        Axis {
            kernel: self.kernel_w,
            dilation: self.dilation_w,
            size: self.in_w,
            before: self.pad_left,
            after: self.pad_right,
        }
        .window(x * self.stride_w)
    }
}

/// What a window covers along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The number of taps before the input, in the padding.
    pub(crate) first: usize,
    /// The first covered position of the input.
    pub(crate) start: usize,
    /// The number of covered positions of the input.
    pub(crate) len: usize,
    /// The distance between two of them.
    pub(crate) step: usize,
    /// The number of covered positions of the padded input.
    pub(crate) padded: usize,
}

/// The windows along one axis: how many taps they have, how far these are from each other, and the padding before and after the input.
struct Axis {
    kernel: usize,
    dilation: usize,
    size: usize,
    before: usize,
    after: usize,
}

impl Axis {
    /// The window at `offset`, counted from the start of the padding.
    #[inline(always)]
    fn window(self, offset: usize) -> Window {
        let Self {
            kernel,
            dilation,
            size,
            before,
            after,
        } = self;
        // The taps below a position that counts from the start of the padding.
        let below = |end: usize| {
            let reach = end.saturating_sub(offset);
            // Divisions would cost more than a window of few channels.
            let taps = if dilation == 1 {
                reach
            } else {
                reach.div_ceil(dilation)
            };
            taps.min(kernel)
        };
        let first = below(before);
        Window {
            first,
            start: (offset + first * dilation).saturating_sub(before),
            len: below(before + size) - first,
            step: dilation,
            padded: below(before + size + after),
        }
    }
}

/// The lines of the input under the windows of an output row: some lines of some planes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    planes: Window,
    /// The lines of a plane.
    pub(crate) vertical: Window,
    /// The first plane of the image.
    image: usize,
    /// Lines of a plane.
    height: usize,
}

impl Lines {
    /// The number of lines.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.planes.len * self.vertical.len
    }

    /// The lines, counted from the first line of the input.
    #[inline(always)]
    pub(crate) fn positions(self) -> impl Iterator<Item = usize> + Clone {
        self.planes.positions().flat_map(move |plane| {
            let first = (self.image + plane) * self.height;
            self.vertical.positions().map(move |y| first + y)
        })
    }

    /// The number of values by which the sum of a window over these lines and the width `horizontal` is divided: at least 1.
    ///
    /// With `count_padding` it counts the padding that the shape names, never what is beyond it.
    #[inline(always)]
    pub(crate) fn divisor(self, horizontal: Window, count_padding: bool) -> usize {
        let count = if count_padding {
            self.planes.padded * self.vertical.padded * horizontal.padded
        } else {
            self.len() * horizontal.len
        };
        count.max(1)
    }
}

impl Window {
    /// The covered positions of the input.
    #[inline(always)]
    pub(crate) fn positions(self) -> impl Iterator<Item = usize> + Clone {
        (0..self.len).map(move |tap| self.start + tap * self.step)
    }
}
