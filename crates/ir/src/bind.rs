//! Binding: a graph for inputs of which more is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use octofold_tensor::{Dim, Tensor};

use crate::{Graph, GraphError, TensorType, ValueId};

impl Graph {
    /// The graph for another shape of an input: a symbol of the declared shape takes the size given in its place in all inputs, a known size is
    /// replaced. The types of all values are inferred anew.
    ///
    /// # Errors
    /// When there is no such input, the number of axes is another, a symbol would get two sizes, or an operator refuses the new sizes.
    pub fn with_input_shape(&self, input: &str, shape: &[Dim]) -> Result<Self, GraphError> {
        let mut graph = self.clone();
        graph.bind_shape(input, shape)?;
        graph.refresh_types()?;
        Ok(graph)
    }

    /// The graph with a size for a symbol of the inputs' shapes.
    ///
    /// # Errors
    /// When no input has the symbol, the size is negative, or types that follow from it contradict each other.
    pub fn with_dimension(&self, symbol: &str, size: i64) -> Result<Self, GraphError> {
        if !self.open_dimensions().contains(symbol) {
            return Err(fail(symbol, self.not_open()));
        }
        if size < 0 {
            return Err(fail(symbol, format!("{size} is no size")));
        }
        let mut graph = self.clone();
        graph.bind(&[(symbol.into(), Dim::Known(size))].into());
        graph.refresh_types()?;
        Ok(graph)
    }

    /// The symbols in the shapes of the inputs.
    pub fn open_dimensions(&self) -> BTreeSet<Arc<str>> {
        let mut symbols = BTreeSet::new();
        let shapes = self
            .inputs()
            .iter()
            .filter_map(|&input| self.value(input).ty().shape.as_ref());
        for dim in shapes.flatten() {
            dim.for_each_symbol(&mut |symbol| {
                symbols.insert(symbol.clone());
            });
        }
        symbols
    }

    /// Why a name is neither an input nor a symbol.
    fn not_open(&self) -> String {
        let inputs: Vec<&str> = self
            .inputs()
            .iter()
            .map(|&id| self.value(id).name())
            .collect();
        let symbols: Vec<Arc<str>> = self.open_dimensions().into_iter().collect();
        let mut reason = format!(
            "there is no such input; the inputs are `{}`",
            inputs.join("`, `")
        );
        if !symbols.is_empty() {
            reason += &format!(", their open dimensions `{}`", symbols.join("`, `"));
        }
        reason
    }

    /// The graph with a constant of the same name in the place of an input. The sizes of the tensor count for all inputs, as those given to
    /// [`with_input_shape`](Self::with_input_shape) do.
    ///
    /// # Errors
    /// As there, and when the tensor has another element type.
    pub fn with_frozen_input(&self, input: &str, tensor: Tensor) -> Result<Self, GraphError> {
        let mut graph = self.clone();
        let shape: Vec<Dim> = tensor.shape().iter().map(|&size| size.into()).collect();
        let id = graph.bind_shape(input, &shape)?;
        let declared = graph.value(id).ty().dtype;
        if declared != tensor.dtype() {
            let reason = format!(
                "its type is {declared}, the constant is of type {}",
                tensor.dtype()
            );
            return Err(fail(input, reason));
        }
        graph.freeze(id, tensor);
        graph.refresh_types()?;
        Ok(graph)
    }

    /// Gives an input a shape, and its symbols their sizes in all inputs. Types of results stay as they were.
    fn bind_shape(&mut self, input: &str, shape: &[Dim]) -> Result<ValueId, GraphError> {
        let found = self
            .inputs()
            .iter()
            .copied()
            .find(|&id| self.value(id).name() == input);
        let id = found.ok_or_else(|| fail(input, self.not_open()))?;
        let mut bindings: BTreeMap<Arc<str>, Dim> = BTreeMap::new();
        if let Some(declared) = &self.value(id).ty().shape {
            if declared.len() != shape.len() {
                return Err(fail(
                    input,
                    format!("has {} axes, {} are given", declared.len(), shape.len()),
                ));
            }
            for (old, new) in declared.iter().zip(shape) {
                if new.known().is_some_and(|size| size < 0) {
                    return Err(fail(input, format!("{new} is no size")));
                }
                if let Dim::Symbol(symbol) = old
                    && let Some(other) = bindings.insert(symbol.clone(), new.clone())
                    && other != *new
                {
                    return Err(fail(
                        input,
                        format!("the dimension {symbol} would be both {other} and {new}"),
                    ));
                }
            }
        }
        self.bind(&bindings);
        let ty = TensorType {
            shape: Some(shape.to_vec()),
            ..self.value(id).ty().clone()
        };
        self.set_input_type(id, ty);
        Ok(id)
    }

    /// Replaces symbols in the shapes of all inputs. Types of results stay as they were.
    fn bind(&mut self, bindings: &BTreeMap<Arc<str>, Dim>) {
        for input in self.inputs().to_vec() {
            let mut ty = self.value(input).ty().clone();
            for dim in ty.shape.iter_mut().flatten() {
                let bound = |symbol: &Arc<str>| {
                    let bound = bindings.get(symbol).cloned();
                    Some(bound.unwrap_or_else(|| Dim::Symbol(symbol.clone())))
                };
                *dim = substitute(dim, &bound).unwrap_or_else(|| dim.clone());
            }
            self.set_input_type(input, ty);
        }
    }
}

