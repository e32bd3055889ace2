//! The order of passes, in one place.
//!
//! ```text
//! simplify → fuse → (equalize-layers) → (annotate) → insert-observers        what prepare does
//! convert → expand-fused                                  the reference QDQ graph
//! simplify → lower → layout                               what codegen takes
//! ```

use crate::fuse::{FuseActivations, FuseAffine, FuseResiduals, LowerBatchNorms};
use crate::layout::AssignLayouts;
use crate::lower::{FuseQuantizedResiduals, LinearForms, LowerFloat, LowerQuantized};
use crate::pass::{Pass, PassError};
use crate::simplify::{
    Canonicalize, CanonicalizeWindows, EliminateDead, EliminateDuplicates, EliminateIdentities,
    FoldConstants,
};

/// A stage of the compiler: a list of passes that belong together.
pub type Stage = &'static [&'static dyn Pass];

/// Constants folded, nodes that do nothing removed, one spelling for each operation.
pub const SIMPLIFY: Stage = &[
    &FoldConstants,
    &EliminateIdentities,
    &CanonicalizeWindows,
    &Canonicalize,
    &EliminateDuplicates,
    &EliminateDead,
];

/// Batch norms, biases and activations merged into the layers before them.
pub const FUSE: Stage = &[
    &FuseAffine,
    &LowerBatchNorms,
    &FoldConstants,
    &FuseActivations,
    &EliminateDead,
];

/// Integer operators in the place of dequantize–operate–quantize groups, kernel forms for the rest.
pub const LOWER: Stage = &[
    &LinearForms,
    &FuseActivations,
    &LowerQuantized,
    // What was lowered leaves dequantizers behind, which would count as readers of the values to fuse.
    &EliminateDead,
    &FuseQuantizedResiduals,
    &LowerFloat,
    &FuseResiduals,
    &EliminateDuplicates,
    &EliminateDead,
];

/// NHWC between kernels.
pub const LAYOUT: Stage = &[&AssignLayouts, &EliminateIdentities, &EliminateDead];

/// The passes that need nothing but a graph, in the order of the stages.
pub fn all() -> Vec<&'static dyn Pass> {
    let mut passes: Vec<&'static dyn Pass> = Vec::new();
    for pass in [SIMPLIFY, FUSE, LOWER, LAYOUT].concat() {
        if passes.iter().all(|known| known.name() != pass.name()) {
            passes.push(pass);
        }
    }
    passes.push(&crate::equalize::EqualizeLayers::ALL);
    passes.push(&crate::expand::ExpandFused);
    passes
}

/// The pass, or the passes of the stage, of a name.
///
/// # Errors
/// When there is none, with the names that there are.
pub fn named(name: &str) -> Result<Vec<&'static dyn Pass>, PassError> {
    let stage = match name {
        "simplify" => Some(SIMPLIFY),
        "fuse" => Some(FUSE),
        "lower" => Some(LOWER),
        "layout" => Some(LAYOUT),
        _ => None,
    };
    if let Some(stage) = stage {
        return Ok(stage.to_vec());
    }
    let all = all();
    match all.iter().find(|pass| pass.name() == name) {
        Some(pass) => Ok(vec![*pass]),
        None => {
            let stages = ["simplify", "fuse", "lower", "layout"].into_iter();
            let known: Vec<&str> = stages.chain(all.iter().map(|pass| pass.name())).collect();
            Err(PassError::UnknownPass {
                name: name.to_owned(),
                known: known.join(", "),
            })
        }
    }
}
