//! The compute kernels of Octofold: what a compiled plan runs.
//!
//! This crate owns the loops over numbers and nothing else: convolutions and matrix products of
//! 8-bit integers ([`conv`], by one of two engines, see [`Engine`]), the other quantized operators ([`shared`]),
//! the float operators ([`float`]), the choice of an instruction set ([`isa`]),
//! and what the processor could do at most ([`peak`]). It knows slices, sizes and constants, but no tensors, graphs or plans.
//!
//! Every public kernel is a safe function: it checks the lengths of its slices against the sizes
//! it is given before the first access and answers with a [`KernelError`], so that a hostile plan can
//! make it compute nonsense but never read or write out of bounds. For one input, all instruction sets
//! give the same bytes, and these are the bytes that `octofold_quant::requantize` defines.
#![deny(clippy::undocumented_unsafe_blocks)]

mod bounds;
pub mod conv;
mod engine;
mod error;
mod fbgemm;
pub mod float;
pub mod isa;
pub mod peak;
mod qnnpack;
pub mod shared;

pub use bounds::Bounds;
pub use engine::Engine;
pub use error::KernelError;
pub use isa::Isa;
