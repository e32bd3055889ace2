//! Types of the fused and lowered operators.

use std::sync::Arc;

use octofold_ops::families::real::{dtype_of, quant_type_of};
use octofold_ops::families::{
    BinaryForm, FusedBinary, FusedConcat, FusedConv, FusedGlobalPool, FusedLinear, FusedPool,
    Outcome, OutputQuantization, Parameters, Product, TableLookup, pooled_shape,
};
use octofold_ops::{OpError, bail, bail_attribute};
use octofold_quant::{QParams, QuantParams};
use octofold_tensor::{DType, Dim};

use super::helpers::{broadcast, bytes, differ, dims, expect, optional_dims, typed};
use super::matmul::product;
use super::{Context, Types};

/// The result: bytes with parameters, or f32.
fn result(y: Option<OutputQuantization>, shape: Option<Vec<Dim>>) -> Types {
    let ty = match y {
        None => typed(DType::F32, shape),
        Some(y) => {
            y.check()?;
            let params = Arc::new(QuantParams::PerTensor(y.params));
            typed(dtype_of(y.dtype), shape).with_quantization(Some(params))
        }
    };
    Ok(vec![ty.into()])
}

/// Checks an operand: bytes when it has parameters, otherwise f32.
fn check_operand(cx: &Context<'_>, index: usize, params: Option<QParams>) -> Result<(), OpError> {
    match params {
        None => {
            cx.required(index)?;
            expect(cx, index, DType::F32)
        }
        Some(params) => {
            let dtype = bytes(cx, index)?.ty.dtype;
            if let Some(quant) = quant_type_of(dtype) {
                QParams::new(params.scale, params.zero_point, quant)?;
            }
            Ok(())
        }
    }
}

/// Checks the operands of a layer with weights, of `count` output channels: `x`, `w`, the bias and the residual.
fn check_layer(cx: &Context<'_>, product: &Product, count: Option<&Dim>) -> Result<(), OpError> {
    product.check_residual(cx.optional(3).is_some())?;
    let Product::Integer(integer) = product else {
        for index in [0, 1] {
            check_operand(cx, index, None)?;
        }
        expect(cx, 3, DType::F32)?;
        return check_bias(cx, DType::F32, count);
    };
    match integer.x {
        Parameters::Fixed(x) => check_operand(cx, 0, Some(x))?,
        Parameters::AtRunTime(_) => {
            for (slot, dtype) in [(0, DType::U8), (4, DType::F32), (5, DType::U8)] {
                cx.required(slot)?;
                expect(cx, slot, dtype)?;
            }
        }
    }
    bytes(cx, 1)?;
    integer.check_w_scales(count.and_then(Dim::known))?;
    if let Outcome::Residual { residual, .. } = integer.result {
        check_operand(cx, 3, Some(residual))?;
    }
    let bias = match integer.result {
        Outcome::Float(_) => DType::F32,
        Outcome::Bytes(_) | Outcome::Residual { .. } | Outcome::Accumulators => DType::I32,
    };
    check_bias(cx, bias, count)
}

/// Checks that the bias at input 2 has one number for each output channel.
fn check_bias(cx: &Context<'_>, dtype: DType, count: Option<&Dim>) -> Result<(), OpError> {
    expect(cx, 2, dtype)?;
    match (optional_dims(cx, 2), count) {
        (Some([size]), Some(count)) if !differ(size, count) => Ok(()),
        (None, _) | (Some([_]), None) => Ok(()),
        _ => bail!("the bias has not one number for each output channel"),
    }
}

/// The type of what a layer with weights gives.
fn layer_result(product: &Product, shape: Option<Vec<Dim>>) -> Types {
    match product.outcome() {
        Some(Outcome::Accumulators) => Ok(vec![typed(DType::I32, shape).into()]),
        _ => result(product.y(), shape),
    }
}

pub(super) fn fused_conv(op: &FusedConv, cx: &mut Context<'_>) -> Types {
    let w = dims(cx.required(1)?);
    if let Product::Integer(integer) = &op.product {
        // Only linear layers take the parameters of a run.
        integer.operands()?;
    }
    check_layer(cx, &op.product, w.and_then(|w| w.first()))?;
    let shape = match (dims(cx.required(0)?), w) {
        (Some(x), Some(w)) => {
            let sizes = op.layout.channels_first(x)?;
            let sizes = op.shape().output(&sizes, w, None)?.into_iter();
            let sizes = sizes.map(|size| size.unwrap_or_else(|| cx.fresh()));
            op.layout.arrange(sizes.collect())
        }
        _ => (0..op.strides.len() + 2).map(|_| cx.fresh()).collect(),
    };
    if let Some(residual) = optional_dims(cx, 3)
        && (residual.len() != shape.len() || residual.iter().zip(&shape).any(|(a, b)| differ(a, b)))
    {
        bail!("the residual has not the shape of the result");
    }
    layer_result(&op.product, Some(shape))
}

