//! Annotations as text, for `octofold opt --passes …,annotate` and the tests by example.

use std::fmt::Write;

use octofold_ir::Graph;
use octofold_quant::{Granularity, QuantSpec};

use super::{Annotations, NodeAnnotation};
use crate::backend::Execution;

impl Annotations {
    /// The decisions about a graph, one a line: nodes, values, operands that are converted, and settings that the engine cannot honour.
    pub fn to_text(&self, graph: &Graph) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        self.write(graph, &mut text).ok();
        text
    }

    fn write(&self, graph: &Graph, text: &mut String) -> std::fmt::Result {
        for (&id, annotation) in &self.nodes {
            let name = graph.node(id).name();
            match annotation {
                NodeAnnotation::Float { reason } => writeln!(text, "node {name}: float, {reason}")?,
                NodeAnnotation::Quantized {
                    class,
                    weight,
                    execution,
                } => {
                    let execution = match execution {
                        Execution::Integer => "",
                        Execution::Reference => " on reals",
                    };
                    let setting = self.settings.get(&id);
                    let origin = setting.map_or("", |setting| setting.origin.as_str());
                    let weight = weight.map(|spec| format!(", weights {}", spec_text(&spec)));
                    let weight = weight.unwrap_or_default();
                    writeln!(text, "node {name}: {class}{execution} ({origin}){weight}")?;
                }
            }
        }
        for (&id, annotation) in &self.values {
            let name = graph.value(id).name();
            let observed = graph.value(annotation.observed).name();
            let shares = match observed == name {
                true => String::new(),
                false => format!(", as `{observed}`"),
            };
            writeln!(
                text,
                "value {name}: {}{shares}",
                spec_text(&annotation.spec)
            )?;
        }
        for (used, annotation) in &self.conversions {
            let (slot, name) = (used.slot, graph.node(used.node).name());
            writeln!(
                text,
                "operand {slot} of {name}: {}",
                spec_text(&annotation.spec)
            )?;
        }
        for unhonoured in &self.unhonoured {
            let (setting, place) = (&unhonoured.setting, &unhonoured.place);
            writeln!(
                text,
                "not honoured: {setting} for {place}: {}",
                unhonoured.reason
            )?;
        }
        Ok(())
    }
}

fn spec_text(spec: &QuantSpec) -> String {
    let granularity = match spec.granularity {
        Granularity::PerTensor => String::new(),
        Granularity::PerChannel { axis } => format!(" a channel of axis {axis}"),
    };
    format!(
        "{} {}..={} {:?}{granularity} {}",
        spec.dtype, spec.quant_min, spec.quant_max, spec.scheme, spec.observer
    )
}
