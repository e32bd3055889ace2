//! All quantization arithmetic of Octofold, written once.
//!
//! This crate owns the mapping between real numbers and small integers: the quantized types and
//! their ranges ([`QuantType`]), scales and zero points ([`QParams`], [`QuantParams`]), how these are
//! chosen from an observed range ([`choose`]), [`affine`] quantization, [`requantize`] from 32-bit
//! accumulators, the [`observer`]s that collect ranges, the functions behind lookup tables
//! ([`functions`]), quantized [`weights`] and biases, the specification
//! of a value ([`spec`]) and the [`metrics`] that judge a quantized model.
//!
//! Everything is scalar, portable and deterministic. Observers, fake-quantizers, the interpreter
//! and the kernels either call this crate or are tested bit for bit against it. `docs/numerics.md`
//! has the rules. All rounding is half to even, and there is no fused multiply-add.
//!
//! It knows nothing of graphs, tensors or files.
#![forbid(unsafe_code)]

pub mod affine;
pub mod choose;
mod dtype;
pub mod float;
pub mod fold;
pub mod functions;
pub mod metrics;
pub mod observer;
mod qparams;
pub mod requantize;
pub mod spec;
pub mod weights;

pub use choose::{QuantRange, Scheme};
pub use dtype::{QuantType, UnknownQuantType};
pub use observer::{ObserverKind, ObserverState, StateError};
pub use qparams::{QParams, QParamsError, QuantParams};
pub use spec::{Granularity, QuantSpec};
