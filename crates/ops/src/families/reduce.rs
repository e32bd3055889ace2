//! Reductions over axes: ONNX `Reduce*`, `ArgMax` and `ArgMin`.
//!
//! Floats of 32 bits are folded in the order of `octofold_quant::fold`, as the kernels do it ([`Reduction::passes`]). Other floats accumulate in `f64` and are
//! rounded once; integers accumulate exactly and wrap at the end. Over no elements a sum is 0, a product 1, a
//! maximum -inf (or the least integer), a minimum inf (or the greatest), a logarithm of a sum -inf, and a mean of floats NaN.

use octofold_quant::fold::Fold;
use octofold_quant::{float, functions};
use octofold_tensor::{Shape, Tensor, TensorData};
use smallvec::SmallVec;

use super::number::{Number, for_numbers};
use super::support::{
    Strides, checked_elements, elements_of, for_each_run, integer_list, normalize_axes,
    normalize_axis, strides_of, wrong_type,
};
use crate::{Inputs, Op, OpError, Operator, attributes};

/// What a `Reduce*` operator computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceKind {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The largest element.
    Max,
    /// The smallest element.
    Min,
    /// The product.
    Prod,
    /// The sum of absolute values.
    L1,
    /// The square root of the sum of squares.
    L2,
    /// The logarithm of the sum.
    LogSum,
    /// The logarithm of the sum of exponentials.
    LogSumExp,
    /// The sum of squares.
    SumSquare,
}

use ReduceKind as Kind;

/// A `Reduce*` operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// What it computes.
    pub kind: ReduceKind,
    /// Whether the reduced axes stay, with size 1.
    pub keepdims: bool,
    /// Whether absent or empty axes mean no axes instead of all axes.
    pub noop_with_empty_axes: bool,
}

impl Reduction {
    /// The axes that are reduced, of a tensor of this rank.
    ///
    /// # Errors
    /// For axes that the tensor does not have, or that are listed twice.
    pub fn axes(self, axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
        if axes.is_empty() && !self.noop_with_empty_axes {
            Ok((0..rank).collect())
        } else {
            normalize_axes(axes, rank)
        }
    }

    /// The passes in which floats of 32 bits are reduced over some axes, in their order. Each is the reduction of a tensor `[outer, axis, inner]` to `[outer, inner]`,
    /// and reads the result of the pass before.
    ///
    /// Axes that are neighbours are one axis. The last of those that are left comes first.
    pub fn passes(shape: &[usize], axes: &[usize]) -> Vec<[usize; 3]> {
        let mut runs: Vec<(usize, bool)> = Vec::new();
        for (axis, &size) in shape.iter().enumerate().filter(|(_, size)| **size != 1) {
            let reduced = axes.contains(&axis);
            match runs.last_mut() {
                Some(run) if run.1 == reduced => run.0 = run.0.saturating_mul(size),
                _ => runs.push((size, reduced)),
            }
        }
        // Only a tensor without elements has sizes whose product overflows.
        let count = |runs: &[(usize, bool)]| {
            runs.iter()
                .fold(1_usize, |all, run| all.saturating_mul(run.0))
        };
        let mut passes = Vec::new();
        while let Some(run) = runs.iter().rposition(|run| run.1) {
            passes.push([count(&runs[..run]), runs[run].0, count(&runs[run + 1..])]);
            runs.remove(run);
        }
        if passes.is_empty() {
            passes.push([count(&runs), 1, 1]);
        }
        passes
    }

    /// The reduction that an operator is.
    pub fn of(op: &Op) -> Option<Self> {
        macro_rules! of {
            ($($type:ident $kind:ident,)*) => {
                match op {
                    $(Op::$type(op) => Self {
                        kind: ReduceKind::$kind,
                        keepdims: op.keepdims,
                        noop_with_empty_axes: op.noop_with_empty_axes,
                    },)*
                    _ => return None,
                }
            };
        }
        Some(of! {
            ReduceSum Sum, ReduceMean Mean, ReduceMax Max, ReduceMin Min, ReduceProd Prod, ReduceL1 L1, ReduceL2 L2, ReduceLogSum LogSum,
            ReduceLogSumExp LogSumExp, ReduceSumSquare SumSquare,
        })
    }
}

