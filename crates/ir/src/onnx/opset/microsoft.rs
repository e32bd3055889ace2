//! The float operators of `com.microsoft` that say what ONNX says in other words; `qoperator` has the quantized ones.

use octofold_ops::Attribute;

use super::{Lowering, OldNode, qoperator};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// Adds a node of `com.microsoft`, as ONNX operators.
pub(super) fn lower(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    match old.op.as_str() {
        "Gelu" => cx.finish(old),
        "BiasGelu" => gelu(cx, old, "none"),
        "FastGelu" => gelu(cx, old, "tanh"),
        "QuickGelu" => {
            let alpha = old.attributes.read::<f32>("alpha")?.unwrap_or(1.702);
            old.attributes.insert("alpha", Attribute::Float(alpha));
            old.op = "Swish".to_owned();
            cx.finish(old)
        }
        "FusedMatMul" => fused_mat_mul(cx, old),
        _ => qoperator::lower(cx, old),
    }
}

/// `Gelu(x + bias)`; the bias may be absent.
fn gelu(cx: &mut Lowering<'_>, old: OldNode, approximate: &str) -> Result<(), NodeError> {
    let x = match (old.required(0)?, old.input(1)) {
        (x, None) => x,
        (x, Some(bias)) => cx.helper("Add", &[x, bias], &[])?,
    };
    refuse_attributes(&old)?;
    cx.finish_as(
        "Gelu",
        &[x],
        &[("approximate", Attribute::String(approximate.to_owned()))],
        &old.outputs,
    )
}

/// `alpha·A'·B'`, where the last two axes may be exchanged.
fn fused_mat_mul(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    let (mut a, mut b) = (old.required(0)?, old.required(1)?);
    let alpha = old.attributes.read::<f32>("alpha")?.unwrap_or(1.0);
    for name in ["transBatchA", "transBatchB"] {
        old.drop_attribute(name, &[0])?;
    }
    if old.attributes.read::<bool>("transA")?.unwrap_or(false) {
        a = transpose(cx, a)?;
    }
    if old.attributes.read::<bool>("transB")?.unwrap_or(false) {
        b = transpose(cx, b)?;
    }
    refuse_attributes(&old)?;
    if alpha == 1.0 {
        return cx.finish_as("MatMul", &[a, b], &[], &old.outputs);
    }
    let product = cx.helper("MatMul", &[a, b], &[])?;
    let alpha = cx.number_like("alpha", alpha, product)?;
    cx.finish_as("Mul", &[product, alpha], &[], &old.outputs)
}

/// Exchanges the last two axes; a vector stays as it is.
fn transpose(cx: &mut Lowering<'_>, value: ValueId) -> Result<ValueId, NodeError> {
    let rank = cx.known_rank(value)?;
    if rank < 2 {
        return Ok(value);
    }
    let mut perm: Vec<i64> = (0..rank)
        .map(|axis| i64::try_from(axis).unwrap_or(i64::MAX))
        .collect();
    perm.swap(rank - 2, rank - 1);
    cx.helper("Transpose", &[value], &[("perm", Attribute::Ints(perm))])
}

/// Refuses attributes that were not looked at.
pub(super) fn refuse_attributes(old: &OldNode) -> Result<(), NodeError> {
    match old.attributes.names().next() {
        None => Ok(()),
        Some(unknown) => Err(octofold_ops::OpError::UnknownAttribute(unknown.to_owned()).into()),
    }
}
