//! How values are quantized: the specification and the observer of each.

use std::collections::{BTreeMap, BTreeSet};

use octofold_ir::{Graph, NodeId, Op, Use, ValueId};
use octofold_quant::{Granularity, QuantSpec, QuantType};
use octofold_tensor::DType;

use super::survey::Candidate;
use super::{Annotations, ValueAnnotation, activation_uses, is_fixed};
use crate::backend::{BackendConfig, Observation};
use crate::support;

/// The nodes of a graph that are quantized.
pub(crate) struct Selection<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) backend: &'a BackendConfig,
    /// All nodes, operands first.
    pub(crate) order: &'a [NodeId],
    /// The nodes that may be quantized.
    pub(crate) candidates: BTreeMap<NodeId, Candidate>,
    /// Those that are.
    pub(crate) quantized: BTreeSet<NodeId>,
    /// The values between functions that one table computes: they exist in no kernel, neither as integers nor in float.
    pub(crate) within: BTreeSet<ValueId>,
}

impl Selection<'_> {
    /// Annotates every value that a quantized node reads, and those that only operators without weights compute: these have no float result.
    pub(crate) fn annotate_values(&self, annotations: &mut Annotations) {
        for &id in self.order.iter().filter(|id| self.quantized.contains(id)) {
            let candidate = &self.candidates[&id];
            let wish = per_tensor(candidate.qconfig.activation);
            for (used, operand) in activation_uses(self.graph, id) {
                if self.within.contains(&operand) {
                    continue;
                }
                self.annotate_value(operand, wish, annotations);
                let given = &annotations.values[&operand];
                if given.spec.dtype != wish.dtype {
                    // Both types use the value's observer, whose state does not depend on the type. Given parameters are of one type only.
                    let observer = if is_fixed(&given.spec) {
                        wish.observer
                    } else {
                        given.spec.observer
                    };
                    let spec = QuantSpec { observer, ..wish };
                    let observed = given.observed;
                    let annotation = ValueAnnotation { spec, observed };
                    annotations.conversions.insert(used, annotation);
                }
            }
            if candidate.class.has_weights() {
                continue;
            }
            for &result in self.graph.node(id).outputs() {
                let float = support::dtype(self.graph, result) == DType::F32;
                if float && self.graph.is_used(result) && !self.within.contains(&result) {
                    self.annotate_value(result, wish, annotations);
                }
            }
        }
    }

    /// Annotates a value, unless it is: as its producer wishes or shares, or as the reader wishes where no quantized node computes it.
    pub(crate) fn annotate_value(
        &self,
        value: ValueId,
        reader: QuantSpec,
        annotations: &mut Annotations,
    ) {
        if !annotations.values.contains_key(&value) {
            let annotation = self.annotation(value, reader, annotations);
            annotations.values.insert(value, annotation);
        }
    }

    fn annotation(
        &self,
        value: ValueId,
        reader: QuantSpec,
        annotations: &Annotations,
    ) -> ValueAnnotation {
        let producer = self.graph.value(value).producer();
        let Some(producer) = producer.filter(|producer| self.quantized.contains(producer)) else {
            return ValueAnnotation {
                spec: reader,
                observed: value,
            };
        };
        let candidate = &self.candidates[&producer];
        let capability = self.backend.capability(candidate.class);
        let shares = capability
            .is_some_and(|capability| capability.observation == Observation::SharedWithInput);
        let first = Use {
            node: producer,
            slot: 0,
        };
        if shares && let Some(shared) = annotations.of_operand(self.graph, first) {
            return shared.clone();
        }
        let wish = per_tensor(candidate.qconfig.activation);
        let fixed = fixed_spec(self.graph.node(producer).op(), &wish);
        ValueAnnotation {
            // Parameters that the user gives win.
            spec: fixed.filter(|_| !is_fixed(&wish)).unwrap_or(wish),
            observed: value,
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

/// The parameters that follow from a function's range: 0..1 for sigmoid and hard-sigmoid, -1..1 for tanh.
fn fixed_spec(op: &Op, spec: &QuantSpec) -> Option<QuantSpec> {
    let full_u8 = spec.dtype == QuantType::Uint8 && spec.quant_min == 0 && spec.quant_max == 255;
    match op {
        Op::Sigmoid(_) | Op::HardSigmoid(_) if full_u8 => Some(spec.fixed(1.0 / 256.0, 0)),
        Op::Tanh(_) if full_u8 => Some(spec.fixed(2.0 / 256.0, 128)),
        _ => None,
    }
}
