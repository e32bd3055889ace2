//! Functions of two or more operands that broadcast by the rules of NumPy, and `Where`.
//!
//! Operands have the same element type unless said otherwise. Integers wrap; dividing an integer by zero is an error. Sums of half floats are
//! rounded at every step.

use std::cmp::Ordering;

use octofold_quant::float::{self, Function};
use octofold_quant::functions;
use octofold_tensor::{Element, Elements, Tensor, TensorData};

use super::number::{Number, for_numbers};
use super::support::{
    broadcast_map, broadcast_shapes, broadcast_strides, elements_of, for_each_run, map_tensors,
    wrong_type,
};
use crate::{Inputs, OpError, Operator, attributes};

/// `f` over two operands of type `T`. The first is given as its elements.
fn combine<T: Element, R: Element>(
    a: &Tensor,
    values: &[T],
    b: &Tensor,
    f: &dyn Fn(&T, &T) -> R,
) -> Result<Tensor, OpError> {
    let others = b
        .values::<T>()
        .map_err(|_| wrong_type(b, 1, T::DTYPE.name()))?;
    let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
    let y = broadcast_map((values, a.shape()), (others, b.shape()), &shape, f);
    Ok(Tensor::from_data(shape, R::wrap(Elements::new(y)))?)
}

/// As [`combine`], of a function that integers may not have everywhere.
fn combine_partial<T: Element>(
    a: &Tensor,
    values: &[T],
    b: &Tensor,
    f: &dyn Fn(&T, &T) -> Option<T>,
) -> Result<Tensor, OpError> {
    let undefined = std::cell::Cell::new(false);
    let y = combine(a, values, b, &|x, y| {
        f(x, y).unwrap_or_else(|| {
            undefined.set(true);
            T::default()
        })
    })?;
    if undefined.get() {
        return Err(OpError::invalid("an integer is divided by zero"));
    }
    Ok(y)
}

/// Applies a method of [`Number`] to two numeric operands.
macro_rules! arithmetic {
    ($a:expr, $b:expr, $method:ident) => {
        for_numbers!(numeric $a.data(),
            values => apply($a, values, $b, Number::$method),
            else Err(wrong_type($a, 0, "a numeric type")))
    };
}

/// A function of two numbers by its pointer: one loop an element type serves all functions.
fn apply<T: Number>(
    a: &Tensor,
    values: &[T],
    b: &Tensor,
    f: fn(T, T) -> T,
) -> Result<Tensor, OpError> {
    combine(a, values, b, &|&x, &y| f(x, y))
}

/// Compares two numeric operands; NaN has no order.
fn compare(a: &Tensor, b: &Tensor, f: fn(Option<Ordering>) -> bool) -> Result<Tensor, OpError> {
    for_numbers!(numeric a.data(),
        values => combine(a, values, b, &|x, y| f(x.partial_cmp(y))),
        else Err(wrong_type(a, 0, "a numeric type")))
}

/// Applies a function to two boolean operands.
fn logic(a: &Tensor, b: &Tensor, f: fn(bool, bool) -> bool) -> Result<Tensor, OpError> {
    match a.data() {
        TensorData::Bool(values) => combine(a, values, b, &|&x: &bool, &y: &bool| f(x, y)),
        _ => Err(wrong_type(a, 0, "bool")),
    }
}

/// The quotient of two numeric operands.
fn divide(a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    for_numbers!(numeric a.data(),
        values => combine_partial(a, values, b, &|&x, &y| Number::div(x, y)),
        else Err(wrong_type(a, 0, "a numeric type")))
}

/// Whether elements of any type, two 4-bit types excepted, are equal.
fn equal(a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    match a.data() {
        TensorData::Bool(values) => combine(a, values, b, &|x: &bool, y: &bool| x == y),
        TensorData::String(values) => combine(a, values, b, &|x: &String, y: &String| x == y),
        _ => compare(a, b, |order| order == Some(Ordering::Equal)),
    }
}

