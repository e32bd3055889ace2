//! Cross-layer equalization: the channels of neighbouring layers are brought to equal ranges before they share one scale.
//!
//! ReLU commutes with positive factors, so a channel between two layers may be divided by `s` in the first and multiplied by `s` in the second.
//! With `r` the largest magnitude of a channel's weights, both layers use their integers best where
//! (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.1)
//!
//! ```text
//! pair     s = √(r1 / r2)                                W1, b1 / s        W2 · s
//! triple   p = ∛(r1·r2·r3)   s12 = r1 / p   s23 = p / r3
//!          W1, b1 / s12      W2 · s12 / s23, b2 / s23    W3 · s23
//! ```
//!
//! The middle of a triple is depthwise, so its input channel is its output channel (the formula is AIMET's). Layers in a row are pairs in a row, which
//! disturb each other: sweeps repeat until no factor moves. All is computed in f64 and rounded once.
//!
//! A bound does not commute: a channel below `Clip {0, c}` (ReLU6) would need the bound `c / s`. One bound serves a whole tensor, so the new one
//! is the largest of these. The function is exact where a channel stays below its own bound; beyond, a channel is clipped later than it was, or not
//! at all. The report names such layers. What equalization does to biases (section 4.1.3 of the paper, absorption) is not undone here.

mod groups;
mod layer;

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId, Patch, PatchValue, Use, ValueId};
use octofold_ops::families::{Activation, Product};

use self::groups::{Group, Layers, Link, find_groups, named_group};
use self::layer::{Layer, is_layer};
use crate::fuse::activation_of;
use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;
use crate::support;

/// The number of sweeps after which equalization stops although factors still move.
const MAX_SWEEPS: usize = 20;

/// Factors that differ less from 1 are not applied.
const TOLERANCE: f64 = 1e-4;

/// The rule's name in reports.
const RULE: &str = "equalize";

/// Equalizes the ranges of channels between convolutions, and between linear layers, of a simplified and fused float graph.
///
/// Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EqualizeLayers {
    /// The pairs and triples to equalize, by their nodes in the direction of the data; all that are found when absent. A pair or triple that is named
    /// and cannot be equalized is an error.
    pub only: Option<Vec<Vec<NodeId>>>,
}

impl EqualizeLayers {
    /// All pairs and triples that are found.
    pub const ALL: Self = Self { only: None };
}

impl Pass for EqualizeLayers {
    fn name(&self) -> &'static str {
        "equalize-layers"
    }

    fn enters_bodies(&self) -> bool {
        false
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let order = rewriter.order(graph)?;
        let weighted = order
            .iter()
            .filter(|&&id| is_layer(graph.node(id).op()))
            .map(|&id| (id, Layer::read(graph, id)));
        let all: Layers = weighted.collect();
        let (mut report, mut skipped) = (PassReport::default(), PassReport::default());
        let groups = match &self.only {
            None => find_groups(graph, &order, &all, &mut skipped),
            Some(named) => named
                .iter()
                .map(|nodes| named_group(graph, &all, nodes))
                .collect::<Result<_, _>>()?,
        };
        let mut layers: BTreeMap<NodeId, Layer> = all
            .into_iter()
            .filter_map(|(id, layer)| Some((id, layer.ok()?)))
            .collect();
        let before: Vec<f64> = groups
            .iter()
            .map(|group| spread(&layers[&group.first]))
            .collect();
        equalize(&groups, &mut layers);
        let mut patch = Patch::new();
        let bounds = rebuild(graph, &order, &groups, &layers, &mut patch)?;
        for (group, before) in groups.iter().zip(before) {
            describe(graph, group, &layers, before, &bounds, &mut report);
        }
        report.events.append(&mut skipped.events);
        rewriter.apply_reported(graph, patch, report)?;
        graph.sweep_constants();
        Ok(())
    }
}

/// Sweeps over all groups until no factor moves.
fn equalize(groups: &[Group], layers: &mut BTreeMap<NodeId, Layer>) {
    for _ in 0..MAX_SWEEPS {
        let mut moved = false;
        for group in groups {
            let factors = factors(group, layers);
            let small = |factor: &f64| (factor - 1.0).abs() < TOLERANCE;
            if factors.iter().flatten().all(small) {
                continue;
            }
            moved = true;
            for ((from, link), factors) in group.divided().zip(&factors) {
                if let Some(layer) = layers.get_mut(&from) {
                    layer.divide_outputs(factors);
                }
                if let Some(layer) = layers.get_mut(&link.to) {
                    layer.multiply_inputs(factors);
                }
            }
        }
        if !moved {
            break;
        }
    }
}

