//! `Session::run_into`: the bits of `Session::run` on memory that the caller lends, and nothing allocated.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use octofold::ir::text;
use octofold::runtime::RunError;
use octofold::tensor::DType;
use octofold::{Session, SessionOptions, Tensor, TensorView, TensorViewMut};

use crate::common::{MODELS, images, plan, quantized};

const OPTIONS: SessionOptions = SessionOptions {
    threads: 1,
    isa: None,
    allow_portable: true,
    ..SessionOptions::DEFAULT
};

fn text_session(source: &str) -> Result<Session> {
    let graph = text::parse(source, None).context(source.to_owned())?;
    let plan = octofold::compile(&octofold::lower(&graph)?.0)?;
    Ok(Session::new(Arc::new(plan), OPTIONS)?)
}

#[test]
fn borrowed_memory_gets_the_bits_of_a_run() -> Result<()> {
    for name in MODELS {
        let mut session = Session::new(plan(&quantized(name, Some(16))?)?, OPTIONS)?;
        // One size, another, and the first again.
        for count in [1, 3, 1] {
            let image = images(count)?;
            let expected = session.run(&[("input", image.clone())])?.remove(0).1;
            let mut logits = vec![f32::NAN; expected.len()];
            for _ in 0..2 {
                let input = TensorView::of(image.shape(), image.values::<f32>()?)?;
                let output = TensorViewMut::of(expected.shape(), &mut logits)?;
                session.run_into(&[input], &mut [output])?;
                ensure!(
                    logits == expected.values::<f32>()?,
                    "{name}, {count} images"
                );
                logits.fill(f32::NAN);
            }
        }
    }
    Ok(())
}

