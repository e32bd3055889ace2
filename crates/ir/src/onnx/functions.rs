//! Inlining of the functions that a model brings along.
//!
//! A call becomes the nodes of the function's body: its inputs and outputs take the names of the call, everything inside
//! gets the name of the call in front, and references to attributes become the values of the call. How many nodes
//! that makes is counted before anything is copied: ten functions that call each other ten times are ten thousand million nodes.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::budget::Budget;
use super::error::{FunctionError, ImportErrorKind, NodeError};
use super::names::Names;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};

/// The versions of the opsets of a model or function, by domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opsets(HashMap<String, i64>);

/// The oldest and newest version of ONNX's own opset that are read.
pub(super) const OLDEST: i64 = 6;
/// See [`OLDEST`].
pub(crate) const NEWEST: i64 = 28;

/// The name under which a domain is known: `ai.onnx` is another name of the empty one.
pub(super) fn domain_name(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl Opsets {
    /// Reads the imports of a model or function.
    pub(super) fn read(imports: &[OperatorSetIdProto]) -> Result<Self, ImportErrorKind> {
        let mut opsets = HashMap::new();
        for import in imports {
            let domain = domain_name(import.domain());
            let version = import.version();
            let fail = |reason: String| ImportErrorKind::Opset {
                domain: domain.to_owned(),
                version,
                reason,
            };
            if domain.is_empty() && !(OLDEST..=NEWEST).contains(&version) {
                return Err(fail(format!(
                    "not supported, expected {OLDEST} to {NEWEST}"
                )));
            }
            if opsets
                .insert(domain.to_owned(), version)
                .is_some_and(|other| other != version)
            {
                return Err(fail("another version is imported, too".to_owned()));
            }
        }
        if opsets.is_empty() {
            return Err(ImportErrorKind::NoOpset);
        }
        Ok(Self(opsets))
    }

    /// The version of a domain, when it is imported.
    pub(super) fn version(&self, domain: &str) -> Option<i64> {
        self.0.get(domain_name(domain)).copied()
    }
}

/// A node outside of any function.
#[derive(Debug)]
pub(super) struct FlatNode {
    /// The node, with values of the whole model and a name of its own.
    pub(super) node: NodeProto,
    /// The version of the opset of its domain.
    pub(super) version: Option<i64>,
    /// The values outside of the node's bodies that these read.
    pub(super) captures: Vec<String>,
}

impl FlatNode {
    fn new(node: NodeProto, version: Option<i64>) -> Self {
        let captures = captured(&node);
        Self {
            node,
            version,
            captures,
        }
    }

    /// The values that the node or its bodies read.
    pub(super) fn reads(&self) -> impl Iterator<Item = &String> {
        let operands = self.node.input.iter().filter(|name| !name.is_empty());
        operands.chain(&self.captures)
    }

    /// An error of this node, with its name.
    pub(super) fn error(&self, source: NodeError) -> ImportErrorKind {
        ImportErrorKind::Node {
            node: self.node.name().to_owned(),
            op: qualified(self.node.domain(), self.node.op_type()),
            opset: self.version.unwrap_or_default(),
            source: Box::new(source),
        }
    }
}

type Key<'a> = (&'a str, &'a str, &'a str);

fn key<'a>(domain: &'a str, name: &'a str, overload: &'a str) -> Key<'a> {
    (domain_name(domain), name, overload)
}

fn key_of(node: &NodeProto) -> Key<'_> {
    key(node.domain(), node.op_type(), node.overload())
}

/// `domain.name`, without a dot for ONNX's own.
pub(super) fn qualified(domain: &str, name: &str) -> String {
    match domain_name(domain) {
        "" => name.to_owned(),
        domain => format!("{domain}.{name}"),
    }
}

struct Function<'a> {
    proto: &'a FunctionProto,
    /// Its own imports; without any, those of the model hold.
    opsets: Option<Opsets>,
}

/// What a call becomes.
#[derive(Clone, Copy)]
struct Extent {
    /// The number of nodes. A call counts as one itself, so that calls of nothing end as well.
    nodes: u64,
    /// The depth of calls.
    depth: usize,
}

/// The functions of a model, and what inlining them has taken.
pub(super) struct Functions<'a> {
    table: HashMap<Key<'a>, Function<'a>>,
    extents: HashMap<Key<'a>, Option<Extent>>,
    opsets: &'a Opsets,
    budget: &'a Budget,
    /// The nodes of the graphs that were read, after inlining.
    nodes: u64,
    copied: u64,
    /// The bytes that may be copied.
    limit: u64,
}

