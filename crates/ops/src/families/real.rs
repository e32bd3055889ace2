//! Elements as numbers, whatever their type: floats as f64, small integers as i32.
//!
//! Float operators compute in f64 and round once to the type of their result, but for functions of f32, which `octofold_quant::float` defines; integers of up to 32 bits and
//! their products are exact in f64, too. This is slow, but accurate, and one implementation serves all widths.

use octofold_quant::QuantType;
use octofold_quant::float::Function;
use octofold_tensor::{DType, Elements, Tensor, TensorData, bf16, f16};

use super::support::wrong_type;
use crate::{OpError, bail};

/// The elements of a float tensor, input `index`.
///
/// # Errors
/// When the elements are no floats.
pub(crate) fn reals(tensor: &Tensor, index: usize) -> Result<Vec<f64>, OpError> {
    Ok(match tensor.data() {
        TensorData::F32(values) => values.iter().map(|&v| v.into()).collect(),
        TensorData::F64(values) => values.to_vec(),
        TensorData::F16(values) => values.iter().map(|v| v.to_f64()).collect(),
        TensorData::BF16(values) => values.iter().map(|v| v.to_f64()).collect(),
        _ => return Err(wrong_type(tensor, index, "float")),
    })
}

/// A float tensor of numbers, each rounded once.
///
/// # Errors
/// When `dtype` is no float type, or the number of elements does not fit the shape.
pub(crate) fn real_tensor(
    dtype: DType,
    shape: &[usize],
    values: impl IntoIterator<Item = f64>,
) -> Result<Tensor, OpError> {
    let values = values.into_iter();
    let data = match dtype {
        DType::F32 => TensorData::F32(Elements::new(values.map(|v| v as f32).collect())),
        DType::F64 => TensorData::F64(Elements::new(values.collect())),
        DType::F16 => TensorData::F16(Elements::new(values.map(f16::from_f64).collect())),
        DType::BF16 => TensorData::BF16(Elements::new(values.map(bf16::from_f64).collect())),
        _ => bail!("{dtype} is no float type"),
    };
    Ok(Tensor::from_data(shape.iter().copied(), data)?)
}

/// A function of each element of a float tensor, input 0: `function` of f32, and `f` in f64, rounded once, of other types.
///
/// # Errors
/// When the elements are no floats.
pub(crate) fn map_reals(
    tensor: &Tensor,
    function: Function,
    f: &dyn Fn(f64) -> f64,
) -> Result<Tensor, OpError> {
    let data = match tensor.data() {
        TensorData::F32(values) => {
            let mut y = vec![0.0; values.len()];
            function.map(values, &mut y);
            TensorData::F32(Elements::new(y))
        }
        TensorData::F64(values) => {
            TensorData::F64(Elements::new(values.iter().map(|&v| f(v)).collect()))
        }
        TensorData::F16(values) => TensorData::F16(Elements::new(
            values
                .iter()
                .map(|v| f16::from_f64(f(v.to_f64())))
                .collect(),
        )),
        TensorData::BF16(values) => TensorData::BF16(Elements::new(
            values
                .iter()
                .map(|v| bf16::from_f64(f(v.to_f64())))
                .collect(),
        )),
        _ => return Err(wrong_type(tensor, 0, "float")),
    };
    Ok(Tensor::from_data(tensor.shape().iter().copied(), data)?)
}

/// The quantized type that has the range of an element type; `None` for types that hold no quantized values.
pub fn quant_type_of(dtype: DType) -> Option<QuantType> {
    Some(match dtype {
        DType::U4 => QuantType::Uint4,
        DType::I4 => QuantType::Int4,
        DType::U8 => QuantType::Uint8,
        DType::I8 => QuantType::Int8,
        DType::U16 => QuantType::Uint16,
        DType::I16 => QuantType::Int16,
        DType::I32 => QuantType::Int32,
        _ => return None,
    })
}

/// The element type that holds values of a quantized type.
pub const fn dtype_of(quant: QuantType) -> DType {
    match quant {
        QuantType::Uint4 => DType::U4,
        QuantType::Int4 => DType::I4,
        QuantType::Uint8 => DType::U8,
        QuantType::Int8 => DType::I8,
        QuantType::Uint16 => DType::U16,
        QuantType::Int16 => DType::I16,
        QuantType::Int32 => DType::I32,
    }
}

/// The elements of a quantized tensor, input `index`, and their type.
///
/// # Errors
/// When the element type is no [`QuantType`].
pub(crate) fn quantized(tensor: &Tensor, index: usize) -> Result<(Vec<i32>, QuantType), OpError> {
    let expected = "an integer type of at most 32 bits";
    let dtype = quant_type_of(tensor.dtype()).ok_or_else(|| wrong_type(tensor, index, expected))?;
    let values = match tensor.data() {
        TensorData::U4(values) | TensorData::U8(values) => {
            values.iter().map(|&v| v.into()).collect()
        }
        TensorData::I4(values) | TensorData::I8(values) => {
            values.iter().map(|&v| v.into()).collect()
        }
        TensorData::U16(values) => values.iter().map(|&v| v.into()).collect(),
        TensorData::I16(values) => values.iter().map(|&v| v.into()).collect(),
        TensorData::I32(values) => values.to_vec(),
        _ => return Err(wrong_type(tensor, index, expected)),
    };
    Ok((values, dtype))
}

/// The elements of a tensor of bytes, input `index`, and their type.
///
/// # Errors
/// When the element type is neither u8 nor s8.
pub(crate) fn quantized_bytes(
    tensor: &Tensor,
    index: usize,
) -> Result<(Vec<i32>, QuantType), OpError> {
    match tensor.dtype() {
        DType::U8 | DType::I8 => quantized(tensor, index),
        _ => Err(wrong_type(tensor, index, "uint8 or int8")),
    }
}

/// A tensor of quantized values, which are in the range of `dtype`.
///
/// # Errors
/// When the number of elements does not fit the shape.
pub(crate) fn quantized_tensor(
    dtype: QuantType,
    shape: &[usize],
    values: impl IntoIterator<Item = i32>,
) -> Result<Tensor, OpError> {
    let values = values.into_iter();
    let data = match dtype {
        QuantType::Uint4 => TensorData::U4(Elements::new(values.map(|v| v as u8).collect())),
        QuantType::Int4 => TensorData::I4(Elements::new(values.map(|v| v as i8).collect())),
        QuantType::Uint8 => TensorData::U8(Elements::new(values.map(|v| v as u8).collect())),
        QuantType::Int8 => TensorData::I8(Elements::new(values.map(|v| v as i8).collect())),
        QuantType::Uint16 => TensorData::U16(Elements::new(values.map(|v| v as u16).collect())),
        QuantType::Int16 => TensorData::I16(Elements::new(values.map(|v| v as i16).collect())),
        QuantType::Int32 => TensorData::I32(Elements::new(values.collect())),
    };
    Ok(Tensor::from_data(shape.iter().copied(), data)?)
}

/// An integer sum, computed exactly in f64, as the 32-bit accumulator that it must fit.
///
/// # Errors
/// When it does not fit: the operator's sums would wrap.
pub(crate) fn accumulator(sum: f64) -> Result<i32, OpError> {
    if (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&sum) {
        Ok(sum as i32)
    } else {
        bail!("the sum {sum} leaves the 32 bits of an accumulator")
    }
}
