//! Patches: the only way in which a rewrite changes a graph.
//!
//! A rewrite reads the graph and describes the change: constants and nodes to add, values to replace, operands to rewire, nodes to
//! remove. [`Graph::apply`] checks the whole description and then carries it out, or leaves the graph as it was.

use indexmap::IndexSet;
use octofold_ops::{BodyId, Op};
use octofold_tensor::{Dim, Tensor};
use smallvec::SmallVec;

use crate::{Graph, GraphError, NodeId, TensorType, Use, ValueId};

/// A value in a patch: one of the graph, or one that the patch adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchValue {
    /// A value of the graph.
    Existing(ValueId),
    /// A value that the patch adds, by its number.
    New(usize),
}

impl From<ValueId> for PatchValue {
    fn from(id: ValueId) -> Self {
        Self::Existing(id)
    }
}

#[derive(Clone, Debug)]
enum NewValue {
    Constant { name: String, tensor: Tensor },
    Result { name: Option<String> },
}

#[derive(Clone, Debug)]
struct NewNode {
    name: String,
    op: Op,
    inputs: SmallVec<[Option<PatchValue>; 4]>,
    outputs: SmallVec<[usize; 1]>,
    sources: Vec<String>,
}

/// A change of a graph, described.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    values: Vec<NewValue>,
    nodes: Vec<NewNode>,
    removed: IndexSet<NodeId>,
    replaced: Vec<(ValueId, PatchValue)>,
    rewired: Vec<(Use, PatchValue)>,
    outputs: Vec<(usize, PatchValue)>,
    inherited: Vec<(PatchValue, ValueId)>,
    bodies: Vec<Graph>,
}

impl Patch {
    /// A patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the patch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.removed.is_empty()
            && self.replaced.is_empty()
            && self.rewired.is_empty()
            && self.outputs.is_empty()
    }

    /// Adds a constant. A name that is taken gets a number.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> PatchValue {
        self.values.push(NewValue::Constant {
            name: name.into(),
            tensor,
        });
        PatchValue::New(self.values.len() - 1)
    }

    /// Adds a node with one result. The result takes the name of the value that it replaces, or the node's name.
    pub fn node(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Option<PatchValue>>,
        sources: Vec<String>,
    ) -> PatchValue {
        self.node_with_outputs(name, op, inputs, 1, sources)[0]
    }

    /// Adds a node with `outputs` results.
    pub fn node_with_outputs(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Option<PatchValue>>,
        outputs: usize,
        sources: Vec<String>,
    ) -> Vec<PatchValue> {
        let first = self.values.len();
        self.values
            .extend((0..outputs).map(|_| NewValue::Result { name: None }));
        self.nodes.push(NewNode {
            name: name.into(),
            op: op.into(),
            inputs: inputs.into_iter().collect(),
            outputs: (first..first + outputs).collect(),
            sources,
        });
        (first..first + outputs).map(PatchValue::New).collect()
    }

    /// Names a result that the patch adds and that replaces nothing. A name that is taken gets a number.
    pub fn name(&mut self, value: PatchValue, new_name: impl Into<String>) {
        if let PatchValue::New(index) = value
            && let Some(NewValue::Result { name }) = self.values.get_mut(index)
        {
            *name = Some(new_name.into());
        }
    }

    /// Adds a body, for nodes that the patch adds to `graph`; gives the id that it will have.
    pub fn body(&mut self, graph: &Graph, body: Graph) -> BodyId {
        let BodyId(next) = graph.next_body();
        self.bodies.push(body);
        BodyId(next + self.bodies.len() as u32 - 1)
    }

    /// Replaces a value everywhere: uses and outputs. The new value takes the old one's name, or gets it as an alias.
    pub fn replace(&mut self, old: ValueId, new: impl Into<PatchValue>) {
        self.replaced.push((old, new.into()));
    }

    /// Points one operand slot at another value. An absent optional operand may so be given, the next after the last one, too.
    pub fn rewire(&mut self, used: Use, value: impl Into<PatchValue>) {
        self.rewired.push((used, value.into()));
    }

    /// Makes the graph's output at a position give another value.
    pub fn output(&mut self, index: usize, value: impl Into<PatchValue>) {
        self.outputs.push((index, value.into()));
    }

    /// Gives a new value the name and aliases of one that the patch removes, although it is another value: the same
    /// elements in another layout.
    pub fn inherit(&mut self, new: PatchValue, old: ValueId) {
        self.inherited.push((new, old));
    }

    /// Removes a node. Its results must be replaced, or used by removed nodes only.
    pub fn remove(&mut self, node: NodeId) {
        self.removed.insert(node);
    }

    /// The nodes that the patch removes.
    pub fn removed(&self) -> &IndexSet<NodeId> {
        &self.removed
    }
}

