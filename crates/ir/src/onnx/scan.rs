//! A look at the bytes of a file before they are decoded.
//!
//! The wire format of protobuf makes two bytes into a message of hundreds, and nests as deep as the file is long. Decoders
//! check neither. [`scan()`] walks over all tags and lengths without allocating, and compares what decoding would
//! make with a [`Budget`]. It follows messages by a table of the fields that hold messages or packed numbers; everything else is skipped
//! by its length, as a decoder does. Groups, which ONNX never had, are refused.

use bytes::Bytes;
use prost::Message;

use super::budget::{Budget, raise};
use super::proto;

/// Why bytes are no model that may be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The bytes end within a field.
    #[error("byte {offset}: the file is truncated within a field of {message}")]
    Truncated {
        /// Where the field begins.
        offset: usize,
        /// The message that holds it.
        message: &'static str,
    },
    /// A length that exceeds the message around it.
    #[error(
        "byte {offset}: field {field} of {message} has a length of {length} bytes, which exceeds the {left} that are left"
    )]
    Length {
        /// Where the field begins.
        offset: usize,
        /// The message that holds it.
        message: &'static str,
        /// The number of the field.
        field: u64,
        /// The length it claims.
        length: u64,
        /// The bytes that the message still has.
        left: usize,
    },
    /// A varint of more than 64 bits.
    #[error("byte {offset}: invalid varint in {message}, it has more than 64 bits (overflow)")]
    Varint {
        /// Where the field begins.
        offset: usize,
        /// The message that holds it.
        message: &'static str,
    },
    /// A tag that no field can have.
    #[error("byte {offset}: invalid tag {tag} in {message}")]
    Tag {
        /// Where the field begins.
        offset: usize,
        /// The message that holds it.
        message: &'static str,
        /// The tag.
        tag: u64,
    },
    /// A group, a form of nesting that ONNX does not use.
    #[error(
        "byte {offset}: {message} holds a group (field {field}); groups and their nesting are not supported"
    )]
    Group {
        /// Where the field begins.
        offset: usize,
        /// The message that holds it.
        message: &'static str,
        /// The number of the field.
        field: u64,
    },
    /// Messages that are nested too deeply.
    #[error(
        "byte {offset}: the nesting depth of messages exceeds the limit of {limit} ({})",
        raise("depth")
    )]
    Depth {
        /// Where the innermost message begins.
        offset: usize,
        /// The limit.
        limit: usize,
    },
    /// More of something than the budget allows.
    #[error(
        "the file holds too many {what}: the limit is {limit} ({})",
        raise(name)
    )]
    Budget {
        /// The name of the budget.
        name: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The decoder refuses the bytes.
    #[error("the file cannot be decoded: {0}")]
    Decode(prost::DecodeError),
}

/// Scans a file and decodes it.
///
/// # Errors
/// When the bytes are no ONNX model or exceed the budget.
pub fn decode(bytes: Bytes, budget: &Budget) -> Result<proto::ModelProto, ScanError> {
    scan(&bytes, budget)?;
    proto::ModelProto::decode(bytes).map_err(ScanError::Decode)
}

/// Checks the tags, lengths and depth of a file and what decoding it takes.
///
/// # Errors
/// When the bytes are malformed or exceed the budget.
pub fn scan(bytes: &[u8], budget: &Budget) -> Result<(), ScanError> {
    scan_as(&MODEL, bytes, budget)
}

/// As [`scan()`], of one serialized tensor.
pub(super) fn scan_tensor(bytes: &[u8], budget: &Budget) -> Result<(), ScanError> {
    scan_as(&TENSOR, bytes, budget)
}

fn scan_as(kind: &'static Kind, bytes: &[u8], budget: &Budget) -> Result<(), ScanError> {
    let size = bytes.len() as u64;
    within(size, "file-bytes", "bytes", budget.file_bytes)?;
    let decoded_limit = budget
        .decoded_bytes
        .saturating_add(size.saturating_mul(budget.decoded_factor));
    let mut scanner = Scanner {
        bytes,
        budget,
        decoded_limit,
        messages: 0,
        entries: 0,
        decoded: 0,
    };
    scanner.message(kind, 0, bytes.len(), 1)
}

/// A message: its name, the memory that one takes, and the fields that are more than text or a number.
struct Kind {
    name: &'static str,
    size: usize,
    fields: &'static [(u64, Field)],
}

