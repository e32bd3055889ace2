//! `octofold inspect`: what a plan or model is made of.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use octofold::codegen::Report;

use crate::cli::limits::load;
use crate::cli::output::write_whole;
use crate::cli::source::{Shapes, is_plan};

#[derive(Args)]
pub(crate) struct Inspect {
    /// The plan or model.
    model: PathBuf,
    /// Write a drawing of the model in the DOT language.
    #[arg(long, value_name = "FILE")]
    pub(crate) dot: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shapes: Shapes,
}

impl Inspect {
    pub(crate) fn execute(&self) -> Result<()> {
        if let Some(path) = &self.dot {
            anyhow::ensure!(!is_plan(&self.model), "--dot draws models, not plans");
            let model = load(&self.model)?;
            let drawing = octofold::ir::dot::to_dot(&model.graph);
            write_whole(path, |file| {
                Ok(std::io::Write::write_all(file, drawing.as_bytes())?)
            })?;
        }
        let plan = self.shapes.plan_of(&self.model)?;
        let shapes = self.shapes.input_shapes(&plan)?;
        let report = Report::new(&plan, &shapes)?;
        let float = octofold::float_nodes_of(&plan, &report);
        if !self.json {
            print!("{}", plan.to_text());
            println!(
                "{:.2} % of {} multiply-accumulates on integers",
                100.0 * report.integer_mac_share(),
                report.macs()
            );
            println!(
                "{} bytes of weights, {} bytes of arena",
                report.weight_bytes, report.arena_bytes
            );
            for node in &float {
                println!("float {} ({}): {}", node.node, node.operator, node.reason);
            }
            return Ok(());
        }
        let steps: Vec<serde_json::Value> = report
            .steps
            .iter()
            .map(|step| {
                serde_json::json!({
                    "name": step.name, "operator": step.operator, "kernel": step.kernel.to_string(), "note": step.note,
                    "sources": step.sources, "shape": step.shape, "macs": step.macs, "integer": step.integer,
                })
            })
            .collect();
        let states = plan.states().iter().map(|state| {
            serde_json::json!({
                "input": plan.state_value(state).name,
                "output": plan.outputs()[state.output].name,
            })
        });
        let states: Vec<_> = states.collect();
        println!(
            "{}",
            serde_json::json!({
                "name": plan.name(),
                "engine": plan.engine().name(),
                "int8_mac_share": report.integer_mac_share(),
                "macs": report.macs(),
                "float_nodes": float,
                "arena_bytes": report.arena_bytes,
                "weight_bytes": report.weight_bytes,
                "states": states,
                "steps": steps,
            })
        );
        Ok(())
    }
}
