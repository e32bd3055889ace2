//! Canonical forms: one spelling for what exporters write in several ways.
//!
//! `Gemm` and `MatMul` with constant weights become linear layers, a `Clip` at 0 becomes `Relu`, a mean over height and width
//! becomes global pooling, and the ways to write Swish and HardSwish become these operators.

use octofold_ir::{Graph, Op, Patch, PatchValue};
use octofold_ops::families::{Activation, GlobalAveragePool, HardSwish, Relu, Reshape, Swish};
use octofold_tensor::{Dim, Tensor};

use crate::op;
use crate::pass::{Pass, PassError, PassReport};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip, apply_rewrites, sources_of};
use crate::support;

/// Brings operators to their canonical forms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn run(&self, graph: &mut Graph) -> Result<PassReport, PassError> {
        apply_rewrites(
            graph,
            self.name(),
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

/// The sizes of a `Reshape` that exporters compute from a symbolic batch, as a constant: one open size is the -1 of ONNX.
struct ReshapeSizes;

impl Rewrite for ReshapeSizes {
    fn name(&self) -> &'static str {
        "reshape-sizes"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "reshape",
            op!(Reshape),
            [Pattern::value("x"), Pattern::value("sizes")],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("reshape");
        let (Some(x), Some(sizes)) = (found.value("x"), found.value("sizes")) else {
            return Err(Skip::NoMatch);
        };
        if graph.value(sizes).constant().is_some() {
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
        let made = patch.node(
            graph.node(id).name(),
            Reshape { allowzero: false },
            [Some(x.into()), Some(constant)],
            sources_of(graph, [id]),
        );
        patch.replace(support::result(graph, id), made);
        patch.remove(id);
        Ok(patch)
    }
}

/// `Gemm` with constant weights and bias: alpha, beta and the transpose go into the constants.
struct GemmToLinear;

impl Rewrite for GemmToLinear {
    fn name(&self) -> &'static str {
        "gemm-to-linear"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "gemm",
            op!(Gemm),
            [Pattern::value("x"), Pattern::constant("w")],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("gemm");
        let (Op::Gemm(gemm), Some(x), Some(w)) =
            (graph.node(id).op(), found.value("x"), found.value("w"))
        else {
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
        let made = patch.node(
            graph.node(id).name(),
            support::float_linear(),
            inputs,
            sources_of(graph, [id]),
        );
        patch.replace(support::result(graph, id), made);
        patch.remove(id);
        Ok(patch)
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
    fn name(&self) -> &'static str {
        "matmul-to-linear"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "matmul",
            op!(MatMul),
            [Pattern::value("x"), Pattern::constant("w")],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("matmul");
        let (Some(x), Some(w)) = (found.value("x"), found.value("w")) else {
            return Err(Skip::NoMatch);
        };
        let matrix = support::floats(graph, w).is_some() && graph.value(w).ty().rank() == Some(2);
        // A vector has no rows to keep; numpy's rule for it is the portable operator's.
        if !matrix || graph.value(x).ty().rank().is_none_or(|rank| rank < 2) {
            return Err(Skip::NoMatch);
        }
        let mut patch = Patch::new();
        let made = patch.node(
            graph.node(id).name(),
            support::float_linear(),
            [Some(x.into()), Some(w.into())],
            sources_of(graph, [id]),
        );
        patch.replace(support::result(graph, id), made);
        patch.remove(id);
        Ok(patch)
    }
}

/// A constant added to the columns of a linear layer is its bias.
struct LinearBias;

impl Rewrite for LinearBias {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn pattern(&self) -> Pattern {
        let linear = Pattern::node(
            "linear",
            op!(FusedLinear),
            [Pattern::value("x"), Pattern::constant("w")],
        );
        Pattern::commutative("add", op!(Add), linear, Pattern::constant("b"))
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let (add, id) = (found.node("add"), found.node("linear"));
        let (Some(w), Some(b)) = (found.value("w"), found.value("b")) else {
            return Err(Skip::NoMatch);
        };
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
        let mut inputs: Vec<Option<PatchValue>> = support::operands(graph, id);
        inputs.truncate(2);
        inputs.push(Some(bias));
        let made = patch.node(
            graph.node(id).name(),
            op.clone(),
            inputs,
            sources_of(graph, [id, add]),
        );
        patch.replace(support::result(graph, add), made);
        patch.remove(add);
        patch.remove(id);
        Ok(patch)
    }
}

/// `Clip(x, 0, inf)` is `Relu(x)`.
struct ClipToRelu;

impl Rewrite for ClipToRelu {
    fn name(&self) -> &'static str {
        "clip-to-relu"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "clip",
            op!(Clip),
            [Pattern::value("x"), Pattern::constant("min")],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("clip");
        let (Some(x), Some(min)) = (found.value("x"), found.value("min")) else {
            return Err(Skip::NoMatch);
        };
        let open = graph
            .node(id)
            .input(2)
            .is_none_or(|max| support::scalar(graph, max) == Some(f32::INFINITY));
        if !open || support::scalar(graph, min) != Some(0.0) {
            return Err(Skip::NoMatch);
        }
        let mut patch = Patch::new();
        let made = patch.node(
            graph.node(id).name(),
            Relu {},
            [Some(x.into())],
            sources_of(graph, [id]),
        );
        patch.replace(support::result(graph, id), made);
        patch.remove(id);
        Ok(patch)
    }
}

