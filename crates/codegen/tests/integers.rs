//! Integer plans give the interpreter's bits, on every instruction set and with any number of threads.

mod support;

use std::sync::Arc;

use octofold_ir::ValueId;
use octofold_ops::families::{
    Activation, BinaryForm, BinaryKind, DequantizeLinear, FusedBinary, FusedConcat, FusedConv,
    FusedGlobalPool, FusedLinear, FusedPool, Layout, Outcome, OutputQuantization, PoolKind,
    Product, QuantizeLinear, Rescale, TableLookup, Transpose,
};
use octofold_quant::{QParams, QuantType};
use octofold_runtime::pool::Pool;
use octofold_runtime::{Core, Session, SessionOptions};
use octofold_tensor::{DType, Tensor};
use proptest::prelude::*;
use support::{Builder, Exactness, Random, check, default, dtype, kernels, output, params};

/// What becomes of the sums of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Bytes,
    Residual,
    Float,
    /// Floats, and a `Transpose` to channels-first.
    FloatNchw,
    /// The same, with a `Transpose` to channels-last before it.
    Planes,
    /// The same, with a `QuantizeLinear` before that.
    FloatPlanes,
    /// Bytes, with a `QuantizeLinear` and a `Transpose` to channels-last before the convolution.
    First,
}

#[derive(Clone, Debug)]
struct ConvCase {
    seed: u64,
    batch: usize,
    size: (usize, usize),
    groups: usize,
    group_in: usize,
    group_out: usize,
    kernel: (usize, usize),
    stride: (i64, i64),
    dilation: (i64, i64),
    pads: Vec<i64>,
    signed: bool,
    per_channel: bool,
    bias: bool,
    ending: Ending,
}

prop_compose! {
    fn conv_case()(
        seed in any::<u64>(),
        batch in 1_usize..3,
        size in (7_usize..14, 7_usize..14),
        (groups, group_in, group_out) in prop_oneof![
            (Just(1_usize), 1_usize..20, 1_usize..40),
            (2_usize..4, 1_usize..9, 1_usize..18),
            (2_usize..40, Just(1_usize), Just(1_usize)),
            (Just(1_usize), Just(16_usize), Just(64_usize)),
        ],
        kernel in (1_usize..4, 1_usize..4),
        stride in (1_i64..3, 1_i64..3),
        dilation in (1_i64..3, 1_i64..3),
        pads in prop::collection::vec(0_i64..3, 4),
        signed in any::<bool>(),
        per_channel in any::<bool>(),
        bias in any::<bool>(),
        ending in prop_oneof![Just(Ending::Bytes), Just(Ending::Residual), Just(Ending::Float), Just(Ending::FloatNchw), Just(Ending::Planes), Just(Ending::FloatPlanes), Just(Ending::First)],
    ) -> ConvCase {
        ConvCase { seed, batch, size, groups, group_in, group_out, kernel, stride, dilation, pads, signed, per_channel, bias, ending }
    }
}

