//! Convolution against a sum over all taps in f64.

use super::*;
use crate::shared::testing::Random;

/// The convolution of OIHW weights, and the sum of the products' magnitudes, which bounds the error.
fn reference(
    shape: &ConvShape,
    data: &ConvData<'_>,
    weights: &[f32],
    residual: Option<&[f32]>,
) -> Vec<(f64, f64)> {
    let (out_h, out_w) = (shape.out_h().unwrap(), shape.out_w().unwrap());
    let (group_in, group_out) = (shape.in_c / shape.groups, shape.out_c / shape.groups);
    let mut result = Vec::new();
    for n in 0..shape.batch {
        for oy in 0..out_h {
            for ox in 0..out_w {
                for o in 0..shape.out_c {
                    let mut sum = f64::from(data.bias.map_or(0.0, |bias| bias[o]));
                    sum += residual.map_or(0.0, |residual| f64::from(residual[result.len()]));
                    let mut magnitude = sum.abs();
                    for c in 0..group_in {
                        for ky in 0..shape.kernel_h {
                            for kx in 0..shape.kernel_w {
                                let y = oy * shape.stride_h + ky * shape.dilation_h;
                                let x = ox * shape.stride_w + kx * shape.dilation_w;
                                let (Some(y), Some(x)) =
                                    (y.checked_sub(shape.pad_top), x.checked_sub(shape.pad_left))
                                else {
                                    continue;
                                };
                                if y >= shape.in_h || x >= shape.in_w {
                                    continue;
                                }
                                let pixel = (n * shape.in_h + y) * shape.in_w + x;
                                let input = pixel * shape.in_c + o / group_out * group_in + c;
                                let tap = ky * shape.kernel_w + kx;
                                let weight =
                                    (o * group_in + c) * shape.kernel_h * shape.kernel_w + tap;
                                let term =
                                    f64::from(data.input[input]) * f64::from(weights[weight]);
                                sum += term;
                                magnitude += term.abs();
                            }
                        }
                    }
                    let Bounds { lo, hi } = data.clamp;
                    result.push((sum.clamp(lo.into(), hi.into()), magnitude));
                }
            }
        }
    }
    result
}

fn check(shape: ConvShape, with_bias: bool, with_residual: bool, clamp: Bounds) {
    let mut random = Random::new(21);
    let pixels = shape.pixels().unwrap();
    let input = random.floats(shape.batch * shape.in_h * shape.in_w * shape.in_c);
    let per_out = shape.in_c / shape.groups * shape.kernel_h * shape.kernel_w;
    let weights = random.floats(shape.out_c * per_out);
    let bias = random.floats(shape.out_c);
    let residual = random.floats(pixels * shape.out_c);
    let packed = pack(&shape, &weights).unwrap();
    let data = ConvData {
        input: &input,
        weights: &packed,
        bias: with_bias.then_some(&bias),
        residual: None,
        clamp,
    };
    let residual = with_residual.then_some(residual.as_slice());
    let expected = reference(&shape, &data, &weights, residual);
    let mut bits: Option<Vec<u32>> = None;
    for isa in Isa::supported() {
        let mut whole = vec![777.0; pixels * shape.out_c];
        let mut scratch = vec![f32::NAN; scratch_len(&shape).unwrap()];
        let all = ConvData { residual, ..data };
        conv(isa, &shape, &all, 0..pixels, &mut scratch, &mut whole).unwrap();
        for (i, (&got, &(sum, magnitude))) in whole.iter().zip(&expected).enumerate() {
            let error = (f64::from(got) - sum).abs();
            assert!(
                error <= magnitude * 1e-5 + 1e-30,
                "{isa} {i}: {got} {sum} {shape:?}"
            );
        }
        let now: Vec<u32> = whole.iter().map(|y| y.to_bits()).collect();
        assert_eq!(
            *bits.get_or_insert_with(|| now.clone()),
            now,
            "{isa} {shape:?}"
        );
        for step in [1, 5, 13, pixels.div_ceil(2)] {
            for start in (0..pixels).step_by(step).take(9) {
                let range = start..pixels.min(start + step);
                let part = range.start * shape.out_c..range.end * shape.out_c;
                let mut output = vec![777.0; part.len()];
                let residual = residual.map(|residual| &residual[part.clone()]);
                let one = ConvData { residual, ..data };
                conv(isa, &shape, &one, range, &mut scratch, &mut output).unwrap();
                assert_eq!(
                    output, whole[part],
                    "pixel {start} depends on the split: {shape:?}"
                );
            }
        }
    }
}

