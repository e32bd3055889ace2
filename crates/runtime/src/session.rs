//! Running a plan.
//!
//! A session owns everything that a run changes: the arena, the threads, and the [specializations](crate::Specialization) to the shapes of earlier
//! runs. Any number of sessions can share a plan. After the first run with some shapes, a run allocates only what portable steps need, and
//! outputs, where the ones of the run before are still in use: a new output of some megabytes is new pages, which cost more than filling it.
//!
//! A plan is a pure function. Where it declares [states](crate::StateSlot), the session keeps what one run gives for the next one to read.

mod bodies;
mod borrowed;
mod memory;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use octofold_kernels::Isa;
use octofold_tensor::{Shape, Tensor};
use smallvec::SmallVec;

use crate::blob::AlignedBytes;
use crate::plan::{Core, Operand, Plan, PlanOutput, Tap};
use crate::pool::Pool;
use crate::specialize::{Action, Specialization};
use crate::values::tensor_of;
use crate::{BoxError, PlanError, Profile, RunError, StepError, StepProfile, TensorView};
use bodies::{Calls, Limits};
use memory::{Context, Memory};
use state::States;

/// The largest number of shapes that a session remembers.
const REMEMBERED: usize = 16;

/// How a session runs its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// The number of threads; 0 takes as many as the processor runs at once.
    pub threads: usize,
    /// The instruction set; `None` takes the best one.
    pub isa: Option<Isa>,
    /// Whether a plan that is made for another processor runs, with the kernels of this one.
    pub allow_portable: bool,
    /// The bytes of memory that a run may take for the constants that portable steps read, the arena, tables, and the values with tensors of their
    /// own. A plan of a few bytes can ask for any amount. The memory that an operator needs while it computes one result is not counted.
    pub memory: u64,
    /// The elementary operations that the steps of all bodies may take in a run; each step counts at least [`crate::cost::STEP`]. A loop of a few
    /// bytes may ask for any number of trips.
    pub operations: u64,
}

impl SessionOptions {
    /// All threads, the best instruction set, no plans for other processors, and 4 GiB of memory.
    pub const DEFAULT: Self = Self {
        threads: 0,
        isa: None,
        allow_portable: false,
        memory: 4 << 30,
        operations: crate::cost::BODY_OPERATIONS,
    };
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A plan with everything that is needed to run it: arena, threads, and the specializations to the shapes of earlier runs.
#[derive(Debug)]
pub struct Session {
    plan: Arc<Plan>,
    isa: Isa,
    pool: Arc<Pool>,
    /// Constants that portable steps, views and outputs use.
    constants: Vec<Option<Tensor>>,
    memory: Memory,
    states: States,
    /// The most recent first.
    specializations: Vec<Arc<Specialization>>,
    profile: Option<Profile>,
    /// The sessions of the plan's bodies.
    bodies: Vec<Self>,
    /// Whether the plan is the body of another.
    in_body: bool,
    limits: Limits,
    /// The operations that bodies may still take in this run.
    operations: u64,
}

/// A function that gets the observed values.
type Show<'a> = dyn FnMut(usize, &Tap, TensorView<'_>) -> Result<(), BoxError> + 'a;

impl Session {
    /// A session of a plan. A plan without symbols in its inputs is specialized at once, so that the first run takes no longer than others.
    ///
    /// # Errors
    /// When the processor lacks the instruction set, threads cannot be started, or the plan cannot be executed.
    pub fn new(plan: Arc<Plan>, options: SessionOptions) -> Result<Self, RunError> {
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Pool::new(threads).map_err(RunError::Threads)?;
        Self::with_pool(plan, options, Arc::new(pool))
    }

