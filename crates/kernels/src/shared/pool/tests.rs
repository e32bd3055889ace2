//! Pooling against loops over all taps that call the definitions of `octofold_quant`.

use octofold_quant::requantize;

use super::super::ImageShape;
use super::super::testing::{Random, quants, targets};
use super::*;
use crate::conv::Depth;

const PLAIN: PoolShape = PoolShape {
    batch: 1,
    in_h: 5,
    in_w: 6,
    channels: 3,
    out_h: 5,
    out_w: 6,
    kernel_h: 3,
    kernel_w: 3,
    stride_h: 1,
    stride_w: 1,
    dilation_h: 1,
    dilation_w: 1,
    pad_top: 1,
    pad_left: 1,
    pad_bottom: 1,
    pad_right: 1,
    depth: Depth::ONE,
    out_d: 1,
};

fn shapes() -> Vec<PoolShape> {
    let strided = PoolShape {
        batch: 2,
        in_h: 7,
        in_w: 9,
        out_h: 3,
        out_w: 5,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        pad_top: 0,
        ..PLAIN
    };
    // The last window begins inside and ends beyond the padding, as rounding up may leave it.
    let ceil = PoolShape {
        out_h: 3,
        out_w: 4,
        stride_h: 2,
        stride_w: 2,
        pad_bottom: 0,
        pad_right: 1,
        ..PLAIN
    };
    let dilated = PoolShape {
        out_h: 4,
        out_w: 3,
        dilation_h: 2,
        dilation_w: 3,
        pad_top: 2,
        ..PLAIN
    };
    // Windows that hold nothing but padding.
    let empty = PoolShape {
        out_h: 4,
        out_w: 4,
        stride_h: 4,
        stride_w: 5,
        pad_top: 4,
        pad_left: 3,
        pad_bottom: 5,
        pad_right: 9,
        ..PLAIN
    };
    let large = PoolShape {
        in_h: 20,
        in_w: 17,
        out_h: 1,
        out_w: 1,
        kernel_h: 20,
        kernel_w: 17,
        pad_top: 0,
        pad_left: 0,
        ..PLAIN
    };
    vec![PLAIN, strided, ceil, dilated, empty, large]
}

/// Calls `each` with output index, the values in the window, and its size including named padding.
fn windows(shape: &PoolShape, mut each: impl FnMut(usize, &[usize], usize)) {
    let mut index = 0;
    for n in 0..shape.batch {
        for oy in 0..shape.out_h {
            for ox in 0..shape.out_w {
                for c in 0..shape.channels {
                    let (mut taps, mut padded) = (Vec::new(), 0);
                    for ky in 0..shape.kernel_h {
                        for kx in 0..shape.kernel_w {
                            let y = (oy * shape.stride_h + ky * shape.dilation_h) as isize
                                - shape.pad_top as isize;
                            let x = (ox * shape.stride_w + kx * shape.dilation_w) as isize
                                - shape.pad_left as isize;
                            let (h, w) = (shape.in_h as isize, shape.in_w as isize);
                            let below = y < h + shape.pad_bottom as isize;
                            padded += usize::from(below && x < w + shape.pad_right as isize);
                            if y >= 0 && y < h && x >= 0 && x < w {
                                let row = n * shape.in_h + y as usize;
                                taps.push((row * shape.in_w + x as usize) * shape.channels + c);
                            }
                        }
                    }
                    each(index, &taps, padded);
                    index += 1;
                }
            }
        }
    }
}

/// Runs `kernel` on all rows at once and in two parts, for every instruction set.
fn compare(
    shape: &PoolShape,
    expected: &[u8],
    mut kernel: impl FnMut(Isa, Range<usize>, &mut [u8]) -> Result<(), KernelError>,
) {
    let rows = shape.rows().unwrap();
    let width = shape.out_w * shape.channels;
    for isa in Isa::supported() {
        for range in [0..rows, 0..1, 1.min(rows)..rows] {
            let mut output = vec![0xA5; range.len() * width];
            kernel(isa, range.clone(), &mut output).unwrap();
            let part = &expected[range.start * width..range.end * width];
            assert_eq!(output, part, "{isa} {range:?} {shape:?}");
        }
    }
}

const AVERAGING: [Averaging; 3] = [
    averaging(false, true),
    averaging(true, true),
    averaging(false, false),
];

const fn averaging(count_padding: bool, columns_first: bool) -> Averaging {
    Averaging {
        count_padding,
        columns_first,
    }
}

/// The sum of reals column by column; `taps` says where each real is.
fn sum_of_columns(shape: &PoolShape, taps: &[usize], reals: &[f32]) -> f32 {
    let mut columns: std::collections::BTreeMap<usize, f32> = Default::default();
    for (tap, real) in taps.iter().zip(reals) {
        *columns
            .entry(tap / shape.channels % shape.in_w)
            .or_default() += real;
    }
    columns.values().fold(0.0, |sum, column| sum + column)
}

