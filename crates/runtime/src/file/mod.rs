//! The plan file (`.oct`): header, metadata, and the constants where they can be mapped.
//!
//! ```text
//!  0  "OCTOPLAN"
//!  8  version of the format, u32
//! 12  0, u32
//! 16  length of the metadata, u64
//! 24  offset of the blob, u64: the end of the metadata, rounded up to 4096
//! 32  length of the blob, u64
//! 40  CRC-32 of the metadata, u32
//! 44  CRC-32 of the blob, u32
//! 48  CRC-32 of the bytes before, u32
//! 52  zeros
//! 64  metadata: the protobuf message `Plan` of proto/plan.proto
//!     zeros, then the blob, which ends the file
//! ```
//!
//! All numbers are little-endian, and the same plan gives the same bytes. Reading checks every byte: a checksum or a length detects a flipped, cut or
//! lengthened file. Then the plan is checked like any other plan, so that
//! a file made by hand cannot do harm either. The metadata is copied; only the constants stay mapped.

mod checksum;
mod decode;
mod encode;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated from proto/plan.proto by tests/generated.rs"
)]
#[rustfmt::skip]
mod generated;
mod scan;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use octofold_tensor::file::{open_regular, read_limited, write_whole};
use octofold_tensor::map::MappedFile;
use prost::Message;

use self::checksum::crc_meanwhile;
use crate::{Blob, Plan, PlanError};

/// The version of the format that this program writes and reads.
pub const FORMAT: u32 = 4;

const MAGIC: &[u8; 8] = b"OCTOPLAN";
const HEADER: usize = 64;
/// The offset of the header's own checksum.
const HEADER_CHECKED: usize = 48;
/// The blob starts at a multiple of this, a page of memory.
const PAGE: usize = 4096;

/// The content of the header.
struct Header {
    metadata: std::ops::Range<usize>,
    blob: std::ops::Range<usize>,
    /// The checksum of the blob.
    blob_crc: u32,
}

impl Plan {
    /// The largest file that [`Plan::read`] copies into memory: 4 GiB.
    pub const MAX_BYTES: u64 = 1 << 32;

