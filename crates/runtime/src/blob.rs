//! The constants of a plan: one block of bytes that starts at a multiple of 64.
//!
//! The block is either owned memory or a part of a mapped file. The system loads the pages of a mapped file when they are first read, and shares
//! them among processes. Every constant starts at a multiple of [`ALIGN`] within the blob, so that its bytes can be
//! read as numbers of any element type.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::MmapMut;
use octofold_tensor::map::MappedFile;

/// The alignment of the blob, of constants within it, and of every value in the arena.
pub const ALIGN: usize = 64;

/// Zeroed memory that starts at the beginning of a page, which is a multiple of [`ALIGN`].
#[derive(Default)]
pub(crate) struct AlignedBytes(Option<MmapMut>);

impl AlignedBytes {
    /// `len` zero bytes; `None` when there is not enough memory.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self(None));
        }
        // The system provides zeroed pages when they are first touched, so a large arena takes only the memory that is used. An aligning allocator would
        // write the zeros.
        MmapMut::map_anon(len).ok().map(|memory| Self(Some(memory)))
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// The bytes for changing.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or(&mut [])
    }
}

/// The constants of a plan. Cloning shares them.
#[derive(Clone)]
pub struct Blob(Arc<Source>);

enum Source {
    Owned {
        memory: AlignedBytes,
        len: usize,
        /// The constants that stay where they were made or where the model has them, by their offset. Nothing reads the memory of the blob there, so it takes no pages.
        foreign: BTreeMap<usize, Bytes>,
    },
    Mapped {
        file: MappedFile,
        part: Range<usize>,
    },
}

impl Blob {
    /// Copies bytes into aligned memory; `None` when there is not enough memory.
    pub fn copy_of(bytes: &[u8]) -> Option<Self> {
        let mut memory = AlignedBytes::zeroed(bytes.len())?;
        memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Some(Self(Arc::new(Source::Owned {
            memory,
            len: bytes.len(),
            foreign: BTreeMap::new(),
        })))
    }