#[test]
fn all_kinds_of_shapes_match_sums_in_f64() {
    for in_c in [1, 3, 8, 17] {
        for out_c in [1, 7, 16, 33] {
            check(
                ConvShape::pointwise(9, 7, in_c, out_c).with_kernel(3, 1, 1),
                true,
                false,
                Bounds::new(0.0, 6.0),
            );
            check(
                ConvShape::pointwise(9, 7, in_c, out_c),
                true,
                true,
                Bounds::NONE,
            );
            check(
                ConvShape::pointwise(9, 8, in_c, out_c).with_kernel(1, 2, 0),
                false,
                true,
                Bounds::new(-1.0, 1.0),
            );
            check(
                ConvShape::pointwise(11, 13, in_c, out_c).with_kernel(5, 2, 3),
                false,
                false,
                Bounds::NONE,
            );
        }
    }
    let base = ConvShape::pointwise(12, 10, 12, 24).with_kernel(3, 1, 1);
    check(
        ConvShape {
            batch: 3,
            groups: 4,
            ..base
        },
        true,
        true,
        Bounds::NONE,
    );
    check(
        ConvShape {
            dilation_h: 2,
            dilation_w: 3,
            pad_bottom: 4,
            ..base
        },
        true,
        false,
        Bounds::NONE,
    );
    check(
        ConvShape {
            kernel_h: 1,
            pad_left: 5,
            pad_right: 0,
            stride_w: 3,
            ..base
        },
        true,
        false,
        Bounds::NONE,
    );
    check(
        ConvShape { groups: 12, ..base },
        true,
        false,
        Bounds::new(0.0, f32::INFINITY),
    );
    check(
        ConvShape {
            kernel_h: 1,
            kernel_w: 1,
            pad_top: 2,
            pad_left: 0,
            ..base
        },
        true,
        false,
        Bounds::NONE,
    );
    check(
        ConvShape::pointwise(30, 40, 40, 64).with_kernel(3, 1, 1),
        true,
        true,
        Bounds::new(0.0, 6.0),
    );
    // Chunks of 84 pixels, and sums deeper than a cache.
    check(
        ConvShape {
            batch: 3,
            ..ConvShape::pointwise(7, 9, 1500, 10)
        },
        true,
        false,
        Bounds::NONE,
    );
}

#[test]
fn every_number_of_panels_and_rows_matches_sums_in_f64() {
    for out_c in [16, 31, 48, 64, 65, 80, 96, 100, 128, 150] {
        for width in [1, 4, 6, 7, 11, 13, 29] {
            for in_c in [5, 200] {
                let shape = ConvShape::pointwise(1, width, in_c, out_c);
                check(shape, true, width % 2 == 0, Bounds::new(-0.5, 2.0));
            }
        }
    }
}

#[test]
fn not_a_number_passes_through() {
    let shape = ConvShape::pointwise(5, 5, 3, 20).with_kernel(3, 1, 1);
    let mut input = Random::new(3).floats(75);
    input[0] = f32::NAN;
    let packed = pack(&shape, &Random::new(4).floats(20 * 27)).unwrap();
    let data = ConvData {
        input: &input,
        weights: &packed,
        bias: None,
        residual: None,
        clamp: Bounds::new(0.0, 6.0),
    };
    for isa in Isa::supported() {
        let mut scratch = vec![0.0; scratch_len(&shape).unwrap()];
        let mut output = vec![0.0; 25 * 20];
        conv(isa, &shape, &data, 0..25, &mut scratch, &mut output).unwrap();
        for (pixel, output) in output.chunks(20).enumerate() {
            let touched = pixel % 5 < 2 && pixel / 5 < 2;
            assert!(
                output.iter().all(|y| y.is_nan() == touched),
                "{isa} {pixel}"
            );
        }
    }
}

#[test]
fn nan_passes_the_clamp() {
    let bounds = Bounds::new(0.0, 6.0);
    assert!(bounds.clamp(f32::NAN).is_nan());
    assert_eq!(bounds.clamp(-0.5), 0.0);
    assert_eq!(bounds.clamp(7.0), 6.0);
}

#[test]
fn wrong_sizes_are_refused() {
    let shape = ConvShape::pointwise(4, 4, 2, 3).with_kernel(3, 1, 1);
    let call =
        |input: usize, weights: usize, bias: usize, residual: usize, pixels, scratch: usize| {
            let (input, weights) = (vec![0.0; input], vec![0.0; weights]);
            let (bias, residual) = (vec![0.0; bias], vec![0.0; residual]);
            let data = ConvData {
                input: &input,
                weights: &weights,
                bias: Some(&bias),
                residual: Some(&residual),
                clamp: Bounds::NONE,
            };
            conv(
                Isa::Scalar,
                &shape,
                &data,
                pixels,
                &mut vec![0.0; scratch],
                &mut [0.0; 48],
            )
        };
    let scratch = scratch_len(&shape).unwrap();
    let packed = packed_len(&shape).unwrap();
    assert_eq!(packed, 18 * 16);
    assert_eq!(call(32, packed, 3, 48, 0..16, scratch), Ok(()));
    assert!(call(31, packed, 3, 48, 0..16, scratch).is_err());
    assert!(call(32, packed + 1, 3, 48, 0..16, scratch).is_err());
    assert!(call(32, packed, 2, 48, 0..16, scratch).is_err());
    assert!(call(32, packed, 3, 47, 0..16, scratch).is_err());
    assert!(call(32, packed, 3, 48, 0..15, scratch).is_err());
    assert!(call(32, packed, 3, 48, 0..17, scratch).is_err());
    assert!(call(32, packed, 3, 48, usize::MAX..usize::MAX, scratch).is_err());
    assert!(call(32, packed, 3, 48, 0..16, scratch - 1).is_err());
    assert!(pack(&shape, &[0.0; 53]).is_err());
    assert!(pack(&ConvShape { groups: 0, ..shape }, &[0.0; 54]).is_err());
}
