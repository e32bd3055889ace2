//! The order of passes, in one place.
//!
//! ```text
//! simplify → fuse → (equalize-layers) → (annotate) → insert-observers        what prepare does
//! convert → expand-fused                                  the reference QDQ graph
//! simplify → lower → layout                               what codegen takes
//! ```

use octofold_ir::Graph;

use crate::backend::BackendConfig;
use crate::fuse::{
    FactorSums, FuseActivations, FuseAffine, FuseResiduals, LowerBatchNorms, SplitTransposedConvs,
};
use crate::layout::AssignLayouts;
use crate::lower::{FuseQuantizedResiduals, LinearForms, LowerFloat, LowerQuantized};
use crate::manager::{ManagerOptions, PassRun, run_passes};
use crate::pass::{Pass, PassError};
use crate::rewrite::Scope;
use crate::simplify::{
    Canonicalize, CanonicalizeWindows, EliminateDead, EliminateDuplicates, EliminateIdentities,
    ExpandQOperators, FoldConstants,
};
use crate::user::{FuseUserPatterns, LowerUserPatterns};

/// A stage of the compiler: a list of passes that belong together.
pub type Stage = &'static [&'static dyn Pass];

/// Quantized layers as QDQ groups, constants folded, nodes that do nothing removed, one spelling for each operation.
pub const SIMPLIFY: Stage = &[
    &ExpandQOperators,
    &FoldConstants,
    &EliminateIdentities,
    &CanonicalizeWindows,
    &Canonicalize,
    &EliminateDuplicates,
    &EliminateDead,
];

/// Batch norms, biases and activations merged into the layers before them.
pub const FUSE: Stage = &[
    &FuseAffine { scope: None },
    &LowerBatchNorms,
    &FactorSums,
    &SplitTransposedConvs,
    &FoldConstants,
    &FuseActivations { scope: None },
    &EliminateDead,
];

/// Integer operators in the place of dequantize–operate–quantize groups, kernel forms for the rest.
pub const LOWER: Stage = &[
    &LinearForms,
    &FuseActivations { scope: None },
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

/// Simplifies a float graph and fuses what an engine fuses, the user's own patterns first: what graph mode's `prepare` begins with.
///
/// # Errors
/// When a pass fails.
pub fn simplify_and_fuse(
    graph: &mut Graph,
    backend: &BackendConfig,
) -> Result<Vec<PassRun>, PassError> {
    let mut runs = run_passes(graph, SIMPLIFY, ManagerOptions::default())?;
    let scope: Option<&dyn Scope> = Some(backend);
    let fuse: [&dyn Pass; 8] = [
        &FuseUserPatterns { backend },
        &FuseAffine { scope },
        &LowerBatchNorms,
        &FactorSums,
        &SplitTransposedConvs,
        &FoldConstants,
        &FuseActivations { scope },
        &EliminateDead,
    ];
    runs.extend(run_passes(graph, &fuse, ManagerOptions::default())?);
    Ok(runs)
}

/// Simplifies a float graph and fuses what a scope allows, and nothing else: what eager mode's `prepare` begins with.
///
/// # Errors
/// When a pass fails.
pub fn simplify_and_fuse_only(
    graph: &mut Graph,
    scope: &dyn Scope,
) -> Result<Vec<PassRun>, PassError> {
    let mut runs = run_passes(graph, SIMPLIFY, ManagerOptions::default())?;
    let scope = Some(scope);
    let fuse: [&dyn Pass; 4] = [
        &FuseAffine { scope },
        &FoldConstants,
        &FuseActivations { scope },
        &EliminateDead,
    ];
    runs.extend(run_passes(graph, &fuse, ManagerOptions::default())?);
    Ok(runs)
}

/// Lowers a simplified and fused float or QDQ graph and lays it out, the user's own patterns first.
///
/// # Errors
/// When a pass fails.
pub fn lower(graph: &mut Graph, backend: &BackendConfig) -> Result<Vec<PassRun>, PassError> {
    let own = LowerUserPatterns { backend };
    let mut runs = run_passes(graph, &[&own], ManagerOptions::default())?;
    for stage in [LOWER, LAYOUT] {
        runs.extend(run_passes(graph, stage, ManagerOptions::default())?);
    }
    Ok(runs)
}

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
