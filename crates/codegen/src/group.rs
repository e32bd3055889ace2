//! Groups of nodes that one step computes: a kernel may include the change of layout and the quantization around its node.
//!
//! - `QuantizeLinear` and `DequantizeLinear` with a `Transpose` between the layouts on either side.
//! - An integer convolution with float results, with the `Transpose` to channels-first after it. If it is depthwise, also with the `Transpose` to channels-last
//!   before it, and with the `QuantizeLinear` before that.

use std::collections::{BTreeMap, BTreeSet};

use octofold_ir::{Graph, NodeId, Op};
use octofold_ops::families::Product;
use octofold_quant::{QParams, QuantType};
use octofold_runtime::{Axes, Core, InputForm, Kernel};
use octofold_tensor::DType;

use crate::facts::{Facts, Types};
use crate::select::{Selection, select};

/// The nodes that one step computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The nodes before the main node, in the order of execution. The step reads the operand of the first one.
    pub(crate) before: Vec<NodeId>,
    /// The main node. The step has its operator, its other operands and its constants.
    pub(crate) main: NodeId,
    /// The node after the main node. The step has its results.
    pub(crate) after: Option<NodeId>,
    /// The kernel, or why there is none.
    pub(crate) selection: Selection,
}

impl Group {
    /// The nodes in the order of execution.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let before = self.before.iter().copied();
        before.chain([self.main]).chain(self.after)
    }

    /// The node that reads the step's first operand.
    pub(crate) fn first(&self) -> NodeId {
        self.before.first().copied().unwrap_or(self.main)
    }

    /// The node that has the step's results.
    pub(crate) fn last(&self) -> NodeId {
        self.after.unwrap_or(self.main)
    }

    /// The nodes as steps of their own.
    pub(crate) fn split(&self, graph: &Graph, types: &Types<'_>) -> Vec<Self> {
        let alone = |id| Self::alone(id, select(Facts::new(graph, id, types)));
        self.nodes().map(alone).collect()
    }

    fn alone(main: NodeId, selection: Selection) -> Self {
        Self {
            before: Vec::new(),
            main,
            after: None,
            selection,
        }
    }
}

/// The nodes of a graph as steps, in the order of execution.
pub(crate) fn groups(graph: &Graph, order: &[NodeId], types: &Types<'_>) -> Vec<Group> {
    let select = |&id| (id, select(Facts::new(graph, id, types)));
    let mut finder = Finder {
        graph,
        types,
        selections: order.iter().map(select).collect(),
        taken: BTreeSet::new(),
    };
    // Layers first, because including a node saves more time there.
    let mut groups = BTreeMap::new();
    for find in [Finder::layer, Finder::conversion] {
        for &id in order {
            if let Some(group) = find(&finder, id) {
                finder.taken.extend(group.nodes());
                groups.insert(group.last(), group);
            }
        }
    }
    // A step has the position of its last node.
    let steps = order.iter().filter_map(|id| match groups.remove(id) {
        Some(group) => Some(group),
        None if finder.taken.contains(id) => None,
        None => Some(Group::alone(*id, finder.selections.remove(id)?)),
    });
    steps.collect()
}

/// The nodes as portable steps, except for views.
pub(crate) fn portable(graph: &Graph, order: &[NodeId], types: &Types<'_>) -> Vec<Group> {
    let alone = |&id: &NodeId| {
        let selection =
            select(Facts::new(graph, id, types)).and_then(|kernel| match kernel.core() {
                Core::View => Ok(kernel),
                _ => Err("asked for".to_owned()),
            });
        Group::alone(id, selection)
    };
    order.iter().map(alone).collect()
}

struct Finder<'a> {
    graph: &'a Graph,
    types: &'a Types<'a>,
    /// For each node, the kernel that would compute it alone.
    selections: BTreeMap<NodeId, Selection>,
    /// The nodes that belong to a group.
    taken: BTreeSet<NodeId>,
}

