//! Each check finds a graph that was made wrong on purpose, and nothing else does.

use octofold_ops::families::{Neg, Observe, Relu, Sub, TableLookup};
use octofold_ops::{Attribute, Op};
use octofold_tensor::Tensor;

use super::{Form, STAGES, STRUCTURE, Stage, VerifyError, verify, verify_stage};
use crate::{Graph, NodeId, ValueId, text};

/// `y = relu(x - w)`, with all its parts.
struct Sound {
    graph: Graph,
    x: ValueId,
    w: ValueId,
    difference: ValueId,
    y: ValueId,
    sub: NodeId,
    relu: NodeId,
}

fn sound() -> Sound {
    let source = "g (float[2] x) => (y) <float[3,2] w = {1, 2, 3, 4, 5, 6}> { [sub] d = Sub (x, w) [relu] y = Relu (d) }";
    let graph = text::parse(source, None).unwrap();
    let value = |name| graph.value_named(name).unwrap();
    let (x, w, difference, y) = (value("x"), value("w"), value("d"), value("y"));
    let (sub, relu) = (
        graph.node_named("sub").unwrap(),
        graph.node_named("relu").unwrap(),
    );
    verify(&graph).unwrap();
    Sound {
        graph,
        x,
        w,
        difference,
        y,
        sub,
        relu,
    }
}

/// The checks and places of the faults that were found.
fn faults(result: Result<(), VerifyError>) -> Vec<(&'static str, String)> {
    let faults = result.unwrap_err().faults.into_iter();
    faults.map(|fault| (fault.check, fault.place)).collect()
}

fn found(graph: &Graph) -> Vec<(&'static str, String)> {
    faults(verify(graph))
}

#[test]
fn an_operand_has_to_exist() {
    let mut sound = sound();
    sound.graph.break_existence(sound.x);
    let expected = [("operands", "g".to_owned()), ("operands", "sub".to_owned())];
    assert_eq!(found(&sound.graph), expected);
}

#[test]
fn a_name_has_to_lead_back() {
    let mut sound = sound();
    sound.graph.break_name(sound.difference, "w");
    assert_eq!(found(&sound.graph), [("names", "w".to_owned())]);
}

#[test]
fn a_result_and_its_node_point_at_each_other() {
    let mut sound = sound();
    sound.graph.break_producer(sound.y, sound.sub, 1);
    let expected = [
        ("producers", "y".to_owned()),
        ("producers", "relu".to_owned()),
    ];
    assert_eq!(found(&sound.graph)[..2], expected);
}

#[test]
fn an_input_has_to_be_listed() {
    let mut sound = sound();
    sound.graph.break_inputs();
    assert_eq!(found(&sound.graph), [("producers", "x".to_owned())]);
}

#[test]
fn a_constant_has_the_type_of_its_tensor() {
    let mut sound = sound();
    sound.graph.break_type(sound.w, sound.x);
    // Inference believes the wrong type, so the result is wrong, too.
    let expected = [("constants", "w".to_owned()), ("types", "d".to_owned())];
    assert_eq!(found(&sound.graph), expected);
}

#[test]
fn an_operator_has_to_take_its_operands() {
    let mut sound = sound();
    sound.graph.break_operator(sound.relu, Sub {}.into());
    let expected = [("arity", "relu".to_owned()), ("types", "relu".to_owned())];
    assert_eq!(found(&sound.graph), expected);
}

#[test]
fn both_stores_of_edges_have_to_agree() {
    let mut sound = sound();
    sound.graph.break_edge(sound.sub, 0, Some(sound.w));
    sound.graph.break_edge(sound.sub, 1, Some(sound.x));
    assert_eq!(found(&sound.graph), [("edges", "sub".to_owned())]);
}

#[test]
fn a_node_must_not_depend_on_itself() {
    let mut sound = sound();
    let used = crate::Use {
        node: sound.sub,
        slot: 0,
    };
    sound.graph.set_input(used, sound.y);
    assert_eq!(found(&sound.graph), [("cycles", "g".to_owned())]);
}

#[test]
fn a_type_is_what_inference_says() {
    let mut sound = sound();
    sound.graph.break_type(sound.y, sound.x);
    assert_eq!(found(&sound.graph), [("types", "y".to_owned())]);
    let shown = verify(&sound.graph).unwrap_err().to_string();
    let expected =
        "the graph has 1 fault:\n  types `y`: has the type float[2], inference gives float[3,2]";
    assert_eq!(shown, expected);
}

#[test]
fn a_body_has_to_be_sound_and_to_fit() {
    let source = "g (bool c, float[2] x) => (y) { [if] y = If <then_branch = t () => (a) { a = Relu (x) }, else_branch = e () => (b) { b = Neg (x) }> (c) }";
    let mut graph = text::parse(source, None).unwrap();
    verify(&graph).unwrap();
    let node = graph.node_named("if").unwrap();
    let (sound, op) = (graph.clone(), graph.node(node).op().clone());
    graph.break_operator(node, op.with_bodies(|_| octofold_ops::BodyId(7)));
    let found = found(&graph);
    assert_eq!(found[0], ("bodies", "if".to_owned()));
    let mut graph = sound;
    let body = graph.bodies_mut().next().unwrap();
    let result = body.outputs()[0].value;
    body.break_name(result, "other");
    assert_eq!(
        super::tests::found(&graph),
        [("bodies", "if/other".to_owned())]
    );
}

