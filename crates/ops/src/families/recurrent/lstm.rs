//! `LSTM`: long short-term memory.

use octofold_tensor::Tensor;

use super::layer::{Cell, Parts, evaluate, numbers};
use super::{Direction, Recurrent, RecurrentLayer};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `LSTM` (opset 22): long short-term memory. With the gates `i`, `o`, `f`, `c` in this order in all weights, a step is
    ///
    /// ```text
    /// i = f(x·Wi' + h·Ri' + Pi∘c + bi)      f = f(x·Wf' + h·Rf' + Pf∘c + bf)      g = g(x·Wc' + h·Rc' + bc)
    /// c = f∘c + i∘g                         o = f(x·Wo' + h·Ro' + Po∘c + bo)      h = o∘h(c)
    /// ```
    ///
    /// Inputs, float but for the lengths: `x` [steps, batch, input], `w` [directions, 4·hidden, input], `r` [directions, 4·hidden, hidden], optional `b`
    /// [directions, 8·hidden] (those of `w`, then those of `r`), `sequence_lens` (int32) `[batch]`, `initial_h` and `initial_c` [directions, batch, hidden], and the
    /// peepholes `p` [directions, 3·hidden]. Outputs: `y` [steps, directions, batch, hidden], `y_h` and `y_c` [directions, batch, hidden].
    ///
    /// Beyond a sequence's length `y` is zero and the states stay as they are; a sequence of no steps thus ends in its initial states.
    "" "LSTM" inputs(3..=8) outputs(1..=3)
    pub struct Lstm {
        /// The first parameters of those functions in `activations` that have one, in their order; the rest have their defaults.
        activation_alpha: Vec<f32> = Vec::new(),
        /// The second parameters, likewise.
        activation_beta: Vec<f32> = Vec::new(),
        /// The functions `f`, `g`, `h` for each direction, in any case of letters; empty for Sigmoid, Tanh, Tanh.
        activations: Vec<String> = Vec::new(),
        /// The inputs of `f` and `g` are cut to `-clip..=clip`.
        clip: Option<f32> = None,
        /// The order of the steps.
        direction: Direction = Direction::Forward,
        /// The size of the states; that of the weights when absent.
        hidden_size: Option<i64> = None,
        /// Whether the forget gate is `1 - i`.
        input_forget: bool = false,
        /// Whether the batch is the first axis of `x`, `y` and the states.
        layout: bool = false,
    }
}

impl RecurrentLayer for Lstm {
    fn recurrent(&self) -> Recurrent<'_> {
        Recurrent {
            activation_alpha: &self.activation_alpha,
            activation_beta: &self.activation_beta,
            activations: &self.activations,
            functions: &["Sigmoid", "Tanh", "Tanh"],
            clip: self.clip,
            direction: self.direction,
            hidden_size: self.hidden_size,
            layout: self.layout,
            gates: 4,
            states: 2,
        }
    }
}

/// One direction.
struct LstmCell {
    parts: Parts,
    /// 3·hidden; `None` when there are none.
    peepholes: Option<Vec<f64>>,
    input_forget: bool,
}

impl Cell for LstmCell {
    fn step(&self, rows: usize, x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let hidden = h.len() / rows;
        let sums: Vec<_> = self
            .parts
            .gates
            .iter()
            .map(|gate| gate.sums(rows, x, h))
            .collect();
        for (k, (h, c)) in h.iter_mut().zip(c).enumerate() {
            let gate = |index: usize, c: f64| {
                // Without peepholes there is no product: an infinite state times zero would be NaN.
                let peepholes = self.peepholes.as_ref();
                let sum = sums[index][k];
                let sum = peepholes.map_or(sum, |p| sum + p[index * hidden + k % hidden] * c);
                self.parts.apply(0, sum)
            };
            let input = gate(0, *c);
            let forget = if self.input_forget {
                1.0 - input
            } else {
                gate(2, *c)
            };
            *c = forget * *c + input * self.parts.apply(1, sums[3][k]);
            *h = gate(1, *c) * self.parts.functions[2].of(*c);
        }
    }
}

impl Operator for Lstm {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        evaluate(
            &self.recurrent(),
            inputs,
            outputs,
            |parts, direction, sizes| {
                let shape = [sizes.directions, 3 * sizes.hidden];
                let peepholes = numbers(inputs, 7, inputs.required(0)?.dtype(), &shape)?;
                let of_direction = |p: Vec<f64>| p[direction * shape[1]..][..shape[1]].to_vec();
                Ok(LstmCell {
                    parts,
                    peepholes: peepholes.map(of_direction),
                    input_forget: self.input_forget,
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_one_unit_is_the_formula() {
        // All gates of the one unit are sums over x = 2 and h = 0.5; the state before is 0.25.
        let tensor = |shape: &[usize], values: &[f32]| {
            Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
        };
        let x = tensor(&[1, 1, 1], &[2.0]);
        let w = tensor(&[1, 4, 1], &[0.1, 0.2, 0.3, 0.4]);
        let r = tensor(&[1, 4, 1], &[-0.4, 0.4, 0.8, -0.2]);
        let (h, c) = (tensor(&[1, 1, 1], &[0.5]), tensor(&[1, 1, 1], &[0.25]));
        let inputs = [Some(&x), Some(&w), Some(&r), None, None, Some(&h), Some(&c)];
        let plain = Lstm {
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            activations: Vec::new(),
            clip: None,
            direction: Direction::Forward,
            hidden_size: None,
            input_forget: false,
            layout: false,
        };
        let out = plain.evaluate(Inputs(&inputs), 3).unwrap();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let state = sigmoid(1.0) * 0.25 + sigmoid(0.0) * 0.7_f64.tanh();
        let result = sigmoid(0.6) * state.tanh();
        for (tensor, expected) in out.iter().zip([result, result, state]) {
            let found = tensor.values::<f32>().unwrap();
            assert!((f64::from(found[0]) - expected).abs() < 1e-6, "{found:?}");
        }
    }
}
