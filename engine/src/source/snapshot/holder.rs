//! The holder: makes the slot, keeps its snapshot and the tables as they are until they
//! are loaded, in a process that outlives the engine.
//!
//! It talks in lines of JSON: the [`HolderSpec`] comes in first, events go out, and then
//! the word `adopt` comes in once the engine has stored the phase. If its input ends
//! before that, the engine has died or given up: the slot is dropped, nothing is left.
//! After it nobody needs to talk to it: it ends with its sessions or with the slot.
//!
//! What can go wrong: everything on the way to the slot, told as a `failed` event.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, Lines};
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;

use crate::bootstrap::{Blocking, Definitions, Load, LoadMode, Snapshot};
use crate::error::Class;
use crate::position::Epoch;
use crate::quote::identifier;
use crate::source::catalog::{Catalog, Table};
use crate::source::conninfo::{Conninfo, sql_connect_with};
use crate::source::error::SourceError;
use crate::source::snapshot::reader::import;
use crate::source::snapshot::{SETTINGS, SnapshotError, adopt, exists, plan};
use crate::source::wal::{self, CreatedSlot, ReplSession, SlotName};

/// How often is looked at what slot creation waits for, and whether the sessions live.
const LOOK: Duration = Duration::from_secs(1);
/// How long a session that was told to end may take for it.
const END: Duration = Duration::from_secs(10);
/// There is a slot of that name.
const DUPLICATE: &str = "42710";

/// What a holder is to do. It has no `Debug`: the URL holds a password.
#[derive(Clone, Serialize, Deserialize)]
pub struct HolderSpec {
    /// The source.
    pub url: String,
    /// Name of the permanent slot to be made.
    pub slot: String,
    /// The publications whose tables are loaded.
    pub publications: Vec<String>,
    /// Number of this bootstrap.
    pub epoch: u64,
    /// Who loads.
    pub mode: LoadMode,
    /// A snapshot that the caller keeps, with the LSN of his temporary slot.
    pub given: Option<Snapshot>,
    /// The permanent slot exists: keep a later snapshot, for what the one before was not
    /// enough. Nothing is undone then.
    pub later: bool,
    /// Blocks of a `ctid` range.
    pub range_blocks: u32,
    /// Time for making the slot, seconds.
    pub slot_timeout_s: u64,
    /// Longest wait for a connection; 0: what the URL says.
    pub connect_timeout_ms: u64,
}

impl HolderSpec {
    /// `application_name` of the sessions that keep the snapshots in this process;
    /// PostgreSQL keeps 63 bytes of it. No two holders of a bootstrap go by one name: the
    /// end of one must not be hidden by another.
    #[must_use]
    pub fn application_name(&self) -> String {
        let mut name = format!("kasho holder e{}.{} {}", self.epoch, std::process::id(), self.slot);
        name.truncate(63);
        name
    }
}

/// What a holder has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// For the phase.
    pub load: Load,
    /// For `{kasho}:catalog`.
    pub catalog: Catalog,
}

/// What a holder says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    /// Slot creation waits for somebody, or for nobody any more.
    Waiting { blocking: Option<Blocking> },
    /// Slot, snapshot and locks stand.
    Ready(Box<Report>),
    /// Nothing of it stands.
    Failed { text: String, retry: bool },
}

/// Runs a holder to its end: reads its task and the engine's decision from `input`.
///
/// # Errors
/// Whatever kept it from making the slot, said in a `failed` event too; or what ended it
/// later.
pub async fn hold(
    input: impl AsyncBufRead + Unpin,
    output: impl AsyncWrite + Unpin,
) -> Result<(), SnapshotError> {
    let mut talk = Talk { input: input.lines(), output };
    let held = talk.serve().await;
    if let Err(error) = &held {
        let retry = error.class() == Class::Retry;
        talk.say(&Event::Failed { text: error.to_string(), retry }).await;
    }
    held
}

struct Talk<I, O> {
    input: Lines<I>,
    output: O,
}

/// The sessions that keep what has to be kept.
struct Held {
    keepers: Vec<Client>,
    report: Report,
}

impl<I: AsyncBufRead + Unpin, O: AsyncWrite + Unpin> Talk<I, O> {
    /// An engine that has died reads nothing; that shows on the input.
    async fn say(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let _ = self.output.write_all(&line).await;
        let _ = self.output.flush().await;
    }

