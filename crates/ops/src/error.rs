//! The errors of operators. The caller adds the name of the node.

use octofold_quant::QParamsError;
use octofold_tensor::{DType, TensorError};

/// Why an operator could not be made from its attributes, or not be computed on its inputs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// An input that the operator needs is absent.
    #[error("input {0} is missing")]
    MissingInput(usize),
    /// An input has an element type that the operator does not take.
    #[error("input {index} has elements of type {found}, expected {expected}")]
    InputType {
        /// The position of the input.
        index: usize,
        /// Its element type.
        found: DType,
        /// The types that are allowed, in words.
        expected: &'static str,
    },
    /// Shapes or values of the inputs that do not fit each other or the operator.
    #[error("{0}")]
    Invalid(String),
    /// An attribute that is absent, of the wrong type, out of range or contradictory.
    #[error("attribute `{name}`: {reason}")]
    Attribute {
        /// The attribute's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An attribute that the operator does not have.
    #[error("`{0}` is no attribute of this operator")]
    UnknownAttribute(String),
    /// An operator that Octofold does not implement.
    #[error("the operator {0} is not supported")]
    UnknownOperator(String),
    /// A form of the operator that Octofold does not implement.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A form that types and attributes can describe and nothing computes yet.
    #[error("no kernel computes {0} yet")]
    NoKernel(String),
    /// The result would be larger than memory allows.
    #[error("a result of {0} elements is too large")]
    TooLarge(u128),
    /// A node of a body could not be computed.
    #[error("in its body, node `{node}`: {source}")]
    Body {
        /// The node's name.
        node: String,
        /// What is wrong.
        source: Box<OpError>,
    },
    /// Bodies that would take more operations than the limit.
    #[error("its bodies take more than {0} operations")]
    Operations(u64),
    /// Bodies whose results would take more memory than the limit.
    #[error("its bodies take more than {0} bytes")]
    Bytes(u64),
    /// A tensor could not be made or read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Invalid quantization parameters.
    #[error(transparent)]
    QParams(#[from] QParamsError),
}

impl OpError {
    /// An [`OpError::Attribute`].
    pub fn attribute(name: &str, reason: impl Into<String>) -> Self {
        Self::Attribute {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }

    /// An [`OpError::Invalid`].
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}

/// Returns an [`OpError::Invalid`] with a formatted reason.
#[macro_export]
macro_rules! bail {
    ($($reason:tt)*) => { return Err($crate::OpError::invalid(format!($($reason)*)).into()) };
}

/// Returns an [`OpError::Attribute`]: the attribute's name, and a formatted reason.
#[macro_export]
macro_rules! bail_attribute {
    ($name:expr, $($reason:tt)*) => { return Err($crate::OpError::attribute($name, format!($($reason)*)).into()) };
}
