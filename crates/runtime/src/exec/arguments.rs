//! The arguments that bind a kernel to its step: the sizes and types of operands, packed constants and results.

use octofold_kernels::conv::RowStride;
use octofold_kernels::shared::{ImageShape, Quant8, Target8};
use octofold_ops::families::{Layout, OutputQuantization};
use octofold_quant::{QParams, QuantType};
use octofold_tensor::{DType, Shape};
use smallvec::SmallVec;

use crate::StepError;
use crate::plan::{Constant, ConstantIndex, Engine, Operand, Plan, Step, ValueIndex};

/// The size and type of an operand, packed constant or result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// The bytes of a constant.
    pub(crate) constant: Option<&'a [u8]>,
}

/// The arguments that bind a kernel to its step.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    /// The engine of the packed weights and the kernels.
    pub(crate) engine: Engine,
    pub(crate) step: &'a Step,
    pub(crate) operands: SmallVec<[Option<Argument<'a>>; 4]>,
    pub(crate) packed: SmallVec<[Argument<'a>; 4]>,
    /// At least one.
    pub(crate) results: SmallVec<[Argument<'a>; 1]>,
    pub(crate) layout: ResultLayout<'a>,
}

/// How the first result of a step is stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResultLayout<'a> {
    /// The slots of the operands that share the memory of the result; their bytes are there already.
    pub(crate) in_place_operands: &'a [usize],
    /// The positions of the rows, in bytes, if they are parts of wider rows. A call then gets the wider rows.
    pub(crate) row_stride: Option<RowStride>,
}

impl<'a> Arguments<'a> {
    /// The arguments of a step whose values have the given sizes, with results that have their memory for themselves.
    ///
    /// # Errors
    /// When a size depends on data, or the step has no result.
    pub(crate) fn of(
        plan: &'a Plan,
        step: &'a Step,
        shapes: &'a [Option<Shape>],
    ) -> Result<Self, StepError> {
        let value = |index: ValueIndex| {
            let value = plan.value(index);
            let shape = shapes[index.index()].as_deref();
            Ok::<_, StepError>(Argument {
                dtype: value.dtype,
                shape: shape.ok_or_else(|| StepError::UnknownSize(value.name.clone()))?,
                constant: None,
            })
        };
        let constant = |index: ConstantIndex| {
            let Constant { dtype, shape, .. } = plan.constant(index);
            Argument {
                dtype: *dtype,
                shape,
                constant: Some(plan.constant_bytes(index)),
            }
        };
        let operand = |operand: &Operand| match *operand {
            Operand::Absent => Ok(None),
            Operand::Value(index) => value(index).map(Some),
            Operand::Constant(index) => Ok(Some(constant(index))),
        };
        if step.outputs.is_empty() {
            return Err(StepError::invalid("a kernel gives a result"));
        }
        Ok(Self {
            engine: plan.engine(),
            step,
            operands: step.inputs.iter().map(operand).collect::<Result<_, _>>()?,
            packed: step.packed.iter().map(|&index| constant(index)).collect(),
            results: (step.outputs.iter().map(|&index| value(index))).collect::<Result<_, _>>()?,
            layout: ResultLayout::default(),
        })
    }

    /// The first result.
    pub(crate) fn result(&self) -> Argument<'a> {
        self.results[0]
    }

    /// The operand of a slot.
    pub(crate) fn operand(&self, slot: usize) -> Result<Argument<'a>, StepError> {
        let operand = self.operands.get(slot).copied().flatten();
        operand.ok_or_else(|| StepError::invalid(format!("operand {slot} is missing")))
    }

    /// Checks the number, types and lengths of the packed constants.
    pub(crate) fn expect_packed(&self, expected: &[(DType, usize)]) -> Result<(), StepError> {
        let found: Vec<_> = self
            .packed
            .iter()
            .map(|constant| (constant.dtype, constant.len()))
            .collect();
        if found == expected {
            return Ok(());
        }
        Err(StepError::invalid(format!(
            "packed constants {found:?} where the kernel takes {expected:?}"
        )))
    }

    /// Checks the sizes of the result.
    pub(crate) fn expect_result(&self, shape: &[usize]) -> Result<(), StepError> {
        if self.result().shape == shape {
            return Ok(());
        }
        Err(StepError::invalid(format!(
            "the result is {:?} where the operator gives {shape:?}",
            self.result().shape
        )))
    }

    /// The target of an operator with a quantized result.
    pub(crate) fn target(&self, y: &OutputQuantization) -> Result<Target8, StepError> {
        let signed = y.dtype == QuantType::Int8;
        if self.result().signed()? != signed {
            return Err(StepError::invalid(format!(
                "a result of type {} where the operator gives {}",
                self.result().dtype,
                y.dtype
            )));
        }
        let target = Target8 {
            quant: Quant8 {
                params: y.params,
                signed,
            },
            lo: y.lo,
            hi: y.hi,
        };
        target.check()?;
        Ok(target)
    }

    /// The error that the kernel does not compute the step's operator.
    pub(crate) fn wrong_operator(&self) -> StepError {
        let step = self.step;
        StepError::invalid(format!(
            "the kernel {} does not compute this {}",
            step.kernel,
            step.op.name()
        ))
    }
}

impl Argument<'_> {
    /// The number of elements. Sizes of values and constants were checked not to overflow.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements are signed bytes.
    ///
    /// # Errors
    /// When the elements are not bytes.
    pub(crate) fn signed(&self) -> Result<bool, StepError> {
        match self.dtype {
            DType::U8 => Ok(false),
            DType::I8 => Ok(true),
            other => Err(StepError::invalid(format!(
                "elements of type {other} where a kernel takes bytes"
            ))),
        }
    }

    /// The quantization of bytes with these qparams.
    pub(crate) fn quant(&self, params: QParams) -> Result<Quant8, StepError> {
        let quant = Quant8 {
            params,
            signed: self.signed()?,
        };
        quant.check()?;
        Ok(quant)
    }

    /// Batch, channels and pixels of images in a layout, whatever the number of their axes.
    pub(crate) fn pixels(&self, layout: Layout) -> Result<ImageShape, StepError> {
        let sizes = layout.channels_first(self.shape);
        let sizes = sizes.map_err(|error| StepError::invalid(error.to_string()))?;
        Ok(ImageShape {
            batch: sizes[0],
            channels: sizes[1],
            pixels: sizes[2..].iter().product(),
        })
    }

    /// Checks the element type.
    pub(crate) fn expect(&self, dtype: DType) -> Result<(), StepError> {
        if self.dtype == dtype {
            return Ok(());
        }
        Err(StepError::invalid(format!(
            "elements of type {} where the kernel takes {dtype}",
            self.dtype
        )))
    }
}
