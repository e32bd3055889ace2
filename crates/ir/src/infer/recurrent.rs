//! Types of recurrent layers.

use octofold_ops::families::RecurrentLayer;
use octofold_ops::{OpError, bail};
use octofold_tensor::{DType, Dim};

use super::helpers::{differ, expect, float, optional_dims, typed};
use super::{Context, Types};

/// The dimensions of an input of a given rank, when its rank is known.
///
/// # Errors
/// When it has another rank.
fn axes<'a, const N: usize>(
    cx: &Context<'a>,
    index: usize,
) -> Result<Option<&'a [Dim; N]>, OpError> {
    let Some(dims) = optional_dims(cx, index) else {
        return Ok(None);
    };
    let exact = dims.try_into();
    exact.map(Some).map_err(|_| {
        let rank = dims.len();
        OpError::invalid(format!("input {index} has rank {rank}, not {N}"))
    })
}

/// Sets a size, or checks it against what it was set to.
fn agree(size: &mut Option<Dim>, found: &Dim, index: usize) -> Result<(), OpError> {
    match size {
        Some(size) if differ(size, found) => {
            bail!("input {index} has the size {found} where others have {size}")
        }
        Some(_) => Ok(()),
        None => {
            *size = Some(found.clone());
            Ok(())
        }
    }
}

/// The results of `LSTM`, `GRU` and `RNN`. Operands: input, weights, recurrent weights, bias, lengths, initial states, and peepholes.
pub(super) fn recurrent(layer: &impl RecurrentLayer, cx: &mut Context<'_>) -> Types {
    let op = layer.recurrent();
    op.check()?;
    let dtype = float(cx, 0)?.ty.dtype;
    for index in [1, 2] {
        cx.required(index)?;
    }
    let states = 5..5 + op.states;
    let peepholes = states.end;
    for index in [1, 2, 3]
        .into_iter()
        .chain(states.clone())
        .chain([peepholes])
    {
        expect(cx, index, dtype)?;
    }
    expect(cx, 4, DType::I32)?;

    let directions = Dim::Known(op.direction.count() as i64);
    let mut counted = Some(directions.clone());
    let mut hidden = op.hidden_size.map(Dim::Known);
    let (mut steps, mut batch, mut input) = (None, None, None);
    if let Some([first, second, size]) = axes(cx, 0)? {
        let (of_steps, of_batch) = if op.layout {
            (second, first)
        } else {
            (first, second)
        };
        agree(&mut steps, of_steps, 0)?;
        agree(&mut batch, of_batch, 0)?;
        agree(&mut input, size, 0)?;
    }
    if let Some([count, _, size]) = axes(cx, 2)? {
        agree(&mut counted, count, 2)?;
        agree(&mut hidden, size, 2)?;
    }
    if let Some([count, _, size]) = axes(cx, 1)? {
        agree(&mut counted, count, 1)?;
        agree(&mut input, size, 1)?;
    }
    if let Some([size]) = axes(cx, 4)? {
        agree(&mut batch, size, 4)?;
    }
    for index in states {
        if let Some([first, second, size]) = axes(cx, index)? {
            let (count, of_batch) = if op.layout {
                (second, first)
            } else {
                (first, second)
            };
            agree(&mut counted, count, index)?;
            agree(&mut batch, of_batch, index)?;
            agree(&mut hidden, size, index)?;
        }
    }
    let gates = |factor: i64| hidden.clone().map(|hidden| hidden.times(factor));
    let lines = op.gates as i64;
    for (index, factor) in [(1, lines), (2, lines)] {
        if let Some([_, size, _]) = axes(cx, index)? {
            agree(&mut gates(factor), size, index)?;
        }
    }
    for (index, factor) in [(3, 2 * lines), (peepholes, 3)] {
        if let Some([count, size]) = axes(cx, index)? {
            agree(&mut counted, count, index)?;
            agree(&mut gates(factor), size, index)?;
        }
    }

    let mut size = |known: Option<Dim>| known.unwrap_or_else(|| cx.fresh());
    let (steps, batch, hidden) = (&size(steps), &size(batch), &size(hidden));
    let shape = |axes: &[&Dim]| typed(dtype, Some(axes.iter().copied().cloned().collect()));
    let (y, state) = if op.layout {
        (
            shape(&[batch, steps, &directions, hidden]),
            shape(&[batch, &directions, hidden]),
        )
    } else {
        (
            shape(&[steps, &directions, batch, hidden]),
            shape(&[&directions, batch, hidden]),
        )
    };
    let mut results = vec![y.into()];
    results.resize(1 + op.states, state.into());
    Ok(results)
}

#[cfg(test)]
mod tests {
    use octofold_ops::families::{Direction, Gru, Lstm};

    use super::super::Known;
    use super::*;
    use crate::TensorType;

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

