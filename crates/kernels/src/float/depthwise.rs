//! Float depthwise convolution, channels-last: one kernel a channel, computed directly.
//!
//! `y[p][c] = clamp(Σ_tap x[p·stride + tap][c] · w[tap][c] + bias[c])`, vectorized over channels. The taps inside of the image are
//! summed in the order of the kernel, each product and sum rounded once, so that all instruction sets and splits give the same bits,
//! and those of the general convolution. More than one output channel a group is [`conv`](super::conv::conv)'s.

use std::ops::Range;

use crate::conv::{ConvShape, Depth};
use crate::error::check_len;
use crate::shared::{PoolShape, product};
use crate::{Bounds, Isa, KernelError};

#[cfg(target_arch = "x86_64")]
mod x86;

/// The data of a depthwise convolution.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseData<'a> {
    /// All of `[batch, in_h, in_w, channels]`.
    pub input: &'a [f32],
    /// What [`pack`] gives: `[kernel_h, kernel_w, channels]`.
    pub weights: &'a [f32],
    /// `[channels]`.
    pub bias: Option<&'a [f32]>,
    /// The bounds of a fused activation, applied last.
    pub clamp: Bounds,
}

/// Rearranges `weights` from `[channels, 1, kernel_h, kernel_w]` to `[kernel_h, kernel_w, channels]`.
///
/// # Errors
/// For a shape that is no depthwise convolution and weights of another length.
pub fn pack(shape: &ConvShape, weights: &[f32]) -> Result<Vec<f32>, KernelError> {
    windows(shape)?;
    let taps = product("the weights", &[shape.kernel_h, shape.kernel_w])?;
    check_len(
        "the weights",
        product("the weights", &[taps, shape.in_c])?,
        weights.len(),
    )?;
    let mut packed = vec![0.0; weights.len()];
    for (channel, kernel) in weights.chunks_exact(taps).enumerate() {
        for (tap, &weight) in kernel.iter().enumerate() {
            packed[tap * shape.in_c + channel] = weight;
        }
    }
    Ok(packed)
}

/// Rows of output pixels, `batch · out_h`: the unit in which the work is split.
///
/// # Errors
/// For a shape that is no depthwise convolution.
pub fn rows(shape: &ConvShape) -> Result<usize, KernelError> {
    windows(shape)?.rows()
}

/// Computes the output rows `rows` of `batch · out_h`; `output` is `[rows.len(), out_w, channels]`.
///
/// # Errors
/// For lengths that do not fit the shape, rows that do not exist, unordered bounds, and a missing instruction set.
pub fn depthwise(
    isa: Isa,
    shape: &ConvShape,
    data: &DepthwiseData<'_>,
    rows: Range<usize>,
    output: &mut [f32],
) -> Result<(), KernelError> {
    let windows = windows(shape)?;
    windows.check_slices(data.input.len(), &rows, output.len())?;
    let weights = product("the weights", &[shape.kernel_h, shape.kernel_w, shape.in_c])?;
    check_len("the weights", weights, data.weights.len())?;
    if let Some(bias) = data.bias {
        check_len("the bias", shape.in_c, bias.len())?;
    }
    data.clamp.check()?;
    if !isa.is_supported() {
        return Err(KernelError::Unsupported(isa));
    }
    let width = windows.out_w * shape.in_c;
    for (row, output) in rows.zip(output.chunks_exact_mut(width)) {
        match isa {
            // SAFETY: `is_supported` found AVX2 and FMA, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::row_avx2(&windows, data, row, output) },
            // SAFETY: `is_supported` found AVX-512 F, and the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { x86::row_avx512(&windows, data, row, output) },
            _ => row_scalar(&windows, data, row, output),
        }
    }
    Ok(())
}

