//! Between f32 and 8-bit integers, alone or together with the change of layout at the borders of a graph.
//!
//! `q = clamp(rne(x / s) + z, lo, hi)` and `x' = (q - z)·s`: `octofold_quant::affine`, with its division (not a product with
//! the reciprocal), its saturation of infinities, and NaN to the lower bound. The steps are clamped before they
//! are rounded, which gives the same integer because the bounds are integers.

mod range;

use std::ops::Range;

use super::dispatch::isa_versions;
use super::layout::{Transpose, check_pixels, check_planes, for_each_image, transpose};
use super::{ImageShape, Quant8, ROUNDER, Reader, Target8, Writer};
use crate::error::check_len;
use crate::{Isa, KernelError};

pub use range::range;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

/// Pixels that a fused kernel quantizes before it transposes them: with [`CHANNELS`] they stay in the first cache.
const PIXELS: usize = 256;
/// Channels of the same.
const CHANNELS: usize = 64;

/// `output[i] = quantize(input[i])`. Both slices have the same length.
///
/// # Errors
/// For lengths that differ, refused parameters, and a missing instruction set.
pub fn quantize(
    isa: Isa,
    input: &[f32],
    to: Target8,
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_len("the output", input.len(), output.len())?;
    to.check()?;
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Vnni && isa.is_supported() {
        // SAFETY: the processor has AVX-512, and the lengths are the same.
        unsafe { avx512::bytes(input, to, output) };
        return Ok(());
    }
    quantize_slice(isa, input, to.quant.params.scale, to.writer(), output)
}

isa_versions!(
    fn quantize_slice(input: &[f32], scale: f32, to: Writer, output: &mut [u8]) = quantize_loop
);

/// Upper bound of the difference between a product with the reciprocal and a quotient, of what is not clamped: up to 255 steps, times three roundings of
/// 2^-24 of it.
const APART: f32 = 1.0 / 8192.0;

/// Values that are quantized by products with the reciprocal, unless one of them could be rounded in another way than its quotient.
const BLOCK: usize = 64;

#[inline(always)]
fn quantize_loop(input: &[f32], scale: f32, to: Writer, output: &mut [u8]) {
    let divide = |input: &[f32], output: &mut [u8]| {
        for (&x, y) in input.iter().zip(output) {
            *y = to.byte(x / scale);
        }
    };
    // Neither the scale nor its reciprocal is near the ends of the type's range.
    if !(1e-30..1e30).contains(&scale) {
        return divide(input, output);
    }
    let reciprocal = scale.recip();
    let (blocks, rest) = input.as_chunks::<BLOCK>();
    let (outputs, rest_output) = output.as_chunks_mut::<BLOCK>();
    for (input, output) in blocks.iter().zip(outputs) {
        // Numbers that are not negative are in the order of their bits.
        let mut farthest = 0_u32;
        for (&x, y) in input.iter().zip(output.iter_mut()) {
            let steps = to.clamped(x * reciprocal);
            let distance = (steps - (steps + ROUNDER - ROUNDER)).abs();
            farthest = farthest.max(distance.to_bits());
            *y = to.rounded(steps);
        }
        if farthest > (0.5 - APART).to_bits() {
            divide(input, output);
        }
    }
    divide(rest, rest_output);
}

/// `output[i] = dequantize(input[i])`. Both slices have the same length.
///
/// # Errors
/// For lengths that differ, refused parameters, and a missing instruction set.
pub fn dequantize(
    isa: Isa,
    input: &[u8],
    from: Quant8,
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the output", input.len(), output.len())?;
    from.check()?;
    dequantize_slice(isa, input, from.reader(), from.params.scale, output)
}

isa_versions!(
    fn dequantize_slice(input: &[u8], from: Reader, scale: f32, output: &mut [f32]) = dequantize_loop
);

