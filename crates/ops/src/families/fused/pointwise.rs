//! Sums, products, concatenation and tables: operators that treat each element by itself.

use octofold_quant::requantize::{self, Operand};
use octofold_quant::{QParams, QuantType};
use octofold_tensor::Tensor;

use super::{BinaryForm, BinaryKind, FusedBinary, FusedConcat, TableLookup, quantized_input};
use crate::families::real::{quantized_bytes, quantized_tensor};
use crate::families::support::{broadcast_map, broadcast_shapes, checked_elements, normalize_axis};
use crate::{Inputs, OpError, Operator, bail, bail_attribute};

impl Operator for FusedBinary {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        let (pa, pb, y) = match self.form {
            BinaryForm::Float(activation) => {
                let operands = (
                    (inputs.values::<f32>(0)?, a.shape()),
                    (inputs.values::<f32>(1)?, b.shape()),
                );
                let values = broadcast_map(operands.0, operands.1, &shape, |a, b| {
                    activation.apply(match self.kind {
                        BinaryKind::Add => a + b,
                        BinaryKind::Mul => a * b,
                    })
                });
                return Ok(vec![Tensor::new(shape, values)?]);
            }
            BinaryForm::Bytes { a, b, y } => (a, b, y),
        };
        y.check()?;
        let (a_values, pa) = quantized_input(inputs, 0, pa)?;
        let (b_values, pb) = quantized_input(inputs, 1, pb)?;
        let f = match self.kind {
            BinaryKind::Add => requantize::add,
            BinaryKind::Mul => requantize::mul,
        };
        let values = broadcast_map(
            (&a_values, a.shape()),
            (&b_values, b.shape()),
            &shape,
            |&a, &b| f(Operand::new(a, pa), Operand::new(b, pb), y.target()),
        );
        Ok(vec![quantized_tensor(y.dtype, &shape, values)?])
    }
}

impl FusedConcat {
    /// The checked parameters of `count` inputs, which have the types `dtypes`.
    ///
    /// # Errors
    /// When the numbers of scales, zero points and inputs differ, or a parameter is out of range.
    pub fn params(&self, dtypes: &[QuantType]) -> Result<Vec<QParams>, OpError> {
        self.y.check()?;
        let count = dtypes.len();
        if self.x_scale.len() != count || self.x_zero_point.len() != count {
            let reason = format!(
                "{} scales and {} zero points",
                self.x_scale.len(),
                self.x_zero_point.len()
            );
            bail_attribute!("x_scale", "{reason} for {count} inputs");
        }
        let pairs = self.x_scale.iter().zip(&self.x_zero_point).zip(dtypes);
        let params = pairs.map(|((&scale, &zero_point), &dtype)| {
            let narrow = i32::try_from(zero_point).map_err(|_| {
                OpError::attribute("x_zero_point", format!("{zero_point} does not fit {dtype}"))
            })?;
            Ok(QParams::new(scale, narrow, dtype)?)
        });
        params.collect()
    }
}

impl Operator for FusedConcat {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let tensors = (0..inputs.len())
            .map(|i| inputs.required(i))
            .collect::<Result<Vec<_>, _>>()?;
        let first = inputs.required(0)?.shape();
        let axis = normalize_axis(self.axis, first.len())?;
        let operands = tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| quantized_bytes(tensor, i));
        let operands = operands.collect::<Result<Vec<_>, _>>()?;
        let dtypes: Vec<_> = operands.iter().map(|(_, dtype)| *dtype).collect();
        let params = self.params(&dtypes)?;
        let mut shape = first.to_vec();
        shape[axis] = 0;
        for tensor in &tensors {
            let other = tensor.shape();
            let fits = other.len() == first.len()
                && (0..first.len()).all(|i| i == axis || other[i] == first[i]);
            if !fits {
                bail!("the shapes {first:?} and {other:?} do not concatenate");
            }
            shape[axis] = shape[axis]
                .checked_add(other[axis])
                .ok_or(OpError::TooLarge(u128::MAX))?;
        }
        let mut y = Vec::with_capacity(checked_elements(&shape)?);
        if shape.contains(&0) {
            return Ok(vec![quantized_tensor(self.y.dtype, &shape, y)?]);
        }
        let (outer, inner): (usize, usize) = (
            shape[..axis].iter().product(),
            shape[axis + 1..].iter().product(),
        );
        for block in 0..outer {
            for ((tensor, (values, _)), &from) in tensors.iter().zip(&operands).zip(&params) {
                let size = tensor.shape()[axis] * inner;
                let values = values[block * size..][..size].iter();
                let to = &self.y;
                y.extend(values.map(|&q| requantize::rescale(q, from, to.params, to.lo, to.hi)));
            }
        }
        Ok(vec![quantized_tensor(self.y.dtype, &shape, y)?])
    }
}

impl Operator for TableLookup {
    fn evaluate(&self, inputs: Inputs<'_>, _outputs: usize) -> Result<Vec<Tensor>, OpError> {
        let x = inputs.required(0)?;
        let (values, _) = quantized_bytes(x, 0)?;
        let (table, dtype) = quantized_bytes(inputs.required(1)?, 1)?;
        if table.len() != 256 {
            bail!("a table of {} entries, not 256", table.len());
        }
        let found = values.iter().map(|&value| table[usize::from(value as u8)]);
        Ok(vec![quantized_tensor(dtype, x.shape(), found)?])
    }
}
