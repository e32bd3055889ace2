//! Layout: the operators that have kernels compute on [N, D1, …, C], and conversions are explicit.
//!
//! One walk in topological order decides in which layouts each batch of images exists, whatever its number of spatial axes. An operator with a layout attribute takes and gives NHWC. An
//! operator that works in any layout follows its operands; any other takes and gives NCHW. Where a value is needed in a layout in which it does not
//! exist, a `Transpose` is inserted, once for each value. So conversions between kernels cancel, an input is converted after it became bytes, and only
//! conversions at the edges remain.

mod blocks;

use std::collections::BTreeMap;

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, Role, Use, ValueId};
use octofold_ops::Operator;
use octofold_ops::families::{
    CoordinateTransformation, FusedConv, FusedGlobalPool, FusedPool, Layout, NhwcDepthToSpace,
    Transpose,
};
use octofold_tensor::Tensor;

use crate::layout::blocks::Blocks;
use crate::pass::{Pass, PassError, PassReport};
use crate::rewrite::Rewriter;
use crate::support;

/// Makes lowered operators NHWC.
#[derive(Clone, Copy, Debug, Default)]
pub struct AssignLayouts;

impl Pass for AssignLayouts {
    fn name(&self) -> &'static str {
        "assign-layouts"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let order = rewriter.order(graph)?;
        let mut walk = Walk {
            graph,
            patch: Patch::new(),
            nhwc: BTreeMap::new(),
            nchw: BTreeMap::new(),
            report: PassReport::default(),
        };
        for id in order {
            walk.visit(id);
        }
        walk.give_outputs();
        let Walk { patch, report, .. } = walk;
        rewriter.apply_reported(graph, patch, report)?;
        graph.sweep_constants();
        Ok(())
    }
}

/// What an operator asks of the layout of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// NHWC: it has kernels for nothing else.
    Nhwc,
    /// The layout that its operands already have.
    Any,
    /// NCHW: its attributes or its definition refer to the axes of ONNX.
    Nchw,
}

struct Walk<'a> {
    graph: &'a Graph,
    patch: Patch,
    /// The values that exist in NHWC.
    nhwc: BTreeMap<ValueId, PatchValue>,
    /// The values of nodes that now compute NHWC, converted back.
    nchw: BTreeMap<ValueId, PatchValue>,
    report: PassReport,
}

