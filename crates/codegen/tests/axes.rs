//! Convolutions and pools over one, two and three axes have kernels that agree with the interpreter.

mod support;

use octofold_ir::ValueId;
use octofold_ops::families::{
    Activation, FusedConv, FusedGlobalPool, FusedPool, Layout, Outcome, PoolKind, Product, Rescale,
    Transpose,
};
use octofold_quant::QParams;
use octofold_runtime::{Core, Plan};
use octofold_tensor::{DType, Tensor};
use proptest::prelude::*;
use support::{Builder, Exactness, Random, check, output};

const AXES: usize = 3;

/// A window along one axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: usize,
    kernel: usize,
    stride: i64,
    dilation: i64,
    pads: (i64, i64),
}

prop_compose! {
    fn axis()(
        size in 5_usize..12, kernel in 1_usize..4, stride in 1_i64..3, dilation in 1_i64..3, pads in (0_i64..3, 0_i64..3),
    ) -> Axis {
        Axis { size, kernel, stride, dilation, pads }
    }
}

/// Groups, and the input and output channels of a group.
fn groups() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        (1_usize..3, 1_usize..20, 1_usize..40),
        (2_usize..40, Just(1), Just(1)),
    ]
}

fn each<T>(axes: &[Axis], value: impl Fn(&Axis) -> T) -> Vec<T> {
    axes.iter().map(value).collect()
}

/// The pads of some axes, all begins first, but no more than half of a window of `kernel` taps.
fn pads(axes: &[Axis], most: impl Fn(&Axis) -> i64) -> Vec<i64> {
    let begins = axes.iter().map(|axis| axis.pads.0.min(most(axis)));
    let ends = axes.iter().map(|axis| axis.pads.1.min(most(axis)));
    begins.chain(ends).collect()
}

fn conv(axes: &[Axis], groups: usize, product: Product) -> FusedConv {
    FusedConv {
        strides: each(axes, |axis| axis.stride),
        pads: pads(axes, |_| 2),
        dilations: each(axes, |axis| axis.dilation),
        group: groups as i64,
        layout: Layout::Nhwc,
        product,
    }
}

/// A maximum and a mean over windows, and both over all pixels, of channels-last images, as outputs.
fn pools(builder: &mut Builder, axes: &[Axis], x: ValueId, rescale: Option<Rescale>) {
    for kind in [PoolKind::Max, PoolKind::Average] {
        let pool = FusedPool {
            kind,
            kernel_shape: each(axes, |axis| axis.kernel as i64),
            strides: each(axes, |axis| axis.stride),
            // A window of padding alone has no maximum.
            pads: pads(axes, |axis| (axis.kernel as i64 - 1) * axis.dilation / 2),
            dilations: each(axes, |axis| axis.dilation),
            ceil_mode: true,
            count_include_pad: axes[0].stride == 2,
            layout: Layout::Nhwc,
            rescale,
        };
        let layout = Layout::Nhwc;
        let whole = FusedGlobalPool {
            kind,
            layout,
            rescale,
        };
        let pooled = builder.node(pool, &[Some(x)]);
        builder.output(pooled);
        let pooled = builder.node(whole, &[Some(x)]);
        builder.output(pooled);
    }
}

/// The channels-last form of the input `x`, and a value of the input.
fn images(
    builder: &mut Builder,
    random: &mut Random,
    dtype: DType,
    (axes, channels): (&[Axis], usize),
) -> (ValueId, Tensor) {
    let mut shape = vec![2, channels];
    shape.extend(each(axes, |axis| axis.size));
    let x = builder.input("x", dtype, &shape);
    let perm = Layout::Nhwc.permutation(shape.len());
    let last = builder.node(Transpose { perm }, &[Some(x)]);
    (last, random.tensor(dtype, &shape))
}

fn weights(axes: &[Axis], outputs: usize, inputs: usize) -> Vec<usize> {
    let kernel = each(axes, |axis| axis.kernel);
    [outputs, inputs].into_iter().chain(kernel).collect()
}

/// The windows of a convolution must fit their axes.
fn fits(axes: &[Axis]) -> bool {
    let room = |axis: &Axis| {
        axis.size as i64 + axis.pads.0 + axis.pads.1 > (axis.kernel as i64 - 1) * axis.dilation
    };
    axes.iter().all(room)
}

