//! The depthwise kernel for AVX-512 with VNNI: 64 bytes of up to 4 neighbouring vectors of outputs.
//!
//! The input under some pixels is interleaved first (see [`interleave`]), then each dot instruction does four kernel rows of one column. Where rows of the
//! output are neighbours, four interleaved rows serve more than one of them: two of a kernel of three rows, with weights moved down by one row for the
//! second. Sums come in the order of [`mod@super::super::pack`]'s depthwise form, since interleaving works within 128-bit lanes, and packing to bytes restores
//! the order of the channels. Blocks of 64 channels have one pixel a vector; blocks of up to 16 or 32 channels, which would leave most of a vector empty,
//! have 4 or 2, with weights, bias and multipliers repeated for each.

#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

mod bytes;
mod interleave;
mod others;

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::finish::{Finish, channel_mask};
use super::super::pack::{PANEL, depthwise_quads};
use super::{Channels, Layer, MAX_ROWS, row_offsets};
use crate::conv::offsets::OUTSIDE;
use crate::conv::pixels::{Run, runs};
use crate::conv::shape::ConvShape;
use crate::conv::{OutputSlice, OutputStage};
use crate::shared::layout::x86::transpose_quarters;
use interleave::{COLUMN, Geometry, QUARTER};

/// Bytes of a vector.
const WIDTH: usize = 64;

/// Runs of pixels, of one output row each, that are computed for some channels before the next ones: what channels have in common is prepared once
/// for all of them.
const RUNS: usize = 8;

/// Bytes of scratch memory that [`run`] takes; `None` where they overflow, and 0 where [`run`] does not take the kernel.
pub(super) fn scratch_len(shape: &ConvShape) -> Option<usize> {
    let Some(geometry) = Geometry::new(shape) else {
        return Some(0);
    };
    let weights = geometry.weights_len(shape)?;
    geometry.len()?.checked_add(weights)?.checked_add(WIDTH)
}

/// Computes a range of pixels; gives `false`, and computes nothing, for kernels that are too tall or too wide.
///
/// # Safety
/// The invariants of [`Layer`] hold, `output` has all channels of these pixels, of the type that the stage gives, `scratch` has [`scratch_len`]
/// bytes, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run(
    layer: &Layer<'_>,
    pixels: Range<usize>,
    output: &mut OutputSlice<'_>,
    scratch: &mut [u8],
) -> bool {
    let Some(geometry) = Geometry::new(layer.shape) else {
        return false;
    };
    let aligned = scratch.as_ptr().align_offset(WIDTH);
    let (lines, weights) = scratch[aligned..].split_at_mut(geometry.len().unwrap_or(0));
    let (lines, weights) = (lines.as_mut_ptr(), weights.as_mut_ptr());
    let finish = match layer.stage {
        OutputStage::Quantized(stage) => Some(Finish::new(stage)),
        _ => None,
    };
    let plain = finish.as_ref().filter(|finish| finish.residual.is_none());
    let mut all = runs(layer.sizes, pixels.clone()).map(|run| {
        let mut offsets = [OUTSIDE; MAX_ROWS];
        row_offsets(layer.shape, &run, &mut offsets[..4 * geometry.quads]);
        Line { run, offsets }
    });
    loop {
        let mut group = [const { Line::EMPTY }; RUNS];
        let mut count = 0;
        for (place, line) in group.iter_mut().zip(&mut all) {
            *place = line;
            count += 1;
        }
        if count == 0 {
            return true;
        }
        let lines_of_group = &group[..count];
        for first in (0..layer.channels).step_by(WIDTH) {
            let count = (layer.channels - first).min(WIDTH);
            let channels = Channels { first, count };
            let block = Block {
                layer,
                geometry: &geometry,
                channels,
                lines,
                weights,
            };
            // SAFETY: passed on from the caller; these channels exist, and a block's weights are placed for the bytes that it has for a pixel.
            unsafe {
                match (plain, count, &mut *output) {
                    (
                        Some(finish),
                        count,
                        OutputSlice::Bytes(data) | OutputSlice::Strided(data, _),
                    ) => {
                        let data = data.as_mut_ptr();
                        match count {
                            ..=16 if geometry.packs => {
                                bytes::block::<16>(&block, finish, lines_of_group, data);
                            }
                            17..=32 if geometry.packs => {
                                bytes::block::<32>(&block, finish, lines_of_group, data);
                            }
                            _ => bytes::block::<64>(&block, finish, lines_of_group, data),
                        }
                    }
                    (_, _, output) => {
                        let first = pixels.start;
                        others::block(&block, finish.as_ref(), lines_of_group, first, output);
                    }
                }
            }
        }
    }
}

/// A run of pixels of one output row, with the input rows under it.
struct Line {
    run: Run,
    /// The rows under the kernel, and rows behind them up to a multiple of four.
    offsets: [u32; MAX_ROWS],
}

