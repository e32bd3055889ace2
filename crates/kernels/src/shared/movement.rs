//! Moving elements along axes: any operator whose result takes each element from an input position that is a sum of one offset an axis.
//!
//! Element `[i, j, …]` of the result is at byte `a[i] + b[j] + …` of the input, with a table of offsets for each axis of the result. So slices with any steps,
//! transposes, nearest-neighbour resizing, broadcasting, repetition, picking along an axis, blocks of pixels and constant borders are one
//! kernel. The innermost axes whose elements follow each other in the input as in the result are one item, which is copied whole.

use std::ops::Range;

use super::{check_range, product};
use crate::KernelError;
use crate::error::check_len;
/// The offset of what is not in the input: the border of a pad.
pub const BORDER: usize = usize::MAX;

/// Where the elements of a result are in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// For each axis of the result but the last, the offsets of its positions.
    outer: Vec<Box<[usize]>>,
    /// The pieces of a row of the result, one after the other.
    pieces: Box<[Piece]>,
    /// The bytes of a row of the result.
    width: usize,
    /// The bytes of every piece, when they all have one length.
    piece: Option<usize>,
    /// The bytes that the input has at least.
    input: usize,
}

/// Neighbours in the input that are neighbours in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: usize,
    len: usize,
}

impl Movement {
    /// The movement with a table of byte offsets, or [`BORDER`], for each axis of the result, of elements of `item` bytes.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when the result or the input is larger than a slice can be.
    pub fn new(axes: &[Vec<usize>], item: usize) -> Result<Self, KernelError> {
        let sizes: Vec<usize> = axes.iter().map(Vec::len).chain([item]).collect();
        product("the result", &sizes)?;
        // The farthest element of the input that an element of the result comes from; nothing does when an axis is all border.
        let farthest = axes.iter().map(|axis| {
            let offsets = axis.iter().filter(|&&offset| offset != BORDER);
            offsets.max().copied()
        });
        let farthest: Option<Vec<usize>> = farthest.collect();
        let input = farthest.map_or(Some(0), |offsets| {
            offsets.into_iter().try_fold(item, usize::checked_add)
        });
        let input = input.ok_or(KernelError::TooLarge { what: "the input" })?;
        let (mut axes, mut item) = (axes, item);
        // Axes with the same order as in the result make larger items.
        while let [rest @ .., last] = axes
            && last
                .iter()
                .enumerate()
                .all(|(i, &offset)| offset == i * item)
        {
            item *= last.len();
            axes = rest;
        }
        let (last, outer): (&[usize], _) = match axes {
            [outer @ .., last] => (last, outer),
            [] => (&[0], axes),
        };
        let mut pieces: Vec<Piece> = Vec::new();
        for &offset in last {
            match pieces.last_mut() {
                Some(piece)
                    if piece.offset != BORDER && offset == piece.offset.wrapping_add(piece.len) =>
                {
                    piece.len += item
                }
                Some(piece) if piece.offset == BORDER && offset == BORDER => piece.len += item,
                _ => pieces.push(Piece { offset, len: item }),
            }
        }
        let same = pieces.first().map(|first| first.len).filter(|&len| {
            pieces
                .iter()
                .all(|piece| piece.len == len && piece.offset != BORDER)
        });
        Ok(Self {
            outer: outer.iter().map(|axis| axis.as_slice().into()).collect(),
            width: last.len() * item,
            piece: same,
            pieces: pieces.into(),
            input,
        })
    }

