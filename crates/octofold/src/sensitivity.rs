//! Sensitivity: which layers cost the accuracy of a quantized model.
//!
//! Each quantized layer with weights is tried in two models. **Alone**, it is the only quantized layer; this shows the error that it makes by itself. **Without**,
//! it is the only float layer; this shows what leaving it float would gain. The second ranks by default, since it is what a list of exclusions
//! needs; see [`Rank`].
//!
//! All variants are annotations of one fused graph, and differ by exclusions only. So the model is calibrated once, with observers at all
//! values that any variant needs: a layer alone needs its own input observed where in the whole model that value shares an earlier one's observer.
//! What a value needs is almost always the same everywhere. It differs where neighbours have different QConfigs, since a value takes that of the operator
//! which computes it, or of the reader where that one is float; calibration then takes a second run for the other observer.
//!
//! Variants are made, compiled and run one after the other. In memory are one variant, the float graph, and, while they are small, the samples with the float
//! model's outputs (see [`Reference`]).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use octofold_calibrate::{DataSet, Reference, Score, TopK};
use octofold_ir::{Graph, NodeId, ValueId};
use octofold_passes::annotate::{Annotations, NodeAnnotation, ValueAnnotation, annotate};
use octofold_passes::config::{QConfigMapping, Resolver, UnmatchedSetting, nearest};
use octofold_passes::convert::Statistics;
use octofold_quant::{ObserverKind, ObserverState, QuantSpec};
use octofold_runtime::{Session, SessionOptions};
use octofold_tensor::Tensor;
use serde::Serialize;

use crate::Error;
use crate::lowering::{compile, lower, lower_for};
use crate::model::Model;
use crate::prepared::{Prepared, convert_graph, observe, observing_session};
use crate::recipe::{Mode, Recipe};
use crate::repair::{correct_graph, layer_input_means};

/// The samples and float outputs that are kept between variants, in bytes.
const KEPT: usize = 256 << 20;

/// What [`sensitivity`] tries, and how it ranks.
#[derive(Clone, Debug, Default)]
pub struct SensitivityOptions {
    /// The classes of the data, to rank by accuracy instead of by error. Layers often differ by a few samples, which is chance; errors say more.
    pub top: Option<TopK>,
    /// The score that ranks.
    pub rank: Rank,
    /// Names of the layers or modules to try; all layers when empty.
    pub layers: Vec<String>,
    /// How the models are run.
    pub session: SessionOptions,
}

/// The score by which layers are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rank {
    /// That of the quantized model with the layer float, the best first: the layer whose exclusion gains most. The score alone decides between equals.
    #[default]
    Without,
    /// That of the model with the layer alone quantized, the worst first: the layer with the largest error of its own. The score without decides between equals.
    Alone,
}

/// Which layers cost accuracy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    /// The float model.
    pub float: Score,
    /// The model with all its layers quantized.
    pub whole: Score,
    /// The layers, the most sensitive first: by the metric of the score that ranks, where there is one, then by its error, then by the other score.
    pub layers: Vec<LayerSensitivity>,
    /// Settings that match nothing or cannot be honoured, where that is allowed.
    pub warnings: Vec<String>,
}

/// What a layer costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSensitivity {
    /// The name by which an exclusion finds this layer and no other.
    pub name: String,
    /// The layer's node in the model.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The model with this layer alone quantized.
    pub alone: Score,
    /// The quantized model with this layer float.
    pub without: Score,
}

/// A layer with weights: its names, and the model's nodes that it stands for.
struct Layer {
    name: String,
    node: String,
    operator: String,
    sources: BTreeSet<String>,
}

