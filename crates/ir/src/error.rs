//! What can be wrong with a graph.

use octofold_ops::OpError;

/// Why a graph could not be built, changed or ordered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two values of one name.
    #[error("there are two values named `{0}`")]
    DuplicateValue(String),
    /// Two nodes of one name.
    #[error("there are two nodes named `{0}`")]
    DuplicateNode(String),
    /// Two outputs of one name.
    #[error("there are two outputs named `{0}`")]
    DuplicateOutput(String),
    /// An operand that does not exist.
    #[error("node `{node}`: operand {slot} does not exist")]
    Dangling {
        /// The node's name.
        node: String,
        /// The operand slot.
        slot: usize,
    },
    /// A number of operands or results that the operator does not have.
    #[error(
        "node `{node}`: {op} does not take {inputs} inputs and give {outputs} outputs; it has {expected}"
    )]
    Arity {
        /// The node's name.
        node: String,
        /// The operator.
        op: String,
        /// The number of operands.
        inputs: usize,
        /// The number of results.
        outputs: usize,
        /// The numbers that the operator has.
        expected: String,
    },
    /// A node that depends on itself.
    #[error("node `{node}` depends on its own result")]
    Cycle {
        /// The node's name.
        node: String,
    },
    /// An operator that refuses its attributes or inputs.
    #[error("node `{node}` ({op}): {source}")]
    Op {
        /// The node's name.
        node: String,
        /// The operator.
        op: String,
        /// What it says.
        source: Box<OpError>,
    },
    /// A rewrite that the graph refuses.
    #[error("rewrite at `{place}`: {reason}")]
    Patch {
        /// The node or value at fault.
        place: String,
        /// Why it cannot be applied.
        reason: String,
    },
    /// An input of a run that is absent or does not fit.
    #[error("input `{input}`: {reason}")]
    Input {
        /// The input's name.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl GraphError {
    /// An error of a body as one of the node that runs it.
    pub(crate) fn in_body(self, node: &str, op: &str) -> Self {
        let source = match self {
            Self::Op { node, source, .. } => OpError::Body { node, source },
            other => OpError::invalid(format!("in its body, {other}")),
        };
        Self::Op {
            node: node.to_owned(),
            op: op.to_owned(),
            source: Box::new(source),
        }
    }
}
