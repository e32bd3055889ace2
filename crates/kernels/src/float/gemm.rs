//! The one place that calls the `gemm-f32` crate, the part for floats of `gemm`: a checked product of strided matrices on the calling thread.

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

use crate::KernelError;

/// A matrix inside of a slice: element (r, c) is at `offset + r · row_stride + c · col_stride`.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) offset: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl View {
    /// Rows of `row_stride` elements, from `offset` on.
    pub(super) const fn rows(offset: usize, row_stride: usize) -> Self {
        Self {
            offset,
            row_stride,
            col_stride: 1,
        }
    }

    /// Whether all of `rows` × `cols` elements lie in a slice of `len` elements.
    fn fits(self, rows: usize, cols: usize, len: usize) -> bool {
        let last = || {
            let row = self.row_stride.checked_mul(rows - 1)?;
            let col = self.col_stride.checked_mul(cols - 1)?;
            self.offset.checked_add(row)?.checked_add(col)
        };
        last().is_some_and(|last| last < len && isize::try_from(last).is_ok())
    }
}

/// `output = a · b` for `a` of `rows` × `k` and `b` of `k` × `cols`. The output has rows of contiguous elements.
pub(super) fn product(
    (rows, k, cols): (usize, usize, usize),
    (a, a_view): (&[f32], View),
    (b, b_view): (&[f32], View),
    (output, view): (&mut [f32], View),
) -> Result<(), KernelError> {
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let apart = view.col_stride == 1 && (view.row_stride >= cols || rows == 1);
    if !apart || !view.fits(rows, cols, output.len()) {
        return Err(KernelError::Shape("a product leaves its output"));
    }
    if k == 0 {
        for row in output[view.offset..]
            .chunks_mut(view.row_stride.max(cols))
            .take(rows)
        {
            row[..cols].fill(0.0);
        }
        return Ok(());
    }
    if !a_view.fits(rows, k, a.len()) || !b_view.fits(k, cols, b.len()) {
        return Err(KernelError::Shape("a product leaves its operands"));
    }
    // `gemm` cuts deeper sums into parts whose number depends on the rows and columns. Cut here, an element's sum is
    // rounded the same way whatever else is computed beside it: in a batch of any size, by any number of threads.
    for start in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - start);
        // SAFETY: every element that the strides address lies in its slice, as `fits` found (strides fit isize as the
        // last offset does, or are never multiplied by more than 0), and `start + depth` is at most `k`; the rows of
        // the output do not overlap.
        unsafe {
            accumulate(
                (rows, start, depth, cols),
                (a, a_view),
                (b, b_view),
                (output, view),
            );
        }
    }
    Ok(())
}

/// The deepest sum that `gemm` adds up in one go.
const DEPTH: usize = 512;

/// Adds the products of columns `start..start + depth` of `a` with these rows of `b` to the output; the first part, from 0, overwrites it.
///
/// # Safety
/// `rows` × (`start` + `depth`) elements of `a`, (`start` + `depth`) × `cols` of `b` and `rows` × `cols` of the output must lie in
/// their slices, and the rows of the output must not overlap.
unsafe fn accumulate(
    (rows, start, depth, cols): (usize, usize, usize, usize),
    (a, a_view): (&[f32], View),
    (b, b_view): (&[f32], View),
    (output, view): (&mut [f32], View),
) {
    let first = start == 0;
    // The function wants columns of contiguous elements, so it gets the transposed product.
    // SAFETY: the caller vouches for the elements; the output is exclusive.
    unsafe {
        get_gemm_fn()(
            cols,
            rows,
            depth,
            output.as_mut_ptr().add(view.offset),
            view.row_stride as isize,
            view.col_stride as isize,
            !first,
            b.as_ptr().add(b_view.offset + start * b_view.row_stride),
            b_view.row_stride as isize,
            b_view.col_stride as isize,
            a.as_ptr().add(a_view.offset + start * a_view.col_stride),
            a_view.row_stride as isize,
            a_view.col_stride as isize,
            if first { 0.0 } else { 1.0 },
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
