//! Conversion between floats and bytes, with one constant scale, and optionally with a change of layout.

use octofold_kernels::shared::{ImageShape, Target8, quantize};
use octofold_ops::Op;
use octofold_quant::QParams;
use octofold_tensor::DType;

use super::{Argument, Arguments, BYTES, Work, layout, part_len};
use crate::StepError;
use crate::plan::Axes;

/// The work of a `QuantizeLinear` to bytes.
pub(super) fn bind_quantize(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::QuantizeLinear(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    if op.block_size != 0 || !op.saturate {
        return Err(arguments.wrong_operator());
    }
    let operand = arguments.operand(0)?;
    operand.expect(DType::F32)?;
    let target = Target8::full(arguments.result().quant(params(arguments)?)?);
    let (images, part) = split(arguments)?;
    let Some(shape) = images else {
        return Ok(Work::of_elements(part, move |isa, input, output| {
            quantize::quantize(isa, input, target, output)
        }));
    };
    let width = shape.channels.max(1);
    Ok(Work::new(move |call, output| {
        let input = call.numbers(0)?;
        (call.pool).run_parts(output, part * width, 0, |first, output, _| {
            let pixels = first / width..(first + output.len()) / width;
            Ok(quantize::quantize_nchw_to_nhwc(
                call.isa, &shape, input, target, pixels, output,
            )?)
        })
    }))
}

/// The work of a `DequantizeLinear` of bytes.
pub(super) fn bind_dequantize(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::DequantizeLinear(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    if op.block_size != 0 {
        return Err(arguments.wrong_operator());
    }
    let operand = arguments.operand(0)?;
    arguments.result().expect(DType::F32)?;
    let from = operand.quant(params(arguments)?)?;
    let (images, part) = split(arguments)?;
    let Some(shape) = images else {
        return Ok(Work::of_elements(part, move |isa, input, output| {
            quantize::dequantize(isa, input, from, output)
        }));
    };
    let width = shape.pixels.max(1);
    Ok(Work::new(move |call, output| {
        let input = call.operand(0);
        (call.pool).run_parts(output, part * width, 0, |first, output, _| {
            let planes = first / width..(first + output.len()) / width;
            Ok(quantize::dequantize_nhwc_to_nchw(
                call.isa, &shape, input, from, planes, output,
            )?)
        })
    }))
}

/// The images, if the kernel changes their layout, and the elements, pixels or planes of a part.
fn split(arguments: &Arguments<'_>) -> Result<(Option<ImageShape>, usize), StepError> {
    let operand = arguments.operand(0)?;
    let to = arguments.step.kernel.result();
    if to == Axes::Any {
        arguments.expect_result(operand.shape)?;
        return Ok((None, part_len(operand.len(), 5, BYTES, 64)));
    }
    let images = layout::images(arguments)?;
    // Floats are read for whole pixels, and bytes for planes.
    let part = layout::part(images, to == Axes::Nhwc, 1, 5);
    Ok((Some(images), part))
}

/// The constant scale and zero point of a (de)quantization of the whole tensor.
fn params(arguments: &Arguments<'_>) -> Result<QParams, StepError> {
    let scale = arguments.operand(1)?;
    scale.expect(DType::F32)?;
    let bytes = |constant: Argument<'_>| {
        let bytes = constant
            .constant
            .filter(|_| constant.len() == 1)
            .map(<[u8]>::to_vec);
        bytes
            .ok_or_else(|| StepError::invalid("the scale and zero point are not one constant each"))
    };
    let scale = bytes(scale)?.try_into().map_or(0.0, f32::from_le_bytes);
    let zero_point = match arguments.operands.get(2).copied().flatten() {
        None => 0,
        Some(zero_point) => {
            let signed = zero_point.signed()?;
            let byte = bytes(zero_point)?[0];
            if signed {
                i32::from(byte as i8)
            } else {
                byte.into()
            }
        }
    };
    Ok(QParams { scale, zero_point })
}
