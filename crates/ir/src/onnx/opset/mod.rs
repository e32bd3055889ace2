//! From the form that an operator has in the opset of a file to the newest one.
//!
//! An operator changes in three ways: attributes become inputs (`axes`, `pads`, `split`, `min`, `max`, `k`, …), defaults change their meaning
//! (`Softmax` before opset 13 flattens its input, `Add` before 7 broadcasts along an attribute), and names change (`Upsample` became
//! `Resize`). [`lower`] has one line for each operator that changed, with the opset before which it did; every other one
//! is read as it stands. What a form cannot say in the newest one is an error, never a guess.

mod arithmetic;
pub(super) mod control;
mod coverage;
mod dynamic;
mod encoder;
mod microsoft;
mod qoperator;
mod quantized;
mod recurrent;
mod shape;
mod window;

pub use coverage::{ReadableOperator, readable_operators};

use octofold_ops::{Attribute, AttributeMap, Op, OpError, bail, bail_attribute};
use octofold_tensor::{DType, Tensor};

use super::error::NodeError;
use super::names::Names;
use crate::{Graph, TensorType, ValueId};

/// A node of the file, with its operands looked up.
#[derive(Debug)]
pub(super) struct OldNode {
    /// The domain; empty for ONNX's own.
    pub(super) domain: String,
    /// The operator.
    pub(super) op: String,
    /// The version of the domain's opset.
    pub(super) version: i64,
    /// The operands; absent ones at the end are cut off.
    pub(super) inputs: Vec<Option<ValueId>>,
    /// The names of the results; those nobody wants are empty, and cut off at the end.
    pub(super) outputs: Vec<String>,
    /// The attributes.
    pub(super) attributes: AttributeMap,
}

impl OldNode {
    /// The operand at a position.
    fn input(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    /// The operand at a position, which has to be there.
    fn required(&self, slot: usize) -> Result<ValueId, NodeError> {
        self.input(slot).ok_or(NodeError::MissingInput(slot))
    }

    /// Sets an operand beyond those that are there.
    fn set_input(&mut self, slot: usize, value: ValueId) {
        if self.inputs.len() <= slot {
            self.inputs.resize(slot + 1, None);
        }
        if let Some(place) = self.inputs.get_mut(slot) {
            *place = Some(value);
        }
    }

    /// Sets an attribute that the file does not give.
    fn set_default(&mut self, name: &str, value: Attribute) {
        if !self.attributes.contains(name) {
            self.attributes.insert(name, value);
        }
    }

    /// Takes an attribute that the newest form does not have and that must have one of a few values.
    fn drop_attribute(&mut self, name: &str, allowed: &[i64]) -> Result<(), NodeError> {
        match self.attributes.read::<i64>(name)? {
            Some(value) if !allowed.contains(&value) => {
                bail_attribute!(name, "the value {value} is not supported in this opset")
            }
            _ => Ok(()),
        }
    }

    /// Refuses attributes that were not read.
    fn refuse_attributes(&self) -> Result<(), NodeError> {
        match self.attributes.names().next() {
            None => Ok(()),
            Some(unknown) => Err(OpError::UnknownAttribute(unknown.to_owned()).into()),
        }
    }

    /// Refuses operands that the operator does not have.
    pub(super) fn expect_inputs(&self, most: usize) -> Result<(), NodeError> {
        if self.inputs.len() > most {
            bail!("has {} inputs, expected at most {most}", self.inputs.len());
        }
        Ok(())
    }

    /// The only result.
    fn single_output(&self) -> Result<&str, NodeError> {
        match self.outputs.as_slice() {
            [only] => Ok(only),
            other => bail!("has {} outputs, expected 1", other.len()),
        }
    }
}

/// Where the nodes that a node of the file becomes are put.
#[derive(Debug)]
pub(super) struct Lowering<'a> {
    graph: &'a mut Graph,
    value_names: &'a mut Names,
    node_names: &'a mut Names,
    /// The name of the node of the file; its main node takes it.
    name: &'a str,
    /// What the nodes stand for.
    sources: Vec<String>,
    /// Whether operators of our own domain are read.
    own_operators: bool,
    results: Vec<(String, ValueId)>,
}

