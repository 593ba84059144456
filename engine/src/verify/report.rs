//! What a comparison found. Keys of rows are values of rows: they stand in here for whoever
//! asked, and whoever prints this decides whether anybody but him can read it.

use serde::Serialize;

use super::plan::Skipped;

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is not in the target.
    Missing,
    /// It is not in the source.
    Extra,
    /// It is in both, and differs in what is compared.
    Changed,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How.
    pub kind: Kind,
    /// The key's columns and values; empty for a row of a table without key.
    pub key: Vec<(String, String)>,
    /// Copies of a row of a table without key, or rows with this key if there are several: in
    /// the source, in the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<(u64, u64)>,
    /// The columns that differ, for a changed row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// In the source.
    pub table: String,
    /// In the target.
    pub target: String,
    /// Rows in the source's snapshot.
    pub source_rows: u64,
    /// Rows in the target's snapshot.
    pub target_rows: u64,
    /// Rows whose values were compared.
    pub compared_rows: u64,
    /// Columns that were.
    pub columns: Vec<String>,
    /// Columns that were not.
    pub skipped: Vec<Skipped>,
    /// What names its rows.
    pub key: Vec<String>,
    /// Rules may remove rows of it: those that are there were compared.
    pub filtered: bool,
    /// Why it was not compared at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
    /// It may not leave, and the target has rows of it.
    pub stands: bool,
    /// What the target lacks of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Rows that differ.
    pub differences: Vec<Difference>,
    /// There are more: looking ended.
    pub more: bool,
    /// The numbers of rows differ, and nothing else that was found does, or with `--sample`.
    pub counts_differ: bool,
    /// Rows that differed only while they were changing.
    pub settled: u64,
    /// Rows that never stood still for long enough: nothing is said of them.
    pub unsettled: u64,
    /// So much was changing that looking ended before the table did.
    pub unfinished: bool,
}

impl Table {
    /// Whether source and target differ here.
    #[must_use]
    pub fn differs(&self) -> bool {
        !self.differences.is_empty() || self.lacks.is_some() || self.counts_differ || self.stands
    }
}

/// Where a private value was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leak {
    /// The column whose value it is: `schema.table.column` of the source.
    pub column: String,
    /// Where it stands: `schema.table.column` of the target.
    pub found: String,
    /// The row's key there, or its `ctid`.
    pub row: Vec<(String, String)>,
    /// How it came there.
    pub how: How,
}

/// How a private value comes to be in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A masked column holds its own row's original, which the mask would have replaced.
    Own,
    /// It stands where no rule put it.
    Stray,
    /// The source holds it in another column, too, and that one passes.
    Passes,
}

/// A masked column, as far as leaks can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// `schema.table.column` of the source.
    pub column: String,
    /// Rows of the target that were held against the value of their own row in the source.
    pub own_rows: u64,
    /// Values that were looked for everywhere in the target.
    pub sampled: u64,
    /// Why not, or not all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub undecided: Vec<String>,
}

/// What `--leaks` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leaks {
    /// The masked columns.
    pub columns: Vec<Looked>,
    /// Tables and columns of the target that were searched.
    pub searched: usize,
    /// What was found.
    pub found: Vec<Leak>,
    /// There is more: looking ended.
    pub more: bool,
    /// What may be private, in rows that never stood still for long enough to be judged.
    pub unsettled: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// End of the source's log when it was read.
    pub source_lsn: String,
    /// How far the target was; none if no applier keeps its progress there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_position: Option<String>,
    /// Which rules say what is masked.
    pub rules: String,
    /// Every published table, and those that are not.
    pub tables: Vec<Table>,
    /// With `--leaks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaks: Option<Leaks>,
}

impl Report {
    /// Tables that differ.
    #[must_use]
    pub fn differing(&self) -> usize {
        self.tables.iter().filter(|table| table.differs()).count()
    }

    /// Tables that were compared.
    #[must_use]
    pub fn compared(&self) -> usize {
        let compared = |table: &&Table| table.not_compared.is_none() && table.lacks.is_none();
        self.tables.iter().filter(compared).count()
    }

    /// Tables that could not be compared to their end.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.tables.iter().filter(|table| table.unfinished).count()
    }

    /// What may be private, and could not be judged.
    #[must_use]
    pub fn unjudged(&self) -> u64 {
        self.leaks.as_ref().map_or(0, |leaks| leaks.unsettled)
    }

    /// Private values that were found.
    #[must_use]
    pub fn leaks(&self) -> usize {
        self.leaks.as_ref().map_or(0, |leaks| leaks.found.len())
    }
}
