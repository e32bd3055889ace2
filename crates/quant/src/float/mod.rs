//! Functions of f32 values: one scalar definition each, for the interpreter and for the kernels.
//!
//! A definition is plain arithmetic: reduction of the argument, a polynomial in Horner's order, IEEE division and square root, selections instead of branches.
//! A product and a sum that are rounded together are written `mul_add`, which every instruction set with vector kernels has (a processor without it calls the C library).
//! So a loop over a definition is vectorized, and gives the same bits on every instruction set. Functions whose arguments need more digits than f32 has (logarithms,
//! powers, trigonometry) compute in f64 inside.
//!
//! The error of each function is stated in units in the last place of the exact result, and tested against f64. Lookup tables are built from
//! [`functions`](crate::functions), which compute in f64.

mod exponential;
mod logarithm;
mod normal;
mod power;
mod trigonometric;

pub use exponential::{exp, exp_to_one, sigmoid, tanh};
pub use power::pow;

use exponential::{celu, cosh, elu, is_far_from_normal, mish, near_exp, sinh, softplus};
use logarithm::{acosh, asinh, atanh, log};
use normal::{erf, gelu, gelu_tanh};
use power::Power;
use trigonometric::{acos, asin, atan, cos, is_far_angle, sin, tan};

/// `y[i] = f(x[i])`.
#[inline(always)]
fn each(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    // `for_each` is not always inlined, and then not compiled for the caller's instruction set.
    for (x, y) in x.iter().zip(y) {
        *y = f(*x);
    }
}

/// As [`each`], with another function of what is far from zero. It is not vectorized, and blocks without such values skip it.
#[inline(always)]
fn each_near(
    x: &[f32],
    y: &mut [f32],
    near: impl Fn(f32) -> f32,
    (is_far, far): (impl Fn(f32) -> bool, impl Fn(f32) -> f32),
) {
    const BLOCK: usize = 64;
    for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
        each(x, y, &near);
        if x.iter().fold(false, |any, x| any | is_far(*x)) {
            let pairs = x.iter().zip(y).filter(|(x, _)| is_far(**x));
            pairs.for_each(|(x, y)| *y = far(*x));
        }
    }
}

/// The far part of a function of angles.
#[inline(always)]
fn angles(f: fn(f64) -> f64) -> (impl Fn(f32) -> bool, impl Fn(f32) -> f32) {
    (is_far_angle, move |x| f(f64::from(x)) as f32)
}

