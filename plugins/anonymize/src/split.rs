//! Values that hold values: what is to be rewritten in them, and everything else kept byte
//! for byte.
//!
//! A value is split into edits of byte ranges, and joined again when what takes their place
//! is known. A text that is not of its type is a row's error.

mod array;
mod json;

pub(crate) use array::array;
pub(crate) use json::json;

use std::borrow::Cow;
use std::ops::Range;

use kasho_plugin_sdk::{Out, Patched};

/// How a new text stands in the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As it is.
    Plain,
    /// An element of an array.
    Element,
    /// A JSON string.
    String,
    /// A JSON number, true or false: as it is if it can be, else a string.
    Literal,
}

/// What takes the place of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum With<'v> {
    /// This text.
    Text(&'static str),
    /// What a rule makes of a text.
    Made {
        /// Which of the rules.
        rule: usize,
        /// Which of that rule's texts; set when all of them are known.
        at: usize,
        /// The text.
        text: Cow<'v, str>,
        /// How the new one is written.
        style: Style,
    },
}

/// A range of a value and what takes its place. Ranges rise and do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit<'v> {
    /// Bytes of the value.
    pub(crate) range: Range<usize>,
    /// What takes their place.
    pub(crate) with: With<'v>,
}

/// The value itself, as one piece.
pub(crate) fn whole(value: &str) -> Vec<Edit<'_>> {
    let with = With::Made { rule: 0, at: 0, text: value.into(), style: Style::Plain };
    vec![Edit { range: 0..value.len(), with }]
}

/// Writes a value with its edits; `make` writes what a rule makes of its text of a number.
pub(crate) fn join(
    value: &str,
    edits: &[Edit<'_>],
    out: &mut Out<'_>,
    mut make: impl FnMut((usize, usize), &str, &mut Out<'_>) -> Patched,
) -> Patched {
    let mut scratch = kasho_plugin_sdk::Scratch::default();
    let mut done = 0;
    for Edit { range, with } in edits {
        out.push_str(value.get(done..range.start).unwrap_or_default());
        done = range.end;
        let (rule, text, style) = match with {
            With::Text(text) => {
                out.push_str(text);
                continue;
            }
            With::Made { rule, at, text, style } => ((*rule, *at), text, *style),
        };
        if style == Style::Plain {
            match make(rule, text, out) {
                Patched::Written => continue,
                other => return other,
            }
        }
        scratch.clear();
        match make(rule, text, &mut scratch.out()) {
            Patched::Written => write(scratch.as_str(), style, out),
            Patched::Null if style == Style::Element => out.push_str("NULL"),
            Patched::Null => out.push_str("null"),
            Patched::Same => write(text, style, out),
            error @ Patched::Error(_) => return error,
        }
    }
    out.push_str(value.get(done..).unwrap_or_default());
    Patched::Written
}

fn write(text: &str, style: Style, out: &mut Out<'_>) {
    match style {
        Style::Plain => out.push_str(text),
        Style::Element => array::element(text, out),
        Style::Literal if json::is_literal(text) => out.push_str(text),
        Style::String | Style::Literal => json::string(text, out),
    }
}

#[cfg(test)]
mod tests;
