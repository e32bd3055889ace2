//! The order of passes, in one place.
//!
//! A [`Stage`] is a named list of passes; a [`Sequence`] is a list of stages that somebody runs from start to end. Both are data: the facade, the
//! command `octofold opt`, the tests by example and the table in `docs/stages.md` all read them here.

use std::fmt::Write;

use indexmap::IndexMap;
use octofold_ir::{Graph, GraphError, NodeId, verify_stage};
use octofold_tensor::Tensor;

use crate::annotate::Annotations;
use crate::backend::BackendConfig;
use crate::bias::CorrectBiases;
use crate::convert::{Convert, Statistics};
use crate::equalize::EqualizeLayers;
use crate::expand::ExpandFused;
use crate::fuse::{
    FactorSums, FuseActivations, FuseAffine, FuseResiduals, LowerBatchNorms, SplitTransposedConvs,
};
use crate::layout::AssignLayouts;
use crate::lower::{FuseQuantizedResiduals, LinearForms, LowerFloat, LowerQuantized};
use crate::manager::{ManagerOptions, PassRun, run_passes};
use crate::observe::{InsertLayerInputObservers, InsertObservers};
use crate::pass::{Pass, PassError};
use crate::rewrite::{Rewriter, Scope};
use crate::simplify::{
    Canonicalize, CanonicalizeWindows, EliminateDead, EliminateDuplicates, EliminateIdentities,
    ExpandQOperators, FoldConstants, InlineBranches, RecognizeNorms, SinkConstants, WidenFloats,
};
use crate::user::{FuseUserPatterns, LowerUserPatterns};

/// A stage of the compiler: passes that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One spelling for each operation.
    Simplify,
    /// Fusions of the engine's table.
    Fuse,
    /// Fusions that the user wrote, in eager mode.
    FuseRows,
    /// Equal ranges for the channels of neighbouring layers.
    Equalize,
    /// The decision for every node and value.
    Annotate,
    /// Observers for calibration.
    Observe,
    /// Biases without the mean error of quantized weights.
    CorrectBiases,
    /// The reference QDQ graph.
    Reference,
    /// Integer operators and kernel forms.
    Lower,
    /// The layout of values in memory.
    Layout,
}

impl Stage {
    /// All stages, in the order in which a model meets them.
    pub const ALL: [Self; 10] = [
        Self::Simplify,
        Self::Fuse,
        Self::FuseRows,
        Self::Equalize,
        Self::Annotate,
        Self::Observe,
        Self::CorrectBiases,
        Self::Reference,
        Self::Lower,
        Self::Layout,
    ];

