//! From a file to a [`Graph`].

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use octofold_quant::QuantParams;
use octofold_tensor::{DType, Dim};

use super::attribute::read_attributes;
use super::budget::Budget;
use super::error::{ImportError, ImportErrorKind, NodeError};
use super::export::PRODUCER;
use super::external_data::ExternalData;
use super::functions::{FlatNode, Opsets, domain_name, inline, qualified};
use super::names::Names;
use super::opset::{self, Lowering, OldNode};
use super::order::order;
use super::proto::tensor_shape_proto::dimension;
use super::proto::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto, type_proto,
};
use super::scan::{ScanError, decode};
use super::tensor::{element_type, read_sparse, read_tensor};
use crate::{Graph, TensorType, ValueId};

/// The versions of the file format that are read.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// The keys of [`Graph::metadata`] under which the fields of the model itself are kept.
const FIELDS: [&str; 4] = [
    "octofold.producer",
    "octofold.domain",
    "octofold.model_version",
    "octofold.doc_string",
];

/// How a model is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// How much the file may ask for.
    pub budget: Budget,
}

/// Reads a model from a file. Weights in other files are looked for beside it.
///
/// # Errors
/// When the file cannot be read, is malformed, exceeds the budget, or needs what Octofold does not have.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let model = path.display().to_string();
    let read = || -> Result<Graph, ImportErrorKind> {
        let metadata = std::fs::metadata(path).map_err(ImportErrorKind::Io)?;
        if !metadata.is_file() {
            return Err(ImportErrorKind::NoFile);
        }
        // The size is looked at before the file is.
        if metadata.len() > options.budget.file_bytes {
            return Err(ImportErrorKind::Scan(ScanError::Budget {
                name: "file-bytes",
                what: "bytes",
                limit: options.budget.file_bytes,
            }));
        }
        let bytes = std::fs::read(path).map_err(ImportErrorKind::Io)?;
        // The folder of `model.onnx` is the empty path.
        import_model(bytes.into(), path.parent(), options)
    };
    read().map_err(|kind| ImportError { model, kind })
}

/// Reads a model from bytes. Weights in other files are looked for in `base`, and refused without it.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(
    bytes: impl Into<Bytes>,
    base: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    import_model(bytes.into(), base, options).map_err(|kind| ImportError {
        model: "model".to_owned(),
        kind,
    })
}

