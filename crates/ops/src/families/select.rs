//! Choosing elements by their values, positions or lengths: ONNX `TopK`, `NonZero`, `CumSum`, `Trilu`, `Compress` and `ReverseSequence`.

use std::ops::Range;

use octofold_tensor::{Shape, Tensor, TensorData, for_each_data};

use super::number::{Number, for_numbers};
use super::support::{
    checked_elements, elements_of, integer_list, integers, map_data, normalize_axis, pick, to_size,
    wrong_type,
};
use crate::{Inputs, OpError, Operator, attributes, bail, bail_attribute};

/// The one integer of an input.
fn integer(tensor: &Tensor, index: usize) -> Result<i64, OpError> {
    match integer_list(tensor, index)?[..] {
        [value] => Ok(value),
        ref values => bail!("input {index} holds {} elements, not one", values.len()),
    }
}

attributes! {
    /// The largest or smallest elements along an axis and their positions (ONNX `TopK`), of any numeric type.
    ///
    /// Inputs: `x`, `k` `[1]` (int64), from 0 to the size of the axis. Outputs: the elements, and their positions (int64), with k along the axis. Of equal elements the
    /// first comes first; NaN counts as larger than every number.
    "" "TopK" inputs(2..=2) outputs(2..=2)
    pub struct TopK {
        /// The axis, from -rank to rank - 1.
        axis: i64 = -1,
        /// Whether to take the largest elements instead of the smallest.
        largest: bool = true,
        /// Whether the elements must come in order; they always do.
        sorted: bool = true,
    }
}

impl Operator for TopK {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let size = x.shape()[axis];
        let k = to_size(integer(inputs.required(1)?, 1)?)?;
        if k > size {
            bail!("{k} of {size} elements are wanted");
        }
        let inner = elements_of(&x.shape()[axis + 1..]);
        let lanes = Lanes {
            outer: x.len().checked_div(size * inner).unwrap_or(0),
            size,
            inner,
            k,
        };
        let (sources, places) = match x.data() {
            TensorData::F32(values) if u32::try_from(size).is_ok() => {
                let flip = if self.largest { u32::MAX } else { 0 };
                let key = |source: usize, place: usize| {
                    u64::from(order(values[source]) ^ flip) << 32 | place as u64
                };
                let place = |key| (key & u64::from(u32::MAX)) as usize;
                // Comparisons of floats, many at a time. NaN is never behind: its key decides.
                let behind = |block: Range<usize>, source: usize| {
                    let (block, bound) = (&values[block], values[source]);
                    match self.largest {
                        true => block.iter().fold(true, |all, x| all & (*x <= bound)),
                        false => block.iter().fold(true, |all, x| all & (*x >= bound)),
                    }
                };
                lanes.choose(key, place, behind)
            }
            data => {
                let keys: Vec<i128> = for_numbers!(numeric data,
                    values => values.iter().map(|value| value.sort_key()).collect(),
                    else return Err(wrong_type(x, 0, "a numeric type")));
                let sign = if self.largest { -1 } else { 1 };
                let key = |source: usize, place: usize| (sign * keys[source], place);
                lanes.choose(key, |(_, place)| place, |_, _| false)
            }
        };
        let mut shape = Shape::from_slice(x.shape());
        shape[axis] = k;
        let top = map_data!(x.data(), values => pick(values, &sources));
        Ok(vec![
            Tensor::from_data(shape.iter().copied(), top)?,
            Tensor::new(shape, places)?,
        ])
    }
}

/// An integer that has the order of the floats: NaN after every number, both zeros equal.
fn order(x: f32) -> u32 {
    // Adding 0.0 makes -0.0 into 0.0; the bits of negative floats fall when the floats rise.
    let bits = (x + 0.0).to_bits();
    match () {
        () if x.is_nan() => u32::MAX,
        () if bits >> 31 == 1 => !bits,
        () => bits | 1 << 31,
    }
}

