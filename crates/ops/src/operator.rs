//! The traits of operators, and the closed list of all operators.

use std::fmt;
use std::ops::RangeInclusive;

use octofold_tensor::{Element, Tensor};

use crate::OpError;
use crate::attribute::{AttributeMap, Attributes};
use crate::families::{product::refuse, *};
use crate::{Bodies, BodyId};

/// An operator's identity and attributes; implemented by [`attributes!`](crate::attributes).
pub trait Described: Sized {
    /// The operator's domain: empty for ONNX itself, `octofold` for our own.
    const DOMAIN: &'static str;
    /// The operator's name within its domain.
    const NAME: &'static str;
    /// How many inputs and outputs the operator has.
    const ARITY: Arity;

    /// The attributes that differ from their defaults, in the order of declaration.
    fn attributes(&self) -> Attributes;

    /// Takes the operator's attributes out of `map`.
    ///
    /// # Errors
    /// When a required attribute is absent, or one has the wrong type or value.
    fn from_attributes(map: &mut AttributeMap) -> Result<Self, OpError>;
}

/// The possible numbers of inputs and outputs of an operator, optional ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arity {
    /// The possible numbers of inputs.
    pub inputs: RangeInclusive<usize>,
    /// The possible numbers of outputs.
    pub outputs: RangeInclusive<usize>,
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |range: &RangeInclusive<usize>, what: &str| {
            let (least, most) = (*range.start(), *range.end());
            let plural = if most == 1 { "" } else { "s" };
            match most {
                usize::MAX => format!("{least} or more {what}s"),
                most if most == least => format!("{least} {what}{plural}"),
                most => format!("{least} to {most} {what}s"),
            }
        };
        let (inputs, outputs) = (count(&self.inputs, "input"), count(&self.outputs, "output"));
        write!(f, "{inputs} and {outputs}")
    }
}

/// The inputs of an evaluation; absent optional inputs are `None`.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a>(pub &'a [Option<&'a Tensor>]);

impl<'a> Inputs<'a> {
    /// The number of inputs, absent ones in between included.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The input at a position, when present.
    pub fn optional(self, index: usize) -> Option<&'a Tensor> {
        self.0.get(index).copied().flatten()
    }

    /// The input at a position.
    ///
    /// # Errors
    /// When it is absent.
    pub fn required(self, index: usize) -> Result<&'a Tensor, OpError> {
        self.optional(index).ok_or(OpError::MissingInput(index))
    }

    /// The elements of the input at a position.
    ///
    /// # Errors
    /// When it is absent or of another type.
    pub fn values<T: Element>(self, index: usize) -> Result<&'a [T], OpError> {
        let tensor = self.required(index)?;
        tensor.values::<T>().map_err(|_| OpError::InputType {
            index,
            found: tensor.dtype(),
            expected: T::DTYPE.name(),
        })
    }
}

/// The portable implementation of an operator: slow, clear, with the semantics of ONNX.
///
/// The interpreter, constant folding and a plan's fallback steps all call it; fast kernels are tested against it.
pub trait Operator: Described {
    /// Computes the outputs, `outputs` of them (trailing optional outputs may be unwanted).
    ///
    /// # Errors
    /// When an input is absent, or types, shapes or values do not fit. Never panics, whatever the inputs.
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError>;
}

