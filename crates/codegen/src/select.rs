//! Which kernel computes a node: one table, [`select`].
//!
//! A node gets a kernel when all its sizes are known before the plan runs and the kernel supports the form of the operator. The runtime checks the choice
//! again when it binds the step, so both must agree. Otherwise the portable operator computes the node, and the note says why.

use octofold_ir::Op;
use octofold_ops::families::{
    BinaryForm, BinaryKind, CoordinateTransformation, FusedConv, IntegerProduct,
    LayerNormalization, Layout, Outcome, PoolKind, Product, Reduction, Resize,
};
use octofold_ops::normalize_axis;
use octofold_runtime::{Axes, Core, InputForm, Kernel, compares, converts, recurrent_products};
use octofold_tensor::{DType, Dim};

use crate::facts::{Facts, is_byte};
use crate::pack::conv_shape;

/// A kernel, or why there is none.
pub(crate) type Selection = Result<Kernel, String>;

/// Chooses the kernel that computes a node alone.
pub(crate) fn select(facts: Facts<'_>) -> Selection {
    check_sizes(facts)?;
    let kernel = match facts.node.op() {
        Op::Transpose(op) => transpose(facts, &op.perm)?,
        _ => core(facts)?.into(),
    };
    let results = facts.node.outputs().len();
    check(
        kernel.core().results().contains(&results),
        "it has other results",
    )?;
    Ok(kernel)
}

/// Whether the plan will know all sizes, and there is something to compute.
fn check_sizes(facts: Facts<'_>) -> Result<(), String> {
    let node = facts.node;
    let unknown = node
        .inputs()
        .iter()
        .flatten()
        .chain(node.outputs())
        .find(|&&value| facts.types.shape(value).is_none());
    if let Some(&value) = unknown {
        return portable(format!(
            "the size of `{}` depends on data",
            facts.graph.value(value).name()
        ));
    }
    let results = node.outputs().iter();
    let mut shapes = results.filter_map(|&value| facts.types.shape(value));
    let empty = shapes.any(|shape| shape.contains(&Dim::Known(0)));
    check(!empty, "it is empty")
}

