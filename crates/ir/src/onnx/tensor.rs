//! Between [`TensorProto`] and [`Tensor`], in all encodings.
//!
//! Elements stand in `raw_data` (little-endian), in the list of their type, or in another file. Small types in `int32_data` must be within
//! their range: other readers cut them off silently, which turns a broken file into wrong weights. Four-bit elements are
//! packed in pairs, the first in the low half.

use bytes::Bytes;
use octofold_tensor::{
    DType, Element, Elements, Shape, Tensor, TensorData, TensorError, bf16, f16, for_each_data,
};
use prost::Message;

use super::budget::{Budget, raise};
use super::external_data::{ExternalData, ExternalDataError};
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{SparseTensorProto, TensorProto};
use super::scan::{ScanError, scan_tensor};

/// Why a [`TensorProto`] is no tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProtoError {
    /// The bytes are no message.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// An element type that ONNX does not have.
    #[error("the data type {0} is unknown")]
    UnknownType(i32),
    /// An element type of ONNX that Octofold does not have.
    #[error("the data type {0} is not supported")]
    UnsupportedType(&'static str),
    /// A negative dimension.
    #[error("dimension {axis} is negative: {size}")]
    NegativeDimension {
        /// The axis.
        axis: usize,
        /// The size that the file gives.
        size: i64,
    },
    /// More elements than can be counted.
    #[error("the size of the shape {0:?} overflows: too many elements")]
    TooLarge(Vec<i64>),
    /// Data whose length does not suit the shape.
    #[error("{dtype}{shape:?} needs {expected} {unit} of data, {field} has a length of {found}")]
    Length {
        /// The element type.
        dtype: DType,
        /// The shape.
        shape: Shape,
        /// The field that holds the data.
        field: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many there should be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// An element out of the range of its type.
    #[error("element {index} is {value}, out of the range of {dtype}")]
    Range {
        /// The position of the element.
        index: usize,
        /// What the file says.
        value: String,
        /// The element type.
        dtype: DType,
    },
    /// A string that is not UTF-8.
    #[error("element {0} is not UTF-8")]
    Utf8(usize),
    /// Data in a field that does not hold elements of the type, or in two fields.
    #[error("{dtype} data in the field {field}, expected in {expected}")]
    Field {
        /// The element type.
        dtype: DType,
        /// The field with data.
        field: &'static str,
        /// The field that would do.
        expected: &'static str,
    },
    /// A tensor stored in several parts.
    #[error("tensors in segments are not supported")]
    Segment,
    /// Data in another file that cannot be read.
    #[error("external data: {0}")]
    External(#[from] ExternalDataError),
    /// A sparse tensor whose parts contradict each other.
    #[error("sparse tensor: {0}")]
    Sparse(String),
    /// A tensor that its own type refuses.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Reads a serialized [`TensorProto`], as the inputs and outputs of ONNX's own tests are; gives its name as well.
///
/// # Errors
/// When the bytes are no tensor.
pub fn tensor_from_bytes(bytes: Bytes) -> Result<(String, Tensor), TensorProtoError> {
    scan_tensor(&bytes, &Budget::default())?;
    let proto = TensorProto::decode(bytes).map_err(ScanError::Decode)?;
    let tensor = tensor_from_proto(&proto)?;
    Ok((proto.name.unwrap_or_default(), tensor))
}

/// Reads a tensor whose data stand in the message itself.
///
/// # Errors
/// When the message is contradictory, of an unsupported type, or has its data in another file.
pub fn tensor_from_proto(proto: &TensorProto) -> Result<Tensor, TensorProtoError> {
    read_tensor(proto, &mut ExternalData::nowhere())
}

/// As [`tensor_from_proto`], with other files.
pub(super) fn read_tensor(
    proto: &TensorProto,
    external: &mut ExternalData,
) -> Result<Tensor, TensorProtoError> {
    if proto.segment.is_some() {
        return Err(TensorProtoError::Segment);
    }
    let dtype = element_type(proto.data_type.unwrap_or_default())?;
    let (shape, count) = read_shape(&proto.dims)?;
    let fields = [
        ("float_data", proto.float_data.len()),
        ("int32_data", proto.int32_data.len()),
        ("string_data", proto.string_data.len()),
        ("int64_data", proto.int64_data.len()),
        ("double_data", proto.double_data.len()),
        ("uint64_data", proto.uint64_data.len()),
    ];
    let raw = if proto.data_location == Some(DataLocation::External.into()) {
        let expected = raw_length(dtype, &proto.dims, count)?;
        let inside = fields.iter().find(|(_, length)| *length > 0);
        if let Some(&(field, _)) = inside.or(proto
            .raw_data
            .as_ref()
            .filter(|raw| !raw.is_empty())
            .map(|_| &("raw_data", 1)))
        {
            return Err(TensorProtoError::Field {
                dtype,
                field,
                expected: "external data",
            });
        }
        Some(external.read(&proto.external_data, expected)?)
    } else {
        // Some writers set an empty `raw_data` and a list.
        proto.raw_data.clone().filter(|raw| !raw.is_empty())
    };
    let expected = list_field(dtype);
    for (field, length) in fields {
        if length > 0 && (raw.is_some() || field != expected) {
            return Err(TensorProtoError::Field {
                dtype,
                field,
                expected: if raw.is_some() { "raw_data" } else { expected },
            });
        }
    }
    let data = match raw {
        Some(raw) => {
            let expected = raw_length(dtype, &proto.dims, count)?;
            if raw.len() as u64 != expected {
                return Err(TensorProtoError::Length {
                    dtype,
                    shape,
                    field: "raw_data",
                    unit: "bytes",
                    expected,
                    found: raw.len() as u64,
                });
            }
            let external = proto.data_location == Some(DataLocation::External.into());
            match in_place(dtype, &raw).filter(|_| external) {
                Some(data) => data,
                None => from_raw(dtype, &raw, count)?,
            }
        }
        None => {
            let packed = matches!(dtype, DType::I4 | DType::U4);
            let needed = if packed { count.div_ceil(2) } else { count };
            let found = fields
                .iter()
                .find(|(field, _)| *field == expected)
                .map_or(0, |(_, length)| *length);
            if found != needed {
                // Without any data, it is the bytes of `raw_data` that are missing.
                let (field, unit) = match found {
                    0 => ("raw_data", "elements"),
                    _ => (expected, if packed { "packed bytes" } else { "elements" }),
                };
                return Err(TensorProtoError::Length {
                    dtype,
                    shape,
                    field,
                    unit,
                    expected: needed as u64,
                    found: found as u64,
                });
            }
            from_lists(dtype, proto, count)?
        }
    };
    Ok(Tensor::from_data(shape, data)?)
}

/// A sparse tensor, made dense.
pub(super) fn read_sparse(
    proto: &SparseTensorProto,
    external: &mut ExternalData,
    budget: &Budget,
) -> Result<Tensor, TensorProtoError> {
    let fail = |reason: &str| TensorProtoError::Sparse(reason.to_owned());
    let values = proto
        .values
        .as_ref()
        .ok_or_else(|| fail("it has no values"))?;
    let indices = proto
        .indices
        .as_ref()
        .ok_or_else(|| fail("it has no indices"))?;
    let values = read_tensor(values, external)?;
    let indices = read_tensor(indices, external)?;
    let (shape, count) = read_shape(&proto.dims)?;
    let size = values
        .dtype()
        .size()
        .ok_or(TensorProtoError::UnsupportedType("sparse STRING"))?;
    if (count as u64).saturating_mul(size as u64) > budget.sparse_bytes {
        return Err(fail(&format!(
            "its {count} elements exceed the limit of {} bytes ({})",
            budget.sparse_bytes,
            raise("sparse-bytes")
        )));
    }
    let positions = indices.values::<i64>()?;
    let number = values.len();
    let rank = shape.len();
    let coordinates = match indices.shape() {
        [n] if *n == number => 1,
        [n, r] if *n == number && *r == rank => rank,
        other => {
            return Err(fail(&format!(
                "indices of shape {other:?} do not suit {number} values of rank {rank}"
            )));
        }
    };
    if values.rank() != 1 {
        return Err(fail("its values are not of rank 1"));
    }
    let mut flat = Vec::with_capacity(number);
    for index in 0..number {
        let row = positions
            .get(index * coordinates..(index + 1) * coordinates)
            .unwrap_or_default();
        let sizes: &[usize] = if coordinates == 1 && indices.rank() == 1 {
            &[count]
        } else {
            &shape
        };
        let mut position = 0_usize;
        for (&coordinate, &size) in row.iter().zip(sizes) {
            let coordinate = usize::try_from(coordinate)
                .ok()
                .filter(|&coordinate| coordinate < size);
            let coordinate =
                coordinate.ok_or_else(|| fail(&format!("index {index} is out of range")))?;
            position = position * size + coordinate;
        }
        flat.push(position);
    }
    /// Zeros, with the values at their positions.
    fn dense<T: Element>(values: &[T], positions: &[usize], count: usize) -> TensorData {
        let mut dense = vec![T::default(); count];
        for (&position, value) in positions.iter().zip(values) {
            if let Some(place) = dense.get_mut(position) {
                place.clone_from(value);
            }
        }
        T::wrap(Elements::new(dense))
    }
    if matches!(values.dtype(), DType::String | DType::I4 | DType::U4) {
        return Err(TensorProtoError::UnsupportedType(
            "sparse STRING, INT4 or UINT4",
        ));
    }
    let data = for_each_data!(values.data(), values => dense(values, &flat, count));
    Ok(Tensor::from_data(shape, data)?)
}

/// The element type of a number of the file.
pub(super) fn element_type(code: i32) -> Result<DType, TensorProtoError> {
    match (DType::from_onnx(code), DataType::try_from(code)) {
        (Some(dtype), _) => Ok(dtype),
        (None, Ok(DataType::Undefined) | Err(_)) => Err(TensorProtoError::UnknownType(code)),
        (None, Ok(known)) => Err(TensorProtoError::UnsupportedType(known.as_str_name())),
    }
}

/// The sizes, and their product.
fn read_shape(dims: &[i64]) -> Result<(Shape, usize), TensorProtoError> {
    let mut shape = Shape::with_capacity(dims.len());
    let mut count = Some(1_usize);
    for (axis, &size) in dims.iter().enumerate() {
        if size < 0 {
            return Err(TensorProtoError::NegativeDimension { axis, size });
        }
        let size = usize::try_from(size).map_err(|_| TensorProtoError::TooLarge(dims.to_vec()))?;
        count = count.and_then(|count| count.checked_mul(size));
        shape.push(size);
    }
    let count = count.ok_or_else(|| TensorProtoError::TooLarge(dims.to_vec()))?;
    Ok((shape, count))
}

/// The bytes that `raw_data` must have.
fn raw_length(dtype: DType, dims: &[i64], count: usize) -> Result<u64, TensorProtoError> {
    let length = match (dtype, dtype.size()) {
        (DType::I4 | DType::U4, _) => Some(count.div_ceil(2)),
        (_, Some(size)) => count.checked_mul(size),
        (_, None) => {
            return Err(TensorProtoError::Field {
                dtype,
                field: "raw_data",
                expected: "string_data",
            });
        }
    };
    length
        .map(|length| length as u64)
        .ok_or_else(|| TensorProtoError::TooLarge(dims.to_vec()))
}

/// The list that holds elements of a type.
fn list_field(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float_data",
        DType::F64 => "double_data",
        DType::I64 => "int64_data",
        DType::U32 | DType::U64 => "uint64_data",
        DType::String => "string_data",
        DType::U8
        | DType::I8
        | DType::U16
        | DType::I16
        | DType::I32
        | DType::Bool
        | DType::F16
        | DType::BF16
        | DType::U4
        | DType::I4 => "int32_data",
    }
}

/// Splits packed bytes into `count` halves, the low one first.
fn halves(bytes: impl Iterator<Item = u8>, count: usize) -> impl Iterator<Item = u8> {
    bytes.flat_map(|byte| [byte & 0xf, byte >> 4]).take(count)
}

/// The signed number of four bits.
fn signed(half: u8) -> i8 {
    (half << 4).cast_signed() >> 4
}

fn from_raw(dtype: DType, raw: &[u8], count: usize) -> Result<TensorData, TensorProtoError> {
    macro_rules! words {
        ($variant:ident, $type:ty) => {{
            let words = raw
                .as_chunks()
                .0
                .iter()
                .map(|bytes| <$type>::from_le_bytes(*bytes));
            TensorData::$variant(Elements::new(words.collect()))
        }};
    }
    Ok(match dtype {
        DType::F32 => words!(F32, f32),
        DType::F64 => words!(F64, f64),
        DType::F16 => words!(F16, f16),
        DType::BF16 => words!(BF16, bf16),
        DType::I8 => words!(I8, i8),
        DType::I16 => words!(I16, i16),
        DType::I32 => words!(I32, i32),
        DType::I64 => words!(I64, i64),
        DType::U8 => TensorData::U8(Elements::new(raw.to_vec())),
        DType::U16 => words!(U16, u16),
        DType::U32 => words!(U32, u32),
        DType::U64 => words!(U64, u64),
        DType::Bool => {
            let bools = raw
                .iter()
                .enumerate()
                .map(|(index, &byte)| boolean(index, byte.into()));
            TensorData::Bool(Elements::new(bools.collect::<Result<_, _>>()?))
        }
        DType::U4 => TensorData::U4(Elements::new(halves(raw.iter().copied(), count).collect())),
        DType::I4 => TensorData::I4(Elements::new(
            halves(raw.iter().copied(), count).map(signed).collect(),
        )),
        // `raw_length` refused it before.
        DType::String => TensorData::String(Elements::new(Vec::new())),
    })
}

/// The bytes of numbers as elements, without a copy; `None` for other elements and where the bytes are not aligned or in another order.
fn in_place(dtype: DType, raw: &Bytes) -> Option<TensorData> {
    macro_rules! elements {
        ($($variant:ident)*) => {
            match dtype {
                $(DType::$variant => TensorData::$variant(Elements::of_bytes(raw.clone())?),)*
                DType::Bool | DType::String | DType::I4 | DType::U4 => return None,
            }
        };
    }
    let is_little = cfg!(target_endian = "little");
    is_little.then_some(())?;
    Some(elements!(F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64))
}

fn boolean(index: usize, value: i32) -> Result<bool, TensorProtoError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(TensorProtoError::Range {
            index,
            value: other.to_string(),
            dtype: DType::Bool,
        }),
    }
}

