//! Pooling, of any spatial rank.
//!
//! Some attributes give windows over borders only. Their maximum is the lowest value of the type, and their mean is 0.

use octofold_tensor::{DType, Dim, Tensor};

use super::AutoPad;
use super::number::{Number, for_numbers};
use super::real::{real_tensor, reals};
use super::support::{checked_elements, wrong_type};
use super::window::{Slide, Window, WindowAttributes, for_each_index};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `MaxPool` (opset 12, 22): the maximum of each window; padding takes no part.
    ///
    /// Input: `x` [N, C, D1, …], float, u8 or s8. Outputs: `y` [N, C, O1, …], and optionally the flat index of each maximum within `x` (i64, the
    /// first of equals; with `storage_order = 1` counted column-major).
    "" "MaxPool" inputs(1..=1) outputs(1..=2)
    pub struct MaxPool {
        /// How the borders follow from the input's size.
        auto_pad: AutoPad = AutoPad::NotSet,
        /// Whether the output size is rounded up.
        ceil_mode: bool = false,
        /// The distances of the window's taps; empty for ones.
        dilations: Vec<i64> = vec![],
        /// The sizes of the window.
        kernel_shape: Vec<i64>,
        /// The borders: all begins, then all ends; empty for zeros.
        pads: Vec<i64> = vec![],
        /// The order in which indices count: 0 row-major, 1 column-major.
        storage_order: i64 = 0,
        /// The steps between windows; empty for ones.
        strides: Vec<i64> = vec![],
    }

    /// ONNX `AveragePool` (opset 19, 22): the mean of each window.
    ///
    /// Input: `x` [N, C, D1, …], float. Output: [N, C, O1, …]. f32 is added up in f32, in the order of [`SumOrder`]; other types in f64.
    "" "AveragePool" inputs(1..=1)
    pub struct AveragePool {
        /// How the borders follow from the input's size.
        auto_pad: AutoPad = AutoPad::NotSet,
        /// Whether the output size is rounded up.
        ceil_mode: bool = false,
        /// Whether the mean counts the borders (but not what `ceil_mode` adds beyond them).
        count_include_pad: bool = false,
        /// The distances of the window's taps; empty for ones.
        dilations: Vec<i64> = vec![],
        /// The sizes of the window.
        kernel_shape: Vec<i64>,
        /// The borders: all begins, then all ends; empty for zeros.
        pads: Vec<i64> = vec![],
        /// The steps between windows; empty for ones.
        strides: Vec<i64> = vec![],
    }

    /// ONNX `GlobalMaxPool` (opset 1, 22): the maximum of each channel. Input: `x` [N, C, D1, …], float. Output: [N, C, 1, …].
    "" "GlobalMaxPool" inputs(1..=1)
    pub struct GlobalMaxPool {}

    /// ONNX `GlobalAveragePool` (opset 1, 22): the mean of each channel. Input: `x` [N, C, D1, …], float. Output: [N, C, 1, …].
    "" "GlobalAveragePool" inputs(1..=1)
    pub struct GlobalAveragePool {}
}

/// Where the elements of a batch of planes are: channels second (the order of ONNX) or last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    /// The number of batches.
    pub(crate) batch: usize,
    /// The number of channels.
    pub(crate) channels: usize,
    /// Whether channels are the last axis.
    pub(crate) channels_last: bool,
}

impl Planes {
    /// The flat index of the element at `position` of a plane of `size` elements.
    pub(crate) fn index(self, batch: usize, channel: usize, size: usize, position: usize) -> usize {
        if self.channels_last {
            (batch * size + position) * self.channels + channel
        } else {
            (batch * self.channels + channel) * size + position
        }
    }

    /// Every batch and channel.
    pub(crate) fn each(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.batch)
            .flat_map(move |batch| (0..self.channels).map(move |channel| (batch, channel)))
    }
}

/// What a window is over at one position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowView<'a> {
    /// The flat index of the position.
    pub(crate) position: usize,
    /// The flat indices of the elements, row-major.
    pub(crate) elements: &'a [usize],
    /// The number of elements along the last axis.
    pub(crate) columns: usize,
    /// The number of taps over elements and borders.
    pub(crate) with_borders: usize,
}

