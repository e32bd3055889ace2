//! Where the values of a specialized plan lie, and which steps have nothing to do for it.
//!
//! Views lie where their operands do. So does a slice whose elements follow each other there; and the operands of a concatenation that takes their
//! bytes as they are lie in its result, in one piece or as parts of its rows, if what computes them writes such rows. What lies where it belongs is not
//! copied. And a result that a caching processor would write far away is nowhere as a whole: the step that alone reads it computes it strip by strip.

use std::collections::BTreeMap;
use std::ops::Range;

use octofold_ops::Op;
use octofold_tensor::Shape;
use smallvec::SmallVec;

use crate::PlanError;
use crate::exec::{self, Apart, Laid};
use crate::memory::{Lifetime, place};
use crate::plan::{Kernel, Operand, Plan, Step, ValueIndex};
use crate::specialize::arguments;
use crate::values::kernels_write;

/// Where a value lies while the plan runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the arena.
    Arena(Range<usize>),
    /// In the arena, as parts of the rows of another value, which has the range.
    Rows(Range<usize>, Apart),
    /// In a tensor of its own: inputs, outputs, what only portable steps touch, and what depends on data.
    Tensor,
    /// Nowhere as a whole: the step that reads it computes it strip by strip.
    Strips,
}

/// The places of all values.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) values: Vec<Place>,
    /// For each step the operands that lie where they belong in its result.
    pub(crate) joined: Vec<Joined>,
    /// For each step whether the next one computes its result strip by strip.
    pub(crate) strips: Vec<bool>,
    /// For each value the last step that reads or gives it.
    pub(crate) last_uses: Vec<Option<usize>>,
    pub(crate) arena_bytes: usize,
}

/// Slots of operands.
pub(crate) type Joined = SmallVec<[usize; 4]>;

/// A value inside of another one.
#[derive(Clone, Copy, Debug)]
struct Inside {
    value: ValueIndex,
    /// Bytes before it.
    offset: usize,
    apart: Option<Apart>,
}

/// What is known of a plan with sizes.
struct Values<'a> {
    plan: &'a Plan,
    shapes: &'a [Option<Shape>],
    inside: Vec<Option<Inside>>,
}

/// Finds the places of all values, for `threads` threads.
///
/// # Errors
/// When the arena overflows.
pub(crate) fn places(
    plan: &Plan,
    shapes: &[Option<Shape>],
    threads: usize,
) -> Result<Places, PlanError> {
    let mut values = Values {
        plan,
        shapes,
        inside: vec![None; plan.values().len()],
    };
    for step in plan.steps() {
        if let (Kernel::View, Some(&Operand::Value(value)), [to, ..]) =
            (step.kernel, step.inputs.first(), &*step.outputs)
        {
            values.inside[to.index()] = Some(Inside {
                value: values.root(value).0,
                offset: 0,
                apart: None,
            });
        }
    }
    let mut in_arena = values.in_arena();
    let reads = reads(plan);
    let joined = values.join(&in_arena, &reads);
    let strips = values.strips(&in_arena, &reads, threads);
    let last_uses = last_uses(plan, &strips);
    let mut nowhere = vec![false; in_arena.len()];
    for (step, _) in plan
        .steps()
        .iter()
        .zip(&strips)
        .filter(|(_, strips)| **strips)
    {
        for value in &step.outputs {
            in_arena[value.index()] = false;
            nowhere[value.index()] = true;
        }
    }
    let (mut places, arena_bytes) = values.place(&in_arena, &last_uses)?;
    for (place, _) in places
        .iter_mut()
        .zip(nowhere)
        .filter(|(_, nowhere)| *nowhere)
    {
        *place = Place::Strips;
    }
    Ok(Places {
        values: places,
        joined,
        strips,
        last_uses,
        arena_bytes,
    })
}

