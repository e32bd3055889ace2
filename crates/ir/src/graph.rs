//! The graph: nodes, values, and the only ways to change them.
//!
//! A node applies an [`Op`] to operand slots and gives results; a value is a graph input, a constant or a result. A value keeps the name
//! that it has in the ONNX file through every pass, so that users can point at it.
//!
//! petgraph holds the data flow as a bipartite graph (values and nodes are vertices, operand and result slots are edges)
//! and stays private: its indices are reused after removals and its order depends on the edit history, while ours are
//! never reused and [`Graph::order`] depends on the graph alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use indexmap::IndexMap;
use octofold_ops::Op;
use octofold_tensor::{DType, Dim, Tensor};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;

use crate::infer::{self, Context, Inferred, Known};
use crate::{GraphError, NodeId, TensorType, ValueId};

/// The largest integer tensor whose symbolic contents are followed.
const MAX_CONTENTS: usize = 64;

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    op: Op,
    inputs: SmallVec<[Option<ValueId>; 4]>,
    outputs: SmallVec<[ValueId; 1]>,
    sources: Vec<String>,
    vertex: NodeIndex,
}

impl Node {
    /// The node's name, unique in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The operator with its attributes.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// The operands by slot; an absent optional operand is `None`.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// The operand of a slot, when there is one.
    pub fn input(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    /// The results by slot.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The names of the nodes of the original model that this node stands for, in their order.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// The caller of the graph gives it.
    Input,
    /// It is known: a weight, or the result of folding.
    Constant(Tensor),
    /// A node computes it.
    Result {
        /// The node.
        node: NodeId,
        /// Which of the node's results it is.
        slot: usize,
    },
}

/// A value that flows through the graph.
#[derive(Clone, Debug)]
pub struct Value {
    name: String,
    aliases: Vec<String>,
    ty: TensorType,
    contents: Option<Vec<Dim>>,
    kind: ValueKind,
    vertex: NodeIndex,
}

impl Value {
    /// The value's name, unique among values.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of values that rewriting found to be equal to this one.
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// The value's type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The elements of a small integer tensor as symbolic numbers, when they are known.
    pub fn contents(&self) -> Option<&[Dim]> {
        self.contents.as_deref()
    }

    /// Where the value comes from.
    pub fn kind(&self) -> &ValueKind {
        &self.kind
    }

    /// The elements of a constant.
    pub fn constant(&self) -> Option<&Tensor> {
        match &self.kind {
            ValueKind::Constant(tensor) => Some(tensor),
            ValueKind::Input | ValueKind::Result { .. } => None,
        }
    }

    /// The node that computes the value.
    pub fn producer(&self) -> Option<NodeId> {
        match &self.kind {
            ValueKind::Result { node, .. } => Some(*node),
            ValueKind::Input | ValueKind::Constant(_) => None,
        }
    }
}

/// An output of the graph: a value under the name that the caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The name that the output has for the caller.
    pub name: String,
    /// The value that is given.
    pub value: ValueId,
}

/// An operand slot that a value fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The node that reads the value.
    pub node: NodeId,
    /// The operand slot of that node.
    pub slot: usize,
}

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
}

/// How much passes may spend on nodes whose operands are constants. What exceeds it is left for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldingBudget {
    /// The bytes by which results may exceed the operands that they stand for.
    pub bytes: u64,
    /// The elementary operations, as [`octofold_ops::cost::operations`] counts them.
    pub operations: u64,
}

impl Default for FoldingBudget {
    fn default() -> Self {
        Self {
            bytes: 1 << 25,
            operations: 1 << 28,
        }
    }
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

    /// Adds an input of the graph.
    ///
    /// # Errors
    /// When a value of that name exists.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> Result<ValueId, GraphError> {
        let id = self.add_value(name, ty.into(), ValueKind::Input)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// When a value of that name exists.
    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId, GraphError> {
        let inferred = Inferred {
            ty: TensorType::of(&tensor),
            contents: constant_contents(&tensor),
        };
        self.add_value(name, inferred, ValueKind::Constant(tensor))
    }

