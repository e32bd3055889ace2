//! Eager mode: the user names what to fuse, where quantization starts and stops, and the qconfig of each layer.
//!
//! ```no_run
//! use std::path::Path;
//! use octofold::eager::Eager;
//! use octofold::passes::backend::BackendConfig;
//! use octofold::passes::config::QConfig;
//!
//! let model = octofold::Model::load(Path::new("models/fashion_resnet.onnx"))?;
//! let prepared = Eager::new()
//!     .fuse_modules(&["conv1", "bn1", "/relu/Relu"])
//!     .qconfig("", Some(QConfig::default()))
//!     .qconfig("layer2.0", None)
//!     .quant_stub("input", QConfig::default())
//!     .dequant_stub("logits")
//!     .prepare(model, &BackendConfig::fbgemm())?;
//! // octofold::calibrate, convert, lower and compile follow as in graph mode.
//! # Ok::<(), octofold::Error>(())
//! ```

use octofold_ir::{Graph, NodeId};
use octofold_passes::annotate::Annotations;
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{ModelNames, Preset, QConfig};
use octofold_passes::eager::{EagerConfig, EagerFault, FuseLists, QuantStub, annotate, find_row};
use octofold_passes::manager::PassRun;
use octofold_passes::pipeline::{self, Context, Sequence, Stage, run_stages};

use crate::Error;
use crate::model::Model;
use crate::prepared::{Mode, Prepared, prepare_by};
use crate::provenance::Provenance;

/// What the user writes in eager mode; nothing else is done.
#[derive(Clone, Debug, Default)]
pub struct Eager {
    /// What is fused, where the stubs stand, and the qconfigs.
    pub config: EagerConfig,
    /// Rows of two layers, or of three around a depthwise convolution, whose channels' ranges are equalized.
    pub equalize: Vec<Vec<String>>,
    /// The name of the preset that the qconfigs come from, for records.
    pub preset: Option<Preset>,
}

impl Eager {
    /// Nothing fused, nothing quantized.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fuses operators, named in the order of the data flow (torch's `fuse_modules`).
    #[must_use]
    pub fn fuse_modules(mut self, names: &[&str]) -> Self {
        self.config.fuse.push(owned(names));
        self
    }

    /// Makes a value integers (torch's `QuantStub`).
    #[must_use]
    pub fn quant_stub(mut self, value: &str, qconfig: QConfig) -> Self {
        self.config.quant_stubs.push(QuantStub {
            value: value.to_owned(),
            qconfig,
        });
        self
    }

    /// Makes a value float again (torch's `DeQuantStub`). At the result of a layer with weights it takes the layer's accumulator as
    /// float, without rounding it to 8 bits first.
    #[must_use]
    pub fn dequant_stub(mut self, value: &str) -> Self {
        self.config.dequant_stubs.push(value.to_owned());
        self
    }

    /// Sets the qconfig of a module or operator; the empty name is the whole model, inner names win, `None` leaves float.
    #[must_use]
    pub fn qconfig(mut self, name: &str, qconfig: Option<QConfig>) -> Self {
        self.config.qconfig.insert(name.to_owned(), qconfig);
        self
    }

    /// Equalizes the ranges of channels between two layers, or three around a depthwise convolution.
    #[must_use]
    pub fn equalize(mut self, names: &[&str]) -> Self {
        self.equalize.push(owned(names));
        self
    }

    /// Fuses, annotates and observes a model as written (torch's `fuse_modules` and `prepare`).
    ///
    /// # Errors
    /// [`Error::Eager`] with every place where what is written cannot be done, and what to write instead.
    pub fn prepare(&self, model: Model, backend: &BackendConfig) -> Result<Prepared, Error> {
        let mode = EagerMode {
            eager: self,
            names: &model.names,
            backend,
        };
        prepare_by(&mode, &model, Vec::new())
    }
}

/// Eager mode, for one model.
struct EagerMode<'a> {
    eager: &'a Eager,
    names: &'a ModelNames,
    backend: &'a BackendConfig,
}

impl Mode for EagerMode<'_> {
    fn stages(&self) -> Sequence {
        pipeline::PREPARE_EAGER
    }

    fn run(&self, stage: Stage, graph: &mut Graph) -> Result<Vec<PassRun>, Error> {
        let context = Context::new(self.backend);
        match stage {
            Stage::FuseRows => self.fuse_rows(graph, context),
            Stage::Equalize if self.eager.equalize.is_empty() => Ok(Vec::new()),
            Stage::Equalize => self.equalize(graph, context),
            _ => Ok(run_stages(graph, &[stage], &context)?),
        }
    }

    fn annotate(&self, graph: &Graph, _: &mut Vec<String>) -> Result<Annotations, Error> {
        let annotations = annotate(graph, &self.eager.config, self.names, self.backend)?;
        annotations.map_err(Error::Eager)
    }

    fn provenance(&self) -> Provenance {
        Provenance::of(self.backend, self.eager.preset)
    }
}

impl EagerMode<'_> {
    fn fuse_rows(&self, graph: &mut Graph, context: Context<'_>) -> Result<Vec<PassRun>, Error> {
        let rows = FuseLists::new(graph, self.names, &self.eager.config.fuse);
        let rows = rows.map_err(Error::Eager)?;
        let context = Context {
            rows: Some(&rows),
            ..context
        };
        let runs = run_stages(graph, &[Stage::FuseRows], &context)?;
        let unfused = rows.unfused(graph, &runs);
        match unfused.is_empty() {
            true => Ok(runs),
            false => Err(Error::Eager(unfused)),
        }
    }

    fn equalize(&self, graph: &mut Graph, context: Context<'_>) -> Result<Vec<PassRun>, Error> {
        let rows = self.eager.equalize.iter();
        let found: Result<Vec<Vec<NodeId>>, EagerFault> = rows
            .map(|row| find_row(graph, self.names, "equalize", row))
            .collect();
        let found = found.map_err(|fault| Error::Eager(vec![fault]))?;
        let equalize = |graph: &mut Graph, only: &[Vec<NodeId>]| {
            let context = Context {
                equalize: Some(only),
                ..context
            };
            run_stages(graph, &[Stage::Equalize], &context)
        };
        equalize(graph, &found).map_err(|error| {
            // The first row that cannot be equalized by itself, for an error of all rows together.
            let mut rows = self.eager.equalize.iter().zip(found.chunks(1));
            let refused = rows.find_map(|(row, only)| {
                let error = equalize(&mut graph.clone(), only).err()?;
                Some(Error::Eager(vec![EagerFault::NotEqualized {
                    row: format!("equalize {row:?}"),
                    reason: error.to_string(),
                }]))
            });
            refused.unwrap_or(error.into())
        })
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}
