//! Tables that get another name, or another schema, take what is noted of them along: under the
//! new name the next bootstrap has to find that their rows are its own to empty.
//!
//! What can go wrong: the server's errors. A change that was made by hand is not seen here.

use std::collections::BTreeMap;

use kasho_plugin_sdk::event::quote_identifier;
use tokio_postgres::types::Oid;

use super::error::ApplyError;
use super::pipe::Check;
use super::stream::Applier;
use crate::position::EpochPosition;

const BEFORE: &str = "
SELECT name, oid FROM (
    SELECT u.name, pg_catalog.to_regclass(u.name)::oid AS oid FROM unnest($1::text[]) u(name)) named
WHERE oid IS NOT NULL";

const AFTER: &str = "
SELECT c.oid, n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1)";

/// In the transaction whose [`MOVE_TABLE`](super::progress::MOVE_TABLE) has looked at the token.
const FORGET: &str = "
DELETE FROM kasho.applied WHERE consumer = $1::text AND relation = $2::text AND writer = $3::text";

/// Whether a statement may give a table another name.
fn may_rename(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    text.contains("RENAME") || text.contains("SCHEMA")
}

impl Applier {
    /// The tables that it fills, by their oid, if a statement may give them other names. Those
    /// of the open transaction are among them.
    ///
    /// # Errors
    /// The server's; fenced.
    pub(super) async fn names_before(
        &mut self,
        text: &str,
        at: EpochPosition,
    ) -> Result<BTreeMap<Oid, String>, ApplyError> {
        if !may_rename(text) {
            return Ok(BTreeMap::new());
        }
        self.note_new(at.position).await?;
        self.pipe.drain().await?;
        self.ours().await
    }

    async fn ours(&self) -> Result<BTreeMap<Oid, String>, ApplyError> {
        let names: Vec<&str> = self.progress.tables.keys().map(String::as_str).collect();
        let rows = self.pipe.client().query(BEFORE, &[&names]).await;
        let rows = rows.map_err(|e| ApplyError::sql("looking at the tables", &e))?;
        Ok(rows.iter().map(|row| (row.get(1), row.get(0))).collect())
    }

    /// Notes the names that tables have now; [`Applier::names_before`] has told those of before.
    ///
    /// # Errors
    /// The server's; fenced.
    pub(super) async fn follow(
        &mut self,
        before: &BTreeMap<Oid, String>,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let oids: Vec<Oid> = before.keys().copied().collect();
        let rows = self.pipe.client().query(AFTER, &[&oids]).await;
        let rows = rows.map_err(|e| ApplyError::sql("looking at the tables", &e))?;
        for row in rows {
            let (oid, schema, name): (Oid, String, String) = (row.get(0), row.get(1), row.get(2));
            let now = format!("{}.{}", quote_identifier(&schema), quote_identifier(&name));
            let Some(was) = before.get(&oid).filter(|was| **was != now) else { continue };
            let Some(reached) = self.progress.tables.remove(was) else { continue };
            let there = self.progress.tables.get(&now).copied();
            self.note_table(&now, there, reached).await?;
            let params = [&self.progress.consumer, was, &self.progress.writer];
            let params = params.map(|text| Some(text.as_str().into())).into();
            self.pipe.send(FORGET, params, Check::Any, at).await?;
        }
        Ok(())
    }
}
