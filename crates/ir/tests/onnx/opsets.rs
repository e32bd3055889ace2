//! Old forms of operators become the newest one, with the same meaning.

use octofold_ir::onnx::proto::{ModelProto, NodeProto};
use octofold_ir::text::{self, PrintOptions};
use octofold_ir::{Graph, interpret};
use octofold_tensor::{DType, Tensor};

use crate::support::{
    self, float, floats, graph, int, ints, model, node, operators, refusal, tensor, value, word,
};

fn f32s(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
    Tensor::new(shape.iter().copied(), values.into_iter().collect()).unwrap()
}

fn counted(shape: &[usize]) -> Tensor {
    f32s(
        shape,
        (0..shape.iter().product::<usize>()).map(|x| x as f32),
    )
}

/// A model of one node `x, constants… → y`.
fn single(opset: i64, shape: &[i64], constants: &[(&str, Tensor)], node: NodeProto) -> ModelProto {
    model(
        opset,
        &[value("x", DType::F32, shape)],
        constants,
        &[node],
        &["y"],
    )
}

/// The result for `x` = 0, 1, 2, …
fn result(graph: &Graph, shape: &[usize]) -> Tensor {
    interpret(graph, &[("x", counted(shape))])
        .unwrap()
        .remove(0)
}

#[test]
fn attributes_become_inputs() {
    let clip = |opset| {
        single(
            opset,
            &[4],
            &[],
            node(
                "Clip",
                &["x"],
                &["y"],
                &[float("min", 1.0), float("max", 2.0)],
            ),
        )
    };
    assert_eq!(
        result(&graph(&clip(6)), &[4]),
        f32s(&[4], [1.0, 1.0, 2.0, 2.0])
    );
    assert!(refusal(&clip(11)).contains("no attribute"));
    let one_sided = graph(&single(
        6,
        &[4],
        &[],
        node(
            "Clip",
            &["x"],
            &["y"],
            &[float("min", 2.5), float("max", f32::MAX)],
        ),
    ));
    assert_eq!(result(&one_sided, &[4]), f32s(&[4], [2.5, 2.5, 2.5, 3.0]));

    for (op, opset) in [("ReduceSum", 12), ("ReduceMean", 17), ("ReduceMax", 13)] {
        let reduce = graph(&single(
            opset,
            &[2, 3],
            &[],
            node(
                op,
                &["x"],
                &["y"],
                &[ints("axes", &[1]), int("keepdims", 0)],
            ),
        ));
        let expected = match op {
            "ReduceSum" => [3.0, 12.0],
            "ReduceMean" => [1.0, 4.0],
            _ => [2.0, 5.0],
        };
        assert_eq!(result(&reduce, &[2, 3]), f32s(&[2], expected), "{op}");
    }
    let squeeze = graph(&single(
        11,
        &[1, 3],
        &[],
        node("Squeeze", &["x"], &["y"], &[ints("axes", &[0])]),
    ));
    assert_eq!(result(&squeeze, &[1, 3]), counted(&[3]));
    let unsqueeze = graph(&single(
        11,
        &[3],
        &[],
        node("Unsqueeze", &["x"], &["y"], &[ints("axes", &[0, 2])]),
    ));
    assert_eq!(result(&unsqueeze, &[3]), counted(&[1, 3, 1]));
    assert!(
        refusal(&single(
            11,
            &[3],
            &[],
            node("Unsqueeze", &["x"], &["y"], &[])
        ))
        .contains("attribute `axes`: is missing")
    );

    let slice = [ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[0])];
    assert_eq!(
        result(
            &graph(&single(6, &[4], &[], node("Slice", &["x"], &["y"], &slice))),
            &[4]
        ),
        f32s(&[2], [1.0, 2.0])
    );
    let pad = [ints("pads", &[1, 0]), float("value", 7.0)];
    assert_eq!(
        result(
            &graph(&single(6, &[2], &[], node("Pad", &["x"], &["y"], &pad))),
            &[2]
        ),
        f32s(&[3], [7.0, 0.0, 1.0])
    );
}

