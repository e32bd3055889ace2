//! Sums of a value and a small multiple of it: `x + x·s = x·(s + 1)`.
//!
//! Residual attention (a squeeze-and-excitation block with a shortcut around it) multiplies an image by one number a channel and adds the image. Factored, the
//! image is read and written once, and rounded to integers once; `s + 1` is a few numbers, and usually another function of what gives `s`.

use octofold_ir::{Graph, Patch, PatchValue, TensorType};
use octofold_ops::families::{Add, Mul};
use octofold_tensor::{DType, Dim, Tensor};

use crate::op;
use crate::pass::{Pass, PassError, PassReport};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip, apply_rewrites, sources_of};
use crate::support;

/// Factors sums of a value and its product with a smaller one.
#[derive(Clone, Copy, Debug, Default)]
pub struct FactorSums;

impl Pass for FactorSums {
    fn name(&self) -> &'static str {
        "factor-sums"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        apply_rewrites(graph, self.name(), &[&FactorSum])
    }
}

/// Whether a value repeats along some axis of another one, and nothing of the other repeats.
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

struct FactorSum;

impl Rewrite for FactorSum {
    fn name(&self) -> &'static str {
        "factor-sum"
    }

    fn pattern(&self) -> Pattern {
        let product = Pattern::commutative(
            "product",
            op!(Mul),
            Pattern::value("x"),
            Pattern::value("s"),
        );
        Pattern::commutative("sum", op!(Add), Pattern::value("x"), product)
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let (sum, product) = (found.node("sum"), found.node("product"));
        let value = |symbol| found.value(symbol).ok_or(Skip::NoMatch);
        let (x, s) = (value("x")?, value("s")?);
        let (x_ty, s_ty) = (graph.value(x).ty(), graph.value(s).ty());
        if x_ty.dtype != DType::F32 || !is_smaller(s_ty, x_ty) {
            return Err(Skip::NoMatch);
        }
        if graph.single_use(support::result(graph, product)).is_none() {
            return Err(Skip::because("the product is also read by itself"));
        }
        let sources = sources_of(graph, [product, sum]);
        let name = graph.node(product).name();
        let mut patch = Patch::new();
        let one = patch.constant(format!("{name}.one"), Tensor::scalar(1.0_f32));
        let operands = [Some(PatchValue::Existing(s)), Some(one)];
        let factor = patch.node(format!("{name}.factor"), Add {}, operands, sources.clone());
        let operands = [Some(PatchValue::Existing(x)), Some(factor)];
        let made = patch.node(name, Mul {}, operands, sources);
        patch.replace(support::result(graph, sum), made);
        patch.remove(sum);
        patch.remove(product);
        Ok(patch)
    }
}
