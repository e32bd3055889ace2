//! Arithmetic over every numeric element type, under one trait.
//!
//! Integers wrap. Half floats compute in `f32` and round once an operation, as ONNX Runtime does on a CPU.

use half::{bf16, f16};
use octofold_tensor::Element;

/// A numeric element type: every one but booleans, strings and 4-bit integers.
pub(crate) trait Number: Element + Copy + PartialOrd {
    /// Whether it is a float type.
    const FLOAT: bool;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The least value: -inf for floats.
    const LOWEST: Self;
    /// The greatest value: inf for floats.
    const HIGHEST: Self;

    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self - other`.
    fn sub(self, other: Self) -> Self;
    /// `self · other`.
    fn mul(self, other: Self) -> Self;
    /// `self / other`, towards zero for integers; `None` for an integer divided by zero.
    fn div(self, other: Self) -> Option<Self>;
    /// The remainder with the sign of `self`, as C `fmod` and `%`; `None` for an integer divided by zero.
    fn rem(self, other: Self) -> Option<Self>;
    /// As `f64`, rounded when a 64-bit integer does not fit.
    fn to_f64(self) -> f64;
    /// From `f64`: rounded to nearest for floats, cut towards zero and to the range for integers.
    fn from_f64(value: f64) -> Self;
    /// As `i128`: exact for integers, cut towards zero and to the range for floats.
    fn to_i128(self) -> i128;
    /// From `i128`: wrapped for integers, rounded for floats.
    fn from_i128(value: i128) -> Self;
    /// An integer that has the order of the values: NaN after every number, both zeros equal.
    fn sort_key(self) -> i128 {
        if !Self::FLOAT {
            return self.to_i128();
        }
        if self.is_nan() {
            return i128::MAX;
        }
        // Adding 0.0 makes -0.0 into 0.0; the bits of negative floats fall when the floats rise.
        let bits = (self.to_f64() + 0.0).to_bits() as i64;
        i128::from(if bits < 0 { i64::MIN - bits } else { bits })
    }
    /// Whether it is not a number.
    fn is_nan(self) -> bool;
    /// The larger of both; NaN when either is.
    fn max_nan(self, other: Self) -> Self {
        if self >= other || self.is_nan() {
            self
        } else {
            other
        }
    }
    /// The smaller of both; NaN when either is.
    fn min_nan(self, other: Self) -> Self {
        if self <= other || self.is_nan() {
            self
        } else {
            other
        }
    }
}

macro_rules! integer {
    ($($type:ident)*) => {$(
        impl Number for $type {
            const FLOAT: bool = false;
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = $type::MIN;
            const HIGHEST: Self = $type::MAX;

            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn div(self, other: Self) -> Option<Self> {
                (other != 0).then(|| self.wrapping_div(other))
            }
            fn rem(self, other: Self) -> Option<Self> {
                (other != 0).then(|| self.wrapping_rem(other))
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            fn to_i128(self) -> i128 {
                self as i128
            }
            fn from_i128(value: i128) -> Self {
                value as Self
            }
            fn is_nan(self) -> bool {
                false
            }
        }
    )*};
}

integer! { i8 i16 i32 i64 u8 u16 u32 u64 }

macro_rules! float {
    ($($type:ident, $zero:expr, $one:expr, $to:expr, $from:expr;)*) => {$(
        impl Number for $type {
            const FLOAT: bool = true;
            const ZERO: Self = $zero;
            const ONE: Self = $one;
            const LOWEST: Self = $type::NEG_INFINITY;
            const HIGHEST: Self = $type::INFINITY;

            fn add(self, other: Self) -> Self {
                self + other
            }
            fn sub(self, other: Self) -> Self {
                self - other
            }
            fn mul(self, other: Self) -> Self {
                self * other
            }
            fn div(self, other: Self) -> Option<Self> {
                Some(self / other)
            }
            fn rem(self, other: Self) -> Option<Self> {
                Some(self % other)
            }
            fn to_f64(self) -> f64 {
                $to(self)
            }
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
            fn to_i128(self) -> i128 {
                self.to_f64() as i128
            }
            fn from_i128(value: i128) -> Self {
                $from(value as f64)
            }
            fn is_nan(self) -> bool {
                $type::is_nan(self)
            }
        }
    )*};
}

float! {
    f32, 0.0, 1.0, f64::from, |value| value as f32;
    f64, 0.0, 1.0, |value| value, |value| value;
    f16, f16::ZERO, f16::ONE, f16::to_f64, f16::from_f64;
    bf16, bf16::ZERO, bf16::ONE, bf16::to_f64, bf16::from_f64;
}

/// Runs `$body` with `$values` bound to the elements of a `TensorData` of the listed types; `$other` for any other type.
///
/// The first word says which types: `numeric` for every [`Number`], `float`, or `integer`.
macro_rules! for_numbers {
    (@ $data:expr, $values:ident => $body:expr, $other:expr; $($variant:ident)*) => {
        match $data {
            $(::octofold_tensor::TensorData::$variant($values) => $body,)*
            _ => $other,
        }
    };
    (numeric $data:expr, $values:ident => $body:expr, else $other:expr) => {
        $crate::families::number::for_numbers!(@ $data, $values => $body, $other;
            F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64)
    };
    (float $data:expr, $values:ident => $body:expr, else $other:expr) => {
        $crate::families::number::for_numbers!(@ $data, $values => $body, $other; F32 F64 F16 BF16)
    };
    (integer $data:expr, $values:ident => $body:expr, else $other:expr) => {
        $crate::families::number::for_numbers!(@ $data, $values => $body, $other; I8 I16 I32 I64 U8 U16 U32 U64)
    };
}
pub(crate) use for_numbers;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_and_floats_keep_nan() {
        assert_eq!(200_u8.add(100), 44);
        assert_eq!(i8::MIN.div(-1), Some(i8::MIN));
        assert_eq!(i8::MIN.rem(-1), Some(0));
        assert_eq!((-7_i32).div(2), Some(-3));
        assert_eq!(7_i32.div(0), None);
        assert_eq!(<u8 as Number>::from_f64(-3.5), 0);
        assert!(Number::is_nan(f32::NAN.max_nan(1.0)));
        assert!(Number::is_nan(1.0_f32.max_nan(f32::NAN)));
        assert!(Number::is_nan(1.0_f32.min_nan(f32::NAN)));
        let rising = [
            f32::NEG_INFINITY,
            -2.5,
            -1.0,
            -0.0,
            1e-9,
            3.0,
            f32::INFINITY,
            f32::NAN,
        ];
        assert!(
            rising
                .windows(2)
                .all(|pair| pair[0].sort_key() < pair[1].sort_key())
        );
        assert_eq!(0.0_f32.sort_key(), (-0.0_f32).sort_key());
        assert_eq!(f16::from_f32(1.5).min_nan(f16::ONE), f16::ONE);
    }
}
