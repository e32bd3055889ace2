//! Transposed convolution, of any spatial rank.

use octofold_tensor::{Dim, Tensor};

use super::super::real::{real_tensor, reals};
use super::super::support::{checked_elements, expect_type};
use super::super::window::{Slide, Window, WindowAttributes, for_each_index};
use super::{AutoPad, ConvShape, TapRow, differ, pairs, rows_of_tap};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// Transposed convolution: ONNX `ConvTranspose` (opset 11, 22), of any spatial rank.
    ///
    /// Inputs: `x` [N, C, D1, …], `w` [C, M/group, K1, …], optional bias `[M]`; float of any width. Output: [N, M, O1, …] with
    /// `O = stride·(D - 1) + output_padding + dilation·(K - 1) + 1 - pads`, or `output_shape`, from which the pads then follow.
    "" "ConvTranspose" inputs(2..=3)
    pub struct ConvTranspose {
        /// How the borders follow from the output's size `stride·D`.
        auto_pad: AutoPad = AutoPad::NotSet,
        /// The distances of the kernel's taps; empty for ones.
        dilations: Vec<i64> = vec![],
        /// The number of groups, which divides C.
        group: i64 = 1,
        /// The sizes of the kernel; empty, or those of `w`.
        kernel_shape: Vec<i64> = vec![],
        /// Positions added at the end of each axis; empty for zeros.
        output_padding: Vec<i64> = vec![],
        /// The spatial sizes of the output; empty when they follow from the other attributes.
        output_shape: Vec<i64> = vec![],
        /// The borders cut from the output: all begins, then all ends; empty for zeros.
        pads: Vec<i64> = vec![],
        /// The distances of input positions in the output; empty for ones.
        strides: Vec<i64> = vec![],
    }
}

impl ConvTranspose {
    fn shape(&self) -> ConvShape<'_> {
        ConvShape {
            window: WindowAttributes {
                // The borders follow from the output here, so the window has only explicit ones.
                auto_pad: AutoPad::NotSet,
                dilations: &self.dilations,
                pads: &self.pads,
                strides: &self.strides,
                ceil_mode: false,
            },
            kernel_shape: &self.kernel_shape,
            group: self.group,
        }
    }

    /// The size of the output along a spatial axis, and the border cut from its begin.
    fn stretch(&self, window: &Window, axis: usize, input: &Dim) -> Result<(Dim, Dim), OpError> {
        let rank = window.axes.len();
        let per_axis = |name, values: &[i64], default| match values {
            [] => Ok(default),
            _ if values.len() != rank => Err(OpError::attribute(
                name,
                format!("has {} numbers for {rank} axes", values.len()),
            )),
            _ if !(0..i64::from(i32::MAX)).contains(&values[axis]) => Err(OpError::attribute(
                name,
                format!("{} is out of range", values[axis]),
            )),
            _ => Ok(Some(values[axis])),
        };
        let given = per_axis("output_shape", &self.output_shape, None)?;
        let padding = per_axis("output_padding", &self.output_padding, Some(0))?.unwrap_or(0);
        let window = window.axes[axis];
        let full = input
            .clone()
            .minus(1_i64)
            .times(window.stride)
            .plus(padding)
            .plus(window.extent());
        let output = match (given, self.auto_pad) {
            (Some(size), _) => Dim::Known(size),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => input.clone().times(window.stride),
            (None, AutoPad::Valid) => return Ok((full, Dim::Known(0))),
            (None, AutoPad::NotSet) => {
                let (begin, end) = window.pads;
                let output = full.minus(begin).minus(end);
                if output.known().is_some_and(|size| size < 0) {
                    return Err(OpError::attribute("pads", "leave nothing of the output"));
                }
                return Ok((output, begin.into()));
            }
        };
        let cut = full.minus(output.clone()).max(0_i64);
        let begin = match self.auto_pad {
            AutoPad::SameUpper => cut.floor_div(2_i64),
            _ => cut.ceil_div(2_i64),
        };
        Ok((output, begin))
    }

    /// The same with explicit borders, of an input with the spatial sizes `input` and weights with the spatial sizes `kernel`. What the
    /// output has more than the taps reach becomes output padding.
    ///
    /// # Errors
    /// When sizes and attributes do not fit each other.
    pub fn with_explicit_borders(
        &self,
        input: &[usize],
        kernel: &[usize],
    ) -> Result<Self, OpError> {
        let kernel: Vec<Dim> = kernel.iter().map(|&size| size.into()).collect();
        let Some(window) = self.shape().window(&kernel)? else {
            return Err(OpError::invalid("the kernel has no size"));
        };
        let (mut begins, mut ends, mut padding) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, &size) in input.iter().enumerate() {
            let (output, begin) = self.stretch(&window, axis, &size.into())?;
            let (Some(output), Some(begin)) = (output.known(), begin.known()) else {
                return Err(OpError::TooLarge(u128::MAX));
            };
            let window = window.axes[axis];
            let reach = (size as i64 - 1) * window.stride + window.extent();
            let surplus = output + begin - reach;
            begins.push(begin);
            ends.push((-surplus).max(0));
            padding.push(surplus.max(0));
        }
        Ok(Self {
            auto_pad: AutoPad::NotSet,
            output_shape: vec![],
            output_padding: padding,
            pads: [begins, ends].concat(),
            ..self.clone()
        })
    }

    /// The shape [N, M, O1, …] of the result for `x` [N, C, D1, …], `w` [C, M/group, K1, …] and a bias `[M]`.
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
        let conv = self.shape();
        conv.check_ranks(x, w)?;
        if differ(&x[1], &w[0]) {
            return Err(OpError::invalid(format!(
                "weights for {} channels do not fit an input of {} channels",
                w[0], x[1]
            )));
        }
        if x[1]
            .known()
            .is_some_and(|channels| channels % self.group != 0)
        {
            let reason = format!("{} does not divide {} channels", self.group, x[1]);
            return Err(OpError::attribute("group", reason));
        }
        let outputs = w[1].clone().times(self.group);
        ConvShape::check_bias(bias, &outputs)?;
        let mut shape = vec![Some(x[0].clone()), Some(outputs)];
        match conv.window(&w[2..])? {
            None => shape.resize(x.len(), None),
            Some(window) => {
                for (axis, size) in x[2..].iter().enumerate() {
                    shape.push(Some(self.stretch(&window, axis, size)?.0));
                }
            }
        }
        Ok(shape)
    }

    /// The window that moves over the output, one position for each element of the input.
    fn slides(&self, x: &[usize], w: &[usize]) -> Result<Vec<Slide>, OpError> {
        let kernel: Vec<Dim> = w.iter().map(|&size| size.into()).collect();
        let Some(window) = self.shape().window(&kernel)? else {
            return Err(OpError::invalid("the kernel has no size"));
        };
        let slides = x.iter().enumerate().map(|(axis, &size)| {
            let (output, begin) = self.stretch(&window, axis, &size.into())?;
            let number = |dim: Dim| dim.known().and_then(|n| usize::try_from(n).ok());
            let (Some(output), Some(begin)) = (number(output), number(begin)) else {
                return Err(OpError::TooLarge(u128::MAX));
            };
            let window = window.axes[axis];
            Ok(Slide {
                input: output,
                output: size,
                kernel: window.kernel as usize,
                stride: window.stride as usize,
                dilation: window.dilation as usize,
                begin,
                end: 0,
            })
        });
        slides.collect()
    }
}

