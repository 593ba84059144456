//! What is known in each state, as it is stored. Plain data: nothing can go wrong here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::passed::Passed;
use crate::batch::{Rename, moved};
use crate::position::{Epoch, Lsn, Position};
use crate::transform::Run;

/// Where the service stands; persisted as versioned JSON in `{kasho}:state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "UPPERCASE")]
pub enum Phase {
    /// Ready to begin.
    Waiting(Waiting),
    /// The slot exists; changes are captured while the initial data is loaded.
    Accumulating(Load),
    /// Normal operation.
    Streaming(Streaming),
}

/// What is kept in WAITING.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Number of the last bootstrap, 0 before the first: the next one counts on from it.
    pub last_epoch: u64,
    /// Why the last attempt ended here, if it did not end well.
    pub last_error: Option<String>,
}

/// Who brings the rows that are already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadMode {
    /// The engine copies the tables from the snapshot itself.
    Direct,
    /// Somebody else writes the bootstrap stream (`pg-bootstrap-sync`).
    External,
    /// Nobody: the targets are filled by other means.
    None,
}

impl LoadMode {
    /// The word used in configuration and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LoadMode::Direct => "direct",
            LoadMode::External => "external",
            LoadMode::None => "none",
        }
    }
}

/// An exported snapshot and the LSN from which on the slot's changes complete it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// For `SET TRANSACTION SNAPSHOT`.
    pub name: String,
    /// Changes that commit below it are in the snapshot, all others are not.
    #[serde(with = "super::stored::lsn")]
    pub lsn: Lsn,
    /// What was in force before it was taken, or before anything that was read from it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Run>,
}

/// One table (a leaf partition counts as one) of the initial load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLoad {
    /// `pg_class.oid`.
    pub oid: u32,
    /// That of the relation that its rows are published as; 0 if nobody noted it.
    #[serde(default)]
    pub relation: u32,
    /// `schema.table`, quoted where SQL needs it.
    pub table: String,
    /// The name its rows carry: its own, or its root's (`publish_via_partition_root`).
    pub published_as: String,
    /// Index into [`Load::snapshots`]: the snapshot it is read at.
    pub snapshot: usize,
    /// `ctid` ranges it is cut into. Fixed at the start: a resumed load must cut alike.
    pub ranges: u32,
    /// Times it was begun, from 1. All partitions that go by one name count together.
    pub attempt: u32,
    /// Every range is published.
    pub done: bool,
    /// Rows published, once done; before that the progress fields in Redis know.
    pub rows: u64,
    /// Rows by the planner's estimate.
    pub rows_estimated: u64,
    /// Bytes on disk, TOAST included.
    pub bytes_estimated: u64,
    /// Tells one shape and storage of it from another: a table whose own differs later on
    /// was altered, rewritten or emptied meanwhile. Empty if nobody noted it.
    #[serde(default)]
    pub shape: String,
    /// Tells one definition of it from another. Empty if nobody noted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub definition: String,
    /// It was dropped, or left the publication, before it was loaded: nothing is read, and
    /// whatever an earlier attempt has published does not count.
    #[serde(default)]
    pub gone: bool,
}

