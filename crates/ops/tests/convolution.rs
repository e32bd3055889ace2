//! Every convolution against a sum over all taps that is written down as the definition says it.

use octofold_ops::families::{
    Activation, AutoPad, Conv, ConvInteger, ConvTranspose, FusedConv, Layout, Outcome,
    OutputQuantization, Product, QLinearConv,
};
use octofold_ops::{Inputs, OpError, Operator};
use octofold_quant::requantize::{self, Operand};
use octofold_quant::{QParams, QuantType};
use octofold_tensor::Tensor;

/// A two-dimensional convolution by definition.
#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    channels: usize,
    outputs: usize,
    group: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pads: [usize; 4],
}

const CASES: [Case; 5] = [
    Case {
        batch: 1,
        channels: 3,
        outputs: 4,
        group: 1,
        input: [7, 9],
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1, 1, 1, 1],
    },
    Case {
        batch: 2,
        channels: 4,
        outputs: 6,
        group: 2,
        input: [6, 5],
        kernel: [2, 3],
        stride: [2, 3],
        dilation: [1, 2],
        pads: [0, 2, 3, 1],
    },
    // Depthwise with a multiplier.
    Case {
        batch: 1,
        channels: 3,
        outputs: 6,
        group: 3,
        input: [5, 5],
        kernel: [3, 3],
        stride: [2, 1],
        dilation: [2, 1],
        pads: [2, 0, 1, 2],
    },
    // A point, whose axes the loops merge, and one that they must not merge.
    Case {
        batch: 2,
        channels: 5,
        outputs: 3,
        group: 1,
        input: [4, 3],
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0; 4],
    },
    Case {
        batch: 1,
        channels: 2,
        outputs: 2,
        group: 1,
        input: [4, 3],
        kernel: [1, 1],
        stride: [2, 2],
        dilation: [1, 1],
        pads: [1, 0, 0, 1],
    },
];

fn ints<const N: usize>(values: [usize; N]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

impl Case {
    fn output(&self) -> [usize; 2] {
        std::array::from_fn(|a| {
            let extent = self.dilation[a] * (self.kernel[a] - 1) + 1;
            (self.input[a] + self.pads[a] + self.pads[a + 2] - extent) / self.stride[a] + 1
        })
    }

    fn x_shape(&self) -> [usize; 4] {
        [self.batch, self.channels, self.input[0], self.input[1]]
    }

    fn w_shape(&self) -> [usize; 4] {
        [
            self.outputs,
            self.channels / self.group,
            self.kernel[0],
            self.kernel[1],
        ]
    }

    fn y_shape(&self) -> [usize; 4] {
        let [height, width] = self.output();
        [self.batch, self.outputs, height, width]
    }

    /// Sums in the order N, M, H, W.
    fn sums(&self, x: &[i64], w: &[i64]) -> Vec<i64> {
        let [_, c, h, width] = self.x_shape();
        let [_, inputs, kh, kw] = self.w_shape();
        let [n, m, oh, ow] = self.y_shape();
        let mut out = Vec::new();
        for i in 0..n * m * oh * ow {
            let (b, o, y, z) = (i / (m * oh * ow), i / (oh * ow) % m, i / ow % oh, i % ow);
            let mut sum = 0;
            for t in 0..inputs * kh * kw {
                let (ci, ky, kx) = (t / (kh * kw), t / kw % kh, t % kw);
                let row = y * self.stride[0] + ky * self.dilation[0];
                let column = z * self.stride[1] + kx * self.dilation[1];
                let (Some(row), Some(column)) = (
                    row.checked_sub(self.pads[0]),
                    column.checked_sub(self.pads[1]),
                ) else {
                    continue;
                };
                if row < h && column < width {
                    let channel = o / (m / self.group) * inputs + ci;
                    sum += x[((b * c + channel) * h + row) * width + column]
                        * w[(o * inputs * kh * kw) + t];
                }
            }
            out.push(sum);
        }
        out
    }

    fn conv(&self) -> Conv {
        Conv {
            auto_pad: AutoPad::NotSet,
            dilations: ints(self.dilation),
            group: self.group as i64,
            kernel_shape: vec![],
            pads: ints(self.pads),
            strides: ints(self.stride),
        }
    }

    fn fused(&self) -> FusedConv {
        FusedConv {
            strides: ints(self.stride),
            pads: ints(self.pads),
            dilations: ints(self.dilation),
            group: self.group as i64,
            layout: Layout::Nchw,
            product: Product::default(),
        }
    }
}

/// Numbers that look random, in `low..=high`.
fn numbers(count: usize, seed: u64, low: i64, high: i64) -> Vec<i64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            low + ((state >> 33) as i64).rem_euclid(high - low + 1)
        })
        .collect()
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn floats(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::new(
        shape.iter().copied(),
        values.iter().map(|&v| v as f32).collect(),
    )
    .unwrap()
}

