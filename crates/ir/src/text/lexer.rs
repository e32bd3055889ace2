//! The lexer: from characters to tokens, with the positions of both.

use super::ParseError;

/// A piece of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier.
    Name(&'a str),
    /// A text in quotes, without them.
    Text(String),
    /// A number as it is written.
    Number(&'a str),
    /// A character that stands for itself, `=>` or `...`.
    Mark(&'static str),
    /// The end.
    End,
}

impl Token<'_> {
    /// The token in the words of an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Name(text) | Self::Number(text) => format!("`{text}`"),
            Self::Text(text) => format!("{text:?}"),
            Self::Mark(mark) => format!("`{mark}`"),
            Self::End => "the end of the text".to_owned(),
        }
    }
}

const MARKS: [&str; 16] = [
    "=>", "...", "<", ">", "(", ")", "[", "]", "{", "}", ",", ":", "=", ".", "@", "?",
];

/// Reads tokens one by one.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    annotation: Option<Vec<String>>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            annotation: None,
        }
    }

    /// The texts of the last `#:` comment that was passed, once.
    pub(super) fn take_annotation(&mut self) -> Option<Vec<String>> {
        self.annotation.take()
    }

    /// An error at a place of the text.
    pub(super) fn error(&self, at: usize, message: impl Into<String>) -> ParseError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ParseError {
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), ParseError> {
        self.skip()?;
        let start = self.at;
        let rest = self.rest();
        let Some(&first) = rest.as_bytes().first() else {
            return Ok((Token::End, start));
        };
        let token = match first {
            b'"' => Token::Text(self.quoted(false)?),
            b'0'..=b'9' | b'-' => self.number()?,
            _ if first.is_ascii_alphabetic() || first == b'_' => {
                let word = self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                Token::Name(word)
            }
            _ => match MARKS.iter().find(|mark| rest.starts_with(**mark)) {
                Some(mark) => {
                    self.at += mark.len();
                    Token::Mark(mark)
                }
                None => {
                    let found = rest.chars().next().unwrap_or_default();
                    return Err(self.error(
                        start,
                        format!("the character {found:?} has no meaning here"),
                    ));
                }
            },
        };
        Ok((token, start))
    }

    /// Passes white space and comments.
    fn skip(&mut self) -> Result<(), ParseError> {
        loop {
            self.take_while(|byte| byte.is_ascii_whitespace());
            if !self.rest().starts_with('#') {
                return Ok(());
            }
            self.at += 1;
            if self.rest().starts_with(':') {
                self.at += 1;
                self.read_annotation()?;
            }
            self.take_while(|byte| byte != b'\n');
        }
    }

    fn read_annotation(&mut self) -> Result<(), ParseError> {
        let mut texts = Vec::new();
        loop {
            self.take_while(|byte| byte == b' ' || byte == b'\t');
            if !self.rest().starts_with('"') {
                break;
            }
            texts.push(self.quoted(true)?);
        }
        self.annotation = Some(texts);
        Ok(())
    }

    fn take_while(&mut self, accepts: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest
            .bytes()
            .position(|byte| !accepts(byte))
            .unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// A text in quotes. A backslash takes the meaning from the next character; in annotations it gives one to `n` and `r`, too.
    fn quoted(&mut self, annotation: bool) -> Result<String, ParseError> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, found)) = chars.next() {
            match found {
                '"' => {
                    self.at = start + offset + 1;
                    return Ok(text);
                }
                '\n' if annotation => break,
                '\\' => match chars.next() {
                    Some((_, 'n')) if annotation => text.push('\n'),
                    Some((_, 'r')) if annotation => text.push('\r'),
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                other => text.push(other),
            }
        }
        Err(self.error(start, "the text has no closing quote"))
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at;
        let digits = |lexer: &mut Self| !lexer.take_while(|byte| byte.is_ascii_digit()).is_empty();
        if self.rest().starts_with('-') {
            self.at += 1;
        }
        if self.rest().starts_with("inf") {
            self.take_while(|byte| byte.is_ascii_alphabetic());
        } else {
            if !digits(self) {
                return Err(self.error(start, "a number has to follow `-`"));
            }
            if self.rest().starts_with('.') {
                self.at += 1;
                digits(self);
            }
            if self.rest().starts_with(['e', 'E']) {
                self.at += 1;
                if self.rest().starts_with(['+', '-']) {
                    self.at += 1;
                }
                if !digits(self) {
                    return Err(self.error(start, "the number has no exponent"));
                }
            }
        }
        Ok(Token::Number(
            self.text.get(start..self.at).unwrap_or_default(),
        ))
    }
}

/// Whether a word stands for a number that is not finite.
pub(super) fn is_number_word(word: &str) -> bool {
    ["inf", "infinity", "nan"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}
