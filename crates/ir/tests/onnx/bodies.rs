//! Bodies: read from text and ONNX, typed, printed, written and run.

use octofold_ir::onnx::proto::ModelProto;
use octofold_ir::onnx::{ExportOptions, ImportOptions, export, import_bytes};
use octofold_ir::text::{self, PrintOptions};
use octofold_ir::{BodyLimits, Graph, GraphError, interpret, interpret_within, verify};
use octofold_ops::OpError;
use octofold_tensor::Tensor;
use prost::Message;

fn parse(source: &str) -> Graph {
    let graph = text::parse(source, None).unwrap_or_else(|error| panic!("{error}\n{source}"));
    verify(&graph).unwrap_or_else(|error| panic!("{error}\n{graph}"));
    graph
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.values().unwrap()
}

fn types(graph: &Graph) -> Vec<String> {
    let outputs = graph.outputs().iter();
    outputs
        .map(|output| graph.value(output.value).ty().to_string())
        .collect()
}

/// Printed and read, and written as ONNX and read, a graph computes the same.
fn round_trips(graph: &Graph, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let options = PrintOptions {
        data: Some("data".to_owned()),
    };
    let printed = text::print(graph, &options);
    let read = text::parse(&printed.text, Some(&printed.data));
    let read = read.unwrap_or_else(|error| panic!("{error}\n{}", printed.text));
    assert_eq!(text::print(&read, &options), printed);
    let bytes = export(graph, &ExportOptions::default()).unwrap();
    let written = import_bytes(bytes, None, &ImportOptions::default());
    let written = written.unwrap_or_else(|error| panic!("{error}\n{graph}"));
    verify(&written).unwrap();
    assert_eq!(types(&written), types(graph));
    let expected = interpret(graph, inputs).unwrap_or_else(|error| panic!("{error}\n{graph}"));
    assert_eq!(interpret(&read, inputs).unwrap(), expected);
    assert_eq!(interpret(&written, inputs).unwrap(), expected);
    expected
}

/// The sum of the numbers below `n`, and all partial sums times a captured factor.
const SUMS: &str = "
sums (int64 n, float[1] start, float factor) => (total, partial)
< bool yes = {1} >
{
  [loop] total, partial = Loop <body = step (int64 trip, bool go, float[1] sum) => (go_on, next, scaled) {
      go_on = Identity (go)
      number = Cast <to = 1> (trip)
      next = Add (sum, number)
      scaled = Mul (next, factor)
    }> (n, yes, start)
}";

#[test]
fn a_loop_sums_numbers() {
    let graph = parse(SUMS);
    assert_eq!(types(&graph), ["float[1]", "float[\"loop.0\",1]"]);
    let inputs = |n: i64| {
        [
            ("n", Tensor::scalar(n)),
            ("start", Tensor::vector(vec![10.0_f32])),
            ("factor", Tensor::scalar(2.0_f32)),
        ]
    };
    let found = round_trips(&graph, &inputs(4));
    assert_eq!(floats(&found[0]), [16.0]);
    assert_eq!(found[1].shape(), [4, 1]);
    assert_eq!(floats(&found[1]), [20.0, 22.0, 26.0, 32.0]);
    let none = interpret(&graph, &inputs(0)).unwrap();
    assert_eq!(
        (floats(&none[0]), none[1].shape()),
        (&[10.0_f32][..], &[0, 1][..])
    );
}

#[test]
fn sizes_of_operands_come_out_of_bodies_again() {
    // The state keeps its size, so the result has that of the operand; the stack has the length of what is scanned.
    let graph = parse(
        "g (float[N,4] start, float[T,N,4] x, float[4] b) => (last, all) {
           last, all = Scan <num_scan_inputs = 1, body = step (float[N,4] state, float[N,4] now) => (next, shown) {
             sum = Add (state, now)
             next = Add (sum, b)
             shown = Relu (next)
           }> (start, x)
         }",
    );
    assert_eq!(types(&graph), ["float[N,4]", "float[T,N,4]"]);
    let fixed = graph.with_dimension("N", 2).unwrap();
    verify(&fixed).unwrap();
    assert_eq!(types(&fixed), ["float[2,4]", "float[T,2,4]"]);
    let fill = |shape: &[usize], value: f32| {
        Tensor::new(shape.iter().copied(), vec![value; shape.iter().product()]).unwrap()
    };
    let inputs = [
        ("start", fill(&[1, 4], 1.0)),
        ("x", fill(&[3, 1, 4], -2.0)),
        ("b", fill(&[4], 0.5)),
    ];
    let found = round_trips(&graph, &inputs);
    assert_eq!(floats(&found[0]), [-3.5; 4]);
    assert_eq!(found[1].shape(), [3, 1, 4]);
}