fn import_model(
    bytes: Bytes,
    base: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, ImportErrorKind> {
    let model = decode(bytes, &options.budget)?;
    import_decoded(model, ExternalData::new(base), options, None)
}

/// What the text form says beyond ONNX. With it, operators of our own domain are read as well, a node's sources stand in its
/// `metadata_props` under [`SOURCES`], and the name of an output for the caller in those of the output under [`OUTPUT`].
#[derive(Debug, Default)]
pub(crate) struct Extension {
    /// The quantization parameters of inputs, by their names.
    pub(crate) quantization: HashMap<String, Arc<QuantParams>>,
}

/// The key of each source of a node in the text form. An entry without a value comes first, so that a node may have none.
pub(crate) const SOURCES: &str = "octofold.sources";

/// The key of the name that an output has for the caller in the text form.
pub(crate) const OUTPUT: &str = "octofold.output";

/// Reads a model from messages, wherever they came from.
pub(crate) fn import_decoded(
    mut model: ModelProto,
    mut external: ExternalData,
    options: &ImportOptions,
    extension: Option<&Extension>,
) -> Result<Graph, ImportErrorKind> {
    let budget = &options.budget;
    external.limit_holes(budget.hole_bytes);
    let found = model.ir_version.unwrap_or_default();
    if !IR_VERSIONS.contains(&found) {
        let newest = *IR_VERSIONS.end();
        return Err(ImportErrorKind::IrVersion { found, newest });
    }
    let opsets = Opsets::read(&model.opset_import)?;
    let mut proto = model.graph.take().ok_or(ImportErrorKind::NoGraph)?;

    // Nodes with a name keep it; the others are called after their operator and position.
    let mut node_names = Names::default();
    name_nodes(&mut proto.node, &mut node_names);
    let nodes = std::mem::take(&mut proto.node);
    let nodes = inline(nodes, &model.functions, &opsets, budget, &mut node_names)?;

    let mut importer = Importer {
        budget,
        graph: Graph::new(proto.name()),
        external,
        extension,
        values: HashMap::new(),
        value_names: Names::default(),
        node_names,
    };
    importer.reserve_names(&proto, &nodes)?;
    importer.add_constants(&proto)?;
    importer.add_inputs(&proto)?;
    for index in order(&nodes, &importer.values)? {
        if let Some(node) = nodes.get(index) {
            importer
                .add_node(node)
                .map_err(|source| node_error(node, source))?;
            importer.check_sizes(node)?;
        }
    }
    importer.add_outputs(&proto)?;
    let mut graph = importer.graph;
    // A tied weight may have to be there twice, transposed, however large it is.
    let constants = graph
        .value_ids()
        .filter_map(|id| graph.value(id).constant());
    let constants = constants.fold(0_u64, |sum, tensor| {
        let size = tensor.dtype().size().unwrap_or(1) as u64;
        sum.saturating_add((tensor.len() as u64).saturating_mul(size))
    });
    let mut folding = budget.folding();
    folding.bytes = folding.bytes.saturating_add(constants);
    graph.set_folding(folding);
    add_metadata(&mut graph, &model, &proto);
    Ok(graph)
}

/// Gives every node a name of its own.
fn name_nodes(nodes: &mut [NodeProto], names: &mut Names) {
    let named: Vec<bool> = nodes
        .iter()
        .map(|node| !node.name().is_empty() && names.take(node.name()))
        .collect();
    for (index, (node, named)) in nodes.iter_mut().zip(named).enumerate() {
        if !named {
            let name = match node.name() {
                "" => format!("{}_{index}", node.op_type()),
                duplicate => duplicate.to_owned(),
            };
            node.name = Some(names.fresh(&name));
        }
    }
}

/// An error of a node, with its name.
pub(super) fn node_error(node: &FlatNode, source: NodeError) -> ImportErrorKind {
    ImportErrorKind::Node {
        node: node.node.name().to_owned(),
        op: qualified(node.node.domain(), node.node.op_type()),
        opset: node.version.unwrap_or_default(),
        source: Box::new(source),
    }
}

struct Importer<'a> {
    budget: &'a Budget,
    graph: Graph,
    external: ExternalData,
    extension: Option<&'a Extension>,
    /// The values of the file, by their names there.
    values: HashMap<String, ValueId>,
    value_names: Names,
    node_names: Names,
}

