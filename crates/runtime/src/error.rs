//! What can go wrong with a plan: while it is made or read, and while it runs.

use std::path::PathBuf;

use octofold_kernels::{Isa, KernelError};
use octofold_ops::OpError;
use octofold_tensor::{DType, DimError, TensorError};

use crate::plan::Kernel;

/// An error that a caller's function gave.
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
        Step = "run-step", "a step fails";
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
        /// What the system said.
        source: std::io::Error,
    },
    /// A plan file that is refused.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PlanError>,
    },
    /// Bytes that are no plan, or not a whole one.
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
    /// A step that cannot be executed as it stands.
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
    /// Operands, results or constants that the kernel does not take.
    #[error("{0}")]
    Invalid(String),
    /// A value whose size depends on data where the kernel needs a known one.
    #[error("the size of `{0}` is not known before the plan runs")]
    UnknownSize(String),
    /// The portable operator refused.
    #[error(transparent)]
    Op(#[from] OpError),
    /// A kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A dimension without a size.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// Elements that make no tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A portable result of another type or shape than the plan says.
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
    /// A thread of the pool panicked, which is a bug of Octofold.
    #[error("a worker thread failed")]
    Worker,
    /// A result whose size is known only when it is computed, and that the budget does not allow.
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
    /// The function that was shown the tap's values gave an error.
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

/// Why a session could not be made or a plan not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plan cannot be specialized to the shapes given.
    #[error(transparent)]
    Plan(#[from] PlanError),
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
    /// An input that the caller did not give, or gave twice.
    #[error("input `{name}` {reason}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// An input of a name that the plan does not have.
    #[error("the plan has no input `{name}`; its inputs are {known}")]
    UnknownInput {
        /// The unknown name.
        name: String,
        /// The names that there are.
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
    /// More memory than the budget allows.
    #[error(
        "running the plan with these shapes takes {needed} bytes of memory, the budget is {limit}; raise it (SessionOptions::memory, \
         --limit memory=BYTES) for a model that is trusted"
    )]
    Budget {
        /// What the constants, the arena and the values with tensors of their own take.
        needed: u64,
        /// The budget.
        limit: u64,
    },
    /// More memory than there is.
    #[error("there is no memory for {0} bytes")]
    Memory(usize),
}
