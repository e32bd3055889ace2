//! Files mapped into memory: the only unsafe code of this crate.
//!
//! The system loads the pages of a mapped file when they are first read, and shares them among processes. The file must not be changed while it is mapped:
//! [`MappedFile::is_unchanged`] notices another length or time, but a file that is cut while its bytes are read ends the process with a bus error.

use std::fs::File;
use std::io;
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

/// A file whose bytes are mapped into memory, for reading.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    file: File,
    state: FileState,
}

/// The signs by which a changed file is recognized.
#[derive(Debug, PartialEq)]
struct FileState {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            bytes: found.len(),
            modified: found.modified().ok(),
        })
    }
}

impl MappedFile {
    /// Maps a file, as long as it is now.
    ///
    /// # Errors
    /// When the system cannot map it.
    #[allow(unsafe_code, reason = "mapping a file")]
    pub fn new(file: File) -> io::Result<Self> {
        let state = FileState::of(&file)?;
        // SAFETY: the bytes are read as plain numbers, and nothing that is read from them afterwards decides about memory. A file that is
        // truncated while it is mapped ends the process with a bus error; the documentation of this module forbids that.
        let map = unsafe { MmapOptions::new().map(&file) }?;
        Ok(Self { map, file, state })
    }

    /// Whether the file has the length and the time of change that it had when it was mapped.
    pub fn is_unchanged(&self) -> bool {
        FileState::of(&self.file).is_ok_and(|found| found == self.state)
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
