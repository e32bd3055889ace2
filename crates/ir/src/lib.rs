//! The intermediate representation of Octofold.
#![forbid(unsafe_code)]

pub mod infer;
mod types;

pub use types::TensorType;
