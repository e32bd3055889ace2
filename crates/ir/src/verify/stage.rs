//! What is legal at the end of each stage.

use std::collections::BTreeSet;
use std::fmt;

use octofold_ops::Op;

use super::{Fault, Faults, VerifyError, finish};
use crate::Graph;

/// A moment of compilation at which a graph can be printed, checked and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As the importer gives it.
    Imported,
    /// After the passes of `simplify`.
    Simplified,
    /// After the passes of `fuse`.
    Fused,
    /// With the observers that annotations ask for.
    Annotated,
    /// The reference QDQ graph, after `convert` and `expand-fused`.
    Reference,
    /// After the passes of `lower`.
    Lowered,
    /// After the passes of `layout`.
    LaidOut,
}

/// The stages in the order of compilation.
pub const STAGES: [Stage; 7] = [
    Stage::Imported,
    Stage::Simplified,
    Stage::Fused,
    Stage::Annotated,
    Stage::Reference,
    Stage::Lowered,
    Stage::LaidOut,
];

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imported => "imported",
            Self::Simplified => "simplified",
            Self::Fused => "fused",
            Self::Annotated => "annotated",
            Self::Reference => "reference QDQ",
            Self::Lowered => "lowered",
            Self::LaidOut => "laid out",
        })
    }
}

/// What kind of operator a node applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// An operator of ONNX.
    Onnx,
    /// A float layer of the domain `octofold`, which stands for several operators of ONNX.
    Fused,
    /// An observer.
    Observer,
    /// A layer of the domain `octofold` in the form that kernels take: on integers, or a pool, concatenation or table.
    Kernel,
    /// An operator that computes on [N, H, W, C] and is not the same on [N, C, H, W].
    Nhwc,
}

impl Form {
    /// All forms.
    pub const ALL: [Self; 5] = [
        Self::Onnx,
        Self::Fused,
        Self::Observer,
        Self::Kernel,
        Self::Nhwc,
    ];

    /// The form of an operator.
    pub fn of(op: &Op) -> Self {
        if op.domain().is_empty() {
            return Self::Onnx;
        }
        let attributes = op.attributes();
        let has = |name: &str| attributes.iter().any(|(found, _)| found == name);
        match op {
            Op::Observe(_) => Self::Observer,
            Op::NhwcDepthToSpace(_) => Self::Nhwc,
            // The layout is written where it is not that of ONNX.
            _ if has("layout") => Self::Nhwc,
            Op::FusedConv(_) | Op::FusedLinear(_) if !has("x") => Self::Fused,
            Op::FusedBinary(_) if !has("a") => Self::Fused,
            _ => Self::Kernel,
        }
    }

    /// The form in the words of a message.
    pub fn description(self) -> &'static str {
        match self {
            Self::Onnx => "operators of ONNX",
            Self::Fused => "fused float layers",
            Self::Observer => "observers",
            Self::Kernel => "layers as kernels take them",
            Self::Nhwc => "layers on [N, H, W, C]",
        }
    }
}

/// One rule about the graph at some stages.
#[derive(Clone, Copy, Debug)]
pub struct StageCheck {
    /// Its name, as a fault shows it.
    pub name: &'static str,
    /// What has to hold.
    pub rule: &'static str,
    applies: fn(Stage) -> bool,
    run: fn(&Graph, Stage, &mut Faults),
}

impl StageCheck {
    /// Whether the rule holds at a stage.
    pub fn applies_at(&self, stage: Stage) -> bool {
        (self.applies)(stage)
    }
}

