//! What the depthwise kernel for AVX-512 reads: the input under some pixels, four kernel rows of a column and channel in one dword.
//!
//! Each input byte is interleaved once for all kernel columns that see it, and padding is written like any other column, so that the kernel that
//! follows has neither shuffles nor borders. Dwords come in quarters: four channels of each panel of 16, as in the packed weights.
//!
//! - Of up to 64 channels ([`wide`]): `[kernel row / 4][column][quarter][64 bytes]`.
//! - Of up to 16 or 32 channels ([`narrow`]), several pixels a vector: `[kernel row / 4][phase][quarter][column][16 bytes a panel]`, where the columns of
//!   a phase are those that one kernel column sees as the pixels go by, one every stride. So a vector of neighbouring pixels is one load.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::super::pack::depthwise_quads;
use super::super::MAX_ROWS;
use super::{Block, Line, WIDTH};
use crate::conv::offsets::OUTSIDE;
use crate::conv::shape::ConvShape;

/// Bytes of a column of up to 64 channels.
pub(super) const COLUMN: usize = 4 * WIDTH;

/// Columns that are interleaved at a time, unless the kernel alone is wider: they stay in the first cache.
const COLUMNS: usize = 36;

/// The widest kernel, holes included, and the widest step over four pixels: what is interleaved takes a few MiB then.
const MAX_SPAN: usize = 1 << 14;

/// Bytes of a quarter of narrow columns; behind the last one the rest of a vector is written.
pub(super) const QUARTER: usize = COLUMNS * WIDTH;

/// How much is interleaved at a time.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    /// Groups of four kernel rows.
    pub(super) quads: usize,
    /// Columns of up to 64 channels.
    pub(super) columns: usize,
    /// Columns under the kernel, holes included.
    span: usize,
    /// Whether narrow blocks have several pixels a vector.
    pub(super) packs: bool,
    /// Output rows below each other that one interleaved input serves.
    pub(super) serves: usize,
}

impl Geometry {
    /// For a kernel that is neither too tall nor too wide, of a shape that was checked.
    pub(super) fn new(shape: &ConvShape) -> Option<Self> {
        let span = (shape.kernel_w - 1) * shape.dilation_w + 1;
        // Four pixels, or all of fewer.
        let three = (shape.out_w()? - 1).min(3) * shape.stride_w;
        if shape.kernel_h > MAX_ROWS || span.max(three) > MAX_SPAN {
            return None;
        }
        // A wide kernel would interleave more columns around the pixels than under them, if these were few.
        let least = span + three.max(span.min(shape.in_w).next_multiple_of(4));
        let quads = shape.kernel_h.div_ceil(4);
        Some(Self {
            quads,
            columns: least.max(COLUMNS),
            span,
            packs: shape.stride_w <= 2 && span <= 24,
            serves: match (shape.stride_h, shape.dilation_h) {
                (1, 1) => 4 * quads - shape.kernel_h + 1,
                _ => 1,
            },
        })
    }

    /// Bytes of the weights of a block.
    pub(super) fn weights_len(&self, shape: &ConvShape) -> Option<usize> {
        let groups = depthwise_quads(shape).checked_mul(self.serves)?;
        groups.checked_mul(4 * WIDTH)
    }

    /// Bytes of the interleaved input.
    pub(super) fn len(&self) -> Option<usize> {
        // Narrow columns have up to two phases.
        let columns = self.columns.max(2 * COLUMNS);
        self.quads.checked_mul(COLUMN)?.checked_mul(columns)
    }

    /// The most pixels of up to 64 channels that have room: a multiple of four, or all of fewer.
    pub(super) fn wide_pixels(&self, stride: usize) -> usize {
        let more = self.columns - self.span;
        let pixels = match stride {
            1 => more,
            2 => more / 2,
            stride => more / stride,
        };
        match pixels + 1 {
            few @ ..4 => few,
            many => many / 4 * 4,
        }
    }

    /// The most pixels of up to `COUNT` channels that have room: a multiple of four vectors.
    pub(super) fn narrow_pixels<const COUNT: usize>(&self) -> usize {
        let unit = 4 * WIDTH / COUNT;
        ((QUARTER - WIDTH) / COUNT - self.span) / unit * unit
    }
}

