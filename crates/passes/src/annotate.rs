//! Annotation: from the user's wishes and the engine's abilities to a decision for every node and value.
//!
//! [`annotate`] is graph mode's way to a table of decisions; [`crate::eager`] is the other. Graph mode works backwards from the layers with
//! weights, which alone make quantization worth it: a layer demands its input quantized; an operator without weights is
//! quantized when what it computes is demanded. So the last layer gives float from its accumulator, and what only feeds the outputs
//! stays float. What the user leaves float changes nothing else: an operator that would have been demanded without that exclusion stays quantized
//! where its operands are. Values whose parameters must be equal (before and after a reshape or a max pool) share one
//! observer; a reader that wants another type than its operand has gets its own conversion. Insertion passes only follow the table.

mod concatenation;

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use octofold_ir::{Graph, GraphError, NodeId, Op, Use, ValueId};
use octofold_quant::{Granularity, ObserverKind, QuantSpec, QuantType};
use octofold_tensor::DType;

use crate::backend::{BackendConfig, Execution, Observation, OpClass};
use crate::config::{QConfig, Resolver, SpecEdit};
use crate::support;

/// How a value is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueAnnotation {
    /// The specification.
    pub spec: QuantSpec,
    /// The value whose observer decides the parameters; the value itself unless it shares another's.
    pub observed: ValueId,
}

/// What becomes of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeAnnotation {
    /// It is quantized.
    Quantized {
        /// Its class.
        class: OpClass,
        /// How its weights are quantized, when it has some.
        weight: Option<QuantSpec>,
        /// Whether an integer kernel computes it.
        execution: Execution,
    },
    /// It stays float.
    Float {
        /// Why.
        reason: String,
    },
}

/// The QConfig of a node and the setting that it comes from, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSetting {
    /// The QConfig; `None` leaves the node float.
    pub qconfig: Option<QConfig>,
    /// The setting.
    pub origin: String,
}

/// A setting that the engine cannot honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhonoured {
    /// The setting, in words.
    pub setting: String,
    /// The node or value that it is about.
    pub place: String,
    /// Why not.
    pub reason: String,
}

/// The decision for every node and every quantized value of a fused float graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    /// The quantized values.
    pub values: IndexMap<ValueId, ValueAnnotation>,
    /// Operands that a reader takes in another type than the value has.
    pub conversions: IndexMap<Use, ValueAnnotation>,
    /// The quantized values that an output of the graph gives dequantized. Other outputs give what is computed before it is quantized.
    pub dequantized_outputs: BTreeSet<ValueId>,
    /// All nodes.
    pub nodes: IndexMap<NodeId, NodeAnnotation>,
    /// The QConfigs of all nodes.
    pub settings: IndexMap<NodeId, NodeSetting>,
    /// The settings that are not honoured, in the order of the graph.
    pub unhonoured: Vec<Unhonoured>,
}

impl Annotations {
    /// The values that have an observer of their own, in order.
    pub fn observed(&self) -> impl Iterator<Item = (ValueId, &QuantSpec)> {
        let own = self
            .values
            .iter()
            .filter(|(id, annotation)| **id == annotation.observed);
        own.map(|(id, annotation)| (*id, &annotation.spec))
    }

    /// Whether a node is quantized.
    pub fn is_quantized(&self, node: NodeId) -> bool {
        matches!(
            self.nodes.get(&node),
            Some(NodeAnnotation::Quantized { .. })
        )
    }

    /// How the operand of a node is quantized: its own conversion, or as the value is.
    pub fn of_operand(&self, graph: &Graph, used: Use) -> Option<&ValueAnnotation> {
        self.conversions
            .get(&used)
            .or_else(|| self.values.get(&graph.node(used.node).input(used.slot)?))
    }
}

/// A node that may be quantized.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) class: OpClass,
    pub(crate) qconfig: QConfig,
    pub(crate) execution: Execution,
}

impl Candidate {
    /// What the engine says of a node under a QConfig.
    pub(crate) fn new(
        graph: &Graph,
        id: NodeId,
        qconfig: &QConfig,
        backend: &BackendConfig,
    ) -> Result<Self, Refusal> {
        let class = backend.classify(graph, id).map_err(Refusal::Operator)?;
        if class.has_weights()
            && let Some(reason) = backend.refuses_weight(class, &qconfig.weight)
        {
            return Err(Refusal::QConfig(reason));
        }
        let execution = backend
            .execution(class, &qconfig.activation)
            .map_err(Refusal::QConfig)?;
        Ok(Self {
            class,
            qconfig: qconfig.clone(),
            execution,
        })
    }
}

