//! Recurrent layers. Everything is computed in f64, including the states between the steps, and rounded once.
//!
//! One step of one direction covers the rows of the batch whose sequences are long enough. Their inputs and states are collected, so that a step is
//! two matrix products and one pass over the gates. The order of the sums is fixed: bias, inputs, states.

use octofold_quant::functions;
use octofold_tensor::{DType, Tensor};

use super::matmul::multiply;
use super::real::{real_tensor, reals};
use super::support::{checked_elements, copy_strided, expect_type, wrong_type};
use crate::{Inputs, OpError, Operator, attributes, word_attribute};

word_attribute! {
    /// In which order a recurrent layer reads a sequence.
    pub enum Direction {
        /// From the first step on.
        Forward = "forward",
        /// From the last step of each sequence on.
        Reverse = "reverse",
        /// Both, each with weights and results of its own.
        Bidirectional = "bidirectional",
    }
}

impl Direction {
    /// How many directions there are: 1 or 2.
    pub const fn count(self) -> usize {
        match self {
            Self::Forward | Self::Reverse => 1,
            Self::Bidirectional => 2,
        }
    }

    /// Whether the direction at a position of the weights runs backwards.
    const fn is_reverse(self, index: usize) -> bool {
        match self {
            Self::Forward => false,
            Self::Reverse => true,
            Self::Bidirectional => index == 1,
        }
    }
}

attributes! {
    /// ONNX `LSTM` (opset 22): long short-term memory. With the gates `i`, `o`, `f`, `c` in this order in all weights, a step is
    ///
    /// ```text
    /// i = f(x·Wi' + h·Ri' + Pi∘c + bi)      f = f(x·Wf' + h·Rf' + Pf∘c + bf)      g = g(x·Wc' + h·Rc' + bc)
    /// c = f∘c + i∘g                         o = f(x·Wo' + h·Ro' + Po∘c + bo)      h = o∘h(c)
    /// ```
    ///
    /// Inputs, float but for the lengths: `x` [steps, batch, input], `w` [directions, 4·hidden, input], `r` [directions, 4·hidden, hidden], optional `b`
    /// [directions, 8·hidden] (those of `w`, then those of `r`), `sequence_lens` (int32) `[batch]`, `initial_h` and `initial_c` [directions, batch, hidden], and the
    /// peepholes `p` [directions, 3·hidden]. Outputs: `y` [steps, directions, batch, hidden], `y_h` and `y_c` [directions, batch, hidden].
    ///
    /// Beyond a sequence's length `y` is zero and the states stay as they are; a sequence of no steps thus ends in its initial states.
    "" "LSTM" inputs(3..=8) outputs(1..=3)
    pub struct Lstm {
        /// The first parameters of those functions in `activations` that have one, in their order; the rest have their defaults.
        activation_alpha: Vec<f32> = Vec::new(),
        /// The second parameters, likewise.
        activation_beta: Vec<f32> = Vec::new(),
        /// The functions `f`, `g`, `h` for each direction, in any case of letters; empty for Sigmoid, Tanh, Tanh.
        activations: Vec<String> = Vec::new(),
        /// The inputs of `f` and `g` are cut to `-clip..=clip`.
        clip: Option<f32> = None,
        /// The order of the steps.
        direction: Direction = Direction::Forward,
        /// The size of the states; that of the weights when absent.
        hidden_size: Option<i64> = None,
        /// Whether the forget gate is `1 - i`.
        input_forget: bool = false,
        /// Whether the batch is the first axis of `x`, `y` and the states.
        layout: bool = false,
    }
}

/// A function of a number and two parameters.
type Formula = fn(f64, f64, f64) -> f64;

/// A function of a gate or state.
#[derive(Clone, Copy, Debug)]
struct Function {
    at: Formula,
    alpha: f64,
    beta: f64,
}

impl Function {
    fn of(self, x: f64) -> f64 {
        (self.at)(x, self.alpha, self.beta)
    }
}

/// The defaults of a function's parameters; a parameter that it does not have is `None`.
type Parameters = (Option<f32>, Option<f32>);

