//! Dimensions that may be symbolic.
//!
//! A dimension is a number, a named symbol (`N`), or an expression over both, as the output size of a
//! strided convolution is: `floor((H + 2·pad - kernel) / stride) + 1`. A plan keeps the expressions and
//! evaluates them when the symbols' values are known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The values of the symbols of a program, by name.
pub type Symbols = BTreeMap<Arc<str>, i64>;

/// One dimension of a shape. Constructors simplify, so equal expressions built alike compare equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A known number.
    Known(i64),
    /// A symbol that is known when the program runs.
    Symbol(Arc<str>),
    /// The sum of two dimensions.
    Add(Box<(Dim, Dim)>),
    /// The difference of two dimensions.
    Sub(Box<(Dim, Dim)>),
    /// The product of two dimensions.
    Mul(Box<(Dim, Dim)>),
    /// The quotient of two dimensions, rounded down.
    FloorDiv(Box<(Dim, Dim)>),
    /// The quotient of two dimensions, rounded up.
    CeilDiv(Box<(Dim, Dim)>),
    /// The larger of two dimensions.
    Max(Box<(Dim, Dim)>),
    /// The smaller of two dimensions.
    Min(Box<(Dim, Dim)>),
}

/// Why a dimension has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DimError {
    /// A symbol that nothing gave a value.
    #[error("the dimension `{0}` has no value")]
    Unbound(Arc<str>),
    /// An expression that overflows or divides by zero, or a size below zero.
    #[error("the dimension {0} has no size")]
    Arithmetic(Dim),
}

impl Dim {
    /// A symbol of the given name.
    pub fn symbol(name: &str) -> Self {
        Self::Symbol(name.into())
    }

    /// The number, when it is known.
    pub fn known(&self) -> Option<i64> {
        match self {
            Self::Known(value) => Some(*value),
            _ => None,
        }
    }

    /// The two operands of an expression; `None` for a number and a symbol.
    pub fn operands(&self) -> Option<&(Self, Self)> {
        match self {
            Self::Known(_) | Self::Symbol(_) => None,
            Self::Add(pair)
            | Self::Sub(pair)
            | Self::Mul(pair)
            | Self::FloorDiv(pair)
            | Self::CeilDiv(pair)
            | Self::Max(pair)
            | Self::Min(pair) => Some(pair),
        }
    }

    /// Passes each symbol of the expression to `visit`, as often as it occurs.
    pub fn for_each_symbol(&self, visit: &mut impl FnMut(&Arc<str>)) {
        if let Self::Symbol(name) = self {
            visit(name);
        }
        if let Some((a, b)) = self.operands() {
            a.for_each_symbol(visit);
            b.for_each_symbol(visit);
        }
    }