fn run_conv(case: &ConvCase) {
    let mut random = Random::new(case.seed);
    let mut builder = Builder::new();
    let (in_c, out_c) = (case.groups * case.group_in, case.groups * case.group_out);
    let (height, width) = case.size;
    let planes = matches!(
        case.ending,
        Ending::Planes | Ending::FloatPlanes | Ending::First
    );
    let x_shape = if planes {
        [case.batch, in_c, height, width]
    } else {
        [case.batch, height, width, in_c]
    };
    let mut x_params = params(&mut random, case.signed, 0.05);
    let quantizes = matches!(case.ending, Ending::FloatPlanes | Ending::First);
    let x_type = if quantizes {
        DType::F32
    } else {
        dtype(case.signed)
    };
    let mut x = builder.input("x", x_type, &x_shape);
    // Another scale is left to a step of its own; the type may come without a zero point.
    let (other, untold) = (case.seed.is_multiple_of(5), case.seed % 5 == 1);
    if quantizes {
        if untold {
            x_params.zero_point = 0;
        }
        let scale = if other { 0.5 } else { x_params.scale };
        let zero_point = match case.signed {
            true => Tensor::scalar(x_params.zero_point as i8),
            false => Tensor::scalar(x_params.zero_point as u8),
        };
        let scale = builder.constant(Tensor::scalar(scale));
        let zero_point = (!untold).then(|| builder.constant(zero_point));
        let quantize = QuantizeLinear {
            output_dtype: dtype(case.signed).onnx(),
            ..default(&[])
        };
        x = builder.node(quantize, &[Some(x), Some(scale), zero_point]);
    }
    if planes {
        let perm = vec![0, 2, 3, 1];
        x = builder.node(Transpose { perm }, &[Some(x)]);
    }
    let w = builder.constant(random.tensor(
        DType::I8,
        &[out_c, case.group_in, case.kernel.0, case.kernel.1],
    ));
    let float = matches!(
        case.ending,
        Ending::Float | Ending::FloatNchw | Ending::Planes | Ending::FloatPlanes
    );
    let bias_type = if float { DType::F32 } else { DType::I32 };
    let bias = case
        .bias
        .then(|| builder.constant(random.tensor(bias_type, &[out_c])));
    let scales = if case.per_channel { out_c } else { 1 };
    let depth = (case.group_in * case.kernel.0 * case.kernel.1) as f32;
    let y = (!float).then(|| output(&mut random, case.signed, 0.05 * depth.sqrt() * 0.3));
    let residual =
        (case.ending == Ending::Residual).then(|| params(&mut random, case.signed, 0.05));
    let w_scale = (0..scales).map(|_| random.scale(0.004)).collect();
    let result = match (y, residual) {
        (None, _) => Outcome::Float(Activation::Relu),
        (Some(y), None) => Outcome::Bytes(y),
        (Some(own), Some(residual)) => Outcome::Residual {
            own,
            residual,
            sum: output(&mut random, case.signed, 0.07),
        },
    };
    let conv = FusedConv {
        strides: vec![case.stride.0, case.stride.1],
        pads: case.pads.clone(),
        dilations: vec![case.dilation.0, case.dilation.1],
        group: case.groups as i64,
        layout: Layout::Nhwc,
        product: Product::integer(x_params, w_scale, result),
    };
    let mut inputs = vec![("x", random.tensor(x_type, &x_shape))];
    let mut operands = vec![Some(x), Some(w), bias];
    if residual.is_some() {
        let out = |size: usize, kernel: usize, stride: i64, dilation: i64, pads: i64| {
            (size as i64 + pads - (kernel as i64 - 1) * dilation - 1) / stride + 1
        };
        let (pads, dilation, stride) = (&case.pads, case.dilation, case.stride);
        let out_h = out(
            height,
            case.kernel.0,
            stride.0,
            dilation.0,
            pads[0] + pads[2],
        );
        let out_w = out(
            width,
            case.kernel.1,
            stride.1,
            dilation.1,
            pads[1] + pads[3],
        );
        let shape = [case.batch, out_h as usize, out_w as usize, out_c];
        operands.push(Some(builder.input("r", dtype(case.signed), &shape)));
        inputs.push(("r", random.tensor(dtype(case.signed), &shape)));
    }
    let mut result = builder.node(conv, &operands);
    if float && case.ending != Ending::Float {
        let perm = vec![0, 3, 1, 2];
        result = builder.node(Transpose { perm }, &[Some(result)]);
    }
    builder.output(result);
    let plan = check(&builder.graph, &inputs, Exactness::Bits);
    let kernels: Vec<String> = kernels(&plan);
    let kernels: Vec<&str> = kernels.iter().map(String::as_str).collect();
    let float_planes = match case.signed {
        true => "qconv_depthwise float→int8 nchw→nchw",
        false => "qconv_depthwise float→uint8 nchw→nchw",
    };
    assert!(
        match case.ending {
            // One channel or pixel is stored in the same way in both layouts.
            Ending::FloatNchw => matches!(
                *kernels,
                ["qconv nhwc→nchw" | "qconv_depthwise nhwc→nchw"]
                    | ["qconv" | "qconv_depthwise", "view"]
            ),
            Ending::Planes | Ending::FloatPlanes => {
                let depthwise = case.groups > 1 && case.group_in == 1 && case.group_out == 1;
                let fused = match (quantizes, other) {
                    (false, _) => kernels == ["qconv_depthwise nchw→nchw"],
                    (true, false) => kernels == [float_planes],
                    (true, true) => kernels == ["quantize", "qconv_depthwise nchw→nchw"],
                };
                fused || !depthwise || kernels.contains(&"view")
            }
            Ending::First => matches!(
                *kernels,
                ["quantize nchw→nhwc", "qconv" | "qconv_depthwise"]
                    | ["quantize", "view", "qconv" | "qconv_depthwise"]
            ),
            _ => matches!(*kernels, ["qconv" | "qconv_depthwise"]),
        },
        "{plan}"
    );
}