    /// The bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        let outer: usize = self.outer.iter().map(|axis| axis.len()).sum();
        outer * size_of::<usize>() + self.pieces.len() * size_of::<Piece>()
    }

    /// The rows of the result: the product of the sizes of all axes but those that make a row.
    pub fn rows(&self) -> usize {
        self.outer.iter().map(|axis| axis.len()).product()
    }

    /// The bytes of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Writes the rows `rows` of the result to `output`, which holds exactly them. Borders repeat the bytes `fill`, those of one element.
    ///
    /// # Errors
    /// For lengths that do not fit and rows out of range; then nothing is written.
    pub fn run(
        &self,
        input: &[u8],
        fill: &[u8],
        rows: Range<usize>,
        output: &mut [u8],
    ) -> Result<(), KernelError> {
        check_range("rows", &rows, self.rows())?;
        check_len("the output", rows.len() * self.width, output.len())?;
        if output.is_empty() {
            return Ok(());
        }
        if input.len() < self.input {
            return Err(KernelError::Shape(
                "the input is shorter than what is taken from it",
            ));
        }
        match self.piece {
            Some(1) => self.copy(input, fill, rows, output, copy_each::<1>),
            Some(2) => self.copy(input, fill, rows, output, copy_each::<2>),
            Some(4) => self.copy(input, fill, rows, output, copy_each::<4>),
            Some(8) => self.copy(input, fill, rows, output, copy_each::<8>),
            Some(16) => self.copy(input, fill, rows, output, copy_each::<16>),
            Some(len) if len > 16 && len <= 128 => {
                self.copy(input, fill, rows, output, copy_blocks)
            }
            _ => self.copy(input, fill, rows, output, copy_any),
        }
        Ok(())
    }

    #[inline(always)]
    fn copy(
        &self,
        input: &[u8],
        fill: &[u8],
        rows: Range<usize>,
        output: &mut [u8],
        pieces: impl Fn(&[Piece], &[u8], &[u8], &mut [u8]),
    ) {
        for (row, output) in rows.zip(output.chunks_exact_mut(self.width)) {
            let (mut rest, mut start) = (row, Some(0));
            for axis in self.outer.iter().rev() {
                let offset = axis[rest % axis.len()];
                rest /= axis.len();
                start = start
                    .filter(|_| offset != BORDER)
                    .map(|start: usize| start.saturating_add(offset));
            }
            match start {
                // Of rows that are all border nothing was asked of the input.
                Some(start) => {
                    let input = input.get(start..).unwrap_or(&[]);
                    pieces(&self.pieces, input, fill, output);
                }
                None => repeat(fill, output),
            }
        }
    }
}

/// Pieces of one length that the compiler knows.
#[inline(always)]
fn copy_each<const N: usize>(pieces: &[Piece], input: &[u8], _fill: &[u8], output: &mut [u8]) {
    for (piece, output) in pieces.iter().zip(output.as_chunks_mut::<N>().0) {
        output.copy_from_slice(&input[piece.offset..piece.offset + N]);
    }
}

/// Pieces of one length from 16 bytes on: whole blocks of 16, the last of which may overlap the one before. Calling the system's copy would take longer.
#[inline(always)]
fn copy_blocks(pieces: &[Piece], input: &[u8], _fill: &[u8], output: &mut [u8]) {
    let len = pieces[0].len;
    for (piece, output) in pieces.iter().zip(output.chunks_exact_mut(len)) {
        let input = &input[piece.offset..piece.offset + len];
        let starts = (0..len - 16).step_by(16).chain([len - 16]);
        for start in starts {
            output[start..start + 16].copy_from_slice(&input[start..start + 16]);
        }
    }
}

/// Pieces of any lengths, and borders.
#[inline(always)]
fn copy_any(pieces: &[Piece], input: &[u8], fill: &[u8], mut output: &mut [u8]) {
    for piece in pieces {
        let (target, rest) = output.split_at_mut(piece.len);
        if piece.offset == BORDER {
            repeat(fill, target);
        } else {
            target.copy_from_slice(&input[piece.offset..piece.offset + piece.len]);
        }
        output = rest;
    }
}

