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

/// The input of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Input {
    /// Bytes, channels-last.
    Bytes,
    /// Bytes in planes, with a `Transpose` to channels-last.
    Planes,
    /// Floats in planes, with a `QuantizeLinear` and a `Transpose` to channels-last.
    Floats(Quantizer),
}

/// How a `QuantizeLinear` before a convolution agrees with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Quantizer {
    /// It has the scale and the zero point of the convolution's operand.
    Same,
    /// It has another scale.
    OtherScale,
    /// It has no zero point, and its attribute has the type.
    NoZeroPoint,
}

/// The result of a convolution, channels-last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Output {
    Bytes,
    /// Bytes, after a residual was added.
    Residual,
    Float,
    /// Floats, with a `Transpose` to planes.
    FloatPlanes,
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
    input: Input,
    output: Output,
}

prop_compose! {
    fn conv_case(inputs: &'static [Input], outputs: &'static [Output])(
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
        input in prop::sample::select(inputs),
        output in prop::sample::select(outputs),
    ) -> ConvCase {
        ConvCase { seed, batch, size, groups, group_in, group_out, kernel, stride, dilation, pads, signed, per_channel, bias, input, output }
    }
}

const FLOATS: [Input; 3] = [
    Input::Floats(Quantizer::Same),
    Input::Floats(Quantizer::OtherScale),
    Input::Floats(Quantizer::NoZeroPoint),
];

impl ConvCase {
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.group_in == 1 && self.group_out == 1
    }

    fn has_float_result(&self) -> bool {
        matches!(self.output, Output::Float | Output::FloatPlanes)
    }

    /// Height and width of the result.
    fn output_size(&self) -> [usize; 2] {
        let out = |size: usize, kernel: usize, stride: i64, dilation: i64, pads: i64| {
            ((size as i64 + pads - (kernel as i64 - 1) * dilation - 1) / stride + 1) as usize
        };
        let (size, kernel, pads) = (self.size, self.kernel, &self.pads);
        let (stride, dilation) = (self.stride, self.dilation);
        [
            out(size.0, kernel.0, stride.0, dilation.0, pads[0] + pads[2]),
            out(size.1, kernel.1, stride.1, dilation.1, pads[1] + pads[3]),
        ]
    }

    /// The operand of the convolution, and the value of the graph's input `x`.
    fn operand(
        &self,
        builder: &mut Builder,
        random: &mut Random,
        x_params: QParams,
    ) -> (ValueId, Tensor) {
        let channels = self.groups * self.group_in;
        let (batch, (height, width)) = (self.batch, self.size);
        let planes = self.input != Input::Bytes;
        let shape = if planes {
            [batch, channels, height, width]
        } else {
            [batch, height, width, channels]
        };
        let dtype_of_x = match self.input {
            Input::Floats(_) => DType::F32,
            _ => dtype(self.signed),
        };
        let mut x = builder.input("x", dtype_of_x, &shape);
        if let Input::Floats(quantizer) = self.input {
            let scale = match quantizer {
                Quantizer::OtherScale => 0.5,
                _ => x_params.scale,
            };
            let zero_point = match self.signed {
                true => Tensor::scalar(x_params.zero_point as i8),
                false => Tensor::scalar(x_params.zero_point as u8),
            };
            let scale = builder.constant(Tensor::scalar(scale));
            let zero_point =
                (quantizer != Quantizer::NoZeroPoint).then(|| builder.constant(zero_point));
            let quantize = QuantizeLinear {
                output_dtype: dtype(self.signed).onnx(),
                ..default(&[])
            };
            x = builder.node(quantize, &[Some(x), Some(scale), zero_point]);
        }
        if planes {
            let perm = vec![0, 2, 3, 1];
            x = builder.node(Transpose { perm }, &[Some(x)]);
        }
        (x, random.tensor(dtype_of_x, &shape))
    }

    fn conv(&self, random: &mut Random, x_params: QParams) -> FusedConv {
        let scales = if self.per_channel {
            self.groups * self.group_out
        } else {
            1
        };
        let depth = (self.group_in * self.kernel.0 * self.kernel.1) as f32;
        let own = output(random, self.signed, 0.05 * depth.sqrt() * 0.3);
        let result = match self.output {
            Output::Bytes => Outcome::Bytes(own),
            Output::Residual => Outcome::Residual {
                own,
                residual: params(random, self.signed, 0.05),
                sum: output(random, self.signed, 0.07),
            },
            Output::Float | Output::FloatPlanes => Outcome::Float(Activation::Relu),
        };
        let w_scale = (0..scales).map(|_| random.scale(0.004)).collect();
        FusedConv {
            strides: vec![self.stride.0, self.stride.1],
            pads: self.pads.clone(),
            dilations: vec![self.dilation.0, self.dilation.1],
            group: self.groups as i64,
            layout: Layout::Nhwc,
            product: Product::integer(x_params, w_scale, result),
        }
    }
}