    async fn serve(&mut self) -> Result<(), SnapshotError> {
        let doing = "reading the holder's task";
        let line = self.input.next_line().await.map_err(|e| SourceError::io(doing, e))?;
        let spec: HolderSpec = serde_json::from_str(&line.unwrap_or_default())
            .map_err(|_| SourceError::protocol(doing, "no task"))?;
        let mut info = Conninfo::parse(&spec.url).map_err(SourceError::from)?;
        if spec.connect_timeout_ms > 0 {
            info.connect_timeout = Duration::from_millis(spec.connect_timeout_ms);
        }
        let slot = SlotName::new(&spec.slot)?;
        let watch = sql_connect_with(&info, "kasho holder watch", &SETTINGS).await?;
        let Some(held) = self.make(&spec, &info, &watch, &slot).await? else { return Ok(()) };
        self.say(&Event::Ready(Box::new(held.report.clone()))).await;
        if !matches!(self.input.next_line().await, Ok(Some(word)) if word == "adopt") {
            tracing::info!(slot = %slot, "the snapshot was given up, nothing is left of it");
            drop(held);
            undo(&spec, &watch, &slot).await;
            return Ok(());
        }
        drop(watch);
        keep_until_it_ends(held, &slot).await
    }

    /// Makes the permanent slot and keeps its snapshot; on an error nothing is left of
    /// it. None: given up while waiting.
    async fn make(
        &mut self,
        spec: &HolderSpec,
        info: &Conninfo,
        watch: &Client,
        slot: &SlotName,
    ) -> Result<Option<Held>, SnapshotError> {
        let exporter = if spec.later { temporary_name(slot, 1)? } else { slot.clone() };
        let mut session = ReplSession::connect(info, &session_name(&exporter)).await?;
        let kept = if let Some(given) = &spec.given {
            adopt::copy_temporary_slot(watch, given.lsn, slot).await?;
            keep(spec, info, watch, given).await
        } else {
            let made = (&exporter, spec.later);
            let created = self.create(spec, &mut session, watch, made).await?;
            let Some(created) = created else { return Ok(None) };
            let name = created.snapshot.clone().unwrap_or_default();
            let exported = Snapshot { name, lsn: created.consistent_point, by: None };
            keep(spec, info, watch, &exported).await
        };
        let mut held = match kept {
            Ok(held) => held,
            Err(error) => {
                undo(spec, watch, slot).await;
                return Err(error);
            }
        };
        let later = held.report.load.tables.iter().any(|table| table.snapshot > 0);
        if later {
            match self.keep_later(spec, info, watch, slot, &mut held).await {
                Ok(true) => {}
                other => {
                    undo(spec, watch, slot).await;
                    return other.map(|_| None);
                }
            }
        }
        Ok(Some(held))
    }

    /// A second snapshot for tables whose shape the first one does not have any more: a
    /// later load point. They are locked now, so it will do.
    async fn keep_later(
        &mut self,
        spec: &HolderSpec,
        info: &Conninfo,
        watch: &Client,
        slot: &SlotName,
        held: &mut Held,
    ) -> Result<bool, SnapshotError> {
        let temporary = temporary_name(slot, 2)?;
        let mut session = ReplSession::connect(info, &session_name(&temporary)).await?;
        let made = (&temporary, true);
        let Some(created) = self.create(spec, &mut session, watch, made).await? else {
            return Ok(false);
        };
        let exported = created.snapshot.clone().unwrap_or_default();
        let (keeper, name) = import_and_export(spec, info, &exported).await?;
        held.keepers.push(keeper);
        held.report.load.snapshots.push(Snapshot { name, lsn: created.consistent_point, by: None });
        Ok(true)
    }

    /// Makes a slot, telling what it waits for. None: the input ended.
    async fn create<'a>(
        &mut self,
        spec: &HolderSpec,
        session: &'a mut ReplSession,
        watch: &Client,
        (slot, temporary): (&SlotName, bool),
    ) -> Result<Option<CreatedSlot<'a>>, SnapshotError> {
        let deadline = tokio::time::sleep(Duration::from_secs(spec.slot_timeout_s));
        let mut deadline = pin!(deadline);
        let mut creating = pin!(session.create_slot(slot, wal::Snapshot::Export, temporary));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.tick().await;
        let mut shown = None;
        let given_up = loop {
            tokio::select! {
                created = &mut creating => {
                    return created.map(Some).map_err(|error| exists(error, slot));
                }
                _ = look.tick() => match blocking(watch, slot).await {
                    Ok(blocking) if blocking != shown => {
                        self.say(&Event::Waiting { blocking: blocking.clone() }).await;
                        shown = blocking;
                    }
                    Ok(_) => {}
                    Err(error) => break Err(error.into()),
                },
                () = &mut deadline => {
                    let seconds = spec.slot_timeout_s;
                    break Err(SnapshotError::SlotTimeout { seconds, blocking: shown });
                }
                line = self.input.next_line() => {
                    if !matches!(line, Ok(Some(_))) {
                        break Ok(None);
                    }
                }
            }
        };
        cancel(watch, slot).await;
        // Its session is told to end. It may have been made in this very moment; one that
        // somebody else has made under that name is not ours.
        let made = tokio::time::timeout(END, creating).await;
        if !matches!(&made, Ok(Err(error)) if error.sqlstate() == Some(DUPLICATE)) {
            drop(made);
            undo(spec, watch, slot).await;
        }
        given_up
    }
}

