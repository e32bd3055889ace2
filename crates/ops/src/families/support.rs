//! What the operators share: axes, sizes that must not overflow, broadcasting, and walks over strided elements.
//!
//! Every walk uses [`for_each_run`], which merges axes that are contiguous in all operands. So contiguous work becomes one run,
//! and no index is computed for each element.

use std::cell::Cell;

use octofold_tensor::{DType, Element, Shape, Tensor, TensorData};
use smallvec::{SmallVec, smallvec};

use crate::{OpError, bail};

/// The distances between neighbours along each axis, in elements.
pub(crate) type Strides = SmallVec<[isize; 6]>;

/// The largest number of elements that an operator makes, unless [`within_elements`] says less.
pub(crate) const MAX_ELEMENTS: usize = 1 << 31;

thread_local! {
    static LIMIT: Cell<usize> = const { Cell::new(MAX_ELEMENTS) };
}

/// Calls `run` and limits the results of operators on this thread to `limit` elements. A larger result is [`OpError::TooLarge`] before memory is
/// allocated. Only operators know sizes that depend on data, so the caller passes its budget down in this way.
pub fn within_elements<T>(limit: usize, run: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let _restore = Restore(LIMIT.replace(limit.min(MAX_ELEMENTS)));
    run()
}

/// The number of elements of a result, before anything is allocated for it.
///
/// # Errors
/// When there are more than [`MAX_ELEMENTS`], or than [`within_elements`] allows.
pub(crate) fn checked_elements(shape: &[usize]) -> Result<usize, OpError> {
    if shape.contains(&0) {
        return Ok(0);
    }
    let count = shape
        .iter()
        .fold(1_u128, |n, &size| n.saturating_mul(size as u128));
    match usize::try_from(count) {
        Ok(n) if n <= LIMIT.get() => Ok(n),
        _ => Err(OpError::TooLarge(count)),
    }
}

/// The number of elements of a checked shape, or of some of its axes. It saturates, because an empty tensor may have axes of
/// any size.
pub(crate) fn elements_of(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape
        .iter()
        .fold(1, |count, &size| count.saturating_mul(size))
}

/// An index of an axis of `size` elements, counted from the front. A negative one counts from the back; it may be out of range.
pub(crate) fn from_front(index: i64, size: i64) -> i64 {
    if index < 0 {
        index.saturating_add(size)
    } else {
        index
    }
}

/// An axis in `-rank..rank`, counted from the front.
///
/// # Errors
/// When it is out of range.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    match usize::try_from(from_front(axis, rank as i64)) {
        Ok(position) if position < rank => Ok(position),
        _ => bail!("axis {axis} is out of range for rank {rank}"),
    }
}

/// Axes in `-rank..rank`, counted from the front, in the given order.
///
/// # Errors
/// When one is out of range or there twice.
pub fn normalize_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut seen = vec![false; rank];
    let mut out = Vec::with_capacity(axes.len().min(rank));
    for &axis in axes {
        let from_front = normalize_axis(axis, rank)?;
        if std::mem::replace(&mut seen[from_front], true) {
            bail!("axis {axis} is given twice");
        }
        out.push(from_front);
    }
    Ok(out)
}

/// Replaces each line along an axis, read in order, by what `line` makes of it in place; `line` also gets the distance between its elements in memory.
pub(crate) fn map_lines<T: Copy + Default>(
    values: &mut [T],
    shape: &[usize],
    axis: usize,
    mut line: impl FnMut(&mut [T], usize),
) {
    if values.is_empty() {
        return;
    }
    let (size, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let mut buffer = vec![T::default(); size];
    for block in values.chunks_exact_mut(size * inner) {
        for offset in 0..inner {
            for (slot, value) in buffer.iter_mut().zip(block[offset..].iter().step_by(inner)) {
                *slot = *value;
            }
            line(&mut buffer, inner);
            for (value, slot) in block[offset..].iter_mut().step_by(inner).zip(&buffer) {
                *value = *slot;
            }
        }
    }
}

/// The strides of a dense row-major tensor.
pub(crate) fn strides_of(shape: &[usize]) -> Strides {
    let mut strides: Strides = smallvec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].wrapping_mul(shape[axis] as isize);
    }
    strides
}

