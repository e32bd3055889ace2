//! The two stores of edges compared: what nodes say of their operands and results, and the flow of petgraph.

use petgraph::Direction;
use petgraph::stable_graph::NodeIndex;
use petgraph::visit::EdgeRef;

use super::{Graph, Node};

impl Graph {
    /// The nodes whose edges in the flow are not their operands and results; and the graph itself when the flow has other vertices.
    pub(crate) fn places_with_wrong_edges(&self) -> Vec<&str> {
        let nodes = self.nodes.iter().flatten();
        let mut wrong: Vec<&str> = nodes
            .filter(|node| !self.has_its_edges(node))
            .map(|node| node.name.as_str())
            .collect();
        let vertices = self.nodes.iter().flatten().count() + self.values.iter().flatten().count();
        if self.flow.node_count() != vertices {
            wrong.push(&self.name);
        }
        wrong
    }

    fn has_its_edges(&self, node: &Node) -> bool {
        let vertex_of = |value| self.get_value(value).map(|value| value.vertex);
        let operands = node.inputs.iter().enumerate();
        let operands = operands.filter_map(|(slot, operand)| Some((slot, (*operand)?)));
        let operands: Vec<_> = operands
            .map(|(slot, operand)| (slot, vertex_of(operand)))
            .collect();
        let results = node.outputs.iter().enumerate();
        let results: Vec<_> = results
            .map(|(slot, &result)| (slot, vertex_of(result)))
            .collect();
        self.neighbours(node.vertex, Direction::Incoming) == operands
            && self.neighbours(node.vertex, Direction::Outgoing) == results
    }

    /// The slots and vertices at the other ends of a node's edges, by slot.
    fn neighbours(
        &self,
        vertex: NodeIndex,
        direction: Direction,
    ) -> Vec<(usize, Option<NodeIndex>)> {
        let edges = self.flow.edges_directed(vertex, direction);
        let mut found: Vec<_> = edges
            .map(|edge| {
                let other = match direction {
                    Direction::Incoming => edge.source(),
                    Direction::Outgoing => edge.target(),
                };
                (*edge.weight(), Some(other))
            })
            .collect();
        found.sort_unstable();
        found
    }
}
