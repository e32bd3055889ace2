//! Operators of any number of operands as chains of operators of two, for which there are kernels, fusions and integers.

use octofold_ir::{Graph, Op, Patch};
use octofold_ops::bail;
use octofold_ops::families::{Add, Div, Max, Min};
use octofold_tensor::{DType, Tensor};

use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule, support};

rule! {
    /// `Sum(a, b, c)` is `(a + b) + c`, and so are `Max` and `Min`; `Mean` divides the sum by the number of operands. The portable operators have this order, too.
    pub(super) struct VariadicToBinary("variadic-to-binary")
}

impl Rewrite for VariadicToBinary {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Sum | Mean | Max | Min), [])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<()>) -> Result<Patch, Skip> {
        let id = found.root();
        let (op, name) = (graph.node(id).op(), graph.node(id).name());
        let (binary, least): (Op, usize) = match op {
            Op::Max(_) => (Max {}.into(), 3),
            Op::Min(_) => (Min {}.into(), 3),
            _ => (Add {}.into(), 2),
        };
        let operands: Option<Vec<_>> = graph.operands(id).into_iter().collect();
        let Some((&first, rest)) = operands.as_deref().and_then(<[_]>::split_first) else {
            return Err(Skip::NoMatch);
        };
        if rest.len() + 1 < least {
            return Err(Skip::NoMatch);
        }
        let is_mean = matches!(op, Op::Mean(_));
        if is_mean && support::dtype(graph, support::result(graph, id)) != DType::F32 {
            bail!("the mean is not f32");
        }
        let mut patch = Patch::new();
        let mut all = first;
        for (index, &next) in rest.iter().enumerate() {
            let name = match index + 1 == rest.len() && !is_mean {
                true => name.to_owned(),
                false => format!("{name}.{index}"),
            };
            let sources = graph.sources_of([id]);
            all = patch.node(name, binary.clone(), [Some(all), Some(next)], sources);
        }
        if is_mean {
            let count = Tensor::scalar((rest.len() + 1) as f32);
            let count = patch.constant(format!("{name}.count"), count);
            let sources = graph.sources_of([id]);
            all = patch.node(name, Div {}, [Some(all), Some(count)], sources);
        }
        Ok(patch.replace_result(graph, id, all))
    }
}
