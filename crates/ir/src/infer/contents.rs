//! Following what small integer tensors hold.
//!
//! Operators that only move elements are followed by running them on the positions of the elements ([`moved`]), arithmetic by the arithmetic of
//! [`Dim`], and any other operator by running it when all of its inputs are known ([`complete`]).

use octofold_ops::families::{Cast, Expand};
use octofold_ops::{Inputs, Op, OpError, Operator, bail};
use octofold_tensor::{DType, Dim, Tensor};

use super::{Context, Inferred, Known};

/// The largest number of elements that are followed.
pub(super) const MAX: usize = 64;

/// A list of numbers at an input.
pub(super) enum List {
    /// The input is absent.
    Absent,
    /// The numbers are not known; their count may be.
    Unknown(Option<usize>),
    /// The numbers.
    Known(Vec<i64>),
}

impl List {
    /// The numbers, or what an absent input stands for; `None` when they are not known.
    pub(super) fn or(self, default: impl FnOnce() -> Vec<i64>) -> Option<Vec<i64>> {
        match self {
            Self::Absent => Some(default()),
            Self::Unknown(_) => None,
            Self::Known(list) => Some(list),
        }
    }
}

/// Checks that an input holds indices.
///
/// # Errors
/// When it is neither of type int64 nor of int32.
pub(super) fn expect_integers(known: Known<'_>, index: usize) -> Result<(), OpError> {
    match known.ty.dtype {
        DType::I64 | DType::I32 => Ok(()),
        found => Err(OpError::InputType {
            index,
            found,
            expected: "int64 or int32",
        }),
    }
}

/// The numbers at an input of rank 0 or 1, known or symbolic.
///
/// # Errors
/// When the input is of another rank or holds no integers.
pub(super) fn numbers(known: Known<'_>, index: usize) -> Result<Option<Vec<Dim>>, OpError> {
    expect_integers(known, index)?;
    if known.ty.rank().is_some_and(|rank| rank > 1) {
        bail!("input {index} is no list but {}", known.ty);
    }
    if let Some(contents) = known.contents {
        return Ok(Some(contents.to_vec()));
    }
    let numbers = known.constant.and_then(integers);
    Ok(numbers.map(|numbers| numbers.into_iter().map(Dim::Known).collect()))
}

/// The list at an optional input.
///
/// # Errors
/// As [`numbers`].
pub(super) fn list(cx: &Context<'_>, index: usize) -> Result<List, OpError> {
    let Some(known) = cx.optional(index) else {
        return Ok(List::Absent);
    };
    let numbers = numbers(known, index)?;
    if let Some(list) = numbers.and_then(|numbers| numbers.iter().map(Dim::known).collect()) {
        return Ok(List::Known(list));
    }
    let count = match known.ty.known_shape().as_deref() {
        Some(&[count]) => Some(count),
        Some([]) => Some(1),
        _ => None,
    };
    Ok(List::Unknown(count))
}

/// The one number of an input of one element, when it is known at all.
///
/// # Errors
/// As [`numbers`], and when there is another count of elements.
pub(super) fn scalar(known: Known<'_>, index: usize) -> Result<Option<Dim>, OpError> {
    match numbers(known, index)?.as_deref() {
        None => Ok(None),
        Some([number]) => Ok(Some(number.clone())),
        Some(numbers) => bail!("input {index} holds {} elements, not one", numbers.len()),
    }
}

/// The elements of an integer tensor.
fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    match tensor.dtype() {
        DType::I64 => Some(tensor.values::<i64>().ok()?.to_vec()),
        DType::I32 => Some(
            tensor
                .values::<i32>()
                .ok()?
                .iter()
                .map(|&value| value.into())
                .collect(),
        ),
        _ => None,
    }
}

/// The numbers of a small list that is constant.
pub(crate) fn constant_contents(tensor: &Tensor) -> Option<Vec<Dim>> {
    let small = tensor.rank() <= 1 && tensor.len() <= MAX;
    let numbers = integers(tensor).filter(|_| small)?;
    Some(numbers.into_iter().map(Dim::Known).collect())
}

/// The numbers of an input that holds integers, of any size, where all are known.
pub(super) fn known_numbers(known: Known<'_>) -> Option<Vec<i64>> {
    match known.constant {
        Some(tensor) => integers(tensor),
        None => known.contents?.iter().map(Dim::known).collect(),
    }
}

/// What a small input holds, with its shape, when it is known at all.
pub(super) fn of(known: Known<'_>) -> Option<(Vec<usize>, Vec<Dim>)> {
    let shape = known.ty.known_shape()?;
    let contents = match (known.contents, known.constant) {
        (Some(contents), _) => contents.to_vec(),
        (None, Some(tensor)) if tensor.len() <= MAX => match tensor.values::<bool>() {
            Ok(flags) => flags.iter().map(|&flag| Dim::Known(flag.into())).collect(),
            Err(_) => integers(tensor)?.into_iter().map(Dim::Known).collect(),
        },
        (None, _) => return None,
    };
    (count(&shape)? == contents.len()).then_some((shape, contents))
}

