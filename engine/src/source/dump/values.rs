//! One text for one value: brings what another session's settings made of a value to
//! what the stream shows, `timestamptz` to UTC and `bytea` to hex, also inside arrays,
//! ranges, multiranges and row types.
//!
//! The text of a container is taken apart and put together as PostgreSQL's own output
//! functions do (`array_out`, `range_out`, `multirange_out`, `record_out`); what holds
//! nothing that changes is left as it is, byte by byte. What can go wrong: the text is not
//! of that type's form ([`Malformed`]). Never panics.

use crate::source::catalog::Shape;

mod container;
mod timestamp;

/// The text has not the form that its type's output has; the type's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Appends the stream's text of a value to `out`; or answers false, and appends nothing,
/// if it is that text already.
pub(super) fn convert(shape: &Shape, text: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let from = out.len();
    match shape {
        Shape::Timestamptz => timestamp::to_utc(text, out),
        Shape::Bytea => bytea(text, out),
        Shape::Array(element) => container::array(element, text, out),
        Shape::Range(bound) => container::range(bound, text, out),
        Shape::Multirange(bound) => container::multirange(bound, text, out),
        Shape::Composite(fields) => container::composite(fields, text, out),
    }
    .inspect(|changed| {
        if !changed {
            out.truncate(from);
        }
    })
}

/// `bytea` in hex: the manual, 8.4. The two forms cannot be taken for one another: an
/// escaped backslash is two of them.
fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if text.starts_with(b"\\x") {
        return Ok(false);
    }
    out.extend_from_slice(b"\\x");
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let octal = |n: usize| {
            let digit = text.get(at + n).filter(|b| (b'0'..=b'7').contains(*b))?;
            Some(u32::from(digit - b'0'))
        };
        let (value, len) = match (byte, text.get(at + 1)) {
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', _) => {
                let (a, b, c) = (octal(1), octal(2), octal(3));
                let value = a.zip(b).zip(c).map(|((a, b), c)| a << 6 | b << 3 | c);
                let value = value.and_then(|value| u8::try_from(value).ok());
                (value.ok_or(Malformed("bytea"))?, 4)
            }
            (byte, _) => (byte, 1),
        };
        out.push(DIGITS[usize::from(value >> 4)]);
        out.push(DIGITS[usize::from(value & 15)]);
        at += len;
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
