//! What the configuration asks for each node, and whether the engine can do it.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use octofold_ir::{Graph, NodeId, Op};
use octofold_quant::{Granularity, QuantSpec};

use super::{NodeAnnotation, NodeSetting, Unhonoured};
use crate::backend::{BackendConfig, Execution, OpClass};
use crate::config::{QConfig, Resolver};

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

    /// The annotation of the node, when it is quantized.
    pub(crate) fn annotation(&self, graph: &Graph, id: NodeId) -> NodeAnnotation {
        let weight = self.class.has_weights().then_some(self.qconfig.weight);
        let weight = weight.map(|spec| match spec.granularity {
            Granularity::PerTensor => spec,
            // Output channels are axis 0 of a convolution's weights and axis 1 of a linear layer's.
            Granularity::PerChannel { .. } => QuantSpec {
                granularity: Granularity::PerChannel {
                    axis: usize::from(matches!(graph.node(id).op(), Op::FusedLinear(_))),
                },
                ..spec
            },
        });
        NodeAnnotation::Quantized {
            class: self.class,
            weight,
            execution: self.execution,
        }
    }
}

/// Why a node is no candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The engine has no kernel for the operator.
    Operator(String),
    /// The engine has a kernel, but not for this QConfig.
    QConfig(String),
}

impl Refusal {
    fn reason(&self) -> &str {
        match self {
            Self::Operator(reason) | Self::QConfig(reason) => reason,
        }
    }
}

/// A setting that the engine refuses for a node.
struct RefusedSetting {
    setting: String,
    node: NodeId,
    refusal: Refusal,
}

/// What is known of each node before it is decided which are quantized.
#[derive(Default)]
pub(super) struct Survey {
    /// The nodes that may be quantized.
    pub(super) candidates: BTreeMap<NodeId, Candidate>,
    /// The classes of all nodes that have one, those included that the user leaves float.
    pub(super) classes: BTreeMap<NodeId, OpClass>,
    /// Why the other nodes stay float.
    pub(super) float: BTreeMap<NodeId, String>,
    /// The QConfigs of all nodes.
    pub(super) settings: IndexMap<NodeId, NodeSetting>,
    /// The nodes that a setting names in order to quantize them.
    named: BTreeSet<NodeId>,
    refused: Vec<RefusedSetting>,
}

impl Survey {
    /// Asks the configuration and the engine about each node.
    pub(super) fn new(
        graph: &Graph,
        order: &[NodeId],
        resolver: &Resolver<'_>,
        backend: &BackendConfig,
    ) -> Self {
        let mut survey = Self::default();
        for &id in order {
            survey.visit(graph, id, resolver, backend);
        }
        survey
    }

    fn visit(
        &mut self,
        graph: &Graph,
        id: NodeId,
        resolver: &Resolver<'_>,
        backend: &BackendConfig,
    ) {
        let resolved = resolver.resolve(graph, id);
        let setting = NodeSetting {
            qconfig: resolved.qconfig.cloned(),
            origin: resolved.origin.clone(),
        };
        self.settings.insert(id, setting);
        let class = backend.classify(graph, id);
        if let Ok(class) = class {
            self.classes.insert(id, class);
        }
        let Some(qconfig) = resolved.qconfig else {
            let reason = match class {
                Err(reason) if resolved.named => reason,
                _ => format!("the configuration leaves it float ({})", resolved.origin),
            };
            self.float.insert(id, reason);
            return;
        };
        if resolved.named {
            self.named.insert(id);
        }
        match Candidate::new(graph, id, qconfig, backend) {
            Ok(candidate) => {
                self.candidates.insert(id, candidate);
            }
            Err(refusal) => {
                self.float.insert(id, refusal.reason().to_owned());
                // A setting for all operators need not fit each of them.
                if resolved.named || matches!(refusal, Refusal::QConfig(_)) {
                    self.refused.push(RefusedSetting {
                        setting: resolved.origin,
                        node: id,
                        refusal,
                    });
                }
            }
        }
    }

    /// The settings that are not honoured: those that the engine refuses, then those that quantize nothing.
    pub(super) fn unhonoured(
        &self,
        graph: &Graph,
        quantized: &BTreeSet<NodeId>,
    ) -> Vec<Unhonoured> {
        let mut unhonoured = Vec::new();
        for refused in &self.refused {
            // A setting may name a module in which only some operators can be quantized; it fails when none can.
            let helps = |other: &NodeId| self.settings[other].origin == refused.setting;
            let asks_too_much = matches!(refused.refusal, Refusal::QConfig(_));
            if asks_too_much || !self.candidates.keys().any(helps) {
                unhonoured.push(Unhonoured {
                    setting: refused.setting.clone(),
                    place: graph.node(refused.node).name().to_owned(),
                    reason: refused.refusal.reason().to_owned(),
                });
            }
        }
        let known: BTreeSet<String> = unhonoured.iter().map(|one| one.setting.clone()).collect();
        let idle = self.without_effect(quantized).into_iter();
        unhonoured.extend(idle.filter(|(setting, _)| !known.contains(*setting)).map(
            |(setting, id)| Unhonoured {
                setting: setting.to_owned(),
                place: graph.node(id).name().to_owned(),
                reason: "no quantized layer reads its result".to_owned(),
            },
        ));
        unhonoured
    }

    /// The settings that name operators none of which is quantized, because no quantized layer reads their results; each with its first operator.
    fn without_effect(&self, quantized: &BTreeSet<NodeId>) -> Vec<(&str, NodeId)> {
        let mut settings: IndexMap<&str, Option<NodeId>> = IndexMap::new();
        for id in &self.named {
            let first = settings
                .entry(&self.settings[id].origin)
                .or_insert(Some(*id));
            if quantized.contains(id) {
                *first = None;
            }
        }
        let idle = settings.into_iter();
        idle.filter_map(|(setting, first)| Some((setting, first?)))
            .collect()
    }
}
