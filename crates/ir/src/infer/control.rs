//! Control flow: the types that enter bodies, and those that leave them.
//!
//! The types of a body's inputs follow from the operands of its operator ([`Entry`]). A size that is not a number enters as a symbol of
//! the body's own, `input[axis]`; equal sizes enter as one symbol. A state whose size may change from trip to trip enters with a symbol that
//! nothing else shares. Sizes leave a body as the sizes of the operands that they follow from; all others are unknown outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use octofold_ops::families::{If, Loop, Scan, ScanSide, Slots};
use octofold_ops::{BodyId, Op, OpError, bail};
use octofold_tensor::{DType, Dim};

use super::helpers::{differ, expect, typed};
use super::{Context, Inferred, Types};
use crate::bind::substitute;
use crate::{TensorType, ValueType};

/// What a body takes and gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// The types of the inputs.
    pub inputs: Vec<ValueType>,
    /// The types of the outputs.
    pub outputs: Vec<ValueType>,
}

/// The values that a body gives back to itself, trip by trip.
#[derive(Clone, Copy, Debug, Default)]
struct States {
    count: usize,
    /// The body's first input that is a state.
    input: usize,
    /// The body's first output that is a state.
    output: usize,
}

impl States {
    fn of(op: &Op, operands: usize) -> Result<Self, OpError> {
        Ok(match op {
            Op::Loop(op) => Self {
                count: op.slots(operands)?.states,
                input: 2,
                output: 1,
            },
            Op::Scan(op) => Self {
                count: op.slots(operands)?.states,
                input: 0,
                output: 0,
            },
            _ => Self::default(),
        })
    }
}

/// The types with which operands enter the bodies of an operator.
pub(crate) struct Entry {
    types: Vec<TensorType>,
    states: States,
    /// The sizes of states that change from trip to trip: state and axis.
    open: BTreeSet<(usize, usize)>,
}

impl Entry {
    /// The types of operands as they enter the bodies of `op`.
    ///
    /// # Errors
    /// When operands are absent, too few, or cannot be scanned.
    pub(crate) fn new(op: &Op, operands: &[Option<&TensorType>]) -> Result<Self, OpError> {
        let all = |range: std::ops::Range<usize>| {
            let each = range.map(|slot| {
                let operand = operands.get(slot).copied().flatten();
                operand.cloned().ok_or(OpError::MissingInput(slot))
            });
            each.collect::<Result<Vec<_>, _>>()
        };
        let count = operands.len();
        let types = match op {
            Op::If(_) => all(1..count)?,
            Op::Loop(_) => {
                let number = |dtype| TensorType::new(dtype, Vec::<Dim>::new());
                let mut types = vec![number(DType::I64), number(DType::Bool)];
                types.extend(all(2..count)?);
                types
            }
            Op::Scan(scan) => {
                let slots = scan.slots(count)?;
                let mut types = all(0..count)?;
                let scanned = &mut types[slots.states..slots.states + slots.scanned];
                for (index, ty) in scanned.iter_mut().enumerate() {
                    if let Some(dims) = &mut ty.shape {
                        dims.remove(scan.axis(ScanSide::Input, index, dims.len())?.axis);
                    }
                    ty.quantization = None;
                }
                types
            }
            _ => Vec::new(),
        };
        Ok(Self {
            types,
            states: States::of(op, count)?,
            open: BTreeSet::new(),
        })
    }

    /// The types of the inputs of a body whose inputs have the given names.
    pub(crate) fn types(&self, names: &[&str]) -> Vec<TensorType> {
        let mut symbols: BTreeMap<String, Dim> = BTreeMap::new();
        let mut types = self.types.clone();
        for (input, ty) in types.iter_mut().enumerate() {
            let name = names.get(input).copied().unwrap_or_default();
            for (axis, dim) in ty.shape.iter_mut().flatten().enumerate() {
                let own = || Dim::symbol(&format!("{name}[{axis}]"));
                let state = input.checked_sub(self.states.input);
                if state.is_some_and(|state| self.open.contains(&(state, axis))) {
                    *dim = own();
                } else if dim.known().is_none() {
                    let symbol = symbols.entry(dim.to_string()).or_insert_with(own);
                    *dim = symbol.clone();
                }
            }
        }
        types
    }