/// So many channels that an image is computed in several strips of pixels.
#[test]
fn a_change_of_layout_goes_by_strips() {
    for (groups, group_in, group_out) in [(1, 4, 900), (1000, 1, 1)] {
        run_conv(&ConvCase {
            seed: 5,
            batch: 2,
            size: (13, 11),
            groups,
            group_in,
            group_out,
            kernel: (1, 3),
            stride: (1, 1),
            dilation: (1, 1),
            pads: vec![0, 1, 0, 1],
            signed: false,
            per_channel: true,
            bias: true,
            ending: Ending::FloatNchw,
        });
    }
}

/// So many weights that threads split the channels, the last one of a part that is no multiple of 64; of many pixels, in strips.
#[test]
fn threads_split_the_channels_of_few_pixels() {
    for (size, group_in, group_out) in [((7, 7), 64, 250), ((20, 20), 4, 400)] {
        for ending in [Ending::Bytes, Ending::Residual, Ending::Float] {
            run_conv(&ConvCase {
                seed: 5,
                batch: 1,
                size,
                groups: 1,
                group_in,
                group_out,
                kernel: (3, 3),
                stride: (1, 1),
                dilation: (1, 1),
                pads: vec![1; 4],
                signed: false,
                per_channel: true,
                bias: true,
                ending,
            });
        }
    }
}

