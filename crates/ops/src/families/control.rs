//! Control flow: operators that run bodies.
//!
//! A body is closed. What it reads of the graph around it are operands of the operator, the last ones, and the last inputs of the
//! body: its captures. `Loop` and `Scan` say how many there are; all operands of `If` but the condition are captures of both branches.

use octofold_tensor::{Shape, Tensor};

use super::Transpose;
use super::support::{checked_elements, elements_of, map_data, normalize_axis, scalar};
use crate::{Bodies, BodyId, Inputs, OpError, Operator, attributes, bail, bail_attribute};

attributes! {
    /// ONNX `If` (opset 21): the outputs of one of two bodies.
    ///
    /// Inputs: `cond`, one boolean; the captures of both branches. Outputs: those of the branch. The branches give the same element types.
    "" "If" inputs(1..=usize::MAX) outputs(1..=usize::MAX)
    pub struct If {
        /// The body that runs when the condition holds.
        then_branch: BodyId,
        /// The body that runs when it does not.
        else_branch: BodyId,
    }

    /// ONNX `Loop` (opset 21): a body, run while a condition holds and at most `M` times.
    ///
    /// Inputs: optional `M` (int64) and `cond` (boolean), one element each; the initial values of N states; `captures` captures. The body takes
    /// the number of the trip, the condition, the states and the captures; it gives the next condition, the next states, and K values that
    /// are stacked along a new first axis. Outputs: the last states and the K stacks.
    "" "Loop" inputs(0..=usize::MAX) outputs(1..=usize::MAX)
    pub struct Loop {
        /// The body.
        body: BodyId,
        /// How many of the last operands are captures.
        captures: i64 = 0,
    }

    /// ONNX `Scan` (opset 21): a body, run for each element of some operands along an axis.
    ///
    /// Inputs: the initial values of N states, M operands that are scanned, `captures` captures. The body takes the states, an element of each
    /// scanned operand (without the axis) and the captures; it gives the next states and K values that are stacked. Outputs: the last states
    /// and the K stacks.
    "" "Scan" inputs(1..=usize::MAX) outputs(1..=usize::MAX)
    pub struct Scan {
        /// The body.
        body: BodyId,
        /// How many operands are scanned.
        num_scan_inputs: i64,
        /// Along which axis each operand is scanned; 0 for all when empty.
        scan_input_axes: Vec<i64> = vec![],
        /// Whether each operand is scanned from its end (1) or its beginning (0); 0 for all when empty.
        scan_input_directions: Vec<i64> = vec![],
        /// Along which axis each result is stacked; 0 for all when empty.
        scan_output_axes: Vec<i64> = vec![],
        /// Whether each result is stacked before (1) or behind (0) those before it; 0 for all when empty.
        scan_output_directions: Vec<i64> = vec![],
        /// How many of the last operands are captures.
        captures: i64 = 0,
    }
}

/// How the operands of a `Loop` or `Scan` are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The first state.
    pub first: usize,
    /// The states.
    pub states: usize,
    /// The operands that are scanned, behind the states.
    pub scanned: usize,
    /// The captures, the last operands.
    pub captures: usize,
}

impl Slots {
    /// Divides `inputs` operands.
    fn new(first: usize, inputs: usize, scanned: i64, captures: i64) -> Result<Self, OpError> {
        let count = |name, value: i64| {
            usize::try_from(value)
                .map_err(|_| OpError::attribute(name, format!("{value} is negative")))
        };
        let (scanned, captures) = (
            count("num_scan_inputs", scanned)?,
            count("captures", captures)?,
        );
        // Absent operands at the end are left out, so that there may be fewer than `first`.
        let states = inputs.saturating_sub(first).checked_sub(scanned);
        let states = states.and_then(|rest| rest.checked_sub(captures));
        let states = states.ok_or_else(|| {
            OpError::invalid(format!(
                "{inputs} operands, of which {scanned} are scanned and {captures} are captures"
            ))
        })?;
        Ok(Self {
            first,
            states,
            scanned,
            captures,
        })
    }
}

impl Loop {
    /// How `inputs` operands are divided.
    ///
    /// # Errors
    /// When there are fewer than the attributes say.
    pub fn slots(&self, inputs: usize) -> Result<Slots, OpError> {
        Slots::new(2, inputs, 0, self.captures)
    }
}

impl Scan {
    /// How `inputs` operands are divided.
    ///
    /// # Errors
    /// When there are fewer than the attributes say.
    pub fn slots(&self, inputs: usize) -> Result<Slots, OpError> {
        Slots::new(0, inputs, self.num_scan_inputs, self.captures)
    }

