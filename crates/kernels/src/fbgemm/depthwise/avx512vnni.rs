//! The depthwise kernel for AVX-512 with VNNI: 64 channels of up to 4 neighbouring outputs.
//!
//! For each column of the input under the tile, four kernel rows are loaded (64 channels each) and
//! interleaved to dwords of four taps with eight unpacks; the result serves every output of the tile that has
//! this column under its kernel. Unpacks work within 128-bit lanes, so the sums come in the order of
//! [`mod@super::super::pack`]'s depthwise form, and packing to bytes restores the order of the channels.
//! Where the kernel reaches outside of the image, the zero row is loaded instead.
//! Registers: 16 sums, 4 interleaved vectors, 8 temporaries; weights are memory operands.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::finish::{Finish, FloatFinish, is_plain};
use super::super::pack::depthwise_quads;
use super::Segment;
use super::{MAX_ROWS, narrow};
use crate::conv::output::{Float, OutputStage, store_float_row};
use crate::conv::tile::OUTSIDE;
use crate::shared::layout::x86::transpose_quarters;

/// Channels of a block.
const WIDTH: usize = 64;

/// Computes the pixels of one run.
///
/// # Safety
/// The invariants of [`Segment`] hold, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn segment(mut segment: Segment<'_>) {
    if segment.rows.len() > MAX_ROWS {
        return super::scalar::segment(segment);
    }
    let (pixels, shape) = (segment.pixels, segment.shape);
    let size = (shape.kernel_h, shape.kernel_w, shape.stride_w);
    let (rows, inside) = (Rows::new(&segment), inside(&segment));
    for first in (0..segment.channels).step_by(WIDTH) {
        let block = Block::new(&segment, &rows, first);
        // Few channels of several pixels fill a vector; all but the pixels at the borders are computed so.
        let narrow = narrow::tiles(&segment, first, &inside);
        let mut pixel = 0;
        while pixel < pixels {
            if !narrow.is_empty() && pixel == narrow.start {
                // SAFETY: passed on from the caller.
                pixel = unsafe { narrow::run(&mut segment, &block, narrow.clone()) };
                continue;
            }
            let before_narrow = pixel < narrow.start;
            // Columns are shared between outputs only where the kernel has no holes. The last tile may
            // compute pixels a second time, which is cheaper than single ones.
            let wide = shape.dilation_w == 1 && pixels >= 4 && !before_narrow;
            let (start, each) = if wide {
                (pixel.min(pixels - 4), 4)
            } else {
                (pixel, 1)
            };
            let plain = block.mask == u64::MAX && inside.contains(&start);
            // As many tiles in succession as are alike.
            let (loads, tiles) = if plain && start + each <= inside.end {
                (PLAIN, (inside.end - start) / each)
            } else if block.mask == u64::MAX {
                (BORDER, 1)
            } else {
                (PARTIAL, 1)
            };
            let segment = &mut segment;
            // SAFETY: passed on from the caller; the pixels and the channels exist, and the size is that of
            // the shape.
            unsafe {
                match (wide, size) {
                    (true, (3, 3, 1)) => run::<4, 3, 3, 1>(segment, &block, start, loads, tiles),
                    (true, (3, 3, 2)) => run::<4, 3, 3, 2>(segment, &block, start, loads, tiles),
                    (true, (5, 5, 1)) => run::<4, 5, 5, 1>(segment, &block, start, loads, tiles),
                    (true, (5, 5, 2)) => run::<4, 5, 5, 2>(segment, &block, start, loads, tiles),
                    (true, _) => run::<4, 0, 0, 0>(segment, &block, start, loads, tiles),
                    (false, _) => run::<1, 0, 0, 0>(segment, &block, start, loads, tiles),
                }
            }
            pixel = start + tiles * each;
        }
    }
}

/// All 64 channels exist, and the kernel is inside of the image.
const PLAIN: u8 = 0;
/// All 64 channels exist.
const BORDER: u8 = 1;
/// There are fewer channels.
const PARTIAL: u8 = 2;

/// The pixels of a run whose kernel lies inside of the image, rows and columns.
fn inside(segment: &Segment<'_>) -> Range<usize> {
    let shape = segment.shape;
    if segment.rows[..shape.kernel_h].contains(&OUTSIDE) {
        return 0..0;
    }
    let stride = shape.stride_w as isize;
    let reach = ((shape.kernel_w - 1) * shape.dilation_w) as isize;
    let first = (stride - 1 - segment.x).max(0) / stride;
    // The number of pixels whose last column lies in the image, if there is one.
    let end = (shape.in_w as isize - 1 - reach - segment.x + stride).max(0) / stride;
    let end = end.min(segment.pixels as isize);
    first as usize..end.max(first) as usize
}