impl Importer<'_> {
    /// Takes the names of all values of the file, so that made ones differ from them; finds duplicates.
    fn reserve_names(
        &mut self,
        graph: &GraphProto,
        nodes: &[FlatNode],
    ) -> Result<(), ImportErrorKind> {
        let mut take = |what: &dyn Fn() -> String, name: &str| {
            if name.is_empty() {
                return Err(ImportErrorKind::Unnamed(what()));
            }
            if self.value_names.take(name) {
                return Ok(());
            }
            Err(ImportErrorKind::Duplicate {
                what: what(),
                name: name.to_owned(),
            })
        };
        let mut initialized = BTreeSet::new();
        for name in initializer_names(graph) {
            take(&|| "initializer".to_owned(), name)?;
            initialized.insert(name);
        }
        // Before IR version 4 every initializer had to be an input as well.
        let mut listed = BTreeSet::new();
        for input in &graph.input {
            if initialized.contains(input.name()) && listed.insert(input.name()) {
                continue;
            }
            take(&|| "input".to_owned(), input.name())?;
        }
        for node in nodes {
            for output in node.node.output.iter().filter(|output| !output.is_empty()) {
                take(&|| format!("output of node `{}`", node.node.name()), output)?;
            }
        }
        Ok(())
    }

    /// Adds the initializers.
    fn add_constants(&mut self, graph: &GraphProto) -> Result<(), ImportErrorKind> {
        let dense = graph
            .initializer
            .iter()
            .map(|proto| (proto.name(), read_tensor(proto, &mut self.external)));
        let mut tensors: Vec<_> = dense.collect();
        for proto in &graph.sparse_initializer {
            let name = proto
                .values
                .as_ref()
                .map(|values| values.name())
                .unwrap_or_default();
            tensors.push((name, read_sparse(proto, &mut self.external, self.budget)));
        }
        let inputs: HashMap<&str, &ValueInfoProto> = graph
            .input
            .iter()
            .map(|input| (input.name(), input))
            .collect();
        for (name, tensor) in tensors {
            let tensor = tensor.map_err(|source| ImportErrorKind::Initializer {
                tensor: name.to_owned(),
                source: Box::new(source),
            })?;
            self.check_rank(name, tensor.rank())?;
            if let Some(input) = inputs.get(name)
                && let Some(declared) = declared_dtype(input)?
                && declared != tensor.dtype()
            {
                return Err(ImportErrorKind::Input {
                    input: name.to_owned(),
                    reason: format!(
                        "the type is {declared}, its initializer is of type {}",
                        tensor.dtype()
                    ),
                });
            }
            let id =
                self.graph
                    .add_constant(name, tensor)
                    .map_err(|_| ImportErrorKind::Duplicate {
                        what: "initializer".to_owned(),
                        name: name.to_owned(),
                    })?;
            self.values.insert(name.to_owned(), id);
        }
        Ok(())
    }

    /// Adds the inputs that have no initializer.
    fn add_inputs(&mut self, graph: &GraphProto) -> Result<(), ImportErrorKind> {
        for input in &graph.input {
            let name = input.name();
            if self.values.contains_key(name) {
                continue;
            }
            if let Some(type_proto::Value::TensorType(tensor)) =
                input.r#type.as_ref().and_then(|ty| ty.value.as_ref())
            {
                self.check_rank(
                    name,
                    tensor.shape.as_ref().map_or(0, |shape| shape.dim.len()),
                )?;
            }
            let params = self
                .extension
                .and_then(|extension| extension.quantization.get(name))
                .cloned();
            let ty = input_type(input)?.with_quantization(params);
            let id = self
                .graph
                .add_input(name, ty)
                .map_err(|_| ImportErrorKind::Duplicate {
                    what: "input".to_owned(),
                    name: name.to_owned(),
                })?;
            self.values.insert(name.to_owned(), id);
        }
        Ok(())
    }

    fn add_node(&mut self, flat: &FlatNode) -> Result<(), NodeError> {
        let node = &flat.node;
        if node.op_type().is_empty() {
            return Err(NodeError::NoOperator);
        }
        let version = flat
            .version
            .ok_or_else(|| NodeError::Domain(node.domain().to_owned()))?;
        let attributes = read_attributes(&node.attribute, &mut self.external, self.budget)?;
        let mut inputs = Vec::with_capacity(node.input.len());
        for input in &node.input {
            inputs.push(match input.as_str() {
                "" => None,
                name => Some(
                    *self
                        .values
                        .get(name)
                        .ok_or_else(|| NodeError::Undefined(name.to_owned()))?,
                ),
            });
        }
        let mut outputs = node.output.clone();
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        while outputs.last().is_some_and(String::is_empty) {
            outputs.pop();
        }
        let old = OldNode {
            domain: domain_name(node.domain()).to_owned(),
            op: node.op_type().to_owned(),
            version,
            inputs,
            outputs,
            attributes,
        };
        let mut lowering = Lowering::new(
            &mut self.graph,
            &mut self.value_names,
            &mut self.node_names,
            node.name(),
        );
        if self.extension.is_some() {
            lowering.allow_own_operators();
            let mut entries = node
                .metadata_props
                .iter()
                .filter(|entry| entry.key() == SOURCES);
            if entries.next().is_some() {
                lowering.set_sources(entries.map(|entry| entry.value().to_owned()).collect());
            }
        }
        opset::lower(&mut lowering, old)?;
        let module = exporter_module(&node.metadata_props);
        for (output, id) in lowering.into_results() {
            if let Some(module) = &module
                && let Some(producer) = self.graph.value(id).producer()
            {
                let name = self.graph.node(producer).name().to_owned();
                self.graph.set_module(&name, module.as_str());
            }
            self.values.insert(output, id);
        }
        match node
            .output
            .iter()
            .find(|output| !output.is_empty() && !self.values.contains_key(*output))
        {
            Some(output) => Err(NodeError::Form(format!(
                "the output `{output}` is not produced by this operator"
            ))),
            None => Ok(()),
        }
    }

    fn check_rank(&self, value: &str, rank: usize) -> Result<(), ImportErrorKind> {
        let limit = self.budget.rank;
        if rank <= limit {
            return Ok(());
        }
        Err(ImportErrorKind::Rank {
            value: value.to_owned(),
            rank,
            limit,
        })
    }

    /// Refuses values that no memory holds, before anybody tries.
    fn check_sizes(&self, flat: &FlatNode) -> Result<(), ImportErrorKind> {
        for output in &flat.node.output {
            let Some(&id) = self.values.get(output) else {
                continue;
            };
            let value = self.graph.value(id);
            let ty = value.ty();
            let rank = ty.rank().unwrap_or(0);
            self.check_rank(output, rank)?;
            let limit = self.budget.terms;
            if !terms_within(
                ty.shape
                    .iter()
                    .flatten()
                    .chain(value.contents().unwrap_or_default()),
                limit,
            ) {
                return Err(ImportErrorKind::Expression {
                    value: output.clone(),
                    limit,
                });
            }
            // Where a size is a symbol, the value has to be possible at least when it is 1.
            let elements = ty
                .shape
                .iter()
                .flatten()
                .fold(1_u64, |product, dim| product.saturating_mul(at_one(dim)));
            let bytes = elements.saturating_mul(ty.dtype.size().unwrap_or(1) as u64);
            if bytes > self.budget.value_bytes {
                return Err(ImportErrorKind::Size {
                    value: output.clone(),
                    ty: ty.to_string(),
                    limit: self.budget.value_bytes,
                });
            }
        }
        Ok(())
    }

    fn add_outputs(&mut self, graph: &GraphProto) -> Result<(), ImportErrorKind> {
        for output in &graph.output {
            let name = output.name();
            let fail = |reason: String| ImportErrorKind::Output {
                output: name.to_owned(),
                reason,
            };
            let Some(&id) = self.values.get(name) else {
                return Err(fail("is undefined: not produced by any node".to_owned()));
            };
            let found = self.graph.value(id).ty().dtype;
            if let Some(declared) = declared_dtype(output)?
                && declared != found
            {
                return Err(fail(format!(
                    "the type is {declared}, the value is of type {found}"
                )));
            }
            let shown = output
                .metadata_props
                .iter()
                .find(|entry| self.extension.is_some() && entry.key() == OUTPUT);
            let shown = shown.map_or(name, |entry| entry.value());
            self.graph
                .add_output(shown, id)
                .map_err(|error| fail(format!("duplicate: {error}")))?;
        }
        Ok(())
    }
}

