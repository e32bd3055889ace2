// Generated from proto/plan.proto by crates/runtime/tests/generated.rs.

use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message};
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub name: String,
    pub engine: String,
    pub version: String,
    pub requires: String,
    pub metadata: Vec<Entry>,
    pub inputs: Vec<u32>,
    pub outputs: Vec<Output>,
    pub values: Vec<Value>,
    pub constants: Vec<Constant>,
    pub steps: Vec<Step>,
    pub states: Vec<State>,
    pub bodies: Vec<Plan>,
}
impl Message for Plan {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if !self.name.is_empty() {
            encoding::string::encode(1, &self.name, buffer);
        }
        if !self.engine.is_empty() {
            encoding::string::encode(2, &self.engine, buffer);
        }
        if !self.version.is_empty() {
            encoding::string::encode(3, &self.version, buffer);
        }
        if !self.requires.is_empty() {
            encoding::string::encode(4, &self.requires, buffer);
        }
        encoding::message::encode_repeated(5, &self.metadata, buffer);
        encoding::uint32::encode_packed(6, &self.inputs, buffer);
        encoding::message::encode_repeated(7, &self.outputs, buffer);
        encoding::message::encode_repeated(8, &self.values, buffer);
        encoding::message::encode_repeated(9, &self.constants, buffer);
        encoding::message::encode_repeated(10, &self.steps, buffer);
        encoding::message::encode_repeated(11, &self.states, buffer);
        encoding::message::encode_repeated(12, &self.bodies, buffer);
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge(wire, &mut self.name, buffer, context),
            2 => encoding::string::merge(wire, &mut self.engine, buffer, context),
            3 => encoding::string::merge(wire, &mut self.version, buffer, context),
            4 => encoding::string::merge(wire, &mut self.requires, buffer, context),
            5 => encoding::message::merge_repeated(wire, &mut self.metadata, buffer, context),
            6 => encoding::uint32::merge_repeated(wire, &mut self.inputs, buffer, context),
            7 => encoding::message::merge_repeated(wire, &mut self.outputs, buffer, context),
            8 => encoding::message::merge_repeated(wire, &mut self.values, buffer, context),
            9 => encoding::message::merge_repeated(wire, &mut self.constants, buffer, context),
            10 => encoding::message::merge_repeated(wire, &mut self.steps, buffer, context),
            11 => encoding::message::merge_repeated(wire, &mut self.states, buffer, context),
            12 => encoding::message::merge_repeated(wire, &mut self.bodies, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if !self.name.is_empty() {
                encoding::string::encoded_len(1, &self.name)
            } else {
                0
            },
            if !self.engine.is_empty() {
                encoding::string::encoded_len(2, &self.engine)
            } else {
                0
            },
            if !self.version.is_empty() {
                encoding::string::encoded_len(3, &self.version)
            } else {
                0
            },
            if !self.requires.is_empty() {
                encoding::string::encoded_len(4, &self.requires)
            } else {
                0
            },
            encoding::message::encoded_len_repeated(5, &self.metadata),
            encoding::uint32::encoded_len_packed(6, &self.inputs),
            encoding::message::encoded_len_repeated(7, &self.outputs),
            encoding::message::encoded_len_repeated(8, &self.values),
            encoding::message::encoded_len_repeated(9, &self.constants),
            encoding::message::encoded_len_repeated(10, &self.steps),
            encoding::message::encoded_len_repeated(11, &self.states),
            encoding::message::encoded_len_repeated(12, &self.bodies),
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub input: u32,
    pub output: u32,
    pub initial: Option<u32>,
}
impl Message for State {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if self.input != 0 {
            encoding::uint32::encode(1, &self.input, buffer);
        }
        if self.output != 0 {
            encoding::uint32::encode(2, &self.output, buffer);
        }
        if let Some(value) = &self.initial {
            encoding::uint32::encode(3, value, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::uint32::merge(wire, &mut self.input, buffer, context),
            2 => encoding::uint32::merge(wire, &mut self.output, buffer, context),
            3 => encoding::uint32::merge(
                wire,
                self.initial.get_or_insert_with(Default::default),
                buffer,
                context,
            ),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if self.input != 0 {
                encoding::uint32::encoded_len(1, &self.input)
            } else {
                0
            },
            if self.output != 0 {
                encoding::uint32::encoded_len(2, &self.output)
            } else {
                0
            },
            self.initial
                .as_ref()
                .map_or(0, |value| encoding::uint32::encoded_len(3, value)),
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub key: String,
    pub value: String,
}
impl Message for Entry {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if !self.key.is_empty() {
            encoding::string::encode(1, &self.key, buffer);
        }
        if !self.value.is_empty() {
            encoding::string::encode(2, &self.value, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge(wire, &mut self.key, buffer, context),
            2 => encoding::string::merge(wire, &mut self.value, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if !self.key.is_empty() {
                encoding::string::encoded_len(1, &self.key)
            } else {
                0
            },
            if !self.value.is_empty() {
                encoding::string::encoded_len(2, &self.value)
            } else {
                0
            },
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum OperandKind {
    Value(u32),
    Constant(u32),
}
impl OperandKind {
    fn encode(&self, buffer: &mut impl BufMut) {
        match self {
            Self::Value(value) => encoding::uint32::encode(1, value, buffer),
            Self::Constant(value) => encoding::uint32::encode(2, value, buffer),
        }
    }
    fn encoded_len(&self) -> usize {
        match self {
            Self::Value(value) => encoding::uint32::encoded_len(1, value),
            Self::Constant(value) => encoding::uint32::encoded_len(2, value),
        }
    }
    fn merge(
        slot: &mut Option<Self>,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => {
                let mut value = match slot.take() {
                    Some(Self::Value(value)) => value,
                    _ => Default::default(),
                };
                encoding::uint32::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Value(value));
                Ok(())
            }
            2 => {
                let mut value = match slot.take() {
                    Some(Self::Constant(value)) => value,
                    _ => Default::default(),
                };
                encoding::uint32::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Constant(value));
                Ok(())
            }
            _ => skip_field(wire, number, buffer, context),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operand {
    pub kind: Option<OperandKind>,
}
impl Message for Operand {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if let Some(value) = &self.kind {
            value.encode(buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 | 2 => OperandKind::merge(&mut self.kind, number, wire, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [self.kind.as_ref().map_or(0, OperandKind::encoded_len)];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub name: String,
    pub value: Option<Operand>,
}
impl Message for Output {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if !self.name.is_empty() {
            encoding::string::encode(1, &self.name, buffer);
        }
        if let Some(value) = &self.value {
            encoding::message::encode(2, value, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge(wire, &mut self.name, buffer, context),
            2 => encoding::message::merge(
                wire,
                self.value.get_or_insert_with(Default::default),
                buffer,
                context,
            ),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if !self.name.is_empty() {
                encoding::string::encoded_len(1, &self.name)
            } else {
                0
            },
            self.value
                .as_ref()
                .map_or(0, |value| encoding::message::encoded_len(2, value)),
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum DimKind {
    Known = 0,
    Symbol = 1,
    Add = 2,
    Sub = 3,
    Mul = 4,
    FloorDiv = 5,
    CeilDiv = 6,
    Max = 7,
    Min = 8,
}
impl DimKind {
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Known,
            1 => Self::Symbol,
            2 => Self::Add,
            3 => Self::Sub,
            4 => Self::Mul,
            5 => Self::FloorDiv,
            6 => Self::CeilDiv,
            7 => Self::Max,
            8 => Self::Min,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dim {
    pub kind: i32,
    pub known: i64,
    pub symbol: String,
    pub operands: Vec<Dim>,
}
impl Message for Dim {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if self.kind != 0 {
            encoding::int32::encode(1, &self.kind, buffer);
        }
        if self.known != 0 {
            encoding::sint64::encode(2, &self.known, buffer);
        }
        if !self.symbol.is_empty() {
            encoding::string::encode(3, &self.symbol, buffer);
        }
        encoding::message::encode_repeated(4, &self.operands, buffer);
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::int32::merge(wire, &mut self.kind, buffer, context),
            2 => encoding::sint64::merge(wire, &mut self.known, buffer, context),
            3 => encoding::string::merge(wire, &mut self.symbol, buffer, context),
            4 => encoding::message::merge_repeated(wire, &mut self.operands, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if self.kind != 0 {
                encoding::int32::encoded_len(1, &self.kind)
            } else {
                0
            },
            if self.known != 0 {
                encoding::sint64::encoded_len(2, &self.known)
            } else {
                0
            },
            if !self.symbol.is_empty() {
                encoding::string::encoded_len(3, &self.symbol)
            } else {
                0
            },
            encoding::message::encoded_len_repeated(4, &self.operands),
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    pub dims: Vec<Dim>,
}
impl Message for Shape {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        encoding::message::encode_repeated(1, &self.dims, buffer);
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::message::merge_repeated(wire, &mut self.dims, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [encoding::message::encoded_len_repeated(1, &self.dims)];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    pub name: String,
    pub dtype: i32,
    pub shape: Option<Shape>,
    pub channels_last: bool,
}
impl Message for Value {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if !self.name.is_empty() {
            encoding::string::encode(1, &self.name, buffer);
        }
        if self.dtype != 0 {
            encoding::int32::encode(2, &self.dtype, buffer);
        }
        if let Some(value) = &self.shape {
            encoding::message::encode(3, value, buffer);
        }
        if self.channels_last {
            encoding::bool::encode(4, &self.channels_last, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge(wire, &mut self.name, buffer, context),
            2 => encoding::int32::merge(wire, &mut self.dtype, buffer, context),
            3 => encoding::message::merge(
                wire,
                self.shape.get_or_insert_with(Default::default),
                buffer,
                context,
            ),
            4 => encoding::bool::merge(wire, &mut self.channels_last, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if !self.name.is_empty() {
                encoding::string::encoded_len(1, &self.name)
            } else {
                0
            },
            if self.dtype != 0 {
                encoding::int32::encoded_len(2, &self.dtype)
            } else {
                0
            },
            self.shape
                .as_ref()
                .map_or(0, |value| encoding::message::encoded_len(3, value)),
            if self.channels_last {
                encoding::bool::encoded_len(4, &self.channels_last)
            } else {
                0
            },
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constant {
    pub dtype: i32,
    pub shape: Vec<u64>,
    pub offset: u64,
    pub len: u64,
}
impl Message for Constant {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if self.dtype != 0 {
            encoding::int32::encode(1, &self.dtype, buffer);
        }
        encoding::uint64::encode_packed(2, &self.shape, buffer);
        if self.offset != 0 {
            encoding::uint64::encode(3, &self.offset, buffer);
        }
        if self.len != 0 {
            encoding::uint64::encode(4, &self.len, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::int32::merge(wire, &mut self.dtype, buffer, context),
            2 => encoding::uint64::merge_repeated(wire, &mut self.shape, buffer, context),
            3 => encoding::uint64::merge(wire, &mut self.offset, buffer, context),
            4 => encoding::uint64::merge(wire, &mut self.len, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if self.dtype != 0 {
                encoding::int32::encoded_len(1, &self.dtype)
            } else {
                0
            },
            encoding::uint64::encoded_len_packed(2, &self.shape),
            if self.offset != 0 {
                encoding::uint64::encoded_len(3, &self.offset)
            } else {
                0
            },
            if self.len != 0 {
                encoding::uint64::encoded_len(4, &self.len)
            } else {
                0
            },
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub name: String,
    pub sources: Vec<String>,
    pub domain: String,
    pub op: String,
    pub attributes: Vec<Attribute>,
    pub kernel: String,
    pub inputs: Vec<Operand>,
    pub outputs: Vec<u32>,
    pub weights: Vec<u64>,
    pub packed: Vec<u32>,
    pub note: String,
}
impl Message for Step {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if !self.name.is_empty() {
            encoding::string::encode(1, &self.name, buffer);
        }
        encoding::string::encode_repeated(2, &self.sources, buffer);
        if !self.domain.is_empty() {
            encoding::string::encode(3, &self.domain, buffer);
        }
        if !self.op.is_empty() {
            encoding::string::encode(4, &self.op, buffer);
        }
        encoding::message::encode_repeated(5, &self.attributes, buffer);
        if !self.kernel.is_empty() {
            encoding::string::encode(6, &self.kernel, buffer);
        }
        encoding::message::encode_repeated(7, &self.inputs, buffer);
        encoding::uint32::encode_packed(8, &self.outputs, buffer);
        encoding::uint64::encode_packed(9, &self.weights, buffer);
        encoding::uint32::encode_packed(10, &self.packed, buffer);
        if !self.note.is_empty() {
            encoding::string::encode(11, &self.note, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge(wire, &mut self.name, buffer, context),
            2 => encoding::string::merge_repeated(wire, &mut self.sources, buffer, context),
            3 => encoding::string::merge(wire, &mut self.domain, buffer, context),
            4 => encoding::string::merge(wire, &mut self.op, buffer, context),
            5 => encoding::message::merge_repeated(wire, &mut self.attributes, buffer, context),
            6 => encoding::string::merge(wire, &mut self.kernel, buffer, context),
            7 => encoding::message::merge_repeated(wire, &mut self.inputs, buffer, context),
            8 => encoding::uint32::merge_repeated(wire, &mut self.outputs, buffer, context),
            9 => encoding::uint64::merge_repeated(wire, &mut self.weights, buffer, context),
            10 => encoding::uint32::merge_repeated(wire, &mut self.packed, buffer, context),
            11 => encoding::string::merge(wire, &mut self.note, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if !self.name.is_empty() {
                encoding::string::encoded_len(1, &self.name)
            } else {
                0
            },
            encoding::string::encoded_len_repeated(2, &self.sources),
            if !self.domain.is_empty() {
                encoding::string::encoded_len(3, &self.domain)
            } else {
                0
            },
            if !self.op.is_empty() {
                encoding::string::encoded_len(4, &self.op)
            } else {
                0
            },
            encoding::message::encoded_len_repeated(5, &self.attributes),
            if !self.kernel.is_empty() {
                encoding::string::encoded_len(6, &self.kernel)
            } else {
                0
            },
            encoding::message::encoded_len_repeated(7, &self.inputs),
            encoding::uint32::encoded_len_packed(8, &self.outputs),
            encoding::uint64::encoded_len_packed(9, &self.weights),
            encoding::uint32::encoded_len_packed(10, &self.packed),
            if !self.note.is_empty() {
                encoding::string::encoded_len(11, &self.note)
            } else {
                0
            },
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    Int(i64),
    Float(f32),
    String(String),
    Tensor(Tensor),
    Ints(Ints),
    Floats(Floats),
    Strings(Strings),
    Body(u32),
}
impl AttributeValue {
    fn encode(&self, buffer: &mut impl BufMut) {
        match self {
            Self::Int(value) => encoding::sint64::encode(2, value, buffer),
            Self::Float(value) => encoding::float::encode(3, value, buffer),
            Self::String(value) => encoding::string::encode(4, value, buffer),
            Self::Tensor(value) => encoding::message::encode(5, value, buffer),
            Self::Ints(value) => encoding::message::encode(6, value, buffer),
            Self::Floats(value) => encoding::message::encode(7, value, buffer),
            Self::Strings(value) => encoding::message::encode(8, value, buffer),
            Self::Body(value) => encoding::uint32::encode(9, value, buffer),
        }
    }
    fn encoded_len(&self) -> usize {
        match self {
            Self::Int(value) => encoding::sint64::encoded_len(2, value),
            Self::Float(value) => encoding::float::encoded_len(3, value),
            Self::String(value) => encoding::string::encoded_len(4, value),
            Self::Tensor(value) => encoding::message::encoded_len(5, value),
            Self::Ints(value) => encoding::message::encoded_len(6, value),
            Self::Floats(value) => encoding::message::encoded_len(7, value),
            Self::Strings(value) => encoding::message::encoded_len(8, value),
            Self::Body(value) => encoding::uint32::encoded_len(9, value),
        }
    }
    fn merge(
        slot: &mut Option<Self>,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            2 => {
                let mut value = match slot.take() {
                    Some(Self::Int(value)) => value,
                    _ => Default::default(),
                };
                encoding::sint64::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Int(value));
                Ok(())
            }
            3 => {
                let mut value = match slot.take() {
                    Some(Self::Float(value)) => value,
                    _ => Default::default(),
                };
                encoding::float::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Float(value));
                Ok(())
            }
            4 => {
                let mut value = match slot.take() {
                    Some(Self::String(value)) => value,
                    _ => Default::default(),
                };
                encoding::string::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::String(value));
                Ok(())
            }
            5 => {
                let mut value = match slot.take() {
                    Some(Self::Tensor(value)) => value,
                    _ => Default::default(),
                };
                encoding::message::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Tensor(value));
                Ok(())
            }
            6 => {
                let mut value = match slot.take() {
                    Some(Self::Ints(value)) => value,
                    _ => Default::default(),
                };
                encoding::message::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Ints(value));
                Ok(())
            }
            7 => {
                let mut value = match slot.take() {
                    Some(Self::Floats(value)) => value,
                    _ => Default::default(),
                };
                encoding::message::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Floats(value));
                Ok(())
            }
            8 => {
                let mut value = match slot.take() {
                    Some(Self::Strings(value)) => value,
                    _ => Default::default(),
                };
                encoding::message::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Strings(value));
                Ok(())
            }
            9 => {
                let mut value = match slot.take() {
                    Some(Self::Body(value)) => value,
                    _ => Default::default(),
                };
                encoding::uint32::merge(wire, &mut value, buffer, context)?;
                *slot = Some(Self::Body(value));
                Ok(())
            }
            _ => skip_field(wire, number, buffer, context),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attribute {
    pub name: String,
    pub value: Option<AttributeValue>,
}
impl Message for Attribute {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if !self.name.is_empty() {
            encoding::string::encode(1, &self.name, buffer);
        }
        if let Some(value) = &self.value {
            value.encode(buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge(wire, &mut self.name, buffer, context),
            2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 => {
                AttributeValue::merge(&mut self.value, number, wire, buffer, context)
            }
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if !self.name.is_empty() {
                encoding::string::encoded_len(1, &self.name)
            } else {
                0
            },
            self.value.as_ref().map_or(0, AttributeValue::encoded_len),
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ints {
    pub values: Vec<i64>,
}
impl Message for Ints {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        encoding::sint64::encode_packed(1, &self.values, buffer);
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::sint64::merge_repeated(wire, &mut self.values, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [encoding::sint64::encoded_len_packed(1, &self.values)];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Floats {
    pub values: Vec<f32>,
}
impl Message for Floats {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        encoding::float::encode_packed(1, &self.values, buffer);
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::float::merge_repeated(wire, &mut self.values, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [encoding::float::encoded_len_packed(1, &self.values)];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    pub values: Vec<String>,
}
impl Message for Strings {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        encoding::string::encode_repeated(1, &self.values, buffer);
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::string::merge_repeated(wire, &mut self.values, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [encoding::string::encoded_len_repeated(1, &self.values)];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    pub dtype: i32,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}
impl Message for Tensor {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if self.dtype != 0 {
            encoding::int32::encode(1, &self.dtype, buffer);
        }
        encoding::uint64::encode_packed(2, &self.shape, buffer);
        if !self.data.is_empty() {
            encoding::bytes::encode(3, &self.data, buffer);
        }
    }
    fn merge_field(
        &mut self,
        number: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match number {
            1 => encoding::int32::merge(wire, &mut self.dtype, buffer, context),
            2 => encoding::uint64::merge_repeated(wire, &mut self.shape, buffer, context),
            3 => encoding::bytes::merge(wire, &mut self.data, buffer, context),
            _ => skip_field(wire, number, buffer, context),
        }
    }
    fn encoded_len(&self) -> usize {
        let lengths = [
            if self.dtype != 0 {
                encoding::int32::encoded_len(1, &self.dtype)
            } else {
                0
            },
            encoding::uint64::encoded_len_packed(2, &self.shape),
            if !self.data.is_empty() {
                encoding::bytes::encoded_len(3, &self.data)
            } else {
                0
            },
        ];
        lengths.iter().sum()
    }
    fn clear(&mut self) {
        *self = Self::default();
    }
}
