//! Counts on a grid whose bin width is a power of two, anchored at 0.
//!
//! With `B` bins in all, the width is `w = 2^e`, `e` the smallest exponent with `maxabs < w·B/2`; it depends on
//! nothing but the largest magnitude ever seen. Bin `k ≥ 0` holds the values in `[k·w, (k+1)·w)`, and the negative
//! bins mirror them: `(-(k+1)·w, -k·w]`. When the largest magnitude grows, the width doubles and
//! pairs of neighbouring bins merge exactly. So any order, batch size and sharding of the same values gives the
//! same counts: [`Histogram::merge`] equals having observed both streams.
//!
//! Values that are exactly 0 have a counter of their own. After a ReLU they are the majority, and zero is always
//! representable; in the first bin they would count as values with a rounding error.

use serde::{Deserialize, Serialize};

use super::ObserveError;
use super::scan::{Scan, scan};

/// The narrowest bins have this exponent, so that scaling by `1/w` is an exact product with a normal number.
const MIN_EXPONENT: i32 = -120;

/// A histogram of finite values, with exact extremes and an exact count of zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Histogram {
    /// A power of two.
    bins: usize,
    /// The width of a bin is `2^exponent`; meaningless before the first value that is not 0.
    exponent: i32,
    /// By position: bin `k` at `bins / 2 + k`, its mirror image at `bins / 2 - 1 - k`. Empty while only
    /// zeros were seen.
    counts: Vec<u64>,
    zeros: u64,
    range: Option<(f32, f32)>,
    total: u64,
}

/// A part of the distribution: `count` values spread evenly over `lo..=hi`, all of them on one point if equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The lower end.
    pub lo: f64,
    /// The upper end.
    pub hi: f64,
    /// The number of values between the ends.
    pub count: u64,
}

impl Histogram {
    /// An empty histogram with about `bins` bins: brought to a power of two from 64 to 65536.
    pub fn new(bins: u32) -> Self {
        Self {
            bins: bins.clamp(64, 65536).next_power_of_two() as usize,
            exponent: MIN_EXPONENT,
            counts: Vec::new(),
            zeros: 0,
            range: None,
            total: 0,
        }
    }

    /// The number of bins over both signs.
    pub fn bins(&self) -> u32 {
        self.bins as u32
    }

    /// The width of a bin.
    pub fn width(&self) -> f64 {
        power_of_two(self.exponent)
    }

    /// The counts by position: bin `k` at `bins / 2 + k`; empty while only zeros were seen.
    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many values were exactly 0.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The exact extremes.
    pub fn observed(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// Takes in a batch.
    ///
    /// # Errors
    /// When a value is NaN or infinite; nothing of the batch is then counted.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        let found = scan(values)?;
        if values.is_empty() {
            return Ok(());
        }
        self.widen(found.min, found.max);
        if found.min != 0.0 || found.max != 0.0 {
            let inverse = power_of_two(-self.exponent) as f32;
            if values.len() < self.bins {
                count_few(&mut self.counts, values, inverse);
                // Zeros went to bin 0: skipping them would be a branch that no processor predicts.
                let bin = &mut self.counts[self.bins / 2];
                *bin = bin.saturating_sub(found.zeros);
            } else {
                count_many(&mut self.counts, values, inverse, &found);
            }
        }
        self.zeros = self.zeros.saturating_add(found.zeros);
        self.total = self.total.saturating_add(values.len() as u64);
        Ok(())
    }

    /// Adds the counts of another histogram. Both must have the same number of bins;
    /// [`super::ObserverState::merge`] refuses states with different settings.
    pub(super) fn merge(&mut self, other: &Self) {
        let Some((min, max)) = other.range else {
            return;
        };
        self.widen(min, max);
        if self.bins == other.bins && !other.counts.is_empty() {
            let shift = (self.exponent - other.exponent).max(0) as u32;
            for (position, &count) in other
                .counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
            {
                let slot = &mut self.counts[coarser(position, self.bins, shift)];
                *slot = slot.saturating_add(count);
            }
        }
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.total = self.total.saturating_add(other.total);
    }

