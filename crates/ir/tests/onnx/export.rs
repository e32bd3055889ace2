//! What is written: one opset, the names of the caller, and the same bytes every time.

use octofold_ir::onnx::proto::ModelProto;
use octofold_ir::onnx::{
    ExportError, ExportOptions, IR_VERSION, ImportOptions, OPSET, export, import_bytes,
};
use octofold_ir::{Graph, TensorType, interpret};
use octofold_ops::Op;
use octofold_ops::attribute::{Attribute, AttributeMap};
use octofold_tensor::{DType, Dim, Elements, Tensor, TensorData};
use prost::Message;

use crate::support::{self, exported, listing};

fn op(name: &str, attributes: &[(&str, Attribute)]) -> Op {
    let map: AttributeMap = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    Op::from_attributes("", name, map).unwrap()
}

fn batch() -> TensorType {
    TensorType::new(DType::F32, [Dim::symbol("N"), Dim::Known(2)])
}

fn read(bytes: Vec<u8>) -> Graph {
    import_bytes(bytes, None, &ImportOptions::default()).unwrap()
}

/// x → Relu → r; r, the input and a constant are outputs, r under two names.
fn many_outputs() -> Graph {
    let mut graph = Graph::new("outputs");
    let x = graph.add_input("x", batch()).unwrap();
    let c = graph
        .add_constant("c", Tensor::vector(vec![1.0_f32, 2.0]))
        .unwrap();
    let relu = graph
        .add_node("relu", op("Relu", &[]), &[Some(x)], &["r"], vec![])
        .unwrap();
    let r = graph.node(relu).outputs()[0];
    for (name, value) in [("first", r), ("second", r), ("echo", x), ("c", c), ("k", c)] {
        graph.add_output(name, value).unwrap();
    }
    graph
}

#[test]
fn outputs_have_the_names_that_the_caller_knows() {
    let graph = many_outputs();
    let again = read(exported(&graph, &ExportOptions::default()));
    let names: Vec<_> = again
        .outputs()
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    assert_eq!(names, ["first", "second", "echo", "c", "k"]);
    let x = || Tensor::new([1, 2], vec![-1.0_f32, 3.0]).unwrap();
    assert_eq!(
        interpret(&again, &[("x", x())]).unwrap(),
        interpret(&graph, &[("x", x())]).unwrap()
    );
    // The second time around all names are in place.
    let bytes = exported(&again, &ExportOptions::default());
    assert_eq!(listing(&read(bytes)), listing(&again));
}

#[test]
fn a_value_yields_its_name_to_an_output() {
    let mut graph = Graph::new("names");
    let x = graph.add_input("x", batch()).unwrap();
    let first = graph
        .add_node("a", op("Relu", &[]), &[Some(x)], &["y"], vec![])
        .unwrap();
    let first = graph.node(first).outputs()[0];
    let second = graph
        .add_node("b", op("Neg", &[]), &[Some(first)], &["z"], vec![])
        .unwrap();
    graph
        .add_output("y", graph.node(second).outputs()[0])
        .unwrap();
    let again = read(exported(&graph, &ExportOptions::default()));
    let x = || Tensor::new([1, 2], vec![-1.0_f32, 3.0]).unwrap();
    assert_eq!(
        interpret(&again, &[("x", x())]).unwrap(),
        interpret(&graph, &[("x", x())]).unwrap()
    );
}

