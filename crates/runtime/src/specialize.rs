//! A plan for concrete shapes: sizes of all values, their places in memory, and the work of each step.
//!
//! [`Specialization::new`] is a pure function of the plan and the shapes of its inputs. A session keeps the results for later runs with the
//! same shapes.

use octofold_ops::Op;
use octofold_tensor::{Dim, Shape, Symbols};

use crate::exec::{self, Arguments, ResultLayout, Work};
use crate::place::{self, Place, Places, Slots, byte_len};
use crate::plan::{Core, Operand, Plan, Step, ValueIndex};
use crate::{PlanError, StepError, cost};

/// How a step is executed.
#[derive(Debug)]
pub(crate) enum Action {
    /// By the portable operator.
    Portable,
    /// Nothing to compute: the result shares the memory of its operands. Holds the number of the tap that shows it to an observer, if any.
    View(Option<usize>),
    /// By a kernel.
    Kernel(Work),
}

/// The least cost of a step. Anything that depends on sizes that are not known before the plan runs counts as 0, and a view costs 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// The multiply-accumulates.
    pub macs: u64,
    /// Whether they are products of integers.
    pub integer: bool,
    /// The bytes that are read: operands and packed constants, each once.
    pub read: u64,
    /// The bytes of the results.
    pub written: u64,
}

impl StepCost {
    /// The bytes that are read or written.
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
    /// For each step the operands that share the memory of its result.
    pub(crate) in_place_operands: Vec<Slots>,
    /// After each step, the values with tensors of their own that are not needed any more.
    pub(crate) drops: Vec<Vec<ValueIndex>>,
    pub(crate) costs: Vec<StepCost>,
    arena_bytes: usize,
    tensor_bytes: u64,
    table_bytes: usize,
}

/// The largest size of the tables of all steps, in bytes. The tables are made when a plan is loaded, before the budget of a run is known, and a step of a few
/// bytes can ask for tables of any size.
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
            in_place_operands,
            last_uses,
            arena_bytes,
        } = place::places(plan, &shapes)?;
        let mut actions = Vec::with_capacity(plan.steps().len());
        let mut costs = Vec::with_capacity(plan.steps().len());
        let mut taps = 0;
        for (index, step) in plan.steps().iter().enumerate() {
            let layout = ResultLayout {
                in_place_operands: &in_place_operands[index],
                row_stride: match step.outputs.first().map(|result| &places[result.index()]) {
                    Some(&Place::Rows(_, rows)) => Some(rows),
                    _ => None,
                },
            };
            let action = bind(plan, step, &shapes, layout, threads, &mut taps);
            actions.push(action.map_err(|source| PlanError::Step {
                index,
                name: step.name.clone(),
                source: Box::new(source),
            })?);
            costs.push(step_cost(plan, step, &shapes, layout.in_place_operands));
        }
        let table_bytes = table_bytes(&actions)?;
        let drops = drops(plan, &places, &last_uses);
        let tensor_bytes = peak_of_tensors(plan, &shapes, &places, &drops);
        Ok(Self {
            inputs: inputs.to_vec(),
            shapes,
            places,
            actions,
            in_place_operands,
            drops,
            costs,
            arena_bytes,
            tensor_bytes,
            table_bytes,
        })
    }

    /// The size of the steps' tables in bytes.
    pub fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// The bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// The peak memory in bytes of the values with tensors of their own, over all steps. Inputs, which belong to the caller, and values whose sizes depend on data are not
    /// included.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensor_bytes
    }

    /// The sizes of a value; `None` when they depend on data.
    pub fn shape(&self, value: ValueIndex) -> Option<&[usize]> {
        self.shapes.get(value.index())?.as_deref()
    }

    /// The cost of each step.
    pub fn costs(&self) -> &[StepCost] {
        &self.costs
    }
}

impl Plan {
    /// The shapes of the inputs, if they have no symbols.
    pub fn fixed_input_shapes(&self) -> Option<Vec<Shape>> {
        let size = |dim: &Dim| dim.known().and_then(|size| usize::try_from(size).ok());
        self.inputs()
            .map(|input| input.shape.as_ref()?.iter().map(size).collect())
            .collect()
    }

    /// The shapes of the inputs with every symbol replaced by the size that `size` gives for it.
    ///
    /// # Errors
    /// When an input has no rank, or a dimension has no size.
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
    dim.for_each_symbol(&mut |name| {
        symbols.insert(name.clone(), i64::try_from(size(name)).unwrap_or(i64::MAX));
    });
}