/// The lanes along an axis, and how many elements are chosen of each.
struct Lanes {
    outer: usize,
    size: usize,
    inner: usize,
    k: usize,
}

impl Lanes {
    /// The elements with the smallest keys of each lane, in their order: where they are in the input, and along the axis. `key` gets both of an element; no two keys of
    /// a lane are equal. `behind` may say of neighbours in the input that none has a smaller key than an element before them.
    fn choose<K: Ord + Copy>(
        &self,
        key: impl Fn(usize, usize) -> K,
        place: impl Fn(K) -> usize,
        behind: impl Fn(Range<usize>, usize) -> bool,
    ) -> (Vec<usize>, Vec<i64>) {
        /// Elements that are looked at together.
        const BLOCK: usize = 16;
        let Self {
            outer,
            size,
            inner,
            k,
        } = *self;
        let mut sources = vec![0; outer * k * inner];
        let mut places = vec![0; sources.len()];
        let mut smallest = Smallest {
            k,
            chosen: Vec::new(),
            bound: None,
        };
        for lane in 0..if k == 0 { 0 } else { outer * inner } {
            let (block, offset) = (lane / inner, lane % inner);
            let source = |place: usize| (block * size + place) * inner + offset;
            smallest.clear();
            for start in (0..size).step_by(BLOCK) {
                let places = start..size.min(start + BLOCK);
                let neighbours = source(places.start)..source(places.end);
                let bound = smallest.bound.filter(|_| inner == 1);
                if bound.is_some_and(|bound| behind(neighbours, source(place(bound)))) {
                    continue;
                }
                places.for_each(|place| smallest.push(key(source(place), place)));
            }
            for (rank, &key) in smallest.finish().iter().enumerate() {
                let to = (block * k + rank) * inner + offset;
                sources[to] = source(place(key));
                places[to] = place(key) as i64;
            }
        }
        (sources, places)
    }
}

/// The `k` smallest keys, at least 1. Keys that are not below the bound so far are skipped by one comparison.
struct Smallest<K> {
    k: usize,
    chosen: Vec<K>,
    /// The largest of `k` keys.
    bound: Option<K>,
}

impl<K: Ord + Copy> Smallest<K> {
    /// Sorting out costs as much as this many comparisons at least.
    const FEW: usize = 16;

    fn clear(&mut self) {
        self.chosen.clear();
        self.bound = None;
    }

    fn push(&mut self, key: K) {
        if self.bound.is_some_and(|bound| key > bound) {
            return;
        }
        self.chosen.push(key);
        if self.chosen.len() == self.k.saturating_mul(2).max(Self::FEW) {
            self.bound = Some(*self.chosen.select_nth_unstable(self.k - 1).1);
            self.chosen.truncate(self.k);
        }
    }

    /// The keys in ascending order.
    fn finish(&mut self) -> &[K] {
        if self.chosen.len() > self.k {
            self.chosen.select_nth_unstable(self.k - 1);
            self.chosen.truncate(self.k);
        }
        self.chosen.sort_unstable();
        &self.chosen
    }
}

attributes! {
    /// The positions of the elements that are not zero (ONNX `NonZero`), of any numeric type or bool.
    ///
    /// Input: `x` of rank r. Output: [r, n] (int64), the coordinates of n elements in row-major order, one element a column.
    "" "NonZero" inputs(1..=1)
    pub struct NonZero {}
}

impl Operator for NonZero {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        if x.dtype() == octofold_tensor::DType::String {
            return Err(wrong_type(x, 0, "a numeric type or bool"));
        }
        let places: Vec<usize> = for_each_data!(x.data(), values => {
            // The default of every numeric type is zero; -0.0 equals it.
            let zero = zero_of(values);
            (0..values.len()).filter(|&i| values[i] != zero).collect()
        });
        checked_elements(&[x.rank(), places.len()])?;
        let mut coordinates = vec![0_i64; x.rank() * places.len()];
        let mut block = x.len();
        for (axis, &size) in x.shape().iter().enumerate() {
            block /= size.max(1);
            for (i, &place) in places.iter().enumerate() {
                coordinates[axis * places.len() + i] = (place / block % size) as i64;
            }
        }
        Ok(vec![Tensor::new([x.rank(), places.len()], coordinates)?])
    }
}