impl Finder<'_> {
    /// An integer convolution with float results, and the nodes that its kernel includes.
    fn layer(&self, main: NodeId) -> Option<Group> {
        let Some(Product::Integer(product)) = self.graph.node(main).op().product() else {
            return None;
        };
        let x = product.operands().ok()?.x;
        let core = self.core(main)?;
        let floats = self.facts(main).result_dtype() == Some(DType::F32);
        if !matches!(core, Core::QConv | Core::QConvDepthwise) || !floats {
            return None;
        }
        let after = self.transpose_after(main, Axes::Nchw)?;
        let mut before = Vec::new();
        let mut input = InputForm::AsIs(Axes::Nhwc);
        // The planes of volumes are not images of their own while their channels are first.
        let volume = self
            .facts(main)
            .shape(0)
            .is_none_or(|shape| shape.len() > 4);
        if core == Core::QConvDepthwise
            && !volume
            && let Some(transpose) = self.transpose_before(main, Axes::Nhwc)
        {
            before.push(transpose);
            input = InputForm::AsIs(Axes::Nchw);
            if let Some((quantize, dtype)) = self.quantize_before(transpose, x) {
                before.insert(0, quantize);
                input = InputForm::Quantized(dtype, Axes::Nchw);
            }
        }
        Some(Group {
            before,
            main,
            after: Some(after),
            selection: Ok(Kernel::new(core, input, Axes::Nchw)?),
        })
    }

    /// A quantization or dequantization with a change of layout before or after it.
    fn conversion(&self, main: NodeId) -> Option<Group> {
        let core = self.core(main)?;
        let (from, to) = match core {
            Core::Quantize => (Axes::Nchw, Axes::Nhwc),
            Core::Dequantize => (Axes::Nhwc, Axes::Nchw),
            _ => return None,
        };
        let selection = Ok(Kernel::new(core, InputForm::AsIs(from), to)?);
        let before: Vec<_> = self.transpose_before(main, to).into_iter().collect();
        let after = match *before {
            [] => Some(self.transpose_after(main, to)?),
            _ => None,
        };
        Some(Group {
            before,
            main,
            after,
            selection,
        })
    }

    fn facts(&self, id: NodeId) -> Facts<'_> {
        Facts::new(self.graph, id, self.types)
    }

    /// The kernel that would compute a node alone, if it belongs to no group.
    fn kernel(&self, id: NodeId) -> Option<Kernel> {
        let selection = self
            .selections
            .get(&id)
            .filter(|_| !self.taken.contains(&id));
        selection?.as_ref().ok().copied()
    }

    fn core(&self, id: NodeId) -> Option<Core> {
        self.kernel(id).map(Kernel::core)
    }

    /// The node that computes the first operand of another node, if only that node reads it.
    fn producer(&self, id: NodeId) -> Option<NodeId> {
        let operand = self.graph.node(id).input(0)?;
        self.graph.single_use(operand)?;
        self.graph.value(operand).producer()
    }

    fn transpose_before(&self, id: NodeId, to: Axes) -> Option<NodeId> {
        self.producer(id).filter(|&id| self.transposes(id, to))
    }

    fn transpose_after(&self, id: NodeId, to: Axes) -> Option<NodeId> {
        let only = self.graph.single_use(self.facts(id).result()?)?;
        Some(only.node).filter(|&id| self.transposes(id, to))
    }

    fn transposes(&self, id: NodeId, to: Axes) -> bool {
        // With one spatial axis, both changes of layout are the same permutation.
        let either = match self.graph.node(id).op() {
            Op::Transpose(op) => op.perm == [0, 2, 1],
            _ => false,
        };
        let transposes =
            |kernel: Kernel| kernel.core() == Core::Transpose && (kernel.result() == to || either);
        self.kernel(id).is_some_and(transposes)
    }

    /// The quantization that computes the first operand of a node, and its type, if it has these qparams.
    fn quantize_before(&self, id: NodeId, params: QParams) -> Option<(NodeId, QuantType)> {
        let quantize = self.producer(id)?;
        let fits = self.core(quantize) == Some(Core::Quantize)
            && self.facts(quantize).params() == Some(params);
        let dtype = match self.facts(quantize).result_dtype()? {
            DType::U8 => QuantType::Uint8,
            DType::I8 => QuantType::Int8,
            _ => return None,
        };
        fits.then_some((quantize, dtype))
    }
}
