//! `.npy` arrays and `.npz` archives: NumPy's file formats, versions 1.0 to 3.0.
//!
//! Little-endian arrays in C or Fortran order are read; arrays are written in C order, version 1.0. What an archive claims is
//! checked before memory is taken: the header must be well formed and the data must have the length that it states.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use half::f16;
use zip::write::SimpleFileOptions;

use crate::{DType, Shape, Tensor, TensorData, TensorError};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Headers of real files are a few hundred bytes.
const MAX_HEADER: usize = 1 << 16;
/// The largest array that is read, in bytes.
const MAX_BYTES: u64 = 1 << 36;

/// Why an array could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The archive is malformed.
    #[error(transparent)]
    Zip(#[from] zip::result::ZipError),
    /// Not an array, or a malformed header.
    #[error("not a NumPy array: {0}")]
    Format(String),
    /// A type of elements that Octofold does not have.
    #[error("elements of type `{0}` are not supported")]
    Type(String),
    /// Data whose length is not what the header states.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// An array within an archive.
    #[error("array `{name}`: {source}")]
    Member {
        /// The array's name.
        name: String,
        /// What is wrong with it.
        source: Box<NpyError>,
    },
}

/// Reads one array.
///
/// # Errors
/// When the bytes are no array of a known type, or end early.
pub fn read_npy(mut reader: impl Read) -> Result<Tensor, NpyError> {
    let mut start = [0; 8];
    reader.read_exact(&mut start)?;
    if &start[..6] != MAGIC {
        return Err(NpyError::Format("the magic bytes are missing".to_owned()));
    }
    let length = if start[6] == 1 {
        let mut bytes = [0; 2];
        reader.read_exact(&mut bytes)?;
        usize::from(u16::from_le_bytes(bytes))
    } else {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes)?;
        u32::from_le_bytes(bytes) as usize
    };
    if length > MAX_HEADER {
        return Err(NpyError::Format(format!("a header of {length} bytes")));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header)?;
    let header = String::from_utf8(header)
        .map_err(|_| NpyError::Format("the header is not text".to_owned()))?;
    let descr = field(&header, "descr")?;
    let fortran = field(&header, "fortran_order")?.starts_with("True");
    let shape = parse_shape(field(&header, "shape")?)?;
    let dtype = parse_descr(descr)?;
    let elements = shape
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
    let size = dtype.size().unwrap_or(1) as u64;
    let bytes = elements
        .and_then(|elements| elements.checked_mul(size))
        .filter(|&bytes| bytes <= MAX_BYTES);
    let Some(bytes) = bytes else {
        return Err(NpyError::Tensor(TensorError::TooLarge(shape)));
    };
    // `take` and `read_to_end` grow with the data that is there, not with what the header claims.
    let mut data = Vec::new();
    reader.take(bytes).read_to_end(&mut data)?;
    if data.len() as u64 != bytes {
        return Err(NpyError::Format(format!(
            "{} bytes of data, the header states {bytes}",
            data.len()
        )));
    }
    let values = from_bytes(dtype, &data).ok_or_else(|| NpyError::Type(descr.to_owned()))?;
    if fortran && shape.len() > 1 {
        let reversed: Shape = shape.iter().rev().copied().collect();
        return Ok(from_fortran(&Tensor::from_data(reversed, values)?, &shape)?);
    }
    Ok(Tensor::from_data(shape, values)?)
}

/// The text after `'key':` in a header.
fn field<'a>(header: &'a str, key: &str) -> Result<&'a str, NpyError> {
    let quoted = format!("'{key}'");
    let at = header
        .find(&quoted)
        .ok_or_else(|| NpyError::Format(format!("the header has no {key}")))?;
    let rest = header[at + quoted.len()..].trim_start();
    let rest = rest
        .strip_prefix(':')
        .ok_or_else(|| NpyError::Format(format!("the header's {key} is malformed")))?;
    Ok(rest.trim_start())
}

