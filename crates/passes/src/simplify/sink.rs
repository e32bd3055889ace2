//! Constants that bodies read move into them.
//!
//! A body is closed, so a weight of the graph around it is an operand of its operator, a capture, and one more input of the body. In the body it would be a value like any
//! other; as a constant, it is folded, fused and packed there.

use octofold_ir::{FoldingBudget, Graph, NodeId, Op, Patch, PatchValue};
use octofold_ops::families::{Loop, Scan};
use octofold_tensor::Tensor;

use crate::pass::{Pass, PassError};
use crate::rewrite::Rewriter;
use crate::simplify::FoldConstants;

/// Makes captures that are constants constants of the bodies.
#[derive(Clone, Copy, Debug, Default)]
pub struct SinkConstants;

impl Pass for SinkConstants {
    fn name(&self) -> &'static str {
        "sink-constants"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        // What bodies fold is taken from the budget of the graph.
        let mut budget = graph.folding();
        for id in rewriter.order(graph)? {
            let constants = captured_constants(graph, id);
            if constants.is_empty() {
                continue;
            }
            let patch = sink(graph, id, &constants, (&mut budget, rewriter))?;
            let name = graph.node(id).name().to_owned();
            rewriter.apply(graph, patch)?;
            let text = format!("{} constants", constants.len());
            rewriter.report.applied("sink", &name, text);
        }
        graph.set_folding(budget);
        graph.sweep_constants();
        Ok(())
    }

    /// A constant goes through the bodies from the outside in.
    fn enters_bodies(&self) -> bool {
        false
    }
}

/// The number of captures of an operator, which are its last operands.
fn captures(graph: &Graph, id: NodeId) -> usize {
    let node = graph.node(id);
    let all = node.inputs().len();
    match node.op() {
        Op::If(_) => all.saturating_sub(1),
        Op::Loop(Loop { captures, .. }) | Op::Scan(Scan { captures, .. }) => {
            usize::try_from(*captures).map_or(0, |captures| captures.min(all))
        }
        _ => 0,
    }
}

/// The captures that are constants, by their positions among all.
fn captured_constants(graph: &Graph, id: NodeId) -> Vec<(usize, Tensor)> {
    let inputs = graph.node(id).inputs();
    let operands = inputs[inputs.len() - captures(graph, id)..]
        .iter()
        .enumerate();
    let constant = |(position, operand): (usize, &Option<_>)| {
        let tensor = graph.value((*operand)?).constant()?;
        Some((position, tensor.clone()))
    };
    operands.filter_map(constant).collect()
}

/// The operator with bodies that hold the constants, and without the operands that they were.
fn sink(
    graph: &Graph,
    id: NodeId,
    constants: &[(usize, Tensor)],
    (budget, rewriter): (&mut FoldingBudget, &mut Rewriter),
) -> Result<Patch, PassError> {
    let node = graph.node(id);
    let mut patch = Patch::new();
    let captures = captures(graph, id);
    let mut op = node.op().clone();
    if let Op::Loop(Loop { captures, .. }) | Op::Scan(Scan { captures, .. }) = &mut op {
        *captures -= constants.len() as i64;
    }
    let mut bodies = Vec::new();
    for body in node.op().bodies() {
        let Some(inner) = graph.body(body) else {
            continue;
        };
        let first = inner.inputs().len().saturating_sub(captures);
        let bound = constants
            .iter()
            .map(|(position, tensor)| (first + position, tensor.clone()));
        let mut inner = inner.with_constant_inputs(bound);
        // What was folded outside of the body, and what its own bodies read, is known now.
        inner.set_folding(*budget);
        FoldConstants.run(&mut inner, rewriter)?;
        SinkConstants.run(&mut inner, rewriter)?;
        *budget = inner.folding();
        bodies.push((body, patch.body(graph, inner)));
    }
    let op = op.with_bodies(|old| {
        let moved = bodies.iter().find(|(body, _)| *body == old);
        moved.map_or(old, |(_, new)| *new)
    });
    let first = node.inputs().len() - captures;
    let is_sunk = |slot: usize| {
        constants
            .iter()
            .any(|(position, _)| first + position == slot)
    };
    let operands = node.inputs().iter().enumerate();
    let operands = operands.filter(|(slot, _)| !is_sunk(*slot));
    let operands: Vec<_> = operands
        .map(|(_, operand)| operand.map(PatchValue::Existing))
        .collect();
    let outputs = node.outputs();
    let sources = node.sources().to_vec();
    let made = patch.node_with_outputs(node.name(), op, operands, outputs.len(), sources);
    for (&output, made) in outputs.iter().zip(made) {
        patch.replace(output, made);
    }
    patch.remove(id);
    Ok(patch)
}
