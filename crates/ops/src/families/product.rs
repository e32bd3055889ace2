//! What a layer with weights computes: its operands, the sums of their products, and the form of its result.
//!
//! [`Product`] is the one description that inference, passes, codegen and the runtime read. Its shape leaves no room for most illegal
//! combinations (a result in bytes has quantized operands, a residual in bytes has its parameters); [`Product::check`] refuses the rest, and the
//! forms that nothing computes yet by their names. Attributes are read through the same check, so a graph never holds a form that fails it.

use std::borrow::Cow;

use octofold_quant::{QParams, QuantType};

use super::{Activation, FusedConv, FusedLinear, OutputQuantization};
use crate::attribute::{AttributeMap, Attributes, Field};
use crate::{Inputs, Op, OpError, attributes, bail, bail_attribute, word_attribute};

/// What becomes of `x · w + bias`.
#[derive(Clone, Debug, PartialEq)]
pub enum Product {
    /// Operands, sums and result are f32; the function comes last, after a residual.
    Float(Activation),
    /// `x` and the result are f32, the weights are quantized.
    WeightOnly {
        /// The weights.
        w: Weights,
        /// The function that ends the result.
        activation: Activation,
    },
    /// Both operands are quantized, and the sums of `(x - z_x)·w` are exact in i32.
    Integer(IntegerProduct),
}

/// A product of quantized operands.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerProduct {
    /// The parameters of `x`.
    pub x: Parameters,
    /// The second operand.
    pub w: Weights,
    /// What becomes of the sums.
    pub result: Outcome,
}

/// Where the scale and zero point of a computed operand come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parameters {
    /// They are known when compiling.
    Fixed(QParams),
    /// They come from the values of a run, for each part of the operand.
    AtRunTime(Extent),
}

word_attribute! {
    /// The part of a value that has one scale and zero point.
    pub enum Extent {
        /// The whole tensor.
        Tensor = "tensor",
        /// One element of the batch, the first axis.
        Sample = "sample",
        /// A row along the last axis.
        Row = "row",
    }
}

/// The second operand of a product.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// Bytes with one scale, or one an output channel.
    Channels {
        /// The scales.
        scales: Vec<f32>,
        /// As many zero points; none where all are 0.
        zero_points: Vec<i64>,
    },
    /// Blocks along the rows of an output channel. Scales and zero points are operands; the sum is `Σ_b s_b·acc_b` in f32.
    Blocks {
        /// The elements of a block.
        size: i64,
        /// The bits of an element: 2, 4 or 8.
        bits: i64,
        /// Whether there are zero points; otherwise they are `2^(bits-1)`.
        zero_points: bool,
    },
    /// No weights, but a computed value, as in attention.
    Computed(Parameters),
}

/// What becomes of integer sums.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// `f32(acc)·(s_x·s_w) + bias` with an f32 bias, then the function.
    Float(Activation),
    /// The sums with an i32 bias on the scale `s_x·s_w`, requantized. The bounds hold the function.
    Bytes(OutputQuantization),
    /// As [`Outcome::Bytes`] with `own`; then `requantize::add` with the residual gives `sum`.
    Residual {
        /// The quantization of the layer's own result.
        own: OutputQuantization,
        /// The parameters of the residual.
        residual: QParams,
        /// The quantization of the sum.
        sum: OutputQuantization,
    },
    /// The sums with an i32 bias, as they are.
    Accumulators,
}

/// The operands of an integer product whose parameters are known when compiling.
#[derive(Clone, Copy, Debug)]
pub struct FixedOperands<'a> {
    /// The parameters of `x`.
    pub x: QParams,
    w_scale: &'a [f32],
}

impl FixedOperands<'_> {
    /// Checks that there is one scale, or one for each of `count` output channels.
    ///
    /// # Errors
    /// When there is another number of them.
    pub fn check_channels(&self, count: usize) -> Result<(), OpError> {
        let len = self.w_scale.len();
        if len == 1 || len == count {
            return Ok(());
        }
        let reason = format!("has {len} numbers for {count} output channels");
        Err(OpError::attribute("w_scale", reason))
    }

    /// The scale of each of `count` output channels.
    ///
    /// # Errors
    /// As [`check_channels`](Self::check_channels).
    pub fn scales(&self, count: usize) -> Result<Vec<f32>, OpError> {
        self.check_channels(count)?;
        Ok(match self.w_scale {
            [scale] => vec![*scale; count],
            scales => scales.to_vec(),
        })
    }
}

