//! Float pooling, channels-last: maximum, average and global average.
//!
//! Maxima ignore the padding, and NaN unless a window has nothing else; a window of padding alone gives -∞. Averages sum in
//! the order of the window and divide once; padding adds nothing and counts only where asked for, and an empty
//! window gives zero. Global averages sum in f64 and round once.

use std::ops::Range;

use crate::shared::dispatch::isa_versions;
use crate::shared::{ImageShape, PoolShape};
use crate::{Isa, KernelError};

/// The largest value of each window and channel, for the output rows `rows` of `batch · out_h`.
///
/// `input` is all of `[batch, in_h, in_w, channels]`; `output` is `[rows.len(), out_w, channels]`.
///
/// # Errors
/// For lengths that do not fit the shape, rows that do not exist, and a missing instruction set.
pub fn max_pool(
    isa: Isa,
    shape: &PoolShape,
    input: &[f32],
    rows: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    shape.check_slices(input.len(), &rows, output.len())?;
    let width = shape.out_w * shape.channels;
    for (row, output) in rows.zip(output.chunks_exact_mut(width)) {
        max_row(isa, shape, input, row, output)?;
    }
    Ok(())
}

/// The mean of each window and channel, for the output rows `rows` of `batch · out_h`.
///
/// With `count_padding` the divisor counts the padding that the shape names (never what is beyond it). Layouts
/// are those of [`max_pool`].
///
/// # Errors
/// As [`max_pool`].
pub fn average_pool(
    isa: Isa,
    shape: &PoolShape,
    count_padding: bool,
    input: &[f32],
    rows: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    shape.check_slices(input.len(), &rows, output.len())?;
    let width = shape.out_w * shape.channels;
    for (row, output) in rows.zip(output.chunks_exact_mut(width)) {
        average_row(isa, shape, count_padding, input, row, output)?;
    }
    Ok(())
}

isa_versions!(fn max_row(shape: &PoolShape, input: &[f32], row: usize, output: &mut [f32]) = max_loop);

#[inline(always)]
fn max_loop(shape: &PoolShape, input: &[f32], row: usize, output: &mut [f32]) {
    output.fill(f32::NEG_INFINITY);
    for_each_value(shape, input, row, output, |best, value| {
        *best = if value > *best { value } else { *best };
    });
}

isa_versions!(
    fn average_row(
        shape: &PoolShape,
        count_padding: bool,
        input: &[f32],
        row: usize,
        output: &mut [f32],
    ) = average_loop
);

#[inline(always)]
fn average_loop(
    shape: &PoolShape,
    count_padding: bool,
    input: &[f32],
    row: usize,
    output: &mut [f32],
) {
    output.fill(0.0);
    for_each_value(shape, input, row, output, |sum, value| *sum += value);
    let lines = shape.lines(row);
    for (x, output) in output.chunks_exact_mut(shape.channels).enumerate() {
        let count = lines.divisor(shape.window_w(x), count_padding) as f32;
        output.iter_mut().for_each(|sum| *sum /= count);
    }
}

/// Folds every value of every window of one output row into its output.
#[inline(always)]
fn for_each_value(
    shape: &PoolShape,
    input: &[f32],
    row: usize,
    output: &mut [f32],
    fold: impl Fn(&mut f32, f32),
) {
    let channels = shape.channels;
    let lines = shape.lines(row);
    for (x, output) in output.chunks_exact_mut(channels).enumerate() {
        let horizontal = shape.window_w(x);
        for line in lines.positions() {
            for x in horizontal.positions() {
                let start = (line * shape.in_w + x) * channels;
                let values = &input[start..start + channels];
                output
                    .iter_mut()
                    .zip(values)
                    .for_each(|(output, &value)| fold(output, value));
            }
        }
    }
}

/// The mean of each image and channel over all pixels of `[batch, pixels, channels]`.
///
/// `outputs` is a range of the `batch · channels` means, and `output` holds this range.
///
/// # Errors
/// For lengths that do not fit, means that do not exist, and a missing instruction set.
pub fn global_average_pool(
    isa: Isa,
    shape: &ImageShape,
    input: &[f32],
    outputs: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    shape.for_each_image(input, outputs, output, |image, channel, output| {
        global_means(isa, shape, image, channel, output)
    })
}

isa_versions!(
    fn global_means(shape: &ImageShape, image: &[f32], channel: usize, output: &mut [f32]) =
        global_loop
);