#[inline(always)]
fn dequantize_loop(input: &[u8], from: Reader, scale: f32, output: &mut [f32]) {
    for (&x, y) in input.iter().zip(output) {
        *y = from.steps(x) * scale;
    }
}

/// Quantizes and moves `[batch, channels, pixels]` to `[batch, pixels, channels]` at once, for the pixels
/// `pixels` of `batch · shape.pixels`.
///
/// `input` is the whole tensor; `output` is `[pixels.len(), channels]`. Images of one or three channels have
/// loops of their own.
///
/// # Errors
/// For lengths that do not fit, pixels that do not exist, refused parameters, and a missing instruction set.
pub fn quantize_nchw_to_nhwc(
    isa: Isa,
    shape: &ImageShape,
    input: &[f32],
    to: Target8,
    pixels: Range<usize>,
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_pixels(shape, input.len(), &pixels, output.len())?;
    to.check()?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let (scale, writer) = (to.quant.params.scale, to.writer());
    let channels = shape.channels;
    let mut result = Ok(());
    for_each_image(
        shape.pixels,
        channels,
        pixels,
        output,
        |image, pixels, output| {
            let start = image * shape.pixels * channels;
            let plane = |channel: usize, range: &Range<usize>| {
                let start = start + channel * shape.pixels;
                &input[start + range.start..start + range.end]
            };
            if channels == 1 {
                result = quantize_slice(isa, plane(0, &pixels), scale, writer, output);
                return;
            }
            let mut bytes = [0; PIXELS * CHANNELS];
            let parts = output.chunks_mut(PIXELS * channels);
            for (first, output) in pixels.clone().step_by(PIXELS).zip(parts) {
                let part = first..(first + PIXELS).min(pixels.end);
                if let 3 = channels {
                    let planes = [0, 1, 2].map(|channel| plane(channel, &part));
                    #[cfg(target_arch = "x86_64")]
                    if isa == Isa::Avx512Vnni {
                        // SAFETY: the processor has AVX-512; the planes have the pixels of this part, and the output has three bytes for each.
                        unsafe { avx512::rgb(planes, to, output) };
                        continue;
                    }
                    result = quantize_rgb(isa, planes, scale, writer, output);
                    continue;
                }
                for group in (0..channels).step_by(CHANNELS) {
                    let group_end = (group + CHANNELS).min(channels);
                    #[cfg(target_arch = "x86_64")]
                    if isa == Isa::Avx512Vnni {
                        let block = avx512::Block {
                            input: plane(group, &part).as_ptr(),
                            plane: shape.pixels,
                            output: output[group..].as_mut_ptr(),
                            stride: channels,
                            count: part.len(),
                            channels: group_end - group,
                        };
                        // SAFETY: the processor has AVX-512; the planes of these channels are in the input, which has the length that was checked, and
                        // the output has the pixels.
                        unsafe { avx512::to_nhwc(block, to) };
                        continue;
                    }
                    for (channel, bytes) in (group..group_end).zip(bytes.chunks_exact_mut(PIXELS)) {
                        let bytes = &mut bytes[..part.len()];
                        result = quantize_slice(isa, plane(channel, &part), scale, writer, bytes);
                    }
                    let matrix = Transpose {
                        rows: group_end - group,
                        cols: part.len(),
                        in_stride: PIXELS,
                        out_stride: channels,
                    };
                    transpose(isa, &bytes, &mut output[group..], matrix);
                }
            }
        },
    );
    result
}

isa_versions!(
    fn quantize_rgb(planes: [&[f32]; 3], scale: f32, to: Writer, output: &mut [u8]) = rgb_loop
);

#[inline(always)]
fn rgb_loop([red, green, blue]: [&[f32]; 3], scale: f32, to: Writer, output: &mut [u8]) {
    let (pixels, _) = output.as_chunks_mut::<3>();
    for (((&r, &g), &b), pixel) in red.iter().zip(green).zip(blue).zip(pixels) {
        *pixel = [to.byte(r / scale), to.byte(g / scale), to.byte(b / scale)];
    }
}

