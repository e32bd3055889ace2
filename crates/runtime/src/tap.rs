//! What an observer is shown.

use octofold_tensor::{DType, Tensor};

use crate::StepError;
use crate::values::{numbers, tensor_of};

/// A value as it lies in memory, for the time of a call.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
    pub(crate) channels_last: bool,
}

impl<'a> TensorView<'a> {
    /// The element type.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// The sizes as they lie in memory: those of an image are [N, H, W, C] where [`TensorView::channels_last`] says so.
    pub fn shape(self) -> &'a [usize] {
        self.shape
    }

    /// Whether images lie channels-last in memory although the model says channels-first. An observer of all elements need not mind; one of
    /// channels finds them along the last axis.
    pub fn channels_last(self) -> bool {
        self.channels_last
    }

    /// The elements as bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The elements as floats, row-major; `None` when they are of another type.
    pub fn floats(self) -> Option<&'a [f32]> {
        if self.dtype == DType::F32 {
            numbers(self.bytes).ok()
        } else {
            None
        }
    }

    /// A tensor with a copy of the elements, in the shape that they have in memory.
    ///
    /// # Errors
    /// For strings, which taps do not show.
    pub fn to_tensor(self) -> Result<Tensor, StepError> {
        tensor_of(self.dtype, self.shape, self.bytes)
    }
}
