//! Transposed convolutions become convolutions, which have float and integer kernels.
//!
//! A transposed convolution of stride `s` writes every `s`-th output position with the same taps. So the positions of one phase `r`, those at `s·j + r`,
//! are a convolution of stride 1 of their own: `y[s·j + r] = Σ_t x[j - t]·w[s·t + r]`. All phases together (the product of the strides) are one convolution
//! with as many times the channels, whose result is interleaved ("sub-pixel convolution", Shi et al. 2016): by `DepthToSpace` where it can, and otherwise by a
//! `Transpose` between two `Reshape`s. What the attributes cut from the borders is left out of the
//! convolution in whole strides and cut by a `Slice` for the rest; a kernel as large as its stride needs no `Slice`. Where the stride does not
//! divide the kernel, some taps are zero.
//!
//! A `Relu` or `Clip` after the transposed convolution moves before the interleaving, so that it can be fused into the convolution. Dequantized weights stay
//! integers, and the quantizer of the result is repeated before the interleaving, so that a convolution of other quantizers' files computes on integers.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{
    AutoPad, BlockOrder, Conv, ConvTranspose, DepthToSpace, DequantizeLinear, Reshape, Slice,
    Transpose,
};
use octofold_tensor::Tensor;

use crate::fuse::bias_name;
use crate::lower::{quantizer, real_constant, weights_around_zero};
use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Makes transposed convolutions with constant weights convolutions whose results are interleaved.
    pub struct SplitTransposedConvs("split-transposed-convs") = [SplitTransposedConv];
}

/// How one axis of a transposed convolution is cut into phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phases {
    /// The taps of the transposed convolution.
    kernel: usize,
    dilation: usize,
    stride: usize,
    /// The taps of each phase.
    taps: usize,
    /// The borders of the convolution.
    pads: (i64, i64),
    /// The positions to cut from the interleaved result.
    cut: (i64, i64),
}

impl Phases {
    /// Cuts an axis with borders `pads` and `padding` more positions at its end; `None` when sizes overflow or the borders exceed the kernel.
    fn new(
        kernel: i64,
        stride: i64,
        dilation: i64,
        pads: (i64, i64),
        padding: i64,
    ) -> Option<Self> {
        if kernel < 1 || stride < 1 || dilation < 1 {
            return None;
        }
        let extent = (kernel - 1).checked_mul(dilation)?.checked_add(1)?;
        let taps = (extent - 1) / stride + 1;
        // Interleaved, the phases of all D + taps - 1 positions reach from position 0 to `stride·taps - extent` behind the last one.
        let surplus = stride
            .checked_mul(taps)?
            .checked_sub(extent)?
            .checked_sub(padding)?
            .checked_add(pads.1)?;
        let (begin, end) = (pads.0.div_euclid(stride), surplus.div_euclid(stride));
        let phases = Self {
            kernel: usize::try_from(kernel).ok()?,
            dilation: usize::try_from(dilation).ok()?,
            stride: usize::try_from(stride).ok()?,
            taps: usize::try_from(taps).ok()?,
            pads: (taps - 1 - begin, taps - 1 - end),
            cut: (pads.0.rem_euclid(stride), surplus.rem_euclid(stride)),
        };
        (phases.pads.0 >= 0 && phases.pads.1 >= 0).then_some(phases)
    }

    /// The end of the `Slice`, counted from the back. Where nothing is cut it is the largest number, since -0 would count from the front.
    fn end(&self) -> i64 {
        if self.cut.1 == 0 {
            i64::MAX
        } else {
            -self.cut.1
        }
    }

    /// The tap of the transposed convolution that tap `tap` of phase `phase` is; `None` for a zero.
    fn tap(&self, phase: usize, tap: usize) -> Option<usize> {
        let position = phase + (self.taps - 1 - tap) * self.stride;
        let tap = position / self.dilation;
        (position.is_multiple_of(self.dilation) && tap < self.kernel).then_some(tap)
    }
}

