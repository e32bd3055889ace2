//! Why a kernel refuses its arguments.
//!
//! Kernels check everything before they touch data, so after an error no output was written.

use std::ops::Range;

use crate::Isa;

/// The error of all kernels of this crate. The caller knows which operator it ran and adds its name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice whose length does not fit the sizes given.
    #[error("{what} has {got} elements; the sizes ask for {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// The length that follows from the sizes.
        expected: usize,
        /// The length of the slice.
        got: usize,
    },
    /// Sizes that describe no operation: a zero dimension, a kernel larger than its padded input, groups that
    /// do not divide the channels.
    #[error("bad shape: {0}")]
    Shape(&'static str),
    /// Sizes whose products leave the range that kernels address.
    #[error("{what} is too large to address")]
    TooLarge {
        /// Which quantity.
        what: &'static str,
    },
    /// A range of rows, pixels or columns outside of the output, or one that splits a block.
    #[error("{what} {range:?} is no part of 0..{len} that can be computed on its own")]
    Range {
        /// What is counted.
        what: &'static str,
        /// The refused range.
        range: Range<usize>,
        /// The number of items.
        len: usize,
    },
    /// A constant outside of the range of its type.
    #[error("{what} {value} is outside of {min}..={max}")]
    Value {
        /// Which constant.
        what: &'static str,
        /// The refused value.
        value: i64,
        /// The smallest value allowed.
        min: i64,
        /// The largest value allowed.
        max: i64,
    },
    /// Weights and bias with which the 32-bit accumulator of a channel could overflow.
    #[error(
        "the accumulator of output channel {channel} can reach {bound}, which 32 bits do not hold"
    )]
    AccumulatorOverflow {
        /// The output channel.
        channel: usize,
        /// The largest magnitude that its accumulator can have.
        bound: i64,
    },
    /// An instruction set that this processor does not have.
    #[error("this processor has no {0}")]
    Unsupported(Isa),
}

/// Checks the length of a slice.
pub(crate) fn check_len(
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), KernelError> {
    if expected == got {
        return Ok(());
    }
    Err(KernelError::Length {
        what,
        expected,
        got,
    })
}

/// Checks that a scratch buffer is long enough; a longer one is fine.
pub(crate) fn check_scratch(expected: usize, got: usize) -> Result<(), KernelError> {
    if got >= expected {
        return Ok(());
    }
    Err(KernelError::Length {
        what: "scratch",
        expected,
        got,
    })
}