    /// Adds a node and its results, whose types are inferred. `sources` names the nodes of the model that it stands for.
    ///
    /// # Errors
    /// When an operand does not exist, a name is taken, the numbers of operands or results do not suit the operator,
    /// or its types cannot be inferred.
    pub fn add_node(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[Option<ValueId>],
        outputs: &[&str],
        sources: Vec<String>,
    ) -> Result<NodeId, GraphError> {
        let fail = |source| GraphError::Op {
            node: name.to_owned(),
            op: op.name().to_owned(),
            source: Box::new(source),
        };
        if self.node_names.contains_key(name) {
            return Err(GraphError::DuplicateNode(name.to_owned()));
        }
        for (slot, id) in inputs.iter().enumerate() {
            if id.is_some_and(|id| self.get_value(id).is_none()) {
                return Err(GraphError::Dangling {
                    node: name.to_owned(),
                    slot,
                });
            }
        }
        let arity = op.arity();
        if !arity.inputs.contains(&inputs.len()) || !arity.outputs.contains(&outputs.len()) {
            return Err(GraphError::Arity {
                node: name.to_owned(),
                op: op.name().to_owned(),
                inputs: inputs.len(),
                outputs: outputs.len(),
            });
        }
        let mut inferred = self.infer_op(&op, inputs, name).map_err(fail)?;
        inferred.truncate(outputs.len());
        if inferred.len() < outputs.len() {
            return Err(fail(octofold_ops::OpError::invalid(format!(
                "{} outputs are wanted, the operator gives {}",
                outputs.len(),
                inferred.len()
            ))));
        }
        let id = NodeId(self.nodes.len() as u32);
        let vertex = self.flow.add_node(Vertex::Node(id));
        for (slot, value) in inputs.iter().enumerate() {
            if let Some(value) = value {
                self.flow.add_edge(self.value(*value).vertex, vertex, slot);
            }
        }
        let mut results = SmallVec::new();
        for (slot, (output, inferred)) in outputs.iter().zip(inferred).enumerate() {
            let added = self.add_value(output, inferred, ValueKind::Result { node: id, slot });
            match added {
                Ok(value) => {
                    self.flow.add_edge(vertex, self.value(value).vertex, slot);
                    results.push(value);
                }
                Err(error) => {
                    // Nothing of a refused node stays behind.
                    for value in results {
                        self.drop_value(value);
                    }
                    self.flow.remove_node(vertex);
                    return Err(error);
                }
            }
        }
        self.node_names.insert(name.to_owned(), id);
        self.nodes.push(Some(Node {
            name: name.to_owned(),
            op,
            inputs: inputs.into(),
            outputs: results,
            sources,
            vertex,
        }));
        Ok(id)
    }

    /// Makes a value an output of the graph, under a name for the caller.
    ///
    /// # Errors
    /// When an output of that name exists.
    pub fn add_output(&mut self, name: &str, value: ValueId) -> Result<(), GraphError> {
        if self.outputs.iter().any(|output| output.name == name) {
            return Err(GraphError::DuplicateOutput(name.to_owned()));
        }
        self.outputs.push(Output {
            name: name.to_owned(),
            value,
        });
        Ok(())
    }

    /// Infers the types of all values anew, in order. Types get sharper when a rewrite made more known.
    ///
    /// # Errors
    /// When the graph has a cycle or an operator refuses its inputs.
    pub fn refresh_types(&mut self) -> Result<(), GraphError> {
        for id in self.order()? {
            let node = self.node(id);
            let inferred = self.infer_op(&node.op, &node.inputs, &node.name);
            let inferred = inferred.map_err(|source| GraphError::Op {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                source: Box::new(source),
            })?;
            let outputs = node.outputs.clone();
            for (value, inferred) in outputs.into_iter().zip(inferred) {
                if let Some(Some(value)) = self.values.get_mut(value.index()) {
                    value.ty = inferred.ty;
                    value.contents = inferred.contents;
                }
            }
        }
        Ok(())
    }

    /// What inference says of an operator over values of this graph.
    pub(crate) fn infer_op(
        &self,
        op: &Op,
        inputs: &[Option<ValueId>],
        prefix: &str,
    ) -> Result<Vec<Inferred>, octofold_ops::OpError> {
        let known: Vec<Option<Known<'_>>> = inputs
            .iter()
            .map(|id| {
                id.map(|id| {
                    let value = self.value(id);
                    Known {
                        ty: &value.ty,
                        constant: value.constant(),
                        contents: value.contents(),
                    }
                })
            })
            .collect();
        infer::infer(op, &mut Context::new(&known, prefix))
    }

    fn add_value(
        &mut self,
        name: &str,
        inferred: Inferred,
        kind: ValueKind,
    ) -> Result<ValueId, GraphError> {
        if self.value_names.contains_key(name) {
            return Err(GraphError::DuplicateValue(name.to_owned()));
        }
        let id = ValueId(self.values.len() as u32);
        let vertex = self.flow.add_node(Vertex::Value);
        self.value_names.insert(name.to_owned(), id);
        self.values.push(Some(Value {
            name: name.to_owned(),
            aliases: Vec::new(),
            ty: inferred.ty,
            contents: inferred.contents,
            kind,
            vertex,
        }));
        Ok(id)
    }