/// The axes of a transposed convolution over `kernel`.
fn phases(op: &ConvTranspose, kernel: &[usize]) -> Result<Vec<Phases>, Skip> {
    let number = |list: &[i64], index: usize, default: i64| match list {
        [] => Some(default),
        list => list.get(index).copied(),
    };
    let count = kernel.len();
    let axis = |axis: usize| {
        let pads = (
            number(&op.pads, axis, 0)?,
            number(&op.pads, axis + count, 0)?,
        );
        Phases::new(
            i64::try_from(*kernel.get(axis)?).ok()?,
            number(&op.strides, axis, 1)?,
            number(&op.dilations, axis, 1)?,
            pads,
            number(&op.output_padding, axis, 0)?,
        )
    };
    let axes: Option<Vec<Phases>> = (0..count).map(axis).collect();
    axes.ok_or(Skip::because("its borders are larger than its kernel"))
}

/// The product of a number of each axis; `None` when it overflows.
fn product(axes: &[Phases], number: impl Fn(&Phases) -> usize) -> Option<usize> {
    axes.iter()
        .try_fold(1_usize, |product, axis| product.checked_mul(number(axis)))
}

/// Whether the phases, zeros included, have at most four times the taps of the transposed convolution.
fn is_worth_splitting(axes: &[Phases]) -> bool {
    let taps = product(axes, |axis| axis.stride.saturating_mul(axis.taps));
    let own = product(axes, |axis| axis.kernel).and_then(|own| own.checked_mul(4));
    taps.zip(own).is_some_and(|(taps, own)| taps <= own)
}

/// The weights [C, M/group, …] of a transposed convolution: floats, or integers around 0 with one scale, or one for each output channel of a group.
enum Weights {
    Floats(Vec<f32>),
    Integers(Tensor, Vec<f32>),
}

impl Weights {
    fn of(graph: &Graph, conv: NodeId) -> Result<Self, Skip> {
        if let Ok((integers, scales)) = weights_around_zero(graph, conv, 1) {
            return Ok(Self::Integers(integers, scales));
        }
        let w = graph.node(conv).weights().ok_or(Skip::NoMatch)?;
        let floats = real_constant(graph, w);
        let floats = floats.ok_or(Skip::because("its weights are not f32 constants"))?;
        Ok(Self::Floats(floats))
    }
}

/// How the weights of a transposed convolution are cut into phases.
struct Split<'a> {
    channels: usize,
    group_outputs: usize,
    group: usize,
    axes: &'a [Phases],
    order: BlockOrder,
}

impl Split<'_> {
    fn outputs(&self) -> usize {
        self.group_outputs * self.group
    }

    /// The number of phases.
    fn phases(&self) -> usize {
        self.axes.iter().map(|axis| axis.stride).product()
    }

    /// The weights [M·phases, C/group, …] of the convolution.
    fn split<T: Copy + Default>(&self, values: &[T]) -> (Vec<usize>, Vec<T>) {
        let filters = self.outputs() * self.phases();
        let group_inputs = self.channels / self.group;
        let mut shape = vec![filters, group_inputs];
        shape.extend(self.axes.iter().map(|axis| axis.taps));
        let taps: usize = shape[2..].iter().product();
        let kernel: usize = self.axes.iter().map(|axis| axis.kernel).product();
        let mut weights = Vec::with_capacity(filters * group_inputs * taps);
        for filter in 0..filters {
            let (output, phase) = self.place(filter);
            let (of_group, group) = (output % self.group_outputs, output / self.group_outputs);
            for input in 0..group_inputs {
                let plane = (group * group_inputs + input) * self.group_outputs + of_group;
                weights.extend((0..taps).map(|tap| {
                    let tap = self.tap(phase, tap);
                    tap.map_or(T::default(), |tap| values[plane * kernel + tap])
                }));
            }
        }
        (shape, weights)
    }

    /// A number of each output channel, for each channel of the convolution.
    fn repeat(&self, of_outputs: impl Fn(usize) -> f32) -> Vec<f32> {
        let filters = 0..self.outputs() * self.phases();
        filters
            .map(|filter| of_outputs(self.place(filter).0))
            .collect()
    }

    /// The channel of the result and the phase that a channel of the convolution gives.
    fn place(&self, filter: usize) -> (usize, usize) {
        let (outputs, phases) = (self.outputs(), self.phases());
        match self.order {
            BlockOrder::Dcr => (filter % outputs, filter / outputs),
            BlockOrder::Crd => (filter / phases, filter % phases),
        }
    }

    /// The weights of the convolution, and what they are dequantized from.
    fn weights(
        &self,
        patch: &mut Patch,
        name: &str,
        weights: &Weights,
    ) -> Result<PatchValue, Skip> {
        match weights {
            Weights::Floats(values) => {
                let (shape, values) = self.split(values);
                Ok(patch.constant(name, support::float_tensor(&shape, values)?))
            }
            Weights::Integers(integers, scales) => {
                let (shape, integers) = self.split(integers.values::<i8>()?);
                let scales = match scales.as_slice() {
                    [_] => scales.clone(),
                    scales => self.repeat(|output| scales[output % self.group_outputs]),
                };
                let integers = Tensor::new(shape, integers)?;
                Ok(support::dequantized_weights(patch, name, integers, scales))
            }
        }
    }

    /// The tap of the transposed convolution that a tap of a phase is, all numbered row by row; `None` for a zero.
    fn tap(&self, mut phase: usize, mut tap: usize) -> Option<usize> {
        let (mut own, mut step) = (0, 1);
        for axis in self.axes.iter().rev() {
            own += axis.tap(phase % axis.stride, tap % axis.taps)? * step;
            step *= axis.kernel;
            (phase, tap) = (phase / axis.stride, tap / axis.taps);
        }
        Some(own)
    }
}

