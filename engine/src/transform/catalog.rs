//! What is known of the source's tables when rules are checked. Plain data: whoever has a
//! connection fills it. Nothing can go wrong here.

use std::sync::Arc;

use kasho_plugin_sdk::Relation;

/// The published tables and how they refer to one another.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Every published table.
    pub relations: Vec<Arc<Relation>>,
    /// Foreign keys between them, as in `pg_constraint` (PostgreSQL manual, 53.13).
    pub foreign_keys: Vec<ForeignKey>,
    /// The stream has reached this catalogue: what it lacks does not exist. While the
    /// stream lags behind, the catalogue is its future, and a rule for a table that has
    /// been renamed since is right; mismatches then are warnings, and the stream's own
    /// relation messages decide.
    pub caught_up: bool,
}

impl Catalog {
    /// The table called `schema.table`.
    #[must_use]
    pub fn relation(&self, schema: &str, table: &str) -> Option<&Arc<Relation>> {
        self.relations.iter().find(|r| r.schema == schema && r.table == table)
    }
}

/// One foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// Name of the constraint.
    pub name: String,
    /// Schema and name of the referencing table.
    pub table: (String, String),
    /// Referencing columns.
    pub columns: Vec<String>,
    /// Schema and name of the referenced table.
    pub referenced: (String, String),
    /// Referenced columns, in the order of `columns`.
    pub referenced_columns: Vec<String>,
}
