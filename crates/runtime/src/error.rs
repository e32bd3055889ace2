//! The errors of plans: of making and reading them, and of running them.

use std::path::PathBuf;

use octofold_kernels::{Isa, KernelError};
use octofold_ops::OpError;
use octofold_tensor::{DType, DimError, TensorError};

use crate::plan::Kernel;

/// An error from a function of the caller.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Gives an error type a stable code for each variant; for variants with a cause that has codes of its own, the cause's.
#[doc(hidden)]
#[macro_export]
macro_rules! error_codes {
    ($Error:ident { $($variant:ident = $code:literal, $meaning:literal;)* } $($outer:pat => $inner:expr;)*) => {
        impl $Error {
            /// The codes of this type, each with its meaning; without those of causes that have codes of their own.
            pub const CODES: &'static [(&'static str, &'static str)] = &[$(($code, $meaning)),*];

            /// A code that programs may rely on: it stays when the message changes.
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $code,)*
                    $($outer => $inner,)*
                }
            }
        }
    };
}

error_codes! {
    PlanError {
        Io = "plan-io", "a plan file cannot be read or written";
        Format = "plan-format", "a file is no plan, or not a whole one";
        Version = "plan-version", "a plan has another version of the format";
        Checksum = "plan-checksum", "a plan changed since it was written";
        Inconsistent = "plan-inconsistent", "a part of a plan contradicts another";
        Shape = "plan-shape", "an input has another shape than the plan takes";
        Changed = "plan-changed", "the file of a plan was changed while it was used";
        Step = "plan-step", "a step of a plan cannot be executed";
        Memory = "plan-memory", "there is not enough memory for a plan";
    }
    Self::File { source, .. } => source.code();
}

error_codes! {
    RunError {
        Isa = "run-isa", "the processor lacks the instruction set that was asked for";
        OtherProcessor = "run-processor", "a plan is made for another processor";
        Threads = "run-threads", "threads cannot be started";
        Input = "run-input", "an input is missing, given twice or does not fit";
        UnknownInput = "run-unknown-input", "the plan has no input of that name";
        Output = "run-output", "the place for an output does not fit it";
        Count = "run-count", "the plan has another number of inputs or outputs";
        View = "run-view", "the bytes of a borrowed tensor do not fit its shape";
        State = "run-state", "a state is missing, given twice, unknown or does not fit";
        Step = "run-step", "a step fails";
        Operations = "run-operations", "the bodies of a plan would take more operations than the limit";
        Budget = "run-budget", "a run would take more memory than the budget allows";
        Memory = "run-memory", "there is not enough memory for a run";
    }
    Self::Plan(error) => error.code();
}

/// Why a plan was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A file that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A refused plan file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PlanError>,
    },
    /// Bytes that are not a complete plan.
    #[error("this is no valid plan: {0}")]
    Format(String),
    /// A plan of another version of the format.
    #[error(
        "the plan has format {found}, this program reads format {expected}; compile the model again"
    )]
    Version {
        /// The version of the file.
        found: u32,
        /// The version that this program reads.
        expected: u32,
    },
    /// Bytes that changed since the plan was written.
    #[error(
        "the {part} of the plan is damaged: its checksum is {found:08x} instead of {expected:08x}"
    )]
    Checksum {
        /// Which part.
        part: &'static str,
        /// The checksum that the header names.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// A part of the plan that contradicts another.
    #[error("the plan is inconsistent: {0}")]
    Inconsistent(String),
    /// An input of another shape than the plan takes. Sessions report it as [`RunError::Input`].
    #[error("input `{input}` of shape {found:?} does not fit {expected}")]
    Shape {
        /// The input.
        input: String,
        /// The shape that was given.
        found: Vec<usize>,
        /// The shape of the plan, with its symbols.
        expected: String,
    },
    /// A mapped file that was overwritten or cut since the plan was loaded.
    #[error(
        "the plan's file was changed since it was loaded: replace it by renaming a new file, as `compile -o` does, or read it into memory (Plan::read, --no-map)"
    )]
    Changed,
    /// A step that cannot be executed.
    #[error("step {index} `{name}`: {source}")]
    Step {
        /// The position of the step.
        index: usize,
        /// Its name.
        name: String,
        /// What is wrong.
        source: Box<StepError>,
    },
    /// More memory than there is.
    #[error("there is no memory for {0} bytes")]
    Memory(usize),
}

