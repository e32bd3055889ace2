//! Depthwise rows with AVX2 and AVX-512: up to four neighbouring pixels by two vectors of channels stay in registers over all taps, so that
//! a weight is loaded once for all of them.
//!
//! A tap then costs a load of a value and a fused product and sum a vector. The tail of the channels uses masked loads and stores.

use std::arch::x86_64::*;

use super::DepthwiseData;
use crate::Bounds;
use crate::shared::PoolShape;

/// Neighbouring output pixels that are computed together.
const PIXELS: usize = 4;

/// The taps of one or [`PIXELS`] output pixels that are inside of the image, the same ones for each of them.
#[derive(Clone, Copy)]
struct Patch {
    /// First channel of the first tap of the first pixel.
    values: *const f32,
    /// From a row of taps to the next.
    values_row: usize,
    /// From a tap to the next.
    values_column: usize,
    /// From the first tap of a pixel to that of the next.
    values_pixel: usize,
    /// First channel of the weights of the first tap.
    weights: *const f32,
    weights_row: usize,
    /// Channels, and from a tap's weights to the next, and from a pixel of the output to the next.
    channels: usize,
    rows: usize,
    columns: usize,
    bias: Option<*const f32>,
    output: *mut f32,
    clamp: Bounds,
}

/// Calls `kernel` with the patches of all pixels of a row, and with how many pixels a patch has: one or [`PIXELS`].
///
/// The lengths of input, weights, bias and output are those that `shape` asks for.
#[inline(always)]
fn for_each_patch(
    shape: &PoolShape,
    data: &DepthwiseData<'_>,
    row: usize,
    output: &mut [f32],
    kernel: impl Fn(Patch, usize),
) {
    let channels = shape.channels;
    let base = row / shape.out_h * shape.in_h;
    let vertical = shape.lines(row).vertical;
    // Pixels whose windows are inside of the row.
    let reach = (shape.kernel_w - 1) * shape.dilation_w + 1;
    let inner_end = (shape.in_w + shape.pad_left)
        .checked_sub(reach)
        .map_or(0, |last| last / shape.stride_w + 1)
        .min(shape.out_w);
    let inner_start = shape.pad_left.div_ceil(shape.stride_w);
    let mut x = 0;
    while x < shape.out_w {
        let inner = x >= inner_start && x < inner_end && inner_end - inner_start >= PIXELS;
        let pixels = if inner { PIXELS } else { 1 };
        if inner {
            // The last ones are moved back over some that are done, which get the same values again.
            x = x.min(inner_end - PIXELS);
        }
        let horizontal = shape.window_w(x);
        let (rows, columns) = (vertical.len, horizontal.len);
        let values_row = vertical.step * shape.in_w * channels;
        let values_column = horizontal.step * channels;
        let values_pixel = shape.stride_w * channels;
        let weights_row = shape.kernel_w * channels;
        let (mut values, mut weights) = (&[][..], &[][..]);
        if rows > 0 && columns > 0 {
            // The slices end with the last channel of the last tap of the last pixel.
            let start = ((base + vertical.start) * shape.in_w + horizontal.start) * channels;
            let last = (rows - 1) * values_row + (columns - 1) * values_column;
            let len = last + (pixels - 1) * values_pixel + channels;
            values = &data.input[start..start + len];
            let start = vertical.first * weights_row + horizontal.first * channels;
            let len = (rows - 1) * weights_row + columns * channels;
            weights = &data.weights[start..start + len];
        }
        let patch = Patch {
            values: values.as_ptr(),
            values_row,
            values_column,
            values_pixel,
            weights: weights.as_ptr(),
            weights_row,
            channels,
            rows: if columns > 0 { rows } else { 0 },
            columns,
            bias: data.bias.map(|bias| bias[..channels].as_ptr()),
            output: output[x * channels..(x + pixels) * channels].as_mut_ptr(),
            clamp: data.clamp,
        };
        kernel(patch, pixels);
        x += pixels;
    }
}

