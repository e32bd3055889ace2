//! Matrix products.

use octofold_tensor::{DType, Element, Shape, Tensor};

use super::number::Number;
use super::real::{real_tensor, reals};
use super::support::{
    broadcast_shapes, broadcast_strides, checked_elements, copy_strided, expect_type, for_each_run,
    wrong_type,
};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `Gemm` (opset 13): `alpha·A'·B' + beta·C`.
    ///
    /// Inputs: `a` [M, K] (or [K, M] with `transA`), `b` [K, N] (or [N, K] with `transB`), optional `c` that broadcasts to [M, N]. Output: [M, N].
    /// Float of any width or 32- and 64-bit integers (sums wrap; `alpha` and `beta` are then applied in f64).
    #[allow(non_snake_case, reason = "fields carry the names of the ONNX attributes")]
    "" "Gemm" inputs(2..=3)
    pub struct Gemm {
        /// The factor of the product.
        alpha: f32 = 1.0,
        /// The factor of `c`.
        beta: f32 = 1.0,
        /// Whether `a` is transposed.
        transA: bool = false,
        /// Whether `b` is transposed.
        transB: bool = false,
    }

    /// ONNX `MatMul` (opset 13): the matrix product of numpy's `matmul`.
    ///
    /// Inputs: `a` [..., M, K], `b` [..., K, N]; leading axes broadcast; an operand of rank 1 is a row (`a`) or a column (`b`) whose axis
    /// the result lacks. Float of any width, or 32- and 64-bit integers (sums wrap).
    "" "MatMul" inputs(2..=2)
    pub struct MatMul {}
}

/// Adds the product of `a` [M, K] and `b` [K, N] to `out` [M, N]; integers wrap.
pub(crate) fn multiply<T: Number>(a: &[T], b: &[T], k: usize, n: usize, out: &mut [T]) {
    if k == 0 || n == 0 {
        return;
    }
    for (row, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (&a, b) in row.iter().zip(b.chunks_exact(n)) {
            out.iter_mut()
                .zip(b)
                .for_each(|(out, &b)| *out = out.add(a.mul(b)));
        }
    }
}

/// The sizes of a product by the rules of numpy's `matmul`.
#[derive(Clone, Debug)]
pub(crate) struct MatMulShape {
    /// The batch axes of the result.
    pub(crate) batch: Shape,
    /// The rows of a matrix of the result.
    pub(crate) m: usize,
    /// The columns of a matrix of the result.
    pub(crate) n: usize,
    /// The length of the sums.
    pub(crate) k: usize,
    /// The shape of the result: without the axes that operands of rank 1 lack.
    pub(crate) shape: Shape,
    a_batch: Shape,
    b_batch: Shape,
}

impl MatMulShape {
    /// The sizes of the product of operands of two shapes.
    ///
    /// # Errors
    /// When an operand has rank 0, the inner sizes differ, the batch axes do not broadcast, or the result is too large.
    pub(crate) fn new(a: &[usize], b: &[usize]) -> Result<Self, OpError> {
        let mismatch = || {
            OpError::invalid(format!(
                "matrices of shapes {a:?} and {b:?} have no product"
            ))
        };
        let (a_batch, m, k) = match a {
            [] => return Err(mismatch()),
            [k] => (&[][..], 1, *k),
            [batch @ .., m, k] => (batch, *m, *k),
        };
        let (b_batch, inner, n) = match b {
            [] => return Err(mismatch()),
            [k] => (&[][..], *k, 1),
            [batch @ .., k, n] => (batch, *k, *n),
        };
        if k != inner {
            return Err(mismatch());
        }
        let batch = broadcast_shapes(&[a_batch, b_batch])?;
        let mut shape = batch.clone();
        shape.extend((a.len() > 1).then_some(m));
        shape.extend((b.len() > 1).then_some(n));
        checked_elements(&shape)?;
        Ok(Self {
            batch,
            m,
            n,
            k,
            shape,
            a_batch: a_batch.into(),
            b_batch: b_batch.into(),
        })
    }