/// Numbers of the file as numbers of a narrower type.
fn narrow<S: Copy + ToString, T: TryFrom<S>>(
    dtype: DType,
    values: &[S],
) -> Result<Vec<T>, TensorProtoError> {
    let narrowed = values.iter().enumerate().map(|(index, &value)| {
        T::try_from(value).map_err(|_| TensorProtoError::Range {
            index,
            value: value.to_string(),
            dtype,
        })
    });
    narrowed.collect()
}

fn from_lists(
    dtype: DType,
    proto: &TensorProto,
    count: usize,
) -> Result<TensorData, TensorProtoError> {
    let ints = &proto.int32_data;
    Ok(match dtype {
        DType::F32 => TensorData::F32(Elements::new(proto.float_data.clone())),
        DType::F64 => TensorData::F64(Elements::new(proto.double_data.clone())),
        DType::I64 => TensorData::I64(Elements::new(proto.int64_data.clone())),
        DType::U64 => TensorData::U64(Elements::new(proto.uint64_data.clone())),
        DType::U32 => TensorData::U32(Elements::new(narrow(dtype, &proto.uint64_data)?)),
        DType::I32 => TensorData::I32(Elements::new(ints.clone())),
        DType::I8 => TensorData::I8(Elements::new(narrow(dtype, ints)?)),
        DType::I16 => TensorData::I16(Elements::new(narrow(dtype, ints)?)),
        DType::U8 => TensorData::U8(Elements::new(narrow(dtype, ints)?)),
        DType::U16 => TensorData::U16(Elements::new(narrow(dtype, ints)?)),
        DType::F16 => {
            let bits = narrow(dtype, ints)?;
            TensorData::F16(Elements::new(
                bits.into_iter().map(f16::from_bits).collect(),
            ))
        }
        DType::BF16 => {
            let bits = narrow(dtype, ints)?;
            TensorData::BF16(Elements::new(
                bits.into_iter().map(bf16::from_bits).collect(),
            ))
        }
        DType::Bool => {
            let bools = ints
                .iter()
                .enumerate()
                .map(|(index, &value)| boolean(index, value));
            TensorData::Bool(Elements::new(bools.collect::<Result<_, _>>()?))
        }
        DType::U4 => {
            let bytes = narrow(dtype, ints)?;
            TensorData::U4(Elements::new(halves(bytes.into_iter(), count).collect()))
        }
        DType::I4 => {
            let bytes = narrow(dtype, ints)?;
            TensorData::I4(Elements::new(
                halves(bytes.into_iter(), count).map(signed).collect(),
            ))
        }
        DType::String => {
            let strings = proto.string_data.iter().enumerate().map(|(index, bytes)| {
                let text = std::str::from_utf8(bytes).map_err(|_| TensorProtoError::Utf8(index))?;
                Ok(text.to_owned())
            });
            TensorData::String(Elements::new(
                strings.collect::<Result<_, TensorProtoError>>()?,
            ))
        }
    })
}

