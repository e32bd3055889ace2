//! The functions that recurrent layers apply to gates and states, by their ONNX names.

use octofold_quant::functions;

use super::Recurrent;
use crate::OpError;

/// A function of a number and two parameters.
type Formula = fn(f64, f64, f64) -> f64;

/// A function of a gate or state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    at: Formula,
    alpha: f64,
    beta: f64,
}

impl Function {
    pub(super) fn of(self, x: f64) -> f64 {
        (self.at)(x, self.alpha, self.beta)
    }
}

/// The defaults of a function's parameters; a parameter that it does not have is `None`.
type Parameters = (Option<f32>, Option<f32>);

/// The functions by name. `ScaledTanh` has parameters without defaults; here they are NaN.
const FUNCTIONS: [(&str, Formula, Parameters); 11] = [
    ("Sigmoid", |x, _, _| functions::sigmoid(x), (None, None)),
    ("Tanh", |x, _, _| functions::tanh(x), (None, None)),
    ("Relu", |x, _, _| functions::relu(x), (None, None)),
    (
        "HardSigmoid",
        functions::hard_sigmoid,
        (Some(0.2), Some(0.5)),
    ),
    ("Affine", |x, a, b| a * x + b, (Some(1.0), Some(0.0))),
    (
        "LeakyRelu",
        |x, a, _| functions::leaky_relu(x, a),
        (Some(0.01), None),
    ),
    (
        "ThresholdedRelu",
        |x, a, _| if x < a { 0.0 } else { x },
        (Some(1.0), None),
    ),
    (
        "ScaledTanh",
        |x, a, b| a * functions::tanh(b * x),
        (Some(f32::NAN), Some(f32::NAN)),
    ),
    ("Elu", |x, a, _| functions::elu(x, a), (Some(1.0), None)),
    ("Softsign", |x, _, _| functions::softsign(x), (None, None)),
    ("Softplus", |x, _, _| functions::softplus(x), (None, None)),
];

/// The functions of all directions, one direction after the other.
///
/// # Errors
/// When a function is unknown, lacks a parameter or is one too many.
pub(super) fn functions(op: &Recurrent<'_>) -> Result<Vec<Function>, OpError> {
    let count = op.functions.len() * op.direction.count();
    let names: Vec<&str> = match op.activations {
        [] => op.functions.repeat(op.direction.count()),
        names if names.len() == count => names.iter().map(String::as_str).collect(),
        names => {
            let reason = format!("{} functions, not {count}", names.len());
            return Err(OpError::attribute("activations", reason));
        }
    };
    let mut alphas = op.activation_alpha.iter().copied();
    let mut betas = op.activation_beta.iter().copied();
    let function = |name| {
        let known = FUNCTIONS
            .iter()
            .find(|known| known.0.eq_ignore_ascii_case(name));
        let &(name, at, (alpha, beta)) = known.ok_or_else(|| {
            OpError::attribute("activations", format!("`{name}` is no known function"))
        })?;
        let parameter = |default, given: &mut dyn Iterator<Item = f32>, list| {
            let value = match default {
                None => 0.0,
                Some(default) => given.next().unwrap_or(default),
            };
            if value.is_nan() {
                return Err(OpError::attribute(list, format!("{name} needs a number")));
            }
            Ok(value.into())
        };
        Ok(Function {
            at,
            alpha: parameter(alpha, &mut alphas, "activation_alpha")?,
            beta: parameter(beta, &mut betas, "activation_beta")?,
        })
    };
    names.into_iter().map(function).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, RecurrentLayer, Rnn};
    use super::*;

    fn layer(name: &str) -> Rnn {
        Rnn {
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            activations: vec![name.to_owned()],
            clip: None,
            direction: Direction::Forward,
            hidden_size: None,
            layout: false,
        }
    }

    #[test]
    fn functions_have_their_values_and_defaults() {
        let value =
            |name: &str, x: f64| functions(&layer(name).recurrent()).map(|all| all[0].of(x));
        for (name, x, expected) in [
            ("Relu", -2.0, 0.0),
            ("Affine", -2.0, -2.0),
            ("HardSigmoid", -1.0, 0.3),
            ("LeakyRelu", -2.0, -0.02),
            ("ThresholdedRelu", 0.75, 0.0),
            ("ThresholdedRelu", 1.5, 1.5),
            ("Elu", -1.0, (-1.0_f64).exp() - 1.0),
            ("Softsign", -3.0, -0.75),
            ("Softplus", 1.0, (1.0 + 1.0_f64.exp()).ln()),
        ] {
            let found = value(name, x).unwrap();
            assert!((found - expected).abs() < 1e-7, "{name}: {found}");
        }
        let scaled = Rnn {
            activation_alpha: vec![2.0],
            activation_beta: vec![0.5],
            ..layer("ScaledTanh")
        };
        let scaled = functions(&scaled.recurrent()).unwrap()[0];
        assert_eq!(scaled.of(1.0), 2.0 * functions::tanh(0.5));
        assert!(value("ScaledTanh", 1.0).is_err());
        assert!(value("Cosine", 1.0).is_err());
    }
}
