//! A plan for concrete shapes: sizes of all values, their places in memory, and the work of each step.
//!
//! [`Specialization::new`] is a pure function of the plan and the shapes of its inputs. A session keeps the results, so that runs with
//! shapes that it has seen before compute nothing of this again.

use std::ops::Range;

use octofold_ops::Op;
use octofold_tensor::{Dim, Shape, Symbols};

use crate::exec::{self, Argument, Arguments, Work};
use crate::memory::{Lifetime, place};
use crate::plan::{Kernel, Operand, Plan, Step, ValueIndex};
use crate::values::kernels_write;
use crate::{PlanError, StepError, cost};

/// Where a value lies while the plan runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the arena.
    Arena(Range<usize>),
    /// In a tensor of its own: inputs, outputs, what only portable steps touch, and what depends on data.
    Tensor,
}

/// How a step is executed.
#[derive(Debug)]
pub(crate) enum Action {
    /// By the portable operator.
    Portable,
    /// Without any work, but that of showing the value to an observer: the number of the tap.
    View(Option<usize>),
    /// By a kernel.
    Kernel(Box<dyn Work>),
}

/// What a step costs at least. What depends on sizes that are not known before the plan runs is counted as 0, and so is everything of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// The multiply-accumulates.
    pub macs: u64,
    /// Whether they are of integers.
    pub integer: bool,
    /// The bytes that are read: operands and packed constants, each once.
    pub read: u64,
    /// The bytes of the results.
    pub written: u64,
}

impl StepCost {
    /// All bytes that are moved.
    pub fn bytes(&self) -> u64 {
        self.read.saturating_add(self.written)
    }
}

/// A plan for concrete shapes of its inputs.
#[derive(Debug)]
pub struct Specialization {
    pub(crate) inputs: Vec<Shape>,
    pub(crate) shapes: Vec<Option<Shape>>,
    pub(crate) places: Vec<Place>,
    pub(crate) actions: Vec<Action>,
    /// After each step, the values with tensors of their own that are not needed any more.
    pub(crate) drops: Vec<Vec<ValueIndex>>,
    pub(crate) costs: Vec<StepCost>,
    arena_bytes: usize,
    tensor_bytes: u64,
    table_bytes: usize,
}

/// Most bytes of tables of all steps. They are made when a plan is loaded, before anybody says how much memory a run may take, and a step of a few
/// bytes may ask for any number.
const TABLES: usize = 256 << 20;

impl Specialization {
    /// Computes sizes, places and work for inputs of the given shapes, in the order of [`Plan::inputs`], for `threads` threads.
    ///
    /// # Errors
    /// When the shapes do not fit the plan, a size is impossible, or a step's kernel refuses its operands.
    pub fn new(plan: &Plan, inputs: &[Shape], threads: usize) -> Result<Self, PlanError> {
        let symbols = bind_symbols(plan, inputs)?;
        let shapes = value_shapes(plan, inputs, &symbols)?;
        let roots = roots(plan);
        let in_arena = arena_values(plan, &shapes, &roots);
        let last_uses = last_uses(plan);

        let mut actions = Vec::with_capacity(plan.steps().len());
        let mut costs = Vec::with_capacity(plan.steps().len());
        let mut taps = 0;
        let mut table_bytes = 0_usize;
        for (index, step) in plan.steps().iter().enumerate() {
            let action = bind(plan, step, &shapes, threads, &mut taps).map_err(|source| {
                PlanError::Step {
                    index,
                    name: step.name.clone(),
                    source: Box::new(source),
                }
            })?;
            if let Action::Kernel(work) = &action {
                table_bytes = table_bytes.saturating_add(work.table_bytes());
            }
            if table_bytes > TABLES {
                return Err(PlanError::Inconsistent(format!(
                    "the tables of its steps take more than {TABLES} bytes"
                )));
            }
            actions.push(action);
            costs.push(step_cost(plan, step, &shapes));
        }
        let (places, arena_bytes) = places(plan, &shapes, &roots, &in_arena, &last_uses)?;

        let mut kept = vec![false; plan.values().len()];
        for output in plan.outputs() {
            if let Operand::Value(value) = output.value {
                kept[value.index()] = true;
            }
        }
        let mut drops = vec![Vec::new(); plan.steps().len()];
        for (index, last) in last_uses.iter().enumerate() {
            let value = ValueIndex(index as u32);
            if let (Some(last), false, Place::Tensor) = (last, kept[index], &places[index]) {
                drops[*last].push(value);
            }
        }
        let tensor_bytes = peak_of_tensors(plan, &shapes, &places, &drops);
        Ok(Self {
            inputs: inputs.to_vec(),
            shapes,
            places,
            actions,
            drops,
            costs,
            arena_bytes,
            tensor_bytes,
            table_bytes,
        })
    }

