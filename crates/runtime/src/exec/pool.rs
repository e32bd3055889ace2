//! Pooling of quantized values, channels-last.

use octofold_kernels::shared::pool::{
    Averaging, PoolCall, average_pool, global_average_pool, max_pool,
};
use octofold_kernels::shared::{ImageShape, PoolShape};
use octofold_ops::Op;
use octofold_ops::families::{FusedPool, Layout, PoolKind, Rescale, SumOrder};

use super::{Arguments, BYTES, Work, part_len, window};
use crate::StepError;

/// The sizes of a channels-last `FusedPool`, or of a `FusedGlobalPool`, with a checked result.
pub(super) fn pool_shape(arguments: &Arguments<'_>) -> Result<PoolShape, StepError> {
    let operand = arguments.operand(0)?;
    match &arguments.step.op {
        Op::FusedPool(op) if op.layout == Layout::Nhwc => {
            let images = op.layout.channels_first(operand.shape);
            let images = images.map_err(|_| arguments.wrong_operator())?;
            let (shape, result) = window::pool_shape(op, &images)?;
            arguments.expect_result(&op.layout.arrange(result))?;
            Ok(shape)
        }
        Op::FusedGlobalPool(op) if op.layout == Layout::Nhwc => {
            let images = pooled_images(arguments)?;
            let width = operand.shape[operand.shape.len() - 2];
            window::whole_images(&images, width)
        }
        _ => Err(arguments.wrong_operator()),
    }
}

/// The channels-last images of a global pooling, whose result is checked.
pub(super) fn pooled_images(arguments: &Arguments<'_>) -> Result<ImageShape, StepError> {
    let operand = arguments.operand(0)?;
    let images = operand.pixels(Layout::Nhwc)?;
    let mut result = vec![1; operand.shape.len()];
    let last = result.len() - 1;
    (result[0], result[last]) = (images.batch, images.channels);
    arguments.expect_result(&result)?;
    Ok(images)
}

/// The number of output rows of a part, enough to be worth a thread.
pub(super) fn part(shape: &PoolShape) -> usize {
    let sizes = [
        shape.depth.kernel,
        shape.kernel_h,
        shape.kernel_w,
        shape.out_w,
        shape.channels,
    ];
    let cost = sizes.into_iter().fold(1, usize::saturating_mul);
    let rows = [shape.batch, shape.out_d, shape.out_h];
    let rows = rows.into_iter().fold(1, usize::saturating_mul);
    part_len(rows, cost, 4 * BYTES, 1)
}

/// The work of a `FusedPool`, or of a `FusedGlobalPool` by the maximum, of bytes.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let (kind, rescale, averaging) = match &arguments.step.op {
        Op::FusedPool(op) => (op.kind, op.rescale, averaging(op)),
        Op::FusedGlobalPool(op) => (op.kind, op.rescale, Averaging::default()),
        _ => return Err(arguments.wrong_operator()),
    };
    let Some(Rescale { x, y }) = rescale else {
        return Err(arguments.wrong_operator());
    };
    let shape = pool_shape(arguments)?;
    // Refuses invalid sizes.
    shape.rows()?;
    let (from, target) = (arguments.operand(0)?.quant(x)?, arguments.target(&y)?);
    let (part, scratch) = (part(&shape), shape.scratch_len()?);
    let width = shape.out_w * shape.channels;
    Ok(Work::new(move |call, output| {
        let (isa, input) = (call.isa, call.operand(0));
        (call.pool).run_parts(output, part * width, scratch, |first, output, scratch| {
            let call = PoolCall {
                input,
                from,
                to: target,
                part: first / width..(first + output.len()) / width,
                output,
                scratch,
            };
            match kind {
                PoolKind::Max => max_pool(isa, &shape, call)?,
                PoolKind::Average => average_pool(isa, &shape, averaging, call)?,
            }
            Ok(())
        })
    }))
}

fn averaging(op: &FusedPool) -> Averaging {
    let stride = op.strides.last().map_or(1, |&stride| stride as usize);
    let dilated = op.dilations.iter().any(|&dilation| dilation > 1);
    Averaging {
        count_padding: op.count_include_pad,
        columns_first: SumOrder::of_window(stride, dilated) == SumOrder::Columns,
    }
}

/// The work of a `FusedGlobalPool` by the mean, of bytes.
pub(super) fn bind_global(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::FusedGlobalPool(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (Some(Rescale { x, y }), PoolKind::Average, Layout::Nhwc) =
        (op.rescale, op.kind, op.layout)
    else {
        return Err(arguments.wrong_operator());
    };
    let operand = arguments.operand(0)?;
    let shape = pooled_images(arguments)?;
    let (from, target) = (operand.quant(x)?, arguments.target(&y)?);
    let part = part_len(shape.batch * shape.channels, shape.pixels, BYTES, 64);
    Ok(Work::new(move |call, output| {
        let input = call.operand(0);
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let part = PoolCall {
                input,
                from,
                to: target,
                part: first..first + output.len(),
                output,
                scratch: &mut [],
            };
            Ok(global_average_pool(call.isa, &shape, part)?)
        })
    }))
}
