//! The constants of a plan: one block of bytes that starts at a multiple of 64.
//!
//! The block is either owned memory or a part of a mapped file. The system loads the pages of a mapped file when they are first read, and shares
//! them among processes. Every constant starts at a multiple of [`ALIGN`] within the blob, so that its bytes can be
//! read as numbers of any element type.

use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut};

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
    },
    Mapped {
        map: Mmap,
        start: usize,
        len: usize,
        file: File,
        state: FileState,
    },
}

/// What tells whether a file was changed.
#[derive(PartialEq)]
struct FileState {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    fn of(file: &File) -> std::io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            bytes: found.len(),
            modified: found.modified().ok(),
        })
    }
}

impl Blob {
    /// Copies bytes into aligned memory; `None` when there is not enough memory.
    pub fn copy_of(bytes: &[u8]) -> Option<Self> {
        let mut memory = AlignedBytes::zeroed(bytes.len())?;
        memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Some(Self(Arc::new(Source::Owned {
            memory,
            len: bytes.len(),
        })))
    }

    /// A part of a mapped file; `None` when the part is not inside the file or not aligned.
    pub(crate) fn mapped(map: Mmap, file: File, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        let part = map.get(start..end)?;
        let state = FileState::of(&file).ok()?;
        if !part.is_empty() && !part.as_ptr().addr().is_multiple_of(ALIGN) {
            return None;
        }
        Some(Self(Arc::new(Source::Mapped {
            map,
            start,
            len,
            file,
            state,
        })))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &*self.0 {
            Source::Owned { memory, len } => &memory.bytes()[..*len],
            Source::Mapped {
                map, start, len, ..
            } => &map[*start..*start + *len],
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
            Source::Mapped { file, state, .. } => {
                FileState::of(file).is_ok_and(|found| found == *state)
            }
        }
    }

    /// Whether the bytes are part of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(&*self.0, Source::Mapped { .. })
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.bytes().len())
    }
}

/// Collects constants into a blob.
#[derive(Debug, Default)]
pub struct BlobBuilder(Vec<u8>);

impl BlobBuilder {
    /// Appends bytes at the next multiple of [`ALIGN`] and returns their offset.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let offset = self.0.len().next_multiple_of(ALIGN);
        self.0.resize(offset, 0);
        self.0.extend_from_slice(bytes);
        offset
    }

    /// The blob; `None` when there is not enough memory for its copy.
    pub fn finish(self) -> Option<Blob> {
        Blob::copy_of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_aligned_and_found_again() {
        let mut builder = BlobBuilder::default();
        assert_eq!(builder.push(&[1, 2, 3]), 0);
        assert_eq!(builder.push(&[4]), 64);
        let blob = builder.finish().unwrap();
        assert_eq!(blob.bytes().len(), 65);
        assert_eq!((blob.bytes()[2], blob.bytes()[64]), (3, 4));
        assert!(blob.bytes().as_ptr().addr().is_multiple_of(ALIGN));
        assert!(AlignedBytes::zeroed(usize::MAX).is_none());
    }
}
