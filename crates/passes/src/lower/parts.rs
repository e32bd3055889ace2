//! `Split` becomes slices, which have a kernel.

use octofold_ir::{Graph, Op, Patch, PatchValue, ValueId};
use octofold_ops::families::Slice;
use octofold_ops::normalize_axis;
use octofold_tensor::{DType, Tensor};

use crate::pattern::{Match, Pattern};
use crate::rewrite::{Rewrite, Skip};
use crate::{op, rule};

rule! {
    /// A split whose parts have known sizes becomes one slice for each part.
    pub(super) struct SplitParts("split-parts") finds Parts { x: ValueId }
}

impl Rewrite for SplitParts {
    fn pattern(&self) -> Pattern {
        Pattern::node(op!(Split), [Pattern::value("x")])
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Parts>) -> Result<Patch, Skip> {
        let (id, x) = (found.root(), found.x);
        let node = graph.node(id);
        let Op::Split(op) = node.op() else {
            return Err(Skip::NoMatch);
        };
        let ty = graph.value(x).ty();
        let moved = matches!(ty.dtype, DType::F32 | DType::I32 | DType::U8 | DType::I8);
        let rank = ty.rank().filter(|_| moved).ok_or(Skip::NoMatch)?;
        let axis = normalize_axis(op.axis, rank)?;
        let sizes = node.outputs().iter().map(|&part| {
            let dims = graph.value(part).ty().shape.as_ref()?;
            dims.get(axis)?.known()
        });
        let sizes: Option<Vec<i64>> = sizes.collect();
        let sizes = sizes.ok_or(Skip::because("the sizes of the parts are not known"))?;
        let mut patch = Patch::new();
        let name = node.name();
        let list = |patch: &mut Patch, what: &str, number: i64| {
            Some(patch.constant(format!("{name}.{what}"), Tensor::vector(vec![number])))
        };
        let along = list(&mut patch, "axis", axis as i64);
        let mut start = 0;
        for (index, (&part, size)) in node.outputs().iter().zip(sizes).enumerate() {
            let from = list(&mut patch, &format!("{index}.start"), start);
            start += size;
            let to = list(&mut patch, &format!("{index}.end"), start);
            let operands = [Some(PatchValue::Existing(x)), from, to, along];
            let sources = graph.sources_of([id]);
            let made = patch.node(format!("{name}.{index}"), Slice {}, operands, sources);
            patch.replace(part, made);
        }
        patch.remove(id);
        Ok(patch)
    }
}
