//! Operands that repeat over some neighbouring axes. Elementwise kernels read them without a copy.

/// How `small` repeats over `large`: the first axis over which it repeats, and the first axis after these.
///
/// `small` has the sizes of `large` before the first of both axes, 1s between them, and the sizes of `large` after them. Missing leading axes count as 1.
/// `None` when it does not repeat in this way.
///
/// `[N, H, W, C]` and `[C]` give `(0, 3)`; and `[N, 1, 1, C]` gives `(1, 3)`; equal shapes give `(0, 0)`.
pub(crate) fn repetition(large: &[usize], small: &[usize]) -> Option<(usize, usize)> {
    let missing = large.len().checked_sub(small.len())?;
    // What `small` has along an axis of `large`, as far as it differs.
    let same = |axis: usize| axis >= missing && small[axis - missing] == large[axis];
    let one = |axis: usize| axis < missing || small[axis - missing] == 1;
    let mut start = 0;
    while start < large.len() && same(start) {
        start += 1;
    }
    if start == large.len() {
        return Some((0, 0));
    }
    let mut end = large.len();
    while end > start && same(end - 1) {
        end -= 1;
    }
    if !(start..end).all(one) {
        return None;
    }
    // Axes of size 1 in both count as repeated, so that there is one block.
    while start > 0 && one(start - 1) {
        start -= 1;
    }
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_repeat_over_neighbouring_axes() {
        let find = |large: &[usize], small: &[usize]| repetition(large, small);
        assert_eq!(find(&[2, 5, 5, 8], &[8]), Some((0, 3)));
        assert_eq!(find(&[2, 5, 5, 8], &[2, 1, 1, 8]), Some((1, 3)));
        assert_eq!(find(&[1, 5, 5, 8], &[1, 1, 1, 8]), Some((0, 3)));
        assert_eq!(find(&[2, 5], &[2, 5]), Some((0, 0)));
        assert_eq!(find(&[2, 5], &[]), Some((0, 2)));
        assert_eq!(find(&[2, 8, 5, 5], &[1, 8, 1, 1]), None);
        assert_eq!(find(&[2, 8, 5, 5], &[2, 8, 1, 1]), Some((2, 4)));
        assert_eq!(find(&[8], &[1, 8]), None);
    }
}
