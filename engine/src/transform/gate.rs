//! The gate for words: what a guest says after it has seen a row is row data, until it
//! proves to be text of the `.wasm` itself. `&email[..4]` panics with the whole e-mail.
//!
//! Nothing can go wrong but a text held back that was harmless.

/// Below this many bytes a text could stand in the file by chance (a word of a
/// dictionary, a country, a digit) and be a value all the same.
const SHORTEST: usize = 8;
/// Nothing longer is printed.
const LONGEST: usize = 1024;

/// `text` if it stands verbatim in `wasm`, else how much was withheld.
pub(super) fn pass(wasm: &[u8], text: &[u8]) -> String {
    let known = (SHORTEST..=LONGEST).contains(&text.len()) && contains(wasm, text);
    match std::str::from_utf8(text) {
        Ok(text) if known => printable(text),
        _ => format!("«{} bytes withheld»", text.len()),
    }
}

/// Text of a guest that has seen no row, or a name that it gives: shown, in printable form
/// and bounded.
pub(super) fn harmless(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST);
    printable(&text[..end])
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut at = haystack;
    while let Some(i) = at.iter().position(|b| b == first) {
        at = &at[i + 1..];
        if at.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_the_file_passes() {
        let wasm = b"\0asm....explicit panic...ada..smith";
        assert_eq!(pass(wasm, b"explicit panic"), "explicit panic");
        assert_eq!(pass(wasm, b"ada@lovelace.org"), "«16 bytes withheld»");
        assert_eq!(pass(wasm, b"smith"), "«5 bytes withheld»", "a word of a dictionary");
        assert_eq!(pass(wasm, b""), "«0 bytes withheld»");
        assert_eq!(harmless("a\nb"), "a b");
        assert_eq!(harmless(&"é".repeat(1000)).len(), 1024);
    }
}
