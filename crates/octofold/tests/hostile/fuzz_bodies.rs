//! What the fuzz targets do, over seeds and seeded changes of them, on the ordinary compiler: the bodies cannot rot, and what fuzzing found stays found.
//!
//! `OCTOFOLD_SEEDS=fuzz/corpus cargo test -p octofold --test hostile` writes the seeds to where `cargo fuzz` looks for them.

use crate::bodies;
use std::path::Path;

use octofold::Model;
use octofold::ir::onnx::{ExportOptions, export};
use octofold::ir::testing::{GraphOptions, Random, random_graph};
use octofold::ir::text::{PrintOptions, print};
use octofold::ir::{Graph, text};

/// Small graphs of many kinds.
fn graphs() -> Vec<Graph> {
    let random = (0..12).map(|seed| {
        let (nodes, quantize) = (2 + seed as usize, seed % 2 == 0);
        random_graph(seed, GraphOptions { nodes, quantize })
    });
    let written = [
        "net (float[N,8] x) => (float[N,8] y)\n<float[8,8] w = {}> {\n s = Shape(x)\n z = ConstantOfShape(s)\n y = Add(x, z)\n}",
        "net (float[2,3] x) => (float[2,3] y) {\n a, b = Split <axis = 1, num_outputs = 2> (x)\n y = Concat <axis = 1> (a, b)\n}",
        "net (float[1,2,4,4] x) => (float[1,2,8,8] y) <float[4] s = {1, 1, 2, 2}> {\n y = Resize <mode = \"linear\"> (x, , s)\n}",
        "net (float[2,4] x) => (float[2,4] y) <float s = {0.5}, uint8 z = {3}> {\n q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z)\n}",
        "net (float[3,1,4] x) => (float[3,1,1,2] y) <float[1,8,4] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float[1,8,2] r = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> {\n y = LSTM <hidden_size = 2> (x, w, r)\n}",
        "net (float[N,M] x) => (float[K] y) {\n s = Shape(x)\n y = Reshape(x, m)\n} ",
    ];
    let written = written
        .into_iter()
        .filter_map(|source| text::parse(source, None).ok());
    random.chain(written).collect()
}

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let graphs = graphs();
    match target {
        "onnx" => {
            let files = graphs
                .iter()
                .filter_map(|graph| export(graph, &ExportOptions::default()).ok());
            files.collect()
        }
        "text" => {
            let printed = graphs
                .iter()
                .map(|graph| print(graph, &PrintOptions::default()).text);
            printed.map(String::into_bytes).collect()
        }
        "plan" => {
            let plans = graphs.into_iter().map(|graph| {
                let (lowered, _) =
                    octofold::lower(&Model::new(graph).graph).expect("a sound graph");
                bodies::unsigned(&octofold::compile(&lowered).expect("a lowered graph"))
            });
            plans.collect()
        }
        _ => (0..64)
            .map(|seed| {
                let mut random = Random::new(seed);
                (0..200 + 16 * seed).map(|_| random.bits() as u8).collect()
            })
            .collect(),
    }
}

/// Runs a target over its seeds, and over `changes` changed copies of each.
fn smoke(target: &str, body: fn(&[u8]), changes: usize) {
    let seeds = seeds(target);
    assert!(seeds.len() > 12, "{} seeds", seeds.len());
    if let Some(folder) = std::env::var_os("OCTOFOLD_SEEDS") {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(folder)
            .join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (index, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed{index}")), seed).expect("a file");
        }
    }
    let mut random = Random::new(5);
    for seed in seeds {
        body(&seed);
        for _ in 0..changes {
            let mut changed = seed.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(changed.len());
                match random.below(5) {
                    0 => changed[at] = random.bits() as u8,
                    1 => changed[at] ^= 1 << random.below(8),
                    2 => changed[at] = changed[at].wrapping_add(1),
                    3 => drop(changed.remove(at)),
                    _ => changed.insert(at, random.bits() as u8),
                }
            }
            body(&changed);
        }
    }
}

#[test]
fn onnx_files() {
    smoke("onnx", bodies::onnx, 100);
}

#[test]
fn texts() {
    smoke("text", bodies::text, 100);
}

#[test]
fn plans() {
    smoke("plan", bodies::plan, 100);
}

#[test]
fn pipelines() {
    smoke("pipeline", bodies::pipeline, 20);
}