rule! {
    struct SplitTransposedConv("split-transposed-conv") finds Transposed { conv: NodeId, activation: Option<NodeId> }
}

impl Rewrite for SplitTransposedConv {
    fn pattern(&self) -> Pattern {
        let conv = Pattern::node(op!(ConvTranspose), []).named("conv");
        let activated = Pattern::node(op!(Relu | Clip), [conv.clone()]);
        Pattern::any_of([activated.named("activation"), conv])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Transposed>) -> Result<Patch, Skip> {
        let (id, activation, last) = (found.conv, found.activation, found.root());
        let node = graph.node(id);
        let (Op::ConvTranspose(op), Some(w)) = (node.op(), node.weights()) else {
            return Err(Skip::NoMatch);
        };
        let weights = Weights::of(graph, id)?;
        support::image_axes(graph, id)?;
        let shape = graph.value(w).ty().known_shape().unwrap_or_default();
        let &[channels, group_outputs, ref kernel @ ..] = shape.as_slice() else {
            return Err(Skip::NoMatch);
        };
        let group = usize::try_from(op.group).ok().filter(|group| *group > 0);
        let group = group
            .filter(|group| channels.is_multiple_of(*group))
            .ok_or(Skip::NoMatch)?;
        let explicit;
        let op = match op.auto_pad {
            AutoPad::NotSet if op.output_shape.is_empty() => op,
            _ => {
                let sizes = support::operand_type(graph, id, 0).and_then(|ty| ty.known_shape());
                let sizes = sizes.ok_or(Skip::because(
                    "its borders follow from the size of its input, which is not known",
                ))?;
                explicit = op.with_explicit_borders(&sizes[2..], kernel)?;
                &explicit
            }
        };
        let axes = phases(op, kernel)?;
        if !is_worth_splitting(&axes) {
            bail!(
                "most products of its phases would be with zeros: its kernel is small for its stride and dilation"
            );
        }
        // The filters of a group must follow each other. Without groups, the channels of a pixel do, which is faster to interleave.
        let order = if group == 1 {
            BlockOrder::Dcr
        } else {
            BlockOrder::Crd
        };
        let split = Split {
            channels,
            group_outputs,
            group,
            axes: &axes,
            order,
        };
        let mut patch = Patch::new();
        let w_name = graph.value(w).name();
        let weights = split.weights(&mut patch, w_name, &weights)?;
        let bias = match node.bias() {
            None => None,
            Some(bias) => {
                let values =
                    real_constant(graph, bias).ok_or(Skip::because("its bias is not constant"))?;
                if values.len() != split.outputs() {
                    return Err(Skip::NoMatch);
                }
                let repeated = Tensor::vector(split.repeat(|output| values[output]));
                Some(patch.constant(bias_name(w_name), repeated))
            }
        };
        let begins = axes.iter().map(|axis| axis.pads.0);
        let conv = Conv {
            auto_pad: AutoPad::NotSet,
            dilations: vec![1; axes.len()],
            group: op.group,
            kernel_shape: axes.iter().map(|axis| axis.taps as i64).collect(),
            pads: begins.chain(axes.iter().map(|axis| axis.pads.1)).collect(),
            strides: vec![1; axes.len()],
        };
        let sources = graph.sources_of([id]);
        let x = node.input(0).map(PatchValue::Existing);
        let name = node.name();
        let mut value = patch.node(name, conv, [x, Some(weights), bias], sources.clone());
        patch.name(
            value,
            format!("{}.phases", graph.value(support::result(graph, id)).name()),
        );
        if let Some(activation) = activation {
            let activation = graph.node(activation);
            let mut operands = graph.operands(last);
            operands[0] = Some(value);
            value = patch.node(
                activation.name(),
                activation.op().clone(),
                operands,
                activation.sources().to_vec(),
            );
            patch.name(
                value,
                format!(
                    "{}.phases",
                    graph.value(support::result(graph, last)).name()
                ),
            );
        }
        value = requantized(graph, support::result(graph, last), &mut patch, value);
        let result = Interleaving {
            name,
            axes: &axes,
            order,
            outputs: split.outputs(),
            sizes: interleaved_sizes(graph, id, &axes),
            sources,
        };
        value = result.node(&mut patch, value)?;
        patch.replace(support::result(graph, last), value);
        if last != id {
            patch.remove(last);
        }
        patch.remove(id);
        Ok(patch)
    }
}

