//! Recurrent layers against the formulas of ONNX, written down one number at a time.

use octofold_ops::families::{Direction, Gru, Lstm, Rnn};
use octofold_ops::{Inputs, Operator};
use octofold_tensor::Tensor;

/// Numbers without a pattern, in -1..1.
fn some(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0;
    let count = shape.iter().product();
    Tensor::new(shape.iter().copied(), (0..count).map(value).collect()).unwrap()
}

fn plain(direction: Direction) -> Lstm {
    Lstm {
        activation_alpha: Vec::new(),
        activation_beta: Vec::new(),
        activations: Vec::new(),
        clip: None,
        direction,
        hidden_size: None,
        input_forget: false,
        layout: false,
    }
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.values::<f32>().unwrap()
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (f64::from(*a) - b).abs() < 1e-6,
            "{found:?} is not {expected:?}"
        );
    }
}

const STEPS: usize = 4;
const BATCH: usize = 3;
const INPUT: usize = 2;
const HIDDEN: usize = 3;

/// All inputs of a layer, but for the lengths, which are 4, 2 and 0.
fn inputs(directions: usize) -> [Tensor; 8] {
    [
        some(&[STEPS, BATCH, INPUT], 1),
        some(&[directions, 4 * HIDDEN, INPUT], 2),
        some(&[directions, 4 * HIDDEN, HIDDEN], 3),
        some(&[directions, 8 * HIDDEN], 4),
        Tensor::vector(vec![4_i32, 2, 0]),
        some(&[directions, BATCH, HIDDEN], 5),
        some(&[directions, BATCH, HIDDEN], 6),
        some(&[directions, 3 * HIDDEN], 7),
    ]
}

fn run(op: &Lstm, inputs: &[Tensor]) -> Vec<Tensor> {
    let inputs: Vec<_> = inputs.iter().map(Some).collect();
    op.evaluate(Inputs(&inputs), 3).unwrap()
}

/// The formulas of ONNX, one number at a time: `y`, `y_h` and `y_c` in layout 0. `gate` and `cell` are the functions f and g after clipping.
fn formulas(
    inputs: &[Tensor; 8],
    reverse: &[bool],
    gate: fn(f64) -> f64,
    cell: fn(f64) -> f64,
    coupled: bool,
) -> [Vec<f64>; 3] {
    let n = reverse.len();
    let at = |index: usize, place: usize| f64::from(floats(&inputs[index])[place]);
    let mut y = vec![0.0; STEPS * n * BATCH * HIDDEN];
    let mut states = [vec![0.0; n * BATCH * HIDDEN], vec![0.0; n * BATCH * HIDDEN]];
    for (d, &reverse) in reverse.iter().enumerate() {
        for (row, length) in [4, 2, 0].into_iter().enumerate() {
            let place = |unit: usize| (d * BATCH + row) * HIDDEN + unit;
            let mut h: Vec<f64> = (0..HIDDEN).map(|unit| at(5, place(unit))).collect();
            let mut c: Vec<f64> = (0..HIDDEN).map(|unit| at(6, place(unit))).collect();
            for count in 0..length {
                let step = if reverse { length - 1 - count } else { count };
                let before = h.clone();
                for unit in 0..HIDDEN {
                    let sum = |k: usize| {
                        let line = d * 4 * HIDDEN + k * HIDDEN + unit;
                        let x = (0..INPUT)
                            .map(|i| {
                                at(0, (step * BATCH + row) * INPUT + i) * at(1, line * INPUT + i)
                            })
                            .sum::<f64>();
                        let h = (0..HIDDEN)
                            .map(|i| before[i] * at(2, line * HIDDEN + i))
                            .sum::<f64>();
                        let bias = d * 8 * HIDDEN + k * HIDDEN + unit;
                        x + h + at(3, bias) + at(3, bias + 4 * HIDDEN)
                    };
                    let peephole = |k: usize| at(7, d * 3 * HIDDEN + k * HIDDEN + unit);
                    let old = c[unit];
                    let i = gate(sum(0) + peephole(0) * old);
                    let f = if coupled {
                        1.0 - i
                    } else {
                        gate(sum(2) + peephole(2) * old)
                    };
                    c[unit] = f * old + i * cell(sum(3));
                    let o = gate(sum(1) + peephole(1) * c[unit]);
                    h[unit] = o * c[unit].tanh();
                    y[((step * n + d) * BATCH + row) * HIDDEN + unit] = h[unit];
                }
            }
            states[0][place(0)..][..HIDDEN].copy_from_slice(&h);
            states[1][place(0)..][..HIDDEN].copy_from_slice(&c);
        }
    }
    let [h, c] = states;
    [y, h, c]
}

