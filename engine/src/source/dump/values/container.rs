//! Arrays, ranges, multiranges and row types: taken apart, their parts brought to the
//! stream's text, and put together again as PostgreSQL's output functions do.

use super::{Malformed, convert};
use crate::source::catalog::Shape;

/// A part of a container's text, its quotes and escapes undone.
struct Part {
    /// None: nothing stands there, or the word NULL without quotes.
    text: Option<Vec<u8>>,
}

/// `{a,"b c",NULL,{…}}`, with `[3:3]=` in front if it does not begin at 1.
pub(super) fn array(element: &Shape, text: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let bad = Malformed("array");
    let mut at = match text.first() {
        Some(b'[') => text.iter().position(|b| *b == b'=').ok_or(bad)? + 1,
        _ => 0,
    };
    out.extend_from_slice(&text[..at]);
    let mut changed = false;
    let mut depth = 0usize;
    loop {
        match text.get(at) {
            Some(b'{') => depth += 1,
            Some(b'}') if depth > 0 => depth -= 1,
            Some(b',') if depth > 0 => {}
            Some(_) if depth > 0 => {
                let (part, end) = element_at(text, at).ok_or(bad)?;
                changed |= put(element, &part, &text[at..end], out, quote_element)?;
                at = end;
                continue;
            }
            Some(_) | None => return Err(bad),
        }
        out.push(text[at]);
        at += 1;
        if depth == 0 {
            return if at == text.len() { Ok(changed) } else { Err(bad) };
        }
    }
}

/// An element of an array, up to its comma or brace.
fn element_at(text: &[u8], start: usize) -> Option<(Part, usize)> {
    let mut found = Vec::new();
    if text[start] != b'"' {
        let end = start + text[start..].iter().position(|b| matches!(b, b',' | b'}'))?;
        let bare = &text[start..end];
        let null = bare.eq_ignore_ascii_case(b"NULL");
        return Some((Part { text: (!null).then(|| bare.to_vec()) }, end));
    }
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some((Part { text: Some(found) }, at + 1)),
            b'\\' => {
                found.push(*text.get(at + 1)?);
                at += 2;
            }
            byte => {
                found.push(*byte);
                at += 1;
            }
        }
    }
}

/// `empty`, or `[a,b)`; a bound that is not there is infinite.
pub(super) fn range(bound: &Shape, text: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    if text == b"empty" {
        return Ok(false);
    }
    let (changed, end) = range_at(bound, text, 0, out)?;
    if end == text.len() { Ok(changed) } else { Err(Malformed("range")) }
}

fn range_at(
    bound: &Shape,
    text: &[u8],
    start: usize,
    out: &mut Vec<u8>,
) -> Result<(bool, usize), Malformed> {
    let bad = Malformed("range");
    let open = text.get(start).filter(|b| matches!(b, b'[' | b'(')).ok_or(bad)?;
    out.push(*open);
    let (lower, comma) = field_at(text, start + 1, b",").ok_or(bad)?;
    let mut changed = put(bound, &lower, &text[start + 1..comma], out, quote_field)?;
    out.push(b',');
    let (upper, close) = field_at(text, comma + 1, b"])").ok_or(bad)?;
    changed |= put(bound, &upper, &text[comma + 1..close], out, quote_field)?;
    out.push(text[close]);
    Ok((changed, close + 1))
}

/// `{[a,b),[c,d)}`.
pub(super) fn multirange(bound: &Shape, text: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let bad = Malformed("multirange");
    if text.first() != Some(&b'{') {
        return Err(bad);
    }
    out.push(b'{');
    let (mut at, mut changed) = (1, false);
    loop {
        match text.get(at) {
            Some(b'}') if at + 1 == text.len() => {
                out.push(b'}');
                return Ok(changed);
            }
            Some(b',') if at > 1 => {
                out.push(b',');
                at += 1;
            }
            _ => {
                let (one, end) = range_at(bound, text, at, out)?;
                changed |= one;
                at = end;
            }
        }
    }
}

/// `(a,"b c",)`; a field that is not there is NULL.
pub(super) fn composite(
    fields: &[Option<Shape>],
    text: &[u8],
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let bad = Malformed("row type");
    if text.first() != Some(&b'(') {
        return Err(bad);
    }
    out.push(b'(');
    let (mut at, mut changed) = (1, false);
    for (n, field) in fields.iter().enumerate() {
        let (part, end) = field_at(text, at, b",)").ok_or(bad)?;
        match field {
            Some(shape) => changed |= put(shape, &part, &text[at..end], out, quote_field)?,
            None => out.extend_from_slice(&text[at..end]),
        }
        let last = n + 1 == fields.len();
        if (text[end] == b')') != last {
            return Err(bad);
        }
        out.push(text[end]);
        at = end + 1;
    }
    if at == text.len() { Ok(changed) } else { Err(bad) }
}

/// A bound of a range or a field of a row, up to one of the marks in `ends`: quotes
/// inside are doubled, and backslashes escape.
fn field_at(text: &[u8], start: usize, ends: &[u8]) -> Option<(Part, usize)> {
    let (mut at, mut quoted) = (start, false);
    let mut found = Vec::new();
    loop {
        match *text.get(at)? {
            byte if !quoted && ends.contains(&byte) => {
                let part = Part { text: (at > start).then_some(found) };
                return Some((part, at));
            }
            b'"' if quoted && text.get(at + 1) == Some(&b'"') => {
                found.push(b'"');
                at += 2;
            }
            b'"' => {
                quoted = !quoted;
                at += 1;
            }
            b'\\' => {
                found.push(*text.get(at + 1)?);
                at += 2;
            }
            byte => {
                found.push(byte);
                at += 1;
            }
        }
    }
}

/// Writes one part: as it was unless its value has another text now.
fn put(
    shape: &Shape,
    part: &Part,
    as_written: &[u8],
    out: &mut Vec<u8>,
    quote: fn(&[u8], &mut Vec<u8>),
) -> Result<bool, Malformed> {
    let mut converted = Vec::new();
    let changed = match &part.text {
        Some(text) => convert(shape, text, &mut converted)?,
        None => false,
    };
    match changed {
        true => quote(&converted, out),
        false => out.extend_from_slice(as_written),
    }
    Ok(changed)
}

/// `isspace` in the C locale.
fn space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// As `array_out` writes an element that is not NULL.
fn quote_element(text: &[u8], out: &mut Vec<u8>) {
    let special = |b: &u8| matches!(b, b'"' | b'\\' | b'{' | b'}' | b',') || space(*b);
    if !text.is_empty() && !text.eq_ignore_ascii_case(b"NULL") && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// As `range_out` writes a bound and `record_out` a field: the first also quotes
/// brackets, which no text of ours holds outside quotes.
fn quote_field(text: &[u8], out: &mut Vec<u8>) {
    let special =
        |b: &u8| matches!(b, b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b',') || space(*b);
    if !text.is_empty() && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'"');
}