/// The number of elements of a shape that is small enough to follow.
fn count(shape: &[usize]) -> Option<usize> {
    let count = shape
        .iter()
        .try_fold(1_usize, |count, &size| count.checked_mul(size))?;
    (count <= MAX).then_some(count)
}

/// An input as a tensor: a small constant, or contents that are all known.
fn tensor(known: Known<'_>) -> Option<Tensor> {
    if let Some(constant) = known.constant {
        return (constant.len() <= MAX).then(|| constant.clone());
    }
    let shape = known.ty.known_shape()?;
    let values = known
        .contents?
        .iter()
        .map(Dim::known)
        .collect::<Option<Vec<_>>>()?;
    let tensor = Tensor::new(shape, values).ok()?;
    let cast = Cast {
        to: known.ty.dtype,
        saturate: true,
        round_mode: String::new(),
    };
    cast.evaluate(Inputs(&[Some(&tensor)]), 1).ok()?.pop()
}

/// The contents of what an operator makes by only moving elements of the inputs `data`; everything else must be known. `output` is the inferred
/// result, which must be small.
pub(super) fn moved<O: Operator>(
    op: &O,
    cx: &Context<'_>,
    data: &[usize],
    output: &[Dim],
) -> Option<Vec<Dim>> {
    let shape = output
        .iter()
        .map(|dim| usize::try_from(dim.known()?).ok())
        .collect::<Option<Vec<_>>>()?;
    count(&shape)?;
    let mut pool = Vec::new();
    let mut tensors = Vec::with_capacity(cx.len());
    for index in 0..cx.len() {
        tensors.push(match cx.optional(index) {
            None => None,
            Some(known) if data.contains(&index) => {
                let (shape, contents) = of(known)?;
                let first = pool.len();
                pool.extend(contents);
                Some(
                    Tensor::new(
                        shape,
                        (first..pool.len())
                            .map(|position| position as i64)
                            .collect(),
                    )
                    .ok()?,
                )
            }
            Some(known) => Some(tensor(known)?),
        });
    }
    let inputs: Vec<_> = tensors.iter().map(Option::as_ref).collect();
    let positions = op.evaluate(Inputs(&inputs), 1).ok()?;
    let positions = positions.first()?.values::<i64>().ok()?;
    positions
        .iter()
        .map(|&position| pool.get(usize::try_from(position).ok()?).cloned())
        .collect()
}

/// Contents that broadcast to a small shape.
pub(super) fn expanded(shape: &[usize], contents: &[Dim], output: &[usize]) -> Option<Vec<Dim>> {
    count(output)?;
    let positions =
        Tensor::new(shape.iter().copied(), (0..contents.len() as i64).collect()).ok()?;
    let target = Tensor::vector(output.iter().map(|&size| size as i64).collect());
    let positions = Expand {}
        .evaluate(Inputs(&[Some(&positions), Some(&target)]), 1)
        .ok()?;
    let positions = positions.first()?.values::<i64>().ok()?;
    positions
        .iter()
        .map(|&position| contents.get(usize::try_from(position).ok()?).cloned())
        .collect()
}

/// Runs an operator whose inputs are all known and small, for the contents of small outputs that nothing is known of yet.
pub(super) fn complete(op: &Op, cx: &Context<'_>, outputs: &mut [Inferred]) {
    let wanted = |output: &Inferred| {
        output.contents.is_none()
            && matches!(output.ty.dtype, DType::I64 | DType::I32 | DType::Bool)
            && output
                .ty
                .known_shape()
                .is_some_and(|shape| count(&shape).is_some())
    };
    // Other outputs must be small, too, or running the operator would cost more than the contents are worth.
    let small = |output: &Inferred| {
        output
            .ty
            .known_shape()
            .is_some_and(|shape| count(&shape).is_some())
    };
    if cx.is_empty() || !outputs.iter().any(wanted) || !outputs.iter().all(small) {
        return;
    }
    let mut tensors = Vec::with_capacity(cx.len());
    for index in 0..cx.len() {
        match cx.optional(index) {
            None => tensors.push(None),
            Some(known) => match tensor(known) {
                Some(tensor) => tensors.push(Some(tensor)),
                None => return,
            },
        }
    }
    let inputs: Vec<_> = tensors.iter().map(Option::as_ref).collect();
    let Ok(results) = op.evaluate(Inputs(&inputs), outputs.len()) else {
        return;
    };
    for (output, result) in outputs.iter_mut().zip(results) {
        let fits = output.ty.dtype == result.dtype()
            && output.ty.known_shape().as_deref() == Some(result.shape());
        if wanted(output) && fits {
            let known = Known {
                ty: &output.ty,
                constant: Some(&result),
                contents: None,
            };
            output.contents = of(known).map(|(_, contents)| contents);
        }
    }
}