/// The function of the gates by default.
fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn every_direction_follows_the_formulas() {
    for (direction, reverse) in [
        (Direction::Forward, &[false][..]),
        (Direction::Reverse, &[true]),
        (Direction::Bidirectional, &[false, true]),
    ] {
        let inputs = inputs(reverse.len());
        let found = run(&plain(direction), &inputs);
        let expected = formulas(&inputs, reverse, logistic, f64::tanh, false);
        assert_eq!(found[0].shape(), [STEPS, reverse.len(), BATCH, HIDDEN]);
        assert_eq!(found[2].shape(), [reverse.len(), BATCH, HIDDEN]);
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(floats(found), expected);
        }
    }
}

#[test]
fn clip_coupling_and_functions_follow_the_formulas() {
    let inputs = inputs(1);
    let op = Lstm {
        clip: Some(0.5),
        input_forget: true,
        ..plain(Direction::Forward)
    };
    let expected = formulas(
        &inputs,
        &[false],
        |x| logistic(x.clamp(-0.5, 0.5)),
        |x| x.clamp(-0.5, 0.5).tanh(),
        true,
    );
    assert_close(floats(&run(&op, &inputs)[0]), &expected[0]);

    // A parameter goes to the first function that has one.
    let op = Lstm {
        activations: ["hardsigmoid", "LEAKYRELU", "Tanh"]
            .map(str::to_owned)
            .to_vec(),
        activation_alpha: vec![0.25],
        ..plain(Direction::Reverse)
    };
    let expected = formulas(
        &inputs,
        &[true],
        |x| (0.25 * x + 0.5).clamp(0.0, 1.0),
        |x| if x < 0.0 { f64::from(0.01_f32) * x } else { x },
        false,
    );
    assert_close(floats(&run(&op, &inputs)[0]), &expected[0]);
}

#[test]
fn the_layout_moves_the_batch_to_the_front() {
    let inputs = inputs(2);
    let swapped = |tensor: &Tensor| {
        let &[a, b, c] = tensor.shape() else { panic!() };
        let values = (0..a * b * c)
            .map(|i| floats(tensor)[(i / c % a * b + i / c / a) * c + i % c])
            .collect();
        Tensor::new([b, a, c], values).unwrap()
    };
    let mut turned = inputs.clone();
    for index in [0, 5, 6] {
        turned[index] = swapped(&inputs[index]);
    }
    let op = Lstm {
        layout: true,
        ..plain(Direction::Bidirectional)
    };
    let (found, expected) = (
        run(&op, &turned),
        run(&plain(Direction::Bidirectional), &inputs),
    );
    assert_eq!(found[0].shape(), [BATCH, STEPS, 2, HIDDEN]);
    for step in 0..STEPS {
        for (d, row) in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)] {
            let there = &floats(&found[0])[((row * STEPS + step) * 2 + d) * HIDDEN..][..HIDDEN];
            let here = &floats(&expected[0])[((step * 2 + d) * BATCH + row) * HIDDEN..][..HIDDEN];
            assert_eq!(there, here);
        }
    }
    assert_eq!(found[1], swapped(&expected[1]));
    assert_eq!(found[2], swapped(&expected[2]));
}

