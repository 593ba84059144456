//! Reads one row of the source as it is now, by its key: for a row that was set aside and
//! is to be published after all. When, and why that is right: [`super::super::retries`].
//!
//! What can go wrong: the table is not published any more, or has another shape than the
//! stream knows; somebody writes to it for too long; PostgreSQL does not answer. Each is
//! told to whoever asked, without a value of the row, and the stream goes on. It waits for
//! every row, so connection and catalogue stay from one to the next, as long as a stamp of
//! what the catalogue says of the row's table is what it was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kasho_plugin_sdk::Relation;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::catalog::{Catalog, ConstraintKind, Table};
use super::super::conninfo::{Conninfo, sql_connect};
use super::super::error::SourceError;
use super::super::retries::Again;
use crate::quote::{identifier, literal};

/// As the server's lists show the session.
const APP_NAME: &str = "kasho retry";

/// The stream waits no longer than this for a row.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whoever has written to the table has so long to end.
const WRITERS: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
/// A connection that is not used for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The catalogue is read again after so long, whatever its stamps say.
const FRESH: Duration = Duration::from_secs(10);

/// Where rows are read.
#[derive(Clone)]
pub(super) struct Rereader {
    info: Conninfo,
    publications: Vec<String>,
    /// From the row before.
    kept: Arc<Mutex<Option<Kept>>>,
}

/// What stays from one row to the next.
struct Kept {
    client: Client,
    /// Publications of whole schemas are known to this server.
    by_schema: bool,
    catalog: Catalog,
    read: Instant,
    /// What the catalogue said of one relation, just before it was read.
    stamp: (u32, String),
    used: Instant,
}

/// A row as it was found.
pub(super) struct Row {
    /// Its table, as the catalogue describes it.
    pub(super) relation: Arc<Relation>,
    /// Its values, one a column; none if there is no such row.
    pub(super) values: Option<Vec<Option<String>>>,
}

impl Rereader {
    pub(super) fn new(info: Conninfo, publications: Vec<String>) -> Rereader {
        Rereader { info, publications, kept: Arc::default() }
    }

    /// Looks for the row; `stream` is its table as the stream described it last.
    ///
    /// # Errors
    /// In words for an operator.
    pub(super) async fn read(
        self,
        again: Arc<Again>,
        stream: Option<Arc<Relation>>,
    ) -> Result<Row, String> {
        let read = self.look(&again, stream.as_deref());
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(read) => read,
            Err(_) => Err(format!("PostgreSQL did not answer within {PATIENCE:?}")),
        }
    }

    async fn look(&self, again: &Again, stream: Option<&Relation>) -> Result<Row, String> {
        let kept = self.current(again.oid).await?;
        let row = look(&kept, again, stream).await?;
        self.keep(kept);
        Ok(row)
    }

    /// A connection, and what the catalogue says of this relation now.
    async fn current(&self, oid: u32) -> Result<Kept, String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One that has broken meanwhile is as good as none.
        if let Some(kept) = kept
            && let Ok(now) = stamp(&kept.client, kept.by_schema, oid).await
        {
            let stamp = (oid, now);
            if kept.stamp == stamp && kept.read.elapsed() < FRESH {
                return Ok(kept);
            }
            return self.anew(kept.client, kept.by_schema, stamp).await;
        }
        let client = sql_connect(&self.info, APP_NAME).await.map_err(|e| e.to_string())?;
        let by_schema = publishes_schemas(&client).await?;
        let now = stamp(&client, by_schema, oid).await?;
        self.anew(client, by_schema, (oid, now)).await
    }

    /// Reads the catalogue, behind the stamp.
    async fn anew(
        &self,
        client: Client,
        by_schema: bool,
        stamp: (u32, String),
    ) -> Result<Kept, String> {
        let catalog = self.catalog(&client).await?;
        let read = Instant::now();
        Ok(Kept { client, by_schema, catalog, read, stamp, used: read })
    }

    async fn catalog(&self, client: &Client) -> Result<Catalog, String> {
        Catalog::read(client, &self.publications).await.map_err(|e| e.to_string())
    }

    /// Keeps it for the next row, if that comes soon.
    fn keep(&self, kept: Kept) {
        let used = Instant::now();
        let mut place = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(Kept { used, ..kept });
        let place = Arc::downgrade(&self.kept);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            let Some(place) = place.upgrade() else { return };
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            drop(place.take_if(|kept| kept.used == used));
        });
    }
}