    /// The name by which users select the stage.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What the stage does, in one sentence.
    pub fn purpose(self) -> &'static str {
        self.row().1
    }

    /// The names of its passes, in order.
    pub fn passes(self) -> &'static [&'static str] {
        self.row().2
    }

    /// The table of stages: name, purpose, passes.
    fn row(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Simplify => (
                "simplify",
                "expands quantized layers to QDQ groups, computes in f32, folds constants, removes nodes that do nothing, gives each operation one spelling",
                &[
                    "expand-qoperators",
                    "widen-floats",
                    "fold-constants",
                    "inline-branches",
                    "sink-constants",
                    "eliminate-identities",
                    "canonicalize-windows",
                    "canonicalize",
                    "eliminate-duplicates",
                    "recognize-norms",
                    "eliminate-dead",
                ],
            ),
            Self::Fuse => (
                "fuse",
                "merges batch norms, biases and activations into the layers before them, where the engine's table lists the fusion",
                &[
                    "fuse-user-patterns",
                    "fuse-affine",
                    "lower-batch-norms",
                    "factor-sums",
                    "split-transposed-convs",
                    "fold-constants",
                    "fuse-activations",
                    "eliminate-dead",
                ],
            ),
            Self::FuseRows => (
                "fuse-rows",
                "merges the rows of operators that the user wrote, and nothing else",
                &[
                    "fuse-affine",
                    "lower-batch-norms",
                    "fold-constants",
                    "fuse-activations",
                    "eliminate-dead",
                ],
            ),
            Self::Equalize => (
                "equalize",
                "equalizes the ranges of neighbouring layers' channels, if asked for",
                &["equalize-layers"],
            ),
            Self::Annotate => (
                "annotate",
                "decides for each node whether it is quantized, and for each value which observer gives its parameters",
                &["annotate"],
            ),
            Self::Observe => (
                "observe",
                "inserts the observers, in a copy of the graph",
                &["insert-observers"],
            ),
            Self::CorrectBiases => (
                "correct-biases",
                "takes the mean error of quantized weights out of the biases, if asked for",
                &["correct-biases"],
            ),
            Self::Reference => (
                "reference",
                "quantizes weights and inserts quantizers and dequantizers: the reference QDQ graph, in operators of ONNX only",
                &["convert", "expand-fused"],
            ),
            Self::Lower => (
                "lower",
                "replaces dequantize–operate–quantize groups by integer operators, and brings the rest into the form that kernels take",
                &[
                    "lower-user-patterns",
                    "linear-forms",
                    "fuse-activations",
                    "lower-quantized",
                    // What was lowered leaves dequantizers behind, which would count as readers of the values to fuse.
                    "eliminate-dead",
                    "fuse-quantized-residuals",
                    "lower-float",
                    "fuse-residuals",
                    "eliminate-duplicates",
                    "eliminate-dead",
                ],
            ),
            Self::Layout => (
                "layout",
                "keeps values channels-last between kernels",
                &["assign-layouts", "eliminate-identities", "eliminate-dead"],
            ),
        }
    }

    /// The stage of a graph before the passes run, and after them; `None` where they change nothing that a stage of a graph says.
    fn around(self) -> Option<(octofold_ir::Stage, octofold_ir::Stage)> {
        use octofold_ir::Stage as At;
        match self {
            Self::Simplify => Some((At::Imported, At::Simplified)),
            Self::Fuse | Self::FuseRows => Some((At::Simplified, At::Fused)),
            Self::Equalize => Some((At::Fused, At::Fused)),
            Self::Observe => Some((At::Fused, At::Annotated)),
            Self::Reference => Some((At::Fused, At::Reference)),
            Self::Lower => Some((At::Annotated, At::Lowered)),
            Self::Layout => Some((At::Lowered, At::LaidOut)),
            Self::Annotate | Self::CorrectBiases => None,
        }
    }

    /// Whether a graph holds only what is legal before the stage. A graph that was read from text may enter late and hold more.
    pub fn is_entered_by(self, graph: &Graph) -> bool {
        self.around()
            .is_some_and(|(before, _)| before.admits(graph))
    }

    /// Verifies what is legal at the end of the stage.
    ///
    /// # Errors
    /// The faults that the verifier finds.
    pub fn verify_end(self, graph: &Graph) -> Result<(), PassError> {
        let Some((_, after)) = self.around() else {
            return Ok(());
        };
        verify_stage(graph, after).map_err(|source| PassError::Verify {
            pass: self.name().to_owned(),
            when: "after",
            source,
        })
    }

    /// What the fusing passes of the stage may fuse; everything where nothing limits them.
    fn scope<'a>(self, context: &Context<'a>) -> Option<&'a dyn Scope> {
        match self {
            Self::Fuse => Some(context.backend),
            Self::FuseRows => context.rows,
            _ => None,
        }
    }
}

/// Stages that run one after the other.
pub type Sequence = &'static [Stage];

/// From an imported model to a model that is ready for calibration, in graph mode.
pub const PREPARE: Sequence = &[
    Stage::Simplify,
    Stage::Fuse,
    Stage::Equalize,
    Stage::Annotate,
    Stage::Observe,
];

/// As [`PREPARE`], in eager mode.
pub const PREPARE_EAGER: Sequence = &[
    Stage::Simplify,
    Stage::FuseRows,
    Stage::Equalize,
    Stage::Annotate,
    Stage::Observe,
];

/// From a prepared model and statistics to the reference QDQ graph.
pub const CONVERT: Sequence = &[Stage::CorrectBiases, Stage::Reference];

/// From any float or QDQ graph to what codegen takes.
pub const LOWER: Sequence = &[Stage::Simplify, Stage::Fuse, Stage::Lower, Stage::Layout];

/// From a graph that is simplified and fused already, such as an observed one, to what codegen takes.
pub const LOWER_FUSED: Sequence = &[Stage::Lower, Stage::Layout];

/// All sequences, with the functions of the facade that run them.
const SEQUENCES: [(&str, Sequence); 5] = [
    ("`prepare`, graph mode", PREPARE),
    ("`prepare`, eager mode", PREPARE_EAGER),
    ("`correct_biases`, `convert`", CONVERT),
    ("`calibrate`, on the observed graph", LOWER_FUSED),
    ("`lower`", LOWER),
];