fn parse_shape(text: &str) -> Result<Shape, NpyError> {
    let malformed = || NpyError::Format("the header's shape is malformed".to_owned());
    let inner = text
        .strip_prefix('(')
        .and_then(|text| text.split_once(')'))
        .ok_or_else(malformed)?
        .0;
    let sizes = inner
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty());
    sizes
        .map(|size| size.parse().map_err(|_| malformed()))
        .collect()
}

fn parse_descr(text: &str) -> Result<DType, NpyError> {
    let name = text.split(['\'', '"']).nth(1).unwrap_or(text);
    Ok(match name {
        "<f4" => DType::F32,
        "<f8" => DType::F64,
        "<f2" => DType::F16,
        "|i1" | "<i1" => DType::I8,
        "<i2" => DType::I16,
        "<i4" => DType::I32,
        "<i8" => DType::I64,
        "|u1" | "<u1" => DType::U8,
        "<u2" => DType::U16,
        "<u4" => DType::U32,
        "<u8" => DType::U64,
        "|b1" => DType::Bool,
        other => return Err(NpyError::Type(other.to_owned())),
    })
}

/// Elements from their little-endian bytes.
fn from_bytes(dtype: DType, bytes: &[u8]) -> Option<TensorData> {
    macro_rules! elements {
        ($variant:ident, $type:ty) => {{
            let chunks = bytes.chunks_exact(size_of::<$type>());
            let values = chunks.map(|chunk| Some(<$type>::from_le_bytes(chunk.try_into().ok()?)));
            TensorData::$variant(Arc::new(values.collect::<Option<Vec<$type>>>()?))
        }};
    }
    Some(match dtype {
        DType::F32 => elements!(F32, f32),
        DType::F64 => elements!(F64, f64),
        DType::F16 => elements!(F16, f16),
        DType::I8 => elements!(I8, i8),
        DType::I16 => elements!(I16, i16),
        DType::I32 => elements!(I32, i32),
        DType::I64 => elements!(I64, i64),
        DType::U8 => elements!(U8, u8),
        DType::U16 => elements!(U16, u16),
        DType::U32 => elements!(U32, u32),
        DType::U64 => elements!(U64, u64),
        DType::Bool => TensorData::Bool(Arc::new(bytes.iter().map(|&byte| byte != 0).collect())),
        DType::String | DType::BF16 | DType::U4 | DType::I4 => return None,
    })
}

/// NumPy's name of an element type, and the bytes of the elements. A type that NumPy lacks is written as integers with the same bits.
fn to_bytes(tensor: &Tensor) -> Result<(&'static str, Vec<u8>), NpyError> {
    macro_rules! bytes {
        ($values:expr) => {
            $values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
    }
    Ok(match tensor.data() {
        TensorData::F32(values) => ("<f4", bytes!(values)),
        TensorData::F64(values) => ("<f8", bytes!(values)),
        TensorData::F16(values) => ("<f2", bytes!(values)),
        TensorData::BF16(values) => ("<u2", bytes!(values)),
        TensorData::I8(values) | TensorData::I4(values) => ("|i1", bytes!(values)),
        TensorData::I16(values) => ("<i2", bytes!(values)),
        TensorData::I32(values) => ("<i4", bytes!(values)),
        TensorData::I64(values) => ("<i8", bytes!(values)),
        TensorData::U8(values) | TensorData::U4(values) => ("|u1", values.to_vec()),
        TensorData::U16(values) => ("<u2", bytes!(values)),
        TensorData::U32(values) => ("<u4", bytes!(values)),
        TensorData::U64(values) => ("<u8", bytes!(values)),
        TensorData::Bool(values) => ("|b1", values.iter().map(|&value| u8::from(value)).collect()),
        TensorData::String(_) => return Err(NpyError::Type("string".to_owned())),
    })
}

/// Elements in Fortran order, given as the row-major tensor of the reversed shape, in C order.
fn from_fortran(reversed: &Tensor, shape: &[usize]) -> Result<Tensor, TensorError> {
    // The stride of an axis in Fortran order is the product of the sizes before it.
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |product, &size| {
            let stride = *product;
            *product *= size;
            Some(stride)
        })
        .collect();
    let source = |index: usize| {
        let mut rest = index;
        let mut at = 0;
        for (axis, &size) in shape.iter().enumerate().rev() {
            at += rest % size * strides[axis];
            rest /= size;
        }
        at
    };
    fn moved<T: Clone>(values: &[T], source: impl Fn(usize) -> usize) -> Arc<Vec<T>> {
        Arc::new(
            (0..values.len())
                .map(|index| values[source(index)].clone())
                .collect(),
        )
    }
    macro_rules! data {
        ($($variant:ident),*) => {
            match reversed.data() {
                $(TensorData::$variant(values) => TensorData::$variant(moved(values, source)),)*
            }
        };
    }
    let data = data!(
        F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool, String, I4, U4
    );
    Tensor::from_data(shape.iter().copied(), data)
}

