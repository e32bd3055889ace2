//! Values that a session keeps between runs.

mod support;

use std::sync::Arc;

use octofold_codegen::{CodegenError, CodegenOptions, State, compile};
use octofold_ir::{Graph, text};
use octofold_runtime::{
    ConstantIndex, Plan, PlanError, PlanParts, RunError, Session, SessionOptions, StateFault,
    StateSlot, TensorView, TensorViewMut,
};
use octofold_tensor::{DType, Tensor};
use support::session;

/// A decaying sum, and how many runs there were.
const SUM: &str = "
<ir_version: 10, opset_import: [\"\" : 21]>
sum (float[3] x, float[3] sum, int64[1] runs) => (float[3] y, float[3] next, int64[1] count)
< float[1] decay = {0.9375}, float[1] half = {0.5}, int64[1] one = {1} >
{
  kept = Mul (sum, decay)
  next = Add (kept, x)
  y = Mul (next, half)
  count = Add (runs, one)
}";

fn graph() -> Graph {
    text::parse(SUM, None).unwrap()
}

fn states() -> Vec<State> {
    State::declared("next=sum\n count=runs").unwrap()
}

fn compiled(states: Vec<State>) -> Result<Arc<Plan>, CodegenError> {
    let options = CodegenOptions {
        states,
        ..CodegenOptions::default()
    };
    let plan = compile(&graph(), &options)?;
    let read = Plan::from_bytes(&plan.to_bytes()?)?;
    assert_eq!(read, plan);
    Ok(Arc::new(read))
}

/// What goes in at a run.
fn x(run: usize) -> [f32; 3] {
    let value = |i: usize| ((run * 37 + i * 101) % 113) as f32 / 7.0 - 8.0;
    [value(0), value(1), value(2)]
}

/// The graph as a loop: `y` of each of so many runs.
fn expected(runs: usize, mut sum: [f32; 3]) -> Vec<[f32; 3]> {
    let step = |run| {
        let x = x(run);
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum = *sum * 0.9375 + x;
        }
        sum.map(|sum| sum * 0.5)
    };
    (0..runs).map(step).collect()
}

fn run(session: &mut Session, run: usize) -> Vec<f32> {
    let outputs = session
        .run(&[("x", Tensor::vector(x(run).to_vec()))])
        .unwrap();
    outputs[0].1.values::<f32>().unwrap().to_vec()
}

fn count(session: &Session) -> i64 {
    session.state()[1].1.values::<i64>().unwrap()[0]
}

#[test]
fn a_state_goes_from_run_to_run_and_from_session_to_session() {
    let plan = compiled(states()).unwrap();
    let expected = expected(1000, [0.0; 3]);
    let mut first = session(&plan);
    for (i, expected) in expected[..500].iter().enumerate() {
        assert_eq!(run(&mut first, i), expected, "run {i}");
    }
    let saved = first.state();
    assert_eq!(saved[0].0, "sum");
    assert_eq!(count(&first), 500);
    // What is saved stays what it is, while its session goes on.
    run(&mut first, 0);
    let mut second = session(&plan);
    let saved: Vec<_> = saved
        .iter()
        .map(|(name, state)| (name.as_str(), state.clone()))
        .collect();
    second.restore_state(&saved).unwrap();
    for (i, expected) in expected.iter().enumerate().skip(500) {
        assert_eq!(run(&mut second, i), expected, "run {i}");
    }
    assert_eq!(count(&second), 1000);
    second.reset_state().unwrap();
    assert_eq!(run(&mut second, 0), expected[0]);
    assert_eq!(count(&second), 1);
}

#[test]
fn states_start_from_what_is_given() {
    let mut states = states();
    states[0].initial = Some(Tensor::vector(vec![1.0_f32, -2.0, 0.25]));
    let plan = compiled(states).unwrap();
    let expected = expected(3, [1.0, -2.0, 0.25]);
    let mut session = session(&plan);
    for round in 0..2 {
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(run(&mut session, i), expected, "run {i}, round {round}");
        }
        session.reset_state().unwrap();
    }
    // A state that is given as an input is read in the place of the session's.
    let given = [
        ("x", Tensor::vector(vec![0.0_f32; 3])),
        ("sum", Tensor::vector(vec![16.0_f32; 3])),
    ];
    let outputs = session.run(&given).unwrap();
    assert_eq!(outputs[0].1.values::<f32>().unwrap(), [7.5; 3]);
    assert_eq!(session.state()[0].1.values::<f32>().unwrap(), [15.0; 3]);
}

/// Two buffers are enough: a run writes what the run before has read.
#[test]
fn states_are_not_copied() {
    let plan = compiled(states()).unwrap();
    let mut session = session(&plan);
    let mut places = Vec::new();
    for i in 0..8 {
        run(&mut session, i);
        places.push(session.state()[0].1.values::<f32>().unwrap().as_ptr() as usize);
    }
    for (i, place) in places.iter().enumerate().skip(3) {
        assert_eq!(*place, places[i - 2], "run {i}");
        assert_ne!(*place, places[i - 1], "run {i}");
    }
}

