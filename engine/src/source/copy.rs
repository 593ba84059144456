//! Rows of `COPY` text format: one left-to-right pass, values as spans of the received
//! line wherever nothing is escaped.
//!
//! Format: the PostgreSQL manual, COPY, "Text Format". Inside a row nothing is special
//! but the tab and the backslash. What can go wrong: a line that ends in the middle of an
//! escape, or holds another number of fields than there are columns ([`CopyError`]); it
//! never panics, whatever the bytes.

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr2;

use crate::batch::{Batch, Cell, Image, Span};

/// One field of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `\N`.
    Null,
    /// Bytes of the line, as they are.
    Plain(Range<usize>),
    /// Bytes of the side buffer: the field held escapes.
    Unescaped(Range<usize>),
}

/// A line that is no row. Holds places and counts, no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The last byte begins an escape.
    #[error("the row ends with a lone backslash at byte {at}")]
    LoneBackslash {
        /// Offset in the line.
        at: usize,
    },
    /// Too few or too many fields.
    #[error("the row has {found} fields, {expected} columns were asked for")]
    FieldCount {
        /// Fields of the line.
        found: usize,
        /// Columns of the relation.
        expected: usize,
    },
    /// A batch cannot address it.
    #[error("the row has {bytes} bytes, more than can be addressed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Splits a line (without its newline) into fields. What is escaped is written to `side`.
///
/// # Errors
/// The line ends within an escape.
pub fn fields(line: &[u8], side: &mut Vec<u8>, fields: &mut Vec<Field>) -> Result<(), CopyError> {
    let mut at = 0;
    loop {
        let (field, end) = field(line, at, side)?;
        fields.push(field);
        if end == line.len() {
            return Ok(());
        }
        at = end + 1;
    }
}

/// The field that begins at `start`, and where its delimiter (or the line's end) is.
fn field(line: &[u8], start: usize, side: &mut Vec<u8>) -> Result<(Field, usize), CopyError> {
    let special =
        |from: usize| memchr2(b'\t', b'\\', &line[from..]).map_or(line.len(), |n| from + n);
    let mut at = special(start);
    if line.get(at) != Some(&b'\\') {
        return Ok((Field::Plain(start..at), at));
    }
    if at == start
        && line.get(at + 1) == Some(&b'N')
        && matches!(line.get(at + 2), None | Some(b'\t'))
    {
        return Ok((Field::Null, at + 2));
    }
    let from = side.len();
    let mut copied = start;
    while line.get(at) == Some(&b'\\') {
        side.extend_from_slice(&line[copied..at]);
        let (byte, next) = escape(line, at)?;
        side.push(byte);
        copied = next;
        at = special(next);
    }
    side.extend_from_slice(&line[copied..at]);
    Ok((Field::Unescaped(from..side.len()), at))
}

/// The byte that the escape at `at` stands for, and where it ends.
fn escape(line: &[u8], at: usize) -> Result<(u8, usize), CopyError> {
    let Some(&letter) = line.get(at + 1) else {
        return Err(CopyError::LoneBackslash { at });
    };
    let digits = |from: usize, most: usize, radix: u32| {
        let digits = line[from..].iter().take(most);
        digits.map_while(move |&b| char::from(b).to_digit(radix)).collect::<Vec<_>>()
    };
    let number = |digits: &[u32], radix: u32| {
        // Like the server: of a too large octal number the low eight bits.
        let value = digits.iter().fold(0u32, |n, digit| n * radix + digit) & 0xFF;
        u8::try_from(value).unwrap_or(0)
    };
    let simple = |byte| Ok((byte, at + 2));
    match letter {
        b'b' => simple(8),
        b'f' => simple(12),
        b'n' => simple(b'\n'),
        b'r' => simple(b'\r'),
        b't' => simple(b'\t'),
        b'v' => simple(11),
        b'0'..=b'7' => {
            let octal = digits(at + 1, 3, 8);
            Ok((number(&octal, 8), at + 1 + octal.len()))
        }
        b'x' => {
            let hex = digits(at + 2, 2, 16);
            if hex.is_empty() {
                return simple(b'x');
            }
            Ok((number(&hex, 16), at + 2 + hex.len()))
        }
        other => simple(other),
    }
}

/// Decodes lines into the images of a batch; its buffers are used again for each line.
#[derive(Debug, Default)]
pub struct Decoder {
    side: Vec<u8>,
    fields: Vec<Field>,
}

impl Decoder {
    /// Adds the image of a line (without its newline) with `columns` fields to `batch`.
    /// The line becomes a segment of it; escaped values share one more.
    ///
    /// # Errors
    /// The line is no row of so many columns; the batch is as it was.
    pub fn image(
        &mut self,
        batch: &mut Batch,
        line: Bytes,
        columns: usize,
    ) -> Result<Image, CopyError> {
        self.side.clear();
        self.fields.clear();
        if u32::try_from(line.len()).is_err() {
            return Err(CopyError::TooLong { bytes: line.len() });
        }
        // A relation without columns has rows all the same: empty lines.
        if columns > 0 || !line.is_empty() {
            fields(&line, &mut self.side, &mut self.fields)?;
        }
        if self.fields.len() != columns {
            return Err(CopyError::FieldCount { found: self.fields.len(), expected: columns });
        }
        let plain = batch.push_segment(line);
        let unescaped = match self.side.as_slice() {
            [] => plain,
            side => batch.push_segment(Bytes::copy_from_slice(side)),
        };
        Ok(batch.push_image(self.fields.drain(..).map(|field| match field {
            Field::Null => Cell::Null,
            Field::Plain(range) => Cell::Text(span(plain, &range)),
            Field::Unescaped(range) => Cell::Text(span(unescaped, &range)),
        })))
    }
}

