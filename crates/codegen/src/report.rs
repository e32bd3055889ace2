//! A report on a plan: kernels and the reasons for portable steps, memory, and work.

use octofold_runtime::{Kernel, Plan, PlanError, Specialization};
use octofold_tensor::Shape;

/// One step of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The step's name.
    pub name: String,
    /// The operator.
    pub operator: &'static str,
    /// The kernel.
    pub kernel: Kernel,
    /// Why no faster kernel was chosen; empty when there is nothing to explain.
    pub note: String,
    /// The nodes of the model that the step computes.
    pub sources: Vec<String>,
    /// The sizes of the first result; `None` when they depend on data.
    pub shape: Option<Vec<usize>>,
    /// The multiply-accumulates.
    pub macs: u64,
    /// Whether they are products of integers.
    pub integer: bool,
}

/// The steps, the memory and the work of a plan, for one set of input shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The steps in the order of execution.
    pub steps: Vec<StepReport>,
    /// The bytes of the arena.
    pub arena_bytes: usize,
    /// The bytes of the constants.
    pub weight_bytes: usize,
}

impl Report {
    /// The report of a plan for inputs of the given shapes; see [`Plan::fixed_input_shapes`] and [`Plan::input_shapes`].
    ///
    /// # Errors
    /// When the shapes do not fit the plan.
    pub fn new(plan: &Plan, inputs: &[Shape]) -> Result<Self, PlanError> {
        let specialization = Specialization::new(plan, inputs, 1)?;
        let steps = plan
            .steps()
            .iter()
            .zip(specialization.costs())
            .map(|(step, cost)| StepReport {
                name: step.name.clone(),
                operator: step.op.name(),
                kernel: step.kernel,
                note: step.note.clone(),
                sources: step.sources.clone(),
                shape: step
                    .outputs
                    .first()
                    .and_then(|&output| specialization.shape(output))
                    .map(<[_]>::to_vec),
                macs: cost.macs,
                integer: cost.integer,
            });
        Ok(Self {
            steps: steps.collect(),
            arena_bytes: specialization.arena_bytes(),
            weight_bytes: plan.weight_bytes(),
        })
    }

    /// The number of multiply-accumulates.
    pub fn macs(&self) -> u64 {
        self.steps
            .iter()
            .fold(0, |sum, step| sum.saturating_add(step.macs))
    }

    /// The number of multiply-accumulates on integers.
    pub fn integer_macs(&self) -> u64 {
        let integer = self.steps.iter().filter(|step| step.integer);
        integer.fold(0, |sum, step| sum.saturating_add(step.macs))
    }

    /// The share of the multiply-accumulates on integers, from 0 to 1; 0 when there are none.
    pub fn integer_mac_share(&self) -> f64 {
        match self.macs() {
            0 => 0.0,
            macs => self.integer_macs() as f64 / macs as f64,
        }
    }
}
