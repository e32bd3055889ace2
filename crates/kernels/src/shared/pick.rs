//! Elements that computed indices pick along an axis: ONNX `GatherElements`.
//!
//! `output[i…, j, k…] = data[i…, indices[i…, j, k…], k…]`, where `j` is the position on the axis. Indices below zero count from the end of the axis. Along other axes,
//! the result may be shorter than the data.

use std::ops::Range;

use super::{check_range, product};
use crate::KernelError;
use crate::error::check_len;

/// The sizes of a pick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// For each axis: the size of the data, and that of the indices and the result.
    axes: Vec<[usize; 2]>,
    /// The axis of the indices.
    axis: usize,
}

/// An integer that picks.
pub trait Index: Copy {
    /// The number, without loss.
    fn number(self) -> i64;
}

impl Index for i64 {
    fn number(self) -> i64 {
        self
    }
}

impl Index for i32 {
    fn number(self) -> i64 {
        self.into()
    }
}

impl Pick {
    /// From data of shape `data` along `axis`, by indices of shape `indices`.
    ///
    /// # Errors
    /// For shapes of different ranks or of no axes, an axis that does not exist, indices that are longer than the data along another axis, and sizes that are too large.
    pub fn new(data: &[usize], indices: &[usize], axis: usize) -> Result<Self, KernelError> {
        if data.len() != indices.len() || axis >= data.len() {
            return Err(KernelError::Shape("data and indices have the same axes"));
        }
        let axes: Vec<[usize; 2]> = (data.iter().zip(indices)).map(|(&x, &i)| [x, i]).collect();
        let longer = |(other, &[x, i]): (usize, &[usize; 2])| other != axis && i > x;
        if axes.iter().enumerate().any(longer) {
            return Err(KernelError::Shape("there are more indices than data"));
        }
        product("the data", data)?;
        product("the indices", indices)?;
        Ok(Self { axes, axis })
    }

    /// The number of rows of the result, along its last axis.
    pub fn rows(&self) -> usize {
        let outer = &self.axes[..self.axes.len() - 1];
        outer.iter().map(|axis| axis[1]).product()
    }

    /// The number of elements of a row of the result.
    pub fn width(&self) -> usize {
        self.axes[self.axes.len() - 1][1]
    }

    /// Computes some rows of the result; `indices` and `output` have these rows only.
    ///
    /// # Errors
    /// For lengths that do not fit, and for an index outside of the axis.
    pub fn run<T: Copy, I: Index>(
        &self,
        data: &[T],
        indices: &[I],
        rows: Range<usize>,
        output: &mut [T],
    ) -> Result<(), KernelError> {
        check_range("rows", &rows, self.rows())?;
        let len = self.axes.iter().map(|axis| axis[0]).product();
        check_len("the data", len, data.len())?;
        check_len("the indices", rows.len() * self.width(), indices.len())?;
        check_len("the output", indices.len(), output.len())?;
        let size = self.axes[self.axis][0] as i64;
        // All are checked before the first element is written, in a loop that is vectorized.
        let outside = |i: &I| i.number() < -size || i.number() >= size;
        if indices.iter().fold(false, |any, i| any | outside(i)) {
            let first = indices.iter().find(|i| outside(i));
            return Err(KernelError::Value {
                what: "an index",
                value: first.map_or(size, |i| i.number()),
                min: -size,
                max: size - 1,
            });
        }
        let width = self.width().max(1);
        let last = self.axis + 1 == self.axes.len();
        let stride: usize = self.axes[self.axis + 1..]
            .iter()
            .map(|axis| axis[0])
            .product();
        let rows = rows
            .zip(indices.chunks_exact(width))
            .zip(output.chunks_exact_mut(width));
        for ((row, indices), output) in rows {
            let data = &data[self.start(row)..];
            for (k, (i, y)) in indices.iter().zip(output).enumerate() {
                let i = i.number();
                let place = if i < 0 { i + size } else { i } as usize * stride;
                *y = data[if last { place } else { place + k }];
            }
        }
        Ok(())
    }