    /// Opens the sizes of states that do not leave the body as they enter; says whether there were any.
    pub(crate) fn widen(&mut self, body: &Signature) -> bool {
        let mut widened = false;
        for state in 0..self.states.count {
            let (input, output) = (self.states.input + state, self.states.output + state);
            let tensor = |types: &[ValueType], at: usize| types.get(at)?.tensor().ok().cloned();
            let (Some(before), Some(after)) =
                (tensor(&body.inputs, input), tensor(&body.outputs, output))
            else {
                continue;
            };
            let entered = self.types.get_mut(input).map(|ty| &mut ty.shape);
            match (&before.shape, &after.shape) {
                (Some(before), Some(after)) if before.len() == after.len() => {
                    let pairs = before.iter().zip(after).enumerate();
                    for (axis, (before, after)) in pairs {
                        widened |= before != after && self.open.insert((state, axis));
                    }
                }
                (Some(_), _) => {
                    if let Some(shape) = entered {
                        *shape = None;
                        widened = true;
                    }
                }
                (None, _) => {}
            }
        }
        widened
    }
}

/// A type that leaves a body: `None` for a size that is not known outside.
struct Exit {
    dtype: DType,
    dims: Option<Vec<Option<Dim>>>,
}

impl Exit {
    /// The type of a value that is the one or the other.
    fn or(self, other: Self, what: &str) -> Result<Self, OpError> {
        if self.dtype != other.dtype {
            let (a, b) = (self.dtype, other.dtype);
            bail!("{what} is of type {a} or {b}");
        }
        let dims = match (self.dims, other.dims) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                let each = a.into_iter().zip(b);
                Some(each.map(|(a, b)| if a == b { a } else { None }).collect())
            }
            _ => None,
        };
        Ok(Self {
            dtype: self.dtype,
            dims,
        })
    }

    fn of(ty: &TensorType) -> Self {
        Self {
            dtype: ty.dtype,
            dims: ty
                .shape
                .as_ref()
                .map(|dims| dims.iter().cloned().map(Some).collect()),
        }
    }

    fn inferred(self, cx: &mut Context<'_>) -> Inferred {
        let dims = self.dims.map(|dims| {
            let each = dims.into_iter();
            each.map(|dim| dim.unwrap_or_else(|| cx.fresh())).collect()
        });
        typed(self.dtype, dims).into()
    }
}

/// The types with which a body's outputs leave it.
fn exits<'a>(cx: &'a Context<'_>, op: &Op, body: BodyId) -> Result<Vec<Exit>, OpError> {
    let signature = cx.signature(body)?;
    let tensors = |types: &'a [ValueType]| {
        let types = types.iter().map(ValueType::tensor);
        types.collect::<Result<Vec<&TensorType>, _>>()
    };
    let (inputs, outputs) = (tensors(&signature.inputs)?, tensors(&signature.outputs)?);
    let operands: Vec<Option<&TensorType>> = (0..cx.len())
        .map(|slot| cx.optional(slot).map(|known| known.ty))
        .collect();
    let entry = Entry::new(op, &operands)?;
    if inputs.len() != entry.types.len() {
        bail!(
            "a body takes {} inputs, it is given {}",
            inputs.len(),
            entry.types.len()
        );
    }
    let mut bindings: BTreeMap<Arc<str>, Option<Dim>> = BTreeMap::new();
    for (index, (declared, given)) in inputs.iter().zip(&entry.types).enumerate() {
        let refuse = || {
            OpError::invalid(format!(
                "input {index} of a body is of type {declared}, it is given {given}"
            ))
        };
        if declared.dtype != given.dtype {
            return Err(refuse());
        }
        let (Some(declared), Some(given)) = (&declared.shape, &given.shape) else {
            // An input that promises a rank is given one.
            if declared.shape.is_some() {
                return Err(refuse());
            }
            continue;
        };
        if declared.len() != given.len() {
            return Err(refuse());
        }
        for (declared, given) in declared.iter().zip(given) {
            match declared {
                Dim::Symbol(symbol) => {
                    let bound = bindings
                        .entry(symbol.clone())
                        .or_insert_with(|| Some(given.clone()));
                    if bound.as_ref() != Some(given) {
                        *bound = None;
                    }
                }
                declared if declared == given => {}
                _ => return Err(refuse()),
            }
        }
    }
    let states = entry.states;
    for state in 0..states.count {
        let before = inputs[states.input + state];
        let after = outputs
            .get(states.output + state)
            .ok_or_else(|| OpError::invalid(format!("a body does not give state {state}")))?;
        let refuse = || {
            OpError::invalid(format!(
                "state {state} of a body enters as {before} and leaves as {after}"
            ))
        };
        if before.dtype != after.dtype {
            return Err(refuse());
        }
        match (&before.shape, &after.shape) {
            (None, _) => {}
            (Some(before), Some(after)) if before.len() == after.len() => {
                for (before, after) in before.iter().zip(after) {
                    match before {
                        _ if before == after => {}
                        Dim::Symbol(symbol) => {
                            bindings.insert(symbol.clone(), None);
                        }
                        _ => return Err(refuse()),
                    }
                }
            }
            (Some(_), _) => return Err(refuse()),
        }
    }
    let leave = |dim: &Dim| substitute(dim, &|symbol| bindings.get(symbol).cloned().flatten());
    let outputs = outputs.iter().map(|ty| Exit {
        dtype: ty.dtype,
        dims: ty
            .shape
            .as_ref()
            .map(|dims| dims.iter().map(leave).collect()),
    });
    Ok(outputs.collect())
}

