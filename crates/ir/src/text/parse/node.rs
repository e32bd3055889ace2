//! Nodes and their attributes.

use octofold_tensor::DType;

use super::super::lexer::{Token, is_number_word};
use super::cursor::{Number, Parsed, Parser};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{AttributeProto, NodeProto, type_proto};

/// A literal of an attribute.
enum Literal<'a> {
    Number(Number<'a>),
    Text(String),
}

impl<'a> Parser<'a> {
    pub(super) fn node(&mut self) -> Parsed<NodeProto> {
        self.count()?;
        let mut node = NodeProto::default();
        if self.accept("[")? {
            node.name = Some(self.name("the name of a node")?);
            self.expect("]")?;
        }
        while !self.accept("=")? {
            let output = if self.is(",") {
                String::new()
            } else {
                self.name("the name of a result")?
            };
            node.output.push(output);
            if !self.is("=") && !self.accept(",")? {
                return self.expected("`,` or `=`");
            }
        }
        let mut operator = self.name("an operator")?;
        let mut domain = String::new();
        while self.accept(".")? {
            let part = self.name("an operator")?;
            if !domain.is_empty() {
                domain.push('.');
            }
            domain.push_str(&std::mem::replace(&mut operator, part));
        }
        node.op_type = Some(operator);
        node.domain = Some(domain);
        if self.accept(":")? {
            node.overload = Some(self.name("the name of an overload")?);
        }
        if self.is("<") {
            node.attribute = self.attributes()?;
        }
        self.expect("(")?;
        self.list(")", |parser| {
            let input = if parser.is(",") {
                String::new()
            } else {
                parser.name("the name of an operand")?
            };
            node.input.push(input);
            Ok(())
        })?;
        if self.is("<") {
            node.attribute.extend(self.attributes()?);
        }
        Ok(node)
    }

    pub(super) fn attributes(&mut self) -> Parsed<Vec<AttributeProto>> {
        let mut attributes = Vec::new();
        self.expect("<")?;
        self.list(">", |parser| {
            attributes.push(parser.attribute()?);
            Ok(())
        })?;
        Ok(attributes)
    }

    /// `name = value` or `name: type = value`
    fn attribute(&mut self) -> Parsed<AttributeProto> {
        self.count()?;
        let name = self.name("the name of an attribute")?;
        let mut declared = None;
        if self.accept(":")? {
            let at = self.at;
            let word = self.name("the type of an attribute")?;
            let ty = match word.as_str() {
                "int" => AttributeType::Int,
                "float" => AttributeType::Float,
                "string" => AttributeType::String,
                "ints" => AttributeType::Ints,
                "floats" => AttributeType::Floats,
                "strings" => AttributeType::Strings,
                "tensor" => AttributeType::Tensor,
                "graph" => AttributeType::Graph,
                _ => {
                    return Err(self
                        .lexer
                        .error(at, format!("attributes of type `{word}` are not supported")));
                }
            };
            declared = Some((ty, word));
        }
        self.expect("=")?;
        let at = self.at;
        let mut proto = self.attribute_value(declared.as_ref().map(|(ty, _)| *ty))?;
        if let Some((ty, word)) = declared
            && proto.r#type != Some(ty.into())
        {
            return Err(self
                .lexer
                .error(at, format!("the value of `{name}` is no {word}")));
        }
        proto.name = Some(name);
        Ok(proto)
    }

