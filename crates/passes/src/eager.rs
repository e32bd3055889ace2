//! Eager mode: nothing is fused and nothing quantized that the user did not write.
//!
//! This is torch's way of fuse lists, `QuantStub`, `DeQuantStub` and a qconfig a module, over a graph. A stub stands at a named value. Behind a
//! [`QuantStub`] the value is there in integers too; what an operator with a qconfig computes from integers is integers, until a
//! dequant stub makes it there in float too. Where an operator needs what is not there, torch fails at run time (`QuantizedCPU`); here
//! [`annotate`] reports every such place before anything runs, with what to write. The way ends in the same [`Annotations`] as graph
//! mode's, so all that follows is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use indexmap::IndexMap;
use octofold_ir::{Graph, GraphError, NodeId, Op, ValueId};

use crate::annotate::{
    Annotations, Candidate, NodeAnnotation, NodeSetting, Refusal, ValueAnnotation,
    activation_operands, annotate_values, quantized_node,
};
use crate::backend::BackendConfig;
use crate::config::{ModelNames, QConfig, QConfigMapping, Resolver, nearest};
use crate::manager::PassRun;
use crate::pass::Outcome;
use crate::rewrite::Scope;
use crate::support;

/// What the user wrote.
#[derive(Clone, Debug, Default)]
pub struct EagerConfig {
    /// Rows of operators to fuse, by their names, in the order of the data flow (torch's `fuse_modules`).
    pub fuse: Vec<Vec<String>>,
    /// The values that become integers.
    pub quant_stubs: Vec<QuantStub>,
    /// The values that become float again.
    pub dequant_stubs: Vec<String>,
    /// The qconfig of modules and operators, by name; the empty name is the whole model, and inner names win. `None` leaves float.
    pub qconfig: IndexMap<String, Option<QConfig>>,
}

/// Where a value becomes integers (torch's `QuantStub`).
#[derive(Clone, Debug, PartialEq)]
pub struct QuantStub {
    /// The value.
    pub value: String,
    /// Its activations' specification counts.
    pub qconfig: QConfig,
}

/// Something in an [`EagerConfig`] that cannot be done, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EagerFault {
    /// A name of a row that does not mean one operator.
    Member {
        /// The row, as written.
        row: String,
        /// The name.
        name: String,
        /// What it finds, or what is nearest.
        candidates: Vec<String>,
        /// Whether it finds several.
        several: bool,
    },
    /// Two neighbours of a fuse list that are not neighbours in the graph.
    NotAdjacent {
        /// The row, as written.
        row: String,
        /// The operator.
        first: String,
        /// The one that does not read its result.
        second: String,
    },
    /// A result inside of a fuse list that others read as well.
    ReadElsewhere {
        /// The row, as written.
        row: String,
        /// The operator whose result it is.
        name: String,
        /// The other readers; `an output` for one of the model.
        readers: Vec<String>,
    },
    /// Operators that no fusion knows.
    UnknownPattern {
        /// The row, as written.
        row: String,
        /// Its operator types.
        pattern: String,
    },
    /// An operator in two fuse lists.
    Overlap {
        /// The second row, as written.
        row: String,
        /// The operator.
        name: String,
    },
    /// A fuse list that a condition of the fusion forbids.
    NotFused {
        /// The row, as written.
        row: String,
        /// The condition.
        reason: String,
    },
    /// A stub at a value that does not exist.
    UnknownValue {
        /// `quant_stub` or `dequant_stub`.
        stub: &'static str,
        /// The name.
        value: String,
        /// Values with names like it.
        nearest: Vec<String>,
    },
    /// A stub that changes nothing.
    UselessStub {
        /// `quant_stub` or `dequant_stub`.
        stub: &'static str,
        /// The value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// A value of integers at an operator that computes in float.
    QuantizedReachesFloat {
        /// The value.
        value: String,
        /// The operator.
        node: String,
        /// Its type.
        operator: String,
        /// Why it computes in float.
        reason: String,
    },
    /// A float value at a quantized layer.
    FloatReachesQuantized {
        /// The value.
        value: String,
        /// The operator.
        node: String,
        /// Its type.
        operator: String,
    },
    /// An output of the model that would be integers.
    QuantizedOutput {
        /// The value.
        value: String,
    },
    /// A qconfig that the engine cannot honour.
    QConfig {
        /// The setting.
        setting: String,
        /// The operator.
        node: String,
        /// Why not.
        reason: String,
    },
    /// A qconfig for a name that finds nothing.
    UnknownModule {
        /// The setting.
        setting: String,
        /// The names nearest to it.
        nearest: Vec<String>,
    },
}

