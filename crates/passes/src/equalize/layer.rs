//! A layer as equalization sees it: weights by input and output channel, in f64.

use octofold_ir::{Graph, NodeId, Op};
use octofold_ops::families::Product;
use octofold_tensor::Tensor;

use crate::support;

/// The factors that a channel may have in the end. Beyond, f32 weights of ordinary size would become subnormal.
const FACTORS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// Whether an operator is a float layer with weights.
pub(super) fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv(_)) || op.product().is_some_and(Product::is_float)
}

/// A working copy of a layer's weights and bias.
pub(super) struct Layer {
    linear: bool,
    groups: usize,
    shape: Vec<usize>,
    outputs: usize,
    inputs: usize,
    weights: Vec<f64>,
    bias: Option<Vec<f64>>,
    /// By what each output channel has been divided.
    factors: Vec<f64>,
    changed: bool,
}

impl Layer {
    /// Reads a node for which [`is_layer`] holds; the reason when it cannot be scaled.
    pub(super) fn read(graph: &Graph, id: NodeId) -> Result<Self, String> {
        let node = graph.node(id);
        let name = node.name();
        let constant = |slot: usize, what: &str| {
            let value = node.input(slot);
            let values = value.and_then(|value| support::floats(graph, value));
            let values =
                values.ok_or_else(|| format!("the {what} of `{name}` is no f32 constant"))?;
            if values.iter().any(|x| !x.is_finite()) {
                return Err(format!("the {what} of `{name}` has a NaN or an infinity"));
            }
            Ok(values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>())
        };
        let weights = constant(1, "weight")?;
        let bias = match node.bias() {
            Some(_) => Some(constant(2, "bias")?),
            None => None,
        };
        let odd = || format!("`{name}` has weights of an odd shape");
        let shape = node
            .weights()
            .and_then(|w| graph.value(w).ty().known_shape())
            .ok_or_else(odd)?;
        let group = match node.op() {
            Op::Conv(conv) => conv.group,
            Op::FusedConv(conv) => conv.group,
            _ => 1,
        };
        let groups = usize::try_from(group).ok().filter(|&g| g > 0);
        let groups = groups.ok_or_else(odd)?;
        let linear = matches!(node.op(), Op::FusedLinear(_));
        let (outputs, inputs) = match (shape.as_slice(), linear) {
            (&[inputs, outputs], true) => (outputs, inputs),
            (&[outputs, inputs, ..], false) if outputs.is_multiple_of(groups) => {
                (outputs, inputs.checked_mul(groups).ok_or_else(odd)?)
            }
            _ => return Err(odd()),
        };
        if weights.is_empty() {
            return Err(format!("`{name}` has no weights"));
        }
        if bias.as_ref().is_some_and(|bias| bias.len() != outputs) {
            return Err(format!("`{name}` has not one bias a channel"));
        }
        Ok(Self {
            linear,
            groups,
            shape,
            outputs,
            inputs,
            weights,
            bias,
            factors: vec![1.0; outputs],
            changed: false,
        })
    }

    pub(super) fn is_linear(&self) -> bool {
        self.linear
    }

    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// Whether each output channel reads the input channel of the same number, and no other.
    pub(super) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.inputs && self.groups == self.outputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether a channel was scaled, be it an input or an output.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Whether an output channel was scaled.
    pub(super) fn is_divided(&self) -> bool {
        self.factors.iter().any(|&factor| factor != 1.0)
    }

    /// The output channel of a weight.
    fn output_of(&self, index: usize) -> usize {
        match self.linear {
            true => index % self.outputs,
            false => index / self.shape[1..].iter().product::<usize>(),
        }
    }

    /// The input channel of a weight; within a layer of one group, or a depthwise one.
    fn input_of(&self, index: usize) -> usize {
        match self.linear {
            true => index / self.outputs,
            false if self.groups == 1 => {
                index / self.shape[2..].iter().product::<usize>() % self.inputs
            }
            false => self.output_of(index),
        }
    }

    /// The largest magnitude of each output channel's weights.
    pub(super) fn output_ranges(&self) -> Vec<f64> {
        self.ranges(self.outputs, |index| self.output_of(index))
    }

    /// The largest magnitude of each input channel's weights.
    pub(super) fn input_ranges(&self) -> Vec<f64> {
        self.ranges(self.inputs, |index| self.input_of(index))
    }

    fn ranges(&self, channels: usize, channel_of: impl Fn(usize) -> usize) -> Vec<f64> {
        let mut ranges = vec![0.0_f64; channels];
        for (index, weight) in self.weights.iter().enumerate() {
            let range = &mut ranges[channel_of(index)];
            *range = range.max(weight.abs());
        }
        ranges
    }

    /// Whether an output channel can be divided by a factor without loss of numbers.
    pub(super) fn can_divide(&self, channel: usize, factor: f64) -> bool {
        let bias = self.bias.as_ref().map_or(0.0, |bias| bias[channel]);
        FACTORS.contains(&(self.factors[channel] * factor))
            && (bias / factor).abs() <= f64::from(f32::MAX)
    }

    /// Divides weights and bias of each output channel by its factor.
    pub(super) fn divide_outputs(&mut self, factors: &[f64]) {
        for index in 0..self.weights.len() {
            self.weights[index] /= factors[self.output_of(index)];
        }
        let own = self.factors.iter_mut().zip(factors);
        own.for_each(|(own, factor)| *own *= factor);
        for (bias, factor) in self.bias.iter_mut().flatten().zip(factors) {
            *bias /= factor;
        }
        self.changed = true;
    }

    /// Multiplies the weights of each input channel by its factor.
    pub(super) fn multiply_inputs(&mut self, factors: &[f64]) {
        for index in 0..self.weights.len() {
            self.weights[index] *= factors[self.input_of(index)];
        }
        self.changed = true;
    }

    /// The factor of an upper bound after the layer, so that no channel is clipped below its own bound.
    pub(super) fn bound_factor(&self) -> f64 {
        let factors = self.factors.iter().map(|factor| factor.recip());
        factors.reduce(f64::max).unwrap_or(1.0)
    }

    /// Weights and bias, rounded.
    pub(super) fn tensors(&self) -> Result<(Tensor, Option<Tensor>), String> {
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let weights = Tensor::new(self.shape.iter().copied(), narrow(&self.weights))
            .map_err(|error| error.to_string())?;
        let bias = self.bias.as_ref().map(|bias| Tensor::vector(narrow(bias)));
        Ok((weights, bias))
    }
}