/// Why a node is no candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing could quantize the operator.
    Operator(String),
    /// The engine can, but not so.
    QConfig(String),
}

/// Decides for every node of a fused float graph, in graph mode.
///
/// # Errors
/// When the graph has a cycle.
pub fn annotate(
    graph: &Graph,
    resolver: &Resolver<'_>,
    values: &IndexMap<String, SpecEdit>,
    backend: &BackendConfig,
) -> Result<Annotations, GraphError> {
    let order = graph.order()?;
    let mut annotations = Annotations::default();
    let mut candidates: BTreeMap<NodeId, Candidate> = BTreeMap::new();
    // The classes of all nodes, those included that the user leaves float.
    let mut classes: BTreeMap<NodeId, OpClass> = BTreeMap::new();
    let mut float: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut refused: Vec<(String, bool, NodeId, String)> = Vec::new();
    let mut named: BTreeSet<NodeId> = BTreeSet::new();
    for &id in &order {
        let resolved = resolver.resolve(graph, id);
        annotations.settings.insert(
            id,
            NodeSetting {
                qconfig: resolved.qconfig.cloned(),
                origin: resolved.origin.clone(),
            },
        );
        let class = backend.classify(graph, id);
        if let Ok(class) = class {
            classes.insert(id, class);
        }
        if resolved.named && resolved.qconfig.is_some() {
            named.insert(id);
        }
        let Some(qconfig) = resolved.qconfig else {
            let reason = match class {
                Err(reason) if resolved.named => reason,
                _ => format!("the configuration leaves it float ({})", resolved.origin),
            };
            float.insert(id, reason);
            continue;
        };
        match Candidate::new(graph, id, qconfig, backend) {
            Ok(candidate) => {
                candidates.insert(id, candidate);
            }
            Err(Refusal::Operator(reason)) => {
                if resolved.named {
                    refused.push((resolved.origin, false, id, reason.clone()));
                }
                float.insert(id, reason);
            }
            Err(Refusal::QConfig(reason)) => {
                refused.push((resolved.origin, true, id, reason.clone()));
                float.insert(id, reason);
            }
        }
    }
    let quantized = quantized_nodes(graph, &order, &candidates, &classes);
    let settled: BTreeSet<ValueId> = values
        .keys()
        .filter_map(|name| graph.value_named(name))
        .collect();
    let within = within_functions(graph, &candidates, &quantized, &settled);
    // A setting may name a module in which only some operators can be quantized; it fails when none can.
    for (origin, asks_too_much, id, reason) in refused {
        let helps = |other: &NodeId| annotations.settings[other].origin == origin;
        if asks_too_much || !candidates.keys().any(helps) {
            annotations.unhonoured.push(Unhonoured {
                setting: origin,
                place: graph.node(id).name().to_owned(),
                reason,
            });
        }
    }
    annotations
        .unhonoured
        .extend(without_effect(graph, &annotations, &named, &quantized));
    annotate_values(
        graph,
        &order,
        &candidates,
        &quantized,
        &within,
        backend,
        &mut annotations,
    );
    concatenation::share(graph, &order, &quantized, &settled, &mut annotations);
    // A name that the model does not have is reported as such, once.
    let unmatched = resolver.unmatched();
    let known = values.iter().filter(|(name, _)| {
        let setting = format!("value {name}");
        unmatched
            .iter()
            .all(|unmatched| unmatched.setting != setting)
    });
    override_values(graph, known, backend, &candidates, &mut annotations);
    for id in order {
        let annotation = match candidates.get(&id) {
            Some(candidate) if quantized.contains(&id) => quantized_node(graph, id, candidate),
            Some(_) => NodeAnnotation::Float {
                reason: "no quantized layer reads its result".to_owned(),
            },
            None => NodeAnnotation::Float {
                reason: float.remove(&id).unwrap_or_default(),
            },
        };
        annotations.nodes.insert(id, annotation);
    }
    Ok(annotations)
}

