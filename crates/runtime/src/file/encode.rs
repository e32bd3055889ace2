//! From a plan to the message of its file.

use octofold_ops::Attribute;
use octofold_tensor::Dim;

use super::generated as message;
use crate::PlanError;
use crate::plan::{Operand, PlanParts, Step};
use crate::values::constant_bytes;

/// The largest nesting of dimensions. Each level is a message, and prost reads at most a hundred levels.
const DEPTH: usize = 80;

pub(super) fn plan(parts: &PlanParts) -> Result<message::Plan, PlanError> {
    Ok(message::Plan {
        name: parts.name.clone(),
        engine: parts.engine.name().to_owned(),
        version: parts.version.clone(),
        requires: parts.requires.name().to_owned(),
        metadata: parts
            .metadata
            .iter()
            .map(|(key, value)| message::Entry {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        inputs: parts.inputs.iter().map(|input| input.0).collect(),
        outputs: parts
            .outputs
            .iter()
            .map(|output| message::Output {
                name: output.name.clone(),
                value: Some(operand(output.value)),
            })
            .collect(),
        values: parts.values.iter().map(value).collect::<Result<_, _>>()?,
        constants: parts
            .constants
            .iter()
            .map(|constant| message::Constant {
                dtype: constant.dtype.onnx(),
                shape: sizes(&constant.shape),
                offset: constant.offset as u64,
                len: constant.len as u64,
            })
            .collect(),
        steps: parts.steps.iter().map(step).collect(),
        states: parts
            .states
            .iter()
            .map(|state| message::State {
                input: state.input as u32,
                output: state.output as u32,
                initial: state.initial.map(|constant| constant.0),
            })
            .collect(),
        bodies: parts
            .bodies
            .iter()
            .map(|body| plan(body.parts()))
            .collect::<Result<_, _>>()?,
    })
}

fn sizes(sizes: &[usize]) -> Vec<u64> {
    sizes.iter().map(|&size| size as u64).collect()
}

fn operand(operand: Operand) -> message::Operand {
    let kind = match operand {
        Operand::Absent => None,
        Operand::Value(index) => Some(message::OperandKind::Value(index.0)),
        Operand::Constant(index) => Some(message::OperandKind::Constant(index.0)),
    };
    message::Operand { kind }
}

fn value(value: &crate::PlanValue) -> Result<message::Value, PlanError> {
    let too_deep = || {
        PlanError::Inconsistent(format!(
            "a dimension of `{}` is nested too deep",
            value.name
        ))
    };
    let shape = value.shape.as_ref().map(|dims| {
        let dims = dims
            .iter()
            .map(|dim| encode_dim(dim, DEPTH).ok_or_else(too_deep));
        Ok::<_, PlanError>(message::Shape {
            dims: dims.collect::<Result<_, _>>()?,
        })
    });
    Ok(message::Value {
        name: value.name.clone(),
        dtype: value.dtype.onnx(),
        shape: shape.transpose()?,
        channels_last: value.channels_last,
    })
}

fn encode_dim(dim: &Dim, depth: usize) -> Option<message::Dim> {
    use message::DimKind as Kind;
    let (kind, pair) = match dim {
        Dim::Known(known) => {
            return Some(message::Dim {
                kind: Kind::Known as i32,
                known: *known,
                ..Default::default()
            });
        }
        Dim::Symbol(name) => {
            return Some(message::Dim {
                kind: Kind::Symbol as i32,
                symbol: name.to_string(),
                ..Default::default()
            });
        }
        Dim::Add(pair) => (Kind::Add, pair),
        Dim::Sub(pair) => (Kind::Sub, pair),
        Dim::Mul(pair) => (Kind::Mul, pair),
        Dim::FloorDiv(pair) => (Kind::FloorDiv, pair),
        Dim::CeilDiv(pair) => (Kind::CeilDiv, pair),
        Dim::Max(pair) => (Kind::Max, pair),
        Dim::Min(pair) => (Kind::Min, pair),
    };
    let depth = depth.checked_sub(1)?;
    let operands = vec![encode_dim(&pair.0, depth)?, encode_dim(&pair.1, depth)?];
    Some(message::Dim {
        kind: kind as i32,
        operands,
        ..Default::default()
    })
}

fn step(step: &Step) -> message::Step {
    message::Step {
        name: step.name.clone(),
        sources: step.sources.clone(),
        domain: step.op.domain().to_owned(),
        op: step.op.name().to_owned(),
        attributes: step
            .op
            .attributes()
            .iter()
            .map(|(name, value)| attribute(name, value))
            .collect(),
        kernel: step.kernel.to_string(),
        inputs: step.inputs.iter().map(|&input| operand(input)).collect(),
        outputs: step.outputs.iter().map(|output| output.0).collect(),
        weights: sizes(&step.weights),
        packed: step.packed.iter().map(|constant| constant.0).collect(),
        note: step.note.clone(),
    }
}

fn attribute(name: &str, value: &Attribute) -> message::Attribute {
    use message::AttributeValue as Value;
    let value = match value {
        Attribute::Int(value) => Value::Int(*value),
        Attribute::Float(value) => Value::Float(*value),
        Attribute::String(value) => Value::String(value.clone()),
        Attribute::Tensor(tensor) => Value::Tensor(message::Tensor {
            dtype: tensor.dtype().onnx(),
            shape: sizes(tensor.shape()),
            data: constant_bytes(tensor),
        }),
        Attribute::Ints(values) => Value::Ints(message::Ints {
            values: values.clone(),
        }),
        Attribute::Floats(values) => Value::Floats(message::Floats {
            values: values.clone(),
        }),
        Attribute::Strings(values) => Value::Strings(message::Strings {
            values: values.clone(),
        }),
        Attribute::Body(body) => Value::Body(body.0),
    };
    message::Attribute {
        name: name.to_owned(),
        value: Some(value),
    }
}
