//! Convolutions and linear layers of quantized values.

use octofold_kernels::Bounds;
use octofold_kernels::conv::{
    Activations, ConvCall, ConvShape, Float, LinearShape, OutputSlice, OutputStage, PreparedConv,
    Quantized, Residual, RowStride,
};
use octofold_kernels::shared::layout::{PLANES, scatter};
use octofold_kernels::shared::{Quant8, Target8};
use octofold_ops::families::{
    Activation, FusedConv, IntegerProduct, Layout, Outcome, OutputQuantization, Parameters, Product,
};
use octofold_ops::{Op, OpError};
use octofold_quant::{QParams, QuantType};
use octofold_tensor::DType;

use super::split::{self, Parts};
use super::{Arguments, Call, Work, window};
use crate::StepError;
use crate::plan::{Axes, Core};
use crate::pool::Columns;
use crate::values::{numbers, numbers_mut};

/// Rows of a part of columns that are computed at a time, before they are copied to the output.
const ROWS: usize = 252;

/// Bytes of channels-last results that are computed before they are transposed: they stay in the second cache.
const STRIP: usize = 96 << 10;

/// The output stage; its constants are packed.
#[derive(Debug)]
enum Stage {
    Quantized {
        y: OutputQuantization,
        /// The parameters of the residual, and the quantization of the sum.
        residual: Option<(QParams, OutputQuantization)>,
    },
    Float {
        clamp: Option<Bounds>,
    },
}

struct Conv {
    prepared: PreparedConv,
    /// The parameters of the operand; `None` where those of each run are operands 4 and 5.
    x: Option<QParams>,
    signed: bool,
    stage: Stage,
    scratch: usize,
    /// Output channels.
    channels: usize,
    /// The output pixels of an image, if the result is channels-first.
    channels_first: Option<usize>,
    /// The positions of the result's rows, if they are parts of wider rows.
    row_stride: Option<RowStride>,
    split: Split,
}

/// How the output is split among threads.
#[derive(Clone, Copy, Debug)]
enum Split {
    /// Parts are all channels of some rows.
    Rows(Parts),
    /// Parts are some channels of all rows.
    Columns(Parts),
}

/// The work of an integer `FusedConv` or `FusedLinear`.
pub(super) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Work, StepError> {
    let step = arguments.step;
    let input = arguments.operand(0)?;
    let signed = input.signed()?;
    let channels_first = step.kernel.result() == Axes::Nchw;
    let Some(Product::Integer(product)) = step.op.product() else {
        return Err(arguments.wrong_operator());
    };
    let stage = Stage::new(product, arguments)?;
    let shape = match (&step.op, step.kernel.core()) {
        (Op::FusedConv(op), Core::QConv | Core::QConvDepthwise) => {
            let result = if channels_first {
                Layout::Nchw
            } else {
                Layout::Nhwc
            };
            if channels_first && !matches!(stage, Stage::Float { .. }) {
                return Err(arguments.wrong_operator());
            }
            conv_shape(op, arguments, (Layout::Nhwc, result))?
        }
        (Op::FusedLinear(_), Core::QLinear) => linear_shape(arguments)?.as_conv(),
        _ => return Err(arguments.wrong_operator()),
    };
    let x = match product.x {
        Parameters::Fixed(x) => Some(input.quant(x)?.params),
        Parameters::AtRunTime(_) => {
            let Stage::Float { .. } = stage else {
                return Err(arguments.wrong_operator());
            };
            input.expect(DType::U8)?;
            for (slot, dtype) in [(4, DType::F32), (5, DType::U8)] {
                let parameter = arguments.operand(slot)?;
                parameter.expect(dtype)?;
                if parameter.len() != 1 || step.kernel.core() != Core::QLinear {
                    return Err(arguments.wrong_operator());
                }
            }
            None
        }
    };
    let (rows, channels) = (shape.pixels()?, shape.out_c);
    let prepared = PreparedConv::new(arguments.engine, &shape)?;
    arguments.expect_packed(&stage.packed(prepared.packed_len(), channels))?;
    let macs = usize::try_from(shape.macs()?).unwrap_or(usize::MAX);
    let row_stride = arguments.layout.row_stride;
    if row_stride.is_some() && matches!(stage, Stage::Float { .. }) {
        return Err(StepError::invalid("floats are no parts of wider rows"));
    }
    let conv = Conv {
        split: split(
            &shape,
            macs,
            threads,
            channels_first || row_stride.is_some(),
        )?,
        row_stride,
        scratch: prepared.scratch_len(),
        prepared,
        x,
        signed,
        stage,
        channels,
        channels_first: channels_first.then_some(rows / input.shape[0]),
    };
    let tables = conv.prepared.table_bytes();
    let work = Work::new(move |call, output| conv.run(call, output));
    Ok(work.with_tables(tables))
}

