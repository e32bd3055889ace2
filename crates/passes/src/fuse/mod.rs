//! Fusion: groups of operators that one kernel computes become one node.
//!
//! Batch norms and other affine functions of the channels are folded into the weights before them; activations become part
//! of the operator whose result they bound; transposed convolutions become convolutions. Groups that the exporter folded are left as they are.

mod activation;
mod affine;
mod batch_norm;
mod factor;
mod residual;
mod transposed;

pub use activation::FuseActivations;
pub(crate) use activation::{activation_of, fused_conv};
pub use affine::FuseAffine;
pub(crate) use affine::bias_name;
pub use batch_norm::LowerBatchNorms;
pub use factor::FactorSums;
pub use residual::FuseResiduals;
pub use transposed::SplitTransposedConvs;
