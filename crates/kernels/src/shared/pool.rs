//! Pooling of quantized channels-last tensors: maximum, average and global average.
//!
//! - Maximum: the largest value of the window, moved to the target by `octofold_quant::requantize::rescale`
//!   (which is monotonic, so the order does not matter). Padding never wins; a window that holds only padding
//!   gives the lower bound.
//! - Average: `octofold_quant::requantize::real_mean` of the window's real values, added up in f32 in the order that the caller names:
//!   the arithmetic of dequantize, `AveragePool` and quantize. Padding adds nothing to the sum; it counts as elements when
//!   [`Averaging`] says so. An empty window gives zero.
//! - Global average: `octofold_quant::requantize::mean` of the exact integer sum `Σ(q - z)`, in 32 bits, and in 16 bits on the
//!   way for up to 257 values (257 · 255 < 2^16).

use std::ops::Range;

use octofold_quant::requantize::mean_multiplier;

use super::dispatch::isa_versions;
use super::rescale::Rescaler;
use super::{ImageShape, PoolShape, Quant8, Reader, Target8, Writer};
use crate::error::check_scratch;
use crate::{Isa, KernelError};

/// The arguments of a call that computes a part of a pooling.
#[derive(Debug)]
pub struct PoolCall<'a> {
    /// All of `[batch, in_h, in_w, channels]`.
    pub input: &'a [u8],
    /// What the bytes of the input mean.
    pub from: Quant8,
    /// What the bytes of the output mean.
    pub to: Target8,
    /// The part to compute: rows of `batch · out_h`, or of global averages `batch · channels`. Calls for disjoint parts may run at the same time.
    pub part: Range<usize>,
    /// The values of the part, `[rows, out_w, channels]`, or the averages.
    pub output: &'a mut [u8],
    /// At least [`PoolShape::scratch_len`] bytes with any content, not shared with a concurrent call. Global averages need none.
    pub scratch: &'a mut [u8],
}

/// The largest value of each window and channel.
///
/// # Errors
/// For lengths that do not fit the shape, rows that do not exist, refused parameters, and a missing instruction set.
pub fn max_pool(isa: Isa, shape: &PoolShape, call: PoolCall<'_>) -> Result<(), KernelError> {
    check_call(shape, &call)?;
    let rescaler = Rescaler::new(call.from, call.to)?;
    let maxima = Maxima {
        shape,
        input: call.input,
        flip: call.from.reader().flip,
    };
    let width = shape.out_w * shape.channels;
    let columns = &mut call.scratch[..shape.in_w * shape.channels];
    let empty_columns = (0..shape.out_w).any(|x| shape.window_w(x).len == 0);
    for (row, output) in call.part.zip(call.output.chunks_exact_mut(width)) {
        max_row(isa, maxima, row, columns, output)?;
        rescaler.run_in_place(isa, output)?;
        if empty_columns || shape.lines(row).len() == 0 {
            fill_empty(shape, call.to, row, output);
        }
    }
    Ok(())
}

fn check_call(shape: &PoolShape, call: &PoolCall<'_>) -> Result<(), KernelError> {
    shape.check_slices(call.input.len(), &call.part, call.output.len())?;
    check_scratch(shape.scratch_len()?, call.scratch.len())
}

/// What all rows of maxima have in common.
#[derive(Clone, Copy)]
struct Maxima<'a> {
    shape: &'a PoolShape,
    input: &'a [u8],
    /// What makes unsigned bytes of signed ones.
    flip: u8,
}

/// Writes the lower bound where a window holds only padding.
fn fill_empty(shape: &PoolShape, to: Target8, row: usize, output: &mut [u8]) {
    let no_rows = shape.lines(row).len() == 0;
    for (x, output) in output.chunks_exact_mut(shape.channels).enumerate() {
        if no_rows || shape.window_w(x).len == 0 {
            output.fill(to.lo as u8);
        }
    }
}

