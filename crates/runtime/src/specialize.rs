//! A plan for concrete shapes: sizes of all values, their places in memory, and the work of each step.
//!
//! [`Specialization::new`] is a pure function of the plan and the shapes of its inputs. A session keeps the results, so that runs with
//! shapes that it has seen before compute nothing of this again.

use octofold_ops::Op;
use octofold_tensor::{Dim, Shape, Symbols};

use crate::exec::{self, Argument, Arguments, Laid, Work};
use crate::place::{self, Joined, Place, Places, byte_len};
use crate::plan::{Kernel, Operand, Plan, Step, ValueIndex};
use crate::{PlanError, StepError, cost};

/// How a step is executed.
#[derive(Debug)]
pub(crate) enum Action {
    /// By the portable operator.
    Portable,
    /// Without any work, but that of showing the value to an observer: the number of the tap. The result lies where its operand does, or its operands
    /// lie where they belong in it, or the next step computes it.
    View(Option<usize>),
    /// By a kernel.
    Kernel(Box<dyn Work>),
}

/// What a step costs at least; of two steps that are computed together, the second one has it all. What depends on sizes that are not known before the
/// plan runs is counted as 0, and so is everything of a view.
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
    /// The cost of a step with that of one that reads what it gives, which stays near.
    fn before(self, reader: Self) -> Self {
        Self {
            macs: self.macs.saturating_add(reader.macs),
            integer: reader.integer,
            read: (self.read.saturating_add(reader.read)).saturating_sub(self.written),
            written: reader.written,
        }
    }

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
    /// For each step the operands that lie where they belong in its result.
    pub(crate) joined: Vec<Joined>,
    /// For each step whether the next one computes its result strip by strip.
    pub(crate) strips: Vec<bool>,
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
        let Places {
            values: places,
            joined,
            strips,
            last_uses,
            arena_bytes,
        } = place::places(plan, &shapes, threads)?;

        let mut actions = Vec::with_capacity(plan.steps().len());
        let mut costs = Vec::with_capacity(plan.steps().len());
        let mut taps = 0;
        let mut table_bytes = 0_usize;
        for (index, step) in plan.steps().iter().enumerate() {
            let laid = Laid {
                joined: &joined[index],
                apart: match step.outputs.first().map(|result| &places[result.index()]) {
                    Some(&Place::Rows(_, apart)) => Some(apart),
                    _ => None,
                },
            };
            let before = index.checked_sub(1).filter(|&before| strips[before]);
            let action = if strips[index] {
                Ok(Action::View(None))
            } else if let Some(before) = before {
                bind_strips(plan, before, &shapes, &laid, threads)
            } else {
                bind(plan, step, &shapes, &laid, threads, &mut taps)
            };
            let action = action.map_err(|source| PlanError::Step {
                index,
                name: step.name.clone(),
                source: Box::new(source),
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
            let cost = step_cost(plan, step, &shapes, &joined[index]);
            costs.push(match (strips[index], before) {
                (true, _) => StepCost::default(),
                (_, Some(before)) => {
                    let first = step_cost(plan, &plan.steps()[before], &shapes, &[]);
                    first.before(cost)
                }
                _ => cost,
            });
        }

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
            joined,
            strips,
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
    laid: &Laid<'_>,
    threads: usize,
    taps: &mut usize,
) -> Result<Action, StepError> {
    match step.kernel {
        Kernel::Portable if matches!(step.op, Op::Observe(_)) => {
            Err(StepError::invalid("an observer is a view"))
        }
        Kernel::Portable => Ok(Action::Portable),
        Kernel::View => {
            let arguments = arguments(plan, step, shapes, laid)?;
            exec::check_view(&arguments)?;
            let tap = matches!(step.op, Op::Observe(_)).then(|| {
                *taps += 1;
                *taps - 1
            });
            Ok(Action::View(tap))
        }
        _ => {
            let arguments = arguments(plan, step, shapes, laid)?;
            let work = exec::bind(&arguments, threads)?;
            // A slice has one operand that is data, and a concatenation only such.
            let all = step.kernel == Kernel::Move || laid.joined.len() == step.inputs.len();
            Ok(if !laid.joined.is_empty() && all {
                Action::View(None)
            } else {
                Action::Kernel(work)
            })
        }
    }
}

/// The work of a step and the one behind it, strip by strip.
fn bind_strips(
    plan: &Plan,
    first: usize,
    shapes: &[Option<Shape>],
    laid: &Laid<'_>,
    threads: usize,
) -> Result<Action, StepError> {
    let steps = &plan.steps()[first..];
    let second = arguments(plan, &steps[1], shapes, laid)?;
    let first = arguments(plan, &steps[0], shapes, &Laid::default())?;
    Ok(Action::Kernel(exec::bind_strips(&first, &second, threads)?))
}

/// The sizes and types of everything that a step's kernel sees.
pub(crate) fn arguments<'a>(
    plan: &'a Plan,
    step: &'a Step,
    shapes: &'a [Option<Shape>],
    laid: &Laid<'a>,
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
        laid: *laid,
    })
}

/// What a step costs, from the sizes of what it reads and gives.
fn step_cost(plan: &Plan, step: &Step, shapes: &[Option<Shape>], joined: &[usize]) -> StepCost {
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
        _ => bytes_moved(plan, step, shapes, joined),
    };
    StepCost {
        macs: result.map_or(0, |result| cost::macs(&step.op, &operands, result)),
        integer: cost::is_integer(&step.op),
        read,
        written,
    }
}

/// The bytes that a step reads, and those that it writes.
fn bytes_moved(plan: &Plan, step: &Step, shapes: &[Option<Shape>], joined: &[usize]) -> (u64, u64) {
    let value = |index: ValueIndex| {
        let size = plan.value(index).dtype.size().unwrap_or(1);
        let shape = shapes[index.index()].as_ref();
        shape
            .and_then(|shape| byte_len(size, shape))
            .map_or(0, |len| len as u64)
    };
    let sum = u64::saturating_add;
    let written = step.outputs.iter().map(|&index| value(index)).fold(0, sum);
    // What lies where it belongs is neither read nor written.
    let lies = |&slot: &usize| match step.inputs.get(slot) {
        Some(&Operand::Value(index)) => value(index).min(written),
        _ => 0,
    };
    let lying = joined.iter().map(lies).fold(0, sum);
    let operands = step.inputs.iter().enumerate().map(|(slot, operand)| {
        let bytes = match *operand {
            _ if joined.contains(&slot) => 0,
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
    let written = match step.kernel {
        Kernel::Move if !joined.is_empty() => 0,
        _ => written.saturating_sub(lying),
    };
    (operands.chain(packed).fold(0, sum), written)
}