    /// A session that shares its threads with other sessions, for example one for each thread of a server. While several of them run, each runs only on the
    /// thread that called it. The number of threads in the options is ignored.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_pool(
        plan: Arc<Plan>,
        options: SessionOptions,
        pool: Arc<Pool>,
    ) -> Result<Self, RunError> {
        let isa = options.isa.unwrap_or_else(Isa::detect);
        if !isa.is_supported() {
            return Err(RunError::Isa(isa));
        }
        let needed = plan.requires();
        if !needed.is_supported() && !options.allow_portable {
            let engine = plan.engine().name();
            return Err(RunError::OtherProcessor { engine, needed });
        }
        let (constants, constant_bytes) = materialize(&plan, options.memory)?;
        let states = States::new(&plan, options.memory.saturating_sub(constant_bytes))?;
        let left = options.memory.saturating_sub(constant_bytes);
        let bodies = Self::of_bodies(&plan, options, &pool, left)?;
        let mut session = Self {
            isa,
            pool,
            constants,
            memory: Memory {
                held: constant_bytes.saturating_add(states.bytes()),
                budget: options.memory,
                ..Memory::default()
            },
            states,
            specializations: Vec::new(),
            profile: None,
            bodies,
            in_body: false,
            limits: Limits {
                memory: options.memory,
                operations: options.operations,
            },
            operations: options.operations,
            plan,
        };
        if let Some(shapes) = session.plan.fixed_input_shapes() {
            session.specialize(&shapes)?;
        }
        Ok(session)
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The instruction set whose kernels run.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs the plan on inputs by name, in any order; gives the outputs by name, in the plan's order.
    ///
    /// An input that [reads a state](crate::StateSlot) need not be given: it gets what the run before gave. If it is given, this run reads that. After a
    /// run without errors the states are what it gave; after an error, what they were.
    ///
    /// The session keeps a reference to the outputs and overwrites them in the next run, unless they are still in use.
    ///
    /// # Errors
    /// When an input is missing, unknown or does not fit, or a step fails.
    pub fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, RunError> {
        self.execute(inputs, None)
    }

    /// Runs like [`Session::run`], and calls `show` with each observed value as soon as it is known: with its position in [`Plan::taps`] and the tap.
    ///
    /// # Errors
    /// As [`Session::run`], and the errors of `show`.
    pub fn run_with_taps(
        &mut self,
        inputs: &[(&str, Tensor)],
        mut show: impl FnMut(usize, &Tap, TensorView<'_>) -> Result<(), BoxError>,
    ) -> Result<Vec<(String, Tensor)>, RunError> {
        self.execute(inputs, Some(&mut show))
    }

    /// Prepares the plan for the given shapes of its inputs, in the order of [`Plan::inputs`], as the first run with these shapes does.
    ///
    /// # Errors
    /// When the shapes do not fit the plan, or there is no memory for the arena.
    pub fn specialize(&mut self, inputs: &[Shape]) -> Result<Arc<Specialization>, RunError> {
        let known = self
            .specializations
            .iter()
            .position(|known| known.inputs == inputs);
        if let Some(position) = known {
            self.specializations[..=position].rotate_right(1);
        } else {
            let made = Specialization::new(&self.plan, inputs, self.pool.threads())?;
            let needed = (made.arena_bytes() as u64)
                .saturating_add(made.tensor_bytes())
                .saturating_add(made.table_bytes() as u64)
                .saturating_add(self.memory.held);
            let limit = self.memory.budget;
            if needed > limit {
                return Err(RunError::Budget { needed, limit });
            }
            self.specializations.truncate(REMEMBERED - 1);
            self.specializations.insert(0, Arc::new(made));
        }
        let latest = Arc::clone(&self.specializations[0]);
        let bytes = latest.arena_bytes();
        if self.memory.arena.bytes().len() < bytes {
            self.memory.arena = AlignedBytes::default();
            self.memory.arena = AlignedBytes::zeroed(bytes).ok_or(RunError::Memory(bytes))?;
        }
        Ok(latest)
    }

    /// Starts to measure the steps of every run, from zero; or stops it.
    pub fn set_profiling(&mut self, on: bool) {
        self.profile = on.then(Profile::default);
    }

    /// The times since profiling was turned on; `None` when it is off.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    fn execute(
        &mut self,
        inputs: &[(&str, Tensor)],
        show: Option<&mut Show<'_>>,
    ) -> Result<Vec<(String, Tensor)>, RunError> {
        let started = Instant::now();
        let (tensors, shapes) = self.take_inputs(inputs)?;
        let specialization = self.specialize(&shapes)?;
        self.begin();
        let plan = Arc::clone(&self.plan);
        for (&input, tensor) in plan.parts().inputs.iter().zip(tensors) {
            self.memory.keep(input, tensor);
        }
        self.run_steps(&specialization, show)?;
        let outputs = plan
            .outputs()
            .iter()
            .map(|output| Ok((output.name.clone(), self.output(output)?.clone())));
        let outputs = outputs.collect::<Result<_, PlanError>>()?;
        self.end(started)?;
        Ok(outputs)
    }

    /// Forgets the tensors of the run before.
    fn begin(&mut self) {
        self.memory.tensors.clear();
        self.memory.tensors.resize(self.plan.values().len(), None);
        self.memory.spare.resize(self.plan.values().len(), None);
        self.memory.live = 0;
    }

    /// Runs the steps on the inputs that are kept.
    fn run_steps(
        &mut self,
        specialization: &Specialization,
        mut show: Option<&mut Show<'_>>,
    ) -> Result<(), RunError> {
        // Reading what was cut from a mapped file would end the process.
        if !self.in_body && !self.plan.parts().blob.is_unchanged() {
            return Err(PlanError::Changed.into());
        }
        self.memory.given = self.memory.live;
        let (plan, pool) = (Arc::clone(&self.plan), Arc::clone(&self.pool));
        // A body runs on the threads of the session around it.
        let _running = (!self.in_body).then(|| pool.enter());
        if !self.in_body {
            self.operations = self.limits.operations;
        }
        for (index, step) in plan.steps().iter().enumerate() {
            let began = self.profile.is_some().then(Instant::now);
            self.step(specialization, index, show.as_deref_mut())
                .map_err(|source| RunError::Step {
                    index,
                    name: step.name.clone(),
                    operator: step.op.name(),
                    kernel: step.kernel,
                    source: Box::new(source),
                })?;
            for &value in &specialization.drops[index] {
                self.memory.release(value);
            }
            if let Some(began) = began {
                self.record(specialization, index, began.elapsed());
            }
        }
        Ok(())
    }

    /// An output of the run.
    fn output(&self, output: &PlanOutput) -> Result<&Tensor, PlanError> {
        let tensor = match output.value {
            Operand::Value(value) => self.memory.tensors[value.index()].as_ref(),
            Operand::Constant(constant) => self.constants[constant.index()].as_ref(),
            Operand::Absent => None,
        };
        // Outputs have tensors of their own: see `Specialization`.
        let lost = || PlanError::Inconsistent(format!("output `{}` was not computed", output.name));
        tensor.ok_or_else(lost)
    }

    /// Takes the states over and lets the tensors of the run go.
    fn end(&mut self, started: Instant) -> Result<(), PlanError> {
        let plan = Arc::clone(&self.plan);
        let slots = plan.states().iter();
        let given = slots.map(|slot| Ok(self.output(&plan.outputs()[slot.output])?.clone()));
        let given = given.collect::<Result<SmallVec<[Tensor; 2]>, PlanError>>()?;
        self.memory.tensors.clear();
        self.states.advance(&plan, given, &mut self.memory.spare);
        if let Some(profile) = &mut self.profile {
            profile.runs += 1;
            profile.total += started.elapsed();
        }
        Ok(())
    }

    /// The inputs in the plan's order, with their shapes.
    fn take_inputs(
        &self,
        inputs: &[(&str, Tensor)],
    ) -> Result<(Vec<Tensor>, Vec<Shape>), RunError> {
        let mut found: Vec<Option<Tensor>> = vec![None; self.plan.inputs().len()];
        for (name, tensor) in inputs {
            let fail = |reason: String| RunError::Input {
                name: (*name).to_owned(),
                reason,
            };
            let Some((position, input)) = self
                .plan
                .inputs()
                .enumerate()
                .find(|(_, input)| input.name == *name)
            else {
                let known: Vec<_> = self
                    .plan
                    .inputs()
                    .map(|input| format!("`{}`", input.name))
                    .collect();
                let (name, known) = ((*name).to_owned(), known.join(", "));
                return Err(RunError::UnknownInput { name, known });
            };
            if tensor.dtype() != input.dtype {
                return Err(fail(format!(
                    "has elements of type {}, expected {}",
                    tensor.dtype(),
                    input.dtype
                )));
            }
            if found[position].replace(tensor.clone()).is_some() {
                return Err(fail("is given twice".to_owned()));
            }
        }
        for (slot, state) in self.plan.states().iter().zip(self.states.tensors()) {
            found[slot.input].get_or_insert_with(|| state.clone());
        }
        let mut tensors = Vec::with_capacity(found.len());
        for (tensor, input) in found.into_iter().zip(self.plan.inputs()) {
            let missing = || RunError::Input {
                name: input.name.clone(),
                reason: "is missing".to_owned(),
            };
            tensors.push(tensor.ok_or_else(missing)?);
        }
        let shapes = tensors
            .iter()
            .map(|tensor| Shape::from_slice(tensor.shape()))
            .collect();
        Ok((tensors, shapes))
    }

    fn step(
        &mut self,
        specialization: &Specialization,
        index: usize,
        show: Option<&mut Show<'_>>,
    ) -> Result<(), StepError> {
        let run = Context {
            plan: &self.plan,
            constants: &self.constants,
            specialization,
            isa: self.isa,
            pool: &self.pool,
        };
        let step = &self.plan.steps()[index];
        match &specialization.actions[index] {
            Action::Portable => {
                let retained = self.bodies.iter().map(Self::retained);
                let retained = retained.fold(0, u64::saturating_add);
                let mut calls = Calls {
                    memory: self.memory.left().saturating_sub(retained),
                    sessions: &mut self.bodies,
                    operations: &mut self.operations,
                    limits: self.limits,
                    counts: self.in_body,
                    failed: None,
                };
                self.memory.portable(run, step, &mut calls)
            }
            Action::View(tap) => {
                self.memory.view(run, step)?;
                match (show, tap) {
                    (Some(show), &Some(tap)) => self.memory.show(run, step, tap, show),
                    _ => Ok(()),
                }
            }
            Action::Kernel(work) => self.memory.kernel(run, index, work),
        }
    }

    fn record(&mut self, specialization: &Specialization, index: usize, time: Duration) {
        let Some(profile) = &mut self.profile else {
            return;
        };
        if profile.steps.is_empty() {
            profile.steps = self.plan.steps().iter().map(StepProfile::new).collect();
        }
        let step = &self.plan.steps()[index];
        let measured = &mut profile.steps[index];
        measured.record(specialization.costs[index], time);
        let shape = step
            .outputs
            .first()
            .and_then(|&value| specialization.shape(value))
            .unwrap_or(&[]);
        if measured.shape != shape {
            measured.shape = shape.to_vec();
        }
    }
}