#[test]
fn optional_inputs_default_to_zeros_and_whole_sequences() {
    let mut inputs = inputs(1);
    let op = plain(Direction::Forward);
    let short = run(&op, &inputs[..3]);
    inputs[4] = Tensor::vector(vec![4_i32; 3]);
    for (index, shape) in [
        (3, vec![1, 24]),
        (5, vec![1, 3, 3]),
        (6, vec![1, 3, 3]),
        (7, vec![1, 9]),
    ] {
        inputs[index] =
            Tensor::new(shape.iter().copied(), vec![0.0_f32; shape.iter().product()]).unwrap();
    }
    assert_eq!(short, run(&op, &inputs));
}

#[test]
fn what_does_not_fit_is_refused() {
    let good = inputs(1);
    let refused = |op: &Lstm, inputs: &[Tensor; 8]| {
        let inputs: Vec<_> = inputs.iter().map(Some).collect();
        op.evaluate(Inputs(&inputs), 3).is_err()
    };
    let op = plain(Direction::Forward);
    assert!(!refused(&op, &good));
    for index in 0..8 {
        let mut bad = good.clone();
        bad[index] = some(&[5], 1);
        assert!(refused(&op, &bad), "input {index}");
    }
    for lengths in [vec![5, 1, 1], vec![-1, 1, 1], vec![1, 1]] {
        let mut bad = good.clone();
        bad[4] = Tensor::vector(lengths);
        assert!(refused(&op, &bad));
    }
    assert!(refused(&plain(Direction::Bidirectional), &good));
    for clip in [0.0, -1.0, f32::NAN] {
        assert!(refused(
            &Lstm {
                clip: Some(clip),
                ..op.clone()
            },
            &good
        ));
    }
    for size in [0, -1, 4, i64::MIN, i64::MAX] {
        assert!(refused(
            &Lstm {
                hidden_size: Some(size),
                ..op.clone()
            },
            &good
        ));
    }
    let two = vec!["Tanh".to_owned(); 2];
    assert!(refused(
        &Lstm {
            activations: two,
            ..op
        },
        &good
    ));
}

fn gru(direction: Direction, linear_before_reset: bool) -> Gru {
    Gru {
        activation_alpha: Vec::new(),
        activation_beta: Vec::new(),
        activations: Vec::new(),
        clip: None,
        direction,
        hidden_size: None,
        layout: false,
        linear_before_reset,
    }
}

/// The inputs of a layer of `gates` gates and one state. The lengths are 4, 2 and 0.
fn inputs_of_one_state(directions: usize, gates: usize) -> [Tensor; 6] {
    [
        some(&[STEPS, BATCH, INPUT], 1),
        some(&[directions, gates * HIDDEN, INPUT], 2),
        some(&[directions, gates * HIDDEN, HIDDEN], 3),
        some(&[directions, 2 * gates * HIDDEN], 4),
        Tensor::vector(vec![4_i32, 2, 0]),
        some(&[directions, BATCH, HIDDEN], 5),
    ]
}

/// The sums that a unit of one gate has before a step: over the inputs with their bias, and over given states with theirs.
struct Sums<'a> {
    inputs: &'a [Tensor; 6],
    gates: usize,
    direction: usize,
    /// The beginning of the row's input.
    x: usize,
}

impl Sums<'_> {
    fn at(&self, index: usize, place: usize) -> f64 {
        f64::from(floats(&self.inputs[index])[place])
    }

    fn of_inputs(&self, gate: usize, unit: usize) -> f64 {
        let line = (self.direction * self.gates + gate) * HIDDEN + unit;
        let bias = (2 * self.direction * self.gates + gate) * HIDDEN + unit;
        let products = (0..INPUT).map(|i| self.at(0, self.x + i) * self.at(1, line * INPUT + i));
        products.sum::<f64>() + self.at(3, bias)
    }

    fn of_states(&self, gate: usize, unit: usize, h: &[f64]) -> f64 {
        let line = (self.direction * self.gates + gate) * HIDDEN + unit;
        let bias = ((2 * self.direction + 1) * self.gates + gate) * HIDDEN + unit;
        let products = (0..HIDDEN).map(|i| h[i] * self.at(2, line * HIDDEN + i));
        products.sum::<f64>() + self.at(3, bias)
    }
}

