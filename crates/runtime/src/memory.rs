//! The memory plan: the place of each value in the arena.
//!
//! The places of values that exist at the same time do not overlap. Large values are placed first. Each goes into the smallest gap that holds
//! it, among the places of the values that exist at the same time (greedy by size, best fit), as in TensorFlow Lite.

use std::ops::RangeInclusive;

use crate::ALIGN;

/// A value that needs a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Its size in bytes.
    pub(crate) len: usize,
    /// The first and the last step that need it, both included.
    pub(crate) steps: RangeInclusive<usize>,
}

/// The offset of each value, and the size of the arena in bytes; `None` on overflow.
pub(crate) fn place(lifetimes: &[Lifetime]) -> Option<(Vec<usize>, usize)> {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&index| {
        (
            std::cmp::Reverse(lifetimes[index].len),
            *lifetimes[index].steps.start(),
            index,
        )
    });
    let mut offsets = vec![0_usize; lifetimes.len()];
    let mut total = 0_usize;
    // Indices of the placed values, by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(lifetimes.len());
    for index in order {
        let Lifetime { len, steps } = &lifetimes[index];
        let len = len.checked_next_multiple_of(ALIGN)?;
        let mut best: Option<(usize, usize)> = None;
        let mut end = 0_usize;
        for &other in &placed {
            let theirs = &lifetimes[other].steps;
            if theirs.start() > steps.end() || steps.start() > theirs.end() {
                continue;
            }
            let gap = offsets[other].saturating_sub(end);
            if gap >= len && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, end));
            }
            end = end.max(
                offsets[other]
                    .checked_add(lifetimes[other].len.checked_next_multiple_of(ALIGN)?)?,
            );
        }
        let offset = best.map_or(end, |(_, offset)| offset);
        offsets[index] = offset;
        total = total.max(offset.checked_add(len)?);
        let at = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(at, index);
    }
    Some((offsets, total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_needs_two_places() {
        let lifetimes: Vec<_> = (0..10)
            .map(|step| Lifetime {
                len: 100,
                steps: step..=step + 1,
            })
            .collect();
        let (_, total) = place(&lifetimes).unwrap();
        assert_eq!(total, 256);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let huge = Lifetime {
            len: usize::MAX - 10,
            steps: 0..=1,
        };
        assert!(place(std::slice::from_ref(&huge)).is_none());
        let half = Lifetime {
            len: usize::MAX / 2,
            steps: 0..=1,
        };
        assert!(place(&[half.clone(), half.clone(), half]).is_none());
    }

    proptest! {
        #[test]
        fn values_of_one_time_never_overlap(values in prop::collection::vec((0_usize..1000, 0_usize..20, 0_usize..6), 0..40)) {
            let lifetimes: Vec<_> = values.iter().map(|&(len, start, more)| Lifetime { len, steps: start..=start + more }).collect();
            let (offsets, total) = place(&lifetimes).unwrap();
            for (i, a) in lifetimes.iter().enumerate() {
                prop_assert!(offsets[i] % ALIGN == 0 && offsets[i] + a.len <= total);
                for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                    let together = a.steps.start() <= b.steps.end() && b.steps.start() <= a.steps.end();
                    let apart = offsets[i] + a.len <= offsets[j] || offsets[j] + b.len <= offsets[i];
                    prop_assert!(!together || apart || a.len == 0 || b.len == 0);
                }
            }
        }
    }
}