/// The settings that name operators to quantize of which none is: all of them compute what nothing quantized reads.
fn without_effect(
    graph: &Graph,
    annotations: &Annotations,
    named: &BTreeSet<NodeId>,
    quantized: &BTreeSet<NodeId>,
) -> Vec<Unhonoured> {
    let mut settings: IndexMap<&str, Option<NodeId>> = IndexMap::new();
    for id in named {
        let first = settings
            .entry(&annotations.settings[id].origin)
            .or_insert(Some(*id));
        if quantized.contains(id) {
            *first = None;
        }
    }
    let known = |setting: &str| {
        let mut told = annotations.unhonoured.iter();
        told.any(|unhonoured| unhonoured.setting == setting)
    };
    let idle = settings
        .into_iter()
        .filter_map(|(setting, first)| Some((setting, first?)))
        .filter(|(setting, _)| !known(setting));
    idle.map(|(setting, id)| Unhonoured {
        setting: setting.to_owned(),
        place: graph.node(id).name().to_owned(),
        reason: "no quantized layer reads its result".to_owned(),
    })
    .collect()
}

/// The operands of a node that carry activations, as uses: all that are f32, the weights and bias of a layer excepted.
pub(crate) fn activation_uses(graph: &Graph, id: NodeId) -> Vec<(Use, ValueId)> {
    let node = graph.node(id);
    // Bounds, sizes, weights and single constant numbers are part of the operator, not activations.
    let count = match node.op() {
        Op::Add(_) | Op::Mul(_) | Op::FusedBinary(_) | Op::Concat(_) => node.inputs().len(),
        Op::Pow(_) | Op::Min(_) | Op::Max(_) => node.inputs().len(),
        _ => 1,
    };
    let is_concat = matches!(node.op(), Op::Concat(_));
    let single = |value: ValueId| !is_concat && support::scalar(graph, value).is_some();
    let operands = node.inputs().iter().take(count).enumerate();
    operands
        .filter_map(|(slot, value)| Some((Use { node: id, slot }, (*value)?)))
        .filter(|&(_, value)| graph.value(value).ty().dtype == DType::F32 && !single(value))
        .collect()
}

/// The values of [`activation_uses`].
pub(crate) fn activation_operands(
    graph: &Graph,
    id: NodeId,
) -> impl Iterator<Item = ValueId> + use<> {
    activation_uses(graph, id)
        .into_iter()
        .map(|(_, value)| value)
}

/// The nodes to quantize: layers with weights, what computes a demanded value, and what would have computed one without
/// exclusions and has quantized operands.
fn quantized_nodes(
    graph: &Graph,
    order: &[NodeId],
    candidates: &BTreeMap<NodeId, Candidate>,
    classes: &BTreeMap<NodeId, OpClass>,
) -> BTreeSet<NodeId> {
    let mut quantized = demanded_nodes(graph, order, |id| Some(candidates.get(&id)?.class));
    let everything = demanded_nodes(graph, order, |id| classes.get(&id).copied());
    for &id in order {
        let mut operands = activation_operands(graph, id);
        let is_open = everything.contains(&id) && candidates.contains_key(&id);
        let computed = |value: ValueId| {
            let producer = graph.value(value).producer();
            producer.is_some_and(|producer| quantized.contains(&producer))
        };
        if is_open && operands.all(computed) {
            quantized.insert(id);
        }
    }
    quantized
}

/// The nodes with a class that compute what layers with weights demand, and these layers.
fn demanded_nodes(
    graph: &Graph,
    order: &[NodeId],
    class_of: impl Fn(NodeId) -> Option<OpClass>,
) -> BTreeSet<NodeId> {
    let mut demanded: BTreeSet<ValueId> = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for &id in order.iter().rev() {
        let Some(class) = class_of(id) else {
            continue;
        };
        let mut results = graph.node(id).outputs().iter();
        if class.has_weights() || results.any(|result| demanded.contains(result)) {
            nodes.insert(id);
            demanded.extend(activation_operands(graph, id));
        }
    }
    nodes
}

