//! Operands of elementwise kernels that broadcast: their elements in the order of the result, for a part of it that fits the cache.
//!
//! An elementwise kernel takes operands of equal lengths, or single elements. Where an operand repeats in short runs (one value for each row of 21 elements,
//! a row of 3 for each of many), a call for each run costs more than the work. Instead, this kernel writes a tile of the operand as
//! long as some hundred runs, and the elementwise kernel is called once for the tile.

use super::dispatch::isa_versions;
use crate::error::check_len;
use crate::{Isa, KernelError};

/// One axis of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Its size, at least 1.
    pub size: usize,
    /// The distance in the input between neighbours along the axis; 0 where the input repeats. It is 0 or 1 for the last axis.
    pub step: usize,
}

/// The elements that tiles consist of, by size.
pub trait Item: Copy {
    #[doc(hidden)]
    fn rows(
        isa: Isa,
        step: usize,
        row: Axis,
        input: &[Self],
        output: &mut [Self],
    ) -> Result<(), KernelError>;
}

macro_rules! items {
    ($($item:ident $rows:ident $lanes:literal,)*) => {
        $(
            isa_versions!(
                fn $rows(step: usize, row: Axis, input: &[$item], output: &mut [$item]) =
                    rows_loop::<$item, $lanes>
            );

            impl Item for $item {
                fn rows(
                    isa: Isa,
                    step: usize,
                    row: Axis,
                    input: &[Self],
                    output: &mut [Self],
                ) -> Result<(), KernelError> {
                    $rows(isa, step, row, input, output)
                }
            }
        )*
    };
}

// As many lanes as the widest vectors have.
items! {
    u8 rows_of_1 64,
    u16 rows_of_2 32,
    u32 rows_of_4 16,
    u64 rows_of_8 8,
}

/// Writes the element at `Σ index[axis]·step[axis]` of the input for each index, in row-major order.
///
/// # Errors
/// When the sizes do not give the length of the output, the input is too short, the last step is above 1, and for a missing instruction set.
pub fn expand<T: Item>(
    isa: Isa,
    axes: &[Axis],
    input: &[T],
    output: &mut [T],
) -> Result<(), KernelError> {
    let len = super::product("the output", axes.iter().map(|axis| &axis.size))?;
    check_len("the output", len, output.len())?;
    if output.is_empty() {
        return Ok(());
    }
    let farthest = axes.iter().try_fold(0_usize, |sum, axis| {
        sum.checked_add((axis.size - 1).checked_mul(axis.step)?)
    });
    let inside = farthest.is_some_and(|farthest| farthest < input.len());
    if !inside || axes.last().is_some_and(|axis| axis.step > 1) {
        return Err(KernelError::Shape("an operand does not have the elements"));
    }
    fill(isa, axes, input, output)
}

fn fill<T: Item>(
    isa: Isa,
    axes: &[Axis],
    input: &[T],
    output: &mut [T],
) -> Result<(), KernelError> {
    const ONE: Axis = Axis { size: 1, step: 0 };
    match axes {
        [] => T::rows(isa, 0, ONE, input, output),
        [row] => T::rows(isa, 0, *row, input, output),
        [outer, rest @ ..] if outer.step == 0 => {
            let mut filled = output.len() / outer.size;
            fill(isa, rest, input, &mut output[..filled])?;
            while filled < output.len() {
                let more = filled.min(output.len() - filled);
                output.copy_within(..more, filled);
                filled += more;
            }
            Ok(())
        }
        [outer, row] => T::rows(isa, outer.step, *row, input, output),
        [outer, rest @ ..] => {
            let block = output.len() / outer.size;
            let blocks = output.chunks_exact_mut(block).enumerate();
            for (index, output) in blocks {
                fill(isa, rest, &input[index * outer.step..], output)?;
            }
            Ok(())
        }
    }
}

