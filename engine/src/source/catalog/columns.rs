//! Columns and their types, described as the stream describes them: only those that are
//! published, in the order of their attribute numbers.

use std::collections::BTreeMap;

use kasho_plugin_sdk::{Column, Identity, Relation};
use tokio_postgres::types::Oid;
use tokio_postgres::{Client, Row};

use crate::source::catalog::publications::Published;
use crate::source::catalog::{TableColumn, identity};
use crate::source::error::SourceError;

/// A type, as far as columns need it.
struct Type {
    name: String,
    /// The type beneath, if this is a domain.
    beneath: Option<Oid>,
    not_null: bool,
    /// The element type, if this is an array.
    element: Option<Oid>,
    /// The labels, if this is an enum.
    labels: Option<Vec<String>>,
}

const RELATIONS: &str = "SELECT c.oid, n.nspname, c.relname, c.relreplident \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid = ANY($1) ORDER BY c.oid";

/// `key` and `told`: part of the identity index, part of a unique index. What an index's
/// expressions read stands in `pg_depend`; values that become equal there collide too.
const COLUMNS: &str = "SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, a.attnotnull, \
     a.attlen = -1 AND a.attstorage <> 'p', a.attgenerated <> '', \
     EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid \
             AND (a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                  OR i.indexprs IS NOT NULL AND EXISTS (SELECT FROM pg_depend d \
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid \
                     AND d.refobjsubid = a.attnum))) AS told, \
     EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
             WHERE i.indrelid = a.attrelid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
             AND CASE c.relreplident \
             WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) AS key \
     FROM pg_attribute a WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped \
     ORDER BY a.attrelid, a.attnum";

const TYPES: &str = "WITH RECURSIVE need (oid) AS ( \
     SELECT DISTINCT atttypid FROM pg_attribute \
     WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped UNION \
     SELECT beneath.oid FROM need JOIN pg_type t ON t.oid = need.oid \
     CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) beneath (oid) \
     WHERE beneath.oid <> 0) \
     SELECT t.oid, t.typname, CASE WHEN t.typtype = 'd' THEN t.typbasetype END, t.typnotnull, \
     CASE WHEN t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0 \
          THEN t.typelem END, \
     CASE WHEN t.typtype = 'e' THEN array(SELECT e.enumlabel::text FROM pg_enum e \
          WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) END \
     FROM need JOIN pg_type t ON t.oid = need.oid";

/// The published relations, described as on the stream; all of version 1.
pub(super) async fn relations(
    client: &Client,
    published: &BTreeMap<Oid, Published>,
) -> Result<Vec<Relation>, SourceError> {
    let doing = "reading the columns of published tables";
    let sql = |error| SourceError::sql(doing, &error);
    let oids: Vec<Oid> = published.keys().copied().collect();
    let types = types(client, &oids).await?;
    let columns = client.query(COLUMNS, &[&oids]).await.map_err(sql)?;
    let rows = client.query(RELATIONS, &[&oids]).await.map_err(sql)?;
    let relation = |row: &Row| {
        let id: Oid = row.get(0);
        let identity = identity(row.get(3));
        let list = published.get(&id).and_then(|published| published.columns.as_ref());
        let carried = |row: &&Row| match list {
            Some(list) => list.iter().any(|name| name == row.get::<_, &str>(1)),
            None => !row.get::<_, bool>(6),
        };
        let own = columns.iter().filter(|row| row.get::<_, Oid>(0) == id).filter(carried);
        Relation {
            id,
            version: 1,
            schema: row.get(1),
            table: row.get(2),
            identity,
            columns: own.map(|row| column(row, identity, &types)).collect(),
        }
    };
    Ok(rows.iter().map(relation).collect())
}

fn column(row: &Row, identity: Identity, types: &BTreeMap<Oid, Type>) -> Column {
    let oid: Oid = row.get(2);
    let (base, not_null) = beneath(oid, types);
    let name = |oid: Oid| types.get(&oid).map_or_else(String::new, |found| found.name.clone());
    let base_type = types.get(&base);
    Column {
        name: row.get(1),
        type_name: name(oid),
        oid,
        base: name(base),
        typmod: row.get(3),
        key: identity == Identity::Full || row.get(8),
        not_null: not_null || row.get(4),
        unique: row.get(7),
        toastable: row.get(5),
        elem: base_type.and_then(|found| found.element).map(name),
        labels: base_type.and_then(|found| found.labels.clone()),
    }
}

/// The type beneath all domains, and whether one of them is NOT NULL.
fn beneath(mut oid: Oid, types: &BTreeMap<Oid, Type>) -> (Oid, bool) {
    let mut not_null = false;
    while let Some(Type { beneath: Some(next), not_null: here, .. }) = types.get(&oid) {
        not_null |= here;
        oid = *next;
    }
    (oid, not_null)
}

async fn types(client: &Client, oids: &[Oid]) -> Result<BTreeMap<Oid, Type>, SourceError> {
    let rows = client
        .query(TYPES, &[&oids])
        .await
        .map_err(|error| SourceError::sql("reading the types of published columns", &error))?;
    let entry = |row: &Row| {
        let found = Type {
            name: row.get(1),
            beneath: row.get(2),
            not_null: row.get(3),
            element: row.get(4),
            labels: row.get(5),
        };
        (row.get(0), found)
    };
    Ok(rows.iter().map(entry).collect())
}

/// The columns as each table stores them.
pub(super) async fn stored(
    client: &Client,
    oids: &[Oid],
) -> Result<BTreeMap<Oid, Vec<TableColumn>>, SourceError> {
    let rows = client
        .query(
            "SELECT attrelid, attname, atttypid, atttypmod FROM pg_attribute \
             WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped \
             ORDER BY attrelid, attnum",
            &[&oids],
        )
        .await
        .map_err(|error| SourceError::sql("reading the columns of tables", &error))?;
    let mut stored: BTreeMap<Oid, Vec<TableColumn>> = BTreeMap::new();
    for row in rows {
        let column = TableColumn { name: row.get(1), oid: row.get(2), typmod: row.get(3) };
        stored.entry(row.get(0)).or_default().push(column);
    }
    Ok(stored)
}
