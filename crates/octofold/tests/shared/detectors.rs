//! A face detector and a text detector from the reference material, quantized: share of integers, signal-to-noise ratio of every output, the faces that are
//! found, and open image sizes. The bars are what ONNX Runtime 1.32 reaches with `quantize_static` (QDQ, one scale a channel, u8 activations, s8
//! weights) on the same calibration images, with the best of its min-max, entropy and percentile calibrations for each figure, less 1 dB.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::Model;
use octofold::calibrate::preprocess::{Filter, Resize};
use octofold::calibrate::{Comparison, DataOptions, DataSet, InputSpec, Preprocess};
use octofold::codegen::Report;
use octofold::ir::Graph;
use octofold::passes::backend::BackendConfig;
use octofold::passes::config::{QConfig, QConfigMapping};
use octofold::runtime::{Core, Plan, Session, SessionOptions, Step};
use octofold::tensor::{DType, Dim, Tensor, npy};

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(path)
}

fn plan(graph: &Graph) -> Result<Arc<Plan>> {
    Ok(Arc::new(octofold::compile(&octofold::lower(graph)?.0)?))
}

fn session(plan: &Arc<Plan>) -> Result<Session> {
    Ok(Session::new(Arc::clone(plan), SessionOptions::default())?)
}

/// The images of some files after preprocessing, one tensor [1, 3, height, width] each.
fn images(files: &[&str], preprocess: &Preprocess) -> Result<Vec<Tensor>> {
    let folder = tempfile::tempdir()?;
    for file in files {
        std::fs::copy(shared("data").join(file), folder.path().join(file))
            .with_context(|| (*file).to_owned())?;
    }
    let spec = InputSpec {
        name: "image".to_owned(),
        dtype: DType::F32,
        shape: ["N", "C", "H", "W"].map(Dim::symbol).to_vec(),
    };
    let options = DataOptions {
        preprocess: [("image".to_owned(), preprocess.clone())].into(),
        batch: 1,
        ..DataOptions::default()
    };
    let mut images = Vec::new();
    DataSet::open(folder.path(), vec![spec], options)?.for_each(|mut batch, _| {
        images.push(batch.remove(0).1);
        Ok::<(), octofold::calibrate::DataError>(())
    })?;
    ensure!(images.len() == files.len(), "{} images", images.len());
    Ok(images)
}

/// Images of `size`: whole ones, and the middles of larger ones, `short_sides` being the shorter sides before cutting.
fn calibration_images(
    files: &[&str],
    preprocess: &Preprocess,
    size: [u32; 2],
    short_sides: &[u32],
) -> Result<Vec<Tensor>> {
    let mut made = images(files, &resized(preprocess, size))?;
    for &short_side in short_sides {
        let resize = Resize {
            size: None,
            short_side: Some(short_side),
            filter: Filter::Bilinear,
        };
        let cut = Preprocess {
            resize: Some(resize),
            crop: Some(size),
            ..preprocess.clone()
        };
        made.extend(images(files, &cut)?);
    }
    Ok(made)
}

fn resized(preprocess: &Preprocess, size: [u32; 2]) -> Preprocess {
    let resize = Resize {
        size: Some(size),
        short_side: None,
        filter: Filter::Bilinear,
    };
    Preprocess {
        resize: Some(resize),
        ..preprocess.clone()
    }
}

/// The reference graph of a model, calibrated with images.
fn quantized(model: &Model, images: &[Tensor]) -> Result<Graph> {
    let input = model.inputs().remove(0).name;
    let mut values = Vec::new();
    for image in images {
        values.extend_from_slice(image.values::<f32>()?);
    }
    let mut shape = images[0].shape().to_vec();
    shape[0] = images.len();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("calibration.npz");
    let samples = [(input, Tensor::new(shape, values)?)];
    npy::write_npz(std::fs::File::create(&path)?, &samples)?;
    let options = DataOptions {
        batch: 1,
        ..DataOptions::default()
    };
    let data = DataSet::open(&path, model.inputs(), options)?;
    let mapping = QConfigMapping::global(QConfig::default());
    let prepared = octofold::prepare(model.clone(), &mapping, &BackendConfig::fbgemm())?;
    let statistics = octofold::calibrate(&prepared, &data, SessionOptions::default(), |_| {})?;
    Ok(octofold::convert(&prepared, &statistics)?)
}

/// Everything of a plan has a kernel, and nothing becomes integers but the input: between layers all are bytes.
fn check_steps(plan: &Plan) -> Result<()> {
    for step in plan.steps() {
        ensure!(
            step.kernel.core() != Core::Portable,
            "{}: {}",
            step.name,
            step.note
        );
    }
    let quantizes = |step: &&Step| step.kernel.core() == Core::Quantize;
    let count = plan.steps().iter().filter(quantizes).count();
    ensure!(count == 1, "a value is quantized between layers");
    Ok(())
}

/// The signal-to-noise ratio of each output.
fn decibels(expected: &[(String, Tensor)], found: &[(String, Tensor)]) -> Vec<f64> {
    let mut comparison = Comparison::default();
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        comparison.add(name, expected, found);
    }
    let results = comparison.results();
    let ratio = |decibel: Option<f64>| decibel.unwrap_or(f64::INFINITY);
    results.iter().map(|result| ratio(result.sqnr_db)).collect()
}

/// A face: its score and the corners of its box.
type Face = (f32, [f32; 4]);

fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let area = |x: &[f32; 4]| (x[2] - x[0]) * (x[3] - x[1]);
    let both = side(0) * side(1);
    both / (area(a) + area(b) - both)
}

/// Whether a face is so close to the bar that it may be one in float or in integers only.
fn is_doubtful((score, _): &Face) -> bool {
    *score < 0.75
}

/// The faces of scores [1, n, 2] and boxes [1, n, 4]: scores above 0.7, of boxes that overlap by more than 0.3 the best.
fn faces(outputs: &[(String, Tensor)]) -> Result<Vec<Face>> {
    let (scores, boxes) = (outputs[0].1.values::<f32>()?, outputs[1].1.values::<f32>()?);
    let (scores, boxes) = (scores.as_chunks::<2>().0, boxes.as_chunks::<4>().0);
    let mut candidates: Vec<Face> = scores
        .iter()
        .map(|score| score[1])
        .zip(boxes.iter().copied())
        .collect();
    candidates.retain(|(score, _)| *score > 0.7);
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut kept: Vec<Face> = Vec::new();
    for face in candidates {
        if kept.iter().all(|other| overlap(&face.1, &other.1) <= 0.3) {
            kept.push(face);
        }
    }
    Ok(kept)
}

/// ONNX Runtime reaches 41.7 dB for the scores and 45.3 dB for the boxes of the first photo, and 43.2 and 43.8 dB for the second.
#[test]
fn the_face_detector_finds_the_same_faces() -> Result<()> {
    let files = ["faces_1.jpg", "faces_2.jpg"];
    let preprocess = Preprocess {
        scale: 1.0 / 128.0,
        mean: vec![127.0 / 128.0; 3],
        ..Preprocess::default()
    };
    let size = [240, 320];
    let model = Model::load(shared("models/ultraface_rfb320.onnx"))?;
    let calibration = calibration_images(&files, &preprocess, size, &[240, 280, 340, 420])?;
    let float = plan(&model.graph)?;
    let integer = plan(&quantized(&model, &calibration)?)?;
    check_steps(&integer)?;
    let share = Report::new(&integer, &integer.input_shapes(|_| 1)?)?.integer_mac_share();
    ensure!(
        share >= 0.95,
        "{share} of the multiply-accumulates are integer"
    );

    let (mut float, mut integer) = (session(&float)?, session(&integer)?);
    let photos = images(&files, &resized(&preprocess, size))?;
    let bars = [[41.7, 45.3], [43.2, 43.8]];
    for ((photo, bars), known) in photos.into_iter().zip(bars).zip([44, 4]) {
        let input = [("input", photo)];
        let (expected, found) = (float.run(&input)?, integer.run(&input)?);
        let reached = decibels(&expected, &found);
        ensure!(
            reached
                .iter()
                .zip(bars)
                .all(|(reached, bar)| *reached >= bar - 1.0),
            "{reached:?} dB"
        );
        let (expected, mut found) = (faces(&expected)?, faces(&found)?);
        ensure!(expected.len() == known, "{} faces in float", expected.len());
        for face in expected {
            let overlap_with = |other: &Face| overlap(&face.1, &other.1);
            let nearest = (0..found.len())
                .max_by(|&a, &b| overlap_with(&found[a]).total_cmp(&overlap_with(&found[b])))
                .filter(|&nearest| overlap_with(&found[nearest]) >= 0.75);
            match nearest {
                Some(nearest) => {
                    found.swap_remove(nearest);
                }
                None => ensure!(is_doubtful(&face), "{face:?} is missing"),
            }
        }
        ensure!(
            found.iter().all(is_doubtful),
            "{found:?} are no faces in float"
        );
    }
    Ok(())
}

/// ONNX Runtime reaches 9.0 dB for a page of 640 by 640 pixels and 12.2 dB for one of 736 by 480.
#[test]
fn the_text_detector_takes_pages_of_any_size() -> Result<()> {
    let preprocess = Preprocess {
        scale: 1.0 / 255.0,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        ..Preprocess::default()
    };
    let page = ["ocr_page.jpg"];
    let model = Model::load(shared("models/ppocr_v4_det.onnx"))?;
    let calibration = calibration_images(
        &page,
        &preprocess,
        [736, 480],
        &[500, 560, 640, 720, 800, 960],
    )?;
    let reference = quantized(&model, &calibration)?;
    let (float, integer) = (plan(&model.graph)?, plan(&reference)?);
    check_steps(&integer)?;

    let (mut float, mut open) = (session(&float)?, session(&integer)?);
    for (size, bar) in [([640, 640], 9.0), ([736, 480], 12.2)] {
        let image = images(&page, &resized(&preprocess, size))?.remove(0);
        let shape: Vec<i64> = image.shape().iter().map(|&size| size as i64).collect();
        let report = Report::new(&integer, &[image.shape().into()])?;
        let share = report.integer_mac_share();
        ensure!(
            share >= 0.95,
            "{share} of the multiply-accumulates are integer"
        );

        let input = [("x", image)];
        let (expected, found) = (float.run(&input)?, open.run(&input)?);
        let reached = decibels(&expected, &found);
        ensure!(reached[0] >= bar - 1.0, "{size:?}: {reached:?} dB");

        // One plan for all sizes computes what a plan for this size computes.
        let fixed = plan(&octofold::fix_shape(&reference, "x", &shape)?)?;
        check_steps(&fixed)?;
        ensure!(
            session(&fixed)?.run(&input)? == found,
            "the plan for {size:?} differs"
        );
    }
    Ok(())
}
