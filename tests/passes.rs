//! Passes, by example: each file under `passes/` is a graph and the steps to run it through; the snapshot shows the graph before and after
//! and the reports. One behaviour a file, one folder a pass.
//!
//! The steps stand in comments at the head of a file, one a line, and are carried out in order. `octofold opt` runs the same passes, with the settings
//! as flags or in a configuration file:
//!
//! ```text
//! # passes: NAME, …         passes or stages, as `pipeline::named` knows them; `annotate` shows the annotations
//! # equalize: A B, C D E    equalizes the layers of these names, or all
//! # preset: PRESET          the settings that annotations start from; those of fbgemm by default
//! # range: VALUE LOW HIGH   what calibration saw of a value
//! # float: MODULE           leaves a module float; `float-type` an operator type, `float-region` what lies between two values
//! # wide: MODULE            gives a module activations of 16 bits
//! # given: VALUE SCALE ZERO_POINT   sets the parameters of a value
//! # weights: TYPE           another type for weights; `activations` for activations
//! # reduced-weights:        weights of seven bits
//! ```

use std::fmt::Write;
use std::path::{Path, PathBuf};

use octofold_ir::{Graph, text};
use octofold_passes::annotate::annotate;
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{ModelNames, Preset, QConfig, QConfigMapping, Resolver, SpecEdit};
use octofold_passes::convert::Statistics;
use octofold_passes::equalize::EqualizeLayers;
use octofold_passes::manager::{ManagerOptions, run_passes};
use octofold_passes::pass::{Pass, PassError};
use octofold_passes::pipeline::{self, Context, Decisions};
use octofold_quant::{ObserverKind, ObserverState, QuantRange, QuantType};

/// One file on its way through its steps.
struct Case {
    graph: Graph,
    names: ModelNames,
    mapping: QConfigMapping,
    preset: Preset,
    statistics: Statistics,
    edits: Vec<(String, String)>,
    shown: String,
}

impl Case {
    fn new(graph: Graph) -> Self {
        let shown = format!("{graph}");
        Self {
            names: ModelNames::of(&graph),
            graph,
            mapping: QConfigMapping::default(),
            preset: Preset::Fbgemm,
            statistics: Statistics::new(),
            edits: Vec::new(),
            shown,
        }
    }

    fn step(&mut self, key: &str, value: &str) {
        match key {
            "passes" => {
                for name in value.split(',') {
                    self.run_named(name.trim());
                }
            }
            "preset" => self.preset = value.parse().unwrap(),
            "equalize" => {
                let groups = value.split(',').map(|names| {
                    let names = names.split_whitespace();
                    names
                        .map(|name| self.graph.node_named(name).unwrap())
                        .collect()
                });
                let only = (!value.is_empty()).then(|| groups.collect());
                self.run("equalize-layers", &[&EqualizeLayers { only }]);
            }
            "range" => {
                let words: Vec<&str> = value.split_whitespace().collect();
                let [name, low, high] = words[..] else {
                    panic!("range: VALUE LOW HIGH")
                };
                let mut state = ObserverState::new(&ObserverKind::MinMax);
                state
                    .observe(&[low.parse().unwrap(), high.parse().unwrap()])
                    .unwrap();
                self.statistics.insert(name.to_owned(), state);
            }
            "float" => {
                self.mapping.module_name.insert(value.to_owned(), None);
            }
            "float-region" => {
                let (from, to) = value.split_once(' ').expect("float-region: FROM TO");
                self.mapping = std::mem::take(&mut self.mapping).exclude_region(from, to);
            }
            "wide" => {
                let config = QConfig::default().with_activation_type(QuantType::Uint16);
                self.mapping
                    .module_name
                    .insert(value.to_owned(), Some(config));
            }
            "given" => {
                let words: Vec<&str> = value.split_whitespace().collect();
                let [name, scale, zero_point] = words[..] else {
                    panic!("given: VALUE SCALE ZERO_POINT")
                };
                let edit = SpecEdit::fixed(scale.parse().unwrap(), zero_point.parse().unwrap());
                self.mapping.values.insert(name.to_owned(), edit);
            }
            "float-type" => {
                self.mapping.object_type.insert(value.to_owned(), None);
            }
            "weights" | "activations" | "reduced-weights" => {
                self.edits.push((key.to_owned(), value.to_owned()))
            }
            _ => panic!("`{key}` is no step"),
        }
    }

    fn qconfig(&self) -> QConfig {
        let mut config = self.preset.qconfig();
        for (key, value) in &self.edits {
            match key.as_str() {
                "weights" => {
                    let range = QuantRange::symmetric(value.parse::<QuantType>().unwrap());
                    (
                        config.weight.dtype,
                        config.weight.quant_min,
                        config.weight.quant_max,
                    ) = (range.dtype, range.min, range.max);
                }
                "activations" => config = config.with_activation_type(value.parse().unwrap()),
                _ => config = config.with_reduced_weights(),
            }
        }
        config
    }

    /// Runs the pass or the stage of a name, with the settings given so far.
    fn run_named(&mut self, name: &str) {
        self.mapping.global = Some(self.qconfig());
        let (mapping, names) = (self.mapping.clone(), self.names.clone());
        let statistics = self.statistics.clone();
        let (resolver, backend) = (Resolver::new(&mapping, &names), BackendConfig::fbgemm());
        let decide = |graph: &Graph| annotate(graph, &resolver, &mapping.values, &backend);
        if name == "annotate" {
            let annotations = decide(&self.graph).unwrap().to_text(&self.graph);
            write!(self.shown, "\n--- annotations\n{annotations}").unwrap();
            return;
        }
        let context = Context {
            decisions: Some(Decisions::OnDemand(&decide)),
            statistics: Some(&statistics),
            ..Context::new(&backend)
        };
        let passes = pipeline::named(name, &context).unwrap();
        let passes: Vec<&dyn Pass> = passes.iter().map(|pass| &**pass).collect();
        self.run(name, &passes);
    }

