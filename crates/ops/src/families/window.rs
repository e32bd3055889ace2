//! Sliding windows: how convolution and pooling move over each spatial axis.
//!
//! A [`Window`] holds checked attributes. Its sizes are [`Dim`]s, so that the same arithmetic serves shape inference, where
//! sizes may be symbols, and evaluation. With `extent = dilation·(kernel - 1) + 1`, an axis of size `D` has
//!
//! - explicit borders: `floor((D + begin + end - extent) / stride) + 1` positions; rounded up in ceil mode, without windows that
//!   would begin in the end border;
//! - `SAME_UPPER`, `SAME_LOWER`: `ceil(D / stride)`, with the borders that this needs;
//! - `VALID`: `floor((D - extent) / stride) + 1`.

use std::ops::Range;

use octofold_tensor::{Dim, Symbols};

use super::AutoPad;
use crate::{OpError, bail, bail_attribute};

/// No size, step or border of a window is larger, so that no arithmetic on them overflows.
const LIMIT: i64 = i32::MAX as i64;

/// The unchecked attributes of an operator with a window.
#[derive(Clone, Copy, Debug)]
pub struct WindowAttributes<'a> {
    /// How the borders follow from the input's size.
    pub auto_pad: AutoPad,
    /// The distances of the taps; empty for ones.
    pub dilations: &'a [i64],
    /// The borders: all begins, then all ends; empty for zeros. Without effect unless `auto_pad` is `NOTSET`.
    pub pads: &'a [i64],
    /// The steps between windows; empty for ones.
    pub strides: &'a [i64],
    /// Whether the output size is rounded up.
    pub ceil_mode: bool,
}

/// The window along one axis, checked: all numbers fit 31 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAxis {
    /// The number of taps, at least 1.
    pub kernel: i64,
    /// The step between windows, at least 1.
    pub stride: i64,
    /// The distance of the taps, at least 1.
    pub dilation: i64,
    /// The explicit borders, at least 0.
    pub pads: (i64, i64),
}

impl WindowAxis {
    /// The elements from the first tap to the last.
    pub const fn extent(self) -> i64 {
        self.dilation * (self.kernel - 1) + 1
    }
}

/// The window of an operator, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The spatial axes.
    pub axes: Vec<WindowAxis>,
    /// How the borders follow from the input's size.
    pub auto_pad: AutoPad,
    /// Whether the output size is rounded up.
    pub ceil_mode: bool,
}

/// The size of an axis after a window moved over it, and the borders that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slid {
    /// The number of positions.
    pub output: Dim,
    /// The border at the begin.
    pub begin: Dim,
    /// The border at the end.
    pub end: Dim,
}

/// A list attribute that has one number an axis, or is absent.
fn per_axis(
    name: &str,
    values: &[i64],
    count: usize,
    default: i64,
    range: Range<i64>,
) -> Result<Vec<i64>, OpError> {
    if values.is_empty() {
        return Ok(vec![default; count]);
    }
    if values.len() != count {
        let reason = format!("has {} numbers where {count} belong", values.len());
        return Err(OpError::attribute(name, reason));
    }
    match values.iter().find(|value| !range.contains(value)) {
        Some(value) => bail_attribute!(name, "{value} is out of range"),
        None => Ok(values.to_vec()),
    }
}

impl Window {
    /// Checks attributes. `kernel` has the number of taps along each spatial axis.
    ///
    /// # Errors
    /// When a list has the wrong length, or a number is out of range.
    pub fn new(kernel: &[i64], attributes: WindowAttributes<'_>) -> Result<Self, OpError> {
        let rank = kernel.len();
        if rank == 0 {
            bail_attribute!("kernel_shape", "is empty");
        }
        let kernel = per_axis("kernel_shape", kernel, rank, 1, 1..LIMIT)?;
        let strides = per_axis("strides", attributes.strides, rank, 1, 1..LIMIT)?;
        let dilations = per_axis("dilations", attributes.dilations, rank, 1, 1..LIMIT)?;
        let pads = per_axis("pads", attributes.pads, 2 * rank, 0, 0..LIMIT)?;
        let axes = (0..rank).map(|axis| WindowAxis {
            kernel: kernel[axis],
            stride: strides[axis],
            dilation: dilations[axis],
            pads: (pads[axis], pads[rank + axis]),
        });
        Ok(Self {
            axes: axes.collect(),
            auto_pad: attributes.auto_pad,
            ceil_mode: attributes.ceil_mode,
        })
    }

