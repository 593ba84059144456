//! Rows that were set aside: an operator who has some delivered again, forgets others and
//! makes room where there is none, and the oracle. In these simulations every row that a
//! chain drops is set aside, so what happened in the database says which letters there have
//! to be. Each is there once, whatever crashed, and made by the chain that let the rest of
//! its transaction through; and a row that is delivered again is in the stream once, in
//! place of its letter, or has a new letter instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kasho::position::{EpochPosition, Position};
use kasho::sink::dead::StoredLetter;
use kasho::sink::entry::{Content, Entry, Field, RawEntry};
use kasho::sink::id::{Id, Lane};
use kasho::source::retries::{Again, Claim, Told};
use kasho_plugin_sdk::Op;

use crate::driver::Run;
use crate::log::Happened;
use crate::process::Memory;
use crate::random::Random;
use crate::stations::Rule;

/// A transaction, or a message at the same address.
type Key = (u64, bool);

/// What an operator has done about letters.
#[derive(Default)]
pub(crate) struct Desk {
    words: u64,
    deliveries: Vec<Delivery>,
    /// Where each message that was written stands for which row.
    origins: BTreeMap<Position, Position>,
    /// Which processes were asked for a row: each knows of its own deliveries only.
    asked: BTreeMap<Position, BTreeSet<u64>>,
    /// Rows whose letters may have been closed.
    forgotten: BTreeSet<Position>,
    /// Redis has lost writes: a row may have come, and its letter be there again.
    pub(crate) lossy: bool,
}

/// A letter that a process delivers again.
struct Delivery {
    memory: Arc<Memory>,
    word: String,
    origin: Position,
    _claim: Claim,
}

/// Where a letter stands.
fn stands(letter: &StoredLetter) -> Option<Position> {
    letter.position.parse().ok().map(|at: EpochPosition| at.position)
}

impl Desk {
    /// Where the row stood at first.
    fn origin(&self, at: Position) -> Position {
        self.origins.get(&at).copied().unwrap_or(at)
    }

    /// Whether an entry is a row that came again.
    pub(crate) fn stands_again(&self, id: Id) -> bool {
        self.origins.contains_key(&id.position(Lane::Changes))
    }
}

impl Run {
    /// What an operator does now and then.
    pub(crate) async fn look_after_letters(&mut self, random: &mut Random) {
        self.dead.deliveries.retain(|delivery| {
            let late = random.often(50);
            let end = late || delivery.ended();
            if end {
                delivery.memory.retries.forget(&delivery.word);
            }
            !end
        });
        match random.below(16) {
            0..3 => {
                for _ in 0..random.within(1, 3) {
                    self.deliver(random).await;
                }
            }
            3 => self.write_again(),
            4 if random.often(300) => {
                let Some(letters) = self.world.try_letters().await else { return };
                let some = letters.len().min(usize::try_from(random.within(1, 5)).unwrap());
                self.forget(&letters[..some]).await;
            }
            5 => self.make_room().await,
            _ => {}
        }
    }

    /// `kasho dead retry` of some letter.
    pub(crate) async fn deliver(&mut self, random: &mut Random) {
        let Some(memory) = self.memory() else { return };
        let Some(letters) = self.world.try_letters().await else { return };
        if letters.is_empty() {
            return;
        }
        let letter = &letters[usize::try_from(random.below(letters.len() as u64)).unwrap()];
        let Some(at) = stands(letter) else { return };
        let (id, published) = (letter.id.to_string(), memory.status.get().position);
        let Some(claim) = memory.retries.claim(&id, published) else {
            return self.world.trace.met("letter asked for again");
        };
        let (word, origin) = (format!("word {}", self.dead.words), self.dead.origin(at));
        self.dead.words += 1;
        let pid = self.pid();
        self.dead.asked.entry(origin).or_default().insert(pid);
        memory.retries.expect(&word, again(id));
        self.dead.deliveries.push(Delivery { memory, word, origin, _claim: claim });
        self.write(self.dead.deliveries.len() - 1);
    }