/// The default of the type of the elements.
fn zero_of<T: Default>(_: &[T]) -> T {
    T::default()
}

attributes! {
    /// Running sums along an axis (ONNX `CumSum`), of any numeric type.
    ///
    /// Inputs: `x` of rank r, `axis` (a scalar, int32 or int64, from -r to r - 1). Output: the shape of `x`. Floats add up in f64; integers wrap.
    "" "CumSum" inputs(2..=2)
    pub struct CumSum {
        /// Whether a sum excludes its own element; the first sum is then 0.
        exclusive: bool = false,
        /// Whether sums run from the end.
        reverse: bool = false,
    }
}

impl Operator for CumSum {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        /// Adds the rows of each block one after the other, so that neighbouring lanes are added together.
        fn sums<T: Number, S: Copy>(
            op: &CumSum,
            values: &[T],
            (size, inner): (usize, usize),
            zero: S,
            add: fn(S, T) -> S,
            round: fn(S) -> T,
        ) -> Vec<T> {
            let mut out = values.to_vec();
            let mut sums = vec![zero; inner.min(out.len())];
            for block in out.chunks_exact_mut(size.saturating_mul(inner).max(1)) {
                sums.fill(zero);
                for i in 0..size {
                    let place = if op.reverse { size - 1 - i } else { i };
                    let row = &mut block[place * inner..][..inner];
                    for (x, sum) in row.iter_mut().zip(&mut sums) {
                        let before = *sum;
                        *sum = add(before, *x);
                        *x = round(if op.exclusive { before } else { *sum });
                    }
                }
            }
            out
        }
        /// Floats in f64, integers in their own type.
        fn of_type<T: Number>(op: &CumSum, values: &[T], sizes: (usize, usize)) -> Vec<T> {
            if T::FLOAT {
                sums(
                    op,
                    values,
                    sizes,
                    0.0,
                    |sum, x| sum + x.to_f64(),
                    T::from_f64,
                )
            } else {
                sums(op, values, sizes, T::ZERO, T::add, |sum| sum)
            }
        }
        let x = inputs.required(0)?;
        let axis = normalize_axis(integer(inputs.required(1)?, 1)?, x.rank())?;
        let (size, inner) = (x.shape()[axis], elements_of(&x.shape()[axis + 1..]));
        let y = for_numbers!(numeric x.data(),
            values => Tensor::new(x.shape().iter().copied(), of_type(self, values, (size, inner)))?,
            else return Err(wrong_type(x, 0, "a numeric type")));
        Ok(vec![y])
    }
}

attributes! {
    /// The upper or lower triangle of matrices (ONNX `Trilu`), of any type; what is outside becomes zero, false or empty.
    ///
    /// Inputs: `x` [..., N, M], optional `k` (int64 scalar, 0 when absent): the diagonal, which stays, is `k` columns to the right of the main one. Output:
    /// the shape of `x`.
    "" "Trilu" inputs(1..=2)
    pub struct Trilu {
        /// Whether the upper triangle stays instead of the lower one.
        upper: bool = true,
    }
}

impl Operator for Trilu {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let k = inputs
            .optional(1)
            .map(|k| integer(k, 1))
            .transpose()?
            .unwrap_or(0);
        let &[.., rows, columns] = x.shape() else {
            bail!("expected matrices, found {:?}", x.shape());
        };
        let data = map_data!(x.data(), values => {
            let mut out = values.to_vec();
            for (i, line) in out.chunks_exact_mut(columns.max(1)).enumerate() {
                // The first column of the upper triangle, or the first one right of the lower triangle.
                let diagonal = ((i % rows) as i64).saturating_add(k);
                let edge = if self.upper { diagonal } else { diagonal.saturating_add(1) };
                let edge = edge.clamp(0, columns as i64) as usize;
                let outside = if self.upper { &mut line[..edge] } else { &mut line[edge..] };
                outside.fill_with(Default::default);
            }
            out
        });
        Ok(vec![Tensor::from_data(x.shape().iter().copied(), data)?])
    }
}