/// The values of the symbols in the inputs' shapes.
fn bind_symbols(plan: &Plan, inputs: &[Shape]) -> Result<Symbols, PlanError> {
    let mut symbols = Symbols::new();
    if inputs.len() != plan.inputs().len() {
        let (shapes, inputs) = (inputs.len(), plan.inputs().len());
        let reason = format!("{shapes} shapes for {inputs} inputs");
        return Err(PlanError::Inconsistent(reason));
    }
    // Plain symbols first, so that expressions may use those of any input.
    for expressions in [false, true] {
        for (input, shape) in plan.inputs().zip(inputs) {
            let Some(dims) = &input.shape else {
                continue;
            };
            let refuse = || {
                let declared: Vec<_> = dims.iter().map(Dim::to_string).collect();
                PlanError::Shape {
                    input: input.name.clone(),
                    found: shape.to_vec(),
                    expected: format!("[{}]", declared.join(", ")),
                }
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

/// The bytes of the tables of all steps.
fn table_bytes(actions: &[Action]) -> Result<usize, PlanError> {
    let bytes = actions.iter().map(|action| match action {
        Action::Kernel(work) => work.table_bytes(),
        Action::Portable | Action::View(_) => 0,
    });
    let bytes = bytes.fold(0, usize::saturating_add);
    if bytes > TABLES {
        return Err(PlanError::Inconsistent(format!(
            "the tables of its steps take more than {TABLES} bytes"
        )));
    }
    Ok(bytes)
}

/// See [`Specialization::drops`].
fn drops(plan: &Plan, places: &[Place], last_uses: &[Option<usize>]) -> Vec<Vec<ValueIndex>> {
    let mut kept = vec![false; plan.values().len()];
    for output in plan.outputs() {
        if let Operand::Value(value) = output.value {
            kept[value.index()] = true;
        }
    }
    let mut drops = vec![Vec::new(); plan.steps().len()];
    for (index, last) in last_uses.iter().enumerate() {
        if let (Some(last), false, Place::Tensor) = (last, kept[index], &places[index]) {
            drops[*last].push(ValueIndex(index as u32));
        }
    }
    drops
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
    layout: ResultLayout<'_>,
    threads: usize,
    taps: &mut usize,
) -> Result<Action, StepError> {
    if step.kernel.core() == Core::Portable {
        return match step.op {
            Op::Observe(_) => Err(StepError::invalid("an observer is a view")),
            _ => Ok(Action::Portable),
        };
    }
    let arguments = Arguments {
        layout,
        ..Arguments::of(plan, step, shapes)?
    };
    if step.kernel.core() == Core::View {
        exec::check_view(&arguments)?;
        let tap = matches!(step.op, Op::Observe(_)).then(|| {
            *taps += 1;
            *taps - 1
        });
        return Ok(Action::View(tap));
    }
    let work = exec::bind(&arguments, threads)?;
    // A slice has one operand that is data, and a concatenation only such.
    let in_place = layout.in_place_operands.len();
    let all = step.kernel.core() == Core::Move || in_place == step.inputs.len();
    Ok(match in_place > 0 && all {
        true => Action::View(None),
        false => Action::Kernel(work),
    })
}

/// The cost of a step, from the sizes of its operands and results.
fn step_cost(plan: &Plan, step: &Step, shapes: &[Option<Shape>], in_place: &[usize]) -> StepCost {
    let operand = |(slot, operand): (usize, &Operand)| match operand {
        // Packed weights are no operand, and a fused quantization has its scale in their slot.
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
    let (read, written) = match step.kernel.core() {
        Core::View => (0, 0),
        _ => bytes_moved(plan, step, shapes, in_place),
    };
    StepCost {
        macs: result.map_or(0, |result| cost::macs(&step.op, &operands, result)),
        integer: cost::is_integer(&step.op),
        read,
        written,
    }
}

/// The number of bytes that a step reads, and the number that it writes.
fn bytes_moved(
    plan: &Plan,
    step: &Step,
    shapes: &[Option<Shape>],
    in_place: &[usize],
) -> (u64, u64) {
    let value = |index: ValueIndex| {
        let size = plan.value(index).dtype.size().unwrap_or(1);
        let shape = shapes[index.index()].as_ref();
        shape
            .and_then(|shape| byte_len(size, shape))
            .map_or(0, |len| len as u64)
    };
    let sum = u64::saturating_add;
    let written = step.outputs.iter().map(|&index| value(index)).fold(0, sum);
    // Operands in the result's memory are neither read nor written.
    let shared = |&slot: &usize| match step.inputs.get(slot) {
        Some(&Operand::Value(index)) => value(index).min(written),
        _ => 0,
    };
    let shared = in_place.iter().map(shared).fold(0, sum);
    let operands = step.inputs.iter().enumerate().map(|(slot, operand)| {
        let bytes = match *operand {
            _ if in_place.contains(&slot) => 0,
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
    let written = match step.kernel.core() {
        Core::Move if !in_place.is_empty() => 0,
        _ => written.saturating_sub(shared),
    };
    (operands.chain(packed).fold(0, sum), written)
}