impl Values<'_> {
    /// The bytes of a value of known size.
    fn len(&self, value: ValueIndex) -> usize {
        let size = self.plan.value(value).dtype.size().unwrap_or(1);
        let shape = self.shapes[value.index()].as_ref();
        shape.and_then(|shape| byte_len(size, shape)).unwrap_or(0)
    }

    /// The value whose memory a value's is, and the bytes before it there.
    fn root(&self, mut value: ValueIndex) -> (ValueIndex, usize) {
        let mut before = 0;
        while let Some(inside) = self.inside[value.index()] {
            (value, before) = (inside.value, before + inside.offset);
        }
        (value, before)
    }

    /// The root of every value, each link followed once.
    fn homes(&self) -> Vec<(ValueIndex, usize)> {
        let mut homes: Vec<Option<(ValueIndex, usize)>> = vec![None; self.inside.len()];
        let mut path = Vec::new();
        for index in 0..self.inside.len() as u32 {
            let mut value = ValueIndex(index);
            while let (None, Some(inside)) = (homes[value.index()], self.inside[value.index()]) {
                path.push((value, inside.offset));
                value = inside.value;
            }
            let mut home = homes[value.index()].unwrap_or((value, 0));
            homes[value.index()] = Some(home);
            for (value, offset) in path.drain(..).rev() {
                home.1 += offset;
                homes[value.index()] = Some(home);
            }
        }
        homes.into_iter().flatten().collect()
    }

    /// For each value whether the memory that it has with its views lies in the arena.
    fn in_arena(&self) -> Vec<bool> {
        let root = |value: ValueIndex| self.root(value).0.index();
        let plan = self.plan;
        let mut wanted = vec![false; self.inside.len()];
        for step in plan.steps() {
            if !matches!(step.kernel, Kernel::Portable | Kernel::View) {
                values_of(step).for_each(|value| wanted[root(value)] = true);
            }
        }
        let mut refuse = |value: ValueIndex| wanted[root(value)] = false;
        plan.parts().inputs.iter().for_each(|&input| refuse(input));
        for output in plan.outputs() {
            if let Operand::Value(value) = output.value {
                refuse(value);
            }
        }
        for step in plan.steps() {
            // A view of a constant has no memory of its own.
            if let (Kernel::View, Some(Operand::Constant(_) | Operand::Absent)) =
                (step.kernel, step.inputs.first())
            {
                step.outputs.iter().for_each(|&value| refuse(value));
            }
        }
        for (index, value) in plan.values().iter().enumerate() {
            if self.shapes[index].is_none() || !kernels_write(value.dtype) {
                refuse(ValueIndex(index as u32));
            }
        }
        (0..wanted.len() as u32)
            .map(|index| wanted[root(ValueIndex(index))])
            .collect()
    }

    /// Puts slices into their operands, and operands of concatenations into the results, where steps allow it; gives the operands of each step
    /// that lie where they belong.
    fn join(&mut self, in_arena: &[bool], reads: &[usize]) -> Vec<Joined> {
        let plan = self.plan;
        let mut given_by = vec![None; self.inside.len()];
        for step in plan.steps() {
            for value in &step.outputs {
                given_by[value.index()] = Some(step);
            }
        }
        let mut joined = vec![Joined::new(); plan.steps().len()];
        for (step, joined) in plan.steps().iter().zip(&mut joined) {
            let &[result] = &*step.outputs else {
                continue;
            };
            let joins = matches!(step.kernel, Kernel::Move | Kernel::QConcat | Kernel::Concat);
            if !joins || !in_arena[result.index()] {
                continue;
            }
            let Ok(sizes) = arguments(plan, step, self.shapes, &Laid::default()) else {
                continue;
            };
            match (&step.op, step.inputs.first()) {
                (Op::Slice(_), Some(&Operand::Value(operand))) if in_arena[operand.index()] => {
                    if let Ok(Some(offset)) = exec::slice_start(&sizes) {
                        let (root, before) = self.root(operand);
                        self.inside[result.index()] = Some(Inside {
                            value: root,
                            offset: before + offset,
                            apart: None,
                        });
                        joined.push(0);
                    }
                }
                (Op::FusedConcat(_) | Op::Concat(_), _) => {
                    let Ok(placed) = exec::concat_places(&sizes) else {
                        continue;
                    };
                    let roots = step.inputs.iter().map(|operand| match operand {
                        Operand::Value(operand) => Some(self.root(*operand)),
                        _ => None,
                    });
                    let roots: Vec<_> = roots.collect();
                    let mut counts = BTreeMap::new();
                    for (root, _) in roots.iter().flatten() {
                        *counts.entry(*root).or_insert(0) += 1;
                    }
                    for (slot, operand) in step.inputs.iter().enumerate() {
                        let (&Operand::Value(operand), Some((root, before)), Some(placed)) =
                            (operand, roots[slot], &placed[slot])
                        else {
                            continue;
                        };
                        // What is copied as well would be copied from where it is copied to.
                        let alone = counts[&root] == 1;
                        let whole = before == 0 && self.len(root) == self.len(operand);
                        if !in_arena[operand.index()] || !alone || !whole {
                            continue;
                        }
                        let writes_rows = || {
                            let step = given_by[operand.index()].filter(|_| root == operand);
                            let sizes = step
                                .map(|step| arguments(plan, step, self.shapes, &Laid::default()));
                            placed.along_last
                                && reads[operand.index()] == 1
                                && sizes.is_some_and(|sizes| {
                                    sizes.is_ok_and(|sizes| exec::writes_apart(&sizes))
                                })
                        };
                        let (offset, apart) = match placed.one {
                            true => (placed.apart.first, None),
                            false if writes_rows() => (0, Some(placed.apart)),
                            false => continue,
                        };
                        self.inside[root.index()] = Some(Inside {
                            value: result,
                            offset,
                            apart,
                        });
                        joined.push(slot);
                    }
                }
                _ => {}
            }
        }
        joined
    }

    /// For each step whether the next one computes its result strip by strip: a large one, that nothing else reads.
    fn strips(&self, in_arena: &[bool], reads: &[usize], threads: usize) -> Vec<bool> {
        let steps = self.plan.steps();
        let pairs = steps.iter().zip(steps.iter().skip(1));
        let computes = pairs.map(|(first, second)| {
            let (&[between], &[result]) = (&*first.outputs, &*second.outputs) else {
                return false;
            };
            let apart = self.inside[result.index()].is_some_and(|inside| inside.apart.is_some());
            let sizes = |step| arguments(self.plan, step, self.shapes, &Laid::default());
            let (Ok(first), Ok(reader)) = (sizes(first), sizes(second)) else {
                return false;
            };
            second.inputs.first() == Some(&Operand::Value(between))
                && reads[between.index()] == 1
                && in_arena[between.index()]
                && self.inside[between.index()].is_none()
                && !apart
                && exec::takes_strips(&first, &reader, threads)
        });
        let mut strips: Vec<bool> = computes.collect();
        strips.resize(steps.len(), false);
        strips
    }

    /// Gives every root its place in the arena, and so the values in it.
    fn place(
        &self,
        in_arena: &[bool],
        last_uses: &[Option<usize>],
    ) -> Result<(Vec<Place>, usize), PlanError> {
        let homes = self.homes();
        let mut lifetimes: Vec<Lifetime> = Vec::new();
        let mut slots = vec![None; self.inside.len()];
        for (index, step) in self.plan.steps().iter().enumerate() {
            for &result in &step.outputs {
                if !in_arena[result.index()] {
                    continue;
                }
                let (root, _) = homes[result.index()];
                let last = last_uses[result.index()].unwrap_or(index);
                match slots[root.index()] {
                    None => {
                        slots[root.index()] = Some(lifetimes.len());
                        lifetimes.push(Lifetime {
                            len: self.len(root),
                            steps: index..=last,
                        });
                    }
                    Some(slot) => {
                        let lifetime: &mut Lifetime = &mut lifetimes[slot];
                        lifetime.steps = *lifetime.steps.start()..=last.max(*lifetime.steps.end());
                    }
                }
            }
        }
        let too_large = || PlanError::Inconsistent("the arena is too large".to_owned());
        let (offsets, total) = place(&lifetimes).ok_or_else(too_large)?;
        let places = (0..self.inside.len() as u32).map(|index| {
            let value = ValueIndex(index);
            let range = |value: ValueIndex| {
                let (root, before) = homes[value.index()];
                let start = offsets[slots[root.index()]?] + before;
                Some(start..start + self.len(value))
            };
            if !in_arena[value.index()] {
                return Place::Tensor;
            }
            match self.inside[value.index()] {
                Some(Inside {
                    value,
                    apart: Some(apart),
                    ..
                }) => range(value).map_or(Place::Tensor, |range| Place::Rows(range, apart)),
                _ => range(value).map_or(Place::Tensor, Place::Arena),
            }
        });
        Ok((places.collect(), total))
    }
}

