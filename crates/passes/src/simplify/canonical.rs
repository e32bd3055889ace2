//! Canonical forms: exporters write some operations in several ways, and each gets one.
//!
//! `Gemm` and `MatMul` with constant weights become linear layers, a `Clip` at 0 becomes `Relu`, a mean over height and width
//! becomes global pooling, operators of any number of operands become chains (`variadic.rs`), and activation functions that are spelled out become one operator (`activations.rs`).

use octofold_ir::{Graph, Op, Patch, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{GlobalAveragePool, Relu, Reshape};
use octofold_tensor::{Dim, Tensor};

use super::activations::{
    GeluForm, GeluTanhForm, HardSwishForm, MishForm, SoftplusForm, SwishForm,
};
use super::variadic::VariadicToBinary;
use crate::linear::{LinearBias, LinearForm, SplitGemm, Weights};
use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule_pass! {
    /// Brings operators to their canonical forms.
    pub struct Canonicalize("canonicalize") = [
        ReshapeSizes,
        VariadicToBinary,
        LinearForm(Weights::Float),
        SplitGemm(Weights::Float),
        LinearBias,
        ClipToRelu,
        MeanToGlobalPool,
        HardSwishForm,
        SwishForm,
        GeluForm,
        GeluTanhForm,
        SoftplusForm,
        MishForm,
    ];
}

rule! {
    /// Makes the sizes of a `Reshape` a constant, where exporters compute them from a symbolic batch: one unknown size becomes the -1 of ONNX.
    struct ReshapeSizes("reshape-sizes") finds Sizes { x: ValueId, sizes: ValueId }
}

impl Rewrite for ReshapeSizes {
    fn pattern(&self) -> Pattern {
        let operands = [Pattern::value("x"), Pattern::value("sizes")];
        Pattern::node(op!(Reshape), operands)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Sizes>) -> Result<Patch, Skip> {
        let id = found.root();
        if graph.value(found.sizes).constant().is_some() {
            return Err(Skip::NoMatch);
        }
        // Inference followed the computed sizes, a -1 among them included.
        let dims = graph
            .value(support::result(graph, id))
            .ty()
            .shape
            .as_ref()
            .ok_or(Skip::NoMatch)?;
        let known: Vec<Option<i64>> = dims.iter().map(Dim::known).collect();
        let open = known.iter().filter(|size| size.is_none()).count();
        // ONNX allows one -1, and it is ambiguous when another size is zero.
        if open > 1 || known.iter().flatten().any(|&size| size <= 0) {
            bail!("more than one size is not known");
        }
        let constant: Vec<i64> = known.iter().map(|size| size.unwrap_or(-1)).collect();
        let mut patch = Patch::new();
        let name = format!("{}.sizes", graph.node(id).name());
        let constant = patch.constant(name, Tensor::vector(constant));
        let operands = [Some(found.x.into()), Some(constant)];
        Ok(patch.replace_op(graph, id, Reshape { allowzero: false }, operands))
    }
}

rule! {
    /// `Clip(x, 0, inf)` is `Relu(x)`.
    struct ClipToRelu("clip-to-relu") finds Clipped { x: ValueId }
}

impl Rewrite for ClipToRelu {
    fn pattern(&self) -> Pattern {
        Pattern::value("x").clip(0.0, Pattern::number(f32::INFINITY).optional())
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Clipped>) -> Result<Patch, Skip> {
        Ok(found.replace_by(graph, Relu {}, [Some(found.x.into())]))
    }
}

rule! {
    /// `ReduceMean` over the two spatial axes of [N, C, H, W].
    struct MeanToGlobalPool("mean-to-global-pool") finds Mean { x: ValueId, axes: ValueId }
}

impl Rewrite for MeanToGlobalPool {
    fn pattern(&self) -> Pattern {
        let operands = [Pattern::value("x"), Pattern::constant("axes")];
        Pattern::node(op!(ReduceMean), operands)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Mean>) -> Result<Patch, Skip> {
        let (id, x) = (found.root(), found.x);
        let Op::ReduceMean(mean) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        let mut axes = support::integers(graph, found.axes).ok_or(Skip::NoMatch)?;
        for axis in &mut axes {
            *axis += if *axis < 0 { 4 } else { 0 };
        }
        axes.sort_unstable();
        if support::rank(graph, x) != Some(4) || axes != [2, 3] {
            return Err(Skip::NoMatch);
        }
        let mut patch = Patch::new();
        let sources = graph.sources_of([id]);
        let mut made = patch.node(
            graph.node(id).name(),
            GlobalAveragePool {},
            [Some(x.into())],
            sources.clone(),
        );
        if !mean.keepdims {
            let channels = graph
                .value(x)
                .ty()
                .shape
                .as_ref()
                .and_then(|shape| shape[1].known());
            let channels = channels.ok_or(Skip::because("the number of channels is not known"))?;
            // 0 copies the batch, which may be a symbol.
            let shape = patch.constant(
                format!("{}.shape", graph.node(id).name()),
                Tensor::vector(vec![0_i64, channels]),
            );
            let name = format!("{}.reshape", graph.node(id).name());
            made = patch.node(
                name,
                Reshape { allowzero: false },
                [Some(made), Some(shape)],
                sources,
            );
        }
        Ok(patch.replace_result(graph, id, made))
    }
}
