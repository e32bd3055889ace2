//! A depthwise convolution and the 1×1 convolution that alone reads it, strip by strip.
//!
//! A large result between them takes no memory then. The time is that of both one after the other; with smaller results strips would only cost calls.

use octofold_kernels::conv::{Activations, ConvShape, LinearShape, OutputSlice, OutputStage};
use octofold_ops::Op;
use octofold_ops::families::Layout;

use super::conv::{self, Conv, Prepared, conv_shape};
use super::split::{self, Parts};
use super::{Arguments, Call, Shared, Work};
use crate::StepError;
use crate::plan::Kernel;
use crate::values::numbers_mut;

/// The least bytes between the two that are worth it: about what the second cache of common processors has room for.
const LARGE: usize = 1 << 20;

/// Bytes of a strip.
const STRIP: usize = 160 << 10;

/// Most bytes of two rows.
const ROWS: usize = 512 << 10;

#[derive(Debug)]
struct Strips {
    first: Conv,
    /// The second convolution for the pixels of a strip.
    second: Conv,
    pixels: usize,
    between: usize,
    out_c: usize,
    parts: Parts,
    scratch: usize,
}

/// Whether the second step can compute the first one strip by strip, and gains by it: with enough pairs of rows for all threads.
pub(crate) fn takes(first: &Arguments<'_>, second: &Arguments<'_>, threads: usize) -> bool {
    let kernels = (first.step.kernel, second.step.kernel);
    let (Op::FusedConv(op), Op::FusedConv(reader)) = (&first.step.op, &second.step.op) else {
        return false;
    };
    let Ok(shape) = conv_shape(reader, second, (Layout::Nhwc, Layout::Nhwc)) else {
        return false;
    };
    let ones = [
        shape.kernel_h,
        shape.kernel_w,
        shape.stride_h,
        shape.stride_w,
    ];
    let pads = [
        shape.pad_top,
        shape.pad_left,
        shape.pad_bottom,
        shape.pad_right,
    ];
    kernels == (Kernel::QConvDepthwise, Kernel::QConv)
        && op.y.is_some()
        && op.residual.is_none()
        && reader.residual.is_none()
        && (ones, pads, shape.groups) == ([1; 4], [0; 4], 1)
        && first.result.len() > LARGE
        && 2 * shape.in_w * shape.in_c <= ROWS
        && shape.batch * shape.in_h >= 8 * threads
}

/// The work of both steps, which reads what the first one reads; packed constants are those of the first one and then those of the second one.
pub(crate) fn bind(
    first: &Arguments<'_>,
    second: &Arguments<'_>,
    threads: usize,
) -> Result<Box<dyn Work>, StepError> {
    if !takes(first, second, threads) {
        return Err(second.wrong_operator());
    }
    let (first, shape) = conv::new(first, threads)?;
    let engine = second.engine;
    let (mut second, reader) = conv::new(second, threads)?;
    // Two rows of the first result come from one interleaved input.
    let rows = 2 * reader.in_w;
    let pixels = (STRIP / (rows * reader.in_c)).max(1) * rows;
    let strip = LinearShape {
        rows: pixels,
        k: reader.in_c,
        n: reader.out_c,
    };
    second.prepared = Prepared::new(engine, strip.as_conv())?;
    let macs = |shape: &ConvShape| {
        shape
            .macs()
            .map(|macs| usize::try_from(macs).unwrap_or(usize::MAX))
    };
    let macs = macs(&shape)?
        .saturating_mul(8)
        .saturating_add(macs(&reader)?);
    let count = split::rows(reader.pixels()?, macs, threads).count;
    let scratch = first
        .prepared
        .scratch_len()?
        .max(second.prepared.scratch_len()?);
    Ok(Box::new(Strips {
        first,
        second,
        pixels,
        between: reader.in_c,
        out_c: reader.out_c,
        parts: Parts { unit: rows, count },
        scratch: scratch.next_multiple_of(64),
    }))
}

impl Work for Strips {
    fn table_bytes(&self) -> usize {
        let tables = [&self.first, &self.second].map(|conv| conv.prepared.table_bytes());
        tables.iter().sum()
    }

    fn run(&self, call: Call<'_>) -> Result<(), StepError> {
        let shared = call.shared();
        let (first, second) = shared.packed_at(self.first.stage.constants());
        let stages = (
            self.first.stage.output_stage(&first)?,
            self.second.stage.output_stage(&second)?,
        );
        let calls = (&first, &second);
        if let OutputStage::Quantized(_) = stages.1 {
            return self.run_parts(calls, &stages, call.output, |part| OutputSlice::Bytes(part));
        }
        let output = numbers_mut(call.output)?;
        self.run_parts(calls, &stages, output, |part| OutputSlice::Floats(part))
    }
}

impl Strips {
    fn run_parts<T: Send>(
        &self,
        (first, second): (&Shared<'_>, &Shared<'_>),
        stages: &(OutputStage<'_>, OutputStage<'_>),
        output: &mut [T],
        slice: impl Fn(&mut [T]) -> OutputSlice<'_> + Sync,
    ) -> Result<(), StepError> {
        let (isa, out_c, channels) = (first.isa, self.out_c, self.between);
        let input = self.first.input(first);
        let each = |start: usize, output: &mut [T], scratch: &mut [u8]| {
            let (scratch, between) = scratch.split_at_mut(self.scratch);
            let mut pixel = start / out_c;
            for output in output.chunks_mut(self.pixels * out_c) {
                let count = output.len() / out_c;
                let strip = OutputSlice::Bytes(&mut between[..count * channels]);
                let block = (pixel..pixel + count, 0..channels, strip);
                let weights = first.packed(0);
                (self.first.prepared).run(isa, input, weights, &stages.0, block, scratch)?;
                let strip = Activations {
                    data: between,
                    ..self.second.input(second)
                };
                let block = (0..count, 0..out_c, slice(output));
                let weights = second.packed(0);
                (self.second.prepared).run(isa, strip, weights, &stages.1, block, scratch)?;
                pixel += count;
            }
            Ok(())
        };
        let scratch = self.scratch + self.pixels * channels;
        let unit = self.parts.unit * out_c;
        (first.pool).run_units(output, unit, self.parts.count, scratch, each)
    }
}
