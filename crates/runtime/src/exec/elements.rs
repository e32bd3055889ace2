//! Operators over elements of any type: `Where`, comparisons, logic, and `Cast`.

use octofold_kernels::shared::choose::{Chosen, choose};
use octofold_kernels::shared::compare::{Compared, Relation, compare};
use octofold_kernels::shared::half::{Half, narrow, widen};
use octofold_kernels::{Isa, KernelError};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::broadcast::Broadcast;
use super::{Arguments, BYTES, Call, Work, only, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

#[derive(Debug)]
struct Choose {
    broadcast: Broadcast<3>,
    size: usize,
}

/// The work of a `Where`.
pub(super) fn bind_choose(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::Where(_) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (x, y) = (arguments.operand(1)?, arguments.operand(2)?);
    let condition = arguments.operand(0)?;
    condition.expect(DType::Bool)?;
    y.expect(x.dtype)?;
    arguments.result().expect(x.dtype)?;
    let size = x.dtype.size().ok_or_else(|| arguments.wrong_operator())?;
    let broadcast = Broadcast::new(arguments.result(), [condition, x, y])
        .ok_or_else(|| arguments.wrong_operator())?;
    Ok(Box::new(Choose { broadcast, size }))
}

impl Work for Choose {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        fn part<T: Chosen + bytemuck::Pod>(
            isa: Isa,
            [condition, x, y]: [&[u8]; 3],
            output: &mut [u8],
        ) -> Result<(), StepError> {
            let (x, y) = (numbers::<T>(x)?, numbers::<T>(y)?);
            Ok(choose(isa, condition, x, y, numbers_mut(output)?)?)
        }
        self.broadcast.run(
            (call.isa, call.pool),
            [call.operand(0), call.operand(1), call.operand(2)],
            only(outputs)?,
            |operands, output| match self.size {
                1 => part::<u8>(call.isa, operands, output),
                2 => part::<u16>(call.isa, operands, output),
                4 => part::<u32>(call.isa, operands, output),
                _ => part::<u64>(call.isa, operands, output),
            },
        )
    }
}

/// The relation that an operator computes, with whether its operands change places.
fn relation_of(op: &Op) -> Option<(Relation, bool)> {
    Some(match op {
        Op::Equal(_) => (Relation::Equal, false),
        Op::Less(_) => (Relation::Less, false),
        Op::LessOrEqual(_) => (Relation::LessOrEqual, false),
        Op::Greater(_) => (Relation::Less, true),
        Op::GreaterOrEqual(_) => (Relation::LessOrEqual, true),
        Op::And(_) => (Relation::Both, false),
        Op::Or(_) => (Relation::Either, false),
        Op::Xor(_) => (Relation::NotEqual, false),
        _ => return None,
    })
}

/// Whether a kernel compares elements of a type.
pub fn compares(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::F32 | DType::I32 | DType::I64 | DType::U8 | DType::Bool
    )
}

/// Whether a kernel converts elements of one type to the other.
pub fn converts(from: DType, to: DType) -> bool {
    conversion(from, to).is_some()
}

#[derive(Debug)]
struct Compare {
    relation: Relation,
    swapped: bool,
    dtype: DType,
    broadcast: Broadcast<2>,
}

/// The work of a comparison, or of a logical operator of two operands.
pub(super) fn bind_compare(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let relation = relation_of(&arguments.step.op);
    let (relation, swapped) = relation.ok_or_else(|| arguments.wrong_operator())?;
    let operands = [arguments.operand(0)?, arguments.operand(1)?];
    let dtype = operands[0].dtype;
    operands[1].expect(dtype)?;
    arguments.result().expect(DType::Bool)?;
    if !compares(dtype) {
        return Err(arguments.wrong_operator());
    }
    let broadcast =
        Broadcast::new(arguments.result(), operands).ok_or_else(|| arguments.wrong_operator())?;
    Ok(Box::new(Compare {
        relation,
        swapped,
        dtype,
        broadcast,
    }))
}

impl Compare {
    fn part<T: Compared + bytemuck::Pod>(
        &self,
        isa: Isa,
        [a, b]: [&[u8]; 2],
        output: &mut [u8],
    ) -> Result<(), StepError> {
        let (a, b) = if self.swapped { (b, a) } else { (a, b) };
        let (a, b) = (numbers::<T>(a)?, numbers::<T>(b)?);
        Ok(compare(isa, self.relation, a, b, output)?)
    }
}

