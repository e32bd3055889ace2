//! Types of the integer operators of ONNX.

use octofold_ops::families::real::{dtype_of, quant_type_of};
use octofold_ops::families::{ConvInteger, MatMulInteger, QLinearConv, QLinearMatMul};
use octofold_ops::{OpError, bail};
use octofold_quant::QuantType;
use octofold_tensor::{DType, Dim};

use super::conv::convolved;
use super::helpers::{bytes, differ, dims, expect, float, one, optional_dims, typed};
use super::matmul::product;
use super::quantize::known_params;
use super::{Context, Types};

/// The number of parameters that all elements share.
const ONE: Dim = Dim::Known(1);

/// Checks that an optional input has one element, or `count`. What is not known yet is taken to fit.
fn check_count(cx: &Context<'_>, index: usize, count: Option<&Dim>) -> Result<(), OpError> {
    let (Some([size]), Some(count)) = (optional_dims(cx, index), count) else {
        return Ok(());
    };
    if differ(size, &ONE) && differ(size, count) {
        bail!("input {index} has {size} elements, not {count}");
    }
    Ok(())
}

/// Checks an operand of bytes with its scale and zero point at the inputs that follow; these may have `count` elements.
fn check_operand(cx: &Context<'_>, index: usize, count: Option<&Dim>) -> Result<(), OpError> {
    let dtype = bytes(cx, index)?.ty.dtype;
    float(cx, index + 1)?;
    cx.required(index + 2)?;
    expect(cx, index + 2, dtype)?;
    check_count(cx, index + 1, count)?;
    check_count(cx, index + 2, count)?;
    if let Some(quant) = quant_type_of(dtype) {
        // Many scales may go with one zero point, which is checked when they are computed with.
        let single = |index: usize| {
            cx.optional(index)
                .and_then(|k| k.constant)
                .is_some_and(|t| t.len() == 1)
        };
        if single(index + 1) && single(index + 2) {
            known_params(cx, index + 1, quant, None)?;
        }
    }
    Ok(())
}

/// The result of bytes with its scale and zero point at inputs 6 and 7.
fn result(cx: &Context<'_>, shape: Option<Vec<Dim>>) -> Types {
    float(cx, 6)?;
    let dtype = match bytes(cx, 7)?.ty.dtype {
        DType::U8 => QuantType::Uint8,
        _ => QuantType::Int8,
    };
    check_count(cx, 6, Some(&ONE))?;
    check_count(cx, 7, Some(&ONE))?;
    let params = known_params(cx, 6, dtype, None)?;
    Ok(vec![
        typed(dtype_of(dtype), shape)
            .with_quantization(params)
            .into(),
    ])
}

/// The rows of the first operand of a product, at input `a`, and the columns of the second one, at input `b`.
fn rows_and_columns<'a>(
    cx: &Context<'a>,
    a: usize,
    b: usize,
) -> (Option<&'a Dim>, Option<&'a Dim>) {
    let rows = optional_dims(cx, a).map(|dims| dims.iter().rev().nth(1).unwrap_or(&ONE));
    let columns = optional_dims(cx, b).map(|dims| match dims {
        [.., _, columns] => columns,
        _ => &ONE,
    });
    (rows, columns)
}

pub(super) fn qlinear_conv(op: &QLinearConv, cx: &mut Context<'_>) -> Types {
    check_operand(cx, 0, Some(&ONE))?;
    check_operand(cx, 3, optional_dims(cx, 3).and_then(<[Dim]>::first))?;
    expect(cx, 8, DType::I32)?;
    let shape = convolved(&op.shape(), cx, [0, 3, 8])?;
    result(cx, shape)
}

pub(super) fn qlinear_mat_mul(_op: &QLinearMatMul, cx: &mut Context<'_>) -> Types {
    let (rows, columns) = rows_and_columns(cx, 0, 3);
    check_operand(cx, 0, rows)?;
    check_operand(cx, 3, columns)?;
    let shape = product(dims(cx.required(0)?), dims(cx.required(3)?))?;
    result(cx, shape)
}

/// Checks two operands of bytes and their optional zero points.
fn check_integers(cx: &Context<'_>) -> Result<(), OpError> {
    for index in 0..2 {
        let dtype = bytes(cx, index)?.ty.dtype;
        expect(cx, index + 2, dtype)?;
    }
    Ok(())
}

pub(super) fn conv_integer(op: &ConvInteger, cx: &mut Context<'_>) -> Types {
    check_integers(cx)?;
    check_count(cx, 2, Some(&ONE))?;
    check_count(cx, 3, optional_dims(cx, 1).and_then(<[Dim]>::first))?;
    // A convolution of integers has no bias: no input is there.
    Ok(one(
        DType::I32,
        convolved(&op.shape(), cx, [0, 1, usize::MAX])?,
    ))
}

pub(super) fn mat_mul_integer(_op: &MatMulInteger, cx: &mut Context<'_>) -> Types {
    check_integers(cx)?;
    let (rows, columns) = rows_and_columns(cx, 0, 1);
    check_count(cx, 2, rows)?;
    check_count(cx, 3, columns)?;
    Ok(one(
        DType::I32,
        product(dims(cx.required(0)?), dims(cx.required(1)?))?,
    ))
}
