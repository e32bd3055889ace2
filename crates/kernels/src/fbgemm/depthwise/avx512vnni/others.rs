//! Blocks of stages with float results or a residual: their sums pass through the output stage from memory.

use std::arch::x86_64::*;

use super::super::super::finish::{Finish, FloatFinish};
use super::super::Channels;
use super::interleave::wide;
use super::{Block, Line, WIDTH};
use crate::conv::{Float, OutputSlice, OutputStage};
use crate::shared::layout::x86::transpose_quarters;

/// Computes a block; `finish` is that of a quantized stage. `output` has all channels of all pixels, of which the first is pixel `first` of the stage.
///
/// # Safety
/// The invariants of the block's layer hold, the channels exist, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn block(
    block: &Block<'_>,
    finish: Option<&Finish>,
    lines: &[Line],
    first: usize,
    output: &mut OutputSlice<'_>,
) {
    let layer = block.layer;
    // SAFETY: passed on from the caller; a quantized stage has constants for each channel.
    let (bias, multiplier) = unsafe {
        block.place_weights::<WIDTH>();
        match layer.stage {
            OutputStage::Quantized(stage) => (
                block.constants::<WIDTH>(stage.bias.as_ptr()),
                block.constants::<WIDTH>(stage.multiplier.as_ptr().cast()),
            ),
            OutputStage::Float(_) => ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]),
        }
    };
    let stage = BlockStage {
        block,
        finish,
        multiplier: multiplier.map(|numbers| _mm512_castsi512_ps(numbers)),
        first,
    };
    let weights = block.weights(0);
    let most = block.geometry.wide_pixels(layer.shape.stride_w);
    for line in lines {
        let mut begin = 0;
        while begin < line.run.len {
            let pixels = (line.run.len - begin).min(most);
            // SAFETY: passed on from the caller; these pixels exist.
            unsafe { wide(block, line, begin..begin + pixels) };
            let mut pixel = 0;
            while pixel < pixels {
                let at = line.run.first + begin + pixel;
                // SAFETY: as above; they were interleaved.
                unsafe {
                    if pixel + 4 <= pixels {
                        let sums = block.wide_sums::<4>(pixel, weights, bias);
                        stage.store(at, &sums, output);
                        pixel += 4;
                    } else {
                        let sums = block.wide_sums::<1>(pixel, weights, bias);
                        stage.store(at, &sums, output);
                        pixel += 1;
                    }
                }
            }
            begin += pixels;
        }
    }
}

/// A block with its output stage.
struct BlockStage<'a> {
    block: &'a Block<'a>,
    /// That of a quantized stage.
    finish: Option<&'a Finish>,
    /// The multipliers of a quantized stage.
    multiplier: [__m512; 4],
    /// The row of the stage that the first pixel of the output is.
    first: usize,
}

impl BlockStage<'_> {
    /// Passes the sums of neighbouring pixels, in which a quantized stage's bias is included, through the output stage. The first pixel is `pixel` of the
    /// output.
    ///
    /// # Safety
    /// As [`block`]; the pixels exist.
    #[inline(never)]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store(&self, pixel: usize, sums: &[[__m512i; 4]], output: &mut OutputSlice<'_>) {
        let (layer, channels) = (self.block.layer, self.block.channels);
        let Channels { first, count } = channels;
        let (all, pitch) = (layer.channels, layer.output.pitch);
        let at = |pixel: usize| pixel * pitch + layer.output.offset + first;
        let (stage, finish, output) = match (layer.stage, self.finish, output) {
            (
                OutputStage::Quantized(stage),
                Some(finish),
                OutputSlice::Bytes(data) | OutputSlice::Strided(data, _),
            ) => (stage, finish, data),
            (OutputStage::Float(stage), _, OutputSlice::Floats(output)) => {
                let output = &mut output[at(pixel)..];
                // SAFETY: passed on from the caller.
                return unsafe { store_floats(stage, channels, pitch, sums, output) };
            }
            // The stage was checked against the output.
            _ => return,
        };
        let mask = self.block.mask();
        for (t, sums) in sums.iter().enumerate() {
            let residual = stage.residual.map_or(_mm512_setzero_si512(), |residual| {
                let at = (self.first + pixel + t) * all + first;
                // SAFETY: the residual has all channels of this pixel; masked lanes are not read.
                unsafe { _mm512_maskz_loadu_epi8(mask, residual.data.as_ptr().add(at).cast()) }
            });
            let value = |j: usize| {
                let Some(stage) = &finish.residual else {
                    return finish.steps::<false>(sums[j], self.multiplier[j]);
                };
                let q = j as i32;
                let order =
                    _mm512_setr_epi32(q, q + 4, q + 8, q + 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                let bytes = _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, residual));
                finish.steps_with::<false>(sums[j], self.multiplier[j], stage, bytes)
            };
            let bytes = finish.bytes::<false>([value(0), value(1), value(2), value(3)]);
            let output = &mut output[at(pixel + t)..][..count];
            // SAFETY: the slice has a byte for each lane of the mask; the others are not written.
            unsafe { _mm512_mask_storeu_epi8(output.as_mut_ptr().cast(), mask, bytes) };
        }
    }
}

/// Stores the floats of [`BlockStage::store`]: `output` starts at the first of them, and pixels are `pitch` elements from each other.
///
/// # Safety
/// The stage has constants for the channels, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store_floats(
    stage: &Float<'_>,
    channels: Channels,
    pitch: usize,
    sums: &[[__m512i; 4]],
    output: &mut [f32],
) {
    let of_panel = |panel: usize| (channels.count.saturating_sub(panel * 16)).min(16);
    let panels = [0, 1, 2, 3].map(|panel| {
        let last = channels.first + channels.count - 1;
        let channel = (channels.first + panel * 16).min(last);
        // SAFETY: the stage has constants for each channel.
        unsafe { FloatFinish::new(stage, channel, of_panel(panel)) }
    });
    for (t, &sums) in sums.iter().enumerate() {
        // Quarter `panel` of each vector has four of its channels.
        let sums = transpose_quarters(sums);
        let output = &mut output[t * pitch..][..channels.count];
        for (panel, (finish, sums)) in panels.iter().zip(sums).enumerate() {
            let output = output.as_mut_ptr().wrapping_add(panel * 16);
            // SAFETY: these are the channels.
            unsafe { finish.store(finish.corrected(sums), output) };
        }
    }
}
