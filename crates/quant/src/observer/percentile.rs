//! The range that holds a given percentage of the values.
//!
//! Half of the remaining values is cut off at each end, as in ONNX Runtime's asymmetric percentile calibration. Values are taken to be
//! spread evenly within a bin; exact zeros are at 0.

use super::{Cell, Histogram};

/// The range that holds `percentile` percent, or `None` while nothing was observed.
pub(super) fn range(histogram: &Histogram, percentile: f64) -> Option<(f32, f32)> {
    let (min, max) = histogram.observed()?;
    let outside = (1.0 - percentile / 100.0).clamp(0.0, 1.0) / 2.0;
    let rank = outside * histogram.count() as f64;
    let cells = with_zeros(histogram);
    let low = quantile(cells.iter().copied(), rank).map_or(min, |x| x as f32);
    let flipped = cells.iter().rev().map(|cell| Cell {
        lo: -cell.hi,
        hi: -cell.lo,
        count: cell.count,
    });
    let high = quantile(flipped, rank).map_or(max, |x| -x as f32);
    Some((low.clamp(min, max), high.clamp(min, max)))
}

/// The cells in ascending order, one of which holds the zeros.
pub(super) fn with_zeros(histogram: &Histogram) -> Vec<Cell> {
    let mut cells: Vec<Cell> = histogram.cells().filter(|cell| cell.lo < 0.0).collect();
    if histogram.zeros() > 0 {
        cells.push(Cell {
            lo: 0.0,
            hi: 0.0,
            count: histogram.zeros(),
        });
    }
    cells.extend(histogram.cells().filter(|cell| cell.lo >= 0.0));
    cells
}

/// The point with `rank` values below it.
fn quantile(cells: impl Iterator<Item = Cell>, rank: f64) -> Option<f64> {
    let mut below = 0.0;
    for cell in cells {
        let count = cell.count as f64;
        if below + count > rank {
            return Some(cell.lo + (cell.hi - cell.lo) * ((rank - below) / count));
        }
        below += count;
    }
    None
}