/// Rows whose starts in the input are `step` apart. Each is written in whole vectors where the output goes on behind it; the next row overwrites what is too much.
#[inline(always)]
fn rows_loop<T: Copy, const LANES: usize>(step: usize, row: Axis, input: &[T], output: &mut [T]) {
    let padded = row.size.next_multiple_of(LANES);
    for (index, start) in (0..output.len()).step_by(row.size).enumerate() {
        let source = &input[index * step..];
        let wide = output.get_mut(start..start + padded);
        match (row.step, wide) {
            (0, Some(wide)) => {
                let vectors = wide.as_chunks_mut::<LANES>().0;
                vectors.iter_mut().for_each(|it| *it = [source[0]; LANES]);
            }
            (0, None) => output[start..start + row.size].fill(source[0]),
            (_, Some(wide)) if source.len() >= padded => {
                let vectors = wide.as_chunks_mut::<LANES>().0.iter_mut();
                let sources = source.as_chunks::<LANES>().0;
                vectors.zip(sources).for_each(|(to, from)| *to = *from);
            }
            _ => output[start..start + row.size].copy_from_slice(&source[..row.size]),
        }
    }
}

/// `output[i] = f(a[i], b[i])`, where an operand of one element has it for each `i`. The lengths are checked ([`check_repeats`]).
#[inline(always)]
pub(crate) fn each_pair<T: Copy, R: Copy>(
    a: &[T],
    b: &[T],
    output: &mut [R],
    f: impl Fn(T, T) -> R,
) {
    // `for_each` is not always inlined, and then not compiled for the caller's instruction set.
    match (a, b) {
        (_, &[b]) if a.len() == output.len() => {
            for (y, &a) in output.iter_mut().zip(a) {
                *y = f(a, b);
            }
        }
        (&[a], _) if b.len() == output.len() => {
            for (y, &b) in output.iter_mut().zip(b) {
                *y = f(a, b);
            }
        }
        (&[a], &[b]) => output.fill(f(a, b)),
        _ => {
            for (y, (&a, &b)) in output.iter_mut().zip(a.iter().zip(b)) {
                *y = f(a, b);
            }
        }
    }
}

/// Checks that an operand is as long as the output, or is one element.
pub(crate) fn check_repeats(
    what: &'static str,
    len: usize,
    output: usize,
) -> Result<(), KernelError> {
    match len {
        1 => Ok(()),
        _ => check_len(what, output, len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(size: usize, step: usize) -> Axis {
        Axis { size, step }
    }

    /// All elements, by the definition.
    fn definition(axes: &[Axis], offset: usize, found: &mut Vec<u32>) {
        match axes {
            [] => found.push(offset as u32),
            [first, rest @ ..] => {
                (0..first.size).for_each(|i| definition(rest, offset + i * first.step, found));
            }
        }
    }

    #[test]
    fn elements_come_from_their_places_on_every_instruction_set() {
        let mut cases = vec![vec![], vec![axis(5, 0)], vec![axis(40, 1)]];
        for width in [1, 2, 7, 15, 16, 17, 33, 100] {
            for step in [0, 1] {
                cases.push(vec![axis(9, 0), axis(width, step)]);
                cases.push(vec![axis(9, width * step + 1), axis(width, step)]);
                cases.push(vec![axis(3, 7), axis(4, 0), axis(5, 2), axis(width, step)]);
                cases.push(vec![axis(2, 0), axis(4, 1), axis(5, 0), axis(width, step)]);
            }
        }
        let input: Vec<u32> = (0..2000).collect();
        let bytes: Vec<u8> = input.iter().map(|&value| value as u8).collect();
        for axes in cases {
            let mut expected = Vec::new();
            definition(&axes, 0, &mut expected);
            for isa in Isa::supported() {
                let mut output = vec![u32::MAX; expected.len()];
                expand(isa, &axes, &input, &mut output).unwrap();
                assert_eq!(output, expected, "{isa} {axes:?}");
                let mut output = vec![0xA5_u8; expected.len()];
                expand(isa, &axes, &bytes, &mut output).unwrap();
                assert!(output.iter().zip(&expected).all(|(&y, &x)| y == x as u8));
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let call = |axes: &[Axis], input: usize, output: usize| {
            expand(Isa::Scalar, axes, &vec![0_u8; input], &mut vec![1; output])
        };
        assert_eq!(call(&[axis(2, 3), axis(3, 1)], 6, 6), Ok(()));
        assert_eq!(call(&[axis(0, 3), axis(3, 1)], 0, 0), Ok(()));
        assert!(call(&[axis(2, 3), axis(3, 1)], 5, 6).is_err());
        assert!(call(&[axis(2, 3), axis(3, 1)], 6, 7).is_err());
        assert!(call(&[axis(3, 2)], 6, 3).is_err());
        assert!(call(&[axis(2, usize::MAX), axis(2, 1)], 6, 4).is_err());
        assert!(call(&[], 0, 1).is_err());
    }
}
