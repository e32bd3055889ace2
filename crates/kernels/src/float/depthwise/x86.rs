//! Depthwise rows with AVX2 and AVX-512: the sums of up to four vectors of channels stay in registers over all taps.
//!
//! A tap costs two loads, a product and a sum a vector. The tail of the channels uses masked loads and stores.

use std::arch::x86_64::*;

use super::DepthwiseData;
use crate::shared::PoolShape;

/// The taps of one output pixel that lie inside of the image.
#[derive(Clone, Copy)]
struct Patch {
    /// First channel of the first tap.
    values: *const f32,
    /// From a row of taps to the next.
    values_row: usize,
    /// From a tap to the next.
    values_column: usize,
    /// First channel of the weights of the first tap.
    weights: *const f32,
    weights_row: usize,
    /// Channels, and from a tap's weights to the next.
    channels: usize,
    rows: usize,
    columns: usize,
    bias: Option<*const f32>,
    output: *mut f32,
    clamp: (f32, f32),
}

/// Calls `kernel` with the patch of each pixel of a row.
///
/// The lengths of input, weights, bias and output are those that `shape` asks for.
#[inline(always)]
fn for_each_patch(
    shape: &PoolShape,
    data: &DepthwiseData<'_>,
    row: usize,
    output: &mut [f32],
    kernel: impl Fn(Patch),
) {
    let channels = shape.channels;
    let base = row / shape.out_h * shape.in_h;
    let vertical = shape.window_h(row % shape.out_h);
    for (x, output) in output.chunks_exact_mut(channels).enumerate() {
        let horizontal = shape.window_w(x);
        let (rows, columns) = (vertical.len, horizontal.len);
        let values_row = vertical.step * shape.in_w * channels;
        let values_column = horizontal.step * channels;
        let weights_row = shape.kernel_w * channels;
        let (mut values, mut weights) = (&[][..], &[][..]);
        if rows > 0 && columns > 0 {
            // The slices end with the last channel of the last tap.
            let start = ((base + vertical.start) * shape.in_w + horizontal.start) * channels;
            let len = (rows - 1) * values_row + (columns - 1) * values_column + channels;
            values = &data.input[start..start + len];
            let start = vertical.first * weights_row + horizontal.first * channels;
            let len = (rows - 1) * weights_row + columns * channels;
            weights = &data.weights[start..start + len];
        }
        kernel(Patch {
            values: values.as_ptr(),
            values_row,
            values_column,
            weights: weights.as_ptr(),
            weights_row,
            channels,
            rows: if columns > 0 { rows } else { 0 },
            columns,
            bias: data.bias.map(|bias| bias[..channels].as_ptr()),
            output: output.as_mut_ptr(),
            clamp: data.clamp,
        });
    }
}

macro_rules! rows {
    (
        $row:ident, $block:ident, $features:literal, $lanes:literal, $mask:ty, $mask_of:expr,
        $zero:ident, $set:ident, $load:expr, $store:expr, $mul:ident, $add:ident, $max:ident, $min:ident
    ) => {
        /// One row of outputs.
        #[target_feature(enable = $features)]
        pub(super) fn $row(
            shape: &PoolShape,
            data: &DepthwiseData<'_>,
            row: usize,
            output: &mut [f32],
        ) {
            for_each_patch(shape, data, row, output, |patch| {
                let mut channel = 0;
                // SAFETY: each block lies within the channels, the last by its mask.
                unsafe {
                    while channel + 4 * $lanes <= patch.channels {
                        $block::<4>(patch, channel, $lanes);
                        channel += 4 * $lanes;
                    }
                    while channel < patch.channels {
                        $block::<1>(patch, channel, (patch.channels - channel).min($lanes));
                        channel += $lanes;
                    }
                }
            });
        }

        /// `N` vectors of channels, of which the last (and only, unless it is full) has `lanes`.
        ///
        /// # Safety
        /// The channels lie within the patch, whose pointers are valid for all taps, rows and channels.
        #[target_feature(enable = $features)]
        unsafe fn $block<const N: usize>(patch: Patch, channel: usize, lanes: usize) {
            let mask: $mask = $mask_of(lanes);
            let mut sums = [$zero(); N];
            for row in 0..patch.rows {
                for column in 0..patch.columns {
                    // SAFETY: the tap and the channels lie within the patch.
                    unsafe {
                        let values = row * patch.values_row + column * patch.values_column;
                        let weights = row * patch.weights_row + column * patch.channels;
                        let values = patch.values.add(values + channel);
                        let weights = patch.weights.add(weights + channel);
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let value = $load(values.add(i * $lanes), mask);
                            let weight = $load(weights.add(i * $lanes), mask);
                            *sum = $add(*sum, $mul(value, weight));
                        }
                    }
                }
            }
            let (lo, hi) = ($set(patch.clamp.0), $set(patch.clamp.1));
            for (i, sum) in sums.into_iter().enumerate() {
                let channel = channel + i * $lanes;
                // SAFETY: bias and output have all channels of the patch.
                unsafe {
                    let sum = match patch.bias {
                        Some(bias) => $add(sum, $load(bias.add(channel), mask)),
                        None => sum,
                    };
                    // The second operand is the result when one of them is NaN.
                    $store(patch.output.add(channel), mask, $min(hi, $max(lo, sum)));
                }
            }
        }
    };
}

rows!(
    row_avx512,
    block_avx512,
    "avx512f",
    16,
    __mmask16,
    |lanes| ((1_u32 << lanes) - 1) as u16,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    |from, mask| _mm512_maskz_loadu_ps(mask, from),
    |to, mask, value| _mm512_mask_storeu_ps(to, mask, value),
    _mm512_mul_ps,
    _mm512_add_ps,
    _mm512_max_ps,
    _mm512_min_ps
);

rows!(
    row_avx2,
    block_avx2,
    "avx2",
    8,
    __m256i,
    mask_avx2,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    |from, mask| _mm256_maskload_ps(from, mask),
    |to, mask, value| _mm256_maskstore_ps(to, mask, value),
    _mm256_mul_ps,
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