impl IntegerProduct {
    /// The operands, where their parameters are known when compiling.
    ///
    /// # Errors
    /// [`OpError::NoKernel`] for every other form of them.
    pub fn operands(&self) -> Result<FixedOperands<'_>, OpError> {
        fixed(self.x, &self.w)
    }

    /// The scale of the weights of each of `count` output channels.
    ///
    /// # Errors
    /// [`OpError::NoKernel`] for weights without fixed scales, and when there is another number of them.
    pub fn w_scales(&self, count: usize) -> Result<Vec<f32>, OpError> {
        fixed(UNIT, &self.w)?.scales(count)
    }

    /// Checks that the weights have one scale, or one for each of `count` output channels where that is known.
    ///
    /// # Errors
    /// As [`w_scales`](Self::w_scales).
    pub fn check_w_scales(&self, count: Option<i64>) -> Result<(), OpError> {
        let operands = fixed(UNIT, &self.w)?;
        let Some(count) = count else {
            return Ok(());
        };
        operands.check_channels(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn check(&self) -> Result<(), OpError> {
        match (self.x, &self.result) {
            (Parameters::AtRunTime(Extent::Tensor), Outcome::Float(_)) => fixed(UNIT, &self.w)?,
            _ => self.operands()?,
        };
        match &self.result {
            Outcome::Float(_) | Outcome::Accumulators => Ok(()),
            Outcome::Bytes(y) => y.check(),
            Outcome::Residual { own, sum, .. } => own.check().and(sum.check()),
        }
    }
}

/// Parameters that stand for those of a run.
const UNIT: Parameters = Parameters::Fixed(QParams {
    scale: 1.0,
    zero_point: 0,
});

/// Operands with checked, fixed parameters, or the name of what no kernel computes.
fn fixed(x: Parameters, w: &Weights) -> Result<FixedOperands<'_>, OpError> {
    let none = |what: String| Err(OpError::NoKernel(what));
    let w_scale = match w {
        Weights::Channels {
            scales,
            zero_points,
        } if zero_points.is_empty() => scales,
        Weights::Channels { .. } => return none("weights with zero points".to_owned()),
        Weights::Blocks { size, bits, .. } => {
            return none(format!("weights of {bits} bits in blocks of {size}"));
        }
        Weights::Computed(_) => return none("products of two computed operands".to_owned()),
    };
    if w_scale.is_empty() {
        bail_attribute!("w_scale", "is empty");
    }
    for &scale in w_scale {
        QParams::new(scale, 0, QuantType::Int8)?;
    }
    match x {
        Parameters::Fixed(x) => Ok(FixedOperands { x, w_scale }),
        Parameters::AtRunTime(extent) => none(format!(
            "products of operands with a scale for each {} of a run",
            extent.word()
        )),
    }
}

impl Product {
    /// A product of quantized `x` and weights with fixed scales, one or one an output channel.
    pub fn integer(x: QParams, w_scale: Vec<f32>, result: Outcome) -> Self {
        Self::Integer(IntegerProduct {
            x: Parameters::Fixed(x),
            w: Weights::Channels {
                scales: w_scale,
                zero_points: vec![],
            },
            result,
        })
    }

