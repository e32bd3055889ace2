//! Types of functions of one element: that of the input, or `bool`.

use octofold_ops::OpError;
use octofold_ops::families::{
    Abs, Ceil, Cos, Exp, Floor, IsInf, IsNaN, Log, Neg, Not, Reciprocal, Round, Sign, Sin, Sqrt,
};
use octofold_tensor::{DType, Dim};

use super::helpers::{expect, float, input, one};
use super::sizes::is_size;
use super::{Context, Inferred, contents};

/// Whether elements of a type are numbers to compute with; 4-bit integers are not.
pub(super) fn is_number(dtype: DType) -> bool {
    (dtype.is_float() || dtype.is_integer()) && !matches!(dtype, DType::I4 | DType::U4)
}

/// Whether a number type has negative numbers.
fn is_signed(dtype: DType) -> bool {
    dtype.is_float() || matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64)
}

/// Defines the inference of functions of one float input.
macro_rules! float_functions {
    ($($name:ident $type:ident => $result:expr;)*) => {$(
        pub(super) fn $name(_op: &$type, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
            let x = float(cx, 0)?;
            let result: fn(DType) -> DType = $result;
            Ok(one(result(x.ty.dtype), x.ty.shape.clone()))
        }
    )*};
}

float_functions! {
    exp Exp => |dtype| dtype;
    log Log => |dtype| dtype;
    sqrt Sqrt => |dtype| dtype;
    reciprocal Reciprocal => |dtype| dtype;
    floor Floor => |dtype| dtype;
    ceil Ceil => |dtype| dtype;
    round Round => |dtype| dtype;
    sin Sin => |dtype| dtype;
    cos Cos => |dtype| dtype;
    is_nan IsNaN => |_| DType::Bool;
    is_inf IsInf => |_| DType::Bool;
}

/// A function of one input that keeps its type, with what it does to contents; `None` where that is not known.
fn mapped(
    cx: &Context<'_>,
    accept: fn(DType) -> bool,
    expected: &'static str,
    f: fn(&Dim) -> Option<Dim>,
) -> Result<Vec<Inferred>, OpError> {
    let x = input(cx, 0, accept, expected)?;
    let mut outputs = one(x.ty.dtype, x.ty.shape.clone());
    outputs[0].contents =
        contents::of(x).and_then(|(_, contents)| contents.iter().map(f).collect());
    Ok(outputs)
}

pub(super) fn abs(_op: &Abs, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    mapped(cx, is_number, "a numeric type", |dim| {
        is_size(dim).then(|| dim.clone())
    })
}

pub(super) fn neg(_op: &Neg, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    mapped(cx, is_signed, "a signed numeric type", |dim| {
        Some(Dim::Known(0).minus(dim.clone()))
    })
}

pub(super) fn sign(_op: &Sign, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    mapped(cx, is_number, "a numeric type", |_| None)
}

pub(super) fn not(_op: &Not, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let x = cx.required(0)?;
    expect(cx, 0, DType::Bool)?;
    Ok(one(DType::Bool, x.ty.shape.clone()))
}
