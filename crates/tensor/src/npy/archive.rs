//! `.npz` archives: ZIP files with an array a member.
//!
//! Every member is read to its end, which compares its checksum. Data sets read several members side by side, row by row ([`with_rows`]), so the
//! memory does not depend on what the archive claims.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use zip::ZipArchive;
use zip::write::SimpleFileOptions;

use super::{Header, MAX_BYTES, NpyError, Rows, expect_end, write_npy};
use crate::Tensor;
use crate::file::open_regular;

/// An error in a member.
fn within(name: &str) -> impl FnOnce(NpyError) -> NpyError {
    let name = name.to_owned();
    move |source| NpyError::Member {
        name,
        source: Box::new(source),
    }
}

/// A whole array of at most `limit` bytes, after which nothing follows.
fn read_whole(mut reader: impl Read, limit: u64) -> Result<Tensor, NpyError> {
    let tensor = Header::read(&mut reader)?.whole(&mut reader, limit)?;
    expect_end(&mut reader)?;
    Ok(tensor)
}

/// Reads all arrays of an archive, in the order of the archive.
///
/// # Errors
/// When the archive is malformed or damaged, holds anything but arrays, or holds an array of more than [`MAX_BYTES`] bytes.
pub fn read_npz(reader: impl Read + Seek) -> Result<Vec<(String, Tensor)>, NpyError> {
    read_members(reader, MAX_BYTES)
}