impl Line {
    const EMPTY: Self = Self {
        run: Run {
            first: 0,
            len: 0,
            image: 0,
            y: 0,
            x: 0,
        },
        offsets: [OUTSIDE; MAX_ROWS],
    };

    /// Whether `below` has the same columns of the row that is `rows` below.
    fn is_above(&self, below: &Self, rows: usize) -> bool {
        let (this, below) = (&self.run, &below.run);
        (this.image, this.y + rows, this.x, this.len) == (below.image, below.y, below.x, below.len)
    }
}

/// Up to 64 channels of a layer.
#[derive(Clone, Copy)]
struct Block<'a> {
    layer: &'a Layer<'a>,
    geometry: &'a Geometry,
    channels: Channels,
    /// The interleaved input.
    lines: *mut u8,
    /// The weights as [`Block::place_weights`] has placed them: `[rows down][kernel column][kernel row / 4][quarter][64 bytes]`.
    weights: *mut u8,
}

impl Block<'_> {
    /// Places the weights for pixels of `COUNT` bytes, once for each output row that an interleaved input serves: moved down by a kernel row
    /// more each time.
    ///
    /// # Safety
    /// The channels exist, [`Self::weights`] has [`Geometry::weights_len`] bytes, and the processor has the features.
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn place_weights<const COUNT: usize>(&self) {
        let shape = self.layer.shape;
        let groups = depthwise_quads(shape);
        let stride = self.channels.count.next_multiple_of(16);
        let mask = u64::MAX >> (WIDTH - stride);
        // A block starts after the whole blocks before it, 64 channels each.
        let packed = &self.layer.packed[self.channels.first * groups * 4..];
        debug_assert!(packed.len() >= groups * 4 * stride);
        let quads = self.geometry.quads;
        for down in 0..self.geometry.serves {
            let bits = _mm_cvtsi32_si128(8 * down as i32);
            let rest = _mm_cvtsi32_si128(32 - 8 * down as i32);
            let to = self.weights.wrapping_add(down * groups * 4 * WIDTH);
            let mut above = [_mm512_setzero_si512(); 4];
            for group in 0..groups {
                if group.is_multiple_of(quads) {
                    above = [_mm512_setzero_si512(); 4];
                }
                for (j, above) in above.iter_mut().enumerate() {
                    // SAFETY: there is a quarter for each group, of `stride` bytes, and a place for each group of each of these rows; masked
                    // lanes are not read.
                    unsafe {
                        let from = packed.as_ptr().add((group * 4 + j) * stride);
                        let weights = match COUNT {
                            WIDTH => _mm512_maskz_loadu_epi8(mask, from.cast()),
                            _ => repeated::<COUNT>(from),
                        };
                        // The last rows of the four above, which shifting by all bits leaves out, and the first ones of these.
                        let moved = _mm512_sll_epi32(weights, bits);
                        let moved = _mm512_or_si512(moved, _mm512_srl_epi32(*above, rest));
                        let to = to.add((group * 4 + j) * WIDTH);
                        _mm512_storeu_si512(to.cast(), moved);
                        *above = weights;
                    }
                }
            }
        }
    }

    /// A constant of each channel in the order of the sums, for pixels of `COUNT` bytes: `all` are those of all channels.
    ///
    /// # Safety
    /// There is a constant for each channel, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn constants<const COUNT: usize>(&self, all: *const i32) -> [__m512i; 4] {
        let Channels { first, count } = self.channels;
        let panels = [0, 1, 2, 3].map(|panel| {
            let before = panel * PANEL % COUNT;
            let mask = channel_mask(count.saturating_sub(before));
            // SAFETY: passed on from the caller; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_epi32(mask, all.wrapping_add(first + before)) }
        });
        // Quarter `j` of each panel is one of vector `j`.
        transpose_quarters(panels)
    }

    /// A lane for each channel.
    fn mask(&self) -> u64 {
        u64::MAX >> (WIDTH - self.channels.count)
    }

    /// The sums of `T` pixels of 64 channels from `pixel` on, for any kernel.
    ///
    /// # Safety
    /// As [`wide_sums`].
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn wide_sums<const T: usize>(
        &self,
        pixel: usize,
        weights: *const u8,
        bias: [__m512i; 4],
    ) -> [[__m512i; 4]; T] {
        let (shape, geometry) = (self.layer.shape, self.geometry);
        let place = |group: usize, tap: usize| {
            let column = group * geometry.columns + pixel * shape.stride_w + tap * shape.dilation_w;
            self.lines.wrapping_add(column * COLUMN).cast_const()
        };
        let taps = Taps {
            quads: geometry.quads,
            width: shape.kernel_w,
        };
        let steps = Steps {
            vector: shape.stride_w * COLUMN,
            quarter: WIDTH,
        };
        // SAFETY: passed on from the caller.
        unsafe { sums(taps, steps, place, weights, bias) }
    }

    /// The weights for the output that is `down` rows below.
    #[inline(always)]
    fn weights(&self, down: usize) -> *const u8 {
        let groups = depthwise_quads(self.layer.shape);
        self.weights.wrapping_add(down * groups * 4 * WIDTH)
    }
}

