//! Canonical forms: one spelling for what exporters write in several ways.
//!
//! `Gemm` and `MatMul` with constant weights become linear layers, a `Clip` at 0 becomes `Relu`, a mean over height and width
//! becomes global pooling, and the ways to write Swish and HardSwish become these operators.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::{Activation, GlobalAveragePool, HardSwish, Relu, Reshape, Swish};
use octofold_tensor::{Dim, Tensor};

use crate::pass::{Pass, PassError};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Rewriter, Skip};
use crate::{op, support, symbols};

/// Brings operators to their canonical forms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        rewriter.apply_rules(
            graph,
            &[
                &ReshapeSizes,
                &GemmToLinear,
                &MatMulToLinear,
                &LinearBias,
                &ClipToRelu,
                &MeanToGlobalPool,
                &HardSwishForm,
                &SwishForm,
            ],
        )
    }
}

symbols! {
    struct Sizes { x: ValueId, sizes: ValueId }
}

/// The sizes of a `Reshape` that exporters compute from a symbolic batch, as a constant: one open size is the -1 of ONNX.
struct ReshapeSizes;

impl Rewrite for ReshapeSizes {
    type Found = Sizes;

    fn name(&self) -> &'static str {
        "reshape-sizes"
    }

    fn pattern(&self) -> Pattern {
        let operands = [Pattern::value("x"), Pattern::value("sizes")];
        Pattern::node(op!(Reshape), operands)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Sizes>) -> Result<Patch, Skip> {
        let id = found.root();
        if graph.value(found.sizes).constant().is_some() {
            return Err(Skip::NoMatch);
        }
        // Inference followed the computed sizes, also through a -1 of their own.
        let dims = graph
            .value(support::result(graph, id))
            .ty()
            .shape
            .as_ref()
            .ok_or(Skip::NoMatch)?;
        let known: Vec<Option<i64>> = dims.iter().map(Dim::known).collect();
        let open = known.iter().filter(|size| size.is_none()).count();
        // A -1 beside another, or beside a size of zero, would say nothing.
        if open > 1 || known.iter().flatten().any(|&size| size <= 0) {
            return Err(Skip::because("more than one size is not known"));
        }
        let constant: Vec<i64> = known.iter().map(|size| size.unwrap_or(-1)).collect();
        let mut patch = Patch::new();
        let name = format!("{}.sizes", graph.node(id).name());
        let constant = patch.constant(name, Tensor::vector(constant));
        let operands = [Some(found.x.into()), Some(constant)];
        Ok(patch.replace_op(graph, id, Reshape { allowzero: false }, operands))
    }
}

symbols! {
    struct Product { x: ValueId, w: ValueId }
}

/// `Gemm` with constant weights and bias: alpha, beta and the transpose go into the constants.
struct GemmToLinear;

impl Rewrite for GemmToLinear {
    type Found = Product;

    fn name(&self) -> &'static str {
        "gemm-to-linear"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Gemm), [Pattern::value("x"), Pattern::constant("w")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Product>) -> Result<Patch, Skip> {
        let (id, x, w) = (found.root(), found.x, found.w);
        let Op::Gemm(gemm) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        if gemm.transA {
            return Err(Skip::because("the first operand is transposed"));
        }
        let values = support::floats(graph, w).ok_or(Skip::because("the weights are not f32"))?;
        let shape = graph
            .value(w)
            .constant()
            .map(Tensor::shape)
            .unwrap_or_default();
        let &[rows, columns] = shape else {
            return Err(Skip::NoMatch);
        };
        let (k, n) = if gemm.transB {
            (columns, rows)
        } else {
            (rows, columns)
        };
        let mut patch = Patch::new();
        let weights = if gemm.transB || gemm.alpha != 1.0 {
            let element = |i: usize| {
                let (row, column) = (i / n, i % n);
                gemm.alpha
                    * if gemm.transB {
                        values[column * k + row]
                    } else {
                        values[row * n + column]
                    }
            };
            let transposed = (0..k * n).map(element).collect();
            patch.constant(
                graph.value(w).name(),
                support::float_tensor(&[k, n], transposed)?,
            )
        } else {
            w.into()
        };
        let mut inputs = vec![Some(x.into()), Some(weights)];
        if let Some(c) = graph.node(id).input(2).filter(|_| gemm.beta != 0.0) {
            let bias = row_bias(graph, c, n).ok_or(Skip::because(
                "the bias is not a constant of one element a column",
            ))?;
            let bias = bias.into_iter().map(|b| b * gemm.beta).collect();
            inputs.push(Some(patch.constant(
                graph.value(c).name(),
                support::float_tensor(&[n], bias)?,
            )));
        }
        Ok(patch.replace_op(graph, id, support::float_linear(), inputs))
    }
}

/// A constant that broadcasts along rows: `[N]`, [1, N], or a single element.
fn row_bias(graph: &Graph, value: octofold_ir::ValueId, columns: usize) -> Option<Vec<f32>> {
    let tensor = graph.value(value).constant()?;
    let values = tensor.values::<f32>().ok()?;
    if values.len() == 1 {
        return Some(vec![values[0]; columns]);
    }
    (values.len() == columns && tensor.shape().last() == Some(&columns)).then(|| values.to_vec())
}

/// `MatMul` with a constant matrix.
struct MatMulToLinear;

impl Rewrite for MatMulToLinear {
    type Found = Product;