/// The bytes of elements of a size, when a slice can be that long.
pub(crate) fn byte_len(size: usize, shape: &[usize]) -> Option<usize> {
    let product = shape
        .iter()
        .try_fold(size, |product, &size| product.checked_mul(size))?;
    isize::try_from(product).ok().map(|_| product)
}

/// All values that a step reads or gives.
fn values_of(step: &Step) -> impl Iterator<Item = ValueIndex> {
    let operands = step.inputs.iter().filter_map(|operand| match operand {
        Operand::Value(value) => Some(*value),
        Operand::Absent | Operand::Constant(_) => None,
    });
    operands.chain(step.outputs.iter().copied())
}

/// How often each value is read.
fn reads(plan: &Plan) -> Vec<usize> {
    let mut reads = vec![0; plan.values().len()];
    for operand in plan.steps().iter().flat_map(|step| &step.inputs) {
        if let Operand::Value(value) = operand {
            reads[value.index()] += 1;
        }
    }
    reads
}

/// For each value the last step that reads or gives it. What is computed by the next step is read there.
fn last_uses(plan: &Plan, strips: &[bool]) -> Vec<Option<usize>> {
    let mut last = vec![None; plan.values().len()];
    for (index, (step, &strips)) in plan.steps().iter().zip(strips).enumerate() {
        let index = index + usize::from(strips);
        values_of(step)
            .for_each(|value| last[value.index()] = last[value.index()].max(Some(index)));
    }
    last
}
