//! `RNN`: recurrent layers of one gate.

use octofold_tensor::Tensor;

use super::layer::{Cell, Parts, evaluate};
use super::{Direction, Recurrent, RecurrentLayer};
use crate::{Inputs, OpError, Operator, attributes};

attributes! {
    /// ONNX `RNN` (opset 22): a recurrent layer of one gate. A step is `h = f(x·W' + h·R' + Wb + Rb)`.
    ///
    /// Inputs, float but for the lengths: `x` [steps, batch, input], `w` [directions, hidden, input], `r` [directions, hidden, hidden], optional `b` [directions,
    /// 2·hidden] (that of `w`, then that of `r`), `sequence_lens` (int32) `[batch]` and `initial_h` [directions, batch, hidden]. Outputs: `y` [steps, directions,
    /// batch, hidden] and `y_h` [directions, batch, hidden].
    ///
    /// Beyond a sequence's length `y` is zero and the state stays as it is.
    "" "RNN" inputs(3..=6) outputs(1..=2)
    pub struct Rnn {
        /// The first parameters of those functions in `activations` that have one, in their order; the rest have their defaults.
        activation_alpha: Vec<f32> = Vec::new(),
        /// The second parameters, likewise.
        activation_beta: Vec<f32> = Vec::new(),
        /// The function `f` for each direction, in any case of letters; empty for Tanh.
        activations: Vec<String> = Vec::new(),
        /// The inputs of the functions are cut to `-clip..=clip`.
        clip: Option<f32> = None,
        /// The order of the steps.
        direction: Direction = Direction::Forward,
        /// The size of the states; that of the weights when absent.
        hidden_size: Option<i64> = None,
        /// Whether the batch is the first axis of `x`, `y` and the states.
        layout: bool = false,
    }
}

impl RecurrentLayer for Rnn {
    fn recurrent(&self) -> Recurrent<'_> {
        Recurrent {
            activation_alpha: &self.activation_alpha,
            activation_beta: &self.activation_beta,
            activations: &self.activations,
            functions: &["Tanh"],
            clip: self.clip,
            direction: self.direction,
            hidden_size: self.hidden_size,
            layout: self.layout,
            gates: 1,
            states: 1,
        }
    }
}

impl Cell for Parts {
    fn step(&self, rows: usize, x: &[f64], h: &mut [f64], _: &mut [f64]) {
        let sums = self.gates[0].sums(rows, x, h);
        for (h, sum) in h.iter_mut().zip(sums) {
            *h = self.apply(0, sum);
        }
    }
}

impl Operator for Rnn {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        evaluate(&self.recurrent(), inputs, outputs, |parts, _, _| Ok(parts))
    }
}
