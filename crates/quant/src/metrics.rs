//! How far one result is from another, and whether a difference in accuracy means anything.
//!
//! All sums are f64. [`ErrorStatistics`] is a stream: add batch after batch, merge shards, read the figures.

use serde::{Deserialize, Serialize};

/// Running sums over pairs of a reference value and a candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorStatistics {
    count: u64,
    nonfinite: u64,
    reference_squares: f64,
    candidate_squares: f64,
    products: f64,
    error_squares: f64,
    max_abs: f64,
}

/// Two slices that should have one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reference} reference values against {candidate}")]
pub struct LengthMismatch {
    /// Length of the reference.
    pub reference: usize,
    /// Length of the candidate.
    pub candidate: usize,
}

impl ErrorStatistics {
    /// The statistics of one pair of slices.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn of(reference: &[f32], candidate: &[f32]) -> Result<Self, LengthMismatch> {
        let mut result = Self::default();
        result.add(reference, candidate)?;
        Ok(result)
    }

    /// Adds pairs of values. Pairs with a NaN or an infinity are only counted, see [`ErrorStatistics::nonfinite`].
    ///
    /// # Errors
    /// When the lengths differ; nothing is then added.
    pub fn add(&mut self, reference: &[f32], candidate: &[f32]) -> Result<(), LengthMismatch> {
        if reference.len() != candidate.len() {
            return Err(LengthMismatch {
                reference: reference.len(),
                candidate: candidate.len(),
            });
        }
        for (&r, &c) in reference.iter().zip(candidate) {
            if !(r.is_finite() && c.is_finite()) {
                self.nonfinite += 1;
                continue;
            }
            let (r, c) = (f64::from(r), f64::from(c));
            let error = c - r;
            self.count += 1;
            self.reference_squares += r * r;
            self.candidate_squares += c * c;
            self.products += r * c;
            self.error_squares += error * error;
            self.max_abs = self.max_abs.max(error.abs());
        }
        Ok(())
    }

    /// Adds what another stream has seen.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.nonfinite += other.nonfinite;
        self.reference_squares += other.reference_squares;
        self.candidate_squares += other.candidate_squares;
        self.products += other.products;
        self.error_squares += other.error_squares;
        self.max_abs = self.max_abs.max(other.max_abs);
    }

    /// Pairs of finite values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Pairs with a NaN or an infinity. They are in no other figure, so every report must show this one.
    pub fn nonfinite(&self) -> u64 {
        self.nonfinite
    }

    /// Signal to quantization noise, `10·log10(Σ r² / Σ (c - r)²)`, in decibels: infinite without any
    /// error, minus infinite for errors on a reference of zeros.
    pub fn sqnr_db(&self) -> f64 {
        if self.error_squares == 0.0 {
            return f64::INFINITY;
        }
        10.0 * libm::log10(self.reference_squares / self.error_squares)
    }

    /// The cosine of the angle between both as vectors, -1..=1; 1 for two zero vectors, 0 for one.
    pub fn cosine(&self) -> f64 {
        match (self.reference_squares > 0.0, self.candidate_squares > 0.0) {
            (false, false) => 1.0,
            (true, true) => {
                let norm = self.reference_squares.sqrt() * self.candidate_squares.sqrt();
                (self.products / norm).clamp(-1.0, 1.0)
            }
            _ => 0.0,
        }
    }

    /// The largest absolute error; 0 without values.
    pub fn max_abs(&self) -> f64 {
        self.max_abs
    }
}

/// McNemar's exact test: of the items that only one of two models gets right, `lost` belong to the first and
/// `gained` to the second. The two-sided probability of a split at least this uneven if both were equally right:
/// `min(1, 2·Σ_{k ≤ min} C(n, k) / 2^n)`.
pub fn mcnemar_exact(lost: u64, gained: u64) -> f64 {
    let n = lost.saturating_add(gained) as f64;
    let fewer = lost.min(gained) as f64;
    let factorial = |k: f64| libm::lgamma(k + 1.0);
    let log_choose = factorial(n) - factorial(fewer) - factorial(n - fewer);
    let mut term = libm::exp(log_choose - n * std::f64::consts::LN_2);
    let (mut sum, mut k) = (term, fewer);
    // Downwards the terms only shrink, by C(n, k - 1) / C(n, k) = k / (n - k + 1).
    while k > 0.0 && term > sum * 1e-17 {
        term *= k / (n - k + 1.0);
        sum += term;
        k -= 1.0;
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_example_are_those_by_hand() {
        let s = ErrorStatistics::of(&[3.0, -4.0, 0.0, 1.0], &[3.5, -4.0, -0.5, 0.0]).unwrap();
        assert!((s.sqnr_db() - 10.0 * (26.0_f64 / 1.5).log10()).abs() < 1e-12);
        assert!((s.cosine() - 26.5 / (26.0_f64.sqrt() * 28.5_f64.sqrt())).abs() < 1e-12);
        assert_eq!(s.max_abs(), 1.0);
    }

    #[test]
    fn merging_equals_one_stream() {
        let r: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32) - 50.0).collect();
        let c: Vec<f32> = r.iter().map(|x| (x * 0.3).round() / 0.3).collect();
        let whole = ErrorStatistics::of(&r, &c).unwrap();
        let mut parts = ErrorStatistics::of(&r[..400], &c[..400]).unwrap();
        parts.merge(&ErrorStatistics::of(&r[400..], &c[400..]).unwrap());
        assert!((whole.sqnr_db() - parts.sqnr_db()).abs() < 1e-9);
        assert!((whole.cosine() - parts.cosine()).abs() < 1e-12);
        assert_eq!(
            (whole.count(), whole.max_abs()),
            (parts.count(), parts.max_abs())
        );
    }

    #[test]
    fn degenerate_streams_have_defined_figures() {
        let equal = ErrorStatistics::of(&[0.0, 0.0], &[0.0, 0.0]).unwrap();
        assert_eq!((equal.sqnr_db(), equal.cosine()), (f64::INFINITY, 1.0));
        let silent = ErrorStatistics::of(&[0.0], &[1.0]).unwrap();
        assert_eq!(
            (silent.sqnr_db(), silent.cosine()),
            (f64::NEG_INFINITY, 0.0)
        );
        let broken =
            ErrorStatistics::of(&[1.0, f32::NAN, 2.0], &[1.0, 1.0, f32::INFINITY]).unwrap();
        assert_eq!((broken.count(), broken.nonfinite()), (1, 2));
        assert_eq!(
            ErrorStatistics::of(&[1.0], &[]),
            Err(LengthMismatch {
                reference: 1,
                candidate: 0
            })
        );
    }

    #[test]
    fn mcnemar_equals_the_sum_of_binomials() {
        for n in 0..=60_u64 {
            for lost in 0..=n {
                let fewer = lost.min(n - lost);
                let (mut choose, mut sum) = (1_u128, 0_u128);
                for k in 0..=fewer {
                    sum += choose;
                    choose = choose * u128::from(n - k) / u128::from(k + 1);
                }
                let exact = (2.0 * sum as f64 / (n as f64).exp2()).min(1.0);
                let got = mcnemar_exact(lost, n - lost);
                assert!(
                    (got - exact).abs() <= 1e-11 * exact,
                    "{lost} of {n}: {got} for {exact}"
                );
            }
        }
        assert!(mcnemar_exact(1_000_000, 1_000_000) > 0.99);
        assert_eq!(mcnemar_exact(0, 1_000_000), 0.0);
    }
}