pub(super) fn branches(op: &If, cx: &mut Context<'_>) -> Types {
    expect(cx, 0, DType::Bool)?;
    let wrapped = Op::from(op.clone());
    let then = exits(cx, &wrapped, op.then_branch)?;
    let other = exits(cx, &wrapped, op.else_branch)?;
    if then.len() != other.len() {
        bail!(
            "the branches give {} and {} outputs",
            then.len(),
            other.len()
        );
    }
    let both = then.into_iter().zip(other).enumerate();
    let both = both.map(|(slot, (then, other))| then.or(other, &format!("output {slot}")));
    let both = both.collect::<Result<Vec<_>, _>>()?;
    Ok(both.into_iter().map(|exit| exit.inferred(cx)).collect())
}

pub(super) fn looped(op: &Loop, cx: &mut Context<'_>) -> Types {
    expect(cx, 0, DType::I64)?;
    expect(cx, 1, DType::Bool)?;
    let mut exits = exits(cx, &op.clone().into(), op.body)?.into_iter();
    match exits.next() {
        Some(condition) if condition.dtype == DType::Bool => {}
        _ => {
            bail!("a body gives no boolean as its first output");
        }
    }
    let slots = op.slots(cx.len())?;
    // The condition may end it before the last trip.
    let stack = |_, exit| Ok(stacked(exit, None, 0));
    results(cx, exits, slots, stack)
}

pub(super) fn scan(op: &Scan, cx: &mut Context<'_>) -> Types {
    let exits = exits(cx, &op.clone().into(), op.body)?.into_iter();
    let slots = op.slots(cx.len())?;
    let mut trips: Option<Dim> = None;
    for index in 0..slots.scanned {
        let known = cx.required(slots.states + index)?;
        let Some(dims) = &known.ty.shape else {
            continue;
        };
        let axis = op.axis(ScanSide::Input, index, dims.len())?.axis;
        match &trips {
            Some(trips) if differ(trips, &dims[axis]) => {
                bail!(
                    "operands of {trips} and {} elements are scanned together",
                    dims[axis]
                );
            }
            Some(trips) if trips.known().is_some() => {}
            _ => trips = Some(dims[axis].clone()),
        }
    }
    results(cx, exits, slots, |index, exit: Exit| {
        let Some(dims) = &exit.dims else {
            return Ok(exit);
        };
        let axis = op.axis(ScanSide::Output, index, dims.len() + 1)?.axis;
        Ok(stacked(exit, trips.clone(), axis))
    })
}

/// A value with the axis of a stack of it.
fn stacked(mut exit: Exit, trips: Option<Dim>, axis: usize) -> Exit {
    if let Some(dims) = &mut exit.dims {
        dims.insert(axis, trips);
    }
    exit
}

/// The results of a loop: states, which may be those of its operands, and stacks.
fn results(
    cx: &mut Context<'_>,
    exits: impl Iterator<Item = Exit>,
    slots: Slots,
    stack: impl Fn(usize, Exit) -> Result<Exit, OpError>,
) -> Types {
    let mut results = Vec::new();
    for (index, exit) in exits.enumerate() {
        let exit = match index.checked_sub(slots.states) {
            Some(index) => stack(index, exit)?,
            None => {
                let initial = Exit::of(cx.required(slots.first + index)?.ty);
                initial.or(exit, &format!("state {index}"))?
            }
        };
        results.push(exit.inferred(cx));
    }
    Ok(results)
}
