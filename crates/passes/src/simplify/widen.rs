//! Networks of other floats than f32 compute in f32.
//!
//! float16 and bfloat16 are widened, which loses nothing: each constant keeps its value, and values in between are not rounded to 16 bits any more. A
//! network whose layers compute in float64 is rounded to f32, since only f32 has kernels and quantizers; other float64 numbers, of sizes and indices,
//! stay. Inputs and outputs keep their types, by a `Cast` at the edges, and so do the operands and results of operators with bodies.

use std::collections::BTreeMap;

use octofold_ir::{Graph, GraphError, Node, NodeId, Op, Patch, PatchValue, ValueId};
use octofold_ops::Inputs;
use octofold_ops::families::{Cast, ConstantOfShape};
use octofold_tensor::{DType, Tensor};

use crate::op;
use crate::pass::{Pass, PassError};
use crate::rewrite::Rewriter;

/// Makes networks of float16, bfloat16 and float64 compute in f32.
#[derive(Clone, Copy, Debug, Default)]
pub struct WidenFloats;

impl Pass for WidenFloats {
    fn name(&self) -> &'static str {
        "widen-floats"
    }

    fn run(&self, graph: &mut Graph, rewriter: &mut Rewriter) -> Result<(), PassError> {
        let types = Types::of(graph);
        if !graph.value_ids().any(|id| types.change(dtype(graph, id))) {
            return Ok(());
        }
        let patch = Widening::patch(graph, types).map_err(|source| PassError::Graph {
            pass: self.name().to_owned(),
            source,
        })?;
        rewriter.apply(graph, patch)?;
        graph.sweep_constants();
        let name = graph.name().to_owned();
        rewriter
            .report
            .applied(self.name(), &name, "it computes in f32");
        Ok(())
    }
}

fn dtype(graph: &Graph, id: ValueId) -> DType {
    graph.value(id).ty().dtype
}

/// Which types become f32.
#[derive(Clone, Copy)]
struct Types {
    /// Whether the network is one of float64.
    double: bool,
}

impl Types {
    /// Layers with weights say what a network computes in.
    fn of(graph: &Graph) -> Self {
        let is_layer = op!(Conv | ConvTranspose | Gemm | MatMul | Lstm | Gru | Rnn);
        let doubles = |id: NodeId| {
            let node = graph.node(id);
            let first = node.input(0).map(|x| dtype(graph, x));
            is_layer(node.op()) && first == Some(DType::F64)
        };
        Self {
            double: graph.node_ids().any(doubles),
        }
    }

    fn change(self, dtype: DType) -> bool {
        match dtype {
            DType::F16 | DType::BF16 => true,
            DType::F64 => self.double,
            _ => false,
        }
    }

    fn widened(self, dtype: DType) -> DType {
        if self.change(dtype) {
            DType::F32
        } else {
            dtype
        }
    }
}

/// A patch that writes all nodes anew over widened values.
struct Widening<'a> {
    graph: &'a Graph,
    types: Types,
    patch: Patch,
    /// What stands for the old values.
    values: BTreeMap<ValueId, PatchValue>,
}

impl<'a> Widening<'a> {
    fn patch(graph: &'a Graph, types: Types) -> Result<Patch, GraphError> {
        let mut widening = Self {
            graph,
            types,
            patch: Patch::new(),
            values: BTreeMap::new(),
        };
        for &input in graph.inputs() {
            if types.change(dtype(graph, input)) {
                let wide = widening.cast(input.into(), DType::F32, graph.value(input).name());
                widening.values.insert(input, wide);
            }
        }
        for id in graph.order()? {
            widening.node(id);
        }
        for (index, output) in graph.outputs().iter().enumerate() {
            let old = dtype(graph, output.value);
            let computed = graph.value(output.value).producer().is_some();
            if let Some(&wide) = widening.values.get(&output.value)
                && types.change(old)
                && computed
            {
                let narrow = widening.cast(wide, old, &output.name);
                widening.patch.output(index, narrow);
            }
        }
        Ok(widening.patch)
    }

