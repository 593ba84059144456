//! Arrays in PostgreSQL's text form (`array_out`): `{a,"b c",NULL,{…}}`, dimensions before
//! `=` if they do not begin at 1.
//!
//! A text that is no such form is a row's error.

use std::borrow::Cow;

use kasho_plugin_sdk::Out;

use super::{Edit, Style, With};

/// The elements of an array but NULL; `None` if it is none.
pub(crate) fn array(value: &str) -> Option<Vec<Edit<'_>>> {
    let bytes = value.as_bytes();
    let mut at = match bytes.first()? {
        b'[' => value.find("={")? + 1,
        _ => 0,
    };
    let (mut edits, mut depth) = (Vec::new(), 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' => {
                depth += 1;
                at += 1;
            }
            b'}' => {
                depth = depth.checked_sub(1)?;
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            b',' if depth > 0 => at += 1,
            _ if depth == 0 => return None,
            b'"' => {
                let (text, end) = quoted(value, at)?;
                edits.push(edit(at..end, text.into()));
                at = end;
            }
            _ => {
                let rest = value.get(at..)?;
                let end = at + rest.find([',', '}', '{', '"']).unwrap_or(rest.len());
                let text = value.get(at..end)?;
                // An element that has a backslash or a space is in quotes.
                if text.contains('\\') {
                    return None;
                }
                if text != "NULL" {
                    edits.push(edit(at..end, text.into()));
                }
                at = end;
            }
        }
    }
    (depth == 0 && at == value.len()).then_some(edits)
}

fn edit(range: std::ops::Range<usize>, text: Cow<'_, str>) -> Edit<'_> {
    Edit { range, with: With::Made { rule: 0, at: 0, text, style: Style::Element } }
}

/// The text in quotes at `at`, and where it ends.
fn quoted(value: &str, at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = value.get(at + 1..)?.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((text, at + 1 + i + 1)),
            '\\' => text.push(chars.next()?.1),
            c => text.push(c),
        }
    }
    None
}

/// Writes an element, in quotes where `array_out` has them.
pub(super) fn element(text: &str, out: &mut Out<'_>) {
    let special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\' | ' ' | '\t'..='\r');
    if !text.is_empty() && !text.contains(special) && !text.eq_ignore_ascii_case("null") {
        return out.push_str(text);
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}
