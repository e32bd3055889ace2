//! Operators that keep the elements and change the shape, and those that give or repeat shapes.

use octofold_tensor::{Shape as Sizes, Tensor, TensorData};

use super::support::{
    Strides, broadcast_shapes, broadcast_strides, checked_elements, copy_strided, from_front,
    integer_list, map_data, normalize_axes, normalize_axis, scalar, strides_of, to_size,
};
use crate::{Inputs, OpError, Operator, attributes, bail};

attributes! {
    /// The same elements in another shape (ONNX `Reshape`), of any type.
    ///
    /// Inputs: `data`, `shape` `[int64]`; one size may be -1 and follows from the others, and 0 takes the size of `data` at the same place.
    /// Output: `shape`. The number of elements must not change.
    "" "Reshape" inputs(2..=2)
    pub struct Reshape {
        /// Whether 0 in `shape` is a size of 0; `shape` may then not contain -1 as well.
        allowzero: bool = false,
    }
}

impl Reshape {
    /// The sizes that `target` asks for.
    fn sizes(&self, from: &[usize], target: &[i64]) -> Result<Sizes, OpError> {
        let fail = || OpError::invalid(format!("{from:?} does not reshape to {target:?}"));
        let mut sizes = Sizes::with_capacity(target.len());
        let mut open = None;
        for (axis, &size) in target.iter().enumerate() {
            sizes.push(match size {
                -1 if open.is_some() => {
                    bail!("{target:?} has two open sizes");
                }
                -1 => {
                    open = Some(axis);
                    1
                }
                0 if !self.allowzero => *from.get(axis).ok_or_else(fail)?,
                size => to_size(size)?,
            });
        }
        let (total, rest) = (checked_elements(from)?, checked_elements(&sizes)?);
        if let Some(axis) = open {
            if self.allowzero && target.contains(&0) {
                bail!("a shape with allowzero may not hold both 0 and -1");
            }
            if rest == 0 || total % rest != 0 {
                return Err(fail());
            }
            sizes[axis] = total / rest;
        } else if total != rest {
            return Err(fail());
        }
        Ok(sizes)
    }
}

impl Operator for Reshape {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let target = integer_list(inputs.required(1)?, 1)?;
        Ok(vec![x.reshaped(self.sizes(x.shape(), &target)?)?])
    }
}

attributes! {
    /// A matrix of the same elements (ONNX `Flatten`), of any type.
    ///
    /// Input: `x` of rank r. Output: two axes, the products of the sizes before and from `axis` on.
    "" "Flatten" inputs(1..=1)
    pub struct Flatten {
        /// The first axis of the second part, from -r to r.
        axis: i64 = 1,
    }
}

impl Operator for Flatten {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axis = if self.axis == x.rank() as i64 {
            x.rank()
        } else {
            normalize_axis(self.axis, x.rank())?
        };
        let (outer, inner) = x.shape().split_at(axis);
        Ok(vec![x.reshaped([
            checked_elements(outer)?,
            checked_elements(inner)?,
        ])?])
    }
}

attributes! {
    /// Takes axes of size 1 away (ONNX `Squeeze`), of any type.
    ///
    /// Inputs: `data` of rank r, optional `axes` `[int64]` from -r to r - 1; every axis of size 1 when absent. Output: `data` without them.
    "" "Squeeze" inputs(1..=2)
    pub struct Squeeze {}
}

impl Operator for Squeeze {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axes = match inputs.optional(1) {
            Some(axes) => normalize_axes(&integer_list(axes, 1)?, x.rank())?,
            None => (0..x.rank()).filter(|&axis| x.shape()[axis] == 1).collect(),
        };
        if let Some(axis) = axes.iter().find(|&&axis| x.shape()[axis] != 1) {
            bail!("axis {axis} of {:?} is not of size 1", x.shape());
        }
        let kept = x
            .shape()
            .iter()
            .enumerate()
            .filter(|(axis, _)| !axes.contains(axis));
        Ok(vec![x.reshaped(kept.map(|(_, &size)| size))?])
    }
}

attributes! {
    /// Inserts axes of size 1 (ONNX `Unsqueeze`), of any type.
    ///
    /// Inputs: `data` of rank r, `axes` `[int64]`, places within the result of rank q, from -q to q - 1. Output: `data` with them.
    "" "Unsqueeze" inputs(2..=2)
    pub struct Unsqueeze {}
}

impl Operator for Unsqueeze {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axes = integer_list(inputs.required(1)?, 1)?;
        let rank = x.rank() + axes.len();
        let mut inserted = vec![false; rank];
        for axis in normalize_axes(&axes, rank)? {
            inserted[axis] = true;
        }
        let mut sizes = x.shape().iter().copied();
        let shape: Sizes = inserted
            .iter()
            .map(|&one| if one { 1 } else { sizes.next().unwrap_or(1) })
            .collect();
        Ok(vec![x.reshaped(shape)?])
    }
}

