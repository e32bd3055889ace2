//! Types, quantization parameters and tensors.

use std::sync::Arc;

use octofold_ops::families::real::quant_type_of;
use octofold_quant::{QParams, QuantParams};
use octofold_tensor::DType;

use super::super::lexer::Token;
use super::cursor::{Parsed, Parser};
use crate::onnx::proto::tensor_proto::DataLocation;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};

impl Parser<'_> {
    /// A type and a name; the type of an output may be left out.
    pub(super) fn value_info(&mut self, typed: bool) -> Parsed<ValueInfoProto> {
        self.count()?;
        let mut info = ValueInfoProto::default();
        let mut params = None;
        let at = self.at;
        match self.advance()? {
            Token::Name(word) if typed || !(self.is(",") || self.is(")")) => {
                let (ty, dtype) = self.type_of(word, at)?;
                info.r#type = Some(ty);
                if self.is("{") {
                    params = Some(self.quantization(dtype)?);
                }
                info.name = Some(self.name("the name of a value")?);
            }
            Token::Name(name) => info.name = Some(name.to_owned()),
            Token::Text(name) if !typed => info.name = Some(name),
            other => {
                return Err(self
                    .lexer
                    .error(at, format!("expected a type, found {}", other.describe())));
            }
        }
        // The types of a body's inputs follow from the operands.
        if let Some(params) = params.filter(|_| self.depth == 0) {
            self.extension
                .quantization
                .insert(info.name().to_owned(), Arc::new(params));
        }
        Ok(info)
    }

    pub(super) fn dtype(&self, word: &str, at: usize) -> Parsed<DType> {
        DType::from_name(word).ok_or_else(|| {
            self.lexer.error(
                at,
                format!("`{word}` is no type of elements that is supported"),
            )
        })
    }

    /// The rest of a type that begins with a word.
    pub(super) fn type_of(&mut self, word: &str, at: usize) -> Parsed<(TypeProto, DType)> {
        let dtype = self.dtype(word, at)?;
        let mut dims = Some(Vec::new());
        if self.accept("[")? {
            let mut found = Vec::new();
            self.list("]", |parser| {
                let value = match &parser.token {
                    Token::Number(_) => Some(dimension::Value::DimValue(parser.int()?)),
                    Token::Mark("?") => {
                        parser.advance()?;
                        None
                    }
                    _ => Some(dimension::Value::DimParam(parser.name("a dimension")?)),
                };
                found.push(Dimension {
                    denotation: None,
                    value,
                });
                Ok(())
            })?;
            // Empty brackets mean that the rank is not known.
            dims = Some(found).filter(|dims| !dims.is_empty());
        }
        let tensor = type_proto::Tensor {
            elem_type: Some(dtype.onnx()),
            shape: dims.map(|dim| TensorShapeProto { dim }),
        };
        let ty = TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            denotation: None,
        };
        Ok((ty, dtype))
    }

    /// `{scale: …, zero_point: …}` or `{axis: …, scale: […], zero_point: […]}`
    pub(super) fn quantization(&mut self, dtype: DType) -> Parsed<QuantParams> {
        let at = self.at;
        let (mut axis, mut scales, mut zero_points) = (None, Vec::new(), Vec::new());
        self.expect("{")?;
        self.list("}", |parser| {
            let at = parser.at;
            let key = parser.name("`axis`, `scale` or `zero_point`")?;
            parser.expect(":")?;
            let each = |parser: &mut Self, read: &mut dyn FnMut(&mut Self) -> Parsed<()>| {
                if parser.accept("[")? {
                    parser.list("]", |parser| read(parser))
                } else {
                    read(parser)
                }
            };
            match key.as_str() {
                "axis" => {
                    let at = parser.at;
                    let value = parser.int()?;
                    axis =
                        Some(usize::try_from(value).map_err(|_| {
                            parser.lexer.error(at, format!("`{value}` is no axis"))
                        })?);
                    Ok(())
                }
                "scale" => each(parser, &mut |parser| {
                    scales.push(parser.float()?);
                    Ok(())
                }),
                "zero_point" => each(parser, &mut |parser| {
                    let at = parser.at;
                    let value = parser.int()?;
                    zero_points.push(i32::try_from(value).map_err(|_| {
                        parser
                            .lexer
                            .error(at, format!("`{value}` is no zero point"))
                    })?);
                    Ok(())
                }),
                _ => Err(parser.lexer.error(
                    at,
                    format!("`{key}` is none of `axis`, `scale` and `zero_point`"),
                )),
            }
        })?;
        let Some(quant_type) = quant_type_of(dtype) else {
            return Err(self.lexer.error(at, format!("{dtype} cannot be quantized")));
        };
        let params = match (axis, &scales[..], &zero_points[..]) {
            (None, &[scale], &[zero_point]) => {
                QParams::new(scale, zero_point, quant_type).map(QuantParams::PerTensor)
            }
            (None, ..) => {
                return Err(self
                    .lexer
                    .error(at, "without an axis, there is one scale and one zero point"));
            }
            (Some(axis), ..) => QuantParams::per_channel(axis, &scales, &zero_points, quant_type),
        };
        params.map_err(|error| self.lexer.error(at, error.to_string()))
    }

    /// The tensor that follows the `=` of a value.
    pub(super) fn tensor_of(&mut self, info: &ValueInfoProto) -> Parsed<TensorProto> {
        match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => {
                let tensor = tensor.clone();
                self.tensor(&tensor, info.name())
            }
            _ => self.error("expected a tensor type before"),
        }
    }

    /// The elements of a tensor of a known type.
    pub(super) fn tensor(&mut self, ty: &type_proto::Tensor, name: &str) -> Parsed<TensorProto> {
        self.count()?;
        let mut proto = TensorProto {
            data_type: ty.elem_type,
            name: Some(name.to_owned()),
            ..TensorProto::default()
        };
        let dims = ty.shape.as_ref().map(|shape| {
            shape.dim.iter().map(|dim| match &dim.value {
                Some(dimension::Value::DimValue(size)) => Some(*size),
                _ => None,
            })
        });
        match dims.and_then(Iterator::collect::<Option<Vec<i64>>>) {
            Some(dims) => proto.dims = dims,
            None => {
                return self.error(format!(
                    "the sizes of the tensor `{name}` have to be numbers"
                ));
            }
        }
        if self.is("[") {
            proto.external_data = self.entries()?;
            proto.data_location = Some(DataLocation::External.into());
            return Ok(proto);
        }
        if self.is("...") {
            return self.error(format!(
                "the elements of `{name}` were left out when this was printed"
            ));
        }
        let Some(dtype) = DType::from_onnx(proto.data_type()) else {
            return self.error("the type of the tensor is not supported");
        };
        self.expect("{")?;
        self.list("}", |parser| parser.element(dtype, &mut proto))?;
        Ok(proto)
    }

    pub(super) fn element(&mut self, dtype: DType, proto: &mut TensorProto) -> Parsed<()> {
        let at = self.at;
        if dtype == DType::String {
            proto
                .string_data
                .push(self.text("a text in quotes")?.into_bytes());
            return Ok(());
        }
        let text = self.number()?.text();
        match dtype {
            DType::F32 => proto.float_data.push(self.convert(at, text, "number")?),
            DType::F64 => proto.double_data.push(self.convert(at, text, "number")?),
            DType::I64 => proto
                .int64_data
                .push(self.convert(at, text, "integer of 64 bits")?),
            DType::U32 | DType::U64 => {
                proto
                    .uint64_data
                    .push(self.convert(at, text, "unsigned integer of 64 bits")?)
            }
            DType::I32 | DType::I16 | DType::I8 | DType::U16 | DType::U8 | DType::Bool => {
                proto
                    .int32_data
                    .push(self.convert(at, text, "integer of 32 bits")?);
            }
            DType::F16 | DType::BF16 => {
                let bits: u16 = self.convert(
                    at,
                    text,
                    "integer of 16 bits, as which the bits of such a float are written",
                )?;
                proto.int32_data.push(bits.into());
            }
            DType::I4 | DType::U4 => {
                let message = "elements of 4 bits cannot stand in braces, which readers disagree about; use external data";
                return Err(self.lexer.error(at, message));
            }
            DType::String => {}
        }
        Ok(())
    }
}