fn bytes(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::new(
        shape.iter().copied(),
        values.iter().map(|&v| v as u8).collect(),
    )
    .unwrap()
}

fn signed(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::new(
        shape.iter().copied(),
        values.iter().map(|&v| v as i8).collect(),
    )
    .unwrap()
}

fn run(op: &impl Operator, inputs: &[Option<&Tensor>]) -> Result<Tensor, OpError> {
    Ok(op.evaluate(Inputs(inputs), 1)?.remove(0))
}

/// Values in the order N, C, H, W, rearranged to N, H, W, C.
fn channels_last<T: Copy>(values: &[T], [n, c, h, w]: [usize; 4]) -> Vec<T> {
    (0..n * h * w * c)
        .map(|i| values[((i / (h * w * c) * c + i % c) * h * w) + i / c % (h * w)])
        .collect()
}

fn nhwc([n, c, h, w]: [usize; 4]) -> [usize; 4] {
    [n, h, w, c]
}

#[test]
fn conv_is_its_definition() {
    for case in CASES {
        let (xs, ws) = (case.x_shape(), case.w_shape());
        let (x, w) = (numbers(count(&xs), 1, -9, 9), numbers(count(&ws), 2, -9, 9));
        let bias = numbers(case.outputs, 3, -9, 9);
        let inputs = (
            floats(&xs, &x),
            floats(&ws, &w),
            floats(&[case.outputs], &bias),
        );
        let y = run(
            &case.conv(),
            &[Some(&inputs.0), Some(&inputs.1), Some(&inputs.2)],
        )
        .unwrap();
        let plane = count(&case.output());
        let sums = case.sums(&x, &w);
        let expected = sums
            .iter()
            .enumerate()
            .map(|(i, sum)| sum + bias[i / plane % case.outputs]);
        let expected: Vec<_> = expected.map(|sum| sum as f32).collect();
        assert_eq!(
            (y.shape(), y.values::<f32>().unwrap()),
            (&case.y_shape()[..], &expected[..])
        );
    }
}

#[test]
fn one_and_three_axes_are_those_of_two() {
    let x = numbers(2 * 9, 5, -9, 9);
    let w = numbers(3 * 2 * 3, 6, -9, 9);
    let attributes = |spatial: usize| Conv {
        auto_pad: AutoPad::NotSet,
        dilations: vec![2; spatial],
        group: 1,
        kernel_shape: vec![],
        pads: [vec![0; spatial - 1], vec![1], vec![0; spatial - 1], vec![2]].concat(),
        strides: vec![2; spatial],
    };
    let result = |spatial: usize| {
        let ones = vec![1; spatial - 1];
        let x = floats(&[vec![1, 2], ones.clone(), vec![9]].concat(), &x);
        let w = floats(&[vec![3, 2], ones, vec![3]].concat(), &w);
        run(&attributes(spatial), &[Some(&x), Some(&w)])
            .unwrap()
            .values::<f32>()
            .unwrap()
            .to_vec()
    };
    assert_eq!(result(1), result(2));
    assert_eq!(result(2), result(3));
}

#[test]
fn the_transpose_is_the_adjoint() {
    // <conv(x, w), y> = <x, transpose(y, w)>, when the transpose gives back the size of x.
    for case in CASES {
        let (xs, ws, ys) = (case.x_shape(), case.w_shape(), case.y_shape());
        let (x, w, y) = (
            numbers(count(&xs), 1, -9, 9),
            numbers(count(&ws), 2, -9, 9),
            numbers(count(&ys), 4, -9, 9),
        );
        let rest: [usize; 2] = std::array::from_fn(|a| {
            let extent = case.dilation[a] * (case.kernel[a] - 1) + 1;
            (case.input[a] + case.pads[a] + case.pads[a + 2] - extent) % case.stride[a]
        });
        let op = ConvTranspose {
            auto_pad: AutoPad::NotSet,
            dilations: ints(case.dilation),
            group: case.group as i64,
            kernel_shape: vec![],
            output_padding: ints(rest),
            output_shape: vec![],
            pads: ints(case.pads),
            strides: ints(case.stride),
        };
        let back = run(&op, &[Some(&floats(&ys, &y)), Some(&floats(&ws, &w))]).unwrap();
        assert_eq!(back.shape(), xs);
        let dot = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>();
        let back: Vec<_> = back
            .values::<f32>()
            .unwrap()
            .iter()
            .map(|&v| v as i64)
            .collect();
        assert_eq!(dot(&case.sums(&x, &w), &y), dot(&x, &back));
    }
}

