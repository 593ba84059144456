//! Indexes whose build failed. `CREATE INDEX CONCURRENTLY` leaves them there, invalid, and so
//! does `REINDEX … CONCURRENTLY`; no event trigger has told of them, and none tells (before 17
//! there is no event) when a `REINDEX`, or an `ALTER TABLE`, makes them valid. So they are
//! watched, and what becomes of them is written into the log as the event triggers would.
//!
//! What is known of them is stored, so that one that becomes valid while nobody watches is told of
//! when somebody does again.
//!
//! What can go wrong: one that was never seen invalid, since it was that for less than a look, or
//! became that and valid again while nobody watched, is not told of.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::ddl::PREFIX;
use crate::source::HEARTBEAT_PREFIX;
use crate::source::error::SourceError;

/// Invalid, and whether somebody may be building them: whoever does that concurrently holds this
/// lock all the while. Only where schema changes are told at all.
const INVALID: &str = "
SELECT c.oid, n.nspname::text, c.relname::text,
       EXISTS (SELECT FROM pg_catalog.pg_locks l
                WHERE l.locktype = 'relation' AND l.relation = i.indrelid
                  AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted AND l.database = (
                      SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND c.relkind = 'i' AND c.relpersistence = 'p' AND n.nspname <> 'pg_toast'
   AND EXISTS (SELECT FROM pg_catalog.pg_event_trigger
                WHERE evtname = 'kasho_ddl_2_end' AND evtenabled <> 'D')";

/// The same index, or what has taken its name, as `REINDEX CONCURRENTLY` does it.
const VALID: &str = "
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace
 WHERE i.indisvalid AND c.relkind = 'i'
   AND (c.oid = $1 OR (n.nspname::text, c.relname::text) = ($2::text, $3::text))";

/// Its table is locked against the dropping of indexes: what is told first, is dropped later.
const TABLE: &str = "SELECT DISTINCT pg_catalog.format('%I.%I', m.nspname, t.relname)";

/// As `config/sql/ddl.sql` writes it.
const TELL: &str = "
SELECT pg_catalog.pg_logical_emit_message(true, $4::text, pg_catalog.convert_to(
    pg_catalog.jsonb_build_object('v', 1, 'tag', 'CREATE INDEX',
      'text', pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(c.oid),
                '^CREATE (UNIQUE )?INDEX ', 'CREATE \\1INDEX IF NOT EXISTS '),
      'made', true, 'path', 'pg_catalog',
      'username', session_user, 'database', pg_catalog.current_database(),
      'settings', (SELECT pg_catalog.jsonb_object_agg(s, pg_catalog.current_setting(s, true))
                     FROM pg_catalog.unnest(ARRAY['TimeZone', 'DateStyle', 'IntervalStyle',
                       'bytea_output', 'extra_float_digits', 'standard_conforming_strings']) s),
      'objects', pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('type', 'index',
        'identity', pg_catalog.format('%I.%I', n.nspname, c.relname),
        'schema', n.nspname, 'name', c.relname, 'dropped', false)))::text, 'UTF8'))::text";

/// What is known of them.
#[derive(Debug, Default)]
pub struct Failed {
    /// By oid: schema and name.
    known: BTreeMap<u32, (String, String)>,
    /// Those of which it was said that they are invalid.
    warned: BTreeSet<u32>,
    /// That they cannot be looked after was said.
    said: bool,
}

impl Failed {
    /// What a process before has seen, of its [`Failed::stored`]: to be told before the first look.
    pub fn recall(&mut self, stored: &[u8]) {
        // Nobody else writes it; what cannot be read is as if it had not been.
        self.known = serde_json::from_slice(stored).unwrap_or_default();
    }

    /// What is known by now.
    #[must_use]
    pub fn stored(&self) -> Vec<u8> {
        // Numbers and texts: there is nothing that JSON cannot hold.
        serde_json::to_vec(&self.known).unwrap_or_default()
    }

    /// Looks for more of them, and tells of those that have become valid. Whatever cannot be told
    /// now is told after another look.
    pub async fn look(&mut self, client: &Client) {
        match self.try_look(client).await {
            Ok(()) => self.said = false,
            Err(error) if !self.said => {
                self.said = true;
                tracing::warn!(%error, "indexes whose build failed are looked after again later");
            }
            Err(_) => {}
        }
    }

    async fn try_look(&mut self, client: &Client) -> Result<(), SourceError> {
        let mut rows = invalid(client).await?;
        // The lock is looked at as it is, and the index as the statement's snapshot has it: one
        // whose build ended in between is not invalid in the next one.
        let new = |row: &Row| !row.get::<_, bool>(3) && !self.warned.contains(&row.get(0));
        if rows.iter().any(new) {
            rows = invalid(client).await?;
        }
        let mut now = BTreeSet::new();
        for row in &rows {
            let (oid, schema, name): (u32, String, String) = (row.get(0), row.get(1), row.get(2));
            now.insert(oid);
            if row.get(3) {
                continue;
            }
            if self.warned.insert(oid) {
                tracing::warn!(
                    schema,
                    index = name,
                    "the index is invalid, for its concurrent build failed; targets get it once it \
                     is valid (REINDEX INDEX CONCURRENTLY, or drop it and make it again)"
                );
            }
            // The name that it had first: the one that takes its place gets that.
            self.known.entry(oid).or_insert((schema, name));
        }
        self.warned.retain(|oid| now.contains(oid));
        let gone: Vec<u32> = self.known.keys().filter(|oid| !now.contains(oid)).copied().collect();
        for oid in gone {
            let Some((schema, name)) = self.known.get(&oid) else { continue };
            let doing = format!("telling of the index {schema}.{name}");
            match tell(client, (oid, schema, name)).await {
                Ok(0) => {}
                Ok(_) => tracing::info!(schema, index = name, "the index has become valid"),
                Err(error) => {
                    let _ = client.batch_execute("ROLLBACK").await;
                    if client.is_closed() || error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                        return Err(SourceError::sql(&doing, &error));
                    }
                    let error = SourceError::sql(&doing, &error);
                    tracing::warn!(
                        schema, index = name, %error,
                        "the index has become valid, and targets are not told of it: make it there \
                         by hand"
                    );
                }
            }
            self.known.remove(&oid);
        }
        Ok(())
    }
}

async fn invalid(client: &Client) -> Result<Vec<Row>, SourceError> {
    let rows = client.query(INVALID, &[]).await;
    rows.map_err(|e| SourceError::sql("a look at invalid indexes", &e))
}

/// Writes it into the log. Answers how many there are.
async fn tell(
    client: &Client,
    (oid, schema, name): (u32, &str, &str),
) -> Result<u64, tokio_postgres::Error> {
    let begin = "BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL search_path = pg_catalog";
    client.batch_execute(begin).await?;
    for row in client.query(&format!("{TABLE}{VALID}"), &[&oid, &schema, &name]).await? {
        let lock = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", row.get::<_, String>(0));
        client.batch_execute(&lock).await?;
    }
    let told = client.query(&format!("{TELL}{VALID}"), &[&oid, &schema, &name, &PREFIX]).await?;
    // A message of a transaction counts as standing where its record ends.
    let nothing = format!(
        "SELECT pg_catalog.pg_logical_emit_message(false, '{HEARTBEAT_PREFIX}', ''); COMMIT"
    );
    client.batch_execute(&nothing).await?;
    Ok(told.len() as u64)
}
