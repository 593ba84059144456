//! What a dump held: figures by table, and what was left out.

use std::collections::BTreeMap;

/// How much of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCount {
    /// Rows.
    pub rows: u64,
    /// Bytes of the text they stood in.
    pub bytes: u64,
}

/// A kind of statements that was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Leading key words.
    pub kind: String,
    /// Line of the first one.
    pub line: u64,
    /// How many there were.
    pub count: u64,
}

/// What was found. Tables go by `schema.table`, quoted where SQL needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Handed out.
    pub tables: BTreeMap<String, TableCount>,
    /// Left out, because no publication carries them.
    pub skipped: BTreeMap<String, TableCount>,
    /// Left out beyond [`super::Options::max_rows`].
    pub beyond_limit: BTreeMap<String, TableCount>,
    /// Statements that were passed over by policy.
    pub unknown: Vec<Unknown>,
    /// States of sequences.
    pub sequences: u64,
    /// Large objects that were passed over by policy.
    pub large_objects: u64,
    /// Statements of the schema.
    pub schema_statements: u64,
}

impl Report {
    /// Counts one more statement of that kind.
    pub(super) fn unknown(&mut self, kind: &str, line: u64, count: u64) {
        match self.unknown.iter_mut().find(|known| known.kind == kind) {
            Some(known) => known.count += count,
            None => self.unknown.push(Unknown { kind: kind.to_owned(), line, count }),
        }
    }

    /// Adds what another reader of the same dump found.
    pub(super) fn add(&mut self, other: &Report) {
        let pairs = [
            (&mut self.tables, &other.tables),
            (&mut self.skipped, &other.skipped),
            (&mut self.beyond_limit, &other.beyond_limit),
        ];
        for (ours, theirs) in pairs {
            for (table, count) in theirs {
                add(ours, table, count.rows, count.bytes);
            }
        }
        for Unknown { kind, line, count } in &other.unknown {
            self.unknown(kind, *line, *count);
        }
        self.sequences += other.sequences;
        self.large_objects += other.large_objects;
        self.schema_statements += other.schema_statements;
    }
}

/// Adds to the figures of `table`.
pub(super) fn add(to: &mut BTreeMap<String, TableCount>, table: &str, rows: u64, bytes: u64) {
    // Most of the time the table is there already.
    match to.get_mut(table) {
        Some(count) => {
            count.rows += rows;
            count.bytes += bytes;
        }
        None => {
            to.insert(table.to_owned(), TableCount { rows, bytes });
        }
    }
}
