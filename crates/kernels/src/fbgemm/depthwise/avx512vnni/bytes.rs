//! Blocks of a quantized stage without residual: their sums pass through the output stage in registers.

use std::arch::x86_64::*;

use super::super::super::finish::{Finish, is_plain};
use super::interleave::{COLUMN, narrow, wide};
use super::{Block, Line, NarrowKernel, WIDTH, narrow_sums, wide_sums};
use crate::conv::OutputStage;

/// Computes a block, in pixels of `COUNT` bytes. `output` has all channels of all pixels.
///
/// # Safety
/// The invariants of the block's layer hold, and the stage is a quantized one; the channels exist, and are at most `COUNT`; the output is writable for
/// all lines; the processor has the features.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn block<const COUNT: usize>(
    block: &Block<'_>,
    finish: &Finish,
    lines: &[Line],
    output: *mut u8,
) {
    let (layer, geometry, channels) = (block.layer, block.geometry, block.channels);
    let (shape, OutputStage::Quantized(stage)) = (layer.shape, layer.stage) else {
        return;
    };
    // SAFETY: passed on from the caller; the stage has constants for each channel.
    let (bias, multiplier) = unsafe {
        block.place_weights::<COUNT>();
        (
            block.constants::<COUNT>(stage.bias.as_ptr()),
            block.constants::<COUNT>(stage.multiplier.as_ptr().cast()),
        )
    };
    let multiplier = multiplier.map(|numbers| _mm512_castsi512_ps(numbers));
    let rows = ByteRows {
        block,
        finish,
        plain: is_plain(stage, multiplier),
        bias,
        multiplier,
        mask: block.mask(),
        all: layer.output.pitch,
        adjacent: channels.count == COUNT && layer.output.pitch == COUNT,
    };
    let most = match COUNT {
        WIDTH => geometry.wide_pixels(shape.stride_w),
        _ => geometry.narrow_pixels::<COUNT>(),
    };
    let square = shape.kernel_h == shape.kernel_w && shape.dilation_w == 1;
    let size = if square { shape.kernel_h } else { 0 };
    let store = match (COUNT, size, shape.stride_w) {
        (WIDTH, 3, 1) => ByteRows::store_all::<COUNT, 3, 1>,
        (WIDTH, 3, 2) => ByteRows::store_all::<COUNT, 3, 2>,
        (WIDTH, 5, 1) => ByteRows::store_all::<COUNT, 5, 1>,
        (WIDTH, 5, 2) => ByteRows::store_all::<COUNT, 5, 2>,
        (..WIDTH, 3, 1) => ByteRows::store_all::<COUNT, 3, 1>,
        (..WIDTH, 3, 2) => ByteRows::store_all::<COUNT, 3, 2>,
        _ => ByteRows::store_all::<COUNT, 0, 0>,
    };
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        let below = lines[index..].iter().take(geometry.serves).enumerate();
        let serves = below.take_while(|(down, below)| line.is_above(below, *down));
        let serves = serves.count();
        let mut first = 0;
        while first < line.run.len {
            let pixels = (line.run.len - first).min(most);
            // SAFETY: passed on from the caller; these pixels exist.
            unsafe {
                match COUNT {
                    WIDTH => wide(block, line, first..first + pixels),
                    _ => narrow::<COUNT>(block, line, first..first + pixels),
                }
                for (down, line) in lines[index..][..serves].iter().enumerate() {
                    let to = (line.run.first + first) * layer.output.pitch;
                    let to = to + layer.output.offset + channels.first;
                    store(&rows, pixels, down, output.add(to));
                }
            }
            first += pixels;
        }
        index += serves;
    }
}

/// A block with its output stage.
struct ByteRows<'a> {
    block: &'a Block<'a>,
    finish: &'a Finish,
    /// See [`is_plain`].
    plain: bool,
    bias: [__m512i; 4],
    multiplier: [__m512; 4],
    /// The channels of a pixel.
    mask: u64,
    /// The distance of two pixels in the output.
    all: usize,
    /// Whether pixels fill their bytes and follow each other without a gap there.
    adjacent: bool,
}

