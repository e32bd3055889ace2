//! Interpolation to another size.
//!
//! Every mode is separable: the axes are resized one after another, the last one first, and along an axis each output position is a weighted sum of a few input
//! positions. Positions are computed in f32, as in ONNX Runtime (f64 would choose another nearest neighbour for some scales), and weights in f64. Floats of 32
//! bits are multiplied by weights that are rounded to f32, and added up in f32 in the order of their positions, as the kernel does it; others in f64.

use std::ops::{Add, Mul};

use octofold_tensor::{Dim, Tensor, TensorData};

use super::number::{Number, for_numbers};
use super::real::reals;
use super::support::{checked_elements, integers, map_data, normalize_axes, wrong_type};
use crate::{Inputs, OpError, Operator, attributes, word_attribute};

word_attribute! {
    /// How [`Resize`] computes a value between the input's elements.
    pub enum ResizeMode {
        /// The nearest element.
        Nearest = "nearest",
        /// Linear along each axis.
        Linear = "linear",
        /// Cubic along each axis.
        Cubic = "cubic",
    }

    /// Which position of the input an output position stands for.
    pub enum CoordinateTransformation {
        /// `(y + 1/2)/scale - 1/2`.
        HalfPixel = "half_pixel",
        /// As `half_pixel`, moved so that the middle of the input stays the middle when sizes were rounded.
        HalfPixelSymmetric = "half_pixel_symmetric",
        /// As `half_pixel`; 0 when the output has one position.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// `y·(input - 1)/(output - 1)`.
        AlignCorners = "align_corners",
        /// `y/scale`.
        Asymmetric = "asymmetric",
        /// `align_corners` within the region of the input `roi`.
        TfCropAndResize = "tf_crop_and_resize",
    }

    /// Which neighbour is the nearest.
    pub enum NearestMode {
        /// The closer one, the lower of two equally close.
        RoundPreferFloor = "round_prefer_floor",
        /// The closer one, the upper of two equally close.
        RoundPreferCeil = "round_prefer_ceil",
        /// The lower one.
        Floor = "floor",
        /// The upper one.
        Ceil = "ceil",
    }

    /// How [`Resize`] uses `sizes`.
    pub enum AspectRatioPolicy {
        /// The sizes are exact.
        Stretch = "stretch",
        /// One scale for all axes: the largest with which no axis exceeds its size.
        NotLarger = "not_larger",
        /// One scale for all axes: the smallest with which no axis falls below its size.
        NotSmaller = "not_smaller",
    }
}

attributes! {
    /// ONNX `Resize` (opset 19): interpolation to another size, separably along each axis.
    ///
    /// Inputs: `x`, optional `roi` [2·R], optional `scales` `[R]` (f32), optional `sizes` `[R]` (i64); R is the number of `axes`, or the rank. Exactly one of `scales` and
    /// `sizes` has elements. Output: `floor(D·scale)` or the given size of each axis; any number type (integers round half to even and saturate).
    /// Models of opset 10 and `Upsample` come through the importer as `asymmetric`, `floor`.
    "" "Resize" inputs(1..=4)
    pub struct Resize {
        /// Whether linear and cubic filters widen when the size shrinks.
        antialias: bool = false,
        /// The axes of `roi`, `scales` and `sizes`; empty for all.
        axes: Vec<i64> = vec![],
        /// Which position of the input an output position stands for.
        coordinate_transformation_mode: CoordinateTransformation = CoordinateTransformation::HalfPixel,
        /// The parameter of the cubic kernel.
        cubic_coeff_a: f32 = -0.75,
        /// Whether weights outside of the input become zero and the others are normalized.
        exclude_outside: bool = false,
        /// The value outside of `roi`'s image in `tf_crop_and_resize`.
        extrapolation_value: f32 = 0.0,
        /// Whether `sizes` are exact, or bounds for a scale that all axes share.
        keep_aspect_ratio_policy: AspectRatioPolicy = AspectRatioPolicy::Stretch,
        /// How values between the elements are computed.
        mode: ResizeMode = ResizeMode::Nearest,
        /// Which neighbour `mode = nearest` takes.
        nearest_mode: NearestMode = NearestMode::RoundPreferFloor,
    }
}

