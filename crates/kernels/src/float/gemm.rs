//! The one place that calls the `gemm-f32` crate, the part for floats of `gemm`: a checked product of strided matrices on the calling thread.

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

use crate::KernelError;

/// A matrix inside of a slice: element (r, c) is `data[offset + r · row_stride + c · col_stride]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) offset: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl Matrix<'_> {
    /// Whether all of `rows` × `cols` elements, none of which is 0, are in the slice.
    fn holds(self, rows: usize, cols: usize) -> bool {
        let last = || {
            let row = self.row_stride.checked_mul(rows - 1)?;
            let col = self.col_stride.checked_mul(cols - 1)?;
            self.offset.checked_add(row)?.checked_add(col)
        };
        last().is_some_and(|last| last < self.data.len())
    }
}

/// `output = a · b` for `a` of `rows` × `k` and `b` of `k` × `cols`, where `output` is `[rows, cols]`.
pub(super) fn product(
    a: Matrix<'_>,
    b: Matrix<'_>,
    k: usize,
    cols: usize,
    output: &mut [f32],
) -> Result<(), KernelError> {
    let rows = output.len() / cols.max(1);
    if output.is_empty() || k == 0 {
        output.fill(0.0);
        return Ok(());
    }
    if rows * cols != output.len() || !a.holds(rows, k) || !b.holds(k, cols) {
        return Err(KernelError::Shape("a product leaves its operands"));
    }
    // `gemm` cuts deeper sums into parts whose number depends on the rows and columns. Cut here, an element's sum is
    // rounded the same way whatever else is computed: in a batch of any size, by any number of threads.
    for start in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - start);
        let first = start == 0;
        // The function wants columns of contiguous elements, so it gets the transposed product. The first part overwrites the output.
        // SAFETY: every element that the strides address is in its slice, as `holds` found (strides fit isize as the
        // last offset does, or are never multiplied by more than 0), and `start + depth` is at most `k`; the output is exclusive, and has
        // `rows` rows of `cols` elements.
        unsafe {
            get_gemm_fn()(
                cols,
                rows,
                depth,
                output.as_mut_ptr(),
                cols as isize,
                1,
                !first,
                b.data.as_ptr().add(b.offset + start * b.row_stride),
                b.row_stride as isize,
                b.col_stride as isize,
                a.data.as_ptr().add(a.offset + start * a.col_stride),
                a.row_stride as isize,
                a.col_stride as isize,
                if first { 0.0 } else { 1.0 },
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
    Ok(())
}

/// The deepest sum that `gemm` adds up in one go.
const DEPTH: usize = 512;
