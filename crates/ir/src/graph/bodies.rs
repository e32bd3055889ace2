//! Bodies: the graphs that operators of a graph run.
//!
//! A body belongs to the graph whose operators name it, and is closed: what it reads of that graph are operands of the operator. So it is a
//! graph like any other: it can be verified, rewritten, run and compiled alone.

use octofold_ops::{BodyId, Op, OpError, bail};
use octofold_tensor::Tensor;

use super::{Graph, ValueKind};
use crate::infer::{self, Entry, Signature};
use crate::{GraphError, TensorType, ValueId, ValueType};

/// How often the types of states are inferred anew before they have to be settled. Each time some sizes are given up; when a rank
/// is, its sizes are gone as well.
const ROUNDS: usize = 4;

impl Graph {
    /// A body, when it still exists.
    pub fn body(&self, id: BodyId) -> Option<&Self> {
        self.bodies.get(id.index())?.as_ref()
    }

    /// The bodies, in the order of their making.
    pub fn bodies(&self) -> impl Iterator<Item = (BodyId, &Self)> {
        let each = self.bodies.iter().enumerate();
        each.filter_map(|(index, body)| Some((BodyId(index as u32), body.as_ref()?)))
    }

    /// The bodies, for changing. Their inputs and outputs must keep number and element types; the types of the graph's own values are stale
    /// until [`Graph::refresh_types`].
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        self.bodies.iter_mut().flatten()
    }

    /// Adds a body, for an operator that is added next. The types of its inputs are set when that is.
    pub fn add_body(&mut self, body: Self) -> BodyId {
        self.bodies.push(Some(body));
        BodyId(self.bodies.len() as u32 - 1)
    }

    /// A copy in which some inputs, by position, are constants.
    pub fn with_constant_inputs(&self, inputs: impl IntoIterator<Item = (usize, Tensor)>) -> Self {
        let mut copy = self.clone();
        let mut bound = Vec::new();
        for (position, tensor) in inputs {
            let Some(&id) = self.inputs.get(position) else {
                continue;
            };
            bound.push(id);
            if let Some(value) = copy.values.get_mut(id.index()).and_then(Option::as_mut) {
                value.ty = TensorType::of(&tensor);
                value.contents = infer::constant_contents(&tensor);
                value.kind = ValueKind::Constant(tensor);
            }
        }
        copy.inputs.retain(|id| !bound.contains(id));
        copy
    }

    /// Removes a body, for putting it into another graph.
    pub(crate) fn take_body(&mut self, id: BodyId) -> Option<Self> {
        self.bodies.get_mut(id.index())?.take()
    }

    /// The id that the body added next gets.
    pub(crate) fn next_body(&self) -> BodyId {
        BodyId(self.bodies.len() as u32)
    }

    /// Removes bodies that no operator names.
    pub(crate) fn sweep_bodies(&mut self) {
        if self.bodies.is_empty() {
            return;
        }
        let mut named = vec![false; self.bodies.len()];
        for node in self.nodes.iter().flatten() {
            for body in node.op.bodies() {
                if let Some(named) = named.get_mut(body.index()) {
                    *named = true;
                }
            }
        }
        for (body, named) in self.bodies.iter_mut().zip(named) {
            if !named {
                *body = None;
            }
        }
    }

    /// What the bodies of an operator take and give.
    pub(crate) fn signatures(&self, op: &Op) -> Vec<(BodyId, Signature)> {
        let each = op.bodies().into_iter();
        each.filter_map(|id| Some((id, self.body(id)?.signature())))
            .collect()
    }

    fn signature(&self) -> Signature {
        let ty = |id: ValueId| ValueType::Tensor(self.value(id).ty().clone());
        Signature {
            inputs: self.inputs.iter().map(|&id| ty(id)).collect(),
            outputs: self.outputs.iter().map(|output| ty(output.value)).collect(),
        }
    }

    /// Gives the bodies of an operator the types of its operands, and infers theirs anew.
    pub(crate) fn type_bodies(
        &mut self,
        op: &Op,
        operands: &[Option<ValueId>],
        node: &str,
    ) -> Result<(), GraphError> {
        let bodies = op.bodies();
        if bodies.is_empty() {
            return Ok(());
        }
        let fail = |source: OpError| GraphError::Op {
            node: node.to_owned(),
            op: op.name().to_owned(),
            source: Box::new(source),
        };
        let types: Vec<Option<&TensorType>> = operands
            .iter()
            .map(|operand| operand.map(|operand| self.value(operand).ty()))
            .collect();
        let mut entry = Entry::new(op, &types).map_err(fail)?;
        for _ in 0..ROUNDS {
            let mut widened = false;
            for id in &bodies {
                let body = self.bodies.get_mut(id.index()).and_then(Option::as_mut);
                let body = body.ok_or_else(|| fail(OpError::invalid("its body does not exist")))?;
                body.enter(&entry).map_err(fail)?;
                body.refresh_types()
                    .map_err(|source| source.in_body(node, op.name()))?;
                widened |= entry.widen(&body.signature());
            }
            if !widened {
                return Ok(());
            }
        }
        Err(fail(OpError::invalid(
            "the types of its states do not settle",
        )))
    }

    /// Gives a body the types of its inputs.
    fn enter(&mut self, entry: &Entry) -> Result<(), OpError> {
        let names: Vec<&str> = self
            .inputs
            .iter()
            .map(|&id| self.value(id).name())
            .collect();
        let types = entry.types(&names);
        if types.len() != names.len() {
            bail!(
                "a body takes {} inputs, it is given {}",
                names.len(),
                types.len()
            );
        }
        for (id, ty) in self.inputs.clone().into_iter().zip(types) {
            self.set_input_type(id, ty);
        }
        Ok(())
    }
}