/// Declares [`Function`]: documentation, name and parameters, and the loop over the slices `x` and `y`.
macro_rules! functions {
    ($($(#[$meta:meta])* $name:ident $({ $($(#[$note:meta])* $field:ident: $type:ty),* })? => |$x:ident, $y:ident| $loop:expr;)*) => {
        /// A function of one float.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Function {
            $($(#[$meta])* $name $({ $($(#[$note])* $field: $type),* })?,)*
        }

        impl Function {
            /// `y[i] = f(x[i])`, for as many elements as the shorter slice has.
            #[inline(always)]
            pub fn map(self, x: &[f32], y: &mut [f32]) {
                match self {
                    $(Self::$name $({ $($field),* })? => {
                        let ($x, $y) = (x, y);
                        $loop
                    })*
                }
            }
        }
    };
}

functions! {
    /// `|x|`.
    Abs => |x, y| each(x, y, f32::abs);
    /// `-x`.
    Neg => |x, y| each(x, y, |x| -x);
    /// -1, 0 or 1 by the sign; zeros keep their sign, NaN stays NaN.
    Sign => |x, y| each(x, y, |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x });
    /// The nearest integer towards -inf.
    Floor => |x, y| each(x, y, f32::floor);
    /// The nearest integer towards inf.
    Ceil => |x, y| each(x, y, f32::ceil);
    /// The nearest integer, halves to even.
    Round => |x, y| each(x, y, f32::round_ties_even);
    /// The square root; NaN below zero.
    Sqrt => |x, y| each(x, y, f32::sqrt);
    /// `1 / x`.
    Reciprocal => |x, y| each(x, y, |x| 1.0 / x);
    /// `x^exponent`: see [`pow`].
    Power {
        /// The exponent.
        exponent: f64
    } => |x, y| Power::new(exponent).map(x, y);
    /// `e^x`: see [`exp`].
    Exp => |x, y| each_near(x, y, near_exp, (is_far_from_normal, exp));
    /// The natural logarithm within 0.51 units; NaN below zero.
    Log => |x, y| each(x, y, log);
    /// `1 / (1 + e^-x)` within 2.5 units.
    Sigmoid => |x, y| each(x, y, sigmoid);
    /// `x · sigmoid(alpha·x)` within 3.5 units, and below zero `|alpha·x|` units more if alpha is not 1.
    Swish {
        /// The factor within the sigmoid.
        alpha: f32
    } => |x, y| each(x, y, |x| x * sigmoid(alpha * x));
    /// The hyperbolic tangent within 3 units.
    Tanh => |x, y| each(x, y, tanh);
    /// `x · tanh(ln(1 + e^x))` within 6 units.
    Mish => |x, y| each(x, y, mish);
    /// `ln(1 + e^x)` within 0.51 units.
    Softplus => |x, y| each(x, y, softplus);
    /// `x / (1 + |x|)` within 1.5 units.
    Softsign => |x, y| each(x, y, |x| x / (1.0 + x.abs()));
    /// `x` above zero, else `alpha·(e^x - 1)`, within 3 units.
    Elu {
        /// The limit towards -inf, negated.
        alpha: f32
    } => |x, y| each(x, y, |x| elu(x, alpha));
    /// `gamma · elu(x, alpha)` within 3.5 units.
    Selu {
        /// The factor of the exponential.
        alpha: f32,
        /// The factor of all.
        gamma: f32
    } => |x, y| each(x, y, |x| gamma * elu(x, alpha));
    /// `max(0, x) + min(0, alpha·(e^(x/alpha) - 1))`.
    Celu {
        /// The scale of the exponential.
        alpha: f32
    } => |x, y| each(x, y, |x| celu(x, alpha));
    /// `x`, or `slope·x` below zero.
    LeakyRelu {
        /// The slope below zero.
        slope: f32
    } => |x, y| each(x, y, |x| if x < 0.0 { slope * x } else { x });
    /// `x` above `alpha`, otherwise 0; NaN stays NaN.
    ThresholdedRelu {
        /// The threshold.
        alpha: f32
    } => |x, y| each(x, y, |x| if x <= alpha { 0.0 } else { x });
    /// `x + bias` below `-lambda`, `x - bias` above `lambda`, otherwise 0.
    Shrink {
        /// The half width of the zero zone.
        lambda: f32,
        /// What is taken away outside of it.
        bias: f32
    } => |x, y| each(x, y, |x| if x < -lambda { x + bias } else if x > lambda { x - bias } else { 0.0 });
    /// `max(0, min(1, slope·x + offset))`.
    HardSigmoid {
        /// The slope.
        slope: f32,
        /// The value at zero.
        offset: f32
    } => |x, y| each(x, y, |x| unit(slope * x + offset));
    /// `x · max(0, min(1, x/6 + 1/2))`.
    HardSwish => |x, y| each(x, y, |x| x * unit(x / 6.0 + 0.5));
    /// The error function within 7 units.
    Erf => |x, y| each(x, y, erf);
    /// `x·Φ(x)` within 4 units, and below zero `x²/2` units more.
    Gelu => |x, y| each(x, y, gelu);
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` within 4 units, and below zero 5 times the argument of tanh more.
    GeluTanh => |x, y| each(x, y, gelu_tanh);
    /// The sine within 0.51 units.
    Sin => |x, y| each_near(x, y, sin, angles(libm::sin));
    /// The cosine within 0.51 units.
    Cos => |x, y| each_near(x, y, cos, angles(libm::cos));
    /// The tangent within 0.52 units.
    Tan => |x, y| each_near(x, y, tan, angles(libm::tan));
    /// The arc sine within 3 units; NaN outside of [-1, 1].
    Asin => |x, y| each(x, y, asin);
    /// The arc cosine within 3 units; NaN outside of [-1, 1].
    Acos => |x, y| each(x, y, acos);
    /// The arc tangent within 3 units.
    Atan => |x, y| each(x, y, atan);
    /// The hyperbolic sine within 0.51 units.
    Sinh => |x, y| each(x, y, sinh);
    /// The hyperbolic cosine within 0.51 units.
    Cosh => |x, y| each(x, y, cosh);
    /// The inverse of the hyperbolic sine within 0.51 units.
    Asinh => |x, y| each(x, y, asinh);
    /// The inverse of the hyperbolic cosine within 0.51 units; NaN below 1.
    Acosh => |x, y| each(x, y, acosh);
    /// The inverse of the hyperbolic tangent within 0.51 units; NaN outside of [-1, 1].
    Atanh => |x, y| each(x, y, atanh);
}

impl Function {
    /// The function's value at one point.
    pub fn at(self, x: f32) -> f32 {
        let mut y = [0.0];
        self.map(&[x], &mut y);
        y[0]
    }
}

/// `x` within 0 and 1; NaN stays NaN.
#[inline(always)]
fn unit(x: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > 1.0 { 1.0 } else { x }
}

/// A polynomial by Horner's rule; the coefficient of the highest power comes first.
#[inline(always)]
fn horner<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut y = coefficients[0];
    for &coefficient in &coefficients[1..] {
        y = y.mul_add(x, coefficient);
    }
    y
}

/// As [`horner`], in f64.
#[inline(always)]
fn wide_horner<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let mut y = coefficients[0];
    for &coefficient in &coefficients[1..] {
        y = y.mul_add(x, coefficient);
    }
    y
}

#[cfg(test)]
mod tests;