/// Sessions that share their threads, each on a thread of its own, as a server runs them.
#[test]
fn sessions_share_a_pool() {
    let mut random = Random::new(9);
    let mut builder = Builder::new();
    let shape = [1, 14, 14, 64];
    let x = builder.input("x", DType::U8, &shape);
    let w = builder.constant(random.tensor(DType::I8, &[250, 64, 3, 3]));
    let conv = FusedConv {
        layout: Layout::Nhwc,
        product: Product::integer(
            params(&mut random, false, 0.05),
            vec![0.004],
            Outcome::Bytes(output(&mut random, false, 0.3)),
        ),
        ..default(&[])
    };
    let y = builder.node(conv, &[Some(x), Some(w)]);
    builder.output(y);
    let inputs: Vec<_> = (0..4).map(|_| random.tensor(DType::U8, &shape)).collect();
    let plan = support::plan(&builder.graph);
    let pool = Arc::new(Pool::new(3).unwrap());
    std::thread::scope(|scope| {
        for input in &inputs {
            let (plan, pool) = (&plan, &pool);
            scope.spawn(move || {
                let options = SessionOptions {
                    threads: 1,
                    ..SessionOptions::DEFAULT
                };
                let mut alone = Session::new(Arc::clone(plan), options).unwrap();
                let expected = alone.run(&[("x", input.clone())]).unwrap();
                let (plan, pool) = (Arc::clone(plan), Arc::clone(pool));
                let mut session = Session::with_pool(plan, options, pool).unwrap();
                assert_eq!(session.threads(), 3);
                for _ in 0..20 {
                    assert_eq!(session.run(&[("x", input.clone())]).unwrap(), expected);
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn convolutions(case in conv_case()) {
        run_conv(&case);
    }

    #[test]
    fn linear_layers(
        seed in any::<u64>(), rows in 1_usize..20, k in 1_usize..70, n in 1_usize..70,
        signed in any::<bool>(), float in any::<bool>(), three in any::<bool>(),
    ) {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let shape = if three { vec![1, rows, k] } else { vec![rows, k] };
        let x = builder.input("x", dtype(signed), &shape);
        let w = builder.constant(random.tensor(DType::I8, &[k, n]));
        let bias = builder.constant(random.tensor(if float { DType::F32 } else { DType::I32 }, &[n]));
        let (x_params, w_scale) = (params(&mut random, signed, 0.05), (0..n).map(|_| random.scale(0.004)).collect());
        let result = if float {
            Outcome::Float(Activation::None)
        } else {
            Outcome::Bytes(output(&mut random, signed, 0.02 * (k as f32).sqrt()))
        };
        let linear = FusedLinear { product: Product::integer(x_params, w_scale, result) };
        let y = builder.node(linear, &[Some(x), Some(w), Some(bias)]);
        builder.output(y);
        let plan = check(&builder.graph, &[("x", random.tensor(dtype(signed), &shape))], Exactness::Bits);
        prop_assert_eq!(plan.steps()[0].kernel, Core::QLinear.into());
    }

    #[test]
    fn sums_and_products(
        seed in any::<u64>(), n in 1_usize..3, h in 1_usize..9, c in 1_usize..40,
        signed in any::<bool>(), swap in any::<bool>(), mul in any::<bool>(), form in 0_usize..4,
    ) {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let large = vec![n, h, h, c];
        let small = [vec![n, h, h, c], vec![c], vec![n, 1, 1, c], vec![]][form].clone();
        let shapes = if swap { [small, large] } else { [large, small] };
        let a = builder.input("a", dtype(signed), &shapes[0]);
        let b = builder.input("b", dtype(signed), &shapes[1]);
        let binary = FusedBinary {
            kind: if mul { BinaryKind::Mul } else { BinaryKind::Add },
            form: BinaryForm::Bytes {
                a: params(&mut random, signed, 0.02),
                b: params(&mut random, signed, 0.05),
                y: output(&mut random, signed, 0.06),
            },
        };
        let y = builder.node(binary, &[Some(a), Some(b)]);
        builder.output(y);
        let inputs = [("a", random.tensor(dtype(signed), &shapes[0])), ("b", random.tensor(dtype(signed), &shapes[1]))];
        let plan = check(&builder.graph, &inputs, Exactness::Bits);
        prop_assert!(matches!(plan.steps()[0].kernel.core(), Core::QAdd | Core::QMul));
    }

    #[test]
    fn pools_tables_and_concatenations(
        seed in any::<u64>(), n in 1_usize..3, h in 4_usize..10, w in 4_usize..10, c in 1_usize..40,
        signed in any::<bool>(), max in any::<bool>(), ceil in any::<bool>(), include in any::<bool>(),
        kernel in 1_i64..4, stride in 1_i64..4, pad in 0_i64..2,
    ) {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let shape = [n, h, w, c];
        let x = builder.input("x", dtype(signed), &shape);
        let table = builder.constant(random.tensor(DType::U8, &[256]));
        let looked_up = builder.node(TableLookup {}, &[Some(x), Some(table)]);
        let joined = builder.node(
            FusedConcat {
                axis: 3,
                x_scale: vec![0.02, 0.05],
                x_zero_point: vec![random.int(-128, 127).max(if signed { -128 } else { 0 }), 7],
                y: output(&mut random, signed, 0.04),
            },
            &[Some(x), Some(looked_up)],
        );
        let kind = if max { PoolKind::Max } else { PoolKind::Average };
        let pool = FusedPool {
            kind,
            kernel_shape: vec![kernel, kernel + 1],
            strides: vec![stride, 1],
            pads: vec![pad.min(kernel - 1), 0, pad.min(kernel - 1), pad],
            dilations: vec![1, 1],
            ceil_mode: ceil,
            count_include_pad: include && !max,
            layout: Layout::Nhwc,
            rescale: Some(Rescale { x: params(&mut random, signed, 0.05), y: output(&mut random, signed, 0.05) }),
        };
        let pooled = builder.node(pool, &[Some(joined)]);
        let global = FusedGlobalPool {
            kind,
            layout: Layout::Nhwc,
            rescale: Some(Rescale { x: params(&mut random, signed, 0.05), y: output(&mut random, signed, 0.05) }),
        };
        let global = builder.node(global, &[Some(joined)]);
        builder.output(pooled);
        builder.output(global);
        let plan = check(&builder.graph, &[("x", random.tensor(dtype(signed), &shape))], Exactness::Bits);
        prop_assert!(plan.steps().iter().all(|step| step.kernel.core() != Core::Portable));
    }
}

/// Quantizes, moves to channels-last, sums with itself, moves back and dequantizes: two steps at the edges, none for layout alone.
#[test]
fn quantization_takes_the_change_of_layout_along() {
    for (before, channels) in [(false, 3), (true, 3), (false, 1), (true, 1), (true, 20)] {
        let mut random = Random::new(channels as u64);
        let mut builder = Builder::new();
        let shape = [2, channels, 9, 11];
        let x = builder.input("x", DType::F32, &shape);
        let scale = builder.constant(Tensor::scalar(0.007_f32));
        let zero_point = builder.constant(Tensor::scalar(120_u8));
        let quantizer = [Some(scale), Some(zero_point)];
        let to_nhwc = Transpose {
            perm: vec![0, 2, 3, 1],
        };
        let to_nchw = Transpose {
            perm: vec![0, 3, 1, 2],
        };
        let quantize = |builder: &mut Builder, x: ValueId| {
            builder.node(
                default::<QuantizeLinear>(&[]),
                &[Some(x), quantizer[0], quantizer[1]],
            )
        };
        let dequantize = |builder: &mut Builder, x: ValueId| {
            builder.node(
                default::<DequantizeLinear>(&[]),
                &[Some(x), quantizer[0], quantizer[1]],
            )
        };
        let q = if before {
            let t = builder.node(to_nhwc, &[Some(x)]);
            quantize(&mut builder, t)
        } else {
            let q = quantize(&mut builder, x);
            builder.node(to_nhwc, &[Some(q)])
        };
        let p = QParams {
            scale: 0.007,
            zero_point: 120,
        };
        let add = FusedBinary {
            kind: BinaryKind::Add,
            form: BinaryForm::Bytes {
                a: p,
                b: p,
                y: OutputQuantization::new(QuantType::Uint8, p, Activation::None),
            },
        };
        let sum = builder.node(add, &[Some(q), Some(q)]);
        let y = if before {
            let t = builder.node(to_nchw, &[Some(sum)]);
            dequantize(&mut builder, t)
        } else {
            let d = dequantize(&mut builder, sum);
            builder.node(to_nchw, &[Some(d)])
        };
        builder.output(y);
        let plan = check(
            &builder.graph,
            &[("x", random.tensor(DType::F32, &shape))],
            Exactness::Bits,
        );
        // One channel is stored in the same way in both layouts.
        let expected: &[&str] = match (channels, before) {
            (1, false) => &["quantize", "view", "qadd", "dequantize", "view"],
            (1, true) => &["view", "quantize", "qadd", "view", "dequantize"],
            _ => &["quantize nchw→nhwc", "qadd", "dequantize nhwc→nchw"],
        };
        assert_eq!(kernels(&plan), expected);
    }
}
