//! Conversion between tensors and the bytes that kernels read and write.

use bytemuck::AnyBitPattern;
use half::{bf16, f16};
use octofold_tensor::{DType, Element, Tensor, TensorData};

use crate::StepError;

/// The elements of a tensor as bytes; `None` for strings.
pub(crate) fn tensor_bytes(tensor: &Tensor) -> Option<&[u8]> {
    match tensor.data() {
        TensorData::String(_) => None,
        TensorData::F32(values) => Some(bytemuck::cast_slice(values)),
        TensorData::F64(values) => Some(bytemuck::cast_slice(values)),
        TensorData::F16(values) => Some(bytemuck::cast_slice(values)),
        TensorData::BF16(values) => Some(bytemuck::cast_slice(values)),
        TensorData::I8(values) | TensorData::I4(values) => Some(bytemuck::cast_slice(values)),
        TensorData::I16(values) => Some(bytemuck::cast_slice(values)),
        TensorData::I32(values) => Some(bytemuck::cast_slice(values)),
        TensorData::I64(values) => Some(bytemuck::cast_slice(values)),
        TensorData::U8(values) | TensorData::U4(values) => Some(values),
        TensorData::U16(values) => Some(bytemuck::cast_slice(values)),
        TensorData::U32(values) => Some(bytemuck::cast_slice(values)),
        TensorData::U64(values) => Some(bytemuck::cast_slice(values)),
        TensorData::Bool(values) => Some(bytemuck::cast_slice(values)),
    }
}

/// The elements of a tensor that kernels write, as bytes: numbers of whole bytes. Booleans have no bytes that may be written.
pub(crate) fn tensor_bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8], StepError> {
    match tensor.dtype() {
        DType::F32 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<f32>()?)),
        DType::I8 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<i8>()?)),
        DType::U8 => Ok(tensor.values_mut::<u8>()?),
        DType::I32 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<i32>()?)),
        DType::F64 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<f64>()?)),
        DType::F16 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<f16>()?)),
        DType::BF16 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<bf16>()?)),
        DType::I16 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<i16>()?)),
        DType::I64 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<i64>()?)),
        DType::U16 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<u16>()?)),
        DType::U32 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<u32>()?)),
        DType::U64 => Ok(bytemuck::cast_slice_mut(tensor.values_mut::<u64>()?)),
        other => Err(StepError::invalid(format!("no kernel writes {other}"))),
    }
}

/// Overwrites the elements of a tensor with bytes of the same number.
pub(crate) fn fill(tensor: &mut Tensor, bytes: &[u8]) -> Result<(), StepError> {
    fn copy<T: Element + AnyBitPattern>(
        tensor: &mut Tensor,
        bytes: &[u8],
    ) -> Result<(), StepError> {
        let elements = bytes.chunks_exact(size_of::<T>());
        for (value, bytes) in tensor.values_mut::<T>()?.iter_mut().zip(elements) {
            *value = bytemuck::pod_read_unaligned(bytes);
        }
        Ok(())
    }
    match tensor.dtype() {
        DType::F32 => copy::<f32>(tensor, bytes),
        DType::F64 => copy::<f64>(tensor, bytes),
        DType::F16 => copy::<f16>(tensor, bytes),
        DType::BF16 => copy::<bf16>(tensor, bytes),
        DType::I8 => copy::<i8>(tensor, bytes),
        DType::I16 => copy::<i16>(tensor, bytes),
        DType::I32 => copy::<i32>(tensor, bytes),
        DType::I64 => copy::<i64>(tensor, bytes),
        DType::U8 => copy::<u8>(tensor, bytes),
        DType::U16 => copy::<u16>(tensor, bytes),
        DType::U32 => copy::<u32>(tensor, bytes),
        DType::U64 => copy::<u64>(tensor, bytes),
        DType::Bool | DType::I4 | DType::U4 | DType::String => {
            *tensor = tensor_of(tensor.dtype(), tensor.shape(), bytes)?;
            Ok(())
        }
    }
}