    /// Moves the window over axis `axis` of size `input`.
    ///
    /// # Errors
    /// When the window is known to be larger than the axis with its borders.
    ///
    /// # Panics
    /// When the window has no such axis.
    pub fn slide(&self, axis: usize, input: &Dim) -> Result<Slid, OpError> {
        let window = self.axes[axis];
        let extent = window.extent();
        let (begin, end) = match self.auto_pad {
            AutoPad::NotSet => window.pads,
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper | AutoPad::SameLower => return Ok(self.slide_same(axis, input)),
        };
        let padded = input.clone().plus(begin);
        let room = padded.clone().plus(end).minus(extent);
        if room.known().is_some_and(|room| room < 0) {
            bail!(
                "a window of {extent} elements does not fit an axis of {input} with borders of {begin} and {end}"
            );
        }
        let steps = if self.ceil_mode && self.auto_pad == AutoPad::NotSet && window.stride > 1 {
            let last_inside = padded.minus(1_i64).floor_div(window.stride);
            room.ceil_div(window.stride).min(last_inside)
        } else {
            room.floor_div(window.stride)
        };
        Ok(Slid {
            output: steps.plus(1_i64),
            begin: begin.into(),
            end: end.into(),
        })
    }

    /// [`Window::slide`] with borders that give `ceil(input / stride)` positions.
    fn slide_same(&self, axis: usize, input: &Dim) -> Slid {
        let window = self.axes[axis];
        let output = input.clone().ceil_div(window.stride);
        let needed = if window.stride == 1 {
            Dim::Known(window.extent() - 1)
        } else {
            let covered = output
                .clone()
                .minus(1_i64)
                .times(window.stride)
                .plus(window.extent());
            covered.minus(input.clone()).max(0_i64)
        };
        let (small, large) = (needed.clone().floor_div(2_i64), needed.ceil_div(2_i64));
        let (begin, end) = match self.auto_pad {
            AutoPad::SameLower => (large, small),
            _ => (small, large),
        };
        Slid { output, begin, end }
    }

    /// Moves the window over axes of known sizes.
    ///
    /// # Errors
    /// When the number of axes differs, or the window does not fit.
    pub fn over(&self, input: &[usize]) -> Result<Vec<Slide>, OpError> {
        if input.len() != self.axes.len() {
            let (window, axes) = (self.axes.len(), input.len());
            bail!("a window of {window} axes moves over an input of {axes} spatial axes");
        }
        let axes = input.iter().enumerate().map(|(axis, &size)| {
            let slid = self.slide(axis, &Dim::from(size))?;
            let number = |dim: &Dim| {
                dim.size(&Symbols::new())
                    .map_err(|_| OpError::TooLarge(u128::MAX))
            };
            let window = self.axes[axis];
            Ok(Slide {
                input: size,
                output: number(&slid.output)?,
                kernel: window.kernel as usize,
                stride: window.stride as usize,
                dilation: window.dilation as usize,
                begin: number(&slid.begin)?,
                end: number(&slid.end)?,
            })
        });
        axes.collect()
    }
}

/// A window that moves over one axis of known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide {
    /// The size of the axis.
    pub input: usize,
    /// The number of positions of the window.
    pub output: usize,
    /// The number of taps.
    pub kernel: usize,
    /// The step between positions.
    pub stride: usize,
    /// The distance of the taps.
    pub dilation: usize,
    /// The border at the begin.
    pub begin: usize,
    /// The border at the end.
    pub end: usize,
}

impl Slide {
    /// The element under tap `tap` of the window at `position`; `None` in a border.
    pub fn element(&self, position: usize, tap: usize) -> Option<usize> {
        let element = (position * self.stride + tap * self.dilation).checked_sub(self.begin)?;
        (element < self.input).then_some(element)
    }

    /// The positions at which tap `tap` is over an element.
    pub fn positions(&self, tap: usize) -> Range<usize> {
        let offset = tap * self.dilation;
        let first = self.begin.saturating_sub(offset).div_ceil(self.stride);
        let past = (self.input + self.begin)
            .saturating_sub(offset)
            .div_ceil(self.stride);
        let past = past.min(self.output);
        first.min(past)..past
    }

    /// The taps that are over an element when the window is at `position`.
    pub fn taps(&self, position: usize) -> Range<usize> {
        let offset = position * self.stride;
        let first = self.begin.saturating_sub(offset).div_ceil(self.dilation);
        let past = self.taps_before(offset, self.input + self.begin);
        first.min(past)..past
    }

    /// The number of taps over an element or a border when the window is at `position`. In ceil mode some taps may be beyond both.
    pub fn taps_with_borders(&self, position: usize) -> usize {
        self.taps_before(position * self.stride, self.begin + self.input + self.end)
    }

    fn taps_before(&self, offset: usize, limit: usize) -> usize {
        limit
            .saturating_sub(offset)
            .div_ceil(self.dilation)
            .min(self.kernel)
    }
}

