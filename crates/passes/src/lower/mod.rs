//! Lowering: from the reference QDQ graph to operators that compute on integers.
//!
//! The input is a graph with standard semantics, in which `QuantizeLinear` and `DequantizeLinear` mark the integers; it may come from our own
//! `convert` or from another tool. A group `DequantizeLinear → operator → QuantizeLinear` becomes one operator of the `octofold` domain with the
//! arithmetic of `octofold_quant::requantize`. Operators that no rule matches stay float, between explicit conversions.

mod binary;
mod dynamic;
mod forms;
mod movement;
mod params;
mod parts;
mod pointwise;
mod pool;
mod residual;
mod weighted;

use crate::pass::rule_pass;

pub use forms::{LinearForms, LowerFloat};
pub(crate) use params::{dequantized, quantizer, real_constant};
pub(crate) use pointwise::acts_element_by_element;
pub use residual::FuseQuantizedResiduals;
pub(crate) use weighted::weights_around_zero;

rule_pass! {
    /// Replaces groups of `DequantizeLinear`, operators and `QuantizeLinear` by integer operators.
    pub struct LowerQuantized("lower-quantized") = [
        weighted::QuantizedConv,
        weighted::QuantizedLinear,
        binary::QuantizedBinary,
        binary::QuantizedConcat,
        pool::QuantizedPool,
        movement::QuantizedMovement,
        movement::MovedIntegers,
        movement::QuantizedSplit,
        pointwise::Requantize,
        pointwise::QuantizedPointwise,
        dynamic::DynamicLinear,
        weighted::FloatResultConv,
        weighted::FloatResultLinear,
    ];
}
