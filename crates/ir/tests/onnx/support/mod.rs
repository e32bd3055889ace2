//! What the tests of ONNX files share: models from a few lines, and the comparison with a second decoder.
#![allow(dead_code, reason = "every test uses a part of it")]

use octofold_ir::Graph;
use octofold_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_shape_proto, type_proto,
};
use octofold_ir::onnx::{ExportOptions, ImportOptions, export, import_bytes, tensor_to_proto};
use octofold_tensor::{DType, Tensor};
use onnx_protobuf::Message as _;
use prost::Message as _;

mod second;

/// Exports a graph; the bytes mean the same to both decoders, and are the same when they are written again.
pub(crate) fn exported(graph: &Graph, options: &ExportOptions) -> Vec<u8> {
    let bytes = export(graph, options).expect("the graph can be written");
    let ours = ModelProto::decode(bytes.as_slice()).expect("prost reads what it wrote");
    let theirs =
        onnx_protobuf::ModelProto::parse_from_bytes(&bytes).expect("onnx-protobuf reads it");
    second::same_model(&ours, &theirs);
    assert_eq!(ours.encode_to_vec(), bytes);
    assert_eq!(
        export(graph, options).unwrap(),
        bytes,
        "the export is deterministic"
    );
    bytes
}

/// Everything of a graph that has a name, in order: enough to tell two graphs apart.
pub(crate) fn listing(graph: &Graph) -> Vec<String> {
    let name = |id| graph.value(id).name().to_owned();
    let mut lines = vec![format!("graph {}", graph.name())];
    lines.extend(
        graph
            .metadata()
            .iter()
            .map(|(key, value)| format!("{key} = {value}")),
    );
    lines.extend(
        graph
            .inputs()
            .iter()
            .map(|&id| format!("input {}: {}", name(id), graph.value(id).ty())),
    );
    for id in graph.order().unwrap() {
        let node = graph.node(id);
        let inputs: Vec<_> = node
            .inputs()
            .iter()
            .map(|input| input.map(name).unwrap_or_default())
            .collect();
        let outputs: Vec<_> = node
            .outputs()
            .iter()
            .map(|&id| format!("{}: {}", name(id), graph.value(id).ty()))
            .collect();
        lines.push(format!(
            "{} [{}] = {:?}({})",
            node.name(),
            outputs.join(", "),
            node.op(),
            inputs.join(", ")
        ));
    }
    let mut constants: Vec<_> = graph
        .value_ids()
        .filter(|&id| !graph.uses(id).is_empty() || graph.is_output(id))
        .filter_map(|id| {
            graph
                .value(id)
                .constant()
                .map(|tensor| format!("constant {} = {tensor:?}", name(id)))
        })
        .collect();
    constants.sort();
    lines.extend(constants);
    lines.extend(
        graph
            .outputs()
            .iter()
            .map(|output| format!("output {} = {}", output.name, name(output.value))),
    );
    lines
}

/// A node.
pub(crate) fn node(
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[AttributeProto],
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: outputs.iter().map(|name| (*name).to_owned()).collect(),
        op_type: Some(op.to_owned()),
        attribute: attributes.to_vec(),
        ..NodeProto::default()
    }
}

fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(ty.into()),
        ..AttributeProto::default()
    }
}

/// An attribute with a number.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..attribute(name, AttributeType::Int)
    }
}

/// An attribute with a float.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        f: Some(value),
        ..attribute(name, AttributeType::Float)
    }
}

/// An attribute with numbers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..attribute(name, AttributeType::Ints)
    }
}

/// An attribute with floats.
pub(crate) fn floats(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto {
        floats: values.to_vec(),
        ..attribute(name, AttributeType::Floats)
    }
}

/// An attribute with a word.
pub(crate) fn word(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        s: Some(value.as_bytes().to_vec()),
        ..attribute(name, AttributeType::String)
    }
}

/// An attribute with a tensor.
pub(crate) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(Box::new(value)),
        ..attribute(name, AttributeType::Tensor)
    }
}

/// An attribute of a function's node with the value of the function's attribute.
pub(crate) fn reference(name: &str, refers: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto {
        ref_attr_name: Some(refers.to_owned()),
        ..attribute(name, ty)
    }
}

/// A value with its type; a negative dimension is the symbol `N`.
pub(crate) fn value(name: &str, dtype: DType, shape: &[i64]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = shape.iter().map(|&size| Dimension {
        value: Some(if size < 0 {
            Value::DimParam("N".to_owned())
        } else {
            Value::DimValue(size)
        }),
        denotation: None,
    });
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(dtype.onnx()),
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            })),
            denotation: None,
        }),
        ..ValueInfoProto::default()
    }
}

/// A model: opset, inputs, initializers, nodes, names of float outputs.
pub(crate) fn model(
    opset: i64,
    inputs: &[ValueInfoProto],
    constants: &[(&str, Tensor)],
    nodes: &[NodeProto],
    outputs: &[&str],
) -> ModelProto {
    let outputs = outputs.iter().map(|name| ValueInfoProto {
        name: Some((*name).to_owned()),
        ..ValueInfoProto::default()
    });
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import_of("", opset)],
        graph: Some(GraphProto {
            name: Some("test".to_owned()),
            input: inputs.to_vec(),
            initializer: constants
                .iter()
                .map(|(name, tensor)| tensor_to_proto(name, tensor))
                .collect(),
            node: nodes.to_vec(),
            output: outputs.collect(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// The import of an opset.
pub(crate) fn import_of(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    }
}

/// A function of the domain `f`.
pub(crate) fn function(
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    nodes: &[NodeProto],
) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("f".to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: outputs.iter().map(|name| (*name).to_owned()).collect(),
        node: nodes.to_vec(),
        opset_import: vec![import_of("", 17), import_of("f", 1)],
        ..FunctionProto::default()
    }
}

/// A call of a function of the domain `f`.
pub(crate) fn call(mut node: NodeProto) -> NodeProto {
    node.domain = Some("f".to_owned());
    node
}

/// Imports a model that must be sound.
pub(crate) fn graph(model: &ModelProto) -> Graph {
    match import_bytes(model.encode_to_vec(), None, &ImportOptions::default()) {
        Ok(graph) => {
            octofold_ir::verify(&graph).unwrap();
            graph
        }
        Err(error) => panic!("{error}"),
    }
}

/// Imports a model that must be refused; gives what the error says.
pub(crate) fn refusal(model: &ModelProto) -> String {
    match import_bytes(model.encode_to_vec(), None, &ImportOptions::default()) {
        Ok(graph) => panic!("accepted: {:#?}", listing(&graph)),
        Err(error) => error.to_string(),
    }
}

/// The operators of a graph in order.
pub(crate) fn operators(graph: &Graph) -> Vec<&'static str> {
    graph
        .order()
        .unwrap()
        .into_iter()
        .map(|id| graph.node(id).op().name())
        .collect()
}

/// Writes an exported model to the folder that `OCTOFOLD_EXPORTS` names, so that other tools can be run on it.
pub(crate) fn keep(name: &str, bytes: &[u8]) {
    if let Some(folder) = std::env::var_os("OCTOFOLD_EXPORTS") {
        std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
    }
}
