//! Pooling in either layout, of floats or bytes.

use octofold_quant::{QParams, affine, requantize};
use octofold_tensor::Tensor;

use super::{
    Finished, FusedGlobalPool, FusedPool, Layout, Output, PoolKind, Rescale, quantized_input,
};
use crate::families::AutoPad;
use crate::families::pool::{SumOrder, for_each_window, maximum};
use crate::families::support::checked_elements;
use crate::families::window::{Slide, Window, WindowAttributes};
use crate::{Inputs, OpError, Operator};

/// What becomes of the values of a window.
#[derive(Clone, Copy)]
enum Reduction {
    /// Their maximum.
    Max,
    /// Their mean, of reals added up in f32 in an order.
    WindowMean(SumOrder),
    /// Their mean, of the exact sum.
    ExactMean,
}

/// Pools the planes of an input; what is read and written is the same for windows and whole planes.
fn pool(
    inputs: Inputs<'_>,
    layout: Layout,
    reduction: Reduction,
    slides: &[Slide],
    count_include_pad: bool,
    rescale: Option<Rescale>,
) -> Result<Tensor, OpError> {
    let x = inputs.required(0)?;
    let mut shape = layout.channels_first(x.shape())?;
    let (batch, channels) = (shape[0], shape[1]);
    let size_in = checked_elements(&shape[2..])?;
    shape.truncate(2);
    shape.extend(slides.iter().map(|slide| slide.output));
    let size_out = checked_elements(&shape[2..])?;
    let shape = layout.arrange(shape);
    let mut y = Output::new(
        checked_elements(&shape)?,
        rescale.map(|rescale| rescale.y.dtype),
    );
    let (bytes, numbers, x_params) = match rescale {
        None => (Vec::new(), inputs.values::<f32>(0)?, QParams::IDENTITY),
        Some(Rescale { x, y }) => {
            y.check()?;
            let (bytes, params) = quantized_input(inputs, 0, x)?;
            (bytes, &[][..], params)
        }
    };
    if shape.contains(&0) {
        return y.tensor(&shape);
    }
    let planes = layout.planes(batch, channels);
    let mut failed = None;
    for_each_window(slides, |view| {
        let count = if count_include_pad {
            view.with_borders
        } else {
            view.elements.len()
        }
        .max(1);
        for (batch, channel) in planes.each() {
            let at = |element: usize| planes.index(batch, channel, size_in, element);
            let elements = view.elements.iter();
            let value = match (rescale, reduction) {
                (None, Reduction::Max) => {
                    Finished::Float(maximum(elements.map(|&e| (e, numbers[at(e)]))).1)
                }
                (None, Reduction::WindowMean(order)) => {
                    Finished::Float(view.sum(order, |e| numbers[at(e)]) / count as f32)
                }
                (None, Reduction::ExactMean) => {
                    let sum: f64 = elements.map(|&e| f64::from(numbers[at(e)])).sum();
                    Finished::Float((sum / count as f64) as f32)
                }
                (Some(Rescale { y, .. }), Reduction::Max) => {
                    let q = elements
                        .map(|&e| bytes[at(e)])
                        .max()
                        .unwrap_or(x_params.zero_point);
                    Finished::Quantized(requantize::rescale(q, x_params, y.params, y.lo, y.hi))
                }
                (Some(Rescale { y, .. }), Reduction::WindowMean(order)) => {
                    let real = |e| affine::dequantize(bytes[at(e)], x_params);
                    let sum = view.sum(order, real);
                    Finished::Quantized(requantize::real_mean(sum, count, y.params, y.lo, y.hi))
                }
                (Some(Rescale { y, .. }), Reduction::ExactMean) => {
                    let sum: i64 = elements
                        .map(|&e| i64::from(bytes[at(e)] - x_params.zero_point))
                        .sum();
                    let Ok(sum) = i32::try_from(sum) else {
                        failed = Some(sum);
                        continue;
                    };
                    Finished::Quantized(requantize::mean(
                        sum, count, x_params, y.params, y.lo, y.hi,
                    ))
                }
            };
            y.set(planes.index(batch, channel, size_out, view.position), value);
        }
    });
    match failed {
        None => y.tensor(&shape),
        Some(sum) => Err(OpError::invalid(format!(
            "the sum {sum} leaves the 32 bits of an accumulator"
        ))),
    }
}

impl FusedPool {
    /// The checked window.
    ///
    /// # Errors
    /// When an attribute is out of range, or the lists have different numbers of axes.
    pub fn window(&self) -> Result<Window, OpError> {
        let attributes = WindowAttributes {
            auto_pad: AutoPad::NotSet,
            dilations: &self.dilations,
            pads: &self.pads,
            strides: &self.strides,
            ceil_mode: self.ceil_mode,
        };
        Window::new(&self.kernel_shape, attributes)
    }
}

impl Operator for FusedPool {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let sizes = self.layout.channels_first(inputs.required(0)?.shape())?;
        let slides = self.window()?.over(&sizes[2..])?;
        let reduction = match self.kind {
            PoolKind::Max => Reduction::Max,
            PoolKind::Average => Reduction::WindowMean(SumOrder::of(&slides)),
        };
        Ok(vec![pool(
            inputs,
            self.layout,
            reduction,
            &slides,
            self.count_include_pad,
            self.rescale,
        )?])
    }
}

impl Operator for FusedGlobalPool {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let sizes = self.layout.channels_first(inputs.required(0)?.shape())?;
        let whole = |size: usize| Slide {
            input: size,
            output: 1,
            kernel: size,
            stride: 1,
            dilation: 1,
            begin: 0,
            end: 0,
        };
        let slides: Vec<Slide> = sizes[2..].iter().map(|&size| whole(size)).collect();
        let reduction = match self.kind {
            PoolKind::Max => Reduction::Max,
            PoolKind::Average => Reduction::ExactMean,
        };
        Ok(vec![pool(
            inputs,
            self.layout,
            reduction,
            &slides,
            false,
            self.rescale,
        )?])
    }
}