attributes! {
    /// The input itself (ONNX `Identity`), of any type.
    ///
    /// Input: `x`. Output: the same.
    "" "Identity" inputs(1..=1)
    pub struct Identity {}
}

impl Operator for Identity {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![inputs.required(0)?.clone()])
    }
}

attributes! {
    /// The input itself, and where it was kept (ONNX `Dropout`): inference only.
    ///
    /// Inputs: `data` (any float type), optional `ratio` (a float scalar), optional `training_mode` (a bool scalar). Outputs: `data`; a mask
    /// of the same shape (bool), all true. Dropping elements, which training mode with a ratio above 0 asks for, is not supported.
    "" "Dropout" inputs(1..=3) outputs(1..=2)
    pub struct Dropout {
        /// The seed of the random numbers that training would draw.
        seed: Option<i64> = None,
    }
}

impl Operator for Dropout {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let training = inputs
            .optional(2)
            .map(|flag| scalar::<bool>(flag, "training_mode"))
            .transpose()?;
        if training == Some(true) {
            let keeps_all = match inputs.optional(1).map(Tensor::data) {
                Some(TensorData::F32(ratio)) => ratio.iter().all(|&ratio| ratio == 0.0),
                Some(TensorData::F64(ratio)) => ratio.iter().all(|&ratio| ratio == 0.0),
                Some(TensorData::F16(ratio)) => ratio.iter().all(|ratio| ratio.to_f32() == 0.0),
                _ => false,
            };
            if !keeps_all {
                return Err(OpError::Unsupported("Dropout in training mode".to_owned()));
            }
        }
        let mut results = vec![x.clone()];
        if outputs > 1 {
            results.push(Tensor::new(x.shape().iter().copied(), vec![true; x.len()])?);
        }
        Ok(results)
    }
}

attributes! {
    /// The sizes of a tensor (ONNX `Shape`), of any type.
    ///
    /// Input: `data` of rank r. Output: the sizes of the axes from `start` to before `end` `[int64]`; both may count from the back, and are cut
    /// to the range from 0 to r.
    "" "Shape" inputs(1..=1)
    pub struct Shape {
        /// The first axis.
        start: i64 = 0,
        /// The axis after the last; r when absent.
        end: Option<i64> = None,
    }
}

impl Shape {
    /// The axes of a tensor of the given rank whose sizes are the result.
    pub fn axes(&self, rank: usize) -> std::ops::Range<usize> {
        let clamp = |axis| from_front(axis, rank as i64).clamp(0, rank as i64) as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(rank as i64)));
        start..end.max(start)
    }
}

impl Operator for Shape {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let sizes = &x.shape()[self.axes(x.rank())];
        Ok(vec![Tensor::vector(
            sizes.iter().map(|&size| size as i64).collect(),
        )])
    }
}

attributes! {
    /// The number of elements (ONNX `Size`), of any type.
    ///
    /// Input: `data`. Output: a scalar (int64).
    "" "Size" inputs(1..=1)
    pub struct Size {}
}

impl Operator for Size {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::scalar(inputs.required(0)?.len() as i64)])
    }
}

attributes! {
    /// Broadcasts a tensor to a shape (ONNX `Expand`), of any type.
    ///
    /// Inputs: `data`, `shape` `[int64]`. Output: the shape that `data` and `shape` broadcast to.
    "" "Expand" inputs(2..=2)
    pub struct Expand {}
}

impl Operator for Expand {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let target = integer_list(inputs.required(1)?, 1)?;
        let target: Sizes = target.into_iter().map(to_size).collect::<Result<_, _>>()?;
        let shape = broadcast_shapes(&[x.shape(), &target])?;
        let strides = broadcast_strides(x.shape(), &shape);
        let y = map_data!(x.data(), values => copy_strided(values, 0, &shape, &strides));
        Ok(vec![Tensor::from_data(shape, y)?])
    }
}

attributes! {
    /// Repeats a tensor along its axes (ONNX `Tile`), of any type.
    ///
    /// Inputs: `data` of rank r, `repeats` `[r]` (int64), none negative. Output: sizes multiplied by `repeats`.
    "" "Tile" inputs(2..=2)
    pub struct Tile {}
}