    /// The shapes of the results for the types of the inputs; the last input has lengths.
    fn shapes(op: &impl RecurrentLayer, types: &[TensorType]) -> Result<Vec<Vec<Dim>>, OpError> {
        let known = types.iter().map(|ty| {
            Some(Known {
                ty,
                constant: None,
                contents: None,
            })
        });
        let known: Vec<_> = known.collect();
        let out = recurrent(op, &mut Context::new(&known, "node"))?;
        Ok(out.into_iter().filter_map(|out| out.ty.shape).collect())
    }

    fn floats(dims: &[Dim]) -> TensorType {
        TensorType::new(DType::F32, dims.iter().cloned())
    }

    fn weights(directions: i64) -> [TensorType; 3] {
        [
            floats(&[directions.into(), 128.into(), 64.into()]),
            floats(&[directions.into(), 128.into(), 32.into()]),
            floats(&[directions.into(), 256.into()]),
        ]
    }

    fn types(x: TensorType, directions: i64, lengths: Dim) -> Vec<TensorType> {
        let lengths = TensorType::new(DType::I32, [lengths]);
        let mut types = vec![x];
        types.extend(weights(directions));
        types.push(lengths);
        types
    }

    #[test]
    fn symbolic_steps_and_batches_are_kept_in_both_layouts() {
        let (n, l) = (Dim::symbol("N"), Dim::symbol("L"));
        let x = floats(&[l.clone(), n.clone(), 64.into()]);
        let two = types(x.clone(), 2, n.clone());
        let found = shapes(&plain(Direction::Bidirectional), &two).unwrap();
        assert_eq!(found[0], [l.clone(), 2.into(), n.clone(), 32.into()]);
        assert_eq!(found[1], [2.into(), n.clone(), 32.into()]);
        assert_eq!(found[1], found[2]);
        let op = Lstm {
            layout: true,
            ..plain(Direction::Reverse)
        };
        let found = shapes(&op, &types(x, 1, l.clone())).unwrap();
        assert_eq!(found[0], [l.clone(), n, 1.into(), 32.into()]);
        assert_eq!(found[1], [l, 1.into(), 32.into()]);
    }

    #[test]
    fn layers_of_three_gates_have_one_state() {
        let op = Gru {
            activation_alpha: Vec::new(),
            activation_beta: Vec::new(),
            activations: Vec::new(),
            clip: None,
            direction: Direction::Forward,
            hidden_size: None,
            layout: false,
            linear_before_reset: true,
        };
        let x = floats(&[7.into(), 2.into(), 64.into()]);
        let weights = |rows: i64, columns: i64| floats(&[1.into(), rows.into(), columns.into()]);
        let bias = |size: i64| floats(&[1.into(), size.into()]);
        let found = shapes(
            &op,
            &[x.clone(), weights(96, 64), weights(96, 32), bias(192)],
        )
        .unwrap();
        assert_eq!(
            found,
            [
                vec![7.into(), 1.into(), 2.into(), 32.into()],
                vec![1.into(), 2.into(), 32.into()]
            ]
        );
        assert!(shapes(&op, &[x.clone(), weights(128, 64), weights(128, 32)]).is_err());
        assert!(shapes(&op, &[x, weights(96, 64), weights(96, 32), bias(256)]).is_err());
    }

    #[test]
    fn unknown_ranks_leave_fresh_sizes() {
        let any = TensorType::unranked(DType::F32);
        let op = Lstm {
            hidden_size: Some(32),
            ..plain(Direction::Forward)
        };
        let found = shapes(&op, &[any.clone(), any.clone(), any.clone()]).unwrap();
        let (first, second) = (Dim::symbol("node.0"), Dim::symbol("node.1"));
        assert_eq!(found[0], [first, 1.into(), second.clone(), 32.into()]);
        assert_eq!(found[1], [1.into(), second, 32.into()]);
        let [w, r, _] = weights(1);
        let found = shapes(&plain(Direction::Forward), &[any, w, r]).unwrap();
        assert_eq!(found[0][3], 32.into());
    }

    #[test]
    fn sizes_that_contradict_are_refused() {
        let x = |input: i64| floats(&[5.into(), 3.into(), input.into()]);
        let one = plain(Direction::Forward);
        assert!(shapes(&one, &types(x(64), 1, 3.into())).is_ok());
        assert!(shapes(&one, &types(x(63), 1, 3.into())).is_err());
        assert!(shapes(&one, &types(x(64), 1, 4.into())).is_err());
        assert!(shapes(&one, &types(x(64), 2, 3.into())).is_err());
        assert!(shapes(&one, &types(floats(&[5.into(), 3.into()]), 1, 3.into())).is_err());
        for size in [0, -1, 31, i64::MIN, i64::MAX] {
            let op = Lstm {
                hidden_size: Some(size),
                ..one.clone()
            };
            assert!(shapes(&op, &types(x(64), 1, 3.into())).is_err(), "{size}");
        }
        let mut wrong = types(x(64), 1, 3.into());
        wrong[4] = TensorType::new(DType::I64, [3]);
        assert!(shapes(&one, &wrong).is_err());
        wrong = types(x(64), 1, 3.into());
        wrong[3] = floats(&[1.into(), 128.into()]);
        assert!(shapes(&one, &wrong).is_err());
    }
}
