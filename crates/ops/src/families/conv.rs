//! Convolution and its [transpose](ConvTranspose), of any spatial rank.
//!
//! Shape arithmetic and loops are shared by every convolution of this crate: [`ConvShape`] checks and computes shapes, of symbolic
//! sizes too; [`ConvLoops`] sums products in f64, which is exact for quantized integers.

mod transpose;

use octofold_tensor::{Dim, Tensor};

use super::real::{real_tensor, reals};
use super::support::{checked_elements, expect_type};
use super::window::{Slide, Window, WindowAttributes, for_each_index};
use crate::{Inputs, OpError, Operator, attributes, word_attribute};

pub use transpose::ConvTranspose;

word_attribute! {
    /// How the borders of a sliding window follow from the input's size.
    pub enum AutoPad {
        /// The borders are given by `pads`.
        NotSet = "NOTSET",
        /// The output has `ceil(input / stride)` positions; an odd border is larger at the end.
        SameUpper = "SAME_UPPER",
        /// As `SAME_UPPER`, an odd border is larger at the begin.
        SameLower = "SAME_LOWER",
        /// No borders.
        Valid = "VALID",
    }
}

attributes! {
    /// Convolution: ONNX `Conv` (opset 11, 22), of any spatial rank.
    ///
    /// Inputs: `x` [N, C, D1, …], `w` [M, C/group, K1, …], optional bias `[M]`; float of any width. Output: [N, M, O1, …] with
    /// `O = floor((D + pads - dilation·(K - 1) - 1) / stride) + 1`. Sums are f64, rounded once.
    "" "Conv" inputs(2..=3)
    pub struct Conv {
        /// How the borders follow from the input's size.
        auto_pad: AutoPad = AutoPad::NotSet,
        /// The distances of the kernel's taps; empty for ones.
        dilations: Vec<i64> = vec![],
        /// The number of groups, which divides C and M.
        group: i64 = 1,
        /// The sizes of the kernel; empty, or those of `w`.
        kernel_shape: Vec<i64> = vec![],
        /// The borders: all begins, then all ends; empty for zeros.
        pads: Vec<i64> = vec![],
        /// The steps between output positions; empty for ones.
        strides: Vec<i64> = vec![],
    }
}

/// The attributes that all convolutions share, unchecked.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape<'a> {
    /// Steps, distances, borders.
    pub window: WindowAttributes<'a>,
    /// The sizes of the kernel; empty, or those of the weights.
    pub kernel_shape: &'a [i64],
    /// The number of groups.
    pub group: i64,
}

fn differ(a: &Dim, b: &Dim) -> bool {
    matches!((a.known(), b.known()), (Some(a), Some(b)) if a != b)
}

