//! Transposes between channels-first (`[batch, channels, pixels]`, "NCHW") and channels-last
//! (`[batch, pixels, channels]`, "NHWC") for elements of 1 and 4 bytes.
//!
//! Both directions transpose a matrix an image, in square blocks that registers and the first cache hold: 16 × 16
//! bytes by SSE2 interleaving, which every x86-64 processor has, or 8 × 8 words by AVX2. Other processors, and the
//! scalar version, copy element by element within the same blocks. Three channels have their own loops. [`super::movement`] permutes axes in general.

use std::ops::Range;

use super::{ImageShape, check_range, product};
use crate::error::check_len;
use crate::{Isa, KernelError};

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

mod sealed {
    pub trait Sealed {
        /// Transposes full blocks; see [`super::transpose`].
        #[doc(hidden)]
        fn transpose_block(
            isa: super::Isa,
            input: &[Self],
            in_stride: usize,
            output: &mut [Self],
            out_stride: usize,
        ) where
            Self: Sized;
        /// Rows and columns of a block.
        #[doc(hidden)]
        const BLOCK: usize;
    }
}

/// An element that the transposes of this module move: `u8`, `i8`, `f32`, `i32` or `u32`.
pub trait Element: Copy + sealed::Sealed {}

/// Channels-first to channels-last, for the pixels `pixels` of `batch · shape.pixels`.
///
/// `input` is all of `[batch, channels, shape.pixels]`; `output` is `[pixels.len(), channels]`.
///
/// # Errors
/// For lengths that do not fit the shape, pixels that do not exist, and a missing instruction set.
pub fn nchw_to_nhwc<T: Element>(
    isa: Isa,
    shape: &ImageShape,
    input: &[T],
    pixels: Range<usize>,
    output: &mut [T],
) -> Result<(), KernelError> {
    check_pixels(shape, input.len(), &pixels, output.len())?;
    check_isa(isa)?;
    for_each_image(
        shape.pixels,
        shape.channels,
        pixels,
        output,
        |image, pixels, output| {
            let start = image * shape.pixels * shape.channels + pixels.start;
            let matrix = Transpose {
                rows: shape.channels,
                cols: pixels.len(),
                in_stride: shape.pixels,
                out_stride: shape.channels,
            };
            transpose(isa, &input[start..], output, matrix);
        },
    );
    Ok(())
}

/// Channels-last to channels-first, for the planes `planes` of `batch · channels`.
///
/// `input` is all of `[batch, shape.pixels, channels]`; `output` is `[planes.len(), shape.pixels]`. Parts of 64
/// planes read whole cache lines of bytes.
///
/// # Errors
/// For lengths that do not fit the shape, planes that do not exist, and a missing instruction set.
pub fn nhwc_to_nchw<T: Element>(
    isa: Isa,
    shape: &ImageShape,
    input: &[T],
    planes: Range<usize>,
    output: &mut [T],
) -> Result<(), KernelError> {
    check_planes(shape, input.len(), &planes, output.len())?;
    check_isa(isa)?;
    for_each_image(
        shape.channels,
        shape.pixels,
        planes,
        output,
        |image, planes, output| {
            let start = image * shape.pixels * shape.channels + planes.start;
            let matrix = Transpose {
                rows: shape.pixels,
                cols: planes.len(),
                in_stride: shape.channels,
                out_stride: shape.pixels,
            };
            transpose(isa, &input[start..], output, matrix);
        },
    );
    Ok(())
}

/// Planes that [`scatter`] writes at a time, and floats of a cache line.
pub const PLANES: usize = 16;

