//! Branches that are known: an `If` whose condition is a constant becomes the nodes of the branch that runs.

use std::collections::BTreeMap;

use octofold_ir::{Graph, GraphError, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::BodyId;

use crate::pass::{Pass, PassError};
use crate::rewrite::Rewriter;

/// Puts the nodes of a branch in the place of an `If` with a constant condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlineBranches;

impl Pass for InlineBranches {
    fn name(&self) -> &'static str {
        "inline-branches"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        // A branch may hold an `If` whose condition is known once the branch is part of the graph.
        while self.sweep(graph, rewriter)? {}
        graph.sweep_constants();
        Ok(())
    }
}

impl InlineBranches {
    /// Goes through the graph once; `false` when nothing was inlined.
    fn sweep(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<bool, PassError> {
        let mut inlined = false;
        for id in rewriter.order(graph)? {
            let Some((condition, branch)) = known_branch(graph, id) else {
                continue;
            };
            let Some(body) = graph.body(branch) else {
                continue;
            };
            let patch = inline(graph, id, body).map_err(|source| PassError::Graph {
                pass: self.name().to_owned(),
                source,
            })?;
            let name = graph.node(id).name().to_owned();
            rewriter.apply(graph, patch)?;
            let text = format!("the condition is {condition}");
            rewriter.report.applied("inline", &name, text);
            inlined = true;
        }
        Ok(inlined)
    }
}

/// The constant condition of an `If`, and the branch that runs.
fn known_branch(graph: &Graph, id: NodeId) -> Option<(bool, BodyId)> {
    let node = graph.node(id);
    let Op::If(op) = node.op() else {
        return None;
    };
    let condition = graph.value(node.input(0)?).constant()?;
    match condition.values::<bool>() {
        Ok([true]) => Some((true, op.then_branch)),
        Ok([false]) => Some((false, op.else_branch)),
        _ => None,
    }
}

/// The nodes of a body in the place of a node, whose operands behind the first are the inputs of the body.
fn inline(graph: &Graph, id: NodeId, body: &Graph) -> Result<Patch, GraphError> {
    let node = graph.node(id);
    let mut patch = Patch::new();
    let mut values: BTreeMap<ValueId, PatchValue> = BTreeMap::new();
    for (&input, operand) in body.inputs().iter().zip(node.inputs().iter().skip(1)) {
        values.extend(operand.map(|operand| (input, operand.into())));
    }
    for constant in body.value_ids() {
        let value = body.value(constant);
        if let Some(tensor) = value.constant() {
            values.insert(constant, patch.constant(value.name(), tensor.clone()));
        }
    }
    let moved: BTreeMap<BodyId, BodyId> = body
        .bodies()
        .map(|(id, inner)| (id, patch.body(graph, inner.clone())))
        .collect();
    for inner in body.order()? {
        let inner = body.node(inner);
        let op = inner.op().clone();
        let op = op.with_bodies(|id| moved.get(&id).copied().unwrap_or(id));
        let inputs = inner.inputs().iter();
        let inputs: Vec<_> = inputs
            .map(|input| input.and_then(|input| values.get(&input).copied()))
            .collect();
        let (outputs, sources) = (inner.outputs(), inner.sources().to_vec());
        let made = patch.node_with_outputs(inner.name(), op, inputs, outputs.len(), sources);
        for (&output, made) in outputs.iter().zip(made) {
            patch.name(made, body.value(output).name());
            values.insert(output, made);
        }
    }
    for (&result, output) in node.outputs().iter().zip(body.outputs()) {
        if let Some(&value) = values.get(&output.value) {
            patch.replace(result, value);
        }
    }
    patch.remove(id);
    Ok(patch)
}