/// A field whose contents the scan looks at.
enum Field {
    /// A message.
    Message(&'static Kind),
    /// Numbers, with the bytes of memory that each byte of the file may take.
    Packed(u64),
}

macro_rules! kinds {
    ($($kind:ident $type:ident { $($number:literal: $field:expr),* $(,)? })*) => {$(
        static $kind: Kind = kind::<proto::$type>(stringify!($type), &[$(($number, $field)),*]);
    )*};
}

use Field::{Message as M, Packed};

kinds! {
    MODEL ModelProto { 7: M(&GRAPH), 8: M(&OPSET_ID), 14: M(&ENTRY), 20: M(&TRAINING), 25: M(&FUNCTION), 26: M(&DEVICES) }
    GRAPH GraphProto {
        1: M(&NODE), 5: M(&TENSOR), 11: M(&VALUE_INFO), 12: M(&VALUE_INFO), 13: M(&VALUE_INFO), 14: M(&ANNOTATION), 15: M(&SPARSE), 16: M(&ENTRY),
    }
    NODE NodeProto { 5: M(&ATTRIBUTE), 9: M(&ENTRY), 10: M(&NODE_DEVICES) }
    ATTRIBUTE AttributeProto {
        5: M(&TENSOR), 6: M(&GRAPH), 7: Packed(1), 8: Packed(8), 10: M(&TENSOR), 11: M(&GRAPH), 14: M(&TYPE), 15: M(&TYPE), 22: M(&SPARSE), 23: M(&SPARSE),
    }
    TENSOR TensorProto { 1: Packed(8), 3: M(&SEGMENT), 4: Packed(1), 5: Packed(4), 7: Packed(8), 10: Packed(1), 11: Packed(8), 13: M(&ENTRY), 16: M(&ENTRY) }
    SPARSE SparseTensorProto { 1: M(&TENSOR), 2: M(&TENSOR), 3: Packed(8) }
    VALUE_INFO ValueInfoProto { 2: M(&TYPE), 4: M(&ENTRY) }
    TYPE TypeProto { 1: M(&TENSOR_TYPE), 4: M(&TYPE_OF), 5: M(&MAP_TYPE), 7: M(&ENTRY), 8: M(&TENSOR_TYPE), 9: M(&TYPE_OF) }
    SHAPE TensorShapeProto { 1: M(&DIMENSION) }
    FUNCTION FunctionProto { 7: M(&NODE), 9: M(&OPSET_ID), 11: M(&ATTRIBUTE), 12: M(&VALUE_INFO), 14: M(&ENTRY) }
    ANNOTATION TensorAnnotation { 2: M(&ENTRY) }
    TRAINING TrainingInfoProto { 1: M(&GRAPH), 2: M(&GRAPH), 3: M(&ENTRY), 4: M(&ENTRY) }
    ENTRY StringStringEntryProto {}
    OPSET_ID OperatorSetIdProto {}
    DEVICES DeviceConfigurationProto {}
    NODE_DEVICES NodeDeviceConfigurationProto { 2: M(&SHARDING) }
    SHARDING ShardingSpecProto { 2: Packed(8), 3: M(&INT_ENTRY), 4: M(&SHARDED_DIM) }
    INT_ENTRY IntIntListEntryProto { 2: Packed(8) }
    SHARDED_DIM ShardedDimProto { 2: M(&SIMPLE_DIM) }
    SIMPLE_DIM SimpleShardedDimProto {}
}

static SEGMENT: Kind = kind::<proto::tensor_proto::Segment>("TensorProto.Segment", &[]);
static DIMENSION: Kind =
    kind::<proto::tensor_shape_proto::Dimension>("TensorShapeProto.Dimension", &[]);
static TENSOR_TYPE: Kind = kind::<proto::type_proto::Tensor>("TypeProto.Tensor", &[(2, M(&SHAPE))]);
static TYPE_OF: Kind = kind::<proto::TypeProto>("TypeProto.Sequence", &[(1, M(&TYPE))]);
static MAP_TYPE: Kind = kind::<proto::TypeProto>("TypeProto.Map", &[(2, M(&TYPE))]);

const fn kind<T>(name: &'static str, fields: &'static [(u64, Field)]) -> Kind {
    let size = size_of::<T>();
    Kind { name, size, fields }
}

fn within(found: u64, name: &'static str, what: &'static str, limit: u64) -> Result<(), ScanError> {
    if found > limit {
        return Err(ScanError::Budget { name, what, limit });
    }
    Ok(())
}

struct Scanner<'a> {
    bytes: &'a [u8],
    budget: &'a Budget,
    decoded_limit: u64,
    messages: u64,
    entries: u64,
    decoded: u64,
}

