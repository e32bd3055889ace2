//! The range with the least squared error, among ranges that shrink from the full one in equal steps.
//!
//! A simpler form of the default observer's search, common in other tools: both ends of the
//! range shrink by the same factor, and the user gives the number of candidates.

use super::search::{Density, shrunk};
use super::{Choice, Histogram};
use crate::{QuantRange, Scheme};

/// The best of `candidates` ranges, the full one first.
pub(super) fn search(
    histogram: &Histogram,
    candidates: u32,
    range: QuantRange,
    scheme: Scheme,
    eps: f32,
) -> Choice {
    let (min, max) = histogram.observed().unwrap_or_default();
    let density = Density::new(histogram);
    let mut best = Choice::new(min, max, range, scheme, eps);
    let mut least = density.error(best.params, range);
    for k in 1..candidates {
        let share = f64::from(1.0 - k as f32 / candidates as f32);
        let (low, high) = shrunk((min, max), (share, share));
        let choice = Choice::new(low, high, range, scheme, eps);
        let error = density.error(choice.params, range);
        if error < least {
            (best, least) = (choice, error);
        }
    }
    best
}
