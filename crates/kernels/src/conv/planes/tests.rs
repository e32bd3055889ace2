use octofold_quant::affine;

use super::*;
use crate::conv::{ConvShape, fold_bias};
use crate::shared::testing::{Random, params};

/// Sums in 64 bits over the taps inside of the image of `input`, then the definition of the stage, without its correction.
fn naive(shape: &ConvShape, input: Activations<'_>, weights: &[i8], stage: &Float<'_>) -> Vec<f32> {
    let (out_h, out_w) = (shape.out_h().unwrap(), shape.out_w().unwrap());
    let mut output = Vec::new();
    for plane in 0..shape.batch * shape.out_c {
        let channel = plane % shape.out_c;
        for (y, x) in (0..out_h).flat_map(|y| (0..out_w).map(move |x| (y, x))) {
            let mut sum = 0_i64;
            for (ky, kx) in
                (0..shape.kernel_h).flat_map(|ky| (0..shape.kernel_w).map(move |kx| (ky, kx)))
            {
                let row = (y * shape.stride_h + ky * shape.dilation_h).checked_sub(shape.pad_top);
                let column =
                    (x * shape.stride_w + kx * shape.dilation_w).checked_sub(shape.pad_left);
                let (Some(row), Some(column)) = (row, column) else {
                    continue;
                };
                if row < shape.in_h && column < shape.in_w {
                    let byte = input.data[(plane * shape.in_h + row) * shape.in_w + column];
                    let value = if input.signed {
                        i64::from(byte as i8)
                    } else {
                        i64::from(byte)
                    };
                    let tap = (channel * shape.kernel_h + ky) * shape.kernel_w + kx;
                    sum += (value - i64::from(input.zero_point)) * i64::from(weights[tap]);
                }
            }
            let value = sum as f32 * stage.scale[channel] + stage.bias[channel];
            output.push(
                stage
                    .clamp
                    .map_or(value, |bounds| value.max(bounds.lo).min(bounds.hi)),
            );
        }
    }
    output
}

fn check(shape: ConvShape, signed: bool, clamp: Option<Bounds>, seed: u64) {
    let mut random = Random::new(seed);
    let channels = shape.out_c;
    let input = random.bytes(shape.batch * channels * shape.in_h * shape.in_w);
    let weights = random.bytes(channels * shape.kernel_h * shape.kernel_w);
    let weights: Vec<i8> = weights
        .into_iter()
        .map(|byte| (byte as i8).max(-127))
        .collect();
    let (scale, bias) = (random.floats(channels), random.floats(channels));
    let zero_point = if signed { -7 } else { 131 };
    let correction = fold_bias(&vec![0; channels], &weights, zero_point, signed).unwrap();
    let packed = pack(&shape, &weights).unwrap();
    let stage = Float {
        correction: &correction,
        scale: &scale,
        bias: &bias,
        clamp,
    };
    let compare = |planes: Planes<'_>, bytes: &[u8]| {
        let activations = Activations {
            data: bytes,
            signed,
            zero_point,
        };
        let expected = naive(&shape, activations, &weights, &stage);
        let size = shape.out_h().unwrap() * shape.out_w().unwrap();
        for isa in Isa::supported() {
            // Neither the content of the buffer nor its alignment matters.
            let mut scratch = vec![0xA5; scratch_len(&shape).unwrap() + 1];
            let mut output = vec![f32::NAN; expected.len()];
            for (plane, output) in output.chunks_exact_mut(size).enumerate() {
                let call = PlanesCall {
                    input: planes,
                    weights: &packed,
                    stage,
                    planes: plane..plane + 1,
                    output,
                    scratch: &mut scratch[1..],
                };
                conv_planes(isa, &shape, call).unwrap();
            }
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&output), bits(&expected), "{isa} {shape:?}");
        }
    };
    let activations = Activations {
        data: &input,
        signed,
        zero_point,
    };
    compare(Planes::Bytes(activations), &input);

    let to = Quant8 {
        params: params([0.01, 0.25, 3e-37][seed as usize % 3], zero_point),
        signed,
    };
    let mut floats = random.floats(input.len());
    for (i, x) in floats.iter_mut().enumerate() {
        // Up to somewhat more than all steps; every fifth is between two of them.
        let steps = *x * 300.0;
        let steps = if i % 5 == 0 {
            steps.floor() + 0.5
        } else {
            steps
        };
        *x = steps * to.params.scale;
    }
    let special = [
        f32::NEG_INFINITY,
        f32::INFINITY,
        f32::from_bits(0x7FC0_0055),
        -0.0,
        f32::MAX,
    ];
    floats
        .iter_mut()
        .step_by(11)
        .zip(special)
        .for_each(|(x, special)| *x = special);
    let one = |&x: &f32| affine::quantize_to(x, to.params, to.dtype()) as u8;
    let quantized: Vec<_> = floats.iter().map(one).collect();
    compare(Planes::Floats(&floats, to), &quantized);
}