/// What is kept in ACCUMULATING.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Number of this bootstrap.
    #[serde(with = "super::stored::epoch")]
    pub epoch: Epoch,
    /// The permanent slot.
    pub slot: String,
    /// Its consistent point.
    #[serde(with = "super::stored::lsn")]
    pub start_lsn: Lsn,
    /// Who loads.
    pub mode: LoadMode,
    /// The first is the slot's own; later ones are those of tables that had changed, or
    /// that were not loaded yet when the holder before was lost.
    pub snapshots: Vec<Snapshot>,
    /// `application_name` of the session that keeps the snapshots, if it is ours. None in
    /// a direct load that has not finished: another holder has to be made.
    pub holder: Option<String>,
    /// Blocks of a `ctid` range.
    pub range_blocks: u32,
    /// The tables, in the order they are begun.
    pub tables: Vec<TableLoad>,
    /// Every loader of the epoch has finished.
    pub loaded: bool,
    /// Everything that was published when the load was planned, by its published name.
    #[serde(default)]
    pub published: Vec<String>,
    /// Tables that are to be loaded once more when the rest is loaded, by published name.
    #[serde(default)]
    pub again: Vec<String>,
    /// What the tables are defined as where readers meet their rows: at the consistent point,
    /// or at the mark. None: nobody has noted it, as in what an older program has stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Definitions>,
    /// Tables that were made, altered or renamed since, by published name: rows of theirs would
    /// not fit what readers have there. They are loaded at a mark behind that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<String>,
    /// Of the names that are put off.
    #[serde(default, skip_serializing_if = "Called::is_empty")]
    pub called: Called,
    /// Commit and ordinal of the last rename that these names have followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<(u64, u64)>,
    /// Renames of schemas before which transactions may have begun that are still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renames: Vec<Renamed>,
}

/// By published name, the tables (`pg_class.oid`) and what tells their definitions apart.
pub type Definitions = BTreeMap<String, BTreeSet<(u32, String)>>;

/// Names that tables got by renames (commit LSN and ordinal) after it was found out that they are
/// put off: whoever has not come there means another table by them.
pub type Called = BTreeMap<String, (u64, u64)>;

/// The load point of a table whose rows come at a mark that is not published yet: until then
/// readers skip all of its changes.
pub const LATER: Lsn = Lsn(u64::MAX);

/// A schema, or a table alone, that has got another name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// Commit LSN and ordinal.
    pub at: (u64, u64),
    /// The name that it had. A schema's is not quoted; a table's is `schema.table`, quoted where
    /// SQL needs it.
    pub from: String,
    /// The name that it has from there on, likewise.
    pub to: String,
    /// It is a table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub table: bool,
}

impl Renamed {
    /// As the change at this position tells it.
    #[must_use]
    pub fn new(position: Position, rename: &Rename<'_>) -> Renamed {
        let at = match position {
            Position::Wal { commit_lsn, ordinal } => (commit_lsn.0, ordinal),
            Position::Bootstrap(_) => (0, 0),
        };
        match rename {
            Rename::Schema { from, to } => {
                let (from, to) = ((*from).to_owned(), (*to).to_owned());
                Renamed { at, from, to, table: false }
            }
            Rename::Table { from, to } => {
                Renamed { at, from: from.clone(), to: to.clone(), table: true }
            }
        }
    }

    /// The new name of a table, if it is this one, or one of this schema.
    #[must_use]
    pub fn moved(&self, table: &str) -> Option<String> {
        match self.table {
            true => (self.from == table).then(|| self.to.clone()),
            false => moved(table, (&self.from, &self.to)),
        }
    }
}

impl Phase {
    /// Tables that wait for a load at a mark that is not published yet, by published name.
    pub fn put_off(&self) -> impl Iterator<Item = &String> {
        let (own, again) = match self {
            Phase::Waiting(_) => (&[][..], None),
            Phase::Accumulating(load) => (&load.later[..], None),
            Phase::Streaming(streaming) => (&streaming.later[..], streaming.reload.as_ref()),
        };
        own.iter().chain(again.into_iter().flat_map(|reload| &reload.load.later))
    }
}

impl Load {
    /// Tables whose load point differs from the consistent point. Partitions that go by one
    /// name have one load point: a reader cannot tell their changes apart.
    #[must_use]
    pub fn load_points(&self) -> BTreeMap<String, Lsn> {
        let mut latest: BTreeMap<String, Lsn> = BTreeMap::new();
        for table in &self.tables {
            let lsn = self.load_lsn(table);
            if lsn > self.start_lsn {
                let at = latest.entry(table.published_as.clone()).or_default();
                *at = lsn.max(*at);
            }
        }
        latest.extend(self.later.iter().map(|table| (table.clone(), LATER)));
        latest
    }

