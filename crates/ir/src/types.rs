//! The types of values: element type, shape with symbolic dimensions, quantization parameters.

use std::fmt;
use std::sync::Arc;

use octofold_ops::OpError;
use octofold_quant::QuantParams;
use octofold_tensor::{DType, Dim, Tensor};

use crate::text::dimension;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    /// The element type.
    pub dtype: DType,
    /// The dimensions, outermost first; `None` when not even the rank is known.
    pub shape: Option<Vec<Dim>>,
    /// What the integers of a quantized value mean.
    pub quantization: Option<Arc<QuantParams>>,
}

impl TensorType {
    /// A type without quantization parameters.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        Self {
            dtype,
            shape: Some(shape.into_iter().map(Into::into).collect()),
            quantization: None,
        }
    }

    /// A type of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        Self {
            dtype,
            shape: None,
            quantization: None,
        }
    }

    /// The type of a tensor.
    pub fn of(tensor: &Tensor) -> Self {
        Self::new(tensor.dtype(), tensor.shape().iter().copied())
    }

    /// The rank, when it is known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The sizes, when all are known and not negative.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        let sizes = self.shape.as_ref()?.iter();
        sizes
            .map(|dim| dim.known().and_then(|size| usize::try_from(size).ok()))
            .collect()
    }

    /// The same type with other quantization parameters.
    #[must_use]
    pub fn with_quantization(mut self, params: Option<Arc<QuantParams>>) -> Self {
        self.quantization = params;
        self
    }
}

impl fmt::Display for TensorType {
    /// In the ONNX text syntax, extended by quantization parameters: `uint8[N,16,8,8] {scale: 0.0235, zero_point: 128}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtype.fmt(f)?;
        match &self.shape {
            None => f.write_str("[]")?,
            Some(dims) if dims.is_empty() => {}
            Some(dims) => {
                for (i, dim) in dims.iter().enumerate() {
                    f.write_str(if i == 0 { "[" } else { "," })?;
                    f.write_str(&dimension(dim))?;
                }
                f.write_str("]")?;
            }
        }
        match &self.quantization {
            Some(params) => write!(f, " {params}"),
            None => Ok(()),
        }
    }
}

/// The type of a value that enters or leaves a body. Bodies of ONNX hand on sequences and optionals as well; graphs hold tensors only so far.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ValueType {
    /// A tensor.
    Tensor(TensorType),
    /// Any number of values of one type.
    Sequence(Box<Self>),
    /// A value, or none.
    Optional(Box<Self>),
}

impl ValueType {
    /// The type of a tensor.
    ///
    /// # Errors
    /// When the value is no tensor.
    pub fn tensor(&self) -> Result<&TensorType, OpError> {
        match self {
            Self::Tensor(ty) => Ok(ty),
            Self::Sequence(_) => Err(OpError::Unsupported(
                "a sequence as a value of a body".to_owned(),
            )),
            Self::Optional(_) => Err(OpError::Unsupported(
                "an optional as a value of a body".to_owned(),
            )),
        }
    }
}

/// Whether a name may stand without quotes in the text form.
pub(crate) fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
