//! Where the values of a specialized plan are stored, and which copies that saves.
//!
//! A view has the memory of its operand, and so has a slice whose elements are contiguous there. An operand of a concatenation that takes its bytes
//! unchanged is stored in the result: in one piece, or as parts of the result's rows where the step that computes it can write them. The
//! concatenation copies only the other operands.

use std::collections::BTreeMap;
use std::ops::Range;

use octofold_kernels::conv::RowStride;
use octofold_ops::Op;
use octofold_tensor::Shape;
use smallvec::SmallVec;

use crate::PlanError;
use crate::exec::{self, Arguments};
use crate::memory::{Lifetime, place};
use crate::plan::{Core, Operand, Plan, Step, ValueIndex};
use crate::values::kernels_write;

/// Where a value is stored while the plan runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the arena.
    Arena(Range<usize>),
    /// In the arena, as parts of the rows of another value, which has the range.
    Rows(Range<usize>, RowStride),
    /// In a tensor of its own: inputs, outputs, values that only portable steps use, and values whose size depends on data.
    Tensor,
}

/// The places of all values.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) values: Vec<Place>,
    /// For each step the operands that share the memory of its result.
    pub(crate) in_place_operands: Vec<Slots>,
    /// For each value, the last step that reads or computes it.
    pub(crate) last_uses: Vec<Option<usize>>,
    pub(crate) arena_bytes: usize,
}

/// Slots of operands.
pub(crate) type Slots = SmallVec<[usize; 4]>;

/// A value stored in the memory of another one.
#[derive(Clone, Copy, Debug)]
struct Alias {
    value: ValueIndex,
    /// Bytes before it.
    offset: usize,
    row_stride: Option<RowStride>,
}

/// The facts about a plan with known sizes.
struct Values<'a> {
    plan: &'a Plan,
    shapes: &'a [Option<Shape>],
    aliases: Vec<Option<Alias>>,
}

