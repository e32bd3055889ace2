//! The element types of tensors.

use std::fmt;

/// The type of a tensor's elements. The numbers are those of ONNX `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// 32-bit float.
    F32 = 1,
    /// Unsigned 8-bit integer.
    U8 = 2,
    /// Signed 8-bit integer.
    I8 = 3,
    /// Unsigned 16-bit integer.
    U16 = 4,
    /// Signed 16-bit integer.
    I16 = 5,
    /// Signed 32-bit integer.
    I32 = 6,
    /// Signed 64-bit integer.
    I64 = 7,
    /// UTF-8 string.
    String = 8,
    /// Boolean.
    Bool = 9,
    /// IEEE 16-bit float.
    F16 = 10,
    /// 64-bit float.
    F64 = 11,
    /// Unsigned 32-bit integer.
    U32 = 12,
    /// Unsigned 64-bit integer.
    U64 = 13,
    /// bfloat16.
    BF16 = 16,
    /// Unsigned 4-bit integer, one element a byte in memory.
    U4 = 21,
    /// Signed 4-bit integer, one element a byte in memory.
    I4 = 22,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::String,
        Self::Bool,
        Self::F16,
        Self::F64,
        Self::U32,
        Self::U64,
        Self::BF16,
        Self::U4,
        Self::I4,
    ];

    /// The number of ONNX `TensorProto.DataType`.
    pub const fn onnx(self) -> i32 {
        self as i32
    }

    /// The type with a number of ONNX `TensorProto.DataType`, when it is one of ours.
    pub fn from_onnx(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.onnx() == code)
    }

    /// The name in the ONNX text syntax: `float`, `uint8`, ….
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::String => "string",
            Self::Bool => "bool",
            Self::F16 => "float16",
            Self::F64 => "double",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::BF16 => "bfloat16",
            Self::U4 => "uint4",
            Self::I4 => "int4",
        }
    }

    /// The type with a name of the ONNX text syntax.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The bytes of one element in memory; `None` for strings.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool | Self::U4 | Self::I4 => Some(1),
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => Some(2),
            Self::F32 | Self::I32 | Self::U32 => Some(4),
            Self::F64 | Self::I64 | Self::U64 => Some(8),
            Self::String => None,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }

    /// Whether the elements are integers (booleans are not).
    pub const fn is_integer(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool | Self::String)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
