//! Types of functions of one element: that of the input, or `bool`.

use octofold_ops::families::{Abs, Neg, Not, Sign};
use octofold_tensor::{DType, Dim};

use super::helpers::{expect, float, input, one, same};
use super::sizes::is_size;
use super::{Context, Types, contents};

/// Whether elements of a type are numbers to compute with; 4-bit integers are not.
pub(super) fn is_number(dtype: DType) -> bool {
    (dtype.is_float() || dtype.is_integer()) && !matches!(dtype, DType::I4 | DType::U4)
}

/// Whether a number type has negative numbers.
fn is_signed(dtype: DType) -> bool {
    dtype.is_float() || matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64)
}

/// A function of one float.
pub(super) fn float_function(cx: &Context<'_>) -> Types {
    Ok(same(float(cx, 0)?))
}

/// A test of one float.
pub(super) fn test(cx: &Context<'_>) -> Types {
    Ok(one(DType::Bool, float(cx, 0)?.ty.shape.clone()))
}

/// A function of one input that keeps its type, with what it does to contents; `None` where that is not known.
fn mapped(
    cx: &Context<'_>,
    accept: fn(DType) -> bool,
    expected: &'static str,
    f: fn(&Dim) -> Option<Dim>,
) -> Types {
    let x = input(cx, 0, accept, expected)?;
    let mut outputs = same(x);
    outputs[0].contents =
        contents::of(x).and_then(|(_, contents)| contents.iter().map(f).collect());
    Ok(outputs)
}

pub(super) fn abs(_op: &Abs, cx: &mut Context<'_>) -> Types {
    mapped(cx, is_number, "a numeric type", |dim| {
        is_size(dim).then(|| dim.clone())
    })
}

pub(super) fn neg(_op: &Neg, cx: &mut Context<'_>) -> Types {
    mapped(cx, is_signed, "a signed numeric type", |dim| {
        Some(Dim::Known(0).minus(dim.clone()))
    })
}

pub(super) fn sign(_op: &Sign, cx: &mut Context<'_>) -> Types {
    mapped(cx, is_number, "a numeric type", |_| None)
}

pub(super) fn not(_op: &Not, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    expect(cx, 0, DType::Bool)?;
    Ok(one(DType::Bool, x.ty.shape.clone()))
}
