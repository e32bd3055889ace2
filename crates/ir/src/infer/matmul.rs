//! Types of matrix products.

use octofold_ops::families::{Gemm, MatMul};
use octofold_ops::{OpError, bail};
use octofold_tensor::{DType, Dim};

use super::helpers::{broadcast, differ, dims, expect, input, one, optional_dims};
use super::{Context, Types};

fn has_products(dtype: DType) -> bool {
    dtype.is_float() || matches!(dtype, DType::I32 | DType::I64 | DType::U32 | DType::U64)
}

const PRODUCTS: &str = "float, or an integer of 32 or 64 bits";

/// The shape of a product by the rules of numpy's `matmul`; `None` when a rank is not known.
///
/// # Errors
/// When an operand is a scalar, the inner sizes differ, or the leading axes do not broadcast.
pub(super) fn product(a: Option<&[Dim]>, b: Option<&[Dim]>) -> Result<Option<Vec<Dim>>, OpError> {
    let (Some(a), Some(b)) = (a, b) else {
        return Ok(None);
    };
    let scalar = || OpError::invalid("a product of a matrix with a scalar");
    let (a_batch, m, k) = match a {
        [] => return Err(scalar()),
        [k] => (&[][..], None, k),
        [batch @ .., m, k] => (batch, Some(m), k),
    };
    let (b_batch, inner, n) = match b {
        [] => return Err(scalar()),
        [k] => (&[][..], k, None),
        [batch @ .., k, n] => (batch, k, Some(n)),
    };
    if differ(k, inner) {
        bail!("a product of {k} columns with {inner} rows");
    }
    let mut shape = broadcast(a_batch, b_batch)?;
    shape.extend(m.cloned());
    shape.extend(n.cloned());
    Ok(Some(shape))
}

pub(super) fn mat_mul(_op: &MatMul, cx: &mut Context<'_>) -> Types {
    let a = input(cx, 0, has_products, PRODUCTS)?;
    expect(cx, 1, a.ty.dtype)?;
    Ok(one(a.ty.dtype, product(dims(a), dims(cx.required(1)?))?))
}

pub(super) fn gemm(op: &Gemm, cx: &mut Context<'_>) -> Types {
    let a = input(cx, 0, has_products, PRODUCTS)?;
    let b = cx.required(1)?;
    expect(cx, 1, a.ty.dtype)?;
    expect(cx, 2, a.ty.dtype)?;
    let matrix = |dims: Option<&[Dim]>, transposed: bool| match dims {
        None => Ok::<_, OpError>(None),
        Some([rows, columns]) if !transposed => Ok(Some((rows.clone(), columns.clone()))),
        Some([rows, columns]) => Ok(Some((columns.clone(), rows.clone()))),
        Some(dims) => bail!("an operand of rank {}, not 2", dims.len()),
    };
    let (a_sizes, b_sizes) = (matrix(dims(a), op.transA)?, matrix(dims(b), op.transB)?);
    if let (Some((_, k)), Some((inner, _))) = (&a_sizes, &b_sizes)
        && differ(k, inner)
    {
        bail!("a product of {k} columns with {inner} rows");
    }
    let m = a_sizes.map_or_else(|| cx.fresh(), |(m, _)| m);
    let n = b_sizes.map_or_else(|| cx.fresh(), |(_, n)| n);
    let shape = vec![m, n];
    if let Some(c) = optional_dims(cx, 2) {
        let out = broadcast(c, &shape)?;
        if out.len() > 2 || out.iter().zip(&shape).any(|(a, b)| differ(a, b)) {
            bail!("the third operand does not broadcast to the product");
        }
    }
    Ok(one(a.ty.dtype, Some(shape)))
}
