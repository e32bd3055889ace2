//! Voice activity detection, whose networks carry a state from window to window: the probabilities over a whole recording are those of ONNX Runtime
//! 1.32 (`silero.json`: `silero_vad_op18_ifless.onnx` with one thread, each window after the last 64 samples of the window before).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::codegen::{CodegenOptions, State};
use octofold::ir::{Op, interpret};
use octofold::runtime::{Session, SessionOptions};
use octofold::tensor::Tensor;
use octofold::{Model, compile, compile_with, fix_shape, lower};

const WINDOW: usize = 512;
const BEFORE: usize = 64;

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(path)
}

/// The windows of the recording, each with the samples before it.
fn windows() -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(shared("data/speech_16k.wav"))?;
    let mut parts = bytes.windows(4);
    let start = parts.position(|name| name == b"data").context("no data")? + 8;
    let mut samples = vec![0.0; BEFORE];
    for pair in bytes[start..].chunks_exact(2) {
        samples.push(f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0);
    }
    let starts = (0..).step_by(WINDOW);
    let starts = starts.take_while(|start| start + BEFORE + WINDOW <= samples.len());
    Ok(starts
        .map(|start| samples[start..start + BEFORE + WINDOW].to_vec())
        .collect())
}

fn expected() -> Result<Vec<f32>> {
    Ok(serde_json::from_str(include_str!("silero.json"))?)
}

fn session(name: &str, frozen: Option<(&str, Tensor)>) -> Result<(Session, bool)> {
    let mut graph = Model::load(shared("models").join(name))?.graph;
    if let Some((input, tensor)) = frozen {
        graph = graph.with_frozen_input(input, tensor)?;
    }
    let lowered = lower(&graph)?.0;
    let branches = lowered
        .node_ids()
        .any(|id| matches!(lowered.node(id).op(), Op::If(_)));
    let session = Session::new(compile(&lowered)?.into(), SessionOptions::default())?;
    Ok((session, branches))
}

fn compare(found: &[f32], expected: &[f32]) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} windows", found.len());
    for (window, (x, y)) in found.iter().zip(expected).enumerate() {
        ensure!((x - y).abs() <= 1e-5, "window {window}: {x} instead of {y}");
    }
    Ok(())
}

/// With the rate as an input the plan runs one of two bodies; with a constant one, the nodes of that body.
#[test]
fn a_network_with_two_branches_hears_what_onnx_runtime_hears() -> Result<()> {
    let rate = Tensor::scalar(16_000_i64);
    let windows = windows()?;
    for frozen in [None, Some(("sr", rate.clone()))] {
        let is_frozen = frozen.is_some();
        let (mut session, branches) = session("silero_vad_op18_ifless.onnx", frozen)?;
        ensure!(branches != is_frozen, "the branch that runs is known");
        let mut state = Tensor::new([2, 1, 128], vec![0.0_f32; 256])?;
        let mut found = Vec::new();
        for window in &windows {
            let input = Tensor::new([1, BEFORE + WINDOW], window.clone())?;
            let mut inputs = vec![("input", input), ("state", state)];
            if !is_frozen {
                inputs.push(("sr", rate.clone()));
            }
            let outputs = session.run(&inputs)?;
            found.push(outputs[0].1.values::<f32>()?[0]);
            state = outputs[1].1.clone();
        }
        compare(&found, &expected()?)?;
    }
    Ok(())
}

/// The session carries the state itself. Halfway it is saved, and a second session goes on from there.
#[test]
fn a_session_carries_the_state() -> Result<()> {
    let graph = Model::load(shared("models/silero_vad_op18_ifless.onnx"))?.graph;
    // With a constant rate the branch is known, and so are the sizes that states need.
    let graph = graph.with_frozen_input("sr", Tensor::scalar(16_000_i64))?;
    let graph = fix_shape(&graph, "input", &[1, (BEFORE + WINDOW) as i64])?;
    let graph = fix_shape(&graph, "state", &[2, 1, 128])?;
    let options = CodegenOptions {
        states: vec![State {
            output: "stateN".to_owned(),
            input: "state".to_owned(),
            initial: None,
        }],
        ..CodegenOptions::default()
    };
    let plan = Arc::new(compile_with(&lower(&graph)?.0, &options)?);
    let mut session = Session::new(Arc::clone(&plan), SessionOptions::default())?;
    let windows = windows()?;
    let half = windows.len() / 2;
    let mut found = Vec::new();
    for (index, window) in windows.into_iter().enumerate() {
        if index == half {
            let saved = session.state();
            session = Session::new(Arc::clone(&plan), SessionOptions::default())?;
            let states = saved
                .iter()
                .map(|(name, state)| (name.as_str(), state.clone()));
            session.restore_state(&states.collect::<Vec<_>>())?;
        }
        let input = Tensor::new([1, BEFORE + WINDOW], window)?;
        let outputs = session.run(&[("input", input)])?;
        found.push(outputs[0].1.values::<f32>()?[0]);
    }
    compare(&found, &expected()?)
}

#[test]
fn a_whole_recording_is_heard_at_once() -> Result<()> {
    let windows = windows()?;
    let (mut session, _) = session("silero_vad_16k_sequence.onnx", None)?;
    let zero = Tensor::new([1, 1, 128], vec![0.0_f32; 128])?;
    let input = Tensor::new([windows.len(), BEFORE + WINDOW], windows.concat())?;
    let outputs = session.run(&[("input", input), ("h", zero.clone()), ("c", zero)])?;
    compare(outputs[0].1.values::<f32>()?, &expected()?)
}

#[test]
fn the_interpreter_runs_the_branches_as_well() -> Result<()> {
    let graph = Model::load(shared("models/silero_vad_op18_ifless.onnx"))?.graph;
    let mut state = Tensor::new([2, 1, 128], vec![0.0_f32; 256])?;
    let mut found = Vec::new();
    for window in windows()?.into_iter().take(3) {
        let input = Tensor::new([1, BEFORE + WINDOW], window)?;
        let rate = Tensor::scalar(16_000_i64);
        let outputs = interpret(&graph, &[("input", input), ("sr", rate), ("state", state)])?;
        found.push(outputs[0].values::<f32>()?[0]);
        state = outputs[1].clone();
    }
    compare(&found, &expected()?[..3])
}
