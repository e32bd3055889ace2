//! The range with the least squared quantization error, found on a histogram.
//!
//! With all values `x`, scale `s` and representable values `v_0 < … < v_n` at a distance of `s`, rounding to the nearest
//! of them and clipping cost `Σ (x - v(x))² = Σ (x - v_n)² - 2·s·Σ_b G(b)`, where `b` runs over the `n` midpoints and
//! `G(b) = Σ max(b - x, 0)`: `G` is piecewise quadratic where the density is uniform in each bin, and a
//! look-up from prefix sums. So one candidate costs one look-up for each level, whatever the number of bins. Clipping and
//! rounding are both exact for the histogram's density, so few values within a wide step, the
//! spike of zeros, and quantizers of 128 or 16 levels need no special case.
//!
//! Each candidate is what [`choose_qparams`](crate::choose::choose_qparams) makes of a range, with a
//! rounded zero point. The full range of the values is always a candidate and wins ties.

use super::{Choice, Histogram};
use crate::{QParams, QuantRange, Scheme};

/// Above this number of levels a step is narrower than a bin, and the rounding error is taken as `s²/12` for each value.
const MAX_EXACT_LEVELS: i64 = 1024;

/// The coarse grid shrinks an end by `2^(-k/4)`, `k` from 0 to this.
const COARSE_STEPS: i32 = 24;

/// Positions on the coarse grid are multiples of this many units; refinement ends at one unit.
const COARSE_UNIT: i32 = 16;

/// Chooses parameters for what `histogram` has seen; those of an empty range when it has seen nothing.
pub(super) fn search(histogram: &Histogram, range: QuantRange, scheme: Scheme, eps: f32) -> Choice {
    let (min, max) = histogram.observed().unwrap_or_default();
    let density = Density::new(histogram);
    let full = Choice::new(min, max, range, scheme, eps);
    let mut search = Search {
        least: density.error(full.params, range),
        best: full,
        place: Place::default(),
        evaluate: |low: i32, high: i32| {
            let (low, high) = shrunk((min, max), (share(low), share(high)));
            let choice = Choice::new(low, high, range, scheme, eps);
            (choice, density.error(choice.params, range))
        },
    };
    // A symmetric quantizer has one bound, and a value of one sign has one end to move.
    let symmetric = !matches!(scheme, Scheme::Affine);
    let ends = match () {
        () if symmetric => Ends::Both,
        () if min >= 0.0 => Ends::High,
        () if max <= 0.0 => Ends::Low,
        () => Ends::Each,
    };
    search.around(Place::default(), COARSE_UNIT, 0..=COARSE_STEPS, ends);
    for unit in [COARSE_UNIT / 4, COARSE_UNIT / 16] {
        search.around(search.place, unit, -4..=4, ends);
    }
    search.best
}

/// The squared error, summed over all values, that a quantizer causes on what `histogram` has seen.
///
/// Values count as evenly spread within a bin; zeros and the ends are exact.
pub fn squared_error(histogram: &Histogram, params: QParams, range: QuantRange) -> f64 {
    Density::new(histogram).error(params, range)
}

/// The share of an end that is left after `units` of `1 / (4 · COARSE_UNIT)` octaves.
fn share(units: i32) -> f64 {
    libm::exp2(-f64::from(units) / f64::from(4 * COARSE_UNIT))
}

/// The range with each end multiplied by its share, which is at most 1.
///
/// The result is always part of the range: where all values have one sign, the end nearest to zero stays, because
/// zero is outside of the range.
pub(super) fn shrunk((min, max): (f32, f32), (low, high): (f64, f64)) -> (f32, f32) {
    let scaled = |end: f32, share: f64| (f64::from(end) * share) as f32;
    (
        scaled(min, low).clamp(min, max),
        scaled(max, high).clamp(min, max),
    )
}

/// Which ends of the range move.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    Low,
    High,
    Both,
    Each,
}

/// A position on the grid: how far each end of the range is moved inwards, in units.
#[derive(Clone, Copy, Default)]
struct Place {
    low: i32,
    high: i32,
}

/// The best candidate so far and its position on the grid.
struct Search<F> {
    best: Choice,
    least: f64,
    place: Place,
    evaluate: F,
}

impl<F: Fn(i32, i32) -> (Choice, f64)> Search<F> {
    /// Tries a grid of `unit` around `center`.
    fn around(
        &mut self,
        center: Place,
        unit: i32,
        steps: std::ops::RangeInclusive<i32>,
        ends: Ends,
    ) {
        for i in steps.clone() {
            let (low, high) = (center.low + i * unit, center.high + i * unit);
            match ends {
                Ends::Low => self.try_at(low, 0),
                Ends::High => self.try_at(0, high),
                Ends::Both => self.try_at(low, high),
                Ends::Each => {
                    for j in steps.clone() {
                        self.try_at(low, center.high + j * unit);
                    }
                }
            }
        }
    }

