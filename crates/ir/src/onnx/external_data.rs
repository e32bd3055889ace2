//! Data of tensors in files of the model's folder.
//!
//! A model may name only regular files below its own folder: no absolute path, no `..`, no links on the way, and no second
//! name of a file elsewhere. Otherwise opening a model would read any file of the machine into weights that leave it again. The caches of model hubs are
//! made of links; [`ImportOptions::allow_links`] follows them to regular files, for models that are trusted.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use octofold_tensor::map::MappedFile;
use sha1::{Digest, Sha1};

use super::budget::raise;
use super::import::ImportOptions;
use super::proto::StringStringEntryProto;
use crate::MappedWeights;

/// How often the bytes of a file may be read, so that many tensors over one region do not fill the memory.
const MAX_READS: u64 = 4;

/// The bytes of a file that a checksum reads at once.
const CHUNK: usize = 1 << 20;

/// Why the data of a tensor cannot be read from another file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalDataError {
    /// The model did not come from a file.
    #[error(
        "the model has no folder to read it from, so that nothing outside of the model can be opened"
    )]
    NoFolder,
    /// The entry `location` is missing or empty.
    #[error("the location is missing")]
    NoLocation,
    /// An entry that is given twice.
    #[error("the entry `{0}` is given twice")]
    Duplicate(String),
    /// A location outside of the model's folder.
    #[error("the location `{location}` leads outside of the model's folder: {reason}")]
    Outside {
        /// The location.
        location: String,
        /// Why.
        reason: &'static str,
    },
    /// A file that cannot be opened or read.
    #[error("cannot open `{location}`: {source}")]
    Io {
        /// The location.
        location: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// An offset or length that is no number.
    #[error("the {entry} `{text}` is an invalid number")]
    Number {
        /// `offset` or `length`.
        entry: &'static str,
        /// What the file says.
        text: String,
    },
    /// A length that is not that of the tensor.
    #[error("the length is {length} bytes, the tensor has a size of {expected} bytes")]
    Length {
        /// The length given.
        length: u64,
        /// The bytes of the tensor.
        expected: u64,
    },
    /// A region that is not within the file.
    #[error(
        "offset {offset} and length {length} are not within `{location}`, which has a size of {size} bytes"
    )]
    Region {
        /// The location.
        location: String,
        /// The first byte.
        offset: u64,
        /// The number of bytes.
        length: u64,
        /// The size of the file.
        size: u64,
    },
    /// A checksum that is not that of the bytes.
    #[error(
        "the bytes of `{location}` have the checksum {found}, expected {expected}: it is another file"
    )]
    Checksum {
        /// The location.
        location: String,
        /// The checksum given.
        expected: String,
        /// The checksum of the bytes.
        found: String,
    },
    /// A file that claims more bytes than it stores.
    #[error(
        "`{location}` is sparse: of its {size} bytes {stored} are stored; the limit of such holes is {limit} bytes ({})",
        raise("hole-bytes")
    )]
    Holes {
        /// The location.
        location: String,
        /// The size of the file.
        size: u64,
        /// The bytes that the file system stores of it.
        stored: u64,
        /// The limit.
        limit: u64,
    },
    /// Regions that overlap many times.
    #[error("too many tensors share bytes of `{0}`: more than the limit is read")]
    Overlap(String),
}

/// The files of a model's folder, opened once each.
#[derive(Debug, Default)]
pub(crate) struct ExternalData {
    folder: Option<PathBuf>,
    /// The bytes that stand for every file, when they are already in memory.
    memory: Option<Bytes>,
    files: HashMap<String, Opened>,
    /// The bytes that the holes of a file may have.
    holes: u64,
    /// Whether links are followed.
    links: bool,
    /// Whether files are mapped.
    map: bool,
}

#[derive(Debug)]
struct Opened {
    source: Source,
    size: u64,
    read: u64,
    /// The SHA-1 of the whole file, once a tensor has asked for it.
    sha1: Option<String>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Mapped(MappedWeights, Bytes),
    Memory(Bytes),
}

impl Source {
    fn mapped(location: &str, file: File) -> std::io::Result<Self> {
        let mapped = MappedWeights::new(location, MappedFile::new(file)?);
        let bytes = Bytes::from_owner(mapped.clone());
        Ok(Self::Mapped(mapped, bytes))
    }