impl Walk<'_> {
    fn rank(&self, value: ValueId) -> Option<usize> {
        support::rank(self.graph, value)
    }

    /// The rank of a batch of images; `None` for other values.
    fn image_rank(&self, value: ValueId) -> Option<usize> {
        self.rank(value)
            .filter(|rank| support::IMAGE_RANKS.contains(rank))
    }

    fn wish(&self, id: NodeId) -> Wish {
        let node = self.graph.node(id);
        let images = || {
            node.inputs()
                .iter()
                .flatten()
                .copied()
                .filter(|&value| self.image_rank(value).is_some())
        };
        let all_images = || {
            // An operand of lower rank than the images would be broadcast along other axes, unless it is a single number.
            let single = |value: ValueId| {
                self.graph
                    .value(value)
                    .ty()
                    .known_shape()
                    .is_some_and(|shape| shape.iter().product::<usize>() == 1)
            };
            let rank = self.image_rank(support::result(self.graph, id));
            let mut operands = node.inputs().iter().flatten();
            rank.is_some() && operands.all(|&value| self.rank(value) == rank || single(value))
        };
        match node.op() {
            Op::FusedConv(op) if self.is_affine(id, op) => Wish::Any,
            Op::FusedConv(FusedConv { layout, .. })
            | Op::FusedPool(FusedPool { layout, .. })
            | Op::FusedGlobalPool(FusedGlobalPool { layout, .. }) => match layout {
                Layout::Nchw => Wish::Nhwc,
                // The graph went through this pass before: its transposes stand around the node.
                Layout::Nhwc => Wish::Nchw,
            },
            Op::FusedBinary(_)
            | Op::FusedConcat(_)
            | Op::Concat(_)
            | Op::Add(_)
            | Op::Sub(_)
            | Op::Mul(_)
            | Op::Div(_)
                if all_images() =>
            {
                Wish::Any
            }
            Op::TableLookup(_) | Op::Observe(_) | Op::Relu(_) | Op::Clip(_) => Wish::Any,
            op if op.float_function().is_some() => Wish::Any,
            // Movements whose axes are known.
            Op::DepthToSpace(_) => Wish::Any,
            Op::Slice(_) | Op::Pad(_) if self.moved_axes(id).is_some() => Wish::Any,
            Op::Resize(resize)
                if resize.coordinate_transformation_mode
                    != CoordinateTransformation::TfCropAndResize =>
            {
                Wish::Any
            }
            // Scales for each channel belong to an axis.
            Op::QuantizeLinear(_) | Op::DequantizeLinear(_)
                if node
                    .input(1)
                    .is_some_and(|scale| self.rank(scale) == Some(0)) =>
            {
                if images().next().is_some() {
                    Wish::Any
                } else {
                    Wish::Nchw
                }
            }
            _ => Wish::Nchw,
        }
    }

    /// Whether a channels-first convolution has a factor and a summand for each channel: there is a kernel for either
    /// layout.
    fn is_affine(&self, id: NodeId, op: &FusedConv) -> bool {
        let weights = support::operand_type(self.graph, id, 1).and_then(|ty| ty.known_shape());
        let has_residual = self.graph.node(id).input(3).is_some();
        let affine = weights.is_some_and(|weights| op.is_affine(&weights, has_residual));
        affine && op.layout == Layout::Nchw
    }

    /// The axes that a `Slice` or `Pad` of images, whose operand 3 names them, has in NHWC; `None` for another operator, and when they are not known.
    fn moved_axes(&self, id: NodeId) -> Option<Vec<i64>> {
        let node = self.graph.node(id);
        // One number for each axis, or two.
        let numbers = match node.op() {
            Op::Slice(_) => 1,
            Op::Pad(_) => 2,
            _ => return None,
        };
        let mut axes = match node.input(3) {
            Some(axes) => support::integers(self.graph, axes)?,
            None => {
                let shape = self.graph.value(node.input(1)?).ty().known_shape()?;
                (0..*shape.first()? as i64 / numbers).collect()
            }
        };
        let rank = self.image_rank(node.input(0)?)?;
        axes.iter_mut().for_each(|axis| nhwc_axis(axis, rank));
        Some(axes)
    }

    fn visit(&mut self, id: NodeId) {
        if self.patch.removed().contains(&id) {
            return;
        }
        let node = self.graph.node(id);
        if let Some(blocks) = Blocks::find(self.graph, id)
            && self.nhwc.contains_key(&blocks.x)
        {
            self.rebuild_blocks(&blocks);
            return;
        }
        let runs_nhwc = match self.wish(id) {
            Wish::Nhwc => true,
            Wish::Any => {
                let result_is_image = node
                    .outputs()
                    .first()
                    .is_some_and(|&value| self.image_rank(value).is_some());
                result_is_image
                    && node
                        .inputs()
                        .iter()
                        .flatten()
                        .any(|value| self.nhwc.contains_key(value))
            }
            Wish::Nchw => false,
        };
        if runs_nhwc {
            self.rebuild(id);
        } else {
            for (slot, value) in node.inputs().iter().enumerate() {
                if let Some(value) = *value
                    && self.needs_back(value)
                {
                    let back = self.in_nchw(value);
                    self.patch.rewire(Use { node: id, slot }, back);
                }
            }
        }
    }

    /// Makes a node again over NHWC operands.
    fn rebuild(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let mut inputs = Vec::new();
        for (slot, value) in node.inputs().iter().enumerate() {
            // Weights and bias have no layout; single numbers need none.
            let is_image = node.op().role(slot) == Some(Role::Activation);
            inputs.push(value.map(|value| {
                if is_image && self.image_rank(value).is_some() {
                    self.in_nhwc(value)
                } else {
                    value.into()
                }
            }));
        }
        if let Some(axes) = self.moved_axes(id) {
            let name = format!("{}.axes", node.name());
            inputs.resize(inputs.len().max(4), None);
            inputs[3] = Some(self.patch.constant(name, Tensor::vector(axes)));
        }
        let result = node.outputs()[0];
        let rank = self.rank(result).unwrap_or_default();
        let made = self.patch.node(
            node.name(),
            with_layout(node.op(), rank),
            inputs,
            node.sources().to_vec(),
        );
        self.patch.remove(id);
        self.patch.inherit(made, result);
        self.nhwc.insert(result, made);
        self.report.applied("nhwc", node.name(), "");
    }

    /// Makes nodes that interleave phases again over an NHWC operand.
    fn rebuild_blocks(&mut self, blocks: &Blocks) {
        let x = self.in_nhwc(blocks.x);
        let made = blocks.rebuild(self.graph, &mut self.patch, x);
        for id in blocks.nodes {
            self.patch.remove(id);
            let name = self.graph.node(id).name();
            self.report.applied("nhwc", name, "");
        }
        self.patch.inherit(made, blocks.result);
        self.nhwc.insert(blocks.result, made);
    }

    /// Whether a value no longer exists in NCHW.
    fn needs_back(&self, value: ValueId) -> bool {
        let producer = self.graph.value(value).producer();
        producer.is_some_and(|producer| self.patch.removed().contains(&producer))
    }

    fn in_nhwc(&mut self, value: ValueId) -> PatchValue {
        if let Some(&existing) = self.nhwc.get(&value) {
            return existing;
        }
        let name = self.graph.value(value).name();
        let op = transpose_to(Layout::Nhwc, self.rank(value).unwrap_or_default());
        let converted = match self
            .graph
            .value(value)
            .constant()
            .and_then(|tensor| transposed(tensor, &op))
        {
            Some(tensor) => self.patch.constant(format!("{name}.nhwc"), tensor),
            None => {
                let converted =
                    self.patch
                        .node(format!("{name}.to_nhwc"), op, [Some(value.into())], vec![]);
                self.patch.name(converted, format!("{name}.nhwc"));
                self.report.applied("convert", name, "to NHWC");
                converted
            }
        };
        self.nhwc.insert(value, converted);
        converted
    }

    fn in_nchw(&mut self, value: ValueId) -> PatchValue {
        if let Some(&existing) = self.nchw.get(&value) {
            return existing;
        }
        let name = self.graph.value(value).name();
        let source = self.in_nhwc(value);
        let op = transpose_to(Layout::Nchw, self.rank(value).unwrap_or_default());
        let converted = self
            .patch
            .node(format!("{name}.to_nchw"), op, [Some(source)], vec![]);
        self.patch.name(converted, format!("{name}.nchw"));
        self.report.applied("convert", name, "to NCHW");
        self.nchw.insert(value, converted);
        converted
    }

    /// Outputs have the layout of ONNX.
    fn give_outputs(&mut self) {
        for (index, output) in self.graph.outputs().iter().enumerate() {
            if self.needs_back(output.value) {
                let back = self.in_nchw(output.value);
                self.patch.output(index, back);
            }
        }
    }
}