    fn try_at(&mut self, low: i32, high: i32) {
        if low < 0 || high < 0 {
            return;
        }
        let (choice, error) = (self.evaluate)(low, high);
        if error < self.least {
            (self.best, self.least, self.place) = (choice, error, Place { low, high });
        }
    }
}

/// The number of values, and the sums of `x` and `x²`.
type Moments = [f64; 3];

/// Prefix sums of a histogram.
#[derive(Clone, Debug)]
pub(super) struct Density {
    /// The moments of the values below the lower edge of each bin; one entry more than bins.
    below: Vec<Moments>,
    /// The occupied part of each bin: lower end, upper end, count.
    cells: Vec<(f64, f64, f64)>,
    /// The lower edge of the first bin.
    start: f64,
    inverse_width: f64,
    zeros: f64,
}

impl Density {
    /// Sums up a histogram.
    pub(super) fn new(histogram: &Histogram) -> Self {
        let width = histogram.width();
        let mut cells = histogram.cells().peekable();
        let start = cells
            .peek()
            .map_or(0.0, |cell| (cell.lo / width).floor() * width);
        let mut density = Self {
            below: vec![[0.0; 3]],
            cells: Vec::new(),
            start,
            inverse_width: 1.0 / width,
            zeros: histogram.zeros() as f64,
        };
        let mut moments = [0.0; 3];
        for cell in cells {
            let middle = (cell.lo + cell.hi) / 2.0;
            let position = ((middle - start) / width) as usize;
            while density.cells.len() < position {
                density.cells.push((0.0, 0.0, 0.0));
                density.below.push(moments);
            }
            let (n, spread) = (cell.count as f64, cell.hi - cell.lo);
            moments[0] += n;
            moments[1] += n * middle;
            moments[2] += n * (middle * middle + spread * spread / 12.0);
            density.cells.push((cell.lo, cell.hi, n));
            density.below.push(moments);
        }
        density
    }

    /// The moments of all values but the zeros.
    fn totals(&self) -> Moments {
        self.below.last().copied().unwrap_or_default()
    }

    /// The bin that holds `b`, the nearest one, or one past the last.
    fn position(&self, b: f64) -> usize {
        // Negative offsets saturate to the first bin, all of which is then above `b`.
        (((b - self.start) * self.inverse_width) as usize).min(self.below.len() - 1)
    }

    /// `Σ max(b - x, 0)` over all values.
    #[inline]
    fn shortfall(&self, b: f64) -> f64 {
        let position = self.position(b);
        let [count, sum, _] = self.below[position];
        let mut total = count * b - sum + self.zeros * b.max(0.0);
        if let Some(&(lo, hi, n)) = self.cells.get(position) {
            if b >= hi {
                total += n * (b - (lo + hi) / 2.0);
            } else if b > lo {
                total += n * (b - lo) * (b - lo) / (2.0 * (hi - lo));
            }
        }
        total
    }

    /// The moments of the values up to `b`, without the zeros.
    fn moments_below(&self, b: f64) -> Moments {
        let position = self.position(b);
        let mut moments = self.below[position];
        if let Some(&(lo, hi, n)) = self.cells.get(position).filter(|cell| b > cell.0) {
            let end = b.min(hi);
            let share = if hi > lo { (end - lo) / (hi - lo) } else { 1.0 };
            moments[0] += n * share;
            moments[1] += n * share * (lo + end) / 2.0;
            moments[2] += n * share * (lo * lo + lo * end + end * end) / 3.0;
        }
        moments
    }

    /// The summed squared error of a quantizer.
    pub(super) fn error(&self, params: QParams, range: QuantRange) -> f64 {
        let scale = f64::from(params.scale);
        let value = |q: i32| (f64::from(q) - f64::from(params.zero_point)) * scale;
        let (bottom, top) = (value(range.min), value(range.max));
        let squares_from = |[count, sum, squares]: Moments, point: f64| {
            squares - 2.0 * point * sum + point * point * count
        };
        let totals = self.totals();
        let error = if range.steps() <= MAX_EXACT_LEVELS {
            let midpoints = (range.min..range.max).map(|q| self.shortfall(value(q) + scale / 2.0));
            squares_from(totals, top) + self.zeros * top * top
                - 2.0 * scale * midpoints.sum::<f64>()
        } else {
            let (low, high) = (self.moments_below(bottom), self.moments_below(top));
            let above = [
                totals[0] - high[0],
                totals[1] - high[1],
                totals[2] - high[2],
            ];
            let clipped = squares_from(low, bottom) + squares_from(above, top);
            clipped + (high[0] - low[0]) * scale * scale / 12.0
        };
        // Cancellation may leave a tiny negative number where the error is 0.
        error.max(0.0)
    }
}