/// The values between functions of one value: what one function gives and only another one reads.
///
/// A row of such functions is itself a function of one value, and one table computes it from the first operand to the last result. So what
/// lies between is never rounded to integers, which would cost accuracy and time. A value stays quantized when it is `settled`, that
/// is, has a setting of its own, or when the functions want different types.
fn within_functions(
    graph: &Graph,
    candidates: &BTreeMap<NodeId, Candidate>,
    quantized: &BTreeSet<NodeId>,
    settled: &BTreeSet<ValueId>,
) -> BTreeSet<ValueId> {
    let function = |id: &NodeId| {
        let candidate = candidates.get(id)?;
        let is_function =
            candidate.class == OpClass::Pointwise && candidate.execution == Execution::Integer;
        (is_function && quantized.contains(id)).then_some(candidate.qconfig.activation)
    };
    let mut within = BTreeSet::new();
    for id in quantized {
        let result = support::result(graph, *id);
        let (Some(first), Some(reader)) = (function(id), graph.single_use(result)) else {
            continue;
        };
        let same = function(&reader.node).is_some_and(|second| second.dtype == first.dtype);
        if same && !is_fixed(&first) && !settled.contains(&result) {
            within.insert(result);
        }
    }
    within
}

/// The parameters that a function's range fixes: sigmoid and hard-sigmoid lie in 0..1, tanh in -1..1.
fn fixed_spec(op: &Op, spec: &QuantSpec) -> Option<QuantSpec> {
    let full_u8 = spec.dtype == QuantType::Uint8 && spec.quant_min == 0 && spec.quant_max == 255;
    match op {
        Op::Sigmoid(_) | Op::HardSigmoid(_) if full_u8 => Some(spec.fixed(1.0 / 256.0, 0)),
        Op::Tanh(_) if full_u8 => Some(spec.fixed(2.0 / 256.0, 128)),
        _ => None,
    }
}

/// The specification and observer of every value that a quantized node reads, and of those that only operators without weights
/// compute: these have no float result. Those in `within` have none either, and no integers: they exist in no kernel.
pub(crate) fn annotate_values(
    graph: &Graph,
    order: &[NodeId],
    candidates: &BTreeMap<NodeId, Candidate>,
    quantized: &BTreeSet<NodeId>,
    within: &BTreeSet<ValueId>,
    backend: &BackendConfig,
    annotations: &mut Annotations,
) {
    for &id in order.iter().filter(|id| quantized.contains(id)) {
        let candidate = &candidates[&id];
        let wish = per_tensor(candidate.qconfig.activation);
        for (used, operand) in activation_uses(graph, id) {
            if within.contains(&operand) {
                continue;
            }
            if !annotations.values.contains_key(&operand) {
                let annotation = new_annotation(
                    graph,
                    operand,
                    wish,
                    candidates,
                    quantized,
                    backend,
                    annotations,
                );
                annotations.values.insert(operand, annotation);
            }
            let given = &annotations.values[&operand];
            if given.spec.dtype != wish.dtype {
                // What the value's observer saw does not depend on the type and serves both; given parameters are of one type only.
                let observer = if is_fixed(&given.spec) {
                    wish.observer
                } else {
                    given.spec.observer
                };
                let spec = QuantSpec { observer, ..wish };
                let observed = given.observed;
                annotations
                    .conversions
                    .insert(used, ValueAnnotation { spec, observed });
            }
        }
        if candidate.class.has_weights() {
            continue;
        }
        for &result in graph.node(id).outputs() {
            let is_read = graph.is_used(result);
            if is_read
                && !within.contains(&result)
                && graph.value(result).ty().dtype == DType::F32
                && !annotations.values.contains_key(&result)
            {
                let annotation = new_annotation(
                    graph,
                    result,
                    wish,
                    candidates,
                    quantized,
                    backend,
                    annotations,
                );
                annotations.values.insert(result, annotation);
            }
        }
    }
}

/// Activations have one scale a tensor, whatever a QConfig for weights and activations alike says.
pub(crate) fn per_tensor(spec: QuantSpec) -> QuantSpec {
    QuantSpec {
        granularity: Granularity::PerTensor,
        ..spec
    }
}

/// The annotation of a value: what its producer wishes or shares, or the wish of the first reader where no quantized node computes it.
pub(crate) fn new_annotation(
    graph: &Graph,
    value: ValueId,
    reader: QuantSpec,
    candidates: &BTreeMap<NodeId, Candidate>,
    quantized: &BTreeSet<NodeId>,
    backend: &BackendConfig,
    annotations: &Annotations,
) -> ValueAnnotation {
    let producer = graph.value(value).producer();
    let Some(producer) = producer.filter(|producer| quantized.contains(producer)) else {
        return ValueAnnotation {
            spec: reader,
            observed: value,
        };
    };
    let candidate = &candidates[&producer];
    let capability = backend.capability(candidate.class);
    let shares =
        capability.is_some_and(|capability| capability.observation == Observation::SharedWithInput);
    let first = Use {
        node: producer,
        slot: 0,
    };
    if shares && let Some(shared) = annotations.of_operand(graph, first) {
        return shared.clone();
    }
    let wish = per_tensor(candidate.qconfig.activation);
    let fixed = fixed_spec(graph.node(producer).op(), &wish);
    ValueAnnotation {
        // Parameters that the user gives are stronger.
        spec: fixed.filter(|_| !is_fixed(&wish)).unwrap_or(wish),
        observed: value,
    }
}