/// The sizes of a result, and the factor by which each axis was scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizedShape {
    /// The sizes; `None` where they cannot be known yet.
    pub sizes: Vec<Option<Dim>>,
    /// The factors; 1 where the axis stays, or the factor is not known yet.
    pub scales: Vec<f32>,
}

impl Resize {
    /// Whether every element of the result is an element of the operand: the mode is nearest neighbour, and there is no extrapolation value.
    /// Quantized elements then keep their qparams.
    pub fn keeps_values(&self) -> bool {
        self.mode == ResizeMode::Nearest
            && self.coordinate_transformation_mode != CoordinateTransformation::TfCropAndResize
    }

    /// The shape of the result for an input of shape `x`, from `scales` or `sizes`.
    ///
    /// # Errors
    /// When not exactly one of both is given, their lengths do not fit, an axis is out of range, a scale is not positive and finite, or a size is negative.
    pub fn resized(
        &self,
        x: &[Dim],
        scales: Option<&[f32]>,
        sizes: Option<&[Dim]>,
    ) -> Result<ResizedShape, OpError> {
        let axes = self.resized_axes(x.len())?;
        let mut out = ResizedShape {
            sizes: x.iter().cloned().map(Some).collect(),
            scales: vec![1.0; x.len()],
        };
        let given = scales.map_or(0, <[f32]>::len) + sizes.map_or(0, <[Dim]>::len);
        if given != axes.len() || scales.is_some() == sizes.is_some() {
            return Err(OpError::invalid(format!(
                "{given} scales or sizes for {} axes; exactly one of both has one number an axis",
                axes.len()
            )));
        }
        if let Some(scales) = scales {
            for (&axis, &scale) in axes.iter().zip(scales) {
                if !(scale.is_finite() && scale > 0.0) {
                    return Err(OpError::invalid(format!(
                        "the scale {scale} is not positive and finite"
                    )));
                }
                out.scales[axis] = scale;
                out.sizes[axis] = scaled(&x[axis], scale);
            }
        }
        for (&axis, size) in axes.iter().zip(sizes.unwrap_or(&[])) {
            if size.known().is_some_and(|size| size < 0) {
                return Err(OpError::invalid(format!("the size {size} is negative")));
            }
            if let (Some(from), Some(to)) = (x[axis].known(), size.known()) {
                out.scales[axis] = to as f32 / from as f32;
            }
            out.sizes[axis] = Some(size.clone());
        }
        if sizes.is_some() && self.keep_aspect_ratio_policy != AspectRatioPolicy::Stretch {
            self.keep_aspect_ratio(x, &axes, &mut out);
        }
        Ok(out)
    }

    /// For each axis and each output position, the input position whose element it takes, for a result [`Resize::resized`] from shape `from` to the sizes `to`.
    /// `None` when the result is not just elements of the input, or the input is empty.
    pub fn nearest_positions(
        &self,
        from: &[usize],
        to: &[usize],
        scales: &[f32],
    ) -> Option<Vec<Vec<usize>>> {
        let crops =
            self.coordinate_transformation_mode == CoordinateTransformation::TfCropAndResize;
        if self.mode != ResizeMode::Nearest || crops || from.contains(&0) {
            return None;
        }
        let axes = from.iter().zip(to).zip(scales);
        let positions = axes.map(|((&input, &output), &scale)| {
            let axis = AxisResize {
                op: self,
                input,
                output,
                scale,
                roi: (0.0, 1.0),
            };
            axis.nearest_positions()
        });
        Some(positions.collect())
    }

