//! One pass over a batch: extremes, exact zeros, and whether everything is finite.

use super::ObserveError;

/// What one pass over a batch finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scan {
    /// The smallest value; infinity when there is none.
    pub(super) min: f32,
    /// The largest value; minus infinity when there is none.
    pub(super) max: f32,
    /// How many values are 0 (of either sign).
    pub(super) zeros: u64,
}

/// Independent accumulators, so that the loop over them becomes vector instructions.
const LANES: usize = 16;

/// Scans a batch.
///
/// # Errors
/// When a value is NaN or infinite; the first one is reported.
pub(super) fn scan(values: &[f32]) -> Result<Scan, ObserveError> {
    let mut result = Scan {
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        zeros: 0,
    };
    // Blocks of this size stay in the first cache level and keep the lanes' counters far from overflow.
    for (index, block) in values.chunks(1 << 12).enumerate() {
        let mut min = [f32::INFINITY; LANES];
        let mut max = [f32::NEG_INFINITY; LANES];
        let mut zeros = [0_u32; LANES];
        // NaN and infinities times 0 are NaN and stay in the sum; finite values add 0.
        let mut poison = [0.0_f32; LANES];
        let mut visit = |lane: usize, x: f32| {
            min[lane] = if x < min[lane] { x } else { min[lane] };
            max[lane] = if x > max[lane] { x } else { max[lane] };
            zeros[lane] += u32::from(x == 0.0);
            poison[lane] += x * 0.0;
        };
        let (lines, rest) = block.as_chunks::<LANES>();
        for line in lines {
            for (lane, &x) in line.iter().enumerate() {
                visit(lane, x);
            }
        }
        for (lane, &x) in rest.iter().enumerate() {
            visit(lane, x);
        }
        if poison.iter().any(|p| p.is_nan()) {
            return Err(first_bad(block, index << 12));
        }
        result.min = min.iter().copied().fold(result.min, f32::min);
        result.max = max.iter().copied().fold(result.max, f32::max);
        result.zeros += zeros.iter().map(|&n| u64::from(n)).sum::<u64>();
    }
    // A zero of either sign may have won; the sum makes it the positive one whatever the order was.
    result.min += 0.0;
    result.max += 0.0;
    Ok(result)
}

/// The error of the first value that is not finite.
fn first_bad(block: &[f32], start: usize) -> ObserveError {
    let index = block.iter().position(|x| !x.is_finite()).unwrap_or(0);
    ObserveError::NotFinite {
        index: start + index,
        value: block.get(index).copied().unwrap_or(f32::NAN),
    }
}
