//! The memory that decoding the metadata of a plan takes, computed before decoding.
//!
//! Two bytes of protobuf can be an empty message of hundreds of bytes. The scan walks over tags and lengths without allocating. It refuses metadata that would
//! take more memory than plans of that length do. It leaves malformed metadata to the decoder, which reports them.

use super::generated as message;

/// The number of bytes that decoding may take: a constant, and an amount for each byte of the metadata. A plan of many small
/// dimensions takes 13 times its length.
const BASE: usize = 64 << 20;
const FACTOR: usize = 24;

/// A type of message: the memory for one, and its fields that contain messages.
struct Kind {
    size: usize,
    fields: &'static [(u64, &'static Kind)],
}

macro_rules! kinds {
    ($($kind:ident $type:ty { $($number:literal: $field:ident),* })*) => {$(
        static $kind: Kind = Kind {
            size: size_of::<$type>(),
            fields: &[$(($number, &$field)),*],
        };
    )*};
}

kinds! {
    PLAN message::Plan { 5: ENTRY, 7: OUTPUT, 8: VALUE, 9: CONSTANT, 10: STEP, 11: STATE, 12: PLAN }
    ENTRY message::Entry {}
    STATE message::State {}
    OPERAND message::Operand {}
    OUTPUT message::Output { 2: OPERAND }
    DIM message::Dim { 4: DIM }
    SHAPE message::Shape { 1: DIM }
    VALUE message::Value { 3: SHAPE }
    CONSTANT message::Constant {}
    STEP message::Step { 5: ATTRIBUTE, 7: OPERAND }
    ATTRIBUTE message::Attribute { 5: TENSOR, 6: LIST, 7: LIST, 8: LIST }
    TENSOR message::Tensor {}
    LIST message::Strings {}
}

/// Whether decoding the metadata takes no more memory than plans do.
pub(super) fn fits(metadata: &[u8]) -> bool {
    let limit = metadata.len().saturating_mul(FACTOR).saturating_add(BASE);
    let mut taken = 0;
    // A malformed message ends the walk, and will end the decoding.
    walk(&PLAN, metadata, &mut taken, limit, 0);
    taken <= limit
}

/// Adds the memory that a message takes; `None` when the walk ends.
fn walk(
    kind: &Kind,
    mut bytes: &[u8],
    taken: &mut usize,
    limit: usize,
    depth: usize,
) -> Option<()> {
    // The decoder stops at a hundred nested messages.
    if depth > 100 {
        return None;
    }
    *taken = taken.saturating_add(kind.size);
    while !bytes.is_empty() {
        if *taken > limit {
            return None;
        }
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            // A number may be one of a list.
            0 => {
                varint(&mut bytes)?;
                *taken = taken.saturating_add(size_of::<u64>());
            }
            1 => bytes = bytes.get(8..)?,
            5 => bytes = bytes.get(4..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (field, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                match kind.fields.iter().find(|(number, _)| *number == tag >> 3) {
                    Some((_, child)) => walk(child, field, taken, limit, depth + 1)?,
                    // A text, or a list of numbers, each of at least a byte.
                    None => {
                        let bytes = length.saturating_mul(size_of::<u64>());
                        *taken = taken
                            .saturating_add(size_of::<String>())
                            .saturating_add(bytes);
                    }
                }
            }
            _ => return None,
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_messages_by_the_million_are_refused() {
        let steps = [10_u8 << 3 | 2, 0].repeat(1 << 20);
        assert!(!fits(&steps));
        assert!(fits(&steps[..1 << 12]));
        // Dimensions inside one shape.
        let mut field = [1_u8 << 3 | 2, 0].repeat(1 << 23);
        for number in [3_u8, 8] {
            let mut outer = vec![number << 3 | 2];
            prost::encoding::encode_varint(field.len() as u64, &mut outer);
            outer.append(&mut field);
            field = outer;
        }
        assert!(!fits(&field));
    }

    #[test]
    fn what_is_malformed_is_left_to_the_decoder() {
        for bytes in [&[0x52_u8, 9][..], &[0xff; 20], &[0x52], &[3]] {
            assert!(fits(bytes));
        }
    }
}
