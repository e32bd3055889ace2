//! Planes by AVX-512 with VNNI: 16 outputs of up to four rows at a time.
//!
//! Four neighbouring taps of a kernel row are one dot product. The bytes under them are brought to the lanes of 16 outputs by a permutation of
//! dwords, which gives each quarter of a vector the 16 bytes from its first output on, and a shuffle within them. One expanded row serves all
//! output rows whose kernel it is under.
#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over register tiles read better than nested enumerations"
)]

use std::arch::x86_64::*;

use super::Plane;
use crate::conv::ConvShape;

/// Whether the 16 bytes from the first of four outputs on hold all their taps.
pub(super) fn takes(shape: &ConvShape) -> bool {
    shape.stride_w + shape.dilation_w <= 5 && shape.stride_w <= 3
}

/// Where the bytes of four taps of 16 outputs lie among 64.
#[derive(Clone, Copy)]
struct Order {
    dwords: __m512i,
    bytes: __m512i,
}

impl Order {
    #[target_feature(enable = "avx512f")]
    fn new(stride: usize, dilation: usize) -> Self {
        let dwords: [i32; 16] = std::array::from_fn(|i| (i / 4 * stride + i % 4) as i32);
        let bytes: [u8; 64] =
            std::array::from_fn(|i| (i / 4 % 4 * stride + i % 4 * dilation) as u8);
        // SAFETY: both arrays are as large as a vector.
        unsafe {
            Self {
                dwords: _mm512_loadu_si512(dwords.as_ptr().cast()),
                bytes: _mm512_loadu_si512(bytes.as_ptr().cast()),
            }
        }
    }
}

/// Computes a plane.
///
/// # Safety
/// The invariants of [`Plane`] hold, [`takes`] its shape, `output` has its size, and the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn plane(plane: &Plane<'_>, output: &mut [f32]) {
    let shape = plane.shape;
    let order = Order::new(shape.stride_w, shape.dilation_w);
    let sharing = shape.dilation_h == 1 && plane.out_h >= 4;
    let mut y = 0;
    while y < plane.out_h {
        // SAFETY: passed on from the caller; the rows exist, and the size is that of the shape.
        unsafe {
            if sharing {
                // The last rows may be computed a second time.
                y = y.min(plane.out_h - 4);
                match (shape.kernel_h, shape.kernel_w, shape.stride_h) {
                    (3, 3, 1) => rows::<4, 3, 1, 1>(plane, &order, y, output),
                    (3, 3, 2) => rows::<4, 3, 1, 2>(plane, &order, y, output),
                    (5, 5, 1) => rows::<4, 5, 2, 1>(plane, &order, y, output),
                    (5, 5, 2) => rows::<4, 5, 2, 2>(plane, &order, y, output),
                    _ => rows::<4, 0, 0, 0>(plane, &order, y, output),
                }
                y += 4;
            } else {
                rows::<1, 0, 0, 0>(plane, &order, y, output);
                y += 1;
            }
        }
    }
}

/// Computes `T` output rows from `y` on. `H` is the height of the kernel, `G` its groups of four columns and `S` the vertical stride, so that the
/// loops of common kernels unroll; all three are 0 for any other size.
///
/// # Safety
/// As [`plane`]; the rows exist, and the vertical dilation is 1 where `T` is not.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows<const T: usize, const H: usize, const G: usize, const S: usize>(
    plane: &Plane<'_>,
    order: &Order,
    y: usize,
    output: &mut [f32],
) {
    let shape = plane.shape;
    let (height, groups, stride) = if H == 0 {
        (shape.kernel_h, shape.kernel_w.div_ceil(4), shape.stride_h)
    } else {
        (H, G, S)
    };
    let (scale, bias) = (_mm512_set1_ps(plane.scale), _mm512_set1_ps(plane.bias));
    let image = plane.image[y * stride * plane.stride..].as_ptr();
    for x in (0..plane.out_w).step_by(16) {
        let mut acc = [_mm512_set1_epi32(plane.correction); T];
        for row in 0..(T - 1) * stride + height {
            let row_start = row * shape.dilation_h * plane.stride + x * shape.stride_w;
            for group in 0..groups {
                let from = row_start + group * 4 * shape.dilation_w;
                // SAFETY: the row exists and reaches to here; 64 bytes from each place in it on are readable.
                let bytes = unsafe { _mm512_loadu_si512(image.add(from).cast()) };
                let bytes = _mm512_permutexvar_epi32(order.dwords, bytes);
                let bytes = _mm512_shuffle_epi8(bytes, order.bytes);
                for t in 0..T {
                    // Wraps to a large number above the kernel.
                    let tap = row.wrapping_sub(t * stride);
                    if tap < height {
                        let at = (tap * groups + group) * 4;
                        // SAFETY: the weights have this group of four taps.
                        let weights = unsafe {
                            plane
                                .weights
                                .as_ptr()
                                .add(at)
                                .cast::<i32>()
                                .read_unaligned()
                        };
                        acc[t] = _mm512_dpbusd_epi32(acc[t], bytes, _mm512_set1_epi32(weights));
                    }
                }
            }
        }
        let count = (plane.out_w - x).min(16);
        let mask = ((1_u32 << count) - 1) as u16;
        for t in 0..T {
            let mut value = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[t]), scale), bias);
            if let Some((lo, hi)) = plane.clamp {
                // The second operand is the result when it is NaN, and when both are zeros.
                value = _mm512_min_ps(_mm512_set1_ps(hi), _mm512_max_ps(_mm512_set1_ps(lo), value));
            }
            let row = &mut output[(y + t) * plane.out_w + x..][..count];
            // SAFETY: the slice has as many elements as lanes are written.
            unsafe { _mm512_mask_storeu_ps(row.as_mut_ptr(), mask, value) };
        }
    }
}