const X: QParams = QParams {
    scale: 0.02,
    zero_point: 117,
};
/// A result whose lower bound is above its type's, as a fused activation leaves it.
const Y: OutputQuantization = OutputQuantization {
    dtype: QuantType::Uint8,
    params: QParams {
        scale: 0.9,
        zero_point: 131,
    },
    lo: 100,
    hi: 255,
};

/// An integer convolution with its operands, and the exact sums of its products, in the order of the result.
struct Integers {
    case: Case,
    x: Vec<i64>,
    w: Vec<i64>,
    bias: Vec<i64>,
    scales: Vec<f32>,
    sums: Vec<i64>,
}

impl Integers {
    fn of(case: Case) -> Self {
        let x = numbers(count(&case.x_shape()), 1, 0, 255);
        let w = numbers(count(&case.w_shape()), 2, -127, 127);
        let centered: Vec<_> = x.iter().map(|x| x - i64::from(X.zero_point)).collect();
        let sums = case.sums(&centered, &w);
        Self {
            bias: numbers(case.outputs, 3, -3000, 3000),
            scales: (0..case.outputs).map(|o| 0.01 + 0.003 * o as f32).collect(),
            case,
            x,
            w,
            sums,
        }
    }

    fn op(&self, result: Outcome) -> FusedConv {
        FusedConv {
            product: Product::integer(X, self.scales.clone(), result),
            ..self.case.fused()
        }
    }

    fn x(&self) -> Tensor {
        bytes(&self.case.x_shape(), &self.x)
    }

    fn w(&self) -> Tensor {
        signed(&self.case.w_shape(), &self.w)
    }

    fn bias(&self) -> Tensor {
        Tensor::vector(self.bias.iter().map(|&b| b as i32).collect())
    }

    /// What `result` makes of each sum and its output channel.
    fn map<T>(&self, result: impl Fn(i64, usize) -> T) -> Vec<T> {
        let plane = count(&self.case.output());
        let sums = self.sums.iter().enumerate();
        sums.map(|(i, &sum)| result(sum, i / plane % self.case.outputs))
            .collect()
    }

    /// The bytes of the result `Y`.
    fn requantized(&self) -> Vec<i32> {
        self.map(|sum, c| {
            let multiplier = requantize::multiplier(X.scale, self.scales[c], Y.params.scale);
            let sum = (sum + self.bias[c]) as i32;
            requantize::requantize(sum, multiplier, Y.params.zero_point, Y.lo, Y.hi)
        })
    }
}

fn as_bytes(values: &[i32]) -> Vec<u8> {
    values.iter().map(|&v| v as u8).collect()
}

#[test]
fn integer_convolutions_requantize_their_exact_sums() {
    for case in CASES.map(Integers::of) {
        let inputs = [case.x(), case.w(), case.bias()];
        let got = run(&case.op(Outcome::Bytes(Y)), &inputs.each_ref().map(Some)).unwrap();
        assert_eq!(
            (got.shape(), got.values::<u8>().unwrap()),
            (&case.case.y_shape()[..], &as_bytes(&case.requantized())[..])
        );
    }
}