/// `ReduceMean` over the two spatial axes of [N, C, H, W].
struct MeanToGlobalPool;

impl Rewrite for MeanToGlobalPool {
    fn name(&self) -> &'static str {
        "mean-to-global-pool"
    }

    fn pattern(&self) -> Pattern {
        Pattern::node(
            "mean",
            op!(ReduceMean),
            [Pattern::value("x"), Pattern::constant("axes")],
        )
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let id = found.node("mean");
        let (Op::ReduceMean(mean), Some(x), Some(axes)) =
            (graph.node(id).op(), found.value("x"), found.value("axes"))
        else {
            return Err(Skip::NoMatch);
        };
        let mut axes = support::integers(graph, axes).ok_or(Skip::NoMatch)?;
        for axis in &mut axes {
            *axis += if *axis < 0 { 4 } else { 0 };
        }
        axes.sort_unstable();
        if graph.value(x).ty().rank() != Some(4) || axes != [2, 3] {
            return Err(Skip::NoMatch);
        }
        let mut patch = Patch::new();
        let sources = sources_of(graph, [id]);
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
        patch.replace(support::result(graph, id), made);
        patch.remove(id);
        Ok(patch)
    }
}

/// `x · HardSigmoid(x)` with slope 1/6, and `x · Clip(x + 3, 0, 6) / 6`.
struct HardSwishForm;

impl Rewrite for HardSwishForm {
    fn name(&self) -> &'static str {
        "hard-swish"
    }

    fn pattern(&self) -> Pattern {
        let x = || Pattern::value("x");
        let shifted = Pattern::commutative("add", op!(Add), x(), Pattern::constant("three"));
        let clipped = || {
            Pattern::node(
                "clip",
                op!(Clip),
                [
                    shifted.clone(),
                    Pattern::constant("zero"),
                    Pattern::constant("six"),
                ],
            )
        };
        let sigmoid = Pattern::node("sigmoid", op!(HardSigmoid), [x()]);
        let scaled = Pattern::node("scale", op!(Div), [clipped(), Pattern::constant("divisor")]);
        let product = Pattern::commutative("product", op!(Mul), x(), clipped());
        Pattern::AnyOf(vec![
            Pattern::commutative("mul", op!(Mul), x(), Pattern::AnyOf(vec![sigmoid, scaled])),
            Pattern::node("mul", op!(Div), [product, Pattern::constant("divisor")]),
        ])
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        if let Some(sigmoid) = found.get_node("sigmoid") {
            let Op::HardSigmoid(op) = graph.node(sigmoid).op() else {
                return Err(Skip::NoMatch);
            };
            if !close(op.alpha, 1.0 / 6.0) || !close(op.beta, 0.5) {
                return Err(Skip::NoMatch);
            }
        } else {
            let constants = [
                ("three", 3.0),
                ("zero", 0.0),
                ("six", 6.0),
                ("divisor", 6.0),
            ];
            let expected = constants.iter().all(|&(symbol, expected)| {
                found
                    .value(symbol)
                    .and_then(|value| support::scalar(graph, value))
                    == Some(expected)
            });
            if !expected {
                return Err(Skip::NoMatch);
            }
        }
        pointwise(graph, found, HardSwish {}.into())
    }
}

/// `x · sigmoid(x)`.
struct SwishForm;

impl Rewrite for SwishForm {
    fn name(&self) -> &'static str {
        "swish"
    }

    fn pattern(&self) -> Pattern {
        let sigmoid = Pattern::node("sigmoid", op!(Sigmoid), [Pattern::value("x")]);
        Pattern::commutative("mul", op!(Mul), Pattern::value("x"), sigmoid)
    }

    fn rewrite(&self, graph: &Graph, found: &Match) -> Result<Patch, Skip> {
        pointwise(graph, found, Swish { alpha: 1.0 }.into())
    }
}

/// Replaces all nodes of a match by one function of the value `x`.
fn pointwise(graph: &Graph, found: &Match, op: Op) -> Result<Patch, Skip> {
    let x = found.value("x").ok_or(Skip::NoMatch)?;
    let y = support::result(graph, found.root());
    if shape_of(graph, x) != shape_of(graph, y) {
        return Err(Skip::NoMatch);
    }
    let mut patch = Patch::new();
    let made = patch.node(
        graph.node(found.root()).name(),
        op,
        [Some(x.into())],
        sources_of(graph, found.nodes().rev()),
    );
    patch.replace(y, made);
    for node in found.nodes() {
        patch.remove(node);
    }
    Ok(patch)
}

fn shape_of(graph: &Graph, value: octofold_ir::ValueId) -> Option<&[Dim]> {
    graph.value(value).ty().shape.as_deref()
}