macro_rules! rows {
    (
        $row:ident, $all:ident, $block:ident, $features:literal, $lanes:literal, $mask:ty, $mask_of:expr,
        $zero:ident, $set:ident, $load:expr, $store:expr, $whole_load:ident, $whole_store:ident, $fma:ident, $add:ident, $max:ident,
        $min:ident
    ) => {
        /// One row of outputs.
        #[target_feature(enable = $features)]
        pub(super) fn $row(
            shape: &PoolShape,
            data: &DepthwiseData<'_>,
            row: usize,
            output: &mut [f32],
        ) {
            for_each_patch(shape, data, row, output, |patch, pixels| {
                // SAFETY: the patch has as many pixels.
                unsafe {
                    if pixels == PIXELS {
                        $all::<PIXELS>(patch);
                    } else {
                        $all::<1>(patch);
                    }
                }
            });
        }

        /// All channels of `P` pixels.
        ///
        /// # Safety
        /// The patch has `P` pixels; its pointers are valid for all taps, rows, pixels and channels.
        #[target_feature(enable = $features)]
        unsafe fn $all<const P: usize>(patch: Patch) {
            let mut channel = 0;
            // SAFETY: each block is within the channels, the last by its mask.
            unsafe {
                while channel + 2 * $lanes <= patch.channels {
                    $block::<P, 2, true>(patch, channel, $lanes);
                    channel += 2 * $lanes;
                }
                if channel + $lanes <= patch.channels {
                    $block::<P, 1, true>(patch, channel, $lanes);
                    channel += $lanes;
                }
                if channel < patch.channels {
                    $block::<P, 1, false>(patch, channel, patch.channels - channel);
                }
            }
        }

        /// `P` pixels by `N` vectors of channels, of which the last (and only, unless it is `WHOLE`) has `lanes`.
        ///
        /// # Safety
        /// As above; the channels are within the patch.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $block<const P: usize, const N: usize, const WHOLE: bool>(
            patch: Patch,
            channel: usize,
            lanes: usize,
        ) {
            let mask: $mask = $mask_of(lanes);
            let load = |from: *const f32| {
                // SAFETY: the vector has channels of the patch only, or those of its mask.
                unsafe {
                    if WHOLE {
                        $whole_load(from)
                    } else {
                        $load(from, mask)
                    }
                }
            };
            let mut sums = [[$zero(); N]; P];
            for row in 0..patch.rows {
                for column in 0..patch.columns {
                    let values = row * patch.values_row + column * patch.values_column;
                    let weights = row * patch.weights_row + column * patch.channels;
                    // SAFETY: the taps of all pixels and the channels are within the patch.
                    unsafe {
                        let values = patch.values.add(values + channel);
                        let weights = patch.weights.add(weights + channel);
                        for n in 0..N {
                            let weight = load(weights.add(n * $lanes));
                            for (p, sums) in sums.iter_mut().enumerate() {
                                let value = load(values.add(p * patch.values_pixel + n * $lanes));
                                sums[n] = $fma(value, weight, sums[n]);
                            }
                        }
                    }
                }
            }
            let (lo, hi) = ($set(patch.clamp.lo), $set(patch.clamp.hi));
            for n in 0..N {
                let channel = channel + n * $lanes;
                for (p, sums) in sums.iter().enumerate() {
                    // SAFETY: bias and output have all channels of the patch, the output for each pixel.
                    unsafe {
                        let sum = match patch.bias {
                            Some(bias) => $add(sums[n], load(bias.add(channel))),
                            None => sums[n],
                        };
                        // The second operand is the result when one of them is NaN.
                        let sum = $min(hi, $max(lo, sum));
                        let output = patch.output.add(p * patch.channels + channel);
                        if WHOLE {
                            $whole_store(output, sum);
                        } else {
                            $store(output, mask, sum);
                        }
                    }
                }
            }
        }
    };
}

rows!(
    row_avx512,
    patch_avx512,
    block_avx512,
    "avx512f",
    16,
    __mmask16,
    |lanes| ((1_u32 << lanes) - 1) as u16,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    |from, mask| _mm512_maskz_loadu_ps(mask, from),
    |to, mask, value| _mm512_mask_storeu_ps(to, mask, value),
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_max_ps,
    _mm512_min_ps
);

rows!(
    row_avx2,
    patch_avx2,
    block_avx2,
    "avx2,fma",
    8,
    __m256i,
    mask_avx2,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    |from, mask| _mm256_maskload_ps(from, mask),
    |to, mask, value| _mm256_maskstore_ps(to, mask, value),
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_max_ps,
    _mm256_min_ps
);

/// The mask of the first `lanes` lanes.
#[target_feature(enable = "avx2")]
fn mask_avx2(lanes: usize) -> __m256i {
    let order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), order)
}
