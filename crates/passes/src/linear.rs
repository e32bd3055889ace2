//! The one form of linear layers: `Gemm`, and `MatMul` with or without `Add`, as `octofold.Linear` over weights [K, N] and a bias [N].
//!
//! `alpha·x·w + beta·c` has the weights `alpha·w` and the bias `beta·c`, whether the weights are f32 or dequantized integers. With integers, `alpha`
//! is multiplied into the scales and a transpose into the integers, so that the layer gets an integer kernel.

use octofold_ir::{Graph, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::{Activation, Add, DequantizeLinear, Gemm, MatMul, Mul, Transpose};
use octofold_quant::QuantParams;
use octofold_tensor::{DType, Element, Tensor};

use crate::expand::Chain;
use crate::lower::{dequantized, real_constant};
use crate::pattern::{Match, Pattern};
use crate::rewrite::{Named, Rewrite, Skip};
use crate::{op, rule, support};

/// What the weights of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// A constant of f32.
    Float,
    /// A constant of integers, dequantized.
    Dequantized,
}

/// Makes `Gemm` and `MatMul` with constant weights linear layers.
pub(crate) struct LinearForm(pub(crate) Weights);

impl Named for LinearForm {
    const NAME: &'static str = "linear-form";
    type Found = ();
}

impl Rewrite for LinearForm {
    fn pattern(&self) -> Pattern {
        let constant = Pattern::any_constant();
        let weights = match self.0 {
            Weights::Float => constant,
            Weights::Dequantized => constant.dequantized(),
        };
        Pattern::node(op!(Gemm | MatMul), [Pattern::any(), weights])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let node = graph.node(found.root());
        let (Some(x), Some(w)) = (node.input(0), node.input(1)) else {
            return Err(Skip::NoMatch);
        };
        let gemm = match node.op() {
            Op::Gemm(gemm) => gemm.clone(),
            _ => Gemm {
                alpha: 1.0,
                beta: 1.0,
                transA: false,
                transB: false,
            },
        };
        let rank = |value: ValueId| support::rank(graph, value);
        // A vector has no rows to keep; numpy's rule for it is the portable operator's.
        if rank(w) != Some(2) || rank(x).is_none_or(|rank| rank < 2) {
            return Err(Skip::NoMatch);
        }
        let shape = graph.value(w).ty().known_shape().ok_or(Skip::NoMatch)?;
        let columns = shape[usize::from(!gemm.transB)];
        let mut patch = Patch::new();
        let weights = match self.0 {
            Weights::Float => float_weights(graph, &mut patch, w, &gemm)?,
            Weights::Dequantized => dequantized_weights(graph, &mut patch, w, &gemm)?,
        };
        let x = match gemm.transA {
            true => transposed_operand(graph, &mut patch, found.root(), x),
            false => x.into(),
        };
        let mut inputs = vec![Some(x), Some(weights)];
        if let Some(bias) = node.input(2).filter(|_| gemm.beta != 0.0) {
            let is_row = graph.value(bias).ty().known_shape().as_deref() == Some(&[columns]);
            let computed = self.0 == Weights::Dequantized && is_row && gemm.beta == 1.0;
            inputs.push(Some(
                match row(graph, &mut patch, bias, columns, gemm.beta) {
                    Err(_) if computed => bias.into(),
                    row => row?,
                },
            ));
        }
        Ok(patch.replace_op(graph, found.root(), support::float_linear(), inputs))
    }
}

/// The first operand of a node with rows and columns exchanged. Where it is dequantized with one scale, the integers are.
fn transposed_operand(graph: &Graph, patch: &mut Patch, node: NodeId, x: ValueId) -> PatchValue {
    let perm = vec![1, 0];
    let name = format!("{}.transposed", graph.node(node).name());
    let sources = graph.sources_of([node]);
    let quantized = dequantized(graph, x).filter(|x| x.params.per_tensor().is_some());
    let (Some(quantized), Some(id)) = (quantized, graph.value(x).producer()) else {
        return patch.node(name, Transpose { perm }, [Some(x.into())], sources);
    };
    let integers = Some(quantized.value.into());
    let mut inputs = graph.operands(id);
    inputs[0] = Some(patch.node(name, Transpose { perm }, [integers], sources));
    let dequantize = graph.node(id);
    patch.node(dequantize.name(), dequantize.op().clone(), inputs, vec![])
}

