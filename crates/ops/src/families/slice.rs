//! Cutting out with steps: ONNX `Slice`.

use octofold_tensor::{Shape, Tensor};

use super::support::{
    copy_strided, from_front, integer_list, map_data, normalize_axes, strides_of,
};
use crate::{Inputs, OpError, Operator, attributes, bail};

attributes! {
    /// Cuts a range with a step out of each of some axes (ONNX `Slice`), of any type.
    ///
    /// Inputs: `data`, `starts`, `ends`, optional `axes` (the first ones when absent), optional `steps` (1 when absent), lists of one length of
    /// int64 or int32. Starts and ends may count from the back, and are cut to the range of the axis; a negative step walks backwards. Output: the rank of
    /// `data`.
    "" "Slice" inputs(3..=5)
    pub struct Slice {}
}

impl Slice {
    /// The first index and the number of indices that `start..end` with a step selects from an axis of size `size`.
    ///
    /// # Errors
    /// When the step is 0.
    pub fn range(start: i64, end: i64, step: i64, size: i64) -> Result<(i64, i64), OpError> {
        let (low, high) = match step {
            0 => bail!("a slice with step 0"),
            1.. => (0, size),
            _ => (-1, size - 1),
        };
        let start = from_front(start, size).clamp(low.max(0).min(high), high);
        let end = from_front(end, size).clamp(low, high);
        let distance = if step > 0 { end - start } else { start - end };
        let count = if distance <= 0 {
            0
        } else {
            (distance as u64).div_ceil(step.unsigned_abs()) as i64
        };
        Ok((start, count))
    }

    /// The lists `starts`, `ends`, `axes` (from the front) and `steps`, with defaults filled in.
    ///
    /// # Errors
    /// When lengths differ or an axis is out of range or there twice.
    pub fn lists(
        starts: &[i64],
        ends: &[i64],
        axes: Option<&[i64]>,
        steps: Option<&[i64]>,
        rank: usize,
    ) -> Result<Vec<(usize, i64, i64, i64)>, OpError> {
        let count = starts.len();
        let lengths = [
            ends.len(),
            axes.map_or(count, <[i64]>::len),
            steps.map_or(count, <[i64]>::len),
        ];
        if lengths.iter().any(|&length| length != count) {
            bail!("{count} starts do not go with lists of lengths {lengths:?}");
        }
        let axes = match axes {
            Some(axes) => normalize_axes(axes, rank)?,
            None if count <= rank => (0..count).collect(),
            None => bail!("{count} starts for rank {rank}"),
        };
        let step = |i: usize| steps.map_or(1, |steps| steps[i]);
        Ok(axes
            .into_iter()
            .enumerate()
            .map(|(i, axis)| (axis, starts[i], ends[i], step(i)))
            .collect())
    }
}

impl Operator for Slice {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let list = |index| integer_list(inputs.required(index)?, index);
        let optional = |index| {
            inputs
                .optional(index)
                .map(|list| integer_list(list, index))
                .transpose()
        };
        let (axes, steps) = (optional(3)?, optional(4)?);
        let lists = Self::lists(
            &list(1)?,
            &list(2)?,
            axes.as_deref(),
            steps.as_deref(),
            x.rank(),
        )?;
        let mut shape = Shape::from_slice(x.shape());
        let mut strides = strides_of(x.shape());
        let mut offset = 0;
        for (axis, start, end, step) in lists {
            let (start, count) = Self::range(start, end, step, shape[axis] as i64)?;
            // The stride of an axis of fewer than two indices is not used, and only a large step can overflow.
            if count > 0 {
                offset += start as isize * strides[axis];
            }
            strides[axis] = strides[axis].wrapping_mul(step as isize);
            shape[axis] = count as usize;
        }
        let data = map_data!(x.data(), values => copy_strided(values, offset, &shape, &strides));
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(x: &Tensor, lists: [Option<&[i64]>; 4]) -> Result<Tensor, OpError> {
        let lists = lists.map(|list| list.map(|list| Tensor::vector(list.to_vec())));
        let inputs = [
            Some(x),
            lists[0].as_ref(),
            lists[1].as_ref(),
            lists[2].as_ref(),
            lists[3].as_ref(),
        ];
        Slice {}
            .evaluate(Inputs(&inputs), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i32;
        Tensor::new(shape.iter().copied(), (0..count).collect()).unwrap()
    }

    #[test]
    fn ranges_are_cut_to_the_axis() {
        for size in 0..5_i64 {
            for start in -7..8 {
                for end in -7..8 {
                    for step in [-3, -1, 1, 2, i64::MAX, i64::MIN] {
                        let (first, count) = Slice::range(start, end, step, size).unwrap();
                        // The definition: walk from the start, as long as the index is before the end. Unlike Python, ONNX cuts a start before the
                        // axis to its first element, also when the step is negative.
                        let at = |index: i64| if index < 0 { index + size } else { index };
                        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
                        let from = at(start).clamp(low.max(0).min(high), high);
                        let (mut index, end) =
                            (i128::from(from), i128::from(at(end).clamp(low, high)));
                        let mut walked = Vec::new();
                        while if step > 0 { index < end } else { index > end } {
                            walked.push(index);
                            index += i128::from(step);
                        }
                        assert_eq!(
                            count as usize,
                            walked.len(),
                            "{start}..{end} by {step} of {size}"
                        );
                        if let Some(&begin) = walked.first() {
                            assert_eq!(i128::from(first), begin);
                        }
                    }
                }
            }
        }
        assert!(Slice::range(0, 1, 0, 5).is_err());
        assert_eq!(Slice::range(i64::MIN, i64::MAX, 1, 5), Ok((0, 5)));
        assert_eq!(Slice::range(i64::MAX, i64::MIN, -1, 5), Ok((4, 5)));
    }

    #[test]
    fn axes_are_cut_one_by_one() {
        let x = counting(&[3, 4]);
        let y = slice(
            &x,
            [Some(&[1, 0]), Some(&[3, 3]), Some(&[0, 1]), Some(&[1, 2])],
        )
        .unwrap();
        assert_eq!(y, Tensor::new([2, 2], vec![4, 6, 8, 10]).unwrap());
        let y = slice(
            &x,
            [Some(&[-1]), Some(&[i64::MIN]), Some(&[-1]), Some(&[-2])],
        )
        .unwrap();
        assert_eq!(y, Tensor::new([3, 2], vec![3, 1, 7, 5, 11, 9]).unwrap());
        let y = slice(&x, [Some(&[2]), Some(&[1]), None, None]).unwrap();
        assert_eq!(y.shape(), [0, 4]);
        let y = slice(&x, [Some(&[1]), Some(&[9]), Some(&[1]), Some(&[i64::MAX])]).unwrap();
        assert_eq!(y, Tensor::new([3, 1], vec![1, 5, 9]).unwrap());
        assert!(slice(&x, [Some(&[0]), Some(&[1]), Some(&[2]), None]).is_err());
        assert!(slice(&x, [Some(&[0, 0]), Some(&[1]), None, None]).is_err());
        assert!(slice(&x, [Some(&[0, 0]), Some(&[1, 1]), Some(&[1, 1]), None]).is_err());
        assert!(slice(&x, [Some(&[0; 3]), Some(&[1; 3]), None, None]).is_err());
    }
}
