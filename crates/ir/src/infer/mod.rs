//! Shape and type inference, with symbolic dimensions.
//!
//! [`infer`] gives the types of an operator's outputs from what is known of its inputs: their types, the elements of constants,
//! and the symbolic contents of small integer tensors. Following the contents through `Shape`, `Gather`, `Concat`
//! and arithmetic is what resolves the shape computations that exporters leave, also when the batch is a symbol.
//! A dimension that depends on data gets a fresh symbol.

use octofold_ops::{Op, OpError};
use octofold_tensor::{Dim, Tensor};

use crate::TensorType;

/// What is known of an operator's input.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The type.
    pub ty: &'a TensorType,
    /// The elements of a constant.
    pub constant: Option<&'a Tensor>,
    /// The contents of a small integer tensor (rank 0 or 1), as symbolic numbers. Constants have them, too.
    pub contents: Option<&'a [Dim]>,
}

/// What is known of an operator's output.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// The type.
    pub ty: TensorType,
    /// The symbolic contents of an integer tensor of rank 0 or 1.
    pub contents: Option<Vec<Dim>>,
}

impl From<TensorType> for Inferred {
    fn from(ty: TensorType) -> Self {
        Self { ty, contents: None }
    }
}

/// The inputs of an inference, and the source of fresh symbols.
#[derive(Debug)]
pub struct Context<'a> {
    inputs: &'a [Option<Known<'a>>],
    /// The name that fresh symbols begin with; unique to the node.
    prefix: &'a str,
    fresh: usize,
}

impl<'a> Context<'a> {
    /// A context over inputs. `prefix` makes the symbols of this node unlike those of any other.
    pub fn new(inputs: &'a [Option<Known<'a>>], prefix: &'a str) -> Self {
        Self {
            inputs,
            prefix,
            fresh: 0,
        }
    }

    /// The number of inputs, absent ones in between included.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The input at a position, when present.
    pub fn optional(&self, index: usize) -> Option<Known<'a>> {
        self.inputs.get(index).copied().flatten()
    }

    /// The input at a position.
    ///
    /// # Errors
    /// When it is absent.
    pub fn required(&self, index: usize) -> Result<Known<'a>, OpError> {
        self.optional(index).ok_or(OpError::MissingInput(index))
    }

    /// A dimension of which nothing is known.
    pub fn fresh(&mut self) -> Dim {
        self.fresh += 1;
        Dim::symbol(&format!("{}.{}", self.prefix, self.fresh - 1))
    }
}