    fn name(&self) -> &'static str {
        "matmul-to-linear"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(op!(MatMul), [Pattern::value("x"), Pattern::constant("w")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Product>) -> Result<Patch, Skip> {
        let (x, w) = (found.x, found.w);
        let matrix = support::floats(graph, w).is_some() && graph.value(w).ty().rank() == Some(2);
        // A vector has no rows to keep; numpy's rule for it is the portable operator's.
        if !matrix || graph.value(x).ty().rank().is_none_or(|rank| rank < 2) {
            return Err(Skip::NoMatch);
        }
        let operands = [Some(x.into()), Some(w.into())];
        let linear = support::float_linear();
        Ok(Patch::new().replace_op(graph, found.root(), linear, operands))
    }
}

symbols! {
    struct Biased { linear: NodeId, w: ValueId, b: ValueId }
}

/// A constant added to the columns of a linear layer is its bias.
struct LinearBias;

impl Rewrite for LinearBias {
    type Found = Biased;

    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn pattern(&self) -> Pattern {
        let operands = [Pattern::any(), Pattern::constant("w")];
        let linear = Pattern::node(op!(FusedLinear), operands);
        linear.named("linear") + Pattern::constant("b")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Biased>) -> Result<Patch, Skip> {
        let (id, w, b) = (found.linear, found.w, found.b);
        let Op::FusedLinear(op) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        if op.activation != Activation::None || op.x.is_some() {
            return Err(Skip::NoMatch);
        }
        let shape = graph.value(w).ty().known_shape().ok_or(Skip::NoMatch)?;
        let columns = shape.get(1).copied().ok_or(Skip::NoMatch)?;
        let added = row_bias(graph, b, columns)
            .ok_or(Skip::because("what is added is not one element a column"))?;
        if graph.value(b).ty().rank() > graph.value(support::result(graph, id)).ty().rank() {
            return Err(Skip::NoMatch);
        }
        let bias = match graph.node(id).input(2) {
            None => added,
            Some(old) => {
                let old =
                    support::floats(graph, old).ok_or(Skip::because("the bias is not constant"))?;
                old.iter().zip(added).map(|(a, b)| a + b).collect()
            }
        };
        let mut patch = Patch::new();
        let bias = patch.constant(
            graph.value(b).name(),
            support::float_tensor(&[columns], bias)?,
        );
        let mut inputs: Vec<Option<PatchValue>> = graph.operands(id);
        inputs.truncate(2);
        inputs.push(Some(bias));
        Ok(patch.fuse(graph, &[id, found.root()], op.clone(), inputs))
    }
}

symbols! {
    struct Argument { x: ValueId }
}

/// `Clip(x, 0, inf)` is `Relu(x)`.
struct ClipToRelu;

impl Rewrite for ClipToRelu {
    type Found = Argument;

    fn name(&self) -> &'static str {
        "clip-to-relu"
    }

    fn pattern(&self) -> Pattern {
        Pattern::value("x").clip(0.0, Pattern::number(f32::INFINITY).optional())
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        Ok(found.replace_by(graph, Relu {}, [Some(found.x.into())]))
    }
}

symbols! {
    struct Mean { x: ValueId, axes: ValueId }
}

/// `ReduceMean` over the two spatial axes of [N, C, H, W].
struct MeanToGlobalPool;

impl Rewrite for MeanToGlobalPool {
    type Found = Mean;

    fn name(&self) -> &'static str {
        "mean-to-global-pool"
    }

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
        if graph.value(x).ty().rank() != Some(4) || axes != [2, 3] {
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

/// `x · HardSigmoid(x)` with slope 1/6, and `x · Clip(x + 3, 0, 6) / 6`.
struct HardSwishForm;

fn is_hard_sigmoid_by_sixths(op: &Op) -> bool {
    let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
    matches!(op, Op::HardSigmoid(op) if close(op.alpha, 1.0 / 6.0) && close(op.beta, 0.5))
}

impl Rewrite for HardSwishForm {
    type Found = Argument;

    fn name(&self) -> &'static str {
        "hard-swish"
    }

    fn pattern(&self) -> Pattern {
        let x = || Pattern::value("x");
        let clipped = || (x() + 3.0).clip(0.0, 6.0);
        let sigmoid = Pattern::node(is_hard_sigmoid_by_sixths, [x()]);
        Pattern::any_of([
            x() * sigmoid,
            x() * (clipped() / 6.0),
            x() * clipped() / 6.0,
        ])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        pointwise(graph, found, HardSwish {}.into())
    }
}

/// `x · sigmoid(x)`.
struct SwishForm;

impl Rewrite for SwishForm {
    type Found = Argument;

    fn name(&self) -> &'static str {
        "swish"
    }

    fn pattern(&self) -> Pattern {
        Pattern::value("x") * Pattern::value("x").sigmoid()
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Argument>) -> Result<Patch, Skip> {
        pointwise(graph, found, Swish { alpha: 1.0 }.into())
    }
}

/// Replaces all nodes of a match by one function of `x`, where no constant of them widens its shape.
fn pointwise(graph: &Graph, found: &Match<Argument>, op: Op) -> Result<Patch, Skip> {
    let shape = |value: ValueId| &graph.value(value).ty().shape;
    if shape(found.x) != shape(support::result(graph, found.root())) {
        return Err(Skip::NoMatch);
    }
    Ok(found.replace_by(graph, op, [Some(found.x.into())]))
}
