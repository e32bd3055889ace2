use octofold_ops::families::{ConstantOfShape, Relu};
use octofold_tensor::{DType, Elements, Tensor, TensorData};
use proptest::prelude::*;

use super::*;
use crate::testing::{GraphOptions, difference, random_graph};
use crate::{TensorType, verify};

fn options() -> PrintOptions {
    PrintOptions {
        data: Some("graph.bin".to_owned()),
    }
}

/// Prints, parses, compares, prints again.
fn round_trip(graph: &Graph) -> String {
    let printed = print(graph, &options());
    let read = match parse(&printed.text, Some(&printed.data)) {
        Ok(read) => read,
        Err(error) => panic!("{error}\n{}", printed.text),
    };
    verify(&read).unwrap();
    if let Some(difference) = difference(graph, &read) {
        panic!("{difference}\n{}", printed.text);
    }
    assert_eq!(print(&read, &options()), printed);
    printed.text
}

fn error(text: &str) -> String {
    parse(text, None).unwrap_err().to_string()
}

#[test]
fn a_small_graph_reads_like_onnx() {
    let text = "<ir_version: 10, opset_import: [\"\" : 21, \"octofold\" : 1], metadata_props: [\"octofold.producer\": \"by hand\"]>
net (float[N,3,8,8] x) => (float[N,2,8,8] y)
<
float[2,3,1,1] w = {0.5, 1.0, -0.25, 1e-7, 0.0, -0.0},
float[2] b = {1.0, inf}
>
{
[\"conv/1\"] \"c.1\" = Conv <kernel_shape = [1,1]> (x, w, b)  # float[N,2,8,8]
[relu] r = Relu (\"c.1\")  #: \"relu\" \"clip\"  # float[N,2,8,8]
[made] y = octofold.Binary <kind = \"add\", activation = \"relu\"> (r, r)  #:  # float[N,2,8,8]
}
";
    let graph = parse(text, None).unwrap();
    assert_eq!(graph.to_string(), text);
    assert_eq!(
        graph.node(graph.node_named("relu").unwrap()).sources(),
        ["relu", "clip"]
    );
    assert!(
        graph
            .node(graph.node_named("made").unwrap())
            .sources()
            .is_empty()
    );
    round_trip(&graph);
}

#[test]
fn onnx_text_of_an_old_opset_is_read() {
    let graph = parse(
        r#"<
           ir_version: 7,
           opset_import: [ "" : 10 , "local" : 1 ], producer_name: "someone"
        >
        agraph (float[N, 4] X, float[2,4] W) => (float[N, 2] C)
        <float[2,4] W = {1, 2, 3, 4, 5, 6.5, 7, 8}, int64 unused = {3}>
        {
            # a comment
            T = local.twice <k: float = 3> (X)
            P = Clip <max = 6.0, min: float = 0> (T)
            C = Gemm (P, W) <transB = 1>
        }
        <domain: "local", opset_import: [ "" : 10 ]>
        twice <k> (a) => (b) { b = LeakyRelu <alpha: float = @k> (a) }"#,
        None,
    )
    .unwrap();
    verify(&graph).unwrap();
    let text = round_trip(&graph);
    assert!(text.contains("LeakyRelu <alpha = 3.0>"), "{text}");
    // Bounds are operands since opset 11.
    assert!(
        text.contains("P = Clip (T, \"Clip_1.min\", \"Clip_1.max\")"),
        "{text}"
    );
}

#[test]
fn every_element_type_round_trips() {
    let mut graph = Graph::new("types");
    let x = graph
        .add_input("x", TensorType::unranked(DType::F32))
        .unwrap();
    for count in [0, 1, 3, 17] {
        for dtype in DType::ALL {
            let tensor = Tensor::zeros(dtype, [count]).unwrap();
            graph
                .add_constant(&format!("{dtype}{count}"), tensor)
                .unwrap();
        }
    }
    graph
        .add_constant("float", Tensor::scalar(f32::NAN))
        .unwrap();
    graph
        .add_constant(
            "payload",
            Tensor::vector(vec![
                f32::from_bits(0x7fc0_1234),
                f32::NEG_INFINITY,
                -0.0,
                f32::MIN_POSITIVE,
            ]),
        )
        .unwrap();
    graph
        .add_constant(
            "wide",
            Tensor::vector(vec![f64::MAX, 1e-300, f64::INFINITY]),
        )
        .unwrap();
    graph
        .add_constant("limits", Tensor::vector(vec![i64::MIN, i64::MAX]))
        .unwrap();
    graph
        .add_constant("unsigned", Tensor::vector(vec![u64::MAX, 0]))
        .unwrap();
    graph
        .add_constant(
            "words",
            Tensor::vector(vec!["a \"b\" \\ c".to_owned(), "line\nbreak".to_owned()]),
        )
        .unwrap();
    let nibbles = TensorData::I4(Elements::new(vec![1, -2, 3]));
    graph
        .add_constant("nibbles", Tensor::from_data([3], nibbles).unwrap())
        .unwrap();
    let shape = graph
        .add_constant("shape", Tensor::vector(vec![2_i64]))
        .unwrap();
    let fill = ConstantOfShape {
        value: Some(Tensor::vector(vec![f32::INFINITY])),
    };
    graph
        .add_node(
            "inf",
            fill.into(),
            &[Some(shape)],
            &["nan"],
            vec!["inf".to_owned()],
        )
        .unwrap();
    graph
        .add_node(
            "relu",
            Relu {}.into(),
            &[Some(x)],
            &["tensor"],
            vec!["a\nb".to_owned()],
        )
        .unwrap();
    graph
        .add_output("out\nput", graph.value_named("nan").unwrap())
        .unwrap();
    graph
        .add_output("tensor", graph.value_named("tensor").unwrap())
        .unwrap();
    let text = round_trip(&graph);
    assert!(!text.contains("int4[3] nibbles = {"), "{text}");
}

#[test]
fn a_quantized_input_keeps_its_parameters() {
    let graph = parse(
        "g (uint8[N,4] {scale: 0.5, zero_point: 128} a, int8[2,4] {axis: 0, scale: [0.5, 0.25], zero_point: [0, -1]} b) => (a, b) {}",
        None,
    )
    .unwrap();
    let text = round_trip(&graph);
    assert!(
        text.contains("uint8[N,4] {scale: 0.5, zero_point: 128} a"),
        "{text}"
    );
    assert!(error("g (uint8[2] {scale: 0, zero_point: 1} a) => (a) {}").contains("scale"));
    assert!(error("g (uint8[2] {scale: 1, zero_point: 256} a) => (a) {}").contains("zero point"));
}

#[test]
fn outputs_keep_the_names_of_the_caller() {
    let mut graph = parse(
        "g (float[2] x) => () { [n] y = Relu (x) [m] z = Relu (y) }",
        None,
    )
    .unwrap();
    let (y, z) = (
        graph.value_named("y").unwrap(),
        graph.value_named("z").unwrap(),
    );
    graph.add_output("y", z).unwrap();
    graph.add_output("z", z).unwrap();
    graph.add_output("other", y).unwrap();
    let text = round_trip(&graph);
    assert!(
        text.contains("(float[2] z,  #: \"y\"\nfloat[2] z, float[2] y  #: \"other\"\n)"),
        "{text}"
    );
}

#[test]
fn large_constants_stand_in_the_side_data() {
    let mut graph = Graph::new("g");
    graph
        .add_constant("w", Tensor::vector((0..40).map(|i| i as f32).collect()))
        .unwrap();
    graph
        .add_output("w", graph.value_named("w").unwrap())
        .unwrap();
    let text = round_trip(&graph);
    assert!(text.contains("\"length\": \"160\""), "{text}");
    assert!(error(&text).contains("folder"), "without data");
    let mut printed = print(&graph, &options());
    printed.data[3] ^= 1;
    assert!(
        parse(&printed.text, Some(&printed.data))
            .unwrap_err()
            .message
            .contains("checksum")
    );
    printed.data.truncate(30);
    assert!(
        parse(&printed.text, Some(&printed.data))
            .unwrap_err()
            .message
            .contains("not within")
    );
    assert!(
        error(&graph.to_string()).contains("left out"),
        "the short form"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnxtxt");
    write_file(&graph, &path).unwrap();
    assert!(folder.path().join("net.bin").is_file());
    assert_eq!(difference(&graph, &read_file(&path).unwrap()), None);
    let missing = read_file(&folder.path().join("none.txt")).unwrap_err();
    assert!(matches!(missing, TextError::Io { .. }), "{missing}");
}

#[test]
fn forms_that_nothing_computes_are_refused_by_name() {
    let layer = |op: &str| {
        error(&format!(
            "<ir_version: 10, opset_import: [\"\" : 21, \"octofold\" : 1]>\ng (float[2, 3] x, int8[3, 4] w) => (y) {{\n  y = octofold.{op} (x, w)\n}}"
        ))
    };
    for (op, what) in [
        (
            "Linear <x_extent = \"row\", w_scale = [0.1]>",
            "no kernel computes products of operands with a scale for each row of a run yet",
        ),
        (
            "Linear <w_block_size = 32, w_bits = 4>",
            "no kernel computes products of floats with quantized weights yet",
        ),
        (
            "LSTM <x_extent = \"row\", w_scale = [0.1], h_extent = \"row\", r_scale = [0.1]>",
            "no kernel computes products of operands with a scale for each row of a run yet",
        ),
    ] {
        let error = layer(op);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn errors_name_the_place() {
    assert_eq!(
        error("g (float x) => (x) {\n  y = Relu x\n}"),
        "2:12: expected `(`, found `x`"
    );
    assert_eq!(
        error("g (float[N x) => (x) {}"),
        "1:12: expected `,` or `]`, found `x`"
    );
    assert!(
        error("g (float[2] x) => (x) {\n y = Relu (x)\n  [a] z = Relu (nothing)\n}")
            .starts_with("3:3: node `a`")
    );
    // Of two, the second is one too many; of a value, the place is that of its definition.
    for (text, place) in [
        (
            "g (float[2] x,\n float[2] x) => (x) {}",
            "2:2: duplicate name: input `x`",
        ),
        (
            "g (float[2] x) => (x)\n<float[1] w = {1},\n  float[1] w = {1}> {}",
            "3:3: duplicate name: initializer `w`",
        ),
        (
            "g (float[2] x) => (x) {\n a = Relu (x)\n  a = Neg (x)\n}",
            "3:3: duplicate name: output of node",
        ),
        (
            "g (float[2] x) => (x,\n x) {}",
            "2:2: output `x`: duplicate",
        ),
        ("g (float[2] x) => (x,\n  z) {}", "2:3: output `z`"),
        (
            "g (float[2] x) => (x)\n<float[2] w = {1}> {}",
            "2:2: initializer `w`",
        ),
    ] {
        assert!(error(text).starts_with(place), "{}", error(text));
    }
    assert!(error("g (seq(float) x) => (x) {}").contains("`seq` is no type"));
    assert!(
        error("g (float x) => (x) { y = Relu <then_branch = t () => () {}> (x) }")
            .contains("the subgraph in attribute `then_branch`")
    );
    assert!(error("g (float x) => (x) <int4[1] w = {1}> {}").contains("4 bits"));
    assert!(error("g (float x) => (x) <float[2] w = {1}> {}").contains("float_data"));
    assert!(error("g (float x) => (x) <float[99999999999] w = {1}> {}").contains("float_data"));
    assert!(
        error("g (float x) => (x) <float[4000000000,4000000000,4000000000] w = {1}> {}")
            .contains("overflow")
    );
    assert!(error("g (float x) => (x) { y = Relu <a = []> (x) }").contains("empty list"));
    assert!(error("g (float x) => (x) { y = Relu <a: int = 1.5> (x) }").contains("no int"));
    assert!(error("g (float x) => (x) <int8[1] w = {1000}> {}").contains("1000"));
    assert!(error("g (float x) => (\"x").contains("closing quote"));
    assert!(error("").contains("the name of a graph"));
    assert!(error("<ir_version: 10>").contains("the name of a graph"));
    assert!(error("g (float x) => (x) { y = octofold.Nothing (x) }").contains("octofold.Nothing"));
    assert!(error("<ir_version: 10, opset_import: [\"\": 21]> g (float x) => (x) { y = octofold.Binary (x, x) }").contains("imports no opset"));
    // Newlines that end no comment, and characters of several bytes.
    assert_eq!(
        error("g (float x) => (x) { # ü\n ü }"),
        "2:2: the character 'ü' has no meaning here"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_round_trip(seed: u64, nodes in 0_usize..24) {
        round_trip(&random_graph(seed, GraphOptions { nodes, quantize: true }));
    }

    #[test]
    fn cut_and_changed_text_does_not_panic(seed: u64, at: usize, with in "[\\x00-\\x7fü]{0,3}", length in 0_usize..4) {
        let printed = print(&random_graph(seed % 64, GraphOptions { nodes: 6, quantize: true }), &options());
        let start = at % printed.text.len();
        let end = (start + length).min(printed.text.len());
        let changed = format!("{}{with}{}", &printed.text[..start], &printed.text[end..]);
        let _ = parse(&changed, Some(&printed.data));
        let _ = parse(&printed.text[..start], Some(&printed.data));
    }
}
