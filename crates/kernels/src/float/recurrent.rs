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

/// The sums of the gates of one sequence, which follow each other: what inputs and what states contribute.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a> {
    /// `x·W + b`, for all gates.
    pub inputs: &'a [f32],
    /// `h·R`, for the gates that a function asks for.
    pub states: &'a [f32],
}

impl Sums<'_> {
    fn check(&self, inputs: usize, states: usize) -> Result<(), KernelError> {
        check_len("the sums of inputs", inputs, self.inputs.len())?;
        check_len("the sums of states", states, self.states.len())
    }
}

/// A step of an LSTM: of the sums of the gates input, output, forget and cell, the next states.
///
/// # Errors
/// For lengths that are not 4 of the states', and a missing instruction set.
pub fn lstm(isa: Isa, sums: Sums<'_>, c: &mut [f32], h: &mut [f32]) -> Result<(), KernelError> {
    sums.check(4 * h.len(), 4 * h.len())?;
    check_len("the states of the cell", h.len(), c.len())?;
    lstm_units(isa, sums, c, h)
}

isa_versions!(fn lstm_units(sums: Sums<'_>, c: &mut [f32], h: &mut [f32]) = lstm_loop);

#[inline(always)]
fn lstm_loop(sums: Sums<'_>, c: &mut [f32], h: &mut [f32]) {
    let hidden = h.len();
    let [xi, xo, xf, xc] = gates(sums.inputs, hidden);
    let [hi, ho, hf, hc] = gates(sums.states, hidden);
    let c = &mut c[..hidden];
    for k in 0..hidden {
        let (i, o, f) = (
            sigmoid(xi[k] + hi[k]),
            sigmoid(xo[k] + ho[k]),
            sigmoid(xf[k] + hf[k]),
        );
        let state = f * c[k] + i * tanh(xc[k] + hc[k]);
        c[k] = state;
        h[k] = o * tanh(state);
    }
}

/// The sums of each gate.
#[inline(always)]
fn gates<const N: usize>(sums: &[f32], hidden: usize) -> [&[f32]; N] {
    std::array::from_fn(|gate| &sums[gate * hidden..][..hidden])
}

/// The gates update and reset of a GRU: `σ` of the first two sums, in this order.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn gru_gates(isa: Isa, sums: Sums<'_>, gates: &mut [f32]) -> Result<(), KernelError> {
    sums.check(gates.len(), gates.len())?;
    gru_gates_units(isa, sums, gates)
}

isa_versions!(fn gru_gates_units(sums: Sums<'_>, gates: &mut [f32]) = gru_gates_loop);

#[inline(always)]
fn gru_gates_loop(sums: Sums<'_>, gates: &mut [f32]) {
    for ((x, h), y) in sums.inputs.iter().zip(sums.states).zip(gates) {
        *y = sigmoid(x + h);
    }
}

/// The next states of a GRU, of the sums of its third gate and the gates [`gru_gates`]. `linear_before_reset` says that the sums of states are not those of `r∘h`.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn gru(
    isa: Isa,
    sums: Sums<'_>,
    gates: &[f32],
    linear_before_reset: bool,
    h: &mut [f32],
) -> Result<(), KernelError> {
    sums.check(h.len(), h.len())?;
    check_len("the gates", 2 * h.len(), gates.len())?;
    gru_units(isa, sums, gates, linear_before_reset, h)
}

isa_versions!(
    fn gru_units(sums: Sums<'_>, update_reset: &[f32], scaled: bool, h: &mut [f32]) = gru_loop
);

#[inline(always)]
fn gru_loop(sums: Sums<'_>, update_reset: &[f32], scaled: bool, h: &mut [f32]) {
    let hidden = h.len();
    let [update, reset] = gates(update_reset, hidden);
    let (x, states) = (&sums.inputs[..hidden], &sums.states[..hidden]);
    for k in 0..hidden {
        let factor = if scaled { reset[k] } else { 1.0 };
        let new = tanh(x[k] + factor * states[k]);
        h[k] = (1.0 - update[k]) * new + update[k] * h[k];
    }
}

/// A step of a plain recurrent layer: the next states.
///
/// # Errors
/// For lengths that do not fit, and a missing instruction set.
pub fn rnn(isa: Isa, sums: Sums<'_>, h: &mut [f32]) -> Result<(), KernelError> {
    sums.check(h.len(), h.len())?;
    rnn_units(isa, sums, h)
}

isa_versions!(fn rnn_units(sums: Sums<'_>, h: &mut [f32]) = rnn_loop);

#[inline(always)]
fn rnn_loop(sums: Sums<'_>, h: &mut [f32]) {
    for ((x, states), h) in sums.inputs.iter().zip(sums.states).zip(h) {
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
            let all = Sums {
                inputs: &x,
                states: &s,
            };
            let part = |gates: std::ops::Range<usize>| Sums {
                inputs: &x[gates.start * hidden..gates.end * hidden],
                states: &s[gates.start * hidden..gates.end * hidden],
            };
            let sum = |gate: usize, k: usize| x[gate * hidden + k] + s[gate * hidden + k];
            let mut first: Option<Vec<Vec<f32>>> = None;
            for isa in Isa::supported() {
                let (mut c, mut h) = (c0.clone(), h0.clone());
                lstm(isa, all, &mut c, &mut h).unwrap();
                let mut update_reset = vec![7.0; 2 * hidden];
                gru_gates(isa, part(0..2), &mut update_reset).unwrap();
                let (mut before, mut after, mut plain) = (h0.clone(), h0.clone(), h0.clone());
                gru(isa, part(2..3), &update_reset, true, &mut before).unwrap();
                gru(isa, part(2..3), &update_reset, false, &mut after).unwrap();
                rnn(isa, part(0..1), &mut plain).unwrap();
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
                    close(plain[k], wide_tanh(sum(0, k)), "an RNN");
                }
                let results = vec![c, h, update_reset, before, after, plain];
                let expected = first.get_or_insert_with(|| results.clone());
                assert_eq!(&results, expected, "{isa}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = [0.0; 12];
        let sums = |inputs: usize, states: usize| Sums {
            inputs: &x[..inputs],
            states: &x[..states],
        };
        let isa = Isa::Scalar;
        assert!(lstm(isa, sums(12, 12), &mut [0.0; 3], &mut [0.0; 3]).is_ok());
        assert!(lstm(isa, sums(12, 11), &mut [0.0; 3], &mut [0.0; 3]).is_err());
        assert!(lstm(isa, sums(12, 12), &mut [0.0; 2], &mut [0.0; 3]).is_err());
        assert!(gru_gates(isa, sums(5, 6), &mut [0.0; 6]).is_err());
        assert!(gru(isa, sums(3, 3), &[0.0; 5], true, &mut [0.0; 3]).is_err());
        assert!(gru(isa, sums(2, 3), &[0.0; 6], true, &mut [0.0; 3]).is_err());
        assert!(rnn(isa, sums(3, 2), &mut [0.0; 3]).is_err());
    }
}