#[inline(always)]
fn global_loop(shape: &ImageShape, image: &[f32], channel: usize, output: &mut [f32]) {
    const BLOCK: usize = 64;
    let starts = (channel..).step_by(BLOCK);
    for (channel, output) in starts.zip(output.chunks_mut(BLOCK)) {
        let mut sums = [0.0_f64; BLOCK];
        for pixel in 0..shape.pixels {
            let values = &image[pixel * shape.channels + channel..][..output.len()];
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let count = shape.pixels.max(1) as f64;
        output
            .iter_mut()
            .zip(sums)
            .for_each(|(output, sum)| *output = (sum / count) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::Depth;
    use crate::shared::testing::Random;

    const SHAPE: PoolShape = PoolShape {
        batch: 2,
        in_h: 7,
        in_w: 6,
        channels: 5,
        out_h: 4,
        out_w: 3,
        kernel_h: 3,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 0,
        pad_bottom: 0,
        pad_right: 1,
        depth: Depth::ONE,
        out_d: 1,
    };

    #[test]
    fn windows_match_loops_over_all_taps() {
        let mut random = Random::new(61);
        for channels in [1, 5, 64, 67] {
            for dilation in [1, 2] {
                let shape = PoolShape {
                    channels,
                    dilation_h: dilation,
                    ..SHAPE
                };
                let input = random.floats(2 * 7 * 6 * channels);
                for isa in Isa::supported() {
                    let mut max = vec![777.0; 2 * 4 * 3 * channels];
                    let (mut mean, mut padded_mean) = (max.clone(), max.clone());
                    max_pool(isa, &shape, &input, 0..8, &mut max).unwrap();
                    average_pool(isa, &shape, false, &input, 0..8, &mut mean).unwrap();
                    average_pool(isa, &shape, true, &input, 0..8, &mut padded_mean).unwrap();
                    for i in 0..max.len() {
                        let (n, y, x, c) = (
                            i / channels / 3 / 4,
                            i / channels / 3 % 4,
                            i / channels % 3,
                            i % channels,
                        );
                        let (mut values, mut padded) = (Vec::new(), 0);
                        for ky in 0..3 {
                            for kx in 0..2 {
                                // One row of padding above, one column at the right.
                                let (y, x) = (y * 2 + ky * dilation, x * 2 + kx);
                                padded += usize::from(y < 8 && x < 7);
                                if (1..8).contains(&y) && x < 6 {
                                    values.push(input[((n * 7 + y - 1) * 6 + x) * channels + c]);
                                }
                            }
                        }
                        let best = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                        assert_eq!(max[i], best, "{isa} {i}");
                        let sum: f32 = values.iter().sum();
                        assert!(
                            (mean[i] - sum / values.len() as f32).abs() < 1e-6,
                            "{isa} {i}"
                        );
                        assert!(
                            (padded_mean[i] - sum / padded as f32).abs() < 1e-6,
                            "{isa} {i}"
                        );
                    }
                    let mut part = vec![777.0; 3 * 3 * channels];
                    average_pool(isa, &shape, true, &input, 4..7, &mut part).unwrap();
                    assert_eq!(part, padded_mean[12 * channels..21 * channels], "{isa}");
                }
            }
        }
    }

    #[test]
    fn global_means_match_sums_in_f64() {
        let mut random = Random::new(62);
        for (pixels, channels) in [(1, 3), (49, 64), (100, 65), (13, 130)] {
            let shape = ImageShape {
                batch: 2,
                channels,
                pixels,
            };
            let input = random.floats(2 * pixels * channels);
            let expected: Vec<f32> = (0..2 * channels)
                .map(|i| {
                    let (n, c) = (i / channels, i % channels);
                    let value = |p| f64::from(input[(n * pixels + p) * channels + c]);
                    ((0..pixels).map(value).sum::<f64>() / pixels as f64) as f32
                })
                .collect();
            for isa in Isa::supported() {
                for range in [0..2 * channels, 1..channels + 2] {
                    let mut output = vec![777.0; range.len()];
                    global_average_pool(isa, &shape, &input, range.clone(), &mut output).unwrap();
                    assert_eq!(output, expected[range], "{isa}");
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let call = |shape: PoolShape, rows, input: usize, output: usize| {
            max_pool(
                Isa::Scalar,
                &shape,
                &vec![0.0; input],
                rows,
                &mut vec![0.0; output],
            )
        };
        assert_eq!(call(SHAPE, 0..8, 420, 120), Ok(()));
        assert!(call(SHAPE, 0..8, 419, 120).is_err());
        assert!(call(SHAPE, 0..9, 420, 120).is_err());
        assert!(call(SHAPE, 0..8, 420, 119).is_err());
        assert!(
            call(
                PoolShape {
                    kernel_h: 0,
                    ..SHAPE
                },
                0..8,
                420,
                120
            )
            .is_err()
        );
    }
}
