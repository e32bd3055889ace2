//! The range whose quantized distribution differs least from the observed one, by relative entropy.
//!
//! The method of TensorRT (S. Migacz, "8-bit inference with TensorRT", 2017), also in ONNX Runtime: for each
//! threshold, `P` is the part of the histogram inside it, with the outliers added to the outermost bins; `Q` is
//! the same part without the outliers, each group of bins that falls on one of the quantized bins evened out over the
//! bins that are not empty; the threshold with the least `Σ P·ln(P/Q)` wins, the widest one on ties.
//!
//! Thresholds are symmetric around 0 where the values have both signs and bounded by the exact extremes. Exact zeros
//! take no part: they are representable under every threshold (TensorRT drops its first bin for that).

use super::Histogram;

/// The approximate number of thresholds to try.
const THRESHOLDS: usize = 128;

/// Stands for the quantized count of a bin that only outliers fill.
const SMOOTHING: f64 = 1e-4;

/// The range of the best threshold, or `None` while nothing was observed.
pub(super) fn range(histogram: &Histogram, quantized_bins: u32) -> Option<(f32, f32)> {
    let (min, max) = histogram.observed()?;
    let counts = histogram.counts();
    let half = counts.len() / 2;
    let quantized_bins = quantized_bins.max(2) as usize;
    // The bins of the larger extreme bound the widest window.
    let last = counts
        .iter()
        .rposition(|&n| n > 0)
        .map_or(0, |p| (p + 1).saturating_sub(half));
    let first = counts
        .iter()
        .position(|&n| n > 0)
        .map_or(0, |p| half.saturating_sub(p));
    let widest = first.max(last);
    let window = |reach: usize| {
        let below = if min < 0.0 { reach } else { 0 };
        let above = if max > 0.0 { reach } else { 0 };
        (half - below, half + above)
    };
    let stride = widest.div_ceil(THRESHOLDS).max(1);
    let (mut best, mut least) = (widest, f64::INFINITY);
    let mut reach = widest;
    while reach > 0 {
        let (from, to) = window(reach);
        if to - from < quantized_bins {
            break;
        }
        let divergence = divergence(counts, from, to, quantized_bins);
        if divergence < least {
            (best, least) = (reach, divergence);
        }
        reach = reach.saturating_sub(stride);
    }
    let bound = (best as f64 * histogram.width()) as f32;
    Some((min.max(-bound), max.min(bound)))
}

/// `Σ P·ln(P/Q)` of the window `from..to` with `groups` quantized bins, both normalized.
fn divergence(counts: &[u64], from: usize, to: usize, groups: usize) -> f64 {
    let sum = |part: &[u64]| part.iter().map(|&n| n as f64).sum::<f64>();
    let (below, above) = (sum(&counts[..from]), sum(&counts[to..]));
    let inside = &counts[from..to];
    let len = inside.len();
    let p_at = |i: usize| {
        let outliers = if i == 0 { below } else { 0.0 } + if i + 1 == len { above } else { 0.0 };
        inside[i] as f64 + outliers
    };
    let (mut p_sum, mut q_sum, mut total) = (0.0, 0.0, 0.0);
    for group in 0..groups {
        let bins = group * len / groups..(group + 1) * len / groups;
        let occupied = bins.clone().filter(|&i| p_at(i) > 0.0).count();
        if occupied == 0 {
            continue;
        }
        let q = (sum(&inside[bins.clone()]) / occupied as f64).max(SMOOTHING);
        q_sum += q * occupied as f64;
        for p in bins.map(p_at).filter(|&p| p > 0.0) {
            p_sum += p;
            total += p * libm::log(p / q);
        }
    }
    if p_sum == 0.0 {
        return f64::INFINITY;
    }
    // With both normalized: Σ (p/p_sum)·ln((p/p_sum)/(q/q_sum)).
    total / p_sum + libm::log(q_sum / p_sum)
}
