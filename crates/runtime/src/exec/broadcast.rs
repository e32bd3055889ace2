//! Operands that broadcast to the result of an elementwise operator.
//!
//! [`Broadcast`] cuts the result into tiles so that a kernel gets, for each operand, a slice as long as the tile or a single element. Where the last axes along
//! which every operand either has all elements or repeats are long, a tile is a run of them. Otherwise a tile consists of many short
//! runs, and operands that repeat in between are first written out in their order ([`expand`]).

use octofold_kernels::Isa;
use octofold_kernels::shared::expand::{Axis, expand};
use octofold_tensor::DType;
use smallvec::SmallVec;

use super::{Argument, BYTES, Work, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

/// The number of elements from which on a run is a tile of its own.
const LONG: usize = 512;
/// The number of elements of a tile of shorter runs, at most.
const TILE: usize = 2048;

/// How `N` operands broadcast to a result. It is computed in tiles: neighbours along one axis of the result, each with all elements of the axes behind it.
#[derive(Debug)]
pub(super) struct Broadcast<const N: usize> {
    /// The axes of the result from the outermost to that of the tiles.
    outer: Vec<Joint<N>>,
    /// The number of elements behind one position on the axis of the tiles.
    unit: usize,
    /// The number of positions of a tile, at most.
    positions: usize,
    /// What a tile reads of each operand.
    reads: [Read; N],
    /// The bytes of an element of each operand.
    sizes: [usize; N],
    /// The bytes of an element of the result.
    size: usize,
    /// The number of positions of a part for one thread.
    part: usize,
}

/// Neighbouring axes of the result along which the same operands repeat, as one axis: its size, and the distance between its neighbours in each operand.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Joint<const N: usize> {
    size: usize,
    steps: [usize; N],
}

/// What a tile reads of an operand.
#[derive(Clone, Debug, PartialEq)]
enum Read {
    /// Neighbours, as many as the tile has elements.
    Whole,
    /// One element.
    Single,
    /// Elements that are first written out in the order of the result: the axes of the tile.
    Expanded(SmallVec<[Axis; 4]>),
}

/// The memory of one thread for the tiles of an operand.
struct Buffer<'a> {
    bytes: &'a mut [u8],
    /// The first element and the number of positions of the tile that was written last.
    written: (usize, usize),
}