    /// The axes that a linear or cubic resize of floats of 32 bits changes, with their taps, for a result [`Resize::resized`] from shape `from` to the sizes `to`.
    /// `None` for nearest neighbours, where positions outside of the input have a value of their own, or when the input is empty.
    pub fn interpolated_axes(
        &self,
        from: &[usize],
        to: &[usize],
        scales: &[f32],
    ) -> Option<Vec<(usize, AxisTaps)>> {
        let crops =
            self.coordinate_transformation_mode == CoordinateTransformation::TfCropAndResize;
        if self.mode == ResizeMode::Nearest || crops || from.contains(&0) {
            return None;
        }
        let axes = (0..from.len()).map(|axis| AxisResize {
            op: self,
            input: from[axis],
            output: to[axis],
            scale: scales[axis],
            roi: (0.0, 1.0),
        });
        let changing = axes.enumerate().filter(|(_, axis)| axis.changes());
        changing
            .map(|(number, axis)| Some((number, axis.taps()?)))
            .collect()
    }

    fn resized_axes(&self, rank: usize) -> Result<Vec<usize>, OpError> {
        if self.axes.is_empty() {
            return Ok((0..rank).collect());
        }
        normalize_axes(&self.axes, rank)
    }

    /// Gives all axes the same scale, and sizes rounded half up.
    fn keep_aspect_ratio(&self, x: &[Dim], axes: &[usize], out: &mut ResizedShape) {
        let known = |dim: &Option<Dim>| dim.as_ref().and_then(Dim::known);
        let all_known = axes
            .iter()
            .all(|&a| x[a].known().is_some() && known(&out.sizes[a]).is_some());
        let scales = axes.iter().map(|&axis| out.scales[axis]);
        let scale = match self.keep_aspect_ratio_policy {
            AspectRatioPolicy::NotSmaller => scales.fold(0.0, f32::max),
            _ => scales.fold(f32::INFINITY, f32::min),
        };
        for &axis in axes {
            let size = x[axis]
                .known()
                .map(|size| (scale * size as f32 + 0.5).floor() as i64);
            out.sizes[axis] = if all_known {
                size.map(Dim::Known)
            } else {
                None
            };
            out.scales[axis] = if all_known { scale } else { 1.0 };
        }
    }
}

/// `floor(size·scale)`; of a symbol only where it is an integer multiple or fraction.
fn scaled(size: &Dim, scale: f32) -> Option<Dim> {
    // The largest factors at which f32 and integer arithmetic agree for sizes up to 2^16.
    let whole = |factor: f32| (factor.fract() == 0.0 && factor <= 128.0).then_some(factor as i64);
    match size.known() {
        Some(size) => Some(Dim::Known((size as f32 * scale).floor() as i64)),
        None => match (whole(scale), whole(1.0 / scale)) {
            (Some(factor), _) => Some(size.clone().times(factor)),
            // Powers of two only: f32 has no thirds.
            (_, Some(parts)) if parts.count_ones() == 1 => Some(size.clone().floor_div(parts)),
            _ => None,
        },
    }
}

/// The taps of each output position along an axis, as many for each: positions in ascending order, and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisTaps {
    /// The number of taps of an output position.
    pub count: usize,
    /// The positions.
    pub positions: Vec<usize>,
    /// The weights.
    pub weights: Vec<f32>,
}

/// Where one output position gets its value from, along one axis.
#[derive(Clone, Debug, PartialEq)]
enum Sample {
    /// A weighted sum of elements.
    Weighted(Vec<(usize, f64)>),
    /// The extrapolation value.
    Outside,
}

/// One axis that changes.
struct AxisResize<'a> {
    op: &'a Resize,
    input: usize,
    output: usize,
    scale: f32,
    roi: (f32, f32),
}