isa_versions!(
    fn max_row(maxima: Maxima<'_>, row: usize, columns: &mut [u8], output: &mut [u8]) = max_row_loop
);

/// One row of maxima, as unsigned numbers after `flip`, flipped back: first down the window in all columns, then
/// across. Both are loops over neighbouring bytes, and a window costs the sum of its sides, not the product.
#[inline(always)]
fn max_row_loop(maxima: Maxima<'_>, row: usize, columns: &mut [u8], output: &mut [u8]) {
    let Maxima { shape, input, flip } = maxima;
    let channels = shape.channels;
    let len = columns.len();
    let values = |line: usize| &input[line * len..][..len];
    let lines = shape.lines(row);
    let mut positions = lines.positions();
    let mut next = || positions.next().map(values).unwrap_or_default();
    if lines.len() == 3 {
        let [top, middle, bottom] = [next(), next(), next()];
        for (((best, &a), &b), &c) in columns.iter_mut().zip(top).zip(middle).zip(bottom) {
            *best = (a ^ flip).max(b ^ flip).max(c ^ flip);
        }
    } else {
        columns.fill(0);
        for line in lines.positions() {
            for (best, &value) in columns.iter_mut().zip(values(line)) {
                *best = (*best).max(value ^ flip);
            }
        }
    }
    for (x, output) in output.chunks_exact_mut(channels).enumerate() {
        let window = shape.window_w(x);
        let column =
            |tap: usize| &columns[(window.start + tap * window.step) * channels..][..channels];
        if window.len == 3 {
            let (left, middle, right) = (column(0), column(1), column(2));
            for (((y, &a), &b), &c) in output.iter_mut().zip(left).zip(middle).zip(right) {
                *y = a.max(b).max(c) ^ flip;
            }
            continue;
        }
        output.fill(0);
        for tap in 0..window.len {
            for (best, &value) in output.iter_mut().zip(column(tap)) {
                *best = (*best).max(value);
            }
        }
        output.iter_mut().for_each(|y| *y ^= flip);
    }
}

/// The mean of each window and channel.
///
/// # Errors
/// As [`max_pool`].
pub fn average_pool(
    isa: Isa,
    shape: &PoolShape,
    averaging: Averaging,
    call: PoolCall<'_>,
) -> Result<(), KernelError> {
    check_call(shape, &call)?;
    call.from.check()?;
    call.to.check()?;
    let averages = Averages {
        shape,
        averaging,
        input: call.input,
        reals: Reals {
            reader: call.from.reader(),
            scale: call.from.params.scale,
            step: call.to.quant.params.scale,
            writer: call.to.writer(),
        },
    };
    // SAFETY: every bit pattern is an f32.
    let (_, sums, _) = unsafe { call.scratch.align_to_mut::<f32>() };
    let sums = &mut sums[..(shape.in_w + 1) * shape.channels];
    let width = shape.out_w * shape.channels;
    for (row, output) in call.part.zip(call.output.chunks_exact_mut(width)) {
        average_row(isa, averages, row, sums, output)?;
    }
    Ok(())
}

/// What all rows of means have in common.
#[derive(Clone, Copy)]
struct Averages<'a> {
    shape: &'a PoolShape,
    averaging: Averaging,
    input: &'a [u8],
    reals: Reals,
}

/// How the values of a window become a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Averaging {
    /// Whether the divisor counts the padding that the shape names (never what is beyond it).
    pub count_padding: bool,
    /// Whether each column is added up first and then the sums of the columns, instead of one value after the other, row by row.
    pub columns_first: bool,
}

/// The constants of windowed means.
#[derive(Clone, Copy)]
struct Reals {
    reader: Reader,
    /// The scale of the operand.
    scale: f32,
    /// The scale of the result.
    step: f32,
    writer: Writer,
}

impl Reals {
    /// Adds the real values of bytes to sums.
    #[inline(always)]
    fn add(self, sums: &mut [f32], bytes: &[u8]) {
        for (sum, &byte) in sums.iter_mut().zip(bytes) {
            *sum += self.reader.steps(byte) * self.scale;
        }
    }

    /// The quantized means of `count` values from their sums.
    #[inline(always)]
    fn write(self, sums: &[f32], count: usize, output: &mut [u8]) {
        let count = count as f32;
        for (y, sum) in output.iter_mut().zip(sums) {
            *y = self.writer.byte(sum / count / self.step);
        }
    }
}

