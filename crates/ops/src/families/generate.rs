//! Tensors made from sizes and single values: ONNX `Range`, `ConstantOfShape`, `OneHot` and `EyeLike`.

use octofold_tensor::{DType, Element, Elements, Shape, Tensor};

use super::number::{Number, for_numbers};
use super::support::{
    checked_elements, elements_of, from_front, integer_list, map_data, normalize_axis, to_size,
    wrong_type,
};
use crate::{Inputs, OpError, Operator, attributes, bail, bail_attribute};

attributes! {
    /// Equidistant numbers (ONNX `Range`), of any numeric type.
    ///
    /// Inputs: `start`, `limit`, `delta`, scalars of one type; `delta` is not 0. Output: `start + i·delta`, for all i from 0 for which
    /// that is before `limit` [max(ceil((limit - start) / delta), 0)].
    "" "Range" inputs(3..=3)
    pub struct Range {
        /// The precision in which half floats are summed. It has no effect here: every element is rounded once.
        stash_type: i64 = 1,
    }
}

impl Operator for Range {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        fn range<T: Number>(inputs: Inputs<'_>, start: &[T]) -> Result<Tensor, OpError> {
            let one = |values: &[T], what: &str| match *values {
                [value] => Ok::<T, OpError>(value),
                _ => bail!("{what} holds {} elements, not one", values.len()),
            };
            let start = one(start, "start")?;
            let limit = one(inputs.values::<T>(1)?, "limit")?;
            let delta = one(inputs.values::<T>(2)?, "delta")?;
            if delta == T::ZERO {
                bail!("a range with delta 0");
            }
            let values: Vec<T> = if T::FLOAT {
                let (start, limit, delta) = (start.to_f64(), limit.to_f64(), delta.to_f64());
                let count = ((limit - start) / delta).ceil().max(0.0);
                if count.is_nan() || (limit - start).is_nan() {
                    bail!("a range between what is no number");
                }
                let count = checked_elements(&[count as usize])?;
                (0..count)
                    .map(|i| T::from_f64(start + i as f64 * delta))
                    .collect()
            } else {
                let (start, limit, delta) = (start.to_i128(), limit.to_i128(), delta.to_i128());
                let (distance, step) = if delta > 0 {
                    (limit - start, delta)
                } else {
                    (start - limit, -delta)
                };
                let count = if distance <= 0 {
                    0
                } else {
                    (distance - 1) / step + 1
                };
                let count = checked_elements(&[usize::try_from(count).unwrap_or(usize::MAX)])?;
                (0..count as i128)
                    .map(|i| T::from_i128(start + i * delta))
                    .collect()
            };
            Ok(Tensor::vector(values))
        }
        let start = inputs.required(0)?;
        let y = for_numbers!(numeric start.data(),
            values => range(inputs, values)?,
            else return Err(wrong_type(start, 0, "a numeric type")));
        Ok(vec![y])
    }
}

attributes! {
    /// A tensor full of one value (ONNX `ConstantOfShape`).
    ///
    /// Input: `shape` `[int64]`. Output: that shape, of the type of the value.
    "" "ConstantOfShape" inputs(1..=1)
    pub struct ConstantOfShape {
        /// The value, a tensor of one element; 0.0 (f32) when absent.
        value: Option<Tensor> = None,
    }
}

