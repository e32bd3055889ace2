//! Functions of one element that are no activations: `y[i] = f(x[i])`.
//!
//! Functions of f32 are those of [`octofold_quant::float`]; of other floats they are computed in f64 and rounded once. Integers wrap as those of ONNX Runtime do: `Abs` and `Neg` of the smallest integer are that integer.

use octofold_quant::float::Function;
use octofold_quant::functions;
use octofold_tensor::{Element, Elements, Tensor, TensorData};

use super::number::{Number, for_numbers};
use super::real::map_reals;
use super::support::wrong_type;
use crate::{Inputs, OpError, Operator, attributes};

/// `f` over the elements of a tensor of the same shape.
fn map<T, R: Element>(x: &Tensor, values: &[T], f: impl FnMut(&T) -> R) -> Result<Tensor, OpError> {
    let y = R::wrap(Elements::new(values.iter().map(f).collect()));
    Ok(Tensor::from_data(x.shape().iter().copied(), y)?)
}

/// `-x` of anything signed; integers wrap.
fn negate(x: &Tensor) -> Result<Tensor, OpError> {
    match x.data() {
        TensorData::F32(values) => map(x, values, |&v| -v),
        TensorData::F64(values) => map(x, values, |&v| -v),
        TensorData::F16(values) => map(x, values, |&v| -v),
        TensorData::BF16(values) => map(x, values, |&v| -v),
        TensorData::I8(values) => map(x, values, |v| v.wrapping_neg()),
        TensorData::I16(values) => map(x, values, |v| v.wrapping_neg()),
        TensorData::I32(values) => map(x, values, |v| v.wrapping_neg()),
        TensorData::I64(values) => map(x, values, |v| v.wrapping_neg()),
        _ => Err(wrong_type(x, 0, "a signed numeric type")),
    }
}

/// `|x|` of any number; integers wrap, and the sign bit of floats is cleared.
fn absolute(x: &Tensor) -> Result<Tensor, OpError> {
    match x.data() {
        TensorData::I8(values) => map(x, values, |v| v.wrapping_abs()),
        TensorData::I16(values) => map(x, values, |v| v.wrapping_abs()),
        TensorData::I32(values) => map(x, values, |v| v.wrapping_abs()),
        TensorData::I64(values) => map(x, values, |v| v.wrapping_abs()),
        TensorData::U8(_) | TensorData::U16(_) | TensorData::U32(_) | TensorData::U64(_) => {
            Ok(x.clone())
        }
        TensorData::F32(_) | TensorData::F64(_) | TensorData::F16(_) | TensorData::BF16(_) => {
            map_reals(x, Function::Abs, &f64::abs)
        }
        _ => Err(wrong_type(x, 0, "a numeric type")),
    }
}

/// -1, 0 or 1; zeros of floats keep their sign, NaN stays NaN.
fn sign(x: &Tensor) -> Result<Tensor, OpError> {
    fn of<T: Number>(&value: &T) -> T {
        if value > T::ZERO {
            T::ONE
        } else if value < T::ZERO {
            T::ZERO.sub(T::ONE)
        } else {
            value
        }
    }
    for_numbers!(numeric x.data(),
        values => map(x, values, of),
        else Err(wrong_type(x, 0, "a numeric type")))
}

/// The logical complement.
fn not(x: &Tensor) -> Result<Tensor, OpError> {
    match x.data() {
        TensorData::Bool(values) => map(x, values, |value| !value),
        _ => Err(wrong_type(x, 0, "bool")),
    }
}

/// A property of every element of a float tensor.
fn test_float(x: &Tensor, f: impl Fn(f64) -> bool) -> Result<Tensor, OpError> {
    for_numbers!(float x.data(),
        values => map(x, values, |value| f(value.to_f64())),
        else Err(wrong_type(x, 0, "a float type")))
}