    /// Messages that nobody heard of are written again.
    pub(crate) fn write_again(&mut self) {
        for at in 0..self.dead.deliveries.len() {
            self.world.trace.met("letter written twice");
            self.write(at);
        }
    }

    fn write(&mut self, at: usize) {
        let Delivery { word, origin, .. } = &self.dead.deliveries[at];
        let lsn = self.world.work(|log| log.retry(word, *origin));
        self.dead.origins.insert(Position::Wal { commit_lsn: lsn, ordinal: 0 }, *origin);
    }

    async fn forget(&mut self, letters: &[StoredLetter]) {
        let origins = letters.iter().filter_map(stands).map(|at| self.dead.origin(at));
        let origins: Vec<Position> = origins.collect();
        self.dead.forgotten.extend(origins);
        self.world.trace.met("letter forgotten");
        self.world.forget(letters).await;
    }

    /// Forgets all letters if there is no room for another.
    pub(crate) async fn make_room(&mut self) {
        if self.pauses().iter().any(|why| why.contains("redis.dead_letters"))
            && let Some(letters) = self.world.try_letters().await
        {
            self.world.trace.met("no room for letters");
            self.forget(&letters).await;
        }
    }
}

impl Delivery {
    /// Its row, if it was found, is published.
    fn ended(&self) -> bool {
        let published = self.memory.status.get().position;
        match self.memory.retries.told(&self.word) {
            Some(Told::Read(lsn) | Told::Gone(lsn)) => {
                let there = Position::Wal { commit_lsn: lsn, ordinal: 0 };
                published.is_some_and(|published| published >= there)
            }
            Some(Told::Failed(_)) => true,
            None => false,
        }
    }
}

fn again(letter: String) -> Again {
    let (columns, values) = (Vec::new(), Vec::new());
    Again { letter, oid: 0, columns, values, op: Op::Insert, delete: false, closes: true }
}

/// What became of one row that was set aside, or comes again.
#[derive(Default)]
struct Row {
    letters: Vec<Position>,
    /// In the stream, where it stood at first or where it came again.
    entries: Vec<Position>,
    /// It has come again, as either.
    again: bool,
}

/// Everything that is wrong with the letters of a stream of which everything `through` a
/// position has to be there.
pub(crate) fn check(
    happened: &[Happened],
    raw: &[RawEntry],
    (letters, desk): (&[StoredLetter], &Desk),
    through: Position,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found: BTreeMap<Key, BTreeMap<u64, &str>> = BTreeMap::new();
    let mut rows: BTreeMap<Position, Row> = BTreeMap::new();
    for letter in letters {
        let Some(at @ Position::Wal { commit_lsn, ordinal }) = stands(letter) else {
            wrong.push(format!("a letter at {}", letter.position));
            continue;
        };
        let of = found.entry((commit_lsn.0, ordinal != 0)).or_default();
        if of.insert(ordinal, &letter.reason).is_some() {
            wrong.push(format!("two letters at {}", letter.position));
        }
        let row = rows.entry(desk.origin(at)).or_default();
        row.letters.push(at);
        row.again |= desk.origins.contains_key(&at);
        if desk.origins.contains_key(&at) != letter.again.is_some() {
            wrong.push(format!("the letter at {} replaces {:?}", letter.position, letter.again));
        }
    }
    let published = published(raw, desk, &mut rows);
    let settled =
        |at: Position| desk.forgotten.contains(&at) || rows.get(&at).is_some_and(|row| row.again);
    for happened in happened {
        let key = (happened.lsn.0, happened.xid != 0);
        let letters = found.remove(&key).unwrap_or_default();
        if happened.retry.is_some() {
            wrong.extend(retried(happened, &letters, published.contains_key(&key)));
            continue;
        }
        let there = (&letters, published.get(&key));
        let fits = |rule: &Rule| fits(*rule, happened, there, &settled, through);
        let untold = happened.passed.is_empty() && letters.is_empty();
        if !untold && !happened.passed.iter().any(fits) {
            wrong.push(format!(
                "letters {letters:?} of the transaction {} at {} are not what any of {:?} drops",
                happened.xid, happened.lsn, happened.passed
            ));
        }
    }
    wrong.extend(found.keys().map(|key| format!("letters of {key:?}, which never happened")));
    let by_many = |at| desk.asked.get(at).is_some_and(|processes| processes.len() > 1);
    let often =
        rows.iter().filter(|(_, row)| !desk.lossy && row.letters.len() + row.entries.len() > 1);
    let often = often.filter(|(at, _)| !by_many(*at));
    wrong.extend(often.map(|(at, row)| {
        let Row { letters, entries, .. } = row;
        let times = entries.len();
        format!("the row at {at} comes {times} times, {entries:?}, and has letters {letters:?}")
    }));
    wrong
}

