//! Joining and dividing along an axis: ONNX `Concat` and `Split`.

use octofold_tensor::{Shape, Tensor};

use super::support::{
    checked_elements, copy_strided, elements_of, integer_list, map_data, map_tensors,
    normalize_axis, to_size,
};
use crate::{Inputs, OpError, Operator, attributes, bail, bail_attribute};

attributes! {
    /// Joins tensors along an axis (ONNX `Concat`), of any type.
    ///
    /// Inputs: one or more tensors of one type, whose shapes differ along the axis only. Output: the sum of the sizes there.
    "" "Concat" inputs(1..=usize::MAX)
    pub struct Concat {
        /// The axis, from -rank to rank - 1.
        axis: i64,
    }
}

impl Operator for Concat {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let tensors = (0..inputs.len())
            .map(|index| inputs.required(index))
            .collect::<Result<Vec<_>, _>>()?;
        let first = *tensors.first().ok_or(OpError::MissingInput(0))?;
        let axis = normalize_axis(self.axis, first.rank())?;
        let mut shape = Shape::from_slice(first.shape());
        shape[axis] = 0;
        for tensor in &tensors {
            let fits = tensor.rank() == first.rank()
                && (0..first.rank())
                    .all(|other| other == axis || tensor.shape()[other] == shape[other]);
            if !fits {
                bail!(
                    "{:?} and {:?} do not join along axis {axis}",
                    first.shape(),
                    tensor.shape()
                );
            }
            shape[axis] += tensor.shape()[axis];
        }
        let count = checked_elements(&shape)?;
        let outer = elements_of(&shape[..axis]);
        let blocks: Vec<usize> = tensors
            .iter()
            .map(|tensor| elements_of(&tensor.shape()[axis..]))
            .collect();
        let data = map_tensors!(&tensors, slices => {
            let mut out = Vec::with_capacity(count);
            for i in (0..outer).take(count) {
                for (slice, &block) in slices.iter().zip(&blocks) {
                    out.extend_from_slice(&slice[i * block..(i + 1) * block]);
                }
            }
            out
        });
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

attributes! {
    /// Divides a tensor along an axis (ONNX `Split`), of any type.
    ///
    /// Inputs: `x`, optional `split` `[int64]`, the size of each part, which add up to the size of the axis. Without it there are `num_outputs` parts of
    /// the same size, the last of which may be smaller. Outputs: the parts.
    "" "Split" inputs(1..=2) outputs(1..=Self::MAX_PARTS as usize)
    pub struct Split {
        /// The axis, from -rank to rank - 1.
        axis: i64 = 0,
        /// The number of parts of the same size, present when `split` is absent.
        num_outputs: Option<i64> = None,
    }
}

impl Split {
    /// The largest number of parts.
    pub const MAX_PARTS: i64 = 1 << 16;