impl ReduceKind {
    /// The fold of the first pass; the next ones have [`Fold::of_parts`] of it. `None` if each pass is the logarithm of a sum of exponentials.
    pub fn fold(self) -> Option<Fold> {
        Some(match self {
            Self::Sum | Self::Mean | Self::LogSum => Fold::Sum,
            Self::L1 => Fold::Magnitudes,
            Self::L2 | Self::SumSquare => Fold::Squares,
            Self::Prod => Fold::Product,
            Self::Max => Fold::Max,
            Self::Min => Fold::Min,
            Self::LogSumExp => return None,
        })
    }

    /// What becomes of the fold of `count` floats.
    fn finish(self, fold: f32, count: usize) -> f32 {
        match self {
            Self::Mean => fold / count as f32,
            Self::L2 => fold.sqrt(),
            Self::LogSum => functions::log(fold.into()) as f32,
            _ => fold,
        }
    }

    /// The reduction of floats of 32 bits, as the kernels compute it.
    fn floats_in_passes(self, values: &[f32], passes: &[[usize; 3]], outputs: usize) -> Vec<f32> {
        let mut fold = self.fold();
        let count = passes
            .iter()
            .fold(1_usize, |all, pass| all.saturating_mul(pass[1]));
        if values.is_empty() {
            let start = fold.map_or(f32::NEG_INFINITY, Fold::start);
            return vec![self.finish(start, count); outputs];
        }
        let mut values = values.to_vec();
        for &[outer, len, inner] in passes {
            let lines = (0..outer * inner).map(|line| {
                let start = line / inner * len * inner + line % inner;
                let line = (0..len).map(|index| values[start + index * inner]);
                match fold {
                    Some(fold) => fold_line(fold, line, inner),
                    None => {
                        let max = fold_line(Fold::Max, line.clone(), inner);
                        let shift = if max.is_finite() { max } else { 0.0 };
                        let sum = fold_line(Fold::Sum, line.map(|x| float::exp(x - shift)), inner);
                        functions::log(sum.into()) as f32 + shift
                    }
                }
            });
            values = lines.collect();
            fold = fold.map(Fold::of_parts);
        }
        values
            .iter_mut()
            .for_each(|value| *value = self.finish(*value, count));
        values
    }
}

/// The fold of a line whose elements are `inner` apart.
pub(crate) fn fold_line(fold: Fold, line: impl Iterator<Item = f32>, inner: usize) -> f32 {
    match inner {
        1 => fold.row(line),
        _ => fold.ascending(line),
    }
}

/// The walk of a reduction: which elements belong to which output.
struct Walk {
    kept: Shape,
    kept_strides: Strides,
    reduced: Shape,
    reduced_strides: Strides,
    output: Shape,
}

impl Walk {
    fn new(shape: &[usize], axes: &[usize], keepdims: bool) -> Result<Self, OpError> {
        let strides = strides_of(shape);
        let mut walk = Self {
            kept: Shape::new(),
            kept_strides: Strides::new(),
            reduced: Shape::new(),
            reduced_strides: Strides::new(),
            output: Shape::new(),
        };
        for (axis, (&size, &stride)) in shape.iter().zip(&strides).enumerate() {
            if axes.contains(&axis) {
                walk.reduced.push(size);
                walk.reduced_strides.push(stride);
                if keepdims {
                    walk.output.push(1);
                }
            } else {
                walk.kept.push(size);
                walk.kept_strides.push(stride);
                walk.output.push(size);
            }
        }
        checked_elements(&walk.output)?;
        Ok(walk)
    }

    /// The number of elements of one output.
    fn count(&self) -> usize {
        elements_of(&self.reduced)
    }

    /// The positions of the elements of every output, one output behind the other.
    fn positions(&self) -> Vec<usize> {
        let mut positions = Vec::new();
        for_each_run(
            &self.kept,
            [&self.kept_strides],
            |[offset], outputs, [stride]| {
                for i in 0..outputs as isize {
                    let first = offset + i * stride;
                    for_each_run(
                        &self.reduced,
                        [&self.reduced_strides],
                        |[inner], count, [step]| {
                            let elements =
                                (0..count as isize).map(|k| (first + inner + k * step) as usize);
                            positions.extend(elements);
                        },
                    );
                }
            },
        );
        positions
    }

