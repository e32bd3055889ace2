//! Conversion between floats and bytes, with one constant scale, and optionally with a change of layout.

use octofold_kernels::shared::{ImageShape, Quant8, Target8, quantize};
use octofold_ops::Op;
use octofold_quant::QParams;
use octofold_tensor::DType;

use super::{Argument, Arguments, BYTES, Call, Work, layout, only, part_len};
use crate::StepError;
use crate::plan::Axes;
use crate::values::{numbers, numbers_mut};

#[derive(Debug)]
struct Quantize {
    target: Target8,
    /// The images, when the result is channels-last.
    images: Option<ImageShape>,
    part: usize,
}

#[derive(Debug)]
struct Dequantize {
    from: Quant8,
    /// The images, when the result is channels-first.
    images: Option<ImageShape>,
    part: usize,
}

/// The work of a `QuantizeLinear` to bytes.
pub(super) fn bind_quantize(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
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
    Ok(Box::new(Quantize {
        target,
        images,
        part,
    }))
}

/// The work of a `DequantizeLinear` of bytes.
pub(super) fn bind_dequantize(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
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
    Ok(Box::new(Dequantize { from, images, part }))
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
    Ok((Some(images), layout::part(images, to == Axes::Nhwc, 5)))
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

impl Work for Quantize {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let Some(shape) = &self.images else {
            let each = |first: usize, output: &mut [u8], _: &mut [u8]| {
                let input = input.get(first..first + output.len()).unwrap_or(&[]);
                Ok(quantize::quantize(call.isa, input, self.target, output)?)
            };
            return call.pool.run_parts(only(outputs)?, self.part, 0, each);
        };
        let width = shape.channels.max(1);
        let each = |first: usize, output: &mut [u8], _: &mut [u8]| {
            let pixels = first / width..(first + output.len()) / width;
            Ok(quantize::quantize_nchw_to_nhwc(
                call.isa,
                shape,
                input,
                self.target,
                pixels,
                output,
            )?)
        };
        call.pool
            .run_parts(only(outputs)?, self.part * width, 0, each)
    }
}

impl Work for Dequantize {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let input = call.operand(0);
        let output = numbers_mut::<f32>(only(outputs)?)?;
        let Some(shape) = &self.images else {
            let each = |first: usize, output: &mut [f32], _: &mut [u8]| {
                let input = input.get(first..first + output.len()).unwrap_or(&[]);
                Ok(quantize::dequantize(call.isa, input, self.from, output)?)
            };
            return call.pool.run_parts(output, self.part, 0, each);
        };
        let width = shape.pixels.max(1);
        let each = |first: usize, output: &mut [f32], _: &mut [u8]| {
            let planes = first / width..(first + output.len()) / width;
            Ok(quantize::dequantize_nhwc_to_nchw(
                call.isa, shape, input, self.from, planes, output,
            )?)
        };
        call.pool.run_parts(output, self.part * width, 0, each)
    }
}