#[test]
fn split_and_top_k_tell_their_outputs() {
    let mut split = single(
        6,
        &[4],
        &[],
        node("Split", &["x"], &["y", "z"], &[ints("split", &[1, 3])]),
    );
    assert_eq!(result(&graph(&split), &[4]), f32s(&[1], [0.0]));
    split = single(13, &[4], &[], node("Split", &["x"], &["y", "z"], &[]));
    assert_eq!(result(&graph(&split), &[4]), f32s(&[2], [0.0, 1.0]));
    let top = single(
        6,
        &[4],
        &[],
        node("TopK", &["x"], &["y", ""], &[int("k", 2)]),
    );
    assert_eq!(result(&graph(&top), &[4]), f32s(&[2], [3.0, 2.0]));
}

#[test]
fn old_broadcasting_names_its_axis() {
    let bias = |shape: &[usize]| f32s(shape, [10.0, 20.0]);
    let add = |attributes: &[_], shape: &[usize]| {
        single(
            6,
            &[1, 2, 3],
            &[("b", bias(shape))],
            node("Add", &["x", "b"], &["y"], attributes),
        )
    };
    let expected = f32s(&[1, 2, 3], [10.0, 11.0, 12.0, 23.0, 24.0, 25.0]);
    for (axis, shape) in [(1, &[2_usize] as &[usize]), (-2, &[2]), (0, &[1, 2])] {
        let attributes = [int("broadcast", 1), int("axis", axis)];
        assert_eq!(
            result(&graph(&add(&attributes, shape)), &[1, 2, 3]),
            expected
        );
    }
    // Without an axis the last ones are meant, as today.
    assert_eq!(
        result(&graph(&add(&[int("broadcast", 1)], &[2, 1])), &[1, 2, 3]),
        expected
    );
    assert!(refusal(&add(&[int("broadcast", 1), int("axis", 3)], &[2])).contains("leaves no room"));

    let slope = graph(&single(
        6,
        &[1, 2, 1, 2],
        &[("s", f32s(&[2], [0.0, 1.0]))],
        node("PRelu", &["x", "s"], &["y"], &[]),
    ));
    assert_eq!(operators(&slope), ["Unsqueeze", "PRelu"]);
}

#[test]
fn old_hardmax_flattens_too() {
    let of = |opset| {
        let hardmax = node("Hardmax", &["x"], &["y"], &[int("axis", 1)]);
        graph(&single(opset, &[2, 2, 3], &[], hardmax))
    };
    assert_eq!(operators(&of(13)), ["Hardmax"]);
    assert!(operators(&of(11)).contains(&"Flatten"));
}

#[test]
fn old_softmax_flattens() {
    let softmax = |opset, attributes: &[_], shape: &[i64]| {
        graph(&single(
            opset,
            shape,
            &[],
            node("Softmax", &["x"], &["y"], attributes),
        ))
    };
    assert_eq!(operators(&softmax(11, &[], &[-1, 3])), ["Softmax"]);
    assert_eq!(
        operators(&softmax(11, &[int("axis", -1)], &[2, 2, 3])),
        ["Softmax"]
    );
    assert_eq!(operators(&softmax(11, &[], &[2, 3, 1, 1])), ["Softmax"]);
    assert_eq!(
        operators(&softmax(13, &[int("axis", 1)], &[2, 2, 3])),
        ["Softmax"]
    );
    let flattened = softmax(11, &[int("axis", 1)], &[1, 2, 2]);
    assert_eq!(
        operators(&flattened),
        ["Shape", "Flatten", "Softmax", "Reshape"]
    );
    let found = result(&flattened, &[1, 2, 2]);
    let sum: f32 = (0..4).map(|x| (x as f32).exp()).sum();
    for (index, value) in found.values::<f32>().unwrap().iter().enumerate() {
        assert!((value - (index as f32).exp() / sum).abs() < 1e-6);
    }
    let node_names: Vec<_> = flattened
        .node_ids()
        .map(|id| flattened.node(id).name().to_owned())
        .collect();
    assert_eq!(
        node_names,
        [
            "Softmax_0/Shape",
            "Softmax_0/Flatten",
            "Softmax_0/Softmax",
            "Softmax_0"
        ]
    );
    assert!(
        flattened
            .node_ids()
            .all(|id| flattened.node(id).sources() == ["Softmax_0"])
    );
}

