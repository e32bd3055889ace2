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
    /// The operations that bodies may take in a run, see [`SessionOptions::operations`].
    pub operations: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            import: ImportOptions::default(),
            memory: SessionOptions::DEFAULT.memory,
            operations: SessionOptions::DEFAULT.operations,
        }
    }
}

impl Limits {
    /// The names of all limits: those of [`Budget::NAMES`], `memory` and `operations`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Budget::NAMES
            .iter()
            .copied()
            .chain(["memory", "operations"])
    }

    /// Sets the limit of a name. Returns whether there is such a limit.
    pub fn set(&mut self, name: &str, limit: u64) -> bool {
        match name {
            "memory" => self.memory = limit,
            "operations" => self.operations = limit,
            _ => return self.import.budget.set(name, limit),
        }
        true
    }
}