    /// Computes the product; `a` and `b` have the shapes that this was made from.
    pub(crate) fn run<T: Number>(&self, a: &[T], b: &[T]) -> Vec<T> {
        if self.shape.contains(&0) {
            return Vec::new();
        }
        let mut out = vec![T::ZERO; self.shape.iter().product()];
        let (a_size, b_size, size) = (self.m * self.k, self.k * self.n, self.m * self.n);
        let mut matrices = out.chunks_exact_mut(size);
        let a_strides = broadcast_strides(&self.a_batch, &self.batch);
        let b_strides = broadcast_strides(&self.b_batch, &self.batch);
        for_each_run(
            &self.batch,
            [&a_strides, &b_strides],
            |[i, j], count, [di, dj]| {
                for step in 0..count as isize {
                    let (i, j) = ((i + step * di) as usize, (j + step * dj) as usize);
                    if let Some(out) = matrices.next() {
                        multiply(
                            &a[i * a_size..][..a_size],
                            &b[j * b_size..][..b_size],
                            self.k,
                            self.n,
                            out,
                        );
                    }
                }
            },
        );
        out
    }
}

impl Operator for MatMul {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        expect_type(b, 1, a.dtype())?;
        let product = MatMulShape::new(a.shape(), b.shape())?;
        let result = match a.dtype() {
            DType::I32 => integer_product::<i32>(&product, inputs)?,
            DType::I64 => integer_product::<i64>(&product, inputs)?,
            DType::U32 => integer_product::<u32>(&product, inputs)?,
            DType::U64 => integer_product::<u64>(&product, inputs)?,
            dtype => {
                let values = product.run(&reals(a, 0)?, &reals(b, 1)?);
                real_tensor(dtype, &product.shape, values)?
            }
        };
        Ok(vec![result])
    }
}

fn integer_product<T: Number + Element>(
    product: &MatMulShape,
    inputs: Inputs<'_>,
) -> Result<Tensor, OpError> {
    let values = product.run(inputs.values::<T>(0)?, inputs.values::<T>(1)?);
    Ok(Tensor::new(product.shape.iter().copied(), values)?)
}

/// A matrix, transposed when asked for, with its sizes.
fn matrix<T: Clone>(
    values: &[T],
    shape: &[usize],
    transposed: bool,
) -> Result<(Vec<T>, usize, usize), OpError> {
    match *shape {
        [rows, columns] if !transposed => Ok((values.to_vec(), rows, columns)),
        [rows, columns] => {
            let flipped = copy_strided(values, 0, &[columns, rows], &[1, columns as isize]);
            Ok((flipped, columns, rows))
        }
        _ => Err(OpError::invalid(format!(
            "an operand of shape {shape:?} is no matrix"
        ))),
    }
}

impl Gemm {
    /// `alpha·A'·B' + beta·C` over one type; `scale` multiplies by a factor.
    fn compute<T: Number>(
        &self,
        (a, a_shape): (&[T], &[usize]),
        (b, b_shape): (&[T], &[usize]),
        c: Option<(&[T], &[usize])>,
        scale: impl Fn(f32, T) -> T,
    ) -> Result<(Vec<T>, [usize; 2]), OpError> {
        let (a, m, k) = matrix(a, a_shape, self.transA)?;
        let (b, inner, n) = matrix(b, b_shape, self.transB)?;
        if k != inner {
            return Err(OpError::invalid(format!(
                "matrices of shapes {a_shape:?} and {b_shape:?} have no product"
            )));
        }
        let shape = [m, n];
        let mut out = vec![T::ZERO; checked_elements(&shape)?];
        multiply(&a, &b, k, n, &mut out);
        out.iter_mut()
            .for_each(|value| *value = scale(self.alpha, *value));
        if let Some((c, c_shape)) = c {
            if broadcast_shapes(&[c_shape, &shape])?.as_slice() != shape {
                return Err(OpError::invalid(format!(
                    "the shape {c_shape:?} does not broadcast to {shape:?}"
                )));
            }
            let c = copy_strided(c, 0, &shape, &broadcast_strides(c_shape, &shape));
            out.iter_mut()
                .zip(c)
                .for_each(|(out, c)| *out = out.add(scale(self.beta, c)));
        }
        Ok((out, shape))
    }

    fn integers<T: Number + Element>(&self, inputs: Inputs<'_>) -> Result<Tensor, OpError> {
        let operand = |index| -> Result<(&[T], &[usize]), OpError> {
            Ok((inputs.values::<T>(index)?, inputs.required(index)?.shape()))
        };
        let c = inputs.optional(2).map(|_| operand(2)).transpose()?;
        let scale = |factor: f32, value: T| match factor {
            1.0 => value,
            _ => T::from_f64(f64::from(factor) * value.to_f64()),
        };
        let (values, shape) = self.compute(operand(0)?, operand(1)?, c, scale)?;
        Ok(Tensor::new(shape, values)?)
    }
}

