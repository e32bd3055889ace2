//! The cells of recurrent layers: what a step makes of the sums of its gates.
//!
//! A gate's sum is `x·W + b`, which is known for many steps before the first of them, and `h·R`: two [`linear`](super::linear) products, which are added here.
//! Functions are those of `octofold_quant::float`, and each product and sum is rounded.
//!
//! ```text
//! LSTM  i = σ(s_i)    o = σ(s_o)    f = σ(s_f)    c = f·c + i·tanh(s_c)    h = o·tanh(c)
//! GRU   z = σ(s_z)    r = σ(s_r)    n = tanh(x_n + (r∘h)·R_n)  or  tanh(x_n + r·(h·R_n + b_n))    h = (1 - z)·n + z·h
//! RNN   h = tanh(s)
//! ```

use octofold_quant::float::{sigmoid, tanh};

use crate::error::check_len;
use crate::shared::dispatch::isa_versions;
use crate::{Isa, KernelError};

/// A step of an LSTM for one sequence: of the sums of the gates input, output, forget and cell, the next states.
///
/// `inputs` has `x·W + b`; `gates` has `h·R`, and is changed.
///
/// # Errors
/// For lengths that are not 4 of the states', and a missing instruction set.
pub fn lstm(
    isa: Isa,
    inputs: &[f32],
    gates: &mut [f32],
    c: &mut [f32],
    h: &mut [f32],
) -> Result<(), KernelError> {
    check_sums(inputs, gates, 4 * h.len())?;
    check_len("the states of the cell", h.len(), c.len())?;
    lstm_units(isa, inputs, gates, c, h)
}

fn check_sums(inputs: &[f32], states: &[f32], len: usize) -> Result<(), KernelError> {
    check_len("the sums of inputs", len, inputs.len())?;
    check_len("the sums of states", len, states.len())
}

isa_versions!(
    fn lstm_units(inputs: &[f32], gates: &mut [f32], c: &mut [f32], h: &mut [f32]) = lstm_loop
);

#[inline(always)]
fn lstm_loop(inputs: &[f32], gates: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let hidden = h.len();
    // Loops over few slices are vectorized for states of any size.
    let (of_cell, others) = (&inputs[3 * hidden..], &inputs[..3 * hidden]);
    add_sigmoid(others, &mut gates[..3 * hidden]);
    for (y, x) in gates[3 * hidden..].iter_mut().zip(of_cell) {
        *y = tanh(x + *y);
    }
    let (input, rest) = gates.split_at(hidden);
    let (output, rest) = rest.split_at(hidden);
    let (forget, cell) = rest.split_at(hidden);
    for (((c, i), f), g) in c.iter_mut().zip(input).zip(forget).zip(cell) {
        *c = f * *c + i * g;
    }
    for ((h, o), c) in h.iter_mut().zip(output).zip(c) {
        *h = o * tanh(*c);
    }
}

/// `y = σ(x + y)`.
#[inline(always)]
fn add_sigmoid(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = sigmoid(x + *y);
    }
}

/// The gates update and reset of a GRU for one sequence: `σ` of the first two sums, in this order.
///
/// `inputs` has `x·W + b`; `gates` has `h·R`, and becomes the gates.
///
/// # Errors
/// For lengths that differ, and a missing instruction set.
pub fn gru_gates(isa: Isa, inputs: &[f32], gates: &mut [f32]) -> Result<(), KernelError> {
    check_sums(inputs, gates, gates.len())?;
    gru_gates_units(isa, inputs, gates)
}

isa_versions!(fn gru_gates_units(inputs: &[f32], gates: &mut [f32]) = add_sigmoid);

/// The states of a GRU for one sequence behind its reset gate, `r∘h`: what the third gate multiplies where the gate comes first.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn gru_reset(
    isa: Isa,
    gates: &[f32],
    h: &[f32],
    output: &mut [f32],
) -> Result<(), KernelError> {
    check_len("the gates", 2 * h.len(), gates.len())?;
    check_len("the output", h.len(), output.len())?;
    gru_reset_units(isa, &gates[h.len()..], h, output)
}

isa_versions!(fn gru_reset_units(reset: &[f32], h: &[f32], output: &mut [f32]) = gru_reset_loop);

#[inline(always)]
fn gru_reset_loop(reset: &[f32], h: &[f32], output: &mut [f32]) {
    for ((y, r), h) in output.iter_mut().zip(reset).zip(h) {
        *y = h * r;
    }
}

/// The next states of a GRU for one sequence, of the sums of its third gate and the gates [`gru_gates`].
///
/// `inputs` has `x·W + b`. `states` has `(r∘h)·R`, or `h·R + b` where the reset gate is to scale it (`linear_before_reset`), and is changed.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn gru(
    isa: Isa,
    inputs: &[f32],
    states: &mut [f32],
    gates: &[f32],
    linear_before_reset: bool,
    h: &mut [f32],
) -> Result<(), KernelError> {
    check_sums(inputs, states, h.len())?;
    check_len("the gates", 2 * h.len(), gates.len())?;
    gru_units(isa, inputs, states, gates, linear_before_reset, h)
}

isa_versions!(
    fn gru_units(inputs: &[f32], states: &mut [f32], gates: &[f32], scaled: bool, h: &mut [f32]) =
        gru_loop
);

