//! Linear and cubic interpolation of floats.

use octofold_kernels::float::resize::{self, Taps, resize};
use octofold_ops::Op;
use octofold_ops::families::AxisTaps;
use octofold_tensor::DType;

use super::movement::resized;
use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;
use crate::values::numbers_mut;

/// The work of a float `Resize` with constant lists that interpolates along one axis, or along two neighbours.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::Resize(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    let (from, to) = (operand.shape, arguments.result().shape);
    let scales = resized(op, arguments)?;
    let axes = op.interpolated_axes(from, to, &scales);
    let axes = axes.ok_or_else(|| arguments.wrong_operator())?;
    let size = |sizes: &[usize]| sizes.iter().product::<usize>();
    let taps = |axis: usize, taps: &AxisTaps| {
        Taps::new(from[axis], taps.count, &taps.positions, &taps.weights)
    };
    let (rows, columns, first, last) = match axes.as_slice() {
        [(axis, only)] => (Taps::unchanged(1), taps(*axis, only)?, *axis, *axis),
        [(first, rows), (last, columns)] if first + 1 == *last => {
            (taps(*first, rows)?, taps(*last, columns)?, *first, *last)
        }
        _ => return Err(arguments.wrong_operator()),
    };
    let kernel = resize::Resize {
        outer: size(&from[..first]),
        rows,
        columns,
        inner: size(&from[last + 1..]),
    };
    kernel.check()?;
    let rows = kernel.outer * kernel.rows.output();
    let part = part_len(rows, 16 * kernel.width(), BYTES, 1);
    let (width, scratch) = (kernel.width().max(1), 4 * kernel.scratch_len());
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        (call.pool).run_parts(output, part * width, scratch, |first, output, scratch| {
            let rows = first / width..(first + output.len()) / width;
            let scratch = numbers_mut(scratch)?;
            Ok(resize(call.isa, &kernel, input, rows, scratch, output)?)
        })
    }))
}
