//! From a [`Graph`] to a file.
//!
//! Nodes stand in [`Graph::order`], constants and value types in the order of their making, so that equal graphs give equal bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use octofold_ops::{Attribute, BodyId, Op};
use octofold_tensor::{Dim, Tensor, file};
use prost::Message;

use super::attribute::write_attribute;
use super::error::ExportError;
use super::names::Names;
use super::proto::tensor_proto::DataLocation;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use super::tensor::tensor_to_proto;
use crate::{Graph, NodeId, TensorType, ValueId};

/// The opset of the files that are written. It is the first one with 16- and 4-bit types and blocks in `QuantizeLinear`, and old
/// enough for every current runtime. It does not depend on what the graph needs, so that there is one form to test.
pub const OPSET: i64 = 21;

/// The version of the file format that is written, the one that came with [`OPSET`].
pub const IR_VERSION: i64 = 10;

/// Who writes the files.
pub(super) const PRODUCER: &str = "octofold";

/// The alignment of weights in a file of their own.
const ALIGNMENT: u64 = 4096;

/// The weights that are worth a place in a file of their own.
const LARGE: usize = 1024;

/// How a graph is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// Whether the inferred types of all values are written, not only those of inputs and outputs.
    pub value_info: bool,
    /// The largest file; a graph beyond it is refused, or has its weights in a second file. Protobuf ends at 2 GiB - 1.
    pub max_bytes: u64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            value_info: true,
            max_bytes: (1 << 31) - 1,
        }
    }
}

/// Writes a graph as the bytes of an ONNX file.
///
/// # Errors
/// When an operator has no ONNX form, or the file would be too large.
pub fn export(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>, ExportError> {
    let model = to_model(graph, options)?;
    graph.check_weights()?;
    let bytes = model.encoded_len() as u64;
    if bytes > options.max_bytes {
        return Err(ExportError::TooLarge {
            bytes,
            limit: options.max_bytes,
        });
    }
    Ok(model.encode_to_vec())
}

/// Writes a graph to a file, at once or not at all. When it is too large for one, its weights go to `PATH.data`.
///
/// # Errors
/// When an operator has no ONNX form, or a file cannot be written.
pub fn export_to_file(
    graph: &Graph,
    path: &Path,
    options: &ExportOptions,
) -> Result<(), ExportError> {
    let mut model = to_model(graph, options)?;
    graph.check_weights()?;
    if model.encoded_len() as u64 > options.max_bytes {
        let mut data = path.as_os_str().to_owned();
        data.push(".data");
        let data = PathBuf::from(data);
        write_whole(&data, |file| spill(&mut model, &data, file))?;
    }
    let bytes = model.encoded_len() as u64;
    if bytes > options.max_bytes {
        return Err(ExportError::TooLarge {
            bytes,
            limit: options.max_bytes,
        });
    }
    write_whole(path, |file| file.write_all(&model.encode_to_vec()))
}

/// Writes a file whole or not at all.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> Result<(), ExportError> {
    file::write_whole(path, write).map_err(|source| ExportError::Io {
        path: path.display().to_string(),
        source,
    })
}

/// Moves large weights to a file.
fn spill(model: &mut ModelProto, path: &Path, file: &mut std::fs::File) -> std::io::Result<()> {
    let location = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let initializers = model
        .graph
        .iter_mut()
        .flat_map(|graph| &mut graph.initializer);
    let mut offset = 0_u64;
    for tensor in initializers {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= LARGE) else {
            continue;
        };
        offset = offset.next_multiple_of(ALIGNMENT);
        file.seek(std::io::SeekFrom::Start(offset))?;
        file.write_all(&raw)?;
        let length = raw.len() as u64;
        tensor.data_location = Some(DataLocation::External.into());
        tensor.external_data = vec![
            entry("location", &location),
            entry("offset", &offset.to_string()),
            entry("length", &length.to_string()),
        ];
        offset += length;
    }
    Ok(())
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    }
}

/// A model as messages.
fn to_model(graph: &Graph, options: &ExportOptions) -> Result<ModelProto, ExportError> {
    let mut proto = Writer::new(graph, options).graph(graph.inputs())?;
    if graph.name().is_empty() {
        proto.name = Some("graph".to_owned());
    }
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some(PRODUCER.to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(proto),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        metadata_props: graph
            .metadata()
            .iter()
            .map(|(key, value)| entry(key, value))
            .collect(),
        ..ModelProto::default()
    })
}

