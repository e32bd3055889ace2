//! One of two operands by a condition, for elements of any type.

use super::dispatch::isa_versions;
use super::expand::check_repeats;
use crate::{Isa, KernelError};

/// An element that is only moved: an unsigned integer of 1, 2, 4 or 8 bytes stands for each type of its size.
pub trait Chosen: Copy + Send + Sync {
    /// See [`choose`]; the lengths are checked.
    #[doc(hidden)]
    fn choose_slices(
        isa: Isa,
        condition: &[u8],
        x: &[Self],
        y: &[Self],
        output: &mut [Self],
    ) -> Result<(), KernelError>
    where
        Self: Sized;
}

macro_rules! chosen {
    ($($type:ident)*) => {$(
        impl Chosen for $type {
            fn choose_slices(
                isa: Isa,
                condition: &[u8],
                x: &[Self],
                y: &[Self],
                output: &mut [Self],
            ) -> Result<(), KernelError> {
                isa_versions!(
                    fn slices(condition: &[u8], x: &[$type], y: &[$type], output: &mut [$type]) = choose_loop
                );
                slices(isa, condition, x, y, output)
            }
        }
    )*};
}

chosen! { u8 u16 u32 u64 }

/// `output[i] = if condition[i] != 0 { x[i] } else { y[i] }`. Each operand is as long as the output, or is one element.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn choose<T: Chosen>(
    isa: Isa,
    condition: &[u8],
    x: &[T],
    y: &[T],
    output: &mut [T],
) -> Result<(), KernelError> {
    check_repeats("the condition", condition.len(), output.len())?;
    check_repeats("the first operand", x.len(), output.len())?;
    check_repeats("the second operand", y.len(), output.len())?;
    T::choose_slices(isa, condition, x, y, output)
}

#[inline(always)]
fn choose_loop<T: Copy>(condition: &[u8], x: &[T], y: &[T], output: &mut [T]) {
    if let &[all] = condition {
        return match if all != 0 { x } else { y } {
            &[one] => output.fill(one),
            whole => output.copy_from_slice(whole),
        };
    }
    let each = condition.iter().zip(output);
    match (x, y) {
        (&[x], &[y]) => each.for_each(|(&c, out)| *out = if c != 0 { x } else { y }),
        (_, &[y]) => each
            .zip(x)
            .for_each(|((&c, out), &x)| *out = if c != 0 { x } else { y }),
        (&[x], _) => each
            .zip(y)
            .for_each(|((&c, out), &y)| *out = if c != 0 { x } else { y }),
        _ => each
            .zip(x.iter().zip(y))
            .for_each(|((&c, out), (&x, &y))| *out = if c != 0 { x } else { y }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::LENGTHS;

    fn check<T: Chosen + From<u8> + PartialEq + std::fmt::Debug>(len: usize) {
        let condition: Vec<u8> = (0..len).map(|i| (i * 7 % 3 == 0) as u8).collect();
        let x: Vec<T> = (0..len).map(|i| T::from((i % 100) as u8)).collect();
        let y: Vec<T> = (0..len).map(|i| T::from((100 + i % 90) as u8)).collect();
        for singles in 0..8 {
            let part = |bit: usize| if singles & bit != 0 { 1 } else { len };
            let (c, x, y) = (&condition[..part(1)], &x[..part(2)], &y[..part(4)]);
            for isa in Isa::supported() {
                let mut output = vec![T::from(255); len];
                choose(isa, c, x, y, &mut output).unwrap();
                for (i, found) in output.iter().enumerate() {
                    let from = if c[i % c.len()] != 0 { x } else { y };
                    assert_eq!(*found, from[i % from.len()], "{isa} {singles} {i}");
                }
            }
        }
    }

    #[test]
    fn elements_of_each_size_are_chosen() {
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            check::<u8>(len);
            check::<u16>(len);
            check::<u32>(len);
            check::<u64>(len);
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let call = |c: usize, x: usize, y: usize| {
            let (c, x, y) = (vec![1; c], vec![0_u32; x], vec![0; y]);
            choose(Isa::Scalar, &c, &x, &y, &mut [0; 4])
        };
        assert_eq!(call(4, 1, 4), Ok(()));
        assert!(call(3, 4, 4).is_err());
        assert!(call(4, 2, 4).is_err());
        assert!(call(4, 4, 5).is_err());
        assert!(call(0, 4, 4).is_err());
    }
}
