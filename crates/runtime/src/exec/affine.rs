//! One factor and one summand for each channel of channels-first floats.

use octofold_kernels::float::affine::{Affine, affine};
use octofold_ops::Op;
use octofold_ops::families::{Layout, Product};
use octofold_tensor::DType;

use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;
use crate::values::numbers;

/// The work of a channels-first float `FusedConv` of one tap and one channel in each group.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::FusedConv(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let has_residual = arguments.operands.get(3).copied().flatten().is_some();
    let fits = op.is_affine(&arguments.step.weights, has_residual);
    let (Product::Float(activation), true) = (&op.product, fits) else {
        return Err(arguments.wrong_operator());
    };
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    arguments.result().expect(DType::F32)?;
    arguments.expect_result(operand.shape)?;
    let images = operand.pixels(Layout::Nchw)?;
    if op.layout != Layout::Nchw || arguments.step.weights.first() != Some(&images.channels) {
        return Err(arguments.wrong_operator());
    }
    let floats = (DType::F32, images.channels);
    arguments.expect_packed(&[floats, floats])?;
    let (width, clamp) = (images.pixels, activation.bounds().into());
    let part = part_len(images.batch * images.channels, 8 * width, BYTES, 1) * width;
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        let (scale, shift) = (numbers(call.packed(0))?, numbers(call.packed(1))?);
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let rows = Affine {
                width,
                first: first / width % images.channels,
                scale,
                shift,
                clamp,
            };
            let input = input.get(first..first + output.len()).unwrap_or(&[]);
            Ok(affine(call.isa, rows, input, output)?)
        })
    }))
}