struct Writer<'a> {
    graph: &'a Graph,
    options: &'a ExportOptions,
    /// Values that have another name in the file: outputs under the name that the caller knows, and captures under their names outside.
    renamed: HashMap<ValueId, String>,
    /// Outputs that need a copy of a value: its name is taken, or the value is no result.
    copies: Vec<(String, ValueId)>,
    value_names: Names,
    node_names: Names,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl<'a> Writer<'a> {
    fn new(graph: &'a Graph, options: &'a ExportOptions) -> Self {
        let (mut value_names, mut node_names) = (Names::default(), Names::default());
        let mut owners: BTreeMap<&str, ValueId> = BTreeMap::new();
        for id in graph.value_ids() {
            value_names.take(graph.value(id).name());
            owners.insert(graph.value(id).name(), id);
        }
        for id in graph.node_ids() {
            node_names.take(graph.node(id).name());
        }
        let mut renamed: HashMap<ValueId, String> = HashMap::new();
        let mut copies = Vec::new();
        // A value that is an output under its own name keeps it; the first other output may give it a name.
        let own: BTreeSet<ValueId> = graph
            .outputs()
            .iter()
            .filter(|output| owners.get(output.name.as_str()) == Some(&output.value))
            .map(|output| output.value)
            .collect();
        // The names of outputs come first: another value of such a name has to yield.
        for output in graph.outputs() {
            let owner = owners.get(output.name.as_str()).copied();
            if owner == Some(output.value) {
                continue;
            }
            if let Some(owner) = owner
                && !renamed.contains_key(&owner)
            {
                let name = value_names.fresh(&output.name);
                renamed.insert(owner, name);
            }
            value_names.take(&output.name);
            let result = graph.value(output.value).producer().is_some();
            if result && !own.contains(&output.value) && !renamed.contains_key(&output.value) {
                renamed.insert(output.value, output.name.clone());
            } else {
                copies.push((output.name.clone(), output.value));
            }
        }
        Self {
            graph,
            options,
            renamed,
            copies,
            value_names,
            node_names,
            nodes: Vec::new(),
            constants: Vec::new(),
        }
    }

    /// The graph as a message, with the inputs given: all of them, or those of a body that are no captures.
    fn graph(mut self, inputs: &[ValueId]) -> Result<GraphProto, ExportError> {
        let graph = self.graph;
        for id in graph.order()? {
            self.node(id)?;
        }
        for (output, value) in std::mem::take(&mut self.copies) {
            let input = self.value_name(value);
            let name = self.node_names.fresh(&format!("{output}/Identity"));
            self.push("Identity", &name, vec![input], vec![output], Vec::new());
        }
        let info = |name: &str, ty: &TensorType| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(type_proto_of(ty)),
            ..ValueInfoProto::default()
        };
        let mut proto = GraphProto {
            name: Some(graph.name().to_owned()),
            ..GraphProto::default()
        };
        for &id in inputs {
            let value = graph.value(id);
            proto.input.push(info(value.name(), value.ty()));
        }
        for output in graph.outputs() {
            let ty = graph.value(output.value).ty();
            proto.output.push(info(&output.name, ty));
        }
        let outputs: BTreeSet<&str> = graph
            .outputs()
            .iter()
            .map(|output| output.name.as_str())
            .collect();
        for id in graph.value_ids() {
            let value = graph.value(id);
            let name = self.value_name(id);
            if let Some(tensor) = value.constant() {
                if graph.is_output(id) || graph.is_used(id) {
                    proto.initializer.push(tensor_to_proto(&name, tensor));
                }
            } else if self.options.value_info
                && value.producer().is_some()
                && !outputs.contains(name.as_str())
                && value.ty().shape.is_some()
            {
                proto.value_info.push(info(&name, value.ty()));
            }
        }
        proto.initializer.append(&mut self.constants);
        proto.node = self.nodes;
        Ok(proto)
    }

    /// A body as a message, which reads its captures under their names here. All its names differ from those here, as ONNX asks for.
    fn body(&mut self, id: BodyId, captures: &[String]) -> Result<GraphProto, ExportError> {
        let missing = || ExportError::Body(id.0);
        let mut body = self.graph.body(id).ok_or_else(missing)?.clone();
        body.rename_all(
            |name| self.value_names.fresh(name),
            |name| self.node_names.fresh(name),
        );
        let own = body.inputs().len().checked_sub(captures.len());
        let inputs = body.inputs().to_vec();
        let (inputs, captured) = inputs.split_at(own.ok_or_else(missing)?);
        let mut writer = Writer::new(&body, self.options);
        writer.value_names.absorb(&self.value_names);
        writer.node_names.absorb(&self.node_names);
        let outer = captured.iter().copied().zip(captures.iter().cloned());
        writer.renamed.extend(outer);
        writer.graph(inputs)
    }

    fn value_name(&self, id: ValueId) -> String {
        self.renamed
            .get(&id)
            .cloned()
            .unwrap_or_else(|| self.graph.value(id).name().to_owned())
    }

    fn push(
        &mut self,
        op: &str,
        name: &str,
        inputs: Vec<String>,
        outputs: Vec<String>,
        attributes: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            input: inputs,
            output: outputs,
            name: Some(name.to_owned()),
            op_type: Some(op.to_owned()),
            attribute: attributes,
            ..NodeProto::default()
        });
    }

    fn node(&mut self, id: NodeId) -> Result<(), ExportError> {
        let node = self.graph.node(id);
        let op = node.op();
        if !op.domain().is_empty() {
            return Err(ExportError::Operator {
                node: node.name().to_owned(),
                op: format!("{}.{}", op.domain(), op.name()),
            });
        }
        let attributes = op.attributes();
        if let Some(attribute) = newer_attribute(op, &attributes) {
            return Err(ExportError::Attribute {
                node: node.name().to_owned(),
                op: op.name().to_owned(),
                attribute: attribute.to_owned(),
            });
        }
        let mut inputs: Vec<String> = node
            .inputs()
            .iter()
            .map(|input| input.map(|id| self.value_name(id)).unwrap_or_default())
            .collect();
        // What bodies read of the graph around them has names in ONNX, and no operands.
        let captures = inputs.split_off(inputs.len().saturating_sub(captures(op, inputs.len())));
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
        let outputs: Vec<String> = node
            .outputs()
            .iter()
            .map(|&output| self.value_name(output))
            .collect();
        if let Op::Swish(swish) = op {
            self.swish(id, swish.alpha, inputs, outputs);
            return Ok(());
        }
        let attributes = attributes.iter().filter(|(name, _)| name != "captures");
        let attributes: Result<Vec<_>, _> = attributes
            .map(|(name, value)| write_attribute(name, value, &mut |id| self.body(id, &captures)))
            .collect();
        self.push(op.name(), node.name(), inputs, outputs, attributes?);
        Ok(())
    }

    /// `Swish` came with opset 24; it is `x·sigmoid(alpha·x)`.
    fn swish(&mut self, id: NodeId, alpha: f32, inputs: Vec<String>, outputs: Vec<String>) {
        let node = self.graph.node(id);
        let mut scaled = inputs.clone();
        if alpha != 1.0 {
            let constant = self.value_names.fresh(&format!("{}.alpha", node.name()));
            let like = node.input(0).map(|x| self.graph.value(x).ty().dtype);
            self.constants
                .push(tensor_to_proto(&constant, &scalar_of(like, alpha)));
            let product = self.value_names.fresh(&format!("{}.Mul", node.name()));
            let name = self.node_names.fresh(&format!("{}/Scale", node.name()));
            scaled.push(constant);
            self.push("Mul", &name, scaled, vec![product.clone()], Vec::new());
            scaled = vec![product];
        }
        let sigmoid = self.value_names.fresh(&format!("{}.Sigmoid", node.name()));
        let name = self.node_names.fresh(&format!("{}/Sigmoid", node.name()));
        self.push("Sigmoid", &name, scaled, vec![sigmoid.clone()], Vec::new());
        let mut factors = inputs;
        factors.push(sigmoid);
        self.push("Mul", node.name(), factors, outputs, Vec::new());
    }
}