    /// The sizes of `parts` parts of an axis of size `size`; all but the last are equal.
    ///
    /// # Errors
    /// When `parts` is not from 1 to [`Split::MAX_PARTS`].
    pub fn even(size: usize, parts: i64) -> Result<Vec<usize>, OpError> {
        if !(1..=Self::MAX_PARTS).contains(&parts) {
            bail_attribute!("num_outputs", "{parts} is out of range");
        }
        let part = size.div_ceil(parts as usize);
        let mut rest = size;
        Ok((0..parts)
            .map(|_| {
                let this = part.min(rest);
                rest -= this;
                this
            })
            .collect())
    }
}

impl Operator for Split {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let size = x.shape()[axis];
        let sizes = match (inputs.optional(1), self.num_outputs) {
            (Some(_), Some(_)) => {
                bail_attribute!("num_outputs", "does not go with the input `split`");
            }
            (None, None) => {
                bail_attribute!("num_outputs", "is missing, and so is the input `split`");
            }
            (None, Some(parts)) => Self::even(size, parts)?,
            (Some(split), None) => {
                let sizes = integer_list(split, 1)?
                    .into_iter()
                    .map(to_size)
                    .collect::<Result<Vec<_>, _>>()?;
                if sizes
                    .iter()
                    .try_fold(0_usize, |sum, &part| sum.checked_add(part))
                    != Some(size)
                {
                    bail!("the parts {sizes:?} do not add up to {size}");
                }
                sizes
            }
        };
        if sizes.len() < outputs {
            bail!("{} parts for {outputs} outputs", sizes.len());
        }
        let (outer, inner) = (
            elements_of(&x.shape()[..axis]),
            elements_of(&x.shape()[axis + 1..]),
        );
        let mut start = 0_usize;
        let mut parts = Vec::with_capacity(outputs);
        for part in sizes.into_iter().take(outputs) {
            // The products can overflow only when there are no elements.
            let strides = [size.wrapping_mul(inner) as isize, 1];
            let walk = [outer, part.saturating_mul(inner)];
            let first = start.wrapping_mul(inner) as isize;
            let data = map_data!(x.data(), values => copy_strided(values, first, &walk, &strides));
            let mut shape = Shape::from_slice(x.shape());
            shape[axis] = part;
            parts.push(Tensor::from_data(shape, data)?);
            start += part;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i32;
        Tensor::new(shape.iter().copied(), (0..count).collect()).unwrap()
    }

    fn concat(axis: i64, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
        let inputs: Vec<_> = inputs.iter().map(|&tensor| Some(tensor)).collect();
        Concat { axis }
            .evaluate(Inputs(&inputs), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn blocks_alternate() {
        let (a, b) = (counting(&[2, 1]), counting(&[2, 2]));
        let y = concat(-1, &[&a, &b]).unwrap();
        assert_eq!(y, Tensor::new([2, 3], vec![0, 0, 1, 1, 2, 3]).unwrap());
        let empty = Tensor::new([2, 0], Vec::<i32>::new()).unwrap();
        assert_eq!(concat(1, &[&empty, &b]).unwrap(), b);
        assert!(concat(0, &[&a, &b]).is_err());
        assert!(concat(2, &[&a, &b]).is_err());
        assert!(concat(0, &[&a, &Tensor::vector(vec![1_i64])]).is_err());
        assert!(concat(0, &[]).is_err());
        let floats = Tensor::new([2, 1], vec![0.0_f32; 2]).unwrap();
        assert!(matches!(
            concat(1, &[&a, &floats]),
            Err(OpError::InputType { index: 1, .. })
        ));
    }

    #[test]
    fn parts_follow_each_other() {
        let x = counting(&[2, 5]);
        let op = Split {
            axis: 1,
            num_outputs: Some(3),
        };
        let parts = op.evaluate(Inputs(&[Some(&x)]), 3).unwrap();
        assert_eq!(
            parts.iter().map(|part| part.shape()[1]).collect::<Vec<_>>(),
            [2, 2, 1]
        );
        assert_eq!(parts[1], Tensor::new([2, 2], vec![2, 3, 7, 8]).unwrap());
        let op = Split {
            axis: -1,
            num_outputs: None,
        };
        let split = Tensor::vector(vec![0_i64, 5]);
        let parts = op.evaluate(Inputs(&[Some(&x), Some(&split)]), 2).unwrap();
        assert_eq!((parts[0].shape(), &parts[1]), (&[2, 0][..], &x));
        for bad in [vec![2_i64, 2], vec![-1, 6], vec![i64::MAX, i64::MAX]] {
            assert!(
                op.evaluate(Inputs(&[Some(&x), Some(&Tensor::vector(bad))]), 2)
                    .is_err()
            );
        }
        let op = Split {
            axis: 1,
            num_outputs: Some(i64::MAX),
        };
        assert!(op.evaluate(Inputs(&[Some(&x)]), 2).is_err());
    }
}