impl ByteRows<'_> {
    /// Computes and stores the interleaved pixels, of the output row that is `down` rows below. `SIZE` and `STRIDE` are the height and width and the
    /// horizontal stride of a common kernel without holes, or both 0.
    ///
    /// # Safety
    /// So many pixels were interleaved, and the output has the block's channels of each; the processor has the features.
    #[inline(never)]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn store_all<const COUNT: usize, const SIZE: usize, const STRIDE: usize>(
        &self,
        pixels: usize,
        down: usize,
        mut output: *mut u8,
    ) {
        let unit = WIDTH / COUNT;
        let weights = self.block.weights(down);
        let mut first = 0;
        macro_rules! tiles {
            ($($vectors:literal)*) => {
                $(while first + $vectors * unit <= pixels {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        let bytes = self.tile::<$vectors, COUNT, SIZE, STRIDE>(first, weights);
                        self.put::<$vectors, COUNT>(output, bytes);
                    }
                    first += $vectors * unit;
                    output = output.wrapping_add($vectors * unit * self.all);
                })*
            };
        }
        tiles!(4 2 1);
        if first < pixels {
            // SAFETY: passed on from the caller; the columns of a whole vector were interleaved.
            unsafe {
                let bytes = self.tile::<1, COUNT, SIZE, STRIDE>(first, weights);
                self.put_pixels::<COUNT>(pixels - first, output, bytes[0]);
            }
        }
    }

    /// The bytes of `T` vectors of pixels from pixel `first` on.
    ///
    /// # Safety
    /// As [`Self::store_all`].
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn tile<const T: usize, const COUNT: usize, const SIZE: usize, const STRIDE: usize>(
        &self,
        first: usize,
        weights: *const u8,
    ) -> [__m512i; T] {
        let Block {
            layer,
            geometry,
            lines,
            ..
        } = *self.block;
        let shape = layer.shape;
        let quad = geometry.columns * COLUMN;
        // SAFETY: passed on from the caller.
        let acc: [[__m512i; 4]; T] = unsafe {
            match (COUNT, SIZE) {
                (WIDTH, 0) => self.block.wide_sums(first, weights, self.bias),
                (WIDTH, _) => {
                    let lines = lines.add(first * STRIDE * COLUMN);
                    wide_sums::<T, SIZE, STRIDE>(lines, quad, weights, self.bias)
                }
                (_, size) => {
                    let kernel = match size {
                        0 => NarrowKernel {
                            quads: geometry.quads,
                            width: shape.kernel_w,
                            dilation: shape.dilation_w,
                            stride: shape.stride_w,
                        },
                        size => NarrowKernel {
                            quads: size.div_ceil(4),
                            width: size,
                            dilation: 1,
                            stride: STRIDE,
                        },
                    };
                    narrow_sums::<T, COUNT>(lines.add(first * COUNT), kernel, weights, self.bias)
                }
            }
        };
        // Each vector by its number, so that the sums have no address and stay in registers.
        let mut bytes = [_mm512_setzero_si512(); T];
        macro_rules! finish {
            ($plain:literal: $($t:literal)*) => {
                $(if $t < T {
                    let steps = [0, 1, 2, 3]
                        .map(|j| self.finish.steps::<$plain>(acc[$t % T][j], self.multiplier[j]));
                    bytes[$t % T] = self.finish.bytes::<$plain>(steps);
                })*
            };
        }
        if self.plain {
            finish!(true: 0 1 2 3);
        } else {
            finish!(false: 0 1 2 3);
        }
        bytes
    }

    /// Stores the bytes of `T` whole vectors of pixels.
    ///
    /// # Safety
    /// As [`Self::store_all`], for an output from the first of these pixels on.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn put<const T: usize, const COUNT: usize>(&self, output: *mut u8, bytes: [__m512i; T]) {
        let (unit, all) = (WIDTH / COUNT, self.all);
        for (t, bytes) in bytes.into_iter().enumerate() {
            let output = output.wrapping_add(t * unit * all);
            // SAFETY: the output has the channels of these pixels; masked lanes are not written.
            unsafe {
                match COUNT {
                    WIDTH => _mm512_mask_storeu_epi8(output.cast(), self.mask, bytes),
                    _ if self.adjacent => _mm512_storeu_si512(output.cast(), bytes),
                    _ => self.put_pixels::<COUNT>(unit, output, bytes),
                }
            }
        }
    }

    /// Stores the bytes of `count` pixels of a vector.
    ///
    /// # Safety
    /// As [`Self::put`].
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn put_pixels<const COUNT: usize>(&self, count: usize, output: *mut u8, bytes: __m512i) {
        for pixel in 0..count {
            let lanes = pixel * COUNT;
            let output = output.wrapping_add(pixel * self.all).wrapping_sub(lanes);
            // SAFETY: the output has the channels of these pixels; masked lanes are not written.
            unsafe { _mm512_mask_storeu_epi8(output.cast(), self.mask << lanes, bytes) };
        }
    }
}