/// The windows of a depthwise convolution are those of a pooling.
fn windows(shape: &ConvShape) -> Result<PoolShape, KernelError> {
    shape.pixels()?;
    let channels = (shape.in_c, shape.out_c) == (shape.groups, shape.groups);
    if !channels || shape.depth != Depth::ONE {
        return Err(KernelError::Shape("the convolution is not depthwise"));
    }
    let none = KernelError::Shape("the kernel is larger than the padded input");
    let windows = PoolShape {
        batch: shape.batch,
        in_h: shape.in_h,
        in_w: shape.in_w,
        channels: shape.in_c,
        out_h: shape.out_h().ok_or(none.clone())?,
        out_w: shape.out_w().ok_or(none)?,
        kernel_h: shape.kernel_h,
        kernel_w: shape.kernel_w,
        stride_h: shape.stride_h,
        stride_w: shape.stride_w,
        dilation_h: shape.dilation_h,
        dilation_w: shape.dilation_w,
        pad_top: shape.pad_top,
        pad_left: shape.pad_left,
        pad_bottom: shape.pad_bottom,
        pad_right: shape.pad_right,
        depth: Depth::ONE,
        out_d: 1,
    };
    windows.check()?;
    Ok(windows)
}

/// One row of outputs, which stay in the first cache while the taps are added to them, a kernel row at a time.
fn row_scalar(shape: &PoolShape, data: &DepthwiseData<'_>, row: usize, output: &mut [f32]) {
    let channels = shape.channels;
    let base = row / shape.out_h * shape.in_h;
    let vertical = shape.lines(row).vertical;
    for (x, output) in output.chunks_exact_mut(channels).enumerate() {
        let horizontal = shape.window_w(x);
        output.fill(0.0);
        for (ky, y) in vertical.positions().enumerate() {
            let kernel = (vertical.first + ky) * shape.kernel_w + horizontal.first;
            let line = (base + y) * shape.in_w + horizontal.start;
            let tap = |kx: usize| {
                let start = (line + kx * horizontal.step) * channels;
                let values = &data.input[start..start + channels];
                (
                    values,
                    &data.weights[(kernel + kx) * channels..][..channels],
                )
            };
            match horizontal.len {
                3 => add_three([tap(0), tap(1), tap(2)], output),
                5 => {
                    add_three([tap(0), tap(1), tap(2)], output);
                    add_one(tap(3), output);
                    add_one(tap(4), output);
                }
                len => (0..len).for_each(|kx| add_one(tap(kx), output)),
            }
        }
        match data.bias {
            Some(bias) => {
                let sums = output.iter_mut().zip(bias);
                sums.for_each(|(sum, bias)| *sum = data.clamp.clamp(*sum + bias));
            }
            None => output
                .iter_mut()
                .for_each(|sum| *sum = data.clamp.clamp(*sum)),
        }
    }
}

/// Adds the products of one tap to the sums.
fn add_one((values, weights): (&[f32], &[f32]), sums: &mut [f32]) {
    for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
        *sum = value.mul_add(*weight, *sum);
    }
}

