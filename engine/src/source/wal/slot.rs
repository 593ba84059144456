//! Replication slots: making, copying, dropping and looking at them.
//!
//! What can go wrong: a snapshot that dies because its session was used. The guard that
//! `create_slot` returns borrows the session, so that no command can be sent meanwhile.

use std::fmt;

use tokio_postgres::Client;

use super::super::error::SourceError;
use super::connection::{ReplSession, column};
use crate::position::Lsn;

/// A valid name of a slot: `[a-z0-9_]{1,63}`, as PostgreSQL has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// Checks a name.
    ///
    /// # Errors
    /// It is none.
    pub fn new(name: &str) -> Result<SlotName, SourceError> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=63).contains(&name.len()) && name.bytes().all(valid) {
            Ok(SlotName(name.to_owned()))
        } else {
            Err(SourceError::SlotName(name.to_owned()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of the snapshot that belongs to a new slot's consistent point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Exported for other sessions, as long as this one stays idle.
    Export,
    /// Used by this session's own transaction, which must be open.
    Use,
    /// Not made.
    None,
}

/// A new slot. While this lives its session can do nothing else, and so an exported
/// snapshot stays valid; drop it to go on.
pub struct CreatedSlot<'a> {
    /// Changes committed after this are in the slot, everything before in the snapshot.
    pub consistent_point: Lsn,
    /// Name of the exported snapshot.
    pub snapshot: Option<String>,
    session: &'a mut ReplSession,
}

impl CreatedSlot<'_> {
    /// Waits until the session, and with it the snapshot, is lost. Cancel-safe.
    pub async fn lost(&mut self) -> SourceError {
        self.session.lost().await
    }
}

impl ReplSession {
    /// Makes a logical slot for `pgoutput`. It waits for transactions that are open now:
    /// give it a time limit, and close the session if it is exceeded.
    ///
    /// # Errors
    /// It exists already (42710), no slot is free (53400), `wal_level` (55000) …
    pub async fn create_slot(
        &mut self,
        name: &SlotName,
        snapshot: Snapshot,
        temporary: bool,
    ) -> Result<CreatedSlot<'_>, SourceError> {
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let action = match snapshot {
            Snapshot::Export => "EXPORT_SNAPSHOT",
            Snapshot::Use => "USE_SNAPSHOT",
            Snapshot::None => "NOEXPORT_SNAPSHOT",
        };
        // The form that every version from 10 to 18 takes.
        let sql =
            format!("CREATE_REPLICATION_SLOT \"{name}\"{temporary} LOGICAL pgoutput {action}");
        let doing = format!("CREATE_REPLICATION_SLOT {name}");
        let rows = self.query(&sql, &doing).await?;
        let point = column(&rows, 1, &doing)?;
        let consistent_point =
            point.parse().map_err(|_| SourceError::protocol(&doing, "an LSN that is none"))?;
        let snapshot = column(&rows, 2, &doing).ok();
        Ok(CreatedSlot { consistent_point, snapshot, session: self })
    }

    /// Lets standbys keep a copy of a slot that nobody reads now (17 and later).
    ///
    /// # Errors
    /// It is read ([`SourceError::SlotBusy`]), or the server is too old (42601).
    pub async fn keep_through_failover(&mut self, name: &SlotName) -> Result<(), SourceError> {
        let doing = format!("ALTER_REPLICATION_SLOT {name}");
        let sql = format!("ALTER_REPLICATION_SLOT \"{name}\" (FAILOVER true)");
        self.query(&sql, &doing).await.map(drop).map_err(|e| e.about_slot(name.as_str()))
    }

    /// Drops a slot; with `wait` it waits until its reader has gone.
    ///
    /// # Errors
    /// There is none ([`SourceError::SlotMissing`]), or it is read ([`SourceError::SlotBusy`]).
    pub async fn drop_slot(&mut self, name: &SlotName, wait: bool) -> Result<(), SourceError> {
        let wait = if wait { " WAIT" } else { "" };
        let doing = format!("DROP_REPLICATION_SLOT {name}");
        let dropped = self.query(&format!("DROP_REPLICATION_SLOT \"{name}\"{wait}"), &doing).await;
        dropped.map(drop).map_err(|e| e.about_slot(name.as_str()))
    }
}

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// It ends with its session.
    pub temporary: bool,
    /// Backend that reads it.
    pub active_pid: Option<i32>,
    /// What has been acknowledged.
    pub confirmed_flush: Option<Lsn>,
    /// Log from here on is kept.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why the server gave it up, in PostgreSQL's word (17 and later).
    pub invalidation_reason: Option<String>,
    /// Standbys keep a copy of it (17 and later).
    pub failover: bool,
    /// Log kept for it, in bytes.
    pub retained_bytes: u64,
    /// Log that may still be written before the slot is lost, in bytes; none without
    /// `max_slot_wal_keep_size`.
    pub safe_wal_bytes: Option<u64>,
    /// Transactions this old block VACUUM of the catalogs.
    pub catalog_xmin_age: Option<i64>,
}

impl SlotStatus {
    /// Why nothing can be read from it any more, if that is so.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        let reason = self.invalidation_reason.as_deref();
        match (self.wal_status.as_deref(), reason) {
            (_, Some(reason)) => Some(format!("invalidated: {reason}")),
            (Some("lost"), None) => Some("wal_status lost".to_owned()),
            _ => None,
        }
    }
}

