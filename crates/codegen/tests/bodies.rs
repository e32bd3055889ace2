//! Plans with bodies give what the interpreter gives, survive a file, and stay within their limits.

use std::sync::Arc;

use octofold_codegen::{CodegenOptions, compile};
use octofold_ir::{Graph, interpret, text};
use octofold_runtime::{Engine, Plan, RunError, Session, SessionOptions, StepError};
use octofold_tensor::Tensor;

fn graph(source: &str) -> Graph {
    text::parse(source, None).unwrap_or_else(|error| panic!("{error}\n{source}"))
}

fn plan(graph: &Graph) -> Plan {
    compile(graph, &CodegenOptions::default()).unwrap()
}

fn options() -> SessionOptions {
    SessionOptions {
        threads: 1,
        allow_portable: true,
        ..SessionOptions::DEFAULT
    }
}

/// A loop whose body has kernels, a portable step, a capture and another body; the state grows or keeps its size.
const NESTED: &str = "
nested (int64 n, bool c, float[1,4] start, float[4,4] w, float[N,4] rows) => (last, all, chosen, sums)
{
  [loop] last, all = Loop <body = step (int64 trip, bool go, float[1,4] state) => (go, next, shown) {
      product = MatMul (state, w)
      next = If <then_branch = t () => (a) { a = Sigmoid (product) },
                 else_branch = e () => (b) { b = Add (product, state) }> (c)
      shown = Erf (next)
    }> (n, \"\", start)
  [grow] chosen = Loop <body = longer (int64 trip, bool go, float[1,4] state) => (go, next) {
      next = Concat <axis = 0> (state, start)
    }> (n, \"\", start)
  [scan] end, sums = Scan <num_scan_inputs = 1, body = add (float[4] sum, float[4] row) => (next, next2) {
      next = Add (sum, row)
      next2 = Relu (next)
    }> (zero, rows)
}";

fn nested() -> Graph {
    graph(&NESTED.replace(
        "{\n  [loop]",
        "< float[4] zero = {0.0, 0.0, 0.0, 0.0} >\n{\n  [loop]",
    ))
}

fn inputs(trips: i64, condition: bool) -> Vec<(&'static str, Tensor)> {
    let numbers = |count: usize, step: f32| (0..count).map(|i| (i as f32).sin() * step).collect();
    vec![
        ("n", Tensor::scalar(trips)),
        ("c", Tensor::scalar(condition)),
        ("start", Tensor::new([1, 4], numbers(4, 1.0)).unwrap()),
        ("w", Tensor::new([4, 4], numbers(16, 0.5)).unwrap()),
        ("rows", Tensor::new([3, 4], numbers(12, 2.0)).unwrap()),
    ]
}

fn close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape());
    let pairs = found.values::<f32>().unwrap().iter();
    for (x, y) in pairs.zip(expected.values::<f32>().unwrap()) {
        assert!(
            (x - y).abs() <= 1e-6 * (1.0 + y.abs()),
            "{x} instead of {y}"
        );
    }
}

#[test]
fn plans_give_what_the_interpreter_gives() {
    let graph = nested();
    for engine in Engine::ALL {
        let options = CodegenOptions {
            engine,
            ..CodegenOptions::default()
        };
        let bytes = compile(&graph, &options).unwrap().to_bytes().unwrap();
        let read = Plan::from_bytes(&bytes).unwrap();
        assert_eq!(read.to_bytes().unwrap(), bytes);
        let mut session = Session::new(Arc::new(read), self::options()).unwrap();
        // Again and again: the memory of bodies is used again.
        for trips in [0, 1, 2, 7, 7, 3] {
            for condition in [true, false] {
                let inputs = inputs(trips, condition);
                let expected = interpret(&graph, &inputs).unwrap();
                let found = session.run(&inputs).unwrap();
                for ((_, found), expected) in found.iter().zip(&expected) {
                    close(found, expected);
                }
            }
        }
    }
}

