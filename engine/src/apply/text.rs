//! Rows as COPY's text. Pure; nothing can go wrong.
//!
//! Format: the PostgreSQL manual, COPY, "Text Format".

use memchr::{memchr, memchr3};

/// Appends a row.
pub(super) fn row<'a>(values: impl IntoIterator<Item = Option<&'a str>>, out: &mut Vec<u8>) {
    for (n, value) in values.into_iter().enumerate() {
        if n > 0 {
            out.push(b'\t');
        }
        match value {
            None => out.extend_from_slice(b"\\N"),
            Some(text) => escape(text.as_bytes(), out),
        }
    }
    out.push(b'\n');
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    // Most values have none of these, and the search for three at once is a fast one.
    let special = |rest: &[u8]| {
        let three = memchr3(b'\\', b'\n', b'\t', rest);
        memchr(b'\r', &rest[..three.unwrap_or(rest.len())]).or(three)
    };
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
        let values = ["a\tb", "c\\N", "", "\\.", "\r\n"].map(Some);
        row(values.into_iter().chain([None]), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "a\\tb\tc\\\\N\t\t\\\\.\t\\r\\n\t\\N\n");
    }
}