/// The functions by name. `ScaledTanh` has parameters without defaults; here they are NaN.
const FUNCTIONS: [(&str, Formula, Parameters); 11] = [
    ("Sigmoid", |x, _, _| functions::sigmoid(x), (None, None)),
    ("Tanh", |x, _, _| functions::tanh(x), (None, None)),
    ("Relu", |x, _, _| functions::relu(x), (None, None)),
    (
        "HardSigmoid",
        functions::hard_sigmoid,
        (Some(0.2), Some(0.5)),
    ),
    ("Affine", |x, a, b| a * x + b, (Some(1.0), Some(0.0))),
    (
        "LeakyRelu",
        |x, a, _| functions::leaky_relu(x, a),
        (Some(0.01), None),
    ),
    (
        "ThresholdedRelu",
        |x, a, _| if x < a { 0.0 } else { x },
        (Some(1.0), None),
    ),
    (
        "ScaledTanh",
        |x, a, b| a * functions::tanh(b * x),
        (Some(f32::NAN), Some(f32::NAN)),
    ),
    ("Elu", |x, a, _| functions::elu(x, a), (Some(1.0), None)),
    ("Softsign", |x, _, _| functions::softsign(x), (None, None)),
    ("Softplus", |x, _, _| functions::softplus(x), (None, None)),
];

impl Lstm {
    /// Checks the attributes by themselves.
    ///
    /// # Errors
    /// When a size or bound is not positive, or a function is unknown, lacks a parameter or is one too many.
    pub fn check(&self) -> Result<(), OpError> {
        self.functions()?;
        self.bound()?;
        match self.hidden_size {
            Some(size) if size <= 0 => Err(OpError::attribute(
                "hidden_size",
                format!("{size} is not positive"),
            )),
            _ => Ok(()),
        }
    }

    /// The bound of `clip`, infinite when absent.
    fn bound(&self) -> Result<f64, OpError> {
        match self.clip {
            None => Ok(f64::INFINITY),
            Some(clip) if clip > 0.0 => Ok(clip.into()),
            Some(clip) => Err(OpError::attribute(
                "clip",
                format!("{clip} is not positive"),
            )),
        }
    }

    /// The functions `f`, `g` and `h` of each direction.
    fn functions(&self) -> Result<Vec<[Function; 3]>, OpError> {
        let count = self.direction.count();
        let default = ["Sigmoid", "Tanh", "Tanh"];
        let names: Vec<&str> = match self.activations.as_slice() {
            [] => default.repeat(count),
            names if names.len() == 3 * count => names.iter().map(String::as_str).collect(),
            names => {
                let reason = format!("{} functions, not {}", names.len(), 3 * count);
                return Err(OpError::attribute("activations", reason));
            }
        };
        let mut alphas = self.activation_alpha.iter().copied();
        let mut betas = self.activation_beta.iter().copied();
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let known = FUNCTIONS
                .iter()
                .find(|known| known.0.eq_ignore_ascii_case(name));
            let &(name, at, (alpha, beta)) = known.ok_or_else(|| {
                OpError::attribute("activations", format!("`{name}` is no known function"))
            })?;
            let parameter = |default, given: &mut dyn Iterator<Item = f32>, list| {
                let value = match default {
                    None => 0.0,
                    Some(default) => given.next().unwrap_or(default),
                };
                if value.is_nan() {
                    return Err(OpError::attribute(list, format!("{name} needs a number")));
                }
                Ok(value.into())
            };
            all.push(Function {
                at,
                alpha: parameter(alpha, &mut alphas, "activation_alpha")?,
                beta: parameter(beta, &mut betas, "activation_beta")?,
            });
        }
        Ok(all.chunks_exact(3).map(|f| [f[0], f[1], f[2]]).collect())
    }
}

/// The sizes of a recurrent layer, and the positions of a step's vectors.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    steps: usize,
    batch: usize,
    input: usize,
    directions: usize,
    hidden: usize,
    batch_first: bool,
}

impl Sizes {
    /// Reads the sizes from the first three inputs. Eight times the hidden size does not overflow.
    fn new(op: &Lstm, inputs: Inputs<'_>) -> Result<Self, OpError> {
        let (x, r) = (inputs.required(0)?, inputs.required(2)?);
        let &[first, second, input] = x.shape() else {
            let rank = x.rank();
            return Err(OpError::invalid(format!("an input of rank {rank}, not 3")));
        };
        let &[_, _, hidden] = r.shape() else {
            let rank = r.rank();
            return Err(OpError::invalid(format!("input 2 has rank {rank}, not 3")));
        };
        if op
            .hidden_size
            .is_some_and(|size| usize::try_from(size) != Ok(hidden))
        {
            let reason = format!("the weights are for {hidden}");
            return Err(OpError::attribute("hidden_size", reason));
        }
        if hidden.checked_mul(8).is_none() {
            return Err(OpError::TooLarge(hidden as u128));
        }
        let (steps, batch) = if op.layout {
            (second, first)
        } else {
            (first, second)
        };
        Ok(Self {
            steps,
            batch,
            input,
            directions: op.direction.count(),
            hidden,
            batch_first: op.layout,
        })
    }