/// The input rows under the pixels of a segment.
pub(super) struct Rows {
    /// The first pixel of each; anything where the row is outside of the image.
    pub(super) start: [*const u8; MAX_ROWS],
    /// Whether the row is inside of the image.
    inside: [bool; MAX_ROWS],
}

impl Rows {
    fn new(segment: &Segment<'_>) -> Self {
        let mut rows = Self {
            start: [segment.input.as_ptr(); MAX_ROWS],
            inside: [false; MAX_ROWS],
        };
        for (row, &offset) in segment.rows.iter().enumerate() {
            if offset != OUTSIDE {
                rows.start[row] = segment.input[offset as usize..].as_ptr();
                rows.inside[row] = true;
            }
        }
        rows
    }
}

/// Up to 64 channels of a segment.
pub(super) struct Block<'a> {
    pub(super) rows: &'a Rows,
    /// The first channel.
    pub(super) first: usize,
    /// The channels that exist.
    mask: u64,
    /// The channels of the packed weights, and the distance of their quarters.
    weight_mask: u64,
    weight_stride: usize,
    /// What is read outside of the image.
    zero: *const u8,
    /// The constants of a quantized stage.
    pub(super) finish: Option<Finish>,
    has_residual: bool,
    /// See [`is_plain`].
    pub(super) plain: bool,
}

impl<'a> Block<'a> {
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn new(segment: &Segment<'_>, rows: &'a Rows, first: usize) -> Self {
        let count = (segment.channels - first).min(WIDTH);
        let weight_stride = count.next_multiple_of(16);
        let stage = match segment.stage {
            OutputStage::Quantized(stage) => Some(stage),
            _ => None,
        };
        let multiplier = &segment.multiplier[first..][..WIDTH];
        let multiplier = [0, 1, 2, 3].map(|j| {
            let multiplier = &multiplier[j * 16..][..16];
            // SAFETY: 16 numbers are as large as a vector.
            unsafe { _mm512_loadu_ps(multiplier.as_ptr()) }
        });
        Self {
            rows,
            first,
            mask: lanes(count),
            weight_mask: lanes(weight_stride),
            weight_stride,
            zero: segment.zero[first..].as_ptr(),
            finish: stage.map(|stage| Finish::new(stage)),
            has_residual: stage.is_some_and(|stage| stage.residual.is_some()),
            plain: stage.is_some_and(|stage| is_plain(stage, multiplier)),
        }
    }
}

/// Picks the block for the way of loading and the type of the activations.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn run<const T: usize, const H: usize, const W: usize, const S: usize>(
    segment: &mut Segment<'_>,
    of: &Block<'_>,
    pixel: usize,
    loads: u8,
    tiles: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (loads, segment.signed) {
            (PLAIN, false) => block::<T, PLAIN, false, H, W, S>(segment, of, pixel, tiles),
            (PLAIN, true) => block::<T, PLAIN, true, H, W, S>(segment, of, pixel, tiles),
            (BORDER, false) => block::<T, BORDER, false, H, W, S>(segment, of, pixel, tiles),
            (BORDER, true) => block::<T, BORDER, true, H, W, S>(segment, of, pixel, tiles),
            (_, false) => block::<T, PARTIAL, false, H, W, S>(segment, of, pixel, tiles),
            (_, true) => block::<T, PARTIAL, true, H, W, S>(segment, of, pixel, tiles),
        }
    }
}

/// Computes `tiles` tiles of `T` pixels from `pixel` on, for the channels of a block. `LOADS` is [`PLAIN`], [`BORDER`] or
/// [`PARTIAL`].
///
/// `H` and `W` are the height and width of the kernel and `S` is the horizontal stride, so that the loops of common kernels unroll; all three
/// are 0 for any other size.
///
/// # Safety
/// The invariants of [`Segment`] hold, `of` was made of it, the pixels exist, the dilation is 1 where `T` is not, and the processor has the
/// features.
#[inline(never)]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn block<
    const T: usize,
    const LOADS: u8,
    const SIGNED: bool,
    const H: usize,
    const W: usize,
    const S: usize,