    /// Gives an input another type; the types of results are stale until they are refreshed.
    pub(crate) fn set_input_type(&mut self, id: ValueId, ty: TensorType) {
        if let Some(Some(value)) = self.values.get_mut(id.index()) {
            value.ty = ty;
        }
    }

    /// Makes an input a constant.
    pub(crate) fn freeze(&mut self, id: ValueId, tensor: Tensor) {
        if let Some(Some(value)) = self.values.get_mut(id.index()) {
            value.ty = TensorType::of(&tensor);
            value.contents = constant_contents(&tensor);
            value.kind = ValueKind::Constant(tensor);
            self.inputs.retain(|&input| input != id);
        }
    }

    /// Points an operand slot at another value; the slot behind the last one is added.
    pub(crate) fn set_input(&mut self, used: Use, value: ValueId) {
        let Some(source) = self.get_value(value).map(|value| value.vertex) else {
            return;
        };
        let Some(Some(node)) = self.nodes.get_mut(used.node.index()) else {
            return;
        };
        let vertex = node.vertex;
        if used.slot == node.inputs.len() {
            node.inputs.push(None);
        }
        match node.inputs.get_mut(used.slot) {
            Some(slot) => *slot = Some(value),
            None => return,
        }
        let old = self.flow.edges_directed(vertex, Direction::Incoming);
        let old: Vec<_> = old
            .filter(|edge| *edge.weight() == used.slot)
            .map(|edge| edge.id())
            .collect();
        for edge in old {
            self.flow.remove_edge(edge);
        }
        self.flow.add_edge(source, vertex, used.slot);
    }

    /// Makes the output at a position give another value.
    pub(crate) fn set_output(&mut self, index: usize, value: ValueId) {
        if let Some(output) = self.outputs.get_mut(index) {
            output.value = value;
        }
    }

    /// Removes a node and its results, which nothing uses any more.
    pub(crate) fn remove_node(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id.index()).and_then(Option::take) else {
            return;
        };
        self.node_names.remove(&node.name);
        self.flow.remove_node(node.vertex);
        for value in node.outputs {
            self.drop_value(value);
        }
    }

    /// Removes a value that nothing uses.
    pub(crate) fn drop_value(&mut self, id: ValueId) {
        if let Some(value) = self.values.get_mut(id.index()).and_then(Option::take) {
            self.value_names.remove(&value.name);
            self.flow.remove_node(value.vertex);
            self.inputs.retain(|&input| input != id);
        }
    }

    /// Removes constants that nothing uses; gives their number.
    pub fn sweep_constants(&mut self) -> usize {
        let unused: Vec<ValueId> = self
            .value_ids()
            .filter(|&id| {
                self.value(id).constant().is_some() && !self.is_output(id) && !self.is_used(id)
            })
            .collect();
        for &id in &unused {
            self.drop_value(id);
        }
        unused.len()
    }

    /// Gives a value another name; the caller knows that it is free.
    pub(crate) fn rename_value(&mut self, id: ValueId, name: String) {
        if let Some(Some(value)) = self.values.get_mut(id.index()) {
            self.value_names.remove(&value.name);
            self.value_names.insert(name.clone(), id);
            value.name = name;
        }
    }

    /// Whether a value has this very name; aliases do not count.
    pub(crate) fn has_value_named(&self, name: &str) -> bool {
        self.value_names.contains_key(name)
    }

    /// Gives a node another name; the caller knows that it is free.
    pub(crate) fn rename_node(&mut self, id: NodeId, name: String) {
        if let Some(Some(node)) = self.nodes.get_mut(id.index()) {
            self.node_names.remove(&node.name);
            self.node_names.insert(name.clone(), id);
            node.name = name;
        }
    }

    /// Records other names under which users may know a value.
    pub(crate) fn add_aliases(&mut self, id: ValueId, aliases: impl IntoIterator<Item = String>) {
        if let Some(Some(value)) = self.values.get_mut(id.index()) {
            for alias in aliases {
                if alias != value.name && !value.aliases.contains(&alias) {
                    value.aliases.push(alias);
                }
            }
        }
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

/// The elements of a small integer constant as numbers.
fn constant_contents(tensor: &Tensor) -> Option<Vec<Dim>> {
    if tensor.rank() > 1 || tensor.len() > MAX_CONTENTS {
        return None;
    }
    match tensor.dtype() {
        DType::I64 => Some(
            tensor
                .values::<i64>()
                .ok()?
                .iter()
                .map(|&x| Dim::Known(x))
                .collect(),
        ),
        DType::I32 => Some(
            tensor
                .values::<i32>()
                .ok()?
                .iter()
                .map(|&x| Dim::Known(x.into()))
                .collect(),
        ),
        _ => None,
    }
}
