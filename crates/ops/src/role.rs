//! What each operand is to its operator.

use Role::{Activation, Bias, Index, Parameter, State, Weight};

use crate::Op;

/// What an operand is to its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// What the operator computes with: observed and quantized as a whole.
    Activation,
    /// Trained numbers that multiply an activation.
    Weight,
    /// Trained numbers that are added to products.
    Bias,
    /// Numbers that belong to the operator as its attributes do: bounds, scales, zero points, thresholds, tables.
    Parameter,
    /// Integers and bools that say which elements, how many or where: shapes, axes, indices, lengths, conditions.
    Index,
    /// What one step hands to the next: states of a recurrent layer, running statistics.
    State,
}

/// The roles of the operands of every operator: lines of `[ROLE, …]: OPERATOR, …;`. The compiler refuses an operator that is left out.
macro_rules! roles {
    ($op:ident; $([$($role:ident),*]: $($name:ident),*;)*) => {
        match $op {
            $($(Op::$name(_))|* => &[$($role),*],)*
        }
    };
}

impl Op {
    /// What the operand in `slot` is to this operator; `None` for a slot that it does not have.
    pub fn role(&self, slot: usize) -> Option<Role> {
        let roles: &[Role] = roles! { self;
            // Layers.
            [Activation, Weight, Bias]: Conv, ConvTranspose, Gemm;
            [Activation, Weight, Bias, Activation, Parameter, Parameter]: FusedLinear;
            [Activation, Weight, Bias, Activation]: FusedConv;
            [Activation, Parameter, Parameter, Weight, Parameter, Parameter, Parameter, Parameter, Bias]: QLinearConv;
            [Activation, Parameter, Parameter, Activation, Parameter, Parameter, Parameter, Parameter]: QLinearMatMul;
            [Activation, Weight, Parameter, Parameter]: ConvInteger;
            [Activation, Activation, Parameter, Parameter]: MatMulInteger;
            [Activation, Weight, Weight, Bias, Index, State, State, Weight]: Lstm;
            [Activation, Weight, Weight, Bias, Index, State]: Gru, Rnn;
            [Activation, Weight, Bias, State, State]: BatchNormalization;
            [Activation, Weight, Bias]: InstanceNormalization, LayerNormalization;
            [Activation, Weight]: PRelu;
            // Several activations. What takes any number of them has the last role for the rest.
            [Activation, Activation]: MatMul, Add, Sub, Mul, Div, Pow, Mod, And, Or, Xor, Equal, Less, Greater, LessOrEqual, GreaterOrEqual, FusedBinary;
            [Activation]: Min, Max, Sum, Mean, Concat, FusedConcat;
            [Index, Activation, Activation]: Where;
            // One activation.
            [Activation, Parameter, Parameter]: QuantizeLinear, DequantizeLinear, Clip, Dropout;
            [Activation, Parameter]: CastLike, TableLookup;
            [Activation]: LpNormalization, Lrn, MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool, FusedPool, FusedGlobalPool, Softmax, LogSoftmax, Hardmax;
            [Activation]: Relu, LeakyRelu, Sigmoid, HardSigmoid, HardSwish, Tanh, Erf, Gelu, Elu, Selu, Celu, Softplus, Softsign, Mish, Swish, ThresholdedRelu, Shrink;
            [Activation]: Abs, Neg, Exp, Log, Sqrt, Reciprocal, Floor, Ceil, Round, Sign, Not, IsNaN, IsInf, Cast;
            [Activation]: Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Asinh, Acosh, Atanh;
            [Activation]: ArgMax, ArgMin, NonZero, Shape, Size, EyeLike, DynamicQuantizeLinear, Observe;
            [Activation]: Flatten, Transpose, Identity, DepthToSpace, NhwcDepthToSpace, SpaceToDepth;
            // Integers say which elements, how many or where.
            [Activation, Index]: ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceSumSquare;
            [Activation, Index]: Reshape, Squeeze, Unsqueeze, Expand, Tile, Split, Gather, GatherElements, GatherND, TopK, CumSum, Trilu, Compress, ReverseSequence;
            [Activation, Index, Activation]: ScatterND, ScatterElements;
            [Activation, Index, Index, Index, Index]: Slice;
            [Activation, Index, Parameter, Index]: Pad;
            [Activation, Parameter, Parameter, Index]: Resize;
            [Activation, Activation, Index, Parameter, Parameter]: NonMaxSuppression;
            [Index, Index, Parameter]: OneHot;
            [Index]: ConstantOfShape;
            [Parameter, Parameter, Parameter]: Range;
            // What bodies read, behind the condition and the number of trips.
            [Index, Activation]: If;
            [Index, Index, Activation]: Loop;
            [Activation]: Scan;
        };
        if *self.arity().inputs.end() == usize::MAX {
            return roles.get(slot).or(roles.last()).copied();
        }
        roles.get(slot).copied()
    }
}