/// A value of the patch behind a quantizer as the one that alone reads `result`, which then changes nothing more; as it is, where there is none.
fn requantized(graph: &Graph, result: ValueId, patch: &mut Patch, value: PatchValue) -> PatchValue {
    let reader = graph.single_use(result).map(|reader| reader.node);
    let reader = reader.filter(|&reader| {
        quantizer(graph, reader).is_some_and(|(_, params)| params.per_tensor().is_some())
    });
    let Some(reader) = reader else {
        return value;
    };
    let (node, mut operands) = (graph.node(reader), graph.operands(reader));
    let name = |suffix| format!("{}.{suffix}", node.name());
    operands[0] = Some(value);
    let integers = patch.node(name("phases"), node.op().clone(), operands.clone(), vec![]);
    operands[0] = Some(integers);
    let dequantize = DequantizeLinear {
        axis: 1,
        block_size: 0,
        output_dtype: 0,
    };
    patch.node(name("phases.reals"), dequantize, operands, vec![])
}

/// The sizes of the interleaved axes; `None` for those that are not known.
fn interleaved_sizes(graph: &Graph, id: NodeId, axes: &[Phases]) -> Vec<Option<i64>> {
    let dims = support::operand_type(graph, id, 0).and_then(|ty| ty.shape.as_deref());
    let sizes = axes.iter().enumerate().map(|(index, axis)| {
        let size = dims?.get(index + 2)?.known()?;
        // A convolution of stride 1 by `taps` taps.
        let positions = size + axis.pads.0 + axis.pads.1 + 1 - axis.taps as i64;
        positions.checked_mul(axis.stride as i64)
    });
    sizes.collect()
}

/// What brings the phases of a convolution's result to their places.
struct Interleaving<'a> {
    name: &'a str,
    axes: &'a [Phases],
    order: BlockOrder,
    /// The channels of the result.
    outputs: usize,
    /// The sizes of the interleaved axes, where they are known.
    sizes: Vec<Option<i64>>,
    sources: Vec<String>,
}