    /// A part of a mapped file; `None` when the part is not inside the file or not aligned.
    pub(crate) fn mapped(file: MappedFile, part: Range<usize>) -> Option<Self> {
        let bytes = file.as_ref().get(part.clone())?;
        if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            return None;
        }
        Some(Self(Arc::new(Source::Mapped { file, part })))
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        match &*self.0 {
            Source::Owned { len, .. } => *len,
            Source::Mapped { part, .. } => part.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a constant, which are inside.
    pub(crate) fn constant(&self, part: Range<usize>) -> &[u8] {
        match &*self.0 {
            Source::Owned {
                memory, foreign, ..
            } => match foreign.range(..=part.start).next_back() {
                // A constant of a body is a part of what its plan had.
                Some((&offset, bytes)) if part.end <= offset + bytes.len() => {
                    &bytes[part.start - offset..part.end - offset]
                }
                _ => &memory.bytes()[part],
            },
            Source::Mapped { file, part: whole } => &file.as_ref()[whole.clone()][part],
        }
    }

    /// All bytes, in pieces.
    pub fn pieces(&self) -> Vec<&[u8]> {
        match &*self.0 {
            Source::Owned {
                memory,
                len,
                foreign,
            } => {
                let (mut pieces, mut at) = (Vec::new(), 0);
                for (&offset, bytes) in foreign {
                    pieces.extend([&memory.bytes()[at..offset], &bytes[..]]);
                    at = offset + bytes.len();
                }
                pieces.push(&memory.bytes()[at..*len]);
                pieces
            }
            Source::Mapped { file, part } => vec![&file.as_ref()[part.clone()]],
        }
    }

    /// Whether both are the same memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the bytes are what they were: a mapped file must have its length and its time of change.
    pub(crate) fn is_unchanged(&self) -> bool {
        match &*self.0 {
            Source::Owned { .. } => true,
            Source::Mapped { file, .. } => file.is_unchanged(),
        }
    }

    /// Whether the bytes are part of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(&*self.0, Source::Mapped { .. })
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.pieces().concat() == other.pieces().concat()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// From this length on, a constant that is aligned stays where it is: copying many small ones saves pages.
const LARGE: usize = 1 << 16;

/// A copy at a multiple of [`ALIGN`], which [`BlobBuilder::push`] does not copy again if it is large. `None` when there is not enough memory.
pub fn aligned_copy(bytes: &[u8]) -> Option<Bytes> {
    let mut memory = AlignedBytes::zeroed(bytes.len())?;
    memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    Some(Bytes::from_owner(memory).slice(..bytes.len()))
}

/// Collects constants into a blob.
#[derive(Debug, Default)]
pub struct BlobBuilder {
    small: Vec<(usize, Bytes)>,
    foreign: BTreeMap<usize, Bytes>,
    len: usize,
}

impl BlobBuilder {
    /// Adds bytes at the next multiple of [`ALIGN`] and returns their offset.
    pub fn push(&mut self, bytes: Bytes) -> usize {
        if bytes.len() >= LARGE && bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            return self.push_foreign(bytes);
        }
        let offset = self.place(bytes.len());
        self.small.push((offset, bytes));
        offset
    }

    /// Adds a constant that stays where it is, and returns its offset. Its address suits its element type.
    pub fn push_foreign(&mut self, bytes: Bytes) -> usize {
        let offset = self.place(bytes.len());
        self.foreign.insert(offset, bytes);
        offset
    }

    /// The offset of the next constant.
    fn place(&mut self, len: usize) -> usize {
        let offset = self.len.next_multiple_of(ALIGN);
        self.len = offset + len;
        offset
    }

    /// The blob; `None` when there is not enough memory.
    pub fn finish(self) -> Option<Blob> {
        let Self {
            small,
            foreign,
            len,
        } = self;
        let mut memory = AlignedBytes::zeroed(len)?;
        for (offset, bytes) in small {
            memory.bytes_mut()[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Some(Blob(Arc::new(Source::Owned {
            memory,
            len,
            foreign,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_aligned_and_found_again() {
        let mut builder = BlobBuilder::default();
        assert_eq!(builder.push(Bytes::from_static(&[1, 2, 3])), 0);
        assert_eq!(builder.push_foreign(Bytes::from_static(&[5, 6])), 64);
        assert_eq!(builder.push(Bytes::from_static(&[4])), 128);
        let blob = builder.finish().unwrap();
        assert_eq!(blob.len(), 129);
        let constants = [0..3, 64..66, 128..129].map(|part| blob.constant(part).to_vec());
        assert_eq!(constants, [vec![1, 2, 3], vec![5, 6], vec![4]]);
        let bytes = blob.pieces().concat();
        assert_eq!((bytes.len(), &bytes[63..67]), (129, &[0, 5, 6, 0][..]));
        assert!(Blob::copy_of(&bytes).unwrap() == blob);
        assert!(blob.constant(0..3).as_ptr().addr().is_multiple_of(ALIGN));
        assert!(AlignedBytes::zeroed(usize::MAX).is_none());
    }

    #[test]
    fn parts_of_what_stays_in_place_are_found() {
        let large: Vec<u8> = (0..LARGE + 70).map(|i| (i % 251) as u8).collect();
        let mut builder = BlobBuilder::default();
        // An empty constant takes no room, so the next one has its offset.
        assert_eq!(builder.push_foreign(Bytes::new()), 0);
        assert_eq!(builder.push(Bytes::from_static(&[9; 10])), 0);
        let start = builder.push(aligned_copy(&large).unwrap());
        let behind = builder.push(Bytes::from_static(&[8; 10]));
        let blob = builder.finish().unwrap();
        assert_eq!(blob.constant(0..0), []);
        assert_eq!(blob.constant(0..10), [9; 10]);
        for part in [0..large.len(), 64..70, LARGE..LARGE + 70] {
            let inside = start + part.start..start + part.end;
            assert_eq!(blob.constant(inside), &large[part]);
        }
        assert_eq!(blob.constant(behind..behind + 10), [8; 10]);
        assert_eq!(blob.pieces().concat().len(), blob.len());
    }
}