/// The shape that operands broadcast to, by the rules of NumPy.
///
/// # Errors
/// When two sizes of an axis differ and neither is 1, or the result is too large.
pub(crate) fn broadcast_shapes(shapes: &[&[usize]]) -> Result<Shape, OpError> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut out: Shape = smallvec![1; rank];
    for shape in shapes {
        for (size, &other) in out.iter_mut().rev().zip(shape.iter().rev()) {
            match (*size, other) {
                (a, b) if a == b => {}
                (1, b) => *size = b,
                (_, 1) => {}
                _ => {
                    bail!("the shapes {shapes:?} do not broadcast");
                }
            }
        }
    }
    checked_elements(&out)?;
    Ok(out)
}

/// The strides by which an operand of `shape` is read as one of shape `out`: 0 along repeated axes.
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Strides {
    let mut strides: Strides = smallvec![0; out.len()];
    let own = strides_of(shape);
    let missing = out.len().saturating_sub(shape.len());
    for (axis, (&size, &stride)) in shape.iter().zip(&own).enumerate() {
        if size != 1 {
            strides[missing + axis] = stride;
        }
    }
    strides
}

/// Walks over an index space of sizes `shape` in row-major order and calls `run(offsets, count, steps)` for each run along the innermost
/// axis. Operand `n` is at `offsets[n] + i·steps[n]` for the `i`-th index of the run.
///
/// First it merges axes that are contiguous in all operands.
pub(crate) fn for_each_run<const N: usize>(
    shape: &[usize],
    strides: [&[isize]; N],
    mut run: impl FnMut([isize; N], usize, [isize; N]),
) {
    walk_runs(shape, strides, &mut run);
}

/// [`for_each_run`]. Hundreds of callers share this function, which saves a third of the code of the crate.
fn walk_runs<const N: usize>(
    shape: &[usize],
    strides: [&[isize]; N],
    run: &mut dyn FnMut([isize; N], usize, [isize; N]),
) {
    if shape.contains(&0) {
        return;
    }
    let mut axes: SmallVec<[(usize, [isize; N]); 6]> = SmallVec::new();
    for (axis, &size) in shape.iter().enumerate() {
        if size == 1 {
            continue;
        }
        let steps: [isize; N] = std::array::from_fn(|n| strides[n][axis]);
        match axes.last_mut() {
            Some((outer, outer_steps))
                if (0..N).all(|n| outer_steps[n] == steps[n] * size as isize) =>
            {
                *outer *= size;
                *outer_steps = steps;
            }
            _ => axes.push((size, steps)),
        }
    }
    let (count, steps) = axes.pop().unwrap_or((1, [0; N]));
    let mut index: SmallVec<[usize; 6]> = smallvec![0; axes.len()];
    let mut offsets = [0_isize; N];
    loop {
        run(offsets, count, steps);
        let mut axis = axes.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let (size, steps) = axes[axis];
            index[axis] += 1;
            if index[axis] < size {
                (0..N).for_each(|n| offsets[n] += steps[n]);
                break;
            }
            index[axis] = 0;
            (0..N).for_each(|n| offsets[n] -= steps[n] * (size as isize - 1));
        }
    }
}

/// The elements at `start + Σ index·strides` for every index of `shape`, row-major.
pub(crate) fn copy_strided<T: Clone>(
    values: &[T],
    start: isize,
    shape: &[usize],
    strides: &[isize],
) -> Vec<T> {
    let mut out = Vec::with_capacity(elements_of(shape));
    for_each_run(shape, [strides], |[offset], count, [step]| {
        let first = (start + offset) as usize;
        match step {
            1 => out.extend_from_slice(&values[first..first + count]),
            0 => out.extend(std::iter::repeat_n(&values[first], count).cloned()),
            _ => out.extend(
                (0..count as isize).map(|i| values[(start + offset + i * step) as usize].clone()),
            ),
        }
    });
    out
}

/// The elements at the given positions.
pub(crate) fn pick<T: Clone>(values: &[T], places: &[usize]) -> Vec<T> {
    places.iter().map(|&place| values[place].clone()).collect()
}