impl<const N: usize> Broadcast<N> {
    /// How operands broadcast to a result; `None` if they do not, or if their elements have no whole number of bytes.
    pub(super) fn new(result: Argument<'_>, operands: [Argument<'_>; N]) -> Option<Self> {
        let axes = joint(result.shape, operands.map(|operand| operand.shape))?;
        let size = |dtype: DType| dtype.size().filter(|size| [1, 2, 4, 8].contains(size));
        let mut sizes = [0; N];
        for (bytes, operand) in sizes.iter_mut().zip(operands) {
            *bytes = size(operand.dtype)?;
        }
        let size = size(result.dtype)?;
        let count = |axes: &[Joint<N>]| axes.iter().map(|axis| axis.size).product::<usize>();
        let last = axes.len() - 1;
        let split = match axes[last].size < LONG {
            true => (0..last).find(|&axis| count(&axes[axis + 1..]) <= TILE),
            false => None,
        };
        let split = split.unwrap_or(last);
        let unit = count(&axes[split + 1..]);
        let reads: [Read; N] = std::array::from_fn(|slot| Read::of(&axes[split..], slot));
        let expanded = reads.iter().any(|read| matches!(read, Read::Expanded(_)));
        let positions = match expanded {
            true => (TILE / unit.max(1)).clamp(1, axes[split].size.max(1)),
            false => axes[split].size,
        };
        let cost = (sizes.iter().sum::<usize>() + size).saturating_mul(unit);
        Some(Self {
            part: part_len(
                count(&axes[..=split]),
                cost,
                BYTES,
                64_usize.div_ceil(unit.max(1)),
            ),
            outer: axes[..=split].to_vec(),
            unit,
            positions,
            reads,
            sizes,
            size,
        })
    }

    /// The work that calls `kernel(isa, operands, output)` for each tile, on all threads. An operand is as long as the output, or is one element.
    pub(super) fn work(
        self,
        kernel: impl Fn(Isa, [&[u8]; N], &mut [u8]) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Work {
        let position = self.unit * self.size;
        let part = self.part.saturating_mul(position);
        let scratch = (0..N).map(|slot| self.buffer_len(slot)).sum();
        Work::new(move |call, output| {
            (call.pool).run_parts(output, part, scratch, |first, output, scratch| {
                let mut buffers = self.buffers(scratch);
                let (mut number, mut rest) = (first / position, output);
                while !rest.is_empty() {
                    let (starts, behind) = self.starts(number);
                    let positions = behind.min(self.positions).min(rest.len() / position);
                    let (output, next) = rest.split_at_mut(positions * position);
                    let mut tiles = [&[][..]; N];
                    for (slot, buffer) in buffers.iter_mut().enumerate() {
                        let place = (starts[slot], positions);
                        tiles[slot] =
                            self.tile(call.isa, slot, call.operand(slot), place, buffer)?;
                    }
                    kernel(call.isa, tiles, output)?;
                    rest = next;
                    number += positions;
                }
                Ok(())
            })
        })
    }

    /// The bytes of an operand's buffer.
    fn buffer_len(&self, slot: usize) -> usize {
        match &self.reads[slot] {
            Read::Expanded(_) => {
                (self.positions * self.unit * self.sizes[slot]).next_multiple_of(64)
            }
            _ => 0,
        }
    }

    fn buffers<'a>(&self, scratch: &'a mut [u8]) -> [Buffer<'a>; N] {
        let mut rest = scratch;
        std::array::from_fn(|slot| {
            let (bytes, next) = std::mem::take(&mut rest).split_at_mut(self.buffer_len(slot));
            rest = next;
            Buffer {
                bytes,
                written: (0, 0),
            }
        })
    }

    /// The first element of each operand for a position, and the number of positions from there to the end of the axis.
    fn starts(&self, number: usize) -> ([usize; N], usize) {
        let (mut rest, mut starts) = (number, [0; N]);
        for axis in self.outer.iter().rev() {
            let index = rest % axis.size;
            rest /= axis.size;
            (starts.iter_mut().zip(axis.steps)).for_each(|(start, step)| *start += index * step);
        }
        let last = self.outer[self.outer.len() - 1].size;
        (starts, last - number % last)
    }

    /// What a kernel gets of an operand for the tile with this first element and number of positions.
    fn tile<'a>(
        &self,
        isa: Isa,
        slot: usize,
        operand: &'a [u8],
        (start, positions): (usize, usize),
        buffer: &'a mut Buffer<'_>,
    ) -> Result<&'a [u8], StepError> {
        let size = self.sizes[slot];
        let elements = match &self.reads[slot] {
            Read::Single => 1,
            _ => positions * self.unit,
        };
        let bytes = elements * size;
        let Read::Expanded(axes) = &self.reads[slot] else {
            let part = operand
                .get(start * size..)
                .and_then(|rest| rest.get(..bytes));
            return part.ok_or_else(out_of_range);
        };
        // Tiles of an operand that repeats along their axis are equal.
        if buffer.written.0 != start || buffer.written.1 < positions {
            let mut axes = axes.clone();
            axes[0].size = positions;
            let operand = operand.get(start * size..).ok_or_else(out_of_range)?;
            let output = &mut buffer.bytes[..bytes];
            match size {
                1 => expand(isa, &axes, operand, output)?,
                2 => expand(isa, &axes, numbers::<u16>(operand)?, numbers_mut(output)?)?,
                4 => expand(isa, &axes, numbers::<u32>(operand)?, numbers_mut(output)?)?,
                _ => expand(isa, &axes, numbers::<u64>(operand)?, numbers_mut(output)?)?,
            }
            buffer.written = (start, positions);
        }
        Ok(&buffer.bytes[..bytes])
    }
}

fn out_of_range() -> StepError {
    StepError::invalid("an operand is shorter than the result")
}

impl Read {
    /// What a tile along these axes reads of the operand in a slot.
    fn of<const N: usize>(axes: &[Joint<N>], slot: usize) -> Self {
        let mut step = 1;
        let dense = axes.iter().rev().all(|axis| {
            let dense = axis.steps[slot] == step;
            step *= axis.size;
            dense
        });
        if dense {
            return Self::Whole;
        }
        if axes.iter().all(|axis| axis.steps[slot] == 0) {
            return Self::Single;
        }
        Self::Expanded(
            (axes.iter())
                .map(|axis| Axis {
                    size: axis.size,
                    step: axis.steps[slot],
                })
                .collect(),
        )
    }
}

