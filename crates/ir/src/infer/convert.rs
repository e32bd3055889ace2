//! Types of changes of the element type.

use octofold_ops::OpError;
use octofold_ops::families::Cast;
use octofold_tensor::DType;

use super::helpers::typed;
use super::{Context, Inferred, Types, contents};

/// The operand with elements of another type.
fn converted(cx: &Context<'_>, to: DType) -> Types {
    let x = cx.required(0)?;
    let from = x.ty.dtype;
    if from == DType::String && to == DType::Bool {
        return Err(OpError::Unsupported(format!(
            "a conversion of {from} to {to}"
        )));
    }
    // Sizes fit 32 bits as well as 64. The importer and folding see to conversions that change values.
    let keeps = matches!(from, DType::I64 | DType::I32 | DType::Bool)
        && matches!(to, DType::I64 | DType::I32);
    let fits = |dim: &octofold_tensor::Dim| {
        dim.known()
            .is_none_or(|value| to == DType::I64 || i32::try_from(value).is_ok())
    };
    let contents = contents::of(x)
        .map(|(_, contents)| contents)
        .filter(|contents| keeps && contents.iter().all(fits));
    let mut ty = typed(to, x.ty.shape.clone());
    if from == to {
        ty = x.ty.clone();
    }
    Ok(vec![Inferred { ty, contents }])
}

pub(super) fn cast(op: &Cast, cx: &mut Context<'_>) -> Types {
    converted(cx, op.to)
}

pub(super) fn cast_like(cx: &Context<'_>) -> Types {
    converted(cx, cx.required(1)?.ty.dtype)
}
