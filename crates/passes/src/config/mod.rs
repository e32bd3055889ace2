//! What the user wishes: which values are quantized, and how.
//!
//! A [`QConfig`] says how the activations and weights of an operator are quantized; a [`QConfigMapping`] says which operators get which
//! QConfig, with torch's words and torch's precedence; [`Addresses`] are the names by which users find the operators of a model.

mod addresses;
mod mapping;
mod qconfig;

pub use addresses::Addresses;
pub use mapping::{ModuleOrder, ObjectTypes, QConfigMapping, Resolved, UnmatchedSetting};
pub use qconfig::{Preset, QConfig, UnknownPreset};
