//! The operators of the `octofold` domain: what fusing and lowering make.
//!
//! Each computes what a group of ONNX operators computes: on f32 as the fuse passes make it, or on bytes, with the arithmetic of
//! [`octofold_quant::requantize`], as lowering makes it. The layout pass sets the layout attribute.

mod linear;
mod pointwise;
mod pool;

use octofold_quant::requantize::Target;
use octofold_quant::{QParams, QuantType};
use octofold_tensor::Tensor;

use super::pool::Planes;
use super::product::Product;
use super::real::{quantized_bytes, quantized_tensor};
use crate::attribute::{AttributeMap, Attributes, Field};
use crate::{Inputs, OpError, attributes, bail, bail_attribute, word_attribute};

/// The function that ends a fused operator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, min), max)`; ReLU6 is `Clip { min: 0.0, max: 6.0 }`.
    Clip {
        /// The lower bound; may be -inf.
        min: f32,
        /// The upper bound; may be +inf.
        max: f32,
    },
}

impl Activation {
    /// The bounds of the result: `(-inf, inf)` for the identity.
    pub const fn bounds(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Clip { min, max } => (min, max),
        }
    }

    /// Applies the function; NaN stays NaN.
    pub fn apply(self, x: f32) -> f32 {
        let (min, max) = self.bounds();
        if x < min {
            min
        } else if x > max {
            max
        } else {
            x
        }
    }
}

/// As `activation = "relu"`, or `activation = "clip"` with `activation_min` and `activation_max`.
impl Field for Activation {
    fn write(&self, name: &str, out: &mut Attributes) {
        match *self {
            Self::None => {}
            Self::Relu => "relu".to_owned().write(name, out),
            Self::Clip { min, max } => {
                "clip".to_owned().write(name, out);
                min.write(&format!("{name}_min"), out);
                max.write(&format!("{name}_max"), out);
            }
        }
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let mut bound = |end: &str, default| -> Result<f32, OpError> {
            Ok(map
                .read::<f32>(&format!("{name}_{end}"))?
                .unwrap_or(default))
        };
        let (min, max) = (
            bound("min", f32::NEG_INFINITY)?,
            bound("max", f32::INFINITY)?,
        );
        match map.read::<String>(name)?.as_deref() {
            None => Ok(None),
            Some("relu") => Ok(Some(Self::Relu)),
            Some("clip") => Ok(Some(Self::Clip { min, max })),
            Some(other) => bail_attribute!(name, "`{other}` is neither `relu` nor `clip`"),
        }
    }
}

word_attribute! {
    /// The order of the axes of a batch of images, whatever the number of spatial axes.
    pub enum Layout {
        /// Batch, channels, spatial axes: the order of ONNX.
        Nchw = "nchw",
        /// Batch, spatial axes, channels: the order of the kernels.
        Nhwc = "nhwc",
    }
}

/// How an integer operator gives its result: the type, the parameters, and the bounds that a fused activation narrows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputQuantization {
    /// `uint8` or `int8`.
    pub dtype: QuantType,
    /// The parameters of the result.
    pub params: QParams,
    /// The smallest quantized result.
    pub lo: i32,
    /// The largest quantized result.
    pub hi: i32,
}

impl OutputQuantization {
    /// Parameters with the bounds that `activation` gives within the range of `dtype`.
    pub fn new(dtype: QuantType, params: QParams, activation: Activation) -> Self {
        let (min, max) = activation.bounds();
        let bound = |x: f32| octofold_quant::affine::quantize_to(x, params, dtype);
        Self {
            dtype,
            params,
            lo: bound(min),
            hi: bound(max),
        }
    }

    /// The parameters and bounds, for the arithmetic of the operator.
    pub fn target(&self) -> Target {
        Target {
            params: self.params,
            lo: self.lo,
            hi: self.hi,
        }
    }