    /// `self + other`.
    #[must_use]
    pub fn plus(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (a, Self::Known(0)) => a,
            (Self::Known(0), b) => b,
            (Self::Known(a), Self::Known(b)) if a.checked_add(b).is_some() => Self::Known(a + b),
            // Constants gather on the right: (x + 2) + 3 is x + 5.
            (Self::Add(pair), Self::Known(b))
                if pair.1.known().is_some_and(|a| a.checked_add(b).is_some()) =>
            {
                let a = pair.1.known().unwrap_or(0);
                pair.0.plus(a + b)
            }
            (Self::Sub(pair), Self::Known(b))
                if pair.1.known().is_some_and(|a| b.checked_sub(a).is_some()) =>
            {
                let a = pair.1.known().unwrap_or(0);
                pair.0.plus(b - a)
            }
            (a @ Self::Known(_), b) => Self::Add(Box::new((b, a))),
            (a, b) if a == b => a.times(2),
            (a, Self::Known(b)) if b < 0 && b > i64::MIN => {
                Self::Sub(Box::new((a, Self::Known(-b))))
            }
            (a, b) => Self::Add(Box::new((a, b))),
        }
    }

    /// `self - other`.
    #[must_use]
    pub fn minus(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (a, b) if a == b => Self::Known(0),
            (a, Self::Known(b)) if b > i64::MIN => a.plus(-b),
            (Self::Add(pair), b) if pair.1 == b => pair.0,
            (Self::Add(pair), b) if pair.0 == b => pair.1,
            (a, b) => Self::Sub(Box::new((a, b))),
        }
    }

    /// `self * other`.
    #[must_use]
    pub fn times(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (a, Self::Known(1)) => a,
            (Self::Known(1), b) => b,
            (Self::Known(0), _) | (_, Self::Known(0)) => Self::Known(0),
            (Self::Known(a), Self::Known(b)) if a.checked_mul(b).is_some() => Self::Known(a * b),
            (Self::Mul(pair), Self::Known(b))
                if pair.1.known().is_some_and(|a| a.checked_mul(b).is_some()) =>
            {
                let a = pair.1.known().unwrap_or(1);
                pair.0.times(a * b)
            }
            (a @ Self::Known(_), b) => Self::Mul(Box::new((b, a))),
            (a, b) => Self::Mul(Box::new((a, b))),
        }
    }

    /// `floor(self / other)`.
    #[must_use]
    pub fn floor_div(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (a, Self::Known(1)) => a,
            (Self::Known(a), Self::Known(b)) if b != 0 && a != i64::MIN => {
                Self::Known(a.div_euclid(b))
            }
            (Self::Mul(pair), Self::Known(b))
                if b > 0 && pair.1.known().is_some_and(|a| a % b == 0) =>
            {
                let a = pair.1.known().unwrap_or(0);
                pair.0.times(a / b)
            }
            (a, b) if a == b => Self::Known(1),
            (a, b) => Self::FloorDiv(Box::new((a, b))),
        }
    }

    /// `ceil(self / other)`.
    #[must_use]
    pub fn ceil_div(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (a, Self::Known(1)) => a,
            (Self::Known(a), Self::Known(b)) if b > 0 && a > i64::MIN => {
                Self::Known(-(-a).div_euclid(b))
            }
            (a, b) => Self::CeilDiv(Box::new((a, b))),
        }
    }

    /// The larger of both.
    #[must_use]
    pub fn max(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.max(b)),
            // max(a, min(a, b)) is a, and max(max(a, b), b) is max(a, b).
            (a, b) if a == b || b.is_min_of(&a) || a.is_max_of(&b) => a,
            (a, b) if a.is_min_of(&b) || b.is_max_of(&a) => b,
            (a, b) => Self::Max(Box::new((a, b))),
        }
    }

    /// The smaller of both.
    #[must_use]
    pub fn min(self, other: impl Into<Self>) -> Self {
        match (self, other.into()) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.min(b)),
            (a, b) if a == b || b.is_max_of(&a) || a.is_min_of(&b) => a,
            (a, b) if a.is_max_of(&b) || b.is_min_of(&a) => b,
            (a, b) => Self::Min(Box::new((a, b))),
        }
    }

    /// Whether this is the minimum of `operand` and another dimension.
    fn is_min_of(&self, operand: &Self) -> bool {
        matches!(self, Self::Min(pair) if pair.0 == *operand || pair.1 == *operand)
    }

    /// Whether this is the maximum of `operand` and another dimension.
    fn is_max_of(&self, operand: &Self) -> bool {
        matches!(self, Self::Max(pair) if pair.0 == *operand || pair.1 == *operand)
    }

    /// The number that the dimension stands for under the given symbols.
    ///
    /// # Errors
    /// When a symbol has no value, the arithmetic overflows or divides by zero, or an operand of a
    /// product is negative as a size would be.
    pub fn evaluate(&self, symbols: &Symbols) -> Result<i64, DimError> {
        let both = |pair: &(Self, Self), f: fn(i64, i64) -> Option<i64>| {
            let (a, b) = (pair.0.evaluate(symbols)?, pair.1.evaluate(symbols)?);
            f(a, b).ok_or_else(|| DimError::Arithmetic(self.clone()))
        };
        match self {
            Self::Known(value) => Ok(*value),
            Self::Symbol(name) => symbols
                .get(name)
                .copied()
                .ok_or_else(|| DimError::Unbound(name.clone())),
            Self::Add(pair) => both(pair, i64::checked_add),
            Self::Sub(pair) => both(pair, i64::checked_sub),
            Self::Mul(pair) => both(pair, i64::checked_mul),
            Self::FloorDiv(pair) => both(pair, i64::checked_div_euclid),
            Self::CeilDiv(pair) => both(pair, |a, b| {
                a.checked_neg()?.checked_div_euclid(b)?.checked_neg()
            }),
            Self::Max(pair) => both(pair, |a, b| Some(a.max(b))),
            Self::Min(pair) => both(pair, |a, b| Some(a.min(b))),
        }
    }

    /// The size that the dimension stands for: [`Dim::evaluate`], refused below zero.
    ///
    /// # Errors
    /// As [`Dim::evaluate`], and when the number is negative.
    pub fn size(&self, symbols: &Symbols) -> Result<usize, DimError> {
        usize::try_from(self.evaluate(symbols)?).map_err(|_| DimError::Arithmetic(self.clone()))
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::Known(value)
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Self {
        Self::Known(value.into())
    }
}

