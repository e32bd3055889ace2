//! Lowering: from the reference QDQ graph to operators that compute on integers.
//!
//! The input is a graph with standard semantics in which `QuantizeLinear` and `DequantizeLinear` say what is an integer, whoever
//! put them there. A group `DequantizeLinear → operator → QuantizeLinear` becomes one operator of the `octofold` domain with the
//! arithmetic of `octofold_quant::requantize`; what no rule matches stays float, behind explicit conversions.

mod binary;
mod forms;
mod movement;
mod params;
mod parts;
mod pointwise;
mod pool;
mod residual;
mod weighted;

use octofold_ir::Graph;

use crate::pass::{Pass, PassError};
use crate::rewrite::{Rewriter, Rule};

pub use forms::{LinearForms, LowerFloat};
pub(crate) use params::{dequantized, real_constant};
pub(crate) use pointwise::acts_element_by_element;
pub use residual::FuseQuantizedResiduals;

/// Replaces groups of `DequantizeLinear`, operators and `QuantizeLinear` by integer operators.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowerQuantized;

impl Pass for LowerQuantized {
    fn name(&self) -> &'static str {
        "lower-quantized"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let rules: [&dyn Rule; 11] = [
            &weighted::QuantizedConv,
            &weighted::QuantizedLinear,
            &binary::QuantizedBinary,
            &binary::QuantizedConcat,
            &pool::QuantizedPool,
            &movement::QuantizedMovement,
            &movement::QuantizedSplit,
            &pointwise::Requantize,
            &pointwise::QuantizedPointwise,
            &weighted::FloatResultConv,
            &weighted::FloatResultLinear,
        ];
        rewriter.apply_rules(graph, &rules)
    }
}