/// Interleaves the input under the pixels `pixels` of a line, for a block of up to 64 channels.
///
/// # Safety
/// The invariants of the block's layer hold; the pixels exist and are at most [`Geometry::wide_pixels`]; the channels exist; there is room for
/// [`Geometry::len`] bytes; the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn wide(block: &Block<'_>, line: &Line, pixels: Range<usize>) {
    let (shape, geometry) = (block.layer.shape, block.geometry);
    let x = column(shape, line.run.x + pixels.start);
    let len = (pixels.len() - 1) * shape.stride_w + geometry.span;
    for quad in 0..geometry.quads {
        // SAFETY: passed on from the caller; there is a place for each group of four rows.
        unsafe {
            let to = block.lines.add(quad * geometry.columns * COLUMN);
            let columns = Columns { x, stride: 1, len };
            interleave::<WIDTH>(block, line, quad, columns, Places::new(to, WIDTH));
        }
    }
}

/// Interleaves the input under the pixels `pixels` of a line, for a block of up to `COUNT` channels, 16 or 32.
///
/// # Safety
/// As [`wide`], but that the pixels are at most [`Geometry::narrow_pixels`] and the channels at most `COUNT`, and the geometry packs pixels.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn narrow<const COUNT: usize>(
    block: &Block<'_>,
    line: &Line,
    pixels: Range<usize>,
) {
    let (shape, geometry) = (block.layer.shape, block.geometry);
    let stride = shape.stride_w;
    let x = column(shape, line.run.x + pixels.start);
    let len = pixels.len() + (geometry.span - 1) / stride;
    for quad in 0..geometry.quads {
        for phase in 0..stride {
            // SAFETY: passed on from the caller; there is a place for each group of four rows and each phase.
            unsafe {
                let to = block.lines.add((quad * stride + phase) * 4 * QUARTER);
                let x = x + phase as isize;
                let columns = Columns { x, stride, len };
                interleave::<COUNT>(block, line, quad, columns, Places::new(to, QUARTER));
            }
        }
    }
}

/// Columns of the input: the first is column `x` of the image, which may be in the padding, and the others are `stride` columns from each other.
#[derive(Clone, Copy)]
struct Columns {
    x: isize,
    stride: usize,
    len: usize,
}

/// Where interleaved vectors are written.
#[derive(Clone, Copy)]
struct Places {
    /// The place of the next vector.
    to: *mut u8,
    /// Bytes from one quarter to the next.
    quarter: usize,
}

impl Places {
    const fn new(to: *mut u8, quarter: usize) -> Self {
        Self { to, quarter }
    }

    /// The places that are `bytes` bytes further.
    #[inline(always)]
    const fn skip(self, bytes: usize) -> Self {
        Self::new(self.to.wrapping_add(bytes), self.quarter)
    }

    /// The place of quarter `j`.
    #[inline(always)]
    const fn quarter(self, j: usize) -> *mut u8 {
        self.to.wrapping_add(j * self.quarter)
    }
}