    /// The axis and direction of one of `count` scanned operands or stacked results.
    ///
    /// # Errors
    /// When a list has another length, an axis does not exist or a direction is neither 0 nor 1.
    pub fn axis(&self, side: ScanSide, index: usize, rank: usize) -> Result<ScanAxis, OpError> {
        let (axes, directions, name) = match side {
            ScanSide::Input => (
                &self.scan_input_axes,
                &self.scan_input_directions,
                "scan_input_directions",
            ),
            ScanSide::Output => (
                &self.scan_output_axes,
                &self.scan_output_directions,
                "scan_output_directions",
            ),
        };
        let of = |list: &[i64]| {
            if list.is_empty() {
                return Ok(0);
            }
            let missing = || {
                OpError::invalid(format!(
                    "{} axes or directions, not one for each",
                    list.len()
                ))
            };
            list.get(index).copied().ok_or_else(missing)
        };
        let reversed = match of(directions)? {
            0 => false,
            1 => true,
            other => {
                bail_attribute!(name, "{other} is neither 0 nor 1");
            }
        };
        Ok(ScanAxis {
            axis: normalize_axis(of(axes)?, rank)?,
            reversed,
        })
    }
}

/// Which lists of a [`Scan`] are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanSide {
    /// Those of scanned operands.
    Input,
    /// Those of stacked results.
    Output,
}

/// Along which axis, and in which direction, a [`Scan`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanAxis {
    /// The axis, from the front.
    pub axis: usize,
    /// Whether it is gone through from its end.
    pub reversed: bool,
}

fn outside() -> OpError {
    OpError::Unsupported("an operator with a body outside of its graph".to_owned())
}

/// The operands from a slot on, all of which have to be there.
fn operands(inputs: Inputs<'_>, first: usize) -> Result<Vec<Tensor>, OpError> {
    (first..inputs.len())
        .map(|slot| inputs.required(slot).cloned())
        .collect()
}

/// Runs a body and checks that it gives at least `least` outputs.
fn call(
    bodies: &mut dyn Bodies,
    body: BodyId,
    inputs: &[Tensor],
    outputs: &mut Vec<Tensor>,
    least: usize,
) -> Result<(), OpError> {
    bodies.call(body, inputs, outputs)?;
    if outputs.len() >= least {
        return Ok(());
    }
    let found = outputs.len();
    bail!("a body gives {found} outputs, expected {least}")
}

impl Operator for If {
    fn evaluate(&self, _inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Err(outside())
    }
}

impl If {
    /// Computes the outputs: see [`crate::Op::evaluate_with`].
    pub(crate) fn run(
        &self,
        inputs: Inputs<'_>,
        outputs: usize,
        bodies: &mut dyn Bodies,
    ) -> Result<Vec<Tensor>, OpError> {
        let branch = if scalar::<bool>(inputs.required(0)?, "the condition")? {
            self.then_branch
        } else {
            self.else_branch
        };
        let mut results = Vec::with_capacity(outputs);
        call(bodies, branch, &operands(inputs, 1)?, &mut results, outputs)?;
        results.truncate(outputs);
        Ok(results)
    }
}

impl Operator for Loop {
    fn evaluate(&self, _inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Err(outside())
    }
}

impl Loop {
    /// Computes the outputs: see [`crate::Op::evaluate_with`].
    pub(crate) fn run(
        &self,
        inputs: Inputs<'_>,
        outputs: usize,
        bodies: &mut dyn Bodies,
    ) -> Result<Vec<Tensor>, OpError> {
        let states = self.slots(inputs.len())?.states;
        let limit = match inputs.optional(0) {
            Some(trips) => scalar::<i64>(trips, "the number of trips")?,
            None => i64::MAX,
        };
        let mut going = match inputs.optional(1) {
            Some(condition) => scalar::<bool>(condition, "the condition")?,
            None => true,
        };
        let mut arguments = vec![Tensor::scalar(0_i64), Tensor::scalar(going)];
        arguments.extend(operands(inputs, 2)?);
        let least = 1 + outputs.max(states);
        let mut stacks = Stacks::new(self.body, 1 + states, outputs.saturating_sub(states), 4);
        let mut results = Vec::new();
        let mut trip = 0_i64;
        while going && trip < limit {
            set(&mut arguments[0], trip)?;
            call(bodies, self.body, &arguments, &mut results, least)?;
            going = scalar::<bool>(&results[0], "the condition")?;
            for (argument, result) in arguments[1..].iter_mut().zip(&mut results[..=states]) {
                // The old state is the memory of the next one but one.
                std::mem::swap(argument, result);
            }
            stacks.put(&results, trip as usize, bodies)?;
            trip += 1;
        }
        let mut found: Vec<Tensor> = arguments.drain(2..2 + states).collect();
        found.extend(stacks.finish(bodies, |_, _| {
            Ok(ScanAxis {
                axis: 0,
                reversed: false,
            })
        })?);
        found.truncate(outputs);
        Ok(found)
    }
}

