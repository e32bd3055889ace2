//! The checks of the structure.

use std::collections::BTreeSet;

use super::Faults;
use crate::{Graph, ValueKind};

pub(super) fn operands(graph: &Graph, faults: &mut Faults) {
    for &input in graph.inputs() {
        if graph.get_value(input).is_none() {
            faults.add(graph.name(), format!("the input {input} does not exist"));
        }
    }
    for output in graph.outputs() {
        if graph.get_value(output.value).is_none() {
            faults.add(&output.name, "the output does not exist");
        }
    }
    for id in graph.node_ids() {
        let node = graph.node(id);
        for (slot, operand) in node.inputs().iter().enumerate() {
            if operand.is_some_and(|value| graph.get_value(value).is_none()) {
                faults.add(node.name(), format!("operand {slot} does not exist"));
            }
        }
        for (slot, &result) in node.outputs().iter().enumerate() {
            if graph.get_value(result).is_none() {
                faults.add(node.name(), format!("result {slot} does not exist"));
            }
        }
    }
}

pub(super) fn names(graph: &Graph, faults: &mut Faults) {
    for id in graph.value_ids() {
        let name = graph.value(id).name();
        if graph.value_named(name) != Some(id) {
            faults.add(name, "the name leads to another value");
        }
    }
    for id in graph.node_ids() {
        let name = graph.node(id).name();
        if graph.node_named(name) != Some(id) {
            faults.add(name, "the name leads to another node");
        }
    }
    let mut names = BTreeSet::new();
    for output in graph.outputs() {
        if !names.insert(&output.name) {
            faults.add(&output.name, "two outputs have this name");
        }
    }
}

pub(super) fn producers(graph: &Graph, faults: &mut Faults) {
    let mut listed = BTreeSet::new();
    for &id in graph.inputs() {
        let value = graph.value(id);
        if *value.kind() != ValueKind::Input {
            faults.add(value.name(), "is listed as an input and is none");
        }
        if !listed.insert(id) {
            faults.add(value.name(), "is listed as an input twice");
        }
    }
    for id in graph.value_ids() {
        let value = graph.value(id);
        match value.kind() {
            ValueKind::Input if !listed.contains(&id) => {
                faults.add(value.name(), "is an input that the graph does not list");
            }
            ValueKind::Result { node, slot } => {
                let producer = graph.get_node(*node);
                if producer.and_then(|node| node.outputs().get(*slot)) != Some(&id) {
                    faults.add(
                        value.name(),
                        format!("result {slot} of {node} is another value"),
                    );
                }
            }
            ValueKind::Input | ValueKind::Constant(_) => {}
        }
    }
    for id in graph.node_ids() {
        let node = graph.node(id);
        for (slot, &result) in node.outputs().iter().enumerate() {
            let kind = ValueKind::Result { node: id, slot };
            if *graph.value(result).kind() != kind {
                faults.add(
                    node.name(),
                    format!(
                        "result {slot}, `{}`, has another origin",
                        graph.value(result).name()
                    ),
                );
            }
        }
    }
}

pub(super) fn constants(graph: &Graph, faults: &mut Faults) {
    for id in graph.value_ids() {
        let value = graph.value(id);
        if let Some(tensor) = value.constant()
            && (value.ty().dtype != tensor.dtype()
                || value.ty().known_shape().as_deref() != Some(tensor.shape()))
        {
            faults.add(
                value.name(),
                format!("a constant {tensor:?} has the type {}", value.ty()),
            );
        }
    }
}

pub(super) fn arity(graph: &Graph, faults: &mut Faults) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        let (arity, inputs, outputs) =
            (node.op().arity(), node.inputs().len(), node.outputs().len());
        if !arity.inputs.contains(&inputs) || !arity.outputs.contains(&outputs) {
            faults.add(
                node.name(),
                format!(
                    "{} with {inputs} inputs and {outputs} outputs",
                    node.op().name()
                ),
            );
        }
    }
}

pub(super) fn edges(graph: &Graph, faults: &mut Faults) {
    for place in graph.places_with_wrong_edges() {
        faults.add(
            place,
            "the edges of the flow are not the operands and results",
        );
    }
}

pub(super) fn cycles(graph: &Graph, faults: &mut Faults) {
    if let Err(error) = graph.order() {
        faults.add(graph.name(), error.to_string());
    }
}

pub(super) fn bodies(graph: &Graph, faults: &mut Faults) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        for body in node.op().bodies() {
            match graph.body(body).map(super::verify) {
                None => faults.add(node.name(), format!("body {} does not exist", body.0)),
                Some(Err(error)) => {
                    for fault in error.faults {
                        let place = format!("{}/{}", node.name(), fault.place);
                        faults.add(&place, format!("{}: {}", fault.check, fault.message));
                    }
                }
                Some(Ok(())) => {}
            }
        }
    }
}

pub(super) fn types(graph: &Graph, faults: &mut Faults) {
    for id in graph.order().unwrap_or_default() {
        let node = graph.node(id);
        match graph.infer_op(node.op(), node.inputs(), node.name()) {
            Err(error) => faults.add(node.name(), format!("{}: {error}", node.op().name())),
            Ok(inferred) => {
                for (&value, inferred) in node.outputs().iter().zip(&inferred) {
                    let value = graph.value(value);
                    if *value.ty() != inferred.ty {
                        faults.add(
                            value.name(),
                            format!(
                                "has the type {}, inference gives {}",
                                value.ty(),
                                inferred.ty
                            ),
                        );
                    }
                }
            }
        }
    }
}