/// The indices of an index space of the given sizes, row-major, each passed to `visit`.
pub(crate) fn for_each_index(sizes: &[usize], mut visit: impl FnMut(&[usize])) {
    if sizes.contains(&0) {
        return;
    }
    let mut index = vec![0; sizes.len()];
    loop {
        visit(&index);
        let mut axis = sizes.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes<'a>() -> WindowAttributes<'a> {
        WindowAttributes {
            auto_pad: AutoPad::NotSet,
            dilations: &[],
            pads: &[],
            strides: &[],
            ceil_mode: false,
        }
    }

    #[test]
    fn taps_and_positions_agree_with_their_definition() {
        for (kernel, stride, dilation, begin, end, input) in [
            (3, 2, 1, 1, 1, 7),
            (3, 1, 2, 4, 0, 5),
            (2, 3, 5, 0, 3, 9),
            (1, 2, 1, 0, 0, 1),
            (5, 1, 1, 9, 9, 2),
        ] {
            let window = Window::new(
                &[kernel],
                WindowAttributes {
                    dilations: &[dilation],
                    pads: &[begin, end],
                    strides: &[stride],
                    ..attributes()
                },
            );
            let slide = window.unwrap().over(&[input]).unwrap()[0];
            for tap in 0..slide.kernel {
                let expected: Vec<_> = (0..slide.output)
                    .filter(|&o| slide.element(o, tap).is_some())
                    .collect();
                assert_eq!(
                    slide.positions(tap).collect::<Vec<_>>(),
                    expected,
                    "{slide:?} {tap}"
                );
            }
            for position in 0..slide.output {
                let expected: Vec<_> = (0..slide.kernel)
                    .filter(|&k| slide.element(position, k).is_some())
                    .collect();
                assert_eq!(
                    slide.taps(position).collect::<Vec<_>>(),
                    expected,
                    "{slide:?}"
                );
                assert_eq!(slide.taps_with_borders(position), slide.kernel);
            }
        }
    }

    #[test]
    fn ceil_mode_adds_no_window_that_begins_in_the_border() {
        let window = |pads| {
            let ceil = WindowAttributes {
                strides: &[2],
                pads,
                ceil_mode: true,
                ..attributes()
            };
            Window::new(&[3], ceil).unwrap()
        };
        assert_eq!(window(&[0, 0]).over(&[4]).unwrap()[0].output, 2);
        // ceil((2 + 2 - 2)/2) + 1 = 2, but (2 - 1)·2 lies behind the one element with its begin border.
        let tight = WindowAttributes {
            strides: &[2],
            pads: &[1, 1],
            ceil_mode: true,
            ..attributes()
        };
        assert_eq!(
            Window::new(&[2], tight).unwrap().over(&[1]).unwrap()[0].output,
            1
        );
        assert_eq!(
            window(&[1, 1]).over(&[4]).unwrap()[0].taps_with_borders(2),
            2
        );
    }

    #[test]
    fn same_borders_and_symbols() {
        let same = WindowAttributes {
            auto_pad: AutoPad::SameUpper,
            strides: &[2],
            ..attributes()
        };
        let slide = Window::new(&[3], same).unwrap().over(&[6]).unwrap()[0];
        assert_eq!((slide.output, slide.begin, slide.end), (3, 0, 1));
        let lower = WindowAttributes {
            auto_pad: AutoPad::SameLower,
            ..same
        };
        let slide = Window::new(&[3], lower).unwrap().over(&[6]).unwrap()[0];
        assert_eq!((slide.output, slide.begin, slide.end), (3, 1, 0));
        let plain = WindowAttributes {
            pads: &[1, 1],
            ..attributes()
        };
        let slid = Window::new(&[3], plain)
            .unwrap()
            .slide(0, &Dim::symbol("H"))
            .unwrap();
        assert_eq!(slid.output, Dim::symbol("H"));
    }

    #[test]
    fn bad_attributes_are_refused() {
        for bad in [
            WindowAttributes {
                strides: &[0],
                ..attributes()
            },
            WindowAttributes {
                strides: &[-1],
                ..attributes()
            },
            WindowAttributes {
                strides: &[1, 1],
                ..attributes()
            },
            WindowAttributes {
                dilations: &[0],
                ..attributes()
            },
            WindowAttributes {
                dilations: &[i64::MAX],
                ..attributes()
            },
            WindowAttributes {
                pads: &[1],
                ..attributes()
            },
            WindowAttributes {
                pads: &[0, -1],
                ..attributes()
            },
            WindowAttributes {
                pads: &[i64::MAX, i64::MAX],
                ..attributes()
            },
        ] {
            assert!(Window::new(&[3], bad).is_err(), "{bad:?}");
        }
        assert!(Window::new(&[], attributes()).is_err());
        assert!(Window::new(&[0], attributes()).is_err());
        assert!(Window::new(&[3], attributes()).unwrap().over(&[2]).is_err());
        assert!(
            Window::new(&[3], attributes())
                .unwrap()
                .over(&[2, 2])
                .is_err()
        );
    }
}