/// The factor of each channel, for each link of a group. A channel without a range, or with a factor that would lose numbers, keeps 1 in all of them.
fn factors(group: &Group, layers: &BTreeMap<NodeId, Layer>) -> Vec<Vec<f64>> {
    let first = &layers[&group.first];
    let r1 = first.output_ranges();
    match group.links.as_slice() {
        [link] => {
            let r2 = layers[&link.to].input_ranges();
            let channels = r1.iter().zip(&r2).enumerate();
            let factors = channels.map(|(channel, (&r1, &r2))| {
                let s = (r1 / r2).sqrt();
                let usable = r1 > 0.0 && r2 > 0.0 && first.can_divide(channel, s);
                if usable { s } else { 1.0 }
            });
            vec![factors.collect()]
        }
        [link, last] => {
            let middle = &layers[&link.to];
            let (r2, r3) = (middle.output_ranges(), layers[&last.to].input_ranges());
            let channels = r1.iter().zip(&r2).zip(&r3).enumerate();
            let factors = channels.map(|(channel, ((&r1, &r2), &r3))| {
                let p = r1.cbrt() * r2.cbrt() * r3.cbrt();
                let (s12, s23) = (r1 / p, p / r3);
                let usable = r1 > 0.0
                    && r2 > 0.0
                    && r3 > 0.0
                    && first.can_divide(channel, s12)
                    && middle.can_divide(channel, s23);
                if usable { (s12, s23) } else { (1.0, 1.0) }
            });
            let (s12, s23) = factors.unzip();
            vec![s12, s23]
        }
        _ => Vec::new(),
    }
}

/// How many times the largest range of an output channel is the smallest that is not zero.
fn spread(layer: &Layer) -> f64 {
    let ranges = layer.output_ranges().into_iter().filter(|&r| r > 0.0);
    let (min, max) = ranges.fold((f64::INFINITY, 0.0_f64), |(min, max), r| {
        (min.min(r), max.max(r))
    });
    if max > 0.0 { max / min } else { 1.0 }
}

/// Upper bounds that moved: the layer before, the old bound and the new one.
type Bounds = Vec<(NodeId, f32, f32)>;

/// Describes the scaled layers and moved bounds as one patch.
fn rebuild(
    graph: &Graph,
    order: &[NodeId],
    groups: &[Group],
    layers: &BTreeMap<NodeId, Layer>,
    patch: &mut Patch,
) -> Result<Bounds, PassError> {
    let mut bounds = Bounds::new();
    let mut made: BTreeMap<ValueId, PatchValue> = BTreeMap::new();
    let divided = groups.iter().flat_map(Group::divided);
    let links: BTreeMap<NodeId, &Link> = divided.collect();
    for &id in order {
        let Some(layer) = layers.get(&id).filter(|layer| layer.is_changed()) else {
            continue;
        };
        let node = graph.node(id);
        let fail = |reason: String| PassError::Node {
            node: node.name().to_owned(),
            reason,
        };
        let mut moved = |activation: Activation| match activation {
            Activation::Clip { min, max } if max.is_finite() && layer.bound_factor() != 1.0 => {
                let new = (f64::from(max) * layer.bound_factor()) as f32;
                bounds.push((id, max, new));
                Some((Activation::Clip { min, max: new }, new))
            }
            _ => None,
        };
        let mut op = node.op().clone();
        if let Some(last) = op.product_mut().and_then(Product::activation_mut) {
            *last = moved(*last).map_or(*last, |(activation, _)| activation);
        }
        for &clip in links.get(&id).map_or(&[][..], |link| &link.between) {
            let activation = activation_of(graph, clip).unwrap_or_default();
            if let (Some((_, bound)), Some(old)) = (moved(activation), graph.node(clip).input(2)) {
                let shape = graph.value(old).ty().known_shape().unwrap_or_default();
                let tensor = octofold_tensor::Tensor::new(shape, vec![bound])
                    .map_err(|error| fail(error.to_string()))?;
                let name = format!("{}_equalized", graph.value(old).name());
                let bound = patch.constant(name, tensor);
                patch.rewire(
                    Use {
                        node: clip,
                        slot: 2,
                    },
                    bound,
                );
            }
        }
        let (weights, bias) = layer.tensors().map_err(fail)?;
        let mut inputs = graph.operands(id);
        for (input, value) in inputs.iter_mut().zip(node.inputs()) {
            if let Some(new) = value.and_then(|value| made.get(&value)) {
                *input = Some(*new);
            }
        }
        for (slot, tensor) in [(1, Some(weights)), (2, bias)] {
            if let (Some(tensor), Some(old)) = (tensor, node.input(slot)) {
                inputs[slot] = Some(patch.constant(graph.value(old).name(), tensor));
            }
        }
        let new = patch.node(node.name(), op, inputs, graph.sources_of([id]));
        let old = support::result(graph, id);
        patch.replace(old, new);
        patch.remove(id);
        made.insert(old, new);
    }
    Ok(bounds)
}

/// Reports what became of a group.
fn describe(
    graph: &Graph,
    group: &Group,
    layers: &BTreeMap<NodeId, Layer>,
    before: f64,
    bounds: &Bounds,
    report: &mut PassReport,
) {
    let place = graph.node(group.first).name();
    let others: Vec<String> = group
        .links
        .iter()
        .map(|link| format!("`{}`", graph.node(link.to).name()))
        .collect();
    let others = others.join(" and ");
    if group.divided().all(|(from, _)| !layers[&from].is_divided()) {
        report.skipped(
            RULE,
            place,
            format!("with {others}: no channel is to scale"),
        );
        return;
    }
    let after = spread(&layers[&group.first]);
    let mut text = format!(
        "with {others}: the largest range of a channel is {before:.2} times the smallest before, {after:.2} after"
    );
    for (from, _) in group.divided() {
        for (_, old, new) in bounds.iter().filter(|(id, ..)| *id == from) {
            let name = graph.node(from).name();
            text += &format!(
                "; the bound {old:?} behind `{name}` becomes {new:?}, exact for a channel below its own"
            );
        }
    }
    report.applied(RULE, place, text);
}