/// `f` over the pairs of two operands that broadcast to `shape`.
pub(crate) fn broadcast_map<A, B, R>(
    (a, a_shape): (&[A], &[usize]),
    (b, b_shape): (&[B], &[usize]),
    shape: &[usize],
    f: impl Fn(&A, &B) -> R,
) -> Vec<R> {
    let mut out = Vec::with_capacity(elements_of(shape));
    let (a_strides, b_strides) = (
        broadcast_strides(a_shape, shape),
        broadcast_strides(b_shape, shape),
    );
    for_each_run(shape, [&a_strides, &b_strides], |[i, j], count, steps| {
        let (i, j) = (i as usize, j as usize);
        match steps {
            [1, 1] => out.extend(
                a[i..i + count]
                    .iter()
                    .zip(&b[j..j + count])
                    .map(|(a, b)| f(a, b)),
            ),
            [s, t] => {
                let (s, t) = (s as usize, t as usize);
                out.extend((0..count).map(|k| f(&a[i + k * s], &b[j + k * t])));
            }
        }
    });
    out
}

/// The integers of a tensor of indices, axes or sizes, of type `int64` or `int32`.
///
/// # Errors
/// When input `index` has another type.
pub(crate) fn integers(tensor: &Tensor, index: usize) -> Result<Vec<i64>, OpError> {
    match tensor.data() {
        TensorData::I64(values) => Ok(values.to_vec()),
        TensorData::I32(values) => Ok(values.iter().map(|&value| value.into()).collect()),
        _ => Err(OpError::InputType {
            index,
            found: tensor.dtype(),
            expected: "int64 or int32",
        }),
    }
}

/// The integers of a list, such as sizes or axes: a tensor of rank 1, or 0.
///
/// # Errors
/// When input `index` has another type or rank.
pub(crate) fn integer_list(tensor: &Tensor, index: usize) -> Result<Vec<i64>, OpError> {
    if tensor.rank() > 1 {
        bail!("input {index} is no list but of shape {:?}", tensor.shape());
    }
    integers(tensor, index)
}

/// The one element of a tensor of rank 0, or of one element.
///
/// # Errors
/// When there is not exactly one element of type `T`.
pub(crate) fn scalar<T: Element>(tensor: &Tensor, what: &str) -> Result<T, OpError> {
    match tensor.values::<T>()? {
        [value] => Ok(value.clone()),
        values => bail!("{what} holds {} elements, not one", values.len()),
    }
}

/// A size as it comes from a file.
///
/// # Errors
/// When it is negative.
pub(crate) fn to_size(size: i64) -> Result<usize, OpError> {
    usize::try_from(size).map_err(|_| OpError::invalid(format!("the size {size} is negative")))
}

/// The error that `tensor`, input `index`, has a type that the operator does not take.
pub(crate) fn wrong_type(tensor: &Tensor, index: usize, expected: &'static str) -> OpError {
    OpError::InputType {
        index,
        found: tensor.dtype(),
        expected,
    }
}

/// Checks that an input has the type of the first one.
///
/// # Errors
/// When it has not.
pub(crate) fn expect_type(tensor: &Tensor, index: usize, dtype: DType) -> Result<(), OpError> {
    if tensor.dtype() == dtype {
        Ok(())
    } else {
        Err(wrong_type(tensor, index, dtype.name()))
    }
}

/// Makes elements of the same type from those of a [`TensorData`]: `map_data!(data, values => vector)`.
macro_rules! map_data {
    (@ $data:expr, $values:ident => $body:expr; $($variant:ident)*) => {
        match $data {
            $(::octofold_tensor::TensorData::$variant($values) => {
                ::octofold_tensor::TensorData::$variant(::octofold_tensor::Elements::new($body))
            })*
        }
    };
    ($data:expr, $values:ident => $body:expr) => {
        $crate::families::support::map_data!(@ $data, $values => $body;
            F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 Bool String I4 U4)
    };
}
pub(crate) use map_data;

