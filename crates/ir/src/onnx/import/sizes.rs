//! Bounds on the sizes that the types of a file may say.

use octofold_tensor::Dim;

/// Whether dimensions consist of at most `limit` terms. Expressions grow with the depth of a model: joining a value of symbolic size with itself
/// doubles its expression.
pub(super) fn terms_within<'a>(dims: impl Iterator<Item = &'a Dim>, limit: usize) -> bool {
    let mut left = limit;
    let mut stack: Vec<&Dim> = dims
        .filter(|dim| !matches!(dim, Dim::Known(_) | Dim::Symbol(_)))
        .collect();
    while let Some(dim) = stack.pop() {
        let Some(less) = left.checked_sub(1) else {
            return false;
        };
        left = less;
        stack.extend(dim.operands().into_iter().flat_map(|(a, b)| [a, b]));
    }
    true
}

/// The size of a dimension when every symbol is 1; its terms are known to be few.
pub(super) fn at_one(dim: &Dim) -> u64 {
    fn value(dim: &Dim) -> i64 {
        let both = |pair: &(Dim, Dim), f: fn(i64, i64) -> i64| f(value(&pair.0), value(&pair.1));
        match dim {
            Dim::Known(size) => *size,
            Dim::Symbol(_) => 1,
            Dim::Add(pair) => both(pair, i64::saturating_add),
            Dim::Sub(pair) => both(pair, i64::saturating_sub),
            Dim::Mul(pair) => both(pair, i64::saturating_mul),
            Dim::FloorDiv(pair) => both(pair, |a, b| a.checked_div_euclid(b).unwrap_or(0)),
            // Rounded down: this is a lower bound.
            Dim::CeilDiv(pair) => both(pair, |a, b| a.checked_div_euclid(b).unwrap_or(0)),
            Dim::Max(pair) => both(pair, i64::max),
            Dim::Min(pair) => both(pair, i64::min),
        }
    }
    u64::try_from(value(dim)).unwrap_or(0)
}
