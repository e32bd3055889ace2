//! A fusion of one's own: `x · (1 - sigmoid(k·x))`, which is `x · sigmoid(-k·x)`, becomes one operator that the engine can quantize.
#![allow(clippy::print_stdout, reason = "a program shows what it made")]

use std::sync::Arc;

use octofold::Model;
use octofold::ir::{Graph, Patch, ValueId, text};
use octofold::ops::families::Swish;
use octofold::passes::backend::{BackendConfig, BackendPattern};
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::passes::pattern::{Match, Pattern};
use octofold::passes::rewrite::{Rewrite, Skip};
use octofold::passes::rule;

rule! {
    pub(crate) struct MirroredSwish("mirrored-swish") finds Mirrored { x: ValueId, k: ValueId }
}

impl Rewrite for MirroredSwish {
    fn pattern(&self) -> Pattern {
        let x = Pattern::value("x");
        let sigmoid = (x.clone() * Pattern::constant("k")).sigmoid();
        x * (Pattern::number(1.0) - sigmoid)
    }

    fn rewrite(&self, graph: &Graph, found: &Match<Mirrored>) -> Result<Patch, Skip> {
        let k = graph.value(found.k).constant();
        let k = k.and_then(|k| k.values::<f32>().ok());
        let &[k] = k.ok_or(Skip::NoMatch)? else {
            return Err(Skip::NoMatch);
        };
        Ok(found.replace_by(graph, Swish { alpha: -k }, [Some(found.x.into())]))
    }
}

const NETWORK: &str = "net (float[N,2,4,4] x) => (y)
<float[2,2,1,1] w = {1, -2, 3, 0.5}, float k = {1.702}, float one = {1.0}> {
    a = Conv (x, w)
    s = Mul (a, k)
    g = Sigmoid (s)
    m = Sub (one, g)
    b = Mul (a, m)
    y = Conv (b, w)
}";

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::new(text::parse(NETWORK, None)?);
    let backend = BackendConfig::fbgemm().with_pattern(BackendPattern {
        fuse: Some(Arc::new(MirroredSwish)),
        ..BackendPattern::default()
    });
    let mapping = QConfigMapping::global(QConfig::default());
    let prepared = octofold::prepare(model, &mapping, &backend)?;
    for fate in &prepared.fates {
        assert!(fate.integer, "{}: {}", fate.operator, fate.explanation);
        println!("{}: {}", fate.operator, fate.explanation);
    }
    Ok(())
}
