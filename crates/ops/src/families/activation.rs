//! Activation functions.
//!
//! f32 is computed by [`octofold_quant::float`], as kernels do. Other floats are computed in f64 by [`octofold_quant::functions`], the functions that lookup
//! tables are made of, and rounded once.

use octofold_quant::float::Function;
use octofold_quant::functions;
use octofold_tensor::{Tensor, TensorData};

use super::number::{Number, for_numbers};
use super::real::map_reals;
use super::support::{broadcast_map, broadcast_shapes, expect_type, scalar, wrong_type};
use crate::{Inputs, OpError, Operator, attributes, word_attribute};

word_attribute! {
    /// How a [`Gelu`] is computed.
    pub enum GeluApproximation {
        /// `x/2·(1 + erf(x/√2))`.
        None = "none",
        /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
        Tanh = "tanh",
    }
}

attributes! {
    /// ONNX `Relu` (opset 14): `max(x, 0)`; NaN stays NaN. Input: `x`, float or signed integer. Output: its shape and type.
    "" "Relu" inputs(1..=1)
    pub struct Relu {}

    /// ONNX `LeakyRelu` (opset 16): `x`, or `alpha·x` below zero. Input: `x`, float. Output: its shape and type.
    "" "LeakyRelu" inputs(1..=1)
    pub struct LeakyRelu {
        /// The slope below zero.
        alpha: f32 = 0.01,
    }

    /// ONNX `Sigmoid` (opset 13): `1 / (1 + exp(-x))`. Input: `x`, float. Output: its shape and type.
    "" "Sigmoid" inputs(1..=1)
    pub struct Sigmoid {}

    /// ONNX `HardSigmoid` (opset 6, 22): `max(0, min(1, alpha·x + beta))`. Input: `x`, float. Output: its shape and type.
    "" "HardSigmoid" inputs(1..=1)
    pub struct HardSigmoid {
        /// The slope.
        alpha: f32 = 0.2,
        /// The value at zero.
        beta: f32 = 0.5,
    }

    /// ONNX `HardSwish` (opset 14, 22): `x·max(0, min(1, x/6 + 1/2))`. Input: `x`, float. Output: its shape and type.
    "" "HardSwish" inputs(1..=1)
    pub struct HardSwish {}

    /// ONNX `Tanh` (opset 13): the hyperbolic tangent. Input: `x`, float. Output: its shape and type.
    "" "Tanh" inputs(1..=1)
    pub struct Tanh {}

    /// ONNX `Erf` (opset 13): the Gauss error function. Input: `x`, float. Output: its shape and type.
    "" "Erf" inputs(1..=1)
    pub struct Erf {}

    /// ONNX `Gelu` (opset 20): `x·Φ(x)`, or its approximation by tanh. Input: `x`, float. Output: its shape and type.
    "" "Gelu" inputs(1..=1)
    pub struct Gelu {
        /// Exact, or by tanh.
        approximate: GeluApproximation = GeluApproximation::None,
    }

    /// ONNX `Elu` (opset 6, 22): `x`, or `alpha·(exp(x) - 1)` below zero. Input: `x`, float. Output: its shape and type.
    "" "Elu" inputs(1..=1)
    pub struct Elu {
        /// The limit towards -inf, negated.
        alpha: f32 = 1.0,
    }

    /// ONNX `Selu` (opset 6, 22): `gamma·x`, or `gamma·alpha·(exp(x) - 1)` up to zero. Input: `x`, float. Output: its shape and type.
    "" "Selu" inputs(1..=1)
    pub struct Selu {
        /// The factor of the exponential.
        alpha: f32 = 1.673_263_2,
        /// The factor of all.
        gamma: f32 = 1.050_701,
    }

    /// ONNX `Celu` (opset 12): `max(0, x) + min(0, alpha·(exp(x/alpha) - 1))`. Input: `x`, float. Output: its shape and type.
    "" "Celu" inputs(1..=1)
    pub struct Celu {
        /// The scale of the exponential; not zero.
        alpha: f32 = 1.0,
    }

    /// ONNX `Softplus` (opset 1, 22): `ln(1 + exp(x))`. Input: `x`, float. Output: its shape and type.
    "" "Softplus" inputs(1..=1)
    pub struct Softplus {}

    /// ONNX `Softsign` (opset 1, 22): `x / (1 + |x|)`. Input: `x`, float. Output: its shape and type.
    "" "Softsign" inputs(1..=1)
    pub struct Softsign {}

    /// ONNX `Mish` (opset 18, 22): `x·tanh(ln(1 + exp(x)))`. Input: `x`, float. Output: its shape and type.
    "" "Mish" inputs(1..=1)
    pub struct Mish {}

    /// ONNX `Swish` (opset 24): `x·sigmoid(alpha·x)`; SiLU with `alpha = 1`. Input: `x`, float. Output: its shape and type.
    "" "Swish" inputs(1..=1)
    pub struct Swish {
        /// The factor within the sigmoid.
        alpha: f32 = 1.0,
    }

    /// ONNX `ThresholdedRelu` (opset 10, 22): `x` above `alpha`, otherwise 0. Input: `x`, float. Output: its shape and type.
    "" "ThresholdedRelu" inputs(1..=1)
    pub struct ThresholdedRelu {
        /// The threshold.
        alpha: f32 = 1.0,
    }

    /// ONNX `Shrink` (opset 9): `x + bias` below `-lambd`, `x - bias` above `lambd`, otherwise 0. Input: `x`, float. Output: its shape and type.
    "" "Shrink" inputs(1..=1)
    pub struct Shrink {
        /// The half width of the zone of zeros.
        lambd: f32 = 0.5,
        /// What is taken away outside of it.
        bias: f32 = 0.0,
    }

    /// ONNX `PRelu` (opset 16): `x`, or `slope·x` below zero.
    ///
    /// Inputs: `x`, and `slope`, which broadcasts to the shape of `x`; float or 32- and 64-bit integers. Output: the shape of `x`.
    "" "PRelu" inputs(2..=2)
    pub struct PRelu {}

    /// ONNX `Clip` (opset 13): `min(max(x, min), max)`; NaN stays NaN, and `max` wins when it is less than `min`.
    ///
    /// Inputs: `x`, optional scalars `min` and `max` of the same type; any number type. Output: the shape of `x`. Models before opset 11 have the bounds as
    /// attributes; the importer makes them inputs.
    "" "Clip" inputs(1..=3)
    pub struct Clip {}
}