    /// Checks what reading attributes checks, for a value made by hand.
    ///
    /// # Errors
    /// When the type is not of 8 bits, or parameters or bounds are out of its range.
    pub fn check(&self) -> Result<(), OpError> {
        let Self {
            dtype,
            params,
            lo,
            hi,
        } = *self;
        if !matches!(dtype, QuantType::Uint8 | QuantType::Int8) {
            bail!("{dtype} is neither uint8 nor int8");
        }
        QParams::new(params.scale, params.zero_point, dtype)?;
        if lo < dtype.min() || hi > dtype.max() || lo > hi {
            bail!("{lo}..={hi} is no range of {dtype}");
        }
        Ok(())
    }
}

/// As `NAME_type`, `NAME_scale`, `NAME_zero_point`, `NAME_lo` and `NAME_hi`.
impl Field for OutputQuantization {
    fn write(&self, name: &str, out: &mut Attributes) {
        self.dtype.write(&format!("{name}_type"), out);
        self.params.write(name, out);
        if (self.lo, self.hi) != (self.dtype.min(), self.dtype.max()) {
            self.lo.write(&format!("{name}_lo"), out);
            self.hi.write(&format!("{name}_hi"), out);
        }
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let Some(dtype) = map.read::<QuantType>(&format!("{name}_type"))? else {
            return Ok(None);
        };
        let Some(params) = map.read::<QParams>(name)? else {
            bail_attribute!(&format!("{name}_scale"), "is missing");
        };
        let lo = map.read(&format!("{name}_lo"))?.unwrap_or(dtype.min());
        let hi = map.read(&format!("{name}_hi"))?.unwrap_or(dtype.max());
        let quantization = Self {
            dtype,
            params,
            lo,
            hi,
        };
        let checked = quantization.check();
        checked.map_err(|error| OpError::attribute(name, error.to_string()))?;
        Ok(Some(quantization))
    }
}

attributes! {
    /// A convolution over any number of axes with bias, residual sum and activation: `act(conv(x, w) + bias + residual)`.
    ///
    /// Inputs: `x` [N, C, D1, …] (or [N, D1, …, C] with `layout = nhwc`), `w` [O, C/group, K1, …] in either layout, optional `bias` `[O]`,
    /// optional `residual` of the shape of the result. Output: [N, O, O1, …] or [N, O1, …, O].
    ///
    /// - [`Product::Float`]: everything is f32.
    /// - [`Product::Integer`]: `x` is u8 or s8, `w` s8 (or u8) with zero point 0; what becomes of the sums is its [`Outcome`](super::Outcome). A residual is u8 or s8,
    ///   and the type of `own` is that of `sum`.
    "octofold" "Conv" inputs(2..=4)
    pub struct FusedConv {
        /// The steps between output pixels, one a spatial axis.
        strides: Vec<i64> = vec![1, 1],
        /// The borders: all begins, then all ends.
        pads: Vec<i64> = vec![0, 0, 0, 0],
        /// The distances of the kernel's taps.
        dilations: Vec<i64> = vec![1, 1],
        /// The number of groups.
        group: i64 = 1,
        /// The order of the axes of `x`, `residual` and the result.
        layout: Layout = Layout::Nchw,
        /// The form of operands and result.
        product: Product = Product::default(),
    }

    /// A linear layer: `act(x · w + bias)`.
    ///
    /// Inputs: `x` [..., K], `w` [K, N], optional `bias` `[N]`. Output: [..., N]. Quantized as [`FusedConv`] is, with the columns as
    /// output channels. Where the parameters of `x` come from a run, inputs 4 and 5 are its scale (f32) and zero point (u8), one element each.
    "octofold" "Linear" inputs(2..=6)
    pub struct FusedLinear {
        /// The form of operands and result.
        product: Product = Product::default(),
    }
}

word_attribute! {
    /// Which function of two operands a [`FusedBinary`] computes.
    pub enum BinaryKind {
        /// The sum.
        Add = "add",
        /// The product.
        Mul = "mul",
    }
}