/// The slot called `name`, if it exists.
///
/// # Errors
/// The query failed.
pub async fn slot_status(
    client: &Client,
    name: &SlotName,
) -> Result<Option<SlotStatus>, SourceError> {
    // On a standby there is no current insert position. By way of JSON, because versions
    // before 17 lack the last columns.
    const SQL: &str = "SELECT plugin::text, database::text, temporary, active_pid,
            confirmed_flush_lsn::text, restart_lsn::text, wal_status,
            greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()
                THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn))::int8,
            age(catalog_xmin)::int8, to_jsonb(s) ->> 'invalidation_reason',
            coalesce((to_jsonb(s) ->> 'failover')::bool, false), safe_wal_size
        FROM pg_catalog.pg_replication_slots s WHERE slot_name = $1::text::name";
    let rows = client.query(SQL, &[&name.as_str()]).await;
    let rows = rows.map_err(|e| SourceError::sql("a look at pg_replication_slots", &e))?;
    let lsn = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Ok(rows.first().map(|row| SlotStatus {
        plugin: row.get(0),
        database: row.get(1),
        temporary: row.get(2),
        active_pid: row.get(3),
        confirmed_flush: lsn(row.get(4)),
        restart_lsn: lsn(row.get(5)),
        wal_status: row.get(6),
        retained_bytes: row
            .get::<_, Option<i64>>(7)
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        catalog_xmin_age: row.get(8),
        invalidation_reason: row.get(9),
        failover: row.get(10),
        safe_wal_bytes: row.get::<_, Option<i64>>(11).map(|n| u64::try_from(n).unwrap_or(0)),
    }))
}

/// Temporary `pgoutput` slots of the connected database that stand exactly at `lsn`: what
/// a bootstrap begun by hand left, whose LSN is all that its author can name.
///
/// # Errors
/// The query failed.
pub async fn temporary_slots_at(client: &Client, lsn: Lsn) -> Result<Vec<SlotName>, SourceError> {
    const SQL: &str = "SELECT slot_name::text FROM pg_catalog.pg_replication_slots
        WHERE temporary AND plugin = 'pgoutput' AND database = pg_catalog.current_database()
          AND confirmed_flush_lsn = $1::text::pg_lsn ORDER BY 1";
    let rows = client.query(SQL, &[&lsn.to_string()]).await;
    let rows = rows.map_err(|e| SourceError::sql("a look at pg_replication_slots", &e))?;
    rows.iter().map(|row| SlotName::new(row.get(0))).collect()
}

/// Where the log ends: whatever the session can see was written before. `None`: a standby that has
/// replayed nothing.
///
/// # Errors
/// The query failed.
pub async fn log_end(client: &Client) -> Result<Option<Lsn>, SourceError> {
    const SQL: &str = "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END)::text,
        pg_catalog.current_setting('wal_block_size')::int8,
        pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";
    let row = client.query_one(SQL, &[]).await;
    let row = row.map_err(|e| SourceError::sql("asking where the log ends", &e))?;
    let lsn: Option<&str> = row.get(0);
    let size = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
    let lsn: Option<Lsn> = lsn.and_then(|lsn| lsn.parse().ok());
    Ok(lsn.map(|lsn| end_of_record(lsn, size(1), size(2))))
}

/// Where the next record is to begin is behind its page's header, if nothing else is on the page
/// yet; and the last one ends, for whoever streams the log, before that.
fn end_of_record(lsn: Lsn, page: u64, segment: u64) -> Lsn {
    // xlog_internal.h: SizeOfXLogLongPHD on a segment's first page, SizeOfXLogShortPHD on others.
    let within = |size: u64| lsn.0.checked_rem(size);
    match (within(page), within(segment)) {
        (_, Some(40)) => Lsn(lsn.0 - 40),
        (Some(24), _) => Lsn(lsn.0 - 24),
        _ => lsn,
    }
}

/// Makes the lasting slot `to` out of `from`, at the same LSN; `from` may be temporary
/// and held by another session. Returns that LSN.
///
/// # Errors
/// `to` exists (42710), `from` does not ([`SourceError::SlotMissing`]), or it lost its log.
pub async fn copy_slot(
    client: &Client,
    from: &SlotName,
    to: &SlotName,
) -> Result<Lsn, SourceError> {
    const SQL: &str = "SELECT lsn::text
        FROM pg_catalog.pg_copy_logical_replication_slot($1::text::name, $2::text::name, false)";
    let row = client.query_one(SQL, &[&from.as_str(), &to.as_str()]).await;
    let doing = format!("pg_copy_logical_replication_slot({from}, {to})");
    let row = row.map_err(|e| SourceError::sql(&doing, &e).about_slot(from.as_str()))?;
    let lsn: String = row.get(0);
    lsn.parse().map_err(|_| SourceError::protocol(&doing, "an LSN that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_has_no_end_of_a_record() {
        let (page, segment) = (8 << 10, 16 << 20);
        for (at, end) in [
            (segment + 40, segment),
            (segment + page + 24, segment + page),
            (segment + page + 40, segment + page + 40),
            (segment + page, segment + page),
            (segment + 48, segment + 48),
        ] {
            assert_eq!(end_of_record(Lsn(at), page, segment), Lsn(end));
        }
        assert_eq!(end_of_record(Lsn(40), 0, 0), Lsn(40), "not told");
    }

    #[test]
    fn names_are_postgresqls() {
        for name in ["kasho_slot", "a", "0"] {
            assert_eq!(SlotName::new(name).unwrap().as_str(), name);
        }
        let long = "a".repeat(64);
        for name in ["", "A", "a-b", "a b", "ä", "a\"", long.as_str()] {
            assert!(SlotName::new(name).is_err(), "{name}");
        }
    }
}