impl Operator for Relu {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        fn relu<T: Number>(values: &[T]) -> TensorData {
            let relu = |&value: &T| if value < T::ZERO { T::ZERO } else { value };
            T::wrap(values.iter().map(relu).collect::<Vec<_>>().into())
        }
        let expected = "float or signed integer";
        let data = for_numbers!(numeric x.data(), values => relu(values), else return Err(wrong_type(x, 0, expected)));
        Ok(vec![Tensor::from_data(x.shape().iter().copied(), data)?])
    }
}

/// Implements float functions of one input: `Type => |op, x| value in f64, function of f32`.
macro_rules! functions {
    ($($type:ident => |$op:ident, $x:ident| $value:expr, $function:expr;)*) => {$(
        impl $type {
            /// The function's value at one point.
            pub fn at(&self, $x: f64) -> f64 {
                let $op = self;
                $value
            }

            /// The function of f32.
            pub fn function(&self) -> Function {
                let $op = self;
                $function
            }
        }

        impl Operator for $type {
            fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
                Ok(vec![map_reals(inputs.required(0)?, self.function(), &|x| self.at(x))?])
            }
        }
    )*};
}

functions! {
    LeakyRelu => |op, x| functions::leaky_relu(x, op.alpha.into()), Function::LeakyRelu { slope: op.alpha };
    Sigmoid => |_op, x| functions::sigmoid(x), Function::Sigmoid;
    HardSigmoid => |op, x| functions::hard_sigmoid(x, op.alpha.into(), op.beta.into()),
        Function::HardSigmoid { slope: op.alpha, offset: op.beta };
    HardSwish => |_op, x| functions::hard_swish(x), Function::HardSwish;
    Tanh => |_op, x| functions::tanh(x), Function::Tanh;
    Erf => |_op, x| functions::erf(x), Function::Erf;
    Gelu => |op, x| match op.approximate {
        GeluApproximation::None => functions::gelu(x),
        GeluApproximation::Tanh => functions::gelu_tanh(x),
    }, match op.approximate {
        GeluApproximation::None => Function::Gelu,
        GeluApproximation::Tanh => Function::GeluTanh,
    };
    Elu => |op, x| functions::elu(x, op.alpha.into()), Function::Elu { alpha: op.alpha };
    Selu => |op, x| functions::selu(x, op.alpha.into(), op.gamma.into()),
        Function::Selu { alpha: op.alpha, gamma: op.gamma };
    Celu => |op, x| functions::celu(x, op.alpha.into()), Function::Celu { alpha: op.alpha };
    Softplus => |_op, x| functions::softplus(x), Function::Softplus;
    Softsign => |_op, x| functions::softsign(x), Function::Softsign;
    Mish => |_op, x| functions::mish(x), Function::Mish;
    Swish => |op, x| x * functions::sigmoid(f64::from(op.alpha) * x), Function::Swish { alpha: op.alpha };
    ThresholdedRelu => |op, x| if x <= op.alpha.into() { 0.0 } else { x },
        Function::ThresholdedRelu { alpha: op.alpha };
    Shrink => |op, x| {
        let (lambda, bias) = (f64::from(op.lambd), f64::from(op.bias));
        if x < -lambda { x + bias } else if x > lambda { x - bias } else { 0.0 }
    }, Function::Shrink { lambda: op.lambd, bias: op.bias };
}