async fn look(kept: &Kept, again: &Again, stream: Option<&Relation>) -> Result<Row, String> {
    let Kept { client, catalog, .. } = kept;
    let relation = catalog.relation(again.oid).ok_or(
        "its table is not published any more: nobody waits for the row (`kasho dead forget`)",
    )?;
    if stream.is_some_and(|stream| !same_shape(stream, relation)) {
        return Err(format!(
            "{} was altered, and the stream has not come that far: try again when it has",
            relation.qualified()
        ));
    }
    let tables: Vec<&Table> =
        catalog.tables.iter().filter(|table| table.relation == again.oid).collect();
    writers_end(client, &tables).await?;
    let relation = Arc::clone(relation);
    let values = one(client, &tables, &relation, &key(catalog, again)?).await?;
    Ok(Row { relation, values })
}

async fn publishes_schemas(client: &Client) -> Result<bool, String> {
    let sql = "SELECT pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL";
    let row = client.query_one(sql, &[]).await;
    Ok(row.map_err(|e| refused("looking at its version", &e))?.get(0))
}

/// What tells one state of a relation, its partitions, and what publishes them from another:
/// which versions of the catalogue's rows describe them.
async fn stamp(client: &Client, by_schema: bool, oid: u32) -> Result<String, String> {
    const STAMP_SQL: &str = "WITH RECURSIVE tree(oid) AS ( \
            SELECT $1::oid UNION \
            SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid), \
        rows(what) AS ( \
            SELECT 'class ' || c.oid || ' ' || c.xmin || ' ' || c.relfilenode \
              FROM pg_catalog.pg_class c JOIN tree USING (oid) UNION ALL \
            SELECT 'column ' || a.attrelid || ' ' || a.attnum || ' ' || a.xmin \
              FROM pg_catalog.pg_attribute a JOIN tree ON a.attrelid = tree.oid UNION ALL \
            SELECT 'constraint ' || c.oid || ' ' || c.xmin \
              FROM pg_catalog.pg_constraint c JOIN tree ON c.conrelid = tree.oid UNION ALL \
            SELECT 'index ' || i.indexrelid || ' ' || i.xmin \
              FROM pg_catalog.pg_index i JOIN tree ON i.indrelid = tree.oid UNION ALL \
            SELECT 'schema ' || n.oid || ' ' || n.xmin FROM pg_catalog.pg_namespace n UNION ALL \
            SELECT 'publication ' || p.oid || ' ' || p.xmin \
              FROM pg_catalog.pg_publication p UNION ALL \
            SELECT 'published ' || r.oid || ' ' || r.xmin \
              FROM pg_catalog.pg_publication_rel r";
    const SCHEMAS_SQL: &str = " UNION ALL SELECT 'schema published ' || s.oid || ' ' || s.xmin \
              FROM pg_catalog.pg_publication_namespace s";
    const DIGEST_SQL: &str =
        ") SELECT pg_catalog.md5(pg_catalog.string_agg(what, ',' ORDER BY what)) FROM rows";
    let schemas = if by_schema { SCHEMAS_SQL } else { "" };
    let sql = [STAMP_SQL, schemas, DIGEST_SQL].concat();
    let row = client.query_one(&sql, &[&oid]).await;
    Ok(row.map_err(|e| refused("looking at its table", &e))?.get(0))
}

/// What names and types of columns say; the stream's own description is not held against
/// what only the catalogue knows.
fn same_shape(stream: &Relation, now: &Relation) -> bool {
    let columns =
        |r: &Relation| r.columns.iter().map(|c| (c.name.clone(), c.oid)).collect::<Vec<_>>();
    stream.qualified() == now.qualified() && columns(stream) == columns(now)
}

/// The columns to look by, with their values: of a letter that knows more than the primary
/// key, that alone, for the others may have changed since.
fn key(catalog: &Catalog, again: &Again) -> Result<Vec<(String, Option<String>)>, String> {
    let primary = catalog
        .constraints
        .iter()
        .find(|c| c.kind == ConstraintKind::PrimaryKey && c.relation == again.oid)
        .filter(|c| c.columns.iter().all(|column| again.columns.contains(column)));
    let known = again.columns.iter().zip(&again.values);
    let key = known
        .filter(|(column, _)| primary.is_none_or(|primary| primary.columns.contains(column)))
        .map(|(column, value)| (column.clone(), value.clone()));
    let key: Vec<_> = key.collect();
    let relation = catalog.relation(again.oid);
    let lacks = |(column, _): &&(String, _)| relation.is_none_or(|r| r.column(column).is_none());
    match key.iter().find(lacks) {
        None if !key.is_empty() => Ok(key),
        None => Err("the letter does not say which row it is".to_owned()),
        Some((column, _)) => Err(format!("its key column {column} is not there any more")),
    }
}

