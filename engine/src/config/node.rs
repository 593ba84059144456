//! A TOML file as a tree whose every value knows its place. What can go wrong is the
//! syntax; all errors of it are found, not only the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Place, Problem};

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    /// Tells it from every other value of the file.
    pub(super) id: usize,
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// A value.
#[derive(Debug)]
pub(super) enum Kind {
    Text(String),
    /// Text that stands for itself: from a variable of the environment.
    Verbatim(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

impl Node {
    /// The entries, if it is a table.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key, if it is a table and has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }
}

/// Parses a file; what could be parsed, and what could not.
pub(super) fn parse(text: &str) -> (Node, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut build = Build { text, next: 0 };
    let problems = errors.iter().map(|error| {
        let place = error.span().map_or(Place::Nowhere, |span| build.place(&span));
        // Only the message: the whole would show the line, and a password on it.
        Problem { place, key: String::new(), message: error.message().to_owned() }
    });
    let problems = problems.collect();
    let span = table.span();
    let kind = build.table(table.into_inner());
    (build.node(&span, kind), problems)
}

/// A node that is not in the file but in the environment.
pub(super) fn from_env(id: usize, variable: &'static str, text: String) -> Node {
    Node { id, place: Place::Env(variable), kind: Kind::Verbatim(text) }
}

struct Build<'a> {
    text: &'a str,
    next: usize,
}

impl Build<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Place::File { line, column }
    }

    fn node(&mut self, span: &Range<usize>, kind: Kind) -> Node {
        self.next += 1;
        Node { id: self.next, place: self.place(span), kind }
    }

    fn table(&mut self, table: DeTable<'_>) -> Kind {
        let mut entries: Vec<Entry> = Vec::new();
        for (key, value) in table {
            let (place, key) = (self.place(&key.span()), key.into_inner().into_owned());
            entries.push(Entry { key, place, value: self.value(value) });
        }
        entries.sort_by(|a, b| a.place.cmp(&b.place));
        Kind::Table(entries)
    }

    fn value(&mut self, value: Spanned<DeValue<'_>>) -> Node {
        let span = value.span();
        let kind = match value.into_inner() {
            DeValue::String(text) => Kind::Text(text.into_owned()),
            DeValue::Integer(number) => {
                // Digits that are too many even for this are too many for every setting.
                let digits = i128::from_str_radix(number.as_str(), number.radix());
                Kind::Integer(digits.unwrap_or(i128::MAX))
            }
            DeValue::Float(number) => Kind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(yes) => Kind::Boolean(yes),
            DeValue::Datetime(time) => Kind::Text(time.to_string()),
            DeValue::Array(list) => {
                Kind::List(list.into_iter().map(|element| self.value(element)).collect())
            }
            DeValue::Table(table) => self.table(table),
        };
        self.node(&span, kind)
    }
}