/// Whether a step can write rows that are parts of wider rows: a convolution with a result in bytes that is never split by channels.
pub(crate) fn writes_strided_rows(arguments: &Arguments<'_>) -> bool {
    let step = arguments.step;
    let (Op::FusedConv(op), Core::QConv | Core::QConvDepthwise, Axes::Nhwc) =
        (&step.op, step.kernel.core(), step.kernel.result())
    else {
        return false;
    };
    let shape = conv_shape(op, arguments, (Layout::Nhwc, Layout::Nhwc));
    op.product.y().is_some() && shape.is_ok_and(|shape| !has_many_weights(&shape))
}

/// Whether there are many more weights than activations, so that splitting the channels reads less than splitting the rows.
fn has_many_weights(shape: &ConvShape) -> bool {
    let taps = shape.depth.kernel * shape.kernel_h * shape.kernel_w;
    let weights = taps * (shape.in_c / shape.groups) * shape.out_c;
    let input = shape.batch * shape.depth.input * shape.in_h * shape.in_w * shape.in_c;
    shape.groups == 1 && weights / 8 > input
}

/// Splits by channels if there are many more weights than activations, because every part reads all of one of both. Otherwise it splits by rows: the
/// rows that a thread computed are still in its cache when it reads them for the next layer. A result whose rows are parts of wider rows is always split by rows.
fn split(
    shape: &ConvShape,
    macs: usize,
    threads: usize,
    by_rows: bool,
) -> Result<Split, StepError> {
    let (rows, channels) = (shape.pixels()?, shape.out_c);
    if threads > 1 && !by_rows && has_many_weights(shape) {
        let parts = split::columns(macs, threads);
        if parts.longest(channels) < channels {
            return Ok(Split::Columns(parts));
        }
    }
    // A product of a depthwise layer takes about this many times as long as other products.
    let cost = if shape.groups == channels { 8 } else { 1 };
    let macs = macs.saturating_mul(cost);
    Ok(Split::Rows(split::rows(rows, macs, threads)))
}

/// The sizes of a channels-last convolution with packed weights. The step may include changes of layout; `layouts` has the layouts of its operand and
/// result.
pub(super) fn conv_shape(
    op: &FusedConv,
    arguments: &Arguments<'_>,
    layouts: (Layout, Layout),
) -> Result<ConvShape, StepError> {
    if op.layout != Layout::Nhwc {
        return Err(arguments.wrong_operator());
    }
    let images = layouts.0.channels_first(arguments.operand(0)?.shape);
    let images = images.map_err(|_| arguments.wrong_operator())?;
    let (shape, result) = window::conv_shape(op, &arguments.step.weights, &images)?;
    shape.pixels()?;
    arguments.expect_result(&layouts.1.arrange(result))?;
    Ok(shape)
}

/// The sizes of a linear layer with packed weights.
pub(super) fn linear_shape(arguments: &Arguments<'_>) -> Result<LinearShape, StepError> {
    let input = arguments.operand(0)?;
    let (&[k, n], Some((&last, outer))) = (&*arguments.step.weights, input.shape.split_last())
    else {
        return Err(arguments.wrong_operator());
    };
    if last != k {
        return Err(StepError::invalid(format!(
            "rows of {last} elements where the weights take {k}"
        )));
    }
    let mut result = outer.to_vec();
    result.push(n);
    arguments.expect_result(&result)?;
    Ok(LinearShape {
        rows: outer.iter().product(),
        k,
        n,
    })
}

impl Stage {
    /// What becomes of the sums of a product, with the residual as operand 3.
    fn new(product: &IntegerProduct, arguments: &Arguments<'_>) -> Result<Self, StepError> {
        let has_residual = arguments.operands.get(3).copied().flatten().is_some();
        match product.result {
            Outcome::Residual { own, residual, sum } => {
                let operand = arguments.operand(3)?;
                operand.quant(residual)?;
                arguments.target(&sum)?;
                if operand.shape != arguments.result().shape {
                    return Err(StepError::invalid(
                        "the residual does not have the size of the result",
                    ));
                }
                let residual = Some((residual, sum));
                Ok(Self::Quantized { y: own, residual })
            }
            Outcome::Bytes(y) if !has_residual => {
                arguments.target(&y)?;
                let residual = None;
                Ok(Self::Quantized { y, residual })
            }
            Outcome::Float(activation) if !has_residual => {
                arguments.result().expect(DType::F32)?;
                let clamp = (activation != Activation::None).then(|| activation.bounds().into());
                Ok(Self::Float { clamp })
            }
            _ => Err(arguments.wrong_operator()),
        }
    }

