//! The integer types that a quantized value may have, and their ranges.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An integer type that holds quantized values.
///
/// The names are those of ONNX; [`FromStr`] also accepts torch's `quint8` and `qint8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantType {
    /// Unsigned 4 bits, 0..=15.
    Uint4,
    /// Signed 4 bits, -8..=7.
    Int4,
    /// Unsigned 8 bits, 0..=255: the default of activations.
    Uint8,
    /// Signed 8 bits, -128..=127: the default of weights.
    Int8,
    /// Unsigned 16 bits, 0..=65535.
    Uint16,
    /// Signed 16 bits, -32768..=32767.
    Int16,
    /// Signed 32 bits: biases and accumulators.
    Int32,
}

impl QuantType {
    /// The smallest value that the type holds.
    pub const fn min(self) -> i32 {
        match self {
            Self::Uint4 | Self::Uint8 | Self::Uint16 => 0,
            Self::Int4 => -8,
            Self::Int8 => -128,
            Self::Int16 => -32768,
            Self::Int32 => i32::MIN,
        }
    }

    /// The largest value that the type holds.
    pub const fn max(self) -> i32 {
        match self {
            Self::Uint4 => 15,
            Self::Int4 => 7,
            Self::Uint8 => 255,
            Self::Int8 => 127,
            Self::Uint16 => 65535,
            Self::Int16 => 32767,
            Self::Int32 => i32::MAX,
        }
    }

    /// The width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Uint4 | Self::Int4 => 4,
            Self::Uint8 | Self::Int8 => 8,
            Self::Uint16 | Self::Int16 => 16,
            Self::Int32 => 32,
        }
    }

    /// Whether the type has negative values.
    pub const fn is_signed(self) -> bool {
        self.min() < 0
    }

    /// The name of ONNX: `uint8`, `int8`, ….
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uint4 => "uint4",
            Self::Int4 => "int4",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
        }
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error of parsing a [`QuantType`] from a name that no quantized type has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no quantized type; the types are uint4, int4, uint8, int8, uint16, int16 and int32"
)]
pub struct UnknownQuantType(pub String);

impl FromStr for QuantType {
    type Err = UnknownQuantType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "uint4" | "quint4" => Self::Uint4,
            "int4" | "qint4" => Self::Int4,
            "uint8" | "quint8" => Self::Uint8,
            "int8" | "qint8" => Self::Int8,
            "uint16" | "quint16" => Self::Uint16,
            "int16" | "qint16" => Self::Int16,
            "int32" | "qint32" => Self::Int32,
            _ => return Err(UnknownQuantType(name.to_owned())),
        })
    }
}