isa_versions!(
    fn average_row(averages: Averages<'_>, row: usize, sums: &mut [f32], output: &mut [u8]) =
        average_row_loop
);

/// One row of means. `sums` has room for the sum of each column and channel, and for those of one window.
#[inline(always)]
fn average_row_loop(averages: Averages<'_>, row: usize, sums: &mut [f32], output: &mut [u8]) {
    let Averages {
        shape,
        averaging,
        input,
        reals,
    } = averages;
    let channels = shape.channels;
    let lines = shape.lines(row);
    let (columns, sums) = sums.split_at_mut(shape.in_w * channels);
    let width = columns.len();
    let input_row = |line: usize| &input[line * width..][..width];
    if averaging.columns_first {
        columns.fill(0.0);
        for line in lines.positions() {
            reals.add(columns, input_row(line));
        }
    }
    for (x, output) in output.chunks_exact_mut(channels).enumerate() {
        let horizontal = shape.window_w(x);
        sums.fill(0.0);
        if averaging.columns_first {
            for x in horizontal.positions() {
                let column = &columns[x * channels..][..channels];
                sums.iter_mut()
                    .zip(column)
                    .for_each(|(sum, column)| *sum += column);
            }
        } else {
            for line in lines.positions() {
                for x in horizontal.positions() {
                    reals.add(sums, &input_row(line)[x * channels..][..channels]);
                }
            }
        }
        let count = lines.divisor(horizontal, averaging.count_padding);
        reals.write(sums, count, output);
    }
}

/// The mean of each image and channel over all pixels.
///
/// # Errors
/// For lengths that do not fit, a sum that 32 bits do not hold (more than 8 421 504 pixels), refused
/// parameters, and a missing instruction set.
pub fn global_average_pool(
    isa: Isa,
    shape: &ImageShape,
    call: PoolCall<'_>,
) -> Result<(), KernelError> {
    check_sum(shape.pixels)?;
    call.from.check()?;
    call.to.check()?;
    let means = Means::new(call.from, call.to);
    shape.for_each_image(
        call.input,
        call.part,
        call.output,
        |image, channel, output| global_means(isa, shape, image, means, channel, output),
    )
}

isa_versions!(
    fn global_means(
        shape: &ImageShape,
        image: &[u8],
        means: Means,
        channel: usize,
        output: &mut [u8],
    ) = global_means_loop
);

#[inline(always)]
fn global_means_loop(
    shape: &ImageShape,
    image: &[u8],
    means: Means,
    channel: usize,
    output: &mut [u8],
) {
    let multiplier = means.multiplier(shape.pixels);
    let zeros = means.zero_sum(shape.pixels);
    let starts = (channel..).step_by(BLOCK);
    for (channel, output) in starts.zip(output.chunks_mut(BLOCK)) {
        let mut sums = [zeros; BLOCK];
        let mut pixel = 0;
        while pixel < shape.pixels {
            let end = (pixel + 257).min(shape.pixels);
            let pixels = (pixel..end).map(|pixel| pixel * shape.channels + channel);
            // A constant number makes a loop of its own, of whole vectors.
            let small = match output.len() {
                BLOCK => sum_pixels(image, pixels, means.flip, BLOCK),
                len => sum_pixels(image, pixels, means.flip, len),
            };
            sums.iter_mut()
                .zip(small)
                .for_each(|(sum, small)| *sum += i32::from(small));
            pixel = end;
        }
        for (y, sum) in output.iter_mut().zip(sums) {
            *y = means.writer.byte(sum as f32 * multiplier);
        }
    }
}

/// Channels of a global mean that are summed at a time: two vectors of AVX-512 in 16 bits.
const BLOCK: usize = 64;

/// The sums of the first `len` channels of a block over at most 257 pixels.
#[inline(always)]
fn sum_pixels(
    image: &[u8],
    pixels: impl Iterator<Item = usize>,
    flip: u8,
    len: usize,
) -> [u16; BLOCK] {
    let mut sums = [0; BLOCK];
    for start in pixels {
        let values = &image[start..start + len];
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += u16::from(value ^ flip);
        }
    }
    sums
}

/// Checks that 32 bits hold a sum of `count` values.
fn check_sum(count: usize) -> Result<(), KernelError> {
    if count > i32::MAX as usize / 255 {
        return Err(KernelError::TooLarge {
            what: "the sum of a mean",
        });
    }
    Ok(())
}

/// The constants of means.
#[derive(Clone, Copy)]
struct Means {
    from: Quant8,
    to: Target8,
    flip: u8,
    /// The zero point of the flipped bytes.
    zero: i32,
    writer: Writer,
}

impl Means {
    fn new(from: Quant8, to: Target8) -> Self {
        let reader = from.reader();
        Self {
            from,
            to,
            flip: reader.flip,
            zero: reader.zero as i32,
            writer: to.writer(),
        }
    }

    /// What a sum of `count` flipped bytes starts with, so that it ends as `Σ(q - z)`.
    #[inline(always)]
    fn zero_sum(self, count: usize) -> i32 {
        -self.zero * count as i32
    }

    /// The multiplier of a mean of `count` values; an empty mean is zero whatever it is multiplied by.
    #[inline(always)]
    fn multiplier(self, count: usize) -> f32 {
        mean_multiplier(count.max(1), self.from.params, self.to.quant.params)
    }
}

#[cfg(test)]
mod tests;