/// On borrowed memory, states are neither given nor taken.
#[test]
fn states_go_on_with_borrowed_memory() {
    let plan = compiled(states()).unwrap();
    let expected = expected(50, [0.0; 3]);
    let mut session = session(&plan);
    for (i, expected) in expected.iter().enumerate() {
        let x: Vec<u8> = x(i).iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut y = [0; 12];
        let input = TensorView::new(DType::F32, &[3], &x).unwrap();
        let output = TensorViewMut::new(DType::F32, &[3], &mut y).unwrap();
        session.run_into(&[input], &mut [output]).unwrap();
        let found = y
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes));
        assert!(found.eq(*expected), "run {i}");
    }
    assert_eq!(count(&session), 50);
}

#[test]
fn an_error_leaves_the_states_as_they_were() {
    let plan = compiled(states()).unwrap();
    let mut session = session(&plan);
    run(&mut session, 0);
    let before = session.state();
    assert!(
        session
            .run(&[("x", Tensor::vector(vec![0.0_f32; 4]))])
            .is_err()
    );
    let sum = || Tensor::vector(vec![0.0_f32; 3]);
    let runs = || Tensor::vector(vec![0_i64]);
    let cases = [
        (vec![("sum", sum())], "runs", StateFault::Missing),
        (
            vec![("sum", sum()), ("sum", sum()), ("runs", runs())],
            "sum",
            StateFault::Twice,
        ),
        (
            vec![("next", sum())],
            "next",
            StateFault::Unknown {
                known: "`sum`, `runs`".to_owned(),
            },
        ),
        (
            vec![("sum", runs()), ("runs", runs())],
            "sum",
            StateFault::Type {
                found: DType::I64,
                expected: DType::F32,
            },
        ),
        (
            vec![("sum", Tensor::vector(vec![0.0_f32; 2])), ("runs", runs())],
            "sum",
            StateFault::Shape {
                found: vec![2],
                expected: vec![3],
            },
        ),
    ];
    for (states, name, fault) in cases {
        match session.restore_state(&states) {
            Err(RunError::State {
                name: found,
                fault: other,
            }) => {
                assert_eq!((found.as_str(), &other), (name, &fault));
            }
            other => panic!("{other:?} instead of {fault}"),
        }
        assert_eq!(session.state(), before);
    }
}

#[test]
fn states_that_do_not_fit_the_graph_are_refused() {
    for (declared, reason) in [
        ("next=nothing", "no input `nothing`; it has x, sum, runs"),
        ("nothing=sum", "no output `nothing`; it has y, next, count"),
        ("count=sum", "takes output `count` of another type or shape"),
        ("next=sum\ny=sum", "state `sum` is declared twice"),
        ("next", "is not OUTPUT=INPUT"),
    ] {
        let error = State::declared(declared)
            .and_then(compiled)
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
    let symbols = SUM.replace("[3]", "[N]");
    let options = CodegenOptions {
        states: states(),
        ..CodegenOptions::default()
    };
    let error = compile(&text::parse(&symbols, None).unwrap(), &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("state `sum` has sizes that are not known"),
        "{error}"
    );
}

#[test]
fn hostile_states_are_refused() {
    let plan = compiled(states()).unwrap();
    let with = |states: Vec<StateSlot>| {
        let parts = PlanParts {
            states,
            ..plan.parts().clone()
        };
        match Plan::new(parts) {
            Err(PlanError::Inconsistent(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let slot = |input, output| StateSlot {
        input,
        output,
        initial: None,
    };
    assert!(with(vec![slot(3, 1)]).contains("input 3, which does not exist"));
    assert!(with(vec![slot(1, 3)]).contains("output 3, which does not exist"));
    assert!(with(vec![slot(1, 2)]).contains("another type or shape"));
    assert!(with(vec![slot(1, 1), slot(1, 0)]).contains("declared twice"));
    for initial in [0, 99] {
        let initial = Some(ConstantIndex(initial));
        let wrong = StateSlot {
            initial,
            ..slot(1, 1)
        };
        assert!(with(vec![wrong]).contains("no initial values of its type and shape"));
    }
}

#[test]
fn states_count_against_the_budget_and_stand_in_the_text() {
    let large = SUM.replace("[3]", "[1000000]");
    let options = CodegenOptions {
        states: states(),
        ..CodegenOptions::default()
    };
    let plan = Arc::new(compile(&text::parse(&large, None).unwrap(), &options).unwrap());
    let within = |memory| SessionOptions {
        threads: 1,
        memory,
        ..SessionOptions::DEFAULT
    };
    let error = Session::new(Arc::clone(&plan), within(1 << 20)).unwrap_err();
    assert!(matches!(error, RunError::Budget { .. }), "{error}");
    assert!(Session::new(plan, within(1 << 30)).is_ok());
    let text = compiled(states()).unwrap().to_text();
    assert!(
        text.contains("state %sum = zeros, then output next"),
        "{text}"
    );
}