    /// The types and lengths of the packed constants, for a number of bytes of weights and of output channels.
    fn packed(&self, weights: usize, channels: usize) -> Vec<(DType, usize)> {
        let mut packed = vec![
            (DType::U8, weights),
            (DType::I32, channels),
            (DType::F32, channels),
        ];
        if matches!(self, Self::Float { .. }) {
            packed.push((DType::F32, channels));
        }
        packed
    }

    /// The stage with the constants and the residual of a call.
    fn output_stage<'a>(&self, call: &Call<'a>) -> Result<OutputStage<'a>, StepError> {
        Ok(match *self {
            Self::Quantized { y, residual } => OutputStage::Quantized(Quantized {
                bias: numbers(call.packed(1))?,
                multiplier: numbers(call.packed(2))?,
                zero_point: y.params.zero_point,
                lo: y.lo,
                hi: y.hi,
                residual: residual.map(|(params, sum)| {
                    let signed = sum.dtype == QuantType::Int8;
                    let from = Quant8 { params, signed };
                    let quant = Quant8 {
                        params: sum.params,
                        signed,
                    };
                    let (lo, hi) = (sum.lo, sum.hi);
                    Residual::new(call.operand(3), from, y.params, Target8 { quant, lo, hi })
                }),
            }),
            Self::Float { clamp } => OutputStage::Float(Float {
                correction: numbers(call.packed(1))?,
                scale: numbers(call.packed(2))?,
                bias: numbers(call.packed(3))?,
                clamp,
            }),
        })
    }
}

impl Conv {
    fn run(&self, call: Call<'_>, output: &mut [u8]) -> Result<(), StepError> {
        let stage = self.stage.output_stage(&call)?;
        if let OutputStage::Quantized(_) = stage {
            return match self.row_stride {
                None => self.run_parts(&call, &stage, output, |part| OutputSlice::Bytes(part)),
                Some(stride) => self.run_parts(&call, &stage, output, |part| {
                    OutputSlice::Strided(part, stride)
                }),
            };
        }
        let output = numbers_mut(output)?;
        if self.x.is_none() {
            return self.run_dynamic(&call, &stage, output);
        }
        match self.channels_first {
            Some(pixels) => self.run_channels_first(&call, &stage, output, pixels),
            None => self.run_parts(&call, &stage, output, |part| OutputSlice::Floats(part)),
        }
    }