#[test]
fn a_state_that_grows_has_an_open_size() {
    let graph = parse(
        "g (int64 n, float[2] start) => (all) {
           [loop] all = Loop <body = step (int64 trip, bool go, float[2] state) => (go, next) {
             next = Concat <axis = 0> (state, start)
           }> (n, \"\", start)
         }",
    );
    assert_eq!(types(&graph), ["float[\"loop.0\"]"]);
    let inputs = [
        ("n", Tensor::scalar(2_i64)),
        ("start", Tensor::vector(vec![1.0_f32, 2.0])),
    ];
    let found = round_trips(&graph, &inputs);
    assert_eq!(floats(&found[0]), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn bodies_of_bodies_read_values_of_every_graph_around_them() {
    let graph = parse(
        "g (bool c, int64 n, float[2] x, float[2] z) => (y, z2) {
           [if] y, z2 = If <then_branch = t () => (a, z) {
             a = Loop <body = step (int64 trip, bool go, float[2] state) => (go, next) {
               next = If <then_branch = tt () => (p) { p = Add (state, x) }, else_branch = ee () => (q) { q = Mul (state, z) }> (c)
             }> (n, \"\", x)
           }, else_branch = e () => (b, x) { b = Neg (z) }> (c)
         }",
    );
    assert_eq!(types(&graph), ["float[2]", "float[2]"]);
    let inputs = |c: bool| {
        [
            ("c", Tensor::scalar(c)),
            ("n", Tensor::scalar(3_i64)),
            ("x", Tensor::vector(vec![1.0_f32, 2.0])),
            ("z", Tensor::vector(vec![5.0_f32, 7.0])),
        ]
    };
    let found = round_trips(&graph, &inputs(true));
    assert_eq!(
        (floats(&found[0]), floats(&found[1])),
        (&[4.0_f32, 8.0][..], &[5.0_f32, 7.0][..])
    );
    let found = round_trips(&graph, &inputs(false));
    assert_eq!(
        (floats(&found[0]), floats(&found[1])),
        (&[-5.0_f32, -7.0][..], &[1.0_f32, 2.0][..])
    );
}

#[test]
fn branches_of_different_sizes_give_an_open_size() {
    let graph = parse(
        "g (bool c, float[2,3] x) => (y) {
           [if] y = If <then_branch = t () => (a) { a = Relu (x) }, else_branch = e () => (b) { b = Concat <axis = 0> (x, x) }> (c)
         }",
    );
    assert_eq!(types(&graph), ["float[\"if.0\",3]"]);
}

fn refusal(source: &str) -> String {
    text::parse(source, None).unwrap_err().to_string()
}

#[test]
fn what_a_body_reads_has_to_be_there_and_to_be_one_thing() {
    let around = |body: &str| {
        format!(
            "g (bool c, float[2] x) => (y) {{ y = If <then_branch = t () => (a) {{ {body} }}, else_branch = e () => (b) {{ b = Neg (x) }}> (c) }}"
        )
    };
    assert!(refusal(&around("a = Relu (nothing)")).contains("`nothing` is undefined"));
    assert!(
        refusal(&around("a = Cast <to = 7> (x)")).contains("of type float or int64")
            || refusal(&around("a = Cast <to = 7> (x)")).contains("of type int64 or float")
    );
    let wrong = "g (float[2] x) => (y) { y = Scan <num_scan_inputs = 1, body = b (float a, float b) => (c) { c = Add (a, b) }> (x) }";
    assert!(refusal(wrong).contains("inputs"), "{}", refusal(wrong));
}

/// In a file, a name that is inside and outside could mean either value.
#[test]
fn a_body_of_a_file_defines_no_name_of_the_graphs_around_it() {
    let graph = parse(
        "g (bool c, float[2] x) => (y) { y = If <then_branch = t () => (a) { a = Neg (x) }, else_branch = e () => (b) { b = Relu (x) }> (c) }",
    );
    let bytes = export(&graph, &ExportOptions::default()).unwrap();
    let mut model = ModelProto::decode(bytes.as_slice()).unwrap();
    let node = &mut model.graph.as_mut().unwrap().node[0];
    let body = node.attribute[0].g.as_mut().unwrap();
    body.node[0].output[0] = "c".to_owned();
    body.output[0].name = Some("c".to_owned());
    let refused = import_bytes(model.encode_to_vec(), None, &ImportOptions::default());
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("duplicate name"), "{error}");
    // Neither may a body read what is not there.
    let mut model = ModelProto::decode(bytes.as_slice()).unwrap();
    let node = &mut model.graph.as_mut().unwrap().node[0];
    node.attribute[0].g.as_mut().unwrap().node[0].input[0] = "nothing".to_owned();
    let refused = import_bytes(model.encode_to_vec(), None, &ImportOptions::default());
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("`nothing` is undefined")
    );
}

