//! Equalization keeps the meaning of random networks and makes the ranges of their channels equal.

use octofold_ir::testing::Random;
use octofold_ir::{Graph, TensorType, ValueId, interpret};
use octofold_ops::families::{Activation, FusedConv, FusedLinear, Layout, Product};
use octofold_passes::equalize::EqualizeLayers;
use octofold_passes::manager::{ManagerOptions, run_passes};
use octofold_tensor::{DType, Dim, Tensor};
use proptest::prelude::*;

fn conv(group: usize, pad: i64, activation: Activation) -> FusedConv {
    FusedConv {
        strides: vec![1, 1],
        pads: vec![pad; 4],
        dilations: vec![1, 1],
        group: group as i64,
        layout: Layout::Nchw,
        product: Product::Float(activation),
    }
}

/// Weights whose output channels (along `axis` of a matrix `rows x columns` of blocks) differ in range by up to 1:10000.
fn weights(random: &mut Random, shape: &[usize], axis: usize) -> Tensor {
    let scales: Vec<f32> = (0..shape[axis])
        .map(|_| 10.0_f32.powf(random.between(-2.0, 2.0)))
        .collect();
    let inner: usize = shape[axis + 1..].iter().product();
    let values = (0..shape.iter().product::<usize>())
        .map(|i| random.between(-1.0, 1.0) * scales[i / inner % shape[axis]]);
    Tensor::new(shape.iter().copied(), values.collect()).unwrap()
}

struct Net {
    graph: Graph,
    value: ValueId,
}

impl Net {
    fn new(shape: &[i64]) -> Self {
        let mut graph = Graph::new("net");
        let dims: Vec<Dim> = shape.iter().map(|&size| Dim::Known(size)).collect();
        let ty = TensorType {
            dtype: DType::F32,
            shape: Some(dims.into_iter().collect()),
            quantization: None,
        };
        let value = graph.add_input("x", ty).unwrap();
        Self { graph, value }
    }

    fn add(&mut self, name: &str, op: impl Into<octofold_ir::Op>, w: Tensor, bias: Tensor) {
        let graph = &mut self.graph;
        let w = graph.add_constant(&format!("{name}.weight"), w).unwrap();
        let b = graph.add_constant(&format!("{name}.bias"), bias).unwrap();
        let inputs = [Some(self.value), Some(w), Some(b)];
        let node = graph
            .add_node(name, op.into(), &inputs, &[&format!("{name}.y")], vec![])
            .unwrap();
        self.value = graph.node(node).outputs()[0];
    }

    fn finish(mut self) -> Graph {
        self.graph.add_output("y", self.value).unwrap();
        self.graph
    }
}

/// `layers` convolutions, some of them depthwise, with activations that commute with positive factors.
fn convolutions(seed: u64, layers: usize) -> Graph {
    let random = &mut Random::new(seed);
    let mut net = Net::new(&[2, 3, 5, 5]);
    let mut channels = 3;
    for layer in 0..layers {
        let depthwise = layer > 0 && channels > 1 && random.one_in(3);
        let outputs = if depthwise {
            channels
        } else {
            1 + random.below(6)
        };
        let group = if depthwise { channels } else { 1 };
        let (kernel, pad) = if random.one_in(2) { (3, 1) } else { (1, 0) };
        let w = weights(random, &[outputs, channels / group, kernel, kernel], 0);
        let bias = random.tensor(&[outputs], -1.0, 1.0);
        // A bound that no channel reaches: what is left of a ReLU6 is a ReLU.
        let out_of_reach = Activation::Clip {
            min: 0.0,
            max: 1e30,
        };
        let activation = [Activation::Relu, Activation::None, out_of_reach][random.below(3)];
        net.add(
            &format!("layer{layer}"),
            conv(group, pad, activation),
            w,
            bias,
        );
        channels = outputs;
    }
    net.finish()
}

fn linear_layers(seed: u64, layers: usize) -> Graph {
    let random = &mut Random::new(seed);
    let mut net = Net::new(&[4, 6]);
    let mut columns = 6;
    for layer in 0..layers {
        let outputs = 1 + random.below(8);
        let w = weights(random, &[columns, outputs], 1);
        let bias = random.tensor(&[outputs], -1.0, 1.0);
        let op = FusedLinear {
            product: Product::Float(Activation::Relu),
        };
        net.add(&format!("layer{layer}"), op, w, bias);
        columns = outputs;
    }
    net.finish()
}

fn equalized(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let options = ManagerOptions {
        verify: true,
        ..ManagerOptions::default()
    };
    run_passes(&mut graph, &[&EqualizeLayers::ALL], options).unwrap();
    graph
}

fn evaluate(graph: &Graph, seed: u64) -> Vec<f32> {
    let shape = graph.value(graph.inputs()[0]).ty().known_shape().unwrap();
    let x = Random::new(seed).tensor(&shape, -1.0, 1.0);
    let outputs = interpret(graph, &[("x", x)]).unwrap();
    outputs[0].values::<f32>().unwrap().to_vec()
}

