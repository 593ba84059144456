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

const REFERRING: &str = "
SELECT DISTINCT n.nspname::text, c.relname::text
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.confrelid = ANY ($1) AND NOT k.conrelid = ANY ($1)";

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
/// Another table refers to one of them; the server's.
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
    let quoted = |row: &tokio_postgres::Row, n: usize| quote_identifier(row.get(n));
    let referring: Vec<String> =
        rows.iter().map(|row| format!("{}.{}", quoted(row, 0), quoted(row, 1))).collect();
    if let Some(other) = referring.iter().find(|name| !ours.contains_key(*name)) {
        return Err(ApplyError::Refused(format!(
            "{at} empties {}, but table {other} of the target refers to it, which this applier \
             does not fill: drop that foreign key, or that table; then start again",
            first.name
        )));
    }
    let sql = match referring.is_empty() {
        true => {
            let names: Vec<String> = tables.iter().map(|table| table.only()).collect();
            let identity = if restart_identity { "RESTART" } else { "CONTINUE" };
            format!("TRUNCATE {} {identity} IDENTITY RESTRICT", names.join(", "))
        }
        false => tables.iter().map(|table| format!("DELETE FROM {};", table.only())).collect(),
    };
    client.batch_execute(&sql).await.map_err(failed)?;
    // Of these TRUNCATE itself takes care.
    if restart_identity && !referring.is_empty() {
        let rows = client.query(SEQUENCES, &[&oids]).await.map_err(failed)?;
        let restart = |row: &tokio_postgres::Row| {
            format!("ALTER SEQUENCE {} RESTART;", row.get::<_, String>(0))
        };
        let sql: String = rows.iter().map(restart).collect();
        client.batch_execute(&sql).await.map_err(failed)?;
    }
    Ok(())
}
