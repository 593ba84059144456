//! Rows as COPY's text. Pure; nothing can go wrong.
//!
//! Format: the PostgreSQL manual, COPY, "Text Format".

use memchr::{memchr, memchr3};

/// Appends a row.
pub(super) fn row<'a>(values: impl IntoIterator<Item = Option<&'a [u8]>>, out: &mut Vec<u8>) {
    fields(values, out, escape);
}

/// Appends a row of which no value has anything to be escaped ([`is_plain`]).
pub(super) fn plain<'a>(values: impl IntoIterator<Item = Option<&'a [u8]>>, out: &mut Vec<u8>) {
    fields(values, out, |text, out| out.extend_from_slice(text));
}

/// Whether nothing in here is to be escaped.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    special(bytes).is_none()
}

fn fields<'a>(
    values: impl IntoIterator<Item = Option<&'a [u8]>>,
    out: &mut Vec<u8>,
    write: impl Fn(&[u8], &mut Vec<u8>),
) {
    for (n, value) in values.into_iter().enumerate() {
        if n > 0 {
            out.push(b'\t');
        }
        match value {
            None => out.extend_from_slice(b"\\N"),
            Some(text) => write(text, out),
        }
    }
    out.push(b'\n');
}

/// Most values have none of these, and the search for three at once is a fast one.
fn special(bytes: &[u8]) -> Option<usize> {
    let three = memchr3(b'\\', b'\n', b'\t', bytes);
    memchr(b'\r', &bytes[..three.unwrap_or(bytes.len())]).or(three)
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = special(rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copy_would_take_for_itself_is_escaped() {
        let mut out = Vec::new();
        let values = ["a\tb", "c\\N", "", "\\.", "\r\n"];
        assert!(values.iter().all(|value| is_plain(value.as_bytes()) == value.is_empty()));
        let values = values.map(|value| Some(value.as_bytes()));
        row(values.into_iter().chain([None]), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "a\\tb\tc\\\\N\t\t\\\\.\t\\r\\n\t\\N\n");
    }

    #[test]
    fn a_row_that_needs_none_of_that_is_the_same_without() {
        let values = || [Some(&b"N."[..]), None, Some(b""), Some("\u{8}\u{b}ä".as_bytes())];
        assert!(values().into_iter().flatten().all(is_plain));
        let (mut escaped, mut out) = (Vec::new(), Vec::new());
        row(values(), &mut escaped);
        plain(values(), &mut out);
        assert_eq!(out, escaped);
    }
}
