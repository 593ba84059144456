//! The words of a store: what is asked of it and what it answers. Plain data; what can
//! go wrong is a checkpoint that we did not write ([`Checkpoint::parse`]).

use std::collections::HashMap;
use std::time::Duration;

use super::StoreError;
use crate::position::{Epoch, Lsn, Position};
use crate::sink::config::Encoding;
use crate::sink::entry::RawEntry;
use crate::sink::id::Id;

/// How a guarded write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Everything was written.
    Done,
    /// Nothing was: the token or the epoch is another's.
    Fenced {
        /// The token found.
        writer: String,
        /// The epoch found.
        epoch: String,
    },
    /// Nothing was: the stream or the checkpoint does not end where the writer left it.
    Moved {
        /// The stream's last generated id.
        top: String,
        /// The last id in the guard hash.
        last: String,
    },
    /// Nothing was: there is no room for more dead letters.
    Full {
        /// How many there are.
        there: u64,
    },
}

/// What a writer expects to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The epoch it writes.
    pub epoch: Epoch,
    /// Its token.
    pub writer: String,
    /// The id it wrote last.
    pub last: Id,
}

/// One entry to append.
#[derive(Clone, Debug)]
pub struct NewEntry<'a> {
    /// Its id.
    pub id: Id,
    /// Field `o`.
    pub op: &'a str,
    /// Field `t`; left out if empty.
    pub table: &'a str,
    /// Field `d`.
    pub data: &'a [u8],
    /// Field `l`.
    pub last: bool,
}

/// Dead letters that are written and closed in the same step as an append.
#[derive(Clone, Debug, Default)]
pub struct Dead {
    /// New ones, encoded.
    pub letters: Vec<Vec<u8>>,
    /// Ids of those that are closed.
    pub closed: Vec<String>,
    /// So many there may be.
    pub limit: u64,
}

impl Dead {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.closed.is_empty()
    }
}

/// One atomic append to the changes stream.
#[derive(Clone, Debug)]
pub struct Append<'a> {
    /// Field `g` of every entry.
    pub generation: u64,
    /// In order; empty moves the checkpoint only.
    pub entries: Vec<NewEntry<'a>>,
    /// Checkpoint fields to set beside `last`, which follows the entries.
    pub fields: Vec<(&'static str, String)>,
    /// Rows that were set aside.
    pub dead: Dead,
}

/// One atomic append to the bootstrap stream.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// Field `g` of every entry.
    pub generation: u64,
    /// In order.
    pub entries: Vec<NewEntry<'a>>,
    /// Progress to store (`None` = forget the field).
    pub progress: Vec<(String, Option<String>)>,
    /// The lease from now on.
    pub lease: Duration,
    /// Rows that were set aside.
    pub dead: Dead,
}

/// The end of the load: the `end` entry and the phase in one step.
#[derive(Clone, Debug)]
pub struct Finish<'a> {
    /// The `end` entry.
    pub end: NewEntry<'a>,
    /// Field `g` of it.
    pub generation: u64,
    /// The state that must be found.
    pub old_state: Option<&'a [u8]>,
    /// The state to store.
    pub new_state: &'a [u8],
}

/// How a [`Finish`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// As any guarded write.
    Answer(Answer),
    /// Nothing was written: the state is another.
    OtherState(Option<Vec<u8>>),
}

/// The start of an epoch.
#[derive(Clone, Debug)]
pub struct Begin<'a> {
    /// The new number; none of its keys may exist.
    pub epoch: Epoch,
    /// The epoch that must be found; none in a Redis that never had one.
    pub before: Option<Epoch>,
    /// The whole checkpoint.
    pub fields: Vec<(&'static str, String)>,
    /// The state that must be found, and the one to store.
    pub state: Option<(Option<&'a [u8]>, &'a [u8])>,
    /// The catalogue to store.
    pub catalog: Option<&'a [u8]>,
}

/// How a [`Begin`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The epoch exists.
    Done,
    /// Keys of that number are there already.
    Taken,
    /// Another epoch, or another state, was found.
    Moved,
}