impl Work for Compare {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        self.broadcast.run(
            (call.isa, call.pool),
            [call.operand(0), call.operand(1)],
            only(outputs)?,
            |operands, output| match self.dtype {
                DType::F32 => self.part::<f32>(call.isa, operands, output),
                DType::I32 => self.part::<i32>(call.isa, operands, output),
                DType::I64 => self.part::<i64>(call.isa, operands, output),
                _ => self.part::<u8>(call.isa, operands, output),
            },
        )
    }
}

/// Converts a part of the elements.
type Conversion = fn(Isa, &[u8], &mut [u8]) -> Result<(), StepError>;

/// How elements of a type become those of another; `None` where only the portable operator knows.
fn conversion(from: DType, to: DType) -> Option<Conversion> {
    fn each<A: bytemuck::AnyBitPattern, R: bytemuck::Pod>(
        input: &[u8],
        output: &mut [u8],
        f: impl Fn(A) -> R,
    ) -> Result<(), StepError> {
        let (input, output) = (numbers::<A>(input)?, numbers_mut::<R>(output)?);
        if input.len() != output.len() {
            return Err(StepError::invalid(
                "a conversion keeps the number of elements",
            ));
        }
        for (x, y) in input.iter().zip(output) {
            *y = f(*x);
        }
        Ok(())
    }
    macro_rules! to {
        ($from:ty => $($dtype:ident $type:ty),*) => {
            match to {
                $(DType::$dtype => |_, x, y| each(x, y, |x: $from| x as $type),)*
                DType::Bool => |_, x, y| each(x, y, |x: $from| u8::from(x != <$from>::default())),
                _ => return None,
            }
        };
    }
    macro_rules! from {
        ($($dtypes:pat => $from:ty),*) => {
            match from {
                $($dtypes => to!($from => F32 f32, F64 f64, I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64),)*
                _ => return None,
            }
        };
    }
    macro_rules! half {
        ($function:ident, $half:ident) => {
            |isa, x, y| Ok($function(isa, Half::$half, numbers(x)?, numbers_mut(y)?)?)
        };
    }
    Some(match (from, to) {
        (DType::F16, DType::F32) => half!(widen, Float16),
        (DType::BF16, DType::F32) => half!(widen, BFloat16),
        (DType::F32, DType::F16) => half!(narrow, Float16),
        (DType::F32, DType::BF16) => half!(narrow, BFloat16),
        _ => from! {
            DType::F32 => f32, DType::F64 => f64,
            DType::I8 => i8, DType::I16 => i16, DType::I32 => i32, DType::I64 => i64,
            DType::U8 | DType::Bool => u8, DType::U16 => u16, DType::U32 => u32, DType::U64 => u64
        },
    })
}

struct Cast {
    conversion: Conversion,
    /// The bytes of an element of the operand and of the result.
    sizes: [usize; 2],
    /// The number of elements of a part.
    part: usize,
}

impl std::fmt::Debug for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sizes, part, .. } = self;
        write!(f, "Cast {{ sizes: {sizes:?}, part: {part} }}")
    }
}

/// The work of a `Cast`.
pub(super) fn bind_cast(arguments: &Arguments<'_>) -> Result<Box<dyn Work>, StepError> {
    let Op::Cast(op) = &arguments.step.op else {
        return Err(arguments.wrong_operator());
    };
    let (operand, result) = (arguments.operand(0)?, arguments.result());
    result.expect(op.to)?;
    arguments.expect_result(operand.shape)?;
    let conversion = conversion(operand.dtype, op.to);
    let conversion = conversion.ok_or_else(|| arguments.wrong_operator())?;
    let (Some(from), Some(to)) = (operand.dtype.size(), op.to.size()) else {
        return Err(arguments.wrong_operator());
    };
    Ok(Box::new(Cast {
        conversion,
        sizes: [from, to],
        part: part_len(operand.len(), from + to, BYTES, 64),
    }))
}

impl Work for Cast {
    fn run(&self, call: Call<'_>, outputs: &mut [&mut [u8]]) -> Result<(), StepError> {
        let [from, to] = self.sizes;
        let input = call.operand(0);
        call.pool
            .run_parts(only(outputs)?, self.part * to, 0, |first, output, _| {
                let range = first / to * from..(first + output.len()) / to * from;
                let input = input
                    .get(range)
                    .ok_or(KernelError::Shape("the operand is short"));
                (self.conversion)(call.isa, input?, output)
            })
    }
}
