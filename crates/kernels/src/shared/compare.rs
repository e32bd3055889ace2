//! Relations of two elements: comparisons of numbers, and logic of booleans, which are bytes of 0 and 1.

use super::dispatch::isa_versions;
use super::expand::{check_repeats, each_pair};
use crate::{Isa, KernelError};

/// A relation of two elements. NaN is unequal to everything, and has no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `a = b`
    Equal,
    /// `a ≠ b`; of booleans the exclusive disjunction.
    NotEqual,
    /// `a < b`
    Less,
    /// `a ≤ b`; of booleans the implication.
    LessOrEqual,
    /// Neither is zero: the conjunction of booleans.
    Both,
    /// Not both are zero: the disjunction of booleans.
    Either,
}

/// An element that is compared.
pub trait Compared: Copy + Send + Sync {
    /// See [`compare`]; the lengths are checked.
    #[doc(hidden)]
    fn compare_slices(
        isa: Isa,
        relation: Relation,
        a: &[Self],
        b: &[Self],
        output: &mut [u8],
    ) -> Result<(), KernelError>
    where
        Self: Sized;
}

macro_rules! compared {
    ($($type:ident)*) => {$(
        impl Compared for $type {
            fn compare_slices(
                isa: Isa,
                relation: Relation,
                a: &[Self],
                b: &[Self],
                output: &mut [u8],
            ) -> Result<(), KernelError> {
                isa_versions!(
                    fn slices(relation: Relation, a: &[$type], b: &[$type], output: &mut [u8]) = compare_loop
                );
                slices(isa, relation, a, b, output)
            }
        }
    )*};
}

compared! { u8 i32 i64 f32 }

/// `output[i] = 1` where `a[i]` and `b[i]` have the relation, and 0 elsewhere. Each operand is as long as the output, or is one element.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn compare<T: Compared>(
    isa: Isa,
    relation: Relation,
    a: &[T],
    b: &[T],
    output: &mut [u8],
) -> Result<(), KernelError> {
    check_repeats("the first operand", a.len(), output.len())?;
    check_repeats("the second operand", b.len(), output.len())?;
    T::compare_slices(isa, relation, a, b, output)
}

#[inline(always)]
fn compare_loop<T: Copy + PartialOrd + Default>(
    relation: Relation,
    a: &[T],
    b: &[T],
    output: &mut [u8],
) {
    let zero = T::default();
    match relation {
        Relation::Equal => each_pair(a, b, output, |a, b| u8::from(a == b)),
        Relation::NotEqual => each_pair(a, b, output, |a, b| u8::from(a != b)),
        Relation::Less => each_pair(a, b, output, |a, b| u8::from(a < b)),
        Relation::LessOrEqual => each_pair(a, b, output, |a, b| u8::from(a <= b)),
        Relation::Both => each_pair(a, b, output, |a, b| u8::from((a != zero) & (b != zero))),
        Relation::Either => each_pair(a, b, output, |a, b| u8::from((a != zero) | (b != zero))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::LENGTHS;

    fn check<T: Compared + PartialOrd + Default>(a: &[T], b: &[T]) {
        type Definition<T> = fn(T, T) -> bool;
        let relations: [(Relation, Definition<T>); 6] = [
            (Relation::Equal, |a, b| a == b),
            (Relation::NotEqual, |a, b| a != b),
            (Relation::Less, |a, b| a < b),
            (Relation::LessOrEqual, |a, b| a <= b),
            (Relation::Both, |a, b| {
                a != T::default() && b != T::default()
            }),
            (Relation::Either, |a, b| {
                a != T::default() || b != T::default()
            }),
        ];
        let len = a.len().max(b.len());
        for (relation, holds) in relations {
            for isa in Isa::supported() {
                let mut output = vec![7; len];
                compare(isa, relation, a, b, &mut output).unwrap();
                for (i, &found) in output.iter().enumerate() {
                    let expected = holds(a[i % a.len()], b[i % b.len()]);
                    assert_eq!(found, u8::from(expected), "{isa} {relation:?} {i}");
                }
            }
        }
    }

    #[test]
    fn relations_hold_on_every_instruction_set() {
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            let at = |i: usize| (i * 7 % 5) as i32 - 2;
            let (a, b): (Vec<i32>, Vec<i32>) = (0..len).map(|i| (at(i), at(i / 3))).unzip();
            check(&a, &b);
            check(&a[..1], &b);
            check(&a, &b[..1]);
            let wide = |values: &[i32]| values.iter().map(|&v| v.into()).collect::<Vec<i64>>();
            check(&wide(&a), &wide(&b));
            // NaN among the numbers, and zeros of both signs.
            let float = |&v: &i32| if v == 2 { f32::NAN } else { v as f32 * -0.5 };
            let floats = |values: &[i32]| values.iter().map(float).collect::<Vec<f32>>();
            check(&floats(&a), &floats(&b));
            let bools = |values: &[i32]| values.iter().map(|v| (v & 1) as u8).collect::<Vec<u8>>();
            check(&bools(&a), &bools(&b));
        }
        assert!(compare(Isa::Scalar, Relation::Less, &[1], &[1, 2, 3], &mut [0; 2]).is_err());
    }
}