#[test]
fn every_size_gives_the_floats_of_the_definition() {
    let mut seed = 1;
    for (in_h, in_w) in [(1, 1), (5, 7), (9, 16), (11, 33), (20, 67), (45, 130)] {
        for (kernel_h, kernel_w) in [(1, 1), (3, 3), (5, 5), (2, 7), (4, 1), (9, 3)] {
            for (stride, dilation) in [(1, 1), (2, 1), (3, 1), (1, 2), (2, 3), (4, 1), (1, 5)] {
                for pad in [0, 1, 4] {
                    let shape = ConvShape {
                        batch: 2,
                        groups: 3,
                        kernel_h,
                        kernel_w,
                        stride_h: stride,
                        stride_w: stride,
                        dilation_h: dilation,
                        dilation_w: dilation,
                        pad_bottom: pad / 2,
                        ..ConvShape::pointwise(in_h, in_w, 3, 3).with_kernel(1, 1, pad)
                    };
                    if shape.check().is_ok() {
                        let clamp = (seed % 3 == 0).then_some(Bounds::new(-0.5, 6.0));
                        check(shape, seed % 2 == 0, clamp, seed);
                        seed += 1;
                    }
                }
            }
        }
    }
    assert!(seed > 300);
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = ConvShape {
        groups: 4,
        ..ConvShape::pointwise(6, 6, 4, 4).with_kernel(3, 1, 1)
    };
    let packed = pack(&shape, &[1; 36]).unwrap();
    let constants = ([0; 4], [1.0; 4], [0.0; 4]);
    let call = |shape: &ConvShape, input: usize, planes: Range<usize>, len: usize, zero_point| {
        let stage = Float {
            correction: &constants.0,
            scale: &constants.1,
            bias: &constants.2,
            clamp: None,
        };
        let data = vec![0; input];
        let activations = Activations {
            data: &data,
            signed: false,
            zero_point,
        };
        let call = PlanesCall {
            input: Planes::Bytes(activations),
            weights: &packed,
            stage,
            planes,
            output: &mut vec![0.0; len],
            scratch: &mut [0; 4096],
        };
        conv_planes(Isa::Scalar, shape, call)
    };
    assert_eq!(call(&shape, 144, 1..3, 72, 0), Ok(()));
    assert!(call(&shape, 143, 1..3, 72, 0).is_err());
    assert!(call(&shape, 144, 1..3, 71, 0).is_err());
    assert!(call(&shape, 144, 3..5, 72, 0).is_err());
    assert!(call(&shape, 144, 1..3, 72, 256).is_err());
    let grouped = ConvShape { groups: 2, ..shape };
    assert!(call(&grouped, 144, 1..3, 72, 0).is_err());
    assert!(pack(&shape, &[1; 35]).is_err() && pack(&grouped, &[1; 72]).is_err());
}