>(
    segment: &mut Segment<'_>,
    of: &Block<'_>,
    first_pixel: usize,
    tiles: usize,
) {
    let Segment {
        shape, channels, ..
    } = *segment;
    let (height, width, stride) = if H == 0 {
        (shape.kernel_h, shape.kernel_w, shape.stride_w)
    } else {
        (H, W, S)
    };
    let quads = height.div_ceil(4);
    let whole = LOADS != PARTIAL;
    let weight_stride = if whole { WIDTH } else { of.weight_stride };
    // A channel block starts after the whole blocks before it, 64 channels each.
    let weights = segment.packed[of.first * depthwise_quads(shape) * 4..].as_ptr();
    // The ordered bias has an entry for all lanes of a block.
    let bias: [__m512i; 4] = std::array::from_fn(|j| match segment.stage {
        OutputStage::Quantized(_) => {
            let bias = &segment.bias[of.first + j * 16..][..16];
            // SAFETY: 16 numbers are as large as a vector.
            unsafe { _mm512_loadu_si512(bias.as_ptr().cast()) }
        }
        _ => _mm512_setzero_si512(),
    });
    let flip = _mm512_set1_epi8(-128);
    let multiplier = segment.multiplier[of.first..][..WIDTH].as_ptr();
    for pixel in (first_pixel..).step_by(T).take(tiles) {
        let mut acc = [bias; T];
        let start = segment.x + (pixel * stride) as isize;
        for column in 0..(T - 1) * stride + width {
            let x = start + (column * shape.dilation_w) as isize;
            let offset = x
                .wrapping_mul(channels as isize)
                .wrapping_add(of.first as isize);
            let column_inside = (0..shape.in_w as isize).contains(&x);
            for quad in 0..quads {
                let load = |row: usize| {
                    // The weights behind the last row are zero, so that any value serves there.
                    let row = (quad * 4 + row).min(height - 1);
                    let from = if LOADS == PLAIN || (column_inside && of.rows.inside[row]) {
                        of.rows.start[row].wrapping_offset(offset)
                    } else {
                        of.zero
                    };
                    // SAFETY: inside of the image and in the zero row, the channels are readable. Masked lanes are not read.
                    let bytes = unsafe {
                        if whole {
                            _mm512_loadu_si512(from.cast())
                        } else {
                            _mm512_maskz_loadu_epi8(of.mask, from.cast())
                        }
                    };
                    if SIGNED {
                        _mm512_xor_si512(bytes, flip)
                    } else {
                        bytes
                    }
                };
                let (r0, r1, r2) = (load(0), load(1), load(2));
                let r3 = if quad * 4 + 3 < height { load(3) } else { r2 };
                let (low01, high01) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
                let (low23, high23) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
                let values = [
                    _mm512_unpacklo_epi16(low01, low23),
                    _mm512_unpackhi_epi16(low01, low23),
                    _mm512_unpacklo_epi16(high01, high23),
                    _mm512_unpackhi_epi16(high01, high23),
                ];
                for t in 0..T {
                    // Wraps to a large number left of the kernel.
                    let tap = column.wrapping_sub(t * stride);
                    if tap < width {
                        // SAFETY: the packed weights have this group of four taps.
                        let weights =
                            unsafe { weights.add((tap * quads + quad) * 4 * weight_stride) };
                        for j in 0..4 {
                            // SAFETY: it has four quarters of `weight_stride` bytes; masked lanes are not read.
                            let weights = unsafe {
                                let from = weights.add(j * weight_stride);
                                if whole {
                                    _mm512_loadu_si512(from.cast())
                                } else {
                                    _mm512_maskz_loadu_epi8(of.weight_mask, from.cast())
                                }
                            };
                            acc[t][j] = _mm512_dpbusd_epi32(acc[t][j], values[j], weights);
                        }
                    }
                }
            }
        }
        let Some(finish) = of.finish.as_ref().filter(|_| !of.has_residual) else {
            let mut sums = [[_mm512_setzero_si512(); 4]; T];
            for t in 0..T {
                for j in 0..4 {
                    // SAFETY: a place in `sums`. Copied one by one, the sums above have no address and stay in registers.
                    unsafe { (&raw mut sums[t][j]).write_volatile(acc[t][j]) };
                }
            }
            // SAFETY: passed on from the caller.
            unsafe { store(segment, of, pixel, &sums) };
            continue;
        };
        // Each pixel by its number, for the same reason.
        macro_rules! store {
            ($plain:literal: $($t:literal)*) => {
                $(if $t < T {
                    let steps = [0, 1, 2, 3].map(|j| {
                        // SAFETY: there are 64 multipliers.
                        let multiplier = unsafe { _mm512_loadu_ps(multiplier.add(j * 16)) };
                        finish.steps::<$plain>(acc[$t % T][j], multiplier)
                    });
                    let bytes = finish.bytes::<$plain>(steps);
                    let output = segment.bytes.as_mut_ptr();
                    // SAFETY: the output has all channels of this pixel; masked lanes are not written.
                    unsafe {
                        let output = output.add((pixel + $t) * channels + of.first);
                        if whole {
                            _mm512_storeu_si512(output.cast(), bytes);
                        } else {
                            _mm512_mask_storeu_epi8(output.cast(), of.mask, bytes);
                        }
                    }
                })*
            };
        }
        if of.plain {
            store!(true: 0 1 2 3);
        } else {
            store!(false: 0 1 2 3);
        }
    }
}

