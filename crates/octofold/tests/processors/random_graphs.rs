//! Random graphs, all the way: through an ONNX file and back, and compiled against interpreted.

use std::sync::Arc;

use octofold::Model;
use octofold::codegen::CodegenOptions;
use octofold::ir::onnx::{ExportOptions, ImportOptions, export, import_bytes};
use octofold::ir::testing::{GraphOptions, random_graph, random_inputs};
use octofold::ir::{Graph, interpret};
use octofold::kernels::Isa;
use octofold::runtime::{Engine, Session, SessionOptions};
use octofold::tensor::Tensor;
use proptest::prelude::*;

fn given(inputs: &[(String, Tensor)]) -> Vec<(&str, Tensor)> {
    let pairs = inputs.iter();
    pairs
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect()
}

fn evaluate(graph: &Graph, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    interpret(graph, &given(inputs)).unwrap_or_else(|error| panic!("{error}\n{graph}"))
}

/// The largest difference, relative to the largest finite number of each tensor; NaN must meet NaN.
fn distance(expected: &[Tensor], found: &[Tensor]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let each = expected.iter().zip(found).map(|(expected, found)| {
        assert_eq!(expected.shape(), found.shape());
        let (a, b) = (
            expected.values::<f32>().unwrap(),
            found.values::<f32>().unwrap(),
        );
        let finite = a.iter().filter(|x| x.is_finite());
        let largest = finite.fold(1e-3_f32, |largest, x| largest.max(x.abs()));
        let apart = |(a, b): (&f32, &f32)| {
            if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) {
                0.0
            } else {
                (a - b).abs() / largest
            }
        };
        a.iter().zip(b).map(apart).fold(0.0, f32::max)
    });
    each.fold(0.0, f32::max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// A file says the same as the graph: same outputs to the bit, same bytes when written again.
    #[test]
    fn a_graph_survives_its_onnx_file(seed in any::<u64>(), quantize in any::<bool>()) {
        let graph = random_graph(seed, GraphOptions { nodes: 14, quantize });
        let bytes = export(&graph, &ExportOptions::default()).unwrap();
        let again = import_bytes(bytes, None, &ImportOptions::default()).unwrap();
        let inputs = random_inputs(&graph, 2, seed);
        prop_assert_eq!(distance(&evaluate(&graph, &inputs), &evaluate(&again, &inputs)), 0.0);
        let written = export(&again, &ExportOptions::default()).unwrap();
        let read = import_bytes(written.clone(), None, &ImportOptions::default()).unwrap();
        prop_assert_eq!(written, export(&read, &ExportOptions::default()).unwrap());
    }

    /// A plan computes what the interpreter computes of the graph that it was made from: integers to the bit, floats up to rounding,
    /// for every instruction set and any batch; and both engines compute the same to the bit.
    #[test]
    fn a_plan_computes_what_its_graph_says(seed in any::<u64>(), quantize in any::<bool>(), batch in 1_usize..4) {
        let model = Model::new(random_graph(seed, GraphOptions { nodes: 14, quantize }));
        let (lowered, _) = octofold::lower(&model.graph).unwrap();
        let plans = Engine::ALL.map(|engine| {
            let options = CodegenOptions { engine, ..CodegenOptions::default() };
            Arc::new(octofold::compile_with(&lowered, &options).unwrap())
        });
        let inputs = random_inputs(&model.graph, batch, seed);
        let expected = evaluate(&lowered, &inputs);
        for isa in Isa::supported() {
            let options = SessionOptions { threads: 2, isa: Some(isa), allow_portable: true, ..SessionOptions::DEFAULT };
            let [found, other] = plans.each_ref().map(|plan| {
                let mut session = Session::new(Arc::clone(plan), options).unwrap();
                let found = session.run(&given(&inputs)).unwrap();
                found.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>()
            });
            let apart = distance(&expected, &found);
            // A float that rounds to another integer moves by a whole step, so graphs with quantizers inside get that much.
            let allowed = if quantize { 0.05 } else { 1e-4 };
            prop_assert!(apart <= allowed, "{apart} on {isa}\n{lowered}");
            prop_assert_eq!(distance(&found, &other), 0.0, "engines differ on {}\n{}", isa, lowered);
        }
    }
}