/// The `Transpose` of images of a rank from the other layout.
fn transpose_to(layout: Layout, rank: usize) -> Transpose {
    let perm = layout.permutation(rank);
    Transpose { perm }
}

/// The axis of NHWC that an axis of NCHW becomes.
fn nhwc_axis(axis: &mut i64, rank: usize) {
    let positive = if *axis < 0 {
        *axis + rank as i64
    } else {
        *axis
    };
    let permutation = Layout::Nhwc.permutation(rank);
    *axis = permutation
        .iter()
        .position(|&from| from == positive)
        .map_or(*axis, |position| position as i64);
}

/// The operator for NHWC operands, with a result of rank `rank`.
fn with_layout(op: &Op, rank: usize) -> Op {
    let mut op = op.clone();
    match &mut op {
        Op::DepthToSpace(blocks) => {
            let (blocksize, mode) = (blocks.blocksize, blocks.mode);
            return NhwcDepthToSpace { blocksize, mode }.into();
        }
        // Scales and sizes keep their order, and say which axes they are of.
        Op::Resize(resize) => {
            if resize.axes.is_empty() {
                resize.axes = (0..rank as i64).collect();
            }
            resize
                .axes
                .iter_mut()
                .for_each(|axis| nhwc_axis(axis, rank));
        }
        Op::FusedConv(conv) => conv.layout = Layout::Nhwc,
        Op::FusedPool(pool) => pool.layout = Layout::Nhwc,
        Op::FusedGlobalPool(pool) => pool.layout = Layout::Nhwc,
        Op::FusedConcat(concat) => nhwc_axis(&mut concat.axis, rank),
        Op::Concat(concat) => nhwc_axis(&mut concat.axis, rank),
        _ => {}
    }
    op
}

/// A constant that a `Transpose` moved.
fn transposed(tensor: &Tensor, op: &Transpose) -> Option<Tensor> {
    let operands = [Some(tensor)];
    let moved = op.evaluate(octofold_ops::Inputs(&operands), 1).ok()?;
    moved.into_iter().next()
}