    /// The place in the data of a row's first element, at the beginning of the axis.
    fn start(&self, row: usize) -> usize {
        let (mut rest, mut start) = (row, 0);
        let mut stride = self.axes[self.axes.len() - 1][0];
        for (axis, &[data, indices]) in self.axes.iter().enumerate().rev().skip(1) {
            if axis != self.axis {
                start += rest % indices * stride;
            }
            rest /= indices;
            stride *= data;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::Random;

    /// The definition, by multi-indices.
    fn expected(data: &[usize], indices: &[usize], axis: usize, x: &[u16], i: &[i64]) -> Vec<u16> {
        let at = |flat: usize| {
            let (mut rest, mut place, mut stride) = (flat, 0, 1);
            for other in (0..data.len()).rev() {
                let own = match other == axis {
                    true => i[flat].rem_euclid(data[axis] as i64) as usize,
                    false => rest % indices[other],
                };
                rest /= indices[other];
                place += own * stride;
                stride *= data[other];
            }
            x[place]
        };
        (0..i.len()).map(at).collect()
    }

    #[test]
    fn elements_are_picked_along_any_axis() {
        let mut random = Random::new(3);
        for (data, indices) in [
            (&[7][..], &[9][..]),
            (&[3, 5], &[2, 9]),
            (&[3, 5], &[8, 4]),
            (&[2, 3, 4], &[2, 3, 4]),
            (&[4, 3, 2, 5], &[4, 1, 2, 5]),
            (&[4, 3, 1], &[0, 2, 1]),
        ] {
            let x: Vec<u16> = (0..data.iter().product::<usize>())
                .map(|i| i as u16)
                .collect();
            for axis in 0..data.len() {
                let Ok(pick) = Pick::new(data, indices, axis) else {
                    continue;
                };
                let (size, count) = (data[axis] as i64, indices.iter().product::<usize>());
                let i: Vec<i64> = (random.bytes(count).iter())
                    .map(|&byte| i64::from(byte) % (2 * size) - size)
                    .collect();
                let expected = expected(data, indices, axis, &x, &i);
                let mut output = vec![u16::MAX; count];
                pick.run(&x, &i, 0..pick.rows(), &mut output).unwrap();
                assert_eq!(output, expected, "{data:?} {indices:?} {axis}");
                let narrow: Vec<i32> = i.iter().map(|&i| i as i32).collect();
                output.fill(u16::MAX);
                for row in 0..pick.rows() {
                    let part = row * pick.width()..(row + 1) * pick.width();
                    let output = &mut output[part.clone()];
                    pick.run(&x, &narrow[part], row..row + 1, output).unwrap();
                }
                assert_eq!(output, expected, "{data:?} {indices:?} {axis} by rows");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Pick::new(&[2, 3], &[2], 0).is_err());
        assert!(Pick::new(&[2, 3], &[2, 3], 2).is_err());
        assert!(Pick::new(&[], &[], 0).is_err());
        assert!(Pick::new(&[2, 3], &[2, 4], 0).is_err());
        let pick = Pick::new(&[2, 3], &[1, 3], 0).unwrap();
        let x = [1_u8; 6];
        for outside in [2, -3, i64::MAX, i64::MIN] {
            let mut output = [9; 3];
            assert!(pick.run(&x, &[0, outside, 0], 0..1, &mut output).is_err());
            assert_eq!(output, [9; 3]);
        }
        assert!(pick.run(&x[1..], &[0_i64; 3], 0..1, &mut [0; 3]).is_err());
        assert!(pick.run(&x, &[0_i64; 2], 0..1, &mut [0; 3]).is_err());
        assert!(pick.run(&x, &[0_i64; 3], 0..2, &mut [0; 3]).is_err());
        assert!(pick.run(&x, &[0_i64; 3], 0..1, &mut [0; 2]).is_err());
    }
}
