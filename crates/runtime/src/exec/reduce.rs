//! Reductions, positions, and softmax and division by a norm of floats along axes.

use octofold_kernels::float::AxisShape;
use octofold_kernels::float::arg::{Arg, arg};
use octofold_kernels::float::norm::divide_by_norm;
use octofold_kernels::float::reduce::{Finish, Reduce, Reduction, reduce};
use octofold_kernels::float::softmax::softmax;
use octofold_ops::families::{self, ReduceKind};
use octofold_ops::{Op, normalize_axis};
use octofold_quant::fold::Fold;
use octofold_tensor::DType;

use super::movement::list;
use super::{Arguments, BYTES, Call, Work, part_len};
use crate::StepError;
use crate::values::numbers_mut;

/// A tensor's sizes along one of its axes.
fn along(shape: &[usize], axis: i64) -> Result<AxisShape, StepError> {
    let axis = normalize_axis(axis, shape.len())?;
    let size = |sizes: &[usize]| sizes.iter().product();
    Ok(AxisShape {
        outer: size(&shape[..axis]),
        len: shape[axis],
        inner: size(&shape[axis + 1..]),
    })
}

struct Reducer {
    /// At least one. The next ones read the result of the one before.
    passes: Vec<Reduce>,
    /// The elements of the result that are computed together, from neighbouring elements of the operand.
    part: usize,
    /// The elements of the operand for such a part, if there are several passes.
    part_input: usize,
    /// The elements that the first of several passes gives for such a part.
    buffer: usize,
}

/// The work of a float `Reduce*` with constant axes.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let op = families::Reduction::of(&arguments.step.op);
    let op = op.ok_or_else(|| arguments.wrong_operator())?;
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    let axes = list(arguments, 1)?.unwrap_or_default();
    let axes = op.axes(&axes, operand.shape.len())?;
    arguments.expect_result(&reduced(operand.shape, &axes, op.keepdims))?;
    let passes = passes(op.kind, operand.shape, &axes);
    let lines = |pass: &Reduce| pass.shape.outer * pass.shape.inner;
    let (part, part_input, buffer) = match passes.as_slice() {
        [only] => {
            // Narrower parts of an inner axis would share cache lines.
            let unit = if only.shape.inner == 1 { 1 } else { 64 };
            let part = part_len(lines(only), 4 * only.shape.len, BYTES, unit);
            (part, 0, 0)
        }
        [.., last] => {
            let outer = last.shape.outer.max(1);
            let items = part_len(outer, 4 * operand.len() / outer, BYTES, 1).min(outer);
            (
                items * last.shape.inner,
                items * (operand.len() / outer),
                items * (lines(&passes[0]) / outer),
            )
        }
        [] => return Err(arguments.wrong_operator()),
    };
    let reducer = Reducer {
        passes,
        part,
        part_input,
        buffer,
    };
    Ok(Work::new(move |call, output| reducer.run(call, output)))
}

/// The sizes of a tensor without some axes, or with size 1 there.
fn reduced(shape: &[usize], axes: &[usize], keepdims: bool) -> Vec<usize> {
    let sizes = shape
        .iter()
        .enumerate()
        .map(|(axis, &size)| match axes.contains(&axis) {
            true => keepdims.then_some(1),
            false => Some(size),
        });
    sizes.flatten().collect()
}

/// The passes of a reduction.
fn passes(kind: ReduceKind, shape: &[usize], axes: &[usize]) -> Vec<Reduce> {
    let sizes = families::Reduction::passes(shape, axes);
    let count = sizes.iter().map(|pass| pass[1]).product::<usize>();
    let last = sizes.len() - 1;
    let mut fold = kind.fold();
    let pass = |(number, [outer, len, inner]): (usize, [usize; 3])| {
        let reduction = fold.map_or(Reduction::LogSumExp, Reduction::Fold);
        fold = fold.map(Fold::of_parts);
        let finish = match kind {
            _ if number < last => Finish::None,
            ReduceKind::Mean => Finish::Divide(count as f32),
            ReduceKind::L2 => Finish::Root,
            ReduceKind::LogSum => Finish::Log,
            _ => Finish::None,
        };
        Reduce {
            shape: AxisShape { outer, len, inner },
            reduction,
            finish,
        }
    };
    sizes.into_iter().enumerate().map(pass).collect()
}

