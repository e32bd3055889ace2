//! Values that only a concatenation reads have its parameters.
//!
//! A concatenation rounds its operands to its own parameters anyway. An operand without other readers gets these parameters at once: this saves one
//! rounding, and its bytes are those of the result, so that its producer can write them there. (In graph mode, torch shares one observer among the
//! operands and the result of `cat`.)

use std::collections::BTreeSet;

use octofold_ir::{Graph, NodeId, Op, ValueId};

use super::{Annotations, activation_uses};

/// Lets the operands of quantized concatenations share the observers of the results: operands that have a specification like the result's and an
/// observer of their own, and that nothing else reads. Values in `settled` have settings of their own and keep their parameters.
pub(super) fn share(
    graph: &Graph,
    order: &[NodeId],
    quantized: &BTreeSet<NodeId>,
    settled: &BTreeSet<ValueId>,
    annotations: &mut Annotations,
) {
    // The last ones first, since a concatenation may itself be an operand of another one.
    for &id in order.iter().rev().filter(|id| quantized.contains(id)) {
        let (Op::Concat(_), [result]) = (graph.node(id).op(), graph.node(id).outputs()) else {
            continue;
        };
        let Some(of_result) = annotations.values.get(result).cloned() else {
            continue;
        };
        for (used, operand) in activation_uses(graph, id) {
            let Some(annotation) = annotations.values.get_mut(&operand) else {
                continue;
            };
            let computed = graph.value(operand).producer();
            let shares = computed.is_some_and(|producer| quantized.contains(&producer))
                && graph.single_use(operand) == Some(used)
                && annotation.observed == operand
                && annotation.spec == of_result.spec
                && !settled.contains(&operand)
                && !settled.contains(result);
            if shares && !annotations.conversions.contains_key(&used) {
                annotation.observed = of_result.observed;
            }
        }
    }
}
