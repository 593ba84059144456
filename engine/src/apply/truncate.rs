//! Tables are emptied: by the source's TRUNCATE, or because they are loaded again.
//!
//! What can go wrong: a foreign key of a table that is not to be emptied. CASCADE would empty
//! what nobody asked for, so that is refused; unless that table is ours too: then the rows
//! it refers to come again.

use std::collections::BTreeMap;
use std::sync::Arc;

use kasho_plugin_sdk::event::quote_identifier;
use tokio_postgres::Client;

use super::error::ApplyError;
use super::progress::At;
use super::table::Table;
use crate::position::EpochPosition;

/// Of each its name, the name of the partitioned table that it is a part of, and how SQL calls
/// it. What is a part of `tables`, or of which they are parts, goes with them.
const REFERRING: &str = "
SELECT n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text,
    pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM (
    SELECT DISTINCT k.conrelid AS oid FROM pg_catalog.pg_constraint k
    WHERE k.contype = 'f' AND (k.confrelid = ANY ($1)
        OR EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(k.confrelid) a WHERE a.relid = ANY ($1)))) k
JOIN pg_catalog.pg_class c ON c.oid = k.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = COALESCE(pg_catalog.pg_partition_root(c.oid), c.oid)
JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
WHERE NOT c.oid = ANY ($1)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a WHERE a.relid = ANY ($1))";

/// What the columns of these tables own: serial columns, and identities.
const SEQUENCES: &str = "
SELECT pg_catalog.format('%I.%I', n.nspname, s.relname)
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
    AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 AND d.refobjid = ANY ($1)";

/// Empties `tables` in the transaction that is open.
///
/// # Errors
/// Another table with rows refers to one of them; the server's.
pub(super) async fn empty(
    client: &Client,
    tables: &[Arc<Table>],
    restart_identity: bool,
    ours: &BTreeMap<String, At>,
    at: EpochPosition,
) -> Result<(), ApplyError> {
    let Some(first) = tables.first() else { return Ok(()) };
    let doing = format!("emptying {}", first.name);
    let failed = |e: tokio_postgres::Error| ApplyError::row(&doing, at, &e);
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client.query(REFERRING, &[&oids]).await.map_err(failed)?;
    let quoted = |row: &tokio_postgres::Row, n: usize| {
        format!("{}.{}", quote_identifier(row.get(n)), quote_identifier(row.get(n + 1)))
    };
    for row in &rows {
        let (other, whole) = (quoted(row, 0), quoted(row, 2));
        if ours.contains_key(&other) || ours.contains_key(&whole) {
            continue;
        }
        // One of ours may have had no row yet, and without one it refers to nothing.
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {})", row.get::<_, String>(4));
        let has_rows = match client.query_one(&sql, &[]).await {
            Ok(row) => row.get(0),
            // Whoever may not look into it does not fill it.
            Err(error) if error.code().is_some_and(|code| code.code() == "42501") => true,
            Err(error) => return Err(failed(error)),
        };
        if has_rows {
            return Err(ApplyError::Refused(format!(
                "{at} empties {}, but table {other} of the target refers to it, which this applier \
                 does not fill: drop that foreign key, or that table; then start again",
                first.name
            )));
        }
    }
    let sql = match rows.is_empty() {
        true => {
            let names: Vec<String> = tables.iter().map(|table| table.only()).collect();
            let identity = if restart_identity { "RESTART" } else { "CONTINUE" };
            format!("TRUNCATE {} {identity} IDENTITY RESTRICT", names.join(", "))
        }
        false => tables.iter().map(|table| format!("DELETE FROM {};", table.only())).collect(),
    };
    client.batch_execute(&sql).await.map_err(failed)?;
    // Of these TRUNCATE itself takes care.
    if restart_identity && !rows.is_empty() {
        let rows = client.query(SEQUENCES, &[&oids]).await.map_err(failed)?;
        let restart = |row: &tokio_postgres::Row| {
            format!("ALTER SEQUENCE {} RESTART;", row.get::<_, String>(0))
        };
        let sql: String = rows.iter().map(restart).collect();
        client.batch_execute(&sql).await.map_err(failed)?;
    }
    Ok(())
}
