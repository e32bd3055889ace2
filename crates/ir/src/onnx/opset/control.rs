//! `Scan` of opset 8, which has an axis of batches and lengths of sequences.
//!
//! It becomes a `Scan` over the batches, whose body is the `Scan` of a sequence.

use octofold_ops::families::Scan;
use octofold_ops::{Attribute, BodyId, Op, bail};

use super::{Lowering, OldNode};
use crate::onnx::error::NodeError;
use crate::{Graph, TensorType};

/// The parts of a `Scan` of opset 8.
struct Parts {
    body: BodyId,
    scanned: i64,
    directions: Vec<i64>,
    captures: i64,
}

fn parts(old: &OldNode) -> Result<Parts, NodeError> {
    if old.input(0).is_some() {
        bail!("lengths of sequences are not supported in this opset");
    }
    let mut attributes = old.attributes.clone();
    let missing = |name: &str| NodeError::attribute(name, "is missing");
    Ok(Parts {
        body: attributes.read("body")?.ok_or_else(|| missing("body"))?,
        scanned: attributes
            .read("num_scan_inputs")?
            .ok_or_else(|| missing("num_scan_inputs"))?,
        directions: attributes.read("directions")?.unwrap_or_default(),
        captures: attributes.read("captures")?.unwrap_or(0),
    })
}

impl Parts {
    /// The `Scan` of one sequence.
    fn step(&self, body: BodyId) -> Scan {
        Scan {
            body,
            num_scan_inputs: self.scanned,
            scan_input_axes: Vec::new(),
            scan_input_directions: self.directions.clone(),
            scan_output_axes: Vec::new(),
            scan_output_directions: Vec::new(),
            captures: self.captures,
        }
    }

    /// The types of the operands for one sequence.
    fn types(&self, types: &[Option<TensorType>]) -> Vec<Option<TensorType>> {
        let batched = types.len().saturating_sub(1);
        let batched = batched.saturating_sub(usize::try_from(self.captures).unwrap_or(usize::MAX));
        let types = types.iter().skip(1).enumerate();
        let each = types.map(|(index, ty)| {
            let mut ty = ty.clone()?;
            if let Some(dims) = ty.shape.as_mut().filter(|_| index < batched) {
                dims.drain(..dims.len().min(1));
            }
            Some(ty)
        });
        each.collect()
    }
}

/// The `Scan` of one sequence of the batch, and the types of its operands.
pub(in crate::onnx) fn step_of_scan_8(
    old: &OldNode,
    types: Vec<Option<TensorType>>,
) -> Result<(Op, Vec<Option<TensorType>>), NodeError> {
    let parts = parts(old)?;
    Ok((parts.step(parts.body).into(), parts.types(&types)))
}

/// Brings a `Scan` of opset 8 to the newest form.
pub(super) fn scan_8(cx: &mut Lowering<'_>, old: &mut OldNode) -> Result<(), NodeError> {
    let parts = parts(old)?;
    let types: Vec<Option<TensorType>> = old
        .inputs
        .iter()
        .map(|input| input.map(|id| cx.ty(id).clone()))
        .collect();
    let step = cx.graph.take_body(parts.body);
    let step = step.ok_or_else(|| NodeError::attribute("body", "is missing"))?;
    let mut batch = Graph::new(step.name());
    let mut operands = Vec::new();
    for (&input, ty) in step.inputs().iter().zip(parts.types(&types)) {
        let ty = ty.ok_or_else(|| NodeError::Form("an operand is missing".to_owned()))?;
        let name = step.value(input).name();
        operands.push(Some(batch.add_input(name, ty)?));
    }
    let outputs: Vec<String> = (0..old.outputs.len().max(1))
        .map(|slot| batch.fresh_value_name(&format!("{}.{slot}", cx.name)))
        .collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let body = batch.add_body(step);
    let op = parts.step(body);
    let node = batch.add_node(cx.name, op.into(), &operands, &outputs, cx.sources.clone())?;
    for (name, value) in outputs.iter().zip(batch.node(node).outputs().to_vec()) {
        batch.add_output(name, value)?;
    }
    let batched = operands.len() as i64 - parts.captures;
    old.inputs.remove(0);
    old.attributes.take("directions");
    let body = cx.graph.add_body(batch);
    old.attributes.insert("body", Attribute::Body(body));
    let scanned = Attribute::Int(batched);
    old.attributes.insert("num_scan_inputs", scanned);
    Ok(())
}