    /// Extends the extremes, and widens the bins until the largest magnitude has one.
    fn widen(&mut self, min: f32, max: f32) {
        let (a, b) = self.range.unwrap_or((min, max));
        self.range = Some((a.min(min), b.max(max)));
        if min == 0.0 && max == 0.0 {
            return;
        }
        let needed = exponent_for(min.abs().max(max.abs()), self.bins);
        if self.counts.is_empty() {
            self.counts = vec![0; self.bins];
            self.exponent = needed;
        } else if needed > self.exponent {
            let shift = (needed - self.exponent) as u32;
            let mut counts = vec![0; self.bins];
            for (position, &count) in self
                .counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
            {
                counts[coarser(position, self.bins, shift)] += count;
            }
            self.counts = counts;
            self.exponent = needed;
        }
    }

    /// The occupied parts of the distribution in ascending order, without the zeros of [`Histogram::zeros`].
    ///
    /// The first and the last cell end at the exact extremes.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        let (min, max) = self.range.unwrap_or((0.0, 0.0));
        let (min, max) = (f64::from(min), f64::from(max));
        let (half, width) = (self.bins as f64 / 2.0, self.width());
        let occupied = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        occupied.map(move |(position, &count)| {
            let lo = (position as f64 - half) * width;
            Cell {
                lo: lo.max(min),
                hi: (lo + width).min(max),
                count,
            }
        })
    }
}

/// `2^exponent` for the exponents of this module, -150..=150.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent.clamp(-150, 150)) as u64) << 52)
}

/// The exponent of the width that puts `maxabs` below the end of `bins / 2` bins.
fn exponent_for(maxabs: f32, bins: usize) -> i32 {
    // Of denormal numbers this gives -127, which the limit covers.
    let exponent = ((maxabs.to_bits() >> 23) & 0xff) as i32 - 127;
    let log_half = bins.trailing_zeros() as i32 - 1;
    (exponent + 1 - log_half).max(MIN_EXPONENT)
}

/// The position of a bin after `shift` doublings of the width.
fn coarser(position: usize, bins: usize, shift: u32) -> usize {
    let half = bins / 2;
    let shift = shift.min(usize::BITS - 1);
    match position.checked_sub(half) {
        Some(bin) => half + (bin >> shift),
        None => half - 1 - ((half - 1 - position) >> shift),
    }
}

/// The position of a value. `inverse` is `1 / w`, so the product is exact, or too small to matter.
#[inline(always)]
fn position(x: f32, inverse: f32, half: i32) -> i32 {
    const INTEGERS: f32 = 8_388_608.0;
    let scaled = x.abs() * inverse;
    // Between 2^23 and 2^24 floats are the integers: the sum rounds to the nearest one, which stands in its
    // mantissa and is one too many where it was rounded up. A cast would saturate, at twice the time.
    let rounded = scaled + INTEGERS;
    let nearest = (rounded.to_bits() & 0x7f_ffff) as i32;
    let bin = nearest - i32::from(rounded - INTEGERS > scaled);
    // `!bin = -1 - bin` mirrors negative values. -0.0 is not negative here.
    let mirror = -i32::from(x < 0.0);
    (bin ^ mirror) + half
}

/// Counts a small batch directly.
fn count_few(counts: &mut [u64], values: &[f32], inverse: f32) {
    let half = (counts.len() / 2) as i32;
    for &x in values {
        if let Some(slot) = counts.get_mut(position(x, inverse, half) as usize) {
            *slot = slot.saturating_add(1);
        }
    }
}

/// Spare counters for zeros.
const SPARE: usize = 8;

/// Values whose positions are computed at once.
const BLOCK: usize = 512;