/// The form of the operands and the result of a [`FusedBinary`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BinaryForm {
    /// All are f32; the function comes last.
    Float(Activation),
    /// All are bytes.
    Bytes {
        /// The parameters of the first operand.
        a: QParams,
        /// The parameters of the second operand.
        b: QParams,
        /// The quantization of the result.
        y: OutputQuantization,
    },
}

/// As `activation…`, or `a…`, `b…` and `y…`.
impl Field for BinaryForm {
    fn write(&self, _name: &str, out: &mut Attributes) {
        match self {
            Self::Float(activation) => activation.write("activation", out),
            Self::Bytes { a, b, y } => {
                a.write("a", out);
                b.write("b", out);
                y.write("y", out);
            }
        }
    }

    fn read(_name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let activation = map.read("activation")?;
        match (map.read("a")?, map.read("b")?, map.read("y")?, activation) {
            (None, None, None, activation) => Ok(activation.map(Self::Float)),
            (Some(a), Some(b), Some(y), None) => Ok(Some(Self::Bytes { a, b, y })),
            _ => bail!(
                "either both operands and the result are quantized, and the activation is in the bounds, or none is"
            ),
        }
    }
}

/// Bytes with parameters of their own become bytes with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rescale {
    /// The parameters of the operand.
    pub x: QParams,
    /// The quantization of the result.
    pub y: OutputQuantization,
}

/// As `x…` and `y…`.
impl Field for Rescale {
    fn write(&self, _name: &str, out: &mut Attributes) {
        self.x.write("x", out);
        self.y.write("y", out);
    }

    fn read(_name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        match (map.read("x")?, map.read("y")?) {
            (None, None) => Ok(None),
            (Some(x), Some(y)) => Ok(Some(Self { x, y })),
            _ => bail!("either both input and result are quantized, or none"),
        }
    }
}

attributes! {
    /// A sum or product with activation, of two operands that broadcast as in ONNX: `act(a ∘ b)`.
    ///
    /// Of bytes, it is `requantize::add` or `requantize::mul`. It has no layout: the layout pass rearranges operands of a lower rank.
    "octofold" "Binary" inputs(2..=2)
    pub struct FusedBinary {
        /// Sum or product.
        kind: BinaryKind,
        /// The form of operands and result.
        form: BinaryForm = BinaryForm::Float(Activation::None),
    }
}

word_attribute! {
    /// Which value of a window a pooling operator gives.
    pub enum PoolKind {
        /// The largest.
        Max = "max",
        /// The mean.
        Average = "average",
    }
}

attributes! {
    /// Pooling over any number of axes in either layout. Of bytes, it is `requantize::mean`, or the maximum moved by `requantize::rescale`.
    ///
    /// Input: [N, C, D1, …] or [N, D1, …, C]. The output size follows from explicit pads, rounded down, or up with `ceil_mode`,
    /// as in ONNX `MaxPool` and `AveragePool`.
    "octofold" "Pool" inputs(1..=1)
    pub struct FusedPool {
        /// Maximum or mean.
        kind: PoolKind,
        /// The window, one size a spatial axis.
        kernel_shape: Vec<i64>,
        /// The steps between windows.
        strides: Vec<i64> = vec![1, 1],
        /// The borders: all begins, then all ends.
        pads: Vec<i64> = vec![0, 0, 0, 0],
        /// The distances of the window's taps.
        dilations: Vec<i64> = vec![1, 1],
        /// Whether the output size is rounded up.
        ceil_mode: bool = false,
        /// Whether a mean counts the border.
        count_include_pad: bool = false,
        /// The order of the axes.
        layout: Layout = Layout::Nchw,
        /// The parameters of bytes; `None` for f32.
        rescale: Option<Rescale> = None,
    }

    /// The maximum or mean over all spatial axes, in either layout: [N, C, D1, …] to [N, C, 1, …], or [N, D1, …, C] to [N, 1, …, C].
    "octofold" "GlobalPool" inputs(1..=1)
    pub struct FusedGlobalPool {
        /// Maximum or mean.
        kind: PoolKind,
        /// The order of the axes.
        layout: Layout = Layout::Nchw,
        /// The parameters of bytes; `None` for f32.
        rescale: Option<Rescale> = None,
    }

    /// Concatenation of quantized values with parameters of their own, moved to those of the result by `requantize::rescale`.
    "octofold" "Concat" inputs(1..=usize::MAX)
    pub struct FusedConcat {
        /// The axis, from 0.
        axis: i64,
        /// The scale of each input.
        x_scale: Vec<f32>,
        /// The zero point of each input.
        x_zero_point: Vec<i64>,
        /// The quantization of the result.
        y: OutputQuantization,
    }

    /// A function of one quantized value by its table.
    ///
    /// Inputs: `x` (u8 or s8, any shape), `table` `[256]` (u8 or s8), indexed by the bits of `x` (s8 -1 is entry 255). Output: the shape of `x`, the type of `table`.
    "octofold" "TableLookup" inputs(2..=2)
    pub struct TableLookup {}
}