#[test]
fn every_check_has_a_test_above() {
    let names: Vec<&str> = STRUCTURE.iter().map(|check| check.name).collect();
    let tested = [
        "operands",
        "names",
        "producers",
        "constants",
        "arity",
        "edges",
        "cycles",
        "bodies",
        "types",
    ];
    assert_eq!(names, tested);
}

/// A graph of the operators given, one behind the other.
fn chain(ops: impl IntoIterator<Item = Op>) -> Graph {
    let mut graph = Graph::new("chain");
    let ty = crate::TensorType::new(octofold_tensor::DType::F32, [1_i64, 1, 1, 1]);
    let mut last = graph.add_input("x", ty).unwrap();
    let w = graph
        .add_constant("w", Tensor::new(vec![1, 1, 1, 1], vec![2.0_f32]).unwrap())
        .unwrap();
    for (index, op) in ops.into_iter().enumerate() {
        let inputs = match op {
            Op::FusedConv(_) => vec![Some(last), Some(w)],
            _ => vec![Some(last)],
        };
        let result = format!("v{index}");
        let node = graph
            .add_node(&format!("n{index}"), op, &inputs, &[&result], vec![])
            .unwrap();
        last = graph.node(node).outputs()[0];
    }
    graph.add_output("y", last).unwrap();
    graph
}

fn conv(layout: &str) -> Op {
    // With steps, a convolution of one tap is more than a factor and a summand.
    let attributes = [
        ("layout".to_owned(), Attribute::String(layout.to_owned())),
        ("strides".to_owned(), Attribute::Ints(vec![2, 2])),
    ];
    Op::from_attributes("octofold", "Conv", attributes.into_iter().collect()).unwrap()
}

fn observe(id: &str) -> Op {
    Observe { id: id.to_owned() }.into()
}

#[test]
fn each_stage_allows_its_operators_alone() {
    let at = |graph: &Graph, stage| match verify_stage(graph, stage) {
        Ok(()) => vec![],
        error => faults(error),
    };
    let wrong = vec![("operators", "n0".to_owned())];
    let fused = chain([conv("nchw")]);
    for stage in [Stage::Imported, Stage::Reference] {
        assert_eq!(at(&fused, stage), wrong, "{stage}");
    }
    for stage in [Stage::Fused, Stage::Annotated, Stage::Lowered] {
        assert_eq!(at(&fused, stage), [], "{stage}");
    }
    let observed = chain([observe("x")]);
    for stage in [Stage::Fused, Stage::Reference] {
        assert_eq!(at(&observed, stage), wrong, "{stage}");
    }
    assert_eq!(at(&observed, Stage::Annotated), []);
    let nhwc = chain([conv("nhwc")]);
    assert_eq!(at(&nhwc, Stage::Lowered), wrong);
    assert_eq!(at(&nhwc, Stage::LaidOut), []);
    let message = verify_stage(&nhwc, Stage::Lowered).unwrap_err().to_string();
    let expected = "the graph at the stage `lowered` has 1 fault:\n  operators `n0`: octofold.Conv is not legal here: no layers on [N, H, W, C] at this stage";
    assert_eq!(message, expected);
}

#[test]
fn layers_on_integers_are_legal_once_lowered() {
    let form = Form::of(&TableLookup {}.into());
    assert_eq!(form, Form::Kernel);
    let allowing = STAGES.into_iter().filter(|stage| stage.allows(form));
    assert_eq!(
        allowing.collect::<Vec<_>>(),
        [Stage::Lowered, Stage::LaidOut]
    );
}

#[test]
fn a_dead_node_is_found_once_the_graph_was_simplified() {
    let mut graph = chain([Relu {}.into()]);
    let x = graph.inputs()[0];
    graph
        .add_node("dead", Neg {}.into(), &[Some(x)], &["unread"], vec![])
        .unwrap();
    verify_stage(&graph, Stage::Imported).unwrap();
    let expected = [("dead-nodes", "dead".to_owned())];
    assert_eq!(faults(verify_stage(&graph, Stage::Simplified)), expected);
}

#[test]
fn two_observers_do_not_share_an_id() {
    let graph = chain([observe("a"), Relu {}.into(), observe("a")]);
    let expected = [("observers", "n2".to_owned())];
    assert_eq!(faults(verify_stage(&graph, Stage::Annotated)), expected);
}

#[test]
fn a_laid_out_convolution_is_nhwc() {
    let graph = chain([conv("nchw")]);
    let expected = [("layouts", "n0".to_owned())];
    assert_eq!(faults(verify_stage(&graph, Stage::LaidOut)), expected);
}
