//! Recurrent layers: `LSTM`, `GRU` and `RNN`.
//!
//! Everything is computed in f64, including the states between the steps, and rounded once. [`layer`] walks over the steps of a sequence. Each operator has a
//! file with its attributes and its [`layer::Cell`]: what a step computes from an input and the states.

mod functions;
mod gru;
mod layer;
mod lstm;
mod rnn;

pub use gru::Gru;
pub use lstm::Lstm;
pub use rnn::Rnn;

use crate::{Op, OpError, word_attribute};

word_attribute! {
    /// In which order a recurrent layer reads a sequence.
    pub enum Direction {
        /// From the first step on.
        Forward = "forward",
        /// From the last step of each sequence on.
        Reverse = "reverse",
        /// Both, each with weights and results of its own.
        Bidirectional = "bidirectional",
    }
}

impl Direction {
    /// How many directions there are: 1 or 2.
    pub const fn count(self) -> usize {
        match self {
            Self::Forward | Self::Reverse => 1,
            Self::Bidirectional => 2,
        }
    }

    /// Whether the direction at a position of the weights runs backwards.
    pub const fn is_reverse(self, index: usize) -> bool {
        match self {
            Self::Forward => false,
            Self::Reverse => true,
            Self::Bidirectional => index == 1,
        }
    }
}

/// A recurrent layer's attributes, as far as all kinds of layers have them, and what tells the kinds from each other.
#[derive(Clone, Copy, Debug)]
pub struct Recurrent<'a> {
    /// The first parameters of those functions in `activations` that have one, in their order; the rest have their defaults.
    pub activation_alpha: &'a [f32],
    /// The second parameters, likewise.
    pub activation_beta: &'a [f32],
    /// The functions for each direction, in any case of letters; empty for `functions`.
    pub activations: &'a [String],
    /// The functions of a direction by default.
    pub functions: &'static [&'static str],
    /// The inputs of the functions are cut to `-clip..=clip`.
    pub clip: Option<f32>,
    /// The order of the steps.
    pub direction: Direction,
    /// The size of the states; that of the weights when absent.
    pub hidden_size: Option<i64>,
    /// Whether the batch is the first axis of the inputs, results and states.
    pub layout: bool,
    /// The number of gates: weights have `gates · hidden` rows.
    pub gates: usize,
    /// The number of states: 1, or 2 when there is a state of the cell.
    pub states: usize,
}

/// An operator that is a recurrent layer.
pub trait RecurrentLayer {
    /// The attributes and the kind of the layer.
    fn recurrent(&self) -> Recurrent<'_>;
}

impl Recurrent<'_> {
    /// Checks the attributes by themselves.
    ///
    /// # Errors
    /// When a size or bound is not positive, or a function is unknown, lacks a parameter or is one too many.
    pub fn check(&self) -> Result<(), OpError> {
        functions::functions(self)?;
        self.bound()?;
        match self.hidden_size {
            Some(size) if size <= 0 => Err(OpError::attribute(
                "hidden_size",
                format!("{size} is not positive"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the functions are those by default, and nothing is cut, as in the layers of training frameworks.
    pub fn is_plain(&self) -> bool {
        let defaults = self.functions.iter().cycle();
        let mut named = self.activations.iter().zip(defaults);
        self.clip.is_none()
            && self.activation_alpha.is_empty()
            && self.activation_beta.is_empty()
            && named.all(|(name, default)| name.eq_ignore_ascii_case(default))
    }

    /// The bound of `clip`, infinite when absent.
    fn bound(&self) -> Result<f64, OpError> {
        match self.clip {
            None => Ok(f64::INFINITY),
            Some(clip) if clip > 0.0 => Ok(clip.into()),
            Some(clip) => Err(OpError::attribute(
                "clip",
                format!("{clip} is not positive"),
            )),
        }
    }
}

impl Op {
    /// The attributes of a recurrent layer; `None` for every other operator.
    pub fn recurrent(&self) -> Option<Recurrent<'_>> {
        match self {
            Self::Lstm(op) => Some(op.recurrent()),
            Self::Gru(op) => Some(op.recurrent()),
            Self::Rnn(op) => Some(op.recurrent()),
            _ => None,
        }
    }
}
