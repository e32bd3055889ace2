//! The lowered operators other than convolution, against formulas and against the ONNX operators that they stand for.

use octofold_ops::families::{
    Activation, AutoPad, AveragePool, BinaryForm, BinaryKind, FusedBinary, FusedConcat,
    FusedGlobalPool, FusedLinear, FusedPool, Layout, MaxPool, Outcome, OutputQuantization,
    PoolKind, Product, Rescale, TableLookup,
};
use octofold_ops::{AttributeMap, Described, Inputs, OpError, Operator};
use octofold_quant::requantize::{self, Operand};
use octofold_quant::{QParams, QuantType, affine};
use octofold_tensor::Tensor;

fn run(op: &impl Operator, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    Ok(op.evaluate(Inputs(&inputs), 1)?.remove(0))
}

fn byte_sequence(shape: &[usize], factor: usize) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::new(
        shape.iter().copied(),
        (0..count).map(|i| (i * factor + 11) as u8).collect(),
    )
    .unwrap()
}

const A: QParams = QParams {
    scale: 0.02,
    zero_point: 100,
};
const B: QParams = QParams {
    scale: 0.013,
    zero_point: 30,
};

fn output(scale: f32, zero_point: i32) -> OutputQuantization {
    OutputQuantization {
        dtype: QuantType::Uint8,
        params: QParams { scale, zero_point },
        lo: 0,
        hi: 255,
    }
}

#[test]
fn a_linear_layer_requantizes_every_column_by_its_scale() {
    let x = byte_sequence(&[2, 2, 3], 37);
    let w = Tensor::new([3, 2], vec![5_i8, -7, 100, 3, -128, 127]).unwrap();
    let bias = Tensor::vector(vec![500_i32, -900]);
    let op = FusedLinear {
        product: Product::integer(A, vec![0.1, 0.3], Outcome::Bytes(output(3.0, 50))),
    };
    let y = run(&op, &[&x, &w, &bias]).unwrap();
    let (xv, wv) = (x.values::<u8>().unwrap(), w.values::<i8>().unwrap());
    let expected: Vec<u8> = (0..8)
        .map(|i| {
            let (row, n) = (i / 2, i % 2);
            let dot: i32 = (0..3)
                .map(|k| (i32::from(xv[row * 3 + k]) - 100) * i32::from(wv[k * 2 + n]))
                .sum();
            let multiplier = requantize::multiplier(0.02, [0.1, 0.3][n], 3.0);
            requantize::requantize(dot + [500, -900][n], multiplier, 50, 0, 255) as u8
        })
        .collect();
    assert_eq!(
        (y.shape(), y.values::<u8>().unwrap()),
        (&[2, 2, 2][..], &expected[..])
    );

    let float = FusedLinear {
        product: Product::Float(Activation::Relu),
    };
    let x = Tensor::vector(vec![1.0_f32, -2.0]);
    let w = Tensor::new([2, 2], vec![1.0_f32, 2.0, 3.0, -4.0]).unwrap();
    assert_eq!(
        run(&float, &[&x, &w]).unwrap().values::<f32>().unwrap(),
        [0.0, 10.0]
    );
    assert!(run(&float, &[&w, &x]).is_err());
    assert!(run(&op, &[&x, &w, &bias]).is_err());
}