/// Chooses the core that computes a node, unless it is a `Transpose`.
fn core(facts: Facts<'_>) -> Result<Core, String> {
    match facts.node.op() {
        // Results that are the unchanged operand with another shape.
        Op::Reshape(_)
        | Op::Flatten(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_)
        | Op::Identity(_)
        | Op::Dropout(_)
        | Op::Observe(_) => Ok(Core::View),

        // Convolutions and matrix products.
        Op::FusedConv(op) => convolution(facts, op),
        Op::FusedLinear(op) => {
            constant_weights(facts)?;
            if let Product::Integer(product) = &op.product {
                integer(facts, product)?;
                Ok(Core::QLinear)
            } else {
                Ok(Core::FLinear)
            }
        }

        Op::Lstm(_) | Op::Gru(_) | Op::Rnn(_) => recurrent(facts),

        // Quantized values.
        Op::FusedBinary(op) => Ok(match (op.form, op.kind) {
            (BinaryForm::Bytes { .. }, BinaryKind::Add) => Core::QAdd,
            (BinaryForm::Bytes { .. }, BinaryKind::Mul) => Core::QMul,
            (BinaryForm::Float(_), _) => Core::FBinary,
        }),
        Op::FusedConcat(_) => Ok(Core::QConcat),
        Op::FusedPool(op) => {
            check(op.layout == Layout::Nhwc, "its layout is channels-first")?;
            Ok(match (op.rescale, op.kind) {
                (Some(_), PoolKind::Max) => Core::QMaxPool,
                (Some(_), PoolKind::Average) => Core::QAveragePool,
                (None, PoolKind::Max) => Core::FMaxPool,
                (None, PoolKind::Average) => Core::FAveragePool,
            })
        }
        Op::FusedGlobalPool(op) => {
            check(op.layout == Layout::Nhwc, "its layout is channels-first")?;
            Ok(match (op.rescale, op.kind) {
                (Some(_), PoolKind::Max) => Core::QMaxPool,
                (Some(_), PoolKind::Average) => Core::QGlobalAveragePool,
                (None, PoolKind::Max) => Core::FMaxPool,
                (None, PoolKind::Average) => Core::FGlobalAveragePool,
            })
        }
        Op::TableLookup(_) => {
            check(facts.constant(1).is_some(), "its table is no constant")?;
            Ok(Core::QTable)
        }
        Op::QuantizeLinear(op) => {
            float(facts, 0)?;
            let bytes = facts.result_dtype().is_some_and(is_byte);
            check(bytes, "its result has no 8 bits")?;
            one_scale(facts, op.block_size)?;
            Ok(Core::Quantize)
        }
        Op::DynamicQuantizeLinear(_) => {
            float(facts, 0)?;
            Ok(Core::DynamicQuantize)
        }
        Op::DequantizeLinear(op) => {
            check(facts.is_byte(0), "its operand has no 8 bits")?;
            let floats = facts.result_dtype() == Some(DType::F32);
            check(floats, "its result is not float")?;
            one_scale(facts, op.block_size)?;
            Ok(Core::Dequantize)
        }

        // Floats.
        Op::MatMul(_) => {
            float(facts, 0)?;
            Ok(Core::FMatMul)
        }
        Op::Pow(_)
            if facts
                .constant(1)
                .is_some_and(|exponent| exponent.len() == 1) =>
        {
            float(facts, 0)?;
            let shape = facts.shape(1).map_or(0, <[Dim]>::len);
            let fits = shape <= facts.shape(0).map_or(0, <[Dim]>::len);
            check(fits, "its exponent has more axes than the base")?;
            let read = [DType::F32, DType::F64, DType::I32, DType::I64];
            let known = facts.dtype(1).is_some_and(|dtype| read.contains(&dtype));
            check(known, "its exponent is of another type")?;
            Ok(Core::FFunction)
        }
        Op::Add(_)
        | Op::Sub(_)
        | Op::Mul(_)
        | Op::Div(_)
        | Op::Max(_)
        | Op::Min(_)
        | Op::Pow(_)
        | Op::PRelu(_) => {
            float(facts, 0)?;
            check(facts.node.inputs().len() == 2, "it has not two operands")?;
            float(facts, 1)?;
            Ok(Core::FBinary)
        }
        Op::Where(_) => {
            let dtype = facts.dtype(1).and_then(DType::size);
            check(dtype.is_some(), "its elements have no size")?;
            Ok(Core::Choose)
        }
        Op::Equal(_)
        | Op::Less(_)
        | Op::LessOrEqual(_)
        | Op::Greater(_)
        | Op::GreaterOrEqual(_)
        | Op::And(_)
        | Op::Or(_)
        | Op::Xor(_) => {
            let compared = facts.dtype(0).is_some_and(compares);
            check(compared, "no kernel compares its elements")?;
            Ok(Core::Compare)
        }
        Op::Cast(op) => {
            let converted = facts.dtype(0).is_some_and(|from| converts(from, op.to));
            check(converted, "no kernel converts its elements")?;
            Ok(Core::Cast)
        }
        Op::Softmax(_) | Op::LogSoftmax(_) => {
            float(facts, 0)?;
            Ok(Core::FSoftmax)
        }
        Op::LayerNormalization(op) => layer_norm(facts, op),
        Op::InstanceNormalization(_) => {
            float(facts, 0)?;
            Ok(Core::FNormalize)
        }
        Op::LpNormalization(_) => {
            float(facts, 0)?;
            Ok(Core::FDivideByNorm)
        }
        Op::ArgMax(_) | Op::ArgMin(_) => {
            float(facts, 0)?;
            Ok(Core::FArg)
        }
        op if Reduction::of(op).is_some() => {
            float(facts, 0)?;
            let known = facts.node.input(1).is_none() || facts.constant(1).is_some();
            check(known, "its axes are not constant")?;
            Ok(Core::FReduce)
        }
        Op::Relu(_) | Op::Clip(_) => clip(facts),

        Op::Concat(_) => {
            check(is_moved(facts), "no kernel moves its elements")?;
            Ok(Core::Concat)
        }
        Op::Resize(op) => {
            // Only the mode that crops reads the region.
            let movement = movement(facts, &[2, 3]);
            match op.keeps_values() {
                true => movement,
                false => movement.and_then(|_| interpolation(facts, op)),
            }
        }
        Op::Pad(_) => movement(facts, &[1, 2, 3]),
        Op::Gather(_) => {
            let list = facts.shape(1).is_some_and(|shape| shape.len() == 1);
            check(list, "its indices are no list")?;
            movement(facts, &[1])
        }
        Op::GatherElements(_) => {
            let sized = facts.dtype(0).and_then(DType::size).is_some();
            check(sized, "its elements have no size")?;
            Ok(Core::Pick)
        }
        Op::Slice(_) => movement(facts, &[1, 2, 3, 4]),
        // The shape of the result has their numbers.
        Op::Expand(_) | Op::Tile(_) | Op::DepthToSpace(_) | Op::NhwcDepthToSpace(_) => {
            movement(facts, &[])
        }
        op if op.float_function().is_some() => {
            float(facts, 0)?;
            Ok(Core::FFunction)
        }
        other => portable(format!("no kernel computes {}", other.name())),
    }
}

