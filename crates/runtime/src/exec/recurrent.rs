//! Recurrent layers of floats.
//!
//! For some steps at a time, the inputs of all sequences are collected and multiplied by the weights; then each step multiplies the states and computes the cells.
//! Each direction is one part of the work, so two directions are two threads' work.

use std::sync::{Mutex, PoisonError};

use octofold_kernels::conv::LinearShape;
use octofold_kernels::float::Block;
use octofold_kernels::float::linear::{self, LinearData, linear};
use octofold_kernels::float::recurrent::{gru, gru_gates, gru_reset, lstm, rnn};
use octofold_kernels::{Bounds, Isa, KernelError};
use octofold_ops::families::Direction;
use octofold_ops::{Op, OpError};
use octofold_tensor::DType;

use super::{Arguments, Call, Work};
use crate::StepError;
use crate::pool::Columns;
use crate::values::{numbers, numbers_mut};

/// Rows of inputs that are multiplied at a time: enough to read the weights seldom, and few enough for the cache.
const ROWS: usize = 64;

/// Floats, as many more as fill their last cache line: the next ones begin in a line of their own.
fn line(floats: usize) -> usize {
    floats.saturating_add(15) / 16 * 16
}

/// What a step computes.
#[derive(Clone, Copy)]
enum Cell {
    Lstm,
    Gru { linear_before_reset: bool },
    Rnn,
}

impl Cell {
    fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Lstm(op) if !op.input_forget => Some(Self::Lstm),
            Op::Gru(op) => Some(Self::Gru {
                linear_before_reset: op.linear_before_reset,
            }),
            Op::Rnn(_) => Some(Self::Rnn),
            _ => None,
        }
    }

    /// The gates of each product of states, in their order.
    fn products(self) -> &'static [usize] {
        match self {
            Self::Lstm => &[4],
            Self::Gru { .. } => &[2, 1],
            Self::Rnn => &[1],
        }
    }
}

/// The gates of each product of states by which a recurrent layer's weights are packed; `None` for a layer that the kernel does not compute.
pub fn recurrent_products(op: &Op) -> Option<&'static [usize]> {
    let plain = op.recurrent()?.is_plain();
    Cell::of(op).filter(|_| plain).map(Cell::products)
}

/// A layer bound to sizes.
struct Layer {
    cell: Cell,
    direction: Direction,
    batch_first: bool,
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    gates: usize,
    /// Floats of the packed weights of inputs and of states, of one direction.
    packed: [usize; 2],
}

/// The work of a recurrent layer.
pub(super) fn bind(arguments: &Arguments<'_>) -> Result<Work, StepError> {
    let op = &arguments.step.op;
    let (Some(attributes), Some(cell)) = (
        op.recurrent().filter(|attributes| attributes.is_plain()),
        Cell::of(op),
    ) else {
        return Err(arguments.wrong_operator());
    };
    let x = arguments.operand(0)?;
    x.expect(DType::F32)?;
    let (&[first, second, input], &[directions, lines, of_input]) =
        (x.shape, &arguments.step.weights[..])
    else {
        return Err(arguments.wrong_operator());
    };
    let (steps, batch) = match attributes.layout {
        true => (second, first),
        false => (first, second),
    };
    let mut layer = Layer {
        cell,
        direction: attributes.direction,
        batch_first: attributes.layout,
        steps,
        batch,
        input,
        hidden: lines / attributes.gates,
        gates: attributes.gates,
        packed: [0; 2],
    };
    if of_input != input
        || directions != layer.direction.count()
        || !lines.is_multiple_of(attributes.gates)
    {
        return Err(arguments.wrong_operator());
    }
    layer.packed[0] = linear::packed_len(input, lines)?;
    for &gates in cell.products() {
        layer.packed[1] += linear::packed_len(layer.hidden, gates * layer.hidden)?;
    }
    let floats = |count: usize| (DType::F32, count.saturating_mul(directions));
    let [of_inputs, of_states] = layer.packed;
    arguments.expect_packed(&[
        floats(of_inputs),
        floats(of_states),
        floats(lines),
        floats(lines),
    ])?;
    layer.check_values(arguments, attributes.states)?;
    let scratch = layer.scratch_len()?;
    Ok(Work::of_results(move |call, outputs| {
        layer.run(call, scratch, outputs)
    }))
}

