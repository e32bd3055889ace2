//! Facts about a graph that codegen needs: types and constants of operands, and the sizes that a plan will know.

use std::collections::BTreeSet;
use std::sync::Arc;

use octofold_ir::{Graph, Node, NodeId, TensorType, ValueId};
use octofold_quant::QParams;
use octofold_tensor::{DType, Dim, Tensor};

/// The types of a graph's values, and the sizes that a plan will know.
#[derive(Debug)]
pub(crate) struct Types<'a> {
    graph: &'a Graph,
    /// The symbols that have values when a plan runs: each is a whole dimension of an input.
    symbols: BTreeSet<Arc<str>>,
}

impl<'a> Types<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Self {
        let inputs = graph
            .inputs()
            .iter()
            .filter_map(|&input| graph.value(input).ty().shape.as_ref());
        let symbols = inputs.flatten().filter_map(|dim| match dim {
            Dim::Symbol(name) => Some(name.clone()),
            _ => None,
        });
        let symbols = symbols.collect();
        Self { graph, symbols }
    }

    /// The type of a value.
    pub(crate) fn ty(&self, value: ValueId) -> &'a TensorType {
        self.graph.value(value).ty()
    }

    fn covers(&self, dim: &Dim) -> bool {
        let mut covered = true;
        dim.for_each_symbol(&mut |name| covered &= self.symbols.contains(name));
        covered
    }

    /// The dimensions of a value as the plan will know them; `None` when they depend on data.
    pub(crate) fn shape(&self, value: ValueId) -> Option<&'a [Dim]> {
        let dims = self.ty(value).shape.as_deref()?;
        dims.iter().all(|dim| self.covers(dim)).then_some(dims)
    }
}

/// A node, and the facts about its operands.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) node: &'a Node,
    pub(crate) types: &'a Types<'a>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(graph: &'a Graph, node: NodeId, types: &'a Types<'a>) -> Self {
        Self {
            graph,
            node: graph.node(node),
            types,
        }
    }

    /// The element type of an operand.
    pub(crate) fn dtype(self, slot: usize) -> Option<DType> {
        self.node
            .input(slot)
            .map(|value| self.types.ty(value).dtype)
    }

    /// The dimensions of an operand.
    pub(crate) fn shape(self, slot: usize) -> Option<&'a [Dim]> {
        self.types.shape(self.node.input(slot)?)
    }

    /// The only result.
    pub(crate) fn result(self) -> Option<ValueId> {
        match self.node.outputs() {
            &[result] => Some(result),
            _ => None,
        }
    }

    /// The element type of the only result.
    pub(crate) fn result_dtype(self) -> Option<DType> {
        self.result().map(|result| self.types.ty(result).dtype)
    }

    /// The elements of a constant operand.
    pub(crate) fn constant(self, slot: usize) -> Option<&'a Tensor> {
        self.graph.value(self.node.input(slot)?).constant()
    }

    /// Whether an operand has elements of one of the 8-bit types.
    pub(crate) fn is_byte(self, slot: usize) -> bool {
        self.dtype(slot).is_some_and(is_byte)
    }

    /// The constant scale and zero point of `QuantizeLinear` and `DequantizeLinear` over the whole tensor.
    pub(crate) fn params(self) -> Option<QParams> {
        let &[scale] = self.constant(1)?.values::<f32>().ok()? else {
            return None;
        };
        let zero_point = match self.node.input(2) {
            None => 0,
            Some(_) => {
                let tensor = self.constant(2).filter(|tensor| tensor.len() == 1)?;
                let signed = tensor
                    .values::<i8>()
                    .ok()
                    .map(|values| i32::from(values[0]));
                signed.or_else(|| {
                    tensor
                        .values::<u8>()
                        .ok()
                        .map(|values| i32::from(values[0]))
                })?
            }
        };
        (scale.is_normal() && scale > 0.0).then_some(QParams { scale, zero_point })
    }
}

/// Whether kernels have the type as one of their 8-bit types.
pub(crate) fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}