/// The weights `alpha·w` as [K, N], in f32.
fn float_weights(
    graph: &Graph,
    patch: &mut Patch,
    w: ValueId,
    gemm: &Gemm,
) -> Result<PatchValue, Skip> {
    let tensor = graph.value(w).constant().ok_or(Skip::NoMatch)?;
    let values = tensor.values::<f32>();
    let values = values.map_err(|_| Skip::because("the weights are not f32"))?;
    if !gemm.transB && gemm.alpha == 1.0 {
        return Ok(w.into());
    }
    let scaled = values.iter().map(|w| gemm.alpha * w).collect();
    let scaled = support::float_tensor(tensor.shape(), scaled)?;
    let weights = if gemm.transB {
        transposed::<f32>(&scaled).ok_or(Skip::NoMatch)?
    } else {
        scaled
    };
    Ok(patch.constant(graph.value(w).name(), weights))
}

/// The weights `alpha·w` as [K, N], dequantized: the integers are transposed, the axis of the scales moves, and `alpha` is a factor of the scales.
fn dequantized_weights(
    graph: &Graph,
    patch: &mut Patch,
    w: ValueId,
    gemm: &Gemm,
) -> Result<PatchValue, Skip> {
    if !gemm.transB && gemm.alpha == 1.0 {
        return Ok(w.into());
    }
    let quantized =
        dequantized(graph, w).ok_or(Skip::because("the weights have no constant parameters"))?;
    let id = graph.value(w).producer().ok_or(Skip::NoMatch)?;
    let mut inputs = graph.operands(id);
    let mut axis = match quantized.params {
        QuantParams::PerTensor(_) => 1,
        QuantParams::PerChannel { axis, .. } => axis as i64,
    };
    if gemm.transB {
        let integers = graph.value(quantized.value);
        let tensor = integers.constant().ok_or(Skip::NoMatch)?;
        let tensor = transposed::<i8>(tensor).or_else(|| transposed::<u8>(tensor));
        let tensor = tensor.ok_or(Skip::because("the weights are not 8-bit integers"))?;
        inputs[0] = Some(patch.constant(integers.name(), tensor));
        if matches!(quantized.params, QuantParams::PerChannel { .. }) {
            axis = 1 - axis;
        }
    }
    if gemm.alpha != 1.0 {
        let scale = graph.node(id).input(1).ok_or(Skip::NoMatch)?;
        let tensor = graph.value(scale).constant().ok_or(Skip::NoMatch)?;
        let scales = support::floats(graph, scale).ok_or(Skip::NoMatch)?;
        let scales: Vec<f32> = scales.iter().map(|scale| scale * gemm.alpha).collect();
        if !scales.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
            let reason = format!(
                "the scales of the weights times alpha ({}) are not positive normal numbers",
                gemm.alpha
            );
            return Err(Skip::because(reason));
        }
        let scales = support::float_tensor(tensor.shape(), scales)?;
        inputs[1] = Some(patch.constant(graph.value(scale).name(), scales));
    }
    let op = DequantizeLinear {
        axis,
        block_size: 0,
        output_dtype: 0,
    };
    Ok(patch.node(graph.node(id).name(), op, inputs, vec![]))
}

/// A matrix with rows and columns exchanged.
fn transposed<T: Element + Copy>(tensor: &Tensor) -> Option<Tensor> {
    let &[rows, columns] = tensor.shape() else {
        return None;
    };
    let values = tensor.values::<T>().ok()?;
    let moved = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]);
    Tensor::new([columns, rows], moved.collect()).ok()
}

/// The numbers that a constant, or dequantized constant, adds to the columns of a matrix: it has the shape [N], [1, N], or a single element.
fn row_values(graph: &Graph, value: ValueId, columns: usize) -> Result<Vec<f32>, Skip> {
    let no_row = || Skip::because("what is added is not a constant of one element a column");
    let reals = real_constant(graph, value).ok_or_else(no_row)?;
    let shape = graph.value(value).ty().known_shape().unwrap_or_default();
    match reals[..] {
        [single] => Ok(vec![single; columns]),
        _ if reals.len() == columns && shape.last() == Some(&columns) => Ok(reals),
        _ => Err(no_row()),
    }
}

/// The bias [N] that adds `factor` times what `value` adds to each column. Integers stay the same integers where they can.
fn row(
    graph: &Graph,
    patch: &mut Patch,
    value: ValueId,
    columns: usize,
    factor: f32,
) -> Result<PatchValue, Skip> {
    let reals = row_values(graph, value, columns)?;
    // A float bias is a constant of its own behind the weights: a file of statistics has a checksum of the printed graph, and so of the order of constants.
    if factor == 1.0 && dequantized(graph, value).is_some() {
        if graph.value(value).ty().known_shape().as_deref() == Some(&[columns]) {
            return Ok(value.into());
        }
        if let Some(integers) = integer_row(graph, patch, value, columns) {
            return Ok(integers);
        }
    }
    let scaled = reals.into_iter().map(|x| x * factor).collect();
    let scaled = support::float_tensor(&[columns], scaled)?;
    Ok(patch.constant(graph.value(value).name(), scaled))
}

