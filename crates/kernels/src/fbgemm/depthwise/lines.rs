//! Where the input rows under one output row start: what the kernel for AVX2 needs for its addresses.

use super::{MAX_ROWS, Segment};
use crate::conv::offsets::OUTSIDE;

/// The rows for the channels from `first` on.
pub(super) struct Lines {
    /// The first channel of the block.
    pub(super) first: usize,
    /// Channel `first` of the first pixel of each row; of the zero row where there is none.
    start: [*const u8; MAX_ROWS],
    /// All ones, or zero where the row is the zero row: it has one pixel only.
    mask: [usize; MAX_ROWS],
    zero: *const u8,
}

/// A column of the input: which one, and whether it is in the image.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) inside: bool,
    pub(super) offset: usize,
}

impl Lines {
    /// The table for a segment of at most [`MAX_ROWS`] rows and a channel that it has.
    pub(super) fn new(segment: &Segment<'_>, first: usize) -> Self {
        let zero = segment.layer.zero[first..].as_ptr();
        let mut lines = Self {
            first,
            start: [zero; MAX_ROWS],
            mask: [0; MAX_ROWS],
            zero,
        };
        for (row, &offset) in segment.rows.iter().enumerate() {
            if offset != OUTSIDE {
                lines.start[row] = segment.layer.input[offset as usize + first..].as_ptr();
                lines.mask[row] = usize::MAX;
            }
        }
        lines
    }

    /// The column `x` of the image, or none where `x` is in the padding.
    #[inline(always)]
    pub(super) fn column(segment: &Segment<'_>, x: isize) -> Column {
        Column {
            inside: x >= 0 && (x as usize) < segment.layer.shape.in_w,
            offset: (x as usize).wrapping_mul(segment.layer.channels),
        }
    }

    /// The channels of one pixel: all channels of the block are readable there.
    #[inline(always)]
    pub(super) fn pixel(&self, row: usize, column: Column) -> *const u8 {
        if column.inside {
            self.start[row].wrapping_add(column.offset & self.mask[row])
        } else {
            self.zero
        }
    }
}