/// Moves neighbouring pixels, channels-last, to the elements `into` of planes, which may be anywhere: `planes[c][into][p] = input[p · stride + c]`.
///
/// Whole cache lines are written where a line of the first plane begins.
///
/// # Errors
/// For more than [`PLANES`] planes, pixels that `input` or a plane does not hold, and a missing instruction set.
pub fn scatter(
    isa: Isa,
    input: &[f32],
    stride: usize,
    planes: &mut [&mut [f32]],
    into: Range<usize>,
) -> Result<(), KernelError> {
    check_isa(isa)?;
    let (start, pixels) = (into.start, into.len());
    check_range("planes", &(0..planes.len()), PLANES)?;
    if let Some(last) = pixels.checked_sub(1) {
        let end = last.saturating_mul(stride).saturating_add(planes.len());
        check_range("elements", &(0..end), input.len())?;
    }
    for plane in &*planes {
        check_range("pixels", &into, plane.len())?;
    }
    let Some(first) = planes.first() else {
        return Ok(());
    };
    let lead = first[start..].as_ptr().align_offset(64) % PLANES;
    let mut pixel = 0;
    while pixel < pixels {
        let most = if pixel == 0 && lead > 0 { lead } else { PLANES };
        let count = most.min(pixels - pixel);
        let (from, into) = (&input[pixel * stride..], start + pixel);
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                let mut outputs = [std::ptr::null_mut(); PLANES];
                for (output, plane) in outputs.iter_mut().zip(planes.iter_mut()) {
                    *output = plane[into..].as_mut_ptr();
                }
                // SAFETY: the input holds the last pixel and each plane all of them, as checked; the processor has AVX-512.
                unsafe { x86::words_16x16(from.as_ptr(), stride, count, planes.len(), &outputs) };
            }
            _ => {
                let mut block = [0.0; PLANES * PLANES];
                let matrix = Transpose {
                    rows: count,
                    cols: planes.len(),
                    in_stride: stride,
                    out_stride: PLANES,
                };
                transpose(isa, from, &mut block, matrix);
                for (plane, values) in planes.iter_mut().zip(block.chunks_exact(PLANES)) {
                    plane[into..][..count].copy_from_slice(&values[..count]);
                }
            }
        }
        pixel += count;
    }
    Ok(())
}

fn check_isa(isa: Isa) -> Result<(), KernelError> {
    if isa.is_supported() {
        Ok(())
    } else {
        Err(KernelError::Unsupported(isa))
    }
}

/// Checks the lengths of a kernel that writes pixels of channels.
pub(super) fn check_pixels(
    shape: &ImageShape,
    input: usize,
    pixels: &Range<usize>,
    output: usize,
) -> Result<(), KernelError> {
    check_len("the input", shape.len()?, input)?;
    check_range(
        "pixels",
        pixels,
        product("the pixels", &[shape.batch, shape.pixels])?,
    )?;
    check_len(
        "the output",
        product("the output", &[pixels.len(), shape.channels])?,
        output,
    )
}

/// Checks the lengths of a kernel that writes planes of pixels.
pub(super) fn check_planes(
    shape: &ImageShape,
    input: usize,
    planes: &Range<usize>,
    output: usize,
) -> Result<(), KernelError> {
    check_len("the input", shape.len()?, input)?;
    check_range(
        "planes",
        planes,
        product("the planes", &[shape.batch, shape.channels])?,
    )?;
    check_len(
        "the output",
        product("the output", &[planes.len(), shape.pixels])?,
        output,
    )
}

/// Cuts a range of items, `items` an image and `width` elements each, at the image borders, and calls `each`
/// with image, range within the image, and the part of the output. Empty items are not visited.
pub(super) fn for_each_image<T>(
    items: usize,
    width: usize,
    range: Range<usize>,
    output: &mut [T],
    mut each: impl FnMut(usize, Range<usize>, &mut [T]),
) {
    if output.is_empty() {
        return;
    }
    let mut next = range.start;
    let mut rest = output;
    while next < range.end {
        let (image, start) = (next / items, next % items);
        let len = (items - start).min(range.end - next);
        let (part, tail) = rest.split_at_mut(len * width);
        each(image, start..start + len, part);
        (next, rest) = (next + len, tail);
    }
}

/// The sizes of a matrix in its input, and the elements from one row to the next of input and output.
#[derive(Clone, Copy)]
pub(super) struct Transpose {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) in_stride: usize,
    pub(super) out_stride: usize,
}