impl Stage {
    /// The rules about stages.
    pub const CHECKS: &'static [StageCheck] = &[
        StageCheck {
            name: "operators",
            rule: "Every operator has a form that the stage allows.",
            applies: |_| true,
            run: operators,
        },
        StageCheck {
            name: "dead-nodes",
            rule: "Every node leads to an output or an observer.",
            applies: |stage| stage != Stage::Imported,
            run: dead_nodes,
        },
        StageCheck {
            name: "observers",
            rule: "No two observers have the same id.",
            applies: |stage| stage.allows(Form::Observer),
            run: observers,
        },
        StageCheck {
            name: "layouts",
            rule: "Every `octofold.Conv`, `Pool` and `GlobalPool` computes on [N, H, W, C], but for a float `Conv` of one factor and one summand a channel.",
            applies: |stage| stage == Stage::LaidOut,
            run: layouts,
        },
    ];

    /// Whether operators of a form are legal at this stage.
    pub fn allows(self, form: Form) -> bool {
        match form {
            Form::Onnx => true,
            // `simplify` gives linear layers their one spelling.
            Form::Fused => !matches!(self, Self::Imported | Self::Reference),
            Form::Observer => matches!(self, Self::Annotated | Self::Lowered | Self::LaidOut),
            Form::Kernel => matches!(self, Self::Lowered | Self::LaidOut),
            Form::Nhwc => self == Self::LaidOut,
        }
    }

    /// Whether all operators of a graph are legal at this stage. A graph that was read from text may enter the compiler late, and
    /// then holds what an earlier stage does not allow.
    pub fn admits(self, graph: &Graph) -> bool {
        graph
            .node_ids()
            .all(|id| self.allows(Form::of(graph.node(id).op())))
            && graph.bodies().all(|(_, body)| self.admits(body))
    }
}

/// Checks what has to hold at the end of a stage, besides the [structure](super::STRUCTURE).
///
/// # Errors
/// All faults that were found.
pub fn verify_stage(graph: &Graph, stage: Stage) -> Result<(), VerifyError> {
    let mut faults: Vec<Fault> = Vec::new();
    // A body is at the stage of its graph.
    for (_, body) in graph.bodies() {
        let found = verify_stage(body, stage).err();
        faults.extend(found.into_iter().flat_map(|error| error.faults));
    }
    for check in Stage::CHECKS {
        if check.applies_at(stage) {
            let mut found = Faults {
                check: check.name,
                found: Vec::new(),
            };
            (check.run)(graph, stage, &mut found);
            faults.append(&mut found.found);
        }
    }
    finish(Some(stage), faults)
}

fn operators(graph: &Graph, stage: Stage, faults: &mut Faults) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        let form = Form::of(node.op());
        if !stage.allows(form) {
            let domain = node.op().domain();
            let name = node.op().name();
            faults.add(
                node.name(),
                format!(
                    "{domain}.{name} is not legal here: no {} at this stage",
                    form.description()
                ),
            );
        }
    }
}

fn dead_nodes(graph: &Graph, _stage: Stage, faults: &mut Faults) {
    let mut live = BTreeSet::new();
    let observers = graph
        .node_ids()
        .filter(|&id| matches!(graph.node(id).op(), Op::Observe(_)));
    let outputs = graph.outputs().iter();
    let mut waiting: Vec<_> = outputs
        .filter_map(|output| graph.value(output.value).producer())
        .chain(observers)
        .collect();
    while let Some(id) = waiting.pop() {
        if live.insert(id) {
            let operands = graph.node(id).inputs().iter().flatten();
            waiting.extend(operands.filter_map(|&operand| graph.value(operand).producer()));
        }
    }
    for id in graph.node_ids() {
        if !live.contains(&id) {
            faults.add(graph.node(id).name(), "leads to no output");
        }
    }
}

fn observers(graph: &Graph, _stage: Stage, faults: &mut Faults) {
    let mut ids = BTreeSet::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        if let Op::Observe(observe) = node.op()
            && !ids.insert(&observe.id)
        {
            faults.add(
                node.name(),
                format!("another observer has the id `{}`", observe.id),
            );
        }
    }
}

fn layouts(graph: &Graph, _stage: Stage, faults: &mut Faults) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        let shape = node
            .weights()
            .and_then(|w| graph.value(w).ty().known_shape());
        let needed = match node.op() {
            Op::FusedConv(op) => !op.is_affine(&shape.unwrap_or_default(), node.input(3).is_some()),
            op => matches!(op, Op::FusedPool(_) | Op::FusedGlobalPool(_)),
        };
        if needed && Form::of(node.op()) != Form::Nhwc {
            let name = node.op().name();
            faults.add(
                node.name(),
                format!("octofold.{name} still computes on [N, C, H, W]"),
            );
        }
    }
}
