//! Types of observers: that of the input.

use octofold_ops::OpError;
use octofold_ops::families::Observe;

use super::{Context, Inferred};

pub(super) fn observe(_op: &Observe, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let x = cx.required(0)?;
    Ok(vec![Inferred {
        ty: x.ty.clone(),
        contents: x.contents.map(<[_]>::to_vec),
    }])
}