/// `application_name` of the replication session that makes a slot.
fn session_name(slot: &SlotName) -> String {
    let mut name = format!("kasho slot {slot}");
    name.truncate(63);
    name
}

/// A slot that lasts as long as it takes to export its snapshot. One that a holder before
/// has not let go of yet must not stand in the way.
fn temporary_name(slot: &SlotName, number: u8) -> Result<SlotName, SourceError> {
    let mut name = slot.as_str().to_owned();
    name.truncate(40);
    SlotName::new(&format!("{name}_load_{}_{number}", std::process::id()))
}

/// Stands at an exported snapshot and exports it again, for any worker that comes.
async fn import_and_export(
    spec: &HolderSpec,
    info: &Conninfo,
    exported: &str,
) -> Result<(Client, String), SnapshotError> {
    let keeper = sql_connect_with(info, &spec.application_name(), &SETTINGS).await?;
    no_transaction_timeout(&keeper).await?;
    import(&keeper, exported).await?;
    let row = keeper.query_one("SELECT pg_export_snapshot()", &[]).await;
    let row = row.map_err(|error| SourceError::sql("exporting the snapshot again", &error))?;
    Ok((keeper, row.get(0)))
}

/// 17 and later can end a transaction for its age; earlier ones do not know the setting.
pub(super) async fn no_transaction_timeout(client: &Client) -> Result<(), SourceError> {
    let statement = "SELECT set_config(name, '0', false) FROM pg_settings \
                     WHERE name = 'transaction_timeout'";
    let done = client.batch_execute(statement).await;
    done.map_err(|error| SourceError::sql("turning transaction_timeout off", &error))
}

/// Imports the snapshot at once, locks the tables against change, and finds those that
/// have changed already.
async fn keep(
    spec: &HolderSpec,
    info: &Conninfo,
    watch: &Client,
    exported: &Snapshot,
) -> Result<Held, SnapshotError> {
    let (keeper, name) = import_and_export(spec, info, &exported.name).await?;
    let Found { catalog, changed, planned, now } = match spec.mode {
        LoadMode::Direct | LoadMode::External => lock_and_compare(spec, watch, &keeper).await?,
        LoadMode::None => {
            let catalog = Catalog::read(watch, &spec.publications).await?;
            Found { catalog, changed: [].into(), planned: None, now: [].into() }
        }
    };
    if spec.mode == LoadMode::External && !changed.is_empty() {
        // A dump is taken at one snapshot: a later load point would be of no use to it.
        let changed = catalog.tables.iter().filter(|table| changed.contains(&table.oid));
        let tables = changed.map(Table::qualified).collect::<Vec<_>>().join(", ");
        return Err(SnapshotError::Changed { tables });
    }
    let tables = match spec.mode {
        LoadMode::Direct => {
            let snapshot = |table: &Table| usize::from(changed.contains(&table.oid));
            plan::tables((&catalog, &now), spec.range_blocks, snapshot)
        }
        LoadMode::External | LoadMode::None => Vec::new(),
    };
    for table in tables.iter().filter(|table| table.snapshot > 0) {
        tracing::warn!(
            table = table.table,
            "the table was changed while the slot was made: it gets a later load point"
        );
    }
    let load = Load {
        epoch: Epoch(spec.epoch),
        slot: spec.slot.clone(),
        start_lsn: exported.lsn,
        mode: spec.mode,
        snapshots: vec![Snapshot { name, lsn: exported.lsn, by: None }],
        holder: Some(spec.application_name()),
        range_blocks: spec.range_blocks,
        tables,
        loaded: false,
        published: catalog.relations.iter().map(|relation| relation.qualified()).collect(),
        again: Vec::new(),
        planned,
        later: Vec::new(),
        renamed: None,
        renames: Vec::new(),
        called: [].into(),
    };
    Ok(Held { keepers: vec![keeper], report: Report { load, catalog } })
}

/// What the tables are under their locks.
struct Found {
    catalog: Catalog,
    /// Those that the snapshot sees otherwise.
    changed: BTreeSet<u32>,
    /// What all of them are defined as in the snapshot, and now.
    planned: Option<Definitions>,
    now: Definitions,
}