impl Interleaving<'_> {
    /// The phases of `value` at their places, with the borders cut.
    fn node(&self, patch: &mut Patch, value: PatchValue) -> Result<PatchValue, Skip> {
        let mut value = value;
        match self.axes {
            axes if axes.iter().all(|axis| axis.stride == 1) => {}
            [y, x] if y.stride == x.stride => {
                let op = DepthToSpace {
                    blocksize: y.stride as i64,
                    mode: self.order,
                };
                value = self.add(patch, "interleave", op.into(), vec![Some(value)]);
            }
            _ => value = self.permute(patch, value)?,
        }
        if self.axes.iter().all(|axis| axis.cut == (0, 0)) {
            return Ok(value);
        }
        let starts = self.axes.iter().map(|axis| axis.cut.0).collect();
        let starts = self.list(patch, "cut.starts", starts);
        let ends = self.list(
            patch,
            "cut.ends",
            self.axes.iter().map(Phases::end).collect(),
        );
        let along = (2..2 + self.axes.len() as i64).collect();
        let along = self.list(patch, "cut.axes", along);
        let operands = vec![Some(value), starts, ends, along];
        Ok(self.add(patch, "cut", Slice {}.into(), operands))
    }

    /// [N, phases·C, D1, …] to [N, C, D1, s1, …] to [N, C, D1·s1, …].
    fn permute(&self, patch: &mut Patch, value: PatchValue) -> Result<PatchValue, Skip> {
        let strides = self.axes.iter().map(|axis| axis.stride as i64);
        let outputs = self.outputs as i64;
        // One size may be open, as -1.
        if self.sizes.iter().filter(|size| size.is_none()).count() > 1 {
            return Err(Skip::because("the sizes of its input are not known"));
        }
        let sizes: Vec<i64> = self.sizes.iter().map(|size| size.unwrap_or(-1)).collect();
        let positions = sizes.iter().zip(strides.clone());
        let positions =
            positions.map(|(&size, stride)| if size < 0 { size } else { size / stride });
        let (mut split, mut joined) = (vec![0], vec![0, outputs]);
        let count = self.axes.len() as i64;
        // Where the channels and the first phase are.
        let (channels, phase) = match self.order {
            BlockOrder::Dcr => {
                split.extend(strides);
                split.push(outputs);
                (count + 1, 1)
            }
            BlockOrder::Crd => {
                split.push(outputs);
                split.extend(strides);
                (1, 2)
            }
        };
        split.extend(positions);
        joined.extend(sizes);
        let mut perm = vec![0, channels];
        perm.extend((0..count).flat_map(|axis| [count + 2 + axis, phase + axis]));
        let split = self.list(patch, "split", split);
        let value = self.add(patch, "phases", reshape(), vec![Some(value), split]);
        let turned = Transpose { perm }.into();
        let value = self.add(patch, "interleave", turned, vec![Some(value)]);
        let joined = self.list(patch, "joined", joined);
        Ok(self.add(patch, "join", reshape(), vec![Some(value), joined]))
    }

    fn add(
        &self,
        patch: &mut Patch,
        what: &str,
        op: Op,
        operands: Vec<Option<PatchValue>>,
    ) -> PatchValue {
        let name = format!("{}.{what}", self.name);
        patch.node(name, op, operands, self.sources.clone())
    }

    fn list(&self, patch: &mut Patch, what: &str, numbers: Vec<i64>) -> Option<PatchValue> {
        let name = format!("{}.{what}", self.name);
        Some(patch.constant(name, Tensor::vector(numbers)))
    }
}

