//! The patches that most rewrites make: one node in the place of one or several.

use octofold_ops::Op;

use crate::{Graph, NodeId, Patch, PatchValue};

impl Patch {
    /// Puts a value in the place of the first result of a node, and removes the node.
    pub fn replace_result(
        mut self,
        graph: &Graph,
        node: NodeId,
        value: impl Into<PatchValue>,
    ) -> Self {
        self.replace(graph.node(node).outputs()[0], value);
        self.remove(node);
        self
    }

    /// Puts another operator over other operands in the place of a node. Name, sources and the number of results stay.
    pub fn replace_op(
        mut self,
        graph: &Graph,
        id: NodeId,
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Option<PatchValue>>,
    ) -> Self {
        let node = graph.node(id);
        let (outputs, sources) = (node.outputs(), node.sources().to_vec());
        let made = self.node_with_outputs(node.name(), op, inputs, outputs.len(), sources);
        for (&old, new) in outputs.iter().zip(made) {
            self.replace(old, new);
        }
        self.remove(id);
        self
    }

    /// Puts one node in the place of several, listed along the data flow. It has the name of the first, stands for the sources of all, and gives
    /// the result of the last.
    pub fn fuse(
        mut self,
        graph: &Graph,
        nodes: &[NodeId],
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Option<PatchValue>>,
    ) -> Self {
        let (Some(&first), Some(&last)) = (nodes.first(), nodes.last()) else {
            return self;
        };
        let sources = graph.sources_of(nodes.iter().copied());
        let made = self.node(graph.node(first).name(), op, inputs, sources);
        self.replace(graph.node(last).outputs()[0], made);
        // Readers go before what they read.
        nodes.iter().rev().for_each(|&node| self.remove(node));
        self
    }

    /// Puts one node in the place of a node and its only reader, whose result it gives. It has the name and the sources of the node: the
    /// reader only says in which form the result is wanted, as a `QuantizeLinear` does.
    pub fn fuse_with_next(
        mut self,
        graph: &Graph,
        node: NodeId,
        next: NodeId,
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Option<PatchValue>>,
    ) -> Self {
        let replaced = graph.node(node);
        let made = self.node(replaced.name(), op, inputs, replaced.sources().to_vec());
        let mut patch = self.replace_result(graph, next, made);
        patch.remove(node);
        patch
    }
}

impl Graph {
    /// The names of the model's nodes that a group of nodes stands for, each once. The nodes come in the order of the data flow, which their
    /// ids do not give: a fused node is younger than those that read it.
    pub fn sources_of(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        let mut sources: Vec<String> = Vec::new();
        for source in nodes.into_iter().flat_map(|id| self.node(id).sources()) {
            if !sources.contains(source) {
                sources.push(source.clone());
            }
        }
        sources
    }

    /// The operands of a node, as values for a patch.
    pub fn operands(&self, node: NodeId) -> Vec<Option<PatchValue>> {
        let inputs = self.node(node).inputs().iter();
        inputs
            .map(|input| input.map(PatchValue::Existing))
            .collect()
    }
}