attributes! {
    /// The slices along an axis for which a condition holds (ONNX `Compress`), of any type.
    ///
    /// Inputs: `x`, `condition` `[n]` (bool), n not larger than the size of the axis. Output: the chosen slices; elements in a row when there is no axis.
    "" "Compress" inputs(2..=2)
    pub struct Compress {
        /// The axis, from -rank to rank - 1; all elements in a row when absent.
        axis: Option<i64> = None,
    }
}

impl Operator for Compress {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (x, condition) = (inputs.required(0)?, inputs.values::<bool>(1)?);
        let (mut shape, axis) = match self.axis {
            Some(axis) => (
                Shape::from_slice(x.shape()),
                normalize_axis(axis, x.rank())?,
            ),
            None => (Shape::from_slice(&[x.len()]), 0),
        };
        let size = shape[axis];
        if condition.len() > size {
            bail!("{} conditions for size {size}", condition.len());
        }
        let chosen: Vec<usize> = (0..condition.len()).filter(|&i| condition[i]).collect();
        let (outer, inner) = (elements_of(&shape[..axis]), elements_of(&shape[axis + 1..]));
        shape[axis] = chosen.len();
        let count = checked_elements(&shape)?;
        let data = map_data!(x.data(), values => {
            let mut out = Vec::with_capacity(count);
            for i in (0..outer).take(count) {
                for &place in &chosen {
                    let start = (i * size + place) * inner;
                    out.extend_from_slice(&values[start..start + inner]);
                }
            }
            out
        });
        Ok(vec![Tensor::from_data(shape, data)?])
    }
}

attributes! {
    /// Reverses the beginning of each sequence of a batch (ONNX `ReverseSequence`), of any type.
    ///
    /// Inputs: `x` of rank 2 or more, `sequence_lens` `[batch]` (int64), each from 0 to the size of the time axis. Output: the shape of `x`.
    "" "ReverseSequence" inputs(2..=2)
    pub struct ReverseSequence {
        /// The axis of the batch, 0 or 1.
        batch_axis: i64 = 1,
        /// The axis of time, 1 or 0.
        time_axis: i64 = 0,
    }
}

impl Operator for ReverseSequence {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let batch_first = match (self.batch_axis, self.time_axis) {
            (0, 1) => true,
            (1, 0) => false,
            _ => {
                bail_attribute!(
                    "time_axis",
                    "batch_axis and time_axis must be 0 and 1, or 1 and 0"
                );
            }
        };
        let &[first, second, ref rest @ ..] = x.shape() else {
            bail!("expected rank 2 or more, found {:?}", x.shape());
        };
        let (batch, time) = if batch_first {
            (first, second)
        } else {
            (second, first)
        };
        let lengths = integers(inputs.required(1)?, 1)?;
        let lengths = lengths
            .into_iter()
            .map(to_size)
            .collect::<Result<Vec<_>, _>>()?;
        if lengths.len() != batch || lengths.iter().any(|&length| length > time) {
            bail!("lengths {lengths:?} do not fit {batch} sequences of size {time}");
        }
        let inner = elements_of(rest);
        let data = map_data!(x.data(), values => {
            let mut out = Vec::with_capacity(values.len());
            for place in 0..if inner == 0 { 0 } else { first * second } {
                let (i, j) = (place / second, place % second);
                let (b, t) = if batch_first { (i, j) } else { (j, i) };
                let from = if t < lengths[b] { lengths[b] - 1 - t } else { t };
                let start = if batch_first { b * time + from } else { from * batch + b } * inner;
                out.extend_from_slice(&values[start..start + inner]);
            }
            out
        });
        Ok(vec![Tensor::from_data(x.shape().iter().copied(), data)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &impl Operator, inputs: &[&Tensor], outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let inputs: Vec<_> = inputs.iter().map(|&tensor| Some(tensor)).collect();
        op.evaluate(Inputs(&inputs), outputs)
    }

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as i32;
        Tensor::new(shape.iter().copied(), (1..=count).collect()).unwrap()
    }