fn portable<T>(reason: impl Into<String>) -> Result<T, String> {
    Err(reason.into())
}

fn check(condition: bool, reason: &str) -> Result<(), String> {
    if condition { Ok(()) } else { portable(reason) }
}

fn float(facts: Facts<'_>, slot: usize) -> Result<(), String> {
    check(
        facts.dtype(slot) == Some(DType::F32),
        "its operand is not float",
    )
}

fn one_scale(facts: Facts<'_>, block_size: i64) -> Result<(), String> {
    check(
        block_size == 0 && facts.params().is_some(),
        "its scale is not one positive constant",
    )
}

/// A recurrent layer of floats as training frameworks have it.
fn recurrent(facts: Facts<'_>) -> Result<Core, String> {
    float(facts, 0)?;
    for slot in [1, 2, 3] {
        let constant = facts.node.input(slot).is_none() || facts.constant(slot).is_some();
        check(constant, "its weights are not constant")?;
    }
    let usual = recurrent_products(facts.node.op()).is_some();
    check(
        usual,
        "it has other functions than the usual ones, clips, or couples gates",
    )?;
    check(facts.node.input(7).is_none(), "it has peepholes")?;
    Ok(Core::FRecurrent)
}

fn convolution(facts: Facts<'_>, op: &FusedConv) -> Result<Core, String> {
    constant_weights(facts)?;
    let weights = facts.constant(1).map_or(&[][..], |weights| weights.shape());
    if op.layout == Layout::Nchw {
        check(
            op.is_affine(weights, facts.node.input(3).is_some()),
            "its layout is channels-first",
        )?;
        return Ok(Core::FAffine);
    }
    let depthwise = conv_shape(op, weights).is_ok_and(|shape| shape.is_depthwise());
    if let Product::Integer(product) = &op.product {
        integer(facts, product)?;
        return Ok(match depthwise {
            true => Core::QConvDepthwise,
            false => Core::QConv,
        });
    }
    Ok(match depthwise && facts.node.input(3).is_none() {
        true => Core::FConvDepthwise,
        false => Core::FConv,
    })
}

/// A `Clip`, or a `Relu`, which has no operands for its bounds.
fn clip(facts: Facts<'_>) -> Result<Core, String> {
    float(facts, 0)?;
    let bound = |slot: usize, default: f32| match facts.node.input(slot) {
        None => Some(default),
        Some(_) => facts
            .constant(slot)
            .and_then(|bound| bound.values::<f32>().ok()?.first().copied()),
    };
    match (bound(1, f32::NEG_INFINITY), bound(2, f32::INFINITY)) {
        (Some(lo), Some(hi)) if lo <= hi => Ok(Core::FClip),
        _ => portable("its bounds are not constant and in order"),
    }
}