    pub(super) fn attribute_value(
        &mut self,
        declared: Option<AttributeType>,
    ) -> Parsed<AttributeProto> {
        let mut proto = AttributeProto::default();
        let ty = match &self.token {
            Token::Mark("@") => {
                self.advance()?;
                proto.ref_attr_name = Some(self.name("the name of a function's attribute")?);
                declared.unwrap_or(AttributeType::Undefined)
            }
            Token::Mark("[") => {
                let values = self.literals()?;
                self.list_value(&mut proto, values, declared)?
            }
            Token::Name(word) if !is_number_word(word) => {
                let (word, at) = (*word, self.at);
                self.advance()?;
                if self.is("(") {
                    proto.g = Some(Box::new(self.body(word)?));
                    proto.r#type = Some(AttributeType::Graph.into());
                    return Ok(proto);
                }
                if DType::from_name(word).is_none() {
                    let message = "expected the value of an attribute";
                    return Err(self.lexer.error(at, message));
                }
                let (ty, _) = self.type_of(word, at)?;
                let mut name = String::new();
                if matches!(self.token, Token::Name(_) | Token::Text(_)) {
                    name = self.name("the name of a tensor")?;
                }
                self.accept("=")?;
                let Some(type_proto::Value::TensorType(tensor)) = ty.value else {
                    return Err(self.lexer.error(at, "expected the type of a tensor"));
                };
                proto.t = Some(Box::new(self.tensor(&tensor, &name)?));
                AttributeType::Tensor
            }
            _ => {
                let at = self.at;
                match self.literal()? {
                    Literal::Text(name) if self.is("(") => {
                        proto.g = Some(Box::new(self.body(&name)?));
                        AttributeType::Graph
                    }
                    Literal::Text(text) => {
                        proto.s = Some(text.into_bytes());
                        AttributeType::String
                    }
                    Literal::Number(Number::Int(text))
                        if declared != Some(AttributeType::Float) =>
                    {
                        proto.i = Some(self.convert(at, text, "integer of 64 bits")?);
                        AttributeType::Int
                    }
                    Literal::Number(number) => {
                        proto.f = Some(self.convert(at, number.text(), "number")?);
                        AttributeType::Float
                    }
                }
            }
        };
        proto.r#type = Some(ty.into());
        Ok(proto)
    }

    fn literal(&mut self) -> Parsed<Literal<'a>> {
        match &self.token {
            Token::Text(_) => Ok(Literal::Text(self.text("a text")?)),
            Token::Number(_) | Token::Name(_) => Ok(Literal::Number(self.number()?)),
            _ => self.expected("a number, a text or a list"),
        }
    }

    fn literals(&mut self) -> Parsed<Vec<(usize, Literal<'a>)>> {
        let mut values = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            values.push((parser.at, parser.literal()?));
            Ok(())
        })?;
        Ok(values)
    }

    /// Sets a list: of texts, of floats when one is there or wanted, else of integers.
    fn list_value(
        &mut self,
        proto: &mut AttributeProto,
        values: Vec<(usize, Literal<'a>)>,
        declared: Option<AttributeType>,
    ) -> Parsed<AttributeType> {
        if values.is_empty() {
            return match declared {
                Some(
                    ty @ (AttributeType::Ints | AttributeType::Floats | AttributeType::Strings),
                ) => Ok(ty),
                _ => self.error("an empty list needs a type before it: `name: ints = []`"),
            };
        }
        let float = declared == Some(AttributeType::Floats)
            || values
                .iter()
                .any(|(_, value)| matches!(value, Literal::Number(Number::Float(_))));
        for (at, value) in values {
            match value {
                Literal::Text(text) => proto.strings.push(text.into_bytes()),
                Literal::Number(number) if float => {
                    proto
                        .floats
                        .push(self.convert(at, number.text(), "number")?)
                }
                Literal::Number(number) => {
                    proto
                        .ints
                        .push(self.convert(at, number.text(), "integer of 64 bits")?)
                }
            }
        }
        match (
            proto.strings.is_empty(),
            proto.floats.is_empty(),
            proto.ints.is_empty(),
        ) {
            (false, true, true) => Ok(AttributeType::Strings),
            (true, false, true) => Ok(AttributeType::Floats),
            (true, true, false) => Ok(AttributeType::Ints),
            _ => self.error("a list holds either texts or numbers"),
        }
    }
}
