//! Where the taps of every output pixel of an image are.
//!
//! QNNPACK's indirection buffer, relocatable: `[tap][output pixel]` offsets of 32 bits into an image, made once for
//! a shape; the table of a large image is made strip by strip while it is computed instead, so that it never takes
//! more memory than weights do. Taps outside of the image name an extra row of zero points. Where a tap has no multiple of four channels,
//! kernels read up to three bytes more than it has (times weights of zero), and for the last pixels of an
//! image, behind which there may be nothing, the table names extra rows that hold copies of them.

use std::ops::Range;

use super::pack::quads;
use crate::KernelError;
use crate::conv::offsets::{EXTRA, EXTRA_BYTES, OUTSIDE};
use crate::conv::pixels::offset_table;
use crate::conv::shape::CheckedShape;
use crate::conv::tile::wide_len;

/// Entries of a table that is kept: 128 KiB, as much as a 3x3 convolution over 60 x 60 pixels takes.
const KEPT: usize = 1 << 15;

/// Entries of a table that is made for a strip: 64 KiB, which the nearest caches hold.
const STRIP: usize = 1 << 14;

/// A multiple of the heights of all tiles.
const GRAIN: usize = 24;

/// The table of offsets of a convolution that is not depthwise: 4 bytes for each tap of each output pixel of one image.
#[derive(Debug)]
pub(crate) struct Indirection {
    sizes: CheckedShape,
    /// The table of an image; empty where each strip has its own.
    offsets: Vec<u32>,
    /// Output pixels of an image.
    pub(super) pixels: usize,
    /// Output pixels that have a table together: all of an image where the table is kept.
    pub(super) strip: usize,
    /// The last pixels of an image that have extra rows: the first of them has row 1.
    copied: Range<usize>,
    /// Bytes of an extra row.
    pub(super) extra_len: usize,
}

impl Indirection {
    /// Makes the table of a convolution.
    ///
    /// # Errors
    /// When offsets cannot name the extra rows.
    pub(crate) fn new(sizes: &CheckedShape) -> Result<Self, KernelError> {
        let shape = &sizes.shape;
        let pixels = sizes.out_lines * sizes.out_w;
        let in_pixels = sizes.in_lines * shape.in_w;
        let entries = pixels.saturating_mul(sizes.taps);
        let kept = entries <= KEPT;
        let strip = if kept {
            pixels
        } else {
            let strip = (STRIP / sizes.taps).next_multiple_of(GRAIN);
            strip.max(GRAIN).min(pixels)
        };
        // Bytes of the last group that kernels read but a pixel does not have: at most three.
        let beyond = 4 * quads(sizes) - sizes.group_in;
        let copied = in_pixels.saturating_sub(beyond.div_ceil(shape.in_c))..in_pixels;
        let mut indirection = Self {
            sizes: *sizes,
            offsets: Vec::new(),
            pixels,
            strip,
            copied,
            extra_len: (4 * quads(sizes)).next_multiple_of(64),
        };
        if indirection.extras_len() > EXTRA_BYTES as usize {
            let what = "the channels of a group";
            return Err(KernelError::TooLarge { what });
        }
        if kept {
            let mut offsets = vec![0; entries];
            indirection.fill_table(0..pixels, &mut offsets);
            indirection.offsets = offsets;
        }
        Ok(indirection)
    }

    /// The table of a strip of an image, `[tap][pixel]`, and its entries a tap; made in `scratch` when it is not kept.
    pub(super) fn table<'a>(
        &'a self,
        pixels: Range<usize>,
        scratch: &'a mut [u32],
    ) -> (&'a [u32], usize) {
        if self.offsets.is_empty() {
            self.fill_table(pixels.clone(), scratch);
            return (scratch, pixels.len());
        }
        (&self.offsets[pixels.start..], self.pixels)
    }

    fn fill_table(&self, pixels: Range<usize>, table: &mut [u32]) {
        let table = &mut table[..pixels.len() * self.sizes.taps];
        offset_table(&self.sizes, pixels, table);
        if self.copied.is_empty() {
            return;
        }
        // All fit, since the input is addressed with 32 bits, and extra rows are for fewer than four channels.
        let first = (self.copied.start * self.sizes.shape.in_c) as u32;
        let (channels, extra_len) = (self.sizes.shape.in_c as u32, self.extra_len as u32);
        for offset in table {
            if *offset >= first && *offset != OUTSIDE {
                *offset = EXTRA + (1 + (*offset - first) / channels) * extra_len;
            }
        }
    }

    /// The bytes of the table that is kept.
    pub(crate) fn table_bytes(&self) -> usize {
        4 * self.offsets.len()
    }

    /// The bytes of scratch memory that a call needs, whatever the ranges.
    pub(crate) fn scratch_len(&self) -> usize {
        self.extras_len() + self.wide_len() + self.table_len() * 4 + 4
    }

    /// Bytes of the extra rows.
    pub(super) fn extras_len(&self) -> usize {
        (1 + self.copied.len()) * self.extra_len
    }

    /// Bytes of the widened rows of a tile.
    pub(super) fn wide_len(&self) -> usize {
        wide_len(self.strip, self.sizes.taps, quads(&self.sizes))
    }

    /// Entries of a table in scratch.
    fn table_len(&self) -> usize {
        if self.offsets.is_empty() {
            self.strip * self.sizes.taps
        } else {
            0
        }
    }

    /// Fills the extra rows: of zero points, and of the last pixels of an image from the first channel of a group on.
    pub(super) fn fill_extras(&self, image: &[u8], group: usize, zero: u8, extras: &mut [u8]) {
        let (zeros, copies) = extras.split_at_mut(self.extra_len);
        zeros.fill(zero);
        let starts = self
            .copied
            .clone()
            .map(|pixel| pixel * self.sizes.shape.in_c);
        for (row, start) in copies.chunks_exact_mut(self.extra_len).zip(starts) {
            let from = &image[start + group * self.sizes.group_in..];
            let len = from.len().min(row.len());
            row[..len].copy_from_slice(&from[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::ConvShape;

    fn indirection(shape: &ConvShape) -> Indirection {
        let sizes = shape.check().expect("a valid shape");
        Indirection::new(&sizes).expect("few channels")
    }

    #[test]
    fn only_pixels_whose_last_bytes_are_missing_have_copies() {
        let copies = |channels, groups| {
            let shape = ConvShape {
                groups,
                ..ConvShape::pointwise(4, 4, channels, 2 * groups).with_kernel(3, 1, 1)
            };
            indirection(&shape).copied
        };
        assert_eq!(copies(4, 1), 16..16);
        assert_eq!(copies(8, 2), 16..16);
        assert_eq!(copies(3, 1), 15..16);
        assert_eq!(copies(1, 1), 13..16);
        assert_eq!(copies(2, 1), 15..16);
        assert_eq!(copies(6, 2), 15..16);
    }

    #[test]
    fn borders_name_the_zero_row() {
        let shape = ConvShape::pointwise(2, 2, 4, 8).with_kernel(3, 1, 1);
        let table = indirection(&shape);
        let outside: Vec<_> = (0..9)
            .map(|tap| table.offsets[tap * 4] == OUTSIDE)
            .collect();
        let expected = [true, true, true, true, false, false, true, false, false];
        assert_eq!(outside, expected);
        assert_eq!(table.offsets[4 * 4..5 * 4], [0, 4, 8, 12]);
    }
}
