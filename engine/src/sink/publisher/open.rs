//! Becoming the writer: read what is there, compare it with what PostgreSQL was told,
//! raise the token, and wait until that is durable. Only then is what was read true:
//! nobody else can write any more, and a durability wait speaks for this connection.
//!
//! The token may only be raised over the one that was there *before* the slot was taken:
//! another one now is of somebody who took the slot after us, so it is no longer ours, as
//! far as we know (a process that was frozen in between does not notice). Raising it once
//! more would end the rightful writer.
//!
//! What can go wrong: the slot was lost meanwhile, Redis lost data or is another one, the checkpoint belongs to
//! another server or slot, a promotion took back what was published, Redis evicts keys.

use std::fmt;
use std::sync::Arc;

use super::{Pending, Publisher};
use crate::position::{Epoch, Lsn, Position};
use crate::sink::config::{Config, Share};
use crate::sink::entry::Entry;
use crate::sink::error::SinkError;
use crate::sink::id::{Id, Lane};
use crate::sink::status::Status;
use crate::sink::store::{
    Answer, Backend, Checkpoint, Feed, Fence, Guard, Inspection, Most, Server, StoreError,
};

/// The old writer may still be emptying its queue when the new one reads; after this
/// many tries something else is wrong.
const ATTEMPTS: usize = 32;
/// Transactions are counted up to here for the message about a promotion.
const COUNTED: u64 = 10_000;

/// Tells one writer's token from every other's, also from one whose rise a fail-over
/// took back: counting alone would give the same number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterToken(pub u64);

impl WriterToken {
    /// A token that nobody else has.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<WriterToken, getrandom::Error> {
        getrandom::u64().map(WriterToken)
    }

    /// The text after that of `before`.
    pub(crate) fn after(self, before: &str) -> String {
        let count = before.split('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        format!("{}-{:016x}", count.saturating_add(1), self.0)
    }
}

/// The end of a timeline: an entry of `TIMELINE_HISTORY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The timeline that ended.
    pub timeline: u32,
    /// The first LSN that is no longer of it.
    pub at: Lsn,
}

impl Promotion {
    /// Whether something lies beyond it, so that the promoted server never had it:
    /// `confirmed` is where a record ends, `last` where the newest published commit (or
    /// message) begins. A record that begins *at* the switch point is beyond it, one that
    /// ends there is not.
    #[must_use]
    pub fn parts(&self, confirmed: Lsn, last: Lsn) -> bool {
        confirmed > self.at || last >= self.at
    }
}

/// What the holder of the slot knows when it takes over.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its slot.
    pub slot: String,
    /// `IDENTIFY_SYSTEM`: systemid.
    pub system_id: String,
    /// `IDENTIFY_SYSTEM`: timeline.
    pub timeline: u32,
    /// Every end of a timeline in the server's history; empty on timeline 1.
    pub history: Vec<Promotion>,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed_flush: Lsn,
    /// This process's token.
    pub token: WriterToken,
    /// Go on although Redis does not hold what PostgreSQL was told.
    pub accept_gap: bool,
}

/// The first half of a take-over, to be made before the slot is taken: whose the stream
/// was then.
#[derive(Debug)]
pub struct Claim<S> {
    store: S,
    before: Option<(Epoch, String)>,
    system_id: Option<String>,
}

impl<S: Backend> Claim<S> {
    /// Looks who writes now.
    ///
    /// # Errors
    /// The server's.
    pub async fn new(mut store: S) -> Result<Claim<S>, SinkError> {
        let found = store.inspect().await?.checkpoint;
        let system_id = found.as_ref().map(|stored| stored.system_id.clone());
        let before = found.map(|stored| (stored.epoch, stored.writer));
        Ok(Claim { store, before, system_id })
    }

    /// The system that the stream is of, if there is one.
    #[must_use]
    pub fn system_id(&self) -> Option<&str> {
        self.system_id.as_deref()
    }

    /// Whether the stream is still whose it was.
    fn holds(&self, found: &Checkpoint) -> Result<(), SinkError> {
        let same =
            |(epoch, writer): &(Epoch, String)| *epoch == found.epoch && *writer == found.writer;
        match self.before.as_ref().is_none_or(same) {
            true => Ok(()),
            false => Err(overtaken(&found.writer, &found.epoch.0.to_string())),
        }
    }
}

fn overtaken(writer: &str, epoch: &str) -> SinkError {
    SinkError::Overtaken { writer: writer.to_owned(), epoch: epoch.to_owned() }
}

/// Where a publisher goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The checkpoint as it now stands; digests and generation are the last writer's.
    pub checkpoint: Checkpoint,
    /// Everything up to here is published or was dropped.
    pub published: Position,
    /// PostgreSQL may have been told this, and no more.
    pub confirmed: Lsn,
    /// A transaction that is published in part: it has to be finished with the options
    /// and the chain in the checkpoint.
    pub unfinished: Option<Lsn>,
}