/// Writes a tensor: strings as a list, everything else as `raw_data`.
pub fn tensor_to_proto(name: &str, tensor: &Tensor) -> TensorProto {
    fn words<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        let mut raw = Vec::with_capacity(values.len() * N);
        for &value in values {
            raw.extend_from_slice(&to_bytes(value));
        }
        raw
    }
    fn pairs(mut halves: impl Iterator<Item = u8>) -> Vec<u8> {
        let mut raw = Vec::new();
        while let Some(low) = halves.next() {
            raw.push((low & 0xf) | (halves.next().unwrap_or(0) & 0xf) << 4);
        }
        raw
    }
    let mut proto = TensorProto {
        // A dimension that exceeds i64 has no memory that could hold it.
        dims: tensor
            .shape()
            .iter()
            .map(|&size| i64::try_from(size).unwrap_or(i64::MAX))
            .collect(),
        data_type: Some(tensor.dtype().onnx()),
        name: Some(name.to_owned()),
        ..TensorProto::default()
    };
    let raw = match tensor.data() {
        TensorData::F32(values) => words(values, f32::to_le_bytes),
        TensorData::F64(values) => words(values, f64::to_le_bytes),
        TensorData::F16(values) => words(values, f16::to_le_bytes),
        TensorData::BF16(values) => words(values, bf16::to_le_bytes),
        TensorData::I8(values) => words(values, i8::to_le_bytes),
        TensorData::I16(values) => words(values, i16::to_le_bytes),
        TensorData::I32(values) => words(values, i32::to_le_bytes),
        TensorData::I64(values) => words(values, i64::to_le_bytes),
        TensorData::U8(values) => values.to_vec(),
        TensorData::U16(values) => words(values, u16::to_le_bytes),
        TensorData::U32(values) => words(values, u32::to_le_bytes),
        TensorData::U64(values) => words(values, u64::to_le_bytes),
        TensorData::Bool(values) => words(values, |value| [u8::from(value)]),
        TensorData::I4(values) => pairs(values.iter().map(|value| value.cast_unsigned())),
        TensorData::U4(values) => pairs(values.iter().copied()),
        TensorData::String(values) => {
            proto.string_data = values
                .iter()
                .map(|text| text.clone().into_bytes())
                .collect();
            return proto;
        }
    };
    proto.raw_data = Some(raw.into());
    proto
}