/// Tries each layer with weights alone, and the quantized model without it. `recipe` says how the whole model is quantized.
///
/// `calibration` decides the parameters, `data` the scores. `progress` gets the number of variants that are done, and the number of all.
///
/// # Errors
/// [`Error::GraphModeOnly`] for a recipe in eager mode; when a setting matches nothing in the model or the engine cannot honour it, the engine has no
/// kernels, data do not fit, or outputs cannot be compared.
pub fn sensitivity(
    model: &Model,
    recipe: &Recipe,
    calibration: &DataSet,
    data: &DataSet,
    options: SensitivityOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Sensitivity, Error> {
    let Mode::Graph { mapping, .. } = &recipe.mode else {
        return Err(Error::GraphModeOnly("sensitivity"));
    };
    let (backend, session) = (&recipe.backend, options.session);
    let prepared = recipe.prepare(model)?;
    let layers = chosen(model, layers(model, &prepared), &options.layers)?;
    let total = 1 + 2 * layers.len();
    progress(0, total);
    // A variant's settings may match nothing. Those of the whole mapping are checked above.
    let variant = |excluded: &dyn Fn(&str) -> bool| -> Result<Annotations, Error> {
        let nodes = model.graph.node_ids();
        let names = nodes.map(|id| model.graph.node(id).name());
        let mapping = names
            .filter(|name| excluded(name))
            .fold(mapping.clone(), QConfigMapping::exclude_name);
        let resolver = Resolver::new(&mapping, &model.names);
        Ok(annotate(
            &prepared.graph,
            &resolver,
            &mapping.values,
            backend,
        )?)
    };
    let mut variants = vec![prepared.annotations.clone()];
    for layer in &layers {
        variants.push(variant(&|name| !layer.sources.contains(name))?);
        variants.push(variant(&|name| layer.sources.contains(name))?);
    }
    let observations = Observations::new(&prepared.graph, &variants, calibration, session)?;
    let means = match recipe.bias_correction {
        false => None,
        true => Some(layer_input_means(
            &prepared.graph,
            &prepared.annotations,
            calibration,
            session,
            |_| {},
        )?),
    };
    let (float, _) = lower(&model.graph)?;
    let float = Session::new(Arc::new(compile(&float)?), session)?;
    let mut reference = Reference::new(float, data, options.top.as_ref(), KEPT)?;
    let mut scores = Vec::with_capacity(total);
    for annotations in &variants {
        let graph = quantized(&prepared.graph, annotations, &observations, means.as_ref())?;
        let (lowered, _) = lower_for(&graph, backend)?;
        let mut candidate = Session::new(Arc::new(compile(&lowered)?), session)?;
        scores.push(reference.score(&mut candidate)?);
        progress(scores.len(), total);
    }
    let pairs = scores[1..].chunks_exact(2);
    let mut layers: Vec<LayerSensitivity> = layers
        .into_iter()
        .zip(pairs)
        .map(|(layer, pair)| LayerSensitivity {
            name: layer.name,
            node: layer.node,
            operator: layer.operator,
            alone: pair[0],
            without: pair[1],
        })
        .collect();
    // The sort is stable: what costs the same stays in the order of the model.
    layers.sort_by(|a, b| options.rank.compare(a, b));
    Ok(Sensitivity {
        float: reference.own(),
        whole: scores[0],
        layers,
        warnings: prepared.warnings,
    })
}

impl Rank {
    /// The more sensitive layer first.
    fn compare(self, a: &LayerSensitivity, b: &LayerSensitivity) -> Ordering {
        let alone = by_cost(&a.alone, &b.alone);
        let without = by_cost(&b.without, &a.without);
        match self {
            Self::Without => without.then(alone),
            Self::Alone => alone.then(without),
        }
    }
}

/// Worse scores first.
fn by_cost(a: &Score, b: &Score) -> Ordering {
    let metric = |score: &Score| score.metric.unwrap_or(f64::INFINITY);
    let decibels = |score: &Score| score.sqnr_db.unwrap_or(f64::INFINITY);
    metric(a)
        .total_cmp(&metric(b))
        .then(decibels(a).total_cmp(&decibels(b)))
}

/// The quantized layers with weights, in the order of the graph.
fn layers(model: &Model, prepared: &Prepared) -> Vec<Layer> {
    let nodes = prepared.annotations.nodes.iter();
    let quantized = nodes.filter(|(_, annotation)| {
        matches!(
            annotation,
            NodeAnnotation::Quantized {
                weight: Some(_),
                ..
            }
        )
    });
    quantized
        .filter_map(|(&id, _)| Layer::of(model, &prepared.graph, id))
        .collect()
}

/// The layers that names find; all of them without names.
fn chosen(model: &Model, layers: Vec<Layer>, names: &[String]) -> Result<Vec<Layer>, Error> {
    if names.is_empty() {
        return Ok(layers);
    }
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    let mut unmatched = Vec::new();
    for name in names {
        let found = model.names.find(name);
        let finds = |layer: &Layer| found.iter().any(|node| layer.sources.contains(*node));
        if layers.iter().any(finds) {
            wanted.extend(found);
        } else {
            unmatched.push(UnmatchedSetting {
                setting: format!("layers {name}"),
                nearest: nearest(name, layers.iter().map(|layer| layer.name.as_str())),
                harmless: false,
            });
        }
    }
    if !unmatched.is_empty() {
        return Err(Error::Unmatched(unmatched));
    }
    let is_wanted = |layer: &Layer| layer.sources.iter().any(|node| wanted.contains(&**node));
    Ok(layers.into_iter().filter(is_wanted).collect())
}

impl Layer {
    /// The names of a node of the fused graph. A layer without a node of the model cannot be excluded, so it does not count.
    fn of(model: &Model, fused: &Graph, id: NodeId) -> Option<Self> {
        let node = fused.node(id);
        let sources: BTreeSet<String> = node.sources().iter().cloned().collect();
        let own = model.graph.node_ids().filter(|&id| {
            let name = model.graph.node(id).name();
            sources.contains(name)
        });
        // Of a convolution with its batch norm and activation the convolution, which has the name of the fused node or else comes first.
        let own: Vec<NodeId> = own.collect();
        let named = own
            .iter()
            .find(|&&id| model.graph.node(id).name() == node.name());
        let main = *named.or(own.first())?;
        Some(Self {
            name: best_address(model, main, &sources),
            node: model.graph.node(main).name().to_owned(),
            operator: model.graph.node(main).op().name().to_owned(),
            sources,
        })
    }
}

/// The shortest module name that finds a node and nothing outside its layer, else the node's own name, else one of its results. Names that a
/// shell would split come last.
fn best_address(model: &Model, id: NodeId, layer: &BTreeSet<String>) -> String {
    let node = model.graph.node(id);
    let is_plain = |name: &str| {
        !name.starts_with('-')
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "_-./:+@%,=".contains(c))
    };
    let is_exact = |name: &str| {
        let found = model.names.find(name);
        found.contains(&node.name()) && found.iter().all(|node| layer.contains(*node))
    };
    let rank = |name: &str| {
        let is_result = node
            .outputs()
            .iter()
            .any(|&value| model.graph.value(value).name() == name);
        match (name == node.name(), is_result) {
            (false, false) => 0,
            (true, _) => 1,
            (false, true) => 2,
        }
    };
    let addresses = model.names.addresses(&model.graph, id).into_iter();
    let best = addresses
        .filter(|name| is_exact(name))
        .min_by_key(|name| (!is_plain(name), rank(name), name.len()));
    best.unwrap_or(node.name()).to_owned()
}

