//! The words of an expression, each with the column it begins at.
//!
//! A text stands in double or single quotes, the quote doubled inside; a column's name is
//! bare, or stands in backticks. What can go wrong: a sign that means nothing, a quote that
//! is not closed. Columns count characters from 1.

use std::fmt;

use kasho_plugin_sdk::{Error, Result};

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A bare name or a keyword.
    Name(String),
    /// A name in backticks.
    Quoted(String),
    /// A text.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// An operator, parenthesis or comma.
    Sign(&'static str),
    /// The end of the expression.
    End,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Name(text) | Word::Number(text) => write!(f, "`{text}`"),
            Word::Quoted(_) => f.write_str("a column in backticks"),
            Word::Text(_) => f.write_str("a text"),
            Word::Sign(sign) => write!(f, "`{sign}`"),
            Word::End => f.write_str("the end"),
        }
    }
}

/// Operators, the longer ones first; each with the one it means.
const SIGNS: [(&str, &str); 15] = [
    ("&&", "&&"),
    ("||", "||"),
    ("==", "=="),
    ("!=", "!="),
    ("<>", "!="),
    ("<=", "<="),
    (">=", ">="),
    ("=", "=="),
    ("<", "<"),
    (">", ">"),
    ("!", "!"),
    ("(", "("),
    (")", ")"),
    (",", ","),
    ("-", "-"),
];

/// What is wrong at a column.
pub(crate) fn wrong(at: usize, text: impl fmt::Display) -> Error {
    Error::new(format!("column {at}: {text}"))
}

/// All words and the end.
///
/// # Errors
/// Where it is no word.
pub(crate) fn words(text: &str) -> Result<Vec<(usize, Word)>> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text[..text.len() - rest.len()].chars().count() + 1;
        let Some(first) = rest.chars().next() else {
            words.push((at, Word::End));
            return Ok(words);
        };
        let (word, len) = word(rest, first, at)?;
        words.push((at, word));
        rest = &rest[len..];
    }
}

fn word(rest: &str, first: char, at: usize) -> Result<(Word, usize)> {
    if matches!(first, '"' | '\'' | '`') {
        let (inside, len) =
            quoted(rest, first).ok_or_else(|| wrong(at, format!("the {first} is not closed")))?;
        return match first {
            '`' if inside.is_empty() => Err(wrong(at, "a column's name is missing")),
            '`' => Ok((Word::Quoted(inside), len)),
            _ => Ok((Word::Text(inside), len)),
        };
    }
    if first.is_ascii_digit() {
        let len = number(rest);
        return match rest[len..].chars().next() {
            Some(c) if c.is_alphanumeric() || matches!(c, '_' | '.') => {
                Err(wrong(at, "this is no number: a text stands in quotes"))
            }
            _ => Ok((Word::Number(rest[..len].to_owned()), len)),
        };
    }
    if first.is_alphabetic() || first == '_' {
        let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$'));
        let name = &rest[..end.unwrap_or(rest.len())];
        return Ok((Word::Name(name.to_owned()), name.len()));
    }
    let sign = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign));
    let (sign, meant) =
        sign.ok_or_else(|| wrong(at, format!("`{first}` means nothing in an expression")))?;
    Ok((Word::Sign(meant), sign.len()))
}

/// What stands in quotes, and the bytes that it takes with them.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut inside = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Some((inside, at + 1));
        }
    }
    None
}

/// Bytes of the number that `rest` begins with.
fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut len = digits(0);
    if bytes.get(len) == Some(&b'.') && digits(len + 1) > 0 {
        len += 1 + digits(len + 1);
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        if bytes.len() > len + 1 + sign && digits(len + 1 + sign) > 0 {
            len += 1 + sign + digits(len + 1 + sign);
        }
    }
    len
}