/// A function that decides about the graph as it finds it: see [`annotate`](crate::annotate::annotate).
pub type Annotate<'a> = dyn Fn(&Graph) -> Result<Annotations, GraphError> + Sync + 'a;

/// Where a pass gets its annotations from.
#[derive(Clone, Copy)]
pub enum Decisions<'a> {
    /// They were made of this graph before.
    Made(&'a Annotations),
    /// Each pass that needs them has them made of the graph that it is given.
    OnDemand(&'a Annotate<'a>),
}

/// What passes need besides the graph.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The engine's table, with the user's patterns.
    pub backend: &'a BackendConfig,
    /// What [`Stage::FuseRows`] may fuse.
    pub rows: Option<&'a dyn Scope>,
    /// The pairs and triples of layers to equalize; all that are found when absent.
    pub equalize: Option<&'a [Vec<NodeId>]>,
    /// The decisions to follow.
    pub decisions: Option<Decisions<'a>>,
    /// What calibration observed.
    pub statistics: Option<&'a Statistics>,
    /// The means of the layers' inputs, by name.
    pub means: Option<&'a IndexMap<String, Tensor>>,
}

impl<'a> Context<'a> {
    /// What simplifying, fusing and lowering need.
    pub fn new(backend: &'a BackendConfig) -> Self {
        Self {
            backend,
            rows: None,
            equalize: None,
            decisions: None,
            statistics: None,
            means: None,
        }
    }
}

/// Runs the passes of stages in order.
///
/// # Errors
/// When a pass fails, or needs what the context lacks.
pub fn run_stages(
    graph: &mut Graph,
    stages: &[Stage],
    context: &Context<'_>,
) -> Result<Vec<PassRun>, PassError> {
    let mut runs = Vec::new();
    for &stage in stages {
        let passes = stage_passes(stage, context)?;
        let passes: Vec<&dyn Pass> = passes.iter().map(|pass| &**pass).collect();
        let enters = cfg!(debug_assertions) && stage.is_entered_by(graph);
        runs.extend(run_passes(graph, &passes, ManagerOptions::default())?);
        if enters {
            stage.verify_end(graph)?;
        }
    }
    Ok(runs)
}

/// The passes of a stage.
///
/// # Errors
/// When one needs what the context lacks.
pub fn stage_passes<'a>(
    stage: Stage,
    context: &Context<'a>,
) -> Result<Vec<Box<dyn Pass + 'a>>, PassError> {
    let scope = stage.scope(context);
    let passes = stage.passes().iter();
    passes.map(|name| pass(name, scope, context)).collect()
}

/// The passes that no stage runs: users and repairs ask for them by name.
const OTHERS: [&str; 1] = ["insert-layer-input-observers"];

/// The names of all passes, in the order in which a model meets them.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    let of_stages = Stage::ALL.iter().flat_map(|stage| stage.passes());
    for &name in of_stages.chain(&OTHERS) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The passes of the stage of a name, or the pass of that name.
///
/// # Errors
/// When there is none, with the names that there are; or when a pass needs what the context lacks.
pub fn named<'a>(name: &str, context: &Context<'a>) -> Result<Vec<Box<dyn Pass + 'a>>, PassError> {
    match Stage::ALL.iter().find(|stage| stage.name() == name) {
        Some(&stage) => stage_passes(stage, context),
        None => Ok(vec![pass(name, Some(context.backend), context)?]),
    }
}