impl Scanner<'_> {
    /// Scans `bytes[at..end]` as a message. The recursion is as deep as the budget allows.
    fn message(
        &mut self,
        kind: &'static Kind,
        mut at: usize,
        end: usize,
        depth: usize,
    ) -> Result<(), ScanError> {
        if depth > self.budget.depth {
            return Err(ScanError::Depth {
                offset: at,
                limit: self.budget.depth,
            });
        }
        self.messages += 1;
        within(self.messages, "messages", "messages", self.budget.messages)?;
        self.take(kind.size as u64)?;
        while at < end {
            let offset = at;
            let message = kind.name;
            let truncated = || ScanError::Truncated { offset, message };
            let tag = self.varint(&mut at, end, offset, message)?;
            let (field, wire) = (tag >> 3, tag & 7);
            if field == 0 || field >= 1 << 29 {
                return Err(ScanError::Tag {
                    offset,
                    message,
                    tag,
                });
            }
            match wire {
                0 => {
                    self.varint(&mut at, end, offset, message)?;
                    self.entry(8)?;
                }
                1 | 5 => {
                    let width = if wire == 1 { 8 } else { 4 };
                    at = at
                        .checked_add(width)
                        .filter(|&next| next <= end)
                        .ok_or_else(truncated)?;
                    self.entry(8)?;
                }
                2 => {
                    let length = self.varint(&mut at, end, offset, message)?;
                    let left = end - at;
                    let next = usize::try_from(length)
                        .ok()
                        .filter(|&length| length <= left)
                        .map(|length| at + length);
                    let Some(next) = next else {
                        return Err(ScanError::Length {
                            offset,
                            message,
                            field,
                            length,
                            left,
                        });
                    };
                    let known = kind.fields.iter().find(|(number, _)| *number == field);
                    match known {
                        Some((_, Field::Message(child))) => {
                            self.message(child, at, next, depth + 1)?
                        }
                        Some((_, Field::Packed(factor))) => {
                            self.take(length.saturating_mul(*factor))?
                        }
                        None => {
                            self.entry(size_of::<String>() as u64)?;
                            self.take(length)?;
                        }
                    }
                    at = next;
                }
                3 | 4 => {
                    return Err(ScanError::Group {
                        offset,
                        message,
                        field,
                    });
                }
                _ => {
                    return Err(ScanError::Tag {
                        offset,
                        message,
                        tag,
                    });
                }
            }
        }
        Ok(())
    }

    fn varint(
        &self,
        at: &mut usize,
        end: usize,
        offset: usize,
        message: &'static str,
    ) -> Result<u64, ScanError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = match self.bytes.get(*at) {
                Some(&byte) if *at < end => byte,
                _ => return Err(ScanError::Truncated { offset, message }),
            };
            *at += 1;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ScanError::Varint { offset, message })
    }

    fn entry(&mut self, bytes: u64) -> Result<(), ScanError> {
        self.entries += 1;
        within(self.entries, "entries", "entries", self.budget.entries)?;
        self.take(bytes)
    }

    fn take(&mut self, bytes: u64) -> Result<(), ScanError> {
        self.decoded = self.decoded.saturating_add(bytes);
        within(
            self.decoded,
            "decoded-bytes",
            "bytes when decoded",
            self.decoded_limit,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        scan(bytes, &Budget::default()).unwrap_err().to_string()
    }

    #[test]
    fn malformed_bytes_are_refused_where_they_are() {
        assert!(refused(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f]).contains("exceeds"));
        assert!(refused(&[0x3a, 4, 0x0a, 3, 1, 2]).contains("exceeds the 2"));
        assert!(refused(&[0x08]).contains("truncated"));
        assert!(
            refused(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1])
                .contains("varint")
        );
        assert!(
            refused(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).contains("varint")
        );
        assert!(refused(&[0x00]).contains("tag"));
        assert!(refused(&[0x0f]).contains("tag"));
        assert!(refused(&[0x1b; 1000]).contains("group"));
        assert!(
            scan(
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                &Budget::default()
            )
            .is_ok()
        );
        assert!(scan(&[], &Budget::default()).is_ok());
    }

    /// A model with `levels` graphs, each in an attribute of a node of the one before.
    fn nested(levels: usize) -> Vec<u8> {
        let field = |tag: u8, contents: &[u8]| {
            let mut bytes = vec![tag];
            prost::encoding::encode_varint(contents.len() as u64, &mut bytes);
            bytes.extend(contents);
            bytes
        };
        let mut graph = Vec::new();
        for _ in 0..levels {
            graph = field(0x0a, &field(0x2a, &field(0x32, &graph)));
        }
        field(0x3a, &graph)
    }

    #[test]
    fn the_budget_bounds_depth_and_amplification() {
        assert!(refused(&nested(40)).contains("depth"));
        assert!(scan(&nested(3), &Budget::default()).is_ok());

        let empty_nodes: Vec<u8> = [0x0a, 0].repeat(1_000_000);
        let mut model = vec![0x3a_u8];
        prost::encoding::encode_varint(empty_nodes.len() as u64, &mut model);
        model.extend(&empty_nodes);
        assert!(refused(&model).contains("too many"));
    }
}