impl fmt::Display for EagerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member {
                row,
                name,
                candidates,
                several: true,
            } => write!(
                f,
                "{}: `{name}` finds {} operators; write the name of one: `{}`",
                row,
                candidates.len(),
                candidates.join("`, `")
            ),
            Self::Member {
                row,
                name,
                candidates,
                ..
            } => write!(
                f,
                "{}: `{name}` finds no operator; the nearest names are `{}`",
                row,
                candidates.join("`, `")
            ),
            Self::NotAdjacent { row, first, second } => write!(
                f,
                "{}: `{second}` does not read the result of `{first}`; a row names operators that follow each other",
                row
            ),
            Self::ReadElsewhere { row, name, readers } => write!(
                f,
                "{}: the result of `{name}` is also read by `{}`, which fusing would take away",
                row,
                readers.join("`, `")
            ),
            Self::UnknownPattern { row, pattern } => write!(
                f,
                "{}: {pattern} is no known pattern; known are Conv or a linear layer, then BatchNormalization, Relu or Clip \
                 or both in this order; ConvTranspose and BatchNormalization; Add or Mul and then Relu or Clip",
                row
            ),
            Self::Overlap { row, name } => {
                write!(f, "{}: `{name}` stands in another fuse row, too", row)
            }
            Self::NotFused { row, reason } => write!(f, "{}: {reason}", row),
            Self::UnknownValue {
                stub,
                value,
                nearest,
            } => write!(
                f,
                "{stub} `{value}`: there is no such value outside of fused groups; the nearest are `{}`",
                nearest.join("`, `")
            ),
            Self::UselessStub {
                stub,
                value,
                reason,
            } => write!(f, "{stub} `{value}`: {reason}"),
            Self::QuantizedReachesFloat {
                value,
                node,
                operator,
                reason,
            } => write!(
                f,
                "the quantized value `{value}` reaches `{node}` ({operator}), which computes in float ({reason}); write: \
                 dequant_stub = [\"{value}\"]"
            ),
            Self::FloatReachesQuantized {
                value,
                node,
                operator,
            } => write!(
                f,
                "the float value `{value}` reaches the quantized `{node}` ({operator}); write: \
                 quant_stub = [{{ value = \"{value}\", qconfig = … }}], or qconfig \"none\" for `{node}`"
            ),
            Self::QuantizedOutput { value } => write!(
                f,
                "the output `{value}` is quantized; write: dequant_stub = [\"{value}\"]"
            ),
            Self::QConfig {
                setting,
                node,
                reason,
            } => {
                write!(f, "{setting} cannot be honoured for `{node}`: {reason}")
            }
            Self::UnknownModule { setting, nearest } => write!(
                f,
                "the setting `{setting}` matches nothing in the model; the nearest names are `{}`",
                nearest.join("`, `")
            ),
        }
    }
}

/// The fuse lists, found in a simplified graph.
#[derive(Clone, Debug, Default)]
pub struct FuseLists {
    rows: Vec<FuseRow>,
}

#[derive(Clone, Debug)]
struct FuseRow {
    /// As written.
    row: String,
    /// The model's nodes that become one.
    sources: BTreeSet<String>,
}

impl Scope for FuseLists {
    fn allows(&self, graph: &Graph, nodes: &[NodeId]) -> bool {
        self.rows.iter().any(|row| {
            let mut sources = nodes.iter().flat_map(|&id| graph.node(id).sources());
            sources.all(|source| row.sources.contains(source))
        })
    }
}

