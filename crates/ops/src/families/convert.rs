//! Changes of the element type: ONNX `Cast` and `CastLike`.
//!
//! Between integers bits are cut off, as in C. Floats are rounded to nearest in narrower floats, and cut towards zero in integers; what does
//! not fit an integer is cut to its range and NaN becomes 0, where ONNX leaves both open. 4-bit integers take the lowest 4 bits of the integer
//! that a value is cut to. Strings hold decimal numbers, `NaN` or `INF`.

use half::{bf16, f16};
use octofold_tensor::{DType, Elements, Tensor, TensorData, for_each_data};

use super::support::wrong_type;
use crate::{Inputs, OpError, Operator, attributes};

/// An element that converts to every other type.
trait Source {
    /// The value, from which every conversion starts.
    fn number(&self) -> Number;
}

/// The value of a number of any type, exactly.
#[derive(Clone, Copy)]
enum Number {
    Integer(i64),
    Unsigned(u64),
    Single(f32),
    Double(f64),
}

macro_rules! source {
    ($($type:ty => |$value:ident| $number:expr;)*) => {$(
        impl Source for $type {
            #[inline]
            fn number(&self) -> Number {
                let $value = *self;
                $number
            }
        }
    )*};
}

source! {
    f32 => |value| Number::Single(value);
    f64 => |value| Number::Double(value);
    f16 => |value| Number::Single(value.to_f32());
    bf16 => |value| Number::Single(value.to_f32());
    i8 => |value| Number::Integer(value.into());
    i16 => |value| Number::Integer(value.into());
    i32 => |value| Number::Integer(value.into());
    i64 => |value| Number::Integer(value);
    u8 => |value| Number::Integer(value.into());
    u16 => |value| Number::Integer(value.into());
    u32 => |value| Number::Integer(value.into());
    u64 => |value| Number::Unsigned(value);
    bool => |value| Number::Integer(value.into());
}

/// Strings are parsed beforehand.
impl Source for String {
    fn number(&self) -> Number {
        Number::Integer(0)
    }
}

macro_rules! as_primitive {
    ($values:expr, $type:ty) => {
        $values.map(|number| match number {
            Number::Integer(value) => value as $type,
            Number::Unsigned(value) => value as $type,
            Number::Single(value) => value as $type,
            Number::Double(value) => value as $type,
        })
    };
}

/// The lowest 4 bits of a number that was truncated to an integer.
fn nibble(number: Number) -> u8 {
    let integer = match number {
        Number::Integer(value) => value,
        Number::Unsigned(value) => value as i64,
        Number::Single(value) => value as i64,
        Number::Double(value) => value as i64,
    };
    (integer & 15) as u8
}

/// A number in decimal, as ONNX Runtime writes it: 8 digits for `float`, 17 for `double`.
fn decimal(number: Number) -> String {
    fn float(value: f64, digits: usize) -> String {
        if value.is_nan() {
            return "NaN".to_owned();
        }
        if value.is_infinite() {
            return if value > 0.0 { "INF" } else { "-INF" }.to_owned();
        }
        // As `%g` of C: the exponent of the rounded number chooses the form, trailing zeros go.
        let scientific = format!("{value:.*e}", digits - 1);
        let Some((mantissa, exponent)) = scientific.split_once('e') else {
            return scientific;
        };
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let trim = |text: &str| {
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text.to_owned()
            }
        };
        if exponent < -4 || exponent >= digits as i32 {
            let sign = if exponent < 0 { '-' } else { '+' };
            return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
        }
        trim(&format!(
            "{value:.*}",
            (digits as i32 - 1 - exponent).max(0) as usize
        ))
    }
    match number {
        Number::Integer(value) => value.to_string(),
        Number::Unsigned(value) => value.to_string(),
        Number::Single(value) => float(value.into(), 8),
        Number::Double(value) => float(value, 17),
    }
}

