//! Names and texts inside of a statement. Pure.
//!
//! Everything that is built into SQL goes through here, whichever station builds it: a name
//! with a quote in it would otherwise end the statement, or be another one. Texts count on
//! `standard_conforming_strings`, which every session of ours pins.

/// `"name"`: an identifier, always in double quotes; no word is reserved then.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`: a string constant.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_break_out() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(identifier("select"), "\"select\"");
        assert_eq!(literal("it's \\"), "'it''s \\'");
    }
}
