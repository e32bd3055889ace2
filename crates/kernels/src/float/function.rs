//! Functions of one float, element by element.
//!
//! `octofold_quant::float` defines the exponential as plain arithmetic, so that a loop over it is vectorized. NaN passes through.

use octofold_quant::float::exp;

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Bounds, Isa, KernelError};

/// A function of one float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `e^x`
    Exp,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `max(0, min(1, slope·x + offset))`
    HardSigmoid {
        /// The slope.
        slope: f32,
        /// The value at zero.
        offset: f32,
    },
    /// `x · max(0, min(1, x/6 + 1/2))`
    HardSwish,
}

/// The bounds of hard functions.
const UNIT: Bounds = Bounds::new(0.0, 1.0);

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
    let each = input.iter().zip(output);
    match f {
        Function::Exp => each.for_each(|(x, y)| *y = exp(*x)),
        Function::Sigmoid => each.for_each(|(x, y)| *y = 1.0 / (1.0 + exp(-x))),
        Function::HardSigmoid { slope, offset } => {
            each.for_each(|(x, y)| *y = UNIT.clamp(slope * x + offset));
        }
        Function::HardSwish => {
            each.for_each(|(x, y)| *y = x * UNIT.clamp(x / 6.0 + 0.5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_their_definitions_on_every_instruction_set() {
        let input: Vec<f32> = (-300..300).map(|i| i as f32 * 0.07).collect();
        let hard = Function::HardSigmoid {
            slope: 0.2,
            offset: 0.5,
        };
        type Definition = fn(f64) -> f64;
        let cases: [(Function, Definition); 4] = [
            (Function::Exp, f64::exp),
            (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (hard, |x| (0.2 * x + 0.5).clamp(0.0, 1.0)),
            (Function::HardSwish, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        ];
        for isa in Isa::supported() {
            for (f, definition) in cases {
                let mut output = vec![7.0; input.len()];
                function(isa, f, &input, &mut output).unwrap();
                for (&x, &y) in input.iter().zip(&output) {
                    let exact = definition(x.into());
                    let error = (f64::from(y) - exact).abs();
                    assert!(error <= 4e-7 * exact.abs() + 3e-7, "{isa} {f:?} {x}: {y}");
                }
            }
            assert!(function(isa, Function::Exp, &input, &mut [0.0; 3]).is_err());
        }
    }
}
