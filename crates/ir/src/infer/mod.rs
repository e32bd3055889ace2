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
use octofold_ops::families::{ArgMax, ArgMin, LogSoftmax, RecurrentLayer, Softmax};
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

/// The inference of each operator. There is no arm for the rest, so that a new operator is a compiler's error here.
fn family(op: &Op, cx: &mut Context<'_>) -> Types {
    match op {
        Op::Conv(op) => conv::conv(op, cx),
        Op::ConvTranspose(op) => conv::conv_transpose(op, cx),
        Op::Gemm(op) => matmul::gemm(op, cx),
        Op::MatMul(op) => matmul::mat_mul(op, cx),
        Op::BatchNormalization(op) => norm::batch_normalization(op, cx),
        Op::InstanceNormalization(op) => norm::instance_normalization(op, cx),
        Op::LayerNormalization(op) => norm::layer_normalization(op, cx),
        Op::LpNormalization(op) => norm::lp_normalization(op, cx),
        Op::Lrn(op) => norm::lrn(op, cx),
        Op::MaxPool(op) => pool::max_pool(op, cx),
        Op::AveragePool(op) => pool::average_pool(op, cx),
        Op::GlobalMaxPool(op) => pool::global_max_pool(op, cx),
        Op::GlobalAveragePool(op) => pool::global_average_pool(op, cx),
        Op::Relu(_) => activation::relu(cx),
        Op::LeakyRelu(_)
        | Op::Sigmoid(_)
        | Op::HardSigmoid(_)
        | Op::HardSwish(_)
        | Op::Tanh(_)
        | Op::Erf(_)
        | Op::Gelu(_)
        | Op::Elu(_)
        | Op::Selu(_)
        | Op::Celu(_)
        | Op::Softplus(_)
        | Op::Softsign(_)
        | Op::Mish(_)
        | Op::Swish(_)
        | Op::ThresholdedRelu(_)
        | Op::Shrink(_)
        | Op::Exp(_)
        | Op::Log(_)
        | Op::Sqrt(_)
        | Op::Reciprocal(_)
        | Op::Floor(_)
        | Op::Ceil(_)
        | Op::Round(_)
        | Op::Sin(_)
        | Op::Cos(_)
        | Op::Tan(_)
        | Op::Asin(_)
        | Op::Acos(_)
        | Op::Atan(_)
        | Op::Sinh(_)
        | Op::Cosh(_)
        | Op::Asinh(_)
        | Op::Acosh(_)
        | Op::Atanh(_) => elementwise::float_function(cx),
        Op::IsNaN(_) | Op::IsInf(_) => elementwise::test(cx),
        Op::PRelu(op) => activation::prelu(op, cx),
        Op::Clip(op) => activation::clip(op, cx),
        Op::Abs(op) => elementwise::abs(op, cx),
        Op::Neg(op) => elementwise::neg(op, cx),
        Op::Sign(op) => elementwise::sign(op, cx),
        Op::Not(op) => elementwise::not(op, cx),
        Op::Add(op) => binary::add(op, cx),
        Op::Sub(op) => binary::sub(op, cx),
        Op::Mul(op) => binary::mul(op, cx),
        Op::Div(op) => binary::div(op, cx),
        Op::Pow(op) => binary::pow(op, cx),
        Op::Mod(op) => binary::r#mod(op, cx),
        Op::Min(op) => binary::min(op, cx),
        Op::Max(op) => binary::max(op, cx),
        Op::Sum(op) => binary::sum(op, cx),
        Op::Mean(op) => binary::mean(op, cx),
        Op::And(op) => binary::and(op, cx),
        Op::Or(op) => binary::or(op, cx),
        Op::Xor(op) => binary::xor(op, cx),
        Op::Equal(op) => binary::equal(op, cx),
        Op::Less(op) => binary::less(op, cx),
        Op::Greater(op) => binary::greater(op, cx),
        Op::LessOrEqual(op) => binary::less_or_equal(op, cx),
        Op::GreaterOrEqual(op) => binary::greater_or_equal(op, cx),
        Op::Where(op) => binary::r#where(op, cx),
        Op::Softmax(Softmax { axis }) | Op::LogSoftmax(LogSoftmax { axis }) => {
            norm::softmax(*axis, cx)
        }
        Op::Lstm(op) => recurrent::recurrent(op.recurrent(), cx),
        Op::Gru(op) => recurrent::recurrent(op.recurrent(), cx),
        Op::Rnn(op) => recurrent::recurrent(op.recurrent(), cx),
        Op::ReduceSum(op) => reduce::reduce_sum(op, cx),
        Op::ReduceMean(op) => reduce::reduce_mean(op, cx),
        Op::ReduceMax(op) => reduce::reduce_max(op, cx),
        Op::ReduceMin(op) => reduce::reduce_min(op, cx),
        Op::ReduceProd(op) => reduce::reduce_prod(op, cx),
        Op::ReduceL1(op) => reduce::reduce_l1(op, cx),
        Op::ReduceL2(op) => reduce::reduce_l2(op, cx),
        Op::ReduceLogSum(op) => reduce::reduce_log_sum(op, cx),
        Op::ReduceLogSumExp(op) => reduce::reduce_log_sum_exp(op, cx),
        Op::ReduceSumSquare(op) => reduce::reduce_sum_square(op, cx),
        Op::ArgMax(ArgMax { axis, keepdims, .. }) | Op::ArgMin(ArgMin { axis, keepdims, .. }) => {
            reduce::position(cx, *axis, *keepdims)
        }
        Op::Reshape(op) => shape::reshape(op, cx),
        Op::Flatten(op) => shape::flatten(op, cx),
        Op::Squeeze(op) => shape::squeeze(op, cx),
        Op::Unsqueeze(op) => shape::unsqueeze(op, cx),
        Op::Transpose(op) => transpose::transpose(op, cx),
        Op::Dropout(op) => shape::dropout(op, cx),
        Op::Shape(op) => shape::shape(op, cx),
        Op::Size(op) => shape::size(op, cx),
        Op::Identity(_) | Op::Observe(_) => shape::identity(cx),
        Op::Cast(op) => convert::converted(cx, op.to),
        Op::CastLike(_) => convert::cast_like(cx),
        Op::Expand(op) => shape::expand(op, cx),
        Op::Tile(op) => shape::tile(op, cx),
        Op::DepthToSpace(op) => transpose::depth_to_space(op, cx),
        Op::NhwcDepthToSpace(op) => transpose::nhwc_depth_to_space(op, cx),
        Op::SpaceToDepth(op) => transpose::space_to_depth(op, cx),
        Op::Concat(op) => concat::concat(op, cx),
        Op::Split(op) => concat::split(op, cx),
        Op::Slice(op) => slice::slice(op, cx),
        Op::Gather(op) => gather::gather(op, cx),
        Op::GatherElements(op) => gather::gather_elements(op, cx),
        Op::GatherND(op) => gather::gather_nd(op, cx),
        Op::ScatterND(op) => gather::scatter_nd(op, cx),
        Op::ScatterElements(op) => gather::scatter_elements(op, cx),
        Op::Pad(op) => pad::pad(op, cx),
        Op::Range(op) => generate::range(op, cx),
        Op::ConstantOfShape(op) => generate::constant_of_shape(op, cx),
        Op::TopK(op) => select::top_k(op, cx),
        Op::NonZero(op) => select::non_zero(op, cx),
        Op::CumSum(op) => select::cum_sum(op, cx),
        Op::OneHot(op) => generate::one_hot(op, cx),
        Op::Trilu(op) => select::trilu(op, cx),
        Op::EyeLike(op) => generate::eye_like(op, cx),
        Op::Compress(op) => select::compress(op, cx),
        Op::ReverseSequence(op) => select::reverse_sequence(op, cx),
        Op::NonMaxSuppression(op) => detection::non_max_suppression(op, cx),
        Op::Resize(op) => resize::resize(op, cx),
        Op::QuantizeLinear(op) => quantize::quantize_linear(op, cx),
        Op::DequantizeLinear(op) => quantize::dequantize_linear(op, cx),
        Op::DynamicQuantizeLinear(op) => quantize::dynamic_quantize_linear(op, cx),
        Op::QLinearConv(op) => quantized::qlinear_conv(op, cx),
        Op::QLinearMatMul(op) => quantized::qlinear_mat_mul(op, cx),
        Op::ConvInteger(op) => quantized::conv_integer(op, cx),
        Op::MatMulInteger(op) => quantized::mat_mul_integer(op, cx),
        Op::If(op) => control::branches(op, cx),
        Op::Loop(op) => control::looped(op, cx),
        Op::Scan(op) => control::scan(op, cx),
        Op::FusedConv(op) => fused::fused_conv(op, cx),
        Op::FusedLinear(op) => fused::fused_linear(op, cx),
        Op::FusedBinary(op) => fused::fused_binary(op, cx),
        Op::FusedPool(op) => fused::fused_pool(op, cx),
        Op::FusedGlobalPool(op) => fused::fused_global_pool(op, cx),
        Op::FusedConcat(op) => fused::fused_concat(op, cx),
        Op::TableLookup(op) => fused::table_lookup(op, cx),
    }
}
