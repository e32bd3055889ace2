//! Reading and writing by index: ONNX `Gather`, `GatherElements`, `GatherND`, `ScatterND` and `ScatterElements`.
//!
//! Indices are int64 or int32; negative ones count from the back, and one out of range is an error.

use octofold_tensor::{Elements, Shape, Tensor};

use super::number::{Number, for_numbers};
use super::support::{
    checked_elements, elements_of, expect_type, for_each_run, from_front, integers, map_data,
    map_tensors, normalize_axis, pick, strides_of, wrong_type,
};
use crate::{Inputs, OpError, Operator, attributes, bail, word_attribute};

/// An index in `-size..size`, counted from the front.
fn position(index: i64, size: usize) -> Result<usize, OpError> {
    match usize::try_from(from_front(index, size as i64)) {
        Ok(position) if position < size => Ok(position),
        _ => bail!("index {index} is out of range for size {size}"),
    }
}

attributes! {
    /// Selects slices along an axis (ONNX `Gather`), of any type.
    ///
    /// Inputs: `data` of rank r, `indices` of rank q. Output: the shape of `data` with that of `indices` in the place of the axis, of rank r + q - 1.
    "" "Gather" inputs(2..=2)
    pub struct Gather {
        /// The axis, from -r to r - 1.
        axis: i64 = 0,
    }
}

impl Operator for Gather {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (inputs.required(0)?, inputs.required(1)?);
        let axis = normalize_axis(self.axis, x.rank())?;
        let size = x.shape()[axis];
        let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
        let shape: Shape = before
            .iter()
            .chain(indices.shape())
            .chain(after)
            .copied()
            .collect();
        let count = checked_elements(&shape)?;
        let positions = integers(indices, 1)?
            .into_iter()
            .map(|index| position(index, size));
        let positions = positions.collect::<Result<Vec<_>, _>>()?;
        let (outer, inner) = (elements_of(before), elements_of(after));
        let data = map_data!(x.data(), values => {
            let mut out = Vec::with_capacity(count);
            for i in (0..outer).take(count) {
                for &position in &positions {
                    let start = (i * size + position) * inner;
                    out.extend_from_slice(&values[start..start + inner]);
                }
            }
            out
        });
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

/// For each element of `indices`, row-major, a position in a tensor of `shape`: the coordinates of the element, with the index in place of the coordinate along `axis`.
fn element_offsets(shape: &[usize], indices: &Tensor, axis: usize) -> Result<Vec<usize>, OpError> {
    let fits = indices.rank() == shape.len()
        && (0..shape.len()).all(|other| other == axis || indices.shape()[other] <= shape[other]);
    if !fits {
        bail!(
            "indices {:?} do not fit {shape:?} along axis {axis}",
            indices.shape()
        );
    }
    let list = integers(indices, 1)?;
    let mut strides = strides_of(shape);
    let along = strides[axis] as usize;
    strides[axis] = 0;
    let mut offsets = Vec::with_capacity(list.len());
    let mut result = Ok(());
    for_each_run(indices.shape(), [&strides], |[offset], count, [step]| {
        for i in 0..count as isize {
            match position(list[offsets.len()], shape[axis]) {
                Ok(position) => offsets.push((offset + i * step) as usize + position * along),
                Err(error) => {
                    result = Err(error);
                    offsets.push(0);
                }
            }
        }
    });
    result.map(|()| offsets)
}

attributes! {
    /// Selects one element for each index along an axis (ONNX `GatherElements`), of any type.
    ///
    /// Inputs: `data`, `indices` of the same rank, whose sizes are not larger except along the axis. Output: the shape of `indices`.
    "" "GatherElements" inputs(2..=2)
    pub struct GatherElements {
        /// The axis, from -rank to rank - 1.
        axis: i64 = 0,
    }
}

impl Operator for GatherElements {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (inputs.required(0)?, inputs.required(1)?);
        let axis = normalize_axis(self.axis, x.rank())?;
        let offsets = element_offsets(x.shape(), indices, axis)?;
        let data = map_data!(x.data(), values => pick(values, &offsets));
        Ok(vec![Tensor::from_data(
            indices.shape().iter().copied(),
            data,
        )?])
    }
}

