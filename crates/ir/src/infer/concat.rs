//! Types of joining and dividing.

use octofold_ops::families::{Concat, Split};
use octofold_ops::{OpError, bail, bail_attribute, normalize_axis};
use octofold_tensor::Dim;

use super::contents::List;
use super::helpers::{dims, expect};
use super::shape::moved;
use super::{Context, Inferred, Types, contents, sizes};

pub(super) fn concat(op: &Concat, cx: &mut Context<'_>) -> Types {
    let first = cx.required(0)?;
    let mut ty = moved(first, None);
    let mut shape: Option<Vec<Dim>> = None;
    let mut unknown = false;
    for index in 0..cx.len() {
        let x = cx.required(index)?;
        expect(cx, index, first.ty.dtype)?;
        if x.ty.quantization != ty.quantization {
            ty.quantization = None;
        }
        let Some(dims) = dims(x) else {
            unknown = true;
            continue;
        };
        let axis = normalize_axis(op.axis, dims.len())?;
        shape = Some(match shape {
            None => dims.to_vec(),
            Some(shape) if shape.len() != dims.len() => {
                bail!(
                    "input {index} is of rank {}, not {}",
                    dims.len(),
                    shape.len()
                );
            }
            Some(shape) => {
                let pairs = shape.into_iter().zip(dims).enumerate();
                let joined = pairs.map(|(other, (a, b))| {
                    if other == axis {
                        Ok(a.plus(b.clone()))
                    } else {
                        sizes::same(&a, b)
                    }
                });
                joined.collect::<Result<_, _>>()?
            }
        });
    }
    if unknown && let Some(shape) = &mut shape {
        let axis = normalize_axis(op.axis, shape.len())?;
        shape[axis] = cx.fresh();
    }
    let all: Vec<usize> = (0..cx.len()).collect();
    let contents = shape
        .as_ref()
        .and_then(|shape| contents::moved(op, cx, &all, shape));
    ty.shape = shape;
    Ok(vec![Inferred { ty, contents }])
}

pub(super) fn split(op: &Split, cx: &mut Context<'_>) -> Types {
    let x = cx.required(0)?;
    let dims = dims(x);
    let axis = dims
        .map(|dims| normalize_axis(op.axis, dims.len()))
        .transpose()?;
    let size = dims.zip(axis).map(|(dims, axis)| dims[axis].clone());
    let parts: Vec<Option<Dim>> = match (contents::list(cx, 1)?, op.num_outputs) {
        (List::Known(_) | List::Unknown(_), Some(_)) => {
            bail_attribute!("num_outputs", "does not go with the input `split`");
        }
        (List::Known(parts), None) => {
            let total = parts.iter().try_fold(0_i64, |sum, &part| {
                if part < 0 {
                    None
                } else {
                    sum.checked_add(part)
                }
            });
            let known = size.as_ref().and_then(Dim::known);
            if total.is_none_or(|total| known.is_some_and(|size| size != total)) {
                bail!("the parts {parts:?} do not add up to the size of the axis");
            }
            parts
                .into_iter()
                .map(|part| Some(Dim::Known(part)))
                .collect()
        }
        (List::Unknown(Some(count)), None) if count <= Split::MAX_PARTS as usize => {
            vec![None; count]
        }
        (List::Unknown(_), None) => {
            return Err(OpError::Unsupported(
                "a Split into an unknown number of parts".to_owned(),
            ));
        }
        (List::Absent, None) => {
            bail_attribute!("num_outputs", "is missing, and so is the input `split`");
        }
        (List::Absent, Some(count)) => {
            // Checks the number.
            let known = size
                .as_ref()
                .and_then(Dim::known)
                .and_then(|size| usize::try_from(size).ok());
            let even = Split::even(known.unwrap_or(0), count)?;
            match (known, &size) {
                (Some(_), _) => even.into_iter().map(|part| Some(part.into())).collect(),
                // Of a size that is not known, all parts but the last are of the rounded quotient.
                (None, Some(size)) => {
                    let part = size.clone().ceil_div(count);
                    let taken = |parts: i64| part.clone().times(parts).min(size.clone());
                    (0..count)
                        .map(|i| {
                            Some(if count == 1 {
                                size.clone()
                            } else {
                                taken(i + 1).minus(taken(i))
                            })
                        })
                        .collect()
                }
                (None, None) => vec![None; even.len()],
            }
        }
    };
    let outputs = parts.into_iter().map(|part| {
        let shape = dims.zip(axis).map(|(dims, axis)| {
            let mut shape = dims.to_vec();
            shape[axis] = part.unwrap_or_else(|| cx.fresh());
            shape
        });
        moved(x, shape).into()
    });
    let mut outputs: Vec<Inferred> = outputs.collect();
    follow(x, &mut outputs);
    Ok(outputs)
}

/// Divides the contents of a list among the parts.
fn follow(x: super::Known<'_>, outputs: &mut [Inferred]) {
    let Some((shape, contents)) = contents::of(x).filter(|(shape, _)| shape.len() == 1) else {
        return;
    };
    let sizes: Option<Vec<usize>> = outputs
        .iter()
        .map(|output| output.ty.known_shape()?.first().copied())
        .collect();
    let Some(sizes) = sizes.filter(|sizes| sizes.iter().sum::<usize>() == shape[0]) else {
        return;
    };
    let mut rest = contents.as_slice();
    for (output, size) in outputs.iter_mut().zip(sizes) {
        let (part, after) = rest.split_at(size);
        output.contents = Some(part.to_vec());
        rest = after;
    }
}
