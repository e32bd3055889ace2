//! The intermediate representation of Octofold: what every pass reads and changes.
//!
//! This crate owns the [`Graph`] of operators and values, its types and their [inference](infer), the
//! [verifier](verify()), [patches](Patch), the text form ([`text`]), reading and writing of ONNX files ([`onnx`]), the DOT
//! drawing ([`dot`]), and the [interpreter](interpret()), which is the oracle of everything that runs fast.
//!
//! # Meaning
//! A graph is a pure function from its inputs to its outputs. A node applies an [`Op`] to its operands; the
//! order of nodes is a matter of the data flow alone. Values are dense tensors whose dimensions may be symbols. An
//! integer value may carry quantization parameters in its type: `real = (q - zero_point)·scale`. State is data flow:
//! an operator with state takes it as an operand and gives it as a result.
//!
//! An operator with control flow runs bodies, which are closed graphs of their own that its graph holds.
//!
//! A graph does not know passes, kernels or plans.
#![forbid(unsafe_code)]

mod bind;
pub mod dot;
mod error;
mod graph;
mod id;
pub mod infer;
mod interpret;
pub mod onnx;
mod patch;
mod replace;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
mod types;
mod verify;
mod visible;

pub use error::GraphError;
pub use graph::{
    ChangedWeights, FoldingBudget, Graph, MappedWeights, Node, Output, Use, Value, ValueKind,
};
pub use id::{NodeId, ValueId};
pub use interpret::{BodyLimits, interpret, interpret_with, interpret_within};
pub use octofold_ops::{Op, Role};
pub use patch::{Patch, PatchValue};
pub use types::{TensorType, ValueType};
pub use verify::{
    Check, Fault, Form, STAGES, STRUCTURE, Stage, StageCheck, VerifyError, verify, verify_stage,
};
pub use visible::visible;
