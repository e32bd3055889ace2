//! Functions of f32 values: one scalar definition each, for the interpreter and for the kernels.
//!
//! A definition is plain arithmetic with separate products and sums, and selections instead of branches. So a loop over it is vectorized, and gives the same bits
//! on every instruction set. The error of each function is stated in units in the last place of the exact result, and tested against f64.

mod exponential;

pub use exponential::{exp, exp_to_one};

/// A polynomial by Horner's rule; the coefficient of the highest power comes first.
#[inline(always)]
fn horner<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut y = coefficients[0];
    for coefficient in &coefficients[1..] {
        y = y * x + coefficient;
    }
    y
}