impl<'a> Lowering<'a> {
    /// A place for the nodes of the node `name`.
    pub(super) fn new(
        graph: &'a mut Graph,
        value_names: &'a mut Names,
        node_names: &'a mut Names,
        name: &'a str,
    ) -> Self {
        Self {
            graph,
            value_names,
            node_names,
            name,
            sources: vec![name.to_owned()],
            own_operators: false,
            results: Vec::new(),
        }
    }

    /// Sets what the nodes stand for, where that is not the node of the file itself.
    pub(super) fn set_sources(&mut self, sources: Vec<String>) {
        self.sources = sources;
    }

    /// Lets operators of our own domain in. Files have none; the text form does.
    pub(super) fn allow_own_operators(&mut self) {
        self.own_operators = true;
    }

    /// The values that were made for names of the file.
    pub(super) fn into_results(self) -> Vec<(String, ValueId)> {
        self.results
    }

    fn ty(&self, value: ValueId) -> &TensorType {
        self.graph.value(value).ty()
    }

    fn rank(&self, value: ValueId) -> Option<usize> {
        self.ty(value).rank()
    }

    /// The rank of a value, where the newest form cannot be written without.
    fn known_rank(&self, value: ValueId) -> Result<usize, NodeError> {
        self.rank(value).ok_or_else(|| {
            NodeError::Form(format!(
                "the rank of `{}` has to be known for this opset",
                self.graph.value(value).name()
            ))
        })
    }

    fn constant_of(&self, value: ValueId) -> Option<&Tensor> {
        self.graph.value(value).constant()
    }

    /// A constant that the file does not have; `what` says what it means.
    fn constant(&mut self, what: &str, tensor: Tensor) -> Result<ValueId, NodeError> {
        let name = self.value_names.fresh(&format!("{}.{what}", self.name));
        Ok(self.graph.add_constant(&name, tensor)?)
    }

    /// A constant list of integers.
    fn ints(&mut self, what: &str, values: Vec<i64>) -> Result<ValueId, NodeError> {
        self.constant(what, Tensor::vector(values))
    }

    /// A constant number of the element type of another value.
    fn number_like(&mut self, what: &str, value: f32, like: ValueId) -> Result<ValueId, NodeError> {
        let tensor = match self.ty(like).dtype {
            DType::F32 => Tensor::scalar(value),
            DType::F64 => Tensor::scalar(f64::from(value)),
            DType::F16 => Tensor::scalar(octofold_tensor::f16::from_f32(value)),
            DType::BF16 => Tensor::scalar(octofold_tensor::bf16::from_f32(value)),
            other => {
                bail_attribute!(
                    what,
                    "is not supported for elements of type {other} in this opset"
                );
            }
        };
        self.constant(what, tensor)
    }

    /// A constant under a name of the file.
    fn named_constant(&mut self, name: &str, tensor: Tensor) -> Result<(), NodeError> {
        let id = self.graph.add_constant(name, tensor)?;
        self.results.push((name.to_owned(), id));
        Ok(())
    }

    /// A node that the file does not have, with one result.
    fn helper(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attributes: &[(&str, Attribute)],
    ) -> Result<ValueId, NodeError> {
        self.helper_of(op, inputs, attribute_map(attributes))
    }

