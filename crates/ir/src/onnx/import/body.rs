//! Bodies: graphs in attributes of `If`, `Loop` and `Scan`.
//!
//! A body of a file reads values of the graphs around it by their names. Here it becomes closed: these values, its captures, become operands
//! of the node and the last inputs of the body, under the same names.

use std::collections::HashMap;

use octofold_ops::{Attribute, BodyId, Op, bail_attribute};

use super::{Importer, declared, read_graph};
use crate::infer::Entry;
use crate::onnx::error::{ImportErrorKind, NodeError};
use crate::onnx::functions::{FlatNode, domain_name, initializer_names};
use crate::onnx::opset::{OldNode, control};
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::{TensorType, ValueId};

/// How deep bodies may be nested. Whatever follows bodies takes stack and, for the types of states, time for each level.
const MAX_DEPTH: usize = 8;

/// How a body is entered.
pub(super) struct BodyEntry<'a> {
    entry: &'a Entry,
    /// The values of the graphs around it that it reads.
    captures: &'a [String],
    pub(super) scope: Scope<'a>,
}

/// The values around a body, by their names in the file.
pub(super) struct Scope<'a> {
    values: &'a HashMap<String, ValueId>,
    outer: Option<&'a Self>,
    depth: usize,
}

impl Scope<'_> {
    /// Whether a value around the body has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.outer.is_some_and(|outer| outer.has(name))
    }
}

/// The bodies of a node, by the names of the attributes; none for an operator that has no bodies.
pub(super) fn attributes(node: &NodeProto) -> Vec<(&str, &GraphProto)> {
    let runs_bodies = matches!(node.op_type(), "If" | "Loop" | "Scan");
    if !runs_bodies || !domain_name(node.domain()).is_empty() {
        return Vec::new();
    }
    let attributes = node.attribute.iter();
    attributes
        .filter_map(|attribute| Some((attribute.name(), attribute.g.as_deref()?)))
        .collect()
}

impl Importer<'_, '_> {
    /// Reads the bodies of a node, and makes their captures operands.
    pub(super) fn read_bodies(
        &mut self,
        flat: &FlatNode,
        bodies: Vec<(&str, &GraphProto)>,
        old: &mut OldNode,
    ) -> Result<(), NodeError> {
        let scope = Scope {
            values: &self.values,
            outer: self.entry.map(|entry| &entry.scope),
            depth: self.entry.map_or(1, |entry| entry.scope.depth + 1),
        };
        if scope.depth > MAX_DEPTH {
            return Err(NodeError::BodyDepth(MAX_DEPTH));
        }
        if self.source.extension.is_none() {
            // In the text form a body may be closed already; a file has no operands for captures.
            if old.op == "If" {
                old.expect_inputs(1)?;
            }
            if old.attributes.contains("captures") {
                let unknown = octofold_ops::OpError::UnknownAttribute("captures".to_owned());
                return Err(unknown.into());
            }
        }
        if old.op == "Loop" && !flat.captures.is_empty() && old.inputs.len() < 2 {
            old.inputs.resize(2, None);
        }
        for name in &flat.captures {
            let value = self.values.get(name);
            let value = value.ok_or_else(|| NodeError::Undefined(name.clone()))?;
            old.inputs.push(Some(*value));
        }
        if old.op != "If" {
            let closed = old.attributes.read::<i64>("captures")?.unwrap_or(0);
            let captures = closed.saturating_add(flat.captures.len() as i64);
            old.attributes.insert("captures", Attribute::Int(captures));
        }
        let BodyId(first) = self.graph.next_body();
        for ((name, _), id) in bodies.iter().zip(first..) {
            if old.attributes.contains(name) {
                bail_attribute!(name, "is given twice (duplicate)");
            }
            old.attributes.insert(*name, Attribute::Body(BodyId(id)));
        }
        let types: Vec<Option<TensorType>> = old
            .inputs
            .iter()
            .map(|input| input.map(|id| self.graph.value(id).ty().clone()))
            .collect();
        let (op, types) = if old.op == "Scan" && old.version < 9 {
            control::step_of_scan_8(old, types)?
        } else {
            let attributes = old.attributes.clone();
            (Op::from_attributes("", &old.op, attributes)?, types)
        };
        let types: Vec<Option<&TensorType>> = types.iter().map(Option::as_ref).collect();
        let entry = BodyEntry {
            entry: &Entry::new(&op, &types)?,
            captures: &flat.captures,
            scope,
        };
        for (name, proto) in bodies {
            let body = read_graph(&mut proto.clone(), self.source, Some(&entry));
            let body = body.map_err(|source| NodeError::Body {
                attribute: name.to_owned(),
                source: Box::new(source),
            })?;
            self.graph.add_body(body);
        }
        self.check_trips(old)
    }