/// Finds the places of all values.
///
/// # Errors
/// When the arena overflows.
pub(crate) fn places(plan: &Plan, shapes: &[Option<Shape>]) -> Result<Places, PlanError> {
    let mut values = Values {
        plan,
        shapes,
        aliases: vec![None; plan.values().len()],
    };
    for step in plan.steps() {
        if let (Core::View, Some(&Operand::Value(value)), [to, ..]) =
            (step.kernel.core(), step.inputs.first(), &*step.outputs)
        {
            values.aliases[to.index()] = Some(Alias {
                value: values.root(value).0,
                offset: 0,
                row_stride: None,
            });
        }
    }
    let in_arena = values.in_arena();
    let in_place_operands = values.share(&in_arena);
    let last_uses = last_uses(plan);
    let (values, arena_bytes) = values.place(&in_arena, &last_uses)?;
    Ok(Places {
        values,
        in_place_operands,
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

    /// The value that owns the memory of a value, and the bytes before the latter there.
    fn root(&self, mut value: ValueIndex) -> (ValueIndex, usize) {
        let mut before = 0;
        while let Some(alias) = self.aliases[value.index()] {
            (value, before) = (alias.value, before + alias.offset);
        }
        (value, before)
    }

    /// The root of every value, each link followed once.
    fn homes(&self) -> Vec<(ValueIndex, usize)> {
        let mut homes: Vec<Option<(ValueIndex, usize)>> = vec![None; self.aliases.len()];
        let mut path = Vec::new();
        for index in 0..self.aliases.len() as u32 {
            let mut value = ValueIndex(index);
            while let (None, Some(alias)) = (homes[value.index()], self.aliases[value.index()]) {
                path.push((value, alias.offset));
                value = alias.value;
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

    /// For each value whether the memory that it shares with its views is in the arena.
    fn in_arena(&self) -> Vec<bool> {
        let root = |value: ValueIndex| self.root(value).0.index();
        let plan = self.plan;
        let mut wanted = vec![false; self.aliases.len()];
        for step in plan.steps() {
            if !matches!(step.kernel.core(), Core::Portable | Core::View) {
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
            if let (Core::View, Some(Operand::Constant(_) | Operand::Absent)) =
                (step.kernel.core(), step.inputs.first())
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

    /// Stores slices in their operands and operands of concatenations in the results, where steps allow it; gives the operands of each step that share
    /// the memory of its result.
    fn share(&mut self, in_arena: &[bool]) -> Vec<Slots> {
        let (plan, shapes) = (self.plan, self.shapes);
        let strided = self.written_in_strided_rows();
        let share = |step: &Step| {
            let &[result] = &*step.outputs else {
                return Slots::new();
            };
            let shares = matches!(
                step.kernel.core(),
                Core::Move | Core::QConcat | Core::Concat
            );
            if !shares || !in_arena[result.index()] {
                return Slots::new();
            }
            let Ok(arguments) = Arguments::of(plan, step, shapes) else {
                return Slots::new();
            };
            match &step.op {
                Op::Slice(_) => self.share_slice(&arguments, result, in_arena),
                Op::FusedConcat(_) | Op::Concat(_) => {
                    self.share_operands(&arguments, result, in_arena, &strided)
                }
                _ => Slots::new(),
            }
        };
        plan.steps().iter().map(share).collect()
    }

    /// Stores a slice whose elements are contiguous in its operand there.
    fn share_slice(
        &mut self,
        arguments: &Arguments<'_>,
        result: ValueIndex,
        in_arena: &[bool],
    ) -> Slots {
        let operand = match arguments.step.inputs.first() {
            Some(&Operand::Value(operand)) if in_arena[operand.index()] => operand,
            _ => return Slots::new(),
        };
        let Ok(Some(start)) = exec::slice_start(arguments) else {
            return Slots::new();
        };
        let (value, before) = self.root(operand);
        self.aliases[result.index()] = Some(Alias {
            value,
            offset: before + start,
            row_stride: None,
        });
        SmallVec::from_slice(&[0])
    }

    /// Stores operands of a concatenation in its result.
    fn share_operands(
        &mut self,
        arguments: &Arguments<'_>,
        result: ValueIndex,
        in_arena: &[bool],
        strided: &[bool],
    ) -> Slots {
        let mut slots = Slots::new();
        let Ok(placed) = exec::concat_places(arguments) else {
            return slots;
        };
        let roots = arguments.step.inputs.iter().map(|operand| match operand {
            Operand::Value(operand) => Some(self.root(*operand)),
            _ => None,
        });
        let roots: Vec<_> = roots.collect();
        let mut counts = BTreeMap::new();
        for (root, _) in roots.iter().flatten() {
            *counts.entry(*root).or_insert(0) += 1;
        }
        for (slot, operand) in arguments.step.inputs.iter().enumerate() {
            let (&Operand::Value(operand), Some((root, before)), Some(placed)) =
                (operand, roots[slot], &placed[slot])
            else {
                continue;
            };
            // An operand that occurs twice must be copied; stored in the result, it would be the source of its own copy.
            let once = counts[&root] == 1;
            let whole = before == 0 && self.len(root) == self.len(operand);
            if !in_arena[operand.index()] || !once || !whole {
                continue;
            }
            let rows = placed.along_last && root == operand && strided[operand.index()];
            let (offset, row_stride) = match placed.contiguous {
                true => (placed.row_stride.offset, None),
                false if rows => (0, Some(placed.row_stride)),
                false => continue,
            };
            self.aliases[root.index()] = Some(Alias {
                value: result,
                offset,
                row_stride,
            });
            slots.push(slot);
        }
        slots
    }

    /// For each value, whether its step can write its rows as parts of wider rows and only one step reads it.
    fn written_in_strided_rows(&self) -> Vec<bool> {
        let mut reads = vec![0; self.aliases.len()];
        for operand in self.plan.steps().iter().flat_map(|step| &step.inputs) {
            if let Operand::Value(value) = operand {
                reads[value.index()] += 1;
            }
        }
        let mut strided = vec![false; self.aliases.len()];
        for step in self.plan.steps() {
            let (&[result], Ok(arguments)) =
                (&*step.outputs, Arguments::of(self.plan, step, self.shapes))
            else {
                continue;
            };
            strided[result.index()] =
                reads[result.index()] == 1 && exec::writes_strided_rows(&arguments);
        }
        strided
    }

    /// The steps during which each root in the arena is needed, and for each value that is one of these roots the position of its lifetime.
    fn lifetimes(
        &self,
        homes: &[(ValueIndex, usize)],
        in_arena: &[bool],
        last_uses: &[Option<usize>],
    ) -> (Vec<Lifetime>, Vec<Option<usize>>) {
        let mut lifetimes: Vec<Lifetime> = Vec::new();
        let mut positions = vec![None; self.aliases.len()];
        for (index, step) in self.plan.steps().iter().enumerate() {
            for &result in &step.outputs {
                if !in_arena[result.index()] {
                    continue;
                }
                let (root, _) = homes[result.index()];
                let last = last_uses[result.index()].unwrap_or(index);
                let position = *positions[root.index()].get_or_insert_with(|| {
                    lifetimes.push(Lifetime {
                        len: self.len(root),
                        steps: index..=last,
                    });
                    lifetimes.len() - 1
                });
                let steps = &mut lifetimes[position].steps;
                *steps = *steps.start()..=last.max(*steps.end());
            }
        }
        (lifetimes, positions)
    }

    /// Gives every root its place in the arena, and so the values in it.
    fn place(
        &self,
        in_arena: &[bool],
        last_uses: &[Option<usize>],
    ) -> Result<(Vec<Place>, usize), PlanError> {
        let homes = self.homes();
        let (lifetimes, positions) = self.lifetimes(&homes, in_arena, last_uses);
        let too_large = || PlanError::Inconsistent("the arena is too large".to_owned());
        let (offsets, total) = place(&lifetimes).ok_or_else(too_large)?;
        let places = (0..self.aliases.len() as u32).map(|index| {
            let value = ValueIndex(index);
            let range = |value: ValueIndex| {
                let (root, before) = homes[value.index()];
                let start = offsets[positions[root.index()]?] + before;
                Some(start..start + self.len(value))
            };
            if !in_arena[value.index()] {
                return Place::Tensor;
            }
            match self.aliases[value.index()] {
                Some(Alias {
                    value,
                    row_stride: Some(rows),
                    ..
                }) => range(value).map_or(Place::Tensor, |range| Place::Rows(range, rows)),
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

/// For each value the last step that reads or gives it.
fn last_uses(plan: &Plan) -> Vec<Option<usize>> {
    let mut last = vec![None; plan.values().len()];
    for (index, step) in plan.steps().iter().enumerate() {
        values_of(step).for_each(|value| last[value.index()] = Some(index));
    }
    last
}