/// Without the lock an `ALTER … TYPE` between snapshot and COPY makes the snapshot read
/// an empty table, for a rewritten table holds only rows that are newer than it.
async fn lock_and_compare(
    spec: &HolderSpec,
    watch: &Client,
    keeper: &Client,
) -> Result<Found, SnapshotError> {
    let mut locked = BTreeSet::new();
    let now = loop {
        let now = Catalog::read(watch, &spec.publications).await?;
        let leaves = now.tables.iter().map(|t| (t.oid, t.schema.clone(), t.table.clone()));
        let roots = now.relations.iter().map(|r| (r.id, r.schema.clone(), r.table.clone()));
        let missing: Vec<_> = leaves.chain(roots).filter(|table| !locked.contains(table)).collect();
        if missing.is_empty() {
            break now;
        }
        for table in missing {
            lock(keeper, &table.1, &table.2).await?;
            locked.insert(table);
        }
    };
    let then = Catalog::read(keeper, &spec.publications).await?;
    let (planned, defined) = (then.definitions(keeper).await?, now.definitions(watch).await?);
    let changed = now.changed_since(&then);
    Ok(Found { changed, catalog: now, planned: Some(planned), now: defined })
}

/// Locks a table against DDL; one that was dropped a moment ago is none of ours. The
/// savepoint keeps the transaction, and with it the snapshot, in that case.
async fn lock(keeper: &Client, schema: &str, table: &str) -> Result<(), SourceError> {
    let doing = format!("LOCK TABLE {schema}.{table} IN ACCESS SHARE MODE");
    let sql = |error| SourceError::sql(&doing, &error);
    let statement = format!(
        "SAVEPOINT one; LOCK TABLE ONLY {}.{} IN ACCESS SHARE MODE; RELEASE one",
        identifier(schema),
        identifier(table)
    );
    match keeper.batch_execute(&statement).await {
        Ok(()) => Ok(()),
        Err(error) if error.code().is_some_and(|code| matches!(code.code(), "42P01" | "3F000")) => {
            keeper.batch_execute("ROLLBACK TO one; RELEASE one").await.map_err(sql)
        }
        Err(error) => Err(sql(error)),
    }
}

/// The session whose transaction the making of a slot waits for.
async fn blocking(watch: &Client, slot: &SlotName) -> Result<Option<Blocking>, SourceError> {
    let row = watch
        .query_opt(
            "SELECT b.pid, coalesce(extract(epoch FROM now() - b.xact_start), 0)::int8, \
                    coalesce(b.application_name, '') \
             FROM pg_stat_activity w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) x (pid) \
             JOIN pg_stat_activity b ON b.pid = x.pid \
             WHERE w.application_name = $1 AND w.usename = current_user \
             ORDER BY b.xact_start NULLS LAST LIMIT 1",
            &[&session_name(slot)],
        )
        .await
        .map_err(|error| SourceError::sql("asking what slot creation waits for", &error))?;
    Ok(row.map(|row| Blocking {
        pid: row.get(0),
        age_s: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        application: row.get(2),
    }))
}

/// Ends a session that is making a slot. A closed socket alone would not: the server
/// notices that only once the slot is made, and then it would stay. Nor is it enough to tell
/// it: until it is gone its half-made slot stands in the way of the next one.
async fn cancel(watch: &Client, slot: &SlotName) {
    let end_ms = i64::try_from(END.as_millis()).unwrap_or(i64::MAX);
    let ended = watch
        .execute(
            "SELECT pg_terminate_backend(pid, $2) FROM pg_stat_activity \
             WHERE application_name = $1 AND usename = current_user",
            &[&session_name(slot), &end_ms],
        )
        .await;
    if let Err(error) = ended {
        tracing::warn!(error = %SourceError::sql("ending slot creation", &error), slot = %slot,
            "a slot may be left over");
    }
}

/// What was made only now is dropped; a later snapshot's slot goes with its session.
async fn undo(spec: &HolderSpec, watch: &Client, slot: &SlotName) {
    if spec.later {
        return;
    }
    if let Err(error) = adopt::drop_slot(watch, slot, false).await {
        tracing::warn!(%error, slot = %slot, "a slot may be left over");
    }
}

/// Holds until a session is ended (the load is finished, or was aborted) or the slot is
/// gone, for then nobody needs the snapshot and it must not hold back VACUUM.
async fn keep_until_it_ends(held: Held, slot: &SlotName) -> Result<(), SnapshotError> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        for keeper in &held.keepers {
            let slots = keeper
                .query_opt(
                    "SELECT FROM pg_replication_slots WHERE slot_name = $1::text::name",
                    &[&slot.as_str()],
                )
                .await;
            match slots {
                Ok(Some(_)) => {}
                Ok(None) => {
                    tracing::info!(slot = %slot, "the slot is gone, its snapshot is let go");
                    return Ok(());
                }
                Err(_) => {
                    tracing::info!(slot = %slot, "the snapshot was let go");
                    return Ok(());
                }
            }
        }
    }
}
