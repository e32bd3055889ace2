//! Limits: how much memory and time models and plans may ask for.

use octofold_ir::onnx::{Budget, ImportOptions};
use octofold_runtime::SessionOptions;

/// Upper bounds of the memory and time that a model or a plan may ask for. The command line sets each by its name, `--limit NAME=NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How models are read.
    pub import: ImportOptions,
    /// The bytes of memory that a run may take, see [`SessionOptions::memory`].
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            import: ImportOptions::default(),
            memory: SessionOptions::DEFAULT.memory,
        }
    }
}

impl Limits {
    /// The names of all limits: those of [`Budget::NAMES`], and `memory`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Budget::NAMES.iter().copied().chain(["memory"])
    }

    /// Sets the limit of a name. Returns whether there is such a limit.
    pub fn set(&mut self, name: &str, limit: u64) -> bool {
        if name == "memory" {
            self.memory = limit;
            return true;
        }
        self.import.budget.set(name, limit)
    }
}