/// Why a step cannot be executed. The plan or the session adds the name of the step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Operands, results or constants that the kernel does not support.
    #[error("{0}")]
    Invalid(String),
    /// A value whose size depends on data, although the kernel needs a known size.
    #[error("the size of `{0}` is not known before the plan runs")]
    UnknownSize(String),
    /// An error of the portable operator.
    #[error(transparent)]
    Op(#[from] OpError),
    /// An error of a kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A dimension without a size.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// Elements that do not form a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A result of a portable operator whose type or shape differs from the plan's.
    #[error("the result is {found_type}{found:?}, the plan says {expected_type}{expected:?}")]
    Result {
        /// The type of the result.
        found_type: DType,
        /// The sizes of the result.
        found: Vec<usize>,
        /// The type in the plan.
        expected_type: DType,
        /// The sizes in the plan.
        expected: Vec<usize>,
    },
    /// A thread of the pool panicked. This is a bug of Octofold.
    #[error("a worker thread failed")]
    Worker,
    /// A result that exceeds the budget, and whose size is known only when it is computed.
    #[error(
        "a result of {elements} elements exceeds the budget of {limit} bytes of memory; raise it (SessionOptions::memory, --limit \
         memory=BYTES) for a model that is trusted"
    )]
    Budget {
        /// The number of elements.
        elements: u128,
        /// The budget.
        limit: u64,
    },
    /// A body failed.
    #[error("in its body, {0}")]
    Body(Box<RunError>),
    /// The function that observes a tap returned an error.
    #[error("the observer of `{id}` failed")]
    Tap {
        /// The tap.
        id: String,
        /// The error of the function.
        source: BoxError,
    },
}

impl StepError {
    /// A [`StepError::Invalid`].
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}

/// What is wrong with a state that a session is to go on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateFault {
    /// The plan has no state of that name.
    #[error("is unknown; the plan's states are {known}")]
    Unknown {
        /// The names that there are.
        known: String,
    },
    /// A state of the plan is not given.
    #[error("is missing")]
    Missing,
    /// A state is given more than once.
    #[error("is given twice")]
    Twice,
    /// A state of another element type.
    #[error("has elements of type {found}, expected {expected}")]
    Type {
        /// The type that is given.
        found: DType,
        /// The type in the plan.
        expected: DType,
    },
    /// A state of another shape.
    #[error("has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The shape that is given.
        found: Vec<usize>,
        /// The shape in the plan.
        expected: Vec<usize>,
    },
}

impl From<PlanError> for RunError {
    /// An input that does not fit is the caller's mistake, not the plan's.
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Shape {
                input,
                found,
                expected,
            } => Self::Input {
                name: input,
                reason: format!("has the shape {found:?}, expected {expected}"),
            },
            other => Self::Plan(other),
        }
    }
}

/// Why a session could not be made, or a plan could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plan cannot be specialized to the shapes given.
    #[error(transparent)]
    Plan(PlanError),
    /// The processor lacks the instruction set that the caller asked for.
    #[error("this processor has no {0}, which is asked for")]
    Isa(Isa),
    /// The plan is made for another processor.
    #[error(
        "the plan is made for the engine {engine} on processors with {needed}, which this one lacks; with portable kernels allowed (--allow-portable) it runs all the same, more slowly"
    )]
    OtherProcessor {
        /// The plan's engine.
        engine: &'static str,
        /// What the plan needs.
        needed: Isa,
    },
    /// The threads could not be started.
    #[error("threads cannot be started: {0}")]
    Threads(std::io::Error),
    /// An input that is missing, given twice, or does not fit.
    #[error("input `{name}` {reason}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// An input whose name the plan does not have.
    #[error("the plan has no input `{name}`; its inputs are {known}")]
    UnknownInput {
        /// The unknown name.
        name: String,
        /// The names of the plan's inputs.
        known: String,
    },
    /// An output that does not fit the place that the caller gave for it.
    #[error("output `{name}` {reason}")]
    Output {
        /// The output.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Another number of inputs or outputs than the plan has.
    #[error("{given} {what} are given, the plan has {expected}")]
    Count {
        /// `inputs` or `outputs`.
        what: &'static str,
        /// The number that was given.
        given: usize,
        /// The number of the plan.
        expected: usize,
    },
    /// Bytes that are not those of a shape.
    #[error("{bytes} bytes are no {dtype}{shape:?}")]
    View {
        /// The element type.
        dtype: DType,
        /// The sizes.
        shape: Vec<usize>,
        /// The number of bytes.
        bytes: usize,
    },
    /// A state that does not fit the plan.
    #[error("state `{name}` {fault}")]
    State {
        /// The state: the name of its input.
        name: String,
        /// What is wrong.
        fault: StateFault,
    },
    /// A step failed.
    #[error("step {index} `{name}` ({operator} by {kernel}): {source}")]
    Step {
        /// The position of the step.
        index: usize,
        /// Its name.
        name: String,
        /// The operator.
        operator: &'static str,
        /// The kernel.
        kernel: Kernel,
        /// What is wrong.
        source: Box<StepError>,
    },
    /// Bodies that would take more operations than the limit.
    #[error(
        "the bodies of the plan take more than {0} operations; raise the limit (SessionOptions::operations, --limit operations=NUMBER) for a model that is trusted"
    )]
    Operations(u64),
    /// More memory than the budget allows.
    #[error(
        "running the plan with these shapes takes {needed} bytes of memory, the budget is {limit}; raise it (SessionOptions::memory, \
         --limit memory=BYTES) for a model that is trusted"
    )]
    Budget {
        /// The bytes of the constants, the states, the arena and the values with tensors of their own.
        needed: u64,
        /// The budget.
        limit: u64,
    },
    /// More memory than there is.
    #[error("there is no memory for {0} bytes")]
    Memory(usize),
}
