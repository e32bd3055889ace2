//! Texts that come from files, for terminals and drawings.

use std::borrow::Cow;

/// A text with its control characters spelled out, except line feeds and tabs. Names come from files, and must not colour a
/// terminal, retitle it or hide the rest of a line.
pub fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| match c {
        '\n' | '\t' => false,
        // Marks that turn the direction of writing.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    };
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let spelled = text.chars().map(|c| match c {
        c if hidden(c) => c.escape_default().to_string(),
        c => c.to_string(),
    });
    Cow::Owned(spelled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(visible("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(visible("\u{1b}[31mred"), "\\u{1b}[31mred");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
    }
}