/// Makes elements from those of several tensors of one type, `tensors: &[&Tensor]`:
/// `map_tensors!(tensors, slices => vector)` with `slices: Vec<&[_]>`. Gives `Result<TensorData, OpError>`.
macro_rules! map_tensors {
    (@ $tensors:expr, $slices:ident => $body:expr; $($variant:ident)*) => {{
        let tensors: &[&::octofold_tensor::Tensor] = $tensors;
        let first = tensors.first().ok_or($crate::OpError::MissingInput(0))?;
        match first.dtype() {
            $(::octofold_tensor::DType::$variant => {
                let mut $slices = Vec::with_capacity(tensors.len());
                for (index, tensor) in tensors.iter().enumerate() {
                    match tensor.data() {
                        ::octofold_tensor::TensorData::$variant(values) => $slices.push(&values[..]),
                        _ => return Err($crate::families::support::wrong_type(tensor, index, first.dtype().name())),
                    }
                }
                ::octofold_tensor::TensorData::$variant(::octofold_tensor::Elements::new($body))
            })*
        }
    }};
    ($tensors:expr, $slices:ident => $body:expr) => {
        $crate::families::support::map_tensors!(@ $tensors, $slices => $body;
            F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 Bool String I4 U4)
    };
}
pub(crate) use map_tensors;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_from_either_end() {
        assert_eq!(normalize_axis(-1, 3), Ok(2));
        assert_eq!(normalize_axis(0, 1), Ok(0));
        assert!(normalize_axis(3, 3).is_err());
        assert!(normalize_axis(i64::MIN, 3).is_err());
        assert!(normalize_axis(0, 0).is_err());
        assert_eq!(normalize_axes(&[-1, 0], 3), Ok(vec![2, 0]));
        assert!(normalize_axes(&[-1, 2], 3).is_err());
    }

    #[test]
    fn shapes_broadcast_from_the_back() {
        assert_eq!(
            broadcast_shapes(&[&[3, 1, 5], &[4, 1]]).unwrap().as_slice(),
            [3, 4, 5]
        );
        assert_eq!(broadcast_shapes(&[&[1], &[0]]).unwrap().as_slice(), [0]);
        assert_eq!(broadcast_shapes(&[&[], &[2]]).unwrap().as_slice(), [2]);
        assert!(broadcast_shapes(&[&[2], &[3]]).is_err());
        assert!(matches!(
            broadcast_shapes(&[&[1 << 40, 1], &[1 << 40]]),
            Err(OpError::TooLarge(_))
        ));
        let sum = broadcast_map((&[10, 20], &[2, 1]), (&[1, 2, 3], &[3]), &[2, 3], |a, b| {
            a + b
        });
        assert_eq!(sum, [11, 12, 13, 21, 22, 23]);
    }

    #[test]
    fn runs_merge_what_lies_together() {
        let mut runs = Vec::new();
        for_each_run(&[2, 3, 4], [&[12, 4, 1]], |offsets, count, steps| {
            runs.push((offsets, count, steps))
        });
        assert_eq!(runs, [([0], 24, [1])]);
        runs.clear();
        // Every second row, backwards.
        for_each_run(&[2, 1, 4], [&[-8, 99, 1]], |offsets, count, steps| {
            runs.push((offsets, count, steps))
        });
        assert_eq!(runs, [([0], 4, [1]), ([-8], 4, [1])]);
        assert_eq!(
            copy_strided(&[1, 2, 3, 4, 5, 6], 0, &[3, 2], &[1, 3]),
            [1, 4, 2, 5, 3, 6]
        );
        assert_eq!(copy_strided(&[7], 0, &[2, 2], &[0, 0]), [7; 4]);
        assert!(copy_strided(&[7], 0, &[2, 0], &[0, 0]).is_empty());
    }

    #[test]
    fn results_are_bounded() {
        assert_eq!(checked_elements(&[1 << 16, 1 << 15]), Ok(1 << 31));
        assert!(checked_elements(&[1 << 16, (1 << 15) + 1]).is_err());
        assert!(checked_elements(&[usize::MAX; 5]).is_err());
        assert_eq!(checked_elements(&[usize::MAX, usize::MAX, 0]), Ok(0));
    }
}