    /// The bytes of a region, fewer where the file ends before.
    fn read(&mut self, offset: u64, length: u64) -> std::io::Result<Bytes> {
        match self {
            Self::File(file) => {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(offset))?;
                file.take(length).read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
            Self::Mapped(_, bytes) | Self::Memory(bytes) => {
                let position = |x: u64| usize::try_from(x).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(position(offset)..position(offset.saturating_add(length))))
            }
        }
    }
}

impl Opened {
    /// The SHA-1 of the whole file, in hexadecimal digits.
    fn sha1(&mut self) -> std::io::Result<&str> {
        let found = match self.sha1.take() {
            Some(known) => known,
            None => {
                let mut hasher = Sha1::new();
                for offset in (0..self.size).step_by(CHUNK) {
                    hasher.update(&self.source.read(offset, CHUNK as u64)?);
                }
                let digest = hasher.finalize();
                digest.iter().map(|byte| format!("{byte:02x}")).collect()
            }
        };
        Ok(self.sha1.insert(found))
    }
}

/// The FNV-1a hash of 64 bits, the checksum in our own text form. It finds a mixed-up file, not a forger.
pub(crate) fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl ExternalData {
    /// Refuses files with larger holes than the options allow, and links unless they allow them; maps files unless they ask for copies.
    pub(crate) fn follow(&mut self, options: &ImportOptions) {
        self.holes = options.budget.hole_bytes;
        self.links = options.allow_links;
        self.map = !options.copy_weights;
    }

    /// The files that are mapped, by their locations.
    pub(super) fn mapped(&self) -> Vec<MappedWeights> {
        let mapped = self
            .files
            .values()
            .filter_map(|opened| match &opened.source {
                Source::Mapped(file, _) => Some(file.clone()),
                Source::File(_) | Source::Memory(_) => None,
            });
        let mut mapped: Vec<_> = mapped.collect();
        mapped.sort_by(|a, b| a.location().cmp(b.location()));
        mapped
    }

    /// Files below a folder, when there is one.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_path_buf),
            ..Self::default()
        }
    }

    /// Bytes in memory in the place of any file.
    pub(crate) fn in_memory(bytes: Bytes) -> Self {
        Self {
            memory: Some(bytes),
            ..Self::default()
        }
    }

    /// No files.
    pub(crate) fn nowhere() -> Self {
        Self::default()
    }

    /// Reads the `expected` bytes of a tensor.
    pub(super) fn read(
        &mut self,
        entries: &[StringStringEntryProto],
        expected: u64,
    ) -> Result<Bytes, ExternalDataError> {
        let entry = |key: &'static str| -> Result<Option<&str>, ExternalDataError> {
            let mut found = entries.iter().filter(|entry| entry.key() == key);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(ExternalDataError::Duplicate(key.to_owned())),
                (first, None) => Ok(first.map(|entry| entry.value())),
            }
        };
        let number = |key: &'static str| -> Result<Option<u64>, ExternalDataError> {
            let Some(text) = entry(key)? else {
                return Ok(None);
            };
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            number.map(Some).ok_or_else(|| ExternalDataError::Number {
                entry: key,
                text: text.to_owned(),
            })
        };
        let location = entry("location")?
            .filter(|text| !text.is_empty())
            .ok_or(ExternalDataError::NoLocation)?;
        let offset = number("offset")?.unwrap_or(0);
        let given = number("length")?;
        let io = |source| ExternalDataError::Io {
            location: location.to_owned(),
            source,
        };
        let opened = match self.files.get_mut(location) {
            Some(opened) => opened,
            None => {
                let (source, size) = match &self.memory {
                    Some(bytes) => (Source::Memory(bytes.clone()), bytes.len() as u64),
                    None => {
                        let folder = self.folder.as_deref().ok_or(ExternalDataError::NoFolder)?;
                        let (file, size, stored) = open_below(folder, location, self.links)?;
                        if size.saturating_sub(stored) > self.holes {
                            return Err(ExternalDataError::Holes {
                                location: location.to_owned(),
                                size,
                                stored,
                                limit: self.holes,
                            });
                        }
                        let source = match self.map {
                            true => Source::mapped(location, file).map_err(io)?,
                            false => Source::File(file),
                        };
                        (source, size)
                    }
                };
                self.files.entry(location.to_owned()).or_insert(Opened {
                    source,
                    size,
                    read: 0,
                    sha1: None,
                })
            }
        };
        // Without a length, the data reach to the end of the file.
        let length = given.unwrap_or(opened.size.saturating_sub(offset));
        if length != expected {
            return Err(ExternalDataError::Length { length, expected });
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > opened.size)
        {
            return Err(ExternalDataError::Region {
                location: location.to_owned(),
                offset,
                length,
                size: opened.size,
            });
        }
        opened.read = opened.read.saturating_add(length);
        if opened.read > opened.size.saturating_mul(MAX_READS) {
            return Err(ExternalDataError::Overlap(location.to_owned()));
        }
        let bytes = opened.source.read(offset, length).map_err(io)?;
        if bytes.len() as u64 != length {
            return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        // 16 digits are our own checksum, of the region; that of ONNX, the SHA-1 of the file, has 40.
        let Some(expected) = entry("checksum")? else {
            return Ok(bytes);
        };
        let found = match expected.len() {
            16 => format!("{:016x}", fnv1a64(&bytes)),
            40 => opened.sha1().map_err(io)?.to_owned(),
            _ => return Ok(bytes),
        };
        if !found.eq_ignore_ascii_case(expected) {
            return Err(ExternalDataError::Checksum {
                location: location.to_owned(),
                expected: expected.to_owned(),
                found,
            });
        }
        Ok(bytes)
    }
}

