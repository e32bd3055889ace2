//! The bounds of a fused activation.

use crate::KernelError;

/// The bounds of a fused Relu or Clip. NaN passes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The smallest value.
    pub lo: f32,
    /// The largest value.
    pub hi: f32,
}

impl Bounds {
    /// Bounds that change nothing.
    pub const NONE: Self = Self::new(f32::NEG_INFINITY, f32::INFINITY);

    /// Bounds from the smallest value to the largest.
    pub const fn new(lo: f32, hi: f32) -> Self {
        Self { lo, hi }
    }

    /// Checks that the bounds are in order, and so not NaN.
    pub(crate) fn check(self) -> Result<(), KernelError> {
        if self.lo <= self.hi {
            Ok(())
        } else {
            Err(KernelError::Shape("the bounds are not in order"))
        }
    }

    /// Clamps one value; NaN stays NaN.
    #[inline(always)]
    pub(crate) fn clamp(self, value: f32) -> f32 {
        let value = if value < self.lo { self.lo } else { value };
        if value > self.hi { self.hi } else { value }
    }
}

impl From<(f32, f32)> for Bounds {
    fn from((lo, hi): (f32, f32)) -> Self {
        Self::new(lo, hi)
    }
}
