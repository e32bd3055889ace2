//! Softmax of one row of 8-bit values, in integers up to the last step.
//!
//! With `d = max(row) - q`, which does not depend on the zero point, `E[d] = rne(exp(-d·s)·2^23)` is a table of
//! 256 u32 and `S = Σ E[d]` an exact u64 sum, so the order of the sum does not matter. Then, once a row,
//! `m = f32(1 / (f64(S)·f64(s_y)))`, and each element is `clamp(rne(f32(E[d])·m) + z_y)`: `E[d] ≤ 2^23` is exact in
//! f32, and the last step is that of [`requantize`](crate::requantize::requantize). In float, `m = f32(1 / f64(S))`.

use crate::requantize::to_steps;
use crate::{QParams, QuantType, functions};

/// `exp(-d·s)·2^23` by `d`.
pub type ExpTable = [u32; 256];

/// The table for inputs of scale `scale` (their zero point cancels).
pub fn exp_table(scale: f32) -> ExpTable {
    std::array::from_fn(|d| {
        let value = functions::exp(-(d as f64) * f64::from(scale)) * f64::from(1_u32 << 23);
        value.round_ties_even() as u32
    })
}

/// The multiplier of a row whose table entries sum to `sum`: `f32(1 / (f64(sum)·f64(scale)))`; `scale` is that of
/// the output, or 1 for a float output.
pub fn multiplier(sum: u64, scale: f32) -> f32 {
    (1.0 / (sum as f64 * f64::from(scale))) as f32
}

/// The sum of the table entries of a row: at least `2^23` for a row that is not empty.
fn row_sum(row: &[i32], max: i32, table: &ExpTable) -> u64 {
    row.iter()
        .map(|&q| u64::from(table[distance(max, q)]))
        .sum()
}

fn distance(max: i32, q: i32) -> usize {
    (i64::from(max) - i64::from(q)).clamp(0, 255) as usize
}

/// Softmax of one row of quantized values to quantized values of `to_type`. If `row` and `out` differ in length,
/// the shorter length is used.
pub fn quantized_row(
    row: &[i32],
    table: &ExpTable,
    to: QParams,
    to_type: QuantType,
    out: &mut [i32],
) {
    let Some(&max) = row.iter().max() else { return };
    let multiplier = multiplier(row_sum(row, max, table), to.scale);
    for (out, &q) in out.iter_mut().zip(row) {
        let share = table[distance(max, q)] as f32 * multiplier;
        *out = to_steps(share, to.zero_point, to_type.min(), to_type.max());
    }
}

/// Softmax of one row of quantized values to float.
pub fn float_row(row: &[i32], table: &ExpTable, out: &mut [f32]) {
    let Some(&max) = row.iter().max() else { return };
    let multiplier = multiplier(row_sum(row, max, table), 1.0);
    for (out, &q) in out.iter_mut().zip(row) {
        *out = table[distance(max, q)] as f32 * multiplier;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn softmax(row: &[i32], scale: f32) -> Vec<f64> {
        let exps: Vec<f64> = row
            .iter()
            .map(|&q| (f64::from(q) * f64::from(scale)).exp())
            .collect();
        let sum: f64 = exps.iter().sum();
        exps.iter().map(|e| e / sum).collect()
    }

    fn row(len: usize, seed: i32) -> Vec<i32> {
        (0..len as i32)
            .map(|i| (i * 7919 + seed * 104_729).rem_euclid(256))
            .collect()
    }

    #[test]
    fn agrees_with_the_real_softmax() {
        let to = QParams {
            scale: 1.0 / 256.0,
            zero_point: 0,
        };
        for (len, scale) in [(1, 0.1), (2, 1e-3), (7, 0.05), (10, 0.3), (512, 0.02)] {
            let table = exp_table(scale);
            for seed in 0..20 {
                let row = row(len, seed);
                let exact = softmax(&row, scale);
                let mut float = vec![0.0; len];
                float_row(&row, &table, &mut float);
                let mut quantized = vec![0; len];
                quantized_row(&row, &table, to, QuantType::Uint8, &mut quantized);
                for ((x, q), exact) in float.iter().zip(&quantized).zip(exact) {
                    assert!((f64::from(*x) - exact).abs() < 2e-7, "{x} for {exact}");
                    let steps = (exact * 256.0).min(255.0);
                    assert!((f64::from(*q) - steps).abs() <= 0.501, "{q} for {steps}");
                }
            }
        }
    }

    #[test]
    fn a_shift_of_the_row_changes_nothing() {
        let table = exp_table(0.07);
        let to = QParams {
            scale: 0.003,
            zero_point: -128,
        };
        let row = [3, 90, 17, 88, 60];
        let shifted = row.map(|q| q - 120);
        let (mut a, mut b) = ([0; 5], [0; 5]);
        quantized_row(&row, &table, to, QuantType::Int8, &mut a);
        quantized_row(&shifted, &table, to, QuantType::Int8, &mut b);
        assert_eq!(a, b);
        assert!(a.iter().any(|&q| q > -100), "{a:?}");
    }

    #[test]
    fn extreme_scales_stay_defined() {
        for scale in [f32::MIN_POSITIVE, 1.0, f32::MAX] {
            let table = exp_table(scale);
            assert_eq!(table[0], 1 << 23);
            let mut out = [0.0; 3];
            float_row(&[0, 255, 0], &table, &mut out);
            assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
        quantized_row(
            &[],
            &exp_table(1.0),
            QParams::IDENTITY,
            QuantType::Uint8,
            &mut [],
        );
    }
}