    /// The product with the parameters of a run, which operands 4 and 5 are: scale and zero point.
    pub(crate) fn of_run(&self, inputs: Inputs<'_>) -> Result<Cow<'_, Self>, OpError> {
        let Self::Integer(product) = self else {
            return Ok(Cow::Borrowed(self));
        };
        let Parameters::AtRunTime(_) = product.x else {
            return Ok(Cow::Borrowed(self));
        };
        let (&[scale], &[zero_point]) = (inputs.values::<f32>(4)?, inputs.values::<u8>(5)?) else {
            bail!("the scale and zero point of a run are not one number each");
        };
        let x = QParams::new(scale, zero_point.into(), QuantType::Uint8)?;
        Ok(Cow::Owned(Self::Integer(IntegerProduct {
            x: Parameters::Fixed(x),
            ..product.clone()
        })))
    }

    /// Whether operands and result are f32.
    pub fn is_float(&self) -> bool {
        matches!(self, Self::Float(_))
    }

    /// What becomes of integer sums; `None` for other products.
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Integer(product) => Some(&product.result),
            _ => None,
        }
    }

    /// The quantization of a result in bytes.
    pub fn y(&self) -> Option<OutputQuantization> {
        match self.outcome()? {
            Outcome::Bytes(y) | Outcome::Residual { sum: y, .. } => Some(*y),
            _ => None,
        }
    }

    /// The type of an integer result; `None` for f32.
    pub fn result_type(&self) -> Option<QuantType> {
        match self.outcome()? {
            Outcome::Accumulators => Some(QuantType::Int32),
            _ => self.y().map(|y| y.dtype),
        }
    }

    /// The function that ends an f32 result; `None` for other results.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::Float(activation) | Self::WeightOnly { activation, .. } => Some(*activation),
            Self::Integer(product) => match product.result {
                Outcome::Float(activation) => Some(activation),
                _ => None,
            },
        }
    }

    /// The function that ends an f32 result, to change it.
    pub fn activation_mut(&mut self) -> Option<&mut Activation> {
        match self {
            Self::Float(activation) | Self::WeightOnly { activation, .. } => Some(activation),
            Self::Integer(product) => match &mut product.result {
                Outcome::Float(activation) => Some(activation),
                _ => None,
            },
        }
    }

    /// Checks the numbers, and that something computes this form.
    ///
    /// # Errors
    /// When a number is out of range; [`OpError::NoKernel`] for a form that nothing computes yet.
    pub fn check(&self) -> Result<(), OpError> {
        match self {
            Self::Float(_) => Ok(()),
            Self::WeightOnly { .. } => Err(OpError::NoKernel(
                "products of floats with quantized weights".to_owned(),
            )),
            Self::Integer(product) => product.check(),
        }
    }

    /// [`check`](Self::check), and that a residual is an operand where the form adds one. A float product adds one where it is given.
    ///
    /// # Errors
    /// As [`check`](Self::check), and when the residual or its parameters are absent.
    pub fn check_residual(&self, given: bool) -> Result<(), OpError> {
        self.check()?;
        let adds = matches!(self.outcome(), Some(Outcome::Residual { .. }));
        if self.is_float() || adds == given {
            return Ok(());
        }
        let reason = if given {
            "is missing, but a residual is given"
        } else {
            "is given without a residual"
        };
        Err(OpError::attribute("residual_scale", reason))
    }
}

impl Default for Product {
    fn default() -> Self {
        Self::Float(Activation::None)
    }
}

impl Op {
    /// What a layer with weights computes; `None` for every other operator.
    pub fn product(&self) -> Option<&Product> {
        match self {
            Self::FusedConv(FusedConv { product, .. })
            | Self::FusedLinear(FusedLinear { product }) => Some(product),
            _ => None,
        }
    }

    /// What a layer with weights computes, to change it.
    pub fn product_mut(&mut self) -> Option<&mut Product> {
        match self {
            Self::FusedConv(FusedConv { product, .. })
            | Self::FusedLinear(FusedLinear { product }) => Some(product),
            _ => None,
        }
    }
}

fn missing(name: &str, given: &str) -> OpError {
    OpError::attribute(name, format!("is missing, but `{given}` is given"))
}

