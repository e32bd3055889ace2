//! Phases that a `Transpose` between two `Reshape`s brings to their places, in channels-last order.
//!
//! The group [N, s1·…·C, D1, …] → [N, s1, …, C, D1, …] → [N, C, D1, s1, …] → [N, C, D1·s1, …], or with the channels before the phases, is how a
//! transposed convolution, or a program, interleaves the phases of each axis. Channels-last, the channels stay last; with one axis nothing moves.

use octofold_ir::{Graph, Node, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::{Reshape, Transpose};
use octofold_tensor::{Dim, Tensor};

use crate::support;

/// A group of nodes that interleaves phases.
pub(super) struct Blocks {
    /// The first `Reshape`, the `Transpose` and the last `Reshape`.
    pub(super) nodes: [NodeId; 3],
    /// The images whose channels are phases.
    pub(super) x: ValueId,
    /// What the group gives.
    pub(super) result: ValueId,
    /// The phases of each axis.
    strides: Vec<i64>,
    channels: i64,
    /// Whether the channels come before the phases.
    channels_first: bool,
    /// The sizes of the interleaved axes; one may be -1.
    sizes: Vec<i64>,
}

impl Blocks {
    /// The group that begins with a node.
    pub(super) fn find(graph: &Graph, id: NodeId) -> Option<Self> {
        let next = |id: NodeId| Some(graph.single_use(support::result(graph, id))?.node);
        let is_reshape = |id: NodeId| matches!(graph.node(id).op(), Op::Reshape(_));
        if !is_reshape(id) {
            return None;
        }
        let turn = next(id)?;
        let Op::Transpose(transpose) = graph.node(turn).op() else {
            return None;
        };
        let last = next(turn).filter(|&last| is_reshape(last))?;
        let dims = |value: ValueId| graph.value(value).ty().shape.as_deref();
        let (x, result) = (graph.node(id).input(0)?, support::result(graph, last));
        let (images, split, joined) = (dims(x)?, dims(support::result(graph, id))?, dims(result)?);
        let count = images.len().checked_sub(2)?;
        if split.len() != 2 * count + 2 || joined.len() != images.len() {
            return None;
        }
        let perm = transpose.axes(split.len()).ok()?;
        let channels_first = perm[1] == 1;
        let (channel, phase) = if channels_first {
            (1, 2)
        } else {
            (count + 1, 1)
        };
        let mut expected = vec![0, channel];
        expected.extend((0..count).flat_map(|axis| [count + 2 + axis, phase + axis]));
        let strides = split[phase..phase + count].iter().map(Dim::known);
        let strides: Vec<i64> = strides.collect::<Option<_>>()?;
        let positions = images[2..].iter().zip(&strides);
        let positions: Vec<Dim> = positions
            .map(|(size, &stride)| size.clone().times(stride))
            .collect();
        // At most one size is open, and it follows from the others.
        let differ = |a: &[Dim], b: &[Dim]| {
            let mut pairs = a.iter().zip(b);
            pairs.any(|(a, b)| a.known().zip(b.known()).is_some_and(|(a, b)| a != b))
        };
        let same = !differ(&split[count + 2..], &images[2..])
            && !differ(&joined[2..], &positions)
            && split[0] == images[0]
            && joined[0] == images[0]
            && joined[1] == split[channel];
        let sizes: Vec<i64> = joined[2..]
            .iter()
            .map(|size| size.known().unwrap_or(-1))
            .collect();
        let open = sizes.iter().filter(|&&size| size < 0).count();
        (perm == expected && same && open < 2).then_some(Self {
            nodes: [id, turn, last],
            x,
            result,
            strides,
            channels: split[channel].known()?,
            channels_first,
            sizes,
        })
    }

    /// The same of channels-last images.
    pub(super) fn rebuild(&self, graph: &Graph, patch: &mut Patch, x: PatchValue) -> PatchValue {
        let [first, turn, last] = self.nodes.map(|id| graph.node(id));
        let reshape = |patch: &mut Patch, node: &Node, value: PatchValue, sizes: Vec<i64>| {
            let name = format!("{}.sizes", node.name());
            let sizes = Some(patch.constant(name, Tensor::vector(sizes)));
            let op = Reshape { allowzero: false };
            patch.node(
                node.name(),
                op,
                [Some(value), sizes],
                node.sources().to_vec(),
            )
        };
        let mut value = x;
        let count = self.strides.len();
        // Of one axis, [N, D, s, C] has its elements in the order of [N, D·s, C].
        if count > 1 || self.channels_first {
            let mut split = vec![0; count + 1];
            if self.channels_first {
                split.push(self.channels);
            }
            split.extend(&self.strides);
            if !self.channels_first {
                split.push(self.channels);
            }
            value = reshape(patch, first, value, split);
            let (channel, phase) = match self.channels_first {
                true => (count + 1, count + 2),
                false => (2 * count + 1, count + 1),
            };
            let mut perm = vec![0];
            perm.extend((0..count).flat_map(|axis| [(1 + axis) as i64, (phase + axis) as i64]));
            perm.push(channel as i64);
            let sources = turn.sources().to_vec();
            value = patch.node(turn.name(), Transpose { perm }, [Some(value)], sources);
        }
        let mut joined = vec![0];
        joined.extend(&self.sizes);
        joined.push(self.channels);
        reshape(patch, last, value, joined)
    }
}
