//! `octofold demo`: the models that come with Octofold, in float and in int8.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use octofold::calibrate::accuracy::inputs_of;
use octofold::calibrate::{Accuracy, Comparison, DataOptions, DataSet};
use octofold::codegen::Report;
use octofold::config::Config;
use octofold::passes::backend::BackendConfig;
use octofold::runtime::{Plan, Session};
use octofold::tensor::Tensor;
use octofold::{Model, Recipe};

use crate::cli::output::progress;
use crate::cli::quantization::show;
use crate::cli::source::{Execution, zero_inputs};

/// The models, by the stems of their files.
const MODELS: [&str; 2] = ["fashion_resnet", "fashion_mobilenet"];
/// Runs that the demonstration times, the fastest of which counts.
const TIMED_RUNS: usize = 200;

#[derive(Args)]
pub(crate) struct Demo {
    /// The folder of the models and their data.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    #[command(flatten)]
    execution: Execution,
}

impl Demo {
    pub(crate) fn execute(&self) -> Result<()> {
        for name in MODELS {
            self.show(name)?;
        }
        Ok(())
    }

    fn show(&self, name: &str) -> Result<()> {
        let path = self.models.join(format!("{name}.onnx"));
        let model = Model::load(&path).with_context(
            || "run the demo in the project's folder, or name the folder with --models",
        )?;
        let config = Config::read(&self.models.join("fashion.toml"))?;
        let options = DataOptions {
            preprocess: config.inputs,
            batch: 50,
            ..DataOptions::default()
        };
        let open =
            |file: &str| DataSet::open(&self.models.join(file), model.inputs(), options.clone());
        let (calibration, test) = (open("fashion_calibration.npz")?, open("fashion_test.npz")?);

        let backend = BackendConfig::fbgemm();
        let float = Arc::new(octofold::compile_for(model.graph.clone(), &backend, None)?);
        let (bar, session) = (progress("calibrating"), self.execution.session()?);
        let recipe = Recipe::new(backend);
        let quantized = recipe.quantize_with(&model, (&calibration).into(), session, |now| {
            show(&bar, now);
        })?;
        bar.finish_and_clear();
        let integer = Arc::new(quantized.compile()?);

        println!("{name}: {} nodes", model.graph.node_count());
        let mut comparison = Comparison::default();
        let (float_accuracy, integer_accuracy) =
            self.score(&float, &integer, &test, &mut comparison)?;
        let (float_ms, integer_ms) = (self.time(&float)?, self.time(&integer)?);
        let (float_bytes, integer_bytes) =
            (float.weight_bytes() as f64, integer.weight_bytes() as f64);
        println!("             float      int8");
        println!(
            "  accuracy  {:6.2} %  {:6.2} %   ({} test images)",
            100.0 * float_accuracy.value(),
            100.0 * integer_accuracy.value(),
            float_accuracy.correct.len()
        );
        println!(
            "  weights   {:6.1} kB {:6.1} kB  ({:.1} times smaller)",
            float_bytes / 1e3,
            integer_bytes / 1e3,
            float_bytes / integer_bytes
        );
        println!(
            "  one image {float_ms:6.3} ms {integer_ms:6.3} ms  ({:.1} times faster)",
            float_ms / integer_ms
        );
        for value in comparison.results() {
            println!(
                "  `{}`: {:.1} dB signal to noise",
                value.name,
                value.sqnr_db.unwrap_or(f64::INFINITY)
            );
        }
        let inputs = integer.input_shapes(|_| 1)?;
        let report = Report::new(&integer, &inputs)?;
        println!(
            "  {:.2} % of the multiply-accumulates on integers; float:",
            100.0 * report.integer_mac_share()
        );
        let float_nodes = octofold::float_nodes_of(&integer, &report);
        for node in &float_nodes {
            println!("    {} ({}): {}", node.node, node.operator, node.reason);
        }
        if float_nodes.is_empty() {
            println!("    no node");
        }
        Ok(())
    }

    fn score(
        &self,
        float: &Arc<Plan>,
        integer: &Arc<Plan>,
        test: &DataSet,
        comparison: &mut Comparison,
    ) -> Result<(Accuracy, Accuracy)> {
        let mut sessions = (
            Session::new(Arc::clone(float), self.execution.session()?)?,
            Session::new(Arc::clone(integer), self.execution.session()?)?,
        );
        let labels = test.labels("labels")?;
        let (mut first, mut second) = (Accuracy::top(1), Accuracy::top(1));
        test.for_each(|batch, _| {
            let (expected, found) = (
                sessions.0.run(&inputs_of(&batch))?,
                sessions.1.run(&inputs_of(&batch))?,
            );
            let ((name, expected), (_, found)) = expected
                .first()
                .zip(found.first())
                .ok_or_else(|| anyhow!("the model has no output"))?;
            first.add(expected, &labels)?;
            second.add(found, &labels)?;
            comparison.add(name, expected, found);
            Ok::<(), anyhow::Error>(())
        })?;
        Ok((first, second))
    }

    /// The shortest time of one image, in milliseconds, on one thread.
    fn time(&self, plan: &Arc<Plan>) -> Result<f64> {
        let mut options = self.execution.session()?;
        options.threads = 1;
        let mut session = Session::new(Arc::clone(plan), options)?;
        let inputs = zero_inputs(plan, &plan.input_shapes(|_| 1)?)?;
        let inputs: Vec<(&str, Tensor)> = inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .collect();
        let mut shortest = f64::INFINITY;
        for _ in 0..TIMED_RUNS {
            let began = Instant::now();
            session.run(&inputs)?;
            shortest = shortest.min(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(shortest)
    }
}