/// Adds the products of three taps to the sums, in their order.
fn add_three([a, b, c]: [(&[f32], &[f32]); 3], sums: &mut [f32]) {
    let first = a.0.iter().zip(a.1);
    let second = b.0.iter().zip(b.1);
    let third = c.0.iter().zip(c.1);
    for (((sum, a), b), c) in sums.iter_mut().zip(first).zip(second).zip(third) {
        *sum =
            c.0.mul_add(*c.1, b.0.mul_add(*b.1, a.0.mul_add(*a.1, *sum)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::conv;
    use crate::shared::testing::Random;

    /// The general convolution, which is tested against sums in f64, is the reference.
    fn check(shape: ConvShape, clamp: Bounds) {
        let mut random = Random::new(51);
        let input = random.floats(shape.batch * shape.in_h * shape.in_w * shape.in_c);
        let weights = random.floats(shape.in_c * shape.kernel_h * shape.kernel_w);
        let bias = random.floats(shape.in_c);
        let general = conv::ConvData {
            input: &input,
            weights: &conv::pack(&shape, &weights).unwrap(),
            bias: Some(&bias),
            residual: None,
            clamp,
        };
        let mut expected = vec![777.0; shape.pixels().unwrap() * shape.in_c];
        let mut scratch = vec![0.0; conv::scratch_len(&shape).unwrap()];
        let pixels = 0..shape.pixels().unwrap();
        conv::conv(
            Isa::Scalar,
            &shape,
            &general,
            pixels,
            &mut scratch,
            &mut expected,
        )
        .unwrap();
        let data = DepthwiseData {
            input: &input,
            weights: &pack(&shape, &weights).unwrap(),
            bias: Some(&bias),
            clamp,
        };
        let count = rows(&shape).unwrap();
        let mut bits: Option<Vec<u32>> = None;
        for isa in Isa::supported() {
            let mut output = vec![777.0; expected.len()];
            depthwise(isa, &shape, &data, 0..count, &mut output).unwrap();
            for (i, (got, expected)) in output.iter().zip(&expected).enumerate() {
                // Zeros of the padding change nothing but the sign of a zero.
                assert!(got == expected, "{isa} {i} {got} {expected} {shape:?}");
            }
            let now: Vec<u32> = output.iter().map(|y| y.to_bits()).collect();
            assert_eq!(*bits.get_or_insert_with(|| now.clone()), now, "{isa}");
            let half = count / 2;
            let width = output.len() / count;
            let mut part = vec![777.0; (count - half) * width];
            depthwise(isa, &shape, &data, half..count, &mut part).unwrap();
            assert_eq!(part, output[half * width..], "{isa} {shape:?}");
        }
    }

    #[test]
    fn the_general_convolution_gives_the_same() {
        for channels in [1, 3, 31, 32, 33, 100] {
            let of = |height, width, kernel, stride, pad| ConvShape {
                groups: channels,
                ..ConvShape::pointwise(height, width, channels, channels)
                    .with_kernel(kernel, stride, pad)
            };
            check(of(9, 7, 3, 1, 1), Bounds::NONE);
            check(of(10, 11, 3, 2, 1), Bounds::new(0.0, 6.0));
            check(of(11, 8, 5, 1, 2), Bounds::NONE);
            check(
                ConvShape {
                    batch: 2,
                    pad_top: 0,
                    pad_right: 3,
                    ..of(6, 6, 5, 2, 2)
                },
                Bounds::NONE,
            );
            check(
                ConvShape {
                    dilation_h: 2,
                    dilation_w: 3,
                    ..of(9, 9, 3, 1, 2)
                },
                Bounds::NONE,
            );
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let shape = ConvShape {
            groups: 4,
            ..ConvShape::pointwise(5, 5, 4, 4).with_kernel(3, 1, 1)
        };
        assert!(pack(&shape, &[0.0; 36]).is_ok());
        assert!(pack(&shape, &[0.0; 35]).is_err());
        assert!(pack(&ConvShape { out_c: 8, ..shape }, &[0.0; 72]).is_err());
        let (input, weights) = ([0.0; 100], [0.0; 36]);
        let data = DepthwiseData {
            input: &input,
            weights: &weights,
            bias: None,
            clamp: Bounds::NONE,
        };
        let call = |data: DepthwiseData<'_>, rows, output: usize| {
            depthwise(Isa::Scalar, &shape, &data, rows, &mut vec![0.0; output])
        };
        let refused = |data| call(data, 0..5, 100).is_err();
        assert_eq!(call(data, 0..5, 100), Ok(()));
        assert!(call(data, 0..6, 100).is_err());
        assert!(call(data, 0..5, 99).is_err());
        let part = &weights[1..];
        assert!(refused(DepthwiseData {
            weights: part,
            ..data
        }));
        assert!(refused(DepthwiseData {
            input: &input[1..],
            ..data
        }));
        let bias = Some(&weights[..]);
        assert!(refused(DepthwiseData { bias, ..data }));
    }
}
