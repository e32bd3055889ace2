//! What a graph consists of: nodes, values, outputs and uses.

use octofold_ops::{Op, Role};
use octofold_tensor::{Dim, Tensor};
use petgraph::stable_graph::NodeIndex;
use smallvec::SmallVec;

use crate::{NodeId, TensorType, ValueId};

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) op: Op,
    pub(super) inputs: SmallVec<[Option<ValueId>; 4]>,
    pub(super) outputs: SmallVec<[ValueId; 1]>,
    pub(super) sources: Vec<String>,
    pub(super) vertex: NodeIndex,
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

    /// The first operand with a role, when there is one.
    pub fn operand(&self, role: Role) -> Option<ValueId> {
        let slot = (0..self.inputs.len()).find(|&slot| self.op.role(slot) == Some(role))?;
        self.input(slot)
    }

    /// The weights of a layer.
    pub fn weights(&self) -> Option<ValueId> {
        self.operand(Role::Weight)
    }

    /// The bias of a layer.
    pub fn bias(&self) -> Option<ValueId> {
        self.operand(Role::Bias)
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
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) ty: TensorType,
    pub(super) contents: Option<Vec<Dim>>,
    pub(super) kind: ValueKind,
    pub(super) vertex: NodeIndex,
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