    /// The bytes of the tables that steps keep for these sizes.
    pub fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// The bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// The bytes that the values with tensors of their own take at the step at which they take most; without the inputs, which are the
    /// caller's, and without values whose sizes depend on data.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensor_bytes
    }

    /// The sizes of a value; `None` when they depend on data.
    pub fn shape(&self, value: ValueIndex) -> Option<&[usize]> {
        self.shapes.get(value.index())?.as_deref()
    }

    /// What each step costs.
    pub fn costs(&self) -> &[StepCost] {
        &self.costs
    }
}

impl Plan {
    /// The shapes of the inputs, when the plan has no symbols in them.
    pub fn fixed_input_shapes(&self) -> Option<Vec<Shape>> {
        let size = |dim: &Dim| dim.known().and_then(|size| usize::try_from(size).ok());
        self.inputs()
            .map(|input| input.shape.as_ref()?.iter().map(size).collect())
            .collect()
    }

    /// The shapes of the inputs with every symbol replaced by the size that `size` gives for it.
    ///
    /// # Errors
    /// When an input has no rank or a dimension has no size then.
    pub fn input_shapes(&self, size: impl Fn(&str) -> usize) -> Result<Vec<Shape>, PlanError> {
        let shape = |input: &crate::PlanValue| {
            let unknown =
                || PlanError::Inconsistent(format!("input `{}` has no known rank", input.name));
            let dims = input.shape.as_ref().ok_or_else(unknown)?;
            let mut symbols = Symbols::new();
            dims.iter()
                .for_each(|dim| collect_symbols(dim, &size, &mut symbols));
            let sizes: Result<Shape, _> = dims.iter().map(|dim| dim.size(&symbols)).collect();
            sizes.map_err(|error| {
                PlanError::Inconsistent(format!("input `{}`: {error}", input.name))
            })
        };
        self.inputs().map(shape).collect()
    }
}

fn collect_symbols(dim: &Dim, size: &impl Fn(&str) -> usize, symbols: &mut Symbols) {
    match dim {
        Dim::Known(_) => {}
        Dim::Symbol(name) => {
            symbols.insert(name.clone(), i64::try_from(size(name)).unwrap_or(i64::MAX));
        }
        Dim::Add(pair)
        | Dim::Sub(pair)
        | Dim::Mul(pair)
        | Dim::FloorDiv(pair)
        | Dim::CeilDiv(pair)
        | Dim::Max(pair)
        | Dim::Min(pair) => {
            collect_symbols(&pair.0, size, symbols);
            collect_symbols(&pair.1, size, symbols);
        }
    }
}

/// The values of the symbols that the inputs' shapes give.
fn bind_symbols(plan: &Plan, inputs: &[Shape]) -> Result<Symbols, PlanError> {
    let mut symbols = Symbols::new();
    let faulty = |reason: String| PlanError::Inconsistent(reason);
    if inputs.len() != plan.inputs().len() {
        return Err(faulty(format!(
            "{} shapes for {} inputs",
            inputs.len(),
            plan.inputs().len()
        )));
    }
    // Plain symbols first, so that expressions may use those of any input.
    for expressions in [false, true] {
        for (input, shape) in plan.inputs().zip(inputs) {
            let Some(dims) = &input.shape else {
                continue;
            };
            let refuse = || {
                let declared: Vec<_> = dims.iter().map(Dim::to_string).collect();
                faulty(format!(
                    "input `{}` of shape {shape:?} does not fit [{}]",
                    input.name,
                    declared.join(", ")
                ))
            };
            if dims.len() != shape.len() {
                return Err(refuse());
            }
            for (dim, &size) in dims.iter().zip(shape) {
                let size = i64::try_from(size).map_err(|_| refuse())?;
                let fits = match (dim, expressions) {
                    (Dim::Symbol(name), false) => {
                        *symbols.entry(name.clone()).or_insert(size) == size
                    }
                    (Dim::Symbol(_), true) => true,
                    (_, false) => true,
                    (other, true) => other.evaluate(&symbols) == Ok(size),
                };
                if !fits {
                    return Err(refuse());
                }
            }
        }
    }
    Ok(symbols)
}