/// As the attributes `activation…`, `x…`, `w…`, `y…`, `residual…` and `sum…`; `y_type = "int32"` alone stands for the accumulators.
impl Field for Product {
    fn write(&self, _name: &str, out: &mut Attributes) {
        let mut first = Attributes::new();
        if let Some(activation) = self.activation() {
            activation.write("activation", &mut first);
        }
        // Files have the activation before the layout, and the quantization behind it.
        let place = out.iter().position(|(name, _)| name == "layout");
        let place = place.unwrap_or(out.len());
        out.splice(place..place, first);
        match self {
            Self::Float(_) => {}
            Self::WeightOnly { w, .. } => w.write("w", out),
            Self::Integer(IntegerProduct { x, w, result }) => {
                x.write("x", out);
                w.write("w", out);
                match result {
                    Outcome::Float(_) => {}
                    Outcome::Bytes(y) => y.write("y", out),
                    Outcome::Residual { own, residual, sum } => {
                        own.write("y", out);
                        residual.write("residual", out);
                        sum.write("sum", out);
                    }
                    Outcome::Accumulators => QuantType::Int32.write("y_type", out),
                }
            }
        }
    }

    fn read(_name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let activation = map.read::<Activation>("activation")?;
        let (x, w) = (map.read::<Parameters>("x")?, map.read::<Weights>("w")?);
        let accumulators = map.string("y_type") == Some(QuantType::Int32.name());
        let y = if accumulators {
            map.take("y_type");
            None
        } else {
            map.read::<OutputQuantization>("y")?
        };
        let residual = map.read::<QParams>("residual")?;
        let sum = map.read::<OutputQuantization>("sum")?;
        let result = match (y, residual, sum) {
            (None, None, None) if accumulators => Outcome::Accumulators,
            (None, None, None) => Outcome::Float(activation.unwrap_or_default()),
            (Some(y), None, None) => Outcome::Bytes(y),
            (Some(own), Some(residual), Some(sum)) => Outcome::Residual { own, residual, sum },
            (None, Some(_), _) => return Err(missing("y_scale", "residual_scale")),
            (None, _, Some(_)) => return Err(missing("y_scale", "sum_scale")),
            (Some(_), Some(_), None) => return Err(missing("sum_scale", "residual_scale")),
            (Some(_), None, Some(_)) => return Err(missing("residual_scale", "sum_scale")),
        };
        if activation.is_some() && !matches!(result, Outcome::Float(_)) {
            bail_attribute!(
                "activation",
                "is of a float result; bytes have the bounds `y_lo` and `y_hi`"
            );
        }
        let product = match (x, w, result) {
            (Some(x), Some(w), result) => Self::Integer(IntegerProduct { x, w, result }),
            (Some(_), None, _) => return Err(missing("w_scale", "x_scale")),
            (None, None, Outcome::Float(activation)) => Self::Float(activation),
            (None, Some(w), Outcome::Float(activation)) => Self::WeightOnly { w, activation },
            (None, ..) => return Err(missing("x_scale", "y_type")),
        };
        product.check()?;
        Ok(Some(product))
    }
}

/// As `NAME_scale` and `NAME_zero_point`, or `NAME_extent`.
impl Field for Parameters {
    fn write(&self, name: &str, out: &mut Attributes) {
        match self {
            Self::Fixed(params) => params.write(name, out),
            Self::AtRunTime(extent) => extent.write(&format!("{name}_extent"), out),
        }
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let extent_name = format!("{name}_extent");
        match (map.read::<QParams>(name)?, map.read(&extent_name)?) {
            (None, None) => Ok(None),
            (Some(params), None) => Ok(Some(Self::Fixed(params))),
            (None, Some(extent)) => Ok(Some(Self::AtRunTime(extent))),
            (Some(_), Some(_)) => {
                bail_attribute!(&extent_name, "is given with a fixed `{name}_scale`")
            }
        }
    }
}

