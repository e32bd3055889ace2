//! Shape and type inference, with symbolic dimensions.
//!
//! [`infer`] gives the types of an operator's outputs from what is known of its inputs: their types, the elements of constants,
//! and the symbolic contents of small integer tensors. Following the contents through `Shape`, `Gather`, `Concat`
//! and arithmetic is what resolves the shape computations that exporters leave, also when the batch is a symbol.
//! A dimension that depends on data gets a fresh symbol.
//!
//! Nothing that a file claims is trusted: attributes and shapes that do not fit are errors, and so is a result that is known to be
//! too large. Expressions that grow without end are replaced by fresh symbols.
//!
//! One family of operators is one file, as in [`octofold_ops::families`].

mod activation;
mod binary;
mod concat;
mod contents;
mod control;
mod conv;
mod convert;
mod detection;
mod elementwise;
mod fused;
mod gather;
mod generate;
mod helpers;
mod matmul;
mod norm;
mod pad;
mod pool;
mod quantize;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
mod select;
mod shape;
mod sizes;
mod slice;
#[cfg(test)]
mod tests;
mod transpose;

pub(crate) use contents::constant_contents;
pub(crate) use control::Entry;
pub use control::Signature;
use octofold_ops::{BodyId, Op, OpError, bail};
use octofold_tensor::{Dim, Tensor};

use crate::TensorType;

/// No inferred value has more elements.
const MAX_ELEMENTS: u128 = 1 << 31;

/// What is known of an operator's input.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The type.
    pub ty: &'a TensorType,
    /// The elements of a constant.
    pub constant: Option<&'a Tensor>,
    /// The contents of a small tensor of integers or booleans (0 and 1), row-major, as symbolic numbers. Constants have them, too.
    pub contents: Option<&'a [Dim]>,
}

/// What is known of an operator's output.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// The type.
    pub ty: TensorType,
    /// The symbolic contents of a small tensor of integers or booleans, row-major; its shape is known.
    pub contents: Option<Vec<Dim>>,
}

impl From<TensorType> for Inferred {
    fn from(ty: TensorType) -> Self {
        Self { ty, contents: None }
    }
}

/// What is known of the outputs of an operator, or why it refuses its inputs.
type Types = Result<Vec<Inferred>, OpError>;

/// The inputs of an inference, and the source of fresh symbols.
#[derive(Debug)]
pub struct Context<'a> {
    inputs: &'a [Option<Known<'a>>],
    /// What the bodies of the operator take and give.
    bodies: Vec<(BodyId, Signature)>,
    /// The name that fresh symbols begin with; unique to the node.
    prefix: &'a str,
    fresh: usize,
}

impl<'a> Context<'a> {
    /// A context over inputs. `prefix` makes the symbols of this node unlike those of any other.
    pub fn new(inputs: &'a [Option<Known<'a>>], prefix: &'a str) -> Self {
        Self {
            inputs,
            bodies: Vec::new(),
            prefix,
            fresh: 0,
        }
    }

    /// The context for an operator with bodies.
    #[must_use]
    pub fn with_bodies(mut self, bodies: Vec<(BodyId, Signature)>) -> Self {
        self.bodies = bodies;
        self
    }

    /// What a body of the operator takes and gives.
    ///
    /// # Errors
    /// When there is no such body.
    pub fn signature(&self, body: BodyId) -> Result<&Signature, OpError> {
        let mut bodies = self.bodies.iter();
        let found = bodies.find(|(id, _)| *id == body);
        found
            .map(|(_, signature)| signature)
            .ok_or_else(|| OpError::invalid("its body does not exist"))
    }

    /// The number of inputs, absent ones in between included.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The input at a position, when present.
    pub fn optional(&self, index: usize) -> Option<Known<'a>> {
        self.inputs.get(index).copied().flatten()
    }

    /// The input at a position.
    ///
    /// # Errors
    /// When it is absent.
    pub fn required(&self, index: usize) -> Result<Known<'a>, OpError> {
        self.optional(index).ok_or(OpError::MissingInput(index))
    }

    /// A dimension of which nothing is known.
    pub fn fresh(&mut self) -> Dim {
        self.fresh += 1;
        Dim::symbol(&format!("{}.{}", self.prefix, self.fresh - 1))
    }
}

/// The types of an operator's outputs, optional ones included.
///
/// # Errors
/// When an input is absent, types, shapes or values do not fit, or an output is known to be too large.
pub fn infer(op: &Op, cx: &mut Context<'_>) -> Result<Vec<Inferred>, OpError> {
    let mut outputs = family(op, cx)?;
    for output in &mut outputs {
        bound(output, cx)?;
    }
    contents::complete(op, cx, &mut outputs);
    Ok(outputs)
}