#[test]
fn attributes_types_and_four_bit_weights_survive() {
    let mut graph = Graph::new("mixed");
    let x = graph
        .add_input(
            "x",
            TensorType::new(DType::F32, [Dim::symbol("N"), Dim::Known(4)]),
        )
        .unwrap();
    let w = graph
        .add_constant(
            "w",
            Tensor::from_data(
                [4, 2],
                TensorData::I4(Elements::new(vec![-8, 7, 1, 2, 3, -1, 0, 5])),
            )
            .unwrap(),
        )
        .unwrap();
    let scale = graph
        .add_constant("s", Tensor::vector(vec![0.5_f32, 0.25]))
        .unwrap();
    let dequantize = op("DequantizeLinear", &[("axis", Attribute::Int(-1))]);
    let node = graph
        .add_node("dq", dequantize, &[Some(w), Some(scale)], &["wf"], vec![])
        .unwrap();
    let wf = graph.node(node).outputs()[0];
    let gemm = op("Gemm", &[("alpha", Attribute::Float(0.5))]);
    let node = graph
        .add_node("gemm", gemm, &[Some(x), Some(wf)], &["g"], vec![])
        .unwrap();
    let g = graph.node(node).outputs()[0];
    let lower = graph.add_constant("max", Tensor::scalar(6.0_f32)).unwrap();
    let node = graph
        .add_node(
            "clip",
            op("Clip", &[]),
            &[Some(g), None, Some(lower)],
            &["y"],
            vec![],
        )
        .unwrap();
    graph
        .add_output("y", graph.node(node).outputs()[0])
        .unwrap();
    graph
        .metadata_mut()
        .insert("key".to_owned(), "value".to_owned());

    let bytes = exported(&graph, &ExportOptions::default());
    let model = ModelProto::decode(bytes.as_slice()).unwrap();
    assert_eq!(
        (model.ir_version, model.opset_import[0].version),
        (Some(IR_VERSION), Some(OPSET))
    );
    assert_eq!(listing(&read(bytes)), listing(&graph));

    let plain = ExportOptions {
        value_info: false,
        ..ExportOptions::default()
    };
    let model = ModelProto::decode(exported(&graph, &plain).as_slice()).unwrap();
    assert!(model.graph.unwrap().value_info.is_empty());
}

#[test]
fn swish_is_written_as_sigmoid_and_product() {
    let mut graph = Graph::new("swish");
    let x = graph.add_input("x", batch()).unwrap();
    let node = graph
        .add_node(
            "s",
            op("Swish", &[("alpha", Attribute::Float(1.5))]),
            &[Some(x)],
            &["y"],
            vec![],
        )
        .unwrap();
    graph
        .add_output("y", graph.node(node).outputs()[0])
        .unwrap();
    let again = read(exported(&graph, &ExportOptions::default()));
    assert_eq!(support::operators(&again), ["Mul", "Sigmoid", "Mul"]);
    let x = || Tensor::new([1, 2], vec![-1.0_f32, 3.0]).unwrap();
    let (a, b) = (
        interpret(&again, &[("x", x())]).unwrap(),
        interpret(&graph, &[("x", x())]).unwrap(),
    );
    for (a, b) in a[0]
        .values::<f32>()
        .unwrap()
        .iter()
        .zip(b[0].values::<f32>().unwrap())
    {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
fn operators_of_our_own_are_refused() {
    let mut graph = Graph::new("own");
    let x = graph.add_input("x", batch()).unwrap();
    let observe = Op::from_attributes(
        "octofold",
        "Observe",
        [("id".to_owned(), Attribute::String("x".to_owned()))]
            .into_iter()
            .collect(),
    );
    let node = graph
        .add_node("watch", observe.unwrap(), &[Some(x)], &["y"], vec![])
        .unwrap();
    graph
        .add_output("y", graph.node(node).outputs()[0])
        .unwrap();
    let error = export(&graph, &ExportOptions::default()).unwrap_err();
    assert!(
        matches!(&error, ExportError::Operator { node, op } if node == "watch" && op == "octofold.Observe"),
        "{error}"
    );
}

#[test]
fn our_own_models_are_read_and_written() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for name in ["fashion_resnet.onnx", "fashion_mobilenet.onnx"] {
        let graph =
            octofold_ir::onnx::import(&folder.join(name), &ImportOptions::default()).unwrap();
        octofold_ir::verify(&graph).unwrap();
        let ops = support::operators(&graph);
        assert!(ops.contains(&"Conv") && ops.contains(&"BatchNormalization"));
        let input = graph.value(graph.inputs()[0]).ty();
        assert_eq!(
            input.shape.as_ref().map(|dims| dims[0].clone()),
            Some(Dim::symbol("N"))
        );
        let again = read(exported(&graph, &ExportOptions::default()));
        assert_eq!(listing(&again), listing(&graph));
    }
}