impl Operator for ConstantOfShape {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let shape = integer_list(inputs.required(0)?, 0)?
            .into_iter()
            .map(to_size)
            .collect::<Result<Shape, _>>()?;
        let count = checked_elements(&shape)?;
        let Some(value) = &self.value else {
            return Ok(vec![Tensor::zeros(DType::F32, shape)?]);
        };
        if value.len() != 1 {
            bail_attribute!("value", "holds {} elements, not one", value.len());
        }
        let data = map_data!(value.data(), values => repeat(&values[0], count));
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

/// A tensor filled with one value.
fn repeat<T: Clone>(value: &T, count: usize) -> Vec<T> {
    vec![value.clone(); count]
}

/// The integers of a tensor of any numeric type, cut towards zero.
fn cut_integers(tensor: &Tensor, index: usize) -> Result<Vec<i64>, OpError> {
    for_numbers!(integer tensor.data(),
        values => Ok(values.iter().map(|value| i64::try_from(value.to_i128()).unwrap_or(i64::MAX)).collect()),
        else for_numbers!(float tensor.data(),
            values => Ok(values.iter().map(|value| value.to_f64() as i64).collect()),
            else Err(wrong_type(tensor, index, "a numeric type"))))
}

attributes! {
    /// One of `depth` values on, the others off (ONNX `OneHot`).
    ///
    /// Inputs: `indices` of rank r and any numeric type, `depth` (a numeric scalar), `values` `[2]` of any type: off, on. Indices count from the back when
    /// negative; one out of range turns nothing on. Output: the shape of `indices` with a new axis of size `depth`.
    "" "OneHot" inputs(3..=3)
    pub struct OneHot {
        /// The place of the new axis, from -r - 1 to r.
        axis: i64 = -1,
    }
}

impl Operator for OneHot {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (indices, depth, values) = (
            inputs.required(0)?,
            inputs.required(1)?,
            inputs.required(2)?,
        );
        let axis = normalize_axis(self.axis, indices.rank() + 1)?;
        let depth = match cut_integers(depth, 1)?[..] {
            [size] if depth.rank() < 2 => to_size(size)?,
            _ => bail!("depth is no scalar"),
        };
        if values.shape() != [2] {
            bail!("values {:?} are not two", values.shape());
        }
        let mut shape = Shape::from_slice(indices.shape());
        shape.insert(axis, depth);
        let count = checked_elements(&shape)?;
        let inner = elements_of(&indices.shape()[axis..]);
        let mut on = Vec::with_capacity(indices.len());
        for (i, index) in cut_integers(indices, 0)?.into_iter().enumerate() {
            let position = from_front(index, depth as i64);
            if (0..depth as i64).contains(&position) {
                on.push((i / inner * depth + position as usize) * inner + i % inner);
            }
        }
        let data = map_data!(values.data(), values => {
            let mut out = repeat(&values[0], count);
            on.iter().for_each(|&place| out[place].clone_from(&values[1]));
            out
        });
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

attributes! {
    /// A matrix with ones on a diagonal (ONNX `EyeLike`).
    ///
    /// Input: [N, M], of which only the shape counts, and the type when `dtype` is absent. Output: [N, M], of any numeric type or bool.
    "" "EyeLike" inputs(1..=1)
    pub struct EyeLike {
        /// The type of the result; that of the input when absent.
        dtype: Option<DType> = None,
        /// The number of columns by which the diagonal is to the right of the main one.
        k: i64 = 0,
    }
}

impl Operator for EyeLike {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        fn eye<T: Element>(rows: usize, columns: usize, k: i64, one: T) -> Result<Tensor, OpError> {
            let mut values = vec![T::default(); checked_elements(&[rows, columns])?];
            if columns > 0 {
                for (row, line) in values.chunks_exact_mut(columns).enumerate() {
                    let column = usize::try_from((row as i64).saturating_add(k));
                    if let Some(element) = column.ok().and_then(|column| line.get_mut(column)) {
                        *element = one.clone();
                    }
                }
            }
            Ok(Tensor::from_data(
                [rows, columns],
                T::wrap(Elements::new(values)),
            )?)
        }
        let x = inputs.required(0)?;
        let &[rows, columns] = x.shape() else {
            bail!("expected a matrix, found {:?}", x.shape());
        };
        let dtype = self.dtype.unwrap_or(x.dtype());
        if dtype == DType::Bool {
            return Ok(vec![eye(rows, columns, self.k, true)?]);
        }
        /// The number 1, in the type of the elements.
        fn one_like<T: Number>(_: &[T]) -> T {
            T::ONE
        }
        let none = Tensor::zeros(dtype, [0])?;
        let y = for_numbers!(numeric none.data(),
            values => eye(rows, columns, self.k, one_like(values))?,
            else bail_attribute!("dtype", "{dtype} is neither numeric nor bool"));
        Ok(vec![y])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
        let inputs: Vec<_> = inputs.iter().map(|&tensor| Some(tensor)).collect();
        op.evaluate(Inputs(&inputs), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn range<T: Element>(start: T, limit: T, delta: T) -> Result<Tensor, OpError> {
        run(
            &Range { stash_type: 1 },
            &[
                &Tensor::scalar(start),
                &Tensor::scalar(limit),
                &Tensor::scalar(delta),
            ],
        )
    }

    #[test]
    fn ranges_end_before_the_limit() {
        assert_eq!(range(3, 9, 3).unwrap(), Tensor::vector(vec![3, 6]));
        assert_eq!(
            range(10_i64, 4, -2).unwrap(),
            Tensor::vector(vec![10_i64, 8, 6])
        );
        assert_eq!(
            range(1.0_f32, 5.0, 2.0).unwrap(),
            Tensor::vector(vec![1.0_f32, 3.0])
        );
        assert_eq!(range(5, 1, 1).unwrap().len(), 0);
        assert_eq!(range(i64::MIN, i64::MIN + 1, 1).unwrap().len(), 1);
        assert!(range(0, 5, 0).is_err());
        assert!(range(f32::NAN, 5.0, 1.0).is_err());
        assert!(range(f32::INFINITY, f32::INFINITY, 1.0).is_err());
        assert!(matches!(
            range(0_i64, i64::MAX, 1),
            Err(OpError::TooLarge(_))
        ));
        assert!(matches!(
            range(0.0_f32, f32::INFINITY, 1.0),
            Err(OpError::TooLarge(_))
        ));
        assert!(matches!(
            range(i64::MIN, i64::MAX, 1),
            Err(OpError::TooLarge(_))
        ));
    }

    #[test]
    fn constants_fill_shapes() {
        let shape = Tensor::vector(vec![2_i64, 1]);
        let y = run(&ConstantOfShape { value: None }, &[&shape]).unwrap();
        assert_eq!(y, Tensor::new([2, 1], vec![0.0_f32; 2]).unwrap());
        let op = ConstantOfShape {
            value: Some(Tensor::vector(vec![7_i8])),
        };
        assert_eq!(
            run(&op, &[&shape]).unwrap(),
            Tensor::new([2, 1], vec![7_i8; 2]).unwrap()
        );
        assert_eq!(
            run(&op, &[&Tensor::vector(Vec::<i64>::new())]).unwrap(),
            Tensor::scalar(7_i8)
        );
        assert!(matches!(
            run(&op, &[&Tensor::vector(vec![1_i64 << 20, 1 << 20])]),
            Err(OpError::TooLarge(_))
        ));
        assert!(run(&op, &[&Tensor::vector(vec![-1_i64])]).is_err());
    }

    #[test]
    fn one_is_on() {
        let indices = Tensor::vector(vec![0_i64, -1, 5]);
        let (depth, values) = (
            Tensor::vector(vec![3_i64]),
            Tensor::vector(vec![0.5_f32, 1.0]),
        );
        let y = run(&OneHot { axis: -1 }, &[&indices, &depth, &values]).unwrap();
        assert_eq!(
            y,
            Tensor::new(
                [3, 3],
                vec![1.0, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5_f32]
            )
            .unwrap()
        );
        let y = run(&OneHot { axis: 0 }, &[&indices, &depth, &values]).unwrap();
        assert_eq!(
            y,
            Tensor::new(
                [3, 3],
                vec![1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5_f32]
            )
            .unwrap()
        );
        assert!(run(&OneHot { axis: 2 }, &[&indices, &depth, &values]).is_err());
        assert!(
            run(
                &OneHot { axis: 0 },
                &[&indices, &Tensor::scalar(i64::MAX), &values]
            )
            .is_err()
        );
        assert!(
            run(
                &OneHot { axis: 0 },
                &[&indices, &Tensor::scalar(-1_i64), &values]
            )
            .is_err()
        );
    }

    #[test]
    fn diagonals_move() {
        let x = Tensor::new([2, 3], vec![9_i32; 6]).unwrap();
        let y = run(
            &EyeLike {
                dtype: Some(DType::F32),
                k: 1,
            },
            &[&x],
        )
        .unwrap();
        assert_eq!(
            y,
            Tensor::new([2, 3], vec![0.0, 1.0, 0.0, 0.0, 0.0, 1.0_f32]).unwrap()
        );
        let y = run(&EyeLike { dtype: None, k: -1 }, &[&x]).unwrap();
        assert_eq!(y, Tensor::new([2, 3], vec![0, 0, 0, 1, 0, 0]).unwrap());
        assert_eq!(
            run(
                &EyeLike {
                    dtype: None,
                    k: i64::MIN
                },
                &[&x]
            )
            .unwrap(),
            Tensor::new([2, 3], vec![0; 6]).unwrap()
        );
        assert!(
            run(
                &EyeLike {
                    dtype: Some(DType::String),
                    k: 0
                },
                &[&x]
            )
            .is_err()
        );
    }
}
