//! Operators over elements of any type: `Where`, comparisons, logic, and `Cast`.

use octofold_kernels::shared::choose::{Chosen, choose};
use octofold_kernels::shared::compare::{Compared, Relation, compare};
use octofold_kernels::shared::half::{Half, narrow, widen};
use octofold_kernels::{Isa, KernelError};
use octofold_ops::Op;
use octofold_tensor::DType;

use super::broadcast::Broadcast;
use super::{Arguments, BYTES, Work, part_len};
use crate::StepError;
use crate::values::{numbers, numbers_mut};

/// The work of a `Where`.
pub(super) fn bind_choose(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    Ok(match size {
        1 => chosen::<u8>(broadcast),
        2 => chosen::<u16>(broadcast),
        4 => chosen::<u32>(broadcast),
        _ => chosen::<u64>(broadcast),
    })
}

fn chosen<T: Chosen + bytemuck::Pod>(broadcast: Broadcast<3>) -> Work {
    broadcast.work(|isa, [condition, x, y], output| {
        let (x, y) = (numbers::<T>(x)?, numbers::<T>(y)?);
        Ok(choose(isa, condition, x, y, numbers_mut(output)?)?)
    })
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

/// The work of a comparison, or of a logical operator of two operands.
pub(super) fn bind_compare(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    let of_type = match dtype {
        DType::F32 => compared::<f32>,
        DType::I32 => compared::<i32>,
        DType::I64 => compared::<i64>,
        _ => compared::<u8>,
    };
    Ok(of_type(broadcast, relation, swapped))
}

fn compared<T: Compared + bytemuck::Pod>(
    broadcast: Broadcast<2>,
    relation: Relation,
    swapped: bool,
) -> Work {
    broadcast.work(move |isa, [a, b], output| {
        let (a, b) = if swapped { (b, a) } else { (a, b) };
        let (a, b) = (numbers::<T>(a)?, numbers::<T>(b)?);
        Ok(compare(isa, relation, a, b, output)?)
    })
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

/// The work of a `Cast`.
pub(super) fn bind_cast(arguments: &Arguments<'_>) -> Result<Work, StepError> {
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
    let part = part_len(operand.len(), from + to, BYTES, 64) * to;
    Ok(Work::new(move |call, output| {
        let input = call.operand(0);
        call.pool.run_parts(output, part, 0, |first, output, _| {
            let range = first / to * from..(first + output.len()) / to * from;
            let input = input
                .get(range)
                .ok_or(KernelError::Shape("the operand is short"));
            conversion(call.isa, input?, output)
        })
    }))
}
