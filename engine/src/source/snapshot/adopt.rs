//! Slots that others have made: a temporary one whose LSN the caller names, one left
//! over, one to be dropped. Wrong here would be a gap between snapshot and stream.

use tokio_postgres::Client;

use crate::bootstrap::SlotFact;
use crate::position::Lsn;
use crate::source::conninfo::{Conninfo, sql_connect_with};
use crate::source::error::SourceError;
use crate::source::snapshot::reader::import;
use crate::source::snapshot::{SETTINGS, SnapshotError, exists};
use crate::source::wal::{self, ReplSession, SlotName, copy_slot, slot_status, temporary_slots_at};

/// Makes the permanent slot out of the one temporary `pgoutput` slot that stands at `lsn`.
///
/// # Errors
/// There is none there, or more than one, or PostgreSQL refuses.
pub async fn copy_temporary_slot(
    client: &Client,
    lsn: Lsn,
    slot: &SlotName,
) -> Result<(), SnapshotError> {
    let found = temporary_slots_at(client, lsn).await?;
    let [from] = found.as_slice() else {
        let present = temporary_slots(client).await?;
        return Err(SnapshotError::NoTemporarySlot { lsn, found: found.len(), present });
    };
    let at = copy_slot(client, from, slot).await.map_err(|error| exists(error, slot))?;
    if at != lsn {
        // The temporary slot was moved on between the look and the copy.
        drop_slot(client, slot, false).await?;
        let present = format!("; it stands at {at} now");
        return Err(SnapshotError::NoTemporarySlot { lsn, found: 0, present });
    }
    Ok(())
}

async fn temporary_slots(client: &Client) -> Result<String, SourceError> {
    let row = client
        .query_one(
            "SELECT coalesce(string_agg(slot_name || ' at ' || confirmed_flush_lsn, ', '), '') \
             FROM pg_replication_slots WHERE temporary AND plugin = 'pgoutput' \
             AND database = current_database()",
            &[],
        )
        .await
        .map_err(|error| SourceError::sql("a look at pg_replication_slots", &error))?;
    let slots: String = row.get(0);
    Ok(if slots.is_empty() { slots } else { format!("; there is {slots}") })
}

/// Drops a slot if it exists. With `terminate` the session that reads it is ended first.
///
/// # Errors
/// It is being read, or PostgreSQL refuses.
pub async fn drop_slot(
    client: &Client,
    slot: &SlotName,
    terminate: bool,
) -> Result<(), SourceError> {
    let name = slot.as_str();
    let doing = format!("dropping the replication slot {name:?}");
    let sql = |error| SourceError::sql(&doing, &error);
    if terminate {
        // With a time limit the call waits until the session is really gone.
        let end = "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots \
                   WHERE slot_name = $1::text::name AND active_pid IS NOT NULL";
        client.execute(end, &[&name]).await.map_err(sql)?;
    }
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                WHERE slot_name = $1::text::name";
    match client.execute(drop, &[&name]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == "42704") => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == "55006") => {
            Err(SourceError::SlotBusy { slot: name.to_owned() })
        }
        Err(error) => Err(sql(error)),
    }
}

/// Whether what this server says of a slot counts: it takes writes, and is the system with
/// this identifier, if that is known.
///
/// # Errors
/// It is another ([`SourceError::OtherServer`]), or a query failed.
pub async fn check_server(client: &Client, system_id: Option<&str>) -> Result<(), SourceError> {
    let doing = "asking which server this is";
    let standby = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
    if standby.map_err(|error| SourceError::sql(doing, &error))?.get(0) {
        return Err(SourceError::OtherServer { what: "a standby".to_owned() });
    }
    let Some(expected) = system_id else { return Ok(()) };
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    let found: String = match client.query_one(sql, &[]).await {
        Ok(row) => row.get(0),
        // A provider may keep this to himself.
        Err(error) if error.code().is_some_and(|code| code.code() == "42501") => return Ok(()),
        Err(error) => return Err(SourceError::sql(doing, &error)),
    };
    // As IDENTIFY_SYSTEM says it: without a sign.
    let found = found.parse::<i64>().map_or(found, |id| id.cast_unsigned().to_string());
    match found == expected {
        true => Ok(()),
        false => Err(SourceError::OtherServer { what: format!("system {found}, not {expected}") }),
    }
}

/// What the server says of the slot with our name.
///
/// # Errors
/// The query failed.
pub async fn slot_fact(
    client: &Client,
    info: &Conninfo,
    slot: &SlotName,
) -> Result<SlotFact, SourceError> {
    let Some(status) = slot_status(client, slot).await? else { return Ok(SlotFact::Absent) };
    let foreign = match (&status.plugin, &status.database) {
        (None, _) => Some("a physical slot".to_owned()),
        (Some(plugin), _) if plugin != "pgoutput" => Some(format!("a slot of plugin {plugin:?}")),
        (_, Some(database)) if *database != info.dbname => {
            Some(format!("a slot of the database {database:?}"))
        }
        _ if status.temporary => Some("a temporary slot of another session".to_owned()),
        _ => None,
    };
    if let Some(what) = foreign {
        return Ok(SlotFact::Foreign(what));
    }
    Ok(status.lost().map_or(SlotFact::Usable, SlotFact::Lost))
}

/// Makes a temporary slot with an exported snapshot and keeps both: `ready` is told LSN
/// and name, and it ends when a session is lost. For a bootstrap by hand.
///
/// # Errors
/// Always returns one: the slot could not be made, or a session was lost.
pub async fn hold_temporary(
    info: &Conninfo,
    slot: &SlotName,
    ready: impl FnOnce(Lsn, &str),
) -> SnapshotError {
    let held = async {
        let mut session = ReplSession::connect(info, "kasho snapshot").await?;
        let mut created = session.create_slot(slot, wal::Snapshot::Export, true).await?;
        let exported = created.snapshot.clone().unwrap_or_default();
        // A second session keeps the snapshot too: a server's own time limits end the
        // first one, which looks idle to it.
        let keeper = sql_connect_with(info, "kasho snapshot", &SETTINGS).await?;
        super::holder::no_transaction_timeout(&keeper).await?;
        import(&keeper, &exported).await?;
        let row = keeper.query_one("SELECT pg_export_snapshot()", &[]).await;
        let row = row.map_err(|e| SourceError::sql("exporting the snapshot again", &e))?;
        ready(created.consistent_point, row.get(0));
        Err(SnapshotError::from(created.lost().await))
    };
    match held.await {
        Ok(never) => never,
        Err(error) => error,
    }
}
