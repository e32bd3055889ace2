//! Functions of one float, element by element.
//!
//! `octofold_quant::float` defines the functions as plain arithmetic, so that a loop over them is vectorized.

pub use octofold_quant::float::Function;

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// `output[i] = f(input[i])`.
///
/// # Errors
/// For lengths that differ, and a missing instruction set.
pub fn function(
    isa: Isa,
    f: Function,
    input: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the input", input.len(), output.len())?;
    function_slices(isa, f, input, output)
}

isa_versions!(fn function_slices(f: Function, input: &[f32], output: &mut [f32]) = function_loop);

#[inline(always)]
fn function_loop(f: Function, input: &[f32], output: &mut [f32]) {
    f.map(input, output);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: [Function; 37] = [
        Function::Abs,
        Function::Neg,
        Function::Sign,
        Function::Floor,
        Function::Ceil,
        Function::Round,
        Function::Sqrt,
        Function::Reciprocal,
        Function::Power { exponent: 0.5 },
        Function::Power { exponent: 3.0 },
        Function::Power { exponent: -1.7 },
        Function::Exp,
        Function::Log,
        Function::Sigmoid,
        Function::Swish { alpha: 1.702 },
        Function::Tanh,
        Function::Mish,
        Function::Softplus,
        Function::Softsign,
        Function::Elu { alpha: 0.7 },
        Function::Celu { alpha: 0.7 },
        Function::LeakyRelu { slope: 0.1 },
        Function::HardSwish,
        Function::Erf,
        Function::Gelu,
        Function::GeluTanh,
        Function::Sin,
        Function::Cos,
        Function::Tan,
        Function::Asin,
        Function::Acos,
        Function::Atan,
        Function::Sinh,
        Function::Cosh,
        Function::Asinh,
        Function::Acosh,
        Function::Atanh,
    ];

    #[test]
    fn functions_have_the_same_bits_on_every_instruction_set() {
        // One in 99991 of all floats, and what exporters' networks compute with.
        let dense = (0..=u32::MAX).step_by(99_991).map(f32::from_bits);
        let near = (-3000..3000).map(|i| i as f32 * 0.007);
        let input: Vec<f32> = dense.chain(near).collect();
        let bits = |f: f32| {
            if f.is_nan() {
                f32::NAN.to_bits()
            } else {
                f.to_bits()
            }
        };
        for f in FUNCTIONS {
            for isa in Isa::supported() {
                let mut output = vec![7.0; input.len()];
                function(isa, f, &input, &mut output).unwrap();
                for (&x, &y) in input.iter().zip(&output) {
                    assert_eq!(bits(y), bits(f.at(x)), "{isa} {f:?} {x:e}: {y:e}");
                }
            }
        }
        assert!(function(Isa::Scalar, Function::Exp, &input, &mut [0.0; 3]).is_err());
    }
}