/// Copies the constants that portable steps, views and outputs use out of the blob, and returns them with their size in bytes. Any number of constants can
/// share the same bytes of the blob, so the copies are counted against the budget.
fn materialize(plan: &Plan, limit: u64) -> Result<(Vec<Option<Tensor>>, u64), RunError> {
    let mut constants = vec![None; plan.constants().len()];
    let mut needed = 0_u64;
    let steps = plan
        .steps()
        .iter()
        .filter(|step| matches!(step.kernel.core(), Core::Portable | Core::View));
    let operands = steps.flat_map(|step| step.inputs.iter().copied());
    for operand in operands.chain(plan.outputs().iter().map(|output| output.value)) {
        let Operand::Constant(index) = operand else {
            continue;
        };
        let slot: &mut Option<Tensor> = &mut constants[index.index()];
        if slot.is_none() {
            let constant = plan.constant(index);
            needed = needed.saturating_add(constant.len as u64);
            if needed > limit {
                return Err(RunError::Budget { needed, limit });
            }
            let tensor = tensor_of(constant.dtype, &constant.shape, plan.constant_bytes(index));
            let faulty = |error: StepError| {
                PlanError::Inconsistent(format!("constant {}: {error}", index.0))
            };
            *slot = Some(tensor.map_err(faulty)?);
        }
    }
    Ok((constants, needed))
}