impl Reducer {
    /// All passes for a part of the operand whose result is `output`.
    fn run_passes(
        &self,
        call: Call<'_>,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), StepError> {
        let last = self.passes[self.passes.len() - 1].shape;
        let outer = output.len() / last.inner.max(1);
        let (mut from, mut to) = scratch.split_at_mut(scratch.len() / 2);
        let all = last.outer.max(1);
        for (number, pass) in self.passes.iter().enumerate() {
            // The part of the outermost axis, which all passes keep.
            let shape = AxisShape {
                outer: pass.shape.outer / all * outer,
                ..pass.shape
            };
            let lines = shape.outer * shape.inner;
            let pass = Reduce { shape, ..*pass };
            let source = match number {
                0 => input,
                _ => &from[..shape.outer * shape.len * shape.inner],
            };
            if number + 1 == self.passes.len() {
                return Ok(reduce(call.isa, &pass, source, 0..lines, output)?);
            }
            reduce(call.isa, &pass, source, 0..lines, &mut to[..lines])?;
            std::mem::swap(&mut from, &mut to);
        }
        Ok(())
    }

    fn run(&self, call: Call<'_>, output: &mut [f32]) -> Result<(), StepError> {
        let input = call.numbers::<f32>(0)?;
        if let [pass] = self.passes.as_slice() {
            let each = |first: usize, output: &mut [f32], _: &mut [u8]| {
                let lines = first..first + output.len();
                Ok(reduce(call.isa, pass, input, lines, output)?)
            };
            return call.pool.run_parts(output, self.part, 0, each);
        }
        // Two buffers for what the passes leave, each as long as the result of the first one.
        call.pool.run_parts(
            output,
            self.part,
            8 * self.buffer,
            |first, output, scratch| {
                let start = first / self.part * self.part_input;
                let end = input.len().min(start + self.part_input);
                let input = input.get(start..end).unwrap_or(&[]);
                self.run_passes(call, input, output, numbers_mut(scratch)?)
            },
        )
    }
}

/// The work of an `ArgMax` or `ArgMin` of floats.
pub(super) fn bind_arg(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let (largest, axis, last, keepdims) = match &arguments.step.op {
        Op::ArgMax(op) => (true, op.axis, op.select_last_index, op.keepdims),
        Op::ArgMin(op) => (false, op.axis, op.select_last_index, op.keepdims),
        _ => return Err(arguments.wrong_operator()),
    };
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::I64)?;
    let shape = along(operand.shape, axis)?;
    let axis = normalize_axis(axis, operand.shape.len())?;
    arguments.expect_result(&reduced(operand.shape, &[axis], keepdims))?;
    let part = part_len(shape.outer * shape.inner, 8 * shape.len, BYTES, 64);
    let which = Arg { largest, last };
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let lines = first..first + output.len();
            Ok(arg(call.isa, shape, which, input, lines, output)?)
        })
    }))
}

/// A function of the lines along an axis, whose results have the shape of the operand.
#[derive(Clone, Copy, Debug)]
enum LineFunction {
    Softmax { logarithm: bool },
    DivideByNorm { squares: bool },
}

impl LineFunction {
    /// How much longer an element takes than one that is copied.
    fn effort(self) -> usize {
        match self {
            Self::Softmax { .. } => 32,
            Self::DivideByNorm { .. } => 16,
        }
    }
}

/// The work of a float `Softmax`, `LogSoftmax` or `LpNormalization`.
pub(super) fn bind_lines(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let (axis, function) = match &arguments.step.op {
        Op::Softmax(op) => (op.axis, LineFunction::Softmax { logarithm: false }),
        Op::LogSoftmax(op) => (op.axis, LineFunction::Softmax { logarithm: true }),
        Op::LpNormalization(op) if op.p == 1 || op.p == 2 => {
            let squares = op.p == 2;
            (op.axis, LineFunction::DivideByNorm { squares })
        }
        _ => return Err(arguments.wrong_operator()),
    };
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    arguments.expect_result(operand.shape)?;
    let shape = along(operand.shape, axis)?;
    let plane = (shape.len * shape.inner).max(1);
    let part = part_len(shape.outer, function.effort() * plane, BYTES, 1).saturating_mul(plane);
    Ok(Work::of_elements(
        part,
        move |isa, input, output: &mut [f32]| {
            let outer = output.len() / plane;
            let shape = AxisShape { outer, ..shape };
            match function {
                LineFunction::Softmax { logarithm } => {
                    softmax(isa, shape, logarithm, input, output)
                }
                LineFunction::DivideByNorm { squares } => {
                    divide_by_norm(isa, shape, squares, input, output)
                }
            }
        },
    ))
}
