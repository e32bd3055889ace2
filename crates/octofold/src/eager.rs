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
use octofold_passes::backend::BackendConfig;
use octofold_passes::config::{Preset, QConfig};
use octofold_passes::eager::{EagerConfig, EagerFault, FuseLists, QuantStub, annotate, find_row};
use octofold_passes::equalize::EqualizeLayers;
use octofold_passes::manager::{ManagerOptions, run_passes};
use octofold_passes::pass::PassError;
use octofold_passes::pipeline;

use crate::Error;
use crate::graph_mode::{Model, Prepared, observe};
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
        let mut simplified = model.graph.clone();
        run_passes(
            &mut simplified,
            pipeline::SIMPLIFY,
            ManagerOptions::default(),
        )?;
        let lists = FuseLists::new(&simplified, &model.names, &self.config.fuse);
        let lists = lists.map_err(Error::Eager)?;
        let mut graph = model.graph.clone();
        let mut runs = pipeline::simplify_and_fuse_only(&mut graph, &lists)?;
        let unfused = lists.unfused(&graph, &runs);
        if !unfused.is_empty() {
            return Err(Error::Eager(unfused));
        }
        if !self.equalize.is_empty() {
            let rows = self.equalize.iter();
            let found: Result<Vec<Vec<NodeId>>, EagerFault> = rows
                .map(|row| find_row(&graph, &model.names, "equalize", row))
                .collect();
            let only = found.map_err(|fault| Error::Eager(vec![fault]))?;
            let equalize = EqualizeLayers { only: Some(only) };
            match run_passes(&mut graph, &[&equalize], ManagerOptions::default()) {
                Ok(equalized) => runs.extend(equalized),
                Err(error) => return Err(self.refused_row(&graph, &equalize, error)),
            }
        }
        let annotations = annotate(&graph, &self.config, &model.names, backend)?;
        let annotations = annotations.map_err(Error::Eager)?;
        let provenance = Provenance::of(backend, self.preset);
        observe(&model, graph, annotations, runs, Vec::new(), &provenance)
    }
}

impl Eager {
    /// The first row that cannot be equalized by itself, for an error of all rows together.
    fn refused_row(&self, graph: &Graph, all: &EqualizeLayers, error: PassError) -> Error {
        let rows = self.equalize.iter().zip(all.only.iter().flatten());
        for (row, nodes) in rows {
            let equalize = EqualizeLayers {
                only: Some(vec![nodes.clone()]),
            };
            let alone = run_passes(&mut graph.clone(), &[&equalize], ManagerOptions::default());
            if let Err(error) = alone {
                return Error::Eager(vec![EagerFault::NotEqualized {
                    row: format!("equalize {row:?}"),
                    reason: error.to_string(),
                }]);
            }
        }
        error.into()
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}
