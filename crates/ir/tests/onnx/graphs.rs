//! Graphs of files: names, order, what is contradictory, and functions.

use octofold_ir::interpret;
use octofold_ir::onnx::proto::attribute_proto::AttributeType;
use octofold_ir::onnx::proto::{AttributeProto, GraphProto, ModelProto, SparseTensorProto};
use octofold_ir::onnx::{Budget, ExportOptions, ImportOptions, import_bytes, tensor_to_proto};
use octofold_tensor::{DType, Dim, Tensor};
use prost::Message;

use crate::support::{
    self, call, exported, float, function, graph, import_of, int, listing, model, node, operators,
    reference, refusal, value,
};

fn relu(input: &str, output: &str) -> octofold_ir::onnx::proto::NodeProto {
    node("Relu", &[input], &[output], &[])
}

fn x() -> octofold_ir::onnx::proto::ValueInfoProto {
    value("x", DType::F32, &[-1, 2])
}

#[test]
fn nodes_get_unique_names_and_remember_them() {
    let mut nodes = vec![
        relu("x", "a"),
        relu("a", "b"),
        relu("b", "c"),
        relu("c", "y"),
    ];
    for (node, name) in nodes.iter_mut().zip(["r", "", "r", "Relu_1"]) {
        node.name = Some(name.to_owned());
    }
    let graph = graph(&model(17, &[x()], &[], &nodes, &["y"]));
    let names: Vec<_> = graph
        .node_ids()
        .map(|id| {
            (
                graph.node(id).name().to_owned(),
                graph.node(id).sources().to_vec(),
            )
        })
        .collect();
    let own = |name: &str| (name.to_owned(), vec![name.to_owned()]);
    assert_eq!(
        names,
        [own("r"), own("Relu_1_1"), own("r_1"), own("Relu_1")]
    );
}

#[test]
fn dimensions_and_metadata_are_kept() {
    let mut input = x();
    if let Some(octofold_ir::onnx::proto::type_proto::Value::TensorType(tensor)) =
        input.r#type.as_mut().and_then(|ty| ty.value.as_mut())
    {
        tensor.shape.as_mut().unwrap().dim[1].value = None;
    }
    let mut model = model(17, &[input], &[], &[relu("x", "y")], &["y"]);
    model.producer_name = Some("pytorch".to_owned());
    model.producer_version = Some("2.1".to_owned());
    model.doc_string = Some("what it is".to_owned());
    model.metadata_props = vec![octofold_ir::onnx::proto::StringStringEntryProto {
        key: Some("author".to_owned()),
        value: Some("somebody".to_owned()),
    }];
    let graph = graph(&model);
    let ty = graph.value(graph.inputs()[0]).ty();
    assert_eq!(
        ty.shape.as_deref(),
        Some(&[Dim::symbol("N"), Dim::symbol("x.1")] as &[Dim])
    );
    let metadata: Vec<_> = graph
        .metadata()
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        metadata,
        [
            "author=somebody",
            "octofold.producer=pytorch 2.1",
            "octofold.doc_string=what it is"
        ]
    );

    let bytes = exported(&graph, &ExportOptions::default());
    let again = import_bytes(bytes, None, &ImportOptions::default()).unwrap();
    assert_eq!(listing(&again), listing(&graph));
}

#[test]
fn the_order_of_the_file_does_not_matter() {
    let graph = graph(&model(
        17,
        &[x()],
        &[],
        &[relu("a", "y"), relu("x", "a")],
        &["y"],
    ));
    assert_eq!(operators(&graph), ["Relu", "Relu"]);
    let cycle = model(
        17,
        &[x()],
        &[],
        &[
            relu("x", "z"),
            node("Add", &["b", "z"], &["a"], &[]),
            relu("a", "b"),
            relu("b", "y"),
        ],
        &["y"],
    );
    let text = refusal(&cycle);
    assert!(
        text.contains("cycle") && (text.contains("`Add_1`") || text.contains("`Relu_2`")),
        "{text}"
    );
}

