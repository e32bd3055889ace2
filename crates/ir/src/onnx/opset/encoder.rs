//! The layers of transformers in `com.microsoft`: normalized sums, embeddings, products with weights of few bits.

use octofold_ops::{Attribute, AttributeMap, bail, bail_attribute};
use octofold_tensor::{Tensor, TensorData};

use super::{Lowering, OldNode};
use crate::ValueId;
use crate::onnx::error::NodeError;

/// What ONNX Runtime adds to a variance when the file does not say.
const EPSILON: f32 = 1e-12;

/// Adds a layer of a transformer.
pub(super) fn lower(cx: &mut Lowering<'_>, old: OldNode) -> Result<(), NodeError> {
    match old.op.as_str() {
        "SkipLayerNormalization" => skip_layer_normalization(cx, old),
        "EmbedLayerNormalization" => embed_layer_normalization(cx, old),
        "MatMulNBits" => mat_mul_n_bits(cx, old),
        _ => Err(NodeError::Operator),
    }
}

/// `LayerNormalization(sum)` over the last axis under the name of the first result.
fn normalize(
    cx: &mut Lowering<'_>,
    sum: ValueId,
    [scale, shift]: [Option<ValueId>; 2],
    epsilon: f32,
    outputs: &[String],
) -> Result<(), NodeError> {
    let attributes: AttributeMap = [
        ("axis".to_owned(), Attribute::Int(-1)),
        ("epsilon".to_owned(), Attribute::Float(epsilon)),
    ]
    .into_iter()
    .collect();
    cx.finish(OldNode {
        domain: String::new(),
        op: "LayerNormalization".to_owned(),
        version: crate::onnx::functions::NEWEST,
        inputs: if shift.is_some() {
            vec![Some(sum), scale, shift]
        } else {
            vec![Some(sum), scale]
        },
        outputs: outputs.to_vec(),
        attributes,
    })
}

/// `x`, `skip`, `gamma`, `beta`, `bias`: the normalized sum of x, skip and bias; the fourth result is the sum.
fn skip_layer_normalization(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(5)?;
    let epsilon = old.attributes.read::<f32>("epsilon")?.unwrap_or(EPSILON);
    old.refuse_attributes()?;
    let mut sum = cx.helper("Add", &[old.required(0)?, old.required(1)?], &[])?;
    if let Some(bias) = old.input(4) {
        sum = cx.helper("Add", &[sum, bias], &[])?;
    }
    let parameters = [Some(old.required(2)?), old.input(3)];
    if let Some(name) = old.outputs.get(3).filter(|name| !name.is_empty()) {
        cx.results.push((name.clone(), sum));
    }
    let normalized = &old.outputs[..old.outputs.len().min(3)];
    normalize(cx, sum, parameters, epsilon, normalized)
}

/// `ids`, `segments`, the tables of words, positions and segments, `gamma`, `beta`, `mask`, `positions`: the normalized sum of the three vectors of each
/// token. The second result counts the ones of each row of the mask, the third is the sum.
fn embed_layer_normalization(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(9)?;
    let epsilon = old.attributes.read::<f32>("epsilon")?.unwrap_or(EPSILON);
    old.drop_attribute("mask_index_type", &[0, 1])?;
    old.refuse_attributes()?;
    let ids = old.required(0)?;
    let words = cx.helper("Gather", &[old.required(2)?, ids], &[])?;
    let table = old.required(3)?;
    let positions = match old.input(8) {
        Some(positions) => cx.helper("Gather", &[table, positions], &[])?,
        None => {
            // Without positions each row counts from 0: the first rows of the table.
            let length = [("start", Attribute::Int(1)), ("end", Attribute::Int(2))];
            let length = cx.helper("Shape", &[ids], &length)?;
            let (start, axis) = (cx.ints("start", vec![0])?, cx.ints("axis", vec![0])?);
            cx.helper("Slice", &[table, start, length, axis], &[])?
        }
    };
    let mut sum = cx.helper("Add", &[words, positions], &[])?;
    if let Some(segments) = old.input(1) {
        let table = old.required(4)?;
        let segments = cx.helper("Gather", &[table, segments], &[])?;
        sum = cx.helper("Add", &[sum, segments], &[])?;
    }
    if let Some(name) = old.outputs.get(1).filter(|name| !name.is_empty()) {
        let mask = old.input(7).ok_or_else(|| {
            NodeError::Form("counts the ones of a mask, which is missing".to_owned())
        })?;
        let axis = cx.ints("axis", vec![1])?;
        let count = cx.helper(
            "ReduceSum",
            &[mask, axis],
            &[("keepdims", Attribute::Int(0))],
        )?;
        cx.results.push((name.clone(), count));
    }
    if let Some(name) = old.outputs.get(2).filter(|name| !name.is_empty()) {
        cx.results.push((name.clone(), sum));
    }
    let parameters = [Some(old.required(5)?), Some(old.required(6)?)];
    let normalized = &old.outputs[..old.outputs.len().min(1)];
    normalize(cx, sum, parameters, epsilon, normalized)
}

