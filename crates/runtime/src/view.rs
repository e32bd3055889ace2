//! Borrowed tensors: the views that a program passes to a run, and that observers see.

use bytemuck::Pod;
use octofold_tensor::{DType, Element, Tensor};

use crate::RunError;
use crate::StepError;
use crate::values::{numbers, tensor_of};

/// A view of a value in memory, for the time of a call.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
    pub(crate) channels_last: bool,
}

/// A place for a tensor that a run computes.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a mut [u8],
}

/// Checks that elements of a type and a shape take a number of bytes.
fn check_bytes(dtype: DType, shape: &[usize], bytes: usize) -> Result<(), RunError> {
    let elements = shape
        .iter()
        .try_fold(1_usize, |n, &size| n.checked_mul(size));
    let needed = elements.and_then(|elements| elements.checked_mul(dtype.size()?));
    if needed == Some(bytes) {
        return Ok(());
    }
    Err(RunError::View {
        dtype,
        shape: shape.to_vec(),
        bytes,
    })
}

impl<'a> TensorViewMut<'a> {
    /// A place for elements of a type, row-major in native byte order.
    ///
    /// # Errors
    /// When the bytes are not those of the shape, or the type is strings.
    pub fn new(dtype: DType, shape: &'a [usize], bytes: &'a mut [u8]) -> Result<Self, RunError> {
        check_bytes(dtype, shape, bytes.len())?;
        Ok(Self {
            dtype,
            shape,
            bytes,
        })
    }

    /// A place in a slice.
    ///
    /// # Errors
    /// When the slice has another length than the shape.
    pub fn of<T: Element + Pod>(shape: &'a [usize], values: &'a mut [T]) -> Result<Self, RunError> {
        Self::new(T::DTYPE, shape, bytemuck::cast_slice_mut(values))
    }
}

impl<'a> TensorView<'a> {
    /// Elements of a type, row-major in native byte order.
    ///
    /// # Errors
    /// When the bytes are not those of the shape, or the type is strings.
    pub fn new(dtype: DType, shape: &'a [usize], bytes: &'a [u8]) -> Result<Self, RunError> {
        check_bytes(dtype, shape, bytes.len())?;
        Ok(Self {
            dtype,
            shape,
            bytes,
            channels_last: false,
        })
    }

    /// The elements of a slice.
    ///
    /// # Errors
    /// When the slice has another length than the shape.
    pub fn of<T: Element + Pod>(shape: &'a [usize], values: &'a [T]) -> Result<Self, RunError> {
        Self::new(T::DTYPE, shape, bytemuck::cast_slice(values))
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// The sizes in memory order: [N, H, W, C] for an image when [`TensorView::channels_last`] is true.
    pub fn shape(self) -> &'a [usize] {
        self.shape
    }

    /// Whether images are channels-last in memory although the model says channels-first. This does not matter to an observer of all elements; an observer of
    /// channels finds them on the last axis.
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
    /// For strings, which cannot be observed.
    pub fn to_tensor(self) -> Result<Tensor, StepError> {
        tensor_of(self.dtype, self.shape, self.bytes)
    }
}
