//! From the message of a file to the parts of a plan. [`crate::Plan::new`] then checks the parts further.

use std::sync::Arc;

use octofold_kernels::Isa;
use octofold_ops::{Attribute, AttributeMap, BodyId, Op};
use octofold_tensor::{DType, Dim, Tensor};

use super::generated as message;
use crate::plan::{
    Constant, ConstantIndex, Engine, Operand, Plan, PlanOutput, PlanParts, PlanValue, StateSlot,
    Step, UnknownKernel, ValueIndex,
};
use crate::values::tensor_of;
use crate::{Blob, PlanError, StepError};

pub(super) fn plan(plan: message::Plan, blob: Blob) -> Result<PlanParts, PlanError> {
    // The decoder has bounded how deep bodies are nested.
    let bodies = plan.bodies.into_iter();
    let bodies = bodies.map(|body| Ok(Arc::new(Plan::new(self::plan(body, blob.clone())?)?)));
    let bodies = bodies.collect::<Result<Vec<_>, PlanError>>()?;
    let unknown_engine =
        || PlanError::Format(format!("this program has no engine `{}`", plan.engine));
    let engine = Engine::from_name(&plan.engine).ok_or_else(unknown_engine)?;
    let requires = plan
        .requires
        .parse::<Isa>()
        .map_err(|error| PlanError::Format(error.to_string()))?;
    let steps = plan.steps.into_iter().enumerate().map(|(index, message)| {
        let name = message.name.clone();
        step(message).map_err(|source| PlanError::Step {
            index,
            name,
            source: Box::new(source),
        })
    });
    Ok(PlanParts {
        name: plan.name,
        engine,
        version: plan.version,
        requires,
        metadata: plan
            .metadata
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect(),
        inputs: plan.inputs.into_iter().map(ValueIndex).collect(),
        outputs: plan
            .outputs
            .into_iter()
            .map(|output| PlanOutput {
                name: output.name,
                value: operand(output.value.unwrap_or_default()),
            })
            .collect(),
        values: plan
            .values
            .into_iter()
            .map(value)
            .collect::<Result<_, _>>()?,
        constants: plan
            .constants
            .into_iter()
            .map(constant)
            .collect::<Result<_, _>>()?,
        steps: steps.collect::<Result<_, _>>()?,
        states: plan
            .states
            .into_iter()
            .map(|state| StateSlot {
                input: state.input as usize,
                output: state.output as usize,
                initial: state.initial.map(ConstantIndex),
            })
            .collect(),
        bodies,
        blob,
    })
}

fn operand(operand: message::Operand) -> Operand {
    match operand.kind {
        None => Operand::Absent,
        Some(message::OperandKind::Value(index)) => Operand::Value(ValueIndex(index)),
        Some(message::OperandKind::Constant(index)) => Operand::Constant(ConstantIndex(index)),
    }
}

fn dtype(code: i32) -> Result<DType, String> {
    DType::from_onnx(code).ok_or_else(|| format!("{code} is no element type"))
}

fn sizes(sizes: &[u64]) -> Result<Vec<usize>, String> {
    let size =
        |&size: &u64| usize::try_from(size).map_err(|_| format!("the size {size} is too large"));
    sizes.iter().map(size).collect()
}

fn value(value: message::Value) -> Result<PlanValue, PlanError> {
    let fail = |reason: String| PlanError::Format(format!("value `{}`: {reason}", value.name));
    let shape = value.shape.map(|shape| {
        shape
            .dims
            .into_iter()
            .map(dim)
            .collect::<Result<Vec<Dim>, _>>()
    });
    Ok(PlanValue {
        dtype: dtype(value.dtype).map_err(fail)?,
        shape: shape.transpose().map_err(fail)?,
        channels_last: value.channels_last,
        name: value.name,
    })
}