/// How many of the last operands of an operator are captures of its bodies.
fn captures(op: &Op, inputs: usize) -> usize {
    let captures = match op {
        Op::If(_) => return inputs.saturating_sub(1),
        Op::Loop(op) => op.captures,
        Op::Scan(op) => op.captures,
        _ => 0,
    };
    usize::try_from(captures).unwrap_or(0)
}

/// A number of a float type.
fn scalar_of(dtype: Option<octofold_tensor::DType>, value: f32) -> Tensor {
    use octofold_tensor::{DType, bf16, f16};
    match dtype {
        Some(DType::F64) => Tensor::scalar(f64::from(value)),
        Some(DType::F16) => Tensor::scalar(f16::from_f32(value)),
        Some(DType::BF16) => Tensor::scalar(bf16::from_f32(value)),
        _ => Tensor::scalar(value),
    }
}

/// An attribute with another value than its default that [`OPSET`] does not have.
pub(crate) fn newer_attribute<'a>(
    op: &Op,
    attributes: &'a [(String, Attribute)],
) -> Option<&'a str> {
    let newer: &[&str] = match op {
        Op::QuantizeLinear(_) => &["precision"],
        Op::DequantizeLinear(_) => &["output_dtype"],
        Op::Cast(_) | Op::CastLike(_) => &["round_mode"],
        Op::Range(_) => &["stash_type"],
        Op::SpaceToDepth(_) => &["mode"],
        _ => &[],
    };
    attributes
        .iter()
        .map(|(name, _)| name.as_str())
        .find(|name| newer.contains(name))
}

/// A type as a message. Quantization parameters are no part of ONNX's types.
fn type_proto_of(ty: &TensorType) -> TypeProto {
    let dimension = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Known(size) => dimension::Value::DimValue(*size),
            Dim::Symbol(name) => dimension::Value::DimParam(name.to_string()),
            expression => dimension::Value::DimParam(expression.to_string()),
        }),
        denotation: None,
    };
    TypeProto {
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(ty.dtype.onnx()),
            shape: ty.shape.as_ref().map(|dims| TensorShapeProto {
                dim: dims.iter().map(dimension).collect(),
            }),
        })),
        denotation: None,
    }
}