/// What calibration observed for all variants: of a value one state for each observer that a variant has for it.
struct Observations {
    states: BTreeMap<String, Vec<(ObserverKind, ObserverState)>>,
}

impl Observations {
    fn new(
        graph: &Graph,
        variants: &[Annotations],
        data: &DataSet,
        options: SessionOptions,
    ) -> Result<Self, Error> {
        // One run for all first observers of values, one more for their second ones, and so on.
        let mut runs: Vec<IndexMap<ValueId, QuantSpec>> = Vec::new();
        for (id, spec) in variants.iter().flat_map(Annotations::observed) {
            let is_known = graph.value(id).constant().is_some()
                || matches!(spec.observer, ObserverKind::Fixed(_));
            let mut seen = runs.iter().filter_map(|run| run.get(&id));
            if is_known || seen.any(|other| other.observer == spec.observer) {
                continue;
            }
            match runs.iter_mut().find(|run| !run.contains_key(&id)) {
                Some(run) => {
                    run.insert(id, *spec);
                }
                None => runs.push(IndexMap::from([(id, *spec)])),
            }
        }
        let mut states: BTreeMap<String, Vec<(ObserverKind, ObserverState)>> = BTreeMap::new();
        for run in &runs {
            let specs: BTreeMap<String, QuantSpec> = run
                .iter()
                .map(|(&id, spec)| (graph.value(id).name().to_owned(), *spec))
                .collect();
            let mut session = session_observing(graph, run, options)?;
            let found = octofold_calibrate::calibrate(&mut session, data, &specs, |_| {})?;
            for (name, state) in found {
                let kind = specs[&name].observer;
                states.entry(name).or_default().push((kind, state));
            }
        }
        Ok(Self { states })
    }

    /// What calibration of one variant would give.
    fn of(&self, graph: &Graph, annotations: &Annotations) -> Statistics {
        let observed = annotations.observed().map(|(id, spec)| {
            let name = graph.value(id).name();
            let mut states = self.states.get(name).into_iter().flatten();
            let found = states.find(|(kind, _)| *kind == spec.observer);
            let state = found.map_or_else(|| spec.observer(), |(_, state)| state.clone());
            (name.to_owned(), state)
        });
        observed.collect()
    }
}

/// A session of a float graph that observes values.
fn session_observing(
    graph: &Graph,
    observed: &IndexMap<ValueId, QuantSpec>,
    options: SessionOptions,
) -> Result<Session, Error> {
    let values = observed.iter().map(|(&id, &spec)| {
        let annotation = ValueAnnotation { spec, observed: id };
        (id, annotation)
    });
    let annotations = Annotations {
        values: values.collect(),
        ..Annotations::default()
    };
    let (observed, _) = observe(graph, &annotations)?;
    observing_session(observed, options)
}

/// The reference QDQ graph of a variant.
fn quantized(
    graph: &Graph,
    annotations: &Annotations,
    observations: &Observations,
    means: Option<&IndexMap<String, Tensor>>,
) -> Result<Graph, Error> {
    let statistics = observations.of(graph, annotations);
    let mut graph = graph.clone();
    if let Some(means) = means {
        correct_graph(&mut graph, annotations, &statistics, means)?;
    }
    convert_graph(graph, annotations, &statistics)
}