macro_rules! operators {
    ($($variant:ident),* $(,)?) => {
        /// Any operator that Octofold knows. Matches over it are exhaustive, so that the compiler reports each place in
        /// shape inference, printer and exporter where a new operator is missing.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is documented at the struct that it wraps")]
        pub enum Op {
            $($variant($variant),)*
        }

        impl Op {
            /// The domain: empty for ONNX itself.
            pub fn domain(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $variant::DOMAIN,)*
                }
            }

            /// The operator's name within its domain.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $variant::NAME,)*
                }
            }

            /// The attributes that differ from their defaults.
            pub fn attributes(&self) -> Attributes {
                match self {
                    $(Self::$variant(op) => op.attributes(),)*
                }
            }

            /// How many inputs and outputs the operator has.
            pub fn arity(&self) -> Arity {
                match self {
                    $(Self::$variant(_) => $variant::ARITY,)*
                }
            }

            /// Computes the outputs: see [`Operator::evaluate`].
            ///
            /// # Errors
            /// As [`Operator::evaluate`].
            pub fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
                match self {
                    $(Self::$variant(op) => op.evaluate(inputs, outputs),)*
                }
            }

            /// The operator of a name, with its attributes in the form of the newest opset that Octofold knows.
            ///
            /// # Errors
            /// When the name or an attribute is unknown, or an attribute has the wrong type or value.
            pub fn from_attributes(domain: &str, name: &str, mut map: AttributeMap) -> Result<Self, OpError> {
                let op = match (domain, name) {
                    $(($variant::DOMAIN, $variant::NAME) => Self::$variant($variant::from_attributes(&mut map)?),)*
                    _ => return Err(refuse(domain, name, &mut map)),
                };
                match map.names().next() {
                    None => Ok(op),
                    Some(unknown) => Err(OpError::UnknownAttribute(unknown.to_owned())),
                }
            }

            /// Domain and name of every operator, in the order of the list.
            pub const NAMES: &'static [(&'static str, &'static str)] = &[
                $(($variant::DOMAIN, $variant::NAME),)*
            ];
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Self {
                Self::$variant(op)
            }
        })*
    };
}

impl Op {
    /// Computes the outputs, as [`Op::evaluate`] does, for operators with bodies as well.
    ///
    /// # Errors
    /// As [`Operator::evaluate`] and [`Bodies::call`].
    pub fn evaluate_with(
        &self,
        inputs: Inputs<'_>,
        outputs: usize,
        bodies: &mut dyn Bodies,
    ) -> Result<Vec<Tensor>, OpError> {
        match self {
            Self::If(op) => op.run(inputs, outputs, bodies),
            Self::Loop(op) => op.run(inputs, outputs, bodies),
            Self::Scan(op) => op.run(inputs, outputs, bodies),
            other => other.evaluate(inputs, outputs),
        }
    }

    /// The bodies that the operator runs.
    pub fn bodies(&self) -> Vec<BodyId> {
        match self {
            Self::If(op) => vec![op.then_branch, op.else_branch],
            Self::Loop(op) => vec![op.body],
            Self::Scan(op) => vec![op.body],
            _ => Vec::new(),
        }
    }

    /// The operator with other bodies.
    #[must_use]
    pub fn with_bodies(mut self, other: impl Fn(BodyId) -> BodyId) -> Self {
        match &mut self {
            Self::If(op) => {
                op.then_branch = other(op.then_branch);
                op.else_branch = other(op.else_branch);
            }
            Self::Loop(op) => op.body = other(op.body),
            Self::Scan(op) => op.body = other(op.body),
            _ => {}
        }
        self
    }
}

// One line a family, in the order of `families`.
operators! {
    Conv, ConvTranspose,
    Gemm, MatMul,
    BatchNormalization, InstanceNormalization, LayerNormalization, LpNormalization, Lrn,
    MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool,
    Relu, LeakyRelu, PRelu, Sigmoid, HardSigmoid, HardSwish, Tanh, Erf, Gelu, Elu, Selu, Celu, Softplus, Softsign, Mish,
    Swish, ThresholdedRelu, Shrink, Clip, Abs, Neg, Exp, Log, Sqrt, Reciprocal, Floor, Ceil, Round, Sign, Not, IsNaN, IsInf,
    Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Asinh, Acosh, Atanh,
    Add, Sub, Mul, Div, Pow, Mod, Min, Max, Sum, Mean, And, Or, Xor, Equal, Less, Greater, LessOrEqual, GreaterOrEqual, Where,
    Softmax, LogSoftmax, Hardmax,
    Lstm, Gru, Rnn,
    ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceSumSquare,
    ArgMax, ArgMin,
    Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Identity, Dropout, Shape, Size, Cast, CastLike, Expand, Tile,
    DepthToSpace, NhwcDepthToSpace, SpaceToDepth,
    Concat, Split, Slice, Gather, GatherElements, GatherND, ScatterND, ScatterElements, Pad, Range, ConstantOfShape,
    TopK, NonZero, CumSum, OneHot, Trilu, EyeLike, Compress, ReverseSequence, NonMaxSuppression, Resize,
    QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger,
    If, Loop, Scan,
    Observe,
    FusedConv, FusedLinear, FusedBinary, FusedPool, FusedGlobalPool, FusedConcat, TableLookup,
}
