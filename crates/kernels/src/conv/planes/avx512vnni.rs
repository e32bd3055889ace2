//! Planes by AVX-512 with VNNI: 16 neighbouring outputs at a time.
//!
//! The rows of a plane become lines of dwords, which hold the byte of a pixel and those of the three rows above it. So one dot product does four
//! rows of the kernel, no byte changes its lane, and a line comes of the one above it by a shift: quantized floats are such dwords already. That is
//! done for a strip of rows at a time, whose lines stay in the first cache.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Plane, Planes};
use crate::Bounds;
use crate::KernelError;
use crate::conv::shape::{CheckedShape, ConvShape, product};
use crate::shared::Target8;
use crate::shared::quantize::avx512::{ALL, LANES, Quantizer, add_differences, first_lanes};

/// Bytes of the lines of a strip, unless one output row takes more.
const STRIP: usize = 12 << 10;

/// Whether this kernel takes the shape; others are left to the portable one.
pub(super) fn takes(shape: &ConvShape) -> bool {
    shape.stride_w <= 2
}

/// The lines in scratch memory: those of a strip, behind the last ones of the strip before it.
pub(super) struct Lines {
    /// Dwords of a line.
    stride: usize,
    /// The dword of the first pixel of a row.
    origin: usize,
    /// Groups of four rows of the kernel.
    groups: usize,
    /// Rows from the first to the last tap of a kernel.
    last_tap: usize,
    /// Lines that are kept of a strip: those under the kernel of the next output, and that from which the next line comes.
    kept: usize,
    /// Output rows of a strip.
    strip: usize,
    /// All lines.
    count: usize,
    /// Their bytes, and what aligns them.
    pub(super) len: usize,
}

impl Lines {
    pub(super) fn new(sizes: &CheckedShape) -> Result<Self, KernelError> {
        let shape = &sizes.shape;
        let what = "the scratch buffer";
        let groups = shape.kernel_h.div_ceil(4);
        let last_tap = product(what, &[shape.kernel_h - 1, shape.dilation_h])?;
        let kept = product(what, &[(4 * (groups - 1)).max(1), shape.dilation_h])?;
        let origin = shape.pad_left.next_multiple_of(LANES);
        let under = product(what, &[shape.kernel_w - 1, shape.dilation_w])?;
        let read = sizes.out_w.next_multiple_of(LANES) * shape.stride_w + under;
        let stride = origin + shape.in_w.max(read).next_multiple_of(LANES);
        let strip = (STRIP / (4 * stride) / shape.stride_h).clamp(1, sizes.out_h);
        // The first strip has the rows up to its last tap, the others as many as they have outputs.
        let count = kept + strip * shape.stride_h + last_tap;
        Ok(Self {
            stride,
            origin,
            groups,
            last_tap,
            kept,
            strip,
            count,
            len: product(what, &[count, stride, 4])? + 64,
        })
    }
}

/// Computes a plane.
///
/// # Safety
/// The invariants of [`Plane`] hold, [`takes`] its shape, `layout` is that of the shape, `output` has its size and `scratch` that of the lines, and the
/// processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn plane(
    plane: &Plane<'_>,
    layout: &Lines,
    output: &mut [f32],
    scratch: &mut [u8],
) {
    let shape = plane.shape;
    let lines = &mut scratch[..layout.len];
    let aligned = lines.as_ptr().align_offset(64);
    // SAFETY: every bit pattern is an i32.
    let (_, lines, _) = unsafe { lines[aligned..].align_to_mut::<i32>() };
    let lines = &mut lines[..layout.count * layout.stride];
    // The padding, and the rows above the first one.
    lines.fill(i32::from_ne_bytes([plane.zero; 4]));
    let compute = match (layout.groups, shape.kernel_w, shape.stride_w) {
        (1, 3, 1) => outputs::<1, 3, 1>,
        (1, 3, _) => outputs::<1, 3, 2>,
        (2, 5, 1) => outputs::<2, 5, 1>,
        (2, 5, _) => outputs::<2, 5, 2>,
        (_, _, 1) => outputs::<0, 0, 1>,
        _ => outputs::<0, 0, 2>,
    };
    // Rows of the padded plane that have a line; the last of them has the last line kept.
    let mut made = 0;
    for output in output.chunks_mut(layout.strip * plane.out_w) {
        let rows = output.len() / plane.out_w;
        // A strip begins with the first row that was not made, or with the rows above its first tap.
        let first = if made == 0 {
            layout.last_tap
        } else {
            shape.stride_h - 1
        };
        let end = made + first + (rows - 1) * shape.stride_h + 1;
        // SAFETY: the strip has these lines behind those that are kept, and the first output's last tap is in the line `first` of them.
        unsafe {
            push(plane, layout, made..end, lines);
            compute(plane, layout, layout.kept + first, lines, output);
        }
        let kept = (end - made) * layout.stride;
        lines.copy_within(kept..kept + layout.kept * layout.stride, 0);
        made = end;
    }
}

