//! Types of functions of operands that broadcast.

use octofold_ops::families::{
    Add, And, Div, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Max, Mean, Min, Mod, Mul, Or,
    Pow, Sub, Sum, Where, Xor,
};
use octofold_ops::{OpError, bail};
use octofold_tensor::{DType, Dim};

use super::elementwise::is_number;
use super::helpers::{broadcast, dims, expect, input, one, typed};
use super::sizes::is_size;
use super::{Context, Inferred, Types, contents};

/// The shape that all inputs from `first` on broadcast to; `None` when the rank of one is not known.
fn broadcast_from(cx: &Context<'_>, first: usize) -> Result<Option<Vec<Dim>>, OpError> {
    let mut shape = Some(Vec::new());
    for index in first..cx.len() {
        shape = match (shape, dims(cx.required(index)?)) {
            (Some(shape), Some(dims)) => Some(broadcast(&shape, dims)?),
            _ => None,
        };
    }
    Ok(shape)
}

/// The contents of a result of two operands, element by element; `None` where `f` cannot say.
fn combined(
    cx: &Context<'_>,
    shape: Option<&[Dim]>,
    f: fn(&Dim, &Dim) -> Option<Dim>,
) -> Option<Vec<Dim>> {
    let output = shape?
        .iter()
        .map(|dim| usize::try_from(dim.known()?).ok())
        .collect::<Option<Vec<_>>>()?;
    let mut results: Option<Vec<Dim>> = None;
    for index in 0..cx.len() {
        let (shape, own) = contents::of(cx.optional(index)?)?;
        let own = contents::expanded(&shape, &own, &output)?;
        results = Some(match results {
            None => own,
            Some(results) => results
                .iter()
                .zip(&own)
                .map(|(a, b)| f(a, b))
                .collect::<Option<_>>()?,
        });
    }
    results
}

/// Operands of one type accepted by `accept`, at least `least` of them.
fn combine(
    cx: &mut Context<'_>,
    least: usize,
    (accept, expected): (fn(DType) -> bool, &'static str),
    result: Option<DType>,
    f: fn(&Dim, &Dim) -> Option<Dim>,
) -> Types {
    let dtype = input(cx, 0, accept, expected)?.ty.dtype;
    for index in 1..cx.len().max(least) {
        cx.required(index)?;
        expect(cx, index, dtype)?;
    }
    let shape = broadcast_from(cx, 0)?;
    let contents = combined(cx, shape.as_deref(), f);
    let ty = typed(result.unwrap_or(dtype), shape);
    Ok(vec![Inferred { ty, contents }])
}

const NUMBERS: (fn(DType) -> bool, &str) = (is_number, "a numeric type");
const FLAGS: (fn(DType) -> bool, &str) = (|dtype| matches!(dtype, DType::Bool), "bool");
const COMPARABLE: (fn(DType) -> bool, &str) = (
    |dtype| is_number(dtype) || matches!(dtype, DType::Bool | DType::String),
    "a numeric type, bool or string",
);

/// The quotient as ONNX rounds it, towards zero.
fn divide(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.known(), b.known()) {
        (_, Some(0)) => None,
        (Some(a), Some(b)) => a.checked_div(b).map(Dim::Known),
        _ => (is_size(a) && is_size(b)).then(|| a.clone().floor_div(b.clone())),
    }
}

/// What two numbers say of a comparison, when it is decided by what is known: numbers, equal expressions, and sizes, which are not negative.
fn decided(a: &Dim, b: &Dim, f: fn(i64, i64) -> bool) -> Option<Dim> {
    let flag = match (a.known(), b.known()) {
        (Some(a), Some(b)) => f(a, b),
        _ if a == b => f(0, 0),
        // Any size will do in the place of a symbol.
        (None, Some(b)) if b < 0 && is_size(a) => f(0, b),
        (Some(a), None) if a < 0 && is_size(b) => f(a, 0),
        _ => return None,
    };
    Some(Dim::Known(flag.into()))
}

macro_rules! binary {
    ($($name:ident $type:ident: $least:literal $operands:ident $result:expr => $f:expr;)*) => {$(
        pub(super) fn $name(_op: &$type, cx: &mut Context<'_>) -> Types {
            combine(cx, $least, $operands, $result, $f)
        }
    )*};
}