    /// The load as it really stands, if not every table is among those that Redis holds
    /// `whole`: whoever said so may have died on the way, or Redis have lost what it had taken.
    #[must_use]
    pub fn unfinished(&self, whole: &BTreeMap<(u32, u32), u64>) -> Option<Load> {
        if self.loaded || self.mode != LoadMode::Direct {
            return None;
        }
        // An attempt that was given up does not count any more: its progress is forgotten.
        let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
        for table in &self.tables {
            let attempt = newest.entry(table.oid).or_default();
            *attempt = table.attempt.max(*attempt);
        }
        let mut next = self.clone();
        let counts =
            |table: &TableLoad| !table.gone && newest.get(&table.oid) == Some(&table.attempt);
        for table in next.tables.iter_mut().filter(|table| counts(table)) {
            let rows = whole.get(&(table.oid, table.attempt));
            (table.done, table.rows) = (rows.is_some(), rows.copied().unwrap_or(0));
        }
        let open = next.tables.iter().any(|table| !table.done);
        open.then_some(next)
    }

    /// Whether both read the same tables from the same snapshots.
    #[must_use]
    pub fn reads_as(&self, other: &Load) -> bool {
        let attempts = |load: &Load| -> Vec<(u32, u32)> {
            load.tables.iter().map(|table| (table.oid, table.attempt)).collect()
        };
        (self.epoch, &self.holder, &self.snapshots)
            == (other.epoch, &other.holder, &other.snapshots)
            && attempts(self) == attempts(other)
    }

    /// The LSN below which changes of `table` are in its loaded rows already.
    #[must_use]
    pub fn load_lsn(&self, table: &TableLoad) -> Lsn {
        self.snapshots.get(table.snapshot).map_or(self.start_lsn, |snapshot| snapshot.lsn)
    }
}

/// What is kept in STREAMING.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streaming {
    /// Number of the bootstrap.
    #[serde(with = "super::stored::epoch")]
    pub epoch: Epoch,
    /// The permanent slot.
    pub slot: String,
    /// Its consistent point.
    #[serde(with = "super::stored::lsn")]
    pub start_lsn: Lsn,
    /// Tables whose load point differs from the consistent point, with it.
    #[serde(with = "super::stored::lsns")]
    pub load_points: BTreeMap<String, Lsn>,
    /// Rows of the bootstrap stream.
    pub rows: u64,
    /// Entries that the changes stream received during ACCUMULATING.
    pub accumulated_changes: u64,
    /// Completed although the initial load had not finished.
    pub incomplete: bool,
    /// Tables whose rows are loaded, or are by other means, by published name. Empty in
    /// what an older program has stored: then nobody knows.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Tables whose rows the source has changed in a way that the stream does not bring, since
    /// they were loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<String>,
    /// Tables that have their rows at a mark to come, since they could not be loaded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<String>,
    /// Of the names that are put off.
    #[serde(default, skip_serializing_if = "Called::is_empty")]
    pub called: Called,
    /// Commit and ordinal of the last rename that these names have followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<(u64, u64)>,
    /// Renames of schemas before which transactions may have begun that are still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renames: Vec<Renamed>,
    /// Attempts at any table so far in this epoch.
    #[serde(default)]
    pub attempts: u32,
    /// Tables that are being loaded again.
    #[serde(default)]
    pub reload: Option<Box<Reload>>,
    /// By what tables were loaded last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
}

/// Tables that are loaded again while changes stream. First a mark is published in the
/// changes, then a snapshot is taken, which therefore is later than the mark; the rows go
/// to a section of the bootstrap stream, which every reader reads where it meets the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// The tables, by published name.
    pub tables: Vec<String>,
    /// The mark's word.
    pub nonce: String,
    /// The entry of the bootstrap stream that the section begins with.
    pub section: u64,
    /// Where the mark is published; zero as long as it is not.
    #[serde(with = "super::stored::lsn")]
    pub mark: Lsn,
    /// The load, as in ACCUMULATING.
    pub load: Load,
    /// Other names that tables have got since it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renames: Vec<Renamed>,
}

