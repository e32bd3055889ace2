//! Float convolution, channels-last: patches are gathered into rows and multiplied by the packed weights.
//!
//! `y[p][o] = clamp(Σ_k patch[p][k] · w[k][o] + bias[o] + residual[p][o])`, with `k` over kernel rows, kernel columns and
//! input channels of the group. A chunk of output pixels is gathered, multiplied and finished while it is in
//! the cache; 1x1 kernels of stride 1 read the input in place.
//!
//! The chunk is the unit in which work is split: its size follows from the shape alone ([`chunk_len`]), so
//! that a pixel's bits do not depend on the number of threads.

use std::ops::Range;

use super::gemm::{View, product};
use super::{check_clamp, clamp};
use crate::conv::ConvShape;
use crate::error::{check_len, check_scratch};
use crate::shared::check_range;
use crate::shared::dispatch::isa_versions;
use crate::shared::product as size;
use crate::{Isa, KernelError};

/// The data of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvData<'a> {
    /// All of `[batch, in_h, in_w, in_c]`.
    pub input: &'a [f32],
    /// What [`pack`] gives for the same shape.
    pub weights: &'a [f32],
    /// `[out_c]`.
    pub bias: Option<&'a [f32]>,
    /// Added after the bias; laid out like the output, and of the same chunks.
    pub residual: Option<&'a [f32]>,
    /// The bounds of a fused activation, applied last.
    pub clamp: (f32, f32),
}

/// Rearranges `weights` from `[out_c, in_c / groups, kernel_h, kernel_w]` to
/// `[groups, kernel_h, kernel_w, in_c / groups, out_c / groups]`: for each group, a matrix of K rows.
///
/// # Errors
/// For a shape that is no convolution and weights of another length.
pub fn pack(shape: &ConvShape, weights: &[f32]) -> Result<Vec<f32>, KernelError> {
    let sizes = Sizes::new(shape)?;
    check_len("the weights", sizes.k * shape.out_c, weights.len())?;
    let taps = shape.kernel_h * shape.kernel_w;
    let mut packed = vec![0.0; weights.len()];
    let kernels = weights.chunks_exact(sizes.k).enumerate();
    for (out, kernel) in kernels {
        let (group, column) = (out / sizes.group_out, out % sizes.group_out);
        let matrix = &mut packed[group * sizes.k * sizes.group_out..];
        for (channel, kernel) in kernel.chunks_exact(taps).enumerate() {
            for (tap, &weight) in kernel.iter().enumerate() {
                matrix[(tap * sizes.group_in + channel) * sizes.group_out + column] = weight;
            }
        }
    }
    Ok(packed)
}

/// Output pixels of a chunk; the last chunk may have fewer.
///
/// # Errors
/// For a shape that is no convolution.
pub fn chunk_pixels(shape: &ConvShape) -> Result<usize, KernelError> {
    Ok(Sizes::new(shape)?.chunk)
}

/// The number of chunks: output pixels divided by [`chunk_pixels`], rounded up.
///
/// # Errors
/// For a shape that is no convolution.
pub fn chunks(shape: &ConvShape) -> Result<usize, KernelError> {
    let sizes = Sizes::new(shape)?;
    Ok(sizes.pixels.div_ceil(sizes.chunk))
}

/// Output elements of a chunk: [`chunk_pixels`] · `out_c`. Chunk `i` starts at `i · chunk_len` of the output.
///
/// # Errors
/// For a shape that is no convolution.
pub fn chunk_len(shape: &ConvShape) -> Result<usize, KernelError> {
    Ok(Sizes::new(shape)?.chunk * shape.out_c)
}

/// Floats of scratch memory that [`conv`] needs for each thread; 0 where the input is read in place.
///
/// # Errors
/// For a shape that is no convolution.
pub fn scratch_len(shape: &ConvShape) -> Result<usize, KernelError> {
    Ok(Sizes::new(shape)?.scratch())
}