#[inline(always)]
fn gru_loop(inputs: &[f32], states: &mut [f32], gates: &[f32], scaled: bool, h: &mut [f32]) {
    let (update, reset) = gates.split_at(h.len());
    if scaled {
        for (y, r) in states.iter_mut().zip(reset) {
            *y *= r;
        }
    }
    for (y, x) in states.iter_mut().zip(inputs) {
        *y = tanh(x + *y);
    }
    for ((h, z), n) in h.iter_mut().zip(update).zip(states) {
        *h = (1.0 - z) * *n + z * *h;
    }
}

/// A step of a plain recurrent layer for one sequence: the next states, of `x·W + b` and `h·R`.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn rnn(isa: Isa, inputs: &[f32], states: &[f32], h: &mut [f32]) -> Result<(), KernelError> {
    check_sums(inputs, states, h.len())?;
    rnn_units(isa, inputs, states, h)
}

isa_versions!(fn rnn_units(inputs: &[f32], states: &[f32], h: &mut [f32]) = rnn_loop);

#[inline(always)]
fn rnn_loop(inputs: &[f32], states: &[f32], h: &mut [f32]) {
    for ((x, states), h) in inputs.iter().zip(states).zip(h) {
        *h = tanh(x + states);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::{LENGTHS, Random};

    fn wide_sigmoid(x: f32) -> f64 {
        1.0 / (1.0 + (-f64::from(x)).exp())
    }

    fn wide_tanh(x: f32) -> f64 {
        f64::from(x).tanh()
    }

    fn close(found: f32, expected: f64, what: &str) {
        assert!(
            (f64::from(found) - expected).abs() < 1e-6,
            "{what}: {found}, not {expected}"
        );
    }

    #[test]
    fn cells_are_their_formulas_on_every_instruction_set() {
        let mut random = Random::new(3);
        for hidden in LENGTHS {
            let mut floats = |count: usize| -> Vec<f32> {
                random.floats(count).iter().map(|x| 3.0 * x).collect()
            };
            let (x, s) = (floats(4 * hidden), floats(4 * hidden));
            let (c0, h0) = (floats(hidden), floats(hidden));
            let part = |gates: std::ops::Range<usize>| {
                let part = gates.start * hidden..gates.end * hidden;
                (&x[part.clone()], s[part].to_vec())
            };
            let sum = |gate: usize, k: usize| x[gate * hidden + k] + s[gate * hidden + k];
            let mut first: Option<Vec<Vec<f32>>> = None;
            for isa in Isa::supported() {
                let (mut c, mut h) = (c0.clone(), h0.clone());
                let (inputs, mut gates) = part(0..4);
                lstm(isa, inputs, &mut gates, &mut c, &mut h).unwrap();
                let (inputs, mut update_reset) = part(0..2);
                gru_gates(isa, inputs, &mut update_reset).unwrap();
                let [before, after] = [true, false].map(|scaled| {
                    let ((inputs, mut states), mut h) = (part(2..3), h0.clone());
                    gru(isa, inputs, &mut states, &update_reset, scaled, &mut h).unwrap();
                    h
                });
                let mut behind = h0.clone();
                gru_reset(isa, &update_reset, &h0, &mut behind).unwrap();
                let mut plain = h0.clone();
                let (inputs, states) = part(0..1);
                rnn(isa, inputs, &states, &mut plain).unwrap();
                for k in 0..hidden {
                    let [i, o, f] = [0, 1, 2].map(|gate| wide_sigmoid(sum(gate, k)));
                    let state = f * f64::from(c0[k]) + i * wide_tanh(sum(3, k));
                    close(c[k], state, "the state of an LSTM");
                    close(h[k], o * state.tanh(), "the result of an LSTM");
                    let [z, r] = [0, 1].map(|gate| wide_sigmoid(sum(gate, k)));
                    let (xn, sn) = (f64::from(x[2 * hidden + k]), f64::from(s[2 * hidden + k]));
                    let next = |n: f64| (1.0 - z) * n + z * f64::from(h0[k]);
                    close(before[k], next((xn + r * sn).tanh()), "a GRU");
                    close(after[k], next((xn + sn).tanh()), "a GRU");
                    close(behind[k], r * f64::from(h0[k]), "a reset gate");
                    close(plain[k], wide_tanh(sum(0, k)), "an RNN");
                }
                let results = vec![c, h, update_reset, before, after, behind, plain];
                let expected = first.get_or_insert_with(|| results.clone());
                assert_eq!(&results, expected, "{isa}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, mut y, isa) = ([0.0; 12], [0.0; 12], Isa::Scalar);
        let (mut c, mut h) = ([0.0; 3], [0.0; 3]);
        assert!(lstm(isa, &x, &mut y, &mut c, &mut h).is_ok());
        assert!(lstm(isa, &x, &mut y[1..], &mut c, &mut h).is_err());
        assert!(lstm(isa, &x[1..], &mut y, &mut c, &mut h).is_err());
        assert!(lstm(isa, &x, &mut y, &mut c[1..], &mut h).is_err());
        assert!(gru_gates(isa, &x[..5], &mut y[..6]).is_err());
        assert!(gru(isa, &x[..3], &mut y[..3], &[0.0; 5], true, &mut h).is_err());
        assert!(gru(isa, &x[..2], &mut y[..3], &[0.0; 6], true, &mut h).is_err());
        assert!(gru(isa, &x[..3], &mut y[..2], &[0.0; 6], true, &mut h).is_err());
        assert!(gru_reset(isa, &x[..6], &x[..3], &mut h[1..]).is_err());
        assert!(gru_reset(isa, &x[..5], &x[..3], &mut h).is_err());
        assert!(rnn(isa, &x[..3], &y[..2], &mut h).is_err());
    }
}