impl<S: Backend> Publisher<S> {
    /// Takes over the changes stream of the current epoch. The slot must have been taken
    /// after the claim was made.
    ///
    /// # Errors
    /// See [`SinkError`]; nothing was changed unless the token was raised.
    pub async fn open(
        mut claim: Claim<S>,
        config: &Config,
        opening: &Opening,
        status: Status,
    ) -> Result<(Publisher<S>, Opened), SinkError> {
        let server = claim.store.server().await?;
        check_server(&server)?;
        let checkpoint = take_over(&mut claim, opening, config.budget.changes).await?;
        let store = claim.store;
        let guard = Guard {
            epoch: checkpoint.epoch,
            writer: checkpoint.writer.clone(),
            last: checkpoint.last,
        };
        let mut publisher = Publisher::new(store, guard, config, status, server.max_bulk_len);
        let word = checkpoint.mark.split(' ').next();
        word.unwrap_or_default().clone_into(&mut publisher.mark);
        let (durability, timeout) = (publisher.durability, publisher.durability_timeout);
        publisher.store.durable(durability, timeout).await?;
        if let Some(before) = checkpoint.epoch.0.checked_sub(1).filter(|n| *n > 0) {
            publisher.store.discard(Epoch(before)).await?;
        }
        publisher.status.update(|figures| {
            figures.position = Some(checkpoint.position);
            figures.confirmed = checkpoint.confirmed;
            figures.warning = (!server.persistent).then(|| NO_DISK.to_owned());
        });
        if !server.persistent {
            tracing::warn!("{NO_DISK}");
        }
        publisher.stored = checkpoint.position;
        publisher.progress = checkpoint.position;
        publisher.confirmed = checkpoint.confirmed;
        publisher.generation = checkpoint.generation;
        publisher.close_cut().await?;
        let unfinished = Some(Lsn(checkpoint.last.high)).filter(|lsn| publisher.is_open(*lsn));
        let (published, confirmed) = (checkpoint.position, checkpoint.confirmed);
        Ok((publisher, Opened { checkpoint, published, confirmed, unfinished }))
    }

    /// Ends a transaction whose tail was lost and will not be sent again, because the gap was
    /// accepted: readers would halt where the next one begins. Looked for at every start, for
    /// the one that accepted may not have come so far.
    async fn close_cut(&mut self) -> Result<(), SinkError> {
        let last = self.guard.last;
        let lsn = Lsn(last.high);
        if last.low == 0 || self.progress < Position::after(lsn) {
            return Ok(());
        }
        let newest = self.store.before(self.guard.epoch, Lane::Changes, last).await?;
        let Some(raw) = newest.filter(|raw| raw.id == last && !raw.closes()) else {
            return Ok(());
        };
        let entry = Entry::decode(&raw, Lane::Changes)?;
        tracing::warn!(%lsn, "the rest of this transaction is lost: it ends where it was cut");
        self.encoding.commit(entry.xid, entry.commit_us, &mut self.data);
        self.pending.push(Pending {
            id: Id { high: last.high, low: last.low + 1 },
            op: "commit",
            table: Arc::from(""),
            end: self.data.len(),
            last: true,
            before: self.stored,
            mark: None,
        });
        self.send(1, self.confirmed).await
    }
}

const NO_DISK: &str = "Redis keeps nothing on disk: when it restarts, everything published is lost \
                       and a new bootstrap is needed; set appendonly yes (or save)";

/// Rules that hold whatever is stored.
pub(crate) fn check_server(server: &Server) -> Result<(), SinkError> {
    if !server.primary {
        return Err(StoreError::ReadOnly.into());
    }
    if server.policy != "noeviction" {
        return Err(SinkError::Evicting { policy: server.policy.clone() });
    }
    Ok(())
}

/// Reads, checks and fences until the old writer did nothing in between.
async fn take_over<S: Backend>(
    claim: &mut Claim<S>,
    opening: &Opening,
    budget: Share,
) -> Result<Checkpoint, SinkError> {
    let mut seen = (String::new(), String::new());
    for _ in 0..ATTEMPTS {
        let found = claim.store.inspect().await?;
        found.checkpoint.as_ref().map_or(Ok(()), |stored| claim.holds(stored))?;
        let mut checkpoint = check(&mut claim.store, &found, opening).await?;
        let Some(stored) = &found.checkpoint else {
            return Err(lost("there is no checkpoint".to_owned()));
        };
        checkpoint.writer = opening.token.after(&stored.writer);
        checkpoint.budget = budget.to_string();
        let fence = Fence {
            epoch: checkpoint.epoch,
            writer: stored.writer.clone(),
            last: stored.last.to_string(),
            position: stored.position.to_string(),
            top: found.changes,
            fields: checkpoint.fields(),
        };
        match claim.store.fence(&fence).await? {
            Answer::Done => return Ok(checkpoint),
            Answer::Fenced { writer, epoch } => return Err(overtaken(&writer, &epoch)),
            Answer::Moved { top, last } => seen = (top, last),
            Answer::Full { .. } => {}
        }
    }
    let (top, last) = seen;
    Err(SinkError::Moved { lane: Lane::Changes, top, last, expected: Id::ZERO })
}

fn lost(found: String) -> SinkError {
    SinkError::LostData { found }
}

