//! The order of the nodes of a file.
//!
//! ONNX asks for nodes in the order of the data flow; files that keep another order mean the same and are read as well.

use std::collections::{BTreeSet, HashMap};

use super::error::{ImportErrorKind, NodeError};
use super::functions::FlatNode;
use crate::ValueId;

/// The nodes such that each comes after those it reads from; among the ready ones, the first of the file.
pub(super) fn order(
    nodes: &[FlatNode],
    known: &HashMap<String, ValueId>,
) -> Result<Vec<usize>, ImportErrorKind> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        producers.extend(
            node.node
                .output
                .iter()
                .map(|output| (output.as_str(), index)),
        );
    }
    let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut waiting = vec![0_usize; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for input in node.reads() {
            if known.contains_key(input) {
                continue;
            }
            let Some(&producer) = producers.get(input.as_str()) else {
                return Err(node.error(NodeError::Undefined(input.clone())));
            };
            readers.entry(producer).or_default().push(index);
            if let Some(count) = waiting.get_mut(index) {
                *count += 1;
            }
        }
    }
    let mut ready: BTreeSet<usize> = waiting
        .iter()
        .enumerate()
        .filter(|(_, count)| **count == 0)
        .map(|(index, _)| index)
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for reader in readers.remove(&index).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(reader) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(reader);
                }
            }
        }
    }
    // Of the nodes that are left, many only wait for the cycle; walking back from any leads into it.
    let Some(mut index) = waiting.iter().position(|&count| count > 0) else {
        return Ok(order);
    };
    let mut seen = BTreeSet::new();
    while seen.insert(index) {
        let inputs = nodes.get(index).into_iter().flat_map(FlatNode::reads);
        let blocked = inputs.filter_map(|input| {
            producers
                .get(input.as_str())
                .filter(|_| !known.contains_key(input))
        });
        let next = blocked
            .copied()
            .find(|&producer| waiting.get(producer).is_some_and(|&count| count > 0));
        index = next.unwrap_or(index);
    }
    Err(ImportErrorKind::Cycle {
        node: nodes
            .get(index)
            .map(|node| node.node.name().to_owned())
            .unwrap_or_default(),
    })
}