/// Interleaves columns of four kernel rows.
///
/// # Safety
/// As [`wide`]; there are places for the columns, and for the rest of a vector behind them.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn interleave<const COUNT: usize>(
    block: &Block<'_>,
    line: &Line,
    quad: usize,
    columns: Columns,
    places: Places,
) {
    let Columns { x, stride, len } = columns;
    let (layer, channels, unit) = (block.layer, block.channels, WIDTH / COUNT);
    // Bytes of a column among those of its quarter.
    let column = if COUNT == WIDTH { COLUMN } else { COUNT };
    let (start, end) = inside(columns, layer.shape.in_w);
    let flip = if layer.signed { -128 } else { 0 };
    let zero = _mm512_set1_epi8(layer.zero[0] as i8 ^ flip);
    let fill = |columns: Range<usize>| {
        for i in columns.step_by(unit) {
            for j in 0..4 {
                let to = places.skip(i * column).quarter(j);
                // SAFETY: passed on from the caller.
                unsafe { _mm512_storeu_si512(to.cast(), zero) };
            }
        }
    };
    fill(0..start);
    let distance = stride * layer.channels;
    let mut rows = Rows::new(block, line, quad, x + (start * stride) as isize, distance);
    let whole = channels.count == COUNT;
    let adjacent = whole && (COUNT == WIDTH || (stride == 1 && layer.channels == COUNT));
    let load = match (adjacent, whole) {
        (true, _) => ADJACENT,
        (false, true) => WHOLE,
        (false, false) => MASKED,
    };
    let mut next = places.skip(start * column);
    let mut put = |vectors: usize, load: u8, present: usize| {
        let places = next;
        next = next.skip(vectors * unit * column);
        let mask = block.mask();
        // SAFETY: these columns are in the image, and have places.
        unsafe {
            match (load, layer.signed) {
                (ADJACENT, false) => {
                    rows.put::<COUNT, ADJACENT, false>(vectors, mask, present, places)
                }
                (ADJACENT, true) => {
                    rows.put::<COUNT, ADJACENT, true>(vectors, mask, present, places)
                }
                (WHOLE, false) => rows.put::<COUNT, WHOLE, false>(vectors, mask, present, places),
                (WHOLE, true) => rows.put::<COUNT, WHOLE, true>(vectors, mask, present, places),
                (_, false) => rows.put::<COUNT, MASKED, false>(vectors, mask, present, places),
                (_, true) => rows.put::<COUNT, MASKED, true>(vectors, mask, present, places),
            }
        }
    };
    put((end - start) / unit, load, unit);
    let rest = (end - start) % unit;
    if rest > 0 {
        put(1, MASKED, rest);
    }
    fill(end..len);
}

/// A vector is 64 bytes that follow each other in the image.
const ADJACENT: u8 = 0;
/// A vector is pixels with gaps between them, all bytes of each.
const WHOLE: u8 = 1;
/// A vector is pixels with gaps between them, some bytes of each.
const MASKED: u8 = 2;

/// The column of the input under the first column of the kernel at column `x` of the output; may be in the padding.
fn column(shape: &ConvShape, x: usize) -> isize {
    (x * shape.stride_w) as isize - shape.pad_left as isize
}

/// The start and end of those columns that are in an image of `width` columns.
fn inside(columns: Columns, width: usize) -> (usize, usize) {
    let Columns { x, stride, len } = columns;
    let steps = |length: isize| match (length.max(0) as usize, stride) {
        (length, 1) => length.min(len),
        (length, 2) => length.div_ceil(2).min(len),
        (length, stride) => length.div_ceil(stride).min(len),
    };
    let start = steps(-x);
    (start, steps(width as isize - x).max(start))
}

/// A group of four kernel rows.
struct Rows {
    /// Where the next column is; in the zero row, where the row is outside of the image.
    from: [*const u8; 4],
    /// The distance of two columns; the zero row has one pixel only.
    steps: [usize; 4],
}

impl Rows {
    /// From column `x` of the image on, with a distance of columns.
    #[inline(always)]
    fn new(block: &Block<'_>, line: &Line, quad: usize, x: isize, distance: usize) -> Self {
        let layer = block.layer;
        let at = x.wrapping_mul(layer.channels as isize) + block.channels.first as isize;
        let mut rows = Self {
            from: [layer.zero.as_ptr(); 4],
            steps: [0; 4],
        };
        for (row, &offset) in line.offsets[quad * 4..][..4].iter().enumerate() {
            if offset != OUTSIDE {
                let start = layer.input[offset as usize..].as_ptr();
                rows.from[row] = start.wrapping_offset(at);
                rows.steps[row] = distance;
            }
        }
        rows
    }

