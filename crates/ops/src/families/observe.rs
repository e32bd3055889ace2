//! The observer: the identity on its input, whose values it shows to an observer outside of the graph.

use octofold_tensor::Tensor;

use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// Marks a value whose range is collected: `y = x`. The observer's state lives outside of the graph, under the name `id`.
    "octofold" "Observe" inputs(1..=1)
    pub struct Observe {
        /// The name of the observed value.
        id: String,
    }
}

impl Operator for Observe {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![inputs.required(0)?.clone()])
    }
}
