//! What the publications carry, as the server's catalogue says: tables with the columns
//! that are published, their types, identities, row filters, partitions, constraints.
//!
//! Read from whatever the session's transaction sees, so the same question asked in an
//! old snapshot and now shows what has changed between. What can go wrong: a publication
//! that does not exist, column lists that contradict each other, a role that may not
//! read ([`CatalogError`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kasho_plugin_sdk::event::quote_identifier;
use kasho_plugin_sdk::{Identity, Relation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::types::Oid;

use crate::bootstrap::Definitions;
use crate::error::Class;
use crate::source::error::SourceError;

mod columns;
mod constraints;
mod definitions;
mod publications;
mod shapes;

pub use constraints::{Constraint, ConstraintKind};
pub use publications::names as published_names;
pub use shapes::Shape;

use publications::Published;

/// Raised whenever an older reader of the stored form would misread it.
const VERSION: u32 = 1;

/// Everything that is published; stored as JSON in `{kasho}:catalog`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Version of this form.
    pub version: u32,
    /// `server_version_num`.
    pub server_version: u32,
    /// The publications asked for.
    pub publications: Vec<String>,
    /// Tells one state of the publications themselves from another.
    pub stamp: String,
    /// The relations as their rows are described on the stream.
    pub relations: Vec<Arc<Relation>>,
    /// The tables that hold their rows.
    pub tables: Vec<Table>,
    /// Keys of these relations, for whoever has to keep them consistent.
    pub constraints: Vec<Constraint>,
    /// By OID, the types of columns whose text depends on the settings of whoever prints
    /// it, and where in it.
    #[serde(default, with = "shapes::pairs")]
    pub shapes: BTreeMap<u32, Shape>,
}

/// A table that holds rows: an ordinary one, or a leaf partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema, unquoted.
    pub schema: String,
    /// Table, unquoted.
    pub table: String,
    /// `oid` of the relation that its rows are published as: its own, or its root's.
    pub relation: u32,
    /// `pg_class.relfilenode`: another one after TRUNCATE and every rewrite.
    pub filenode: u32,
    /// The row filter as an SQL expression over its columns.
    pub filter: Option<String>,
    /// What it is made of, as far as reading its rows is concerned.
    pub columns: Vec<TableColumn>,
    /// The names of all its columns in its own order, published or not, generated ones too.
    #[serde(default)]
    pub all_columns: Vec<String>,
    /// Rows by the planner's estimate.
    pub rows_estimated: u64,
    /// Bytes of the heap, which is what ranges are cut of.
    pub bytes: u64,
    /// Bytes of what stands outside of it (TOAST).
    #[serde(default)]
    pub bytes_toasted: u64,
}

/// A column as stored in one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// OID of its type.
    pub oid: u32,
    /// Its type modifier.
    pub typmod: i32,
}

/// The catalogue cannot be read or makes no sense for us.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// PostgreSQL did not answer or refused.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such publication.
    #[error(
        "publication {name:?} does not exist: CREATE PUBLICATION {quoted} FOR TABLE …; or name \
         another one in source.publications",
        quoted = quote_identifier(name)
    )]
    NoPublication {
        /// As configured.
        name: String,
    },
    /// PostgreSQL itself would end the stream at the first row.
    #[error(
        "table {table} has different column lists in the publications {publications}: PostgreSQL \
         cannot stream it; give it the same list in each (ALTER PUBLICATION … SET TABLE)"
    )]
    ColumnLists {
        /// `schema.table`.
        table: String,
        /// Names, separated by commas.
        publications: String,
    },
}

impl CatalogError {
    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            CatalogError::Source(error) => error.class(),
            CatalogError::NoPublication { .. } | CatalogError::ColumnLists { .. } => Class::Halt,
        }
    }
}

impl Catalog {
    /// Reads the catalogue as the session sees it.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn read(client: &Client, publications: &[String]) -> Result<Catalog, CatalogError> {
        let server_version = server_version(client).await?;
        let stamp = publications::stamp(client, publications, server_version).await?;
        let published = publications::read(client, publications, server_version).await?;
        let mut oids: Vec<Oid> = published.keys().copied().collect();
        let leaves = leaves(client, &oids).await?;
        let relations = columns::relations(client, &published).await?;
        let constraints = constraints::read(client, &oids).await?;
        oids.extend(leaves.iter().map(|leaf| leaf.oid));
        let stored = columns::stored(client, &oids).await?;
        let shapes = shapes::read(client, &oids).await?;
        let relations: Vec<_> = relations.into_iter().map(Arc::new).collect();
        let tables = tables(leaves, &published, &relations, stored);
        Ok(Catalog {
            version: VERSION,
            server_version,
            publications: publications.to_vec(),
            stamp,
            relations,
            tables,
            constraints,
            shapes,
        })
    }

    /// The relation with this `oid`.
    #[must_use]
    pub fn relation(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.relations.iter().find(|relation| relation.id == oid)
    }

    /// What the tables of each published name are defined as, as the session sees them.
    ///
    /// # Errors
    /// The server's.
    pub async fn definitions(&self, client: &Client) -> Result<Definitions, SourceError> {
        let oids: Vec<Oid> = self.tables.iter().map(|table| table.oid).collect();
        let mut read = definitions::read(client, &oids).await?;
        let mut all = Definitions::new();
        for table in &self.tables {
            // One that is not there any more is the same as no other.
            let own = read.remove(&table.oid).unwrap_or_else(|| "gone".to_owned());
            all.entry(self.published_as(table)).or_default().insert((table.oid, own));
        }
        Ok(all)
    }

    /// The name that a table's rows carry.
    #[must_use]
    pub fn published_as(&self, table: &Table) -> String {
        self.relation(table.relation).map_or_else(|| table.qualified(), |r| r.qualified())
    }

    /// A digest of everything about a table that its loaded rows depend on: how and where
    /// it is stored, and what its rows are published as.
    #[must_use]
    pub fn shape(&self, table: &Table) -> String {
        let published = self.relation(table.relation).map(|relation| {
            let columns = relation.columns.iter().map(|c| (&c.name, c.oid, c.typmod));
            (relation.qualified(), columns.collect::<Vec<_>>())
        });
        let stored = (table.qualified(), table.filenode, &table.filter, &table.columns);
        let digest = Sha256::digest(format!("{stored:?} {published:?}").as_bytes());
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Tables that are not the same, or not there at all, in `earlier`: reading them at
    /// an earlier snapshot would give rows of another shape, or none. All partitions that
    /// are published as one relation count as one: readers know one load point for it.
    #[must_use]
    pub fn changed_since(&self, earlier: &Catalog) -> BTreeSet<u32> {
        let before: BTreeMap<u32, &Table> =
            earlier.tables.iter().map(|table| (table.oid, table)).collect();
        let same = |table: &Table| {
            before.get(&table.oid).is_some_and(|old| {
                table.same(old) && self.relation(table.relation) == earlier.relation(old.relation)
            })
        };
        let all = self.stamp != earlier.stamp;
        let changed = self.tables.iter().filter(|table| all || !same(table));
        let changed: BTreeSet<u32> = changed.map(|table| table.relation).collect();
        let whole = self.tables.iter().filter(|table| changed.contains(&table.relation));
        whole.map(|table| table.oid).collect()
    }
}

