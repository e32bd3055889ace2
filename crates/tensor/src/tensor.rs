//! Dense, row-major, reference-counted arrays.

use std::fmt;

use bytes::Bytes;
use half::{bf16, f16};
use smallvec::SmallVec;

use crate::{DType, Elements};

/// The sizes of a tensor, outermost first.
pub type Shape = SmallVec<[usize; 6]>;

/// A dense row-major tensor. Cloning shares the elements; changing them copies when they are shared.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: TensorData,
}

/// The elements of a tensor, by type.
///
/// `I4` and `U4` hold one element a byte, within the range of the type.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "each variant is named after the element type that it holds"
)]
pub enum TensorData {
    F32(Elements<f32>),
    F64(Elements<f64>),
    F16(Elements<f16>),
    BF16(Elements<bf16>),
    I8(Elements<i8>),
    I16(Elements<i16>),
    I32(Elements<i32>),
    I64(Elements<i64>),
    U8(Elements<u8>),
    U16(Elements<u16>),
    U32(Elements<u32>),
    U64(Elements<u64>),
    Bool(Elements<bool>),
    String(Elements<String>),
    I4(Elements<i8>),
    U4(Elements<u8>),
}

/// Why a tensor could not be made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The number of elements is not the product of the sizes.
    #[error("{elements} elements do not fill the shape {shape:?}")]
    Length {
        /// The sizes asked for.
        shape: Shape,
        /// The number of elements given.
        elements: usize,
    },
    /// The product of the sizes overflows.
    #[error("the shape {0:?} has too many elements")]
    TooLarge(Shape),
    /// Elements that a tensor does not have.
    #[error("the elements {0:?} are not there, or there is no place for them")]
    Range(std::ops::Range<usize>),
    /// Another element type was expected.
    #[error("expected elements of type {expected}, found {found}")]
    Type {
        /// The type asked for.
        expected: DType,
        /// The type that the tensor has.
        found: DType,
    },
}

/// A Rust type that a tensor may hold.
pub trait Element: Clone + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The element type.
    const DTYPE: DType;
    /// Wraps elements.
    fn wrap(values: Elements<Self>) -> TensorData;
    /// The elements, when they are of this type.
    fn unwrap(data: &TensorData) -> Option<&Elements<Self>>;
    /// The elements for changing, when they are of this type.
    fn unwrap_mut(data: &mut TensorData) -> Option<&mut Elements<Self>>;
}

macro_rules! element {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl Element for $type {
            const DTYPE: DType = DType::$variant;
            fn wrap(values: Elements<Self>) -> TensorData {
                TensorData::$variant(values)
            }
            fn unwrap(data: &TensorData) -> Option<&Elements<Self>> {
                match data {
                    TensorData::$variant(values) => Some(values),
                    _ => None,
                }
            }
            fn unwrap_mut(data: &mut TensorData) -> Option<&mut Elements<Self>> {
                match data {
                    TensorData::$variant(values) => Some(values),
                    _ => None,
                }
            }
        }
    )*};
}

element! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => BF16,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    bool => Bool, String => String,
}

/// Runs `$body` with `$values` bound to the elements (`&Elements<_>`) of a [`TensorData`], whatever their type.
#[macro_export]
macro_rules! for_each_data {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            $crate::TensorData::F32($values) => $body,
            $crate::TensorData::F64($values) => $body,
            $crate::TensorData::F16($values) => $body,
            $crate::TensorData::BF16($values) => $body,
            $crate::TensorData::I8($values) => $body,
            $crate::TensorData::I16($values) => $body,
            $crate::TensorData::I32($values) => $body,
            $crate::TensorData::I64($values) => $body,
            $crate::TensorData::U8($values) => $body,
            $crate::TensorData::U16($values) => $body,
            $crate::TensorData::U32($values) => $body,
            $crate::TensorData::U64($values) => $body,
            $crate::TensorData::Bool($values) => $body,
            $crate::TensorData::String($values) => $body,
            $crate::TensorData::I4($values) => $body,
            $crate::TensorData::U4($values) => $body,
        }
    };
}

/// The number of elements of a shape, when it does not overflow.
fn elements_of(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
}