/// Numbers as elements of another type.
fn from_numbers(numbers: Vec<Number>, to: DType) -> TensorData {
    let numbers = numbers.into_iter();
    match to {
        DType::F32 => TensorData::F32(Elements::new(as_primitive!(numbers, f32).collect())),
        DType::F64 => TensorData::F64(Elements::new(as_primitive!(numbers, f64).collect())),
        DType::F16 => TensorData::F16(Elements::new(
            as_primitive!(numbers, f64).map(f16::from_f64).collect(),
        )),
        DType::BF16 => TensorData::BF16(Elements::new(
            as_primitive!(numbers, f64).map(bf16::from_f64).collect(),
        )),
        DType::I8 => TensorData::I8(Elements::new(as_primitive!(numbers, i8).collect())),
        DType::I16 => TensorData::I16(Elements::new(as_primitive!(numbers, i16).collect())),
        DType::I32 => TensorData::I32(Elements::new(as_primitive!(numbers, i32).collect())),
        DType::I64 => TensorData::I64(Elements::new(as_primitive!(numbers, i64).collect())),
        DType::U8 => TensorData::U8(Elements::new(as_primitive!(numbers, u8).collect())),
        DType::U16 => TensorData::U16(Elements::new(as_primitive!(numbers, u16).collect())),
        DType::U32 => TensorData::U32(Elements::new(as_primitive!(numbers, u32).collect())),
        DType::U64 => TensorData::U64(Elements::new(as_primitive!(numbers, u64).collect())),
        DType::Bool => {
            let values = numbers.map(|number| match number {
                Number::Integer(value) => value != 0,
                Number::Unsigned(value) => value != 0,
                Number::Single(value) => value != 0.0,
                Number::Double(value) => value != 0.0,
            });
            TensorData::Bool(Elements::new(values.collect()))
        }
        DType::String => TensorData::String(Elements::new(numbers.map(decimal).collect())),
        DType::U4 => TensorData::U4(Elements::new(numbers.map(nibble).collect())),
        DType::I4 => TensorData::I4(Elements::new(
            numbers
                .map(|number| ((nibble(number) << 4) as i8) >> 4)
                .collect(),
        )),
    }
}

/// The number that a string holds.
fn parse(text: &str, to: DType) -> Result<Number, OpError> {
    let text = text.trim();
    let fail = || OpError::invalid(format!("{text:?} is no number of type {to}"));
    if to.is_integer() {
        let signed = text.parse().map(Number::Integer);
        return signed
            .or_else(|_| text.parse().map(Number::Unsigned))
            .map_err(|_| fail());
    }
    // Rust reads `nan`, `inf` and `infinity` in any case, with a sign.
    text.parse().map(Number::Double).map_err(|_| fail())
}

/// The elements of `x` as another type.
fn cast(x: &Tensor, to: DType) -> Result<Tensor, OpError> {
    if x.dtype() == to {
        return Ok(x.clone());
    }
    let data = match x.data() {
        TensorData::String(_) if to == DType::Bool => {
            return Err(wrong_type(x, 0, "a numeric type"));
        }
        TensorData::String(values) => {
            let numbers = values
                .iter()
                .map(|text| parse(text, to))
                .collect::<Result<Vec<_>, _>>()?;
            from_numbers(numbers, to)
        }
        TensorData::Bool(values) if to == DType::String => TensorData::String(Elements::new(
            values
                .iter()
                .map(|&flag| if flag { "True" } else { "False" }.to_owned())
                .collect(),
        )),
        // One list in between, or there would be a loop for each pair of types.
        data => from_numbers(
            for_each_data!(data, values => values.iter().map(Source::number).collect()),
            to,
        ),
    };
    Ok(Tensor::from_data(x.shape().iter().copied(), data)?)
}

attributes! {
    /// Converts elements to another type (ONNX `Cast`), any to any but strings to bool.
    ///
    /// Input: `x`. Output: the same shape, of type `to`. The module says how values convert.
    "" "Cast" inputs(1..=1)
    pub struct Cast {
        /// The type of the result.
        to: DType,
        /// Whether 8-bit floats saturate; without effect on the types that Octofold has.
        saturate: bool = true,
        /// How 8-bit powers of two round; without effect on the types that Octofold has.
        round_mode: String = "up".to_owned(),
    }
}