    /// Folds the elements of every output: `start(output)`, then `step` for each element, then `finish`.
    fn fold<T: Copy, A, R>(
        &self,
        values: &[T],
        start: impl Fn(usize) -> A,
        step: impl Fn(A, T) -> A,
        finish: impl Fn(A, usize) -> R,
    ) -> Vec<R> {
        let (positions, count) = (self.positions(), self.count());
        let outputs = 0..elements_of(&self.kept);
        let each = |output: usize| {
            let line = positions[output * count..][..count].iter();
            let state = line.fold(start(output), |state, &position| {
                step(state, values[position])
            });
            finish(state, output)
        };
        outputs.map(each).collect()
    }

    fn floats<T: Number>(&self, kind: Kind, values: &[T]) -> Vec<T> {
        let count = self.count() as f64;
        let sum = |step: fn(f64, f64) -> f64, finish: &dyn Fn(f64) -> f64| {
            self.fold(
                values,
                |_| 0.0,
                |sum, value| step(sum, value.to_f64()),
                |sum, _| T::from_f64(finish(sum)),
            )
        };
        match kind {
            Kind::Sum => sum(|sum, x| sum + x, &|sum| sum),
            Kind::Mean => sum(|sum, x| sum + x, &|sum| sum / count),
            Kind::L1 => sum(|sum, x| sum + x.abs(), &|sum| sum),
            Kind::L2 => sum(|sum, x| x.mul_add(x, sum), &f64::sqrt),
            Kind::LogSum => sum(|sum, x| sum + x, &f64::ln),
            Kind::SumSquare => sum(|sum, x| x.mul_add(x, sum), &|sum| sum),
            Kind::Prod => self.fold(
                values,
                |_| 1.0,
                |sum, value| sum * value.to_f64(),
                |sum, _| T::from_f64(sum),
            ),
            Kind::Max => self.fold(
                values,
                |_| T::LOWEST,
                |max, value| value.max_nan(max),
                |max, _| max,
            ),
            Kind::Min => self.fold(
                values,
                |_| T::HIGHEST,
                |min, value| value.min_nan(min),
                |min, _| min,
            ),
            Kind::LogSumExp => {
                // The largest element is subtracted in the exponents, so that no exponential overflows.
                let max = self.fold(
                    values,
                    |_| T::LOWEST,
                    |max, value| value.max_nan(max),
                    |max, _| max.to_f64(),
                );
                let shift = |output: usize| {
                    if max[output].is_finite() {
                        max[output]
                    } else {
                        0.0
                    }
                };
                self.fold(
                    values,
                    |output| (shift(output), 0.0),
                    |(shift, sum), value| (shift, sum + (value.to_f64() - shift).exp()),
                    |(shift, sum): (f64, f64), _| T::from_f64(shift + sum.ln()),
                )
            }
        }
    }

    fn integers<T: Number>(&self, kind: Kind, values: &[T]) -> Result<Vec<T>, OpError> {
        let count = self.count() as i128;
        let sum = |step: fn(i128, i128) -> i128, finish: &dyn Fn(i128) -> i128| {
            self.fold(
                values,
                |_| 0,
                |sum, value| step(sum, value.to_i128()),
                |sum, _| T::from_i128(finish(sum)),
            )
        };
        let square = |sum: i128, x: i128| sum.wrapping_add(x.wrapping_mul(x));
        Ok(match kind {
            Kind::Sum => sum(i128::wrapping_add, &|sum| sum),
            Kind::Mean if count == 0 => return Err(OpError::invalid("no integers have no mean")),
            Kind::Mean => sum(i128::wrapping_add, &|sum| sum / count),
            Kind::L1 => sum(|sum, x| sum.wrapping_add(x.abs()), &|sum| sum),
            Kind::SumSquare => sum(square, &|sum| sum),
            Kind::Prod => self.fold(
                values,
                |_| T::ONE,
                |product, value| product.mul(value),
                |product, _| product,
            ),
            Kind::Max | Kind::Min | Kind::L2 | Kind::LogSum | Kind::LogSumExp => {
                self.floats(kind, values)
            }
        })
    }
}

