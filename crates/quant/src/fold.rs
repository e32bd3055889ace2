//! Sums, products and extremes of floats, in one order.
//!
//! A sum of floats depends on its order, so the order is part of the definition. It is made for vectors:
//!
//! - along a row, whose elements follow each other in memory, element `j` goes to partial result `j mod 16`, and the partial results are combined from 0 to 15; an
//!   extreme does not depend on the order, but for the sign of a zero, which is positive;
//! - along any other axis, elements are taken in ascending order.
//!
//! Each step is rounded to f32, without fused multiply-add.

/// The number of partial results of a row: as many as the widest vectors have lanes.
pub const LANES: usize = 16;

/// What becomes of many floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// `Σ x`
    Sum,
    /// `Σ |x|`
    Magnitudes,
    /// `Σ x²`
    Squares,
    /// `Π x`
    Product,
    /// The largest; NaN if one is.
    Max,
    /// The smallest; NaN if one is.
    Min,
}

impl Fold {
    /// The result of no elements.
    #[inline(always)]
    pub fn start(self) -> f32 {
        match self {
            Self::Sum | Self::Magnitudes | Self::Squares => 0.0,
            Self::Product => 1.0,
            Self::Max => f32::NEG_INFINITY,
            Self::Min => f32::INFINITY,
        }
    }

    /// The result with one more element.
    #[inline(always)]
    pub fn step(self, result: f32, x: f32) -> f32 {
        match self {
            Self::Sum => result + x,
            Self::Magnitudes => result + x.abs(),
            Self::Squares => result + x * x,
            Self::Product => result * x,
            Self::Max if (x > result) | x.is_nan() => x,
            Self::Min if (x < result) | x.is_nan() => x,
            Self::Max | Self::Min => result,
        }
    }

    /// How results of parts make one result.
    #[inline(always)]
    pub fn of_parts(self) -> Self {
        match self {
            Self::Magnitudes | Self::Squares => Self::Sum,
            other => other,
        }
    }

    /// The result of a row.
    pub fn row(self, row: impl Iterator<Item = f32>) -> f32 {
        if matches!(self, Self::Max | Self::Min) {
            // Only the sign of a zero depends on the order.
            return self.ascending(row) + 0.0;
        }
        let mut parts = [self.start(); LANES];
        for (j, x) in row.enumerate() {
            parts[j % LANES] = self.step(parts[j % LANES], x);
        }
        self.join(parts)
    }

    /// The sum or product of the partial results of a row.
    #[inline(always)]
    pub fn join(self, parts: [f32; LANES]) -> f32 {
        let of_parts = self.of_parts();
        let [first, rest @ ..] = parts;
        rest.into_iter()
            .fold(first, |result, x| of_parts.step(result, x))
    }

    /// The result of elements that do not follow each other in memory.
    pub fn ascending(self, elements: impl Iterator<Item = f32>) -> f32 {
        elements.fold(self.start(), |result, x| self.step(result, x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Fold; 6] = [
        Fold::Sum,
        Fold::Magnitudes,
        Fold::Squares,
        Fold::Product,
        Fold::Max,
        Fold::Min,
    ];

    #[test]
    fn rows_have_sixteen_partial_sums() {
        // 2^24 + 1 rounds to 2^24, so that the order of additions shows.
        let large = 16_777_216.0;
        let mut row = vec![0.0; 34];
        (row[0], row[1], row[16], row[33]) = (large, 1.0, 1.0, 1.0);
        // Partial sums 2^24 (which lost a 1) and 2.
        assert_eq!(Fold::Sum.row(row.iter().copied()), large + 2.0);
        assert_eq!(Fold::Sum.ascending(row.into_iter()), large);
    }

    #[test]
    fn folds_agree_with_their_formulas() {
        let row: Vec<f32> = (0..37).map(|i| (i * 7 % 11) as f32 / 4.0 - 1.1).collect();
        let exact = |f: fn(f64, f64) -> f64, start: f64| {
            row.iter().fold(start, |result, &x| f(result, x.into()))
        };
        let expected = [
            exact(|sum, x| sum + x, 0.0),
            exact(|sum, x| sum + x.abs(), 0.0),
            exact(|sum, x| sum + x * x, 0.0),
            exact(|product, x| product * x, 1.0),
            exact(f64::max, f64::NEG_INFINITY),
            exact(f64::min, f64::INFINITY),
        ];
        for (fold, expected) in ALL.into_iter().zip(expected) {
            for found in [
                fold.row(row.iter().copied()),
                fold.ascending(row.iter().copied()),
            ] {
                let error = (f64::from(found) - expected).abs();
                assert!(error <= 2e-6 * expected.abs() + 1e-5, "{fold:?}: {found}");
            }
            assert_eq!(fold.row([].into_iter()), fold.start());
        }
    }

    #[test]
    fn extremes_are_nan_if_an_element_is() {
        for fold in [Fold::Max, Fold::Min] {
            for position in [0, 5, 16, 20] {
                let mut row = [1.0; 21];
                row[position] = f32::NAN;
                assert!(fold.row(row.iter().copied()).is_nan());
                assert!(fold.ascending(row.into_iter()).is_nan());
            }
        }
    }
}