impl Layer {
    /// Checks types and sizes of lengths, states and results.
    fn check_values(&self, arguments: &Arguments<'_>, states: usize) -> Result<(), StepError> {
        let directions = self.direction.count();
        let (all, state) = match self.batch_first {
            true => (
                [self.batch, self.steps, directions, self.hidden],
                [self.batch, directions, self.hidden],
            ),
            false => (
                [self.steps, directions, self.batch, self.hidden],
                [directions, self.batch, self.hidden],
            ),
        };
        let wrong = |what: &str| StepError::invalid(format!("{what} do not fit the layer"));
        let mut results = arguments.results.iter();
        let fits = results.next().is_some_and(|y| y.shape == all)
            && results.clone().count() <= states
            && results.all(|result| result.shape == state);
        if !fits || arguments.results.iter().any(|y| y.dtype != DType::F32) {
            return Err(wrong("results"));
        }
        let given = |slot: usize| arguments.operands.get(slot).copied().flatten();
        if given(4).is_some_and(|it| it.dtype != DType::I32 || it.shape != [self.batch]) {
            return Err(wrong("lengths"));
        }
        for slot in 5..7 {
            if given(slot).is_some_and(|it| it.dtype != DType::F32 || it.shape != state) {
                return Err(wrong("initial states"));
            }
        }
        match given(7) {
            None => Ok(()),
            Some(_) => Err(arguments.wrong_operator()),
        }
    }

    /// Steps whose inputs are multiplied at a time.
    fn chunk(&self) -> usize {
        (ROWS / self.batch.max(1)).clamp(1, self.steps.max(1))
    }

    /// The product of the inputs of some steps, or of the states, with `gates` of the weights.
    fn product(&self, rows: usize, k: usize, gates: usize) -> LinearShape {
        LinearShape {
            rows,
            k,
            n: gates * self.hidden,
        }
    }

    /// Floats of scratch memory: inputs, their sums, `h`, `c`, sums of states, two gates, and what the products need.
    fn scratch_parts(&self) -> Result<[usize; 7], KernelError> {
        let rows = self.chunk().saturating_mul(self.batch);
        let states = self.batch.saturating_mul(self.hidden);
        let mut kernel = linear::scratch_len(&self.product(rows, self.input, self.gates))?;
        for &gates in self.cell.products() {
            let product = self.product(self.batch, self.hidden, gates);
            kernel = kernel.max(linear::scratch_len(&product)?);
        }
        Ok([
            rows.saturating_mul(self.input),
            rows.saturating_mul(self.gates * self.hidden),
            states,
            states,
            states.saturating_mul(self.gates),
            states.saturating_mul(2),
            kernel,
        ])
    }

    /// Bytes of scratch memory.
    fn scratch_len(&self) -> Result<usize, StepError> {
        let parts = self.scratch_parts()?.map(line);
        let floats = parts.into_iter().fold(0, usize::saturating_add);
        Ok(floats.saturating_mul(4))
    }

    fn run(
        &self,
        call: Call<'_>,
        scratch: usize,
        outputs: &mut [&mut [u8]],
    ) -> Result<(), StepError> {
        let lengths = self.lengths(call)?;
        let [y, states @ ..] = outputs else {
            return Err(StepError::invalid("the kernel gives a result"));
        };
        let directions = self.direction.count();
        let part = match self.batch_first {
            true => self.hidden,
            false => self.batch.saturating_mul(self.hidden),
        };
        let states = Mutex::new(states);
        (call.pool).run_columns(
            numbers_mut::<f32>(y)?,
            part.saturating_mul(directions),
            part,
            scratch,
            |first, y, scratch| {
                let direction = first / part;
                let scratch = numbers_mut::<f32>(scratch)?;
                let ends = self.run_direction(call, direction, lengths, y, scratch)?;
                let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
                for (all, end) in states.iter_mut().zip(ends) {
                    let all = numbers_mut::<f32>(all)?;
                    for (row, end) in end.chunks_exact(self.hidden).enumerate() {
                        all[self.state_at(direction, row)..][..self.hidden].copy_from_slice(end);
                    }
                }
                Ok(())
            },
        )
    }