/// Whether dimensions consist of at most so many terms. Expressions grow with the depth of a model: joining a value of symbolic size with itself
/// doubles its expression.
fn terms_within<'a>(dims: impl Iterator<Item = &'a Dim>, limit: usize) -> bool {
    let mut left = limit;
    let mut stack: Vec<&Dim> = dims
        .filter(|dim| !matches!(dim, Dim::Known(_) | Dim::Symbol(_)))
        .collect();
    while let Some(dim) = stack.pop() {
        let Some(less) = left.checked_sub(1) else {
            return false;
        };
        left = less;
        match dim {
            Dim::Known(_) | Dim::Symbol(_) => {}
            Dim::Add(pair)
            | Dim::Sub(pair)
            | Dim::Mul(pair)
            | Dim::FloorDiv(pair)
            | Dim::CeilDiv(pair)
            | Dim::Max(pair)
            | Dim::Min(pair) => stack.extend([&pair.0, &pair.1]),
        }
    }
    true
}

/// The size of a dimension when every symbol is 1; its terms are known to be few.
fn at_one(dim: &Dim) -> u64 {
    fn value(dim: &Dim) -> i64 {
        let both = |pair: &(Dim, Dim), f: fn(i64, i64) -> i64| f(value(&pair.0), value(&pair.1));
        match dim {
            Dim::Known(size) => *size,
            Dim::Symbol(_) => 1,
            Dim::Add(pair) => both(pair, i64::saturating_add),
            Dim::Sub(pair) => both(pair, i64::saturating_sub),
            Dim::Mul(pair) => both(pair, i64::saturating_mul),
            Dim::FloorDiv(pair) => both(pair, |a, b| a.checked_div_euclid(b).unwrap_or(0)),
            // Rounded down: this is a lower bound.
            Dim::CeilDiv(pair) => both(pair, |a, b| a.checked_div_euclid(b).unwrap_or(0)),
            Dim::Max(pair) => both(pair, i64::max),
            Dim::Min(pair) => both(pair, i64::min),
        }
    }
    u64::try_from(value(dim)).unwrap_or(0)
}

