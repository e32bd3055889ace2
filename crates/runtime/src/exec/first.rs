//! First layers: quantization, the change of layout and a convolution, strip by strip.
//!
//! Some rows of floats are quantized to channels-last rows in scratch memory, padding included, just before they are convolved: they are in the nearest
//! caches then, the quantized image is never whole in memory, and threads are called once for both.

use octofold_kernels::conv::{Activations, ConvShape, OutputSlice, OutputStage};
use octofold_kernels::shared::{ImageShape, Quant8, Target8, quantize};
use octofold_ops::Op;
use octofold_ops::families::Layout;
use octofold_tensor::DType;

use super::conv::{Prepared, Stage, conv_shape, conv_stage};
use super::split::{self, Parts};
use super::{Arguments, Call, Shared, Work};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

/// Bytes of quantized rows that stay near.
const STRIP: usize = 48 << 10;

#[derive(Debug)]
struct First {
    /// The convolution of a strip: its padding above and below lies in the strip.
    strip: Prepared,
    stage: Stage,
    quant: Quant8,
    image: ImageShape,
    shape: ConvShape,
    out_h: usize,
    /// Output rows of a strip, and input rows under them.
    rows: usize,
    rows_under: usize,
    /// Bytes of an input row, and elements of an output row.
    row_len: usize,
    out_row_len: usize,
    parts: Parts,
    /// Bytes of scratch memory for the kernel.
    scratch: usize,
}

/// The work of a `QuantizeLinear`, a `Transpose` to channels-last and an integer `FusedConv`.
pub(super) fn bind(arguments: &Arguments<'_>, threads: usize) -> Result<Box<dyn Work>, StepError> {
    let Op::FusedConv(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let quant = super::quantize::target(arguments)?;
    let stage = conv_stage(op, arguments)?;
    if op.x != Some(quant.params) || stage.has_residual() {
        return Err(arguments.wrong_operator());
    }
    arguments.operand(0)?.expect(DType::F32)?;
    let shape = conv_shape(op, arguments, (Layout::Nchw, Layout::Nhwc))?;
    let (Some(out_h), Some(out_w)) = (shape.out_h(), shape.out_w()) else {
        return Err(arguments.wrong_operator());
    };
    let span = (shape.kernel_h - 1) * shape.dilation_h + 1;
    let row_len = shape.in_w * shape.in_c;
    let fitting = (STRIP / row_len.max(1)).saturating_sub(span) / shape.stride_h + 1;
    let rows = fitting.min(out_h);
    let rows_under = (rows - 1) * shape.stride_h + span;
    let strip = Prepared::new(
        arguments.engine,
        ConvShape {
            batch: 1,
            in_h: rows_under,
            pad_top: 0,
            pad_bottom: 0,
            ..shape
        },
    )?;
    arguments.expect_packed(&stage.packed(strip.packed_len()?, shape.out_c))?;
    let macs = usize::try_from(shape.macs()?).unwrap_or(usize::MAX);
    let parts = split::rows(shape.pixels()?, macs, threads);
    Ok(Box::new(First {
        scratch: strip.scratch_len()?.next_multiple_of(64),
        strip,
        stage,
        quant,
        image: ImageShape {
            batch: shape.batch,
            channels: shape.in_c,
            pixels: shape.in_h * shape.in_w,
        },
        out_h,
        rows,
        rows_under,
        row_len,
        out_row_len: out_w * shape.out_c,
        parts: Parts {
            unit: out_w,
            count: parts.count,
        },
        shape,
    }))
}

impl Work for First {
    fn table_bytes(&self) -> usize {
        self.strip.table_bytes()
    }

    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        let shared = call.shared();
        let stage = self.stage.output_stage(&shared)?;
        match &stage {
            OutputStage::Quantized(_) => {
                let output = call.output;
                self.run_parts(&shared, &stage, output, |part| OutputSlice::Bytes(part))
            }
            _ => {
                let output = numbers_mut(call.output)?;
                self.run_parts(&shared, &stage, output, |part| OutputSlice::Floats(part))
            }
        }
    }
}

impl First {
    fn run_parts<T: Send>(
        &self,
        call: &Shared<'_>,
        stage: &OutputStage<'_>,
        output: &mut [T],
        slice: impl Fn(&mut [T]) -> OutputSlice<'_> + Sync,
    ) -> Result<(), StepError> {
        let input = numbers::<f32>(call.operand(0))?;
        let scratch_len = self.scratch.saturating_add(self.rows_under * self.row_len);
        let each = |first: usize, output: &mut [T], scratch: &mut [u8]| {
            let (kernel_scratch, strip) = scratch.split_at_mut(self.scratch);
            let mut row = first / self.out_row_len;
            // The image and the first row of what is in the strip.
            let mut before = None;
            let mut rest = output;
            while !rest.is_empty() {
                let (image, y) = (row / self.out_h, row % self.out_h);
                let left = rest.len() / self.out_row_len;
                let rows = left.min(self.rows).min(self.out_h - y);
                let (now, later) = rest.split_at_mut(rows * self.out_row_len);
                let top = (y * self.shape.stride_h) as isize - self.shape.pad_top as isize;
                self.fill(call, input, image, top, before, strip)?;
                before = Some((image, top));
                let activations = Activations {
                    data: strip,
                    signed: self.quant.signed,
                    zero_point: self.quant.params.zero_point,
                };
                let columns = 0..self.shape.out_c;
                let block = (0..now.len() / self.shape.out_c, columns, slice(now));
                let (isa, weights) = (call.isa, call.packed(0));
                (self.strip).run(isa, activations, weights, stage, block, kernel_scratch)?;
                row += rows;
                rest = later;
            }
            Ok(())
        };
        let unit = self.parts.unit * self.shape.out_c;
        (call.pool).run_units(output, unit, self.parts.count, scratch_len, each)
    }

    /// Fills the strip with the quantized rows of an image from row `top` on. Those that it has already, since `before` was filled in, are moved.
    fn fill(
        &self,
        call: &Shared<'_>,
        input: &[f32],
        image: usize,
        top: isize,
        before: Option<(usize, isize)>,
        strip: &mut [u8],
    ) -> Result<(), StepError> {
        let under = self.rows_under as isize;
        let known = match before {
            Some((known, first)) if known == image && first <= top => (first + under - top).max(0),
            _ => 0,
        };
        let known = known as usize;
        strip.copy_within((self.rows_under - known) * self.row_len.., 0);
        // The rows of the image among those that are missing.
        let (first, height) = (top + known as isize, self.shape.in_h as isize);
        let start = first.clamp(0, height) as usize;
        let end = (top + under).clamp(start as isize, height) as usize;
        let place = |row: usize| (row as isize - top).clamp(known as isize, under) as usize;
        let (above, rest) =
            strip[known * self.row_len..].split_at_mut((place(start) - known) * self.row_len);
        let (inside, below) = rest.split_at_mut((end - start) * self.row_len);
        let zero = self.quant.params.zero_point as u8;
        above.fill(zero);
        below.fill(zero);
        let first = image * self.image.pixels;
        let pixels = first + start * self.shape.in_w..first + end * self.shape.in_w;
        let target = Target8::full(self.quant);
        Ok(quantize::quantize_nchw_to_nhwc(
            call.isa,
            &self.image,
            input,
            target,
            pixels,
            inside,
        )?)
    }
}