impl From<usize> for Dim {
    /// Sizes beyond `i64::MAX`, which no tensor has, saturate.
    fn from(value: usize) -> Self {
        Self::Known(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// As `Display`, so that a list of dimensions prints as `[N, 5]`.
impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => value.fmt(f),
            Self::Symbol(name) => f.write_str(name),
            Self::Add(pair) => write!(f, "({} + {})", pair.0, pair.1),
            Self::Sub(pair) => write!(f, "({} - {})", pair.0, pair.1),
            Self::Mul(pair) => write!(f, "({} * {})", pair.0, pair.1),
            Self::FloorDiv(pair) => write!(f, "floor({} / {})", pair.0, pair.1),
            Self::CeilDiv(pair) => write!(f, "ceil({} / {})", pair.0, pair.1),
            Self::Max(pair) => write!(f, "max({}, {})", pair.0, pair.1),
            Self::Min(pair) => write!(f, "min({}, {})", pair.0, pair.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_gather_and_cancel() {
        let n = || Dim::symbol("N");
        assert_eq!(n().plus(2).plus(3), n().plus(5));
        assert_eq!(n().plus(2).minus(2), n());
        assert_eq!(n().minus(5).plus(3), n().minus(2));
        assert_eq!(n().times(4).floor_div(2), n().times(2));
        assert_eq!(Dim::Known(7).ceil_div(2), Dim::Known(4));
        assert_eq!(n().minus(n()), Dim::Known(0));
        let m = || Dim::symbol("M");
        assert_eq!(n().plus(n()), n().times(2));
        assert_eq!(n().plus(m()).minus(n()), m());
        assert_eq!(n().max(n().min(m())), n());
        assert_eq!(m().min(n()).max(n()), n());
        assert_eq!(n().max(m()).max(m()), n().max(m()));
    }

    #[test]
    fn expressions_evaluate_as_integers_do() {
        let symbols = Symbols::from([("H".into(), 33)]);
        let out = Dim::symbol("H").plus(2).minus(3).floor_div(2).plus(1);
        assert_eq!(out.evaluate(&symbols), Ok((33 + 2 - 3) / 2 + 1));
        assert_eq!(Dim::symbol("H").ceil_div(2).evaluate(&symbols), Ok(17));
        assert!(matches!(
            Dim::symbol("W").evaluate(&symbols),
            Err(DimError::Unbound(_))
        ));
        assert!(Dim::symbol("H").floor_div(0).evaluate(&symbols).is_err());
        assert!(Dim::symbol("H").minus(40).size(&symbols).is_err());
    }
}
