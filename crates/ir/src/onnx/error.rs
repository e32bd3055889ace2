//! Why a file could not be read or written.

use octofold_ops::{Op, OpError, nearest};
use octofold_tensor::TensorError;

use super::budget::raise;
use super::{ScanError, TensorProtoError};
use crate::{ChangedWeights, GraphError};

/// Why a model could not be imported: the file and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{model}: {kind}")]
pub struct ImportError {
    /// The path of the file, or `model` when the bytes came without one.
    pub model: String,
    /// What is wrong.
    pub kind: ImportErrorKind,
}

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportErrorKind {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Io(std::io::Error),
    /// The path is no regular file.
    #[error("is no file")]
    NoFile,
    /// The bytes are malformed or exceed the budget.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The version of the format is missing or unknown.
    #[error("the IR version (ir_version) is {found}, expected 3 to {newest}")]
    IrVersion {
        /// What the file says; 0 when it says nothing.
        found: i64,
        /// The newest version that is known.
        newest: i64,
    },
    /// The model imports no operators.
    #[error("no opset is imported (opset_import is missing)")]
    NoOpset,
    /// The imports of operators are unknown or contradictory.
    #[error("opset {version} of domain `{domain}`: {reason}")]
    Opset {
        /// The domain.
        domain: String,
        /// The version.
        version: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A model without a graph.
    #[error("the model has no graph")]
    NoGraph,
    /// A name that two values have.
    #[error("duplicate name: {what} `{name}` exists already")]
    Duplicate {
        /// What has the name: `initializer`, `input`, `output of node …`.
        what: String,
        /// The name.
        name: String,
    },
    /// A value without a name.
    #[error("{0} has an empty name")]
    Unnamed(String),
    /// An input of the graph whose type cannot be read.
    #[error("input `{input}`: {reason}")]
    Input {
        /// The name.
        input: String,
        /// What is wrong.
        reason: String,
    },
    /// An output of the graph that does not fit.
    #[error("output `{output}`: {reason}")]
    Output {
        /// The name.
        output: String,
        /// What is wrong.
        reason: String,
    },
    /// An initializer that is no tensor.
    #[error("initializer `{tensor}`: {source}")]
    Initializer {
        /// The name.
        tensor: String,
        /// What is wrong.
        source: Box<TensorProtoError>,
    },
    /// A node that cannot be read.
    #[error("node `{node}` ({op}, opset {opset}): {source}")]
    Node {
        /// The node's name.
        node: String,
        /// The operator, with its domain.
        op: String,
        /// The version of the domain's opset.
        opset: i64,
        /// What is wrong.
        source: Box<NodeError>,
    },
    /// A function of the model that cannot be inlined.
    #[error("function `{function}`: {source}")]
    Function {
        /// The function's name, with its domain.
        function: String,
        /// What is wrong.
        source: FunctionError,
    },
    /// Nodes that depend on each other.
    #[error("node `{node}` is part of a cycle: it depends on its own result")]
    Cycle {
        /// A node of the cycle.
        node: String,
    },
    /// More nodes than the budget allows.
    #[error(
        "too many nodes: there are {found}, the limit is {limit} ({})",
        raise("nodes")
    )]
    Nodes {
        /// The number of nodes after inlining.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Functions whose inlining copies more than the budget allows.
    #[error(
        "inlining functions copies too many bytes, the limit is {limit} ({raised})",
        limit = .0,
        raised = raise("copied-bytes")
    )]
    Copies(u64),
    /// A value whose sizes follow from the inputs by too long an expression.
    #[error(
        "the dimensions of value `{value}` are too large: their expression exceeds the limit of {limit} terms ({})",
        raise("terms")
    )]
    Expression {
        /// The name.
        value: String,
        /// The limit.
        limit: usize,
    },
    /// A value of too many axes.
    #[error(
        "value `{value}` has {rank} axes, the limit is {limit} ({})",
        raise("rank")
    )]
    Rank {
        /// The name.
        value: String,
        /// The number of axes.
        rank: usize,
        /// The limit.
        limit: usize,
    },
    /// A value that no memory holds.
    #[error(
        "value `{value}` of type {ty} is too large: the limit is {limit} bytes ({})",
        raise("value-bytes")
    )]
    Size {
        /// The name.
        value: String,
        /// The type.
        ty: String,
        /// The limit.
        limit: u64,
    },
}