impl<'a> Functions<'a> {
    /// The functions of a model that imports `opsets`.
    pub(super) fn new(
        functions: &'a [FunctionProto],
        opsets: &'a Opsets,
        budget: &'a Budget,
    ) -> Result<Self, ImportErrorKind> {
        let mut table: HashMap<Key<'_>, Function<'_>> = HashMap::new();
        for proto in functions {
            let own = if proto.opset_import.is_empty() {
                None
            } else {
                Some(Opsets::read(&proto.opset_import)?)
            };
            let function = Function { proto, opsets: own };
            let key = key(proto.domain(), proto.name(), proto.overload());
            if table.insert(key, function).is_some() {
                return Err(failure(proto, FunctionError::Duplicate));
            }
        }
        Ok(Self {
            table,
            extents: HashMap::new(),
            opsets,
            budget,
            nodes: 0,
            copied: 0,
            // A function that is called once takes what it takes in the file.
            limit: raw_bytes(functions.iter().flat_map(|function| &function.node))
                .saturating_add(budget.copied_bytes),
        })
    }

    /// Inlines all calls in the nodes of a graph. Every node has a name, which is in `names`.
    pub(super) fn inline(
        &mut self,
        nodes: Vec<NodeProto>,
        names: &mut Names,
    ) -> Result<Vec<FlatNode>, ImportErrorKind> {
        let calls = self.budget.calls;
        for node in &nodes {
            let extent = extent_of(key_of(node), &self.table, &mut self.extents, calls, calls)?;
            self.nodes = self.nodes.saturating_add(extent.nodes);
        }
        if self.nodes > self.budget.nodes {
            return Err(ImportErrorKind::Nodes {
                found: self.nodes,
                limit: self.budget.nodes,
            });
        }
        let mut inliner = Inliner {
            table: &self.table,
            opsets: self.opsets,
            names,
            flat: Vec::new(),
            copied: self.copied,
            limit: self.limit,
        };
        for node in nodes {
            let version = self.opsets.version(node.domain());
            match self.table.get(&key_of(&node)) {
                None => inliner.flat.push(FlatNode::new(node, version)),
                Some(function) => inliner.expand(&node, function)?,
            }
        }
        self.copied = inliner.copied;
        Ok(inliner.flat)
    }
}

fn failure(function: &FunctionProto, source: FunctionError) -> ImportErrorKind {
    ImportErrorKind::Function {
        function: qualified(function.domain(), function.name()),
        source,
    }
}

/// The values outside of a node's bodies that these read, in the order of their first use.
fn captured(node: &NodeProto) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for body in node
        .attribute
        .iter()
        .filter_map(|attribute| attribute.g.as_deref())
    {
        free_names(body, &mut |name| {
            if seen.insert(name.to_owned()) {
                found.push(name.to_owned());
            }
        });
    }
    found
}

/// The names that a body uses and does not define.
fn free_names(body: &GraphProto, found: &mut dyn FnMut(&str)) {
    let results = body.node.iter().flat_map(|node| &node.output);
    let defined: HashSet<&str> = body
        .input
        .iter()
        .map(|input| input.name())
        .chain(initializer_names(body))
        .chain(results.map(String::as_str))
        .collect();
    let mut used = |name: &str| {
        if !name.is_empty() && !defined.contains(name) {
            found(name);
        }
    };
    for node in &body.node {
        node.input.iter().for_each(|name| used(name));
        for body in node
            .attribute
            .iter()
            .filter_map(|attribute| attribute.g.as_deref())
        {
            free_names(body, &mut used);
        }
    }
    body.output.iter().for_each(|output| used(output.name()));
}

/// The names of a graph's constants.
pub(super) fn initializer_names(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let dense = graph.initializer.iter().map(|tensor| tensor.name());
    let sparse = graph
        .sparse_initializer
        .iter()
        .map(|sparse| sparse.values.as_ref().map_or("", |values| values.name()));
    dense.chain(sparse)
}

/// What a node becomes. No call is looked at twice.
fn extent_of<'a>(
    called: Key<'_>,
    table: &HashMap<Key<'a>, Function<'a>>,
    extents: &mut HashMap<Key<'a>, Option<Extent>>,
    room: usize,
    limit: usize,
) -> Result<Extent, ImportErrorKind> {
    let mut extent = Extent { nodes: 1, depth: 0 };
    let Some(function) = table.get(&called) else {
        return Ok(extent);
    };
    let proto = function.proto;
    let own = key(proto.domain(), proto.name(), proto.overload());
    match extents.get(&own) {
        Some(Some(extent)) => return Ok(*extent),
        // Being measured: the function is reached from itself.
        Some(None) => return Err(failure(proto, FunctionError::Recursion)),
        None => {}
    }
    let Some(room) = room.checked_sub(1) else {
        return Err(failure(proto, FunctionError::Depth(limit)));
    };
    extents.insert(own, None);
    for node in &proto.node {
        let inner = extent_of(key_of(node), table, extents, room, limit)?;
        extent.nodes = extent.nodes.saturating_add(inner.nodes);
        extent.depth = extent.depth.max(inner.depth);
    }
    extent.depth += 1;
    // Functions that were measured before had all the room.
    if extent.depth > limit {
        return Err(failure(proto, FunctionError::Depth(limit)));
    }
    extents.insert(own, Some(extent));
    Ok(extent)
}

struct Inliner<'a> {
    table: &'a HashMap<Key<'a>, Function<'a>>,
    opsets: &'a Opsets,
    names: &'a mut Names,
    flat: Vec<FlatNode>,
    copied: u64,
    limit: u64,
}