/// Integers, truth values, an input that is an output, and a constant that is one.
#[test]
fn all_types_can_be_lent() -> Result<()> {
    let mut session = text_session(
        "<ir_version: 10, opset_import: [\"\" : 21]> g (int64[2] a, bool[2] b, int64[2] shape) => (c, d, a, k)
        <int32[1] k = {7}> {
            c = Add (a, shape)
            d = Not (b)
        }",
    )?;
    let (mut sum, mut not, mut same, mut constant) = ([0_i64; 2], [9_u8; 2], [0_i64; 2], [0_i32]);
    for a in [[1_i64, -2], [1 << 40, 5]] {
        let inputs = [
            TensorView::of(&[2], &a)?,
            TensorView::new(DType::Bool, &[2], &[1, 0])?,
            TensorView::of(&[2], &[10_i64, 20])?,
        ];
        let mut outputs = [
            TensorViewMut::of(&[2], &mut sum)?,
            TensorViewMut::new(DType::Bool, &[2], &mut not)?,
            TensorViewMut::of(&[2], &mut same)?,
            TensorViewMut::of(&[1], &mut constant)?,
        ];
        session.run_into(&inputs, &mut outputs)?;
        ensure!(
            sum == [a[0] + 10, a[1] + 20] && not == [0, 1],
            "{sum:?} {not:?}"
        );
        ensure!(same == a && constant == [7], "{same:?} {constant:?}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let mut session = text_session(
        "<ir_version: 10, opset_import: [\"\" : 21]> g (float[N,2] x) => (y) { y = Relu (x) }",
    )?;
    let (values, mut place) = ([1.0_f32, -1.0], [0.0_f32; 2]);
    let wrong = TensorView::of(&[2, 2], &values).err();
    ensure!(wrong.map(|error| error.code()) == Some("run-view"));
    let wrong = TensorView::new(DType::F32, &[usize::MAX, 8], &[]).err();
    ensure!(wrong.map(|error| error.code()) == Some("run-view"));
    let mut code = |input: &[TensorView<'_>], outputs: &mut [TensorViewMut<'_>]| {
        session
            .run_into(input, outputs)
            .err()
            .map(|error| error.code())
    };
    let input = TensorView::of(&[1, 2], &values)?;
    ensure!(code(&[], &mut []) == Some("run-count"));
    ensure!(code(&[input], &mut []) == Some("run-count"));
    let integers = TensorView::of(&[1, 2], &[1_i32, 2])?;
    let mut output = [TensorViewMut::of(&[1, 2], &mut place)?];
    ensure!(code(&[integers], &mut output) == Some("run-input"));
    let flat = TensorView::of(&[2], &values)?;
    ensure!(code(&[flat], &mut output).is_some(), "an axis is missing");
    ensure!(code(&[input], &mut output).is_none());
    let mut turned = [TensorViewMut::of(&[2, 1], &mut place)?];
    ensure!(code(&[input], &mut turned) == Some("run-output"));
    ensure!(place == [0.0, 0.0] || place == [1.0, 0.0]);
    let mut bytes = [0_u8; 2];
    let mut bytes = [TensorViewMut::of(&[1, 2], &mut bytes)?];
    ensure!(code(&[input], &mut bytes) == Some("run-output"));
    Ok(())
}

/// From the second run on, a plan of kernels allocates nothing.
#[test]
fn nothing_is_allocated_for_kernels() -> Result<()> {
    let mut session = Session::new(plan(&quantized(MODELS[0], Some(16))?)?, OPTIONS)?;
    let image: Tensor = images(1)?;
    let mut logits = [0.0_f32; 10];
    let mut failed: Option<RunError> = None;
    let mut run = |session: &mut Session| {
        let input = TensorView::of(image.shape(), image.values::<f32>().unwrap_or(&[]));
        let output = TensorViewMut::of(&[1, 10], &mut logits);
        let done = input.and_then(|input| session.run_into(&[input], &mut [output?]));
        failed = done.err();
    };
    run(&mut session);
    let counted = allocation_counter::measure(|| (0..5).for_each(|_| run(&mut session)));
    ensure!(failed.is_none(), "{failed:?}");
    ensure!(
        counted.count_total == 0,
        "{} allocations",
        counted.count_total
    );
    Ok(())
}

/// The allocations of a run on a row and a number, after the first runs.
fn allocations(session: &mut Session, number: i64) -> Result<u64> {
    let (x, mut y) = ([0.5_f32, -1.0, 2.0, 0.25], [0.0_f32; 4]);
    let mut failed: Option<RunError> = None;
    let mut run = || {
        let numbers = [number];
        let inputs = [TensorView::of(&[1, 4], &x), TensorView::of(&[], &numbers)];
        let output = TensorViewMut::of(&[1, 4], &mut y);
        let done = inputs.into_iter().collect::<Result<Vec<_>, _>>();
        let done = done.and_then(|inputs| session.run_into(&inputs, &mut [output?]));
        failed = done.err();
    };
    (0..2).for_each(|_| run());
    let counted = allocation_counter::measure(run);
    ensure!(failed.is_none(), "{failed:?}");
    ensure!(y.iter().all(|&y| y != 0.0), "{y:?}");
    Ok(counted.count_total)
}

/// The body of a loop is a plan of its own: where its sizes are fixed, its steps allocate nothing, however many trips there are.
#[test]
fn trips_of_a_loop_allocate_nothing() -> Result<()> {
    let mut session = text_session(
        "<ir_version: 10, opset_import: [\"\" : 21]> g (float[1,4] x, int64 trips) => (y) <float[1,4] one = {1.0, 1.0, 1.0, 1.0}> {
            y = Loop <body = step (int64 trip, bool go, float[1,4] state) => (go, next) {
                sum = Add (state, one)
                next = Sigmoid (sum)
            }> (trips, \"\", x)
        }",
    )?;
    let few = allocations(&mut session, 4)?;
    ensure!(allocations(&mut session, 400)? == few);
    Ok(())
}

/// So it is for a scan, whose results are stacked into memory that is taken before.
#[test]
fn trips_of_a_scan_allocate_nothing() -> Result<()> {
    let with = |trips: usize| {
        text_session(&format!(
            "<ir_version: 10, opset_import: [\"\" : 21]> g (float[1,4] x, int64 trips) => (y) {{
                shape = Constant <value = int64[2] {{{trips}, 4}}> ()
                rows = Expand (x, shape)
                y, all = Scan <num_scan_inputs = 1, body = step (float[1,4] state, float[4] row) => (next, copy) {{
                    next = Mul (state, row)
                    copy = Sigmoid (next)
                }}> (x, rows)
            }}"
        ))
    };
    let (mut short, mut long) = (with(4)?, with(40)?);
    ensure!(allocations(&mut long, 0)? == allocations(&mut short, 0)?);
    Ok(())
}

/// The step that runs a branch allocates its results, and the steps of the branch allocate nothing.
#[test]
fn steps_of_a_branch_allocate_nothing() -> Result<()> {
    let with = |steps: usize| {
        let chain = |name: &str, function: &str| {
            let each = (1..=steps).map(|i| format!("{name}{i} = {function} ({name}{})\n", i - 1));
            each.collect::<String>()
        };
        let (yes, no) = (chain("a", "Sigmoid"), chain("b", "Softplus"));
        text_session(&format!(
            "<ir_version: 10, opset_import: [\"\" : 21]> g (float[1,4] x, int64 number) => (y) {{
                c = Cast <to = 9> (number)
                y = If <then_branch = yes () => (a{steps}) {{ a0 = Tanh (x)\n{yes} }},
                        else_branch = no () => (b{steps}) {{ b0 = Erf (x)\n{no} }}> (c)
            }}"
        ))
    };
    let (mut short, mut long) = (with(2)?, with(20)?);
    for number in [0, 1] {
        let few = allocations(&mut short, number)?;
        ensure!(allocations(&mut long, number)? == few, "branch {number}");
    }
    Ok(())
}