/// Whether kernels write elements of a type; see [`tensor_bytes_mut`].
pub(crate) fn kernels_write(dtype: DType) -> bool {
    !matches!(dtype, DType::I4 | DType::U4 | DType::String)
}

/// Bytes as numbers. They start at a multiple of the element's size wherever a session keeps them.
pub(crate) fn numbers<T: AnyBitPattern>(bytes: &[u8]) -> Result<&[T], StepError> {
    if bytes.is_empty() {
        return Ok(&[]);
    }
    bytemuck::try_cast_slice(bytes)
        .map_err(|error| StepError::invalid(format!("an operand is not aligned: {error}")))
}

/// Bytes as numbers for changing; see [`numbers`].
pub(crate) fn numbers_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T], StepError> {
    if bytes.is_empty() {
        return Ok(&mut []);
    }
    bytemuck::try_cast_slice_mut(bytes)
        .map_err(|error| StepError::invalid(format!("a result is not aligned: {error}")))
}

/// A tensor with a copy of bytes as its elements.
pub(crate) fn tensor_of(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, StepError> {
    fn collect<T: AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
        let size = size_of::<T>();
        bytes
            .chunks_exact(size)
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }
    let data = match dtype {
        DType::F32 => TensorData::F32(collect(bytes).into()),
        DType::F64 => TensorData::F64(collect(bytes).into()),
        DType::F16 => TensorData::F16(collect(bytes).into()),
        DType::BF16 => TensorData::BF16(collect(bytes).into()),
        DType::I8 => TensorData::I8(collect(bytes).into()),
        DType::I4 => TensorData::I4(collect(bytes).into()),
        DType::I16 => TensorData::I16(collect(bytes).into()),
        DType::I32 => TensorData::I32(collect(bytes).into()),
        DType::I64 => TensorData::I64(collect(bytes).into()),
        DType::U8 => TensorData::U8(bytes.to_vec().into()),
        DType::U4 => TensorData::U4(bytes.to_vec().into()),
        DType::U16 => TensorData::U16(collect(bytes).into()),
        DType::U32 => TensorData::U32(collect(bytes).into()),
        DType::U64 => TensorData::U64(collect(bytes).into()),
        DType::Bool => TensorData::Bool(
            bytes
                .iter()
                .map(|&byte| byte != 0)
                .collect::<Vec<_>>()
                .into(),
        ),
        DType::String => TensorData::String(read_strings(bytes)?.into()),
    };
    Ok(Tensor::from_data(shape.iter().copied(), data)?)
}

/// The bytes of a constant in a blob: its elements in memory order, or for each string a 64-bit length and the characters.
pub fn constant_bytes(tensor: &Tensor) -> Vec<u8> {
    if let TensorData::String(values) = tensor.data() {
        let each = values
            .iter()
            .flat_map(|value| [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat());
        return each.collect();
    }
    tensor_bytes(tensor).unwrap_or(&[]).to_vec()
}

fn read_strings(mut bytes: &[u8]) -> Result<Vec<String>, StepError> {
    let broken = || StepError::invalid("a constant of strings is broken");
    let mut strings = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(broken)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| broken())?;
        let (text, rest) = rest.split_at_checked(len).ok_or_else(broken)?;
        strings.push(String::from_utf8(text.to_vec()).map_err(|_| broken())?);
        bytes = rest;
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_every_type_survive_as_bytes() {
        for dtype in DType::ALL {
            let tensor = Tensor::zeros(dtype, [2, 3]).unwrap();
            let bytes = constant_bytes(&tensor);
            assert_eq!(tensor_of(dtype, &[2, 3], &bytes).unwrap(), tensor);
        }
        let words = Tensor::vector(vec!["ä".to_owned(), String::new(), "word".to_owned()]);
        assert_eq!(
            tensor_of(DType::String, &[3], &constant_bytes(&words)).unwrap(),
            words
        );
        assert!(tensor_of(DType::String, &[1], &u64::MAX.to_le_bytes()).is_err());
        assert!(tensor_of(DType::F32, &[2], &[0; 7]).is_err());
    }
}