    /// The bytes of a plan file. The same plan gives the same bytes.
    ///
    /// # Errors
    /// When a dimension is nested so deep that it could not be read back.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanError> {
        Ok([&self.head()?[..], &self.parts().blob.pieces().concat()].concat())
    }

    /// Writes the plan to a file, whole or not at all: see [`write_whole`].
    ///
    /// # Errors
    /// As [`Plan::to_bytes`], and when the path is that of a device, FIFO, socket or folder, or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlanError> {
        let path = path.as_ref();
        let head = self.head()?;
        let write = |file: &mut File| -> io::Result<()> {
            file.write_all(&head)?;
            let mut pieces = self.parts().blob.pieces().into_iter();
            pieces.try_for_each(|piece| file.write_all(piece))
        };
        write_whole(path, write).map_err(|source| PlanError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// The bytes of a plan file before the blob.
    fn head(&self) -> Result<Vec<u8>, PlanError> {
        let metadata = encode::plan(self.parts())?.encode_to_vec();
        let blob = &self.parts().blob;
        let mut crc = crc32fast::Hasher::new();
        blob.pieces().iter().for_each(|piece| crc.update(piece));
        let blob_offset = (HEADER + metadata.len()).next_multiple_of(PAGE);
        let mut bytes = Vec::with_capacity(blob_offset);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for number in [metadata.len(), blob_offset, blob.len()] {
            bytes.extend_from_slice(&(number as u64).to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&metadata).to_le_bytes());
        bytes.extend_from_slice(&crc.finalize().to_le_bytes());
        let own = crc32fast::hash(&bytes[..HEADER_CHECKED]);
        bytes.extend_from_slice(&own.to_le_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(&metadata);
        bytes.resize(blob_offset, 0);
        Ok(bytes)
    }

    /// Reads a plan from bytes, which are copied.
    ///
    /// # Errors
    /// When the bytes are not a complete, undamaged plan of this version of the format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanError> {
        let header = check(bytes)?;
        let blob = &bytes[header.blob];
        let blob = Blob::copy_of(blob).ok_or(PlanError::Memory(blob.len()))?;
        read(&bytes[header.metadata], blob, header.blob_crc)
    }

    /// Reads a plan from a file into memory of its own. What becomes of the file afterwards does not matter. [`Plan::load`] is faster, and
    /// processes share its memory.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than [`Plan::MAX_BYTES`], or is refused as by [`Plan::from_bytes`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        Self::read_within(path, Self::MAX_BYTES)
    }

    /// As [`Plan::read`], of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub fn read_within(path: impl AsRef<Path>, limit: u64) -> Result<Self, PlanError> {
        let path = path.as_ref();
        let bytes = read_limited(path, ("plan-bytes", limit)).map_err(|source| PlanError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes).map_err(|source| PlanError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Reads a plan from a file. The constants are mapped and used in place, so the file must not be changed while the plan exists: replace it by renaming
    /// another file, as [`Plan::save`] does. A session checks the length and the time of the file before each run and reports a change as
    /// [`PlanError::Changed`]. A file that is cut during a run ends the process with a bus error; where others may write to the file, use [`Plan::read`].
    ///
    /// # Errors
    /// When the file cannot be read, or is refused as by [`Plan::from_bytes`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        let path = path.as_ref();
        let io = |source| PlanError::Io {
            path: path.to_owned(),
            source,
        };
        let file = open_regular(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() < HEADER as u64 {
            let source = Box::new(PlanError::Format(
                "it is shorter than the header".to_owned(),
            ));
            return Err(PlanError::File {
                path: path.to_owned(),
                source,
            });
        }
        let file = MappedFile::new(file).map_err(io)?;
        let plan = check(file.as_ref()).and_then(|header| {
            // The metadata is copied before it is decoded: decoding reads some of it twice.
            let metadata = file.as_ref()[header.metadata].to_vec();
            let outside =
                || PlanError::Format("the constants are not where they can be mapped".to_owned());
            let blob = Blob::mapped(file, header.blob).ok_or_else(outside)?;
            read(&metadata, blob, header.blob_crc)
        });
        plan.map_err(|source| PlanError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

/// Decodes and checks the metadata, which does not need the bytes of the blob, and compares the checksum of the blob.
fn read(metadata: &[u8], blob: Blob, blob_crc: u32) -> Result<Plan, PlanError> {
    let decode = || {
        if !scan::fits(metadata) {
            let reason = "its metadata take more memory than those of any plan of their length";
            return Err(PlanError::Format(reason.to_owned()));
        }
        let message = generated::Plan::decode(metadata)
            .map_err(|error| PlanError::Format(error.to_string()))?;
        Plan::new(decode::plan(message, blob.clone())?)
    };
    let (found, plan) = crc_meanwhile(blob.constant(0..blob.len()), decode);
    checksum("constants", blob_crc, found)?;
    plan
}

/// Checks header, lengths, padding, and all checksums except for that of the blob.
fn check(bytes: &[u8]) -> Result<Header, PlanError> {
    let format = |reason: &str| PlanError::Format(reason.to_owned());
    let header: &[u8; HEADER] = bytes
        .first_chunk()
        .ok_or_else(|| format("it is shorter than the header"))?;
    if header[..8] != *MAGIC {
        return Err(format("it does not begin with OCTOPLAN"));
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let long = |at: usize| {
        usize::try_from(u64::from(word(at)) | u64::from(word(at + 4)) << 32).unwrap_or(usize::MAX)
    };
    if word(8) != FORMAT {
        return Err(PlanError::Version {
            found: word(8),
            expected: FORMAT,
        });
    }
    let found = crc32fast::hash(&header[..HEADER_CHECKED]);
    checksum("header", word(HEADER_CHECKED), found)?;
    if word(12) != 0 || header[HEADER_CHECKED + 4..].iter().any(|&byte| byte != 0) {
        return Err(format("reserved bytes of the header are not zero"));
    }
    let (metadata_len, blob_offset, blob_len) = (long(16), long(24), long(32));
    let metadata_end = HEADER
        .checked_add(metadata_len)
        .ok_or_else(|| format("the metadata is too long"))?;
    if metadata_end.checked_next_multiple_of(PAGE) != Some(blob_offset)
        || blob_offset.checked_add(blob_len) != Some(bytes.len())
    {
        return Err(PlanError::Format(format!(
            "it has {} bytes, which the lengths in its header contradict",
            bytes.len()
        )));
    }
    if bytes[metadata_end..blob_offset]
        .iter()
        .any(|&byte| byte != 0)
    {
        return Err(format("the bytes before the constants are not zero"));
    }
    let header = Header {
        metadata: HEADER..metadata_end,
        blob: blob_offset..bytes.len(),
        blob_crc: word(44),
    };
    let metadata = &bytes[header.metadata.clone()];
    checksum("metadata", word(40), crc32fast::hash(metadata))?;
    Ok(header)
}

fn checksum(part: &'static str, expected: u32, found: u32) -> Result<(), PlanError> {
    if found == expected {
        Ok(())
    } else {
        Err(PlanError::Checksum {
            part,
            expected,
            found,
        })
    }
}
