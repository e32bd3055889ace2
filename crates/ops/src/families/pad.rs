//! Borders: ONNX `Pad`.

use octofold_tensor::{Shape, Tensor, TensorData};

use super::support::{
    checked_elements, copy_strided, elements_of, expect_type, integer_list, map_data, map_tensors,
    normalize_axes, strides_of,
};
use crate::{Inputs, OpError, Operator, attributes, bail, word_attribute};

word_attribute! {
    /// What fills a border.
    pub enum PadMode {
        /// One value.
        Constant = "constant",
        /// The elements mirrored at the outermost one, which is not repeated.
        Reflect = "reflect",
        /// The outermost element.
        Edge = "edge",
        /// The elements of the other end.
        Wrap = "wrap",
    }
}

impl PadMode {
    /// The element, of `size` along an axis, that stands at `index`, which may be outside; `None` for a constant. Only a constant fills an axis without elements.
    pub fn source(self, index: i64, size: i64) -> Option<i64> {
        match self {
            _ if (0..size).contains(&index) => Some(index),
            Self::Constant => None,
            Self::Edge => Some(index.clamp(0, size - 1)),
            Self::Wrap => Some(index.rem_euclid(size)),
            Self::Reflect if size == 1 => Some(0),
            Self::Reflect => {
                let folded = index.rem_euclid(2 * (size - 1));
                Some(folded.min(2 * (size - 1) - folded))
            }
        }
    }
}

attributes! {
    /// Adds borders to a tensor, or takes them away (ONNX `Pad`), of any type.
    ///
    /// Inputs: `data`, `pads` `[2k]` (int64: before each of k axes, then after each; negative ones cut), optional `constant_value` (a scalar of the
    /// type of `data`, else zero, false or empty), optional `axes` `[k]` (all when absent). Output: sizes with the borders. What is cut is cut first, and
    /// does not show in the border.
    "" "Pad" inputs(2..=4)
    pub struct Pad {
        /// What fills the border.
        mode: PadMode = PadMode::Constant,
    }
}

impl Pad {
    /// The borders before and after every axis, from the lists of the operator.
    ///
    /// # Errors
    /// When the lists do not fit each other or the rank.
    pub fn borders(
        pads: &[i64],
        axes: Option<&[i64]>,
        rank: usize,
    ) -> Result<Vec<(i64, i64)>, OpError> {
        let axes = match axes {
            Some(axes) => normalize_axes(axes, rank)?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            bail!("{} pads for {} axes", pads.len(), axes.len());
        }
        let mut borders = vec![(0, 0); rank];
        for (i, &axis) in axes.iter().enumerate() {
            borders[axis] = (pads[i], pads[axes.len() + i]);
        }
        Ok(borders)
    }
}

/// `x` with a border of `before` and `after` elements along `axis`.
fn pad_axis(
    x: &Tensor,
    axis: usize,
    before: usize,
    after: usize,
    mode: PadMode,
    fill: &Tensor,
) -> Result<Tensor, OpError> {
    let size = x.shape()[axis];
    let mut shape = Shape::from_slice(x.shape());
    shape[axis] = size + before + after;
    let count = checked_elements(&shape)?;
    if size == 0 && mode != PadMode::Constant && count > 0 {
        bail!("axis {axis} has no elements to fill its border with");
    }
    let (outer, inner) = (elements_of(&shape[..axis]), elements_of(&shape[axis + 1..]));
    let data = map_tensors!(&[x, fill], slices => {
        let [values, fill] = [slices[0], slices[1]];
        let mut out = Vec::with_capacity(count);
        for i in (0..outer).take(count) {
            let block = &values[i * size * inner..(i + 1) * size * inner];
            let border = |out: &mut Vec<_>, indices: std::ops::Range<i64>| {
                for index in indices {
                    match mode.source(index, size as i64) {
                        None => out.extend(std::iter::repeat_n(&fill[0], inner).cloned()),
                        Some(source) => {
                            let start = source as usize * inner;
                            out.extend_from_slice(&block[start..start + inner]);
                        }
                    }
                }
            };
            border(&mut out, -(before as i64)..0);
            out.extend_from_slice(block);
            border(&mut out, size as i64..(size + after) as i64);
        }
        out
    });
    Ok(Tensor::from_data(shape, data)?)
}