binary! {
    add Add: 2 NUMBERS None => |a, b| Some(a.clone().plus(b.clone()));
    sub Sub: 2 NUMBERS None => |a, b| Some(a.clone().minus(b.clone()));
    mul Mul: 2 NUMBERS None => |a, b| Some(a.clone().times(b.clone()));
    min Min: 1 NUMBERS None => |a, b| Some(a.clone().min(b.clone()));
    max Max: 1 NUMBERS None => |a, b| Some(a.clone().max(b.clone()));
    sum Sum: 1 NUMBERS None => |a, b| Some(a.clone().plus(b.clone()));
    and And: 2 FLAGS None => |a, b| Some(a.clone().min(b.clone()));
    or Or: 2 FLAGS None => |a, b| Some(a.clone().max(b.clone()));
    xor Xor: 2 FLAGS None => |_, _| None;
    equal Equal: 2 COMPARABLE Some(DType::Bool) => |a, b| decided(a, b, |a, b| a == b);
    less Less: 2 NUMBERS Some(DType::Bool) => |a, b| decided(a, b, |a, b| a < b);
    greater Greater: 2 NUMBERS Some(DType::Bool) => |a, b| decided(a, b, |a, b| a > b);
    less_or_equal LessOrEqual: 2 NUMBERS Some(DType::Bool) => |a, b| decided(a, b, |a, b| a <= b);
    greater_or_equal GreaterOrEqual: 2 NUMBERS Some(DType::Bool) => |a, b| decided(a, b, |a, b| a >= b);
}

/// Refuses a constant divisor that is zero, by which integers cannot be divided.
fn check_divisor(cx: &Context<'_>) -> Result<(), OpError> {
    let divisor = cx.required(1)?;
    let zeros = contents::known_numbers(divisor).is_some_and(|numbers| numbers.contains(&0));
    if zeros && divisor.ty.dtype.is_integer() {
        bail!("a division by the constant zero");
    }
    Ok(())
}

pub(super) fn div(_op: &Div, cx: &mut Context<'_>) -> Types {
    check_divisor(cx)?;
    combine(cx, 2, NUMBERS, None, divide)
}

pub(super) fn mean(_op: &Mean, cx: &mut Context<'_>) -> Types {
    combine(cx, 1, (DType::is_float, "a float type"), None, |_, _| None)
}

pub(super) fn pow(_op: &Pow, cx: &mut Context<'_>) -> Types {
    let base = input(cx, 0, is_number, "a numeric type")?;
    input(cx, 1, is_number, "a numeric type")?;
    Ok(one(base.ty.dtype, broadcast_from(cx, 0)?))
}

pub(super) fn r#mod(_op: &Mod, cx: &mut Context<'_>) -> Types {
    check_divisor(cx)?;
    combine(cx, 2, NUMBERS, None, |a, b| {
        if let (Some(_), Some(_)) = (a.known(), b.known()) {
            // The attribute counts; the operator itself is run.
            return None;
        }
        let positive = b.known().is_some_and(|b| b > 0) && is_size(a);
        positive.then(|| {
            a.clone()
                .minus(a.clone().floor_div(b.clone()).times(b.clone()))
        })
    })
}

pub(super) fn r#where(_op: &Where, cx: &mut Context<'_>) -> Types {
    let (condition, x, y) = (cx.required(0)?, cx.required(1)?, cx.required(2)?);
    expect(cx, 0, DType::Bool)?;
    expect(cx, 2, x.ty.dtype)?;
    let shape = broadcast_from(cx, 0)?;
    let contents = || {
        let output = shape
            .as_ref()?
            .iter()
            .map(|dim| usize::try_from(dim.known()?).ok())
            .collect::<Option<Vec<_>>>()?;
        let expanded = |known| {
            contents::of(known).and_then(|(shape, own)| contents::expanded(&shape, &own, &output))
        };
        let (flags, a, b) = (expanded(condition)?, expanded(x)?, expanded(y)?);
        let chosen = flags
            .iter()
            .zip(a.iter().zip(&b))
            .map(|(flag, (a, b))| match flag.known() {
                Some(0) => Some(b.clone()),
                Some(_) => Some(a.clone()),
                None => (a == b).then(|| a.clone()),
            });
        chosen.collect()
    };
    let contents = contents();
    // One meaning of the bytes serves both operands only when it is the same.
    let quantization =
        x.ty.quantization
            .clone()
            .filter(|_| x.ty.quantization == y.ty.quantization);
    let quantization =
        quantization.filter(|params| matches!(**params, octofold_quant::QuantParams::PerTensor(_)));
    let ty = typed(x.ty.dtype, shape).with_quantization(quantization);
    Ok(vec![Inferred { ty, contents }])
}