/// Makes the lines of the rows `rows` of the padded plane, behind those that are kept.
///
/// # Safety
/// `lines` are those of `layout`, with as many lines, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn push(plane: &Plane<'_>, layout: &Lines, rows: Range<usize>, lines: &mut [i32]) {
    let shape = plane.shape;
    let (top, bottom) = (shape.pad_top, shape.pad_top + shape.in_h);
    let width = shape.in_w;
    let first = lines[layout.kept * layout.stride + layout.origin..].as_mut_ptr();
    let target = |row: usize| Target {
        first: first.wrapping_add((row - rows.start) * layout.stride),
        stride: layout.stride,
        back: shape.dilation_h * layout.stride,
    };
    let zeros = _mm512_set1_epi32(plane.zero.into());
    let push_border = |rows: Range<usize>| {
        for target in rows.map(target) {
            for x in (0..width).step_by(LANES) {
                // SAFETY: lines have place for whole vectors of pixels.
                unsafe { target.put(x, first_lanes(width - x), zeros) };
            }
        }
    };
    push_border(rows.start..rows.end.min(top));
    let inside = rows.start.max(top)..rows.end.min(bottom);
    if !inside.is_empty() {
        let elements = (inside.start - top) * width..(inside.end - top) * width;
        let target = target(inside.start);
        // SAFETY: as above, for each of the rows.
        unsafe {
            match plane.input {
                Planes::Floats(input, to) => {
                    push_floats(
                        &input[elements],
                        width,
                        target,
                        Quantizer::new(Target8::full(to)),
                    );
                }
                Planes::Bytes(input) => {
                    push_bytes(&input.data[elements], width, target, plane.flip);
                }
            }
        }
    }
    push_border(rows.start.max(bottom)..rows.end);
}

/// Makes lines of rows of `width` bytes.
///
/// # Safety
/// There is a line for each row, with place for whole vectors, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn push_bytes(rows: &[u8], width: usize, mut line: Target, flip: u8) {
    let flip = _mm512_set1_epi32(flip.into());
    for row in rows.chunks_exact(width) {
        let one = |x, mask| {
            // SAFETY: the row has the bytes of the mask; the others are not read. For the line passed on from the caller.
            unsafe {
                let bytes = _mm_maskz_loadu_epi8(mask, row.as_ptr().add(x).cast());
                let bytes = _mm512_cvtepu8_epi32(bytes);
                line.put(x, mask, _mm512_xor_si512(bytes, flip));
            }
        };
        let whole = row.len() / LANES * LANES;
        for x in (0..whole).step_by(LANES) {
            one(x, ALL);
        }
        if whole < row.len() {
            one(whole, first_lanes(row.len() - whole));
        }
        line = line.next();
    }
}

/// Makes lines of rows of `width` floats, a row where products with the reciprocal do not decide by quotients.
///
/// # Safety
/// There is a line for each row, with place for whole vectors, and the processor has the features.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn push_floats(rows: &[f32], width: usize, mut line: Target, quantizer: Quantizer) {
    for row in rows.chunks_exact(width) {
        let load = |x, mask| {
            // SAFETY: the row has the floats of the mask; the others are not read.
            unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr().add(x)) }
        };
        let mut differences = _mm512_setzero_si512();
        let mut multiply = |x, mask| {
            let products = quantizer.multiply(load(x, mask));
            differences = add_differences(differences, products);
            // SAFETY: passed on from the caller.
            unsafe { line.put(x, mask, products[0]) };
        };
        let whole = width / LANES * LANES;
        for x in (0..whole).step_by(LANES) {
            multiply(x, ALL);
        }
        if whole < width {
            multiply(whole, first_lanes(width - whole));
        }
        if !quantizer.multiplies() || _mm512_test_epi32_mask(differences, differences) != 0 {
            for x in (0..width).step_by(LANES) {
                let mask = first_lanes(width - x);
                // SAFETY: passed on from the caller.
                unsafe { line.put(x, mask, quantizer.divide(load(x, mask))) };
            }
        }
        line = line.next();
    }
}

