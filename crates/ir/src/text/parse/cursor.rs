//! The parser's place in the text: the next token, and what every rule of the grammar asks of it.

use std::collections::HashMap;

use super::super::ParseError;
use super::super::lexer::{Lexer, Token, is_number_word};
use crate::onnx::Extension;
use crate::onnx::ImportErrorKind;

/// The messages that a text may ask for: nodes, attributes, values and tensors. Each takes hundreds of bytes, and few characters.
const MAX_MESSAGES: usize = 1 << 21;

/// The value of a number token.
#[derive(Clone, Copy)]
pub(super) enum Number<'a> {
    Int(&'a str),
    Float(&'a str),
}

impl<'a> Number<'a> {
    pub(super) fn text(self) -> &'a str {
        match self {
            Self::Int(text) | Self::Float(text) => text,
        }
    }
}

/// Where the parts of the outermost graph begin, by their names.
#[derive(Default)]
pub(super) struct Places {
    pub(super) graph: usize,
    pub(super) nodes: HashMap<String, usize>,
    /// Of a value that is defined twice, the second place.
    pub(super) values: HashMap<String, usize>,
    pub(super) outputs: HashMap<String, usize>,
}

impl Places {
    /// The place of what an error is about.
    pub(super) fn of(&self, kind: &ImportErrorKind) -> usize {
        let place = match kind {
            ImportErrorKind::Node { node, .. } | ImportErrorKind::Cycle { node } => {
                self.nodes.get(node)
            }
            ImportErrorKind::Duplicate { name, .. }
            | ImportErrorKind::Initializer { tensor: name, .. }
            | ImportErrorKind::Input { input: name, .. } => self.values.get(name),
            ImportErrorKind::Output { output, .. } => self.outputs.get(output),
            _ => None,
        };
        place.copied().unwrap_or(self.graph)
    }
}

/// Reads a text token by token.
pub(super) struct Parser<'a> {
    pub(super) lexer: Lexer<'a>,
    /// The token to be read next, and where it begins.
    pub(super) token: Token<'a>,
    pub(super) at: usize,
    pub(super) messages: usize,
    pub(super) extension: Extension,
    pub(super) places: Places,
    /// How many graphs are around the one that is being read.
    pub(super) depth: usize,
}

pub(super) type Parsed<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Parsed<Self> {
        let mut lexer = Lexer::new(text);
        let (token, at) = lexer.next()?;
        Ok(Self {
            lexer,
            token,
            at,
            messages: 0,
            extension: Extension::default(),
            places: Places {
                graph: at,
                ..Places::default()
            },
            depth: 0,
        })
    }

    pub(super) fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(self.lexer.error(self.at, message))
    }

    pub(super) fn expected<T>(&self, what: &str) -> Parsed<T> {
        self.error(format!("expected {what}, found {}", self.token.describe()))
    }

    /// Counts a message that the text asks for.
    pub(super) fn count(&mut self) -> Parsed<()> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return self.error(format!(
                "too many nodes, attributes, values and tensors: the limit is {MAX_MESSAGES}"
            ));
        }
        Ok(())
    }

    /// Goes to the next token; gives the one that was.
    pub(super) fn advance(&mut self) -> Parsed<Token<'a>> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    pub(super) fn is(&self, mark: &str) -> bool {
        matches!(self.token, Token::Mark(found) if found == mark)
    }

    /// Passes a mark, when it is there.
    pub(super) fn accept(&mut self, mark: &str) -> Parsed<bool> {
        let found = self.is(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, mark: &str) -> Parsed<()> {
        if self.accept(mark)? {
            Ok(())
        } else {
            self.expected(&format!("`{mark}`"))
        }
    }

    /// Items with commas between them, up to a mark, which is passed.
    pub(super) fn list(
        &mut self,
        end: &str,
        mut item: impl FnMut(&mut Self) -> Parsed<()>,
    ) -> Parsed<()> {
        while !self.accept(end)? {
            item(self)?;
            if !self.is(end) && !self.accept(",")? {
                return self.expected(&format!("`,` or `{end}`"));
            }
        }
        Ok(())
    }

    /// A name, in quotes or not.
    pub(super) fn name(&mut self, what: &str) -> Parsed<String> {
        match self.advance_if(|token| matches!(token, Token::Name(_) | Token::Text(_)))? {
            Some(Token::Name(name)) => Ok(name.to_owned()),
            Some(Token::Text(name)) => Ok(name),
            _ => self.expected(what),
        }
    }

    pub(super) fn text(&mut self, what: &str) -> Parsed<String> {
        match self.advance_if(|token| matches!(token, Token::Text(_)))? {
            Some(Token::Text(text)) => Ok(text),
            _ => self.expected(what),
        }
    }

    pub(super) fn advance_if(
        &mut self,
        accepts: impl Fn(&Token<'_>) -> bool,
    ) -> Parsed<Option<Token<'a>>> {
        if accepts(&self.token) {
            self.advance().map(Some)
        } else {
            Ok(None)
        }
    }

    /// A number; the words for numbers that are not finite count.
    pub(super) fn number(&mut self) -> Parsed<Number<'a>> {
        match self.token {
            Token::Number(text) => {
                self.advance()?;
                let float = text.contains(['.', 'e', 'E', 'i']);
                Ok(if float {
                    Number::Float(text)
                } else {
                    Number::Int(text)
                })
            }
            Token::Name(text) if is_number_word(text) => {
                self.advance()?;
                Ok(Number::Float(text))
            }
            _ => self.expected("a number"),
        }
    }

    pub(super) fn convert<T: std::str::FromStr>(
        &self,
        at: usize,
        text: &str,
        what: &str,
    ) -> Parsed<T> {
        text.parse()
            .map_err(|_| self.lexer.error(at, format!("`{text}` is no {what}")))
    }

    pub(super) fn int(&mut self) -> Parsed<i64> {
        let at = self.at;
        let number = self.number()?;
        self.convert(at, number.text(), "integer of 64 bits")
    }

    pub(super) fn float(&mut self) -> Parsed<f32> {
        let at = self.at;
        let number = self.number()?;
        self.convert(at, number.text(), "number")
    }
}
