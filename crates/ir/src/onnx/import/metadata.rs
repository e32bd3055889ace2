//! What a file says about the model: its producer and version, and the modules of the program that nodes come from.

use crate::Graph;
use crate::onnx::export::PRODUCER;
use crate::onnx::proto::{GraphProto, ModelProto, StringStringEntryProto};

/// The keys of [`Graph::metadata`] under which the fields of the model itself are kept.
const FIELDS: [&str; 4] = [
    "octofold.producer",
    "octofold.domain",
    "octofold.model_version",
    "octofold.doc_string",
];

/// The module path that torch's exporters leave in a node's metadata: the list of scopes, `['', 'layer1', 'layer1.0', 'conv2d']`, whose last
/// entry is the operation, or the same as a path, `: Net/layer1: Sequential/layer1.0: Block/conv2d: aten.conv2d.default`.
pub(super) fn exporter_module(entries: &[StringStringEntryProto]) -> Option<String> {
    let entry = |key: &str| {
        let entry = entries.iter().find(|entry| entry.key() == key);
        entry.map(StringStringEntryProto::value)
    };
    let (scopes, separator) = match entry("pkg.torch.onnx.name_scopes") {
        Some(scopes) => (scopes.trim_matches(['[', ']']), ','),
        None => (entry("namespace")?, '/'),
    };
    let names = scopes.split(separator).map(|scope| {
        let name = scope.split(':').next().unwrap_or_default();
        name.trim().trim_matches(['\'', '"'])
    });
    let names: Vec<&str> = names.collect();
    let (_operation, modules) = names.split_last()?;
    let module = modules.iter().rev().find(|name| !name.is_empty())?;
    Some((*module).to_owned())
}

/// Keeps what the file says about the model. The file's own entries win, so that an exported model keeps its origin.
pub(super) fn add(graph: &mut Graph, model: &ModelProto, proto: &GraphProto) {
    let metadata = graph.metadata_mut();
    for entry in model.metadata_props.iter().chain(&proto.metadata_props) {
        metadata.insert(entry.key().to_owned(), entry.value().to_owned());
    }
    // That we wrote a file ourselves says nothing about where the model is from.
    let producer = match model.producer_name() {
        PRODUCER => String::new(),
        name => [name, model.producer_version()].join(" "),
    };
    let version = model
        .model_version
        .filter(|&version| version != 0)
        .map(|version| version.to_string())
        .unwrap_or_default();
    let texts = [
        producer.trim().to_owned(),
        model.domain().to_owned(),
        version,
        model.doc_string().to_owned(),
    ];
    for (key, text) in FIELDS.into_iter().zip(texts) {
        if !text.is_empty() && !metadata.contains_key(key) {
            metadata.insert(key.to_owned(), text);
        }
    }
}
