//! What the inference functions share: element types, shapes that may be unknown, broadcasting.

use std::sync::Arc;

use octofold_ops::{OpError, bail};
use octofold_quant::QuantParams;
use octofold_tensor::{DType, Dim};

use super::{Context, Inferred, Known};
use crate::TensorType;

/// The one output of an operator.
pub(super) fn one(dtype: DType, shape: Option<Vec<Dim>>) -> Vec<Inferred> {
    vec![typed(dtype, shape).into()]
}

/// The one output of an operator that keeps type and shape of an input.
pub(super) fn same(x: Known<'_>) -> Vec<Inferred> {
    one(x.ty.dtype, x.ty.shape.clone())
}

/// A type without quantization parameters.
pub(super) fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> TensorType {
    TensorType {
        dtype,
        shape,
        quantization: None,
    }
}

/// The input at a position, whose elements must be of the types that `accept` accepts.
///
/// # Errors
/// When it is absent or of another type.
pub(super) fn input<'a>(
    cx: &Context<'a>,
    index: usize,
    accept: impl Fn(DType) -> bool,
    expected: &'static str,
) -> Result<Known<'a>, OpError> {
    let known = cx.required(index)?;
    let found = known.ty.dtype;
    if accept(found) {
        Ok(known)
    } else {
        Err(OpError::InputType {
            index,
            found,
            expected,
        })
    }
}

/// The float input at a position.
pub(super) fn float<'a>(cx: &Context<'a>, index: usize) -> Result<Known<'a>, OpError> {
    input(cx, index, DType::is_float, "float")
}

/// The input of bytes at a position.
pub(super) fn bytes<'a>(cx: &Context<'a>, index: usize) -> Result<Known<'a>, OpError> {
    input(
        cx,
        index,
        |dtype| matches!(dtype, DType::U8 | DType::I8),
        "uint8 or int8",
    )
}

/// Checks that an input, when present, has elements of a type.
pub(super) fn expect(cx: &Context<'_>, index: usize, dtype: DType) -> Result<(), OpError> {
    match cx.optional(index) {
        Some(known) if known.ty.dtype != dtype => Err(OpError::InputType {
            index,
            found: known.ty.dtype,
            expected: dtype.name(),
        }),
        _ => Ok(()),
    }
}

/// The dimensions of an input, when its rank is known.
pub(super) fn dims(known: Known<'_>) -> Option<&[Dim]> {
    known.ty.shape.as_deref()
}

/// The dimensions of an optional input, when it is there and its rank is known.
pub(super) fn optional_dims<'a>(cx: &Context<'a>, index: usize) -> Option<&'a [Dim]> {
    cx.optional(index)?.ty.shape.as_deref()
}

/// Dimensions with fresh symbols for those that are not known.
pub(super) fn filled(cx: &mut Context<'_>, sizes: Vec<Option<Dim>>) -> Vec<Dim> {
    sizes
        .into_iter()
        .map(|size| size.unwrap_or_else(|| cx.fresh()))
        .collect()
}

/// Whether two dimensions are known to differ.
pub(super) fn differ(a: &Dim, b: &Dim) -> bool {
    matches!((a.known(), b.known()), (Some(a), Some(b)) if a != b)
}

/// The dimensions that two operands broadcast to. Where both are symbols, one of them may be 1 when the program runs, so the result is
/// their maximum (a symbol that broadcasts is taken to be at least 1).
///
/// # Errors
/// When two known sizes of an axis differ and neither is 1.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, OpError> {
    let rank = a.len().max(b.len());
    let one = Dim::Known(1);
    let at = |dims: &[Dim], axis: usize| {
        (axis + dims.len())
            .checked_sub(rank)
            .map_or_else(|| one.clone(), |axis| dims[axis].clone())
    };
    let axes = (0..rank).map(|axis| match (at(a, axis), at(b, axis)) {
        (a, b) if a == b => Ok(a),
        (a, b) if a == one => Ok(b),
        (a, b) if b == one => Ok(a),
        (a, b) => match (a.known(), b.known()) {
            (Some(_), Some(_)) => bail!("sizes {a} and {b} do not broadcast"),
            (Some(_), None) => Ok(a),
            (None, Some(_)) => Ok(b),
            (None, None) => Ok(a.max(b)),
        },
    });
    axes.collect()
}

/// Quantization parameters that still hold when all axes but the first two may change.
pub(super) fn channel_quantization(ty: &TensorType) -> Option<Arc<QuantParams>> {
    let params = ty.quantization.as_ref()?;
    match &**params {
        QuantParams::PerChannel { axis, .. } if *axis > 1 => None,
        _ => Some(Arc::clone(params)),
    }
}