/// Writes one array, in C order.
///
/// # Errors
/// When writing fails, or the elements are strings.
pub fn write_npy(mut writer: impl Write, tensor: &Tensor) -> Result<(), NpyError> {
    let (descr, bytes) = to_bytes(tensor)?;
    let sizes: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
    let comma = if sizes.len() == 1 { "," } else { "" };
    let mut header = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        sizes.join(", ")
    );
    // The data begins at a multiple of 64 bytes, as NumPy has it; the header ends in a line break.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    let length = u16::try_from(header.len())
        .map_err(|_| NpyError::Format("the shape is too long".to_owned()))?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    Ok(writer.write_all(&bytes)?)
}

/// Reads all arrays of an archive, in the order of the archive.
///
/// # Errors
/// When the archive is malformed or holds anything but arrays.
pub fn read_npz(reader: impl Read + Seek) -> Result<Vec<(String, Tensor)>, NpyError> {
    let mut archive = zip::ZipArchive::new(reader)?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let member = archive.by_index(index)?;
        let name = member.name()?.trim_end_matches(".npy").to_owned();
        let tensor = read_npy(BufReader::new(member)).map_err(|source| NpyError::Member {
            name: name.clone(),
            source: Box::new(source),
        })?;
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
        archive.start_file(format!("{name}.npy"), options)?;
        write_npy(&mut archive, tensor)?;
    }
    archive.finish()?;
    Ok(())
}

/// Reads the arrays of a `.npz` file, or the single array of a `.npy` file under the empty name.
///
/// # Errors
/// As [`read_npz`] and [`read_npy`].
pub fn read_file(path: &Path) -> Result<Vec<(String, Tensor)>, NpyError> {
    let reader = BufReader::new(File::open(path)?);
    if path.extension().is_some_and(|extension| extension == "npy") {
        return Ok(vec![(String::new(), read_npy(reader)?)]);
    }
    read_npz(reader)
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
    fn fortran_order_is_brought_to_c_order() {
        let mut file = Vec::new();
        let header = "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&[1, 0]);
        file.extend_from_slice(&(header.len() as u16).to_le_bytes());
        file.extend_from_slice(header.as_bytes());
        // Columns first: [[1, 3, 5], [2, 4, 6]].
        file.extend((1..=6_i16).flat_map(i16::to_le_bytes));
        let tensor = read_npy(file.as_slice()).unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.values::<i16>().unwrap(), [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn malformed_arrays_are_errors() {
        let mut good = Vec::new();
        write_npy(&mut good, &Tensor::vector(vec![1_i32, 2, 3])).unwrap();
        for end in 0..good.len() {
            assert!(read_npy(&good[..end]).is_err(), "cut at {end}");
        }
        let huge = String::from_utf8_lossy(&good[10..]).replace("(3,)", "(999999999999,)");
        let mut file = good[..10].to_vec();
        file.extend_from_slice(huge.as_bytes());
        assert!(read_npy(file.as_slice()).is_err());
    }
}
