//! From a file to a [`Graph`].

mod body;
mod declared;
mod metadata;
mod sizes;

use octofold_ops::bail;
use octofold_tensor::file::read_limited;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use octofold_quant::QuantParams;

use super::attribute::read_attributes;
use super::budget::Budget;
use super::error::{ImportError, ImportErrorKind, NodeError};
use super::external_data::ExternalData;
use super::functions::{FlatNode, Functions, Opsets, domain_name, initializer_names};
use super::names::Names;
use super::opset::{self, Lowering, OldNode};
use super::order::order;
use super::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto, type_proto};
use super::scan::{ScanError, decode};
use super::tensor::{read_sparse, read_tensor};
use crate::{Graph, ValueId};
use body::BodyEntry;

/// The versions of the file format that are read.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// How a model is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// How much the file may ask for.
    pub budget: Budget,
    /// Whether files of weights may be links, also to files outside of the model's folder.
    pub allow_links: bool,
    /// Whether weights in other files are copied into memory. Otherwise the files are mapped, and must not be changed while the model is in use: replace a
    /// file by renaming another one.
    pub copy_weights: bool,
}

/// Reads a model from a file. Weights in other files are looked for in its folder.
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
        let bytes = read_limited(path, ("file-bytes", options.budget.file_bytes));
        let bytes = bytes.map_err(ImportErrorKind::Io)?;
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
    external.follow(options);
    let found = model.ir_version.unwrap_or_default();
    if !IR_VERSIONS.contains(&found) {
        let newest = *IR_VERSIONS.end();
        return Err(ImportErrorKind::IrVersion { found, newest });
    }
    let opsets = Opsets::read(&model.opset_import)?;
    let mut proto = model.graph.take().ok_or(ImportErrorKind::NoGraph)?;
    let mut source = Source {
        budget,
        external,
        extension,
        functions: Functions::new(&model.functions, &opsets, budget)?,
    };
    let mut graph = read_graph(&mut proto, &mut source, None)?;
    // A tied weight may have to be there twice, transposed, however large it is.
    let constants = graph
        .value_ids()
        .filter_map(|id| graph.value(id).constant());
    let constants = constants.fold(0_u64, |sum, tensor| {
        let size = tensor.dtype().size().unwrap_or(1) as u64;
        sum.saturating_add((tensor.len() as u64).saturating_mul(size))
    });
    graph.set_mapped_weights(source.external.mapped());
    let mut folding = budget.folding();
    folding.bytes = folding.bytes.saturating_add(constants);
    graph.set_folding(folding);
    metadata::add(&mut graph, &model, &proto);
    Ok(graph)
}

/// Reads a graph: that of the model, or a body. What stays in `proto` has no nodes.
fn read_graph(
    proto: &mut GraphProto,
    source: &mut Source<'_>,
    entry: Option<&BodyEntry<'_>>,
) -> Result<Graph, ImportErrorKind> {
    // Nodes with a name keep it; the others are called after their operator and position.
    let mut node_names = Names::default();
    name_nodes(&mut proto.node, &mut node_names);
    let nodes = std::mem::take(&mut proto.node);
    let nodes = source.functions.inline(nodes, &mut node_names)?;
    let mut importer = Importer {
        source,
        entry,
        graph: Graph::new(proto.name()),
        values: HashMap::new(),
        value_names: Names::default(),
        node_names,
    };
    importer.reserve_names(proto, &nodes)?;
    importer.add_constants(proto)?;
    match entry {
        None => importer.add_inputs(proto)?,
        Some(entry) => importer.add_body_inputs(proto, entry)?,
    }
    for index in order(&nodes, &importer.values)? {
        if let Some(node) = nodes.get(index) {
            importer
                .add_node(node)
                .map_err(|source| node.error(source))?;
            importer.check_sizes(node)?;
        }
    }
    importer.add_outputs(proto)?;
    Ok(importer.graph)
}

/// What the graphs of a model share.
struct Source<'a> {
    budget: &'a Budget,
    external: ExternalData,
    extension: Option<&'a Extension>,
    functions: Functions<'a>,
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

struct Importer<'a, 'm> {
    source: &'a mut Source<'m>,
    /// How a body is entered; `None` for the graph of the model.
    entry: Option<&'a BodyEntry<'a>>,
    graph: Graph,
    /// The values of the file, by their names there.
    values: HashMap<String, ValueId>,
    value_names: Names,
    node_names: Names,
}

impl Importer<'_, '_> {
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
            // A closed body of the text form has names of its own.
            let is_file = self.source.extension.is_none();
            let around = is_file && self.entry.is_some_and(|entry| entry.scope.has(name));
            if !around && self.value_names.take(name) {
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
            .map(|proto| (proto.name(), read_tensor(proto, &mut self.source.external)));
        let mut tensors: Vec<_> = dense.collect();
        for proto in &graph.sparse_initializer {
            let name = proto
                .values
                .as_ref()
                .map(|values| values.name())
                .unwrap_or_default();
            tensors.push((
                name,
                read_sparse(proto, &mut self.source.external, self.source.budget),
            ));
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
                && let Some(declared) = declared::dtype(input)?
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
                .source
                .extension
                .and_then(|extension| extension.quantization.get(name))
                .cloned();
            let ty = declared::input_type(input)?.with_quantization(params);
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
        let bodies = body::attributes(node);
        let attributes = node.attribute.iter();
        let attributes =
            attributes.filter(|proto| !bodies.iter().any(|&(name, _)| name == proto.name()));
        let source = &mut *self.source;
        let attributes = read_attributes(attributes, &mut source.external, source.budget)?;
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
        let mut old = OldNode {
            domain: domain_name(node.domain()).to_owned(),
            op: node.op_type().to_owned(),
            version,
            inputs,
            outputs,
            attributes,
        };
        if !bodies.is_empty() {
            self.read_bodies(flat, bodies, &mut old)?;
        }
        let mut lowering = Lowering::new(
            &mut self.graph,
            &mut self.value_names,
            &mut self.node_names,
            node.name(),
        );
        if self.source.extension.is_some() {
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
        let module = metadata::exporter_module(&node.metadata_props);
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
            Some(output) => bail!("the output `{output}` is not produced by this operator"),
            None => Ok(()),
        }
    }

    fn check_rank(&self, value: &str, rank: usize) -> Result<(), ImportErrorKind> {
        let limit = self.source.budget.rank;
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
            let limit = self.source.budget.terms;
            if !sizes::terms_within(
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
            let elements = ty.shape.iter().flatten().fold(1_u64, |product, dim| {
                product.saturating_mul(sizes::at_one(dim))
            });
            let bytes = elements.saturating_mul(ty.dtype.size().unwrap_or(1) as u64);
            if bytes > self.source.budget.value_bytes {
                return Err(ImportErrorKind::Size {
                    value: output.clone(),
                    ty: ty.to_string(),
                    limit: self.source.budget.value_bytes,
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
            if let Some(declared) = declared::dtype(output)?
                && declared != found
            {
                return Err(fail(format!(
                    "the type is {declared}, the value is of type {found}"
                )));
            }
            let shown = output
                .metadata_props
                .iter()
                .find(|entry| self.source.extension.is_some() && entry.key() == OUTPUT);
            let shown = shown.map_or(name, |entry| entry.value());
            self.graph
                .add_output(shown, id)
                .map_err(|error| fail(format!("duplicate: {error}")))?;
        }
        Ok(())
    }
}
