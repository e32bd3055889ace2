//! What quantizing and compiling made of a model, in a few numbers.

use octofold_codegen::Report;
use octofold_ir::Graph;
use octofold_runtime::Plan;
use serde::Serialize;

use crate::Error;
use crate::fate::float_nodes_of;

/// What quantizing and compiling made of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The bytes of the imported model's constants.
    pub bytes_before: u64,
    /// The bytes of the plan's constants.
    pub bytes: u64,
    /// The share of the multiply-accumulates that runs on integers, 0 to 1; open dimensions count as 1.
    pub integer_share: f64,
    /// The number of the imported model's nodes.
    pub nodes: usize,
    /// The number of nodes that compute in float: see [`float_nodes_of`].
    pub float_nodes: usize,
}

impl Summary {
    /// Compares an imported model with its plan.
    ///
    /// # Errors
    /// When the plan cannot be executed.
    pub fn new(model: &Graph, plan: &Plan) -> Result<Self, Error> {
        let report = Report::new(plan, &plan.input_shapes(|_| 1)?)?;
        Ok(Self {
            bytes_before: constant_bytes(model),
            bytes: plan.weight_bytes() as u64,
            integer_share: report.integer_mac_share(),
            nodes: model.node_count(),
            float_nodes: float_nodes_of(plan, &report).len(),
        })
    }
}

/// The bytes of a graph's constants.
pub fn constant_bytes(graph: &Graph) -> u64 {
    let constants = graph
        .value_ids()
        .filter_map(|id| graph.value(id).constant());
    constants.map(|tensor| tensor.byte_len() as u64).sum()
}
