//! What the fuzz targets do, over seeds and seeded changes of them, on the ordinary compiler: the bodies cannot rot, and what fuzzing found stays found.
//!
//! `OCTOFOLD_SEEDS=fuzz/corpus cargo test -p octofold --test hostile` writes the seeds to where `cargo fuzz` looks for them.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat};
use octofold::config::Config;
use octofold::ir::onnx::{ExportOptions, export};
use octofold::ir::testing::{GraphOptions, Random, random_graph};
use octofold::ir::text::{PrintOptions, print};
use octofold::ir::{Graph, text};
use octofold::passes::backend::BackendConfig;
use octofold::tensor::{DType, Tensor, npy};
use octofold::{Model, Recipe, StatisticsFile};

use crate::bodies;
use crate::common::models;

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
        "archive" => archives(),
        "statistics" => statistics(),
        "configuration" => configurations(),
        "image" => images(),
        _ => (0..64)
            .map(|seed| {
                let mut random = Random::new(seed);
                (0..200 + 16 * seed).map(|_| random.bits() as u8).collect()
            })
            .collect(),
    }
}

/// Archives of one array of each type and of several, stored and deflated by `zip`.
fn archives() -> Vec<Vec<u8>> {
    let types = (0..30).filter_map(DType::from_onnx);
    let arrays = types.filter_map(|dtype| Tensor::zeros(dtype, [2, 3]).ok());
    let arrays: Vec<(String, Tensor)> = arrays
        .enumerate()
        .map(|(i, array)| (format!("array{i}"), array))
        .collect();
    let written = |arrays: &[(String, Tensor)]| {
        let mut file = Cursor::new(Vec::new());
        npy::write_npz(&mut file, arrays).ok()?;
        Some(file.into_inner())
    };
    let single = arrays.chunks(1).filter_map(written);
    let several = arrays.chunks(3).filter_map(written);
    let own = std::fs::read(models("fashion_test.npz")).expect("an own archive");
    single
        .chain(several)
        .chain([own[..4096].to_vec()])
        .collect()
}

/// Files of what each kind of observer saw.
fn statistics() -> Vec<Vec<u8>> {
    let model = Model::load(models("fashion_resnet.onnx")).expect("an own model");
    let mut files = Vec::new();
    for name in [
        "minmax",
        "moving_average",
        "histogram",
        "percentile",
        "mean_minmax",
        "entropy",
        "mse",
        "recording",
    ] {
        let config =
            format!("version = 1\n[qconfig.default]\nactivation = {{ observer = \"{name}\" }}\n");
        let config = Config::parse(&config, name).expect("a configuration");
        let recipe = Recipe::from_config(config).expect("a recipe");
        let prepared = recipe.prepare(&model).expect("an own model");
        for count in [1, 3, 100] {
            let observed = prepared
                .specs()
                .into_iter()
                .take(count)
                .map(|(name, spec)| {
                    let mut state = spec.observer();
                    state.observe(&[-1.0, 0.25, 3.0]).expect("finite numbers");
                    (name, state)
                });
            let file = StatisticsFile::new(&prepared, observed.collect());
            files.push(file.to_json().into_bytes());
        }
    }
    files
}

/// Configurations that the tests and documents have.
fn configurations() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = |name: &str| std::fs::read_to_string(root.join(name)).expect("a page");
    let pages = [
        "docs/configuration.md",
        "docs/eager-and-graph.md",
        "docs/from-torch.md",
    ];
    let mut files: Vec<Vec<u8>> = Vec::new();
    for text in pages.map(page) {
        let blocks = text.split("```toml\n").skip(1);
        let blocks = blocks.filter_map(|block| block.split("```").next());
        files.extend(blocks.map(|block| format!("version = 1\n{block}").into_bytes()));
    }
    files.push(page("models/fashion.toml").into_bytes());
    files.push(page("models/fashion_resnet.eager.toml").into_bytes());
    let tables = ["fbgemm", "qnnpack"].map(|name| BackendConfig::named(name).expect("an engine"));
    files.extend(tables.map(|table| table.to_toml().into_bytes()));
    files
}

/// Small images of each format.
fn images() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for (index, format) in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp]
        .into_iter()
        .enumerate()
    {
        for side in [1, 2, 7, 16, 33] {
            let pixel = |x: u32, y: u32| image::Rgb([(x * 7) as u8, (y * 11) as u8, (x * y) as u8]);
            let color = image::RgbImage::from_fn(side, side + 1, pixel);
            let gray =
                image::GrayImage::from_fn(side, side + 1, |x, y| image::Luma([(x * y) as u8]));
            for image in [DynamicImage::from(color), DynamicImage::from(gray)] {
                let mut bytes = Cursor::new(Vec::new());
                image
                    .write_to(&mut bytes, format)
                    .expect("a format that is built");
                files.push([vec![index as u8], bytes.into_inner()].concat());
            }
        }
    }
    files
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

#[test]
fn archives_of_arrays() {
    smoke("archive", bodies::archive, 100);
}

#[test]
fn files_of_statistics() {
    smoke("statistics", bodies::statistics, 100);
}

#[test]
fn configurations_and_tables() {
    smoke("configuration", bodies::configuration, 20);
}

#[test]
fn image_files() {
    smoke("image", bodies::image, 100);
}