#[test]
fn windows_match_loops_over_all_taps() {
    let mut random = Random::new(5);
    for shape in shapes() {
        for channels in [1, 3, 63, 64, 65, 130] {
            let shape = PoolShape { channels, ..shape };
            let input = random.bytes(shape.batch * shape.in_h * shape.in_w * channels);
            for (i, to) in targets().into_iter().enumerate() {
                let from = if channels % 2 == 0 {
                    to.quant
                } else {
                    quants()[(i + 3) % 6]
                };
                let (p, q) = (from.params, to.quant.params);
                let (mut max, mut means) = (Vec::new(), vec![Vec::new(); AVERAGING.len()]);
                windows(&shape, |_, taps, padded| {
                    let values = taps.iter().map(|&tap| from.value(input[tap]));
                    let best = values.clone().max();
                    max.push(
                        best.map_or(to.lo, |best| requantize::rescale(best, p, q, to.lo, to.hi))
                            as u8,
                    );
                    let reals: Vec<f32> = values
                        .map(|value| (value - p.zero_point) as f32 * p.scale)
                        .collect();
                    for (averaging, means) in AVERAGING.iter().zip(&mut means) {
                        let sum = if averaging.columns_first {
                            sum_of_columns(&shape, taps, &reals)
                        } else {
                            reals.iter().fold(0.0, |sum, real| sum + real)
                        };
                        let count = if averaging.count_padding {
                            padded
                        } else {
                            taps.len()
                        };
                        means.push(requantize::real_mean(sum, count.max(1), q, to.lo, to.hi) as u8);
                    }
                });
                // Neither the content of the buffer nor its alignment matters.
                let mut scratch = vec![0xA5; shape.scratch_len().unwrap() + 1];
                compare(&shape, &max, |isa, part, output| {
                    let scratch = &mut scratch[1..];
                    let call = PoolCall {
                        input: &input,
                        from,
                        to,
                        part,
                        output,
                        scratch,
                    };
                    max_pool(isa, &shape, call)
                });
                for (averaging, expected) in AVERAGING.into_iter().zip(&means) {
                    compare(&shape, expected, |isa, part, output| {
                        let scratch = &mut scratch[1..];
                        let call = PoolCall {
                            input: &input,
                            from,
                            to,
                            part,
                            output,
                            scratch,
                        };
                        average_pool(isa, &shape, averaging, call)
                    });
                }
            }
        }
    }
}

#[test]
fn global_means_match_exact_sums() {
    let mut random = Random::new(6);
    for (pixels, channels) in [
        (1, 5),
        (49, 64),
        (49, 130),
        (256, 65),
        (257, 64),
        (258, 64),
        (600, 67),
    ] {
        let shape = ImageShape {
            batch: 3,
            channels,
            pixels,
        };
        for (i, to) in targets().into_iter().enumerate() {
            let from = quants()[(i + 1) % 6];
            let mut input = random.bytes(shape.len().unwrap());
            input[..pixels * channels].fill([0, 127, 128, 255][i % 4]);
            let expected: Vec<u8> = (0..3 * channels)
                .map(|index| {
                    let (n, c) = (index / channels, index % channels);
                    let value = |p| from.value(input[(n * pixels + p) * channels + c]);
                    let sum = (0..pixels).map(|p| value(p) - from.params.zero_point).sum();
                    let (p, q) = (from.params, to.quant.params);
                    requantize::mean(sum, pixels, p, q, to.lo, to.hi) as u8
                })
                .collect();
            for isa in Isa::supported() {
                for range in [
                    0..3 * channels,
                    2..channels + 3,
                    channels..2 * channels,
                    4..4,
                ] {
                    let mut output = vec![0xA5; range.len()];
                    let call = PoolCall {
                        input: &input,
                        from,
                        to,
                        part: range.clone(),
                        output: &mut output,
                        scratch: &mut [],
                    };
                    global_average_pool(isa, &shape, call).unwrap();
                    assert_eq!(output, expected[range], "{isa} {shape:?}");
                }
            }
        }
    }
}

#[test]
fn hostile_shapes_are_refused() {
    let (from, to) = (quants()[0], targets()[0]);
    let call_with = |shape: PoolShape, part, input: usize, output: usize, scratch: usize| {
        let call = PoolCall {
            input: &vec![0; input],
            from,
            to,
            part,
            output: &mut vec![0; output],
            scratch: &mut vec![0; scratch],
        };
        max_pool(Isa::Scalar, &shape, call)
    };
    let len = PLAIN.scratch_len().unwrap();
    let call = |shape, part, input, output| call_with(shape, part, input, output, len);
    assert_eq!(call(PLAIN, 0..5, 90, 90), Ok(()));
    assert!(call_with(PLAIN, 0..5, 90, 90, len - 1).is_err());
    assert!(call(PLAIN, 0..5, 89, 90).is_err());
    assert!(call(PLAIN, 0..5, 90, 91).is_err());
    assert!(call(PLAIN, 1..6, 90, 90).is_err());
    for bad in [
        PoolShape {
            channels: 0,
            ..PLAIN
        },
        PoolShape {
            stride_h: 0,
            ..PLAIN
        },
        PoolShape {
            dilation_w: 0,
            ..PLAIN
        },
        PoolShape {
            in_h: usize::MAX,
            ..PLAIN
        },
        PoolShape {
            batch: 1 << 29,
            in_h: 1 << 29,
            in_w: 1 << 29,
            ..PLAIN
        },
        PoolShape {
            pad_left: usize::MAX,
            ..PLAIN
        },
    ] {
        assert!(call(bad, 0..5, 90, 90).is_err(), "{bad:?}");
    }
    let huge_kernel = PoolShape {
        kernel_h: (1 << 30) - 1,
        dilation_h: (1 << 30) - 1,
        stride_w: (1 << 30) - 1,
        ..PLAIN
    };
    assert_eq!(call(huge_kernel, 0..5, 90, 90), Ok(()));
    let shape = ImageShape {
        batch: 0,
        channels: 3,
        pixels: usize::MAX,
    };
    let none = PoolCall {
        input: &[],
        from,
        to,
        part: 0..0,
        output: &mut [],
        scratch: &mut [],
    };
    let pooled = global_average_pool(Isa::Scalar, &shape, none);
    assert!(pooled.is_err());
}