#[test]
fn a_plan_without_its_bodies_is_refused() {
    let mut parts = plan(&nested()).parts().clone();
    parts.bodies.pop();
    let error = Plan::new(parts).unwrap_err().to_string();
    assert!(error.contains("body 2 does not exist"), "{error}");
}

/// What a run ends in, inside of the bodies.
fn refused(plan: &Arc<Plan>, options: SessionOptions, inputs: &[(&str, Tensor)]) -> RunError {
    let mut session = Session::new(Arc::clone(plan), options).unwrap();
    let mut error = session.run(inputs).unwrap_err();
    while let RunError::Step { source, .. } = error {
        match *source {
            StepError::Body(inner) => error = *inner,
            other => panic!("{other}"),
        }
    }
    error
}

#[test]
fn bodies_without_end_reach_the_limits() {
    let source = "g (int64 n, float[1024] x) => (y, all) {
       y, all = Loop <body = step (int64 trip, bool go, float[1024] state) => (go, next, shown) {
         next = Relu (state)
         shown = Sigmoid (state)
       }> (n, \"\", x)
     }";
    let plan = Arc::new(plan(&graph(source)));
    let inputs = [
        ("n", Tensor::scalar(1_i64 << 62)),
        ("x", Tensor::vector(vec![1.0_f32; 1024])),
    ];
    let few = SessionOptions {
        operations: 1 << 20,
        ..options()
    };
    assert!(
        matches!(refused(&plan, few, &inputs), RunError::Operations(limit) if limit == 1 << 20)
    );
    let small = SessionOptions {
        memory: 1 << 20,
        ..options()
    };
    let mut session = Session::new(Arc::clone(&plan), small).unwrap();
    let error = session.run(&inputs).unwrap_err().to_string();
    assert!(
        error.contains("bytes") || error.contains("elements"),
        "{error}"
    );
    // A body that gives a state of another size where the plan has a fixed one is an error, and no harm.
    let mut session = Session::new(plan, options()).unwrap();
    let inputs = [("n", Tensor::scalar(3_i64)), inputs[1].clone()];
    assert_eq!(session.run(&inputs).unwrap()[1].1.shape(), [3, 1024]);
}

/// Branches that read the same weights, in other bodies too, share them in the plan.
#[test]
fn constants_of_several_bodies_are_stored_once() {
    let weights: Vec<String> = (0..4096).map(|i| format!("{}.5", i % 37)).collect();
    let weights = weights.join(", ");
    let graph = graph(&format!(
        "g (bool c, float[1,64] x) => (y)
        {{
          y = If <then_branch = t () => (a) <float[64,64] w = {{{weights}}}> {{ a = MatMul (x, w) }},
                  else_branch = e () => (b) {{
                      b = If <then_branch = tt () => (p) <float[64,64] v = {{{weights}}}> {{ p = MatMul (x, v) }},
                              else_branch = ee () => (q) <float[64,64] u = {{{weights}}}> {{
                                  m = MatMul (x, u)
                                  q = Relu (m)
                              }}> (c)
                  }}> (c)
        }}"
    ));
    let plan = plan(&graph);
    let bytes = 4096 * 4;
    assert!(
        (bytes..2 * bytes).contains(&plan.weight_bytes()),
        "{}",
        plan.weight_bytes()
    );
    let plan = Plan::from_bytes(&plan.to_bytes().unwrap()).unwrap();
    let x: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
    let mut session = Session::new(Arc::new(plan), options()).unwrap();
    for condition in [true, false] {
        let inputs = [
            ("c", Tensor::scalar(condition)),
            ("x", Tensor::new([1, 64], x.clone()).unwrap()),
        ];
        let found = session.run(&inputs).unwrap();
        let expected = interpret(&graph, &inputs).unwrap();
        let pairs = found[0].1.values::<f32>().unwrap().iter();
        for (a, b) in pairs.zip(expected[0].values::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-3, "{condition}: {a}, not {b}");
        }
    }
}
