//! Pooling of quantized values, channels-last.

use octofold_kernels::shared::pool::{
    Averaging, PoolCall, average_pool, global_average_pool, max_pool,
};
use octofold_kernels::shared::{ImageShape, PoolShape, Quant8, Target8};
use octofold_ops::Op;
use octofold_ops::families::{FusedGlobalPool, FusedPool, Layout, PoolKind, Rescale, SumOrder};

use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;

/// `[vertical, horizontal]` sizes from an attribute. Images of one axis have the vertical size 1.
pub(super) fn pair(values: &[i64], what: &str) -> Result<[usize; 2], StepError> {
    let fail = || StepError::invalid(format!("{what} {values:?} are not one or two sizes"));
    let [a, b] = match *values {
        [width] => [1, width],
        [height, width] => [height, width],
        _ => return Err(fail()),
    };
    Ok([
        usize::try_from(a).map_err(|_| fail())?,
        usize::try_from(b).map_err(|_| fail())?,
    ])
}

/// `[top, left, bottom, right]` pads from an attribute. Images of one axis have none at the top and the bottom.
pub(super) fn pads(values: &[i64]) -> Result<[usize; 4], StepError> {
    let fail = || StepError::invalid(format!("pads {values:?} are not two or four sizes"));
    let sizes: Result<Vec<usize>, _> = values.iter().map(|&value| usize::try_from(value)).collect();
    match *sizes.map_err(|_| fail())? {
        [left, right] => Ok([0, left, 0, right]),
        [top, left, bottom, right] => Ok([top, left, bottom, right]),
        _ => Err(fail()),
    }
}

/// The sizes of a channels-last pooling with explicit pads.
pub(super) fn pool_shape(
    op: &FusedPool,
    arguments: &Arguments<'_>,
) -> Result<PoolShape, StepError> {
    if op.layout != Layout::Nhwc {
        return Err(arguments.wrong_operator());
    }
    let [batch, in_h, in_w, channels] = arguments.operand(0)?.image(op.layout)?;
    let [out_n, out_h, out_w, out_c] = arguments.result().image(op.layout)?;
    if (out_n, out_c) != (batch, channels) {
        return Err(StepError::invalid("pooling keeps batch and channels"));
    }
    let [kernel_h, kernel_w] = pair(&op.kernel_shape, "kernel sizes")?;
    let [stride_h, stride_w] = pair(&op.strides, "strides")?;
    let [dilation_h, dilation_w] = pair(&op.dilations, "dilations")?;
    let [pad_top, pad_left, pad_bottom, pad_right] = pads(&op.pads)?;
    Ok(PoolShape {
        batch,
        in_h,
        in_w,
        channels,
        out_h,
        out_w,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        pad_bottom,
        pad_right,
    })
}

/// A global pooling, as a pooling whose window is the whole image.
pub(super) fn whole_window(
    op: &FusedGlobalPool,
    arguments: &Arguments<'_>,
) -> Result<FusedPool, StepError> {
    let [_, height, width, _] = arguments.operand(0)?.image(op.layout)?;
    Ok(FusedPool {
        kind: op.kind,
        kernel_shape: vec![height as i64, width as i64],
        strides: vec![1, 1],
        pads: vec![0; 4],
        dilations: vec![1, 1],
        ceil_mode: false,
        count_include_pad: false,
        layout: op.layout,
        rescale: op.rescale,
    })
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
    let window = shape.kernel_h.saturating_mul(shape.kernel_w);
    let cost = window
        .saturating_mul(shape.out_w)
        .saturating_mul(shape.channels);
    part_len(shape.batch.saturating_mul(shape.out_h), cost, 4 * BYTES, 1)
}

#[derive(Debug)]
struct Pool {
    kind: PoolKind,
    shape: PoolShape,
    averaging: Averaging,
    from: Quant8,
    target: Target8,
    part: usize,
    scratch: usize,
}

/// The work of a `FusedPool`, or of a `FusedGlobalPool` by the maximum, of bytes.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let whole;
    let op = match &arguments.step.op {
        Op::FusedPool(op) => op,
        Op::FusedGlobalPool(op) => {
            whole = whole_window(op, arguments)?;
            &whole
        }
        _ => return Err(arguments.wrong_operator()),
    };
    let Some(Rescale { x, y }) = op.rescale else {
        return Err(arguments.wrong_operator());
    };
    let shape = pool_shape(op, arguments)?;
    // Refuses invalid sizes.
    shape.rows()?;
    let dilated = shape.dilation_h > 1 || shape.dilation_w > 1;
    let order = SumOrder::of_window(shape.stride_w, dilated);
    Ok(Box::new(Pool {
        kind: op.kind,
        averaging: Averaging {
            count_padding: op.count_include_pad,
            columns_first: order == SumOrder::Columns,
        },
        from: arguments.operand(0)?.quant(x)?,
        target: arguments.target(&y)?,
        part: part(&shape),
        scratch: shape.scratch_len()?,
        shape,
    }))
}

impl Work for Pool {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let (isa, shape) = (call.isa, &self.shape);
        let width = shape.out_w * shape.channels;
        let input = call.operand(0);
        let each = |first: usize, output: &mut [u8], scratch: &mut [u8]| {
            let call = PoolCall {
                input,
                from: self.from,
                to: self.target,
                part: first / width..(first + output.len()) / width,
                output,
                scratch,
            };
            match self.kind {
                PoolKind::Max => max_pool(isa, shape, call)?,
                PoolKind::Average => average_pool(isa, shape, self.averaging, call)?,
            }
            Ok(())
        };
        call.pool
            .run_parts(only(outputs)?, self.part * width, self.scratch, each)
    }
}

#[derive(Debug)]
struct GlobalAverage {
    shape: ImageShape,
    from: Quant8,
    target: Target8,
    part: usize,
}

/// The work of a `FusedGlobalPool` by the mean, of bytes.
pub(super) fn bind_global(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
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
    Ok(Box::new(GlobalAverage {
        from: operand.quant(x)?,
        target: arguments.target(&y)?,
        part: part_len(shape.batch * shape.channels, shape.pixels, BYTES, 64),
        shape,
    }))
}

impl Work for GlobalAverage {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = call.operand(0);
        call.pool
            .run_parts(only(outputs)?, self.part, 0, |first, output, _| {
                let part = PoolCall {
                    input,
                    from: self.from,
                    to: self.target,
                    part: first..first + output.len(),
                    output,
                    scratch: &mut [],
                };
                Ok(global_average_pool(call.isa, &self.shape, part)?)
            })
    }
}