/// `output[c][r] = input[r][c]`.
///
/// Panics when a slice is shorter than its last element needs.
pub(super) fn transpose<T: Element>(isa: Isa, input: &[T], output: &mut [T], matrix: Transpose) {
    let Transpose {
        rows,
        cols,
        in_stride,
        out_stride,
    } = matrix;
    // A panel of 64 input rows: 64 cache lines are read and written in turn.
    const PANEL: usize = 64;
    let block = T::BLOCK;
    if cols == 3 && in_stride == 3 && rows > 0 {
        let (first, rest) = output.split_at_mut(out_stride);
        let (second, third) = rest.split_at_mut(out_stride);
        let (input, _) = input[..3 * rows].as_chunks::<3>();
        let outputs = first[..rows]
            .iter_mut()
            .zip(&mut second[..rows])
            .zip(&mut third[..rows]);
        for (&[a, b, c], ((x, y), z)) in input.iter().zip(outputs) {
            (*x, *y, *z) = (a, b, c);
        }
        return;
    }
    if rows == 3 && out_stride == 3 && cols > 0 {
        let [first, second, third] = [0, 1, 2].map(|row| &input[row * in_stride..][..cols]);
        let (output, _) = output[..3 * cols].as_chunks_mut::<3>();
        for (((output, &a), &b), &c) in output.iter_mut().zip(first).zip(second).zip(third) {
            *output = [a, b, c];
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == 4 && isa == Isa::Avx512Vnni && rows.min(cols) >= LINE / 2 {
        assert!(input.len() >= (rows - 1) * in_stride + cols);
        assert!(output.len() >= (cols - 1) * out_stride + rows);
        // SAFETY: both slices reach to the last element of the last row, as just asserted; elements have four bytes; and the caller found AVX-512 supported.
        unsafe { transpose_lines(input.as_ptr().cast(), output.as_mut_ptr().cast(), matrix) };
        return;
    }
    for panel in (0..rows).step_by(PANEL) {
        let panel_end = (panel + PANEL).min(rows);
        for col in (0..cols).step_by(block) {
            let col_end = (col + block).min(cols);
            for row in (panel..panel_end).step_by(block) {
                let row_end = (row + block).min(panel_end);
                if row_end - row == block && col_end - col == block {
                    let from = &input[row * in_stride + col..];
                    let into = &mut output[col * out_stride + row..];
                    T::transpose_block(isa, from, in_stride, into, out_stride);
                } else {
                    for col in col..col_end {
                        for row in row..row_end {
                            output[col * out_stride + row] = input[row * in_stride + col];
                        }
                    }
                }
            }
        }
    }
}

/// Words of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 16;

/// Transposes words in blocks of whole cache lines, down all rows of the input before the next columns.
///
/// # Safety
/// Input and output have all elements of the matrix, and the processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
unsafe fn transpose_lines(input: *const f32, output: *mut f32, matrix: Transpose) {
    let Transpose {
        rows,
        cols,
        in_stride,
        out_stride,
    } = matrix;
    for col in (0..cols).step_by(LINE) {
        let columns = LINE.min(cols - col);
        for row in (0..rows).step_by(LINE) {
            let from = input.wrapping_add(row * in_stride + col);
            let outputs =
                std::array::from_fn(|c| output.wrapping_add((col + c) * out_stride + row));
            let count = LINE.min(rows - row);
            // SAFETY: the block is a part of the matrix, of which `columns` outputs are used.
            unsafe { x86::words_16x16(from, in_stride, count, columns, &outputs) };
        }
    }
}

/// A full block, element by element.
fn transpose_scalar<T: Copy>(
    block: usize,
    input: &[T],
    in_stride: usize,
    output: &mut [T],
    out_stride: usize,
) {
    for col in 0..block {
        for row in 0..block {
            output[col * out_stride + row] = input[row * in_stride + col];
        }
    }
}

macro_rules! element {
    ($($ty:ty, $block:literal, $kernel:ident;)*) => {$(
        impl Element for $ty {}

        impl sealed::Sealed for $ty {
            const BLOCK: usize = $block;

            #[inline]
            fn transpose_block(
                isa: Isa,
                input: &[Self],
                in_stride: usize,
                output: &mut [Self],
                out_stride: usize,
            ) {
                #[cfg(target_arch = "x86_64")]
                if matches!(isa, Isa::Avx2 | Isa::Avx512Vnni) {
                    assert!(input.len() >= ($block - 1) * in_stride + $block);
                    assert!(output.len() >= ($block - 1) * out_stride + $block);
                    // SAFETY: both slices reach to the last element of the last row, as just asserted, the types have the
                    // size that the kernel moves, and the caller found `isa` supported: both have AVX2.
                    unsafe {
                        x86::$kernel(
                            input.as_ptr().cast(),
                            in_stride,
                            output.as_mut_ptr().cast(),
                            out_stride,
                        );
                    }
                    return;
                }
                let _ = isa;
                transpose_scalar($block, input, in_stride, output, out_stride);
            }
        }
    )*};
}
element! {
    u8, 16, bytes_16x16;
    i8, 16, bytes_16x16;
    f32, 8, words_8x8;
    i32, 8, words_8x8;
    u32, 8, words_8x8;
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn check<T: Element + PartialEq + std::fmt::Debug>(shape: ImageShape, nchw: &[T], sentinel: T) {
        let ImageShape {
            batch,
            channels,
            pixels,
        } = shape;
        let at = |n: usize, p: usize, c: usize| nchw[(n * channels + c) * pixels + p];
        let nhwc: Vec<T> = (0..batch * pixels)
            .flat_map(|np| (0..channels).map(move |c| at(np / pixels, np % pixels, c)))
            .collect();
        for isa in Isa::supported() {
            let (all, planes) = (batch * pixels, batch * channels);
            for range in [0..all, 0..all / 3, all / 3..all] {
                let mut output = vec![sentinel; range.len() * channels];
                nchw_to_nhwc(isa, &shape, nchw, range.clone(), &mut output).unwrap();
                assert_eq!(
                    output,
                    nhwc[range.start * channels..range.end * channels],
                    "{isa} {shape:?}"
                );
            }
            for range in [0..planes, 0..planes / 3, planes / 3..planes] {
                let mut output = vec![sentinel; range.len() * pixels];
                nhwc_to_nchw(isa, &shape, &nhwc, range.clone(), &mut output).unwrap();
                assert_eq!(
                    output,
                    nchw[range.start * pixels..range.end * pixels],
                    "{isa} {shape:?}"
                );
            }
        }
    }

    #[test]
    fn both_directions_match_index_arithmetic() {
        let mut random = Random::new(8);
        for batch in [1, 3] {
            for channels in [0, 1, 3, 4, 15, 16, 17, 64, 70, 130] {
                for pixels in [0, 1, 5, 16, 33, 49, 130] {
                    let shape = ImageShape {
                        batch,
                        channels,
                        pixels,
                    };
                    let bytes = random.bytes(shape.len().unwrap());
                    let words: Vec<u32> = bytes.iter().map(|_| random.next() as u32).collect();
                    check(shape, &bytes, 0xA5);
                    check(shape, &words, 0xA5A5_A5A5);
                }
            }
        }
    }

    #[test]
    fn pixels_are_scattered_to_planes() {
        let input: Vec<f32> = (0..64 * 19).map(|i| i as f32).collect();
        for isa in Isa::supported() {
            for (pixels, channels, stride, start) in [
                (64, 16, 19, 0),
                (37, 16, 16, 5),
                (7, 3, 3, 40),
                (1, 16, 0, 3),
                (0, 2, 2, 0),
            ] {
                let mut planes = vec![vec![-1.0; start + pixels + 3]; channels];
                let mut rows: Vec<&mut [f32]> =
                    planes.iter_mut().map(|plane| &mut **plane).collect();
                scatter(isa, &input, stride, &mut rows, start..start + pixels).unwrap();
                for (c, plane) in planes.iter().enumerate() {
                    for (at, &value) in plane.iter().enumerate() {
                        let expected = match at.checked_sub(start).filter(|&p| p < pixels) {
                            Some(p) => (p * stride + c) as f32,
                            None => -1.0,
                        };
                        assert_eq!(value, expected, "{isa} {pixels} {channels} {stride}");
                    }
                }
            }
            let mut plane = [0.0; 8];
            let mut call = |pixels, stride, start| {
                let planes = &mut [&mut plane[..]];
                scatter(isa, &input[..8], stride, planes, start..start + pixels)
            };
            assert!(call(8, 1, 0).is_ok() && call(0, 100, 8).is_ok());
            assert!(call(8, 1, 1).is_err());
            assert!(call(9, 0, 0).is_err());
            assert!(call(3, 4, 0).is_err());
            assert!(call(2, usize::MAX, 0).is_err());
            let mut planes: [&mut [f32]; 17] = std::array::from_fn(|_| Default::default());
            assert!(scatter(isa, &input, 17, &mut planes, 0..0).is_err());
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let shape = ImageShape {
            batch: 1,
            channels: 3,
            pixels: 4,
        };
        let call = |shape, input: usize, range, output: usize| {
            nchw_to_nhwc(
                Isa::Scalar,
                &shape,
                &vec![0_u8; input],
                range,
                &mut vec![0; output],
            )
        };
        assert_eq!(call(shape, 12, 1..3, 6), Ok(()));
        assert!(call(shape, 11, 1..3, 6).is_err());
        assert!(call(shape, 12, 1..3, 5).is_err());
        assert!(call(shape, 12, 3..5, 6).is_err());
        let huge = ImageShape {
            batch: usize::MAX,
            channels: 3,
            pixels: 4,
        };
        assert!(call(huge, 12, 1..3, 6).is_err());
    }
}