    /// The number of steps of each sequence, where they are given.
    fn lengths<'a>(&self, call: Call<'a>) -> Result<&'a [i32], StepError> {
        let lengths = call.numbers::<i32>(4)?;
        let fits = |&length: &i32| usize::try_from(length).is_ok_and(|length| length <= self.steps);
        match lengths.iter().find(|length| !fits(length)) {
            None => Ok(lengths),
            Some(length) => {
                let steps = self.steps;
                let reason = format!("a sequence of {length} steps among {steps}");
                Err(OpError::invalid(reason).into())
            }
        }
    }

    /// The beginning of a row's state.
    fn state_at(&self, direction: usize, row: usize) -> usize {
        let place = match self.batch_first {
            true => row * self.direction.count() + direction,
            false => direction * self.batch + row,
        };
        place * self.hidden
    }

    /// The step that a sequence takes at a time, from its end on in reverse; `None` behind its last.
    fn step(&self, direction: usize, lengths: &[i32], time: usize, row: usize) -> Option<usize> {
        let length = lengths.get(row).map_or(self.steps, |&it| it as usize);
        match self.direction.is_reverse(direction) {
            _ if time >= length => None,
            true => Some(length - 1 - time),
            false => Some(time),
        }
    }

    /// A sequence's results of a step.
    fn result<'a>(
        &self,
        y: &'a mut Columns<'_, f32>,
        step: usize,
        row: usize,
    ) -> Result<&'a mut [f32], StepError> {
        let (line, start) = match self.batch_first {
            true => (row * self.steps + step, 0),
            false => (step, row * self.hidden),
        };
        let mut lines = y.rows(line..line + 1)?;
        Ok(&mut lines.swap_remove(0)[start..start + self.hidden])
    }

    /// Runs one direction; gives the last `h` and `c` of all sequences.
    fn run_direction<'s>(
        &self,
        call: Call<'_>,
        direction: usize,
        lengths: &[i32],
        y: &mut Columns<'_, f32>,
        scratch: &'s mut [f32],
    ) -> Result<[&'s [f32]; 2], StepError> {
        let (input, hidden, lines) = (self.input, self.hidden, self.gates * self.hidden);
        let x = call.numbers::<f32>(0)?;
        let of_direction = |index: usize, len: usize| -> Result<&[f32], StepError> {
            Ok(&numbers::<f32>(call.packed(index))?[direction * len..][..len])
        };
        let weights = Weights {
            isa: call.isa,
            inputs: of_direction(0, self.packed[0])?,
            states: of_direction(1, self.packed[1])?,
            bias: of_direction(2, lines)?,
            state_bias: of_direction(3, lines)?,
        };
        let mut rest = scratch;
        let [collected, sums, h, c, of_states, update_reset, kernel] =
            self.scratch_parts()?.map(|part| {
                let (own, behind) = std::mem::take(&mut rest).split_at_mut(line(part));
                rest = behind;
                &mut own[..part]
            });
        for (slot, states) in [(5, &mut *h), (6, &mut *c)] {
            let initial = call.numbers::<f32>(slot)?;
            for (row, state) in states.chunks_exact_mut(hidden.max(1)).enumerate() {
                match initial.get(self.state_at(direction, row)..) {
                    Some(initial) if initial.len() >= hidden => {
                        state.copy_from_slice(&initial[..hidden]);
                    }
                    _ => state.fill(0.0),
                }
            }
        }
        for row in 0..self.batch {
            let length = lengths.get(row).map_or(self.steps, |&it| it as usize);
            for step in length..self.steps {
                self.result(y, step, row)?.fill(0.0);
            }
        }
        let longest = lengths.iter().map(|&length| length as usize).max();
        let longest = longest.unwrap_or(self.steps);
        for first in (0..longest).step_by(self.chunk()) {
            let times = first..longest.min(first + self.chunk());
            let rows = times.len() * self.batch;
            for (place, into) in collected
                .chunks_exact_mut(input.max(1))
                .enumerate()
                .take(rows)
            {
                let (time, row) = (times.start + place / self.batch, place % self.batch);
                // What is behind the end of a sequence is computed and not used.
                let step = self.step(direction, lengths, time, row).unwrap_or(0);
                let place = match self.batch_first {
                    true => row * self.steps + step,
                    false => step * self.batch + row,
                };
                into.copy_from_slice(&x[place * input..][..input]);
            }
            let sums = &mut sums[..rows * lines];
            weights.of_inputs(self, rows, collected, kernel, sums)?;
            for (time, sums) in times.zip(sums.chunks_exact(self.batch * lines)) {
                let active = |row: usize| self.step(direction, lengths, time, row);
                weights.step(self, sums, [h, c, of_states, update_reset, kernel], active)?;
                for row in 0..self.batch {
                    if let Some(step) = active(row) {
                        let own = &h[row * hidden..][..hidden];
                        self.result(y, step, row)?.copy_from_slice(own);
                    }
                }
            }
        }
        Ok([h, c])
    }
}

