//! Names and patterns of tables and columns, as rules write them.
//!
//! `public.users.email`, `billing.*.email`, `public."Odd Name".x`: parts stand between
//! dots, `*` is any run of characters, a part in double quotes is taken literally (a
//! quote in it doubled). A pattern that is no pattern is a text that says why.

use std::fmt;

use crate::event::{Relation, quote_identifier};

/// One part of a dotted name.
///
/// ```
/// let parts = kasho_plugin_sdk::pattern::parts("public.user*").unwrap();
/// assert!(!parts[0].is_glob() && parts[1].matches("users"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    text: String,
    glob: bool,
}

impl Part {
    /// Whether it can match more than one name.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        self.glob
    }

    /// The text: a name, or a glob.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if self.glob { glob(self.text.as_bytes(), name.as_bytes()) } else { self.text == name }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.glob { f.write_str(&self.text) } else { f.write_str(&quote_identifier(&self.text)) }
    }
}

/// `*` matches any run of bytes; going back to the last one suffices.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut back) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            back = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((after, from)) = back {
            (p, n) = (after, from + 1);
            back = Some((after, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Splits a dotted name into its parts.
///
/// # Errors
/// What is wrong with it.
pub fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_part(quoted).ok_or_else(|| format!("`{text}`: a quote is not closed"))?
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            (Part { text: name.to_owned(), glob: name.contains('*') }, after)
        };
        if part.text.is_empty() {
            return Err(format!("`{text}`: a part of the name is empty"));
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(format!("`{text}`: after a closing quote comes `.` or the end")),
        }
    }
}

fn quoted_part(quoted: &str) -> Option<(Part, &str)> {
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((Part { text: name, glob: false }, after)),
        }
    }
}

/// `schema.table`, either part possibly a glob.
///
/// ```
/// use kasho_plugin_sdk::{fixture::parse_table, pattern::TablePattern};
///
/// let pattern = TablePattern::parse("billing_*.\"Order\"").unwrap();
/// assert!(pattern.matches(&parse_table("billing_de.\"Order\"(id int8 key)").unwrap()));
/// assert!(pattern.is_glob());
/// assert!(TablePattern::parse("no schema").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TablePattern {
    /// The schema.
    pub schema: Part,
    /// The table.
    pub table: Part,
}

impl TablePattern {
    /// Reads `schema.table`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<TablePattern, String> {
        match <[Part; 2]>::try_from(parts(text)?) {
            Ok([schema, table]) => Ok(TablePattern { schema, table }),
            Err(_) => Err(format!("`{text}`: a table is named schema.table")),
        }
    }

    /// Whether it matches a relation.
    #[must_use]
    pub fn matches(&self, relation: &Relation) -> bool {
        self.schema.matches(&relation.schema) && self.table.matches(&relation.table)
    }

    /// How exactly it names: the more parts are literal, the higher; the table counts most.
    #[must_use]
    pub fn weight(&self) -> u8 {
        u8::from(!self.table.glob) * 2 + u8::from(!self.schema.glob)
    }

    /// Whether it can match more than one table.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        self.schema.glob || self.table.glob
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// `schema.table.column`, any part possibly a glob.
///
/// ```
/// use kasho_plugin_sdk::pattern::ColumnPattern;
///
/// let pattern = ColumnPattern::parse("public.*.email").unwrap();
/// assert!(pattern.table.is_glob() && pattern.column.matches("email"));
/// assert!(pattern.weight() < ColumnPattern::parse("public.users.email").unwrap().weight());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnPattern {
    /// The tables.
    pub table: TablePattern,
    /// The column.
    pub column: Part,
}

impl ColumnPattern {
    /// Reads `schema.table.column`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<ColumnPattern, String> {
        match <[Part; 3]>::try_from(parts(text)?) {
            Ok([schema, table, column]) => {
                Ok(ColumnPattern { table: TablePattern { schema, table }, column })
            }
            Err(_) => Err(format!("`{text}`: a column is named schema.table.column")),
        }
    }

    /// How exactly it names: the more parts are literal, the higher; the column counts most.
    #[must_use]
    pub fn weight(&self) -> u8 {
        u8::from(!self.column.glob) * 4 + self.table.weight()
    }
}

impl fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_globs_match() {
        for (pattern, name, want) in [
            ("users", "users", true),
            ("users", "user", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("*_2024*", "events_2024_01", true),
            ("\"*\"", "x", false),
            ("\"*\"", "*", true),
        ] {
            assert_eq!(parts(pattern).unwrap()[0].matches(name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn quoting_is_sql() {
        let column = ColumnPattern::parse(r#"public."Odd. ""Name""".x"#).unwrap();
        assert_eq!(column.table.table.text(), r#"Odd. "Name""#);
        assert_eq!(column.to_string(), r#"public."Odd. ""Name""".x"#);
        for bad in ["", "a", "a.b", "a..b", "a.b.c.d", "a.\"b.c", "a.\"b\"c.d", "a.b."] {
            assert!(ColumnPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_exact_name_weighs_most() {
        let weight = |text: &str| ColumnPattern::parse(text).unwrap().weight();
        assert!(weight("a.b.c") > weight("*.b.c"));
        assert!(weight("*.*.c") > weight("a.b.*"));
    }
}
