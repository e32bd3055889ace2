//! `.npy` arrays and `.npz` archives: NumPy's file formats, versions 1.0 to 3.0.
//!
//! Little-endian arrays in C or Fortran order are read; arrays are written in C order, version 1.0. What an archive claims is
//! checked before memory is taken: the header must be well formed and the data must have the length that it states.

use std::io::{self, Read, Write};

use half::f16;

#[cfg(feature = "npz")]
mod archive;
#[cfg(feature = "npz")]
pub use archive::{names, read_file, read_file_within, read_npz, with_rows, write_npz};

use crate::{DType, Elements, Shape, Tensor, TensorData, TensorError};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Headers of real files are a few hundred bytes.
const MAX_HEADER: usize = 1 << 16;
/// The largest array that is read as a whole, in bytes, where nothing else is asked for.
pub const MAX_BYTES: u64 = 1 << 32;

/// Why an array could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The archive is malformed.
    #[cfg(feature = "npz")]
    #[error(transparent)]
    Zip(#[from] zip::result::ZipError),
    /// Not an array, or a malformed header.
    #[error("not a NumPy array: {0}")]
    Format(String),
    /// A type of elements that Octofold does not have.
    #[error("elements of type `{0}` are not supported")]
    Type(String),
    /// An array, or the samples that are read at once, of more bytes than the limit.
    #[error(
        "an array of {bytes} bytes, the limit is {limit}; for a file that is trusted, raise it: --limit array-bytes=NUMBER"
    )]
    TooLarge {
        /// The number of bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Elements that do not form a tensor.
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

/// What an array says of itself before its elements.
struct Header {
    dtype: DType,
    /// NumPy's name of the element type.
    descr: String,
    shape: Shape,
    /// Whether the first axis is the innermost one.
    fortran: bool,
}

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, NpyError> {
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
        Ok(Self {
            dtype: parse_descr(descr)?,
            descr: descr.to_owned(),
            shape: parse_shape(field(&header, "shape")?)?,
            fortran: field(&header, "fortran_order")?.starts_with("True"),
        })
    }

    /// Reads the elements of an array of this type, of the given sizes in C order.
    fn elements(
        &self,
        reader: &mut impl Read,
        shape: Shape,
        limit: u64,
    ) -> Result<Tensor, NpyError> {
        let elements = shape
            .iter()
            .try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        let size = self.dtype.size().unwrap_or(1) as u64;
        let Some(bytes) = elements.and_then(|elements| elements.checked_mul(size)) else {
            return Err(NpyError::Tensor(TensorError::TooLarge(shape)));
        };
        if bytes > limit {
            return Err(NpyError::TooLarge { bytes, limit });
        }
        // `take` and `read_to_end` grow with the data that is there, not with what the header claims.
        let mut data = Vec::new();
        reader.take(bytes).read_to_end(&mut data)?;
        if data.len() as u64 != bytes {
            return Err(NpyError::Format(format!(
                "{} bytes of data, the header states {bytes}",
                data.len()
            )));
        }
        let values = from_bytes(self.dtype, &data);
        let values = values.ok_or_else(|| NpyError::Type(self.descr.clone()))?;
        Ok(Tensor::from_data(shape, values)?)
    }

    /// Reads a whole array, in C order.
    fn whole(&self, reader: &mut impl Read, limit: u64) -> Result<Tensor, NpyError> {
        if self.fortran && self.shape.len() > 1 {
            let reversed = self.shape.iter().rev().copied().collect();
            let tensor = self.elements(reader, reversed, limit)?;
            return Ok(from_fortran(&tensor, &self.shape)?);
        }
        self.elements(reader, self.shape.clone(), limit)
    }
}

/// Reads one array of at most [`MAX_BYTES`] bytes.
///
/// # Errors
/// When the bytes are no array of a known type, or end early.
pub fn read_npy(mut reader: impl Read) -> Result<Tensor, NpyError> {
    Header::read(&mut reader)?.whole(&mut reader, MAX_BYTES)
}

/// Checks that nothing follows the elements. Reading to the end is also what compares an archive's checksum.
fn expect_end(reader: &mut impl Read) -> Result<(), NpyError> {
    match reader.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(NpyError::Format("bytes follow the elements".to_owned())),
    }
}

/// An array whose rows, its parts along axis 0, are read one after the other.
pub struct Rows<'a> {
    header: Header,
    reader: Box<dyn Read + 'a>,
    /// The rows that were not read yet.
    left: usize,
    limit: u64,
}

impl<'a> Rows<'a> {
    /// The rows of an array. No more than `limit` bytes are read at once; an array in Fortran order is read as a whole.
    ///
    /// # Errors
    /// When the bytes are no array of a known type, or the array has no axis.
    pub fn new(mut reader: impl Read + 'a, limit: u64) -> Result<Self, NpyError> {
        let header = Header::read(&mut reader)?;
        let no_axis = || NpyError::Format("an array without axes has no samples".to_owned());
        let left = *header.shape.first().ok_or_else(no_axis)?;
        let reader: Box<dyn Read + 'a> = if header.fortran && header.shape.len() > 1 {
            let whole = header.whole(&mut reader, limit)?;
            expect_end(&mut reader)?;
            Box::new(io::Cursor::new(to_bytes(&whole)?.1))
        } else {
            Box::new(reader)
        };
        Ok(Self {
            header,
            reader,
            left,
            limit,
        })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.header.dtype
    }

    /// The sizes of the whole array.
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// The number of rows that were not read yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next `count` rows, or as many as there are.
    ///
    /// # Errors
    /// When the data end early, are damaged, or go on behind the last row.
    pub fn read(&mut self, count: usize) -> Result<Tensor, NpyError> {
        let count = count.min(self.left);
        let mut shape = self.header.shape.clone();
        shape[0] = count;
        let rows = self.header.elements(&mut self.reader, shape, self.limit)?;
        self.left -= count;
        if self.left == 0 {
            expect_end(&mut self.reader)?;
        }
        Ok(rows)
    }
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
            TensorData::$variant(Elements::new(values.collect::<Option<Vec<$type>>>()?))
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
        DType::Bool => {
            TensorData::Bool(Elements::new(bytes.iter().map(|&byte| byte != 0).collect()))
        }
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
    fn moved<T: Clone>(values: &[T], source: impl Fn(usize) -> usize) -> Elements<T> {
        Elements::new(
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

#[cfg(test)]
mod tests {
    use super::*;

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
