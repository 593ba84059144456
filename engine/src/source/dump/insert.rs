//! One row of an INSERT: the literals that pg_dump writes, as fields like those of COPY.
//!
//! Numbers, `true` and `false` stand bare, bits as `B'…'` or `X'…'`, everything else in
//! quotes; `DEFAULT` stands for generated columns. A pure function of the row's text. What
//! can go wrong: an expression, which only a server could evaluate.

use memchr::{memchr, memchr2};

use super::builder::RowError;
use super::token::escaped;
use crate::source::copy::Field;

/// The row cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InsertError {
    /// The field of that number, from 0, is no literal.
    Literal(usize),
    /// The row is no list in parentheses.
    Row,
    /// It was read, and cannot be taken.
    Taken(RowError),
}

impl From<RowError> for InsertError {
    fn from(error: RowError) -> InsertError {
        InsertError::Taken(error)
    }
}

/// Reads `(…)`. Strings are fields of `text` where they stand as they are, else they are
/// decoded into `side`. With `crlf`, line ends in strings are made what they were before
/// the file was written in text mode.
pub(super) fn tuple(
    text: &[u8],
    crlf: bool,
    fields: &mut Vec<Field>,
    side: &mut Vec<u8>,
    defaults: &mut Vec<usize>,
) -> Result<(), InsertError> {
    let mut at = blanks(text, 1);
    if text.get(at) == Some(&b')') {
        return Ok(());
    }
    loop {
        let (field, end) =
            literal(text, at, crlf, side).ok_or(InsertError::Literal(fields.len()))?;
        match field {
            Literal::Field(field) => fields.push(field),
            Literal::Default => {
                defaults.push(fields.len());
                fields.push(Field::Null);
            }
        }
        at = blanks(text, end);
        match text.get(at) {
            Some(b',') => at = blanks(text, at + 1),
            Some(b')') if at + 1 == text.len() => return Ok(()),
            Some(_) => return Err(InsertError::Literal(fields.len() - 1)),
            None => return Err(InsertError::Row),
        }
    }
}

fn blanks(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|b| b.is_ascii_whitespace()).count()
}

enum Literal {
    Field(Field),
    Default,
}

/// The literal at `at`, and where it ends.
fn literal(text: &[u8], at: usize, crlf: bool, side: &mut Vec<u8>) -> Option<(Literal, usize)> {
    let from = side.len();
    let next = text.get(at + 1);
    let end = match text.get(at)? {
        b'\'' => return string(text, at, crlf, side),
        b'E' | b'e' if next == Some(&b'\'') => at + 1 + escaped(text.get(at + 1..)?, side)?,
        b'B' | b'b' if next == Some(&b'\'') => {
            let end = at + 2 + memchr(b'\'', &text[at + 2..])?;
            let bits = &text[at + 2..end];
            let valid = bits.iter().all(|b| matches!(b, b'0' | b'1'));
            return valid.then_some((Literal::Field(Field::Plain(at + 2..end)), end + 1));
        }
        b'X' | b'x' if next == Some(&b'\'') => {
            let end = at + 2 + memchr(b'\'', &text[at + 2..])?;
            for digit in &text[at + 2..end] {
                let value = char::from(*digit).to_digit(16)?;
                side.extend_from_slice(format!("{value:04b}").as_bytes());
            }
            end + 1
        }
        _ => return bare(text, at, side),
    };
    Some((Literal::Field(Field::Unescaped(from..side.len())), end))
}

/// `'…'` with doubled quotes.
fn string(text: &[u8], at: usize, crlf: bool, side: &mut Vec<u8>) -> Option<(Literal, usize)> {
    let find = |from: usize| {
        let rest = text.get(from..)?;
        let found = if crlf { memchr2(b'\'', b'\r', rest) } else { memchr(b'\'', rest) };
        Some(from + found?)
    };
    let from = side.len();
    let mut copied = at + 1;
    let mut found = find(copied)?;
    if text[found] == b'\'' && text.get(found + 1) != Some(&b'\'') {
        return Some((Literal::Field(Field::Plain(copied..found)), found + 1));
    }
    loop {
        side.extend_from_slice(&text[copied..found]);
        copied = match (text[found], text.get(found + 1)) {
            (b'\'', Some(b'\'')) => {
                side.push(b'\'');
                found + 2
            }
            (b'\'', _) => {
                return Some((Literal::Field(Field::Unescaped(from..side.len())), found + 1));
            }
            // Text mode put it there.
            (_, Some(b'\n')) => found + 1,
            _ => {
                side.push(b'\r');
                found + 1
            }
        };
        found = find(copied)?;
    }
}