/// Compares what is stored with what PostgreSQL says, and answers the checkpoint to
/// go on with.
async fn check<S: Feed>(
    store: &mut S,
    found: &Inspection,
    opening: &Opening,
) -> Result<Checkpoint, SinkError> {
    let Some(stored) = &found.checkpoint else {
        return Err(lost("there is no checkpoint, so nothing to go on from".to_owned()));
    };
    for (what, stored, found) in
        [("system", &stored.system_id, &opening.system_id), ("slot", &stored.slot, &opening.slot)]
    {
        if stored != found {
            let (stored, found) = (stored.clone(), found.clone());
            return Err(SinkError::ForeignCheckpoint { what, stored, found });
        }
    }
    let mut checkpoint = stored.clone();
    if let Some(gap) = gap(stored, found.changes, opening.confirmed_flush) {
        if !opening.accept_gap {
            return Err(lost(gap));
        }
        tracing::warn!(%gap, "accepting a gap in the published changes");
        let told = opening.confirmed_flush.max(stored.confirmed);
        checkpoint.last = found.changes;
        checkpoint.confirmed = told;
        // What is stored further on was not yet told to PostgreSQL, and comes again.
        checkpoint.position = Id::of(before(told)).max(found.changes).position(Lane::Changes);
    }
    if stored.timeline != opening.timeline {
        check_timeline(store, &checkpoint, opening).await?;
        checkpoint.timeline = opening.timeline;
        checkpoint.position = rewound(&checkpoint);
    }
    checkpoint.position = resumed(checkpoint.position, checkpoint.last);
    Ok(checkpoint)
}

/// Published is published, whatever the position says. But where the first rows of a
/// transaction were all dropped, nothing of it is, and nobody would be held to the chain
/// that dropped them: it is begun anew, so that one chain decides about all of it.
fn resumed(position: Position, last: Id) -> Position {
    let published = last.position(Lane::Changes);
    match position {
        Position::Wal { commit_lsn, ordinal }
            if (1..Position::LAST).contains(&ordinal)
                && (commit_lsn.0 != last.high || last.low == 0) =>
        {
            published.max(Position::Wal { commit_lsn, ordinal: 0 })
        }
        _ => published.max(position),
    }
}

/// Rule: the stream ends where the checkpoint says, and PostgreSQL was told no more
/// than the checkpoint says.
fn gap(stored: &Checkpoint, top: Id, flushed: Lsn) -> Option<String> {
    if top != stored.last {
        let (epoch, last) = (stored.epoch.0, stored.last);
        return Some(format!(
            "the changes stream of epoch {epoch} ends at {top}, its checkpoint at {last}"
        ));
    }
    (flushed > stored.confirmed).then(|| {
        let told = stored.confirmed;
        format!("PostgreSQL was told {flushed}, the checkpoint holds {told}")
    })
}

/// Rule: after a promotion, go on only if everything published lies before it.
async fn check_timeline<S: Feed>(
    store: &mut S,
    checkpoint: &Checkpoint,
    opening: &Opening,
) -> Result<(), SinkError> {
    let (stored, found) = (checkpoint.timeline, opening.timeline);
    let way = || opening.history.iter().filter(|p| p.timeline >= stored && p.timeline < found);
    if found < stored || !way().any(|p| p.timeline == stored) {
        return Err(SinkError::NoHistory { found, stored });
    }
    let (confirmed, last) = (checkpoint.confirmed, Lsn(checkpoint.last.high));
    let parts = |p: &&Promotion| p.parts(confirmed, last);
    let Some(promotion) = way().filter(parts).min_by_key(|p| p.at) else { return Ok(()) };
    let reached = confirmed.max(last);
    let (switch, timeline) = (promotion.at, promotion.timeline);
    let transactions = count_after(store, checkpoint.epoch, switch).await?;
    Err(SinkError::Promoted { transactions, switch, timeline, reached })
}

/// Transactions in the stream that committed at or after `lsn`.
async fn count_after<S: Feed>(store: &mut S, epoch: Epoch, lsn: Lsn) -> Result<u64, SinkError> {
    let mut after = Id::of(before(lsn));
    let (mut count, mut newest) = (0, None);
    while count < COUNTED {
        let most = Most { entries: 100, bytes: 1 << 20 };
        let page = store.page(epoch, Lane::Changes, after, most).await?;
        let Some(last) = page.entries.last() else { break };
        after = last.id;
        for entry in &page.entries {
            count += u64::from(newest != Some(entry.id.high));
            newest = Some(entry.id.high);
        }
    }
    Ok(count)
}

/// Without what was idle or dropped: on a new timeline those addresses are used again.
fn rewound(checkpoint: &Checkpoint) -> Position {
    let whole = Position::after(Lsn(checkpoint.last.high)).max(before(checkpoint.confirmed));
    checkpoint.position.min(whole)
}

/// The last position before a transaction or message at `lsn` could begin.
pub(super) fn before(lsn: Lsn) -> Position {
    match lsn.0.checked_sub(1) {
        Some(before) => Position::after(Lsn(before)),
        None => Position::Wal { commit_lsn: Lsn::ZERO, ordinal: 0 },
    }
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {} ended at {}", self.timeline, self.at)
    }
}
