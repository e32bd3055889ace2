//! The only ways to change a graph. [`Graph::apply`] carries out whole rewrites with them.

use std::collections::BTreeSet;

use octofold_ops::Op;
use octofold_tensor::Tensor;
use petgraph::Direction;
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;

use super::{Graph, Node, Output, Use, Value, ValueKind, Vertex};
use crate::infer::{self, Context, Inferred, Known};
use crate::{GraphError, NodeId, TensorType, ValueId};

impl Graph {
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
            contents: infer::constant_contents(&tensor),
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
                expected: arity.to_string(),
            });
        }
        self.type_bodies(&op, inputs, name)?;
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
            if !node.op.bodies().is_empty() {
                let (op, inputs, name) = (node.op.clone(), node.inputs.clone(), node.name.clone());
                self.type_bodies(&op, &inputs, &name)?;
            }
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
        let context = Context::new(&known, prefix);
        infer::infer(op, &mut context.with_bodies(self.signatures(op)))
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
            value.contents = infer::constant_contents(&tensor);
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

    /// Gives all values and nodes other names. An output of a result has its name; any other output gets one that no value has.
    pub(crate) fn rename_all(
        &mut self,
        mut value: impl FnMut(&str) -> String,
        mut node: impl FnMut(&str) -> String,
    ) {
        self.value_names.clear();
        for (index, found) in self.values.iter_mut().enumerate() {
            if let Some(found) = found {
                found.name = value(&found.name);
                found.aliases.clear();
                let id = ValueId(index as u32);
                self.value_names.insert(found.name.clone(), id);
            }
        }
        let mut named = BTreeSet::new();
        for index in 0..self.outputs.len() {
            let id = self.outputs[index].value;
            let result = self.value(id);
            let takes = result.producer().is_some() && named.insert(id);
            self.outputs[index].name = if takes {
                result.name.clone()
            } else {
                value(&self.outputs[index].name)
            };
        }
        self.node_names.clear();
        for (index, found) in self.nodes.iter_mut().enumerate() {
            if let Some(found) = found {
                found.name = node(&found.name);
                let id = NodeId(index as u32);
                self.node_names.insert(found.name.clone(), id);
            }
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