    /// As [`helper`](Self::helper), with all attributes of a node of the file.
    fn helper_of(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attributes: AttributeMap,
    ) -> Result<ValueId, NodeError> {
        let op = Op::from_attributes("", op, attributes)?;
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.helper_node(op, &inputs, 1)?[0])
    }

    /// As [`helper`](Self::helper), with operands that may be absent and several results.
    fn helper_results(
        &mut self,
        op: &str,
        inputs: &[Option<ValueId>],
        attributes: &[(&str, Attribute)],
        results: usize,
    ) -> Result<Vec<ValueId>, NodeError> {
        self.helper_node(make(op, attributes)?, inputs, results)
    }

    fn helper_node(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        results: usize,
    ) -> Result<Vec<ValueId>, NodeError> {
        let suffix = op.name();
        let node = self.node_names.fresh(&format!("{}/{suffix}", self.name));
        let names: Vec<String> = (0..results)
            .map(|_| self.value_names.fresh(&format!("{}.{suffix}", self.name)))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let id = self
            .graph
            .add_node(&node, op, inputs, &names, self.sources.clone())?;
        Ok(self.graph.node(id).outputs().to_vec())
    }

    /// The node that gives the results of the file: it has the name of the file's node.
    fn finish(&mut self, old: OldNode) -> Result<(), NodeError> {
        let op = Op::from_attributes("", &old.op, old.attributes)?;
        self.last(op, &old.inputs, &old.outputs)
    }

    /// As [`finish`](Self::finish), by an operator with operands that are all there.
    fn finish_as(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attributes: &[(&str, Attribute)],
        outputs: &[String],
    ) -> Result<(), NodeError> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.last(make(op, attributes)?, &inputs, outputs)
    }

    fn last(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        outputs: &[String],
    ) -> Result<(), NodeError> {
        // The operands that every form of the operator has must not be left out.
        let arity = op.arity().inputs;
        let required = match op {
            // The number of trips and the condition of a loop may be left out.
            Op::Loop(_) => 0,
            _ if *arity.end() == usize::MAX => inputs.len().max(*arity.start()),
            _ => *arity.start(),
        };
        if let Some(slot) =
            (0..required).find(|&slot| inputs.get(slot).copied().flatten().is_none())
        {
            return Err(NodeError::MissingInput(slot));
        }
        // Results that the operator always gives have a name even where the file wants none.
        let wanted = outputs.len().max(*op.arity().outputs.start());
        let mut names = Vec::with_capacity(wanted);
        for slot in 0..wanted {
            names.push(match outputs.get(slot).map_or("", String::as_str) {
                "" => self.value_names.fresh(&format!("{}.{slot}", self.name)),
                name => name.to_owned(),
            });
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let id = self
            .graph
            .add_node(self.name, op, inputs, &names, self.sources.clone())?;
        for (output, &value) in outputs.iter().zip(self.graph.node(id).outputs()) {
            if !output.is_empty() {
                self.results.push((output.clone(), value));
            }
        }
        Ok(())
    }
}

/// An operator of ONNX, in its newest form.
fn make(op: &str, attributes: &[(&str, Attribute)]) -> Result<Op, NodeError> {
    Ok(Op::from_attributes("", op, attribute_map(attributes))?)
}