#[test]
fn sums_and_products_broadcast_bytes() {
    let (a, b) = (byte_sequence(&[2, 3], 41), byte_sequence(&[2, 1], 97));
    for (kind, f) in [
        (BinaryKind::Add, requantize::add as fn(_, _, _) -> i32),
        (BinaryKind::Mul, requantize::mul),
    ] {
        let to = output(0.05, 60);
        let op = FusedBinary {
            kind,
            form: BinaryForm::Bytes { a: A, b: B, y: to },
        };
        let y = run(&op, &[&a, &b]).unwrap();
        let (av, bv) = (a.values::<u8>().unwrap(), b.values::<u8>().unwrap());
        let expected: Vec<_> = (0..6)
            .map(|i| {
                let (a, b) = (av[i].into(), bv[i / 3].into());
                f(Operand::new(a, A), Operand::new(b, B), to.target()) as u8
            })
            .collect();
        assert_eq!(y.values::<u8>().unwrap(), expected);
        // Without the parameters of one operand there is no such operator.
        let mut attributes: AttributeMap = op.attributes().into_iter().collect();
        attributes.take("b_scale");
        attributes.take("b_zero_point");
        assert!(FusedBinary::from_attributes(&mut attributes).is_err());
        assert!(run(&op, &[&a, &byte_sequence(&[2, 2], 1)]).is_err());
    }
    let float = FusedBinary {
        kind: BinaryKind::Add,
        form: BinaryForm::Float(Activation::Clip { min: 0.0, max: 6.0 }),
    };
    let (a, b) = (
        Tensor::vector(vec![1.0_f32, -5.0, f32::NAN]),
        Tensor::scalar(5.5_f32),
    );
    let y = run(&float, &[&a, &b]).unwrap();
    let y = y.values::<f32>().unwrap();
    assert!(y[0] == 6.0 && y[1] == 0.5 && y[2].is_nan());
}

/// [N, C, H, W] to [N, H, W, C].
fn channels_last(x: &Tensor) -> Tensor {
    let &[n, c, h, w] = x.shape() else {
        panic!("no images")
    };
    let values = x.values::<u8>().unwrap();
    let moved =
        (0..x.len()).map(|i| values[(i / (h * w * c) * c + i % c) * h * w + i / c % (h * w)]);
    Tensor::new([n, h, w, c], moved.collect()).unwrap()
}

fn dequantized(x: &Tensor, params: QParams) -> Tensor {
    let values = x
        .values::<u8>()
        .unwrap()
        .iter()
        .map(|&q| affine::dequantize(q.into(), params));
    Tensor::new(x.shape().iter().copied(), values.collect()).unwrap()
}

#[test]
fn pooled_bytes_are_the_pooled_numbers_to_half_a_step() {
    let x = byte_sequence(&[2, 3, 7, 5], 29);
    let to = output(0.03, 40);
    for (ceil_mode, count_include_pad) in [(false, false), (true, false), (true, true)] {
        for kind in [PoolKind::Max, PoolKind::Average] {
            let op = FusedPool {
                kind,
                kernel_shape: vec![3, 2],
                strides: vec![2, 2],
                pads: vec![1, 0, 1, 1],
                dilations: vec![1, 2],
                ceil_mode,
                count_include_pad,
                layout: Layout::Nchw,
                rescale: Some(Rescale { x: A, y: to }),
            };
            let y = run(&op, &[&x]).unwrap();
            let float = FusedPool {
                rescale: None,
                ..op.clone()
            };
            let real = run(&float, &[&dequantized(&x, A)]).unwrap();
            let onnx = match kind {
                PoolKind::Max => {
                    let op = MaxPool {
                        auto_pad: AutoPad::NotSet,
                        ceil_mode,
                        dilations: vec![1, 2],
                        kernel_shape: vec![3, 2],
                        pads: vec![1, 0, 1, 1],
                        storage_order: 0,
                        strides: vec![2, 2],
                    };
                    run(&op, &[&dequantized(&x, A)]).unwrap()
                }
                PoolKind::Average => {
                    let op = AveragePool {
                        auto_pad: AutoPad::NotSet,
                        ceil_mode,
                        count_include_pad,
                        dilations: vec![1, 2],
                        kernel_shape: vec![3, 2],
                        pads: vec![1, 0, 1, 1],
                        strides: vec![2, 2],
                    };
                    run(&op, &[&dequantized(&x, A)]).unwrap()
                }
            };
            assert_eq!(real, onnx);
            assert_eq!(y.shape(), real.shape());
            for (&q, &real) in y
                .values::<u8>()
                .unwrap()
                .iter()
                .zip(real.values::<f32>().unwrap())
            {
                let steps = (f64::from(real) / f64::from(0.03_f32) + 40.0).clamp(0.0, 255.0);
                assert!((steps - f64::from(q)).abs() <= 0.5 + 1e-4, "{q} {steps}");
            }
            let last = FusedPool {
                layout: Layout::Nhwc,
                ..op
            };
            assert_eq!(
                run(&last, &[&channels_last(&x)]).unwrap(),
                channels_last(&y)
            );
        }
    }
}