impl Graph {
    /// Checks a patch and applies it; gives the nodes that it added.
    ///
    /// # Errors
    /// When a removed value is still used, a replacement has another type, an operand does not exist, or a new node's
    /// types cannot be inferred. The graph is then unchanged.
    pub fn apply(&mut self, patch: Patch) -> Result<Vec<NodeId>, GraphError> {
        self.check_removals(&patch)?;
        // New nodes come first: they are the only step that can fail after the check, and they are easily taken back.
        let mut ids: Vec<Option<ValueId>> = vec![None; patch.values.len()];
        let mut added = Vec::new();
        for body in &patch.bodies {
            self.add_body(body.clone());
        }
        let result = self.add_new(&patch, &mut ids, &mut added);
        let result = result.and_then(|()| self.check_types(&patch, &ids));
        if let Err(error) = result {
            for &id in added.iter().rev() {
                self.remove_node(id);
            }
            for (value, id) in patch.values.iter().zip(ids) {
                if let (NewValue::Constant { .. }, Some(id)) = (value, id) {
                    self.drop_value(id);
                }
            }
            self.sweep_bodies();
            return Err(error);
        }
        let resolve = |value: PatchValue| match value {
            PatchValue::Existing(id) => Some(id),
            PatchValue::New(index) => ids.get(index).copied().flatten(),
        };
        for &(used, value) in &patch.rewired {
            if let Some(value) = resolve(value) {
                self.set_input(used, value);
            }
        }
        for &(index, value) in &patch.outputs {
            if let Some(value) = resolve(value) {
                self.set_output(index, value);
            }
        }
        let mut takeovers = Vec::new();
        for &(new, old) in &patch.inherited {
            if let (Some(id), Some(old)) = (resolve(new), self.get_value(old)) {
                let names =
                    std::iter::once(old.name().to_owned()).chain(old.aliases().iter().cloned());
                takeovers.push((id, true, names.collect::<Vec<String>>()));
            }
        }
        for &(old, new) in &patch.replaced {
            let Some(new_id) = resolve(new) else { continue };
            for used in self.uses(old) {
                // What the patch itself reads of the old value stays.
                if !added.contains(&used.node) {
                    self.set_input(used, new_id);
                }
            }
            let positions: Vec<usize> = (0..self.outputs().len())
                .filter(|&i| self.outputs()[i].value == old)
                .collect();
            for position in positions {
                self.set_output(position, new_id);
            }
            let names = std::iter::once(self.value(old).name().to_owned());
            let names: Vec<String> = names
                .chain(self.value(old).aliases().iter().cloned())
                .collect();
            let gone = self
                .value(old)
                .producer()
                .is_some_and(|node| patch.removed.contains(&node));
            takeovers.push((new_id, matches!(new, PatchValue::New(_)) && gone, names));
        }
        // Constants that only the removed nodes read go with them, so that what replaces them may have their names.
        let orphans: Vec<ValueId> = patch
            .removed
            .iter()
            .flat_map(|&id| self.node(id).inputs().iter().flatten().copied())
            .filter(|&operand| self.value(operand).constant().is_some() && !self.is_output(operand))
            .collect();
        let mut removed = patch.removed.iter();
        let frees_bodies = removed.any(|&id| !self.node(id).op().bodies().is_empty());
        for &id in &patch.removed {
            self.remove_node(id);
        }
        for id in orphans {
            if !self.is_used(id) {
                self.drop_value(id);
            }
        }
        self.restore_names(&patch, &ids, &added);
        for (id, takes_name, names) in takeovers {
            if takes_name && self.get_value(id).is_some() && !self.has_value_named(&names[0]) {
                self.rename_value(id, names[0].clone());
            }
            self.add_aliases(id, names);
        }
        if frees_bodies || !patch.bodies.is_empty() {
            self.sweep_bodies();
        }
        Ok(added)
    }