fn value_shapes(
    plan: &Plan,
    inputs: &[Shape],
    symbols: &Symbols,
) -> Result<Vec<Option<Shape>>, PlanError> {
    let mut shapes = Vec::with_capacity(plan.values().len());
    for value in plan.values() {
        let shape: Option<Result<Shape, _>> = value
            .shape
            .as_ref()
            .map(|dims| dims.iter().map(|dim| dim.size(symbols)).collect());
        let shape = shape
            .transpose()
            .map_err(|error| PlanError::Inconsistent(format!("value `{}`: {error}", value.name)))?;
        let bytes = shape
            .as_ref()
            .map(|shape| byte_len(value.dtype.size().unwrap_or(1), shape));
        if bytes == Some(None) {
            return Err(PlanError::Inconsistent(format!(
                "value `{}` of shape {shape:?} is too large",
                value.name
            )));
        }
        shapes.push(shape);
    }
    for (&input, shape) in plan.parts().inputs.iter().zip(inputs) {
        shapes[input.index()] = Some(shape.clone());
    }
    Ok(shapes)
}

/// The bytes of elements of a size, when a slice can be that long.
fn byte_len(size: usize, shape: &[usize]) -> Option<usize> {
    let product = shape
        .iter()
        .try_fold(size, |product, &size| product.checked_mul(size))?;
    isize::try_from(product).ok().map(|_| product)
}

/// For each value the one whose memory it is: itself, or that of the value that it is a view of.
fn roots(plan: &Plan) -> Vec<ValueIndex> {
    let mut roots: Vec<ValueIndex> = (0..plan.values().len() as u32).map(ValueIndex).collect();
    for step in plan.steps() {
        if let (Kernel::View, Some(&Operand::Value(from)), [to, ..]) =
            (step.kernel, step.inputs.first(), &*step.outputs)
        {
            roots[to.index()] = roots[from.index()];
        }
    }
    roots
}

/// For each root whether it lies in the arena.
fn arena_values(plan: &Plan, shapes: &[Option<Shape>], roots: &[ValueIndex]) -> Vec<bool> {
    let mut wanted = vec![false; roots.len()];
    for step in plan.steps() {
        if !matches!(step.kernel, Kernel::Portable | Kernel::View) {
            for value in values_of(step) {
                wanted[roots[value.index()].index()] = true;
            }
        }
    }
    let mut refuse = |value: ValueIndex| wanted[roots[value.index()].index()] = false;
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
        if shapes[index].is_none() || !kernels_write(value.dtype) {
            refuse(ValueIndex(index as u32));
        }
    }
    wanted
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

