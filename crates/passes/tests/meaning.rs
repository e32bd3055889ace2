//! Passes keep the meaning of graphs: random graphs give the same results before and after.

use octofold_ir::testing::{GraphOptions, Random, difference, random_graph, random_inputs};
use octofold_ir::{Graph, interpret, interpret_with, text};
use octofold_passes::annotate::annotate;
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{ModelNames, QConfig, QConfigMapping, Resolver};
use octofold_passes::convert::{Convert, Statistics};
use octofold_passes::expand::ExpandFused;
use octofold_passes::manager::{ManagerOptions, PassRun, run_passes};
use octofold_passes::pass::{Outcome, Pass};
use octofold_passes::pipeline::{self, Context, Stage, run_stages, stage_passes};
use octofold_quant::{ObserverKind, ObserverState};
use octofold_tensor::Tensor;
use proptest::prelude::*;

fn run(graph: &mut Graph, passes: &[&dyn Pass]) {
    let before = graph.to_string();
    let options = ManagerOptions {
        verify: true,
        ..ManagerOptions::default()
    };
    if let Err(error) = run_passes(graph, passes, options) {
        panic!("{error}\n{before}\n{graph}");
    }
}

fn evaluate(graph: &Graph, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    interpret(graph, &inputs).unwrap_or_else(|error| panic!("{error}\n{graph}"))
}

/// The largest difference of two results, relative to the largest number.
fn distance(a: &[Tensor], b: &[Tensor]) -> f32 {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| {
        assert_eq!(a.shape(), b.shape());
        let (a, b) = (a.values::<f32>().unwrap(), b.values::<f32>().unwrap());
        let largest = a.iter().fold(1e-3_f32, |largest, x| largest.max(x.abs()));
        a.iter()
            .zip(b)
            .fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs() / largest))
    });
    each.fold(0.0, f32::max)
}

fn finite(tensors: &[Tensor]) -> bool {
    tensors.iter().all(|tensor| {
        tensor
            .values::<f32>()
            .unwrap()
            .iter()
            .all(|x| x.abs() < 1e6)
    })
}

/// What observers that remember the whole range see of every value.
fn calibrate(graph: &Graph, inputs: &[(String, Tensor)]) -> Statistics {
    let mut statistics = Statistics::new();
    let given: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    interpret_with(graph, &given, |id, tensor| {
        if let Ok(values) = tensor.values::<f32>() {
            let state = statistics.entry(graph.value(id).name().to_owned());
            state
                .or_insert_with(|| ObserverState::new(&ObserverKind::MinMax))
                .observe(values)
                .unwrap();
        }
    })
    .unwrap();
    statistics
}

/// Runs stages for fbgemm.
fn stages(graph: &mut Graph, stages: &[Stage]) -> Vec<PassRun> {
    run_stages(graph, stages, &Context::new(&BackendConfig::fbgemm())).unwrap()
}

/// The reference graph of a float graph, quantized with its own ranges.
fn reference(graph: &Graph, inputs: &[(String, Tensor)]) -> Graph {
    let mut graph = graph.clone();
    let names = ModelNames::of(&graph);
    stages(&mut graph, &[Stage::Simplify, Stage::Fuse]);
    let mapping = QConfigMapping::global(QConfig::default());
    let resolver = Resolver::new(&mapping, &names);
    let backend = BackendConfig::fbgemm();
    let annotations = annotate(&graph, &resolver, &mapping.values, &backend).unwrap();
    let statistics = calibrate(&graph, inputs);
    run(
        &mut graph,
        &[
            &Convert {
                annotations: &annotations,
                statistics: &statistics,
            },
            &ExpandFused,
        ],
    );
    graph
}