    fn run(&mut self, title: &str, passes: &[&dyn Pass]) {
        // The verifier runs around every pass.
        let result = run_passes(
            &mut self.graph,
            passes,
            ManagerOptions {
                verify: true,
                ..ManagerOptions::default()
            },
        );
        writeln!(self.shown, "\n--- {title}").unwrap();
        self.show_result(result.map(|runs| {
            let several = runs.len() > 1;
            let mut text = String::new();
            for run in runs
                .iter()
                .filter(|run| !several || !run.report.events.is_empty())
            {
                if several {
                    writeln!(text, "{}:", run.pass).unwrap();
                }
                write!(text, "{}", run.report).unwrap();
            }
            text
        }));
    }

    fn show_result(&mut self, result: Result<String, PassError>) {
        match result {
            Err(error) => writeln!(self.shown, "error: {error}").unwrap(),
            Ok(report) => {
                let report = if report.is_empty() {
                    "nothing to do\n".to_owned()
                } else {
                    report
                };
                write!(self.shown, "{report}\n{}", self.graph).unwrap();
                self.check_text();
            }
        }
    }

    /// Whatever passes make can be printed and read back.
    fn check_text(&self) {
        let options = text::PrintOptions {
            data: Some("data.bin".to_owned()),
        };
        let printed = text::print(&self.graph, &options);
        let read = text::parse(&printed.text, Some(&printed.data))
            .unwrap_or_else(|error| panic!("{error}\n{}", printed.text));
        assert_eq!(
            octofold_ir::testing::difference(&self.graph, &read),
            None,
            "{}",
            printed.text
        );
    }
}

/// The snapshot of a file.
fn run_file(path: &Path) -> String {
    let source = std::fs::read_to_string(path).unwrap();
    let graph =
        text::parse(&source, None).unwrap_or_else(|error| panic!("{}:{error}", path.display()));
    let mut case = Case::new(graph);
    for line in source.lines() {
        let Some((key, value)) = line
            .strip_prefix("# ")
            .and_then(|line| line.split_once(':'))
        else {
            break;
        };
        case.step(key, value.trim());
    }
    case.shown
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/passes")
        .join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn run_folder(name: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots/passes");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for path in files(&folder(name)) {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let shown = run_file(&path);
        settings.bind(|| insta::assert_snapshot!(format!("{name}__{stem}"), shown));
    }
}

/// Passes that need what a text cannot hold: rewrites of the user's (`octofold/tests/configuration.rs`), and means (`passes/tests/bias.rs`).
const ELSEWHERE: [&str; 3] = [
    "fuse-user-patterns",
    "lower-user-patterns",
    "correct-biases",
];

macro_rules! folders {
    ($($test:ident = $folder:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            run_folder($folder);
        })*

        #[test]
        fn every_folder_is_run() {
            let found: Vec<String> =
                files(&folder("")).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
            let mut known = vec![$($folder),*];
            known.sort_unstable();
            assert_eq!(found, known);
        }

        #[test]
        fn every_pass_has_a_folder() {
            let known = [$($folder),*];
            for pass in pipeline::names() {
                assert!(known.contains(&pass) || ELSEWHERE.contains(&pass), "{pass}");
            }
        }
    };
}

/// `docs/passes.md` shows the stages that the compiler runs.
#[test]
fn the_page_shows_the_stages_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/passes.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- generated: pipeline -->\n").unwrap();
    let (shown, after) = rest.split_once("<!-- end -->").unwrap();
    let tables = pipeline::to_markdown();
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        let page = format!("{before}<!-- generated: pipeline -->\n{tables}<!-- end -->{after}");
        std::fs::write(&path, page).unwrap();
    } else {
        assert_eq!(shown, tables, "OCTOFOLD_BLESS=1 writes docs/passes.md");
    }
}

folders! {
    annotations = "annotate",
    assign_layouts = "assign-layouts",
    canonicalize = "canonicalize",
    canonicalize_windows = "canonicalize-windows",
    convert = "convert",
    equalize_layers = "equalize-layers",
    eliminate_dead = "eliminate-dead",
    eliminate_duplicates = "eliminate-duplicates",
    eliminate_identities = "eliminate-identities",
    expand_fused = "expand-fused",
    expand_qoperators = "expand-qoperators",
    widen_floats = "widen-floats",
    factor_sums = "factor-sums",
    fold_constants = "fold-constants",
    fuse_activations = "fuse-activations",
    fuse_affine = "fuse-affine",
    fuse_quantized_residuals = "fuse-quantized-residuals",
    fuse_residuals = "fuse-residuals",
    inline_branches = "inline-branches",
    linear_forms = "linear-forms",
    lower_batch_norms = "lower-batch-norms",
    lower_float = "lower-float",
    lower_quantized = "lower-quantized",
    insert_layer_input_observers = "insert-layer-input-observers",
    insert_observers = "insert-observers",
    recognize_norms = "recognize-norms",
    sink_constants = "sink-constants",
    split_transposed_convs = "split-transposed-convs",
    stages = "stages",
}