impl Operator for PRelu {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, slope) = (inputs.required(0)?, inputs.required(1)?);
        expect_type(slope, 1, x.dtype())?;
        if broadcast_shapes(&[x.shape(), slope.shape()])?.as_slice() != x.shape() {
            let (x, slope) = (x.shape(), slope.shape());
            return Err(OpError::invalid(format!(
                "a slope of shape {slope:?} for an input of shape {x:?}"
            )));
        }
        fn prelu<T: Number>(x: &Tensor, slope: &Tensor) -> Result<TensorData, OpError> {
            let operands = (
                (x.values::<T>()?, x.shape()),
                (slope.values::<T>()?, slope.shape()),
            );
            let values = broadcast_map(operands.0, operands.1, x.shape(), |&x, &slope| {
                if x < T::ZERO { slope.mul(x) } else { x }
            });
            Ok(T::wrap(values.into()))
        }
        fn typed<T: Number>(_: &[T], x: &Tensor, slope: &Tensor) -> Result<TensorData, OpError> {
            prelu::<T>(x, slope)
        }
        let data = for_numbers!(numeric x.data(), values => typed(values, x, slope)?, else {
            return Err(wrong_type(x, 0, "float or integer"));
        });
        Ok(vec![Tensor::from_data(x.shape().iter().copied(), data)?])
    }
}

