//! The windows of convolutions and pools over one, two or three axes, as kernels of three axes take them.

use octofold_kernels::conv::{ConvShape, Depth};
use octofold_kernels::shared::{ImageShape, PoolShape};
use octofold_ops::families::window::Slide;
use octofold_ops::families::{FusedConv, FusedPool};
use octofold_tensor::Dim;

use crate::StepError;

/// A window over an axis of one element.
const POINT: Slide = whole(1, 1);

/// A window of one tap over each element of an axis, or, with one position, of all elements.
const fn whole(input: usize, output: usize) -> Slide {
    Slide {
        input,
        output,
        kernel: if output == 1 { input } else { 1 },
        stride: 1,
        dilation: 1,
        begin: 0,
        end: 0,
    }
}

/// The windows over depth, height and width of some images.
#[derive(Clone, Copy, Debug)]
struct Windows {
    batch: usize,
    axes: [Slide; 3],
}

impl Windows {
    /// Windows over one to three axes. Planes that no window joins are images of their own, and planes whose windows have one tap are lines.
    fn new(batch: usize, slides: &[Slide]) -> Result<Self, StepError> {
        let single = |slide: &Slide| {
            let steps = (slide.kernel, slide.stride);
            steps == (1, 1) && (slide.begin, slide.end) == (0, 0)
        };
        let (batch, axes) = match *slides {
            [w] => (batch, [POINT, POINT, w]),
            [h, w] => (batch, [POINT, h, w]),
            [d, h, w] if single(&d) => (batch.saturating_mul(d.input), [POINT, h, w]),
            [d, h, w] if single(&h) && single(&w) => {
                let pixels = h.input.saturating_mul(w.input);
                (batch, [POINT, d, whole(pixels, pixels)])
            }
            [d, h, w] => (batch, [d, h, w]),
            _ => {
                return Err(StepError::invalid(format!(
                    "a window over {} axes where kernels take one to three",
                    slides.len()
                )));
            }
        };
        Ok(Self { batch, axes })
    }

    fn depth(&self) -> Depth {
        let [d, ..] = self.axes;
        Depth {
            input: d.input,
            kernel: d.kernel,
            stride: d.stride,
            dilation: d.dilation,
            pad_front: d.begin,
            pad_back: d.end,
        }
    }
}

/// The sizes of a convolution of images `[batch, channels, spatial axes]` as a kernel takes them, and those of its result in the same order.
///
/// # Errors
/// When the sizes do not fit each other, and when a window moves over more than three axes.
pub fn conv_shape(
    op: &FusedConv,
    weights: &[usize],
    images: &[usize],
) -> Result<(ConvShape, Vec<usize>), StepError> {
    let fail = |error: octofold_ops::OpError| StepError::invalid(error.to_string());
    let (&[out_c, group_in, ref kernel @ ..], &[batch, in_c, ref sizes @ ..]) = (weights, images)
    else {
        return Err(StepError::invalid("a convolution takes images and weights"));
    };
    let groups = usize::try_from(op.group).unwrap_or(0);
    if groups.checked_mul(group_in) != Some(in_c) {
        return Err(StepError::invalid(format!(
            "{groups} groups of {group_in} channels where the operand has {in_c}"
        )));
    }
    let kernel: Vec<Dim> = kernel.iter().map(|&size| size.into()).collect();
    let window = op.shape().window(&kernel).map_err(fail)?;
    let window = window.ok_or_else(|| StepError::invalid("the kernel has no size"))?;
    let slides = window.over(sizes).map_err(fail)?;
    let windows = Windows::new(batch, &slides)?;
    let [_, h, w] = windows.axes;
    let shape = ConvShape {
        batch: windows.batch,
        in_h: h.input,
        in_w: w.input,
        in_c,
        out_c,
        kernel_h: h.kernel,
        kernel_w: w.kernel,
        stride_h: h.stride,
        stride_w: w.stride,
        dilation_h: h.dilation,
        dilation_w: w.dilation,
        pad_top: h.begin,
        pad_left: w.begin,
        pad_bottom: h.end,
        pad_right: w.end,
        groups,
        depth: windows.depth(),
    };
    let result = [batch, out_c].into_iter();
    let result = result.chain(slides.iter().map(|slide| slide.output));
    Ok((shape, result.collect()))
}

/// The sizes of a pooling of images `[batch, channels, spatial axes]` as a kernel takes them, and those of its result in the same order.
///
/// # Errors
/// As [`conv_shape`].
pub(super) fn pool_shape(
    op: &FusedPool,
    images: &[usize],
) -> Result<(PoolShape, Vec<usize>), StepError> {
    let fail = |error: octofold_ops::OpError| StepError::invalid(error.to_string());
    let &[batch, channels, ref sizes @ ..] = images else {
        return Err(StepError::invalid("a pooling takes images"));
    };
    let slides = op.window().and_then(|window| window.over(sizes));
    let slides = slides.map_err(fail)?;
    let shape = pool_of(Windows::new(batch, &slides)?, channels);
    let result = [batch, channels].into_iter();
    let result = result.chain(slides.iter().map(|slide| slide.output));
    Ok((shape, result.collect()))
}

/// The sizes of a pooling over all pixels of channels-last images, `width` of them in a line.
pub(super) fn whole_images(images: &ImageShape, width: usize) -> Result<PoolShape, StepError> {
    let height = images.pixels.checked_div(width).unwrap_or(0);
    let windows = Windows::new(images.batch, &[whole(height, 1), whole(width, 1)])?;
    Ok(pool_of(windows, images.channels))
}

fn pool_of(windows: Windows, channels: usize) -> PoolShape {
    let [d, h, w] = windows.axes;
    PoolShape {
        batch: windows.batch,
        in_h: h.input,
        in_w: w.input,
        channels,
        out_h: h.output,
        out_w: w.output,
        kernel_h: h.kernel,
        kernel_w: w.kernel,
        stride_h: h.stride,
        stride_w: w.stride,
        dilation_h: h.dilation,
        dilation_w: w.dilation,
        pad_top: h.begin,
        pad_left: w.begin,
        pad_bottom: h.end,
        pad_right: w.end,
        depth: windows.depth(),
        out_d: d.output,
    }
}