fn initializer_names(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let dense = graph.initializer.iter().map(|tensor| tensor.name());
    let sparse = graph
        .sparse_initializer
        .iter()
        .map(|sparse| sparse.values.as_ref().map_or("", |values| values.name()));
    dense.chain(sparse)
}

/// The element type that a value is said to have.
fn declared_dtype(info: &ValueInfoProto) -> Result<Option<DType>, ImportErrorKind> {
    let fail = |reason: String| ImportErrorKind::Input {
        input: info.name().to_owned(),
        reason,
    };
    match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
        None => Ok(None),
        Some(type_proto::Value::TensorType(tensor)) => match tensor.elem_type() {
            0 => Ok(None),
            code => element_type(code)
                .map(Some)
                .map_err(|error| fail(error.to_string())),
        },
        Some(type_proto::Value::SequenceType(_)) => {
            Err(fail("sequences are not supported".to_owned()))
        }
        Some(type_proto::Value::MapType(_)) => Err(fail("maps are not supported".to_owned())),
        Some(type_proto::Value::OpaqueType(_)) => {
            Err(fail("opaque types are not supported".to_owned()))
        }
        Some(type_proto::Value::SparseTensorType(_)) => {
            Err(fail("sparse tensors are not supported".to_owned()))
        }
        Some(type_proto::Value::OptionalType(_)) => {
            Err(fail("optional types are not supported".to_owned()))
        }
    }
}

/// The type of an input.
fn input_type(info: &ValueInfoProto) -> Result<TensorType, ImportErrorKind> {
    let name = info.name();
    let fail = |reason: String| ImportErrorKind::Input {
        input: name.to_owned(),
        reason,
    };
    let dtype =
        declared_dtype(info)?.ok_or_else(|| fail("the element type is missing".to_owned()))?;
    let Some(type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|ty| ty.value.as_ref())
    else {
        return Ok(TensorType::unranked(dtype));
    };
    let Some(shape) = &tensor.shape else {
        return Ok(TensorType::unranked(dtype));
    };
    let mut dims = Vec::with_capacity(shape.dim.len());
    for (axis, dim) in shape.dim.iter().enumerate() {
        dims.push(match &dim.value {
            Some(dimension::Value::DimValue(size)) if *size < 0 => {
                return Err(fail(format!("dimension {axis} is negative: {size}")));
            }
            Some(dimension::Value::DimValue(size)) => Dim::Known(*size),
            Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => Dim::symbol(symbol),
            Some(dimension::Value::DimParam(_)) | None => Dim::symbol(&format!("{name}.{axis}")),
        });
    }
    Ok(TensorType::new(dtype, dims))
}

/// The module path that torch's exporters leave in a node's metadata: the list of scopes, `['', 'layer1', 'layer1.0', 'conv2d']`, whose last
/// entry is the operation, or the same as a path, `: Net/layer1: Sequential/layer1.0: Block/conv2d: aten.conv2d.default`.
fn exporter_module(entries: &[StringStringEntryProto]) -> Option<String> {
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
fn add_metadata(graph: &mut Graph, model: &ModelProto, proto: &GraphProto) {
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