/// Passes the sums of a block, in which a quantized stage's bias is included, through the output stage.
///
/// # Safety
/// As [`block`], for as many pixels as `sums` has.
#[inline(never)]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store(segment: &mut Segment<'_>, of: &Block<'_>, pixel: usize, sums: &[[__m512i; 4]]) {
    let (first, mask) = (of.first, of.mask);
    let channels = segment.channels;
    let (stage, finish) = match (segment.stage, &of.finish) {
        (OutputStage::Float(stage), _) => {
            // SAFETY: passed on from the caller.
            return unsafe { store_floats(segment, stage, of, pixel, sums) };
        }
        (OutputStage::FloatRows(_), _) | (_, None) => {
            let shift = if segment.signed { 128 } else { 0 };
            let count = mask.count_ones() as usize;
            for (t, sums) in sums.iter().enumerate() {
                let at = (pixel + t) * channels + first;
                let output = &mut segment.floats[at..at + count];
                let row = (segment.row + pixel + t, shift);
                store_float_row(segment.stage, &in_order(sums)[..count], row, first, output);
            }
            return;
        }
        (OutputStage::Quantized(stage), Some(finish)) => (stage, finish),
    };
    let multiplier = &segment.multiplier[first..first + WIDTH];
    for (t, sums) in sums.iter().enumerate() {
        let residual = stage.residual.map_or(_mm512_setzero_si512(), |residual| {
            let at = (segment.row + pixel + t) * channels + first;
            // SAFETY: the residual has all channels of this pixel; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_epi8(mask, residual.data.as_ptr().add(at).cast()) }
        });
        let value = |j: usize| {
            // SAFETY: the slice has 64 elements.
            let multiplier = unsafe { _mm512_loadu_ps(multiplier.as_ptr().add(j * 16)) };
            let Some(stage) = &finish.residual else {
                return finish.steps::<false>(sums[j], multiplier);
            };
            let q = j as i32;
            let order =
                _mm512_setr_epi32(q, q + 4, q + 8, q + 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let bytes = _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, residual));
            finish.steps_with::<false>(sums[j], multiplier, stage, bytes)
        };
        let bytes = finish.bytes::<false>([value(0), value(1), value(2), value(3)]);
        let at = (pixel + t) * channels + first;
        // SAFETY: the output has all channels of this pixel; masked lanes are not written.
        unsafe {
            let output = segment.bytes.as_mut_ptr().add(at);
            if mask == u64::MAX {
                _mm512_storeu_si512(output.cast(), bytes);
            } else {
                _mm512_mask_storeu_epi8(output.cast(), mask, bytes);
            }
        }
    }
}

/// Stores the floats of [`store`].
///
/// # Safety
/// As [`store`]; the stage is that of the segment.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store_floats(
    segment: &mut Segment<'_>,
    stage: &Float<'_>,
    of: &Block<'_>,
    pixel: usize,
    sums: &[[__m512i; 4]],
) {
    let (channels, count) = (segment.channels, of.mask.count_ones() as usize);
    let of_panel = |panel: usize| (count.saturating_sub(panel * 16)).min(16);
    let panels = [0, 1, 2, 3].map(|panel| {
        let last = of.first + count - 1;
        let channel = (of.first + panel * 16).min(last);
        // SAFETY: the stage has constants for each channel.
        unsafe { FloatFinish::new(stage, channel, of_panel(panel)) }
    });
    for (t, &sums) in sums.iter().enumerate() {
        // Quarter `panel` of each vector has four of its channels.
        let sums = transpose_quarters(sums);
        let output = &mut segment.floats[(pixel + t) * channels + of.first..][..count];
        for (panel, (finish, sums)) in panels.iter().zip(sums).enumerate() {
            let output = output.as_mut_ptr().wrapping_add(panel * 16);
            // SAFETY: these are the channels.
            unsafe { finish.store(finish.corrected(sums), output) };
        }
    }
}

/// The sums in the order of the channels.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(acc: &[__m512i; 4]) -> [i32; WIDTH] {
    let mut sums = [0; WIDTH];
    for (j, &acc) in acc.iter().enumerate() {
        let mut quarter = [0_i32; 16];
        // SAFETY: 16 numbers are as large as a vector.
        unsafe { _mm512_storeu_si512(quarter.as_mut_ptr().cast(), acc) };
        for (panel, four) in quarter.chunks_exact(4).enumerate() {
            sums[panel * 16 + j * 4..][..4].copy_from_slice(four);
        }
    }
    sums
}

/// A mask of the first `count` of 64 bytes.
fn lanes(count: usize) -> u64 {
    if count >= WIDTH {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
