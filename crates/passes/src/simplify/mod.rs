//! Simplification: the same function by fewer and plainer nodes.

mod canonical;
mod dead;
mod duplicates;
mod fold;
mod identity;
mod qoperator;
mod windows;

pub use canonical::Canonicalize;
pub use dead::EliminateDead;
pub use duplicates::EliminateDuplicates;
pub use fold::FoldConstants;
pub use identity::EliminateIdentities;
pub use qoperator::ExpandQOperators;
pub use windows::CanonicalizeWindows;