    /// Gives new nodes and values the names that they were meant to have, where these are free now.
    fn restore_names(&mut self, patch: &Patch, ids: &[Option<ValueId>], added: &[NodeId]) {
        for (node, &id) in patch.nodes.iter().zip(added) {
            if self.node_named(&node.name).is_none() {
                self.rename_node(id, node.name.clone());
            }
        }
        for (value, id) in patch.values.iter().zip(ids) {
            let wanted = match value {
                NewValue::Constant { name, .. } | NewValue::Result { name: Some(name) } => name,
                NewValue::Result { name: None } => continue,
            };
            if let Some(id) = *id
                && self.get_value(id).is_some()
                && !self.has_value_named(wanted)
            {
                self.rename_value(id, wanted.clone());
            }
        }
    }

    fn check_removals(&self, patch: &Patch) -> Result<(), GraphError> {
        let refuse = |place: &str, reason: &str| GraphError::Patch {
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        for &id in &patch.removed {
            let node = self
                .get_node(id)
                .ok_or_else(|| refuse(&id.to_string(), "the node to remove does not exist"))?;
            for &result in node.outputs() {
                if patch.replaced.iter().any(|&(old, _)| old == result) {
                    continue;
                }
                let name = self.value(result).name();
                let kept_output = self.outputs().iter().enumerate().any(|(index, output)| {
                    output.value == result
                        && !patch.outputs.iter().any(|&(changed, _)| changed == index)
                });
                if kept_output {
                    return Err(refuse(name, "the removed value is an output"));
                }
                let outside = self.uses(result).into_iter().find(|used| {
                    !patch.removed.contains(&used.node)
                        && !patch.rewired.iter().any(|(rewired, _)| rewired == used)
                });
                if let Some(used) = outside {
                    let reader = self.node(used.node).name();
                    return Err(refuse(
                        name,
                        &format!("the removed value is also used by `{reader}`"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn add_new(
        &mut self,
        patch: &Patch,
        ids: &mut [Option<ValueId>],
        added: &mut Vec<NodeId>,
    ) -> Result<(), GraphError> {
        for (value, id) in patch.values.iter().zip(ids.iter_mut()) {
            if let NewValue::Constant { name, tensor } = value {
                let name = self.fresh_value_name(name);
                *id = Some(self.add_constant(&name, tensor.clone())?);
            }
        }
        for node in &patch.nodes {
            let mut inputs: SmallVec<[Option<ValueId>; 4]> = SmallVec::new();
            for (slot, input) in node.inputs.iter().enumerate() {
                let dangling = || GraphError::Dangling {
                    node: node.name.clone(),
                    slot,
                };
                inputs.push(match input {
                    None => None,
                    Some(PatchValue::Existing(id)) => Some(*id),
                    Some(PatchValue::New(index)) => {
                        Some(ids.get(*index).copied().flatten().ok_or_else(dangling)?)
                    }
                });
            }
            let node_name = self.fresh_node_name(&node.name);
            let mut names: Vec<String> = Vec::new();
            for &index in &node.outputs {
                let wanted = match patch.values.get(index) {
                    Some(NewValue::Result { name: Some(name) }) => name.as_str(),
                    _ => &node.name,
                };
                let mut name = self.fresh_value_name(wanted);
                while names.contains(&name) {
                    name.push('_');
                    name = self.fresh_value_name(&name);
                }
                names.push(name);
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let id = self.add_node(
                &node_name,
                node.op.clone(),
                &inputs,
                &names,
                node.sources.clone(),
            )?;
            for (&index, &value) in node.outputs.iter().zip(self.node(id).outputs()) {
                ids[index] = Some(value);
            }
            added.push(id);
        }
        Ok(())
    }

    fn check_types(&self, patch: &Patch, ids: &[Option<ValueId>]) -> Result<(), GraphError> {
        let resolve = |value: PatchValue| match value {
            PatchValue::Existing(id) => self.get_value(id),
            PatchValue::New(index) => ids
                .get(index)
                .copied()
                .flatten()
                .and_then(|id| self.get_value(id)),
        };
        for &(old, new) in &patch.replaced {
            let Some(old) = self.get_value(old) else {
                return Err(GraphError::Patch {
                    place: old.to_string(),
                    reason: "the value to replace does not exist".to_owned(),
                });
            };
            let refuse = |reason: String| GraphError::Patch {
                place: old.name().to_owned(),
                reason,
            };
            let Some(new) = resolve(new) else {
                return Err(refuse("the replacement does not exist".to_owned()));
            };
            if !compatible(old.ty(), new.ty()) {
                return Err(refuse(format!(
                    "a value of type {} cannot replace one of type {}",
                    new.ty(),
                    old.ty()
                )));
            }
        }
        for &(used, new) in &patch.rewired {
            // A slot that is there, or the optional one behind the last.
            let slot = self.get_node(used.node).filter(|node| {
                let known = *node.op().arity().inputs.end();
                used.slot < node.inputs().len()
                    || (used.slot == node.inputs().len() && used.slot < known)
            });
            let place = || {
                self.get_node(used.node)
                    .map_or_else(|| used.node.to_string(), |node| node.name().to_owned())
            };
            match (slot, resolve(new)) {
                (Some(_), Some(_)) => {}
                _ => {
                    return Err(GraphError::Patch {
                        place: place(),
                        reason: format!("operand {} cannot be rewired", used.slot),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Whether one type may stand for another: same elements, no dimension that is surely different.
fn compatible(old: &TensorType, new: &TensorType) -> bool {
    let shapes = match (&old.shape, &new.shape) {
        (Some(old), Some(new)) => {
            old.len() == new.len()
                && old.iter().zip(new).all(|(old, new)| match (old, new) {
                    (Dim::Known(old), Dim::Known(new)) => old == new,
                    _ => true,
                })
        }
        _ => true,
    };
    old.dtype == new.dtype && shapes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn an_absent_optional_operand_can_be_given_and_no_other() {
        let source = "g (float[N,2] x) => (y)\n<float[2,2] w = {1.0, 2.0, 3.0, 4.0}>\n{\n[fc] y = octofold.Linear (x, w)\n}\n";
        let graph = text::parse(source, None).unwrap();
        let node = graph.node_named("fc").unwrap();
        let with = |slot: usize| {
            let mut graph = graph.clone();
            let mut patch = Patch::new();
            let bias = patch.constant("bias", Tensor::vector(vec![1.0_f32, 2.0]));
            patch.rewire(Use { node, slot }, bias);
            graph.apply(patch).map(|_| graph)
        };
        let changed = with(2).unwrap();
        let bias = changed.value_named("bias").unwrap();
        assert_eq!(changed.node(node).input(2), Some(bias));
        assert_eq!(changed.uses(bias), [Use { node, slot: 2 }]);
        crate::verify(&changed).unwrap();
        for slot in [3, 4] {
            let error = with(slot).unwrap_err().to_string();
            assert!(error.contains("cannot be rewired"), "{error}");
        }
    }
}