/// What is wrong with a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// An operator that Octofold does not have.
    #[error("unsupported operator")]
    Operator,
    /// As above, where ONNX has the domain: there are operators of similar names.
    #[error("unsupported operator; the nearest names are `{}`", .0.join("`, `"))]
    Unknown(Vec<String>),
    /// An operator that is younger than the opset.
    #[error("the operator is unknown before opset {0}")]
    TooNew(i64),
    /// A domain that the model does not import.
    #[error("the model imports no opset for the domain `{0}`")]
    Domain(String),
    /// A node without an operator.
    #[error("op_type is empty")]
    NoOperator,
    /// An attribute that holds a graph.
    #[error("the subgraph in attribute `{0}` is not supported for this operator")]
    Subgraph(String),
    /// A body that cannot be read.
    #[error("in the subgraph of attribute `{attribute}`: {source}")]
    Body {
        /// The attribute that holds the body.
        attribute: String,
        /// What is wrong.
        source: Box<ImportErrorKind>,
    },
    /// A loop that does not end in any time.
    #[error(
        "the loop makes {trips} trips, the limit is {limit} ({})",
        raise("trips")
    )]
    Trips {
        /// The number of trips.
        trips: i64,
        /// The limit.
        limit: u64,
    },
    /// Bodies in bodies in bodies, ….
    #[error("subgraphs are nested deeper than the limit of {0}")]
    BodyDepth(usize),
    /// An attribute that is missing its value, of a type that does not exist, or given twice.
    #[error("attribute `{name}`: {reason}")]
    Attribute {
        /// The attribute.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// An attribute with a tensor that cannot be read.
    #[error("attribute `{name}`: {source}")]
    Tensor {
        /// The attribute.
        name: String,
        /// What is wrong.
        source: Box<TensorProtoError>,
    },
    /// An operand that nothing gives.
    #[error("input `{0}` is undefined: no input, initializer or node gives it (missing)")]
    Undefined(String),
    /// A required operand that is left out.
    #[error("required input {0} is missing")]
    MissingInput(usize),
    /// A form of an old opset that cannot be brought to the newest.
    #[error("{0}")]
    Form(String),
    /// Quantization parameters that no quantized value can have.
    #[error("{0}")]
    Quantization(String),
    /// The operator refuses its attributes.
    #[error(transparent)]
    Op(Box<OpError>),
    /// The graph refuses the node.
    #[error(transparent)]
    Graph(Box<GraphError>),
}

impl From<OpError> for NodeError {
    /// The node's operator is told with the node.
    fn from(error: OpError) -> Self {
        match error {
            OpError::UnknownOperator(name) => {
                let known = Op::NAMES.iter().filter(|(domain, _)| domain.is_empty());
                Self::Unknown(nearest(&name, known.map(|&(_, name)| name)))
            }
            OpError::MissingInput(slot) => Self::MissingInput(slot),
            other => Self::Op(Box::new(other)),
        }
    }
}

impl From<TensorError> for NodeError {
    fn from(error: TensorError) -> Self {
        Self::Form(error.to_string())
    }
}

impl From<GraphError> for NodeError {
    /// Keeps what the operator says without the node's name, which the importer adds.
    fn from(error: GraphError) -> Self {
        match error {
            GraphError::Op { source, .. } => (*source).into(),
            other => Self::Graph(Box::new(other)),
        }
    }
}

impl NodeError {
    /// A [`NodeError::Attribute`].
    pub(super) fn attribute(name: &str, reason: impl Into<String>) -> Self {
        Self::Attribute {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }
}

/// What is wrong with a function of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FunctionError {
    /// Two functions of one name.
    #[error("there are two functions of this name (duplicate)")]
    Duplicate,
    /// A function that calls itself, perhaps through others.
    #[error("recursion: the function calls itself")]
    Recursion,
    /// Functions that call functions too deeply.
    #[error(
        "functions are nested deeper than the limit of {limit} ({raised})",
        limit = .0,
        raised = raise("calls")
    )]
    Depth(usize),
    /// A call with more operands or results than the function has.
    #[error("node `{node}` calls it with {found} {what}, it has {expected}")]
    Arity {
        /// The calling node.
        node: String,
        /// `inputs` or `outputs`.
        what: &'static str,
        /// How many the call has.
        found: usize,
        /// How many the function has.
        expected: usize,
    },
    /// A node of the function that has a body.
    #[error("node `{0}` has a subgraph: control flow within functions is not supported")]
    Body(String),
    /// An output that no node of the function gives.
    #[error("the output `{0}` is undefined: not produced by the function")]
    Output(String),
}

/// Why a graph could not be written as ONNX.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// An operator without an ONNX form.
    #[error(
        "node `{node}`: {op} is no operator of ONNX; a pass has to expand it before the export"
    )]
    Operator {
        /// The node's name.
        node: String,
        /// The operator, with its domain.
        op: String,
    },
    /// An attribute whose meaning is newer than the opset that is written.
    #[error("node `{node}` ({op}): attribute `{attribute}` is newer than opset {opset}", opset = super::OPSET)]
    Attribute {
        /// The node's name.
        node: String,
        /// The operator.
        op: String,
        /// The attribute.
        attribute: String,
    },
    /// An operator names a body that does not exist, or that takes fewer inputs than there are captures.
    #[error("body {0} does not exist or does not take its captures")]
    Body(u32),
    /// A graph that is no graph.
    #[error(transparent)]
    Graph(Box<GraphError>),
    /// A file of weights that was changed.
    #[error(transparent)]
    Weights(#[from] ChangedWeights),
    /// A file that protobuf cannot hold.
    #[error(
        "the model takes {bytes} bytes, the limit is {limit}; write it to a file with external data"
    )]
    TooLarge {
        /// The size of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file that cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Io {
        /// The path.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl From<GraphError> for ExportError {
    fn from(error: GraphError) -> Self {
        Self::Graph(Box::new(error))
    }
}
