//! A thousand damaged copies of an own model and of its plan: each ends in an error or a whole run, soon.

use crate::bodies;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::models;
use octofold::Model;
use octofold::ir::onnx::{ImportOptions, import_bytes};
use octofold::ir::testing::Random;
use octofold::runtime::{Plan, Session, SessionOptions};
use octofold::tensor::{DType, Tensor};

/// What one damaged file may take, in a build without optimization of the whole and on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// How a thousand damaged files end.
#[derive(Default)]
struct Ends {
    refused: usize,
    ran: usize,
}

/// A copy with up to four bytes changed, or cut off.
fn damaged(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    if random.one_in(4) {
        return bytes[..random.below(bytes.len())].to_vec();
    }
    let mut copy = bytes.to_vec();
    for _ in 0..=random.below(4) {
        // Half of the places are in the first part, which holds what is not weights.
        let reach = if random.one_in(2) {
            copy.len().min(4096)
        } else {
            copy.len()
        };
        let at = random.below(reach);
        copy[at] = match random.below(3) {
            0 => random.bits() as u8,
            1 => copy[at] ^ 1 << random.below(8),
            _ => 0xff,
        };
    }
    copy
}

fn thousand(bytes: &[u8], end: impl Fn(Vec<u8>) -> bool) -> Ends {
    let mut random = Random::new(2024);
    let mut ends = Ends::default();
    for index in 0..1000 {
        let copy = damaged(&mut random, bytes);
        let begun = Instant::now();
        if end(copy) {
            ends.ran += 1;
        } else {
            ends.refused += 1;
        }
        assert!(
            begun.elapsed() < SOON,
            "file {index} took {:?}",
            begun.elapsed()
        );
    }
    ends
}

/// Runs a plan on zeros of the model's own input; tells whether it came to its end.
fn runs(plan: Plan) -> bool {
    let options = SessionOptions {
        threads: 1,
        memory: 256 << 20,
        ..SessionOptions::DEFAULT
    };
    let Ok(mut session) = Session::new(Arc::new(plan), options) else {
        return false;
    };
    let image = Tensor::zeros(DType::F32, [1, 1, 28, 28]).expect("a small tensor");
    session.run(&[("input", image)]).is_ok()
}

#[test]
fn damaged_models_end_in_an_error_or_a_run() {
    let bytes = std::fs::read(models("fashion_resnet.onnx")).expect("the own model");
    let ends = thousand(&bytes, |copy| {
        let Ok(graph) = import_bytes(copy, None, &ImportOptions::default()) else {
            return false;
        };
        let lowered = octofold::lower(&graph);
        lowered.is_ok_and(|(lowered, _)| octofold::compile(&lowered).is_ok_and(runs))
    });
    assert!(
        ends.refused > 300 && ends.ran > 100,
        "{} refused, {} ran",
        ends.refused,
        ends.ran
    );
}

#[test]
fn damaged_plans_end_in_an_error_or_a_run() {
    let model = Model::load(models("fashion_resnet.onnx")).expect("the own model");
    let (lowered, _) = octofold::lower(&model.graph).expect("a sound graph");
    let plan = octofold::compile(&lowered).expect("a lowered graph");
    let file = plan.to_bytes().expect("a plan");
    let ends = thousand(&file, |copy| Plan::from_bytes(&copy).is_ok_and(runs));
    // Only a change that changes nothing passes the checksums.
    assert!(
        ends.refused > 950,
        "{} refused, {} ran",
        ends.refused,
        ends.ran
    );
    // With right checksums, what the checks behind them let pass is run.
    let ends = thousand(&bodies::unsigned(&plan), |copy| {
        Plan::from_bytes(&bodies::sign(&copy)).is_ok_and(runs)
    });
    assert!(
        ends.refused > 300 && ends.ran > 100,
        "{} refused, {} ran",
        ends.refused,
        ends.ran
    );
}