/// Compares the plan of a convolution with the interpreter, bit for bit, and gives the kernels of its steps.
fn kernels_of(case: &ConvCase) -> Vec<String> {
    let mut random = Random::new(case.seed);
    let mut builder = Builder::new();
    let mut x_params = params(&mut random, case.signed, 0.05);
    if case.input == Input::Floats(Quantizer::NoZeroPoint) {
        x_params.zero_point = 0;
    }
    let (x, x_value) = case.operand(&mut builder, &mut random, x_params);
    let mut inputs = vec![("x", x_value)];
    let out_c = case.groups * case.group_out;
    let (kh, kw) = case.kernel;
    let w = builder.constant(random.tensor(DType::I8, &[out_c, case.group_in, kh, kw]));
    let bias_type = if case.has_float_result() {
        DType::F32
    } else {
        DType::I32
    };
    let bias = (case.bias).then(|| builder.constant(random.tensor(bias_type, &[out_c])));
    let mut operands = vec![Some(x), Some(w), bias];
    if case.output == Output::Residual {
        let [height, width] = case.output_size();
        let shape = [case.batch, height, width, out_c];
        operands.push(Some(builder.input("r", dtype(case.signed), &shape)));
        inputs.push(("r", random.tensor(dtype(case.signed), &shape)));
    }
    let mut result = builder.node(case.conv(&mut random, x_params), &operands);
    if case.output == Output::FloatPlanes {
        let perm = vec![0, 3, 1, 2];
        result = builder.node(Transpose { perm }, &[Some(result)]);
    }
    builder.output(result);
    kernels(&check(&builder.graph, &inputs, Exactness::Bits))
}

/// Asserts that the kernels of a convolution's plan are one of the given lists.
fn assert_kernels(case: &ConvCase, allowed: &[&[&str]]) {
    let found = kernels_of(case);
    let names: Vec<&str> = found.iter().map(String::as_str).collect();
    assert!(allowed.contains(&names.as_slice()), "{case:?}: {names:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_convolution_is_one_step(case in conv_case(&[Input::Bytes], &[Output::Bytes, Output::Residual, Output::Float])) {
        assert_kernels(&case, &[&["qconv"], &["qconv_depthwise"]]);
    }

    /// A result of one channel or pixel is stored in the same way in both layouts, and the change of layout is a view.
    #[test]
    fn a_convolution_writes_its_float_result_to_planes(case in conv_case(&[Input::Bytes], &[Output::FloatPlanes])) {
        assert_kernels(&case, &[
            &["qconv nhwc→nchw"], &["qconv_depthwise nhwc→nchw"], &["qconv", "view"], &["qconv_depthwise", "view"],
        ]);
    }

    /// Layers of one channel or pixel need no change of layout, and have views in its place.
    #[test]
    fn a_depthwise_layer_between_planes_works_on_planes(case in conv_case(&[Input::Planes], &[Output::FloatPlanes])) {
        let found = kernels_of(&case);
        if case.is_depthwise() && !found.iter().any(|kernel| kernel == "view") {
            assert_eq!(found, ["qconv_depthwise nchw→nchw"]);
        }
    }

    /// The same with a quantizer before it. A quantizer of another scale stays a step.
    #[test]
    fn a_depthwise_layer_between_planes_quantizes_its_floats(case in conv_case(&FLOATS, &[Output::FloatPlanes])) {
        let found = kernels_of(&case);
        if case.is_depthwise() && !found.iter().any(|kernel| kernel == "view") {
            let fused = match case.signed {
                true => "qconv_depthwise float→int8 nchw→nchw",
                false => "qconv_depthwise float→uint8 nchw→nchw",
            };
            match case.input {
                Input::Floats(Quantizer::OtherScale) => assert_eq!(found, ["quantize", "qconv_depthwise nchw→nchw"]),
                _ => assert_eq!(found, [fused]),
            }
        }
    }

    #[test]
    fn quantizing_planes_and_changing_their_layout_is_one_step(case in conv_case(&FLOATS, &[Output::Bytes])) {
        assert_kernels(&case, &[
            &["quantize nchw→nhwc", "qconv"], &["quantize nchw→nhwc", "qconv_depthwise"],
            &["quantize", "view", "qconv"], &["quantize", "view", "qconv_depthwise"],
        ]);
    }
}

/// The layers have too many channels to transpose a whole image at once.
#[test]
fn a_large_result_goes_to_planes_in_pieces() {
    for (groups, group_in, group_out) in [(1, 4, 900), (1000, 1, 1)] {
        let case = ConvCase {
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
            input: Input::Bytes,
            output: Output::FloatPlanes,
        };
        assert_kernels(
            &case,
            &[&["qconv nhwc→nchw"], &["qconv_depthwise nhwc→nchw"]],
        );
    }
}

/// The layers have enough weights for threads to split the channels, and the last part is not a multiple of 64. Many pixels are computed in pieces.
#[test]
fn threads_split_the_channels_of_few_pixels() {
    for (size, group_in, group_out) in [((7, 7), 64, 250), ((20, 20), 4, 400)] {
        for output in [Output::Bytes, Output::Residual, Output::Float] {
            let case = ConvCase {
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
                input: Input::Bytes,
                output,
            };
            assert_kernels(&case, &[&["qconv"]]);
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