/// Dequantizes and moves `[batch, pixels, channels]` to `[batch, channels, pixels]` at once, for the planes
/// `planes` of `batch · channels`.
///
/// `input` is the whole tensor; `output` is `[planes.len(), shape.pixels]`.
///
/// # Errors
/// For lengths that do not fit, planes that do not exist, refused parameters, and a missing instruction set.
pub fn dequantize_nhwc_to_nchw(
    isa: Isa,
    shape: &ImageShape,
    input: &[u8],
    from: Quant8,
    planes: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_planes(shape, input.len(), &planes, output.len())?;
    from.check()?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let (scale, reader) = (from.params.scale, from.reader());
    let mut bytes = [0; PIXELS * CHANNELS];
    let mut result = Ok(());
    for_each_image(
        shape.channels,
        shape.pixels,
        planes,
        output,
        |image, planes, output| {
            let image = &input[image * shape.pixels * shape.channels..];
            let groups = output.chunks_mut(CHANNELS * shape.pixels);
            for (first, output) in planes.clone().step_by(CHANNELS).zip(groups) {
                let group = (planes.end - first).min(CHANNELS);
                for start in (0..shape.pixels).step_by(PIXELS) {
                    let len = (shape.pixels - start).min(PIXELS);
                    let from = &image[start * shape.channels + first..];
                    let matrix = Transpose {
                        rows: len,
                        cols: group,
                        in_stride: shape.channels,
                        out_stride: PIXELS,
                    };
                    transpose(isa, from, &mut bytes, matrix);
                    let rows = output
                        .chunks_exact_mut(shape.pixels)
                        .zip(bytes.chunks_exact(PIXELS));
                    for (output, bytes) in rows {
                        let output = &mut output[start..start + len];
                        result = dequantize_slice(isa, &bytes[..len], reader, scale, output);
                    }
                }
            }
        },
    );
    result
}

#[cfg(test)]
mod tests {
    use octofold_quant::affine;

    use super::super::testing::{LENGTHS, Random, params, quants, targets};
    use super::*;

    fn byte(x: f32, to: Target8) -> u8 {
        affine::quantize(x, to.quant.params, to.lo, to.hi) as u8
    }

    fn check(input: &[f32], to: Target8) {
        let expected: Vec<u8> = input.iter().map(|&x| byte(x, to)).collect();
        for isa in Isa::supported() {
            let mut output = vec![0xA5; input.len()];
            quantize(isa, input, to, &mut output).unwrap();
            let wrong = (0..input.len()).find(|&i| output[i] != expected[i]);
            assert_eq!(
                wrong.map(|i| (input[i], output[i], expected[i])),
                None,
                "{isa} {to:?}"
            );
            // The same floats as images.
            for channels in [3, 7] {
                let pixels = input.len() / channels;
                let shape = ImageShape {
                    batch: 1,
                    channels,
                    pixels,
                };
                let len = shape.len().unwrap();
                let mut output = vec![0xA5; len];
                quantize_nchw_to_nhwc(isa, &shape, &input[..len], to, 0..pixels, &mut output)
                    .unwrap();
                for i in 0..len {
                    let byte = output[i % pixels * channels + i / pixels];
                    assert_eq!(byte, expected[i], "{isa} {to:?}: {} of {shape:?}", input[i]);
                }
            }
        }
    }