impl Operator for Clip {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        fn clip<T: Number>(values: &[T], inputs: Inputs<'_>) -> Result<TensorData, OpError> {
            let bound = |index, default, name| match inputs.optional(index) {
                None => Ok(default),
                Some(tensor) => {
                    expect_type(tensor, index, T::DTYPE)?;
                    scalar::<T>(tensor, name)
                }
            };
            let (min, max) = (
                bound(1, T::LOWEST, "`min`")?,
                bound(2, T::HIGHEST, "`max`")?,
            );
            let clip = |&value: &T| {
                let value = if value < min { min } else { value };
                if value > max { max } else { value }
            };
            Ok(T::wrap(values.iter().map(clip).collect::<Vec<_>>().into()))
        }
        let x = inputs.required(0)?;
        let data = for_numbers!(numeric x.data(), values => clip(values, inputs)?, else {
            return Err(wrong_type(x, 0, "a number type"));
        });
        Ok(vec![Tensor::from_data(x.shape().iter().copied(), data)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[Option<&Tensor>]) -> Result<Tensor, OpError> {
        Ok(op.evaluate(Inputs(inputs), 1)?.remove(0))
    }

    #[test]
    fn functions_have_their_values() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(LeakyRelu { alpha: 0.1 }.at(-2.0), -0.2);
        close(
            HardSigmoid {
                alpha: 0.5,
                beta: 0.6,
            }
            .at(-1.0),
            0.1,
        );
        close(HardSwish {}.at(1.5), 1.5 * 0.75);
        close(Erf {}.at(0.5), 0.520_499_877_8);
        close(
            Gelu {
                approximate: GeluApproximation::None,
            }
            .at(1.0),
            0.841_344_746,
        );
        close(
            Gelu {
                approximate: GeluApproximation::Tanh,
            }
            .at(1.0),
            0.841_191_990,
        );
        close(Elu { alpha: 2.0 }.at(-1.0), 2.0 * ((-1.0_f64).exp() - 1.0));
        close(
            Selu {
                alpha: 2.0,
                gamma: 3.0,
            }
            .at(1.0),
            3.0,
        );
        close(Celu { alpha: 2.0 }.at(-1.0), 2.0 * ((-0.5_f64).exp() - 1.0));
        close(Swish { alpha: 2.0 }.at(1.0), 1.0 / (1.0 + (-2.0_f64).exp()));
        close(ThresholdedRelu { alpha: 2.0 }.at(2.0), 0.0);
        close(ThresholdedRelu { alpha: 2.0 }.at(2.1), 2.1);
        close(Softsign {}.at(-3.0), -0.75);
        close(Softplus {}.at(800.0), 800.0);
        close(Mish {}.at(1.0), (1.0_f64 + 1.0_f64.exp()).ln().tanh());
    }

    #[test]
    fn relu_keeps_nan_and_takes_integers() {
        let y = run(
            &Relu {},
            &[Some(&Tensor::vector(vec![-1.0_f32, f32::NAN, 2.0]))],
        )
        .unwrap();
        let y = y.values::<f32>().unwrap();
        assert!(y[0] == 0.0 && y[1].is_nan() && y[2] == 2.0);
        let y = run(&Relu {}, &[Some(&Tensor::vector(vec![-1_i8, 5]))]).unwrap();
        assert_eq!(y.values::<i8>().unwrap(), [0, 5]);
        assert!(run(&Relu {}, &[Some(&Tensor::vector(vec![true]))]).is_err());
    }

    #[test]
    fn clip_takes_absent_bounds_and_lets_the_upper_one_win() {
        let x = Tensor::vector(vec![-3_i8, 0, 3]);
        let (one, two) = (Tensor::scalar(1_i8), Tensor::scalar(-2_i8));
        let y = run(&Clip {}, &[Some(&x), None, Some(&one)]).unwrap();
        assert_eq!(y.values::<i8>().unwrap(), [-3, 0, 1]);
        let y = run(&Clip {}, &[Some(&x), Some(&one), Some(&two)]).unwrap();
        assert_eq!(y.values::<i8>().unwrap(), [-2, -2, -2]);
        assert!(run(&Clip {}, &[Some(&x), Some(&Tensor::scalar(0.0_f32))]).is_err());
        assert!(run(&Clip {}, &[Some(&x), Some(&x)]).is_err());
    }

    #[test]
    fn prelu_broadcasts_its_slope_only() {
        let x = Tensor::new([2, 2], vec![-1.0_f32, 2.0, -3.0, -4.0]).unwrap();
        let slope = Tensor::new([2, 1], vec![0.5_f32, 2.0]).unwrap();
        let y = run(&PRelu {}, &[Some(&x), Some(&slope)]).unwrap();
        assert_eq!(y.values::<f32>().unwrap(), [-0.5, 2.0, -6.0, -8.0]);
        assert!(run(&PRelu {}, &[Some(&slope), Some(&x)]).is_err());
    }
}