/// Waits until whoever has written to these tables by now has ended: of a transaction that
/// stands in the log and is not visible yet, the locks still stand.
async fn writers_end(client: &Client, tables: &[&Table]) -> Result<(), String> {
    const WRITERS_SQL: &str = "SELECT DISTINCT l.virtualtransaction \
        FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
        WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY($1) \
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
          AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                         'AccessExclusiveLock') \
          AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
          AND a.state IS DISTINCT FROM 'idle in transaction'";
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let (begun, mut waited): (_, Option<Vec<String>>) = (Instant::now(), None);
    loop {
        let rows = client.query(WRITERS_SQL, &[&oids]).await;
        let rows = rows.map_err(|e| refused("looking who writes to its table", &e))?;
        let mut now: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if let Some(before) = &waited {
            // Whoever came later commits behind the message.
            now.retain(|writer| before.contains(writer));
        }
        if now.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > WRITERS {
            return Err("a transaction that has written to its table has not ended: try again \
                        when it has"
                .to_owned());
        }
        waited = Some(now);
        tokio::time::sleep(PAUSE).await;
    }
}

/// The one row with this key, of all tables that hold the relation's rows.
async fn one(
    client: &Client,
    tables: &[&Table],
    relation: &Relation,
    key: &[(String, Option<String>)],
) -> Result<Option<Vec<Option<String>>>, String> {
    // All partitions at one moment: a row may be on its way from one to another.
    let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.map_err(|e| refused("reading it", &e))?;
    let mut found = None;
    for table in tables {
        let messages = client.simple_query(&select(table, relation, key)).await;
        for message in messages.map_err(|e| refused("reading it", &e))? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let values = (0..relation.columns.len()).map(|at| row.get(at).map(str::to_owned));
            if found.replace(values.collect()).is_some() {
                return Err("its key finds more than one row".to_owned());
            }
        }
    }
    client.batch_execute("COMMIT").await.map_err(|e| refused("reading it", &e))?;
    Ok(found)
}

fn select(table: &Table, relation: &Relation, key: &[(String, Option<String>)]) -> String {
    let columns: Vec<String> = relation.columns.iter().map(|c| identifier(&c.name)).collect();
    let is = |(column, value): &(String, Option<String>)| match value {
        Some(value) => format!("{} = {}", identifier(column), literal(value)),
        None => format!("{} IS NULL", identifier(column)),
    };
    let mut conditions: Vec<String> = key.iter().map(is).collect();
    conditions.extend(table.filter.as_ref().map(|filter| format!("({filter})")));
    format!(
        "SELECT {} FROM ONLY {}.{} WHERE {} LIMIT 2",
        columns.join(", "),
        identifier(&table.schema),
        identifier(&table.table),
        conditions.join(" AND "),
    )
}

/// The server's words may quote the key: only its code is told.
fn refused(doing: &str, error: &tokio_postgres::Error) -> String {
    match SourceError::sql(doing, error).sqlstate() {
        Some(code) => format!("PostgreSQL refused ({doing}, SQLSTATE {code})"),
        None => format!("the connection to PostgreSQL failed ({doing})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_quotes_whatever_the_key_holds() {
        let table = Table {
            oid: 1,
            schema: "public".into(),
            table: "o\"dd".into(),
            relation: 1,
            filenode: 1,
            filter: Some("id > 3".into()),
            columns: vec![],
            all_columns: vec![],
            rows_estimated: 1,
            bytes: 0,
            bytes_toasted: 0,
        };
        let column = |name: &str| kasho_plugin_sdk::Column {
            name: name.into(),
            ..crate::batch::ddl_relation().columns[0].clone()
        };
        let columns = vec![column("id"), column("x y")];
        let relation = Relation { columns, ..Relation::clone(&crate::batch::ddl_relation()) };
        let key = [("id".to_owned(), Some("a'; DROP".to_owned())), ("x y".to_owned(), None)];
        assert_eq!(
            select(&table, &relation, &key),
            "SELECT \"id\", \"x y\" FROM ONLY \"public\".\"o\"\"dd\" WHERE \"id\" = 'a''; DROP' AND \
             \"x y\" IS NULL AND (id > 3) LIMIT 2"
        );
    }
}