fn reduce(reduction: Reduction, inputs: Inputs<'_>) -> Result<Vec<Tensor>, OpError> {
    let (x, kind) = (inputs.required(0)?, reduction.kind);
    let axes = inputs.optional(1).map(|axes| integer_list(axes, 1));
    let axes = reduction.axes(&axes.transpose()?.unwrap_or_default(), x.rank())?;
    let walk = Walk::new(x.shape(), &axes, reduction.keepdims)?;
    let output = walk.output.iter().copied();
    let y = match (x.data(), kind) {
        (TensorData::Bool(values), Kind::Max) => Tensor::new(
            output,
            walk.fold(values, |_| false, |any, value| any || value, |any, _| any),
        )?,
        (TensorData::Bool(values), Kind::Min) => Tensor::new(
            output,
            walk.fold(values, |_| true, |all, value| all && value, |all, _| all),
        )?,
        (TensorData::F32(values), _) => {
            let passes = Reduction::passes(x.shape(), &axes);
            Tensor::new(
                output,
                kind.floats_in_passes(values, &passes, elements_of(&walk.output)),
            )?
        }
        (data, _) => for_numbers!(float data,
            values => Tensor::new(output, walk.floats(kind, values))?,
            else for_numbers!(integer data,
                values => Tensor::new(output, walk.integers(kind, values)?)?,
                else return Err(wrong_type(x, 0, "a numeric type")))),
    };
    Ok(vec![y])
}