/// The packed weights of one direction.
struct Weights<'a> {
    isa: Isa,
    inputs: &'a [f32],
    states: &'a [f32],
    bias: &'a [f32],
    /// What is added to the products of states.
    state_bias: &'a [f32],
}

impl Weights<'_> {
    /// `x·W + b` of some rows, for all gates.
    fn of_inputs(
        &self,
        layer: &Layer,
        rows: usize,
        input: &[f32],
        kernel: &mut [f32],
        sums: &mut [f32],
    ) -> Result<(), StepError> {
        let shape = layer.product(rows, layer.input, layer.gates);
        let data = LinearData {
            input: &input[..rows * layer.input],
            weights: self.inputs,
            bias: Some(self.bias),
            clamp: Bounds::NONE,
        };
        self.multiply(shape, data, kernel, sums)
    }

    /// `h·R` of all sequences, for the gates of a product.
    fn of_states(
        &self,
        layer: &Layer,
        product: usize,
        h: &[f32],
        kernel: &mut [f32],
        sums: &mut [f32],
    ) -> Result<(), StepError> {
        let products = layer.cell.products();
        let gates = products[product];
        let before: usize = products[..product].iter().sum();
        let start = linear::packed_len(layer.hidden, before * layer.hidden)?;
        let shape = layer.product(layer.batch, layer.hidden, gates);
        let len = linear::packed_len(layer.hidden, shape.n)?;
        let data = LinearData {
            input: h,
            weights: &self.states[start..start + len],
            bias: Some(&self.state_bias[before * layer.hidden..][..shape.n]),
            clamp: Bounds::NONE,
        };
        self.multiply(shape, data, kernel, &mut sums[..layer.batch * shape.n])
    }

    fn multiply(
        &self,
        shape: LinearShape,
        data: LinearData<'_>,
        kernel: &mut [f32],
        sums: &mut [f32],
    ) -> Result<(), StepError> {
        let block = Block {
            rows: 0..shape.rows,
            columns: 0..shape.n,
        };
        Ok(linear(self.isa, &shape, &data, block, kernel, sums)?)
    }

    /// One step: the next states of the sequences that are `active`. The memory is that of `h`, `c`, the sums of states, two gates, and the products.
    fn step(
        &self,
        layer: &Layer,
        inputs: &[f32],
        [h, c, of_states, update_reset, kernel]: [&mut [f32]; 5],
        active: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), StepError> {
        let (isa, hidden, lines) = (self.isa, layer.hidden, layer.gates * layer.hidden);
        let rows = || (0..layer.batch).filter(|&row| active(row).is_some());
        let of_row = |row: usize, gates: usize| row * gates * hidden..(row + 1) * gates * hidden;
        match layer.cell {
            Cell::Lstm => {
                self.of_states(layer, 0, h, kernel, of_states)?;
                for row in rows() {
                    let (inputs, gates) = (&inputs[of_row(row, 4)], &mut of_states[of_row(row, 4)]);
                    let (c, h) = (&mut c[of_row(row, 1)], &mut h[of_row(row, 1)]);
                    lstm(isa, inputs, gates, c, h)?;
                }
            }
            Cell::Rnn => {
                self.of_states(layer, 0, h, kernel, of_states)?;
                for row in rows() {
                    let (inputs, states) = (&inputs[of_row(row, 1)], &of_states[of_row(row, 1)]);
                    rnn(isa, inputs, states, &mut h[of_row(row, 1)])?;
                }
            }
            Cell::Gru {
                linear_before_reset,
            } => {
                self.of_states(layer, 0, h, kernel, update_reset)?;
                for row in 0..layer.batch {
                    let inputs = &inputs[row * lines..][..2 * hidden];
                    gru_gates(isa, inputs, &mut update_reset[of_row(row, 2)])?;
                }
                if linear_before_reset {
                    self.of_states(layer, 1, h, kernel, of_states)?;
                } else {
                    // The state of the cell is free: a GRU has none.
                    for row in 0..layer.batch {
                        let (gates, own) = (&update_reset[of_row(row, 2)], of_row(row, 1));
                        gru_reset(isa, gates, &h[own.clone()], &mut c[own])?;
                    }
                    self.of_states(layer, 1, c, kernel, of_states)?;
                }
                for row in rows() {
                    let inputs = &inputs[row * lines..][2 * hidden..lines];
                    let states = &mut of_states[of_row(row, 1)];
                    let (gates, h) = (&update_reset[of_row(row, 2)], &mut h[of_row(row, 1)]);
                    gru(isa, inputs, states, gates, linear_before_reset, h)?;
                }
            }
        }
        Ok(())
    }
}
