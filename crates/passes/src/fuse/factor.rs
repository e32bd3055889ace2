//! Sums of a value and a small multiple of it: `x + x·s = x·(s + 1)`.
//!
//! Residual attention (a squeeze-and-excitation block with a shortcut) multiplies an image by one number for each channel and adds the image.
//! The factored form reads, writes and rounds the image once. `s + 1` has few elements, and usually joins the functions that compute `s`.

use octofold_ir::{Graph, NodeId, Patch, PatchValue, TensorType, ValueId};
use octofold_ops::bail;
use octofold_ops::families::{Add, Mul};
use octofold_tensor::{DType, Dim, Tensor};

use crate::pass::rule_pass;
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{rule, support};

rule_pass! {
    /// Factors sums of a value and its product with a smaller one.
    pub struct FactorSums("factor-sums") = [FactorSum];
}

/// Whether `small` is broadcast along some axis of `large`, and `large` along none.
fn is_smaller(small: &TensorType, large: &TensorType) -> bool {
    let (Some(small), Some(large)) = (&small.shape, &large.shape) else {
        return false;
    };
    let Some(missing) = large.len().checked_sub(small.len()) else {
        return false;
    };
    let axes = || large[missing..].iter().zip(small);
    let one = Dim::Known(1);
    // An open dimension of the large value may be 1 as well; then nothing is lost.
    axes().all(|(large, small)| large == small || *small == one)
        && (missing > 0 || axes().any(|(large, small)| large != small))
}

rule! {
    struct FactorSum("factor-sum") finds Sum { product: NodeId, x: ValueId, s: ValueId }
}

impl Rewrite for FactorSum {
    fn pattern(&self) -> Pattern {
        let (x, s) = (Pattern::value("x"), Pattern::value("s"));
        x.clone() + (x * s).named("product")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Sum>) -> Result<Patch, Skip> {
        let (sum, product, x, s) = (found.root(), found.product, found.x, found.s);
        let (x_ty, s_ty) = (graph.value(x).ty(), graph.value(s).ty());
        if x_ty.dtype != DType::F32 || !is_smaller(s_ty, x_ty) {
            return Err(Skip::NoMatch);
        }
        if graph.single_use(support::result(graph, product)).is_none() {
            bail!("the product is also read by itself");
        }
        let sources = graph.sources_of([product, sum]);
        let name = graph.node(product).name();
        let mut patch = Patch::new();
        let one = patch.constant(format!("{name}.one"), Tensor::scalar(1.0_f32));
        let operands = [Some(PatchValue::Existing(s)), Some(one)];
        let factor = patch.node(format!("{name}.factor"), Add {}, operands, sources);
        let operands = [Some(PatchValue::Existing(x)), Some(factor)];
        Ok(patch.fuse(graph, &[product, sum], Mul {}, operands))
    }
}