impl TensorData {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::I8(_) => DType::I8,
            Self::I16(_) => DType::I16,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
            Self::U8(_) => DType::U8,
            Self::U16(_) => DType::U16,
            Self::U32(_) => DType::U32,
            Self::U64(_) => DType::U64,
            Self::Bool(_) => DType::Bool,
            Self::String(_) => DType::String,
            Self::I4(_) => DType::I4,
            Self::U4(_) => DType::U4,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        for_each_data!(self, values => values.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tensor {
    /// A tensor of the given sizes and elements.
    ///
    /// # Errors
    /// When the number of elements is not the product of the sizes.
    pub fn new<T: Element>(
        shape: impl IntoIterator<Item = usize>,
        values: Vec<T>,
    ) -> Result<Self, TensorError> {
        Self::from_data(shape, T::wrap(Elements::new(values)))
    }

    /// A tensor of the given sizes over elements of any type; the way to make 4-bit tensors.
    ///
    /// # Errors
    /// When the number of elements is not the product of the sizes.
    pub fn from_data(
        shape: impl IntoIterator<Item = usize>,
        data: TensorData,
    ) -> Result<Self, TensorError> {
        let shape: Shape = shape.into_iter().collect();
        match elements_of(&shape) {
            None => Err(TensorError::TooLarge(shape)),
            Some(count) if count != data.len() => Err(TensorError::Length {
                shape,
                elements: data.len(),
            }),
            Some(_) => Ok(Self { shape, data }),
        }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self {
            shape: Shape::new(),
            data: T::wrap(Elements::new(vec![value])),
        }
    }

    /// A tensor of rank 1.
    pub fn vector<T: Element>(values: Vec<T>) -> Self {
        Self {
            shape: Shape::from_slice(&[values.len()]),
            data: T::wrap(Elements::new(values)),
        }
    }

    /// A tensor of zeros, false or empty strings.
    ///
    /// # Errors
    /// When the product of the sizes overflows.
    pub fn zeros(
        dtype: DType,
        shape: impl IntoIterator<Item = usize>,
    ) -> Result<Self, TensorError> {
        let shape: Shape = shape.into_iter().collect();
        let Some(count) = elements_of(&shape) else {
            return Err(TensorError::TooLarge(shape));
        };
        macro_rules! zeros {
            ($($variant:ident),*) => {
                match dtype {
                    $(DType::$variant => TensorData::$variant(Elements::new(vec![Default::default(); count])),)*
                }
            };
        }
        let data = zeros!(
            F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool, String, I4, U4
        );
        Ok(Self { shape, data })
    }

    /// Whether another tensor shares the elements, so that changing them would copy.
    pub fn is_shared(&self) -> bool {
        for_each_data!(&self.data, values => values.is_shared())
    }

    /// The bytes that the elements are in, if they are not in memory of their own.
    pub fn foreign_bytes(&self) -> Option<&Bytes> {
        for_each_data!(&self.data, values => values.foreign_bytes())
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The elements, by type.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The elements as a slice of `T`, row-major.
    ///
    /// # Errors
    /// When the elements are of another type.
    pub fn values<T: Element>(&self) -> Result<&[T], TensorError> {
        let found = self.dtype();
        T::unwrap(&self.data)
            .map(|values| &**values)
            .ok_or(TensorError::Type {
                expected: T::DTYPE,
                found,
            })
    }

    /// The elements for changing; they are copied first when another tensor shares them.
    ///
    /// # Errors
    /// When the elements are of another type.
    pub fn values_mut<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        let found = self.dtype();
        T::unwrap_mut(&mut self.data)
            .map(Elements::make_mut)
            .ok_or(TensorError::Type {
                expected: T::DTYPE,
                found,
            })
    }

    /// Copies elements of another tensor of the same element type, those of `range`, to the place `at`. Elements that are shared are copied
    /// first.
    ///
    /// # Errors
    /// When the element types differ or a range does not exist.
    pub fn copy_elements(
        &mut self,
        at: usize,
        from: &Self,
        range: std::ops::Range<usize>,
    ) -> Result<(), TensorError> {
        macro_rules! copy {
            ($($variant:ident)*) => {
                match (&mut self.data, &from.data) {
                    $((TensorData::$variant(to), TensorData::$variant(from)) => {
                        let to = to.make_mut().get_mut(at..).unwrap_or(&mut []);
                        let source = from.get(range.clone());
                        match source.and_then(|source| Some((to.get_mut(..source.len())?, source))) {
                            Some((to, source)) => {
                                to.clone_from_slice(source);
                                Ok(())
                            }
                            None => Err(TensorError::Range(range)),
                        }
                    })*
                    (to, from) => Err(TensorError::Type {
                        found: from.dtype(),
                        expected: to.dtype(),
                    }),
                }
            };
        }
        copy!(F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 Bool String I4 U4)
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: impl IntoIterator<Item = usize>) -> Result<Self, TensorError> {
        Self::from_data(shape, self.data.clone())
    }

    /// The bytes that the elements take in memory; strings count their characters.
    pub fn byte_len(&self) -> usize {
        match (&self.data, self.dtype().size()) {
            (TensorData::String(values), _) => values.iter().map(String::len).sum(),
            (_, size) => self.len() * size.unwrap_or(0),
        }
    }
}

impl fmt::Debug for Tensor {
    /// The type, the shape and at most eight elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} ", self.dtype(), self.shape)?;
        let more = if self.len() > 8 { ", …" } else { "" };
        for_each_data!(&self.data, values => {
            f.write_str("{")?;
            for (i, value) in values.iter().take(8).enumerate() {
                write!(f, "{}{value:?}", if i == 0 { "" } else { ", " })?;
            }
            write!(f, "{more}}}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_hold_its_elements() {
        assert!(Tensor::new([2, 3], vec![0_f32; 6]).is_ok());
        assert!(matches!(
            Tensor::new([2, 3], vec![0_f32; 5]),
            Err(TensorError::Length { .. })
        ));
        assert!(matches!(
            Tensor::new([usize::MAX, 3], vec![0_u8; 5]),
            Err(TensorError::TooLarge(_))
        ));
        assert!(matches!(
            Tensor::zeros(DType::F32, [usize::MAX, 3]),
            Err(TensorError::TooLarge(_))
        ));
    }

    #[test]
    fn changing_a_shared_tensor_leaves_the_other_alone() {
        let a = Tensor::vector(vec![1_i64, 2]);
        let mut b = a.clone();
        b.values_mut::<i64>().unwrap()[0] = 7;
        assert_eq!(a.values::<i64>().unwrap(), [1, 2]);
        assert_eq!(b.values::<i64>().unwrap(), [7, 2]);
        assert!(a.values::<f32>().is_err());
    }
}
