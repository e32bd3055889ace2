//! The types that a file declares for inputs and outputs.

use octofold_tensor::{DType, Dim};

use crate::TensorType;
use crate::onnx::error::ImportErrorKind;
use crate::onnx::proto::tensor_shape_proto::dimension;
use crate::onnx::proto::{ValueInfoProto, type_proto};
use crate::onnx::tensor::element_type;

/// The element type that a value is said to have.
pub(super) fn dtype(info: &ValueInfoProto) -> Result<Option<DType>, ImportErrorKind> {
    let fail = |reason: String| ImportErrorKind::Input {
        input: info.name().to_owned(),
        reason,
    };
    match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
        None => Ok(None),
        Some(type_proto::Value::TensorType(tensor)) => match tensor.elem_type() {
            0 => Ok(None),
            code => element_type(code)
                .map(Some)
                .map_err(|error| fail(error.to_string())),
        },
        Some(type_proto::Value::SequenceType(_)) => {
            Err(fail("sequences are not supported".to_owned()))
        }
        Some(type_proto::Value::MapType(_)) => Err(fail("maps are not supported".to_owned())),
        Some(type_proto::Value::OpaqueType(_)) => {
            Err(fail("opaque types are not supported".to_owned()))
        }
        Some(type_proto::Value::SparseTensorType(_)) => {
            Err(fail("sparse tensors are not supported".to_owned()))
        }
        Some(type_proto::Value::OptionalType(_)) => {
            Err(fail("optional types are not supported".to_owned()))
        }
    }
}

/// The type of an input.
pub(super) fn input_type(info: &ValueInfoProto) -> Result<TensorType, ImportErrorKind> {
    let name = info.name();
    let fail = |reason: String| ImportErrorKind::Input {
        input: name.to_owned(),
        reason,
    };
    let dtype = dtype(info)?.ok_or_else(|| fail("the element type is missing".to_owned()))?;
    let Some(type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|ty| ty.value.as_ref())
    else {
        return Ok(TensorType::unranked(dtype));
    };
    let Some(shape) = &tensor.shape else {
        return Ok(TensorType::unranked(dtype));
    };
    let mut dims = Vec::with_capacity(shape.dim.len());
    for (axis, dim) in shape.dim.iter().enumerate() {
        dims.push(match &dim.value {
            Some(dimension::Value::DimValue(size)) if *size < 0 => {
                return Err(fail(format!("dimension {axis} is negative: {size}")));
            }
            Some(dimension::Value::DimValue(size)) => Dim::Known(*size),
            Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => Dim::symbol(symbol),
            Some(dimension::Value::DimParam(_)) | None => Dim::symbol(&format!("{name}.{axis}")),
        });
    }
    Ok(TensorType::new(dtype, dims))
}
