//! The choice of kernels for groups of nodes, and the packing of their weights.

use std::borrow::Cow;

use octofold_ir::{Graph, ValueId};
use octofold_kernels::KernelError;
use octofold_ops::map_parallel;
use octofold_runtime::{Core, Kernel};

use crate::facts::{Facts, Types};
use crate::group::Group;
use crate::pack::{Packed, PackedWeights, pack};
use crate::{CodegenError, CodegenOptions};

/// Nodes that become a step.
pub(crate) struct Choice<'a> {
    pub(crate) group: Cow<'a, Group>,
    pub(crate) kernel: Kernel,
    pub(crate) note: String,
    pub(crate) packed: Packed,
}

/// The bytes of weights that are packed before the graph frees them.
const WAVE: usize = 1 << 26;

/// Packs for the kernels of all groups. The graph frees weights that are packed, so that both forms of a large model are not in memory at the same time.
pub(crate) fn choices<'a>(
    graph: &mut Graph,
    groups: &'a [Group],
    options: &CodegenOptions,
) -> Result<Vec<Choice<'a>>, CodegenError> {
    let mut packed = PackedWeights::new(options.in_place);
    let mut choices = Vec::with_capacity(groups.len());
    let mut rest = groups;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |group: &&Group| {
            let before = bytes;
            let weights = weights_of(graph, group).and_then(|id| graph.value(id).constant());
            bytes += weights.map_or(0, octofold_tensor::Tensor::byte_len);
            before < WAVE
        };
        let (wave, behind) = rest.split_at(rest.iter().take_while(fits).count());
        rest = behind;
        let chosen = choose_all(graph, wave, options, &packed)?;
        for choice in &chosen {
            free(graph, choice, &mut packed);
        }
        choices.extend(chosen);
    }
    Ok(choices)
}

/// The weights of a group.
fn weights_of(graph: &Graph, group: &Group) -> Option<ValueId> {
    graph.node(group.main).weights()
}

/// Frees weights that are packed and that nothing else reads.
fn free(graph: &mut Graph, choice: &Choice<'_>, packed: &mut PackedWeights) {
    if choice.packed.constants.is_empty() || choice.packed.in_place {
        return;
    }
    let is_output = |id: ValueId| graph.outputs().iter().any(|output| output.value == id);
    let read_once = |id: &ValueId| graph.uses(*id).len() == 1 && !is_output(*id);
    if let Some(weights) = weights_of(graph, &choice.group).filter(read_once)
        && let Some(tensor) = graph.take_constant(weights)
    {
        packed.forget(&tensor);
    }
}

/// Packs for the kernels of some groups, on several threads, because packing takes most of the time.
fn choose_all<'a>(
    graph: &Graph,
    groups: &'a [Group],
    options: &CodegenOptions,
    packed: &PackedWeights,
) -> Result<Vec<Choice<'a>>, CodegenError> {
    let types = &Types::new(graph);
    let pack = |facts: Facts<'_>, kernel| pack(facts, kernel, options.engine, packed);
    let choose = |group: &'a Group| {
        let choices = choose(graph, types, Cow::Borrowed(group), &pack);
        choices.map_err(|source| CodegenError::Pack {
            node: graph.node(group.main).name().to_owned(),
            source,
        })
    };
    let choices = map_parallel(groups, choose).into_iter();
    let choices: Vec<_> = choices.collect::<Result<_, _>>()?;
    Ok(choices.into_iter().flatten().collect())
}

/// Packs for the kernel of a group. If sums could exceed 32 bits, each node becomes a step of its own, and the layer a portable one.
fn choose<'a>(
    graph: &Graph,
    types: &Types<'_>,
    group: Cow<'a, Group>,
    pack: &impl Fn(Facts<'_>, Kernel) -> Result<Packed, KernelError>,
) -> Result<Vec<Choice<'a>>, KernelError> {
    let choice = |group, kernel, note, packed| {
        vec![Choice {
            group,
            kernel,
            note,
            packed,
        }]
    };
    let portable = |group, note| choice(group, Core::Portable.into(), note, Packed::default());
    let kernel = match &group.selection {
        Ok(kernel) => *kernel,
        Err(note) => {
            let note = note.clone();
            return Ok(portable(group, note));
        }
    };
    match pack(Facts::new(graph, group.main, types), kernel) {
        Ok(packed) => Ok(choice(group, kernel, String::new(), packed)),
        Err(error @ KernelError::AccumulatorOverflow { .. }) if group.nodes().count() == 1 => {
            Ok(portable(group, error.to_string()))
        }
        Err(KernelError::AccumulatorOverflow { .. }) => {
            let parts = group.split(graph, types).into_iter();
            let choices = parts.map(|part| choose(graph, types, Cow::Owned(part), pack));
            let choices: Vec<_> = choices.collect::<Result<_, _>>()?;
            Ok(choices.into_iter().flatten().collect())
        }
        Err(error) => Err(error),
    }
}