/// A take-over: what was read, and what to store if it still stands.
#[derive(Clone, Debug)]
pub struct Fence {
    /// Epoch of the changes stream.
    pub epoch: Epoch,
    /// The checkpoint's `writer` as read.
    pub writer: String,
    /// Its `last` as read.
    pub last: String,
    /// Its `position` as read: rows that are set aside move it, and no entry.
    pub position: String,
    /// The stream's last id as read.
    pub top: Id,
    /// Fields to set, `writer` among them.
    pub fields: Vec<(&'static str, String)>,
}

/// A loader's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leased {
    /// It has it: where the stream ends and what was stored with it.
    Yes {
        /// The last id of the bootstrap stream.
        last: Id,
        /// Progress fields.
        progress: HashMap<String, String>,
    },
    /// Somebody else has it.
    Held {
        /// Who.
        owner: String,
        /// For how long still.
        remaining_ms: u64,
    },
    /// The epoch is another.
    OtherEpoch(String),
    /// Stream and guard disagree: Redis lost data.
    Torn {
        /// The stream's last generated id.
        top: String,
        /// The last id in the guard hash.
        last: String,
    },
}

/// The checkpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The epoch of its streams.
    pub epoch: Epoch,
    /// Tells it from an epoch of the same number that another Redis, or this one before it was
    /// emptied, had; empty where an earlier version began.
    pub born: String,
    /// Token of the rightful writer.
    pub writer: String,
    /// The last entry's id.
    pub last: Id,
    /// Everything up to here is published or was dropped by the chain.
    pub position: Position,
    /// PostgreSQL was told no more than this.
    pub confirmed: Lsn,
    /// Replication slot.
    pub slot: String,
    /// `IDENTIFY_SYSTEM`'s systemid.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// Digest of the START_REPLICATION options.
    pub options: String,
    /// Chain generation of the newest batch.
    pub generation: u64,
    /// Digest of that chain.
    pub chain: String,
    /// Fingerprint of the pseudonymisation keys.
    pub key_fingerprint: String,
    /// How rows are written; none where an earlier version began.
    pub encoding: Option<Encoding>,
    /// Rows that an entry of the load holds at most; none where an earlier version began.
    pub load_rows: Option<u64>,
    /// The newest entry of the changes stream that was trimmed away.
    pub trim: Id,
    /// The same of the bootstrap stream.
    pub trim_bootstrap: Id,
    /// Word and LSN of the last mark in the changes stream; empty if there never was one.
    pub mark: String,
    /// The writer's budget of the changes stream, as `Share` prints it; empty where an earlier
    /// version wrote last.
    pub budget: String,
}

impl Checkpoint {
    /// The LSN of the mark with this word, if it is the last one published.
    #[must_use]
    pub fn marked(&self, nonce: &str) -> Option<Lsn> {
        let (word, lsn) = self.mark.split_once(' ')?;
        lsn.parse().ok().filter(|_| word == nonce)
    }

    /// The transaction that is published in part: its commit LSN.
    #[must_use]
    pub fn open_transaction(&self) -> Option<Lsn> {
        match self.position {
            Position::Wal { commit_lsn, ordinal }
                if (1..Position::LAST).contains(&ordinal)
                    && commit_lsn.0 == self.last.high
                    && self.last.low != 0 =>
            {
                Some(commit_lsn)
            }
            _ => None,
        }
    }

    /// As hash fields. `trim` and `mark` are left out: only trimming and marks write them.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("epoch", self.epoch.0.to_string()),
            ("born", self.born.clone()),
            ("writer", self.writer.clone()),
            ("last", self.last.to_string()),
            ("position", self.position.to_string()),
            ("confirmed", self.confirmed.to_string()),
            ("slot", self.slot.clone()),
            ("system_id", self.system_id.clone()),
            ("timeline", self.timeline.to_string()),
            ("options", self.options.clone()),
            ("generation", self.generation.to_string()),
            ("chain", self.chain.clone()),
            ("key_fingerprint", self.key_fingerprint.clone()),
            ("budget", self.budget.clone()),
        ];
        fields.extend(self.encoding.map(|encoding| ("encoding", encoding.name().to_owned())));
        fields.extend(self.load_rows.map(|rows| ("load_rows", rows.to_string())));
        fields
    }

    /// From hash fields; `Ok(None)` if there are none.
    ///
    /// # Errors
    /// A field that is missing or unreadable.
    pub fn parse(hash: &HashMap<String, String>) -> Result<Option<Checkpoint>, StoreError> {
        if hash.is_empty() {
            return Ok(None);
        }
        let text = |name: &str| {
            hash.get(name).map(String::as_str).ok_or_else(|| StoreError::bad_checkpoint(name))
        };
        Ok(Some(Checkpoint {
            epoch: Epoch(number(text("epoch")?, "epoch")?),
            born: text("born").unwrap_or_default().to_owned(),
            writer: text("writer")?.to_owned(),
            last: number(text("last")?, "last")?,
            position: number(text("position")?, "position")?,
            confirmed: number(text("confirmed")?, "confirmed")?,
            slot: text("slot")?.to_owned(),
            system_id: text("system_id")?.to_owned(),
            timeline: number(text("timeline")?, "timeline")?,
            options: text("options")?.to_owned(),
            generation: number(text("generation")?, "generation")?,
            chain: text("chain")?.to_owned(),
            key_fingerprint: text("key_fingerprint")?.to_owned(),
            encoding: match hash.get("encoding") {
                Some(name) => Some(number(name, "encoding")?),
                None => None,
            },
            load_rows: match hash.get("load_rows") {
                Some(rows) => Some(number(rows, "load_rows")?),
                None => None,
            },
            trim: number(text("trim").unwrap_or("0-0"), "trim")?,
            trim_bootstrap: number(text("trim_bootstrap").unwrap_or("0-0"), "trim_bootstrap")?,
            mark: text("mark").unwrap_or_default().to_owned(),
            budget: text("budget").unwrap_or_default().to_owned(),
        }))
    }
}

