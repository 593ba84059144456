//! Primary, unique and foreign keys of the published relations.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::types::Oid;

use crate::source::error::SourceError;

/// What a constraint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintKind {
    /// PRIMARY KEY.
    PrimaryKey,
    /// UNIQUE.
    Unique,
    /// FOREIGN KEY.
    ForeignKey,
}

/// A key of a published relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// Its name.
    pub name: String,
    /// What it says.
    pub kind: ConstraintKind,
    /// `pg_class.oid` of its relation.
    pub relation: u32,
    /// Its columns, in its order.
    pub columns: Vec<String>,
    /// `pg_class.oid` of the relation that a foreign key refers to; 0 otherwise.
    pub references: u32,
    /// Schema of that relation, unquoted; empty otherwise.
    pub references_schema: String,
    /// Its name, unquoted.
    pub references_table: String,
    /// The columns there, one for each of `columns`.
    pub references_columns: Vec<String>,
}

const CONSTRAINTS: &str = "SELECT k.conname, k.contype, k.conrelid, \
     array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS x (attnum, n) \
           JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.attnum ORDER BY x.n), \
     k.confrelid, coalesce(n.nspname::text, ''), coalesce(f.relname::text, ''), \
     array(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS x (attnum, n) \
           JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.attnum ORDER BY x.n) \
     FROM pg_constraint k LEFT JOIN pg_class f ON f.oid = k.confrelid \
     LEFT JOIN pg_namespace n ON n.oid = f.relnamespace \
     WHERE k.conrelid = ANY($1) AND k.contype IN ('p', 'u', 'f') ORDER BY k.conrelid, k.conname";

pub(super) async fn read(client: &Client, oids: &[Oid]) -> Result<Vec<Constraint>, SourceError> {
    let rows = client
        .query(CONSTRAINTS, &[&oids])
        .await
        .map_err(|error| SourceError::sql("reading the keys of published tables", &error))?;
    let constraint = |row: &tokio_postgres::Row| Constraint {
        name: row.get(0),
        kind: match u8::try_from(row.get::<_, i8>(1)).unwrap_or(0) {
            b'p' => ConstraintKind::PrimaryKey,
            b'u' => ConstraintKind::Unique,
            _ => ConstraintKind::ForeignKey,
        },
        relation: row.get(2),
        columns: row.get(3),
        references: row.get(4),
        references_schema: row.get(5),
        references_table: row.get(6),
        references_columns: row.get(7),
    };
    Ok(rows.iter().map(constraint).collect())
}
