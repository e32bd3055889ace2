//! Depthwise convolutions between channels-first images.

use octofold_kernels::conv::planes::{Planes, PlanesCall, conv_planes, packed_len, scratch_len};
use octofold_kernels::conv::{Activations, Float};
use octofold_kernels::shared::Quant8;
use octofold_ops::Op;
use octofold_ops::families::{Activation, IntegerProduct, Layout, Outcome, Parameters, Product};
use octofold_quant::QuantType;
use octofold_tensor::DType;

use super::conv::conv_shape;
use super::split::MACS;
use super::{Arguments, Work};
use crate::StepError;
use crate::plan::InputForm;
use crate::values::numbers;

/// The work of an integer `FusedConv` with float results between two changes of layout, optionally with a `QuantizeLinear` before them.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let Op::FusedConv(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let Product::Integer(IntegerProduct {
        x: Parameters::Fixed(x),
        result: Outcome::Float(activation),
        ..
    }) = op.product
    else {
        return Err(arguments.wrong_operator());
    };
    let input = arguments.operand(0)?;
    let (quantizes, quant) = match arguments.step.kernel.input() {
        InputForm::AsIs(_) => (false, input.quant(x)?),
        InputForm::Quantized(dtype, _) => {
            input.expect(DType::F32)?;
            let quant = Quant8 {
                params: x,
                signed: dtype == QuantType::Int8,
            };
            quant.check()?;
            (true, quant)
        }
    };
    arguments.result().expect(DType::F32)?;
    if input.shape.len() > 4 {
        // The kernels' images would be planes of all channels.
        return Err(arguments.wrong_operator());
    }
    let shape = conv_shape(op, arguments, (Layout::Nchw, Layout::Nchw))?;
    let channels = shape.out_c;
    arguments.expect_packed(&[
        (DType::U8, packed_len(&shape)?),
        (DType::I32, channels),
        (DType::F32, channels),
        (DType::F32, channels),
    ])?;
    let planes = shape.batch * channels;
    let macs = usize::try_from(shape.macs()?).unwrap_or(usize::MAX);
    let part = (MACS / 4 * planes / macs.max(1)).clamp(1, planes);
    let (plane, scratch) = (shape.pixels()? / shape.batch, scratch_len(&shape)?);
    let clamp = (activation != Activation::None).then(|| activation.bounds().into());
    Ok(Work::new(move |call, output| {
        let stage = Float {
            correction: numbers(call.packed(1))?,
            scale: numbers(call.packed(2))?,
            bias: numbers(call.packed(3))?,
            clamp,
        };
        let input = if quantizes {
            Planes::Floats(call.numbers(0)?, quant)
        } else {
            Planes::Bytes(Activations {
                data: call.operand(0),
                signed: quant.signed,
                zero_point: quant.params.zero_point,
            })
        };
        (call.pool).run_parts(output, part * plane, scratch, |first, output, scratch| {
            let planes = PlanesCall {
                input,
                weights: call.packed(0),
                stage,
                planes: first / plane..(first + output.len()) / plane,
                output,
                scratch,
            };
            Ok(conv_planes(call.isa, &shape, planes)?)
        })
    }))
}