impl ConvShape<'_> {
    /// The checked window over weights whose spatial sizes are `weights`; `None` when these are not known.
    ///
    /// # Errors
    /// When `kernel_shape` contradicts the weights, or an attribute is out of range.
    pub fn window(&self, weights: &[Dim]) -> Result<Option<Window>, OpError> {
        let kernel = if self.kernel_shape.is_empty() {
            match weights.iter().map(Dim::known).collect::<Option<Vec<_>>>() {
                Some(kernel) => kernel,
                None => return Ok(None),
            }
        } else {
            self.kernel_shape.to_vec()
        };
        let contradicts = kernel.len() != weights.len()
            || kernel
                .iter()
                .zip(weights)
                .any(|(&size, dim)| differ(&size.into(), dim));
        if contradicts {
            let reason = format!("{kernel:?} is not the kernel of the weights");
            return Err(OpError::attribute("kernel_shape", reason));
        }
        Window::new(&kernel, self.window).map(Some)
    }

    fn check_ranks(&self, x: &[Dim], w: &[Dim]) -> Result<(), OpError> {
        if x.len() < 3 || x.len() != w.len() {
            return Err(OpError::invalid(format!(
                "a convolution of an input of rank {} with weights of rank {}",
                x.len(),
                w.len()
            )));
        }
        if self.group < 1 {
            return Err(OpError::attribute(
                "group",
                format!("{} is not positive", self.group),
            ));
        }
        Ok(())
    }

    fn check_bias(bias: Option<&[Dim]>, outputs: &Dim) -> Result<(), OpError> {
        match bias {
            Some([size]) if !differ(size, outputs) => Ok(()),
            None => Ok(()),
            Some(_) => Err(OpError::invalid(format!(
                "the bias does not have {outputs} elements"
            ))),
        }
    }

    /// The shape [N, M, O1, …] of a convolution of `x` [N, C, D1, …] with `w` [M, C/group, K1, …] and a bias `[M]`.
    /// A size that cannot be known yet, because those of the weights are not, is `None`.
    ///
    /// # Errors
    /// When shapes and attributes do not fit each other.
    pub fn output(
        &self,
        x: &[Dim],
        w: &[Dim],
        bias: Option<&[Dim]>,
    ) -> Result<Vec<Option<Dim>>, OpError> {
        self.check_ranks(x, w)?;
        if differ(&x[1], &w[1].clone().times(self.group)) {
            return Err(OpError::invalid(format!(
                "weights for {} channels in each of {} groups do not fit an input of {} channels",
                w[1], self.group, x[1]
            )));
        }
        if w[0]
            .known()
            .is_some_and(|outputs| outputs % self.group != 0)
        {
            let reason = format!("{} does not divide {} output channels", self.group, w[0]);
            return Err(OpError::attribute("group", reason));
        }
        Self::check_bias(bias, &w[0])?;
        let mut shape = vec![Some(x[0].clone()), Some(w[0].clone())];
        match self.window(&w[2..])? {
            None => shape.resize(x.len(), None),
            Some(window) => {
                for (axis, size) in x[2..].iter().enumerate() {
                    shape.push(Some(window.slide(axis, size)?.output));
                }
            }
        }
        Ok(shape)
    }

    /// The loops of a convolution of an input of shape `x`, channels second, with weights of shape `w`.
    ///
    /// # Errors
    /// When shapes and attributes do not fit each other, or the result is too large.
    pub(crate) fn loops(
        &self,
        x: &[usize],
        w: &[usize],
        bias: Option<&[usize]>,
    ) -> Result<ConvLoops, OpError> {
        let dims = |shape: &[usize]| shape.iter().map(|&size| size.into()).collect::<Vec<Dim>>();
        self.output(&dims(x), &dims(w), bias.map(dims).as_deref())?;
        let Some(window) = self.window(&dims(&w[2..]))? else {
            return Err(OpError::invalid("the kernel has no size"));
        };
        let slides = window.over(&x[2..])?;
        let shape: Vec<_> = [x[0], w[0]]
            .into_iter()
            .chain(slides.iter().map(|s| s.output))
            .collect();
        checked_elements(&shape)?;
        let group = self.group as usize;
        Ok(ConvLoops {
            batch: x[0],
            group,
            inputs: w[1],
            outputs: w[0] / group,
            slides,
            shape,
        })
    }
}

/// A convolution whose sizes are known and fit.
#[derive(Clone, Debug)]
pub(crate) struct ConvLoops {
    batch: usize,
    group: usize,
    /// Input channels of a group.
    inputs: usize,
    /// Output channels of a group.
    outputs: usize,
    slides: Vec<Slide>,
    /// The shape of the result, channels second.
    pub(crate) shape: Vec<usize>,
}

/// A row of output positions along the last axis at which a tap is over an element.
#[derive(Clone, Copy)]
struct TapRow {
    /// The flat index of the first position.
    position: usize,
    /// The flat index of the element under it.
    element: usize,
}

/// Fills `rows` with the rows of one tap. Gives the length of the rows and the distance between elements; the distance between positions is 1.
fn rows_of_tap(slides: &[Slide], tap: &[usize], rows: &mut Vec<TapRow>) -> (usize, usize) {
    rows.clear();
    rows.push(TapRow {
        position: 0,
        element: 0,
    });
    let mut length = 1;
    for (axis, (slide, &tap)) in slides.iter().zip(tap).enumerate() {
        let positions = slide.positions(tap);
        let element =
            |position: usize| position * slide.stride + tap * slide.dilation - slide.begin;
        if positions.is_empty() {
            rows.clear();
        } else if axis + 1 == slides.len() {
            length = positions.len();
            for row in rows.iter_mut() {
                row.position = row.position * slide.output + positions.start;
                row.element = row.element * slide.input + element(positions.start);
            }
        } else {
            let outer = std::mem::take(rows);
            rows.extend(outer.iter().flat_map(|row| {
                positions.clone().map(move |position| TapRow {
                    position: row.position * slide.output + position,
                    element: row.element * slide.input + element(position),
                })
            }));
        }
    }
    (length, slides.last().map_or(1, |slide| slide.stride))
}

