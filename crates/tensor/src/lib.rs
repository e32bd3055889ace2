//! Dense tensors, and shapes with symbolic dimensions.
//!
//! This crate owns the data that flows through graphs and plans: element types ([`DType`]), dense
//! row-major arrays ([`Tensor`]), symbolic dimensions ([`Dim`]), and the `.npy` and `.npz` files that
//! hold arrays on disk ([`npy`]). [`mod@file`] opens and writes the files of all crates, and [`map`] maps them. It computes nothing with the elements and knows nothing of graphs.
#![deny(unsafe_code)]

mod dim;
mod dtype;
mod elements;
pub mod file;
pub mod map;
pub mod npy;
mod tensor;

pub use dim::{Dim, DimError, Symbols};
pub use dtype::DType;
pub use elements::Elements;
pub use half::{bf16, f16};
pub use tensor::{Element, Shape, Tensor, TensorData, TensorError};