pub(super) fn fused_linear(op: &FusedLinear, cx: &mut Context<'_>) -> Types {
    let w = dims(cx.required(1)?);
    if w.is_some_and(|w| w.len() != 2) {
        bail!("the weights of a linear layer have two axes");
    }
    check_layer(cx, &op.product, w.and_then(|w| w.last()))?;
    let shape = product(dims(cx.required(0)?), w)?;
    layer_result(&op.product, shape)
}

pub(super) fn fused_binary(op: &FusedBinary, cx: &mut Context<'_>) -> Types {
    let (a, b, y) = match op.form {
        BinaryForm::Float(_) => (None, None, None),
        BinaryForm::Bytes { a, b, y } => (Some(a), Some(b), Some(y)),
    };
    check_operand(cx, 0, a)?;
    check_operand(cx, 1, b)?;
    let shape = match (optional_dims(cx, 0), optional_dims(cx, 1)) {
        (Some(a), Some(b)) => Some(broadcast(a, b)?),
        _ => None,
    };
    result(y, shape)
}

pub(super) fn fused_pool(op: &FusedPool, cx: &mut Context<'_>) -> Types {
    check_operand(cx, 0, op.rescale.map(|rescale| rescale.x))?;
    let window = op.window()?;
    let shape = match optional_dims(cx, 0) {
        None => (0..window.axes.len() + 2).map(|_| cx.fresh()).collect(),
        Some(x) => {
            let sizes = op.layout.channels_first(x)?;
            op.layout.arrange(pooled_shape(&window, &sizes)?)
        }
    };
    result(op.rescale.map(|rescale| rescale.y), Some(shape))
}

pub(super) fn fused_global_pool(op: &FusedGlobalPool, cx: &mut Context<'_>) -> Types {
    check_operand(cx, 0, op.rescale.map(|rescale| rescale.x))?;
    let shape = match optional_dims(cx, 0) {
        None => None,
        Some(x) => {
            let mut shape = op.layout.channels_first(x)?;
            shape[2..].fill(Dim::Known(1));
            Some(op.layout.arrange(shape))
        }
    };
    result(op.rescale.map(|rescale| rescale.y), shape)
}

pub(super) fn fused_concat(op: &FusedConcat, cx: &mut Context<'_>) -> Types {
    cx.required(0)?;
    let types = (0..cx.len()).map(|index| Ok(quant_type_of(bytes(cx, index)?.ty.dtype)));
    let types: Option<Vec<_>> = types
        .collect::<Result<Vec<_>, OpError>>()?
        .into_iter()
        .collect();
    op.params(&types.unwrap_or_default())?;
    let mut shape: Option<Vec<Dim>> = None;
    for index in 0..cx.len() {
        let Some(own) = optional_dims(cx, index) else {
            return result(Some(op.y), None);
        };
        let axis = usize::try_from(op.axis)
            .ok()
            .filter(|&axis| axis < own.len());
        let Some(axis) = axis else {
            bail_attribute!("axis", "{} is out of range", op.axis);
        };
        let Some(sum) = &mut shape else {
            shape = Some(own.to_vec());
            continue;
        };
        if sum.len() != own.len() || (0..own.len()).any(|i| i != axis && differ(&sum[i], &own[i])) {
            bail!("input {index} does not concatenate with the others");
        }
        for (i, (sum, own)) in sum.iter_mut().zip(own).enumerate() {
            if i == axis {
                *sum = sum.clone().plus(own.clone());
            } else if sum.known().is_none() {
                *sum = own.clone();
            }
        }
    }
    result(Some(op.y), shape)
}

pub(super) fn table_lookup(_op: &TableLookup, cx: &mut Context<'_>) -> Types {
    let (x, table) = (bytes(cx, 0)?, bytes(cx, 1)?);
    match dims(table) {
        None => {}
        Some([size]) if !differ(size, &Dim::Known(256)) => {}
        Some(_) => bail!("a table has 256 entries"),
    }
    Ok(vec![typed(table.ty.dtype, x.ty.shape.clone()).into()])
}