/// A layer between quantized values: the text of the graph, whose output is bytes, and its inputs.
fn quantized_layer(seed: u64) -> (String, Vec<(String, Tensor)>) {
    let random = &mut Random::new(seed);
    let mut scale = || random.between(0.01, 0.1);
    let (sx, sw, sr, sy) = (scale(), scale(), scale(), scale() * 4.0);
    let (zx, zr, zy) = (random.below(256), random.below(256), random.below(256));
    let mut list = |count: usize, low: i64, high: i64| {
        let values =
            (0..count).map(|_| (low + random.below((high - low) as usize) as i64).to_string());
        values.collect::<Vec<_>>().join(", ")
    };
    let (w, b) = (list(2 * 3 * 2 * 2, -127, 128), list(2, -900, 900));
    let activation = [
        "",
        "activation = \"relu\"",
        "activation = \"clip\", activation_min = -0.5, activation_max = 2.0",
    ][random.below(3)];
    let kind = ["add", "mul"][random.below(2)];
    let (body, shape) = match random.below(7) {
        0 => (format!("c = octofold.Conv <pads = [1,0,1,0], {activation}> (xr, wr, br)"), "2,3,4,4"),
        1 => (
            "flat = Reshape (wr, matrix)\nwl = Identity (flat)\nc = octofold.Binary <kind = \"add\"> (xr, rr)".to_owned(),
            "2,3,4,4",
        ),
        2 => (format!("c = octofold.Binary <kind = \"{kind}\", {activation}> (xr, rr)"), "2,3,4,4"),
        3 => ("c = Concat <axis = 1> (xr, rr, xr)".to_owned(), "2,3,4,4"),
        4 => ("c = AveragePool <kernel_shape = [3,2], strides = [1,2], pads = [1,0,1,0]> (xr)".to_owned(), "2,3,4,4"),
        5 => ("c = GlobalAveragePool (xr)".to_owned(), "2,3,4,4"),
        _ => ("s = Sigmoid (xr)\nsq = QuantizeLinear (s, sr, zr)\nsr2 = DequantizeLinear (sq, sr, zr)\nc = HardSwish (sr2)".to_owned(), "2,3,4,4"),
    };
    let body = body
        .replace("<, ", "<")
        .replace(", >", ">")
        .replace("< >", "");
    let sb = sx * sw;
    let text = format!(
        "g (uint8[{shape}] x, uint8[{shape}] r) => (y)
<float sx = {{{sx:?}}}, uint8 zx = {{{zx}}}, float sr = {{{sr:?}}}, uint8 zr = {{{zr}}}, float sy = {{{sy:?}}}, uint8 zy = {{{zy}}},
int8[2,3,2,2] w = {{{w}}}, float sw = {{{sw:?}}}, int8 zw = {{0}}, int32[2] b = {{{b}}}, float sb = {{{sb:?}}}, int64[2] matrix = {{6, 4}}>
{{
xr = DequantizeLinear (x, sx, zx)
rr = DequantizeLinear (r, sr, zr)
wr = DequantizeLinear (w, sw, zw)
br = DequantizeLinear (b, sb)
{body}
y = QuantizeLinear (c, sy, zy)
}}"
    );
    let mut bytes = || {
        Tensor::new(
            [2, 3, 4, 4],
            (0..96).map(|_| random.below(256) as u8).collect(),
        )
        .unwrap()
    };
    let inputs = vec![("x".to_owned(), bytes()), ("r".to_owned(), bytes())];
    (text, inputs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn simplifying_and_fusing_keep_the_meaning(seed: u64, nodes in 1_usize..20) {
        let graph = random_graph(seed, GraphOptions { nodes, quantize: false });
        let inputs = random_inputs(&graph, 2, seed ^ 1);
        let before = evaluate(&graph, &inputs);
        prop_assume!(finite(&before));
        let mut fused = graph.clone();
        stages(&mut fused, &[Stage::Simplify, Stage::Fuse]);
        let distance_fused = distance(&before, &evaluate(&fused, &inputs));
        prop_assert!(distance_fused < 1e-4, "{}\n{}\n{}", distance_fused, graph, fused);
        let mut lowered = fused.clone();
        stages(&mut lowered, &[Stage::Lower, Stage::Layout]);
        let distance_lowered = distance(&before, &evaluate(&lowered, &inputs));
        prop_assert!(distance_lowered < 1e-4, "{}\n{}\n{}", distance_lowered, graph, lowered);
        // Back to ONNX operators.
        let mut expanded = fused.clone();
        run(&mut expanded, &[&ExpandFused]);
        let distance_expanded = distance(&before, &evaluate(&expanded, &inputs));
        prop_assert!(distance_expanded < 1e-4, "{}\n{}\n{}", distance_expanded, fused, expanded);
        for graph in [&fused, &lowered, &expanded] {
            let printed = text::print(graph, &text::PrintOptions { data: Some("data.bin".to_owned()) });
            let read = text::parse(&printed.text, Some(&printed.data)).unwrap();
            prop_assert_eq!(difference(graph, &read), None);
        }
    }

    #[test]
    fn simplifying_quantized_graphs_keeps_the_meaning(seed: u64, nodes in 1_usize..12) {
        let graph = random_graph(seed, GraphOptions { nodes, quantize: true });
        let inputs = random_inputs(&graph, 2, seed ^ 1);
        let before = evaluate(&graph, &inputs);
        prop_assume!(finite(&before));
        let mut simple = graph.clone();
        // Only what keeps every bit: a number that is rounded in another way may be quantized to another integer.
        let backend = BackendConfig::fbgemm();
        let simplify = stage_passes(Stage::Simplify, &Context::new(&backend)).unwrap();
        let exact = simplify.iter().map(|pass| &**pass as &dyn Pass);
        let exact: Vec<&dyn Pass> = exact.filter(|pass| pass.name() != "canonicalize").collect();
        run(&mut simple, &exact);
        let distance = distance(&before, &evaluate(&simple, &inputs));
        prop_assert!(distance < 1e-5, "{}\n{}\n{}", distance, graph, simple);
    }

    #[test]
    fn a_lowered_layer_is_within_one_step(seed: u64) {
        let (text, inputs) = quantized_layer(seed);
        let graph = text::parse(&text, None).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut lowered = graph.clone();
        stages(&mut lowered, &[Stage::Simplify, Stage::Lower]);
        let float = ["Conv", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Sigmoid", "HardSwish", "QuantizeLinear"];
        for id in lowered.node_ids() {
            let op = lowered.node(id).op();
            prop_assert!(!op.domain().is_empty() || !float.contains(&op.name()), "{} stays\n{}", op.name(), lowered);
        }
        let mut turned = lowered.clone();
        stages(&mut turned, &[Stage::Layout]);
        let before = evaluate(&graph, &inputs);
        let after = evaluate(&lowered, &inputs);
        let pairs = before[0].values::<u8>().unwrap().iter().zip(after[0].values::<u8>().unwrap());
        let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        prop_assert!(worst <= 1, "{} steps\n{}\n{}", worst, graph, lowered);
        prop_assert_eq!(&after, &evaluate(&turned, &inputs), "layouts change no bit\n{}", turned);
    }

    #[test]
    fn lowered_graphs_follow_the_reference(seed: u64, nodes in 1_usize..8) {
        let graph = random_graph(seed, GraphOptions { nodes, quantize: false });
        let inputs = random_inputs(&graph, 2, seed ^ 1);
        let float = evaluate(&graph, &inputs);
        prop_assume!(finite(&float));
        let reference = reference(&graph, &inputs);
        let expected = evaluate(&reference, &inputs);
        let mut lowered = reference.clone();
        stages(&mut lowered, &[Stage::Simplify, Stage::Lower]);
        let after = evaluate(&lowered, &inputs);
        // A difference of one step in one layer goes through the layers after it.
        let (error, noise) = (distance(&expected, &after), distance(&float, &expected));
        prop_assert!(error <= 0.02 + 0.5 * noise, "{} with {} of noise\n{}\n{}", error, noise, reference, lowered);
        let mut turned = lowered.clone();
        stages(&mut turned, &[Stage::Layout]);
        let moved = distance(&after, &evaluate(&turned, &inputs));
        prop_assert!(moved < 1e-4, "{}\n{}\n{}", moved, lowered, turned);
    }
}

/// The random graphs are worth their name: together they make every common rule apply.
#[test]
fn random_graphs_exercise_the_rules() {
    let mut applied = std::collections::BTreeSet::new();
    let mut errors = Vec::new();
    let mut note = |runs: Vec<PassRun>| {
        let events = runs.into_iter().flat_map(|run| run.report.events);
        applied.extend(
            events
                .filter(|event| matches!(event.outcome, Outcome::Applied(_)))
                .map(|event| event.rule),
        );
    };
    for seed in 0..60 {
        let graph = random_graph(
            seed,
            GraphOptions {
                nodes: 10,
                quantize: false,
            },
        );
        let inputs = random_inputs(&graph, 2, seed ^ 1);
        if !finite(&evaluate(&graph, &inputs)) {
            continue;
        }
        note(stages(&mut graph.clone(), pipeline::LOWER));
        let mut reference = reference(&graph, &inputs);
        let expected = evaluate(&reference, &inputs);
        note(stages(&mut reference, &[Stage::Simplify, Stage::Lower]));
        errors.push(distance(&expected, &evaluate(&reference, &inputs)));
    }
    let expected = [
        "no-operation",
        "merge-transposes",
        "explicit-pads",
        "merge-pad",
        "linear-form",
        "linear-bias",
        "swish",
        "fold-batch-norm",
        "fold-scale-or-shift",
        "lower-batch-norm",
        "fuse-activation",
        "float-form",
        "fuse-residual",
        "nhwc",
        "quantized-conv",
        "quantized-conv-float-result",
        "quantized-linear-float-result",
        "quantized-binary",
        "quantized-concat",
        "quantized-pool",
        "quantized-pointwise",
        "quantized-movement",
    ];
    let missing: Vec<&str> = expected
        .into_iter()
        .filter(|rule| !applied.contains(*rule))
        .collect();
    assert!(
        missing.is_empty(),
        "{missing:?} never apply, only {applied:?}"
    );
    // Integer arithmetic differs from the reference by single steps here and there, not by its nature.
    let mean = errors.iter().sum::<f32>() / errors.len() as f32;
    assert!(mean < 1e-5, "{mean} {errors:?}");
}