/// Computes the chunks `chunks` of the output.
///
/// `output` holds exactly these chunks: `[pixels, out_c]` with the pixels from `chunks.start · chunk_pixels` to the
/// end of the last chunk or of the image. `scratch` may hold anything; its length is at least [`scratch_len`].
///
/// # Errors
/// For lengths that do not fit the shape, chunks that do not exist, unordered bounds, and a missing instruction
/// set.
pub fn conv(
    isa: Isa,
    shape: &ConvShape,
    data: &ConvData<'_>,
    chunks: Range<usize>,
    scratch: &mut [f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    let sizes = Sizes::new(shape)?;
    check_range("chunks", &chunks, sizes.pixels.div_ceil(sizes.chunk))?;
    let start = chunks.start * sizes.chunk;
    let end = (chunks.end * sizes.chunk).min(sizes.pixels).max(start);
    check_len("the output", (end - start) * shape.out_c, output.len())?;
    let input_len = size(
        "the input",
        &[shape.batch, shape.in_h, shape.in_w, shape.in_c],
    )?;
    check_len("the input", input_len, data.input.len())?;
    check_len("the weights", sizes.k * shape.out_c, data.weights.len())?;
    if let Some(bias) = data.bias {
        check_len("the bias", shape.out_c, bias.len())?;
    }
    if let Some(residual) = data.residual {
        check_len("the residual", output.len(), residual.len())?;
    }
    check_scratch(sizes.scratch(), scratch.len())?;
    check_clamp(data.clamp)?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let mut residual = data
        .residual
        .map(|residual| residual.chunks(sizes.chunk * shape.out_c));
    let firsts = (start..end).step_by(sizes.chunk);
    for (first, output) in firsts.zip(output.chunks_mut(sizes.chunk * shape.out_c)) {
        let pixels = output.len() / shape.out_c;
        for group in 0..shape.groups {
            let (patches, view) = if sizes.in_place {
                (
                    data.input,
                    View::rows(first * shape.in_c + group * sizes.group_in, shape.in_c),
                )
            } else {
                let patches = &mut scratch[..pixels * sizes.k];
                gather(shape, &sizes, data.input, group, first, patches);
                (&*patches, View::rows(0, sizes.k))
            };
            product(
                (pixels, sizes.k, sizes.group_out),
                (patches, view),
                (
                    data.weights,
                    View::rows(group * sizes.k * sizes.group_out, sizes.group_out),
                ),
                (
                    &mut *output,
                    View::rows(group * sizes.group_out, shape.out_c),
                ),
            )?;
        }
        let residual = residual.as_mut().and_then(Iterator::next);
        finish(isa, data.bias, residual, data.clamp, shape.out_c, output)?;
    }
    Ok(())
}

/// What follows from a shape.
struct Sizes {
    out_h: usize,
    out_w: usize,
    pixels: usize,
    group_in: usize,
    group_out: usize,
    /// Depth of the sums.
    k: usize,
    /// Whether the rows of the product are pixels of the input.
    in_place: bool,
    /// Pixels of a chunk.
    chunk: usize,
}

impl Sizes {
    fn new(shape: &ConvShape) -> Result<Self, KernelError> {
        let pixels = shape.pixels()?;
        let none = KernelError::Shape("the kernel is larger than the padded input");
        let (out_h, out_w) = (
            shape.out_h().ok_or(none.clone())?,
            shape.out_w().ok_or(none)?,
        );
        let group_in = shape.in_c / shape.groups;
        let k = shape.kernel_h * shape.kernel_w * group_in;
        let pads = [
            shape.pad_top,
            shape.pad_left,
            shape.pad_bottom,
            shape.pad_right,
        ];
        let single = shape.kernel_h == 1 && shape.kernel_w == 1;
        let in_place = single && shape.stride_h == 1 && shape.stride_w == 1 && pads == [0; 4];
        // The patches of a chunk take at most half of a second-level cache of 1 MiB, and few enough pixels that
        // small images still have chunks for two or more threads.
        let cached = ((1 << 17) / k).clamp(16, 512);
        let shared = pixels.div_ceil(4).next_multiple_of(16);
        Ok(Self {
            out_h,
            out_w,
            pixels,
            group_in,
            group_out: shape.out_c / shape.groups,
            k,
            in_place,
            chunk: (cached / 16 * 16).min(shared),
        })
    }

    fn scratch(&self) -> usize {
        if self.in_place {
            0
        } else {
            self.chunk.min(self.pixels) * self.k
        }
    }
}

/// Copies the patches of the pixels from `first` on, one row of `k` values each, zeros in the padding.
fn gather(
    shape: &ConvShape,
    sizes: &Sizes,
    input: &[f32],
    group: usize,
    first: usize,
    patches: &mut [f32],
) {
    let (channels, columns) = (sizes.group_in, shape.kernel_w * sizes.group_in);
    // With one group and adjacent columns, a row of a patch is one run of the input.
    let runs = shape.groups == 1 && shape.dilation_w == 1;
    for (pixel, patch) in (first..).zip(patches.chunks_exact_mut(sizes.k)) {
        let (row, x) = (pixel / sizes.out_w, pixel % sizes.out_w);
        let (image, y) = (row / sizes.out_h, row % sizes.out_h);
        // Positions in the padded input, which the check of the shape found to fit 32 bits.
        let (top, left) = (y * shape.stride_h, x * shape.stride_w);
        let inside = left >= shape.pad_left && left + shape.kernel_w <= shape.pad_left + shape.in_w;
        for (tap, line) in patch.chunks_exact_mut(columns).enumerate() {
            let y = (top + tap * shape.dilation_h).wrapping_sub(shape.pad_top);
            if y >= shape.in_h {
                line.fill(0.0);
                continue;
            }
            let base = (image * shape.in_h + y) * shape.in_w;
            if runs && inside {
                let start = (base + left - shape.pad_left) * channels;
                line.copy_from_slice(&input[start..start + columns]);
                continue;
            }
            for (tap, values) in line.chunks_exact_mut(channels).enumerate() {
                let x = (left + tap * shape.dilation_w).wrapping_sub(shape.pad_left);
                if x >= shape.in_w {
                    values.fill(0.0);
                } else {
                    let start = (base + x) * shape.in_c + group * channels;
                    values.copy_from_slice(&input[start..start + channels]);
                }
            }
        }
    }
}

/// Adds bias and residual to rows of `columns` values and clamps them.
pub(super) fn finish(
    isa: Isa,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    clamp: (f32, f32),
    columns: usize,
    output: &mut [f32],
) -> Result<(), KernelError> {
    if bias.is_none() && residual.is_none() && clamp == super::NO_CLAMP {
        return Ok(());
    }
    finish_rows(isa, bias, residual, clamp, columns, output)
}

isa_versions!(
    fn finish_rows(
        bias: Option<&[f32]>,
        residual: Option<&[f32]>,
        bounds: (f32, f32),
        columns: usize,
        output: &mut [f32],
    ) = finish_loop
);

#[inline(always)]
fn finish_loop(
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    bounds: (f32, f32),
    columns: usize,
    output: &mut [f32],
) {
    let Some(residual) = residual else {
        for row in output.chunks_exact_mut(columns) {
            match bias {
                Some(bias) => {
                    row.iter_mut()
                        .zip(bias)
                        .for_each(|(y, b)| *y = clamp(*y + b, bounds));
                }
                None => row.iter_mut().for_each(|y| *y = clamp(*y, bounds)),
            }
        }
        return;
    };
    for (row, residual) in output
        .chunks_exact_mut(columns)
        .zip(residual.chunks_exact(columns))
    {
        let row = row.iter_mut().zip(residual);
        match bias {
            Some(bias) => {
                row.zip(bias)
                    .for_each(|((y, r), b)| *y = clamp(*y + b + r, bounds));
            }
            None => row.for_each(|(y, r)| *y = clamp(*y + r, bounds)),
        }
    }
}

#[cfg(test)]
mod tests;