/// Refuses a shape that no tensor can have, and gives up what has grown too complicated.
fn bound(output: &mut Inferred, cx: &mut Context<'_>) -> Result<(), OpError> {
    let shape = output.ty.shape.iter_mut().flatten();
    let mut count = Some(1_u128);
    for dim in shape {
        match dim.known() {
            Some(size) if size < 0 => {
                bail!("an output would have the size {size}");
            }
            Some(size) => {
                count = count.map(|count| count.saturating_mul(size.unsigned_abs().into()))
            }
            None if sizes::overflows(dim) => {
                bail!("an output would have the size {dim}");
            }
            None => count = None,
        }
        if !sizes::is_simple(dim) {
            *dim = cx.fresh();
        }
    }
    if let Some(count) = count.filter(|&count| count > MAX_ELEMENTS) {
        return Err(OpError::TooLarge(count));
    }
    let fits = |contents: &Vec<Dim>| {
        count == Some(contents.len() as u128)
            && contents.len() <= contents::MAX
            && contents
                .iter()
                .all(|dim| sizes::is_simple(dim) && !sizes::overflows(dim))
    };
    output.contents = output.contents.take().filter(fits);
    Ok(())
}

/// The inference of each operator: lines of `FAMILY: FUNCTION OPERATOR, …;`. The compiler refuses an operator that is left out.
macro_rules! families {
    (
        $op:ident, $cx:ident;
        of_inputs { $($module:ident::$shared:ident: $($operator:ident),+;)* }
        of_operator { $($family:ident: $($function:ident $name:ident),+;)* }
    ) => {
        match $op {
            $($(Op::$operator(_))|+ => $module::$shared($cx),)*
            $($(Op::$name(op) => $family::$function(op, $cx),)+)*
        }
    };
}

fn family(op: &Op, cx: &mut Context<'_>) -> Types {
    families! { op, cx;
        of_inputs {
            activation::relu: Relu;
            elementwise::float_function: LeakyRelu, Sigmoid, HardSigmoid, HardSwish, Tanh, Erf, Gelu, Elu, Selu, Celu, Softplus, Softsign, Mish, Swish,
                ThresholdedRelu, Shrink, Exp, Log, Sqrt, Reciprocal, Floor, Ceil, Round, Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Asinh, Acosh, Atanh;
            elementwise::test: IsNaN, IsInf;
            shape::identity: Identity, Observe;
            convert::cast_like: CastLike;
        }
        of_operator {
            conv: conv Conv, conv_transpose ConvTranspose;
            matmul: gemm Gemm, mat_mul MatMul;
            norm: batch_normalization BatchNormalization, instance_normalization InstanceNormalization, layer_normalization LayerNormalization,
                lp_normalization LpNormalization, lrn Lrn, softmax Softmax, log_softmax LogSoftmax, hardmax Hardmax;
            pool: max_pool MaxPool, average_pool AveragePool, global_max_pool GlobalMaxPool, global_average_pool GlobalAveragePool;
            activation: prelu PRelu, clip Clip;
            elementwise: abs Abs, neg Neg, sign Sign, not Not;
            binary: add Add, sub Sub, mul Mul, div Div, pow Pow, r#mod Mod, min Min, max Max, sum Sum, mean Mean, and And, or Or, xor Xor, equal Equal,
                less Less, greater Greater, less_or_equal LessOrEqual, greater_or_equal GreaterOrEqual, r#where Where;
            recurrent: recurrent Lstm, recurrent Gru, recurrent Rnn;
            reduce: reduce_sum ReduceSum, reduce_mean ReduceMean, reduce_max ReduceMax, reduce_min ReduceMin, reduce_prod ReduceProd, reduce_l1 ReduceL1,
                reduce_l2 ReduceL2, reduce_log_sum ReduceLogSum, reduce_log_sum_exp ReduceLogSumExp, reduce_sum_square ReduceSumSquare, arg_max ArgMax, arg_min ArgMin;
            shape: reshape Reshape, flatten Flatten, squeeze Squeeze, unsqueeze Unsqueeze, dropout Dropout, shape Shape, size Size, expand Expand, tile Tile;
            transpose: transpose Transpose, depth_to_space DepthToSpace, nhwc_depth_to_space NhwcDepthToSpace, space_to_depth SpaceToDepth;
            convert: cast Cast;
            concat: concat Concat, split Split;
            slice: slice Slice;
            gather: gather Gather, gather_elements GatherElements, gather_nd GatherND, scatter_nd ScatterND, scatter_elements ScatterElements;
            pad: pad Pad;
            generate: range Range, constant_of_shape ConstantOfShape, one_hot OneHot, eye_like EyeLike;
            select: top_k TopK, non_zero NonZero, cum_sum CumSum, trilu Trilu, compress Compress, reverse_sequence ReverseSequence;
            detection: non_max_suppression NonMaxSuppression;
            resize: resize Resize;
            quantize: quantize_linear QuantizeLinear, dequantize_linear DequantizeLinear, dynamic_quantize_linear DynamicQuantizeLinear;
            quantized: qlinear_conv QLinearConv, qlinear_mat_mul QLinearMatMul, conv_integer ConvInteger, mat_mul_integer MatMulInteger;
            control: branches If, looped Loop, scan Scan;
            fused: fused_conv FusedConv, fused_linear FusedLinear, fused_binary FusedBinary, fused_pool FusedPool, fused_global_pool FusedGlobalPool,
                fused_concat FusedConcat, table_lookup TableLookup;
        }
    }
}
