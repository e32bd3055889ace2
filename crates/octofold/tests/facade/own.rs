//! What a program brings itself, from the view of another crate: the examples, and the pages that explain them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::quant::ObserverKind;
use octofold::{Error, Prepared, StatisticsFile};

use crate::common::{MODELS, load};

#[path = "../../examples/own_fusion.rs"]
pub(crate) mod own_fusion;
#[path = "../../examples/own_observer.rs"]
mod own_observer;

#[test]
fn a_program_brings_its_own_fusion() {
    own_fusion::main().expect("the example runs");
}

#[test]
fn a_program_brings_its_own_observer() {
    own_observer::main().expect("the example runs");
}

/// The code in the last section of a page is that of the example, which is compiled and run.
#[test]
fn pages_have_the_code_of_the_examples() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (page, example) in [
        ("adding-a-fusion.md", "own_fusion.rs"),
        ("adding-an-observer.md", "own_observer.rs"),
    ] {
        let page = std::fs::read_to_string(root.join("../../docs").join(page))?;
        let code = std::fs::read_to_string(root.join("examples").join(example))?;
        let (_, section) = page
            .split_once("of your own program\n")
            .context("the section")?;
        let blocks = section.split("```rust\n").skip(1);
        let blocks: Vec<&str> = blocks
            .filter_map(|block| block.split("```").next())
            .collect();
        ensure!(blocks.len() > 1, "{example}");
        for block in blocks {
            ensure!(code.contains(block), "{example} does not have\n{block}");
        }
    }
    Ok(())
}

/// A state of an observer that the program does not have is refused by its name.
#[test]
fn statistics_of_an_unknown_observer_are_refused() -> Result<()> {
    let model = load(MODELS[0])?;
    let prepare = |qconfig| -> Result<Prepared> {
        let mapping = QConfigMapping::global(qconfig);
        let backend = BackendConfig::fbgemm();
        Ok(octofold::prepare(model.clone(), &mapping, &backend)?)
    };
    let own = ObserverKind::custom::<own_observer::Sigma>();
    let prepared = prepare(QConfig::default().with_observer(own))?;
    let mut observed = octofold::passes::convert::Statistics::new();
    for (name, spec) in prepared.specs() {
        let mut state = spec.observer();
        state.observe(&[-1.0, 0.25, 3.0])?;
        observed.insert(name, state);
    }
    let saved = StatisticsFile::new(&prepared, observed.clone()).to_json();
    let file = StatisticsFile::from_json(&saved, "saved")?;
    ensure!(file.statistics_for(&prepared)? == observed);
    // Until a program knows the observer, a state has no range and takes in nothing.
    let state = file.statistics.values().next().context("a state")?;
    let spec = octofold::quant::QuantSpec::activation();
    ensure!(
        state.observed().is_none()
            && spec
                .finish(state)
                .is_err_and(|e| e.to_string().contains("sigma"))
    );
    ensure!(
        state
            .clone()
            .observe(&[1.0])
            .is_err_and(|e| e.to_string().contains("sigma"))
    );
    // The same graph with another observer has another reader.
    let other = prepare(QConfig::default())?;
    match file.statistics_for(&other) {
        Err(Error::OtherObserver { observed, .. }) => ensure!(observed == "sigma"),
        found => anyhow::bail!("{found:?}"),
    }
    // A damaged state is none of this observer.
    let damaged = StatisticsFile::from_json(&saved.replace("-1 3 ", "-1 x "), "damaged")?;
    ensure!(damaged.statistics_for(&prepared).is_err());
    Ok(())
}