/// The axes of a result, at least one, with neighbours along which the same operands repeat as one axis. `None` if the operands do not broadcast to the result.
fn joint<const N: usize>(result: &[usize], operands: [&[usize]; N]) -> Option<Vec<Joint<N>>> {
    if operands.iter().any(|shape| shape.len() > result.len()) {
        return None;
    }
    let mut axes: Vec<Joint<N>> = Vec::new();
    let mut counts = [1; N];
    for (back, &size) in result.iter().rev().enumerate() {
        let own = operands.map(|shape| {
            shape
                .len()
                .checked_sub(back + 1)
                .map_or(1, |axis| shape[axis])
        });
        let fits = own.iter().all(|&own| own == size || own == 1) && own.contains(&size);
        if !fits {
            return None;
        }
        let steps = std::array::from_fn(|slot| if own[slot] == 1 { 0 } else { counts[slot] });
        (counts.iter_mut().zip(own)).for_each(|(count, own)| *count *= own);
        match axes.last_mut() {
            _ if size == 1 => {}
            // The next axis goes on where this one ends.
            Some(inner) if inner.steps.map(|step| step * inner.size) == steps => inner.size *= size,
            _ => axes.push(Joint { size, steps }),
        }
    }
    if axes.is_empty() {
        axes.push(Joint {
            size: 1,
            steps: [0; N],
        });
    }
    axes.reverse();
    Some(axes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Call;
    use crate::pool::Pool;

    /// The index in an operand from which element `index` of the result comes, by the definition of broadcasting.
    fn source(index: usize, result: &[usize], shape: &[usize]) -> usize {
        let (mut rest, mut offset, mut stride) = (index, 0, 1);
        for (back, &size) in result.iter().rev().enumerate() {
            let position = rest % size;
            rest /= size;
            let own = shape
                .len()
                .checked_sub(back + 1)
                .map_or(1, |axis| shape[axis]);
            offset += if own == 1 { 0 } else { position * stride };
            stride *= own;
        }
        offset
    }

    fn argument(dtype: DType, shape: &[usize]) -> Argument<'_> {
        Argument {
            dtype,
            shape,
            constant: None,
        }
    }

    /// Runs a kernel that notes which elements of a (4 bytes) and b (1 byte) it gets for each element.
    fn check(result: &[usize], a: &[usize], b: &[usize], threads: usize) {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let broadcast = Broadcast::new(
            argument(DType::I64, result),
            [argument(DType::F32, a), argument(DType::U8, b)],
        )
        .unwrap();
        let first: Vec<u32> = (0..count(a) as u32).collect();
        let second: Vec<u8> = (0..count(b)).map(|i| (i % 251) as u8).collect();
        let mut output = vec![u64::MAX; count(result)];
        let pool = Pool::new(threads).unwrap();
        let work = broadcast.work(|_, [a, b], output| {
            let (a, output) = (numbers::<u32>(a)?, numbers_mut::<u64>(output)?);
            assert!([1, output.len()].contains(&a.len()) && [1, output.len()].contains(&b.len()));
            for (i, y) in output.iter_mut().enumerate() {
                *y = u64::from(a[i % a.len()]) * 1000 + u64::from(b[i % b.len()]);
            }
            Ok(())
        });
        for isa in Isa::supported() {
            output.fill(u64::MAX);
            let call = Call {
                isa,
                pool: &pool,
                operands: &[bytemuck::cast_slice(&first), &second],
                packed: &[],
            };
            work.run(call, &mut [bytemuck::cast_slice_mut(&mut output)])
                .unwrap();
            for (i, &y) in output.iter().enumerate() {
                let (a, b) = (source(i, result, a), source(i, result, b));
                assert_eq!(
                    y,
                    (a * 1000 + b % 251) as u64,
                    "{result:?} {isa} element {i}"
                );
            }
        }
    }

    #[test]
    fn operands_broadcast_along_any_axes() {
        let shapes: [(&[usize], &[usize], &[usize]); 16] = [
            (&[2, 3, 4, 5], &[2, 3, 4, 5], &[2, 3, 4, 5]),
            (&[2, 3, 4, 5], &[2, 3, 4, 5], &[5]),
            (&[2, 3, 4, 5], &[2, 1, 1, 5], &[2, 3, 4, 5]),
            (&[2, 3, 4, 5], &[2, 3, 4, 5], &[1, 3, 1, 1]),
            (&[2, 3, 4, 5], &[2, 1, 4, 1], &[3, 1, 5]),
            (&[2, 3, 4, 5], &[2, 3, 1, 1], &[4, 5]),
            (&[2, 3, 4, 1], &[1, 3, 1, 1], &[2, 1, 4, 1]),
            (&[4, 5], &[4, 1], &[1, 5]),
            (&[1, 1], &[1], &[1, 1]),
            (&[], &[], &[]),
            (&[0, 3], &[1, 3], &[0, 1]),
            // Tiles end within axes, and parts within tiles.
            (&[7, 300, 21], &[7, 300, 21], &[300, 1]),
            (&[7, 300, 21], &[7, 1, 21], &[300, 1]),
            (&[3, 40, 700], &[40, 1], &[3, 40, 700]),
            (&[50_001, 3], &[3], &[50_001, 1]),
            (&[2, 90_000], &[90_000], &[2, 1]),
        ];
        for (result, a, b) in shapes {
            for threads in [1, 2] {
                check(result, a, b, threads);
                check(result, b, a, threads);
            }
        }
    }

    #[test]
    fn what_does_not_broadcast_is_refused() {
        let refused = |result: &[usize], a: &[usize], b: &[usize]| {
            let operands = [a, b].map(|shape| argument(DType::U8, shape));
            Broadcast::new(argument(DType::U8, result), operands).is_none()
        };
        assert!(refused(&[2, 3], &[2, 3], &[2]));
        assert!(refused(&[2, 3], &[1, 3], &[1, 3]));
        assert!(refused(&[3], &[1, 3], &[3]));
        assert!(!refused(&[2, 3], &[2, 1], &[3]));
        let strings = argument(DType::String, &[2]);
        assert!(Broadcast::new(strings, [strings]).is_none());
    }
}