#[test]
fn global_pools_keep_two_axes_of_one() {
    let x = byte_sequence(&[2, 3, 4, 5], 31);
    for kind in [PoolKind::Max, PoolKind::Average] {
        let op = FusedGlobalPool {
            kind,
            layout: Layout::Nchw,
            rescale: Some(Rescale {
                x: A,
                y: output(0.02, 100),
            }),
        };
        let y = run(&op, &[&x]).unwrap();
        assert_eq!(y.shape(), [2, 3, 1, 1]);
        let expected: Vec<u8> = x
            .values::<u8>()
            .unwrap()
            .chunks(20)
            .map(|plane| match kind {
                PoolKind::Max => plane.iter().copied().max().unwrap(),
                PoolKind::Average => {
                    let sum = plane.iter().map(|&q| i32::from(q) - 100).sum();
                    requantize::mean(sum, 20, A, A, 0, 255) as u8
                }
            })
            .collect();
        assert_eq!(y.values::<u8>().unwrap(), expected);
        let last = FusedGlobalPool {
            layout: Layout::Nhwc,
            ..op.clone()
        };
        let y_last = run(&last, &[&channels_last(&x)]).unwrap();
        assert_eq!(
            (y_last.shape(), y_last.values::<u8>().unwrap()),
            (&[2, 1, 1, 3][..], &expected[..])
        );
        // Without the quantization of the result there is no such operator, and one of floats refuses bytes.
        let mut attributes: AttributeMap = op.attributes().into_iter().collect();
        for name in ["y_type", "y_scale", "y_zero_point"] {
            assert!(attributes.take(name).is_some());
        }
        assert!(FusedGlobalPool::from_attributes(&mut attributes).is_err());
        let float = FusedGlobalPool {
            rescale: None,
            ..op
        };
        assert!(run(&float, &[&x]).is_err());
    }
}

#[test]
fn concatenation_moves_every_input_to_the_result() {
    let (a, b) = (
        byte_sequence(&[2, 1, 2], 50),
        Tensor::new([2, 2, 2], (-4..4).collect::<Vec<i8>>()).unwrap(),
    );
    let to = output(0.05, 9);
    let op = FusedConcat {
        axis: 1,
        x_scale: vec![0.02, 0.1],
        x_zero_point: vec![100, -3],
        y: to,
    };
    let y = run(&op, &[&a, &b]).unwrap();
    assert_eq!(y.shape(), [2, 3, 2]);
    let (av, bv) = (a.values::<u8>().unwrap(), b.values::<i8>().unwrap());
    let from_b = QParams {
        scale: 0.1,
        zero_point: -3,
    };
    let expected: Vec<u8> = (0..12)
        .map(|i| {
            let (block, inside) = (i / 6, i % 6);
            let q = if inside < 2 {
                requantize::rescale(av[block * 2 + inside].into(), A, to.params, 0, 255)
            } else {
                requantize::rescale(bv[block * 4 + inside - 2].into(), from_b, to.params, 0, 255)
            };
            q as u8
        })
        .collect();
    assert_eq!(y.values::<u8>().unwrap(), expected);
    // -3 is no zero point of unsigned bytes, and every input needs its scale.
    assert!(run(&op, &[&a, &a]).is_err());
    assert!(run(&op, &[&a]).is_err());
    assert!(
        run(
            &FusedConcat {
                axis: 3,
                ..op.clone()
            },
            &[&a, &b]
        )
        .is_err()
    );
    assert!(run(&FusedConcat { axis: 0, ..op }, &[&a, &b]).is_err());
}

#[test]
fn tables_are_indexed_by_bits() {
    let table = Tensor::vector((0..=255_u8).rev().collect());
    let x = Tensor::new([2, 2], vec![-1_i8, 0, 127, -128]).unwrap();
    let y = run(&TableLookup {}, &[&x, &table]).unwrap();
    assert_eq!(y.values::<u8>().unwrap(), [0, 255, 128, 127]);
    assert!(run(&TableLookup {}, &[&x, &Tensor::vector(vec![0_u8; 255])]).is_err());
    assert!(run(&TableLookup {}, &[&Tensor::scalar(1.0_f32), &table]).is_err());
}