fn number<T: std::str::FromStr>(text: &str, name: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::bad_checkpoint(name))
}

impl StoreError {
    fn bad_checkpoint(name: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "the checkpoint in Redis has no valid field \"{name}\": it was not written by Kasho, \
             or by a later version"
        ))
    }
}

/// What stands in Redis, read in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The checkpoint, if there ever was an epoch.
    pub checkpoint: Option<Checkpoint>,
    /// Last generated id of the changes stream.
    pub changes: Id,
    /// Last generated id of the bootstrap stream.
    pub bootstrap: Id,
    /// Entries in the changes stream.
    pub entries: u64,
    /// Dead letters.
    pub letters: u64,
}

/// What kind of server this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Version as INFO says it.
    pub version: String,
    /// `maxmemory-policy`.
    pub policy: String,
    /// It is a primary.
    pub primary: bool,
    /// AOF or RDB snapshots are on.
    pub persistent: bool,
    /// Longest argument it takes, bytes.
    pub max_bulk_len: u64,
}

/// Memory, as sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the changes stream, estimated by the server.
    pub changes: u64,
    /// Bytes of the bootstrap stream.
    pub bootstrap: u64,
    /// Bytes in use altogether.
    pub used: u64,
    /// `maxmemory`; 0 = no limit.
    pub limit: u64,
    /// `maxmemory-policy`.
    pub policy: String,
    /// Entries of the changes stream.
    pub length: u64,
    /// The server's clock, Unix time in ms.
    pub now_ms: u64,
}

/// What to trim of an epoch beyond what every consumer acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Trim {
    /// The epoch.
    pub epoch: Epoch,
    /// Changes before the transaction of this id go whoever still wants them.
    pub ceiling: Option<Id>,
    /// Room is needed: what every consumer acknowledged of a transaction goes too, although
    /// the rest of it stays.
    pub pressed: bool,
}

/// The size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Entries at most.
    pub entries: usize,
    /// It ends with the entry that reaches so many bytes of names and values.
    pub bytes: usize,
}

/// So many entries, of any size.
impl From<usize> for Most {
    fn from(entries: usize) -> Most {
        Most { entries, bytes: usize::MAX }
    }
}

/// A page of a stream, read in one step with what says whether it is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The current epoch, if there is one.
    pub epoch: Option<Epoch>,
    /// The newest entry of the stream that was trimmed away.
    pub trim: Id,
    /// The newest `end` of the bootstrap stream; zero before the first.
    pub end: Id,
    /// Which loader's turn wrote which entries of the bootstrap stream, as [`Runs`] reads it.
    ///
    /// [`Runs`]: crate::sink::runs::Runs
    pub runs: String,
    /// The entries after the cursor.
    pub entries: Vec<RawEntry>,
}

/// A registered consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// Registered at this Unix time, ms.
    pub since_ms: u64,
    /// Last heard of at this Unix time, ms: by `Ack`, or as a member of its group; `None`:
    /// never.
    pub seen_ms: Option<u64>,
    /// Through here it has acknowledged the load.
    pub bootstrap: Id,
    /// Through here it has acknowledged the changes.
    pub changes: Id,
}

/// How an acknowledgement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// Stored (or it was further on already).
    Done,
    /// No consumer of that name is registered.
    Unregistered,
    /// The epoch is another.
    OtherEpoch,
}