impl WindowView<'_> {
    /// The sum of the window's values in f32, in the given order.
    pub(crate) fn sum(&self, order: SumOrder, value: impl Fn(usize) -> f32) -> f32 {
        let elements = self.elements;
        let sum = |sum: f32, x: f32| sum + x;
        match order {
            SumOrder::Rows => elements.iter().map(|&e| value(e)).fold(0.0, sum),
            SumOrder::Columns => (0..self.columns)
                .map(|column| {
                    let down = elements.iter().skip(column).step_by(self.columns);
                    down.map(|&e| value(e)).fold(0.0, sum)
                })
                .fold(0.0, sum),
        }
    }
}

/// The order in which the values of a window are added up. Sums in f32 depend on it, and quantized means of an even number of values
/// depend on the last bit of the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumOrder {
    /// One value after the other, row by row.
    Rows,
    /// First down each column, then across the columns.
    Columns,
}

impl SumOrder {
    /// ONNX Runtime's order (MLAS's pooling kernels): columns for dense windows that move by at most two, rows otherwise.
    pub fn of_window(stride_w: usize, dilated: bool) -> Self {
        if stride_w <= 2 && !dilated {
            Self::Columns
        } else {
            Self::Rows
        }
    }

    /// The order for a window over some axes.
    pub(crate) fn of(slides: &[Slide]) -> Self {
        let stride = slides.last().map_or(1, |slide| slide.stride);
        Self::of_window(stride, slides.iter().any(|slide| slide.dilation > 1))
    }
}

/// Passes every position of a window to `visit`, row-major.
pub(crate) fn for_each_window(slides: &[Slide], mut visit: impl FnMut(WindowView<'_>)) {
    let sizes: Vec<_> = slides.iter().map(|slide| slide.output).collect();
    let mut elements = Vec::new();
    let mut position = 0;
    for_each_index(&sizes, |index| {
        elements.clear();
        elements.push(0);
        let (mut with_borders, mut columns) = (1_usize, 0);
        for (slide, &at) in slides.iter().zip(index) {
            let outer = std::mem::take(&mut elements);
            elements.extend(outer.iter().flat_map(|&outer| {
                let inside = slide.taps(at).filter_map(move |tap| slide.element(at, tap));
                inside.map(move |element| outer * slide.input + element)
            }));
            columns = elements.len() / outer.len().max(1);
            with_borders = with_borders.saturating_mul(slide.taps_with_borders(at));
        }
        visit(WindowView {
            position,
            elements: &elements,
            columns,
            with_borders,
        });
        position += 1;
    });
}

/// The shape [N, C, O1, …] after a window moved over `x` [N, C, D1, …].
///
/// # Errors
/// When the ranks do not fit, or the window does not.
pub fn pooled_shape(window: &Window, x: &[Dim]) -> Result<Vec<Dim>, OpError> {
    if x.len() != window.axes.len() + 2 {
        let (axes, rank) = (window.axes.len(), x.len());
        return Err(OpError::invalid(format!(
            "a window of {axes} axes over an input of rank {rank}"
        )));
    }
    let mut shape = x[..2].to_vec();
    for (axis, size) in x[2..].iter().enumerate() {
        shape.push(window.slide(axis, size)?.output);
    }
    Ok(shape)
}

/// The slides of a window over the spatial axes of `x` [N, C, D1, …], and the shape of the result.
fn slides_over(window: &Window, x: &[usize]) -> Result<(Vec<Slide>, Vec<usize>), OpError> {
    let dims: Vec<Dim> = x.iter().map(|&size| size.into()).collect();
    pooled_shape(window, &dims)?;
    let slides = window.over(&x[2..])?;
    let mut shape = x[..2].to_vec();
    shape.extend(slides.iter().map(|slide| slide.output));
    checked_elements(&shape)?;
    Ok((slides, shape))
}

impl MaxPool {
    /// The checked window.
    ///
    /// # Errors
    /// When an attribute is out of range.
    pub fn window(&self) -> Result<Window, OpError> {
        if !(0..=1).contains(&self.storage_order) {
            let reason = format!("{} is neither 0 nor 1", self.storage_order);
            return Err(OpError::attribute("storage_order", reason));
        }
        let attributes = WindowAttributes {
            auto_pad: self.auto_pad,
            dilations: &self.dilations,
            pads: &self.pads,
            strides: &self.strides,
            ceil_mode: self.ceil_mode,
        };
        Window::new(&self.kernel_shape, attributes)
    }

    /// The flat index of a spatial element as the indices output counts it.
    fn stored_index(&self, sizes: &[usize], element: usize) -> usize {
        if self.storage_order == 0 {
            return element;
        }
        // Row-major to column-major: the last axis becomes the slowest.
        let (mut rest, mut index) = (element, 0);
        for &size in sizes.iter().rev() {
            index = index * size + rest % size;
            rest /= size;
        }
        index
    }
}

/// The largest of some elements and where it is, the first of equals; NaN when there is one.
pub(crate) fn maximum<T: Number>(elements: impl Iterator<Item = (usize, T)>) -> (usize, T) {
    let mut best = None;
    for (index, value) in elements {
        let better = match best {
            None => true,
            Some((_, best)) => value > best || (value.is_nan() && !Number::is_nan(best)),
        };
        if better {
            best = Some((index, value));
        }
    }
    best.unwrap_or((0, T::LOWEST))
}

impl Operator for MaxPool {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let (slides, shape) = slides_over(&self.window()?, x.shape())?;
        let (count, spatial) = (checked_elements(&shape)?, &x.shape()[2..]);
        let planes = if count == 0 { 0 } else { shape[0] * shape[1] };
        let (size_in, size_out) = (checked_elements(spatial)?, count / planes.max(1));
        let mut indices = vec![0_i64; if outputs > 1 { count } else { 0 }];
        // Without results no window is visited, however large the axes.
        let slides = if count == 0 { Vec::new() } else { slides };
        let y = for_numbers!(numeric x.data(), values => {
            let mut y = vec![Number::ZERO; count];
            for_each_window(&slides, |view| {
                for plane in 0..planes {
                    let values = &values[plane * size_in..][..size_in];
                    let (at, value) = maximum(view.elements.iter().map(|&e| (e, values[e])));
                    let out = plane * size_out + view.position;
                    y[out] = value;
                    if let Some(index) = indices.get_mut(out) {
                        *index = (plane * size_in + self.stored_index(spatial, at)) as i64;
                    }
                }
            });
            Tensor::new(shape.iter().copied(), y)?
        }, else return Err(wrong_type(x, 0, "float, uint8 or int8")));
        let mut out = vec![y];
        if outputs > 1 {
            out.push(Tensor::new(shape, indices)?);
        }
        Ok(out)
    }
}