#[test]
fn upsample_and_the_first_resize_cut_positions_off() {
    let expected = f32s(&[1, 1, 1, 4], [0.0, 0.0, 1.0, 1.0]);
    let scales = f32s(&[4], [1.0, 1.0, 1.0, 2.0]);
    let seven = single(
        7,
        &[1, 1, 1, 2],
        &[],
        node(
            "Upsample",
            &["x"],
            &["y"],
            &[floats("scales", &[1.0, 1.0, 1.0, 2.0])],
        ),
    );
    let nine = single(
        9,
        &[1, 1, 1, 2],
        &[("s", scales.clone())],
        node("Upsample", &["x", "s"], &["y"], &[word("mode", "nearest")]),
    );
    let ten = single(
        10,
        &[1, 1, 1, 2],
        &[("s", scales)],
        node("Resize", &["x", "s"], &["y"], &[]),
    );
    for model in [seven, nine, ten] {
        assert_eq!(result(&graph(&model), &[1, 1, 1, 2]), expected);
    }
}

#[test]
fn inference_forms_of_training_operators() {
    let one = |value: f32| f32s(&[2], [value, value]);
    let constants = [
        ("s", one(1.0)),
        ("b", one(0.5)),
        ("m", one(0.0)),
        ("v", one(1.0)),
    ];
    let norm = |opset, outputs: &[&str], attributes: &[_]| {
        single(
            opset,
            &[1, 2, 2],
            &constants,
            node(
                "BatchNormalization",
                &["x", "s", "b", "m", "v"],
                outputs,
                attributes,
            ),
        )
    };
    for (opset, attributes) in [
        (6, vec![int("is_test", 1), int("spatial", 1)]),
        (7, vec![int("spatial", 1)]),
        (9, vec![]),
        (14, vec![]),
    ] {
        assert_eq!(
            operators(&graph(&norm(opset, &["y"], &attributes))),
            ["BatchNormalization"]
        );
    }
    assert!(refusal(&norm(7, &["y"], &[int("spatial", 0)])).contains("attribute `spatial`"));
    assert!(refusal(&norm(9, &["y", "m1"], &[])).contains("training"));

    for opset in [6, 7, 10, 12] {
        let attributes = if opset < 12 {
            vec![float("ratio", 0.3)]
        } else {
            vec![]
        };
        let dropout = graph(&single(
            opset,
            &[3],
            &[],
            node("Dropout", &["x"], &["y"], &attributes),
        ));
        assert_eq!(result(&dropout, &[3]), counted(&[3]));
    }
    let flagged = [("r", Tensor::scalar(0.9_f32)), ("t", Tensor::scalar(false))];
    let dropout = graph(&single(
        13,
        &[3],
        &flagged,
        node("Dropout", &["x", "r", "t"], &["y"], &[int("seed", 3)]),
    ));
    assert_eq!(result(&dropout, &[3]), counted(&[3]));
}

/// Before opset 10 the mask had the type of the data.
#[test]
fn an_old_mask_of_dropout_keeps_everything() {
    let old = graph(&model(
        9,
        &[value("x", DType::F32, &[2, 2])],
        &[],
        &[node("Dropout", &["x"], &["y", "mask"], &[])],
        &["y", "mask"],
    ));
    let found = interpret(&old, &[("x", counted(&[2, 2]))]).unwrap();
    assert_eq!(found, [counted(&[2, 2]), f32s(&[2, 2], [1.0; 4])]);
}

#[test]
fn constants_of_every_kind() {
    let value_of = |attribute| {
        let graph = graph(&model(
            13,
            &[],
            &[],
            &[node("Constant", &[], &["y"], &[attribute])],
            &["y"],
        ));
        assert_eq!(graph.node_count(), 0);
        graph
            .value(graph.value_named("y").unwrap())
            .constant()
            .unwrap()
            .clone()
    };
    assert_eq!(value_of(float("value_float", 1.5)), Tensor::scalar(1.5_f32));
    assert_eq!(
        value_of(floats("value_floats", &[1.5])),
        Tensor::vector(vec![1.5_f32])
    );
    assert_eq!(value_of(int("value_int", -1)), Tensor::scalar(-1_i64));
    assert_eq!(
        value_of(ints("value_ints", &[1, 2])),
        Tensor::vector(vec![1_i64, 2])
    );
    assert_eq!(
        value_of(word("value_string", "a")),
        Tensor::scalar("a".to_owned())
    );
    let boxed = octofold_ir::onnx::tensor_to_proto("", &Tensor::scalar(3_u8));
    assert_eq!(value_of(tensor("value", boxed)), Tensor::scalar(3_u8));
    let two = node(
        "Constant",
        &[],
        &["y"],
        &[int("value_int", 1), float("value_float", 1.0)],
    );
    assert!(refusal(&model(13, &[], &[], &[two], &["y"])).contains("several attributes"));
    assert!(
        refusal(&model(
            13,
            &[],
            &[],
            &[node("Constant", &[], &["y"], &[])],
            &["y"]
        ))
        .contains("attribute `value`: is missing")
    );
}