fn attribute_map(attributes: &[(&str, Attribute)]) -> AttributeMap {
    attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

/// The first opset that has an operator, where that is after the oldest that is read.
fn since(op: &str) -> i64 {
    match op {
        "Sin" | "Cos" | "Tan" | "Asin" | "Acos" | "Atan" => 7,
        "Expand" | "Scan" => 8,
        "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Shrink" | "Erf" | "Sign" | "IsNaN"
        | "Where" | "ConstantOfShape" | "NonZero" | "OneHot" | "EyeLike" | "Compress"
        | "Scatter" => 9,
        "ThresholdedRelu" | "IsInf" | "Mod" | "Resize" | "ReverseSequence"
        | "NonMaxSuppression" | "QuantizeLinear" | "DequantizeLinear" | "QLinearConv"
        | "QLinearMatMul" | "ConvInteger" | "MatMulInteger" => 10,
        "Round"
        | "GatherElements"
        | "GatherND"
        | "ScatterND"
        | "ScatterElements"
        | "Range"
        | "CumSum"
        | "DynamicQuantizeLinear" => 11,
        "Celu" | "LessOrEqual" | "GreaterOrEqual" => 12,
        "HardSwish" | "Trilu" => 14,
        "CastLike" => 15,
        // Opset 17 has it; ONNX Runtime's optimizer writes it into files of any.
        "LayerNormalization" => 0,
        "Mish" => 18,
        "Gelu" => 20,
        "Swish" => 24,
        _ => 0,
    }
}

/// Adds a node of the file to the graph, in the newest form.
pub(super) fn lower(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    match old.domain.as_str() {
        "" => {}
        "com.microsoft" => return microsoft::lower(cx, old),
        "octofold" if cx.own_operators => {
            let op = Op::from_attributes("octofold", &old.op, old.attributes)?;
            return cx.last(op, &old.inputs, &old.outputs);
        }
        _ => return Err(NodeError::Operator),
    }
    let version = old.version;
    if version < since(&old.op) {
        return Err(NodeError::TooNew(since(&old.op)));
    }
    match old.op.as_str() {
        "Constant" => return constant(cx, old),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "And" | "Or" | "Xor" | "Equal" | "Less"
        | "Greater"
            if version < 7 =>
        {
            arithmetic::broadcast(cx, &mut old)?;
        }
        "Gemm" if version < 7 => old.drop_attribute("broadcast", &[0, 1])?,
        "PRelu" if version < 7 => arithmetic::prelu(cx, &mut old)?,
        "Softmax" | "LogSoftmax" | "Hardmax" if version < 13 => {
            return arithmetic::softmax(cx, old);
        }
        "Clip" if version < 11 => arithmetic::clip(cx, &mut old)?,
        "BatchNormalization" if version < 14 => arithmetic::batch_normalization(cx, &mut old)?,
        "Dropout" => return arithmetic::dropout(cx, old),
        "Cast" => arithmetic::cast(&mut old)?,
        "Scan" if version < 9 => control::scan_8(cx, &mut old)?,

        "ReduceSum" if version < 13 => shape::axes_to_input(cx, &mut old)?,
        "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare"
            if version < 18 =>
        {
            shape::axes_to_input(cx, &mut old)?;
        }
        "Squeeze" | "Unsqueeze" if version < 13 => shape::axes_to_input(cx, &mut old)?,
        "Split" if version < 18 => shape::split(cx, &mut old)?,
        "Slice" if version < 10 => shape::slice(cx, &mut old)?,
        "Pad" if version < 11 => shape::pad(cx, &mut old)?,
        "TopK" if version < 10 => shape::top_k(cx, &mut old)?,
        "Scatter" => old.op = "ScatterElements".to_owned(),

        "Upsample" => window::upsample(cx, &mut old)?,
        "Resize" if version < 11 => window::resize_10(&mut old)?,

        "QuantizeLinear" | "DequantizeLinear" | "QLinearConv" | "QLinearMatMul" => {
            quantized::check(cx, &old)?
        }
        "LSTM" | "GRU" | "RNN" if version < 14 => recurrent::layer(&old)?,
        _ => {}
    }
    cx.finish(old)
}

/// A `Constant` node becomes a constant of the graph.
fn constant(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    const KINDS: [&str; 8] = [
        "value",
        "sparse_value",
        "value_float",
        "value_floats",
        "value_int",
        "value_ints",
        "value_string",
        "value_strings",
    ];
    if !old.inputs.is_empty() {
        bail!("has inputs, expected none");
    }
    let mut values = KINDS.iter().filter_map(|kind| old.attributes.take(kind));
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => bail_attribute!("value", "is missing"),
        (Some(_), Some(_)) => {
            bail_attribute!("value", "is given in several attributes");
        }
    };
    old.refuse_attributes()?;
    let tensor = match value {
        Attribute::Tensor(tensor) => tensor,
        Attribute::Float(value) => Tensor::scalar(value),
        Attribute::Floats(values) => Tensor::vector(values),
        Attribute::Int(value) => Tensor::scalar(value),
        Attribute::Ints(values) => Tensor::vector(values),
        Attribute::String(value) => Tensor::scalar(value),
        Attribute::Strings(values) => Tensor::vector(values),
        Attribute::Body(_) => bail_attribute!("value", "is a graph"),
    };
    let output = old.single_output()?.to_owned();
    cx.named_constant(&output, tensor)
}
