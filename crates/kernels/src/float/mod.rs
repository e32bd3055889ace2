//! The float operators, over dense channels-last (NHWC) tensors like those of the integer kernels, so that float and
//! int8 layers meet without transposes.
//!
//! Convolutions and matrix products use the `gemm` crate on one thread; the rest are loops compiled once for each
//! instruction set. The `gemm` crate looks for instruction sets itself: [`Isa`](crate::Isa) decides about everything around it.
//!
//! # The same bits for any number of threads
//! No sum is ever split between threads. Where a matrix product could depend on how many rows one call
//! sees, the shape alone cuts the output into chunks, and a caller splits only between chunks. Between
//! processors, results differ by rounding.
//!
//! Bounds `clamp: (lo, hi)` are a fused ReLU or Clip; [`NO_CLAMP`] leaves everything as it is. NaN passes through.

pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod function;
mod gemm;
pub mod linear;
pub mod pool;

use crate::KernelError;
use crate::table::{Family, Kernel};

/// Bounds that change nothing.
pub const NO_CLAMP: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

/// Checks that bounds are in order, and so not NaN.
pub(crate) fn check_clamp((lo, hi): (f32, f32)) -> Result<(), KernelError> {
    if lo <= hi {
        Ok(())
    } else {
        Err(KernelError::Shape("the bounds are not in order"))
    }
}

/// Clamps one value; NaN stays NaN.
#[inline(always)]
pub(crate) fn clamp(value: f32, (lo, hi): (f32, f32)) -> f32 {
    let value = if value < lo { lo } else { value };
    if value > hi { hi } else { value }
}

/// The kernels of this module, for the table of all kernels.
pub(crate) const KERNELS: &[Kernel] = crate::shared::entries![
    FConv "conv_f32",
    FGemm "gemm_f32",
    FloatOther "elementwise_f32",
    FloatOther "function_f32",
    FloatOther "depthwise_f32",
    FloatOther "pool_f32",
];
