//! The operators that are functions of one float.

use octofold_quant::float::Function;

use crate::Op;

/// Matches an operator that is a function: those with attributes by their method, the others by their name.
macro_rules! function {
    ($op:expr; [$($method:ident),*] [$($plain:ident),*]) => {
        match $op {
            $(Op::$method(op) => Some(op.function()),)*
            $(Op::$plain(_) => Some(Function::$plain),)*
            _ => None,
        }
    };
}

impl Op {
    /// The function of one float that the operator computes, element by element; for f32 it is the operator's definition.
    pub fn float_function(&self) -> Option<Function> {
        function!(self;
            [LeakyRelu, Sigmoid, HardSigmoid, HardSwish, Tanh, Erf, Gelu, Elu, Selu, Celu, Softplus, Softsign, Mish, Swish, ThresholdedRelu, Shrink]
            [Abs, Neg, Sign, Floor, Ceil, Round, Sqrt, Reciprocal, Exp, Log, Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Asinh, Acosh, Atanh]
        )
    }
}