impl Inliner<'_> {
    /// Appends the nodes of a call. Their depth and number are known to be within the budget.
    fn expand(&mut self, call: &NodeProto, function: &Function<'_>) -> Result<(), ImportErrorKind> {
        let proto = function.proto;
        let prefix = call.name();
        for (what, found, expected) in [
            ("inputs", call.input.len(), proto.input.len()),
            ("outputs", call.output.len(), proto.output.len()),
        ] {
            if found > expected {
                let node = prefix.to_owned();
                return Err(failure(
                    proto,
                    FunctionError::Arity {
                        node,
                        what,
                        found,
                        expected,
                    },
                ));
            }
        }
        // Inputs that the call leaves out are absent inside, outputs that it leaves out keep a name of their own.
        let mut renamed: HashMap<&str, String> = HashMap::new();
        for (position, input) in proto.input.iter().enumerate() {
            renamed.insert(input, call.input.get(position).cloned().unwrap_or_default());
        }
        // An output that is an input of the function, or given twice, is copied.
        let mut copies = Vec::new();
        for (inner, outer) in proto.output.iter().zip(&call.output) {
            if outer.is_empty() {
                continue;
            }
            if renamed.contains_key(inner.as_str()) {
                copies.push((inner, outer));
            } else {
                renamed.insert(inner, outer.clone());
            }
        }
        let rename = |name: &str| match renamed.get(name) {
            Some(renamed) => renamed.clone(),
            None if name.is_empty() => String::new(),
            None => format!("{prefix}/{name}"),
        };
        // What the call says wins over the defaults of the function.
        let values: HashMap<&str, &AttributeProto> = proto
            .attribute_proto
            .iter()
            .chain(&call.attribute)
            .map(|value| (value.name(), value))
            .collect();
        for (position, inner) in proto.node.iter().enumerate() {
            let name = match inner.name() {
                "" => format!("{prefix}/{}_{position}", inner.op_type()),
                name => format!("{prefix}/{name}"),
            };
            let mut node = NodeProto {
                input: inner.input.iter().map(|name| rename(name)).collect(),
                output: inner.output.iter().map(|name| rename(name)).collect(),
                name: Some(self.names.fresh(&name)),
                op_type: inner.op_type.clone(),
                domain: inner.domain.clone(),
                overload: inner.overload.clone(),
                ..NodeProto::default()
            };
            for attribute in &inner.attribute {
                node.attribute.extend(bind(attribute, &values));
            }
            // The names in a body would have to be those of the call, too.
            if node.attribute.iter().any(|attribute| attribute.g.is_some()) {
                return Err(failure(proto, FunctionError::Body(name)));
            }
            self.count(&node)?;
            match self.table.get(&key_of(&node)) {
                Some(inner) => self.expand(&node, inner)?,
                None => {
                    let opsets = function.opsets.as_ref().unwrap_or(self.opsets);
                    let version = opsets.version(node.domain());
                    self.flat.push(FlatNode::new(node, version));
                }
            }
        }
        for (inner, outer) in copies {
            let node = NodeProto {
                input: vec![rename(inner)],
                output: vec![outer.clone()],
                name: Some(self.names.fresh(&format!("{prefix}/Identity"))),
                op_type: Some("Identity".to_owned()),
                ..NodeProto::default()
            };
            self.flat.push(FlatNode::new(node, Some(NEWEST)));
        }
        let given: HashSet<&String> = proto
            .input
            .iter()
            .chain(proto.node.iter().flat_map(|node| &node.output))
            .collect();
        match proto.output.iter().find(|output| !given.contains(output)) {
            Some(output) => Err(failure(proto, FunctionError::Output(output.clone()))),
            None => Ok(()),
        }
    }

    /// Counts what copying a node took. Raw data are shared, but each copy of the node makes a constant of them.
    fn count(&mut self, node: &NodeProto) -> Result<(), ImportErrorKind> {
        self.copied = self.copied.saturating_add(node.encoded_len() as u64);
        if self.copied > self.limit {
            Err(ImportErrorKind::Copies(self.limit))
        } else {
            Ok(())
        }
    }
}

/// The bytes of the tensors in nodes' attributes.
fn raw_bytes<'a>(nodes: impl Iterator<Item = &'a NodeProto>) -> u64 {
    let tensors = nodes
        .flat_map(|node| &node.attribute)
        .filter_map(|attribute| attribute.t.as_deref());
    tensors.fold(0, |sum, tensor| {
        sum.saturating_add(tensor.raw_data.as_ref().map_or(0, |raw| raw.len() as u64))
    })
}

/// An attribute of a function's node with the values of a call; `None` when it refers to one that the call leaves out.
fn bind(
    attribute: &AttributeProto,
    values: &HashMap<&str, &AttributeProto>,
) -> Option<AttributeProto> {
    let refers = attribute.ref_attr_name();
    if refers.is_empty() {
        return Some(attribute.clone());
    }
    let mut bound = (*values.get(refers)?).clone();
    bound.name.clone_from(&attribute.name);
    Some(bound)
}