/// Opens a regular file below a folder, through no links unless they are allowed; gives its size and how much of that is stored.
fn open_below(
    folder: &Path,
    location: &str,
    links: bool,
) -> Result<(File, u64, u64), ExternalDataError> {
    let outside = |reason| ExternalDataError::Outside {
        location: location.to_owned(),
        reason,
    };
    let io = |source| ExternalDataError::Io {
        location: location.to_owned(),
        source,
    };
    // A backslash separates folders on some systems and is refused on all, so that a model means the same everywhere.
    if location.contains('\\') {
        return Err(outside("it holds a backslash"));
    }
    let mut path = folder.to_path_buf();
    let mut found: Option<Metadata> = None;
    for component in Path::new(location).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            Component::ParentDir => {
                return Err(outside(
                    "it holds `..`; it must be relative and stay inside",
                ));
            }
            Component::RootDir | Component::Prefix(_) => {
                return Err(outside("it is absolute, not relative"));
            }
        }
        let metadata = match links {
            true => path.metadata(),
            false => path.symlink_metadata(),
        };
        let metadata = metadata.map_err(io)?;
        if metadata.is_symlink() {
            return Err(outside(
                "it passes through a symbolic link (symlink), which --allow-links follows",
            ));
        }
        found = Some(metadata);
    }
    let metadata = found
        .filter(Metadata::is_file)
        .ok_or_else(|| outside("it is no regular file"))?;
    let file = File::open(&path).map_err(io)?;
    let opened = file.metadata().map_err(io)?;
    if !same_file(&metadata, &opened) {
        return Err(outside("the file was exchanged while it was opened"));
    }
    if !links && has_other_names(&opened) {
        return Err(outside(
            "the file has a second name (hard link), which --allow-links allows",
        ));
    }
    Ok((file, opened.len(), stored_bytes(&opened)))
}

/// The bytes that the file system stores of a file; where it does not tell, or compresses, at least a part of the size.
#[cfg(unix)]
fn stored_bytes(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // File systems that compress store weights in less than their size, but not in a sixteenth of it.
    metadata.blocks().saturating_mul(512).saturating_mul(16)
}

#[cfg(not(unix))]
fn stored_bytes(metadata: &Metadata) -> u64 {
    metadata.len()
}

#[cfg(unix)]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(unix)]
fn has_other_names(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.nlink() > 1
}

/// Where files have no number, their size has to do.
#[cfg(not(unix))]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    b.is_file() && a.len() == b.len()
}

#[cfg(not(unix))]
fn has_other_names(_metadata: &Metadata) -> bool {
    false
}