#[test]
fn contributed_operators_with_an_onnx_form() {
    let contributed = |op: &str, inputs: &[&str], attributes: &[_]| {
        let mut node = node(op, inputs, &["y"], attributes);
        node.domain = Some("com.microsoft".to_owned());
        let mut model = single(17, &[2, 2], &[("b", counted(&[2, 2]))], node);
        model
            .opset_import
            .push(support::import_of("com.microsoft", 1));
        model
    };
    assert_eq!(
        operators(&graph(&contributed("Gelu", &["x"], &[]))),
        ["Gelu"]
    );
    assert_eq!(
        operators(&graph(&contributed("BiasGelu", &["x", "b"], &[]))),
        ["Add", "Gelu"]
    );
    assert_eq!(
        operators(&graph(&contributed("FastGelu", &["x"], &[]))),
        ["Gelu"]
    );
    assert_eq!(
        operators(&graph(&contributed("QuickGelu", &["x"], &[]))),
        ["Swish"]
    );
    let product = graph(&contributed(
        "FusedMatMul",
        &["x", "b"],
        &[int("transA", 1), float("alpha", 0.5)],
    ));
    assert_eq!(operators(&product), ["Transpose", "MatMul", "Mul"]);
    assert_eq!(
        result(&product, &[2, 2]),
        f32s(&[2, 2], [2.0, 3.0, 3.0, 5.0])
    );
    let text = refusal(&contributed("QAttention", &["x"], &[]));
    assert!(
        text.contains(
            "node `QAttention_0` (com.microsoft.QAttention, opset 1): unsupported operator"
        ),
        "{text}"
    );
}

#[test]
fn unknown_operators_and_versions_are_named() {
    let text = refusal(&single(
        17,
        &[2],
        &[],
        node("NotOfOnnx", &["x"], &["y"], &[]),
    ));
    assert!(
        text.contains("model: node `NotOfOnnx_0` (NotOfOnnx, opset 17): unsupported operator"),
        "{text}"
    );
    let text = refusal(&single(17, &[2], &[], node("Simoid", &["x"], &["y"], &[])));
    assert!(
        text.contains("unsupported operator; the nearest names are `Sigmoid`"),
        "{text}"
    );
    assert!(
        refusal(&single(13, &[2], &[], node("Gelu", &["x"], &["y"], &[])))
            .contains("unknown before opset 20")
    );
    for (opset, words) in [(5, "opset 5"), (29, "opset 29")] {
        assert!(
            refusal(&single(opset, &[2], &[], node("Relu", &["x"], &["y"], &[]))).contains(words)
        );
    }
    let mut foreign = single(17, &[2], &[], node("Scaler", &["x"], &["y"], &[]));
    foreign.graph.as_mut().unwrap().node[0].domain = Some("ai.onnx.ml".to_owned());
    assert!(refusal(&foreign).contains("imports no opset for the domain `ai.onnx.ml`"));
    foreign
        .opset_import
        .push(support::import_of("ai.onnx.ml", 3));
    assert!(refusal(&foreign).contains("(ai.onnx.ml.Scaler, opset 3): unsupported operator"));
}