/// What chains left in the rows of each transaction; notes where each row stands.
fn published(
    raw: &[RawEntry],
    desk: &Desk,
    rows: &mut BTreeMap<Position, Row>,
) -> BTreeMap<Key, String> {
    let mut published: BTreeMap<Key, String> = BTreeMap::new();
    for raw in raw {
        let mark = Entry::decode(raw, Lane::Changes).ok().and_then(|entry| mark(&entry));
        published
            .entry((raw.id.high, raw.id.low != 0))
            .or_default()
            .push_str(&mark.unwrap_or_default());
        if raw.field("o") == Some(b"commit") {
            continue;
        }
        let at = raw.id.position(Lane::Changes);
        let row = rows.entry(desk.origin(at)).or_default();
        row.entries.push(at);
        row.again |= desk.origins.contains_key(&at);
    }
    published
}

/// Of a row that was to come again: it came, or failed again, or nobody expected it.
fn retried(happened: &Happened, letters: &BTreeMap<u64, &str>, published: bool) -> Option<String> {
    let at = Position::Wal { commit_lsn: happened.lsn, ordinal: 0 };
    let drops =
        |made: &str| happened.passed.iter().any(|rule| !rule.keeps(at) && rule.digest() == made);
    match letters.get(&0) {
        Some(_) if published => Some(format!("the row that came again at {at} has a letter, too")),
        Some(made) if !drops(made) => Some(format!("nobody made the letter at {at}")),
        _ => None,
    }
}

/// Whether these are the letters that a chain makes of a transaction.
fn fits(
    rule: Rule,
    happened: &Happened,
    (letters, published): (&BTreeMap<u64, &str>, Option<&String>),
    settled: &impl Fn(Position) -> bool,
    through: Position,
) -> bool {
    let at = |ordinal| Position::Wal { commit_lsn: happened.lsn, ordinal };
    let whole = at(if happened.xid == 0 { 0 } else { Position::LAST }) <= through;
    // What is dropped at the beginning of a transaction waits for its first entry.
    let told = |ordinal| whole || (published.is_some() && at(ordinal) <= through);
    let dropped: Vec<u64> =
        happened.events.iter().map(|e| e.ordinal).filter(|n| !rule.keeps(at(*n))).collect();
    let same = letters.values().all(|made| *made == rule.digest());
    let one = published.is_none_or(|marks| marks.replace(&rule.digest(), "").is_empty());
    let there =
        |ordinal: &u64| letters.contains_key(ordinal) || settled(at(*ordinal)) || !told(*ordinal);
    same && one
        && letters.keys().all(|ordinal| dropped.contains(ordinal))
        && dropped.iter().all(there)
}

/// What the chain left in the row.
fn mark(entry: &Entry) -> Option<String> {
    let Content::Row { new, old, .. } = &entry.content else { return None };
    match new.as_ref().or(old.as_ref())?.get(1)? {
        Field::Text(text) => Some(text.to_string()),
        _ => None,
    }
}
