//! From a lowered graph to an executable plan.
//!
//! This crate chooses a kernel for every node (one table, in `select.rs`), groups the nodes that one kernel computes (`group.rs`), packs weights into
//! the form that the kernels read, folds what constants allow into them, and writes the [`Plan`]. It changes no semantics: for every node, the portable operator is the definition and the oracle of what the chosen kernel computes.
//!
//! Nodes without a kernel become portable steps, with the reason in the step's note; [`Report`] collects these, the memory and
//! the work of a plan.
#![forbid(unsafe_code)]

mod bodies;
mod build;
mod choose;
mod facts;
mod group;
mod layout;
mod pack;
mod report;
mod select;
mod state;

use octofold_ir::{ChangedWeights, Graph, GraphError};
use octofold_kernels::{Isa, KernelError};
use octofold_runtime::{Engine, Plan, PlanError};

pub use report::{Report, StepReport};
pub use state::State;

/// How a graph is compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct CodegenOptions {
    /// The engine whose kernels are used.
    pub engine: Engine,
    /// The instruction set that the plan is made for. `None` is the least for which the engine has its own kernels: AVX2 for fbgemm, any for
    /// qnnpack. Plans without integer convolutions and products need none.
    pub requires: Option<Isa>,
    /// Whether float weights of linear layers that are in a mapped file stay there, and are packed each time the layer runs: for a plan of a large model that runs a few
    /// times.
    pub in_place: bool,
    /// Whether portable operators compute all steps. This is slow, and helps to find faults.
    pub portable: bool,
    /// The values that sessions keep between runs.
    pub states: Vec<State>,
}

impl Default for CodegenOptions {
    fn default() -> Self {
        Self {
            engine: Engine::Fbgemm,
            requires: None,
            in_place: false,
            portable: false,
            states: Vec::new(),
        }
    }
}

/// Why a graph was not compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodegenError {
    /// The graph has no order.
    #[error(transparent)]
    Graph(Box<GraphError>),
    /// The weights of a node cannot be packed.
    #[error("node `{node}`: {source}")]
    Pack {
        /// The node.
        node: String,
        /// What the kernels say.
        source: KernelError,
    },
    /// A state that does not fit the graph.
    #[error("state {state}: {reason}")]
    State {
        /// The output and the input.
        state: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of weights that was changed.
    #[error(transparent)]
    Weights(#[from] ChangedWeights),
    /// A graph with more values or constants than a plan can number.
    #[error("the graph is too large for a plan")]
    TooLarge,
    /// The plan was refused.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl From<GraphError> for CodegenError {
    fn from(error: GraphError) -> Self {
        Self::Graph(Box::new(error))
    }
}

/// Compiles a lowered graph.
///
/// # Errors
/// When the graph has a cycle, weights cannot be packed, a state names what the graph does not have, or the plan is refused: because a state's
/// types or shapes differ, or by a bug of the compiler.
pub fn compile(graph: &Graph, options: &CodegenOptions) -> Result<Plan, CodegenError> {
    compile_owned(graph.clone(), options)
}

/// As [`compile`]; frees the weights of the graph one after the other while they are packed, unless another graph shares them.
///
/// # Errors
/// As [`compile`].
pub fn compile_owned(mut graph: Graph, options: &CodegenOptions) -> Result<Plan, CodegenError> {
    let order = graph.order()?;
    let types = facts::Types::new(&graph);
    let groups = if options.portable {
        group::portable(&graph, &order, &types)
    } else {
        group::groups(&graph, &order, &types)
    };
    let choices = choose::choices(&mut graph, &groups, options)?;
    let plan = build::build(&graph, &order, choices, options)?;
    graph.check_weights()?;
    Ok(plan)
}