impl AveragePool {
    /// The checked window.
    ///
    /// # Errors
    /// When an attribute is out of range.
    pub fn window(&self) -> Result<Window, OpError> {
        let attributes = WindowAttributes {
            auto_pad: self.auto_pad,
            dilations: &self.dilations,
            pads: &self.pads,
            strides: &self.strides,
            ceil_mode: self.ceil_mode,
        };
        Window::new(&self.kernel_shape, attributes)
    }
}

impl Operator for AveragePool {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let (slides, shape) = slides_over(&self.window()?, x.shape())?;
        let values = reals(x, 0)?;
        let mut y = vec![0.0; checked_elements(&shape)?];
        if y.is_empty() {
            return Ok(vec![real_tensor(x.dtype(), &shape, y)?]);
        }
        let (planes, size_in) = (shape[0] * shape[1], checked_elements(&x.shape()[2..])?);
        let size_out = y.len() / planes;
        let (order, single) = (SumOrder::of(&slides), x.dtype() == DType::F32);
        for_each_window(&slides, |view| {
            let count = if self.count_include_pad {
                view.with_borders
            } else {
                view.elements.len()
            }
            .max(1);
            for plane in 0..planes {
                let values = &values[plane * size_in..][..size_in];
                y[plane * size_out + view.position] = if single {
                    let sum = view.sum(order, |element| values[element] as f32);
                    f64::from(sum / count as f32)
                } else {
                    let sum: f64 = view.elements.iter().map(|&element| values[element]).sum();
                    sum / count as f64
                };
            }
        });
        Ok(vec![real_tensor(x.dtype(), &shape, y)?])
    }
}

/// The number of elements of a plane of `x` [N, C, D1, …], and the shape [N, C, 1, …].
fn global_shape(x: &[usize]) -> Result<(usize, Vec<usize>), OpError> {
    if x.len() < 2 {
        return Err(OpError::invalid(format!(
            "global pooling of an input of rank {}",
            x.len()
        )));
    }
    let shape = x
        .iter()
        .enumerate()
        .map(|(axis, &size)| if axis < 2 { size } else { 1 });
    Ok((checked_elements(&x[2..])?, shape.collect()))
}