impl FuseLists {
    /// Finds the lists in a simplified graph and checks them: each name means one operator, neighbours are adjacent, no result between is
    /// read elsewhere, and the row is a known pattern.
    ///
    /// # Errors
    /// Every fault of every list.
    pub fn new(
        graph: &Graph,
        names: &ModelNames,
        lists: &[Vec<String>],
    ) -> Result<Self, Vec<EagerFault>> {
        let homes = homes(graph);
        let (mut rows, mut faults) = (Vec::<FuseRow>::new(), Vec::new());
        for list in lists {
            let written = format!("fuse {list:?}");
            let members: Result<Vec<NodeId>, EagerFault> = list
                .iter()
                .map(|name| member(names, &homes, &written, name))
                .collect();
            let checked = members.and_then(|members| {
                check_row(graph, &written, &members)?;
                Ok(members)
            });
            let members = match checked {
                Ok(members) => members,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            let sources = members.iter().flat_map(|&id| graph.node(id).sources());
            let sources: BTreeSet<String> = sources.cloned().collect();
            let mut others = rows.iter().flat_map(|row| row.sources.iter());
            if let Some(name) = others.find(|name| sources.contains(*name)) {
                faults.push(EagerFault::Overlap {
                    row: written.clone(),
                    name: name.clone(),
                });
            }
            rows.push(FuseRow {
                row: written,
                sources,
            });
        }
        if faults.is_empty() {
            Ok(Self { rows })
        } else {
            Err(faults)
        }
    }

    /// The lists that did not become one node each, with what the fusing passes said.
    pub fn unfused(&self, graph: &Graph, runs: &[PassRun]) -> Vec<EagerFault> {
        let is_one = |row: &FuseRow| {
            graph.node_ids().any(|id| {
                let sources = graph.node(id).sources();
                row.sources.iter().all(|source| sources.contains(source))
            })
        };
        let reason = |row: &FuseRow| {
            let of_row = graph.node_ids().filter(|&id| {
                let mut sources = graph.node(id).sources().iter();
                sources.any(|source| row.sources.contains(source))
            });
            let places: Vec<&str> = of_row.map(|id| graph.node(id).name()).collect();
            let events = runs.iter().flat_map(|run| &run.report.events);
            let mut skipped = events.filter_map(|event| match &event.outcome {
                Outcome::Skipped(reason) if places.contains(&event.place.as_str()) => {
                    Some(reason.clone())
                }
                _ => None,
            });
            let reason = skipped.next_back();
            reason.unwrap_or_else(|| "the operators cannot be fused in this form".to_owned())
        };
        let unfused = self.rows.iter().filter(|row| !is_one(row));
        unfused
            .map(|row| EagerFault::NotFused {
                row: row.row.clone(),
                reason: reason(row),
            })
            .collect()
    }
}

/// The nodes of a graph, by the names of the model's nodes that they stand for.
fn homes(graph: &Graph) -> BTreeMap<&str, NodeId> {
    let homes = graph.node_ids().flat_map(|id| {
        let sources = graph.node(id).sources().iter();
        sources.map(move |source| (source.as_str(), id))
    });
    homes.collect()
}

/// The nodes of a graph that the names of a row mean; `what` the row is for.
///
/// # Errors
/// A name that finds no node, or several.
pub fn find_row(
    graph: &Graph,
    names: &ModelNames,
    what: &str,
    row: &[String],
) -> Result<Vec<NodeId>, EagerFault> {
    let (homes, written) = (homes(graph), format!("{what} {row:?}"));
    row.iter()
        .map(|name| member(names, &homes, &written, name))
        .collect()
}

/// The node of a graph that a name of a row means.
fn member(
    names: &ModelNames,
    homes: &BTreeMap<&str, NodeId>,
    row: &str,
    name: &str,
) -> Result<NodeId, EagerFault> {
    let fault = |candidates: Vec<String>, several| EagerFault::Member {
        row: row.to_owned(),
        name: name.to_owned(),
        candidates,
        several,
    };
    let nodes_of = |sources: &[&str]| -> BTreeSet<NodeId> {
        let found = sources.iter().filter_map(|source| homes.get(source));
        found.copied().collect()
    };
    let found = match names.find_one(name) {
        Ok(single) => vec![single],
        Err(several) => several,
    };
    // A module may be a product and a sum that are one linear layer by now.
    let nodes = nodes_of(&found);
    match (nodes.len(), nodes.first()) {
        (1, Some(&single)) => Ok(single),
        (0, _) if found.is_empty() => Err(fault(nearest(name, names.all()), false)),
        (0, _) => Err(EagerFault::NotFused {
            row: row.to_owned(),
            reason: format!("`{name}` was folded into a constant or removed by simplification"),
        }),
        _ => Err(fault(found.into_iter().map(str::to_owned).collect(), true)),
    }
}

/// Checks the nodes of a fuse list against the graph and the known patterns.
fn check_row(graph: &Graph, row: &str, members: &[NodeId]) -> Result<(), EagerFault> {
    let row = row.to_owned();
    let name = |id: NodeId| graph.node(id).name().to_owned();
    for pair in members.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let result = support::result(graph, first);
        if !graph.node(second).inputs().contains(&Some(result)) {
            return Err(EagerFault::NotAdjacent {
                row,
                first: name(first),
                second: name(second),
            });
        }
        let others = graph.uses(result).into_iter().map(|used| used.node);
        let mut readers: Vec<String> = others.filter(|&id| id != second).map(name).collect();
        if graph.is_output(result) {
            readers.push("an output".to_owned());
        }
        if !readers.is_empty() {
            return Err(EagerFault::ReadElsewhere {
                row,
                name: name(first),
                readers,
            });
        }
    }
    let types: Vec<&str> = members
        .iter()
        .map(|&id| match graph.node(id).op() {
            Op::FusedLinear(_) => "Linear",
            op => op.name(),
        })
        .collect();
    let known = matches!(
        types.as_slice(),
        ["Conv" | "Linear" | "ConvTranspose", "BatchNormalization"]
            | ["Conv" | "Linear" | "Add" | "Mul", "Relu" | "Clip"]
            | ["Conv" | "Linear", "BatchNormalization", "Relu" | "Clip"]
    );
    if known {
        Ok(())
    } else {
        let pattern = types.join(" + ");
        Err(EagerFault::UnknownPattern { row, pattern })
    }
}