macro_rules! elementwise {
    ($($(#[$meta:meta])* $name:literal $type:ident => $evaluate:expr;)*) => {$(
        attributes! {
            $(#[$meta])*
            ///
            /// Input: `x`, any shape. Output: the shape of `x`.
            "" $name inputs(1..=1)
            pub struct $type {}
        }

        impl Operator for $type {
            fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
                let evaluate: fn(&Tensor) -> Result<Tensor, OpError> = $evaluate;
                Ok(vec![evaluate(inputs.required(0)?)?])
            }
        }
    )*};
}

elementwise! {
    /// The absolute value (ONNX `Abs`), of any numeric type.
    "Abs" Abs => absolute;
    /// The negation (ONNX `Neg`), of any signed numeric type.
    "Neg" Neg => negate;
    /// -1, 0 or 1 by the sign (ONNX `Sign`), of any numeric type.
    "Sign" Sign => sign;
    /// The logical complement (ONNX `Not`), of booleans.
    "Not" Not => not;
    /// Whether an element is not a number (ONNX `IsNaN`): any float type to `bool`.
    "IsNaN" IsNaN => |x| test_float(x, f64::is_nan);
    /// The exponential (ONNX `Exp`), of any float type.
    "Exp" Exp => |x| map_reals(x, Function::Exp, &f64::exp);
    /// The natural logarithm (ONNX `Log`), of any float type; NaN below zero.
    "Log" Log => |x| map_reals(x, Function::Log, &f64::ln);
    /// The square root (ONNX `Sqrt`), of any float type; NaN below zero.
    "Sqrt" Sqrt => |x| map_reals(x, Function::Sqrt, &f64::sqrt);
    /// `1 / x` (ONNX `Reciprocal`), of any float type.
    "Reciprocal" Reciprocal => |x| map_reals(x, Function::Reciprocal, &f64::recip);
    /// The nearest integer towards -inf (ONNX `Floor`), of any float type.
    "Floor" Floor => |x| map_reals(x, Function::Floor, &f64::floor);
    /// The nearest integer towards inf (ONNX `Ceil`), of any float type.
    "Ceil" Ceil => |x| map_reals(x, Function::Ceil, &f64::ceil);
    /// The nearest integer, halves to even (ONNX `Round`), of any float type.
    "Round" Round => |x| map_reals(x, Function::Round, &f64::round_ties_even);
    /// The sine (ONNX `Sin`), of any float type, in radians.
    "Sin" Sin => |x| map_reals(x, Function::Sin, &f64::sin);
    /// The cosine (ONNX `Cos`), of any float type, in radians.
    "Cos" Cos => |x| map_reals(x, Function::Cos, &f64::cos);
    /// The tangent (ONNX `Tan`), of any float type, in radians.
    "Tan" Tan => |x| map_reals(x, Function::Tan, &functions::tan);
    /// The arc sine (ONNX `Asin`), of any float type, in radians; NaN outside of [-1, 1].
    "Asin" Asin => |x| map_reals(x, Function::Asin, &functions::asin);
    /// The arc cosine (ONNX `Acos`), of any float type, in radians; NaN outside of [-1, 1].
    "Acos" Acos => |x| map_reals(x, Function::Acos, &functions::acos);
    /// The arc tangent (ONNX `Atan`), of any float type, in radians.
    "Atan" Atan => |x| map_reals(x, Function::Atan, &functions::atan);
    /// The hyperbolic sine (ONNX `Sinh`), of any float type.
    "Sinh" Sinh => |x| map_reals(x, Function::Sinh, &functions::sinh);
    /// The hyperbolic cosine (ONNX `Cosh`), of any float type.
    "Cosh" Cosh => |x| map_reals(x, Function::Cosh, &functions::cosh);
    /// The inverse of the hyperbolic sine (ONNX `Asinh`), of any float type.
    "Asinh" Asinh => |x| map_reals(x, Function::Asinh, &functions::asinh);
    /// The inverse of the hyperbolic cosine (ONNX `Acosh`), of any float type; NaN below 1.
    "Acosh" Acosh => |x| map_reals(x, Function::Acosh, &functions::acosh);
    /// The inverse of the hyperbolic tangent (ONNX `Atanh`), of any float type; NaN outside of [-1, 1].
    "Atanh" Atanh => |x| map_reals(x, Function::Atanh, &functions::atanh);
}

attributes! {
    /// Whether an element is infinite (ONNX `IsInf`): any float type to `bool`.
    ///
    /// Input: `x`, any shape. Output: the shape of `x`.
    "" "IsInf" inputs(1..=1)
    pub struct IsInf {
        /// Whether -inf counts.
        detect_negative: bool = true,
        /// Whether inf counts.
        detect_positive: bool = true,
    }
}

impl Operator for IsInf {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let counts = |value: f64| {
            value == f64::INFINITY && self.detect_positive
                || value == f64::NEG_INFINITY && self.detect_negative
        };
        Ok(vec![test_float(inputs.required(0)?, counts)?])
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn run(op: &impl Operator, x: Tensor) -> Result<Tensor, OpError> {
        op.evaluate(Inputs(&[Some(&x)]), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn floats_round_once() {
        let x = Tensor::vector(vec![0.5_f32, 1.5, -2.5, -0.2]);
        assert_eq!(
            run(&Round {}, x).unwrap(),
            Tensor::vector(vec![0.0_f32, 2.0, -2.0, -0.0])
        );
        let x = Tensor::vector(vec![f16::from_f32(4.0)]);
        assert_eq!(
            run(&Sqrt {}, x).unwrap(),
            Tensor::vector(vec![f16::from_f32(2.0)])
        );
        assert_eq!(
            run(&Exp {}, Tensor::scalar(1.0_f32)).unwrap(),
            Tensor::scalar(std::f32::consts::E)
        );
        assert!(run(&Exp {}, Tensor::scalar(1_i32)).is_err());
    }

    #[test]
    fn integers_wrap() {
        let x = Tensor::vector(vec![i8::MIN, -1, 5]);
        assert_eq!(
            run(&Abs {}, x.clone()).unwrap(),
            Tensor::vector(vec![i8::MIN, 1, 5])
        );
        assert_eq!(
            run(&Neg {}, x.clone()).unwrap(),
            Tensor::vector(vec![i8::MIN, 1, -5])
        );
        assert_eq!(
            run(&Sign {}, x).unwrap(),
            Tensor::vector(vec![-1_i8, -1, 1])
        );
        assert_eq!(
            run(&Sign {}, Tensor::vector(vec![0_u8, 9])).unwrap(),
            Tensor::vector(vec![0_u8, 1])
        );
        assert!(run(&Neg {}, Tensor::scalar(1_u8)).is_err());
    }

    #[test]
    fn properties_are_booleans() {
        let x = Tensor::vector(vec![f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0]);
        assert_eq!(
            run(&IsNaN {}, x.clone()).unwrap(),
            Tensor::vector(vec![false, false, true, false])
        );
        let op = IsInf {
            detect_negative: false,
            detect_positive: true,
        };
        assert_eq!(
            run(&op, x).unwrap(),
            Tensor::vector(vec![true, false, false, false])
        );
        assert_eq!(
            run(&Not {}, Tensor::scalar(true)).unwrap(),
            Tensor::scalar(false)
        );
    }
}
