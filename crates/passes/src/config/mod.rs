//! The configuration: which operators and values are quantized, and how.
//!
//! A [`QConfig`] says how the activations and weights of an operator are quantized; a [`QConfigMapping`] says which operators get which
//! QConfig, with torch's words and torch's precedence. [`ModelNames`] are the names by which users find the operators of a model. A
//! [`Resolver`] finds the QConfig of each operator.

mod edit;
mod mapping;
mod names;
mod qconfig;
mod resolve;

pub use edit::{EditError, SpecEdit};
pub use mapping::{Exclusions, ModuleOrder, QConfigMapping, Region};
pub use names::ModelNames;
pub(crate) use names::covers;
pub use octofold_ops::nearest;
pub use qconfig::{Preset, QConfig, UnknownPreset};
pub use resolve::{Resolved, Resolver, UnmatchedSetting};