/// Ranges lie within lines, and those are checked to be addressable.
fn span(segment: u32, range: &Range<usize>) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span { segment, start: number(range.start), len: number(range.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(line: &[u8]) -> Result<Vec<Option<Vec<u8>>>, CopyError> {
        let (mut side, mut found) = (Vec::new(), Vec::new());
        fields(line, &mut side, &mut found)?;
        let value = |field| match field {
            Field::Null => None,
            Field::Plain(range) => Some(line[range].to_vec()),
            Field::Unescaped(range) => Some(side[range].to_vec()),
        };
        Ok(found.into_iter().map(value).collect())
    }

    /// What the server's `CopyAttributeOutText` writes.
    fn encode(values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let field = |value: &Option<Vec<u8>>| match value {
            None => b"\\N".to_vec(),
            Some(bytes) => bytes.iter().fold(Vec::new(), |mut out, &byte| {
                match byte {
                    8 => out.extend(b"\\b"),
                    12 => out.extend(b"\\f"),
                    b'\n' => out.extend(b"\\n"),
                    b'\r' => out.extend(b"\\r"),
                    b'\t' => out.extend(b"\\t"),
                    11 => out.extend(b"\\v"),
                    b'\\' => out.extend(b"\\\\"),
                    other => out.push(other),
                }
                out
            }),
        };
        values.iter().map(field).collect::<Vec<_>>().join(&b'\t')
    }

    fn text(s: &str) -> Option<Vec<u8>> {
        Some(s.as_bytes().to_vec())
    }

    #[test]
    fn the_nasty_rows() {
        let cases: [(&str, Vec<Option<Vec<u8>>>); 12] = [
            ("", vec![text("")]),
            ("\\N", vec![None]),
            ("\\N\t\t\\N", vec![None, text(""), None]),
            ("\\\\N", vec![text("\\N")]),
            ("a\\N", vec![text("aN")]),
            ("\\Na", vec![text("Na")]),
            ("--\t\\\\.", vec![text("--"), text("\\.")]),
            ("a\\tb\tc\\nd", vec![text("a\tb"), text("c\nd")]),
            ("\\\\t", vec![text("\\t")]),
            ("\\101\\x42\\x\\x4", vec![text("ABx\u{4}")]),
            ("\\60x\\7", vec![text("0x\u{7}")]),
            ("\\b\\f\\r\\v\\q", vec![text("\u{8}\u{c}\r\u{b}q")]),
        ];
        for (line, expected) in cases {
            assert_eq!(decode(line.as_bytes()).unwrap(), expected, "{line:?}");
        }
        assert_eq!(decode(b"a\tb\\"), Err(CopyError::LoneBackslash { at: 3 }));
    }

    #[test]
    fn a_wrong_count_leaves_the_batch_as_it_was() {
        let mut batch = Batch::default();
        let mut decoder = Decoder::default();
        for (line, columns, found) in [("a\tb", 1, 2), ("a", 2, 1), ("", 2, 1), ("a", 0, 1)] {
            let error = decoder.image(&mut batch, Bytes::copy_from_slice(line.as_bytes()), columns);
            assert_eq!(error, Err(CopyError::FieldCount { found, expected: columns }));
        }
        assert_eq!(batch.weight(), 0);
        assert_eq!(decoder.image(&mut batch, Bytes::new(), 0).unwrap().len, 0);
    }

    proptest! {
        #[test]
        fn what_the_server_writes_comes_back(
            rows in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12)), 1..5), 1..6),
        ) {
            let mut batch = Batch::default();
            let mut decoder = Decoder::default();
            for row in &rows {
                let line = encode(row);
                prop_assert!(!line.contains(&b'\n'));
                prop_assert_eq!(&decode(&line).unwrap(), row);
                let image = decoder.image(&mut batch, line.into(), row.len()).unwrap();
                let cells = batch.cells(image);
                let found: Vec<_> = cells.iter().map(|c| batch.text(*c).map(<[u8]>::to_vec)).collect();
                prop_assert_eq!(&found, row);
            }
        }

        #[test]
        fn any_bytes_are_a_row_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(values) = decode(&line) {
                prop_assert_eq!(values.len(), line.iter().filter(|b| **b == b'\t').count() + 1
                    - escaped_tabs(&line));
            }
        }
    }

    /// A backslash also takes away the meaning of a raw tab behind it.
    fn escaped_tabs(line: &[u8]) -> usize {
        let (mut at, mut count) = (0, 0);
        while at < line.len() {
            if line[at] == b'\\' {
                count += usize::from(line.get(at + 1) == Some(&b'\t'));
                at += 2;
            } else {
                at += 1;
            }
        }
        count
    }
}