fn has_kernels(plan: &Plan) -> bool {
    let mut steps = plan.steps().iter();
    steps.all(|step| step.kernel.core() != Core::Portable)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn floats(seed in any::<u64>(), axes in prop::collection::vec(axis(), 1..=AXES), (groups, group_in, group_out) in groups(), residual in any::<bool>()) {
        prop_assume!(fits(&axes));
        let (random, builder) = (&mut Random::new(seed), &mut Builder::new());
        let (x, value) = images(builder, random, DType::F32, (&axes, groups * group_in));
        let outputs = groups * group_out;
        let w = builder.constant(random.tensor(DType::F32, &weights(&axes, outputs, group_in)));
        let bias = builder.constant(random.tensor(DType::F32, &[outputs]));
        let layer = conv(&axes, groups, Product::Float(Activation::Relu));
        let mut y = builder.node(layer.clone(), &[Some(x), Some(w), Some(bias)]);
        if residual {
            y = builder.node(layer, &[Some(x), Some(w), None, Some(y)]);
        }
        let perm = Layout::Nchw.permutation(axes.len() + 2);
        let first = builder.node(Transpose { perm }, &[Some(y)]);
        builder.output(first);
        pools(builder, &axes, x, None);
        let plan = check(&builder.graph, &[("x", value)], Exactness::Within(1e-4));
        prop_assert!(has_kernels(&plan), "{}", plan);
    }

    #[test]
    fn bytes(seed in any::<u64>(), axes in prop::collection::vec(axis(), 1..=AXES), (groups, group_in, group_out) in groups(), float in any::<bool>()) {
        prop_assume!(fits(&axes));
        let (random, builder) = (&mut Random::new(seed), &mut Builder::new());
        let (x, value) = images(builder, random, DType::U8, (&axes, groups * group_in));
        let outputs = groups * group_out;
        let w = builder.constant(random.tensor(DType::I8, &weights(&axes, outputs, group_in)));
        let params = QParams { scale: 0.05, zero_point: 117 };
        let result = match float {
            true => Outcome::Float(Activation::Relu),
            false => Outcome::Bytes(output(random, false, 0.1)),
        };
        let layer = conv(&axes, groups, Product::integer(params, vec![0.004], result));
        let y = builder.node(layer, &[Some(x), Some(w)]);
        let perm = Layout::Nchw.permutation(axes.len() + 2);
        let first = builder.node(Transpose { perm }, &[Some(y)]);
        builder.output(first);
        let y = output(random, false, 0.06);
        pools(builder, &axes, x, Some(Rescale { x: params, y }));
        let plan = check(&builder.graph, &[("x", value)], Exactness::Bits);
        prop_assert!(has_kernels(&plan), "{}", plan);
    }

    /// A factor and a summand for each channel of channels-first images, as of a batch norm.
    #[test]
    fn channels_first_images_are_scaled_where_they_are(
        sizes in prop::collection::vec(1_usize..9, 1..4),
        batch in 1_usize..3,
        channels in 1_usize..40,
        relu in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let shape: Vec<usize> = [batch, channels].into_iter().chain(sizes.iter().copied()).collect();
        let mut weights = vec![1; shape.len()];
        weights[0] = channels;
        let x = builder.input("x", DType::F32, &shape);
        let w = builder.constant(random.tensor(DType::F32, &weights));
        let bias = builder.constant(random.tensor(DType::F32, &[channels]));
        let activation = if relu { Activation::Relu } else { Activation::None };
        let conv = FusedConv {
            strides: vec![1; sizes.len()],
            pads: vec![0; 2 * sizes.len()],
            dilations: vec![1; sizes.len()],
            group: channels as i64,
            layout: Layout::Nchw,
            product: Product::Float(activation),
        };
        let y = builder.node(conv, &[Some(x), Some(w), Some(bias)]);
        builder.output(y);
        let input = random.tensor(DType::F32, &shape);
        let plan = check(&builder.graph, &[("x", input)], Exactness::Within(1e-6));
        prop_assert_eq!(support::kernels(&plan), ["faffine"]);
    }
}