fn places(
    plan: &Plan,
    shapes: &[Option<Shape>],
    roots: &[ValueIndex],
    in_arena: &[bool],
    last_uses: &[Option<usize>],
) -> Result<(Vec<Place>, usize), PlanError> {
    let mut lifetimes = Vec::new();
    let mut slots = vec![None; plan.values().len()];
    for (index, step) in plan.steps().iter().enumerate() {
        for &result in &step.outputs {
            let root = roots[result.index()];
            if !in_arena[root.index()] {
                continue;
            }
            let last = last_uses[result.index()].unwrap_or(index);
            match slots[root.index()] {
                None => {
                    let size = plan.value(result).dtype.size().unwrap_or(1);
                    let len = shapes[result.index()]
                        .as_ref()
                        .and_then(|shape| byte_len(size, shape))
                        .unwrap_or(0);
                    slots[root.index()] = Some(lifetimes.len());
                    lifetimes.push(Lifetime {
                        len,
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
    let places = roots.iter().map(|root| match slots[root.index()] {
        Some(slot) => Place::Arena(offsets[slot]..offsets[slot] + lifetimes[slot].len),
        None => Place::Tensor,
    });
    Ok((places.collect(), total))
}

/// See [`Specialization::tensor_bytes`].
fn peak_of_tensors(
    plan: &Plan,
    shapes: &[Option<Shape>],
    places: &[Place],
    drops: &[Vec<ValueIndex>],
) -> u64 {
    let bytes = |value: ValueIndex| match (&places[value.index()], &shapes[value.index()]) {
        (Place::Tensor, Some(shape)) => {
            let size = plan.value(value).dtype.size().unwrap_or(1);
            byte_len(size, shape).map_or(u64::MAX, |len| len as u64)
        }
        _ => 0,
    };
    let mut is_input = vec![false; plan.values().len()];
    for input in &plan.parts().inputs {
        is_input[input.index()] = true;
    }
    let (mut live, mut peak) = (0_u64, 0_u64);
    for (step, drops) in plan.steps().iter().zip(drops) {
        let made = step.outputs.iter().map(|&value| bytes(value));
        live = made.fold(live, u64::saturating_add);
        peak = peak.max(live);
        let dropped = drops.iter().filter(|value| !is_input[value.index()]);
        live = dropped
            .map(|&value| bytes(value))
            .fold(live, u64::saturating_sub);
    }
    peak
}

fn bind(
    plan: &Plan,
    step: &Step,
    shapes: &[Option<Shape>],
    threads: usize,
    taps: &mut usize,
) -> Result<Action, StepError> {
    match step.kernel {
        Kernel::Portable if matches!(step.op, Op::Observe(_)) => {
            Err(StepError::invalid("an observer is a view"))
        }
        Kernel::Portable => Ok(Action::Portable),
        Kernel::View => {
            let arguments = arguments(plan, step, shapes)?;
            exec::check_view(&arguments)?;
            let tap = matches!(step.op, Op::Observe(_)).then(|| {
                *taps += 1;
                *taps - 1
            });
            Ok(Action::View(tap))
        }
        _ => {
            let arguments = arguments(plan, step, shapes)?;
            Ok(Action::Kernel(exec::bind(&arguments, threads)?))
        }
    }
}

/// The sizes and types of everything that a step's kernel sees.
fn arguments<'a>(
    plan: &'a Plan,
    step: &'a Step,
    shapes: &'a [Option<Shape>],
) -> Result<Arguments<'a>, StepError> {
    let value = |index: ValueIndex| {
        let value = plan.value(index);
        let shape = shapes[index.index()]
            .as_deref()
            .ok_or_else(|| StepError::UnknownSize(value.name.clone()))?;
        Ok::<_, StepError>(Argument {
            dtype: value.dtype,
            shape,
            constant: None,
        })
    };
    let constant = |index| {
        let constant = plan.constant(index);
        Argument {
            dtype: constant.dtype,
            shape: &constant.shape,
            constant: Some(plan.constant_bytes(index)),
        }
    };
    let operand = |operand: &Operand| match operand {
        Operand::Absent => Ok(None),
        Operand::Value(index) => value(*index).map(Some),
        Operand::Constant(index) => Ok(Some(constant(*index))),
    };
    let &[result] = &*step.outputs else {
        return Err(StepError::invalid("a kernel gives one result"));
    };
    Ok(Arguments {
        engine: plan.engine(),
        step,
        operands: step.inputs.iter().map(operand).collect::<Result<_, _>>()?,
        packed: step.packed.iter().map(|&index| constant(index)).collect(),
        result: value(result)?,
    })
}

/// What a step costs, from the sizes of what it reads and gives.
fn step_cost(plan: &Plan, step: &Step, shapes: &[Option<Shape>]) -> StepCost {
    let operand = |(slot, operand): (usize, &Operand)| match operand {
        // Packed weights are no operand, and a quantization before them has its scale there.
        _ if slot == 1 && !step.weights.is_empty() => Some(&*step.weights),
        Operand::Value(index) => shapes[index.index()].as_deref(),
        Operand::Constant(index) => Some(&*plan.constant(*index).shape),
        Operand::Absent => None,
    };
    let operands: Vec<_> = step.inputs.iter().enumerate().map(operand).collect();
    let result = step
        .outputs
        .first()
        .and_then(|index| shapes[index.index()].as_deref());
    let (read, written) = match step.kernel {
        Kernel::View => (0, 0),
        _ => bytes_moved(plan, step, shapes),
    };
    StepCost {
        macs: result.map_or(0, |result| cost::macs(&step.op, &operands, result)),
        integer: cost::is_integer(&step.op),
        read,
        written,
    }
}

/// The bytes that a step reads, and those that it writes.
fn bytes_moved(plan: &Plan, step: &Step, shapes: &[Option<Shape>]) -> (u64, u64) {
    let value = |index: ValueIndex| {
        let size = plan.value(index).dtype.size().unwrap_or(1);
        let shape = shapes[index.index()].as_ref();
        shape
            .and_then(|shape| byte_len(size, shape))
            .map_or(0, |len| len as u64)
    };
    let sum = u64::saturating_add;
    let written = step.outputs.iter().map(|&index| value(index)).fold(0, sum);
    let operands = step.inputs.iter().enumerate().map(|(slot, operand)| {
        let bytes = match *operand {
            Operand::Value(index) => value(index),
            Operand::Constant(index) => plan.constant(index).len as u64,
            Operand::Absent => 0,
        };
        cost::bytes_read(&step.op, slot, bytes, written)
    });
    let packed = step
        .packed
        .iter()
        .map(|&index| plan.constant(index).len as u64);
    (operands.chain(packed).fold(0, sum), written)
}