impl AxisResize<'_> {
    /// The position of the input that output position `y` stands for.
    fn coordinate(&self, y: usize) -> f32 {
        let (y, input, output) = (y as f32, self.input as f32, self.output as f32);
        match self.op.coordinate_transformation_mode {
            CoordinateTransformation::HalfPixel => (y + 0.5) / self.scale - 0.5,
            CoordinateTransformation::HalfPixelSymmetric => {
                let adjustment = output / (self.scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + (y + 0.5) / self.scale - 0.5
            }
            CoordinateTransformation::PytorchHalfPixel if self.output <= 1 => 0.0,
            CoordinateTransformation::PytorchHalfPixel => (y + 0.5) / self.scale - 0.5,
            CoordinateTransformation::AlignCorners if self.output <= 1 => 0.0,
            CoordinateTransformation::AlignCorners => y * (input - 1.0) / (output - 1.0),
            CoordinateTransformation::Asymmetric => y / self.scale,
            CoordinateTransformation::TfCropAndResize => {
                let (start, end) = self.roi;
                if self.output <= 1 {
                    0.5 * (start + end) * (input - 1.0)
                } else {
                    start * (input - 1.0) + y * (end - start) * (input - 1.0) / (output - 1.0)
                }
            }
        }
    }

    /// The element nearest to a position.
    fn nearest(&self, x: f32) -> usize {
        let nearest = match self.op.nearest_mode {
            NearestMode::RoundPreferFloor => (x - 0.5).ceil(),
            NearestMode::RoundPreferCeil => (x + 0.5).floor(),
            NearestMode::Floor => x.floor(),
            NearestMode::Ceil => x.ceil(),
        };
        // The cast saturates, and a NaN becomes 0.
        (nearest as usize).min(self.input - 1)
    }

    /// The weight of an element at a distance, in steps of the filter.
    fn weight(&self, distance: f64) -> f64 {
        let d = distance.abs();
        match self.op.mode {
            ResizeMode::Nearest => 1.0,
            ResizeMode::Linear => (1.0 - d).max(0.0),
            ResizeMode::Cubic => {
                let a = f64::from(self.op.cubic_coeff_a);
                if d <= 1.0 {
                    ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
                } else if d < 2.0 {
                    ((d - 5.0) * d + 8.0) * a * d - 4.0 * a
                } else {
                    0.0
                }
            }
        }
    }

    fn sample(&self, y: usize) -> Sample {
        let x = self.coordinate(y);
        let last = (self.input - 1) as f32;
        let crops =
            self.op.coordinate_transformation_mode == CoordinateTransformation::TfCropAndResize;
        if crops && !(0.0..=last).contains(&x) {
            return Sample::Outside;
        }
        let radius = match self.op.mode {
            ResizeMode::Nearest => return Sample::Weighted(vec![(self.nearest(x), 1.0)]),
            ResizeMode::Linear => 1.0,
            ResizeMode::Cubic => 2.0,
        };
        // With antialiasing, a filter that shrinks the input is wider by the same factor.
        let steps = if self.op.antialias {
            f64::from(self.scale.min(1.0))
        } else {
            1.0
        };
        let x = f64::from(x);
        // The taps reach from just beyond x - radius/steps to the same distance on the other side of the cell of x.
        let base = x.ceil() - 1.0;
        let start = (-radius / steps).floor() + 1.0;
        let count = (2.0 - 2.0 * start) as usize;
        let mut taps: Vec<(usize, f64)> = Vec::with_capacity(count);
        for i in 0..count {
            let position = base + start + i as f64;
            let mut weight = self.weight((position - x) * steps);
            let inside = position.clamp(0.0, f64::from(last));
            if self.op.exclude_outside && inside != position {
                weight = 0.0;
            }
            taps.push((inside as usize, weight));
        }
        if self.op.antialias || self.op.exclude_outside {
            let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        Sample::Weighted(taps)
    }

    /// The element that each position of the output takes. An axis that keeps its size keeps its elements.
    fn nearest_positions(&self) -> Vec<usize> {
        if !self.changes() {
            return (0..self.output).collect();
        }
        let nearest = |y| self.nearest(self.coordinate(y));
        (0..self.output).map(nearest).collect()
    }

    /// Whether the axis changes.
    fn changes(&self) -> bool {
        self.input != self.output || self.scale != 1.0 || self.roi != (0.0, 1.0)
    }

    fn samples(&self) -> Vec<Sample> {
        (0..self.output).map(|y| self.sample(y)).collect()
    }

    /// The taps of all positions; `None` where one is outside, or is made of nothing.
    fn taps(&self) -> Option<AxisTaps> {
        let mut taps = AxisTaps {
            count: 0,
            positions: Vec::new(),
            weights: Vec::new(),
        };
        for sample in self.samples() {
            let Sample::Weighted(sample) = sample else {
                return None;
            };
            taps.count = sample.len();
            for (position, weight) in sample {
                taps.positions.push(position);
                taps.weights.push(weight as f32);
            }
        }
        (taps.count > 0).then_some(taps)
    }
}

/// Resizes axis `axis` of numbers of shape `shape`; `weight` rounds a weight.
fn resize_axis<T: Copy + Default + Add<Output = T> + Mul<Output = T>>(
    values: &[T],
    shape: &[usize],
    axis: usize,
    samples: &[Sample],
    (extrapolation, weight): (T, fn(f64) -> T),
) -> Result<Vec<T>, OpError> {
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let mut out = vec![T::default(); checked_elements(&[outer, samples.len(), inner])?];
    let rows = values
        .chunks_exact(shape[axis] * inner)
        .zip(out.chunks_exact_mut(samples.len() * inner));
    for (block, out) in rows {
        for (sample, out) in samples.iter().zip(out.chunks_exact_mut(inner)) {
            match sample {
                Sample::Outside => out.fill(extrapolation),
                Sample::Weighted(taps) => {
                    for (number, &(position, factor)) in taps.iter().enumerate() {
                        let row = &block[position * inner..][..inner];
                        for (out, &x) in out.iter_mut().zip(row) {
                            let term = weight(factor) * x;
                            *out = if number == 0 { term } else { *out + term };
                        }
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Numbers as elements: floats rounded, integers rounded half to even and saturated.
fn to_elements<T: Number>(_: &[T], values: &[f64]) -> TensorData {
    let convert = |&v: &f64| T::from_f64(if T::FLOAT { v } else { v.round_ties_even() });
    T::wrap(values.iter().map(convert).collect::<Vec<_>>().into())
}

impl Resize {
    fn roi(
        &self,
        inputs: Inputs<'_>,
        axes: &[usize],
        rank: usize,
    ) -> Result<Vec<(f32, f32)>, OpError> {
        let mut roi = vec![(0.0, 1.0); rank];
        if self.coordinate_transformation_mode != CoordinateTransformation::TfCropAndResize {
            return Ok(roi);
        }
        let values = reals(inputs.required(1)?, 1)?;
        if values.len() != 2 * axes.len() || values.iter().any(|v| !v.is_finite()) {
            return Err(OpError::invalid(format!(
                "a region of {} numbers for {} axes",
                values.len(),
                axes.len()
            )));
        }
        for (i, &axis) in axes.iter().enumerate() {
            roi[axis] = (values[i] as f32, values[axes.len() + i] as f32);
        }
        Ok(roi)
    }
}

impl Resize {
    /// Resizes the axes of `plans` one after another, the last one first.
    fn interpolate<T: Copy + Default + Add<Output = T> + Mul<Output = T>>(
        &self,
        values: &[T],
        shape: &[usize],
        plans: &[(usize, AxisResize<'_>)],
        weight: fn(f64) -> T,
    ) -> Result<Vec<T>, OpError> {
        let (mut values, mut sizes) = (values.to_vec(), shape.to_vec());
        let extrapolation = weight(self.extrapolation_value.into());
        for (axis, plan) in plans.iter().rev() {
            let number = (extrapolation, weight);
            values = resize_axis(&values, &sizes, *axis, &plan.samples(), number)?;
            sizes[*axis] = plan.output;
        }
        Ok(values)
    }
}

impl Operator for Resize {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let given = |index: usize| inputs.optional(index).filter(|tensor| !tensor.is_empty());
        let scales = given(2).map(|_| inputs.values::<f32>(2)).transpose()?;
        let sizes = given(3).map(|sizes| integers(sizes, 3)).transpose()?;
        let sizes: Option<Vec<Dim>> =
            sizes.map(|sizes| sizes.into_iter().map(Dim::Known).collect());
        let dims: Vec<Dim> = x.shape().iter().map(|&size| size.into()).collect();
        let resized = self.resized(&dims, scales, sizes.as_deref())?;
        let size = |dim: &Option<Dim>| dim.as_ref()?.known().and_then(|n| usize::try_from(n).ok());
        let shape: Option<Vec<_>> = resized.sizes.iter().map(size).collect();
        let shape = shape.ok_or(OpError::TooLarge(u128::MAX))?;
        let roi = self.roi(inputs, &self.resized_axes(x.rank())?, x.rank())?;
        if self.antialias && self.mode == ResizeMode::Nearest {
            return Err(OpError::attribute(
                "antialias",
                "does not go with the mode `nearest`",
            ));
        }
        let count = checked_elements(&shape)?;
        if count > 0 && x.is_empty() {
            return Err(OpError::invalid("a resized input has no elements"));
        }
        let plans = (0..x.rank()).map(|axis| AxisResize {
            op: self,
            input: x.shape()[axis],
            output: shape[axis],
            scale: resized.scales[axis],
            roi: roi[axis],
        });
        let plans: Vec<_> = plans
            .enumerate()
            .filter(|(_, plan)| count > 0 && plan.changes())
            .collect();
        let crops =
            self.coordinate_transformation_mode == CoordinateTransformation::TfCropAndResize;
        if count == 0 {
            return Ok(vec![Tensor::zeros(x.dtype(), shape)?]);
        }
        if self.mode == ResizeMode::Nearest && !crops {
            let data =
                map_data!(x.data(), values => gather_nearest(values, x.shape(), &shape, &plans));
            return Ok(vec![Tensor::from_data(shape, data)?]);
        }
        if let TensorData::F32(values) = x.data() {
            let values = self.interpolate(values, x.shape(), &plans, |weight| weight as f32)?;
            return Ok(vec![Tensor::new(shape, values)?]);
        }
        let values: Vec<f64> = for_numbers!(
            numeric x.data(),
            values => values.iter().map(|&value| Number::to_f64(value)).collect(),
            else return Err(wrong_type(x, 0, "a number type"))
        );
        let values = self.interpolate(&values, x.shape(), &plans, |weight| weight)?;
        let data = for_numbers!(numeric x.data(), like => to_elements(like, &values), else {
            return Err(wrong_type(x, 0, "a number type"));
        });
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

/// The nearest elements, of any type. The axes of `plans` change.
fn gather_nearest<T: Clone>(
    values: &[T],
    from: &[usize],
    to: &[usize],
    plans: &[(usize, AxisResize<'_>)],
) -> Vec<T> {
    let mut values = values.to_vec();
    let mut sizes = from.to_vec();
    for (axis, plan) in plans {
        let inner: usize = sizes[axis + 1..].iter().product();
        let picks = plan.nearest_positions();
        let blocks = values.chunks_exact(sizes[*axis] * inner);
        let rows =
            blocks.flat_map(|block| picks.iter().map(move |&p| &block[p * inner..][..inner]));
        values = rows.flatten().cloned().collect();
        sizes[*axis] = plan.output;
    }
    debug_assert_eq!(sizes, to);
    values
}

#[cfg(test)]
mod tests;