impl Operator for Gemm {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (a, b, c) = (inputs.required(0)?, inputs.required(1)?, inputs.optional(2));
        expect_type(b, 1, a.dtype())?;
        if let Some(c) = c {
            expect_type(c, 2, a.dtype())?;
        }
        let result = match a.dtype() {
            DType::I32 => self.integers::<i32>(inputs)?,
            DType::I64 => self.integers::<i64>(inputs)?,
            DType::U32 => self.integers::<u32>(inputs)?,
            DType::U64 => self.integers::<u64>(inputs)?,
            dtype if dtype.is_float() => {
                let c_values = c.map(|c| reals(c, 2)).transpose()?;
                let (values, shape) = self.compute(
                    (&reals(a, 0)?, a.shape()),
                    (&reals(b, 1)?, b.shape()),
                    c_values.as_deref().zip(c.map(Tensor::shape)),
                    |factor, value| f64::from(factor) * value,
                )?;
                real_tensor(dtype, &shape, values)?
            }
            _ => return Err(wrong_type(a, 0, "float, or an integer of 32 or 64 bits")),
        };
        Ok(vec![result])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[Option<&Tensor>]) -> Result<Tensor, OpError> {
        Ok(op.evaluate(Inputs(inputs), 1)?.remove(0))
    }

    fn floats(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::new(
            shape.iter().copied(),
            (1..=count).map(|i| i as f32).collect(),
        )
        .unwrap()
    }

    #[test]
    fn batches_broadcast_and_vectors_lose_their_axis() {
        let shape = |a: &[usize], b: &[usize]| {
            run(&MatMul {}, &[Some(&floats(a)), Some(&floats(b))]).map(|y| y.shape().to_vec())
        };
        assert_eq!(shape(&[2, 1, 3, 4], &[5, 4, 6]), Ok(vec![2, 5, 3, 6]));
        assert_eq!(shape(&[4], &[4]), Ok(vec![]));
        assert_eq!(shape(&[4], &[7, 4, 2]), Ok(vec![7, 2]));
        assert_eq!(shape(&[7, 2, 4], &[4]), Ok(vec![7, 2]));
        assert_eq!(shape(&[0, 2, 4], &[4, 1]), Ok(vec![0, 2, 1]));
        assert!(shape(&[], &[4]).is_err());
        assert!(shape(&[2, 3], &[2, 3]).is_err());
        assert!(shape(&[2, 3, 3], &[4, 3, 3]).is_err());
        let y = run(
            &MatMul {},
            &[Some(&floats(&[2, 2, 1])), Some(&floats(&[1, 2]))],
        )
        .unwrap();
        assert_eq!(
            y.values::<f32>().unwrap(),
            [1.0, 2.0, 2.0, 4.0, 3.0, 6.0, 4.0, 8.0]
        );
        // Nothing to sum gives zeros.
        let y = run(
            &MatMul {},
            &[Some(&floats(&[2, 0])), Some(&floats(&[0, 1]))],
        )
        .unwrap();
        assert_eq!(y.values::<f32>().unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn integer_products_wrap() {
        let a = Tensor::new([1, 2], vec![i32::MAX, 1]).unwrap();
        let b = Tensor::new([2, 1], vec![2, 3]).unwrap();
        let y = run(&MatMul {}, &[Some(&a), Some(&b)]).unwrap();
        assert_eq!(y.values::<i32>().unwrap(), [1]);
        let bytes = Tensor::new([1, 1], vec![1_u8]).unwrap();
        assert!(run(&MatMul {}, &[Some(&bytes), Some(&bytes)]).is_err());
    }

    #[test]
    fn gemm_transposes_scales_and_adds() {
        let op = Gemm {
            alpha: 2.0,
            beta: 0.5,
            transA: true,
            transB: true,
        };
        let (a, b, c) = (floats(&[2, 1]), floats(&[3, 2]), floats(&[3]));
        let y = run(&op, &[Some(&a), Some(&b), Some(&c)]).unwrap();
        assert_eq!(y.shape(), [1, 3]);
        assert_eq!(y.values::<f32>().unwrap(), [10.5, 23.0, 35.5]);
        assert!(run(&op, &[Some(&a), Some(&b), Some(&floats(&[2]))]).is_err());
        assert!(run(&op, &[Some(&a), Some(&b), Some(&floats(&[2, 3]))]).is_err());
        assert!(run(&op, &[Some(&b), Some(&b)]).is_err());
        assert!(run(&op, &[Some(&c), Some(&b)]).is_err());
    }
}
