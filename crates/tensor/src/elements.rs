//! The elements of a tensor: in memory of their own, or in bytes that belong to something else, such as a mapped file.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::Pod;
use bytes::Bytes;

/// Elements in row-major order. Cloning shares them; changing them copies what is shared or in foreign bytes.
#[derive(Clone)]
pub struct Elements<T>(Store<T>);

#[derive(Clone)]
enum Store<T> {
    Owned(Arc<Vec<T>>),
    Foreign {
        bytes: Bytes,
        /// Reads the bytes as elements; their alignment and length suit it.
        cast: fn(&[u8]) -> &[T],
    },
}

impl<T> Elements<T> {
    /// Elements in memory of their own.
    pub fn new(values: Vec<T>) -> Self {
        Self(Store::Owned(Arc::new(values)))
    }

    /// Whether changing the elements would copy them.
    pub fn is_shared(&self) -> bool {
        match &self.0 {
            Store::Owned(values) => Arc::strong_count(values) > 1,
            Store::Foreign { .. } => true,
        }
    }

    /// The bytes that the elements are in, if they are not in memory of their own.
    pub fn foreign_bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Store::Owned(_) => None,
            Store::Foreign { bytes, .. } => Some(bytes),
        }
    }
}

impl<T: Pod> Elements<T> {
    /// Elements in bytes of the memory order of this machine, which are not copied. `None` where their address or length does not suit the element type.
    pub fn of_bytes(bytes: Bytes) -> Option<Self> {
        bytemuck::try_cast_slice::<u8, T>(&bytes).ok()?;
        Some(Self(Store::Foreign {
            bytes,
            cast: bytemuck::cast_slice,
        }))
    }
}

impl<T: Clone> Elements<T> {
    /// The elements for changing; they are copied first when they are shared or in foreign bytes.
    pub fn make_mut(&mut self) -> &mut [T] {
        if let Store::Foreign { .. } = &self.0 {
            *self = Self::new(self.to_vec());
        }
        match &mut self.0 {
            Store::Owned(values) => Arc::make_mut(values).as_mut_slice(),
            Store::Foreign { .. } => &mut [],
        }
    }
}

impl<T> From<Arc<Vec<T>>> for Elements<T> {
    fn from(values: Arc<Vec<T>>) -> Self {
        Self(Store::Owned(values))
    }
}

impl<T> From<Vec<T>> for Elements<T> {
    fn from(values: Vec<T>) -> Self {
        Self::new(values)
    }
}

impl<T> Deref for Elements<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Store::Owned(values) => values,
            Store::Foreign { bytes, cast } => cast(bytes),
        }
    }
}

impl<T: PartialEq> PartialEq for Elements<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for Elements<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_in_foreign_bytes_are_read_in_place_and_copied_to_be_changed() {
        let numbers: Vec<f32> = vec![1.0, -2.5, 3.0];
        let bytes = Bytes::from_owner(Floats(numbers.clone()));
        let mut elements = Elements::<f32>::of_bytes(bytes.clone()).unwrap();
        assert_eq!(*elements, *numbers);
        assert_eq!(elements.as_ptr().addr(), bytes.as_ptr().addr());
        assert!(elements.is_shared());
        elements.make_mut()[0] = 7.0;
        assert_eq!(*elements, [7.0, -2.5, 3.0]);
        assert!(!elements.is_shared() && elements.foreign_bytes().is_none());
        assert_eq!(Elements::<f32>::of_bytes(bytes.clone()).unwrap()[0], 1.0);
        // Neither at an odd address nor with a part of an element.
        assert!(Elements::<f32>::of_bytes(bytes.slice(1..5)).is_none());
        assert!(Elements::<f32>::of_bytes(bytes.slice(0..6)).is_none());
    }

    struct Floats(Vec<f32>);

    impl AsRef<[u8]> for Floats {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
}
