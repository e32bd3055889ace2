//! Simplification: fewer and simpler nodes that compute the same function.

mod activations;
mod branches;
mod canonical;
mod dead;
mod duplicates;
mod fold;
mod identity;
mod norm;
mod qoperator;
mod sink;
mod variadic;
mod widen;
mod windows;

pub use branches::InlineBranches;
pub use canonical::Canonicalize;
pub use dead::EliminateDead;
pub use duplicates::EliminateDuplicates;
pub use fold::FoldConstants;
pub use identity::EliminateIdentities;
pub use norm::RecognizeNorms;
pub use qoperator::ExpandQOperators;
pub use sink::SinkConstants;
pub use widen::WidenFloats;
pub use windows::CanonicalizeWindows;
pub(crate) use windows::window_of;