    /// The shape of `y`.
    fn all_states(self) -> [usize; 4] {
        if self.batch_first {
            [self.batch, self.steps, self.directions, self.hidden]
        } else {
            [self.steps, self.directions, self.batch, self.hidden]
        }
    }

    /// The shape of a state.
    fn state(self) -> [usize; 3] {
        if self.batch_first {
            [self.batch, self.directions, self.hidden]
        } else {
            [self.directions, self.batch, self.hidden]
        }
    }

    /// The beginning of a row's input at a step.
    fn input_at(self, step: usize, row: usize) -> usize {
        let place = if self.batch_first {
            row * self.steps + step
        } else {
            step * self.batch + row
        };
        place * self.input
    }

    /// The beginning of a row's result at a step.
    fn result_at(self, step: usize, direction: usize, row: usize) -> usize {
        let place = if self.batch_first {
            (row * self.steps + step) * self.directions + direction
        } else {
            (step * self.directions + direction) * self.batch + row
        };
        place * self.hidden
    }

    /// The beginning of a row's state.
    fn state_at(self, direction: usize, row: usize) -> usize {
        let place = if self.batch_first {
            row * self.directions + direction
        } else {
            direction * self.batch + row
        };
        place * self.hidden
    }

    /// The number of steps of each row.
    fn lengths(self, inputs: Inputs<'_>) -> Result<Vec<usize>, OpError> {
        let Some(tensor) = inputs.optional(4) else {
            return Ok(vec![self.steps; self.batch]);
        };
        let lengths = inputs.values::<i32>(4)?;
        expect_shape(tensor, 4, &[self.batch])?;
        let length = |&length: &i32| {
            let fits = usize::try_from(length)
                .ok()
                .filter(|&fits| fits <= self.steps);
            fits.ok_or_else(|| {
                let steps = self.steps;
                OpError::invalid(format!("a sequence of {length} steps among {steps}"))
            })
        };
        lengths.iter().map(length).collect()
    }
}

/// Checks the shape of an input.
fn expect_shape(tensor: &Tensor, index: usize, shape: &[usize]) -> Result<(), OpError> {
    if tensor.shape() == shape {
        return Ok(());
    }
    let found = tensor.shape();
    Err(OpError::invalid(format!(
        "input {index} has the shape {found:?}, not {shape:?}"
    )))
}

/// The numbers of an optional input, of the type of the others and a shape.
fn numbers(
    inputs: Inputs<'_>,
    index: usize,
    dtype: DType,
    shape: &[usize],
) -> Result<Option<Vec<f64>>, OpError> {
    let Some(tensor) = inputs.optional(index) else {
        return Ok(None);
    };
    expect_type(tensor, index, dtype)?;
    expect_shape(tensor, index, shape)?;
    reals(tensor, index).map(Some)
}

/// One direction of a layer: its weights and functions.
struct Cell {
    /// [input, 4·hidden].
    w: Vec<f64>,
    /// [hidden, 4·hidden].
    r: Vec<f64>,
    /// 4·hidden, both biases in one.
    bias: Vec<f64>,
    /// 3·hidden; zeros when there are none.
    peepholes: Vec<f64>,
    functions: [Function; 3],
    bound: f64,
    input_forget: bool,
}

impl Cell {
    /// Computes the next states from the sums of the gates, in place. `gates` has 4·hidden elements, `h` and `c` have hidden.
    fn update(&self, gates: &[f64], h: &mut [f64], c: &mut [f64]) {
        let [f, g, last] = self.functions;
        let size = h.len();
        let cut = |sum: f64| functions::clip(sum, -self.bound, self.bound);
        for (k, (h, c)) in h.iter_mut().zip(c).enumerate() {
            let gate = |index: usize, c: f64| {
                // Without peepholes there is no product: an infinite state times zero would be NaN.
                let peephole = self.peepholes.get(index * size + k);
                let sum = gates[index * size + k];
                f.of(cut(peephole.map_or(sum, |p| sum + p * c)))
            };
            let input = gate(0, *c);
            let forget = if self.input_forget {
                1.0 - input
            } else {
                gate(2, *c)
            };
            let candidate = g.of(cut(gates[3 * size + k]));
            *c = forget * *c + input * candidate;
            *h = gate(1, *c) * last.of(*c);
        }
    }
}