impl Layout {
    /// The sizes of a shape as batch, channels, spatial axes.
    ///
    /// # Errors
    /// When there is no spatial axis.
    pub fn channels_first<T: Clone>(self, shape: &[T]) -> Result<Vec<T>, OpError> {
        if shape.len() < 3 {
            bail!("an image batch of rank {}", shape.len());
        }
        let mut sizes = shape.to_vec();
        if self == Self::Nhwc {
            sizes[1..].rotate_right(1);
        }
        Ok(sizes)
    }

    /// Batch, channels and spatial axes in the order of this layout.
    pub fn arrange<T>(self, mut sizes: Vec<T>) -> Vec<T> {
        if self == Self::Nhwc && sizes.len() > 2 {
            sizes[1..].rotate_left(1);
        }
        sizes
    }

    /// The permutation of a `Transpose` from the other layout to this one.
    pub fn permutation(self, rank: usize) -> Vec<i64> {
        let mut axes: Vec<i64> = (0..rank as i64).collect();
        match self {
            Self::Nhwc => axes = self.arrange(axes),
            Self::Nchw if rank > 2 => axes[1..].rotate_right(1),
            Self::Nchw => {}
        }
        axes
    }

    /// Where the elements of a batch of images are.
    fn planes(self, batch: usize, channels: usize) -> Planes {
        Planes {
            batch,
            channels,
            channels_last: self == Self::Nhwc,
        }
    }
}

/// The elements of a quantized input and its checked parameters.
fn quantized_input(
    inputs: Inputs<'_>,
    index: usize,
    params: QParams,
) -> Result<(Vec<i32>, QParams), OpError> {
    let (values, dtype) = quantized_bytes(inputs.required(index)?, index)?;
    Ok((
        values,
        QParams::new(params.scale, params.zero_point, dtype)?,
    ))
}

/// One element of a result.
enum Finished {
    Float(f32),
    Quantized(i32),
}

/// A result that is float or bytes, filled at any index.
enum Output {
    Float(Vec<f32>),
    Quantized(Vec<i32>, QuantType),
}

impl Output {
    /// Room for `count` elements of a quantized type, or of f32.
    pub(super) fn new(count: usize, dtype: Option<QuantType>) -> Self {
        match dtype {
            None => Self::Float(vec![0.0; count]),
            Some(dtype) => Self::Quantized(vec![0; count], dtype),
        }
    }

    pub(super) fn set(&mut self, index: usize, value: Finished) {
        match (self, value) {
            (Self::Float(values), Finished::Float(value)) => values[index] = value,
            (Self::Quantized(values, _), Finished::Quantized(value)) => values[index] = value,
            _ => {}
        }
    }

    pub(super) fn tensor(self, shape: &[usize]) -> Result<Tensor, OpError> {
        match self {
            Self::Float(values) => Ok(Tensor::new(shape.iter().copied(), values)?),
            Self::Quantized(values, dtype) => quantized_tensor(dtype, shape, values),
        }
    }
}
