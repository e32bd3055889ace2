//! Quantization with parameters from the values: a kernel with three results.

mod support;

use octofold_ops::families::{
    Activation, DynamicQuantizeLinear, Extent, FusedLinear, IntegerProduct, Mul, Outcome,
    Parameters, Product, Slice, Weights,
};
use octofold_runtime::Plan;
use octofold_tensor::{DType, Tensor};
use support::{Builder, Exactness, Random, check, default, kernels};

/// A graph whose bytes and scale other kernels read, and whose zero point is an output; with an output of bytes too, if `whole`.
fn graph(shape: &[usize], whole: bool) -> Builder {
    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, shape);
    let [bytes, scale, zero_point] = builder.results(DynamicQuantizeLinear {}, &[Some(x)]);
    let mut list = |value: i64| Some(builder.constant(Tensor::vector(vec![value])));
    let (start, end) = (list(0), list(i64::MAX));
    let part = builder.node(default::<Slice>(&[]), &[Some(bytes), start, end]);
    let one = builder.constant(Tensor::scalar(1.0_f32));
    let scale = builder.node(Mul {}, &[Some(scale), Some(one)]);
    for value in [part, scale, zero_point] {
        builder.output(value);
    }
    if whole {
        builder.output(bytes);
    }
    builder
}

fn values(plan_inputs: &[f32], shape: &[usize]) -> Tensor {
    Tensor::new(shape.to_vec(), plan_inputs.to_vec()).unwrap()
}

/// What the definition gives, in f64 where f32 does not say otherwise: the range of the values and 0 over 255 steps, ties to even.
fn expected(x: &[f32]) -> (Vec<u8>, f32, u8) {
    let min = x.iter().copied().fold(0.0_f64, |min, x| min.min(x.into()));
    let max = x.iter().copied().fold(0.0_f64, |max, x| max.max(x.into()));
    let scale = ((max as f32 - min as f32) / 255.0) as f64;
    let zero_point = (-min / scale).clamp(0.0, 255.0).round_ties_even();
    let byte = |&x: &f32| ((f64::from(x) / scale).round_ties_even() + zero_point).clamp(0.0, 255.0);
    (
        x.iter().map(|x| byte(x) as u8).collect(),
        scale as f32,
        zero_point as u8,
    )
}

fn run(plan: &std::sync::Arc<Plan>, x: &Tensor) -> Vec<Tensor> {
    let mut session = support::session(plan);
    let found = session.run(&[("x", x.clone())]).unwrap();
    found.into_iter().map(|(_, tensor)| tensor).collect()
}

#[test]
fn three_results_are_those_of_the_operator() {
    let mut random = Random::new(5);
    // The last is split among threads.
    for shape in [&[1][..], &[3, 5], &[2, 3, 7, 9], &[3, 50_000]] {
        for whole in [false, true] {
            for (scale, shift) in [(1.0, 0.0), (0.001, 3.0), (1e20, -1e20)] {
                let len = shape.iter().product();
                let x: Vec<f32> = (0..len).map(|_| random.unit() * scale + shift).collect();
                let inputs = [("x", values(&x, shape))];
                let graph = graph(shape, whole).graph;
                let plan = check(&graph, &inputs, Exactness::Bits);
                assert_eq!(kernels(&plan)[0], "dynamic_quantize", "{plan}");
                assert_eq!(kernels(&plan)[1..], ["move", "fbinary"], "{plan}");
            }
        }
    }
}

#[test]
fn bytes_scale_and_zero_point_follow_the_definition() {
    let shape = [2, 501];
    let plan = support::plan(&graph(&shape, true).graph);
    let mut random = Random::new(9);
    for (scale, shift) in [
        (1.0, 0.0),
        (3.0, 1.5),
        (20.0, -18.0),
        (0.25, 7.0),
        (0.25, -7.0),
    ] {
        let x: Vec<f32> = (0..1002).map(|_| random.unit() * scale + shift).collect();
        let found = run(&plan, &values(&x, &shape));
        let (bytes, step, zero_point) = expected(&x);
        assert_eq!(found[1].values::<f32>().unwrap(), [step]);
        assert_eq!(found[2].values::<u8>().unwrap(), [zero_point]);
        let exact = |i: usize| f64::from(x[i]) / f64::from(step);
        for (i, (&found, expected)) in found[3]
            .values::<u8>()
            .unwrap()
            .iter()
            .zip(bytes)
            .enumerate()
        {
            // The quotient is rounded to f32 before it is rounded to an integer.
            let tie = (exact(i).fract().abs() - 0.5).abs() < 1e-4;
            assert!(
                found == expected || tie && found.abs_diff(expected) == 1,
                "{i}"
            );
        }
    }
    let zeros = run(&plan, &values(&[0.0; 1002], &shape));
    assert_eq!(zeros[1].values::<f32>().unwrap(), [1.0]);
    assert_eq!(zeros[3].values::<u8>().unwrap(), [0; 1002]);
}

#[test]
fn what_has_no_range_is_an_error() {
    let plan = support::plan(&graph(&[4], false).graph);
    let mut session = support::session(&plan);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = values(&[0.5, bad, 1.0, 2.0], &[4]);
        let error = session.run(&[("x", x)]).unwrap_err();
        assert!(
            format!("{error}").contains("infinite or not a number"),
            "{error}"
        );
    }
    let wide = values(&[f32::MAX, f32::MIN, 0.0, 0.0], &[4]);
    assert!(session.run(&[("x", wide)]).is_err());
}

/// A linear layer with the parameters of a run gives the bits of its portable operator, for any weights and rows.
#[test]
fn linear_layers_take_the_parameters_of_a_run() {
    for (rows, k, n, channels) in [
        (1, 7, 5, 5),
        (3, 64, 130, 1),
        (17, 33, 16, 16),
        (40, 300, 70, 70),
    ] {
        let mut random = Random::new(rows as u64);
        let mut builder = Builder::new();
        let x = builder.input("x", DType::F32, &[2, rows, k]);
        let [q, scale, zero_point] = builder.results(DynamicQuantizeLinear {}, &[Some(x)]);
        let w = builder.constant(random.tensor(DType::I8, &[k, n]));
        let bias = builder.constant(random.tensor(DType::F32, &[n]));
        let scales = (0..channels).map(|_| random.scale(0.02)).collect();
        let layer = FusedLinear {
            product: Product::Integer(IntegerProduct {
                x: Parameters::AtRunTime(Extent::Tensor),
                w: Weights::Channels {
                    scales,
                    zero_points: vec![],
                },
                result: Outcome::Float(Activation::Relu),
            }),
        };
        let operands = [
            Some(q),
            Some(w),
            Some(bias),
            None,
            Some(scale),
            Some(zero_point),
        ];
        let y = builder.node(layer, &operands);
        builder.output(y);
        let input = random.tensor(DType::F32, &[2, rows, k]);
        let plan = check(&builder.graph, &[("x", input)], Exactness::Bits);
        assert_eq!(kernels(&plan), ["dynamic_quantize", "qlinear"]);
    }
}