/// `y` and `y_h` of a layer of one state. `next` gives the new state of a unit from its sums and all old states.
fn walk(
    inputs: &[Tensor; 6],
    gates: usize,
    reverse: &[bool],
    next: impl Fn(&Sums<'_>, usize, &[f64]) -> f64,
) -> [Vec<f64>; 2] {
    let n = reverse.len();
    let mut y = vec![0.0; STEPS * n * BATCH * HIDDEN];
    let mut last = vec![0.0; n * BATCH * HIDDEN];
    for (direction, &reverse) in reverse.iter().enumerate() {
        for (row, length) in [4, 2, 0].into_iter().enumerate() {
            let place = (direction * BATCH + row) * HIDDEN;
            let initial = &floats(&inputs[5])[place..][..HIDDEN];
            let mut h: Vec<f64> = initial.iter().map(|&h| h.into()).collect();
            for count in 0..length {
                let step = if reverse { length - 1 - count } else { count };
                let x = (step * BATCH + row) * INPUT;
                let sums = Sums {
                    inputs,
                    gates,
                    direction,
                    x,
                };
                h = (0..HIDDEN).map(|unit| next(&sums, unit, &h)).collect();
                y[((step * n + direction) * BATCH + row) * HIDDEN..][..HIDDEN].copy_from_slice(&h);
            }
            last[place..][..HIDDEN].copy_from_slice(&h);
        }
    }
    [y, last]
}

#[test]
fn gated_units_follow_the_formulas_before_and_after_the_reset() {
    for (direction, reverse) in [
        (Direction::Forward, &[false][..]),
        (Direction::Reverse, &[true]),
        (Direction::Bidirectional, &[false, true]),
    ] {
        let inputs = inputs_of_one_state(reverse.len(), 3);
        for linear_before_reset in [false, true] {
            let next = |sums: &Sums<'_>, unit: usize, h: &[f64]| {
                let gate = |gate, unit| {
                    logistic(sums.of_inputs(gate, unit) + sums.of_states(gate, unit, h))
                };
                let new = if linear_before_reset {
                    sums.of_inputs(2, unit) + gate(1, unit) * sums.of_states(2, unit, h)
                } else {
                    let reset: Vec<f64> = (0..HIDDEN).map(|i| gate(1, i) * h[i]).collect();
                    sums.of_inputs(2, unit) + sums.of_states(2, unit, &reset)
                };
                let z = gate(0, unit);
                (1.0 - z) * new.tanh() + z * h[unit]
            };
            let expected = walk(&inputs, 3, reverse, next);
            let given: Vec<_> = inputs.iter().map(Some).collect();
            let op = gru(direction, linear_before_reset);
            let found = op.evaluate(Inputs(&given), 2).unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(floats(found), expected);
            }
        }
    }
}

#[test]
fn layers_of_one_gate_follow_the_formula() {
    let inputs = inputs_of_one_state(2, 1);
    let op = Rnn {
        activation_alpha: Vec::new(),
        activation_beta: Vec::new(),
        activations: vec!["Tanh".to_owned(), "Relu".to_owned()],
        clip: Some(1.5),
        direction: Direction::Bidirectional,
        hidden_size: Some(HIDDEN as i64),
        layout: false,
    };
    let next = |sums: &Sums<'_>, unit: usize, h: &[f64]| {
        let sum = sums.of_inputs(0, unit) + sums.of_states(0, unit, h);
        let sum = sum.clamp(-1.5, 1.5);
        if sums.direction == 0 {
            sum.tanh()
        } else {
            sum.max(0.0)
        }
    };
    let expected = walk(&inputs, 1, &[false, true], next);
    let given: Vec<_> = inputs.iter().map(Some).collect();
    let found = op.evaluate(Inputs(&given), 2).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_close(floats(found), expected);
    }
    // Weights of another number of gates.
    let other = inputs_of_one_state(2, 3);
    let given: Vec<_> = other.iter().map(Some).collect();
    assert!(op.evaluate(Inputs(&given), 2).is_err());
}