    #[test]
    fn long_lanes_give_what_a_stable_sort_gives() {
        // Few values, so that many are equal, with zeros of both signs and NaN.
        let x: Vec<f32> = (0..1000_u32)
            .map(|i| match i.wrapping_mul(2_654_435_761) >> 20 {
                number if number % 97 == 0 => f32::NAN,
                number if number % 89 == 0 => -0.0,
                number => (number % 41) as f32 - 20.0,
            })
            .collect();
        let tensor = Tensor::new([1000], x.clone()).unwrap();
        for largest in [false, true] {
            let mut expected: Vec<usize> = (0..1000).collect();
            let rising = |a: f32, b: f32| {
                let nan = a.is_nan().cmp(&b.is_nan());
                a.partial_cmp(&b).unwrap_or(nan)
            };
            expected.sort_by(|&a, &b| match largest {
                false => rising(x[a], x[b]),
                true => rising(x[b], x[a]),
            });
            for k in [1, 5, 31, 32, 33, 100, 999, 1000] {
                let op = TopK {
                    axis: 0,
                    largest,
                    sorted: true,
                };
                let k_tensor = Tensor::vector(vec![k as i64]);
                let found = op
                    .evaluate(Inputs(&[Some(&tensor), Some(&k_tensor)]), 2)
                    .unwrap();
                let places = found[1].values::<i64>().unwrap();
                let places: Vec<usize> = places.iter().map(|&place| place as usize).collect();
                assert_eq!(places, expected[..k], "{k} {largest}");
            }
        }
    }

    #[test]
    fn the_first_of_equals_comes_first() {
        let x = Tensor::new([2, 4], vec![1.0, 3.0, 3.0, f32::NAN, 0.0, -1.0, 2.0, 2.0]).unwrap();
        let k = Tensor::vector(vec![2_i64]);
        let op = |axis, largest| TopK {
            axis,
            largest,
            sorted: true,
        };
        let y = run(&op(1, true), &[&x, &k], 2).unwrap();
        assert_eq!(y[1], Tensor::new([2, 2], vec![3_i64, 1, 2, 3]).unwrap());
        assert_eq!(y[0].values::<f32>().unwrap()[1..], [3.0, 2.0, 2.0]);
        let y = run(&op(0, false), &[&x, &Tensor::vector(vec![1_i64])], 2).unwrap();
        assert_eq!(y[1], Tensor::new([1, 4], vec![1_i64, 1, 1, 1]).unwrap());
        let y = run(&op(1, true), &[&x, &Tensor::vector(vec![0_i64])], 2).unwrap();
        assert_eq!(y[0].shape(), [2, 0]);
        for bad in [-1_i64, 5, i64::MAX] {
            assert!(run(&op(1, true), &[&x, &Tensor::vector(vec![bad])], 2).is_err());
        }
    }

    #[test]
    fn coordinates_come_in_columns() {
        let x = Tensor::new([2, 2], vec![true, false, true, true]).unwrap();
        let y = run(&NonZero {}, &[&x], 1).unwrap();
        assert_eq!(
            y[0],
            Tensor::new([2, 3], vec![0_i64, 1, 1, 0, 0, 1]).unwrap()
        );
        let y = run(&NonZero {}, &[&Tensor::scalar(3.0_f32)], 1).unwrap();
        assert_eq!(y[0].shape(), [0, 1]);
        let y = run(
            &NonZero {},
            &[&Tensor::new([0, 2], Vec::<u8>::new()).unwrap()],
            1,
        )
        .unwrap();
        assert_eq!(y[0].shape(), [2, 0]);
    }