/// Applies the settings of single values. Values that share an observer change together: those of the same type in all that the setting says, others
/// in their observer.
fn override_values<'a>(
    graph: &Graph,
    edits: impl Iterator<Item = (&'a String, &'a SpecEdit)>,
    backend: &BackendConfig,
    candidates: &BTreeMap<NodeId, Candidate>,
    annotations: &mut Annotations,
) {
    let mut changed: BTreeMap<ValueId, &str> = BTreeMap::new();
    for (name, edit) in edits {
        let found = graph.value_named(name);
        let found = found.and_then(|id| Some((id, annotations.values.get(&id)?.clone())));
        let result = match found {
            None => Err(
                "the value is not quantized: nothing quantized reads it under this name".to_owned(),
            ),
            Some((_, annotation)) => match changed.insert(annotation.observed, name) {
                Some(other) => Err(format!(
                    "the value shares its parameters with `{other}`, which has a setting of its own"
                )),
                None => override_value(graph, &annotation, edit, backend, candidates, annotations),
            },
        };
        if let Err(reason) = result {
            annotations.unhonoured.push(Unhonoured {
                setting: format!("value {name}"),
                place: name.clone(),
                reason,
            });
        }
    }
}

/// Applies the setting of one value to all that share its observer, or says why not.
fn override_value(
    graph: &Graph,
    annotation: &ValueAnnotation,
    edit: &SpecEdit,
    backend: &BackendConfig,
    candidates: &BTreeMap<NodeId, Candidate>,
    annotations: &mut Annotations,
) -> Result<(), String> {
    let mut spec = annotation.spec;
    edit.apply(&mut spec).map_err(|error| error.to_string())?;
    spec.check().map_err(|error| error.to_string())?;
    let dtype = annotation.spec.dtype;
    // The type decides which kernels run, and that is the operators' matter.
    if spec.dtype != dtype {
        return Err(
            "a value has the type of the operators that compute and read it: set their qconfig"
                .to_owned(),
        );
    }
    let shares = |other: &ValueAnnotation| other.observed == annotation.observed;
    let members = annotations.values.iter().filter(|(_, other)| shares(other));
    for (&id, _) in members.filter(|(_, other)| other.spec.dtype == dtype) {
        let users = graph.value(id).producer().into_iter();
        let users = users.chain(graph.uses(id).into_iter().map(|used| used.node));
        let mut classes = users.filter_map(|node| Some(candidates.get(&node)?.class));
        if let Some(reason) = classes.find_map(|class| backend.execution(class, &spec).err()) {
            return Err(reason);
        }
    }
    let values = annotations.values.values_mut();
    for other in values.chain(annotations.conversions.values_mut()) {
        if !shares(other) {
            continue;
        }
        if other.spec.dtype == dtype {
            other.spec = spec;
        } else if !is_fixed(&spec) {
            other.spec.observer = spec.observer;
        }
    }
    Ok(())
}

/// The annotation of a quantized node.
pub(crate) fn quantized_node(graph: &Graph, id: NodeId, candidate: &Candidate) -> NodeAnnotation {
    let mut weight = candidate
        .class
        .has_weights()
        .then_some(candidate.qconfig.weight);
    if let Some(QuantSpec {
        granularity: Granularity::PerChannel { axis },
        ..
    }) = &mut weight
    {
        // Output channels are axis 0 of a convolution's weights and axis 1 of a linear layer's.
        *axis = usize::from(matches!(graph.node(id).op(), Op::FusedLinear(_)));
    }
    NodeAnnotation::Quantized {
        class: candidate.class,
        weight,
        execution: candidate.execution,
    }
}

/// Whether a specification needs no observation.
pub(crate) fn is_fixed(spec: &QuantSpec) -> bool {
    matches!(spec.observer, ObserverKind::Fixed(_))
}