/// `A`, packed `B` [N, blocks, bytes], scales, packed zero points, a group index, a bias: `A·B'` by blocks of a row of B with a scale each. B becomes a constant
/// of 4 bits, dequantized by blocks.
fn mat_mul_n_bits(cx: &mut Lowering<'_>, mut old: OldNode) -> Result<(), NodeError> {
    old.expect_inputs(6)?;
    let mut size = |name: &str| -> Result<usize, NodeError> {
        let value = old.attributes.read::<i64>(name)?;
        let value = value.ok_or_else(|| NodeError::attribute(name, "is missing"))?;
        usize::try_from(value)
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| NodeError::attribute(name, format!("{value} is not positive")))
    };
    let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
    old.attributes.read::<i64>("accuracy_level")?;
    if let Some(bits) = old
        .attributes
        .read::<i64>("bits")?
        .filter(|&bits| bits != 4)
    {
        bail_attribute!("bits", "only 4 is supported, found {bits}");
    }
    old.refuse_attributes()?;
    if old.input(4).is_some() {
        bail!("a group index is not supported");
    }
    let blocks = k.div_ceil(block);
    let (a, packed, scales) = (old.required(0)?, old.required(1)?, old.required(2)?);
    let q = nibbles(cx, packed, n, blocks.saturating_mul(block.div_ceil(2)), k)?;
    // The packed weights have as many rows of blocks.
    let zero_points = match old.input(3) {
        Some(packed) => nibbles(cx, packed, n, blocks.div_ceil(2), blocks)?,
        None => vec![8; n * blocks],
    };
    let scales = constant(cx, scales)?.reshaped([n, blocks])?;
    let q = Tensor::from_data([n, k], TensorData::U4(q.into()))?;
    let zero_points = Tensor::from_data([n, blocks], TensorData::U4(zero_points.into()))?;
    let operands = [
        cx.constant("weights", q)?,
        cx.constant("scales", scales)?,
        cx.constant("zero_points", zero_points)?,
    ];
    let block = i64::try_from(block).unwrap_or(i64::MAX);
    let attributes = [
        ("axis", Attribute::Int(1)),
        ("block_size", Attribute::Int(block)),
    ];
    let b = cx.helper("DequantizeLinear", &operands, &attributes)?;
    let b = cx.helper("Transpose", &[b], &[("perm", Attribute::Ints(vec![1, 0]))])?;
    let Some(bias) = old.input(5) else {
        return cx.finish_as("MatMul", &[a, b], &[], &old.outputs);
    };
    let product = cx.helper("MatMul", &[a, b], &[])?;
    cx.finish_as("Add", &[product, bias], &[], &old.outputs)
}

fn constant<'a>(cx: &'a Lowering<'_>, value: ValueId) -> Result<&'a Tensor, NodeError> {
    cx.constant_of(value).ok_or_else(|| {
        let name = cx.graph.value(value).name();
        NodeError::Form(format!("`{name}` is not constant"))
    })
}

/// The first `columns` elements of each row of packed pairs, the lower half of a byte first; a row begins with a byte.
fn nibbles(
    cx: &Lowering<'_>,
    packed: ValueId,
    rows: usize,
    row_bytes: usize,
    columns: usize,
) -> Result<Vec<u8>, NodeError> {
    let tensor = constant(cx, packed)?;
    let bytes = tensor.values::<u8>()?;
    if Some(bytes.len()) != rows.checked_mul(row_bytes) {
        let (name, shape) = (cx.graph.value(packed).name(), tensor.shape());
        bail!("`{name}` has the dimensions {shape:?}, expected {rows} rows of {row_bytes} bytes");
    }
    let pairs = bytes.chunks_exact(row_bytes).flat_map(|row| {
        let halves = row.iter().flat_map(|&pair| [pair & 15, pair >> 4]);
        halves.take(columns)
    });
    Ok(pairs.collect())
}