/// As `NAME_scale` and `NAME_zero_point`; or `NAME_block_size`, `NAME_bits` and `NAME_has_zero_points`; or [`Parameters`] of `NAME_computed`.
impl Field for Weights {
    fn write(&self, name: &str, out: &mut Attributes) {
        match self {
            Self::Channels {
                scales,
                zero_points,
            } => {
                scales.write(&format!("{name}_scale"), out);
                if !zero_points.is_empty() {
                    zero_points.write(&format!("{name}_zero_point"), out);
                }
            }
            Self::Blocks {
                size,
                bits,
                zero_points,
            } => {
                size.write(&format!("{name}_block_size"), out);
                bits.write(&format!("{name}_bits"), out);
                zero_points.write(&format!("{name}_has_zero_points"), out);
            }
            Self::Computed(parameters) => parameters.write(&format!("{name}_computed"), out),
        }
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        let scales_name = format!("{name}_scale");
        let scales = map.read::<Vec<f32>>(&scales_name)?;
        let size = map.read::<i64>(&format!("{name}_block_size"))?;
        let computed = map.read::<Parameters>(&format!("{name}_computed"))?;
        match (scales, size, computed) {
            (None, None, None) => Ok(None),
            (Some(scales), None, None) => {
                let zero_points_name = format!("{name}_zero_point");
                let zero_points: Vec<i64> = map.read(&zero_points_name)?.unwrap_or_default();
                if !zero_points.is_empty() && zero_points.len() != scales.len() {
                    let reason = format!("has {} numbers, not {}", zero_points.len(), scales.len());
                    return Err(OpError::attribute(&zero_points_name, reason));
                }
                Ok(Some(Self::Channels {
                    scales,
                    zero_points,
                }))
            }
            (None, Some(size), None) => {
                let bits_name = format!("{name}_bits");
                let bits = map.read(&bits_name)?.unwrap_or(4);
                let zero_points = map.read(&format!("{name}_has_zero_points"))?;
                if ![2, 4, 8].contains(&bits) {
                    bail_attribute!(&bits_name, "is none of 2, 4 and 8");
                }
                if size < 16 || size.count_ones() != 1 {
                    bail_attribute!(
                        &format!("{name}_block_size"),
                        "{size} is no power of two from 16 on"
                    );
                }
                Ok(Some(Self::Blocks {
                    size,
                    bits,
                    zero_points: zero_points.unwrap_or(false),
                }))
            }
            (None, None, Some(parameters)) => Ok(Some(Self::Computed(parameters))),
            _ => bail_attribute!(&scales_name, "is given with blocks or computed parameters"),
        }
    }
}

attributes! {
    /// An LSTM layer on integers, which nothing computes yet: a product of `x` with `w` and one of the state `h` with `r`, whose f32 results a
    /// cell adds up. Each of its three results is f32 or bytes.
    "octofold" "LSTM" inputs(3..=8) outputs(1..=3)
    pub struct RecurrentProducts {
        /// The parameters of the input.
        x: Parameters,
        /// Its weights.
        w: Weights,
        /// The parameters of the state.
        h: Parameters,
        /// Its weights.
        r: Weights,
        /// The quantization of all states.
        y: Option<OutputQuantization> = None,
        /// The quantization of the last state.
        y_h: Option<OutputQuantization> = None,
        /// The quantization of the last cell.
        y_c: Option<OutputQuantization> = None,
    }

    /// A batch norm of bytes that follows no layer, which nothing computes yet:
    /// `round(f32(q - z)·m[c] + a[c]) + z_y`, with `m[c] = f32(f32(s_x·k[c])/s_y)` and `a[c] = f32(β[c]/s_y)`.
    "octofold" "ChannelRescale" inputs(3..=3)
    pub struct ChannelRescale {
        /// The parameters of the operand.
        x: QParams,
        /// The quantization of the result.
        y: OutputQuantization,
    }
}

/// Why an operator that is not in the list cannot be made: there is no implementation yet, or its name is unknown.
pub(crate) fn refuse(domain: &str, name: &str, map: &mut AttributeMap) -> OpError {
    use crate::Described;

    let read = match (domain, name) {
        (RecurrentProducts::DOMAIN, RecurrentProducts::NAME) => {
            RecurrentProducts::from_attributes(map)
                .and_then(|op| fixed(op.x, &op.w).and(fixed(op.h, &op.r)).map(drop))
                .map(|()| "recurrent layers on integers")
        }
        (ChannelRescale::DOMAIN, ChannelRescale::NAME) => {
            ChannelRescale::from_attributes(map).map(|_| "rescalings of channels without a product")
        }
        _ => {
            let dot = if domain.is_empty() { "" } else { "." };
            return OpError::UnknownOperator(format!("{domain}{dot}{name}"));
        }
    };
    match read {
        Ok(what) => OpError::NoKernel(what.to_owned()),
        Err(error) => error,
    }
}