/// A number or a key word.
fn bare(text: &[u8], at: usize, side: &mut Vec<u8>) -> Option<(Literal, usize)> {
    let part = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'+' | b'-' | b'.' | b'_');
    let end = at + text[at..].iter().take_while(part).count();
    let word = &text[at..end];
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let first = word.first()?;
    let literal = if is("null") {
        Literal::Field(Field::Null)
    } else if is("default") {
        Literal::Default
    } else if is("true") || is("false") {
        // As bool's own output: a letter.
        side.push(if is("true") { b't' } else { b'f' });
        Literal::Field(Field::Unescaped(side.len() - 1..side.len()))
    } else if first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.') {
        let number = |b: &u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
        word.iter().all(number).then_some(())?;
        Literal::Field(Field::Plain(at..end))
    } else {
        return None;
    };
    Some((literal, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8], crlf: bool) -> Result<Vec<Option<Vec<u8>>>, InsertError> {
        let (mut fields, mut side, mut defaults) = (Vec::new(), Vec::new(), Vec::new());
        tuple(text, crlf, &mut fields, &mut side, &mut defaults)?;
        let value = |(n, field): (usize, Field)| match field {
            Field::Null if defaults.contains(&n) => Some(b"<default>".to_vec()),
            Field::Null => None,
            Field::Plain(range) => Some(text[range].to_vec()),
            Field::Unescaped(range) => Some(side[range].to_vec()),
        };
        Ok(fields.into_iter().enumerate().map(value).collect())
    }

    fn texts(values: &[Option<&str>]) -> Vec<Option<Vec<u8>>> {
        values.iter().map(|v| v.map(|v| v.as_bytes().to_vec())).collect()
    }

    #[test]
    fn the_literals_that_pg_dump_writes() {
        let row = br"(1, -2.5e-7, 'NaN', NULL, true, false, DEFAULT, 'it''s', '', B'101', X'1F', E'a\n\\b\'\u00e9', 'back\slash', '(),;--')";
        let expected = [
            Some("1"),
            Some("-2.5e-7"),
            Some("NaN"),
            None,
            Some("t"),
            Some("f"),
            Some("<default>"),
            Some("it's"),
            Some(""),
            Some("101"),
            Some("00011111"),
            Some("a\n\\b'é"),
            Some("back\\slash"),
            Some("(),;--"),
        ];
        assert_eq!(read(row, false).unwrap(), texts(&expected));
        assert_eq!(read(b"()", false).unwrap(), texts(&[]));
        assert_eq!(read(b"('a\r\nb''\rc')", true).unwrap(), texts(&[Some("a\nb'\rc")]));
        assert_eq!(read(b"('a\r\nb')", false).unwrap(), texts(&[Some("a\r\nb")]));
    }

    #[test]
    fn expressions_are_refused_by_their_number() {
        for (row, field) in [
            ("(1, now())", 1),
            ("(1 + 1)", 0),
            ("('a' || 'b')", 0),
            ("('2024-01-01'::date)", 0),
            ("(1, )", 1),
            ("(B'12')", 0),
            ("(X'GG')", 0),
            ("(nextval)", 0),
        ] {
            assert_eq!(read(row.as_bytes(), false), Err(InsertError::Literal(field)), "{row}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_an_error(text in proptest::collection::vec(any::<u8>(), 0..64), crlf in any::<bool>()) {
            let _ = read(&text, crlf);
            let mut row = vec![b'('];
            row.extend(text);
            let _ = read(&row, crlf);
        }

        #[test]
        fn strings_come_back(values in proptest::collection::vec("\\PC*|['\r\n\\\\]*", 1..5)) {
            let quoted: Vec<String> =
                values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
            let row = format!("({})", quoted.join(", "));
            let expected: Vec<_> = values.iter().map(|v| Some(v.as_bytes().to_vec())).collect();
            prop_assert_eq!(read(row.as_bytes(), false).unwrap(), expected);
        }
    }
}