impl Reload {
    /// What a table of it is called by now. Its rows carry the name that it had at the snapshot.
    #[must_use]
    pub fn called(&self, table: &str) -> String {
        let read = self.load.snapshots.last().map_or(self.mark, |snapshot| snapshot.lsn);
        let since = self.renames.iter().filter(|renamed| renamed.at.0 >= read.0);
        since.fold(table.to_owned(), |name, renamed| renamed.moved(&name).unwrap_or(name))
    }

    /// The tables of which no part is loaded yet, by published name: nothing stands anywhere
    /// that rows of theirs, mapped otherwise, would have to be found by.
    #[must_use]
    pub fn unloaded(&self) -> Vec<String> {
        let loaded = |name: &&String| {
            let mut parts = self.load.tables.iter().filter(|table| table.published_as == **name);
            parts.any(|table| table.done && !table.gone)
        };
        self.tables.iter().filter(|name| !loaded(name)).cloned().collect()
    }
}

/// The name of a state, as every client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// See [`Phase::Waiting`].
    Waiting,
    /// See [`Phase::Accumulating`].
    Accumulating,
    /// See [`Phase::Streaming`].
    Streaming,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Waiting => "WAITING",
            State::Accumulating => "ACCUMULATING",
            State::Streaming => "STREAMING",
        })
    }
}

impl Phase {
    /// Its name.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Phase::Waiting(_) => State::Waiting,
            Phase::Accumulating(_) => State::Accumulating,
            Phase::Streaming(_) => State::Streaming,
        }
    }

    /// The epoch in force; none in WAITING.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Phase::Waiting(_) => None,
            Phase::Accumulating(load) => Some(load.epoch),
            Phase::Streaming(streaming) => Some(streaming.epoch),
        }
    }

    /// The slot's consistent point; none in WAITING.
    #[must_use]
    pub fn start_lsn(&self) -> Option<Lsn> {
        match self {
            Phase::Waiting(_) => None,
            Phase::Accumulating(load) => Some(load.start_lsn),
            Phase::Streaming(streaming) => Some(streaming.start_lsn),
        }
    }

    /// Renames of schemas that a stream which is opened now may need.
    #[must_use]
    pub fn renames(&self) -> &[Renamed] {
        match self {
            Phase::Waiting(_) => &[],
            Phase::Accumulating(load) => &load.renames,
            Phase::Streaming(streaming) => &streaming.renames,
        }
    }

    /// A direct load that has not finished and whose rows may be published now.
    #[must_use]
    pub fn open_load(&self) -> Option<&Load> {
        match self {
            Phase::Accumulating(load) => {
                Some(load).filter(|l| !l.loaded && l.mode == LoadMode::Direct)
            }
            Phase::Streaming(Streaming { reload: Some(reload), .. }) => {
                Some(&reload.load).filter(|_| reload.mark > Lsn::ZERO)
            }
            Phase::Waiting(_) | Phase::Streaming(_) => None,
        }
    }

    /// The published tables whose rows are loaded or are being loaded; none where that is
    /// not known.
    #[must_use]
    pub fn loaded_tables(&self) -> Option<&[String]> {
        let tables = match self {
            Phase::Waiting(_) => return None,
            Phase::Accumulating(load) => &load.published,
            Phase::Streaming(streaming) => &streaming.tables,
        };
        Some(tables.as_slice()).filter(|tables| !tables.is_empty())
    }

    /// The load that somebody else brings, while it is awaited.
    #[must_use]
    pub fn external_load(&self) -> Option<&Load> {
        match self {
            Phase::Accumulating(load) if load.mode == LoadMode::External => Some(load),
            _ => None,
        }
    }

    pub(super) fn last_epoch(&self) -> u64 {
        match self {
            Phase::Waiting(waiting) => waiting.last_epoch,
            Phase::Accumulating(load) => load.epoch.0,
            Phase::Streaming(streaming) => streaming.epoch.0,
        }
    }
}

impl Default for Phase {
    fn default() -> Self {
        Phase::Waiting(Waiting::default())
    }
}