fn read_members(reader: impl Read + Seek, limit: u64) -> Result<Vec<(String, Tensor)>, NpyError> {
    let mut archive = ZipArchive::new(reader)?;
    let mut arrays = Vec::new();
    let mut left = limit;
    for index in 0..archive.len() {
        let member = archive.by_index(index)?;
        let name = member.name()?.trim_end_matches(".npy").to_owned();
        let tensor = read_whole(BufReader::new(member), left).map_err(within(&name))?;
        left = left.saturating_sub(tensor.byte_len() as u64);
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// Writes arrays as an uncompressed archive. The bytes depend on the arrays alone.
///
/// # Errors
/// When writing fails, or elements are strings.
pub fn write_npz(writer: impl Write + Seek, arrays: &[(String, Tensor)]) -> Result<(), NpyError> {
    let mut archive = zip::ZipWriter::new(writer);
    for (name, tensor) in arrays {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .large_file(tensor.byte_len() > 1 << 31);
        archive.start_file(format!("{}.npy", harmless(name)), options)?;
        write_npy(&mut archive, tensor)?;
    }
    archive.finish()?;
    Ok(())
}

/// A name for a member of an archive. Unpacking must not write outside of its folder, whatever a model calls its outputs, so a component `..`, a backslash, a
/// control character and the name of a drive become `_`. A `/` at the beginning stays: many models have such names, and unpackers drop it.
fn harmless(name: &str) -> String {
    let shown = |c: char| if c.is_control() || c == '\\' { '_' } else { c };
    let name: String = name.chars().map(shown).collect();
    let parts = name.split('/').enumerate().map(|(index, part)| match part {
        ".." => "__",
        part if index == 0 && part.ends_with(':') => "_",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn is_single(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}

fn open(path: &Path) -> Result<BufReader<File>, NpyError> {
    Ok(BufReader::new(open_regular(path)?))
}

/// Reads the arrays of a `.npz` file, or the single array of a `.npy` file under the empty name.
///
/// # Errors
/// As [`read_npz`], and when the path is that of no regular file.
pub fn read_file(path: &Path) -> Result<Vec<(String, Tensor)>, NpyError> {
    read_file_within(path, MAX_BYTES)
}

/// As [`read_file`], with at most `limit` bytes of all arrays.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_within(path: &Path, limit: u64) -> Result<Vec<(String, Tensor)>, NpyError> {
    let reader = open(path)?;
    if is_single(path) {
        return Ok(vec![(String::new(), read_whole(reader, limit)?)]);
    }
    read_members(reader, limit)
}

/// The names of the arrays of a file, in its order; the empty name for a `.npy` file.
///
/// # Errors
/// When the archive is malformed, or the path is that of no regular file.
pub fn names(path: &Path) -> Result<Vec<String>, NpyError> {
    let reader = open(path)?;
    if is_single(path) {
        return Ok(vec![String::new()]);
    }
    let mut archive = ZipArchive::new(reader)?;
    let mut names = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index)?;
        names.push(member.name()?.trim_end_matches(".npy").to_owned());
    }
    Ok(names)
}

/// Calls `visit` with the rows of some arrays of a file, which are numbered as [`names`] has them. At most `limit` bytes of each are read at once.
///
/// # Errors
/// When the archive is malformed, or a member is no array.
pub fn with_rows<T>(
    path: &Path,
    arrays: &[usize],
    limit: u64,
    visit: impl FnOnce(&mut [Rows<'_>]) -> T,
) -> Result<T, NpyError> {
    nested(path, arrays, limit, Vec::new(), visit)
}

/// Each member is read through an archive of its own, because an archive reads one member at a time.
fn nested<T>(
    path: &Path,
    arrays: &[usize],
    limit: u64,
    mut opened: Vec<Rows<'_>>,
    visit: impl FnOnce(&mut [Rows<'_>]) -> T,
) -> Result<T, NpyError> {
    let Some((&first, rest)) = arrays.split_first() else {
        return Ok(visit(&mut opened));
    };
    if is_single(path) {
        opened.push(Rows::new(open(path)?, limit)?);
        return nested(path, rest, limit, opened, visit);
    }
    let mut archive = ZipArchive::new(open(path)?)?;
    let mut opened = opened;
    let member = archive.by_index(first)?;
    let name = member.name()?.trim_end_matches(".npy").to_owned();
    opened.push(Rows::new(BufReader::new(member), limit).map_err(within(&name))?);
    nested(path, rest, limit, opened, visit)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn archives_come_back_as_they_were_written() {
        let arrays = vec![
            (
                "a".to_owned(),
                Tensor::new([2, 3], vec![1.5_f32, -2.0, 0.0, f32::INFINITY, 1e-30, 7.0]).unwrap(),
            ),
            ("b".to_owned(), Tensor::scalar(7_i64)),
            ("c".to_owned(), Tensor::vector(vec![true, false])),
            (
                "d".to_owned(),
                Tensor::new([0, 4], Vec::<u8>::new()).unwrap(),
            ),
        ];
        let mut bytes = Cursor::new(Vec::new());
        write_npz(&mut bytes, &arrays).unwrap();
        assert_eq!(
            read_npz(Cursor::new(bytes.get_ref().clone())).unwrap(),
            arrays
        );
        let mut again = Cursor::new(Vec::new());
        write_npz(&mut again, &arrays).unwrap();
        assert_eq!(bytes, again);
    }

    #[test]
    fn a_flipped_byte_is_found_by_the_checksum() {
        let arrays = [("a".to_owned(), Tensor::vector((0..1000_i32).collect()))];
        let mut bytes = Cursor::new(Vec::new());
        write_npz(&mut bytes, &arrays).unwrap();
        let bytes = bytes.into_inner();
        let at = bytes
            .windows(4)
            .position(|word| word == 500_i32.to_le_bytes());
        let mut damaged = bytes.clone();
        damaged[at.unwrap()] ^= 1;
        assert!(read_npz(Cursor::new(bytes)).is_ok());
        let error = read_npz(Cursor::new(damaged)).unwrap_err().to_string();
        assert!(
            error.contains("`a`") && error.to_lowercase().contains("checksum"),
            "{error}"
        );
    }

    #[test]
    fn rows_are_read_side_by_side() {
        let folder = std::env::temp_dir().join(format!("octofold-npz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("rows.npz");
        let a = Tensor::new([5, 2], (0..10_i32).collect()).unwrap();
        let b = Tensor::new([5], vec![0.5_f32, 1.5, 2.5, 3.5, 4.5]).unwrap();
        let arrays = [("a".to_owned(), a), ("b".to_owned(), b)];
        write_npz(File::create(&path).unwrap(), &arrays).unwrap();
        assert_eq!(names(&path).unwrap(), ["a", "b"]);
        let found = with_rows(&path, &[1, 0], 1 << 10, |rows| {
            let first: Vec<Tensor> = rows.iter_mut().map(|rows| rows.read(3).unwrap()).collect();
            let rest: Vec<Tensor> = rows.iter_mut().map(|rows| rows.read(9).unwrap()).collect();
            assert!(rows.iter().all(|rows| rows.left() == 0));
            (first, rest)
        });
        let (first, rest) = found.unwrap();
        assert_eq!(first[1].values::<i32>().unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(rest[1].shape(), [2, 2]);
        assert_eq!(first[0].values::<f32>().unwrap(), [0.5, 1.5, 2.5]);
        assert_eq!(rest[0].values::<f32>().unwrap(), [3.5, 4.5]);
        // Two rows of `a` take 16 bytes.
        let refused = with_rows(&path, &[0], 15, |rows| rows[0].read(2).map(drop)).unwrap();
        assert!(matches!(
            refused,
            Err(NpyError::TooLarge {
                bytes: 16,
                limit: 15
            })
        ));
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// A member of 64 MiB that takes 64 KiB in the file.
    #[test]
    fn what_an_archive_claims_takes_no_memory() {
        let folder = std::env::temp_dir().join(format!("octofold-claim-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("claim.npz");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        let deflated =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file("x.npy", deflated).unwrap();
        let zeros = Tensor::zeros(crate::DType::U8, [1 << 16, 1 << 10]).unwrap();
        write_npy(&mut archive, &zeros).unwrap();
        archive.finish().unwrap();
        assert!(path.metadata().unwrap().len() < 1 << 18);
        let four = with_rows(&path, &[0], 1 << 12, |rows| rows[0].read(4)).unwrap();
        assert_eq!(four.unwrap().shape(), [4, 1 << 10]);
        let whole = read_file_within(&path, 1 << 20).unwrap_err().to_string();
        assert!(whole.contains("--limit array-bytes"), "{whole}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn names_of_members_stay_in_their_folder() {
        for (name, expected) in [
            ("y", "y"),
            ("a/b:0", "a/b:0"),
            ("../../x", "__/__/x"),
            ("/model/Add_output_0", "/model/Add_output_0"),
            ("C:/x", "_/x"),
            ("a\\..\\b\u{1b}", "a_.._b_"),
        ] {
            assert_eq!(harmless(name), expected);
        }
    }
}
