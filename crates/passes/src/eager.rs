//! Eager mode: fuses and quantizes only what the user lists.
//!
//! It brings torch's fuse lists, `QuantStub`, `DeQuantStub` and a qconfig for each module to graphs. A stub belongs to a named value: readers of the value
//! get integers after a [`QuantStub`], float after a dequant stub, and either after both. An operator with a qconfig computes integers from
//! integers. Where an operator needs a form that its operand does not have, torch fails at run time (`QuantizedCPU`); here
//! [`annotate`] reports every such place before anything runs, and says what to write. The result is the same kind of [`Annotations`] as in graph
//! mode, so all later steps are shared.

mod fault;
mod fuse_lists;

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use octofold_ir::{Graph, GraphError, NodeId, Op, ValueId};

use crate::annotate::{
    Annotations, Candidate, NodeAnnotation, NodeSetting, Refusal, Selection, ValueAnnotation,
    activation_operands, per_tensor,
};
use crate::backend::BackendConfig;
use crate::config::{ModelNames, QConfig, QConfigMapping, Resolver, nearest};

pub use fault::EagerFault;
pub use fuse_lists::{FuseLists, find_row};

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

/// A value that becomes integers (torch's `QuantStub`).
#[derive(Clone, Debug, PartialEq)]
pub struct QuantStub {
    /// The value.
    pub value: String,
    /// How it is quantized: the specification of activations.
    pub qconfig: QConfig,
}

/// The forms in which a value exists.
#[derive(Clone, Copy, Debug, Default)]
struct Forms {
    float: bool,
    integer: bool,
}

const FLOAT: Forms = Forms {
    float: true,
    integer: false,
};
const INTEGER: Forms = Forms {
    float: false,
    integer: true,
};

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
        walk.produce(id, FLOAT, &quant, &dequant);
    }
    for &id in &order {
        let forms = walk.visit(id);
        for &result in graph.node(id).outputs() {
            walk.produce(result, forms, &quant, &dequant);
        }
    }
    walk.check_outputs_and_stubs(&quant);
    walk.check_stub_qconfigs(&config.quant_stubs);
    if !walk.faults.is_empty() {
        return Ok(Err(walk.faults));
    }
    Ok(Ok(walk.finish(&order, config, &dequant)))
}

/// A walk through the graph, operands first.
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
        let forms = match (quant.contains(&id), dequant.contains(&id)) {
            (false, false) => forms,
            (true, true) => Forms {
                float: true,
                integer: true,
            },
            (true, false) => {
                if forms.integer {
                    useless("quant_stub", "the value is quantized already");
                }
                INTEGER
            }
            (false, true) => {
                if forms.float {
                    useless("dequant_stub", "the value is float already");
                }
                FLOAT
            }
        };
        self.forms.insert(id, forms);
    }

    /// Decides for a node; gives the forms of its results.
    fn visit(&mut self, id: NodeId) -> Forms {
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
        // Constants exist in both forms.
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
                    fuse_with: self.layer_before(id),
                });
            }
        }
        self.float.insert(id, reason);
    }

    /// The layer that a batch norm follows, and could be fused with.
    fn layer_before(&self, id: NodeId) -> Option<String> {
        let node = self.graph.node(id);
        let before = self
            .graph
            .node(self.graph.value(node.input(0)?).producer()?);
        let fits = matches!(node.op(), Op::BatchNormalization(_))
            && matches!(
                before.op(),
                Op::Conv(_) | Op::ConvTranspose(_) | Op::FusedLinear(_)
            );
        fits.then(|| before.name().to_owned())
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

    /// Each value has one stub, whose qconfig the operators that read the value must be able to take.
    fn check_stub_qconfigs(&mut self, stubs: &[QuantStub]) {
        let mut seen = BTreeSet::new();
        for stub in stubs {
            if !seen.insert(stub.value.as_str()) {
                self.faults.push(EagerFault::UselessStub {
                    stub: "quant_stub",
                    value: stub.value.clone(),
                    reason: "the value has another quant_stub",
                });
            }
            let spec = &stub.qconfig.activation;
            let Some(id) = self.graph.value_named(&stub.value) else {
                continue;
            };
            let readers = self.graph.uses(id).into_iter().map(|used| used.node);
            let refused = readers.filter_map(|node| {
                let class = self.candidates.get(&node)?.class;
                let reason = self.backend.execution(class, spec).err()?;
                Some((node, reason))
            });
            if let Some((node, reason)) = refused.into_iter().next() {
                let node = self.graph.node(node).name().to_owned();
                self.faults.push(EagerFault::QConfig {
                    setting: format!("quant_stub `{}`", stub.value),
                    node,
                    reason,
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
            let Some(observed) = graph.value_named(&stub.value) else {
                continue;
            };
            // What a quantized operator computes has that operator's parameters already.
            let producer = graph.value(observed).producer();
            if producer.is_none_or(|producer| !self.quantized.contains(&producer)) {
                let spec = per_tensor(stub.qconfig.activation);
                let annotation = ValueAnnotation { spec, observed };
                self.annotations.values.insert(observed, annotation);
            }
        }
        let selection = Selection {
            graph,
            backend: self.backend,
            order,
            candidates: self.candidates,
            quantized: self.quantized,
            // The user has put a quantizer at each value that eager mode quantizes.
            within: BTreeSet::new(),
        };
        let mut annotations = self.annotations;
        selection.annotate_values(&mut annotations);
        for &id in order {
            let annotation = match selection.candidates.get(&id) {
                Some(candidate) => candidate.annotation(graph, id),
                None => NodeAnnotation::Float {
                    reason: self.float.remove(&id).unwrap_or_default(),
                },
            };
            annotations.nodes.insert(id, annotation);
        }
        for &value in dequant {
            let producer = graph.value(value).producer();
            let candidate = producer.and_then(|producer| selection.candidates.get(&producer));
            // A layer gives float from its accumulator; what has no weights gives integers, for the caller too.
            if let Some(candidate) = candidate.filter(|candidate| !candidate.class.has_weights()) {
                let wish = per_tensor(candidate.qconfig.activation);
                selection.annotate_value(value, wish, &mut annotations);
                annotations.dequantized_outputs.insert(value);
            }
        }
        annotations
    }
}