impl Operator for Scan {
    fn evaluate(&self, _inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Err(outside())
    }
}

impl Scan {
    /// Computes the outputs: see [`crate::Op::evaluate_with`].
    pub(crate) fn run(
        &self,
        inputs: Inputs<'_>,
        outputs: usize,
        bodies: &mut dyn Bodies,
    ) -> Result<Vec<Tensor>, OpError> {
        let slots = self.slots(inputs.len())?;
        let mut arguments = operands(inputs, 0)?;
        let mut scanned = Vec::with_capacity(slots.scanned);
        for index in 0..slots.scanned {
            let argument = &mut arguments[slots.states + index];
            let ScanAxis { axis, reversed } = self.axis(ScanSide::Input, index, argument.rank())?;
            let whole = axis_to(argument, axis, 0)?;
            *argument = Tensor::zeros(whole.dtype(), whole.shape()[1..].iter().copied())?;
            bodies.keep((whole.byte_len() as u64).saturating_add(argument.byte_len() as u64))?;
            scanned.push((whole, reversed));
        }
        let trips = scanned.first().map_or(0, |(whole, _)| whole.shape()[0]);
        if scanned.iter().any(|(whole, _)| whole.shape()[0] != trips) {
            bail!("the scanned operands have different lengths");
        }
        let least = outputs.max(slots.states);
        let stacked = outputs.saturating_sub(slots.states);
        let mut stacks = Stacks::new(self.body, slots.states, stacked, trips);
        let mut results = Vec::new();
        for trip in 0..trips {
            for (argument, (whole, reversed)) in arguments[slots.states..].iter_mut().zip(&scanned)
            {
                let index = if *reversed { trips - 1 - trip } else { trip };
                let count = argument.len();
                argument.copy_elements(0, whole, index * count..(index + 1) * count)?;
            }
            call(bodies, self.body, &arguments, &mut results, least)?;
            for (argument, result) in arguments[..slots.states].iter_mut().zip(&mut results) {
                std::mem::swap(argument, result);
            }
            stacks.put(&results, trip, bodies)?;
        }
        arguments.truncate(slots.states);
        let axis = |index, rank| self.axis(ScanSide::Output, index, rank);
        arguments.extend(stacks.finish(bodies, axis)?);
        arguments.truncate(outputs);
        Ok(arguments)
    }
}

/// Writes a number into a tensor of one element.
fn set(tensor: &mut Tensor, value: i64) -> Result<(), OpError> {
    if let Some(element) = tensor.values_mut::<i64>()?.first_mut() {
        *element = value;
    }
    Ok(())
}

/// The tensor with an axis moved to another place.
fn axis_to(tensor: &Tensor, from: usize, to: usize) -> Result<Tensor, OpError> {
    if from == to {
        return Ok(tensor.clone());
    }
    let mut perm: Vec<i64> = (0..tensor.rank() as i64).collect();
    let axis = perm.remove(from);
    perm.insert(to, axis);
    let moved = Transpose { perm }.evaluate(Inputs(&[Some(tensor)]), 1)?;
    moved.into_iter().next().ok_or(OpError::MissingInput(0))
}

/// Results of a body that are stacked trip by trip.
struct Stacks {
    body: BodyId,
    /// The first output of the body that is stacked.
    first: usize,
    /// For how many values there is room at first.
    room: usize,
    stacks: Vec<Option<Stack>>,
}

/// Values of one type and shape, one behind the other.
struct Stack {
    shape: Shape,
    /// As many elements as there is room for.
    elements: Tensor,
    /// How many values are there.
    count: usize,
}

impl Stacks {
    /// Stacks for `count` outputs of a body from `first` on, with room for the values of some trips.
    fn new(body: BodyId, first: usize, count: usize, room: usize) -> Self {
        Self {
            body,
            first,
            room,
            stacks: (0..count).map(|_| None).collect(),
        }
    }