#[test]
fn a_channels_last_convolution_is_requantized_before_its_residual_is_added() {
    let residual_params = QParams {
        scale: 0.5,
        zero_point: 3,
    };
    let sum = OutputQuantization {
        dtype: QuantType::Uint8,
        params: QParams {
            scale: 1.1,
            zero_point: 90,
        },
        lo: 90,
        hi: 200,
    };
    for case in CASES.map(Integers::of) {
        let (xs, ys) = (case.case.x_shape(), case.case.y_shape());
        let residual = numbers(count(&ys), 7, 0, 255);
        let op = FusedConv {
            layout: Layout::Nhwc,
            ..case.op(Outcome::Residual {
                own: Y,
                residual: residual_params,
                sum,
            })
        };
        let inputs = [
            bytes(&nhwc(xs), &channels_last(&case.x, xs)),
            case.w(),
            case.bias(),
            bytes(&nhwc(ys), &channels_last(&residual, ys)),
        ];
        let got = run(&op, &inputs.each_ref().map(Some)).unwrap();
        let own = case.requantized();
        let pairs = own.iter().zip(&residual);
        let expected: Vec<_> = pairs
            .map(|(&q, &r)| {
                let residual = Operand::new(r as i32, residual_params);
                requantize::add(Operand::new(q, Y.params), residual, sum.target())
            })
            .collect();
        assert_eq!(
            (got.shape(), got.values::<u8>().unwrap()),
            (&nhwc(ys)[..], &channels_last(&as_bytes(&expected), ys)[..])
        );
    }
}

#[test]
fn a_float_result_is_the_dequantized_accumulator() {
    for case in CASES.map(Integers::of) {
        let bias = floats(&[case.case.outputs], &case.bias);
        let inputs = [case.x(), case.w(), bias];
        let op = case.op(Outcome::Float(Activation::Relu));
        let got = run(&op, &inputs.each_ref().map(Some)).unwrap();
        let expected = case.map(|sum, c| {
            let (scale, bias) = (X.scale * case.scales[c], case.bias[c] as f32);
            requantize::dequantize_accumulator(sum as i32, scale, bias).max(0.0)
        });
        assert_eq!(got.values::<f32>().unwrap(), expected);
    }
}

#[test]
fn accumulators_are_the_exact_sums_with_the_bias() {
    for case in CASES.map(Integers::of) {
        let inputs = [case.x(), case.w(), case.bias()];
        let got = run(
            &case.op(Outcome::Accumulators),
            &inputs.each_ref().map(Some),
        )
        .unwrap();
        let expected = case.map(|sum, c| (sum + case.bias[c]) as i32);
        assert_eq!(got.values::<i32>().unwrap(), expected);
    }
}

#[test]
fn conv_integer_gives_the_exact_sums() {
    for case in CASES.map(Integers::of) {
        let Conv {
            auto_pad,
            dilations,
            group,
            kernel_shape,
            pads,
            strides,
        } = case.case.conv();
        let op = ConvInteger {
            auto_pad,
            dilations,
            group,
            kernel_shape,
            pads,
            strides,
        };
        let zeros = (Tensor::scalar(X.zero_point as u8), Tensor::scalar(0_i8));
        let inputs = [case.x(), case.w(), zeros.0, zeros.1];
        let got = run(&op, &inputs.each_ref().map(Some)).unwrap();
        assert_eq!(got.values::<i32>().unwrap(), case.map(|sum, _| sum as i32));
    }
}

#[test]
fn qlinear_conv_is_the_fused_convolution_with_the_bounds_of_its_type() {
    for case in CASES.map(Integers::of) {
        let Conv {
            auto_pad,
            dilations,
            group,
            kernel_shape,
            pads,
            strides,
        } = case.case.conv();
        let op = QLinearConv {
            auto_pad,
            dilations,
            group,
            kernel_shape,
            pads,
            strides,
        };
        let inputs = [
            case.x(),
            Tensor::scalar(X.scale),
            Tensor::scalar(X.zero_point as u8),
            case.w(),
            Tensor::vector(case.scales.clone()),
            Tensor::scalar(0_i8),
            Tensor::scalar(Y.params.scale),
            Tensor::scalar(Y.params.zero_point as u8),
            case.bias(),
        ];
        let got = run(&op, &inputs.each_ref().map(Some)).unwrap();
        let found = got.values::<u8>().unwrap();
        let clamped: Vec<_> = found.iter().map(|&q| q.max(Y.lo as u8)).collect();
        assert_eq!(clamped, as_bytes(&case.requantized()));
    }
}