/// The largest difference, relative to the largest number.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a
        .iter()
        .fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest);
    differences.fold(0.0, f32::max)
}

/// The largest magnitude of each index of an axis of a layer's weights.
fn ranges(graph: &Graph, layer: &str, axis: usize) -> Vec<f32> {
    let id = graph.value_named(&format!("{layer}.weight")).unwrap();
    let tensor = graph.value(id).constant().unwrap();
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let mut ranges = vec![0.0_f32; tensor.shape()[axis]];
    for (i, w) in tensor.values::<f32>().unwrap().iter().enumerate() {
        let range = &mut ranges[i / inner % tensor.shape()[axis]];
        *range = range.max(w.abs());
    }
    ranges
}

fn assert_equal(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a / b - 1.0).abs() < 1e-3, "{a} and {b}");
    }
}

/// ReLU6: channels below their bounds keep their values, those above are clipped later than before.
#[test]
fn a_bound_is_exact_for_channels_below_their_own() {
    let tensor = |shape: &[usize], values: &[f32]| {
        Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
    };
    let relu6 = Activation::Clip { min: 0.0, max: 6.0 };
    let mut net = Net::new(&[1, 1, 1, 2]);
    let zero = || Tensor::vector(vec![0.0_f32; 2]);
    net.add(
        "a",
        conv(1, 0, relu6),
        tensor(&[2, 1, 1, 1], &[8.0, 0.5]),
        zero(),
    );
    net.add(
        "b",
        conv(1, 0, Activation::None),
        tensor(&[2, 2, 1, 1], &[0.5, 0.0, 0.0, 2.0]),
        zero(),
    );
    let graph = net.finish();
    let after = equalized(&graph);
    let run = |graph: &Graph, x: f32| {
        let x = tensor(&[1, 1, 1, 2], &[x, 0.0]);
        let outputs = interpret(graph, &[("x", x)]).unwrap();
        let y = outputs[0].values::<f32>().unwrap();
        (y[0], y[2])
    };
    assert_eq!(
        (run(&graph, 0.5), run(&after, 0.5)),
        ((2.0, 0.5), (2.0, 0.5))
    );
    // Channel 0 would be clipped at 6 before and is at 12 · 4 after, channel 1 at 12 · 0.5.
    assert_eq!(
        (run(&graph, 2.0), run(&after, 2.0)),
        ((3.0, 2.0), (8.0, 2.0))
    );
    assert_eq!(
        (run(&graph, 20.0), run(&after, 20.0)),
        ((3.0, 12.0), (24.0, 12.0))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolutions_keep_their_meaning(seed in any::<u64>(), layers in 2..6_usize) {
        let graph = convolutions(seed, layers);
        prop_assert!(distance(&evaluate(&graph, seed), &evaluate(&equalized(&graph), seed)) < 1e-4);
    }

    #[test]
    fn linear_layers_keep_their_meaning(seed in any::<u64>(), layers in 2..6_usize) {
        let graph = linear_layers(seed, layers);
        prop_assert!(distance(&evaluate(&graph, seed), &evaluate(&equalized(&graph), seed)) < 1e-4);
    }

    #[test]
    fn linear_layers_have_equal_ranges(seed in any::<u64>()) {
        let graph = equalized(&linear_layers(seed, 3));
        assert_equal(&ranges(&graph, "layer0", 1), &ranges(&graph, "layer1", 0));
        assert_equal(&ranges(&graph, "layer1", 1), &ranges(&graph, "layer2", 0));
    }

    #[test]
    fn triples_have_equal_ranges(seed in any::<u64>()) {
        let random = &mut Random::new(seed);
        let mut net = Net::new(&[1, 2, 4, 4]);
        for (name, shape, group) in [("a", [5, 2, 1, 1], 1), ("dw", [5, 1, 3, 3], 5), ("c", [3, 5, 1, 1], 1)] {
            let bias = random.tensor(&[shape[0]], -1.0, 1.0);
            let w = weights(random, &shape, 0);
            net.add(name, conv(group, 0, Activation::Relu), w, bias);
        }
        let graph = net.finish();
        let after = equalized(&graph);
        prop_assert!(distance(&evaluate(&graph, seed), &evaluate(&after, seed)) < 1e-4);
        assert_equal(&ranges(&after, "a", 0), &ranges(&after, "dw", 0));
        assert_equal(&ranges(&after, "dw", 0), &ranges(&after, "c", 1));
    }

    #[test]
    fn a_second_run_has_nothing_to_do(seed in any::<u64>()) {
        let once = equalized(&linear_layers(seed, 2));
        prop_assert_eq!(equalized(&once).to_string(), once.to_string());
    }
}
