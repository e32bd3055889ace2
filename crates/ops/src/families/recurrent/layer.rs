//! A recurrent layer's walk over its steps.
//!
//! One step of one direction covers the rows of the batch whose sequences are long enough. Their inputs and states are collected, so that the sums of a gate are
//! two matrix products. The order of the sums is fixed: bias, inputs, states.

use octofold_quant::functions::clip;
use octofold_tensor::{DType, Tensor};

use super::super::matmul::multiply;
use super::super::real::{real_tensor, reals};
use super::super::support::{checked_elements, copy_strided, expect_type, wrong_type};
use super::Recurrent;
use super::functions::{Function, functions};
use crate::{Inputs, OpError};

/// The sizes of a recurrent layer, and the positions of a step's vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    steps: usize,
    batch: usize,
    input: usize,
    pub(super) directions: usize,
    pub(super) hidden: usize,
    batch_first: bool,
}

impl Sizes {
    /// Reads the sizes from the first three inputs. The biases of all gates have a size that does not overflow.
    fn new(op: &Recurrent<'_>, inputs: Inputs<'_>) -> Result<Self, OpError> {
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
        if hidden.checked_mul(2 * op.gates).is_none() {
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
pub(super) fn numbers(
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

/// One gate of one direction.
pub(super) struct Gate {
    /// [input, hidden].
    w: Vec<f64>,
    /// [hidden, hidden].
    r: Vec<f64>,
    /// The biases of inputs and states.
    bias: [Vec<f64>; 2],
}

impl Gate {
    /// `x·W + h·R + (bW + bR)` for each row.
    pub(super) fn sums(&self, rows: usize, x: &[f64], h: &[f64]) -> Vec<f64> {
        let [of_w, of_r] = &self.bias;
        let bias: Vec<f64> = of_w.iter().zip(of_r).map(|(w, r)| w + r).collect();
        let mut sums = bias.repeat(rows);
        add_product(rows, x, &self.w, &mut sums);
        add_product(rows, h, &self.r, &mut sums);
        sums
    }

    /// `x·W + bW` for each row.
    pub(super) fn of_inputs(&self, rows: usize, x: &[f64]) -> Vec<f64> {
        let mut sums = self.bias[0].repeat(rows);
        add_product(rows, x, &self.w, &mut sums);
        sums
    }

    /// `h·R + bR` for each row.
    pub(super) fn of_states(&self, rows: usize, h: &[f64]) -> Vec<f64> {
        let mut sums = self.bias[1].repeat(rows);
        add_product(rows, h, &self.r, &mut sums);
        sums
    }
}

/// Adds `rows · weights`, for a number of rows that is not 0.
fn add_product(rows: usize, values: &[f64], weights: &[f64], sums: &mut [f64]) {
    multiply(
        values,
        weights,
        values.len() / rows,
        sums.len() / rows,
        sums,
    );
}

/// What one direction of a layer has.
pub(super) struct Parts {
    /// The gates in the order of the weights.
    pub(super) gates: Vec<Gate>,
    /// The functions in the order of the attribute.
    pub(super) functions: Vec<Function>,
    bound: f64,
}

impl Parts {
    /// A function of sums that the attribute `clip` bounds.
    pub(super) fn apply(&self, function: usize, sum: f64) -> f64 {
        self.functions[function].of(clip(sum, -self.bound, self.bound))
    }
}

/// What a step of one direction computes.
pub(super) trait Cell {
    /// Replaces the states of some rows, at least one, by those after the inputs `x` [rows, input]: `h`, and the state of the cell `c` if the layer has one,
    /// both [rows, hidden].
    fn step(&self, rows: usize, x: &[f64], h: &mut [f64], c: &mut [f64]);
}

/// A running layer: its inputs, and the results so far.
struct Layer {
    sizes: Sizes,
    lengths: Vec<usize>,
    x: Vec<f64>,
    y: Vec<f64>,
    /// `h`, and the state of the cell if there is one.
    states: Vec<Vec<f64>>,
}

impl Layer {
    /// Runs one direction.
    fn run(&mut self, cell: &dyn Cell, direction: usize, reverse: bool) {
        let Sizes { input, hidden, .. } = self.sizes;
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        for count in 0..longest {
            let rows = self.lengths.iter().copied().enumerate();
            let rows: Vec<(usize, usize)> = rows
                .filter(|&(_, length)| count < length)
                .map(|(row, length)| (row, if reverse { length - 1 - count } else { count }))
                .collect();
            let x =
                |&(row, step): &(usize, usize)| &self.x[self.sizes.input_at(step, row)..][..input];
            let x: Vec<f64> = rows.iter().flat_map(x).copied().collect();
            let places: Vec<usize> = rows
                .iter()
                .map(|&(row, _)| self.sizes.state_at(direction, row))
                .collect();
            let collect = |state: &Vec<f64>| -> Vec<f64> {
                let rows = places.iter().flat_map(|&place| &state[place..][..hidden]);
                rows.copied().collect()
            };
            let mut h = collect(&self.states[0]);
            let mut c = self.states.get(1).map(collect).unwrap_or_default();
            cell.step(rows.len(), &x, &mut h, &mut c);
            for (state, new) in self.states.iter_mut().zip([&h, &c]) {
                for (&place, new) in places.iter().zip(new.chunks_exact(hidden)) {
                    state[place..][..hidden].copy_from_slice(new);
                }
            }
            for (&(row, step), h) in rows.iter().zip(h.chunks_exact(hidden)) {
                self.y[self.sizes.result_at(step, direction, row)..][..hidden].copy_from_slice(h);
            }
        }
    }
}

/// The weights and functions of each direction.
fn parts(
    op: &Recurrent<'_>,
    sizes: Sizes,
    dtype: DType,
    inputs: Inputs<'_>,
) -> Result<Vec<Parts>, OpError> {
    let Sizes {
        directions,
        input,
        hidden,
        ..
    } = sizes;
    let lines = op.gates * hidden;
    let all = |index, shape: &[usize]| numbers(inputs, index, dtype, shape);
    let required = |index, shape: &[usize]| all(index, shape)?.ok_or(OpError::MissingInput(index));
    let w = required(1, &[directions, lines, input])?;
    let r = required(2, &[directions, lines, hidden])?;
    let b = all(3, &[directions, 2 * lines])?.unwrap_or_else(|| vec![0.0; directions * 2 * lines]);
    // Weights have a row for each unit; the product needs a row for each input.
    let turned = |values: &[f64], first: usize, columns: usize| {
        let start = (first * columns) as isize;
        copy_strided(values, start, &[columns, hidden], &[1, columns as isize])
    };
    let functions = functions(op)?;
    let part = |direction: usize| {
        let gate = |gate: usize| {
            let bias = |half: usize| {
                let start = (2 * direction + half) * lines + gate * hidden;
                b[start..][..hidden].to_vec()
            };
            let first = direction * lines + gate * hidden;
            Gate {
                w: turned(&w, first, input),
                r: turned(&r, first, hidden),
                bias: [bias(0), bias(1)],
            }
        };
        let count = op.functions.len();
        Ok(Parts {
            gates: (0..op.gates).map(gate).collect(),
            functions: functions[direction * count..][..count].to_vec(),
            bound: op.bound()?,
        })
    };
    (0..directions).map(part).collect()
}

/// Evaluates a layer. `cell` makes the cell of a direction.
///
/// # Errors
/// When attributes or inputs do not fit.
pub(super) fn evaluate<C: Cell>(
    op: &Recurrent<'_>,
    inputs: Inputs<'_>,
    outputs: usize,
    cell: impl Fn(Parts, usize, Sizes) -> Result<C, OpError>,
) -> Result<Vec<Tensor>, OpError> {
    op.check()?;
    let x = inputs.required(0)?;
    let dtype = x.dtype();
    if !dtype.is_float() {
        return Err(wrong_type(x, 0, "float"));
    }
    let sizes = Sizes::new(op, inputs)?;
    let (all, state) = (sizes.all_states(), sizes.state());
    let (count, state_count) = (checked_elements(&all)?, checked_elements(&state)?);
    let cells = parts(op, sizes, dtype, inputs)?.into_iter().enumerate();
    let cells = cells
        .map(|(direction, parts)| cell(parts, direction, sizes))
        .collect::<Result<Vec<_>, _>>()?;
    let initial = |state_of: usize| {
        let given = numbers(inputs, 5 + state_of, dtype, &state)?;
        Ok::<_, OpError>(given.unwrap_or_else(|| vec![0.0; state_count]))
    };
    let states = (0..op.states).map(initial).collect::<Result<_, _>>()?;
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
        states,
    };
    for (direction, cell) in cells.iter().enumerate() {
        layer.run(cell, direction, op.direction.is_reverse(direction));
    }
    let mut out = vec![real_tensor(dtype, &all, layer.y)?];
    for values in layer.states {
        out.push(real_tensor(dtype, &state, values)?);
    }
    out.truncate(outputs);
    Ok(out)
}