    /// Interleaves the next `vectors` vectors of columns, which `LOAD` describes: `mask` are the bytes of a pixel, and `present` the pixels of a masked
    /// vector.
    ///
    /// # Safety
    /// The columns are in the image, and have places; the processor has the features.
    #[inline(never)]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn put<const COUNT: usize, const LOAD: u8, const SIGNED: bool>(
        &mut self,
        vectors: usize,
        mask: u64,
        present: usize,
        Places { mut to, quarter }: Places,
    ) {
        let vector = if COUNT == WIDTH { COLUMN } else { WIDTH };
        let Self { mut from, steps } = *self;
        let same = from[3] == from[2];
        let flip = _mm512_set1_epi8(-128);
        for _ in 0..vectors {
            let mut bytes = [_mm512_setzero_si512(); 4];
            for row in 0..4 {
                if row == 3 && same {
                    bytes[3] = bytes[2];
                    continue;
                }
                // SAFETY: passed on from the caller; masked lanes are not read.
                bytes[row] = unsafe {
                    match LOAD {
                        ADJACENT => _mm512_loadu_si512(from[row].cast()),
                        WHOLE => pixels::<COUNT>(from[row], steps[row]),
                        _ => masked_pixels::<COUNT>(from[row], steps[row], mask, present),
                    }
                };
                if SIGNED {
                    bytes[row] = _mm512_xor_si512(bytes[row], flip);
                }
                from[row] = from[row].wrapping_add(WIDTH / COUNT * steps[row]);
            }
            let [r0, r1, r2, r3] = bytes;
            let (low01, high01) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
            // SAFETY: passed on from the caller.
            unsafe {
                let to = |j: usize| to.add(j * quarter).cast();
                _mm512_storeu_si512(to(0), _mm512_unpacklo_epi16(low01, low23));
                _mm512_storeu_si512(to(1), _mm512_unpackhi_epi16(low01, low23));
                _mm512_storeu_si512(to(2), _mm512_unpacklo_epi16(high01, high23));
                _mm512_storeu_si512(to(3), _mm512_unpackhi_epi16(high01, high23));
            }
            to = to.wrapping_add(vector);
        }
        self.from = from;
    }
}

/// The pixels that fill a vector, one every `distance` bytes, `COUNT` bytes of each.
///
/// # Safety
/// They are readable, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pixels<const COUNT: usize>(from: *const u8, distance: usize) -> __m512i {
    let at = |pixel: usize| from.wrapping_add(pixel * distance);
    // SAFETY: passed on from the caller.
    unsafe {
        match COUNT {
            16 => {
                let pixel = |i: usize| _mm_loadu_si128(at(i).cast());
                let vector = _mm512_castsi128_si512(pixel(0));
                let vector = _mm512_inserti32x4::<1>(vector, pixel(1));
                let vector = _mm512_inserti32x4::<2>(vector, pixel(2));
                _mm512_inserti32x4::<3>(vector, pixel(3))
            }
            32 => {
                let pixel = |i: usize| _mm256_loadu_si256(at(i).cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(pixel(0)), pixel(1))
            }
            _ => _mm512_loadu_si512(from.cast()),
        }
    }
}

/// The first `present` of the pixels that fill a vector, one every `distance` bytes, each in `COUNT` bytes: the bytes of `mask` of each.
///
/// # Safety
/// They are readable, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn masked_pixels<const COUNT: usize>(
    from: *const u8,
    distance: usize,
    mask: u64,
    present: usize,
) -> __m512i {
    // The mask of pixel `pixel`.
    let mask = |pixel: usize| if pixel < present { mask } else { 0 };
    let at = |pixel: usize| from.wrapping_add(pixel * distance);
    // SAFETY: passed on from the caller; masked lanes are not read.
    unsafe {
        match COUNT {
            16 => {
                let pixel = |i: usize| _mm_maskz_loadu_epi8(mask(i) as u16, at(i).cast());
                let vector = _mm512_castsi128_si512(pixel(0));
                let vector = _mm512_inserti32x4::<1>(vector, pixel(1));
                let vector = _mm512_inserti32x4::<2>(vector, pixel(2));
                _mm512_inserti32x4::<3>(vector, pixel(3))
            }
            32 => {
                let pixel = |i: usize| _mm256_maskz_loadu_epi8(mask(i) as u32, at(i).cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(pixel(0)), pixel(1))
            }
            _ => _mm512_maskz_loadu_epi8(mask(0), from.cast()),
        }
    }
}
