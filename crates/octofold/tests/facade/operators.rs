//! `docs/operators.md` is what the code says. `OCTOFOLD_BLESS=1 cargo test -p octofold --test facade operators` writes it anew.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use octofold::ir::onnx::{ReadableOperator, readable_operators};
use octofold::passes::backend::{BackendConfig, DTypeConfig};

const INTRODUCTION: &str = "\
# Operators

This page lists the operators that Octofold reads from ONNX files, and what the engine `fbgemm` does with each when its operands are quantized. Every operator has a portable
implementation with the semantics of ONNX. An operator without an integer kernel computes in float, with the portable implementation or a float kernel. The importer converts older
forms of an operator to the newest one. `octofold backend fbgemm` prints the types, layouts and conditions of integer kernels, and `octofold check` and
`octofold inspect` print them for each node of a model.

This page is generated from the code: `OCTOFOLD_BLESS=1 cargo test -p octofold --test facade operators`.

";

fn types(list: &[DTypeConfig]) -> String {
    let names: Vec<String> = list.iter().map(|config| config.dtype.to_string()).collect();
    names.join(", ")
}

/// Operators that passes make others of before they are quantized.
const REPLACED: [(&str, &str); 3] = [
    ("BatchNormalization", "Conv"),
    ("ConvTranspose", "Conv"),
    ("Sum", "Add"),
];

/// How an operator computes on quantized operands.
fn quantized_form(operator: &ReadableOperator, backend: &BackendConfig) -> String {
    let replaced = REPLACED.iter().find(|(name, _)| *name == operator.name);
    let name = replaced.map_or(operator.name, |(_, by)| by);
    let listed = |capability: &&octofold::passes::backend::Capability| {
        capability.operators.iter().any(|own| own == name)
    };
    let Some(capability) = backend.capabilities.iter().find(listed) else {
        return "float: no integer kernel".to_owned();
    };
    let mut form = format!(
        "`{}` of {}",
        capability.class,
        types(&capability.activations)
    );
    if !capability.weights.is_empty() {
        let granularity = if capability.per_channel_weights {
            ", one scale or one a channel"
        } else {
            ""
        };
        let _ = write!(form, " × {}{granularity}", types(&capability.weights));
    }
    form
}

fn page() -> String {
    let backend = BackendConfig::fbgemm();
    let operators = readable_operators();
    let (own, contributed): (Vec<_>, Vec<_>) = operators
        .iter()
        .partition(|operator| operator.domain.is_empty());
    let mut page = INTRODUCTION.to_owned();
    let _ = writeln!(page, "## ONNX: {} operators\n", own.len());
    page.push_str("| operator | opsets | on quantized operands |\n| --- | --- | --- |\n");
    for operator in own {
        let (first, last) = (operator.opsets.start(), operator.opsets.end());
        let form = if operator.becomes.is_empty() {
            quantized_form(operator, &backend)
        } else {
            format!("read as {}", operator.becomes)
        };
        let _ = writeln!(page, "| {} | {first}–{last} | {form} |", operator.name);
    }
    let _ = writeln!(
        page,
        "\n## com.microsoft: {} operators\n",
        contributed.len()
    );
    page.push_str("| operator | read as |\n| --- | --- |\n");
    for operator in contributed {
        let _ = writeln!(page, "| {} | {} |", operator.name, operator.becomes);
    }
    page
}

#[test]
fn the_page_of_operators_is_what_the_code_says() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators.md");
    let page = page();
    if std::env::var_os("OCTOFOLD_BLESS").is_some() {
        std::fs::write(&path, &page)?;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let line = page.lines().zip(written.lines()).find(|(a, b)| a != b);
    ensure!(
        page == written,
        "docs/operators.md is stale, first at {line:?}; OCTOFOLD_BLESS=1 writes it anew"
    );
    Ok(())
}