/// A linear or cubic resize along one axis, or along two neighbours.
fn interpolation(facts: Facts<'_>, op: &Resize) -> Result<Core, String> {
    float(facts, 0)?;
    let crops = op.coordinate_transformation_mode == CoordinateTransformation::TfCropAndResize;
    check(!crops, "it crops")?;
    let from = facts.shape(0).unwrap_or(&[]);
    let to = facts.result().and_then(|result| facts.types.shape(result));
    let scales = facts
        .constant(2)
        .and_then(|scales| scales.values::<f32>().ok());
    let changes = |axis: usize| {
        let listed = op
            .axes
            .iter()
            .position(|&own| own.rem_euclid(from.len() as i64) == axis as i64);
        let index = if op.axes.is_empty() {
            Some(axis)
        } else {
            listed
        };
        let scale = scales
            .zip(index)
            .and_then(|(scales, index)| scales.get(index));
        Some(&from[axis]) != to.and_then(|to| to.get(axis))
            || scale.is_some_and(|&scale| scale != 1.0)
    };
    let axes: Vec<usize> = (0..from.len()).filter(|&axis| changes(axis)).collect();
    let neighbours = matches!(axes[..], [_]) || matches!(axes[..], [a, b] if a + 1 == b);
    check(
        neighbours,
        "it interpolates along other axes than two neighbours",
    )?;
    Ok(Core::FResize)
}

/// A layer norm whose scale and bias have as many elements as a row.
fn layer_norm(facts: Facts<'_>, op: &LayerNormalization) -> Result<Core, String> {
    float(facts, 0)?;
    let shape = facts.shape(0).unwrap_or(&[]);
    let axis = normalize_axis(op.axis, shape.len()).map_err(|error| error.to_string())?;
    let row = &shape[axis..];
    let fits = |slot: usize| {
        let own = facts.shape(slot).unwrap_or(&[]);
        let extra = own.len().saturating_sub(row.len());
        own[extra..] == *row && own[..extra].iter().all(|size| *size == Dim::Known(1))
    };
    let fit = fits(1) && (facts.node.input(2).is_none() || fits(2));
    check(fit, "its scale or bias broadcasts")?;
    Ok(Core::FNormalize)
}

fn constant_weights(facts: Facts<'_>) -> Result<(), String> {
    let constant = |value| facts.graph.value(value).constant().is_some();
    check(
        facts.node.weights().is_some_and(constant),
        "its weights are no constant",
    )?;
    check(
        facts.node.bias().is_none_or(constant),
        "its bias is no constant",
    )
}

fn integer(facts: Facts<'_>, product: &IntegerProduct) -> Result<(), String> {
    check(
        facts.dtype(1) == Some(DType::I8),
        "its weights are not int8",
    )?;
    check(
        product.result != Outcome::Accumulators,
        "no kernel gives raw sums",
    )
}

fn transpose(facts: Facts<'_>, perm: &[i64]) -> Selection {
    let shape = facts.shape(0).unwrap_or(&[]);
    let longer: Vec<usize> = if perm.is_empty() {
        (0..shape.len()).rev().collect()
    } else {
        perm.iter()
            .filter_map(|&axis| usize::try_from(axis).ok())
            .collect()
    };
    let longer = longer
        .into_iter()
        .filter(|&axis| shape.get(axis) != Some(&Dim::Known(1)));
    if longer.is_sorted() {
        return Ok(Core::View.into());
    }
    check(is_moved(facts), "no kernel moves its elements")?;
    let is_to = |layout: Layout| perm.len() > 3 && perm == layout.permutation(perm.len());
    let (from, to) = match facts.node.op() {
        _ if is_to(Layout::Nhwc) => (Axes::Nchw, Axes::Nhwc),
        _ if is_to(Layout::Nchw) => (Axes::Nhwc, Axes::Nchw),
        Op::Transpose(op) if op.rotation(shape.len()).is_some() => (Axes::Any, Axes::Any),
        _ => return Ok(Core::Move.into()),
    };
    let kernel = Kernel::new(Core::Transpose, InputForm::AsIs(from), to);
    Ok(kernel.unwrap_or(Core::Move.into()))
}

/// Whether the result has elements of a type that kernels move.
fn is_moved(facts: Facts<'_>) -> bool {
    matches!(
        facts.result_dtype(),
        Some(DType::F32 | DType::I32 | DType::U8 | DType::I8)
    )
}

/// The core of a movement. Its lists, the operands `lists`, must be constant or absent.
fn movement(facts: Facts<'_>, lists: &[usize]) -> Result<Core, String> {
    check(is_moved(facts), "no kernel moves its elements")?;
    check(facts.constant(0).is_none(), "its operand is constant")?;
    let constant =
        |&slot: &usize| facts.node.input(slot).is_none() || facts.constant(slot).is_some();
    check(lists.iter().all(constant), "its lists are not constant")?;
    Ok(Core::Move)
}
