//! Batch norms that are part of no other layer, as those behind a concatenation or a sum in DenseNet and other networks with activations before layers.
//!
//! Of images, a batch norm is a depthwise convolution of one tap. One quantization and one activation then serve the product and the sum, and weights of 8 bits are
//! exact, since each channel has a scale of its own. Of matrices, it is a product and a sum.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{Add, AutoPad, Conv, Mul};
use octofold_tensor::{DType, Tensor};

use super::affine::{Affine, batch_norm};
use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Makes a batch norm that is part of no other layer a convolution of its channels, or a product and a sum.
    pub struct LowerBatchNorms("lower-batch-norms") = [LowerBatchNorm];
}

rule! {
    struct LowerBatchNorm("lower-batch-norm") finds Norm { x: ValueId }
}

impl Rewrite for LowerBatchNorm {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(BatchNormalization), [Pattern::value("x")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Norm>) -> Result<Patch, Skip> {
        let (norm, x) = (found.root(), found.x);
        if support::dtype(graph, support::result(graph, norm)) != DType::F32 {
            bail!("the batch norm is not f32");
        }
        let affine = batch_norm(graph, norm)?;
        let rank = support::rank(graph, x).ok_or(Skip::because("the rank is not known"))?;
        let Some(axes) = rank.checked_sub(2) else {
            return Err(Skip::NoMatch);
        };
        let mut made = Lowered {
            graph,
            norm,
            patch: Patch::new(),
        };
        let result = match axes {
            1..=3 => made.convolution(x, affine, axes)?,
            _ => made.product_and_sum(x, affine, axes)?,
        };
        Ok(made.patch.replace_result(graph, norm, result))
    }
}

/// What a batch norm becomes.
struct Lowered<'a> {
    graph: &'a Graph,
    norm: NodeId,
    patch: Patch,
}

impl Lowered<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.graph.node(self.norm).name())
    }

    fn floats(
        &mut self,
        suffix: &str,
        shape: &[usize],
        values: impl IntoIterator<Item = f64>,
    ) -> Result<PatchValue, Skip> {
        let values = values.into_iter().map(|x| x as f32).collect();
        let name = self.name(suffix);
        Ok(self
            .patch
            .constant(name, support::float_tensor(shape, values)?))
    }

    /// A depthwise convolution over `axes` axes.
    fn convolution(&mut self, x: ValueId, affine: Affine, axes: usize) -> Result<PatchValue, Skip> {
        let channels = affine.scale.len();
        let mut shape = vec![channels, 1];
        shape.resize(axes + 2, 1);
        let bias = self.floats(".shift", &[channels], affine.shift)?;
        let producer = self.graph.value(x).producer();
        let weights = match producer.map(|id| self.graph.node(id).op()) {
            Some(Op::DequantizeLinear(_)) => self.integer_weights(&shape, &affine.scale)?,
            _ => self.floats(".scale", &shape, affine.scale)?,
        };
        let conv = Conv {
            auto_pad: AutoPad::NotSet,
            dilations: vec![],
            group: channels as i64,
            kernel_shape: vec![],
            pads: vec![],
            strides: vec![],
        };
        let sources = self.graph.sources_of([self.norm]);
        let inputs = [Some(x.into()), Some(weights), Some(bias)];
        Ok(self.patch.node(self.name(""), conv, inputs, sources))
    }

    /// Weights of ±127 with a scale for each channel, dequantized: of a quantized operand, the convolution then computes on integers.
    fn integer_weights(&mut self, shape: &[usize], scale: &[f64]) -> Result<PatchValue, Skip> {
        let integers = scale.iter().map(|&k| match k {
            0.0 => 0,
            k if k < 0.0 => -127,
            _ => 127_i8,
        });
        let integers = Tensor::new(shape.iter().copied(), integers.collect())?;
        let steps = scale
            .iter()
            .map(|&k| if k == 0.0 { 1.0 } else { k.abs() / 127.0 });
        let name = self.name(".scale");
        let steps = steps.map(|step| step as f32).collect();
        Ok(support::dequantized_weights(
            &mut self.patch,
            &name,
            integers,
            steps,
        ))
    }

    /// A product and a sum, which broadcast over the `axes` axes behind the channels.
    fn product_and_sum(
        &mut self,
        x: ValueId,
        affine: Affine,
        axes: usize,
    ) -> Result<PatchValue, Skip> {
        let mut shape = vec![1; axes + 1];
        shape[0] = affine.scale.len();
        let scale = self.floats(".scale", &shape, affine.scale)?;
        let shift = self.floats(".shift", &shape, affine.shift)?;
        let sources = self.graph.sources_of([self.norm]);
        let inputs = [Some(x.into()), Some(scale)];
        let scaled = (self.patch).node(self.name(".scaled"), Mul {}, inputs, sources.clone());
        let inputs = [Some(scaled), Some(shift)];
        Ok(self.patch.node(self.name(""), Add {}, inputs, sources))
    }
}