/// A running layer: its inputs, and the results so far.
struct Layer {
    sizes: Sizes,
    lengths: Vec<usize>,
    x: Vec<f64>,
    y: Vec<f64>,
    h: Vec<f64>,
    c: Vec<f64>,
}

impl Layer {
    /// Runs one direction.
    fn run(&mut self, cell: &Cell, direction: usize, reverse: bool) {
        let Sizes { input, hidden, .. } = self.sizes;
        let (mut xs, mut hs, mut gates) = (Vec::new(), Vec::new(), Vec::new());
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        for count in 0..longest {
            let rows = self.lengths.iter().copied().enumerate();
            let rows: Vec<(usize, usize)> = rows
                .filter(|&(_, length)| count < length)
                .map(|(row, length)| (row, if reverse { length - 1 - count } else { count }))
                .collect();
            xs.clear();
            hs.clear();
            gates.clear();
            for &(row, step) in &rows {
                xs.extend_from_slice(&self.x[self.sizes.input_at(step, row)..][..input]);
                hs.extend_from_slice(&self.h[self.sizes.state_at(direction, row)..][..hidden]);
                gates.extend_from_slice(&cell.bias);
            }
            multiply(&xs, &cell.w, input, 4 * hidden, &mut gates);
            multiply(&hs, &cell.r, hidden, 4 * hidden, &mut gates);
            for (&(row, step), gates) in rows.iter().zip(gates.chunks_exact(4 * hidden)) {
                let place = self.sizes.state_at(direction, row);
                let h = &mut self.h[place..][..hidden];
                cell.update(gates, h, &mut self.c[place..][..hidden]);
                self.y[self.sizes.result_at(step, direction, row)..][..hidden].copy_from_slice(h);
            }
        }
    }
}

impl Lstm {
    /// The weights of each direction.
    fn cells(&self, sizes: Sizes, dtype: DType, inputs: Inputs<'_>) -> Result<Vec<Cell>, OpError> {
        let Sizes {
            directions,
            input,
            hidden,
            ..
        } = sizes;
        let all = |index, shape: &[usize]| numbers(inputs, index, dtype, shape);
        let required =
            |index, shape: &[usize]| all(index, shape)?.ok_or(OpError::MissingInput(index));
        let w = required(1, &[directions, 4 * hidden, input])?;
        let r = required(2, &[directions, 4 * hidden, hidden])?;
        let b = all(3, &[directions, 8 * hidden])?;
        let p = all(7, &[directions, 3 * hidden])?;
        // Weights have a row for each gate; the product needs a row for each input.
        let turned = |values: &[f64], direction: usize, columns: usize| {
            let start = direction * 4 * hidden * columns;
            copy_strided(
                values,
                start as isize,
                &[columns, 4 * hidden],
                &[1, columns as isize],
            )
        };
        let functions = self.functions()?.into_iter().enumerate();
        let cells = functions.map(|(direction, functions)| {
            let bias = b.as_ref().map_or_else(
                || vec![0.0; 4 * hidden],
                |b| {
                    let (of_w, of_r) =
                        b[direction * 8 * hidden..][..8 * hidden].split_at(4 * hidden);
                    of_w.iter().zip(of_r).map(|(w, r)| w + r).collect()
                },
            );
            let peepholes = p
                .as_ref()
                .map_or(&[][..], |p| &p[direction * 3 * hidden..][..3 * hidden]);
            Ok(Cell {
                w: turned(&w, direction, input),
                r: turned(&r, direction, hidden),
                bias,
                peepholes: peepholes.to_vec(),
                functions,
                bound: self.bound()?,
                input_forget: self.input_forget,
            })
        });
        cells.collect()
    }
}