impl Operator for GlobalMaxPool {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let (size, shape) = global_shape(x.shape())?;
        let planes = checked_elements(&shape)?;
        let y = for_numbers!(numeric x.data(), values => {
            let plane = |i: usize| maximum(values[i * size..][..size].iter().copied().enumerate()).1;
            Tensor::new(shape.iter().copied(), (0..planes).map(plane).collect())?
        }, else return Err(wrong_type(x, 0, "float")));
        Ok(vec![y])
    }
}

impl Operator for GlobalAveragePool {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let (size, shape) = global_shape(x.shape())?;
        let values = reals(x, 0)?;
        let plane = |i: usize| values[i * size..][..size].iter().sum::<f64>() / size as f64;
        let means = (0..checked_elements(&shape)?).map(plane);
        Ok(vec![real_tensor(x.dtype(), &shape, means)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, x: &Tensor, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        op.evaluate(Inputs(&[Some(x)]), outputs)
    }

    fn max_pool() -> MaxPool {
        MaxPool {
            auto_pad: AutoPad::NotSet,
            ceil_mode: false,
            dilations: vec![],
            kernel_shape: vec![2, 2],
            pads: vec![],
            storage_order: 0,
            strides: vec![2, 2],
        }
    }

    #[test]
    fn maxima_know_where_they_are() {
        let values = vec![1_i8, 5, 5, 2, -3, 0, -8, -8];
        let x = Tensor::new([1, 2, 2, 2], values).unwrap();
        let out = run(&max_pool(), &x, 2).unwrap();
        assert_eq!(out[0].values::<i8>().unwrap(), [5, 0]);
        assert_eq!(out[1].values::<i64>().unwrap(), [1, 5]);
        let columns = run(
            &MaxPool {
                storage_order: 1,
                ..max_pool()
            },
            &x,
            2,
        )
        .unwrap();
        assert_eq!(columns[1].values::<i64>().unwrap(), [2, 6]);
        assert!(
            run(
                &MaxPool {
                    storage_order: 2,
                    ..max_pool()
                },
                &x,
                2
            )
            .is_err()
        );
        assert!(
            run(
                &MaxPool {
                    kernel_shape: vec![2],
                    ..max_pool()
                },
                &x,
                1
            )
            .is_err()
        );
        assert!(
            run(
                &MaxPool {
                    kernel_shape: vec![3, 2],
                    ..max_pool()
                },
                &x,
                1
            )
            .is_err()
        );
        let huge = MaxPool {
            kernel_shape: vec![i64::from(i32::MAX) - 1; 2],
            ..max_pool()
        };
        assert!(run(&huge, &x, 1).is_err());
    }

    #[test]
    fn nan_is_a_maximum_and_padding_is_not() {
        let x = Tensor::new([1, 1, 1, 3], vec![f32::NAN, -1.0, -2.0]).unwrap();
        let op = MaxPool {
            kernel_shape: vec![1, 2],
            pads: vec![0, 1, 0, 1],
            strides: vec![],
            ..max_pool()
        };
        let y = run(&op, &x, 1).unwrap();
        let y = y[0].values::<f32>().unwrap();
        assert!(y[0].is_nan() && y[1].is_nan() && y[2] == -1.0 && y[3] == -2.0);
        assert!(
            run(&GlobalMaxPool {}, &x, 1).unwrap()[0]
                .values::<f32>()
                .unwrap()[0]
                .is_nan()
        );
    }

    #[test]
    fn means_count_borders_on_request() {
        let x = Tensor::new([1, 1, 3], vec![3.0_f32, 6.0, 9.0]).unwrap();
        let op = AveragePool {
            auto_pad: AutoPad::NotSet,
            ceil_mode: true,
            count_include_pad: false,
            dilations: vec![],
            kernel_shape: vec![2],
            pads: vec![1, 1],
            strides: vec![2],
        };
        let y = |op: &AveragePool| run(op, &x, 1).unwrap()[0].values::<f32>().unwrap().to_vec();
        assert_eq!(y(&op), [3.0, 7.5]);
        assert_eq!(
            y(&AveragePool {
                count_include_pad: true,
                ..op.clone()
            }),
            [1.5, 7.5]
        );
        // The last window has one element, one border, and one tap beyond both, which never counts.
        let beyond = AveragePool {
            kernel_shape: vec![3],
            pads: vec![0, 1],
            strides: vec![2],
            ..op
        };
        assert_eq!(y(&beyond), [6.0, 9.0]);
        assert_eq!(
            y(&AveragePool {
                count_include_pad: true,
                ..beyond
            }),
            [6.0, 4.5]
        );
    }
}