/// For each tuple of `indices` (its last axis), the beginning of the slice that it selects from a tensor of `shape`. The first `batch` axes of both are the same.
/// Also returns the shape of the slices.
fn tuple_offsets<'a>(
    shape: &'a [usize],
    indices: &Tensor,
    batch: usize,
) -> Result<(Vec<usize>, &'a [usize]), OpError> {
    let fail = || {
        OpError::invalid(format!(
            "indices {:?} do not fit {shape:?}",
            indices.shape()
        ))
    };
    let (&length, tuples) = indices.shape().split_last().ok_or_else(fail)?;
    if length == 0
        || batch > tuples.len()
        || batch > shape.len()
        || shape[..batch] != tuples[..batch]
    {
        return Err(fail());
    }
    let (named, slice) = shape[batch..].split_at_checked(length).ok_or_else(fail)?;
    let strides = strides_of(shape);
    let per_batch = elements_of(&tuples[batch..]);
    let list = integers(indices, 1)?;
    let mut offsets = Vec::with_capacity(elements_of(tuples));
    for tuple in 0..elements_of(tuples) {
        let mut offset = (tuple / per_batch) * elements_of(&shape[batch..]);
        for (i, &size) in named.iter().enumerate() {
            offset += position(list[tuple * length + i], size)? * strides[batch + i] as usize;
        }
        offsets.push(offset);
    }
    Ok((offsets, slice))
}

attributes! {
    /// Selects slices by tuples of indices (ONNX `GatherND`), of any type.
    ///
    /// Inputs: `data` of rank r, `indices` [..., k], tuples for the k axes after the batch axes, whose sizes both share. Output: the shape of `indices` without its last axis,
    /// then that of the slices.
    "" "GatherND" inputs(2..=2)
    pub struct GatherND {
        /// The number of batch axes, from 0.
        batch_dims: i64 = 0,
    }
}

