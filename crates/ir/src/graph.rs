//! The graph: nodes and values, and how they are found and ordered.
//!
//! A node applies an [`Op`](crate::Op) to operand slots and gives results; a value is a graph input, a constant or a result. A value keeps the name
//! that it has in the ONNX file through every pass, so that users can point at it.
//!
//! petgraph holds the data flow as a bipartite graph (values and nodes are vertices, operand and result slots are edges)
//! and stays private: its indices are reused after removals and its order depends on the edit history, while ours are
//! never reused and [`Graph::order`] depends on the graph alone.

mod bodies;
#[cfg(test)]
mod damage;
mod edges;
mod edit;
mod parts;
mod weights;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::stable_graph::StableDiGraph;
use petgraph::visit::EdgeRef;

pub use parts::{FoldingBudget, Node, Output, Use, Value, ValueKind};
pub use weights::{ChangedWeights, MappedWeights};

use crate::{GraphError, NodeId, ValueId};

#[derive(Clone, Copy, Debug)]
enum Vertex {
    Node(NodeId),
    Value,
}

/// A dataflow graph of operators.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    name: String,
    nodes: Vec<Option<Node>>,
    values: Vec<Option<Value>>,
    inputs: Vec<ValueId>,
    outputs: Vec<Output>,
    value_names: HashMap<String, ValueId>,
    node_names: HashMap<String, NodeId>,
    metadata: IndexMap<String, String>,
    modules: HashMap<String, String>,
    flow: StableDiGraph<Vertex, usize>,
    folding: FoldingBudget,
    bodies: Vec<Option<Self>>,
    mapped_weights: Vec<MappedWeights>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The graph's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the file says about the model, by key; kept for the exporter.
    pub fn metadata(&self) -> &IndexMap<String, String> {
        &self.metadata
    }

    /// What the file says about the model, for changing.
    pub fn metadata_mut(&mut self) -> &mut IndexMap<String, String> {
        &mut self.metadata
    }

    /// The module of the exporting program that a node of the file belongs to, where the exporter wrote it into the file.
    pub fn module(&self, node: &str) -> Option<&str> {
        self.modules.get(node).map(String::as_str)
    }

    /// Records the module of a node, by the node's name.
    pub fn set_module(&mut self, node: &str, module: impl Into<String>) {
        self.modules.insert(node.to_owned(), module.into());
    }

    /// How much passes may still spend on folding.
    pub fn folding(&self) -> FoldingBudget {
        self.folding
    }

    /// Sets how much passes may spend on folding. It stands with the graph, whose origin decides how far its sizes are to be trusted.
    pub fn set_folding(&mut self, budget: FoldingBudget) {
        self.folding = budget;
    }

    /// The values that the caller gives, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The values that the caller gets, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// A node, when it still exists.
    pub fn get_node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    /// A value, when it still exists.
    pub fn get_value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.index())?.as_ref()
    }

    /// A node that exists.
    ///
    /// # Panics
    /// When the node was removed or belongs to another graph; ids of [`Graph::order`] and of neighbours exist.
    pub fn node(&self, id: NodeId) -> &Node {
        self.get_node(id).expect("the id of a node that exists")
    }

    /// A value that exists.
    ///
    /// # Panics
    /// When the value was removed or belongs to another graph; operands and results of a node exist.
    pub fn value(&self, id: ValueId) -> &Value {
        self.get_value(id).expect("the id of a value that exists")
    }

    /// The value of a name or, failing that, of an alias.
    pub fn value_named(&self, name: &str) -> Option<ValueId> {
        let direct = self.value_names.get(name).copied();
        direct.or_else(|| {
            self.value_ids()
                .find(|&id| self.value(id).aliases.iter().any(|alias| alias == name))
        })
    }

    /// The node of a name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        self.node_names.get(name).copied()
    }

    /// The nodes in the order of their making.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        let present = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is_some());
        present.map(|(index, _)| NodeId(index as u32))
    }

    /// The values in the order of their making.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> {
        let present = self
            .values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_some());
        present.map(|(index, _)| ValueId(index as u32))
    }

    /// The number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// The operand slots that a value fills, by node and slot.
    pub fn uses(&self, value: ValueId) -> Vec<Use> {
        let Some(value) = self.get_value(value) else {
            return Vec::new();
        };
        let edges = self.flow.edges_directed(value.vertex, Direction::Outgoing);
        let mut uses: Vec<Use> = edges
            .filter_map(|edge| match self.flow[edge.target()] {
                Vertex::Node(node) => Some(Use {
                    node,
                    slot: *edge.weight(),
                }),
                Vertex::Value => None,
            })
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Whether any operand slot is filled by a value; quicker to ask than [`Graph::uses`] of a value that thousands of nodes read.
    pub fn is_used(&self, value: ValueId) -> bool {
        let readers = |value: &Value| {
            let edges = self.flow.edges_directed(value.vertex, Direction::Outgoing);
            edges.map(|edge| edge.target()).next().is_some()
        };
        self.get_value(value).is_some_and(readers)
    }

    /// Whether a value is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.iter().any(|output| output.value == value)
    }

    /// The single operand slot that a value fills, when that is its only use and it is no output.
    pub fn single_use(&self, value: ValueId) -> Option<Use> {
        let vertex = self.get_value(value)?.vertex;
        let mut edges = self.flow.edges_directed(vertex, Direction::Outgoing);
        if edges.nth(1).is_some() {
            return None;
        }
        match self.uses(value).as_slice() {
            [only] if !self.is_output(value) => Some(*only),
            _ => None,
        }
    }

    /// The nodes such that each comes after those it reads from; among the ready ones, the oldest first.
    ///
    /// # Errors
    /// When the graph has a cycle; the error names a node on it.
    pub fn order(&self) -> Result<Vec<NodeId>, GraphError> {
        let mut waiting: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut ready = BinaryHeap::new();
        for id in self.node_ids() {
            let operands = self.node(id).inputs.iter().flatten();
            let count = operands
                .filter(|&&value| self.value(value).producer().is_some())
                .count();
            if count == 0 {
                ready.push(Reverse(id));
            } else {
                waiting.insert(id, count);
            }
        }
        let mut order = Vec::with_capacity(self.node_count());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for &result in &self.node(id).outputs {
                for used in self.uses(result) {
                    let Some(count) = waiting.get_mut(&used.node) else {
                        continue;
                    };
                    *count -= 1;
                    if *count == 0 {
                        waiting.remove(&used.node);
                        ready.push(Reverse(used.node));
                    }
                }
            }
        }
        match waiting.keys().next() {
            None => Ok(order),
            Some(&id) => Err(GraphError::Cycle {
                node: self.node(id).name.clone(),
            }),
        }
    }

    /// A name like `name` that no value has yet.
    pub fn fresh_value_name(&self, name: &str) -> String {
        fresh_name(name, |name| self.value_names.contains_key(name))
    }

    /// A name like `name` that no node has yet.
    pub fn fresh_node_name(&self, name: &str) -> String {
        fresh_name(name, |name| self.node_names.contains_key(name))
    }
}

fn fresh_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(name) {
        return name.to_owned();
    }
    (1_u64..)
        .map(|count| format!("{name}_{count}"))
        .find(|name| !taken(name))
        .unwrap_or_else(|| name.to_owned())
}