    /// Appends the results of a trip.
    fn put(
        &mut self,
        results: &[Tensor],
        trip: usize,
        bodies: &mut dyn Bodies,
    ) -> Result<(), OpError> {
        let results = results.get(self.first..).unwrap_or(&[]);
        for (stack, result) in self.stacks.iter_mut().zip(results) {
            let stack = match stack {
                Some(stack) => stack,
                None => stack.insert(Stack {
                    shape: Shape::from_slice(result.shape()),
                    elements: Tensor::zeros(result.dtype(), [0])?,
                    count: 0,
                }),
            };
            stack.put(result, trip, self.room, bodies)?;
        }
        Ok(())
    }

    /// The stacks, each along the axis and in the direction that `axis` says for its position and rank.
    fn finish(
        self,
        bodies: &dyn Bodies,
        axis: impl Fn(usize, usize) -> Result<ScanAxis, OpError>,
    ) -> Result<Vec<Tensor>, OpError> {
        let (body, first) = (self.body, self.first);
        let each = |(index, stack): (usize, Option<Stack>)| {
            let stack = match stack {
                Some(stack) => stack,
                None => {
                    let (dtype, shape) = bodies.output(body, first + index).ok_or_else(|| {
                        OpError::invalid(format!("a body has no output {}", first + index))
                    })?;
                    Stack {
                        elements: Tensor::zeros(dtype, [0])?,
                        shape,
                        count: 0,
                    }
                }
            };
            let ScanAxis { axis, reversed } = axis(index, stack.shape.len() + 1)?;
            axis_to(&stack.finish(reversed)?, 0, axis)
        };
        self.stacks.into_iter().enumerate().map(each).collect()
    }
}

impl Stack {
    fn put(
        &mut self,
        value: &Tensor,
        trip: usize,
        room: usize,
        bodies: &mut dyn Bodies,
    ) -> Result<(), OpError> {
        if value.shape() != &*self.shape || value.dtype() != self.elements.dtype() {
            bail!(
                "the value of trip {trip} is {}{:?}, those before are {}{:?}",
                value.dtype(),
                value.shape(),
                self.elements.dtype(),
                self.shape
            );
        }
        let size = value.len();
        let used = self.count * size;
        if self.elements.len() < used + size {
            // Twice the room, so that a value is copied twice on average.
            let room = checked_elements(&[(self.count * 2).max(room), size])?;
            let mut larger = Tensor::zeros(value.dtype(), [room])?;
            bodies.keep((larger.byte_len() - self.elements.byte_len()) as u64)?;
            larger.copy_elements(0, &self.elements, 0..used)?;
            self.elements = larger;
        }
        self.elements.copy_elements(used, value, 0..size)?;
        self.count += 1;
        Ok(())
    }

    fn finish(self, reversed: bool) -> Result<Tensor, OpError> {
        let mut shape = self.shape;
        let size = elements_of(&shape);
        shape.insert(0, self.count);
        let used = self.count * size;
        let data = map_data!(self.elements.data(), values => {
            let values = &values[..used];
            if reversed && size > 0 {
                values.rchunks_exact(size).flatten().cloned().collect()
            } else {
                values.to_vec()
            }
        });
        Ok(Tensor::from_data(shape, data)?)
    }
}

#[cfg(test)]
mod tests {
    use octofold_tensor::DType;

    use super::*;
    use crate::Op;

    /// Bodies that are functions, with limits of their own.
    struct Functions<F>(F, u64);

    impl<F: FnMut(BodyId, &[Tensor]) -> Vec<Tensor>> Bodies for Functions<F> {
        fn call(
            &mut self,
            body: BodyId,
            inputs: &[Tensor],
            outputs: &mut Vec<Tensor>,
        ) -> Result<(), OpError> {
            *outputs = (self.0)(body, inputs);
            Ok(())
        }

        fn output(&self, _: BodyId, _: usize) -> Option<(DType, Shape)> {
            Some((DType::F32, Shape::from_slice(&[2])))
        }

        fn keep(&mut self, bytes: u64) -> Result<(), OpError> {
            self.1 = self
                .1
                .checked_sub(bytes)
                .ok_or(OpError::TooLarge(bytes.into()))?;
            Ok(())
        }
    }

    fn floats(tensor: &Tensor) -> &[f32] {
        tensor.values::<f32>().expect("floats")
    }

