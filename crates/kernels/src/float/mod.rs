//! The float operators, over dense channels-last (NHWC) tensors like those of the integer kernels, so that float and
//! int8 layers meet without transposes.
//!
//! Convolutions and matrix products have kernels of their own (`micro`), one form of weights (`pack`) and one order of
//! sums. A product of two computed operands packs the second one for each call. The rest are loops compiled once for each instruction set.
//!
//! # The same bits for any number of threads
//! No sum is ever split between threads, and no result depends on what else a call computes. Convolutions and products add up
//! their products in order, each rounded once with its sum, whatever the instruction set: they give the same bits on each processor.
//!
//! [`Bounds`](crate::Bounds) are a fused Relu or Clip, applied last.

pub mod affine;
pub mod arg;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod function;
pub mod linear;
mod micro;
pub mod norm;
mod pack;
pub mod pool;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod softmax;

use std::ops::Range;

use crate::KernelError;
use crate::shared::product;

/// A part of the output of a matrix product, which a call computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Rows, or pixels of a convolution.
    pub rows: Range<usize>,
    /// Columns, or channels of a convolution.
    pub columns: Range<usize>,
}

/// The sizes of a tensor, seen along one of its axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisShape {
    /// The number of positions before the axis.
    pub outer: usize,
    /// The size of the axis.
    pub len: usize,
    /// The number of positions behind the axis.
    pub inner: usize,
}

impl AxisShape {
    /// The number of elements.
    pub(crate) fn elements(&self) -> Result<usize, KernelError> {
        product("the input", &[self.outer, self.len, self.inner])
    }

    /// The number of lines along the axis.
    pub(crate) fn lines(&self) -> Result<usize, KernelError> {
        product("the lines", &[self.outer, self.inner])
    }
}
