//! The operators of Octofold.
//!
//! This crate owns, for every operator, its attribute struct and one portable tensor-to-tensor
//! implementation with the semantics of ONNX. The interpreter, constant folding and the runtime's
//! fallback steps all call it. Only hot operators have a second, fast version in the kernels
//! crate, which is tested against this one.
//!
//! Operators have one form here: that of the newest opset in which they changed (the importer brings older forms
//! to it). One family of operators is one file of [`families`]; [`Op`] lists them all.
//!
//! It knows nothing of graphs, shapes that are not yet known, or files.
#![forbid(unsafe_code)]

pub mod attribute;
mod body;
pub mod cost;
mod error;
pub mod families;
mod function;
mod nearest;
mod operator;
mod parallel;
mod role;

pub use attribute::{Attribute, AttributeMap, Attributes};
pub use body::{Bodies, BodyId};
pub use error::OpError;
pub use families::support::{normalize_axes, normalize_axis, within_elements};
pub use nearest::nearest;
pub use operator::{Arity, Described, Inputs, Op, Operator};
pub use parallel::map_parallel;
pub use role::Role;