/// In which forms a value is there.
#[derive(Clone, Copy, Debug, Default)]
struct Forms {
    float: bool,
    integer: bool,
}

/// Decides for every node of a graph whose fuse lists are fused.
///
/// # Errors
/// When the graph has a cycle.
pub fn annotate(
    graph: &Graph,
    config: &EagerConfig,
    names: &ModelNames,
    backend: &BackendConfig,
) -> Result<Result<Annotations, Vec<EagerFault>>, GraphError> {
    let order = graph.order()?;
    let mapping = QConfigMapping {
        module_name: config.qconfig.clone(),
        ..QConfigMapping::default()
    };
    let resolver = Resolver::new(&mapping, names);
    let mut walk = Walk {
        graph,
        backend,
        resolver,
        forms: BTreeMap::new(),
        candidates: BTreeMap::new(),
        quantized: BTreeSet::new(),
        float: BTreeMap::new(),
        annotations: Annotations::default(),
        faults: Vec::new(),
    };
    for unmatched in walk.resolver.unmatched() {
        walk.faults.push(EagerFault::UnknownModule {
            setting: unmatched.setting.clone(),
            nearest: unmatched.nearest.clone(),
        });
    }
    let quant = walk.stubs(
        "quant_stub",
        config.quant_stubs.iter().map(|stub| stub.value.as_str()),
    );
    let dequant = walk.stubs(
        "dequant_stub",
        config.dequant_stubs.iter().map(String::as_str),
    );
    for &id in graph.inputs() {
        walk.produce(
            id,
            Forms {
                float: true,
                integer: false,
            },
            &quant,
            &dequant,
        );
    }
    for &id in &order {
        let forms = walk.visit(id);
        for &result in graph.node(id).outputs() {
            walk.produce(result, forms, &quant, &dequant);
        }
    }
    walk.check_outputs_and_stubs(&quant);
    if !walk.faults.is_empty() {
        return Ok(Err(walk.faults));
    }
    Ok(Ok(walk.finish(&order, config, &dequant)))
}