impl Table {
    /// `schema.table`, quoted where SQL needs it.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }

    /// Equal but for its name and the estimates.
    fn same(&self, other: &Table) -> bool {
        (self.filenode, self.relation, &self.filter, &self.columns)
            == (other.filenode, other.relation, &other.filter, &other.columns)
    }
}

/// A leaf as `pg_class` describes it.
struct Leaf {
    oid: Oid,
    root: Oid,
    schema: String,
    table: String,
    filenode: Oid,
    rows: f32,
    bytes: i64,
    toasted: i64,
}

/// The tables that hold the rows of the published relations. A partition that is
/// published by itself and through its root goes by its root's name, as in the stream.
async fn leaves(client: &Client, published: &[Oid]) -> Result<Vec<Leaf>, SourceError> {
    let doing = "reading the partitions of published tables";
    let rows = client
        .query(
            "SELECT DISTINCT ON (c.oid) c.oid, p.oid, n.nspname, c.relname, c.relfilenode, \
                    c.reltuples, pg_relation_size(c.oid), p.relkind = 'p' AS root, \
                    pg_table_size(c.oid) - pg_relation_size(c.oid) \
             FROM pg_class p \
             CROSS JOIN LATERAL (SELECT p.oid AS relid WHERE p.relkind <> 'p' UNION ALL \
                 SELECT relid::oid FROM pg_partition_tree(p.oid) WHERE p.relkind = 'p' AND isleaf) t \
             JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE p.oid = ANY($1) AND c.relkind = 'r' \
             ORDER BY c.oid, (SELECT count(*) FROM pg_partition_ancestors(p.oid))",
            &[&published],
        )
        .await
        .map_err(|error| SourceError::sql(doing, &error))?;
    let leaf = |row: &tokio_postgres::Row| Leaf {
        oid: row.get(0),
        root: row.get(1),
        schema: row.get(2),
        table: row.get(3),
        filenode: row.get(4),
        rows: row.get(5),
        // NULL if the table was dropped a moment ago.
        bytes: row.get::<_, Option<i64>>(6).unwrap_or(0),
        toasted: row.get::<_, Option<i64>>(8).unwrap_or(0),
    };
    Ok(rows.iter().map(leaf).collect())
}

fn tables(
    leaves: Vec<Leaf>,
    published: &BTreeMap<Oid, Published>,
    relations: &[Arc<Relation>],
    mut stored: BTreeMap<Oid, Vec<TableColumn>>,
) -> Vec<Table> {
    let mut tables = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        let Some(relation) = relations.iter().find(|relation| relation.id == leaf.root) else {
            continue;
        };
        let mut columns = stored.remove(&leaf.oid).unwrap_or_default();
        let all_columns = columns.iter().map(|column| column.name.clone()).collect();
        columns.retain(|column| relation.column(&column.name).is_some());
        let bytes = u64::try_from(leaf.bytes).unwrap_or(0);
        tables.push(Table {
            oid: leaf.oid,
            schema: leaf.schema,
            table: leaf.table,
            relation: leaf.root,
            filenode: leaf.filenode,
            filter: published.get(&leaf.root).and_then(|published| published.filter.clone()),
            columns,
            all_columns,
            rows_estimated: rows_estimated(leaf.rows, bytes),
            bytes,
            bytes_toasted: u64::try_from(leaf.toasted).unwrap_or(0),
        });
    }
    tables
}

/// `reltuples` is -1 for a table that was never analysed.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
fn rows_estimated(reltuples: f32, bytes: u64) -> u64 {
    if reltuples < 0.0 { bytes / 100 } else { reltuples as u64 }
}

async fn server_version(client: &Client) -> Result<u32, SourceError> {
    let doing = "asking for the server's version";
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(|error| SourceError::sql(doing, &error))?;
    Ok(u32::try_from(row.get::<_, i32>(0)).unwrap_or(0))
}

/// `pg_class.relreplident`.
fn identity(letter: i8) -> Identity {
    match u8::try_from(letter).unwrap_or(0) {
        b'd' => Identity::Default,
        b'i' => Identity::Index,
        b'f' => Identity::Full,
        _ => Identity::Nothing,
    }
}
