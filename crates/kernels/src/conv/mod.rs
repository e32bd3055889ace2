//! 8-bit convolutions and matrix products: one call for both engines, and what these have in common.
//!
//! This module owns the call ([`PreparedConv`], [`ConvCall`]), the sizes ([`ConvShape`], [`LinearShape`]), what happens to a sum before it is stored
//! ([`OutputStage`]), the tile that micro kernels compute (`tile`), and the inner loops that do not depend on
//! an engine. The engines (`fbgemm`, `qnnpack`) own the form of the packed weights and
//! how activations are found. Sums are exact in 32 bits and the rest is `octofold_quant::requantize`, so every
//! engine and every instruction set gives the same bytes.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
pub(crate) mod offsets;
pub(crate) mod output;
pub(crate) mod pixels;
pub mod planes;
mod prepared;
pub(crate) mod scalar;
pub(crate) mod shape;
#[cfg(test)]
mod tests;
pub(crate) mod tile;

pub use output::{
    Activations, Float, OutputSlice, OutputStage, Quantized, Residual, RowStride, fold_bias,
};
pub use prepared::{ConvCall, PreparedConv, pack};
pub use shape::{ConvShape, Depth, LinearShape};