impl Operator for Lstm {
    fn evaluate(&self, inputs: Inputs<'_>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        self.check()?;
        let x = inputs.required(0)?;
        let dtype = x.dtype();
        if !dtype.is_float() {
            return Err(wrong_type(x, 0, "float"));
        }
        let sizes = Sizes::new(self, inputs)?;
        let (all, state) = (sizes.all_states(), sizes.state());
        let (count, state_count) = (checked_elements(&all)?, checked_elements(&state)?);
        let cells = self.cells(sizes, dtype, inputs)?;
        let initial = |index| {
            let given = numbers(inputs, index, dtype, &state)?;
            Ok::<_, OpError>(given.unwrap_or_else(|| vec![0.0; state_count]))
        };
        let (h, c) = (initial(5)?, initial(6)?);
        // A batch of nothing, or states of nothing, may have axes of any other size.
        let lengths = if state_count == 0 {
            Vec::new()
        } else {
            sizes.lengths(inputs)?
        };
        let mut layer = Layer {
            sizes,
            lengths,
            x: reals(x, 0)?,
            y: vec![0.0; count],
            h,
            c,
        };
        for (direction, cell) in cells.iter().enumerate() {
            layer.run(cell, direction, self.direction.is_reverse(direction));
        }
        let mut out = vec![
            real_tensor(dtype, &all, layer.y)?,
            real_tensor(dtype, &state, layer.h)?,
            real_tensor(dtype, &state, layer.c)?,
        ];
        out.truncate(outputs);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Lstm {
        Lstm {
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            activations: Vec::new(),
            clip: None,
            direction: Direction::Forward,
            hidden_size: None,
            input_forget: false,
            layout: false,
        }
    }

    #[test]
    fn functions_have_their_values_and_defaults() {
        let value = |name: &str, x: f64| {
            let activations = [name, name, name].map(str::to_owned).to_vec();
            let op = Lstm {
                activations,
                ..plain()
            };
            op.functions().map(|all| all[0][2].of(x))
        };
        for (name, x, expected) in [
            ("Relu", -2.0, 0.0),
            ("Affine", -2.0, -2.0),
            ("HardSigmoid", -1.0, 0.3),
            ("LeakyRelu", -2.0, -0.02),
            ("ThresholdedRelu", 0.75, 0.0),
            ("ThresholdedRelu", 1.5, 1.5),
            ("Elu", -1.0, (-1.0_f64).exp() - 1.0),
            ("Softsign", -3.0, -0.75),
            ("Softplus", 1.0, (1.0 + 1.0_f64.exp()).ln()),
        ] {
            let found = value(name, x).unwrap();
            assert!((found - expected).abs() < 1e-7, "{name}: {found}");
        }
        let scaled = Lstm {
            activations: ["Sigmoid", "ScaledTanh", "Tanh"]
                .map(str::to_owned)
                .to_vec(),
            activation_alpha: vec![2.0],
            activation_beta: vec![0.5],
            ..plain()
        };
        assert_eq!(
            scaled.functions().unwrap()[0][1].of(1.0),
            2.0 * functions::tanh(0.5)
        );
        assert!(value("ScaledTanh", 1.0).is_err());
        assert!(value("Cosine", 1.0).is_err());
    }

    #[test]
    fn a_step_of_one_unit_is_the_formula() {
        // All gates of the one unit are sums over x = 2 and h = 0.5; the state before is 0.25.
        let tensor = |shape: &[usize], values: &[f32]| {
            Tensor::new(shape.iter().copied(), values.to_vec()).unwrap()
        };
        let x = tensor(&[1, 1, 1], &[2.0]);
        let w = tensor(&[1, 4, 1], &[0.1, 0.2, 0.3, 0.4]);
        let r = tensor(&[1, 4, 1], &[-0.4, 0.4, 0.8, -0.2]);
        let (h, c) = (tensor(&[1, 1, 1], &[0.5]), tensor(&[1, 1, 1], &[0.25]));
        let inputs = [Some(&x), Some(&w), Some(&r), None, None, Some(&h), Some(&c)];
        let out = plain().evaluate(Inputs(&inputs), 3).unwrap();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let state = sigmoid(1.0) * 0.25 + sigmoid(0.0) * 0.7_f64.tanh();
        let result = sigmoid(0.6) * state.tanh();
        for (tensor, expected) in out.iter().zip([result, result, state]) {
            let found = tensor.values::<f32>().unwrap();
            assert!((f64::from(found[0]) - expected).abs() < 1e-6, "{found:?}");
        }
    }
}
