//! The mapped files that constants of a graph may be in.

use std::sync::Arc;

use octofold_tensor::Tensor;
use octofold_tensor::map::MappedFile;

use super::{Graph, ValueKind};
use crate::ValueId;

/// A file of weights that is mapped while a graph uses it: see [`octofold_tensor::map`].
#[derive(Clone, Debug)]
pub struct MappedWeights {
    location: String,
    file: Arc<MappedFile>,
}

impl MappedWeights {
    pub(crate) fn new(location: &str, file: MappedFile) -> Self {
        Self {
            location: location.to_owned(),
            file: Arc::new(file),
        }
    }

    /// The location of the file in the model's folder.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Whether the file has the length and the time of change that it had when the model was read.
    pub fn is_unchanged(&self) -> bool {
        self.file.is_unchanged()
    }
}

/// Why a file of weights is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the file `{location}` was changed since the model was read: replace it by renaming a new file, or read the weights into memory (ImportOptions::copy_weights, --no-map)"
)]
pub struct ChangedWeights {
    /// The location of the file in the model's folder.
    pub location: String,
}

impl AsRef<[u8]> for MappedWeights {
    fn as_ref(&self) -> &[u8] {
        (*self.file).as_ref()
    }
}

impl Graph {
    /// Takes the elements of a constant, so that their memory can be freed while the graph is still read. The graph is not sound
    /// afterwards: the constant is empty, and has the type of before.
    pub fn take_constant(&mut self, id: ValueId) -> Option<Tensor> {
        let value = self.values.get_mut(id.index())?.as_mut()?;
        match &mut value.kind {
            ValueKind::Constant(tensor) => {
                let empty = Tensor::zeros(tensor.dtype(), [0]).ok()?;
                Some(std::mem::replace(tensor, empty))
            }
            _ => None,
        }
    }

    /// Sets the files that constants of the graph may be in.
    pub(crate) fn set_mapped_weights(&mut self, files: Vec<MappedWeights>) {
        self.mapped_weights = files;
    }

    /// Checks that the mapped files of weights are what they were when the model was read. What is made of the graph is of no use otherwise.
    ///
    /// # Errors
    /// When the length or time of a file is another.
    pub fn check_weights(&self) -> Result<(), ChangedWeights> {
        let changed = self.mapped_weights.iter().find(|file| !file.is_unchanged());
        match changed {
            None => Ok(()),
            Some(file) => Err(ChangedWeights {
                location: file.location().to_owned(),
            }),
        }
    }
}