#[test]
fn float_fusion_is_convolution_sum_and_activation() {
    for case in CASES {
        let (xs, ws, ys) = (case.x_shape(), case.w_shape(), case.y_shape());
        let (x, w) = (numbers(count(&xs), 1, -9, 9), numbers(count(&ws), 2, -9, 9));
        let residual = numbers(count(&ys), 3, -99, 99);
        let activation = Activation::Clip {
            min: -50.0,
            max: 60.0,
        };
        let op = FusedConv {
            layout: Layout::Nhwc,
            product: Product::Float(activation),
            ..case.fused()
        };
        let x_last = floats(&nhwc(xs), &channels_last(&x, xs));
        let residual_last = floats(&nhwc(ys), &channels_last(&residual, ys));
        let got = run(
            &op,
            &[
                Some(&x_last),
                Some(&floats(&ws, &w)),
                None,
                Some(&residual_last),
            ],
        )
        .unwrap();
        let sums = case.sums(&x, &w);
        let expected: Vec<_> = sums
            .iter()
            .zip(&residual)
            .map(|(a, b)| ((a + b) as f32).clamp(-50.0, 60.0))
            .collect();
        assert_eq!(got.values::<f32>().unwrap(), channels_last(&expected, ys));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = CASES[0];
    let x = floats(&case.x_shape(), &numbers(count(&case.x_shape()), 1, -9, 9));
    let w = floats(&case.w_shape(), &numbers(count(&case.w_shape()), 2, -9, 9));
    let good = case.conv();
    let fails = |op: &Conv| run(op, &[Some(&x), Some(&w)]).is_err();
    assert!(!fails(&good));
    assert!(fails(&Conv {
        group: 2,
        ..good.clone()
    }));
    assert!(fails(&Conv {
        group: 0,
        ..good.clone()
    }));
    assert!(fails(&Conv {
        group: i64::MAX,
        ..good.clone()
    }));
    assert!(fails(&Conv {
        kernel_shape: vec![3, 2],
        ..good.clone()
    }));
    assert!(fails(&Conv {
        strides: vec![0, 1],
        ..good.clone()
    }));
    assert!(fails(&Conv {
        pads: vec![-1, 0, 0, 0],
        ..good.clone()
    }));
    assert!(fails(&Conv {
        pads: vec![1 << 30; 4],
        ..good.clone()
    }));
    assert!(fails(&Conv {
        dilations: vec![9, 9],
        ..good.clone()
    }));
    let short = Tensor::vector(vec![0.0_f32; 3]);
    assert!(run(&good, &[Some(&x), Some(&w), Some(&short)]).is_err());
    assert!(run(&good, &[Some(&x)]).is_err());

    let params = QParams {
        scale: 0.1,
        zero_point: 0,
    };
    let y = OutputQuantization::new(QuantType::Uint8, params, Activation::Relu);
    let integer = |x, w_scale, result| FusedConv {
        product: Product::integer(x, w_scale, result),
        ..case.fused()
    };
    let quantized = integer(params, vec![0.1], Outcome::Bytes(y));
    let x = bytes(&case.x_shape(), &numbers(count(&case.x_shape()), 1, 0, 255));
    let w = signed(&case.w_shape(), &numbers(count(&case.w_shape()), 2, -9, 9));
    let fails = |op: &FusedConv| run(op, &[Some(&x), Some(&w)]).is_err();
    assert!(!fails(&quantized));
    assert!(fails(&case.fused()));
    for w_scale in [vec![], vec![0.1, 0.1], vec![f32::NAN]] {
        assert!(fails(&integer(params, w_scale, Outcome::Bytes(y))));
    }
    // A sum without a residual, and a residual without a sum.
    let (own, residual, sum) = (y, params, y);
    let summed = Outcome::Residual { own, residual, sum };
    assert!(fails(&integer(params, vec![0.1], summed)));
    let residual = bytes(&case.y_shape(), &numbers(count(&case.y_shape()), 1, 0, 255));
    let inputs = [Some(&x), Some(&w), None, Some(&residual)];
    assert!(run(&quantized, &inputs).is_err());
    let outside = QParams {
        scale: 0.1,
        zero_point: -1,
    };
    assert!(fails(&integer(outside, vec![0.1], Outcome::Bytes(y))));
    // A bias that leaves the accumulator, and scales that leave no multiplier.
    let bias = Tensor::vector(vec![i32::MAX; case.outputs]);
    let full = run(&quantized, &[Some(&x), Some(&w), Some(&bias)]);
    assert!(full.is_err());
    let tiny = QParams {
        scale: 1e-30,
        zero_point: 0,
    };
    assert!(fails(&integer(tiny, vec![1e-30], Outcome::Bytes(y))));
}
