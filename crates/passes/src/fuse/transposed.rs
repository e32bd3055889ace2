//! Transposed convolutions become convolutions, which have float and integer kernels.
//!
//! A transposed convolution of stride `s` writes every `s`-th output position with the same taps. So the positions of one phase `r`, those at `s·j + r`,
//! are a convolution of stride 1 of their own: `y[s·j + r] = Σ_t x[j - t]·w[s·t + r]`. All `s²` phases together are one convolution with `s²` times the
//! channels, whose result `DepthToSpace` interleaves ("sub-pixel convolution", Shi et al. 2016). What the attributes cut from the borders is left out of the
//! convolution in whole strides and cut by a `Slice` for the rest; a kernel as large as its stride needs no `Slice`. Where the stride does not
//! divide the kernel, some taps are zero.
//!
//! A `Relu` or `Clip` after the transposed convolution moves before `DepthToSpace`, so that it can be fused into the convolution.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue};
use octofold_ops::bail;
use octofold_ops::families::{AutoPad, BlockOrder, Conv, ConvTranspose, DepthToSpace, Slice};
use octofold_tensor::Tensor;

use crate::fuse::bias_name;
use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, support, symbols};

rule_pass! {
    /// Makes two-dimensional transposed convolutions with constant weights convolutions and `DepthToSpace`.
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

/// The two axes of a transposed convolution over `kernel`.
fn phases(op: &ConvTranspose, kernel: &[usize]) -> Result<[Phases; 2], Skip> {
    if op.auto_pad != AutoPad::NotSet || !op.output_shape.is_empty() {
        bail!("its borders follow from the size of its input");
    }
    let number = |list: &[i64], index: usize, default: i64| match list {
        [] => Some(default),
        list => list.get(index).copied(),
    };
    let axis = |axis: usize| {
        let pads = (number(&op.pads, axis, 0)?, number(&op.pads, axis + 2, 0)?);
        Phases::new(
            i64::try_from(*kernel.get(axis)?).ok()?,
            number(&op.strides, axis, 1)?,
            number(&op.dilations, axis, 1)?,
            pads,
            number(&op.output_padding, axis, 0)?,
        )
    };
    let axes = axis(0).zip(axis(1));
    let (y, x) = axes.ok_or(Skip::because("its borders are larger than its kernel"))?;
    if y.stride != x.stride {
        bail!("its strides differ");
    }
    Ok([y, x])
}

/// Whether the phases, zeros included, have at most four times the taps of the transposed convolution.
fn is_worth_splitting([y, x]: &[Phases; 2]) -> bool {
    let product = |sizes: &[usize]| {
        let mut sizes = sizes.iter();
        sizes.try_fold(1_usize, |product, &size| product.checked_mul(size))
    };
    let taps = product(&[y.stride, x.stride, y.taps, x.taps]);
    let own = product(&[4, y.kernel, x.kernel]);
    taps.zip(own).is_some_and(|(taps, own)| taps <= own)
}

/// The weights [M·s², C/group, …] of the convolution for the weights `w` [C, M/group, …] of the transposed one.
fn phase_weights(
    w: &[f32],
    shape: &[usize; 4],
    group: usize,
    [y, x]: &[Phases; 2],
    order: BlockOrder,
) -> (Vec<usize>, Vec<f32>) {
    let [channels, group_outputs, ..] = *shape;
    let (group_inputs, stride) = (channels / group, y.stride);
    let outputs = group_outputs * group;
    let made = [outputs * stride * stride, group_inputs, y.taps, x.taps];
    let mut weights = Vec::with_capacity(made.iter().product());
    for filter in 0..made[0] {
        let (output, phase) = place(filter, outputs, stride * stride, order);
        let (phase_y, phase_x) = (phase / stride, phase % stride);
        let (of_group, group) = (output % group_outputs, output / group_outputs);
        for input in 0..group_inputs {
            let plane = (group * group_inputs + input) * group_outputs + of_group;
            for tap_y in (0..y.taps).map(|tap| y.tap(phase_y, tap)) {
                for tap_x in (0..x.taps).map(|tap| x.tap(phase_x, tap)) {
                    let tap = tap_y.zip(tap_x);
                    weights.push(tap.map_or(0.0, |(tap_y, tap_x)| {
                        w[(plane * y.kernel + tap_y) * x.kernel + tap_x]
                    }));
                }
            }
        }
    }
    (made.to_vec(), weights)
}

/// The channel of the result and the phase that a channel of the convolution gives.
fn place(filter: usize, outputs: usize, phases: usize, order: BlockOrder) -> (usize, usize) {
    match order {
        BlockOrder::Dcr => (filter % outputs, filter / outputs),
        BlockOrder::Crd => (filter / phases, filter % phases),
    }
}

symbols! {
    struct Transposed { conv: NodeId, activation: Option<NodeId> }
}

struct SplitTransposedConv;

impl Rewrite for SplitTransposedConv {
    const NAME: &'static str = "split-transposed-conv";
    type Found = Transposed;

    fn pattern(&self) -> Pattern {
        let operands = [Pattern::any(), Pattern::any_constant()];
        let conv = Pattern::node(op!(ConvTranspose), operands).named("conv");
        let activated = Pattern::node(op!(Relu | Clip), [conv.clone()]);
        Pattern::any_of([activated.named("activation"), conv])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Transposed>) -> Result<Patch, Skip> {
        let (id, activation, last) = (found.conv, found.activation, found.root());
        let node = graph.node(id);
        let (Op::ConvTranspose(op), Some(w)) = (node.op(), node.weights()) else {
            return Err(Skip::NoMatch);
        };
        let weights = support::floats(graph, w).ok_or(Skip::because("its weights are not f32"))?;
        let shape = graph.value(w).ty().known_shape().unwrap_or_default();
        let shape: &[usize; 4] = shape
            .as_slice()
            .try_into()
            .map_err(|_| Skip::because("only two-dimensional convolutions have kernels"))?;
        let group = usize::try_from(op.group).ok().filter(|group| *group > 0);
        let group = group
            .filter(|group| shape[0].is_multiple_of(*group))
            .ok_or(Skip::NoMatch)?;
        let axes = phases(op, &shape[2..])?;
        let stride = axes[0].stride;
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
        let outputs = shape[1] * group;

        let mut patch = Patch::new();
        let (made_shape, made) = phase_weights(weights, shape, group, &axes, order);
        let w_name = graph.value(w).name();
        let weights = patch.constant(w_name, support::float_tensor(&made_shape, made)?);
        let bias = match node.bias() {
            None => None,
            Some(bias) => {
                let values = support::floats(graph, bias)
                    .ok_or(Skip::because("its bias is not constant"))?;
                if values.len() != outputs {
                    return Err(Skip::NoMatch);
                }
                let repeated = (0..made_shape[0])
                    .map(|filter| values[place(filter, outputs, stride * stride, order).0]);
                Some(patch.constant(bias_name(w_name), Tensor::vector(repeated.collect())))
            }
        };
        let conv = Conv {
            auto_pad: AutoPad::NotSet,
            dilations: vec![1, 1],
            group: op.group,
            kernel_shape: axes.iter().map(|axis| axis.taps as i64).collect(),
            pads: vec![
                axes[0].pads.0,
                axes[1].pads.0,
                axes[0].pads.1,
                axes[1].pads.1,
            ],
            strides: vec![1, 1],
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
        value = interleave(&mut patch, name, value, &axes, order, sources);
        patch.replace(support::result(graph, last), value);
        if last != id {
            patch.remove(last);
        }
        patch.remove(id);
        Ok(patch)
    }
}

/// The phases of `value` at their places, with the borders cut.
fn interleave(
    patch: &mut Patch,
    name: &str,
    value: PatchValue,
    axes: &[Phases; 2],
    order: BlockOrder,
    sources: Vec<String>,
) -> PatchValue {
    let mut value = value;
    if axes[0].stride > 1 {
        let op = DepthToSpace {
            blocksize: axes[0].stride as i64,
            mode: order,
        };
        let sources = sources.clone();
        value = patch.node(format!("{name}.interleave"), op, [Some(value)], sources);
    }
    if axes.iter().all(|axis| axis.cut == (0, 0)) {
        return value;
    }
    let mut list = |what: &str, numbers: Vec<i64>| {
        Some(patch.constant(format!("{name}.cut.{what}"), Tensor::vector(numbers)))
    };
    let starts = list("starts", axes.iter().map(|axis| axis.cut.0).collect());
    let ends = list("ends", axes.iter().map(Phases::end).collect());
    let along = list("axes", vec![2, 3]);
    patch.node(
        format!("{name}.cut"),
        Slice {},
        [Some(value), starts, ends, along],
        sources,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use octofold_ops::{Inputs, Operator};

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
    fn check(op: &ConvTranspose, w: [usize; 4]) {
        let (x, weights) = (counting(&[2, w[0], 3, 4]), counting(&w));
        let expected = run(op, &[&x, &weights]);
        let axes = phases(op, &w[2..]).unwrap();
        let order = if op.group == 1 {
            BlockOrder::Dcr
        } else {
            BlockOrder::Crd
        };
        let (shape, values) = phase_weights(
            weights.values().unwrap(),
            &w,
            op.group as usize,
            &axes,
            order,
        );
        let conv = Conv {
            auto_pad: AutoPad::NotSet,
            dilations: vec![],
            group: op.group,
            kernel_shape: vec![],
            pads: vec![
                axes[0].pads.0,
                axes[1].pads.0,
                axes[0].pads.1,
                axes[1].pads.1,
            ],
            strides: vec![],
        };
        let made = run(&conv, &[&x, &Tensor::new(shape, values).unwrap()]);
        let blocks = DepthToSpace {
            blocksize: axes[0].stride as i64,
            mode: order,
        };
        let made = run(&blocks, &[&made]);
        let lists = [
            axes.iter().map(|axis| axis.cut.0).collect(),
            axes.iter().map(Phases::end).collect(),
            vec![2, 3],
        ]
        .map(Tensor::vector);
        let made = run(&Slice {}, &[&made, &lists[0], &lists[1], &lists[2]]);
        assert_eq!(made, expected, "{op:?} {w:?}");
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
                    let op = ConvTranspose {
                        auto_pad: AutoPad::NotSet,
                        dilations: vec![dilation; 2],
                        group,
                        kernel_shape: vec![],
                        output_padding: vec![padding; 2],
                        output_shape: vec![],
                        pads: vec![begin, begin, end, end],
                        strides: vec![stride; 2],
                    };
                    let size = kernel as usize;
                    check(&op, [4, 3, size, size]);
                }
            }
        }
    }
}