/// Fills bytes with one element, over and over; zeros where there is none.
fn repeat(fill: &[u8], output: &mut [u8]) {
    match *fill {
        [] => output.fill(0),
        [byte] => output.fill(byte),
        _ => output.chunks_mut(fill.len()).for_each(|chunk| {
            chunk.copy_from_slice(&fill[..chunk.len()]);
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each element by itself.
    fn naive(axes: &[Vec<usize>], item: usize, input: &[u8], fill: &[u8]) -> Vec<u8> {
        let count: usize = axes.iter().map(Vec::len).product();
        let mut output = Vec::new();
        for element in 0..count {
            let (mut rest, mut offset) = (element, Some(0));
            for axis in axes.iter().rev() {
                let step = axis[rest % axis.len()];
                rest /= axis.len();
                offset = offset
                    .filter(|_| step != BORDER)
                    .map(|offset| offset + step);
            }
            match offset {
                Some(offset) => output.extend(&input[offset..offset + item]),
                None => output.extend(fill),
            }
        }
        output
    }

    fn check(axes: &[Vec<usize>], item: usize, input_len: usize) {
        let input: Vec<u8> = (0..input_len).map(|i| (i * 37 % 251) as u8).collect();
        let fill = [200, 201, 202, 203, 204, 205, 206, 207];
        let fill = &fill[..item];
        let movement = Movement::new(axes, item).unwrap();
        let expected = naive(axes, item, &input, fill);
        let (rows, width) = (movement.rows(), movement.width());
        assert_eq!(rows * width, expected.len());
        for cut in [0, rows / 3, rows] {
            for range in [0..cut, cut..rows] {
                let mut output = vec![0xEE; range.len() * width];
                movement
                    .run(&input, fill, range.clone(), &mut output)
                    .unwrap();
                assert_eq!(
                    output,
                    expected[range.start * width..range.end * width],
                    "{axes:?}"
                );
            }
        }
        let taken = axes
            .iter()
            .all(|axis| axis.iter().any(|&offset| offset != BORDER));
        if taken && rows > 0 {
            let short = &input[..movement.input - 1];
            let mut output = vec![0; rows * width];
            assert!(movement.run(short, fill, 0..rows, &mut output).is_err());
            assert!(output.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn every_element_comes_from_its_place() {
        for item in [1, 2, 4, 8] {
            let line = |offsets: &[usize], step: usize| -> Vec<usize> {
                let scaled = |&offset: &usize| {
                    if offset == BORDER {
                        BORDER
                    } else {
                        offset * step * item
                    }
                };
                offsets.iter().map(scaled).collect()
            };
            // A copy, a transpose, a reversed slice, doubled pixels, borders inside and outside of rows, and a scalar.
            check(
                &[line(&[0, 1, 2], 4), line(&[0, 1, 2, 3], 1)],
                item,
                12 * item,
            );
            check(
                &[line(&[0, 1, 2, 3], 1), line(&[0, 1, 2], 4)],
                item,
                12 * item,
            );
            check(&[line(&[2, 0], 4), line(&[3, 2, 1], 1)], item, 12 * item);
            check(
                &[
                    line(&[0, 0, 1, 1], 10),
                    line(&[0, 0, 1, 1], 5),
                    line(&[0, 1, 2, 3, 4], 1),
                ],
                item,
                20 * item,
            );
            check(
                &[
                    line(&[BORDER, 0, 1], 4),
                    line(&[BORDER, 0, 1, 2, 3, BORDER, BORDER], 1),
                ],
                item,
                8 * item,
            );
            check(
                &[line(&[0, BORDER], 4), line(&[0, 1, 2, 3], 1)],
                item,
                8 * item,
            );
            check(&[line(&[BORDER, BORDER], 1)], item, 0);
            check(&[], item, item);
            // Items of 20 and of 40 elements: blocks that overlap, and copies of any length.
            let long: Vec<usize> = (0..20).collect();
            check(&[line(&[1, 0, 1], 20), line(&long, 1)], item, 40 * item);
            let long: Vec<usize> = (0..40).collect();
            check(&[line(&[1, 0, 1], 40), line(&long, 1)], item, 80 * item);
            check(&[line(&[0, 3, 4, 5, 9], 1)], item, 10 * item);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Movement::new(&[vec![usize::MAX - 1]], 4).is_err());
        let movement = Movement::new(&[vec![0, 4], vec![0, 2]], 1).unwrap();
        let mut output = [0; 4];
        assert!(movement.run(&[1; 7], &[0], 0..3, &mut output).is_err());
        assert!(movement.run(&[1; 7], &[0], 0..1, &mut output).is_err());
        movement.run(&[1; 7], &[0], 0..2, &mut output).unwrap();
    }
}