impl Operator for ConvTranspose {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, w, bias) = (inputs.required(0)?, inputs.required(1)?, inputs.optional(2));
        expect_type(w, 1, x.dtype())?;
        let dims = |t: &Tensor| {
            t.shape()
                .iter()
                .map(|&size| size.into())
                .collect::<Vec<Dim>>()
        };
        let shape = self.output(&dims(x), &dims(w), bias.map(dims).as_deref())?;
        let known = |dim: Option<Dim>| dim.and_then(|dim| usize::try_from(dim.known()?).ok());
        let shape: Option<Vec<usize>> = shape.into_iter().map(known).collect();
        let shape = shape.ok_or(OpError::TooLarge(u128::MAX))?;
        let mut y = vec![0.0; checked_elements(&shape)?];
        if y.is_empty() {
            return Ok(vec![real_tensor(x.dtype(), &shape, y)?]);
        }
        let slides = self.slides(&x.shape()[2..], &w.shape()[2..])?;
        let (batch, channels, outputs) = (x.shape()[0], x.shape()[1], w.shape()[1]);
        let inputs_of_group = channels / self.group as usize;
        let (x_values, w_values) = (reals(x, 0)?, reals(w, 1)?);
        let plane_out: usize = shape[2..].iter().product();
        let mut kernel: Vec<_> = slides.iter().map(|s| s.kernel).collect();
        let (plane_in, taps) = (
            checked_elements(&x.shape()[2..])?,
            checked_elements(&kernel)?,
        );
        if x.is_empty() {
            // Nothing to sum: no taps.
            kernel = vec![0];
        }
        if let Some(bias) = bias {
            let bias = reals(bias, 2)?;
            for (plane, bias) in y.chunks_mut(plane_out.max(1)).zip(bias.iter().cycle()) {
                plane.fill(*bias);
            }
        }
        let (mut rows, mut flat_tap) = (Vec::new(), 0);
        for_each_index(&kernel, |tap| {
            let (length, step) = rows_of_tap(&slides, tap, &mut rows);
            for (channel, output) in pairs(batch * channels, outputs) {
                let input = channel % channels;
                let weight = w_values[(input * outputs + output) * taps + flat_tap];
                let plane = (channel / inputs_of_group) * outputs + output;
                let x = &x_values[channel * plane_in..][..plane_in];
                let y = &mut y[plane * plane_out..][..plane_out];
                for &TapRow { position, element } in &rows {
                    let row = y[element..].iter_mut().step_by(step);
                    row.zip(&x[position..position + length])
                        .for_each(|(y, x)| *y += weight * x);
                }
            }
            flat_tap += 1;
        });
        Ok(vec![real_tensor(x.dtype(), &shape, y)?])
    }
}
