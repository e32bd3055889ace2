//! `GRU`: gated recurrent units.

use octofold_tensor::Tensor;

use super::layer::{Cell, Parts, evaluate};
use super::{Direction, Recurrent, RecurrentLayer};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `GRU` (opset 22): gated recurrent units. With the gates `z`, `r`, `h` in this order in all weights, a step is
    ///
    /// ```text
    /// z = f(x·Wz' + h·Rz' + Wbz + Rbz)      r = f(x·Wr' + h·Rr' + Wbr + Rbr)
    /// n = g(x·Wh' + (r∘h)·Rh' + Wbh + Rbh)  or, with linear_before_reset,  n = g(x·Wh' + Wbh + r∘(h·Rh' + Rbh))
    /// h = (1 - z)∘n + z∘h
    /// ```
    ///
    /// Inputs, float but for the lengths: `x` [steps, batch, input], `w` [directions, 3·hidden, input], `r` [directions, 3·hidden, hidden], optional `b`
    /// [directions, 6·hidden] (those of `w`, then those of `r`), `sequence_lens` (int32) `[batch]` and `initial_h` [directions, batch, hidden]. Outputs: `y` [steps,
    /// directions, batch, hidden] and `y_h` [directions, batch, hidden].
    ///
    /// Beyond a sequence's length `y` is zero and the state stays as it is. PyTorch's GRU has `linear_before_reset`.
    "" "GRU" inputs(3..=6) outputs(1..=2)
    pub struct Gru {
        /// The first parameters of those functions in `activations` that have one, in their order; the rest have their defaults.
        activation_alpha: Vec<f32> = Vec::new(),
        /// The second parameters, likewise.
        activation_beta: Vec<f32> = Vec::new(),
        /// The functions `f` and `g` for each direction, in any case of letters; empty for Sigmoid, Tanh.
        activations: Vec<String> = Vec::new(),
        /// The inputs of the functions are cut to `-clip..=clip`.
        clip: Option<f32> = None,
        /// The order of the steps.
        direction: Direction = Direction::Forward,
        /// The size of the states; that of the weights when absent.
        hidden_size: Option<i64> = None,
        /// Whether the batch is the first axis of `x`, `y` and the states.
        layout: bool = false,
        /// Whether the reset gate scales the product with the states, and not the states.
        linear_before_reset: bool = false,
    }
}

impl RecurrentLayer for Gru {
    fn recurrent(&self) -> Recurrent<'_> {
        Recurrent {
            activation_alpha: &self.activation_alpha,
            activation_beta: &self.activation_beta,
            activations: &self.activations,
            functions: &["Sigmoid", "Tanh"],
            clip: self.clip,
            direction: self.direction,
            hidden_size: self.hidden_size,
            layout: self.layout,
            gates: 3,
            states: 1,
        }
    }
}

/// One direction.
struct GruCell {
    parts: Parts,
    linear_before_reset: bool,
}

impl Cell for GruCell {
    fn step(&self, rows: usize, x: &[f64], h: &mut [f64], _: &mut [f64]) {
        let [update, reset, new] = &self.parts.gates[..] else {
            return;
        };
        let reset: Vec<f64> = reset.sums(rows, x, h);
        let reset = reset.into_iter().map(|sum| self.parts.apply(0, sum));
        let new: Vec<f64> = if self.linear_before_reset {
            let states = new.of_states(rows, h).into_iter().zip(reset);
            let inputs = new.of_inputs(rows, x).into_iter();
            inputs.zip(states).map(|(x, (h, r))| x + r * h).collect()
        } else {
            let states: Vec<f64> = h.iter().zip(reset).map(|(h, r)| r * h).collect();
            new.sums(rows, x, &states)
        };
        let update = update.sums(rows, x, h);
        for ((h, new), update) in h.iter_mut().zip(new).zip(update) {
            let z = self.parts.apply(0, update);
            *h = (1.0 - z) * self.parts.apply(1, new) + z * *h;
        }
    }
}

impl Operator for Gru {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        evaluate(&self.recurrent(), inputs, outputs, |parts, _, _| {
            Ok(GruCell {
                parts,
                linear_before_reset: self.linear_before_reset,
            })
        })
    }
}