impl Operator for Tile {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let repeats = integer_list(inputs.required(1)?, 1)?;
        if repeats.len() != x.rank() {
            bail!("{} repeats for rank {}", repeats.len(), x.rank());
        }
        // Each axis becomes two: the repetitions, which do not move, and the elements.
        let (mut walk, mut strides) = (Sizes::new(), Strides::new());
        let mut shape = Sizes::new();
        for ((&size, stride), repeat) in x.shape().iter().zip(strides_of(x.shape())).zip(repeats) {
            let repeat = to_size(repeat)?;
            shape.push(checked_elements(&[size, repeat])?);
            walk.extend([repeat, size]);
            strides.extend([0, stride]);
        }
        checked_elements(&shape)?;
        let y = map_data!(x.data(), values => copy_strided(values, 0, &walk, &strides));
        Ok(vec![Tensor::from_data(shape, y)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, x: &Tensor, list: &[i64]) -> Result<Tensor, OpError> {
        let list = Tensor::vector(list.to_vec());
        op.evaluate(Inputs(&[Some(x), Some(&list)]), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i32;
        Tensor::new(shape.iter().copied(), (0..count).collect()).unwrap()
    }

    #[test]
    fn open_and_copied_sizes_follow_from_the_input() {
        let (plain, zero) = (Reshape { allowzero: false }, Reshape { allowzero: true });
        let x = counting(&[2, 3, 4]);
        assert_eq!(run(&plain, &x, &[0, -1]).unwrap().shape(), [2, 12]);
        assert_eq!(run(&plain, &x, &[4, -1, 3]).unwrap().shape(), [4, 2, 3]);
        assert_eq!(
            run(&zero, &counting(&[0, 3, 4]), &[3, 4, 0])
                .unwrap()
                .shape(),
            [3, 4, 0]
        );
        for bad in [
            &[5, -1][..],
            &[-1, -1],
            &[-2, 12],
            &[2, 3, 4, 0],
            &[i64::MAX, 2],
            &[25],
        ] {
            assert!(run(&plain, &x, bad).is_err(), "{bad:?}");
        }
        assert!(run(&zero, &counting(&[0, 3]), &[0, -1]).is_err());
    }

    #[test]
    fn axes_of_size_one_come_and_go() {
        let x = counting(&[1, 3, 1]);
        assert_eq!(run(&Squeeze {}, &x, &[-1]).unwrap().shape(), [1, 3]);
        assert!(run(&Squeeze {}, &x, &[1]).is_err());
        let all = Squeeze {}.evaluate(Inputs(&[Some(&x)]), 1).unwrap();
        assert_eq!(all[0].shape(), [3]);
        assert_eq!(
            run(&Unsqueeze {}, &counting(&[3, 4]), &[-1, 0])
                .unwrap()
                .shape(),
            [1, 3, 4, 1]
        );
        assert!(run(&Unsqueeze {}, &x, &[4]).is_err());
        let flat = |axis| Flatten { axis }.evaluate(Inputs(&[Some(&counting(&[2, 3, 4]))]), 1);
        assert_eq!(flat(0).unwrap()[0].shape(), [1, 24]);
        assert_eq!(flat(3).unwrap()[0].shape(), [24, 1]);
        assert_eq!(flat(-1).unwrap()[0].shape(), [6, 4]);
        assert!(flat(4).is_err());
    }

    #[test]
    fn shapes_are_cut_out_like_slices() {
        let x = counting(&[2, 3, 4]);
        let of = |start, end| {
            let y = Shape { start, end }
                .evaluate(Inputs(&[Some(&x)]), 1)
                .unwrap();
            y[0].values::<i64>().unwrap().to_vec()
        };
        assert_eq!(of(0, None), [2, 3, 4]);
        assert_eq!(of(1, Some(-1)), [3]);
        assert_eq!(of(-10, Some(10)), [2, 3, 4]);
        assert!(of(2, Some(1)).is_empty());
    }

    #[test]
    fn tensors_repeat() {
        let x = Tensor::new([1, 2], vec![1_u8, 2]).unwrap();
        assert_eq!(
            run(&Expand {}, &x, &[2, 1]).unwrap(),
            Tensor::new([2, 2], vec![1_u8, 2, 1, 2]).unwrap()
        );
        assert_eq!(
            run(&Tile {}, &x, &[2, 2]).unwrap(),
            Tensor::new([2, 4], vec![1_u8, 2, 1, 2, 1, 2, 1, 2]).unwrap()
        );
        assert_eq!(run(&Tile {}, &x, &[0, 2]).unwrap().shape(), [0, 4]);
        assert!(matches!(
            run(&Tile {}, &x, &[1 << 40, 1 << 40]),
            Err(OpError::TooLarge(_))
        ));
        assert!(matches!(
            run(&Expand {}, &x, &[1 << 40, 1]),
            Err(OpError::TooLarge(_))
        ));
        assert!(run(&Expand {}, &x, &[-1]).is_err());
        assert!(run(&Tile {}, &x, &[2]).is_err());
    }

    #[test]
    fn dropout_keeps_everything() {
        let x = Tensor::vector(vec![1.0_f32, 2.0]);
        let (ratio, training) = (Tensor::scalar(0.5_f32), Tensor::scalar(true));
        let y = Dropout { seed: None }
            .evaluate(Inputs(&[Some(&x), Some(&ratio)]), 2)
            .unwrap();
        assert_eq!(y, [x.clone(), Tensor::vector(vec![true, true])]);
        let y =
            Dropout { seed: None }.evaluate(Inputs(&[Some(&x), Some(&ratio), Some(&training)]), 1);
        assert!(matches!(y, Err(OpError::Unsupported(_))));
    }
}
