//! One observer a channel, for values of shape `outer x channels x inner`.

use serde::{Deserialize, Serialize};

use super::scan::scan;
use super::{MergeError, ObserveError, ObserverKind, ObserverState};

/// The states of all channels, each over a whole (channel-less) stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerChannel {
    kind: ObserverKind,
    states: Vec<ObserverState>,
}

impl PerChannel {
    /// Empty states.
    pub fn new(kind: &ObserverKind, channels: usize) -> Self {
        Self {
            kind: *kind,
            states: (0..channels).map(|_| ObserverState::new(kind)).collect(),
        }
    }

    /// The kind of every channel's observer.
    pub fn kind(&self) -> ObserverKind {
        self.kind
    }

    /// The states, by channel.
    pub fn states(&self) -> &[ObserverState] {
        &self.states
    }

    /// Takes in a batch of shape `outer x channels x inner`.
    ///
    /// # Errors
    /// When a value is NaN or infinite, or when the number of channels or of values is wrong.
    pub fn observe(
        &mut self,
        values: &[f32],
        outer: usize,
        channels: usize,
        inner: usize,
    ) -> Result<(), ObserveError> {
        if channels != self.states.len() {
            let expected = self.states.len();
            return Err(ObserveError::Channels {
                expected,
                found: channels,
            });
        }
        let row = channels.saturating_mul(inner);
        if outer.checked_mul(row) != Some(values.len()) {
            let len = values.len();
            return Err(ObserveError::Shape {
                len,
                outer,
                channels,
                inner,
            });
        }
        // Everything is checked first, so that a bad value leaves all channels as they were.
        scan(values)?;
        if values.is_empty() {
            return Ok(());
        }
        let mut channel_values = Vec::with_capacity(outer * inner);
        for (channel, state) in self.states.iter_mut().enumerate() {
            channel_values.clear();
            for line in values.chunks_exact(row) {
                channel_values.extend_from_slice(&line[channel * inner..(channel + 1) * inner]);
            }
            state.observe(&channel_values)?;
        }
        Ok(())
    }

    /// Adds what another set of channels has seen.
    ///
    /// # Errors
    /// When the numbers of channels or the kinds differ, and for moving averages.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.states.len() != other.states.len() {
            return Err(MergeError::Channels {
                left: self.states.len(),
                right: other.states.len(),
            });
        }
        let mut merged = self.states.clone();
        for (state, other) in merged.iter_mut().zip(&other.states) {
            state.merge(other)?;
        }
        self.states = merged;
        Ok(())
    }
}
