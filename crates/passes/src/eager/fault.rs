//! Faults of an eager-mode configuration, and what to write instead.

use std::fmt;

/// Something in an [`EagerConfig`](super::EagerConfig) that cannot be done, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EagerFault {
    /// A name of a row that does not mean one operator.
    Member {
        /// The row, as written.
        row: String,
        /// The name.
        name: String,
        /// What it finds, or what is nearest.
        candidates: Vec<String>,
        /// Whether it finds several.
        several: bool,
    },
    /// Two neighbours of a fuse list that are not neighbours in the graph.
    NotAdjacent {
        /// The row, as written.
        row: String,
        /// The operator.
        first: String,
        /// The one that does not read its result.
        second: String,
    },
    /// A result inside of a fuse list that others read as well.
    ReadElsewhere {
        /// The row, as written.
        row: String,
        /// The operator whose result it is.
        name: String,
        /// The other readers; `an output` for one of the model.
        readers: Vec<String>,
    },
    /// Operators that no fusion knows.
    UnknownPattern {
        /// The row, as written.
        row: String,
        /// Its operator types.
        pattern: String,
    },
    /// An operator in two fuse lists.
    Overlap {
        /// The second row, as written.
        row: String,
        /// The operator.
        name: String,
    },
    /// A fuse list that a condition of the fusion forbids.
    NotFused {
        /// The row, as written.
        row: String,
        /// The condition.
        reason: String,
    },
    /// A row of layers whose channels cannot be equalized.
    NotEqualized {
        /// The row, as written.
        row: String,
        /// Why not.
        reason: String,
    },
    /// A stub at a value that does not exist.
    UnknownValue {
        /// `quant_stub` or `dequant_stub`.
        stub: &'static str,
        /// The name.
        value: String,
        /// Values with names like it.
        nearest: Vec<String>,
    },
    /// A stub that changes nothing.
    UselessStub {
        /// `quant_stub` or `dequant_stub`.
        stub: &'static str,
        /// The value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// A value of integers at an operator that computes in float.
    QuantizedReachesFloat {
        /// The value.
        value: String,
        /// The operator.
        node: String,
        /// Its type.
        operator: String,
        /// Why it computes in float.
        reason: String,
        /// The layer that it could be fused with.
        fuse_with: Option<String>,
    },
    /// A float value at a quantized layer.
    FloatReachesQuantized {
        /// The value.
        value: String,
        /// The operator.
        node: String,
        /// Its type.
        operator: String,
    },
    /// An output of the model that would be integers.
    QuantizedOutput {
        /// The value.
        value: String,
    },
    /// A qconfig that the engine cannot honour.
    QConfig {
        /// The setting.
        setting: String,
        /// The operator.
        node: String,
        /// Why not.
        reason: String,
    },
    /// A qconfig for a name that finds nothing.
    UnknownModule {
        /// The setting.
        setting: String,
        /// The names nearest to it.
        nearest: Vec<String>,
    },
}

impl fmt::Display for EagerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member {
                row,
                name,
                candidates,
                several: true,
            } => write!(
                f,
                "{}: `{name}` finds {} operators; write the name of one: `{}`",
                row,
                candidates.len(),
                candidates.join("`, `")
            ),
            Self::Member {
                row,
                name,
                candidates,
                ..
            } => write!(
                f,
                "{}: `{name}` finds no operator; the nearest names are `{}`",
                row,
                candidates.join("`, `")
            ),
            Self::NotAdjacent { row, first, second } => write!(
                f,
                "{}: `{second}` does not read the result of `{first}`; a row names operators that follow each other",
                row
            ),
            Self::ReadElsewhere { row, name, readers } => write!(
                f,
                "{}: the result of `{name}` is also read by `{}`, which fusing would take away",
                row,
                readers.join("`, `")
            ),
            Self::UnknownPattern { row, pattern } => write!(
                f,
                "{}: {pattern} is no known pattern; known are Conv or a linear layer, then BatchNormalization, Relu or Clip \
                 or both in this order; ConvTranspose and BatchNormalization; Add, Mul or BatchNormalization and then Relu or Clip",
                row
            ),
            Self::Overlap { row, name } => {
                write!(f, "{}: `{name}` is in another fuse row as well", row)
            }
            Self::NotFused { row, reason } | Self::NotEqualized { row, reason } => {
                write!(f, "{}: {reason}", row)
            }
            Self::UnknownValue {
                stub,
                value,
                nearest,
            } => write!(
                f,
                "{stub} `{value}`: there is no such value outside of fused groups; the nearest are `{}`",
                nearest.join("`, `")
            ),
            Self::UselessStub {
                stub,
                value,
                reason,
            } => write!(f, "{stub} `{value}`: {reason}"),
            Self::QuantizedReachesFloat {
                value,
                node,
                operator,
                reason,
                fuse_with,
            } => {
                write!(
                    f,
                    "the quantized value `{value}` reaches `{node}` ({operator}), which computes in float ({reason}); write: \
                     dequant_stub = [\"{value}\"]"
                )?;
                match fuse_with {
                    Some(layer) => write!(f, ", or fuse = [[\"{layer}\", \"{node}\"]]"),
                    None => Ok(()),
                }
            }
            Self::FloatReachesQuantized {
                value,
                node,
                operator,
            } => write!(
                f,
                "the float value `{value}` reaches the quantized `{node}` ({operator}); write: \
                 quant_stub = [{{ value = \"{value}\", qconfig = … }}], or qconfig \"none\" for `{node}`"
            ),
            Self::QuantizedOutput { value } => write!(
                f,
                "the output `{value}` is quantized; write: dequant_stub = [\"{value}\"]"
            ),
            Self::QConfig {
                setting,
                node,
                reason,
            } => {
                write!(f, "{setting} cannot be honoured for `{node}`: {reason}")
            }
            Self::UnknownModule { setting, nearest } => write!(
                f,
                "the setting `{setting}` matches nothing in the model; the nearest names are `{}`",
                nearest.join("`, `")
            ),
        }
    }
}