macro_rules! binary {
    ($($(#[$meta:meta])* $name:literal $type:ident => $evaluate:expr;)*) => {$(
        attributes! {
            $(#[$meta])*
            ///
            /// Inputs: `a`, `b`, which broadcast. Output: the shape that both broadcast to.
            "" $name inputs(2..=2)
            pub struct $type {}
        }

        impl Operator for $type {
            fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
                let evaluate: fn(&Tensor, &Tensor) -> Result<Tensor, OpError> = $evaluate;
                Ok(vec![evaluate(inputs.required(0)?, inputs.required(1)?)?])
            }
        }
    )*};
}

binary! {
    /// The sum (ONNX `Add`), of any numeric type.
    "Add" Add => |a, b| arithmetic!(a, b, add);
    /// The difference (ONNX `Sub`), of any numeric type.
    "Sub" Sub => |a, b| arithmetic!(a, b, sub);
    /// The product (ONNX `Mul`), of any numeric type.
    "Mul" Mul => |a, b| arithmetic!(a, b, mul);
    /// The quotient (ONNX `Div`), of any numeric type; integers are cut towards zero, and dividing one by zero is an error.
    "Div" Div => divide;
    /// The conjunction (ONNX `And`), of booleans.
    "And" And => |a, b| logic(a, b, |x, y| x && y);
    /// The disjunction (ONNX `Or`), of booleans.
    "Or" Or => |a, b| logic(a, b, |x, y| x || y);
    /// The exclusive disjunction (ONNX `Xor`), of booleans.
    "Xor" Xor => |a, b| logic(a, b, |x, y| x != y);
    /// Whether both are equal (ONNX `Equal`): any type to `bool`.
    "Equal" Equal => equal;
    /// Whether `a < b` (ONNX `Less`): any numeric type to `bool`.
    "Less" Less => |a, b| compare(a, b, |order| order == Some(Ordering::Less));
    /// Whether `a > b` (ONNX `Greater`): any numeric type to `bool`.
    "Greater" Greater => |a, b| compare(a, b, |order| order == Some(Ordering::Greater));
    /// Whether `a <= b` (ONNX `LessOrEqual`): any numeric type to `bool`.
    "LessOrEqual" LessOrEqual => |a, b| compare(a, b, |order| matches!(order, Some(Ordering::Less | Ordering::Equal)));
    /// Whether `a >= b` (ONNX `GreaterOrEqual`): any numeric type to `bool`.
    "GreaterOrEqual" GreaterOrEqual => |a, b| compare(a, b, |order| matches!(order, Some(Ordering::Greater | Ordering::Equal)));
    /// The power `a ^ b` (ONNX `Pow`); the exponent may be of another numeric type than the base, whose type the result has.
    ///
    /// Integers with an integer exponent wrap; a negative exponent gives what the base to it is, cut towards zero.
    "Pow" Pow => power;
}

/// `base ^ exponent` of two integers, wrapping.
fn integer_power<T: Number>(base: T, exponent: i128) -> Option<T> {
    if exponent < 0 {
        let minus_one = T::ZERO.sub(T::ONE);
        return if base == T::ONE || (base == minus_one && T::LOWEST < T::ZERO) {
            integer_power(base, -exponent)
        } else {
            T::ONE.div(base).map(|_| T::ZERO)
        };
    }
    let (mut result, mut square, mut bits) = (T::ONE, base, exponent);
    while bits > 0 {
        if bits & 1 == 1 {
            result = result.mul(square);
        }
        square = square.mul(square);
        bits >>= 1;
    }
    Some(result)
}

/// See [`Pow`].
fn power(a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    /// `power` of each base and its exponent; `None` where an integer has no such power.
    fn powers<T: Number, E>(
        a: &Tensor,
        values: &[T],
        b: &Tensor,
        exponents: &[E],
        power: &dyn Fn(&T, &E) -> Option<T>,
    ) -> Result<Tensor, OpError> {
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        let y = broadcast_map((values, a.shape()), (exponents, b.shape()), &shape, power);
        let y = y.into_iter().collect::<Option<Vec<T>>>();
        let y =
            y.ok_or_else(|| OpError::invalid("zero has no negative power among the integers"))?;
        Ok(Tensor::new(shape, y)?)
    }
    /// To a real exponent, in `f64`.
    fn real_power<T: Number>(x: &T, y: &f64) -> Option<T> {
        Some(T::from_f64(functions::pow(x.to_f64(), *y)))
    }
    let whole_exponents: Option<Vec<i128>> = for_numbers!(integer b.data(),
        values => Some(values.iter().map(|value| value.to_i128()).collect()),
        else None);
    if let Some(exponents) = whole_exponents
        && a.dtype().is_integer()
    {
        return for_numbers!(integer a.data(),
            values => powers(a, values, b, &exponents, &|&x, &y| integer_power(x, y)),
            else Err(wrong_type(a, 0, "a numeric type")));
    }
    let exponents: Vec<f64> = for_numbers!(numeric b.data(),
        values => values.iter().map(|value| value.to_f64()).collect(),
        else return Err(wrong_type(b, 1, "a numeric type")));
    if let TensorData::F32(values) = a.data() {
        let [exponent] = exponents[..] else {
            return powers(a, values, b, &exponents, &|&x, &y| Some(float::pow(x, y)));
        };
        // One exponent may have a shorter form.
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        let mut y = vec![0.0; values.len()];
        Function::Power { exponent }.map(values, &mut y);
        return Ok(Tensor::new(shape, y)?);
    }
    for_numbers!(numeric a.data(),
        values => powers(a, values, b, &exponents, &real_power),
        else Err(wrong_type(a, 0, "a numeric type")))
}

attributes! {
    /// The remainder (ONNX `Mod`), of any numeric type.
    ///
    /// Inputs: `a`, `b`, which broadcast. Output: the shape that both broadcast to. An integer modulo zero is an error.
    "" "Mod" inputs(2..=2)
    pub struct Mod {
        /// Whether the remainder has the sign of `a`, as C `fmod`; else that of `b`.
        fmod: bool = false,
    }
}

impl Operator for Mod {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        /// The remainder with the sign of the divisor, also when it is zero.
        fn floored<T: Number>(x: T, y: T) -> Option<T> {
            let rest = x.rem(y)?;
            Some(if rest == T::ZERO {
                T::from_f64(0_f64.copysign(y.to_f64()))
            } else if (rest < T::ZERO) == (y < T::ZERO) {
                rest
            } else {
                rest.add(y)
            })
        }
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        let y = for_numbers!(numeric a.data(),
            values => combine_partial(a, values, b, &|&x, &y| if self.fmod { x.rem(y) } else { floored(x, y) }),
            else Err(wrong_type(a, 0, "a numeric type")))?;
        Ok(vec![y])
    }
}