/// The dequantized integers [1, N] of a value as [N].
fn integer_row(
    graph: &Graph,
    patch: &mut Patch,
    value: ValueId,
    columns: usize,
) -> Option<PatchValue> {
    let quantized = dequantized(graph, value)?;
    let integers = graph.value(quantized.value);
    let tensor = integers.constant()?;
    let last = matches!(quantized.params, QuantParams::PerChannel { axis, .. } if axis + 1 == tensor.rank());
    if tensor.len() != columns || !(last || quantized.params.per_tensor().is_some()) {
        return None;
    }
    let tensor = tensor.reshaped([columns]).ok()?;
    let op = DequantizeLinear {
        axis: 0,
        block_size: 0,
        output_dtype: 0,
    };
    let id = graph.value(value).producer()?;
    let mut inputs = graph.operands(id);
    inputs[0] = Some(patch.constant(integers.name(), tensor));
    Some(patch.node(graph.node(id).name(), op, inputs, vec![]))
}

/// Makes a `Gemm` of two computed matrices, or one that adds more than a row, a `MatMul`, with what it multiplies and adds as nodes of their own.
pub(crate) struct SplitGemm(pub(crate) Weights);

impl Named for SplitGemm {
    const NAME: &'static str = "split-gemm";
    type Found = ();
}

impl Rewrite for SplitGemm {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Gemm), [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let node = graph.node(id);
        let (Op::Gemm(gemm), Some(a), Some(b)) = (node.op(), node.input(0), node.input(1)) else {
            return Err(Skip::NoMatch);
        };
        // Dequantized weights become those of a linear layer, later.
        let later = self.0 == Weights::Float && dequantized(graph, b).is_some();
        if later || support::dtype(graph, a) != DType::F32 {
            return Err(Skip::NoMatch);
        }
        let mut chain = Chain::new(graph, id);
        let mut turned = |suffix: &str, operand: ValueId, turn: bool| match turn {
            true => {
                let perm = vec![1, 0];
                chain.node(suffix, Transpose { perm }, vec![Some(operand.into())])
            }
            false => operand.into(),
        };
        let a = turned("_A", a, gemm.transA);
        let b = turned("_B", b, gemm.transB);
        let mut value = chain.node("", MatMul {}, vec![Some(a), Some(b)]);
        if gemm.alpha != 1.0 {
            let alpha = chain.number("_alpha", gemm.alpha);
            value = chain.node("_scaled", Mul {}, vec![Some(value), Some(alpha)]);
        }
        if let Some(c) = node.input(2).filter(|_| gemm.beta != 0.0) {
            let mut c = PatchValue::from(c);
            if gemm.beta != 1.0 {
                let beta = chain.number("_beta", gemm.beta);
                c = chain.node("_C", Mul {}, vec![Some(c), Some(beta)]);
            }
            value = chain.node("_Add", Add {}, vec![Some(value), Some(c)]);
        }
        Ok(chain.finish(Activation::None, value))
    }
}

rule! {
    /// A constant, or dequantized constant, that is added to the columns of a linear layer is its bias.
    pub(crate) struct LinearBias("linear-bias") finds Biased { linear: NodeId, b: ValueId }
}

impl Rewrite for LinearBias {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(FusedLinear), []).named("linear") + Pattern::value("b")
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Biased>) -> Result<Patch, Skip> {
        let (id, b) = (found.linear, found.b);
        let Op::FusedLinear(op) = graph.node(id).op() else {
            return Err(Skip::NoMatch);
        };
        let rank = |value: ValueId| support::rank(graph, value);
        if *op != support::float_linear()
            || rank(b) > rank(support::result(graph, id))
            || real_constant(graph, b).is_none()
        {
            return Err(Skip::NoMatch);
        }
        let weights = support::operand_type(graph, id, 1).and_then(|ty| ty.known_shape());
        let &[_, columns] = weights.ok_or(Skip::NoMatch)?.as_slice() else {
            return Err(Skip::NoMatch);
        };
        let mut patch = Patch::new();
        let bias = match graph.node(id).bias() {
            None => row(graph, &mut patch, b, columns, 1.0)?,
            Some(old) => {
                let old = real_constant(graph, old);
                let old = old.ok_or(Skip::because("the bias is not constant"))?;
                let added = row_values(graph, b, columns)?;
                let sum = old.iter().zip(added).map(|(a, b)| a + b).collect();
                let sum = support::float_tensor(&[columns], sum)?;
                patch.constant(graph.value(b).name(), sum)
            }
        };
        let mut inputs = graph.operands(id);
        inputs.truncate(2);
        inputs.push(Some(bias));
        Ok(patch.fuse(graph, &[id, found.root()], op.clone(), inputs))
    }
}