    /// Refuses a `Loop` that makes more trips than anybody waits for: its number of trips is a constant, and its condition stays true.
    fn check_trips(&self, old: &OldNode) -> Result<(), NodeError> {
        let constant = |slot: usize| {
            let input = old.inputs.get(slot).copied().flatten();
            input.and_then(|id| self.graph.value(id).constant())
        };
        let Some(&[trips]) = constant(0).and_then(|tensor| tensor.values::<i64>().ok()) else {
            return Ok(());
        };
        let stays = self.graph.bodies().last().is_some_and(|(_, body)| {
            let (input, output) = (body.inputs().get(1), body.outputs().first());
            let mut value = output.map(|output| output.value);
            while value != input.copied()
                && let Some(producer) = value.and_then(|id| body.value(id).producer())
                && matches!(body.node(producer).op(), Op::Identity(_))
            {
                value = body.node(producer).input(0);
            }
            value.is_some() && value == input.copied()
        });
        let limit = self.source.budget.trips;
        if old.op == "Loop" && stays && u64::try_from(trips).is_ok_and(|trips| trips > limit) {
            return Err(NodeError::Trips { trips, limit });
        }
        Ok(())
    }

    /// Adds the inputs of a body: its own and its captures.
    pub(super) fn add_body_inputs(
        &mut self,
        graph: &GraphProto,
        entry: &BodyEntry<'_>,
    ) -> Result<(), ImportErrorKind> {
        let initialized: Vec<&str> = initializer_names(graph).collect();
        let own = graph.input.iter();
        let own: Vec<_> = own
            .filter(|input| !initialized.contains(&input.name()))
            .collect();
        let captures = entry.captures.iter().map(String::as_str);
        let names: Vec<&str> = own
            .iter()
            .map(|input| input.name())
            .chain(captures)
            .collect();
        let types = entry.entry.types(&names);
        if types.len() != names.len() {
            return Err(ImportErrorKind::Input {
                input: graph.name().to_owned(),
                reason: format!(
                    "the subgraph takes {} inputs, the operator gives it {}",
                    own.len(),
                    types.len().saturating_sub(entry.captures.len())
                ),
            });
        }
        for (index, (name, ty)) in names.into_iter().zip(types).enumerate() {
            self.check_rank(name, ty.rank().unwrap_or(0))?;
            let declared = own.get(index).map(|input| declared::dtype(input));
            if let Some(declared) = declared.transpose()?.flatten()
                && declared != ty.dtype
            {
                return Err(ImportErrorKind::Input {
                    input: name.to_owned(),
                    reason: format!("the type is {declared}, the operator gives it {}", ty.dtype),
                });
            }
            let id = self.graph.add_input(name, ty);
            let id = id.map_err(|_| ImportErrorKind::Duplicate {
                what: "input".to_owned(),
                name: name.to_owned(),
            })?;
            self.values.insert(name.to_owned(), id);
            self.value_names.take(name);
        }
        Ok(())
    }
}