/// Folds a function of two operands over all inputs, of which there is at least one.
fn fold(
    inputs: Inputs<'_>,
    numbers: fn(&Tensor) -> Result<(), OpError>,
    f: impl Fn(&Tensor, &Tensor) -> Result<Tensor, OpError>,
) -> Result<Tensor, OpError> {
    let first = inputs.required(0)?;
    numbers(first)?;
    (1..inputs.len()).try_fold(first.clone(), |sum, index| {
        let next = inputs.required(index)?;
        f(&sum, next).map_err(|error| match error {
            OpError::InputType {
                found, expected, ..
            } => OpError::InputType {
                index,
                found,
                expected,
            },
            other => other,
        })
    })
}

/// Checks that input 0 is numeric.
fn numeric(x: &Tensor) -> Result<(), OpError> {
    let known = x.dtype().is_float() || for_numbers!(integer x.data(), _values => true, else false);
    known
        .then_some(())
        .ok_or_else(|| wrong_type(x, 0, "a numeric type"))
}

macro_rules! variadic {
    ($($(#[$meta:meta])* $name:literal $type:ident => $evaluate:expr;)*) => {$(
        attributes! {
            $(#[$meta])*
            ///
            /// Inputs: one or more operands, which broadcast. Output: the shape that all broadcast to.
            "" $name inputs(1..=usize::MAX)
            pub struct $type {}
        }

        impl Operator for $type {
            fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
                let evaluate: fn(Inputs<'_>) -> Result<Tensor, OpError> = $evaluate;
                Ok(vec![evaluate(inputs)?])
            }
        }
    )*};
}

variadic! {
    /// The largest of all operands (ONNX `Max`), of any numeric type; NaN when one is.
    "Max" Max => |inputs| fold(inputs, numeric, |a, b| arithmetic!(a, b, max_nan));
    /// The smallest of all operands (ONNX `Min`), of any numeric type; NaN when one is.
    "Min" Min => |inputs| fold(inputs, numeric, |a, b| arithmetic!(a, b, min_nan));
    /// The sum of all operands (ONNX `Sum`), of any numeric type.
    "Sum" Sum => sum;
    /// The mean of all operands (ONNX `Mean`), of any float type.
    "Mean" Mean => mean;
}

/// See [`Sum`].
fn sum(inputs: Inputs<'_>) -> Result<Tensor, OpError> {
    fold(inputs, numeric, |a, b| arithmetic!(a, b, add))
}

/// See [`Mean`].
fn mean(inputs: Inputs<'_>) -> Result<Tensor, OpError> {
    fn divided<T: Number>(total: &Tensor, values: &[T], count: usize) -> Result<Tensor, OpError> {
        let count = count as f64;
        let y = values
            .iter()
            .map(|value| T::from_f64(value.to_f64() / count))
            .collect();
        Ok(Tensor::new(total.shape().iter().copied(), y)?)
    }
    let total = sum(inputs)?;
    for_numbers!(float total.data(),
        values => divided(&total, values, inputs.len()),
        else Err(wrong_type(&total, 0, "a float type")))
}

attributes! {
    /// One of two operands by a condition (ONNX `Where`), of any type.
    ///
    /// Inputs: `condition` (bool), `x`, `y` (one type), which broadcast. Output: the shape that all broadcast to.
    "" "Where" inputs(3..=3)
    pub struct Where {}
}

impl Operator for Where {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let condition = inputs.values::<bool>(0)?;
        let (c, x, y) = (
            inputs.required(0)?,
            inputs.required(1)?,
            inputs.required(2)?,
        );
        if x.dtype() != y.dtype() {
            return Err(wrong_type(y, 2, x.dtype().name()));
        }
        let shape = broadcast_shapes(&[c.shape(), x.shape(), y.shape()])?;
        let strides = [c, x, y].map(|operand| broadcast_strides(operand.shape(), &shape));
        let strides = [
            strides[0].as_slice(),
            strides[1].as_slice(),
            strides[2].as_slice(),
        ];
        let data = map_tensors!(&[x, y], slices => choose(condition, slices[0], slices[1], &shape, strides));
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

/// The elements of `x` where the condition holds, and of `y` elsewhere; all three read by their strides.
fn choose<T: Clone>(
    condition: &[bool],
    x: &[T],
    y: &[T],
    shape: &[usize],
    strides: [&[isize]; 3],
) -> Vec<T> {
    let mut out = Vec::with_capacity(elements_of(shape));
    for_each_run(shape, strides, |[c, i, j], count, [dc, di, dj]| {
        out.extend((0..count as isize).map(|k| {
            if condition[(c + k * dc) as usize] {
                x[(i + k * di) as usize].clone()
            } else {
                y[(j + k * dj) as usize].clone()
            }
        }));
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
        let inputs: Vec<_> = inputs.iter().map(|&tensor| Some(tensor)).collect();
        op.evaluate(Inputs(&inputs), 1)
            .map(|mut outputs| outputs.remove(0))
    }

    fn vector<T: Element>(values: impl IntoIterator<Item = T>) -> Tensor {
        Tensor::vector(values.into_iter().collect())
    }

    #[test]
    fn operands_broadcast() {
        let a = Tensor::new([2, 1], vec![10_i32, 20]).unwrap();
        let b = vector([1, 2, 3]);
        let y = run(&Add {}, &[&a, &b]).unwrap();
        assert_eq!(
            y,
            Tensor::new([2, 3], vec![11, 12, 13, 21, 22, 23]).unwrap()
        );
        let y = run(&Sub {}, &[&b, &Tensor::scalar(1)]).unwrap();
        assert_eq!(y, vector([0, 1, 2]));
        assert!(run(&Add {}, &[&b, &vector([1, 2])]).is_err());
        assert!(matches!(
            run(&Add {}, &[&b, &vector([1.0_f32, 2.0, 3.0])]),
            Err(OpError::InputType { index: 1, .. })
        ));
    }

    #[test]
    fn integers_divide_towards_zero_and_never_by_zero() {
        let y = run(&Div {}, &[&vector([-7, 7, i32::MIN]), &vector([2, 2, -1])]).unwrap();
        assert_eq!(y, vector([-3, 3, i32::MIN]));
        assert!(run(&Div {}, &[&vector([1_u8]), &vector([0_u8])]).is_err());
        let y = run(&Div {}, &[&vector([1.0_f32]), &vector([0.0_f32])]).unwrap();
        assert_eq!(y, vector([f32::INFINITY]));
    }

    #[test]
    fn remainders_have_the_sign_of_either_operand() {
        let (a, b) = (vector([-4, 7, 5, 4, -7, 8]), vector([2, -3, 8, -2, 3, 5]));
        assert_eq!(
            run(&Mod { fmod: false }, &[&a, &b]).unwrap(),
            vector([0, -2, 5, 0, 2, 3])
        );
        assert_eq!(
            run(&Mod { fmod: true }, &[&a, &b]).unwrap(),
            vector([0, 1, 5, 0, -1, 3])
        );
        let (a, b) = (
            vector([-4.5_f32, 1.0, 2.0]),
            vector([2.0_f32, f32::NEG_INFINITY, -2.0]),
        );
        assert_eq!(
            run(&Mod { fmod: false }, &[&a, &b]).unwrap(),
            vector([1.5_f32, f32::NEG_INFINITY, -0.0])
        );
        assert_eq!(
            run(&Mod { fmod: true }, &[&a, &b]).unwrap(),
            vector([-0.5_f32, 1.0, 0.0])
        );
        assert!(run(&Mod { fmod: true }, &[&vector([1_i64]), &vector([0_i64])]).is_err());
    }

    #[test]
    fn powers_keep_the_type_of_the_base() {
        let y = run(
            &Pow {},
            &[&vector([1.0_f32, 2.0, 3.0]), &vector([4_i64, 5, 6])],
        )
        .unwrap();
        assert_eq!(y, vector([1.0_f32, 32.0, 729.0]));
        let y = run(
            &Pow {},
            &[&vector([2_i32, -3, -1, 2]), &vector([31_i32, 3, -3, -1])],
        )
        .unwrap();
        assert_eq!(y, vector([i32::MIN, -27, -1, 0]));
        let y = run(&Pow {}, &[&vector([4_i32]), &vector([0.5_f32])]).unwrap();
        assert_eq!(y, vector([2_i32]));
        assert!(run(&Pow {}, &[&vector([0_i32]), &vector([-1_i32])]).is_err());
        assert_eq!(
            integer_power(3_u8, i128::from(u64::MAX)),
            Some(3_u8.wrapping_pow(255))
        );
    }

    #[test]
    fn many_operands_fold() {
        let (a, b, c) = (
            vector([1.0_f32, 5.0]),
            vector([3.0_f32, 2.0]),
            Tensor::scalar(2.0_f32),
        );
        assert_eq!(run(&Max {}, &[&a, &b, &c]).unwrap(), vector([3.0_f32, 5.0]));
        assert_eq!(run(&Min {}, &[&a, &b, &c]).unwrap(), vector([1.0_f32, 2.0]));
        assert_eq!(
            run(&Mean {}, &[&a, &b, &c]).unwrap(),
            vector([2.0_f32, 3.0])
        );
        assert_eq!(run(&Sum {}, &[&a]).unwrap(), a);
        assert!(run(&Sum {}, &[]).is_err());
        assert!(run(&Max {}, &[&Tensor::scalar(true)]).is_err());
    }

    #[test]
    fn conditions_choose() {
        let condition = Tensor::new([2, 1], vec![true, false]).unwrap();
        let y = run(
            &Where {},
            &[&condition, &vector([1_i64, 2]), &Tensor::scalar(9_i64)],
        )
        .unwrap();
        assert_eq!(y, Tensor::new([2, 2], vec![1_i64, 2, 9, 9]).unwrap());
        let names = vector(["a".to_owned(), "b".to_owned()]);
        assert_eq!(
            run(&Equal {}, &[&names, &Tensor::scalar("b".to_owned())]).unwrap(),
            vector([false, true])
        );
        assert_eq!(
            run(&Less {}, &[&vector([1_u8, 3]), &vector([2_u8, 3])]).unwrap(),
            vector([true, false])
        );
        assert_eq!(
            run(&Xor {}, &[&vector([true, false]), &vector([true, true])]).unwrap(),
            vector([false, true])
        );
    }
}