    #[test]
    fn all_kinds_of_floats_give_the_byte_of_quant() {
        let mut random = Random::new(9);
        // Random bit patterns have every exponent, both signs, NaN and infinities.
        let mut values: Vec<f32> = (0..20_000)
            .map(|_| f32::from_bits(random.next() as u32))
            .collect();
        values.extend([
            0.0,
            -0.0,
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
        ]);
        values.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, 0.273_939_94]);
        for to in targets() {
            let mut values = values.clone();
            for step in -600..=600 {
                // Ties and their neighbours.
                let x = step as f32 * 0.5 * to.quant.params.scale;
                values.extend([x, x.next_up(), x.next_down()]);
            }
            check(&values, to);
        }
        let reciprocal = Quant8::unsigned(params(0.002_148_548_6, 0));
        check(&values, Target8::full(reciprocal));
    }

    #[test]
    fn all_lengths_agree() {
        let mut random = Random::new(10);
        for len in LENGTHS {
            check(&random.floats(len), targets()[1]);
            for from in quants() {
                let input = random.bytes(len);
                let one = |&x| affine::dequantize(from.value(x), from.params).to_bits();
                let expected: Vec<u32> = input.iter().map(one).collect();
                for isa in Isa::supported() {
                    let mut output = vec![777.0; len];
                    dequantize(isa, &input, from, &mut output).unwrap();
                    let bits: Vec<u32> = output.iter().map(|y| y.to_bits()).collect();
                    assert_eq!(bits, expected, "{isa} {from:?}");
                }
            }
        }
    }

    #[test]
    fn fused_layouts_match_index_arithmetic() {
        let mut random = Random::new(11);
        let (to, from) = (targets()[1], quants()[3]);
        for channels in [1, 2, 3, 16, 17, 64, 70] {
            for pixels in [1, 17, 64, 513, 1030] {
                let shape = ImageShape {
                    batch: 2,
                    channels,
                    pixels,
                };
                let input = random.floats(shape.len().unwrap());
                let bytes = random.bytes(input.len());
                let nchw = |n: usize, c: usize, p: usize| (n * channels + c) * pixels + p;
                let nhwc = |n: usize, c: usize, p: usize| (n * pixels + p) * channels + c;
                let (mut quantized, mut dequantized) = (bytes.clone(), input.clone());
                for n in 0..2 {
                    for c in 0..channels {
                        for p in 0..pixels {
                            quantized[nhwc(n, c, p)] = byte(input[nchw(n, c, p)], to);
                            let q = from.value(bytes[nhwc(n, c, p)]);
                            dequantized[nchw(n, c, p)] = affine::dequantize(q, from.params);
                        }
                    }
                }
                for isa in Isa::supported() {
                    for range in [0..2 * pixels, 0..pixels / 2, pixels / 2..2 * pixels] {
                        let mut output = vec![0xA5; range.len() * channels];
                        quantize_nchw_to_nhwc(isa, &shape, &input, to, range.clone(), &mut output)
                            .unwrap();
                        let part = &quantized[range.start * channels..range.end * channels];
                        assert!(output == part, "{isa} {shape:?}");
                    }
                    for range in [0..2 * channels, 0..channels / 2, channels / 2..2 * channels] {
                        let mut output = vec![777.0; range.len() * pixels];
                        dequantize_nhwc_to_nchw(
                            isa,
                            &shape,
                            &bytes,
                            from,
                            range.clone(),
                            &mut output,
                        )
                        .unwrap();
                        let part = &dequantized[range.start * pixels..range.end * pixels];
                        assert!(output == part, "{isa} {shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(quantize(Isa::Scalar, &[0.0; 3], targets()[0], &mut [0; 4]).is_err());
        assert!(dequantize(Isa::Scalar, &[0; 3], quants()[0], &mut [0.0; 4]).is_err());
        let shape = ImageShape {
            batch: 1,
            channels: 3,
            pixels: 4,
        };
        let call = |pixels, len: usize| {
            let mut output = vec![0; len];
            quantize_nchw_to_nhwc(
                Isa::Scalar,
                &shape,
                &[0.0; 12],
                targets()[0],
                pixels,
                &mut output,
            )
        };
        assert_eq!(call(1..3, 6), Ok(()));
        assert!(call(1..3, 7).is_err());
        assert!(call(1..5, 12).is_err());
    }
}
