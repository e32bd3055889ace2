//! The verifier: checks everything that passes rely on, and reports all faults, not the first.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Graph, ValueKind};

/// One fault of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The node or value at fault.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

/// All faults of a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct VerifyError {
    /// The faults, in the order of the graph.
    pub faults: Vec<Fault>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the graph has {} faults:", self.faults.len())?;
        for fault in &self.faults {
            write!(f, "\n  `{}`: {}", fault.place, fault.message)?;
        }
        Ok(())
    }
}

/// Checks that operands and outputs exist, results point back at their nodes, names are found again, numbers of
/// operands suit the operators, types are what inference says, and no node depends on itself.
///
/// # Errors
/// All faults that were found.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    let mut faults = Vec::new();
    let mut fault = |place: &str, message: String| {
        faults.push(Fault {
            place: place.to_owned(),
            message,
        });
    };
    let mut dangling = false;
    for id in graph.value_ids() {
        let value = graph.value(id);
        if graph.value_named(value.name()) != Some(id) {
            fault(value.name(), "the name leads to another value".to_owned());
        }
        match value.kind() {
            ValueKind::Input if !graph.inputs().contains(&id) => fault(
                value.name(),
                "is an input that the graph does not list".to_owned(),
            ),
            ValueKind::Result { node, slot } => {
                let back = graph
                    .get_node(*node)
                    .and_then(|node| node.outputs().get(*slot));
                if back != Some(&id) {
                    fault(
                        value.name(),
                        format!("result {slot} of {node} is another value"),
                    );
                }
            }
            ValueKind::Constant(tensor) => {
                if value.ty().dtype != tensor.dtype()
                    || value.ty().known_shape().as_deref() != Some(tensor.shape())
                {
                    fault(
                        value.name(),
                        format!("a constant {tensor:?} has the type {}", value.ty()),
                    );
                }
            }
            ValueKind::Input => {}
        }
    }
    let mut names = BTreeSet::new();
    for output in graph.outputs() {
        if graph.get_value(output.value).is_none() {
            dangling = true;
            fault(&output.name, "the output does not exist".to_owned());
        }
        if !names.insert(&output.name) {
            fault(&output.name, "two outputs have this name".to_owned());
        }
    }
    for id in graph.node_ids() {
        let node = graph.node(id);
        let missing = node
            .inputs()
            .iter()
            .flatten()
            .any(|&value| graph.get_value(value).is_none());
        if missing {
            dangling = true;
            fault(node.name(), "an operand does not exist".to_owned());
        }
        let arity = node.op().arity();
        if !arity.inputs.contains(&node.inputs().len())
            || !arity.outputs.contains(&node.outputs().len())
        {
            fault(
                node.name(),
                format!(
                    "{} with {} inputs and {} outputs",
                    node.op().name(),
                    node.inputs().len(),
                    node.outputs().len()
                ),
            );
        }
    }
    // Order and types can be looked at only where everything exists.
    if !dangling {
        match graph.order() {
            Err(error) => fault(graph.name(), error.to_string()),
            Ok(order) => {
                for id in order {
                    let node = graph.node(id);
                    match graph.infer_op(node.op(), node.inputs(), node.name()) {
                        Err(error) => fault(node.name(), format!("{}: {error}", node.op().name())),
                        Ok(inferred) => {
                            for (&value, inferred) in node.outputs().iter().zip(&inferred) {
                                let value = graph.value(value);
                                if *value.ty() != inferred.ty {
                                    fault(
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
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(VerifyError { faults })
    }
}