#[test]
fn recurrent_layers_leave_out_results_and_come_back_as_they_were() {
    let layer = |opset, outputs: &[&str], attributes: &[_]| {
        let constants = [
            ("w", counted(&[1, 8, 3])),
            ("r", counted(&[1, 8, 2])),
            ("lengths", Tensor::vector(vec![1_i32, 2])),
            ("state", counted(&[1, 2, 2])),
        ];
        let inputs = ["x", "w", "r", "", "lengths", "", "state"];
        let node = node("LSTM", &inputs, outputs, attributes);
        let x = value("x", DType::F32, &[2, 2, 3]);
        let last = outputs.iter().rfind(|name| !name.is_empty()).unwrap();
        model(opset, &[x], &constants, &[node], &[last])
    };
    let attributes = [
        word("direction", "reverse"),
        float("clip", 0.5),
        int("input_forget", 1),
        int("hidden_size", 2),
    ];
    for opset in [7, 13, 14, 22] {
        for outputs in [&["y", "", ""][..], &["", "", "c"], &["y", "h"]] {
            let graph = graph(&layer(opset, outputs, &attributes));
            assert_eq!(operators(&graph), ["LSTM"]);
            octofold_ir::verify(&graph).unwrap();
            let bytes = support::exported(&graph, &Default::default());
            let again = octofold_ir::onnx::import_bytes(bytes, None, &Default::default()).unwrap();
            assert_eq!(support::listing(&again), support::listing(&graph));
            let options = PrintOptions {
                data: Some("data.bin".to_owned()),
            };
            let printed = text::print(&graph, &options);
            let read = text::parse(&printed.text, Some(&printed.data)).unwrap();
            assert_eq!(support::listing(&read), support::listing(&graph));
            assert_eq!(result(&read, &[2, 2, 3]), result(&graph, &[2, 2, 3]));
        }
    }
    for (operator, lines) in [("GRU", 6), ("RNN", 2)] {
        let weights = [
            ("w", counted(&[1, lines, 3])),
            ("r", counted(&[1, lines, 2])),
        ];
        let x = value("x", DType::F32, &[2, 2, 3]);
        let made = node(operator, &["x", "w", "r"], &["y", "h"], &[]);
        for opset in [7, 14, 22] {
            let model = model(
                opset,
                std::slice::from_ref(&x),
                &weights,
                std::slice::from_ref(&made),
                &["h"],
            );
            assert_eq!(operators(&graph(&model)), [operator]);
        }
        let model = model(6, &[x], &weights, &[made], &["h"]);
        assert!(refusal(&model).contains("before opset 7 is not supported"));
    }
    assert!(operators(&graph(&layer(14, &["y"], &[int("layout", 0)]))) == ["LSTM"]);
    assert!(refusal(&layer(13, &["y"], &[int("layout", 0)])).contains("before opset 14"));
    assert!(refusal(&layer(6, &["y"], &[])).contains("before opset 7 is not supported"));
    let sequence = [int("output_sequence", 1)];
    assert!(refusal(&layer(7, &["y"], &sequence)).contains("output_sequence"));
    for (attribute, text) in [
        (word("direction", "sideways"), "sideways"),
        (float("clip", -1.0), "not positive"),
        (int("hidden_size", 3), "has the size 2 where others have 3"),
        (int("layout", 2), "neither 0 nor 1"),
    ] {
        assert!(refusal(&layer(14, &["y"], &[attribute])).contains(text));
    }
}

/// The list that the documentation shows is what the importer reads: no operator of it is unknown.
#[test]
fn listed_operators_are_read() {
    let attempts = octofold_ir::onnx::readable_operators();
    assert!(attempts.len() > 150, "{}", attempts.len());
    for operator in attempts {
        let mut node = node(operator.name, &["x"], &["y"], &[]);
        node.domain = Some(operator.domain.to_owned());
        for opset in [*operator.opsets.start(), *operator.opsets.end()] {
            let opset = if operator.domain.is_empty() {
                opset
            } else {
                17
            };
            let mut model = single(opset, &[1], &[], node.clone());
            if !operator.domain.is_empty() {
                let import = support::import_of(operator.domain, 1);
                model.opset_import.push(import);
            }
            let bytes = prost::Message::encode_to_vec(&model);
            if let Err(error) = octofold_ir::onnx::import_bytes(bytes, None, &Default::default()) {
                let text = error.to_string();
                assert!(!text.contains("unsupported operator"), "{text}");
                assert!(!text.contains("unknown before opset"), "{text}");
            }
        }
    }
}
