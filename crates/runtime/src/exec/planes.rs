//! Depthwise convolutions between channels-first images.

use octofold_kernels::conv::planes::{conv_planes, packed_len, scratch_len};
use octofold_kernels::conv::{Activations, ConvShape, Float};
use octofold_ops::Op;
use octofold_ops::families::{Activation, Layout};
use octofold_tensor::DType;

use super::conv::{MACS, conv_shape};
use super::{Arguments, Call, Work};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

#[derive(Debug)]
struct Planes {
    shape: ConvShape,
    zero_point: i32,
    signed: bool,
    clamp: Option<(f32, f32)>,
    scratch: usize,
    /// Elements of an output plane.
    plane: usize,
    /// Planes of a part.
    part: usize,
}

/// The work of an integer `FusedConv` with float results, between two changes of layout.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::FusedConv(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let floats = op.y.is_none() && op.residual.is_none() && op.sum.is_none();
    let (Some(x), true) = (op.x, floats) else {
        return Err(arguments.wrong_operator());
    };
    let input = arguments.operand(0)?;
    let quant = input.quant(x)?;
    arguments.result.expect(DType::F32)?;
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
    Ok(Box::new(Planes {
        zero_point: quant.params.zero_point,
        signed: quant.signed,
        clamp: (op.activation != Activation::None).then(|| op.activation.bounds()),
        scratch: scratch_len(&shape)?,
        plane: shape.pixels()? / shape.batch,
        part: (MACS / 4 * planes / macs.max(1)).clamp(1, planes),
        shape,
    }))
}

impl Work for Planes {
    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        let stage = Float {
            correction: numbers(call.packed(1))?,
            scale: numbers(call.packed(2))?,
            bias: numbers(call.packed(3))?,
            clamp: self.clamp,
        };
        let input = Activations {
            data: call.operand(0),
            signed: self.signed,
            zero_point: self.zero_point,
        };
        let shared = call.shared();
        let output = numbers_mut(call.output)?;
        let each = |first: usize, output: &mut [f32], scratch: &mut [u8]| {
            let planes = first / self.plane..(first + output.len()) / self.plane;
            let (isa, weights) = (shared.isa, shared.packed(0));
            Ok(conv_planes(
                isa,
                &self.shape,
                input,
                weights,
                &stage,
                planes,
                output,
                scratch,
            )?)
        };
        shared
            .pool
            .run_parts(output, self.part * self.plane, self.scratch, each)
    }
}