    fn run<F: FnMut(BodyId, &[Tensor]) -> Vec<Tensor>>(
        op: impl Into<Op>,
        inputs: &[&Tensor],
        outputs: usize,
        body: F,
    ) -> Result<Vec<Tensor>, OpError> {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|&tensor| Some(tensor)).collect();
        let bodies = &mut Functions(body, 1 << 20);
        op.into().evaluate_with(Inputs(&inputs), outputs, bodies)
    }

    #[test]
    fn a_loop_hands_its_states_on_and_stacks_the_rest() {
        let op = Loop {
            body: BodyId(3),
            captures: 1,
        };
        let (trips, condition) = (Tensor::scalar(10_i64), Tensor::scalar(true));
        let (state, step) = (Tensor::scalar(1.0_f32), Tensor::scalar(2.0_f32));
        // state = state + step, until it exceeds 6.
        let body = |id: BodyId, inputs: &[Tensor]| {
            assert_eq!(id, BodyId(3));
            let next = floats(&inputs[2])[0] + floats(&inputs[3])[0];
            let trip = inputs[0].values::<i64>().expect("a trip")[0];
            vec![
                Tensor::scalar(next <= 6.0),
                Tensor::scalar(next),
                Tensor::vector(vec![trip as f32, next]),
            ]
        };
        let found = run(op, &[&trips, &condition, &state, &step], 2, body).expect("a run");
        assert_eq!(floats(&found[0]), [7.0]);
        assert_eq!(found[1].shape(), [3, 2]);
        assert_eq!(floats(&found[1]), [0.0, 3.0, 1.0, 5.0, 2.0, 7.0]);
    }

    #[test]
    fn a_loop_of_no_trips_gives_its_states_and_empty_stacks() {
        let op = Loop {
            body: BodyId(0),
            captures: 0,
        };
        let (trips, condition) = (Tensor::scalar(-1_i64), Tensor::scalar(true));
        let state = Tensor::vector(vec![4_i32]);
        let found = run(op, &[&trips, &condition, &state], 2, |_, _| unreachable!());
        let found = found.expect("a run");
        assert_eq!(found[0], state);
        assert_eq!(
            (found[1].shape(), found[1].dtype()),
            (&[0, 2][..], DType::F32)
        );
    }

    #[test]
    fn a_scan_goes_along_axes_and_backwards() {
        let op = Scan {
            body: BodyId(0),
            num_scan_inputs: 1,
            scan_input_axes: vec![1],
            scan_input_directions: vec![1],
            scan_output_axes: vec![-1],
            scan_output_directions: vec![1],
            captures: 0,
        };
        let state = Tensor::vector(vec![0.0_f32, 0.0]);
        let x = Tensor::new([2, 3], vec![1.0_f32, 2.0, 3.0, 10.0, 20.0, 30.0]).expect("a tensor");
        let body = |_: BodyId, inputs: &[Tensor]| {
            let (sum, x) = (floats(&inputs[0]), floats(&inputs[1]));
            let sum = Tensor::vector(vec![sum[0] + x[0], sum[1] + x[1]]);
            vec![sum.clone(), sum]
        };
        let found = run(op, &[&state, &x], 2, body).expect("a run");
        assert_eq!(floats(&found[0]), [6.0, 60.0]);
        // Sums from the last column on, the first of them in the last column.
        assert_eq!(found[1].shape(), [2, 3]);
        assert_eq!(floats(&found[1]), [6.0, 5.0, 3.0, 60.0, 50.0, 30.0]);
    }

    #[test]
    fn an_if_runs_one_branch_on_the_captures() {
        let op = || If {
            then_branch: BodyId(1),
            else_branch: BodyId(2),
        };
        let x = Tensor::scalar(5.0_f32);
        for (condition, expected) in [(true, 1), (false, 2)] {
            let body = |id: BodyId, inputs: &[Tensor]| {
                assert_eq!(id, BodyId(expected));
                inputs.to_vec()
            };
            let found = run(op(), &[&Tensor::scalar(condition), &x], 1, body).expect("a run");
            assert_eq!(found, std::slice::from_ref(&x));
        }
    }

    #[test]
    fn what_a_loop_keeps_is_limited() {
        let op = Loop {
            body: BodyId(0),
            captures: 0,
        };
        let trips = Tensor::scalar(1_i64 << 62);
        let value = Tensor::vector(vec![0.0_f32; 1024]);
        let body = |_: BodyId, _: &[Tensor]| vec![Tensor::scalar(true), value.clone()];
        let error = run(op, &[&trips], 1, body).expect_err("too much");
        assert!(matches!(error, OpError::TooLarge(_)), "{error}");
    }

    #[test]
    fn values_of_different_shapes_are_not_stacked() {
        let op = Loop {
            body: BodyId(0),
            captures: 0,
        };
        let trips = Tensor::scalar(3_i64);
        let body = |_: BodyId, inputs: &[Tensor]| {
            let trip = inputs[0].values::<i64>().expect("a trip")[0] as usize;
            vec![Tensor::scalar(true), Tensor::vector(vec![0.0_f32; trip])]
        };
        assert!(run(op, &[&trips], 1, body).is_err());
    }
}