fn reshape() -> Op {
    Reshape { allowzero: false }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use octofold_ir::{TensorType, interpret};
    use octofold_ops::{Inputs, Operator};
    use octofold_tensor::DType;

    use crate::pass::Pass;
    use crate::rewrite::Rewriter;

    fn run(op: &impl Operator, inputs: &[&Tensor]) -> Tensor {
        let inputs: Vec<_> = inputs.iter().map(|&input| Some(input)).collect();
        op.evaluate(Inputs(&inputs), 1).unwrap().remove(0)
    }

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
        Tensor::new(shape.iter().copied(), values).unwrap()
    }

    /// The convolution, interleaved and cut, equals the transposed convolution by its definition. Small integers make all sums exact.
    fn check(op: &ConvTranspose, w: &[usize]) {
        let mut shape = vec![2, w[0], 3, 4, 2];
        shape.truncate(w.len());
        let mut graph = Graph::new("test");
        let x = graph.add_input("x", TensorType::new(DType::F32, shape.iter().copied()));
        let weights = counting(w);
        let constant = graph.add_constant("w", weights.clone());
        let operands = [Some(x.unwrap()), Some(constant.unwrap())];
        let node = graph.add_node("conv", op.clone().into(), &operands, &["y"], vec![]);
        graph
            .add_output("y", support::result(&graph, node.unwrap()))
            .unwrap();
        let mut rewriter = Rewriter::new("test");
        SplitTransposedConvs.run(&mut graph, &mut rewriter).unwrap();
        let is_split = |id: NodeId| !matches!(graph.node(id).op(), Op::ConvTranspose(_));
        let split = graph.node_ids().all(is_split);
        let explicit = op.with_explicit_borders(&shape[2..], &w[2..]).unwrap();
        let axes = phases(&explicit, &w[2..]);
        assert_eq!(split, axes.is_ok_and(|axes| is_worth_splitting(&axes)));
        let x = counting(&shape);
        let expected = run(op, &[&x, &weights]);
        let made = interpret(&graph, &[("x", x)]).unwrap();
        assert_eq!(made, [expected], "{op:?} {w:?}");
    }

    #[test]
    fn phases_are_the_transposed_convolution() {
        for (kernel, stride, dilation) in [
            (1, 1, 1),
            (2, 2, 1),
            (3, 1, 1),
            (3, 2, 1),
            (4, 2, 1),
            (2, 3, 1),
            (5, 3, 1),
            (3, 2, 2),
            (2, 1, 3),
        ] {
            for group in [1, 2, 4] {
                for (begin, end, padding) in [
                    (0, 0, 0),
                    (1, 0, 0),
                    (0, 1, 0),
                    (1, 2, 0),
                    (0, 0, 1),
                    (1, 1, 1),
                ] {
                    let extent = (kernel - 1) * dilation + 1;
                    if begin >= extent || end >= extent || padding >= stride.max(dilation) {
                        continue;
                    }
                    for axes in 1..=3 {
                        let op = ConvTranspose {
                            auto_pad: AutoPad::NotSet,
                            dilations: vec![dilation; axes],
                            group,
                            kernel_shape: vec![],
                            output_padding: vec![padding; axes],
                            output_shape: vec![],
                            pads: [vec![begin; axes], vec![end; axes]].concat(),
                            strides: vec![stride; axes],
                        };
                        check(&op, &[vec![4, 3], vec![kernel as usize; axes]].concat());
                    }
                }
            }
        }
    }

    #[test]
    fn borders_may_follow_from_the_size_of_the_input() {
        for (auto_pad, output_shape) in [
            (AutoPad::SameUpper, vec![]),
            (AutoPad::SameLower, vec![]),
            (AutoPad::Valid, vec![]),
            (AutoPad::NotSet, vec![6, 9]),
            (AutoPad::SameUpper, vec![5, 7]),
            (AutoPad::NotSet, vec![9, 11]),
        ] {
            for kernel in [2, 3, 5] {
                let op = ConvTranspose {
                    auto_pad,
                    dilations: vec![],
                    group: 1,
                    kernel_shape: vec![],
                    output_padding: vec![],
                    output_shape: output_shape.clone(),
                    pads: vec![],
                    strides: vec![2, 2],
                };
                check(&op, &[4, 3, kernel, kernel]);
            }
        }
    }

    #[test]
    fn strides_of_axes_may_differ() {
        for group in [1, 2] {
            let op = ConvTranspose {
                auto_pad: AutoPad::NotSet,
                dilations: vec![1, 2],
                group,
                kernel_shape: vec![],
                output_padding: vec![1, 0],
                output_shape: vec![],
                pads: vec![1, 0, 0, 2],
                strides: vec![2, 3],
            };
            check(&op, &[4, 3, 3, 4]);
        }
    }
}