    #[test]
    fn sums_run_either_way() {
        let x = Tensor::vector(vec![1.0_f64, 2.0, 3.0]);
        let of = |exclusive, reverse| {
            let y = run(
                &CumSum { exclusive, reverse },
                &[&x, &Tensor::scalar(0_i32)],
                1,
            )
            .unwrap();
            y[0].values::<f64>().unwrap().to_vec()
        };
        assert_eq!(of(false, false), [1.0, 3.0, 6.0]);
        assert_eq!(of(true, false), [0.0, 1.0, 3.0]);
        assert_eq!(of(false, true), [6.0, 5.0, 3.0]);
        assert_eq!(of(true, true), [5.0, 3.0, 0.0]);
        let y = run(
            &CumSum {
                exclusive: false,
                reverse: false,
            },
            &[&counting(&[2, 2]), &Tensor::scalar(-2_i64)],
            1,
        );
        assert_eq!(
            y.unwrap()[0],
            Tensor::new([2, 2], vec![1, 2, 4, 6]).unwrap()
        );
    }

    #[test]
    fn triangles_stay() {
        let x = counting(&[2, 3]);
        let of = |upper, k: i64| {
            let y = run(&Trilu { upper }, &[&x, &Tensor::scalar(k)], 1).unwrap();
            y[0].values::<i32>().unwrap().to_vec()
        };
        assert_eq!(of(true, 0), [1, 2, 3, 0, 5, 6]);
        assert_eq!(of(false, 0), [1, 0, 0, 4, 5, 0]);
        assert_eq!(of(true, 2), [0, 0, 3, 0, 0, 0]);
        assert_eq!(of(false, i64::MAX), [1, 2, 3, 4, 5, 6]);
        assert_eq!(of(true, i64::MIN), [1, 2, 3, 4, 5, 6]);
        assert!(run(&Trilu { upper: true }, &[&Tensor::scalar(1)], 1).is_err());
        assert!(
            run(
                &Trilu { upper: true },
                &[&Tensor::new([0, 3], Vec::<i32>::new()).unwrap()],
                1
            )
            .is_ok()
        );
    }

    #[test]
    fn slices_are_chosen_and_reversed() {
        let x = counting(&[3, 2]);
        let condition = Tensor::vector(vec![false, true]);
        let y = run(&Compress { axis: Some(0) }, &[&x, &condition], 1).unwrap();
        assert_eq!(y[0], Tensor::new([1, 2], vec![3, 4]).unwrap());
        let y = run(&Compress { axis: None }, &[&x, &condition], 1).unwrap();
        assert_eq!(y[0], Tensor::vector(vec![2]));
        assert!(
            run(
                &Compress { axis: Some(1) },
                &[&x, &Tensor::vector(vec![true; 3])],
                1
            )
            .is_err()
        );
        let op = ReverseSequence {
            batch_axis: 1,
            time_axis: 0,
        };
        let y = run(&op, &[&x, &Tensor::vector(vec![3_i64, 2])], 1).unwrap();
        assert_eq!(y[0], Tensor::new([3, 2], vec![5, 4, 3, 2, 1, 6]).unwrap());
        let op = ReverseSequence {
            batch_axis: 0,
            time_axis: 1,
        };
        let y = run(&op, &[&x, &Tensor::vector(vec![0_i64, 1, 2])], 1).unwrap();
        assert_eq!(y[0], Tensor::new([3, 2], vec![1, 2, 3, 4, 6, 5]).unwrap());
        assert!(run(&op, &[&x, &Tensor::vector(vec![0_i64, 1, 3])], 1).is_err());
        assert!(run(&op, &[&x, &Tensor::vector(vec![0_i64])], 1).is_err());
    }
}