/// The sums of `T` pixels of 64 channels, on top of `bias`: of a kernel of `SIZE` rows and columns without holes. `lines` are the interleaved columns from the
/// first pixel's on, with a group of four kernel rows every `quad` bytes.
///
/// # Safety
/// The input under these pixels was interleaved, the weights are those of a block, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn wide_sums<const T: usize, const SIZE: usize, const STRIDE: usize>(
    lines: *const u8,
    quad: usize,
    weights: *const u8,
    bias: [__m512i; 4],
) -> [[__m512i; 4]; T] {
    let mut acc = [bias; T];
    let quads = SIZE.div_ceil(4);
    for group in 0..quads {
        let lines = lines.wrapping_add(group * quad);
        for column in 0..(T - 1) * STRIDE + SIZE {
            // SAFETY: passed on from the caller.
            let values: [__m512i; 4] = std::array::from_fn(|j| unsafe {
                _mm512_loadu_si512(lines.add(column * COLUMN + j * WIDTH).cast())
            });
            for t in 0..T {
                // Wraps to a large number left of the kernel.
                let tap = column.wrapping_sub(t * STRIDE);
                if tap < SIZE {
                    let weights = weights.wrapping_add((tap * quads + group) * 4 * WIDTH);
                    for j in 0..4 {
                        // SAFETY: passed on from the caller.
                        let weights = unsafe { _mm512_loadu_si512(weights.add(j * WIDTH).cast()) };
                        acc[t][j] = _mm512_dpbusd_epi32(acc[t][j], values[j], weights);
                    }
                }
            }
        }
    }
    acc
}

/// The groups of four rows and the columns of a kernel.
#[derive(Clone, Copy)]
struct Taps {
    quads: usize,
    width: usize,
}

/// The bytes from one vector and from one quarter of interleaved input to the next. Small enough to be passed in registers, as [`Taps`] is.
#[derive(Clone, Copy)]
struct Steps {
    vector: usize,
    quarter: usize,
}

/// The sums of `T` vectors for any kernel, on top of `bias`. `place` gives the values of a group of four kernel rows and a kernel column for the first
/// vector.
///
/// # Safety
/// As [`wide_sums`].
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn sums<const T: usize>(
    taps: Taps,
    steps: Steps,
    place: impl Fn(usize, usize) -> *const u8,
    weights: *const u8,
    bias: [__m512i; 4],
) -> [[__m512i; 4]; T] {
    let (Taps { quads, width }, Steps { vector, quarter }) = (taps, steps);
    let mut acc = [bias; T];
    for group in 0..quads {
        for tap in 0..width {
            let from = place(group, tap);
            let weights = weights.wrapping_add((tap * quads + group) * 4 * WIDTH);
            for j in 0..4 {
                // SAFETY: passed on from the caller.
                unsafe {
                    let weights = _mm512_loadu_si512(weights.add(j * WIDTH).cast());
                    for t in 0..T {
                        let values = from.add(j * quarter + t * vector);
                        let values = _mm512_loadu_si512(values.cast());
                        acc[t][j] = _mm512_dpbusd_epi32(acc[t][j], values, weights);
                    }
                }
            }
        }
    }
    acc
}

/// A kernel for narrow blocks: its groups of four rows, its columns, their dilation, and the horizontal stride, 1 or 2.
#[derive(Clone, Copy)]
struct NarrowKernel {
    quads: usize,
    width: usize,
    dilation: usize,
    stride: usize,
}

/// The sums of `T` vectors of pixels of up to `COUNT` channels; `lines` are the interleaved columns from the first pixel's on.
///
/// # Safety
/// As [`wide_sums`].
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn narrow_sums<const T: usize, const COUNT: usize>(
    lines: *const u8,
    kernel: NarrowKernel,
    weights: *const u8,
    bias: [__m512i; 4],
) -> [[__m512i; 4]; T] {
    let NarrowKernel {
        quads,
        width,
        dilation,
        stride,
    } = kernel;
    let place = |group: usize, tap: usize| {
        let (phase, before) = match stride {
            1 => (0, tap * dilation),
            _ => (tap * dilation % 2, tap * dilation / 2),
        };
        lines.wrapping_add((group * stride + phase) * 4 * QUARTER + before * COUNT)
    };
    let steps = Steps {
        vector: WIDTH,
        quarter: QUARTER,
    };
    // SAFETY: passed on from the caller.
    unsafe { sums(Taps { quads, width }, steps, place, weights, bias) }
}

/// `COUNT` bytes, over and over.
///
/// # Safety
/// They are readable, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn repeated<const COUNT: usize>(bytes: *const u8) -> __m512i {
    // SAFETY: passed on from the caller.
    unsafe {
        match COUNT {
            16 => _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.cast())),
            32 => _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.cast())),
            _ => _mm512_loadu_si512(bytes.cast()),
        }
    }
}
