//! Ways to make a graph wrong, for the tests of the verifier.

use octofold_ops::Op;

use super::{Graph, Node, Value, ValueKind};
use crate::{NodeId, ValueId};

impl Graph {
    fn broken_value(&mut self, id: ValueId) -> &mut Value {
        self.values[id.index()].as_mut().expect("a value")
    }

    fn broken_node(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.index()].as_mut().expect("a node")
    }

    /// Removes a value that others use.
    pub(crate) fn break_existence(&mut self, id: ValueId) {
        self.values[id.index()] = None;
    }

    /// Gives a value a name under which it is not found.
    pub(crate) fn break_name(&mut self, id: ValueId, name: &str) {
        self.broken_value(id).name = name.to_owned();
    }

    /// Says that a value is another result of its node.
    pub(crate) fn break_producer(&mut self, id: ValueId, node: NodeId, slot: usize) {
        self.broken_value(id).kind = ValueKind::Result { node, slot };
    }

    /// Forgets that a value is an input.
    pub(crate) fn break_inputs(&mut self) {
        self.inputs.clear();
    }

    /// Gives a value the type of another one.
    pub(crate) fn break_type(&mut self, id: ValueId, like: ValueId) {
        self.broken_value(id).ty = self.value(like).ty().clone();
    }

    /// Changes an operand in one of the two stores of edges.
    pub(crate) fn break_edge(&mut self, id: NodeId, slot: usize, operand: Option<ValueId>) {
        self.broken_node(id).inputs[slot] = operand;
    }

    /// Exchanges a node's operator.
    pub(crate) fn break_operator(&mut self, id: NodeId, op: Op) {
        self.broken_node(id).op = op;
    }
}