impl Operator for GatherND {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (inputs.required(0)?, inputs.required(1)?);
        let batch = usize::try_from(self.batch_dims);
        let batch = batch.map_err(|_| {
            OpError::attribute("batch_dims", format!("{} is negative", self.batch_dims))
        })?;
        let (offsets, slice) = tuple_offsets(x.shape(), indices, batch)?;
        let tuples = &indices.shape()[..indices.rank() - 1];
        let shape: Shape = tuples.iter().chain(slice).copied().collect();
        let (count, block) = (checked_elements(&shape)?, elements_of(slice));
        let data = map_data!(x.data(), values => {
            let mut out = Vec::with_capacity(count);
            for &offset in &offsets {
                out.extend_from_slice(&values[offset..offset + block]);
            }
            out
        });
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

word_attribute! {
    /// How a scattered update changes an element.
    pub enum ScatterReduction {
        /// The update replaces the element; the last of several updates wins.
        None = "none",
        /// The sum of both.
        Add = "add",
        /// The product of both.
        Mul = "mul",
        /// The larger of both.
        Max = "max",
        /// The smaller of both.
        Min = "min",
    }
}

/// A copy of `data` with blocks of `updates` written at `offsets`, one after another.
fn scatter(
    data: &Tensor,
    updates: &Tensor,
    offsets: &[usize],
    block: usize,
    reduction: ScatterReduction,
) -> Result<Tensor, OpError> {
    fn combined<T: Number>(
        (data, values): (&Tensor, &[T]),
        updates: &Tensor,
        offsets: &[usize],
        block: usize,
        combine: fn(T, T) -> T,
    ) -> Result<Tensor, OpError> {
        let mut out = values.to_vec();
        let updates = updates.values::<T>()?;
        for (&offset, update) in offsets.iter().zip(updates.chunks_exact(block.max(1))) {
            for (element, &update) in out[offset..offset + block].iter_mut().zip(update) {
                *element = combine(*element, update);
            }
        }
        Ok(Tensor::from_data(
            data.shape().iter().copied(),
            T::wrap(Elements::new(out)),
        )?)
    }
    expect_type(updates, 2, data.dtype())?;
    if reduction == ScatterReduction::None {
        let written = map_tensors!(&[data, updates], slices => {
            let mut out = slices[0].to_vec();
            for (&offset, update) in offsets.iter().zip(slices[1].chunks_exact(block.max(1))) {
                out[offset..offset + block].clone_from_slice(update);
            }
            out
        });
        return Ok(Tensor::from_data(data.shape().iter().copied(), written)?);
    }
    for_numbers!(numeric data.data(), values => {
        let combine = match reduction {
            ScatterReduction::None => |_, update| update,
            ScatterReduction::Add => Number::add,
            ScatterReduction::Mul => Number::mul,
            ScatterReduction::Max => Number::max_nan,
            ScatterReduction::Min => Number::min_nan,
        };
        combined((data, values), updates, offsets, block, combine)
    }, else Err(wrong_type(data, 0, "a numeric type")))
}

attributes! {
    /// Writes slices at tuples of indices (ONNX `ScatterND`), of any type; reductions of any numeric type.
    ///
    /// Inputs: `data` of rank r, `indices` [..., k], `updates`: the shape of `indices` without its last axis, then the last r - k sizes of `data`.
    /// Output: `data` with the updates.
    "" "ScatterND" inputs(3..=3)
    pub struct ScatterND {
        /// What an update does to the element that is there.
        reduction: ScatterReduction = ScatterReduction::None,
    }
}

impl Operator for ScatterND {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, updates) = (
            inputs.required(0)?,
            inputs.required(1)?,
            inputs.required(2)?,
        );
        let (offsets, slice) = tuple_offsets(x.shape(), indices, 0)?;
        let tuples = &indices.shape()[..indices.rank() - 1];
        if !updates.shape().iter().eq(tuples.iter().chain(slice)) {
            bail!(
                "updates {:?} do not fit indices {:?} and data {:?}",
                updates.shape(),
                indices.shape(),
                x.shape()
            );
        }
        Ok(vec![scatter(
            x,
            updates,
            &offsets,
            elements_of(slice),
            self.reduction,
        )?])
    }
}

attributes! {
    /// Writes one element for each index along an axis (ONNX `ScatterElements`), of any type; reductions of any numeric type.
    ///
    /// Inputs: `data`, `indices` of the same rank, whose sizes are not larger except along the axis, and `updates` of the shape of `indices`. Output: `data`
    /// with the updates.
    "" "ScatterElements" inputs(3..=3)
    pub struct ScatterElements {
        /// The axis, from -rank to rank - 1.
        axis: i64 = 0,
        /// What an update does to the element that is there.
        reduction: ScatterReduction = ScatterReduction::None,
    }
}

impl Operator for ScatterElements {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, indices, updates) = (
            inputs.required(0)?,
            inputs.required(1)?,
            inputs.required(2)?,
        );
        let axis = normalize_axis(self.axis, x.rank())?;
        if indices.shape() != updates.shape() {
            bail!(
                "indices {:?} and updates {:?} differ in shape",
                indices.shape(),
                updates.shape()
            );
        }
        let offsets = element_offsets(x.shape(), indices, axis)?;
        Ok(vec![scatter(x, updates, &offsets, 1, self.reduction)?])
    }
}

#[cfg(test)]
mod tests {
    use octofold_tensor::Element;

    use super::*;