macro_rules! reductions {
    ($($(#[$meta:meta])* $name:literal $type:ident => $kind:expr;)*) => {$(
        attributes! {
            $(#[$meta])*
            ///
            /// Inputs: `data`, of any numeric type, and optional `axes` `[int64]`, from `-rank` to `rank - 1`, all when absent or empty.
            /// Output: `data` without the axes, or with axes of size 1.
            "" $name inputs(1..=2)
            pub struct $type {
                /// Whether the reduced axes stay, with size 1.
                keepdims: bool = true,
                /// Whether absent or empty axes mean no axes instead of all axes.
                noop_with_empty_axes: bool = false,
            }
        }

        impl Operator for $type {
            fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
                let reduction = Reduction {
                    kind: $kind,
                    keepdims: self.keepdims,
                    noop_with_empty_axes: self.noop_with_empty_axes,
                };
                reduce(reduction, inputs)
            }
        }
    )*};
}

reductions! {
    /// The sum (ONNX `ReduceSum`).
    "ReduceSum" ReduceSum => Kind::Sum;
    /// The mean (ONNX `ReduceMean`); of integers, cut towards zero.
    "ReduceMean" ReduceMean => Kind::Mean;
    /// The largest element (ONNX `ReduceMax`), of booleans too; NaN when one is.
    "ReduceMax" ReduceMax => Kind::Max;
    /// The smallest element (ONNX `ReduceMin`), of booleans too; NaN when one is.
    "ReduceMin" ReduceMin => Kind::Min;
    /// The product (ONNX `ReduceProd`).
    "ReduceProd" ReduceProd => Kind::Prod;
    /// The sum of absolute values (ONNX `ReduceL1`).
    "ReduceL1" ReduceL1 => Kind::L1;
    /// The square root of the sum of squares (ONNX `ReduceL2`).
    "ReduceL2" ReduceL2 => Kind::L2;
    /// The logarithm of the sum (ONNX `ReduceLogSum`).
    "ReduceLogSum" ReduceLogSum => Kind::LogSum;
    /// The logarithm of the sum of exponentials (ONNX `ReduceLogSumExp`).
    "ReduceLogSumExp" ReduceLogSumExp => Kind::LogSumExp;
    /// The sum of squares (ONNX `ReduceSumSquare`).
    "ReduceSumSquare" ReduceSumSquare => Kind::SumSquare;
}

/// The position along an axis of the element that no other is better than; NaN is better than any number.
fn arg(
    x: &Tensor,
    axis: i64,
    keepdims: bool,
    last: bool,
    largest: bool,
) -> Result<Tensor, OpError> {
    fn positions<T: Number>(values: &[T], walk: &Walk, last: bool, largest: bool) -> Vec<i64> {
        let better = |a: T, b: T| {
            let strictly = if largest { a > b } else { a < b };
            strictly
                || (a.is_nan() && !b.is_nan())
                || (last && (a == b || (a.is_nan() && b.is_nan())))
        };
        walk.fold(
            values,
            |_| (0_i64, 0_i64, None),
            |(next, best, value): (i64, i64, Option<T>), candidate| match value {
                Some(value) if !better(candidate, value) => (next + 1, best, Some(value)),
                _ => (next + 1, next, Some(candidate)),
            },
            |(_, best, _), _| best,
        )
    }
    let axis = normalize_axis(axis, x.rank())?;
    let walk = Walk::new(x.shape(), &[axis], keepdims)?;
    if walk.count() == 0 && elements_of(&walk.kept) > 0 {
        return Err(OpError::invalid(format!(
            "axis {axis} has no elements to choose from"
        )));
    }
    let values = for_numbers!(numeric x.data(),
        values => positions(values, &walk, last, largest),
        else return Err(wrong_type(x, 0, "a numeric type")));
    Ok(Tensor::new(
        SmallVec::<[usize; 6]>::clone(&walk.output),
        values,
    )?)
}

macro_rules! positions {
    ($($(#[$meta:meta])* $name:literal $type:ident => $largest:literal;)*) => {$(
        attributes! {
            $(#[$meta])*
            ///
            /// Input: `data`, of any numeric type; the axis must not be empty. Output: positions (int64), in the shape of `data` without the axis, or with
            /// size 1 there. NaN wins over every number.
            "" $name inputs(1..=1)
            pub struct $type {
                /// The axis, from `-rank` to `rank - 1`.
                axis: i64 = 0,
                /// Whether the axis stays, with size 1.
                keepdims: bool = true,
                /// Whether the last of equal elements is chosen instead of the first.
                select_last_index: bool = false,
            }
        }

        impl Operator for $type {
            fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
                Ok(vec![arg(inputs.required(0)?, self.axis, self.keepdims, self.select_last_index, $largest)?])
            }
        }
    )*};
}

positions! {
    /// The position of the largest element along an axis (ONNX `ArgMax`).
    "ArgMax" ArgMax => true;
    /// The position of the smallest element along an axis (ONNX `ArgMin`).
    "ArgMin" ArgMin => false;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, x: &Tensor, axes: Option<&[i64]>) -> Result<Tensor, OpError> {
        let axes = axes.map(|axes| Tensor::vector(axes.to_vec()));
        op.evaluate(Inputs(&[Some(x), axes.as_ref()]), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn op<T: crate::Described>(attributes: &[(&str, i64)]) -> T {
        let mut map = attributes
            .iter()
            .map(|&(name, value)| (name.to_owned(), crate::Attribute::Int(value)))
            .collect();
        T::from_attributes(&mut map).unwrap()
    }

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::new(
            shape.iter().copied(),
            (1..=count).map(|i| i as f32).collect(),
        )
        .unwrap()
    }

    #[test]
    fn axes_leave_or_stay() {
        let x = counting(&[2, 3, 2]);
        let y = run(&op::<ReduceSum>(&[]), &x, Some(&[1])).unwrap();
        assert_eq!(
            y,
            Tensor::new([2, 1, 2], vec![9.0_f32, 12.0, 27.0, 30.0]).unwrap()
        );
        let y = run(&op::<ReduceSum>(&[("keepdims", 0)]), &x, Some(&[0, -1])).unwrap();
        assert_eq!(y, Tensor::vector(vec![18.0_f32, 26.0, 34.0]));
        let y = run(&op::<ReduceMean>(&[("keepdims", 0)]), &x, None).unwrap();
        assert_eq!(y, Tensor::scalar(6.5_f32));
        assert!(run(&op::<ReduceSum>(&[]), &x, Some(&[3])).is_err());
        assert!(run(&op::<ReduceSum>(&[]), &x, Some(&[1, -2])).is_err());
    }

    #[test]
    fn no_axes_may_mean_none() {
        let x = counting(&[2]);
        let y = run(
            &op::<ReduceSumSquare>(&[("noop_with_empty_axes", 1)]),
            &x,
            Some(&[]),
        )
        .unwrap();
        assert_eq!(y, Tensor::vector(vec![1.0_f32, 4.0]));
        let y = run(&op::<ReduceSum>(&[]), &x, Some(&[])).unwrap();
        assert_eq!(y, Tensor::vector(vec![3.0_f32]));
    }

    #[test]
    fn nothing_reduces_to_the_neutral_element() {
        let x = Tensor::new([2, 0], Vec::<f32>::new()).unwrap();
        let of = |y: Result<Tensor, OpError>| y.unwrap().values::<f32>().unwrap()[1];
        assert_eq!(of(run(&op::<ReduceSum>(&[]), &x, Some(&[1]))), 0.0);
        assert_eq!(of(run(&op::<ReduceProd>(&[]), &x, Some(&[1]))), 1.0);
        assert_eq!(
            of(run(&op::<ReduceMax>(&[]), &x, Some(&[1]))),
            f32::NEG_INFINITY
        );
        assert_eq!(
            of(run(&op::<ReduceLogSumExp>(&[]), &x, Some(&[1]))),
            f32::NEG_INFINITY
        );
        let x = Tensor::new([0], Vec::<i32>::new()).unwrap();
        assert!(run(&op::<ReduceMean>(&[]), &x, None).is_err());
        assert_eq!(
            run(&op::<ReduceMax>(&[]), &x, None).unwrap(),
            Tensor::vector(vec![i32::MIN])
        );
        assert!(op::<ArgMax>(&[]).evaluate(Inputs(&[Some(&x)]), 1).is_err());
    }

    #[test]
    fn every_kind_has_its_formula() {
        let x = Tensor::vector(vec![1.0_f32, -2.0, 3.0]);
        let of = |y: Result<Tensor, OpError>| y.unwrap().values::<f32>().unwrap()[0];
        assert_eq!(of(run(&op::<ReduceL1>(&[]), &x, None)), 6.0);
        assert_eq!(of(run(&op::<ReduceL2>(&[]), &x, None)), 14.0_f32.sqrt());
        assert_eq!(of(run(&op::<ReduceLogSum>(&[]), &x, None)), 2.0_f32.ln());
        assert_eq!(of(run(&op::<ReduceMin>(&[]), &x, None)), -2.0);
        let large = Tensor::vector(vec![1000.0_f32, 1000.0]);
        assert_eq!(
            of(run(&op::<ReduceLogSumExp>(&[]), &large, None)),
            (1000.0 + 2.0_f64.ln()) as f32
        );
        let nan = Tensor::vector(vec![1.0, f32::NAN, 3.0]);
        assert!(of(run(&op::<ReduceMax>(&[]), &nan, None)).is_nan());
        let bytes = Tensor::vector(vec![200_u8, 100]);
        assert_eq!(
            run(&op::<ReduceSum>(&[]), &bytes, None).unwrap(),
            Tensor::vector(vec![44_u8])
        );
        let flags = Tensor::vector(vec![true, false]);
        assert_eq!(
            run(&op::<ReduceMax>(&[]), &flags, None).unwrap(),
            Tensor::vector(vec![true])
        );
        assert_eq!(
            run(&op::<ReduceMin>(&[]), &flags, None).unwrap(),
            Tensor::vector(vec![false])
        );
        assert!(run(&op::<ReduceSum>(&[]), &flags, None).is_err());
    }

    #[test]
    fn positions_choose_among_equals() {
        let x = Tensor::new([2, 3], vec![1, 5, 5, 7, 0, 0]).unwrap();
        let choose = |op: &dyn Fn() -> Result<Vec<Tensor>, OpError>| {
            op().unwrap()[0].values::<i64>().unwrap().to_vec()
        };
        let inputs = [Some(&x)];
        assert_eq!(
            choose(&|| op::<ArgMax>(&[("axis", 1)]).evaluate(Inputs(&inputs), 1)),
            [1, 0]
        );
        assert_eq!(
            choose(&|| op::<ArgMax>(&[("axis", -1), ("select_last_index", 1)])
                .evaluate(Inputs(&inputs), 1)),
            [2, 0]
        );
        assert_eq!(
            choose(&|| op::<ArgMin>(&[]).evaluate(Inputs(&inputs), 1)),
            [0, 1, 1]
        );
    }
}
