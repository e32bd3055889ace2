//! What an offset into the activations means: a byte of the input, or a byte of the extra rows.
//!
//! Offsets have 32 bits. The largest ones name bytes of the extra rows, which hold what a tap outside of the image reads, and copies of
//! pixels behind which too few bytes follow.

/// The first offset that names a byte of the extra rows: offset `EXTRA + i` is byte `i`. No offset into an input is as large; see [`super::shape`].
pub(crate) const EXTRA: u32 = u32::MAX - EXTRA_BYTES + 1;

/// Bytes of extra rows that offsets can name.
pub(crate) const EXTRA_BYTES: u32 = 1 << 24;

/// The offset of the zero row, the first extra row.
pub(crate) const OUTSIDE: u32 = EXTRA;