    fn run(op: &impl Operator, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
        let inputs: Vec<_> = inputs.iter().map(|&tensor| Some(tensor)).collect();
        op.evaluate(Inputs(&inputs), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
        Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
    }

    #[test]
    fn slices_are_selected() {
        let x = tensor(&[3, 2], &[1, 2, 3, 4, 5, 6]);
        let y = run(&Gather { axis: 0 }, &[&x, &tensor(&[2, 1], &[-1_i64, 0])]).unwrap();
        assert_eq!(y, tensor(&[2, 1, 2], &[5, 6, 1, 2]));
        let y = run(&Gather { axis: 1 }, &[&x, &Tensor::scalar(1_i32)]).unwrap();
        assert_eq!(y, tensor(&[3], &[2, 4, 6]));
        assert!(run(&Gather { axis: 0 }, &[&x, &Tensor::scalar(3_i64)]).is_err());
        assert!(run(&Gather { axis: 0 }, &[&x, &Tensor::scalar(i64::MIN)]).is_err());
        assert!(run(&Gather { axis: 0 }, &[&x, &Tensor::scalar(0.0_f32)]).is_err());
        assert!(
            run(
                &Gather { axis: 0 },
                &[&Tensor::scalar(1), &Tensor::scalar(0_i64)]
            )
            .is_err()
        );
    }

    #[test]
    fn elements_are_selected_and_written() {
        let x = tensor(&[3, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let indices = tensor(&[2, 3], &[1_i64, 2, 0, -1, 0, 0]);
        let y = run(&GatherElements { axis: 0 }, &[&x, &indices]).unwrap();
        assert_eq!(y, tensor(&[2, 3], &[4, 8, 3, 7, 2, 3]));
        let add = ScatterElements {
            axis: 0,
            reduction: ScatterReduction::Add,
        };
        let y = run(&add, &[&x, &indices, &tensor(&[2, 3], &[10; 6])]).unwrap();
        assert_eq!(y, tensor(&[3, 3], &[1, 12, 23, 14, 5, 6, 17, 18, 9]));
        assert!(
            run(
                &GatherElements { axis: 0 },
                &[&x, &tensor(&[1, 4], &[0_i64; 4])]
            )
            .is_err()
        );
        assert!(
            run(
                &GatherElements { axis: 0 },
                &[&x, &tensor(&[1, 1], &[3_i64])]
            )
            .is_err()
        );
        let names = tensor(&[1], &["a".to_owned()]);
        let none = ScatterElements {
            axis: 0,
            reduction: ScatterReduction::None,
        };
        let y = run(
            &none,
            &[
                &names,
                &tensor(&[1], &[0_i64]),
                &tensor(&[1], &["b".to_owned()]),
            ],
        )
        .unwrap();
        assert_eq!(y, tensor(&[1], &["b".to_owned()]));
        assert!(run(&add, &[&names, &tensor(&[1], &[0_i64]), &names]).is_err());
    }

    #[test]
    fn tuples_name_slices() {
        let x = tensor(&[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
        let y = run(
            &GatherND { batch_dims: 0 },
            &[&x, &tensor(&[2, 1], &[1_i64, 0])],
        )
        .unwrap();
        assert_eq!(y, tensor(&[2, 2, 2], &[4, 5, 6, 7, 0, 1, 2, 3]));
        let y = run(
            &GatherND { batch_dims: 1 },
            &[&x, &tensor(&[2, 1], &[1_i64, 0])],
        )
        .unwrap();
        assert_eq!(y, tensor(&[2, 2], &[2, 3, 4, 5]));
        assert!(
            run(
                &GatherND { batch_dims: 3 },
                &[&x, &tensor(&[2, 1], &[1_i64, 0])]
            )
            .is_err()
        );
        assert!(
            run(
                &GatherND { batch_dims: 0 },
                &[&x, &tensor(&[1, 4], &[0_i64; 4])]
            )
            .is_err()
        );
        assert!(run(&GatherND { batch_dims: 0 }, &[&x, &Tensor::scalar(0_i64)]).is_err());
        let max = ScatterND {
            reduction: ScatterReduction::Max,
        };
        let y = run(
            &max,
            &[&x, &tensor(&[1, 2], &[0_i64, 1]), &tensor(&[1, 2], &[9, 0])],
        )
        .unwrap();
        assert_eq!(y, tensor(&[2, 2, 2], &[0, 1, 9, 3, 4, 5, 6, 7]));
        assert!(
            run(
                &max,
                &[&x, &tensor(&[1, 2], &[0_i64, 1]), &tensor(&[2], &[9, 0])]
            )
            .is_err()
        );
    }
}