impl Operator for Pad {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axes = inputs
            .optional(3)
            .map(|axes| integer_list(axes, 3))
            .transpose()?;
        let borders = Self::borders(
            &integer_list(inputs.required(1)?, 1)?,
            axes.as_deref(),
            x.rank(),
        )?;
        let fill = match inputs.optional(2) {
            Some(fill) if fill.len() == 1 => fill.clone(),
            Some(fill) => {
                bail!("constant_value holds {} elements, not one", fill.len());
            }
            None => Tensor::zeros(x.dtype(), [1])?,
        };
        expect_type(&fill, 2, x.dtype())?;
        // Everything is checked before anything is made: what is left after cutting, and the sizes with borders.
        let (mut cut, mut padded) = (Shape::new(), Shape::new());
        let mut offset = 0_isize;
        for ((&size, &(before, after)), stride) in
            x.shape().iter().zip(&borders).zip(strides_of(x.shape()))
        {
            let size = i128::from(size as u64);
            let left = size + i128::from(before.min(0)) + i128::from(after.min(0));
            let total = left + i128::from(before.max(0)) + i128::from(after.max(0));
            let (Ok(left), Ok(total)) = (usize::try_from(left), usize::try_from(total)) else {
                bail!("pads {before} and {after} do not fit size {size}");
            };
            cut.push(left);
            padded.push(total);
            offset += before.min(0).unsigned_abs() as isize * stride;
        }
        checked_elements(&padded)?;
        let mut y = if cut.as_slice() == x.shape() {
            x.clone()
        } else {
            let data: TensorData = map_data!(x.data(), values => copy_strided(values, offset, &cut, &strides_of(x.shape())));
            Tensor::from_data(cut, data)?
        };
        for (axis, &(before, after)) in borders.iter().enumerate() {
            let (before, after) = (before.max(0) as usize, after.max(0) as usize);
            if before + after > 0 {
                y = pad_axis(&y, axis, before, after, self.mode, &fill)?;
            }
        }
        Ok(vec![y])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pad(
        mode: PadMode,
        x: &Tensor,
        pads: &[i64],
        axes: Option<&[i64]>,
    ) -> Result<Tensor, OpError> {
        let pads = Tensor::vector(pads.to_vec());
        let axes = axes.map(|axes| Tensor::vector(axes.to_vec()));
        let inputs = [Some(x), Some(&pads), None, axes.as_ref()];
        Pad { mode }
            .evaluate(Inputs(&inputs), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn row(mode: PadMode, pads: [i64; 2]) -> Vec<i32> {
        let x = Tensor::vector(vec![1, 2, 3]);
        pad(mode, &x, &pads, None)
            .unwrap()
            .values::<i32>()
            .unwrap()
            .to_vec()
    }

    #[test]
    fn borders_follow_the_mode() {
        assert_eq!(row(PadMode::Constant, [1, 2]), [0, 1, 2, 3, 0, 0]);
        assert_eq!(row(PadMode::Edge, [1, 2]), [1, 1, 2, 3, 3, 3]);
        assert_eq!(row(PadMode::Reflect, [2, 1]), [3, 2, 1, 2, 3, 2]);
        assert_eq!(row(PadMode::Reflect, [5, 0]), [2, 1, 2, 3, 2, 1, 2, 3]);
        assert_eq!(row(PadMode::Wrap, [2, 4]), [2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(row(PadMode::Constant, [-1, 1]), [2, 3, 0]);
        assert_eq!(row(PadMode::Edge, [-1, 1]), [2, 3, 3]);
    }

    #[test]
    fn axes_are_filled_one_by_one() {
        let x = Tensor::new([2, 2], vec![1, 2, 3, 4]).unwrap();
        let y = pad(PadMode::Constant, &x, &[1, 0, 0, 1], None).unwrap();
        assert_eq!(
            y,
            Tensor::new([3, 3], vec![0, 0, 0, 1, 2, 0, 3, 4, 0]).unwrap()
        );
        let y = pad(PadMode::Edge, &x, &[1, 0], Some(&[-1])).unwrap();
        assert_eq!(y, Tensor::new([2, 3], vec![1, 1, 2, 3, 3, 4]).unwrap());
        let empty = Tensor::new([2, 0], Vec::<i32>::new()).unwrap();
        assert_eq!(
            pad(PadMode::Constant, &empty, &[0, 1, 0, 0], None).unwrap(),
            Tensor::new([2, 1], vec![0, 0]).unwrap()
        );
        assert!(pad(PadMode::Edge, &empty, &[0, 1, 0, 0], None).is_err());
    }

    #[test]
    fn absurd_borders_are_refused() {
        let x = Tensor::vector(vec![1, 2, 3]);
        for bad in [
            &[1][..],
            &[-2, -2],
            &[i64::MAX, i64::MAX],
            &[i64::MIN, 0],
            &[1 << 40, 0],
            &[0, 0, 0, 0],
        ] {
            assert!(pad(PadMode::Constant, &x, bad, None).is_err(), "{bad:?}");
        }
        let huge = Tensor::new([0, 1], Vec::<i32>::new()).unwrap();
        assert!(pad(PadMode::Edge, &huge, &[0, 1 << 40, 0, 0], None).is_ok());
        let fill = Tensor::scalar(1.0_f32);
        let pads = Tensor::vector(vec![1_i64, 1]);
        let inputs = [Some(&x), Some(&pads), Some(&fill)];
        assert!(matches!(
            Pad {
                mode: PadMode::Constant
            }
            .evaluate(Inputs(&inputs), 1),
            Err(OpError::InputType { index: 2, .. })
        ));
    }
}