#[test]
fn names_must_exist_once() {
    let w = || Tensor::vector(vec![1.0_f32, 2.0]);
    for (model, words) in [
        (
            model(
                17,
                &[x()],
                &[("w", w()), ("w", w())],
                &[relu("x", "y")],
                &["y"],
            ),
            "duplicate name: initializer `w`",
        ),
        (
            model(17, &[x(), x()], &[], &[relu("x", "y")], &["y"]),
            "duplicate name: input `x`",
        ),
        (
            model(17, &[x()], &[], &[relu("x", "y"), relu("x", "y")], &["y"]),
            "duplicate name: output of node `Relu_1` `y`",
        ),
        (
            model(17, &[x()], &[("y", w())], &[relu("x", "y")], &["y"]),
            "duplicate name: output of node `Relu_0` `y`",
        ),
        (
            model(17, &[x()], &[], &[relu("x", "y")], &["y", "y"]),
            "duplicate",
        ),
        (
            model(17, &[x()], &[], &[relu("z", "y")], &["y"]),
            "node `Relu_0` (Relu, opset 17): input `z` is undefined",
        ),
        (
            model(17, &[x()], &[], &[relu("x", "a")], &["y"]),
            "output `y`: is undefined: not produced",
        ),
        (
            model(
                17,
                &[x()],
                &[],
                &[node("Conv", &["x", ""], &["y"], &[])],
                &["y"],
            ),
            "required input 1 is missing",
        ),
        (
            model(17, &[x()], &[], &[node("", &["x"], &["y"], &[])], &["y"]),
            "op_type is empty",
        ),
        (
            model(17, &[value("", DType::F32, &[1])], &[], &[], &[]),
            "input has an empty name",
        ),
    ] {
        let text = refusal(&model);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn attributes_have_the_type_they_say() {
    let concat = |attribute: AttributeProto| {
        model(
            17,
            &[x()],
            &[],
            &[node("Concat", &["x", "x"], &["y"], &[attribute])],
            &["y"],
        )
    };
    assert!(
        refusal(&concat(float("axis", 0.0)))
            .contains("attribute `axis`: expected int, found float")
    );
    let mut lying = int("axis", 0);
    lying.r#type = Some(AttributeType::Float.into());
    assert!(refusal(&concat(lying)).contains("the type is FLOAT, the value is of type INT"));
    let mut untyped = int("axis", 1);
    untyped.r#type = None;
    assert_eq!(operators(&graph(&concat(untyped))), ["Concat"]);
    assert!(refusal(&concat(int("axes", 0))).contains("attribute `axis`: is missing"));
    let twice = model(
        17,
        &[x()],
        &[],
        &[node(
            "Concat",
            &["x", "x"],
            &["y"],
            &[int("axis", 0), int("axis", 1)],
        )],
        &["y"],
    );
    assert!(refusal(&twice).contains("given twice"));
    let outside = concat(reference("axis", "a", AttributeType::Int));
    assert!(refusal(&outside).contains("outside of any function"));

    let branch = AttributeProto {
        name: Some("then_branch".to_owned()),
        r#type: Some(AttributeType::Graph.into()),
        g: Some(Box::new(GraphProto::default())),
        ..AttributeProto::default()
    };
    let control = |branch| {
        model(
            17,
            &[x()],
            &[],
            &[node("If", &["x"], &["y"], &[branch])],
            &["y"],
        )
    };
    assert!(
        refusal(&control(branch.clone()))
            .contains("(If, opset 17): attribute `else_branch`: is missing")
    );
    assert!(
        refusal(&control(AttributeProto { g: None, ..branch })).contains("the graph is missing")
    );
}

#[test]
fn versions_are_required() {
    let sound = model(17, &[x()], &[], &[relu("x", "y")], &["y"]);
    let with = |change: &dyn Fn(&mut ModelProto)| {
        let mut model = sound.clone();
        change(&mut model);
        refusal(&model)
    };
    assert!(with(&|model| model.ir_version = None).contains("ir_version"));
    assert!(with(&|model| model.ir_version = Some(15)).contains("is 15, expected 3 to 14"));
    assert!(with(&|model| model.opset_import.clear()).contains("opset_import is missing"));
    assert!(
        with(&|model| model.opset_import.push(import_of("ai.onnx", 18)))
            .contains("another version")
    );
    assert!(with(&|model| model.graph = None).contains("no graph"));
    assert!(import_bytes(Vec::new(), None, &ImportOptions::default()).is_err());
}

#[test]
fn initializers_that_are_inputs_are_constants() {
    let w = Tensor::vector(vec![1.0_f32, 2.0]);
    let mut legacy = model(
        9,
        &[x(), value("w", DType::F32, &[2])],
        &[("w", w)],
        &[node("Add", &["x", "w"], &["y"], &[])],
        &["y"],
    );
    legacy.ir_version = Some(3);
    let graph = graph(&legacy);
    assert_eq!(graph.inputs().len(), 1);
    legacy.graph.as_mut().unwrap().input[1] = value("w", DType::F64, &[2]);
    assert!(refusal(&legacy).contains("the type is double, its initializer is of type float"));
}

#[test]
fn sparse_initializers_become_dense() {
    let sparse = |positions: Vec<i64>, dims: &[i64]| {
        let mut model = model(
            17,
            &[x()],
            &[],
            &[node("Add", &["x", "w"], &["y"], &[])],
            &["y"],
        );
        model.graph.as_mut().unwrap().sparse_initializer = vec![SparseTensorProto {
            values: Some(tensor_to_proto(
                "w",
                &Tensor::vector(vec![5.0_f32; positions.len()]),
            )),
            indices: Some(tensor_to_proto("", &Tensor::vector(positions))),
            dims: dims.to_vec(),
        }];
        model
    };
    let graph = graph(&sparse(vec![1], &[1, 2]));
    let w = graph
        .value(graph.value_named("w").unwrap())
        .constant()
        .unwrap();
    assert_eq!(*w, Tensor::new([1, 2], vec![0.0_f32, 5.0]).unwrap());
    assert!(
        refusal(&sparse(vec![2], &[1, 2]))
            .contains("initializer `w`: sparse tensor: index 0 is out of range")
    );
    assert!(refusal(&sparse(vec![0], &[1 << 30, 2])).contains("exceed the limit"));
}

#[test]
fn functions_are_inlined() {
    // scaled(a) = a · k + a, with k = the attribute `factor`, 2 unless the call says otherwise.
    let body = [
        node(
            "Constant",
            &[],
            &["k"],
            &[reference("value_float", "factor", AttributeType::Float)],
        ),
        node("Mul", &["a", "k"], &["t"], &[]),
        node("Add", &["t", "a"], &["r"], &[]),
    ];
    let mut scaled = function("scaled", &["a"], &["r"], &body);
    scaled.attribute_proto = vec![float("factor", 2.0)];
    let twice = function(
        "twice",
        &["a"],
        &["r"],
        &[
            call(node("scaled", &["a"], &["m"], &[])),
            call(node("scaled", &["m"], &["r"], &[float("factor", 0.5)])),
        ],
    );
    let mut model = model(
        17,
        &[x()],
        &[],
        &[call(node("twice", &["x"], &["y"], &[]))],
        &["y"],
    );
    model.functions = vec![scaled, twice];
    model.opset_import.push(import_of("f", 1));
    let graph = graph(&model);
    assert_eq!(operators(&graph), ["Mul", "Add", "Mul", "Add"]);
    let names: Vec<_> = graph
        .node_ids()
        .map(|id| graph.node(id).name().to_owned())
        .collect();
    assert_eq!(names[0], "twice_0/scaled_0/Mul_1");
    let input = Tensor::new([1, 2], vec![1.0_f32, 2.0]).unwrap();
    let found = interpret(&graph, &[("x", input)]).unwrap();
    assert_eq!(found[0], Tensor::new([1, 2], vec![4.5_f32, 9.0]).unwrap());
}

#[test]
fn functions_that_do_not_end_or_explode_are_refused() {
    let with = |functions, called: &str| {
        let mut model = model(
            17,
            &[x()],
            &[],
            &[call(node(called, &["x"], &["y"], &[]))],
            &["y"],
        );
        model.functions = functions;
        model.opset_import.push(import_of("f", 1));
        model
    };
    let link = |name: &str, next: &str| {
        function(
            name,
            &["a"],
            &["r"],
            &[call(node(next, &["a"], &["r"], &[]))],
        )
    };
    assert!(refusal(&with(vec![link("f", "g"), link("g", "f")], "f")).contains("recursion"));
    assert!(refusal(&with(vec![link("f", "f")], "f")).contains("function `f.f`: recursion"));
    assert!(refusal(&with(vec![link("f", "g"), link("f", "h")], "f")).contains("two functions"));

    let chain: Vec<_> = (0..70)
        .map(|k| link(&format!("f{k}"), &format!("f{}", k + 1)))
        .collect();
    assert!(refusal(&with(chain, "f0")).contains("nested deeper"));

    let wide = |k: usize| {
        let next = format!("f{}", k + 1);
        let nodes: Vec<_> = (0..4)
            .map(|j| {
                call(node(
                    &next,
                    &[if j == 0 { "a" } else { "t" }],
                    &[&format!("t{j}")],
                    &[],
                ))
            })
            .collect();
        function(&format!("f{k}"), &["a"], &["t0"], &nodes)
    };
    let text = refusal(&with((0..25).map(wide).collect(), "f0"));
    assert!(text.contains("too many nodes"), "{text}");

    let missing = function("f", &["a"], &["q"], &[relu("a", "r")]);
    assert!(refusal(&with(vec![missing], "f")).contains("the output `q` is undefined"));
    let mut many = with(vec![link("f", "Relu")], "f");
    many.graph.as_mut().unwrap().node[0]
        .input
        .push("x".to_owned());
    assert!(refusal(&many).contains("calls it with 2 inputs, it has 1"));
}

#[test]
fn budgets_can_be_set() {
    let model = model(17, &[x()], &[], &[relu("x", "a"), relu("a", "y")], &["y"]);
    let with = |budget| {
        let options = ImportOptions {
            budget,
            ..ImportOptions::default()
        };
        import_bytes(model.encode_to_vec(), None, &options)
    };
    assert!(with(Budget::default()).is_ok());
    for budget in [
        Budget {
            file_bytes: 10,
            ..Budget::default()
        },
        Budget {
            messages: 3,
            ..Budget::default()
        },
        Budget {
            entries: 3,
            ..Budget::default()
        },
        Budget {
            nodes: 1,
            ..Budget::default()
        },
        Budget {
            depth: 2,
            ..Budget::default()
        },
        Budget {
            decoded_bytes: 0,
            decoded_factor: 1,
            ..Budget::default()
        },
    ] {
        let text = with(budget).unwrap_err().to_string();
        assert!(text.contains("limit"), "{text}");
    }
}

#[test]
fn ranks_are_limited() {
    let ones = vec![1; 65];
    let input = model(
        17,
        &[value("x", DType::F32, &ones)],
        &[],
        &[relu("x", "y")],
        &["y"],
    );
    assert!(refusal(&input).contains("--limit rank"));
    let constant = Tensor::new([1; 65], vec![1.0_f32]).unwrap();
    let constant = model(17, &[], &[("x", constant)], &[relu("x", "y")], &["y"]);
    assert!(refusal(&constant).contains("65 axes"));
    let axes = Tensor::vector((0..80_i64).collect());
    let made = [node("Unsqueeze", &["x", "a"], &["y"], &[])];
    let made = model(
        17,
        &[value("x", DType::F32, &[2])],
        &[("a", axes)],
        &made,
        &["y"],
    );
    assert!(refusal(&made).contains("81 axes"));
}

/// Each call of a function makes a constant of a tensor that the file holds once.
#[test]
fn calls_that_copy_a_tensor_thousands_of_times_are_refused() {
    let tensor = Tensor::vector(vec![0.0_f32; 1 << 12]);
    let constant = support::tensor("value", tensor_to_proto("", &tensor));
    let mut functions = vec![function(
        "f0",
        &["a"],
        &["b"],
        &[
            node("Constant", &[], &["k"], &[constant]),
            node("Add", &["a", "k"], &["b"], &[]),
        ],
    )];
    for depth in 1..13 {
        let inner = format!("f{}", depth - 1);
        let calls = [
            call(node(&inner, &["a"], &["t"], &[])),
            call(node(&inner, &["t"], &["b"], &[])),
        ];
        functions.push(function(&format!("f{depth}"), &["a"], &["b"], &calls));
    }
    for (called, fits) in [("f2", true), ("f12", false)] {
        let nodes = [call(node(called, &["x"], &["y"], &[]))];
        let mut model = model(
            17,
            &[value("x", DType::F32, &[1 << 12])],
            &[],
            &nodes,
            &["y"],
        );
        model.functions.clone_from(&functions);
        model.opset_import.push(support::import_of("f", 1));
        if fits {
            graph(&model);
        } else {
            assert!(refusal(&model).contains("--limit copied-bytes"));
        }
    }
}

#[test]
fn huge_results_are_refused_before_anybody_computes_them() {
    let shape = Tensor::vector(vec![1_i64 << 20, 1 << 20]);
    let bomb = model(
        17,
        &[],
        &[("s", shape)],
        &[node("ConstantOfShape", &["s"], &["y"], &[])],
        &["y"],
    );
    assert!(refusal(&bomb).contains("too large"));
    let mut nodes = vec![node("Concat", &["x", "x"], &["a0"], &[int("axis", 0)])];
    for k in 1..60 {
        let (from, to) = (format!("a{}", k - 1), format!("a{k}"));
        nodes.push(node("Concat", &[&from, &from], &[&to], &[int("axis", 0)]));
    }
    // Of a known size, and of a symbolic one, which grows with the model all the same.
    for size in [1, -1] {
        let text = refusal(&model(
            17,
            &[value("x", DType::F32, &[size])],
            &[],
            &nodes,
            &["a59"],
        ));
        assert!(text.contains("limit"), "{text}");
    }
}
