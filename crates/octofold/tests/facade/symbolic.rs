//! Plans with open dimensions: one plan for all sizes, the memory of the sizes that were seen, and results whose size depends on data.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::ir::{Graph, interpret, text};
use octofold::runtime::{Core, Session, SessionOptions};
use octofold::tensor::{Shape, Tensor};

fn graph(text: &str) -> Result<Graph> {
    text::parse(text, None).context(text.to_owned())
}

fn session(graph: &Graph) -> Result<Session> {
    let plan = octofold::compile(&octofold::lower(graph)?.0)?;
    Ok(Session::new(Arc::new(plan), SessionOptions::default())?)
}

fn counting(shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values = (0..count).map(|i| (i * 31 % 97) as f32 / 16.0 - 3.0);
    Ok(Tensor::new(shape.iter().copied(), values.collect())?)
}

/// A pyramid: a pooled image is enlarged again and added to the one before, which nobody can know to have the same size before both are there.
const PYRAMID: &str = "<ir_version: 10, opset_import: [\"\" : 21]> g (float[N,4,H,W] x) => (y)
    <float[4] factors = {1,1,2,2}> {
        small = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)
        large = Resize <coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> (small, , factors)
        y = Add (x, large)
    }";

#[test]
fn one_plan_serves_all_sizes() -> Result<()> {
    let graph = graph(PYRAMID)?;
    let mut session = session(&graph)?;
    let kernels: Vec<Core> = session
        .plan()
        .steps()
        .iter()
        .map(|step| step.kernel.core())
        .collect();
    ensure!(!kernels.contains(&Core::Portable), "{}", session.plan());
    for shape in [[1, 4, 4, 6], [3, 4, 8, 2], [1, 4, 4, 6], [2, 4, 2, 2]] {
        let inputs = [("x", counting(&shape)?)];
        let expected = interpret(&graph, &inputs)?;
        ensure!(session.run(&inputs)?[0].1 == expected[0], "{shape:?}");
    }
    let odd = session.run(&[("x", counting(&[1, 4, 5, 4])?)]);
    ensure!(odd.is_err(), "5 rows and 4 rows do not add up");
    Ok(())
}

#[test]
fn sizes_are_remembered_within_bounds() -> Result<()> {
    let mut session = session(&graph(PYRAMID)?)?;
    let shape = |height: usize| [Shape::from_slice(&[1, 4, height, 4])];
    let first = session.specialize(&shape(2))?;
    ensure!(Arc::ptr_eq(&first, &session.specialize(&shape(2))?));
    for height in (4..20).step_by(2) {
        session.specialize(&shape(height))?;
    }
    ensure!(
        Arc::ptr_eq(&first, &session.specialize(&shape(2))?),
        "forgotten too soon"
    );
    let weak = Arc::downgrade(&first);
    drop(first);
    for height in (20..220).step_by(2) {
        session.specialize(&shape(height))?;
    }
    ensure!(weak.upgrade().is_none(), "a hundred sizes are remembered");
    Ok(())
}

#[test]
fn results_may_depend_on_data() -> Result<()> {
    let nonzero = graph(
        "<ir_version: 10, opset_import: [\"\" : 21]> g (float[N,3] x) => (y, z)
        <int64[1] first = {0}> {
            positive = Relu (x)
            places = NonZero (positive)
            y = Transpose <perm = [1,0]> (places)
            rows = Gather <axis = 0> (places, first)
            flat = Squeeze (rows, first)
            picked = Gather <axis = 0> (x, flat)
            z = Relu (picked)
        }",
    )?;
    let mut run = session(&nonzero)?;
    for (values, count) in [
        (vec![-1.0_f32, 2.0, 3.0, -4.0, -5.0, 6.0], 3),
        (vec![-1.0; 6], 0),
    ] {
        let inputs = [("x", Tensor::new([2, 3], values)?)];
        let found = run.run(&inputs)?;
        let expected = interpret(&nonzero, &inputs)?;
        ensure!(found[0].1 == expected[0] && found[1].1 == expected[1]);
        ensure!(found[0].1.shape() == [count, 2] && found[1].1.shape() == [count, 3]);
    }

    let suppression = graph(
        "<ir_version: 10, opset_import: [\"\" : 21]> g (float[1,B,4] boxes, float[1,1,B] scores) => (selected)
        <int64 most = {10}, float overlap = {0.5}, float least = {0.1}> {
            sure = Sigmoid (scores)
            selected = NonMaxSuppression (boxes, sure, most, overlap, least)
        }",
    )?;
    let mut run = session(&suppression)?;
    let boxes = vec![
        0.0_f32, 0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 1.9, 5.0, 5.0, 6.0, 6.0,
    ];
    for (scores, expected) in [
        (vec![1.0_f32, 2.0, -0.5], vec![0_i64, 0, 1, 0, 0, 2]),
        (vec![-9.0; 3], vec![]),
    ] {
        let inputs = [
            ("boxes", Tensor::new([1, 3, 4], boxes.clone())?),
            ("scores", Tensor::new([1, 1, 3], scores)?),
        ];
        let found = run.run(&inputs)?.remove(0).1;
        ensure!(found.values::<i64>()? == expected, "{found:?}");
    }
    Ok(())
}