impl ConvLoops {
    /// Computes the sums of products of `x` [N, C, D1, …] and `w` [M, C/group, K1, …] and passes each plane [O1, …] to
    /// `finish(batch, output channel, sums)`, in row-major order. Borders count as zeros.
    ///
    /// # Errors
    /// What `finish` returns.
    pub(crate) fn run(
        &self,
        x: &[f64],
        w: &[f64],
        mut finish: impl FnMut(usize, usize, &[f64]) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        if self.shape.contains(&0) {
            return Ok(());
        }
        let sizes: Vec<_> = self.slides.iter().map(|s| s.input).collect();
        let kernel: Vec<_> = self.slides.iter().map(|s| s.kernel).collect();
        let (plane_in, taps) = (checked_elements(&sizes)?, checked_elements(&kernel)?);
        let plane_out: usize = self.shape[2..].iter().product();
        let slides = self.merged_slides();
        let kernel = match (self.inputs, slides.len() == self.slides.len()) {
            // Nothing to sum: no taps.
            (0, _) => vec![0],
            (_, true) => kernel,
            (_, false) => vec![1],
        };
        let mut sums = vec![0.0; self.outputs * plane_out];
        let mut rows = Vec::new();
        for (batch, group) in pairs(self.batch, self.group) {
            sums.fill(0.0);
            let mut flat_tap = 0;
            for_each_index(&kernel, |tap| {
                let (length, step) = rows_of_tap(&slides, tap, &mut rows);
                for (output, input) in pairs(self.outputs, self.inputs) {
                    let sums = &mut sums[output * plane_out..][..plane_out];
                    let channel = (batch * self.group + group) * self.inputs + input;
                    let x = &x[channel * plane_in..][..plane_in];
                    let filter = (group * self.outputs + output) * self.inputs + input;
                    let weight = w[filter * taps + flat_tap];
                    for &TapRow { position, element } in &rows {
                        let sums = &mut sums[position..position + length];
                        if step == 1 {
                            let row = &x[element..element + length];
                            sums.iter_mut()
                                .zip(row)
                                .for_each(|(sum, x)| *sum += weight * x);
                        } else {
                            let row = x[element..].iter().step_by(step);
                            sums.iter_mut()
                                .zip(row)
                                .for_each(|(sum, x)| *sum += weight * x);
                        }
                    }
                }
                flat_tap += 1;
            });
            for output in 0..self.outputs {
                finish(
                    batch,
                    group * self.outputs + output,
                    &sums[output * plane_out..][..plane_out],
                )?;
            }
        }
        Ok(())
    }

    /// Merges the spatial axes when the kernel is 1×1 and covers every element, so that rows are long.
    fn merged_slides(&self) -> Vec<Slide> {
        let point =
            |s: &Slide| s.kernel == 1 && s.stride == 1 && s.input == s.output && s.begin == 0;
        if !self.slides.iter().all(point) {
            return self.slides.clone();
        }
        let size = self.slides.iter().map(|s| s.input).product();
        vec![Slide {
            input: size,
            output: size,
            kernel: 1,
            stride: 1,
            dilation: 1,
            begin: 0,
            end: 0,
        }]
    }
}

/// All pairs of indices below two sizes, row-major.
fn pairs(outer: usize, inner: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outer).flat_map(move |i| (0..inner).map(move |j| (i, j)))
}

/// Gives an operator a method for the attributes that all convolutions share.
macro_rules! conv_shape {
    ($type:ident) => {
        impl $type {
            /// The attributes that all convolutions share.
            pub fn shape(&self) -> ConvShape<'_> {
                ConvShape {
                    window: WindowAttributes {
                        auto_pad: self.auto_pad,
                        dilations: &self.dilations,
                        pads: &self.pads,
                        strides: &self.strides,
                        ceil_mode: false,
                    },
                    kernel_shape: &self.kernel_shape,
                    group: self.group,
                }
            }
        }
    };
}
pub(super) use conv_shape;

conv_shape!(Conv);

impl Operator for Conv {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, w, bias) = (inputs.required(0)?, inputs.required(1)?, inputs.optional(2));
        expect_type(w, 1, x.dtype())?;
        let loops = self
            .shape()
            .loops(x.shape(), w.shape(), bias.map(Tensor::shape))?;
        let bias = bias.map(|bias| reals(bias, 2)).transpose()?;
        let mut y = Vec::with_capacity(loops.shape.iter().product());
        loops.run(&reals(x, 0)?, &reals(w, 1)?, |_, channel, sums| {
            let bias = bias.as_ref().map_or(0.0, |bias| bias[channel]);
            y.extend(sums.iter().map(|sum| sum + bias));
            Ok(())
        })?;
        Ok(vec![real_tensor(x.dtype(), &loops.shape, y)?])
    }
}