fn fail(input: &str, reason: String) -> GraphError {
    GraphError::Input {
        input: input.to_owned(),
        reason,
    }
}

/// A dimension with its symbols replaced; `None` when one of them has no replacement.
pub(crate) fn substitute(
    dim: &Dim,
    replacement: &impl Fn(&Arc<str>) -> Option<Dim>,
) -> Option<Dim> {
    let both = |pair: &(Dim, Dim), join: fn(Dim, Dim) -> Dim| {
        let a = substitute(&pair.0, replacement)?;
        Some(join(a, substitute(&pair.1, replacement)?))
    };
    match dim {
        Dim::Known(_) => Some(dim.clone()),
        Dim::Symbol(symbol) => replacement(symbol),
        Dim::Add(pair) => both(pair, Dim::plus),
        Dim::Sub(pair) => both(pair, Dim::minus),
        Dim::Mul(pair) => both(pair, Dim::times),
        Dim::FloorDiv(pair) => both(pair, Dim::floor_div),
        Dim::CeilDiv(pair) => both(pair, Dim::ceil_div),
        Dim::Max(pair) => both(pair, Dim::max),
        Dim::Min(pair) => both(pair, Dim::min),
    }
}

#[cfg(test)]
mod tests {
    use octofold_ops::families::{Concat, Relu};
    use octofold_tensor::DType;

    use super::*;

    fn pair() -> Graph {
        let mut graph = Graph::new("g");
        let a = graph
            .add_input(
                "a",
                TensorType::new(DType::F32, [Dim::symbol("N"), 2.into()]),
            )
            .unwrap();
        let b = graph
            .add_input(
                "b",
                TensorType::new(DType::F32, [Dim::symbol("N"), 3.into()]),
            )
            .unwrap();
        graph
            .add_node("relu", Relu {}.into(), &[Some(a)], &["r"], vec![])
            .unwrap();
        let r = graph.value_named("r").unwrap();
        graph
            .add_node(
                "concat",
                Concat { axis: 1 }.into(),
                &[Some(r), Some(b)],
                &["y"],
                vec![],
            )
            .unwrap();
        graph
            .add_output("y", graph.value_named("y").unwrap())
            .unwrap();
        graph
    }

    fn shape_of(graph: &Graph, name: &str) -> Option<Vec<usize>> {
        graph
            .value(graph.value_named(name).unwrap())
            .ty()
            .known_shape()
    }

    #[test]
    fn a_symbol_is_bound_in_all_inputs() {
        let graph = pair().with_input_shape("a", &[4.into(), 2.into()]).unwrap();
        assert_eq!(shape_of(&graph, "b"), Some(vec![4, 3]));
        assert_eq!(shape_of(&graph, "y"), Some(vec![4, 5]));
        crate::verify(&graph).unwrap();
        // A known size is replaced.
        let graph = graph.with_input_shape("a", &[4.into(), 7.into()]).unwrap();
        assert_eq!(shape_of(&graph, "y"), Some(vec![4, 10]));
    }

    #[test]
    fn a_symbol_gets_a_size_by_its_name() {
        let graph = pair().with_dimension("N", 6).unwrap();
        assert_eq!(shape_of(&graph, "a"), Some(vec![6, 2]));
        assert_eq!(shape_of(&graph, "y"), Some(vec![6, 5]));
        assert!(graph.open_dimensions().is_empty());
        assert!(pair().with_dimension("N", -1).is_err());
        let error = pair().with_dimension("M", 1).unwrap_err().to_string();
        assert!(
            error.contains("`a`, `b`") && error.contains("`N`"),
            "{error}"
        );
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let graph = pair();
        assert!(graph.with_input_shape("a", &[4.into()]).is_err());
        assert!(graph.with_input_shape("c", &[4.into()]).is_err());
        let bound = graph.with_input_shape("a", &[4.into(), 2.into()]).unwrap();
        assert!(
            bound.with_input_shape("b", &[5.into(), 3.into()]).is_err(),
            "the operands of the concatenation differ"
        );
    }

    #[test]
    fn a_frozen_input_is_a_constant() {
        let tensor = Tensor::new([2, 2], vec![1_f32, -1.0, 2.0, -2.0]).unwrap();
        let graph = pair().with_frozen_input("a", tensor).unwrap();
        crate::verify(&graph).unwrap();
        assert_eq!(graph.inputs().len(), 1);
        let b = Tensor::new([2, 3], vec![0.5_f32; 6]).unwrap();
        let y = crate::interpret(&graph, &[("b", b)]).unwrap();
        assert_eq!(
            y[0].values::<f32>().unwrap(),
            [1.0, 0.0, 0.5, 0.5, 0.5, 2.0, 0.0, 0.5, 0.5, 0.5]
        );
        assert!(
            pair()
                .with_frozen_input("a", Tensor::new([2, 2], vec![1_i64; 4]).unwrap())
                .is_err()
        );
    }
}