#[test]
fn a_loop_without_end_is_refused_when_nothing_ends_it() {
    let source = |trips: &str, condition: &str| {
        format!(
            "g (float[1] x) => (y) < int64 n = {{{trips}}}, bool yes = {{1}} > {{
               y = Loop <body = b (int64 i, bool go, float[1] v) => (on, next) {{ on = {condition} next = Neg (v) }}> (n, yes, x)
             }}"
        )
    };
    let error = refusal(&source("4611686018427387904", "Identity (go)"));
    assert!(
        error.contains("the loop makes 4611686018427387904 trips"),
        "{error}"
    );
    parse(&source("1000", "Identity (go)"));
    // Exporters write loops that a condition ends with the largest number of trips.
    parse(
        &source("9223372036854775807", "Less (v, v)")
            .replace("on = Less (v, v)", "all = Less (v, v) on = Squeeze (all)"),
    );
}

#[test]
fn bodies_are_nested_to_a_limit() {
    let mut body = "r0 = Neg (x)".to_owned();
    for level in 1..12 {
        let inner = level - 1;
        body = format!(
            "r{level} = If <then_branch = t () => (r{inner}) {{ {body} }}, else_branch = e () => (n{level}) {{ n{level} = Neg (x) }}> (c)"
        );
    }
    let source = format!("g (bool c, float x) => (r11) {{ {body} }}");
    assert!(
        refusal(&source).contains("nested deeper"),
        "{}",
        refusal(&source)
    );
}

#[test]
fn a_body_without_end_reaches_the_limits() {
    let source = |result: &str| {
        format!(
            "g (int64 n, float[1024] x) => (y, all) {{
               y, all = Loop <body = step (int64 trip, bool go, float[1024] state) => (go, next, shown) {{
                 next = Neg (state)
                 shown = {result} (state)
               }}> (n, \"\", x)
             }}"
        )
    };
    let graph = parse(&source("Relu"));
    let inputs = [
        ("n", Tensor::scalar(1_i64 << 62)),
        ("x", Tensor::vector(vec![1.0_f32; 1024])),
    ];
    let run = |limits| match interpret_within(&graph, &inputs, limits, &mut |_, _| {}) {
        Err(GraphError::Op { source, .. }) => *source,
        other => panic!("{other:?}"),
    };
    let mut limits = BodyLimits {
        operations: 1 << 20,
        ..BodyLimits::default()
    };
    let error = run(limits);
    let OpError::Body { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(*source, OpError::Operations(1 << 20));
    limits = BodyLimits {
        bytes: 1 << 20,
        operations: 1 << 40,
    };
    assert_eq!(run(limits), OpError::Bytes(1 << 20));
}
