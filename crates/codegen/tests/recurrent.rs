//! Recurrent layers of floats have a kernel, which comes near to the portable operators, whatever the directions, lengths, layout and results.

mod support;

use octofold_codegen::{CodegenOptions, compile};
use octofold_ops::Op;
use octofold_ops::families::{Direction, Gru, Lstm, Rnn};
use octofold_runtime::{Session, SessionOptions};
use octofold_tensor::{DType, Tensor};
use proptest::prelude::*;
use support::{Builder, Exactness, Random, check};

/// The kinds of layers: LSTM, both forms of GRU, RNN.
const KINDS: [&str; 4] = ["lstm", "gru", "gru before", "rnn"];

/// A layer of a kind, the gates of its weights, and its states.
fn layer(kind: &str, direction: Direction, layout: bool, clip: Option<f32>) -> (Op, usize, usize) {
    let (activation_alpha, activation_beta) = (Vec::new(), Vec::new());
    match kind {
        "lstm" => {
            let names = ["sigmoid", "TANH", "Tanh"].repeat(direction.count());
            let op = Lstm {
                activation_alpha,
                activation_beta,
                // The names of the functions that it has by default.
                activations: names.into_iter().map(str::to_owned).collect(),
                clip,
                direction,
                hidden_size: None,
                input_forget: false,
                layout,
            };
            (op.into(), 4, 2)
        }
        "rnn" => {
            let op = Rnn {
                activation_alpha,
                activation_beta,
                activations: Vec::new(),
                clip,
                direction,
                hidden_size: None,
                layout,
            };
            (op.into(), 1, 1)
        }
        _ => {
            let op = Gru {
                activation_alpha,
                activation_beta,
                activations: Vec::new(),
                clip,
                direction,
                hidden_size: None,
                layout,
                linear_before_reset: kind == "gru before",
            };
            (op.into(), 3, 1)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_agree_with_the_portable_operators(
        kind in prop::sample::select(&KINDS[..]),
        direction in prop::sample::select(&[Direction::Forward, Direction::Reverse, Direction::Bidirectional][..]),
        (steps, batch, input, hidden) in (1_usize..100, 1_usize..4, 1_usize..20, 1_usize..36),
        (layout, biased, lengths, initial) in any::<(bool, bool, bool, bool)>(),
        results in 1_usize..4,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let (op, gates, states) = layer(kind, direction, layout, None);
        let directions = direction.count();
        let shape = if layout { [batch, steps, input] } else { [steps, batch, input] };
        let x = builder.input("x", DType::F32, &shape);
        let mut constant = |shape: &[usize]| {
            let mut tensor = random.tensor(DType::F32, shape);
            // Larger weights make a network chaotic: it multiplies what rounding changes.
            let factor = 1.0 / (hidden as f32).sqrt();
            tensor.values_mut::<f32>().expect("floats").iter_mut().for_each(|w| *w *= factor);
            builder.constant(tensor)
        };
        let w = constant(&[directions, gates * hidden, input]);
        let r = constant(&[directions, gates * hidden, hidden]);
        let b = biased.then(|| constant(&[directions, 2 * gates * hidden]));
        let state = if layout { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let mut inputs = vec![("x", random.tensor(DType::F32, &shape))];
        let mut operands = vec![Some(x), Some(w), Some(r), b, None];
        if lengths {
            operands[4] = Some(builder.input("lengths", DType::I32, &[batch]));
            let numbers = (0..batch).map(|_| random.below(steps as u64 + 1) as i32).collect();
            inputs.push(("lengths", Tensor::vector(numbers)));
        }
        for name in &["h", "c"][..if initial { states } else { 0 }] {
            operands.push(Some(builder.input(name, DType::F32, &state)));
            inputs.push((name, random.tensor(DType::F32, &state)));
        }
        // `y`, and the last states.
        match results.min(1 + states) {
            1 => {
                let y = builder.node(op, &operands);
                builder.output(y);
            }
            2 => {
                let all: [_; 2] = builder.results(op, &operands);
                all.into_iter().for_each(|value| builder.output(value));
            }
            _ => {
                let all: [_; 3] = builder.results(op, &operands);
                all.into_iter().for_each(|value| builder.output(value));
            }
        }
        let plan = check(&builder.graph, &inputs, Exactness::Within(2e-5));
        prop_assert_eq!(support::kernels(&plan), ["frecurrent"]);
    }
}

/// What the kernel does not have is computed by the portable operator, and the plan says why.
#[test]
fn other_layers_stay_portable() {
    let mut random = Random::new(1);
    let mut builder = Builder::new();
    let x = builder.input("x", DType::F32, &[5, 2, 3]);
    let [w, r] =
        [[1, 4, 3], [1, 4, 4]].map(|shape| builder.constant(random.tensor(DType::F32, &shape)));
    let (op, ..) = layer("rnn", Direction::Forward, false, Some(0.5));
    let y = builder.node(op, &[Some(x), Some(w), Some(r)]);
    builder.output(y);
    let input = random.tensor(DType::F32, &[5, 2, 3]);
    let plan = check(&builder.graph, &[("x", input)], Exactness::Bits);
    assert_eq!(support::kernels(&plan), ["portable"]);
    assert!(
        plan.steps()[0].note.contains("clips"),
        "{}",
        plan.steps()[0].note
    );
}

/// A sequence has the same bits alone and in a batch with longer ones.
#[test]
fn a_batch_changes_no_sequence() {
    let mut random = Random::new(4);
    let (steps, batch, input, hidden) = (70, 5, 7, 19);
    for kind in KINDS {
        let (op, gates, _) = layer(kind, Direction::Bidirectional, false, None);
        let [w, r, b] = [
            vec![2, gates * hidden, input],
            vec![2, gates * hidden, hidden],
            vec![2, 2 * gates * hidden],
        ]
        .map(|shape| random.tensor(DType::F32, &shape));
        let run = |x: Tensor, lengths: Vec<i32>| {
            let mut builder = Builder::new();
            let x_value = builder.input("x", DType::F32, x.shape());
            let lengths_value = builder.input("lengths", DType::I32, &[lengths.len()]);
            let [w, r, b] = [&w, &r, &b].map(|it| Some(builder.constant(it.clone())));
            let y = builder.node(op.clone(), &[Some(x_value), w, r, b, Some(lengths_value)]);
            builder.output(y);
            let plan = compile(&builder.graph, &CodegenOptions::default()).expect("a plan");
            let mut session =
                Session::new(plan.into(), SessionOptions::default()).expect("a session");
            let inputs = [("x", x), ("lengths", Tensor::vector(lengths))];
            let y = session.run(&inputs).expect("results").swap_remove(0).1;
            y.values::<f32>().expect("floats").to_vec()
        };
        let lengths = [70, 3, 64, 65, 1];
        let x = random.tensor(DType::F32, &[steps, batch, input]);
        let all = run(x.clone(), lengths.to_vec());
        for (row, &length) in lengths.iter().enumerate() {
            let count = length as usize;
            let own = x
                .values::<f32>()
                .expect("floats")
                .chunks_exact(input)
                .skip(row)
                .step_by(batch);
            let own: Vec<f32> = own.take(count).flatten().copied().collect();
            let alone = run(
                Tensor::new([count, 1, input], own).expect("a sequence"),
                vec![length],
            );
            // [steps, directions, batch, hidden]
            let in_batch = all
                .chunks_exact(hidden)
                .skip(row)
                .step_by(batch)
                .take(2 * count);
            let in_batch: Vec<f32> = in_batch.flatten().copied().collect();
            assert_eq!(alone, in_batch, "{kind}, sequence {row}");
        }
    }
}