/// Counts a large batch, whose extremes `found` has, in a table of 32-bit counters, which is small enough for the
/// first cache level.
///
/// An increment has to wait for the one before it on the same counter, and after a ReLU half of the values are
/// 0. So zeros, whose number is known already, take turns on spare counters.
fn count_many(counts: &mut [u64], values: &[f32], inverse: f32, found: &Scan) {
    let half = (counts.len() / 2) as i32;
    let first = position(found.min, inverse, half);
    let last = position(found.max, inverse, half);
    let used = (last - first + 1).max(1) as usize;
    let mut table = vec![0_u32; used + SPARE];
    let mut positions = [0_u32; BLOCK];
    for part in values.chunks(1 << 30) {
        table.fill(0);
        for block in part.chunks(BLOCK) {
            locate(block, &mut positions, inverse, half - first, used as u32);
            for &position in &positions[..block.len()] {
                if let Some(slot) = table.get_mut(position as usize) {
                    *slot = slot.wrapping_add(1);
                }
            }
        }
        let slots = counts.iter_mut().skip(first.max(0) as usize);
        for (slot, &count) in slots.zip(&table[..used]) {
            *slot = slot.saturating_add(count.into());
        }
    }
}

/// Writes the position of each value, relative to an origin `half`, and of zeros one of the counters from `spare`.
///
/// A function of its own: inlined into the counting loop, it was not always turned into vector code, and
/// without that the whole observation takes twice the time.
#[inline(never)]
fn locate(block: &[f32], positions: &mut [u32; BLOCK], inverse: f32, half: i32, spare: u32) {
    for (i, (slot, &x)) in positions.iter_mut().zip(block).enumerate() {
        let own = position(x, inverse, half) as u32;
        let spare = spare + (i % SPARE) as u32;
        *slot = if x == 0.0 { spare } else { own };
    }
}

/// The serialized form: the bins from the first to the last that is not empty.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    bins: u32,
    exponent: i32,
    first: usize,
    counts: Vec<u64>,
    zeros: u64,
    range: Option<(f32, f32)>,
}

impl From<Histogram> for Stored {
    fn from(from: Histogram) -> Self {
        let first = from.counts.iter().position(|&n| n > 0).unwrap_or(0);
        let end = from
            .counts
            .iter()
            .rposition(|&n| n > 0)
            .map_or(first, |last| last + 1);
        Self {
            bins: from.bins as u32,
            exponent: from.exponent,
            first,
            counts: from.counts.get(first..end).unwrap_or_default().to_vec(),
            zeros: from.zeros,
            range: from.range,
        }
    }
}

/// Why a stored histogram is invalid.
#[derive(Debug, thiserror::Error)]
#[error("inconsistent histogram: {0}")]
struct Inconsistent(&'static str);

impl TryFrom<Stored> for Histogram {
    type Error = Inconsistent;

    fn try_from(from: Stored) -> Result<Self, Inconsistent> {
        let require = |holds: bool, what| {
            if holds {
                Ok(())
            } else {
                Err(Inconsistent(what))
            }
        };
        let mut result = Self::new(from.bins);
        require(
            result.bins == from.bins as usize,
            "bins must be a power of two from 64 to 65536",
        )?;
        let counted = from
            .counts
            .iter()
            .try_fold(from.zeros, |sum, &n| sum.checked_add(n));
        result.total = counted.ok_or(Inconsistent("the counts overflow"))?;
        result.zeros = from.zeros;
        let Some((min, max)) = from.range else {
            require(result.total == 0, "counts without a range")?;
            return Ok(result);
        };
        require(
            min.is_finite() && max.is_finite() && min <= max,
            "the range must be finite and in order",
        )?;
        require(result.total > 0, "a range without counts")?;
        result.widen(min, max);
        if from.counts.is_empty() {
            require(result.counts.is_empty(), "a range without counts")?;
            return Ok(result);
        }
        require(
            result.exponent == from.exponent,
            "the width does not follow from the range",
        )?;
        let end = from.first.checked_add(from.counts.len());
        let slots = end.and_then(|end| result.counts.get_mut(from.first..end));
        slots
            .ok_or(Inconsistent("more counts than bins"))?
            .copy_from_slice(&from.counts);
        Ok(result)
    }
}