/// The way through the graph, operands first.
struct Walk<'a> {
    graph: &'a Graph,
    backend: &'a BackendConfig,
    resolver: Resolver<'a>,
    forms: BTreeMap<ValueId, Forms>,
    candidates: BTreeMap<NodeId, Candidate>,
    quantized: BTreeSet<NodeId>,
    float: BTreeMap<NodeId, String>,
    annotations: Annotations,
    faults: Vec<EagerFault>,
}

impl Walk<'_> {
    /// The values of stubs.
    fn stubs<'n>(
        &mut self,
        stub: &'static str,
        names: impl Iterator<Item = &'n str>,
    ) -> BTreeSet<ValueId> {
        let mut found = BTreeSet::new();
        for name in names {
            match self.graph.value_named(name) {
                Some(id) if self.graph.value(id).constant().is_none() => {
                    found.insert(id);
                }
                _ => {
                    let values = self.graph.value_ids().map(|id| self.graph.value(id));
                    let values = values.filter(|value| value.constant().is_none());
                    let value = name.to_owned();
                    let nearest = nearest(name, values.map(|value| value.name()));
                    self.faults.push(EagerFault::UnknownValue {
                        stub,
                        value,
                        nearest,
                    });
                }
            }
        }
        found
    }

    /// Records the forms of a value, with those that stubs add.
    fn produce(
        &mut self,
        id: ValueId,
        forms: Forms,
        quant: &BTreeSet<ValueId>,
        dequant: &BTreeSet<ValueId>,
    ) {
        let mut useless = |stub, reason| {
            self.faults.push(EagerFault::UselessStub {
                stub,
                value: self.graph.value(id).name().to_owned(),
                reason,
            });
        };
        if quant.contains(&id) && forms.integer {
            useless("quant_stub", "the value is quantized already");
        }
        if dequant.contains(&id) && !forms.integer {
            useless("dequant_stub", "the value is float already");
        }
        let forms = Forms {
            float: forms.float || dequant.contains(&id),
            integer: forms.integer || quant.contains(&id),
        };
        self.forms.insert(id, forms);
    }

    /// Decides for a node; gives the forms of its results.
    fn visit(&mut self, id: NodeId) -> Forms {
        const FLOAT: Forms = Forms {
            float: true,
            integer: false,
        };
        const INTEGER: Forms = Forms {
            float: false,
            integer: true,
        };
        let resolved = self.resolver.resolve(self.graph, id);
        self.annotations.settings.insert(
            id,
            NodeSetting {
                qconfig: resolved.qconfig.cloned(),
                origin: resolved.origin.clone(),
            },
        );
        let operands: Vec<ValueId> = activation_operands(self.graph, id).collect();
        let forms = |value: &ValueId| self.forms.get(value).copied();
        // Constants are there in both forms.
        let all = |form: fn(Forms) -> bool| operands.iter().all(|v| forms(v).is_none_or(form));
        let (all_float, all_integer) = (all(|f| f.float), all(|f| f.integer));
        let computed = operands.iter().any(|value| forms(value).is_some());
        let Some(qconfig) = resolved.qconfig else {
            let reason = format!("the configuration leaves it float ({})", resolved.origin);
            self.compute_in_float(id, reason);
            return FLOAT;
        };
        let candidate = match Candidate::new(self.graph, id, qconfig, self.backend) {
            Ok(candidate) => candidate,
            Err(Refusal::Operator(reason)) => {
                self.compute_in_float(id, reason);
                return FLOAT;
            }
            Err(Refusal::QConfig(reason)) => {
                self.faults.push(EagerFault::QConfig {
                    setting: resolved.origin,
                    node: self.graph.node(id).name().to_owned(),
                    reason,
                });
                return INTEGER;
            }
        };
        let weighted = candidate.class.has_weights();
        if !weighted && all_float && !(all_integer && computed) {
            self.compute_in_float(id, "its operands are float".to_owned());
            return FLOAT;
        }
        let missing: Vec<ValueId> = operands
            .iter()
            .copied()
            .filter(|value| self.forms.get(value).is_some_and(|forms| !forms.integer))
            .collect();
        for value in missing {
            let node = self.graph.node(id);
            self.faults.push(EagerFault::FloatReachesQuantized {
                value: self.graph.value(value).name().to_owned(),
                node: node.name().to_owned(),
                operator: node.op().name().to_owned(),
            });
        }
        self.candidates.insert(id, candidate);
        self.quantized.insert(id);
        INTEGER
    }

    fn compute_in_float(&mut self, id: NodeId, reason: String) {
        let node = self.graph.node(id);
        // Sizes are the same in both forms.
        let only_sizes = matches!(node.op(), Op::Shape(_) | Op::Size(_));
        let mut reported = BTreeSet::new();
        for &value in node.inputs().iter().flatten() {
            let only_integer = self.forms.get(&value).is_some_and(|forms| !forms.float);
            if only_integer && !only_sizes && reported.insert(value) {
                self.faults.push(EagerFault::QuantizedReachesFloat {
                    value: self.graph.value(value).name().to_owned(),
                    node: node.name().to_owned(),
                    operator: node.op().name().to_owned(),
                    reason: reason.clone(),
                });
            }
        }
        self.float.insert(id, reason);
    }

    fn check_outputs_and_stubs(&mut self, quant: &BTreeSet<ValueId>) {
        for output in self.graph.outputs() {
            if self
                .forms
                .get(&output.value)
                .is_some_and(|forms| !forms.float)
            {
                self.faults.push(EagerFault::QuantizedOutput {
                    value: self.graph.value(output.value).name().to_owned(),
                });
            }
        }
        for &id in quant {
            let mut readers = self.graph.uses(id).into_iter();
            if !readers.any(|used| self.quantized.contains(&used.node)) {
                self.faults.push(EagerFault::UselessStub {
                    stub: "quant_stub",
                    value: self.graph.value(id).name().to_owned(),
                    reason: "no operator with a qconfig reads the value",
                });
            }
        }
    }

    fn finish(
        mut self,
        order: &[NodeId],
        config: &EagerConfig,
        dequant: &BTreeSet<ValueId>,
    ) -> Annotations {
        let graph = self.graph;
        for stub in &config.quant_stubs {
            if let Some(observed) = graph.value_named(&stub.value) {
                let spec = stub.qconfig.activation;
                let annotation = ValueAnnotation { spec, observed };
                self.annotations.values.insert(observed, annotation);
            }
        }
        let (candidates, quantized) = (&self.candidates, &self.quantized);
        annotate_values(
            graph,
            order,
            candidates,
            quantized,
            self.backend,
            &mut self.annotations,
        );
        for &id in order {
            let annotation = match candidates.get(&id) {
                Some(candidate) => quantized_node(graph, id, candidate),
                None => NodeAnnotation::Float {
                    reason: self.float.remove(&id).unwrap_or_default(),
                },
            };
            self.annotations.nodes.insert(id, annotation);
        }
        for &value in dequant {
            let producer = graph.value(value).producer();
            let Some(candidate) = producer.and_then(|producer| candidates.get(&producer)) else {
                continue;
            };
            // A layer gives float from its accumulator; what has no weights gives integers, for the caller too.
            if !candidate.class.has_weights() {
                let own = || ValueAnnotation {
                    spec: candidate.qconfig.activation,
                    observed: value,
                };
                let values = &mut self.annotations.values;
                values.entry(value).or_insert_with(own);
                self.annotations.dequantized_outputs.insert(value);
            }
        }
        self.annotations
    }
}