impl Operator for Cast {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cast(inputs.required(0)?, self.to)?])
    }
}

attributes! {
    /// Converts elements to the type of another tensor (ONNX `CastLike`), as [`Cast`] does.
    ///
    /// Inputs: `x`, `like` (only its type counts). Output: the shape of `x`, the type of `like`.
    "" "CastLike" inputs(2..=2)
    pub struct CastLike {
        /// Whether 8-bit floats saturate; without effect on the types that Octofold has.
        saturate: bool = true,
        /// How 8-bit powers of two round; without effect on the types that Octofold has.
        round_mode: String = "up".to_owned(),
    }
}

impl Operator for CastLike {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cast(
            inputs.required(0)?,
            inputs.required(1)?.dtype(),
        )?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(x: &Tensor, dtype: DType) -> Tensor {
        cast(x, dtype).unwrap()
    }

    #[test]
    fn floats_are_cut_and_saturate() {
        let x = Tensor::vector(vec![1.9_f32, -1.9, 300.0, f32::NAN, f32::INFINITY]);
        assert_eq!(
            to(&x, DType::I32),
            Tensor::vector(vec![1, -1, 300, 0, i32::MAX])
        );
        assert_eq!(
            to(&x, DType::U8),
            Tensor::vector(vec![1_u8, 0, 255, 0, 255])
        );
        assert_eq!(to(&x, DType::Bool), Tensor::vector(vec![true; 5]));
        let x = Tensor::vector(vec![65504.0_f64, 1e6, 1.0 + 2.0_f64.powi(-11)]);
        let y = Tensor::vector(vec![f16::MAX, f16::INFINITY, f16::ONE]);
        assert_eq!(to(&x, DType::F16), y);
    }

    #[test]
    fn integers_wrap() {
        let x = Tensor::vector(vec![-1_i64, 257, i64::MIN]);
        assert_eq!(to(&x, DType::U8), Tensor::vector(vec![255_u8, 1, 0]));
        assert_eq!(
            to(&x, DType::U64),
            Tensor::vector(vec![u64::MAX, 257, 1 << 63])
        );
        assert_eq!(
            to(&Tensor::scalar((1_i64 << 53) + 1), DType::F32),
            Tensor::scalar((1_i64 << 53) as f32)
        );
        let nibbles = to(&Tensor::vector(vec![-9.0_f32, -8.0, 7.0, 8.0]), DType::I4);
        assert_eq!(to(&nibbles, DType::I32), Tensor::vector(vec![7, -8, 7, -8]));
        let nibbles = to(&Tensor::vector(vec![-1_i8, 16, 9]), DType::U4);
        assert_eq!(
            to(&nibbles, DType::F32),
            Tensor::vector(vec![15.0_f32, 0.0, 9.0])
        );
    }

    #[test]
    fn strings_hold_numbers() {
        let text = |values: &[&str]| Tensor::vector(values.iter().map(|&v| v.to_owned()).collect());
        let x = text(&["0.5", "-INF", "1e3", "NaN"]);
        let y = to(&x, DType::F32);
        let y = y.values::<f32>().unwrap();
        assert_eq!(y[..3], [0.5, f32::NEG_INFINITY, 1000.0]);
        assert!(y[3].is_nan());
        assert!(cast(&text(&["x"]), DType::F32).is_err());
        assert!(cast(&text(&["1.5"]), DType::I32).is_err());
        let x = Tensor::vector(vec![0.47892547_f32, 1e-5, 2.0, 1.0e9, f32::NEG_INFINITY]);
        assert_eq!(
            to(&x, DType::String),
            text(&["0.47892547", "9.9999997e-06", "2", "1e+09", "-INF"])
        );
        assert_eq!(
            to(&Tensor::scalar(-7_i8), DType::String),
            Tensor::scalar("-7".to_owned())
        );
    }
}