    fn cast(&mut self, value: PatchValue, to: DType, name: &str) -> PatchValue {
        let name = self.graph.fresh_node_name(&format!("{name}_{to}"));
        self.patch.node(name, cast_to(to), [Some(value)], vec![])
    }

    /// What stands for an operand.
    fn operand(&mut self, value: ValueId) -> PatchValue {
        if let Some(&known) = self.values.get(&value) {
            return known;
        }
        let old = self.graph.value(value);
        let changes = self.types.change(old.ty().dtype);
        match old.constant().filter(|_| changes).and_then(in_f32) {
            Some(tensor) => {
                let wide = self.patch.constant(old.name(), tensor);
                self.values.insert(value, wide);
                wide
            }
            None => value.into(),
        }
    }

    /// Writes a node anew, if its types change or an operand has.
    fn node(&mut self, id: NodeId) {
        let (graph, types) = (self.graph, self.types);
        let node = graph.node(id);
        let mut values = node.inputs().iter().flatten().chain(node.outputs());
        if !values
            .any(|&value| self.values.contains_key(&value) || types.change(dtype(graph, value)))
        {
            return;
        }
        self.patch.remove(id);
        if let Op::Cast(cast) = node.op()
            && let (Some(x), &[result]) = (node.input(0), node.outputs())
            && types.widened(dtype(graph, x)) == types.widened(cast.to)
        {
            // Both types are f32 now.
            let x = self.operand(x);
            self.finish(result, x, false);
            return;
        }
        let has_bodies = !node.op().bodies().is_empty();
        let mut inputs = Vec::new();
        for &input in node.inputs() {
            inputs.push(input.map(|input| {
                let wide = self.operand(input);
                let old = dtype(graph, input);
                match has_bodies && types.change(old) {
                    true => self.cast(wide, old, graph.value(input).name()),
                    false => wide,
                }
            }));
        }
        let (op, count) = (self.widened_op(node), node.outputs().len());
        let sources = node.sources().to_vec();
        let made = self
            .patch
            .node_with_outputs(node.name(), op, inputs, count, sources);
        for (&old, made) in node.outputs().iter().zip(made) {
            let made = match has_bodies && types.change(dtype(graph, old)) {
                true => self.cast(made, DType::F32, graph.value(old).name()),
                false => made,
            };
            self.finish(old, made, true);
        }
    }

    /// Puts a value in the place of an old one, whose name a new value takes.
    fn finish(&mut self, old: ValueId, value: PatchValue, is_new: bool) {
        self.values.insert(old, value);
        if !self.types.change(dtype(self.graph, old)) {
            self.patch.replace(old, value);
        } else if is_new {
            self.patch.inherit(value, old);
        }
    }

    /// The operator with the types of its attributes widened.
    fn widened_op(&self, node: &Node) -> Op {
        match node.op() {
            Op::Cast(op) => cast_to(self.types.widened(op.to)),
            Op::EyeLike(op) => {
                let mut op = op.clone();
                op.dtype = op.dtype.map(|dtype| self.types.widened(dtype));
                op.into()
            }
            Op::ConstantOfShape(ConstantOfShape { value: Some(value) })
                if self.types.change(value.dtype()) =>
            {
                ConstantOfShape {
                    value: in_f32(value),
                }
                .into()
            }
            op => op.clone(),
        }
    }
}

fn cast_to(to: DType) -> Op {
    let (saturate, round_mode) = (true, "up".to_owned());
    Op::from(Cast {
        to,
        saturate,
        round_mode,
    })
}

/// A tensor in f32.
fn in_f32(tensor: &Tensor) -> Option<Tensor> {
    let results = cast_to(DType::F32).evaluate(Inputs(&[Some(tensor)]), 1);
    results.ok()?.into_iter().next()
}