/// The expression without change. The constructors of [`Dim`] would simplify it, so that writing it again would give other bytes.
fn dim(message: message::Dim) -> Result<Dim, String> {
    use message::DimKind as Kind;
    let kind = Kind::from_number(message.kind);
    let kind = kind.ok_or_else(|| format!("no dimension is of the kind {}", message.kind))?;
    let operands: Vec<Dim> = message
        .operands
        .into_iter()
        .map(dim)
        .collect::<Result<_, _>>()?;
    let pair = <[Dim; 2]>::try_from(operands).map(|[a, b]| Box::new((a, b)));
    let expression = match (kind, pair) {
        (Kind::Known, _) => return Ok(Dim::Known(message.known)),
        (Kind::Symbol, _) => return Ok(Dim::symbol(&message.symbol)),
        (Kind::Add, Ok(pair)) => Dim::Add(pair),
        (Kind::Sub, Ok(pair)) => Dim::Sub(pair),
        (Kind::Mul, Ok(pair)) => Dim::Mul(pair),
        (Kind::FloorDiv, Ok(pair)) => Dim::FloorDiv(pair),
        (Kind::CeilDiv, Ok(pair)) => Dim::CeilDiv(pair),
        (Kind::Max, Ok(pair)) => Dim::Max(pair),
        (Kind::Min, Ok(pair)) => Dim::Min(pair),
        (_, Err(operands)) => return Err(format!("a dimension of {} operands", operands.len())),
    };
    Ok(expression)
}

fn constant(constant: message::Constant) -> Result<Constant, PlanError> {
    let fail = |reason: String| PlanError::Format(format!("a constant: {reason}"));
    let [offset, len] =
        [constant.offset, constant.len].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    Ok(Constant {
        dtype: dtype(constant.dtype).map_err(fail)?,
        shape: sizes(&constant.shape).map_err(fail)?,
        offset,
        len,
    })
}

fn step(step: message::Step) -> Result<Step, StepError> {
    let mut attributes = AttributeMap::default();
    for attribute in step.attributes {
        if attributes.contains(&attribute.name) {
            return Err(StepError::Invalid(format!(
                "the attribute `{}` is given twice",
                attribute.name
            )));
        }
        let value = attribute.value.ok_or_else(|| {
            StepError::Invalid(format!("the attribute `{}` has no value", attribute.name))
        })?;
        attributes.insert(attribute.name, attribute_value(value)?);
    }
    let kernel = step.kernel.parse();
    Ok(Step {
        op: Op::from_attributes(&step.domain, &step.op, attributes)?,
        kernel: kernel.map_err(|error: UnknownKernel| StepError::Invalid(error.to_string()))?,
        name: step.name,
        sources: step.sources,
        inputs: step.inputs.into_iter().map(operand).collect(),
        outputs: step.outputs.into_iter().map(ValueIndex).collect(),
        weights: sizes(&step.weights).map_err(StepError::Invalid)?,
        packed: step.packed.into_iter().map(ConstantIndex).collect(),
        note: step.note,
    })
}

fn attribute_value(value: message::AttributeValue) -> Result<Attribute, StepError> {
    use message::AttributeValue as Value;
    Ok(match value {
        Value::Int(value) => Attribute::Int(value),
        Value::Float(value) => Attribute::Float(value),
        Value::String(value) => Attribute::String(value),
        Value::Ints(values) => Attribute::Ints(values.values),
        Value::Floats(values) => Attribute::Floats(values.values),
        Value::Strings(values) => Attribute::Strings(values.values),
        Value::Tensor(tensor) => Attribute::Tensor(attribute_tensor(&tensor)?),
        Value::Body(body) => Attribute::Body(BodyId(body)),
    })
}

fn attribute_tensor(tensor: &message::Tensor) -> Result<Tensor, StepError> {
    let dtype = dtype(tensor.dtype).map_err(StepError::Invalid)?;
    let shape = sizes(&tensor.shape).map_err(StepError::Invalid)?;
    tensor_of(dtype, &shape, &tensor.data)
}