/// The pass of a name; its fusions are limited to `scope`.
fn pass<'a>(
    name: &str,
    scope: Option<&'a dyn Scope>,
    context: &Context<'a>,
) -> Result<Box<dyn Pass + 'a>, PassError> {
    let backend = context.backend;
    let lacks = |what| PassError::Lacks {
        pass: name.to_owned(),
        what,
    };
    let statistics = || context.statistics.ok_or(lacks("statistics"));
    let follow = |name, run: Box<Followed<'a>>| {
        let decisions = context.decisions.ok_or(lacks("annotations"))?;
        Ok::<_, PassError>(Box::new(Follow {
            name,
            decisions,
            run,
        }))
    };
    Ok(match name {
        "expand-qoperators" => Box::new(ExpandQOperators),
        "widen-floats" => Box::new(WidenFloats),
        "fold-constants" => Box::new(FoldConstants),
        "inline-branches" => Box::new(InlineBranches),
        "sink-constants" => Box::new(SinkConstants),
        "eliminate-identities" => Box::new(EliminateIdentities),
        "canonicalize-windows" => Box::new(CanonicalizeWindows),
        "canonicalize" => Box::new(Canonicalize),
        "eliminate-duplicates" => Box::new(EliminateDuplicates),
        "recognize-norms" => Box::new(RecognizeNorms),
        "eliminate-dead" => Box::new(EliminateDead),
        "fuse-user-patterns" => Box::new(FuseUserPatterns { backend }),
        "fuse-affine" => Box::new(FuseAffine { scope }),
        "lower-batch-norms" => Box::new(LowerBatchNorms),
        "factor-sums" => Box::new(FactorSums),
        "split-transposed-convs" => Box::new(SplitTransposedConvs),
        "fuse-activations" => Box::new(FuseActivations { scope }),
        "equalize-layers" => Box::new(EqualizeLayers {
            only: context.equalize.map(<[_]>::to_vec),
        }),
        "annotate" => follow("annotate", Box::new(|_, _, _| Ok(())))?,
        "insert-observers" => follow(
            "insert-observers",
            Box::new(|graph, annotations, rewriter| {
                InsertObservers { annotations }.run(graph, rewriter)
            }),
        )?,
        "insert-layer-input-observers" => follow(
            "insert-layer-input-observers",
            Box::new(|graph, annotations, rewriter| {
                InsertLayerInputObservers { annotations }.run(graph, rewriter)
            }),
        )?,
        "correct-biases" => {
            let statistics = statistics()?;
            let means = context.means.ok_or(lacks("means of the layers' inputs"))?;
            follow(
                "correct-biases",
                Box::new(move |graph, annotations, rewriter| {
                    let pass = CorrectBiases {
                        annotations,
                        statistics,
                        means,
                    };
                    pass.run(graph, rewriter)
                }),
            )?
        }
        "convert" => {
            let statistics = statistics()?;
            follow(
                "convert",
                Box::new(move |graph, annotations, rewriter| {
                    let pass = Convert {
                        annotations,
                        statistics,
                    };
                    pass.run(graph, rewriter)
                }),
            )?
        }
        "expand-fused" => Box::new(ExpandFused),
        "lower-user-patterns" => Box::new(LowerUserPatterns { backend }),
        "linear-forms" => Box::new(LinearForms),
        "lower-quantized" => Box::new(LowerQuantized),
        "fuse-quantized-residuals" => Box::new(FuseQuantizedResiduals),
        "lower-float" => Box::new(LowerFloat),
        "fuse-residuals" => Box::new(FuseResiduals),
        "assign-layouts" => Box::new(AssignLayouts),
        _ => {
            let stages = Stage::ALL.iter().map(|stage| stage.name());
            let known: Vec<&str> = stages.chain(names()).collect();
            return Err(PassError::UnknownPass {
                name: name.to_owned(),
                known: known.join(", "),
            });
        }
    })
}

/// What a pass does with a graph and the annotations of it.
type Followed<'a> =
    dyn Fn(&mut Graph, &Annotations, &mut Rewriter) -> Result<(), PassError> + Sync + 'a;

/// A pass that follows annotations, wherever they come from.
struct Follow<'a> {
    name: &'static str,
    decisions: Decisions<'a>,
    run: Box<Followed<'a>>,
}

impl Pass for Follow<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        match self.decisions {
            Decisions::Made(annotations) => (self.run)(graph, annotations, rewriter),
            Decisions::OnDemand(annotate) => {
                let annotations = annotate(graph).map_err(|source| PassError::Graph {
                    pass: self.name.to_owned(),
                    source,
                })?;
                (self.run)(graph, &annotations, rewriter)
            }
        }
    }
}

/// The tables of stages and sequences, in Markdown: what `docs/stages.md` shows.
pub fn to_markdown() -> String {
    let mut text = String::from("| stage | what it does | passes |\n| --- | --- | --- |\n");
    let list = |names: &[&str]| format!("`{}`", names.join("`, `"));
    for stage in Stage::ALL {
        let (name, purpose) = (stage.name(), stage.purpose());
        let passes = list(stage.passes());
        writeln!(text, "| `{name}` | {purpose} | {passes} |").ok();
    }
    text.push_str("\n| function | stages |\n| --- | --- |\n");
    for (function, stages) in SEQUENCES {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
        writeln!(text, "| {function} | {} |", list(&names)).ok();
    }
    text
}