/// A line that is made.
#[derive(Clone, Copy)]
struct Target {
    first: *mut i32,
    /// To the next line.
    stride: usize,
    /// Back to the line whose rows are those above the one of this line.
    back: usize,
}

impl Target {
    fn next(self) -> Self {
        let first = self.first.wrapping_add(self.stride);
        Self { first, ..self }
    }

    /// Puts bytes, the lowest ones of 16 dwords, below those of the rows above them.
    ///
    /// # Safety
    /// The lines have 16 dwords from `x` on, and the processor has AVX-512 F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn put(self, x: usize, mask: __mmask16, bytes: __m512i) {
        // SAFETY: passed on from the caller.
        unsafe {
            let above = self.first.sub(self.back).add(x);
            let above = _mm512_slli_epi32::<8>(_mm512_loadu_si512(above.cast()));
            let lowest = _mm512_set1_epi32(0xFF);
            // above | (bytes & lowest)
            let dwords = _mm512_ternarylogic_epi32::<0xF8>(above, bytes, lowest);
            _mm512_mask_storeu_epi32(self.first.add(x), mask, dwords);
        }
    }
}

/// Computes rows of outputs, the first of which has its last row of taps in line `last`. `G` are the groups of four rows of the kernel, `W` is its width
/// and `S` the horizontal stride, so that the loops of common kernels unroll; `G` and `W` are 0 for any other size.
///
/// # Safety
/// `lines` are those of `layout`, with the rows under the kernel; `output` has whole rows; and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn outputs<const G: usize, const W: usize, const S: usize>(
    plane: &Plane<'_>,
    layout: &Lines,
    last: usize,
    lines: &[i32],
    output: &mut [f32],
) {
    let shape = plane.shape;
    let groups = if G == 0 { layout.groups } else { G };
    let width = if W == 0 { shape.kernel_w } else { W };
    let dilation = shape.dilation_w;
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let (scale, bias) = (_mm512_set1_ps(plane.scale), _mm512_set1_ps(plane.bias));
    let correction = _mm512_set1_epi32(plane.correction);
    let clamp = plane
        .clamp
        .map(|Bounds { lo, hi }| (_mm512_set1_ps(lo), _mm512_set1_ps(hi)));
    let weights = plane.weights.as_ptr().cast::<i32>();
    // From the line of one group of four rows to that of the group above it.
    let group_stride = 4 * shape.dilation_h * layout.stride;
    let whole = plane.out_w / LANES * LANES;
    let origin = layout.origin - shape.pad_left;
    for (y, output) in output.chunks_exact_mut(plane.out_w).enumerate() {
        let line = (last + y * shape.stride_h) * layout.stride + origin;
        let line = lines.as_ptr().wrapping_add(line);
        let output = output.as_mut_ptr();
        let one = |x: usize, mask| {
            let mut acc = correction;
            for group in 0..groups {
                let line = line.wrapping_sub((groups - 1 - group) * group_stride);
                for column in 0..width {
                    // SAFETY: a line reaches to the last tap of whole vectors, and the weights have four taps here.
                    unsafe {
                        let from = line.add(x * S + column * dilation);
                        let mut bytes = _mm512_loadu_si512(from.cast());
                        if S == 2 {
                            let behind = _mm512_loadu_si512(from.add(LANES).cast());
                            bytes = _mm512_permutex2var_epi32(bytes, even, behind);
                        }
                        let weights = weights.add(group * width + column).read_unaligned();
                        acc = _mm512_dpbusd_epi32(acc, bytes, _mm512_set1_epi32(weights));
                    }
                }
            }
            let mut value = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale), bias);
            if let Some((lo, hi)) = clamp {
                // The second operand is the result when it is NaN, and when both are zeros.
                value = _mm512_min_ps(hi, _mm512_max_ps(lo, value));
            }
            // SAFETY: the row has the outputs of the mask; the others are not written.
            unsafe { _mm512_mask_storeu_ps(output.add(x), mask, value) };
        };
        for x in (0..whole).step_by(LANES) {
            one(x, ALL);
        }
        if whole < plane.out_w {
            one(whole, first_lanes(plane.out_w - whole));
        }
    }
}
