//! Some rows of a table as they are now, to be looked at: no snapshot, no progress.
//!
//! What can go wrong: the server refuses. Its words are left out, for they may quote a row.

use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use kasho_plugin_sdk::{Op, Relation};

use super::{SETTINGS, SnapshotError};
use crate::batch::{Batch, Piece, Row};
use crate::position::{Lsn, Position};
use crate::quote::identifier;
use crate::source::catalog::Catalog;
use crate::source::conninfo::{Conninfo, sql_connect_with};
use crate::source::copy::Decoder;
use crate::source::error::SourceError;

/// Reads at most `limit` rows of a relation, of whichever partitions come first.
///
/// # Errors
/// The server's.
pub async fn sample(
    info: &Conninfo,
    catalog: &Catalog,
    relation: &Arc<Relation>,
    limit: u32,
) -> Result<Batch, SnapshotError> {
    let client = sql_connect_with(info, "kasho transforms", &SETTINGS).await?;
    let mut batch = Batch::default();
    let mut decoder = Decoder::default();
    for table in catalog.tables.iter().filter(|table| table.relation == relation.id) {
        let left = (limit as usize).saturating_sub(batch.rows.len());
        let columns: Vec<_> = relation.columns.iter().map(|c| identifier(&c.name)).collect();
        let filter = table.filter.as_ref().map(|filter| format!(" WHERE ({filter})"));
        let statement = format!(
            "COPY (SELECT {} FROM ONLY {}.{}{} LIMIT {left}) TO STDOUT",
            columns.join(", "),
            identifier(&table.schema),
            identifier(&table.table),
            filter.unwrap_or_default()
        );
        let failed = |error: &tokio_postgres::Error| {
            let mut error = SourceError::sql(&format!("reading {}", table.qualified()), error);
            if let SourceError::Server { server, .. } = &mut error {
                server.message = None;
            }
            error
        };
        let rows = client.copy_out(&statement).await.map_err(|e| failed(&e))?;
        let mut rows = pin!(rows);
        while let Some(mut line) = rows.try_next().await.map_err(|e| failed(&e))? {
            line.truncate(line.len().saturating_sub(1));
            let image = decoder.image(&mut batch, line, columns.len());
            let table = table.qualified();
            let image = image.map_err(|source| SnapshotError::Copy { table, source })?;
            push(&mut batch, relation, image);
        }
    }
    let rows = 0..batch.rows.len();
    let (xid, commit_lsn, commit_us) = (0, Lsn::ZERO, 0);
    batch.pieces.push(Piece { xid, commit_lsn, commit_us, rows, first: true, end_lsn: None });
    Ok(batch)
}

fn push(batch: &mut Batch, relation: &Arc<Relation>, image: crate::batch::Image) {
    let relation = batch.relation_index(relation);
    let (position, op) = (Position::START, Op::Read);
    let (new, old, detail) = (Some(image), None, None);
    batch.rows.push(Row { position, op, relation, new, old, detail, dropped: false });
}