    /// The activations of a call.
    fn input<'a>(&self, call: &Call<'a>) -> Activations<'a> {
        let of_run = || call.operand(5).first().copied().map_or(0, i32::from);
        Activations {
            data: call.operand(0),
            signed: self.signed,
            zero_point: self.x.map_or_else(of_run, |x| x.zero_point),
        }
    }

    /// Computes floats with the scale and zero point of this run: the packed corrections and scales are those for 1.
    fn run_dynamic(
        &self,
        call: &Call<'_>,
        stage: &OutputStage<'_>,
        output: &mut [f32],
    ) -> Result<(), StepError> {
        let OutputStage::Float(Float {
            correction,
            scale,
            bias,
            clamp,
        }) = *stage
        else {
            return Err(StepError::invalid("bytes have fixed parameters"));
        };
        let (&[x_scale], &[zero_point]) = (call.numbers::<f32>(4)?, call.operand(5)) else {
            return Err(StepError::invalid(
                "the scale and zero point are not one number each",
            ));
        };
        QParams::new(x_scale, zero_point.into(), QuantType::Uint8).map_err(OpError::from)?;
        let channels = self.channels;
        call.pool.with_spare(8 * channels, |memory| {
            let (corrections, scales) = memory.split_at_mut(4 * channels);
            let (corrections, scales) = (numbers_mut::<i32>(corrections)?, numbers_mut(scales)?);
            for (y, x) in corrections.iter_mut().zip(correction) {
                // Packing refuses weights whose sums times 255 leave 32 bits.
                *y = i32::from(zero_point).wrapping_mul(*x);
            }
            for (y, w) in scales.iter_mut().zip(scale) {
                *y = x_scale * w;
            }
            let stage = OutputStage::Float(Float {
                correction: corrections,
                scale: scales,
                bias,
                clamp,
            });
            self.run_parts(call, &stage, output, |part| OutputSlice::Floats(part))
        })
    }

    fn run_parts<T: bytemuck::Pod + Send>(
        &self,
        call: &Call<'_>,
        stage: &OutputStage<'_>,
        output: &mut [T],
        slice: impl Fn(&mut [T]) -> OutputSlice<'_> + Sync,
    ) -> Result<(), StepError> {
        let (input, weights, channels) = (self.input(call), call.packed(0), self.channels);
        let isa = call.isa;
        let run = |rows, columns, output: &mut [T], scratch: &mut [u8]| {
            let output = slice(output);
            let call = ConvCall {
                input,
                weights,
                stage,
                rows,
                columns,
                output,
                scratch,
            };
            self.prepared.run(isa, call)
        };
        let part = match self.split {
            Split::Rows(parts) => {
                let width = self.row_stride.map_or(channels, |rows| rows.pitch);
                let each = |first: usize, output: &mut [T], scratch: &mut [u8]| {
                    let rows = first / width..(first + output.len()) / width;
                    Ok(run(rows, 0..channels, output, scratch)?)
                };
                let unit = parts.unit * width;
                return call
                    .pool
                    .run_units(output, unit, parts.count, self.scratch, each);
            }
            Split::Columns(parts) => parts.longest(channels),
        };
        let rows = output.len() / channels;
        let strip = rows.min(ROWS);
        let kernel_scratch = self.scratch.next_multiple_of(64);
        let block_len = strip.saturating_mul(part).saturating_mul(size_of::<T>());
        let scratch_len = kernel_scratch.saturating_add(block_len);
        let each = |first: usize, columns: &mut Columns<'_, T>, scratch: &mut [u8]| {
            let (kernel_scratch, rest) = scratch.split_at_mut(kernel_scratch);
            let (block, width) = (numbers_mut::<T>(rest)?, columns.width());
            for start in (0..rows).step_by(strip) {
                let end = rows.min(start + strip);
                let block = &mut block[..(end - start) * width];
                run(
                    start..end,
                    first..first + width,
                    &mut *block,
                    kernel_scratch,
                )?;
                let mut from = block.chunks_exact(width);
                for start in (start..end).step_by(16) {
                    let to = columns.rows(start..end.min(start + 16))?;
                    for (to, from) in to.into_iter().zip(&mut from) {
                        to.copy_from_slice(from);
                    }
                }
            }
            Ok(())
        };
        call.pool
            .run_columns(output, channels, part, scratch_len, each)
    }

    /// Computes some channels-last pixels at a time in scratch memory, and transposes them to the planes of the output while they are in the cache.
    fn run_channels_first(
        &self,
        call: &Call<'_>,
        stage: &OutputStage<'_>,
        output: &mut [f32],
        pixels: usize,
    ) -> Result<(), StepError> {
        let (input, weights, channels) = (self.input(call), call.packed(0), self.channels);
        let part = match self.split {
            Split::Rows(parts) => parts.longest(pixels),
            Split::Columns(_) => pixels,
        };
        let strip = (STRIP / (4 * channels)).max(1);
        let strip = strip.next_multiple_of(PLANES).min(pixels);
        let kernel_scratch = self.scratch.next_multiple_of(64);
        let floats = strip.saturating_mul(channels);
        let scratch_len = kernel_scratch.saturating_add(floats.saturating_mul(4));
        for (image, output) in output.chunks_exact_mut(pixels * channels).enumerate() {
            let each = |first: usize, columns: &mut Columns<'_, f32>, scratch: &mut [u8]| {
                let (kernel_scratch, rest) = scratch.split_at_mut(kernel_scratch);
                let strips = numbers_mut::<f32>(rest)?;
                for start in (0..columns.width()).step_by(strip) {
                    let count = strip.min(columns.width() - start);
                    let nhwc = &mut strips[..count * channels];
                    let row = image * pixels + first + start;
                    let strip = ConvCall {
                        input,
                        weights,
                        stage,
                        rows: row..row + count,
                        columns: 0..channels,
                        output: OutputSlice::Floats(&mut *nhwc),
                        scratch: &mut *kernel_scratch,
                    };
                    self.prepared.run(call.isa, strip)?;
                    for first in (0..channels).step_by(PLANES) {
                        let mut planes = columns.rows(first..channels.min(first + PLANES))?;
                        let into = start..start + count;
                        scatter(call.isa, &nhwc[first..], channels, &mut planes, into)?;
                    }
                }
                Ok(())
            };
            call.pool
                .run_columns(output, pixels, part, scratch_len, each)?;
        }
        Ok(())
    }
}
