//! Arithmetic on the sizes of shapes, known or symbolic.

use octofold_ops::{OpError, bail};
use octofold_tensor::{Dim, DimError, Symbols};

/// The largest number of terms of an expression that is followed.
const MAX_TERMS: usize = 64;

/// Whether an expression of numbers alone is left because it has no value: it overflows or divides by zero.
pub(super) fn overflows(dim: &Dim) -> bool {
    dim.known().is_none() && matches!(dim.evaluate(&Symbols::new()), Err(DimError::Arithmetic(_)))
}

/// Whether an expression is small enough to follow; repeated doubling would otherwise need exponential memory.
pub(super) fn is_simple(dim: &Dim) -> bool {
    fn count(dim: &Dim, budget: &mut usize) -> bool {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        dim.operands()
            .is_none_or(|(a, b)| count(a, budget) && count(b, budget))
    }
    count(dim, &mut MAX_TERMS.clone())
}

/// Whether a number is known not to be negative. Symbols and differences are taken for sizes, which never are; minus a symbol is not.
pub(super) fn is_size(dim: &Dim) -> bool {
    match dim {
        Dim::Known(size) => *size >= 0,
        Dim::Symbol(_) => true,
        Dim::Sub(pair) => pair.0.known().is_none_or(|size| size > 0),
        Dim::Add(pair)
        | Dim::Mul(pair)
        | Dim::FloorDiv(pair)
        | Dim::CeilDiv(pair)
        | Dim::Min(pair) => is_size(&pair.0) && is_size(&pair.1),
        Dim::Max(pair) => is_size(&pair.0) || is_size(&pair.1),
    }
}

/// The product of sizes.
pub(super) fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter()
        .fold(Dim::Known(1), |product, dim| product.times(dim.clone()))
}

/// The one size that two sizes, which must be equal, have: the known one, or the first.
///
/// # Errors
/// When both are known and differ.
pub(super) fn same(a: &Dim, b: &Dim) -> Result<Dim, OpError> {
    match (a.known(), b.known()) {
        (Some(x), Some(y)) if x != y => {
            bail!("the sizes {a} and {b} differ")
        }
        (None, Some(_)) => Ok(b.clone()),
        _ => Ok(a.clone()),
    }
}

/// The factors of a product: a number, and the rest.
fn factors<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> (i128, Vec<Dim>) {
    fn split(dim: &Dim, number: &mut i128, rest: &mut Vec<Dim>) {
        match dim {
            Dim::Known(size) => *number = number.saturating_mul((*size).into()),
            Dim::Mul(pair) => {
                split(&pair.0, number, rest);
                split(&pair.1, number, rest);
            }
            other => rest.push(other.clone()),
        }
    }
    let (mut number, mut rest) = (1, Vec::new());
    for dim in dims {
        split(dim, &mut number, &mut rest);
    }
    (number, rest)
}

/// What is left of the product of `whole` when it is divided by the product of `parts`, without a rest: common factors cancel. `None` when that
/// is not known, because a factor is zero or too large.
///
/// # Errors
/// When everything is known and a rest stays.
pub(super) fn quotient(whole: &[Dim], parts: &[Dim]) -> Result<Option<Dim>, OpError> {
    let ((number, mut rest), (divisor, divisors)) = (factors(whole), factors(parts));
    let mut open = Vec::new();
    for factor in divisors {
        match rest.iter().position(|other| *other == factor) {
            Some(i) => {
                rest.swap_remove(i);
            }
            None => open.push(factor),
        }
    }
    if divisor == 0 {
        return Ok(None);
    }
    let (Ok(number_64), Ok(divisor_64)) = (i64::try_from(number), i64::try_from(divisor)) else {
        return Ok(None);
    };
    // The order of the factors that stay is that of the input.
    let rest: Vec<Dim> = factors(whole)
        .1
        .into_iter()
        .filter(|factor| take(&mut rest, factor))
        .collect();
    if open.is_empty() && number % divisor == 0 {
        return Ok(Some(product(&rest).times(number_64 / divisor_64)));
    }
    if open.is_empty() && rest.is_empty() {
        bail!("{number} elements do not divide into parts of {divisor}");
    }
    let left = product(&rest).times(number_64);
    Ok(Some(left.floor_div(product(&open).times(divisor_64))))
}

/// Takes one element that equals `wanted` out of a list, if there is one.
fn take(list: &mut Vec<Dim>, wanted: &Dim) -> bool {
    match list.iter().position(|other| other == wanted) {
        Some(i) => {
            list.swap_remove(i);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_factors_cancel() {
        let (n, t) = (|| Dim::symbol("N"), || Dim::symbol("T"));
        let whole = [n(), Dim::Known(16), Dim::Known(2), Dim::Known(2)];
        assert_eq!(quotient(&whole, &[n()]), Ok(Some(Dim::Known(64))));
        assert_eq!(
            quotient(&whole, &[Dim::Known(8), Dim::Known(8)]),
            Ok(Some(n()))
        );
        assert_eq!(
            quotient(&[n().times(t()), Dim::Known(6)], &[t(), Dim::Known(3)]),
            Ok(Some(n().times(2)))
        );
        assert_eq!(
            quotient(&[n(), Dim::Known(6)], &[Dim::Known(4)]),
            Ok(Some(n().times(6).floor_div(4)))
        );
        assert!(quotient(&[Dim::Known(6)], &[Dim::Known(4)]).is_err());
        assert_eq!(quotient(&[n()], &[Dim::Known(0)]), Ok(None));
        assert_eq!(
            quotient(&[Dim::Known(i64::MAX), Dim::Known(i64::MAX)], &[n()]),
            Ok(None)
        );
    }

    #[test]
    fn doubling_ends() {
        let mut dim = Dim::symbol("N");
        while is_simple(&dim) {
            dim = dim.clone().plus(dim.plus(1));
        }
        assert!(dim.to_string().len() < 4000);
        assert!(!is_size(&Dim::Known(0).minus(Dim::symbol("N"))));
        assert!(is_size(&Dim::symbol("N").minus(3).floor_div(2)));
    }
}
