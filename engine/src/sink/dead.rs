//! Dead letters as they are stored: one JSON object each, in a stream of their own. They
//! hold no row, and of its key only what nobody reads without `dead_letter_key`.
//!
//! What can go wrong: a letter that we did not write, which is named by its id; and more
//! of them than `redis.dead_letters` allows, which holds up the writer until some are
//! closed: a row is never set aside without being written down.

use kasho_plugin_sdk::Op;
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use super::error::SinkError;
use super::id::Id;
use super::status::Status;
use super::store::{Dead, Registry, StoreError};
use crate::batch::{Closing, Letter};
use crate::position::{Epoch, EpochPosition, Lsn, Position};

/// Letters that are read at once.
const PAGE: usize = 1000;
/// How often is looked whether there is room again.
pub(super) const FULL_PAUSE: Duration = Duration::from_secs(1);

/// A letter, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLetter {
    /// Its id in the stream, which is no part of what is stored.
    #[serde(skip)]
    pub id: Id,
    /// Where the row stood; of one of the load, the entry after which it is missing.
    pub position: String,
    /// What had happened to the row.
    pub op: String,
    /// `pg_class.oid` of its table.
    pub oid: u32,
    /// The table's qualified name in the source.
    pub table: String,
    /// The binding.
    pub binding: String,
    /// The plugin's file.
    pub plugin: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Which of the plugin's texts; none if it failed on the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u16>,
    /// That text, or how it failed.
    pub reason: String,
    /// The row's key, sealed, in hexadecimal.
    pub key: String,
    /// The letter that this one has replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl StoredLetter {
    /// The sealed key.
    #[must_use]
    pub fn sealed(&self) -> Option<Vec<u8>> {
        let digits = self.key.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.map(byte).collect()
    }

    fn encode(letter: &Letter, epoch: Epoch, position: Position) -> Vec<u8> {
        let letter = letter.clone();
        let stored = StoredLetter {
            id: Id::ZERO,
            position: EpochPosition { epoch: Some(epoch), position }.to_string(),
            op: letter.op.name().to_owned(),
            oid: letter.oid,
            table: letter.table,
            binding: letter.binding,
            plugin: letter.plugin,
            sha256: letter.sha256,
            index: letter.index,
            reason: letter.reason,
            key: hex(&letter.key),
            again: letter.again,
        };
        // Texts and numbers into memory: there is nothing that could fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }
}

/// All letters, oldest first.
///
/// # Errors
/// The server's; one that we did not write.
pub async fn list<S: Registry>(store: &mut S) -> Result<Vec<StoredLetter>, SinkError> {
    let (mut all, mut after) = (Vec::new(), Id::ZERO);
    loop {
        let page = store.letters(after, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = *last;
        for (id, data) in &page {
            let letter: StoredLetter = serde_json::from_slice(data).map_err(|_| {
                StoreError::Corrupt(format!(
                    "dead letter {id} was written by something else, or by a later version of \
                     Kasho (`kasho dead forget {id}` removes it)"
                ))
            })?;
            all.push(StoredLetter { id: *id, ..letter });
        }
    }
}

/// Letters that a later load of these tables makes needless, each table with its load point:
/// those of rows that were loaded before, and of changes that are part of it. One that we
/// did not write is none of them.
pub(super) async fn before_load<S: Registry>(
    store: &mut S,
    tables: &[(&str, Lsn)],
) -> Result<Vec<String>, SinkError> {
    let (mut found, mut after) = (Vec::new(), Id::ZERO);
    loop {
        let page = store.letters(after, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = *last;
        let letters = page.iter().filter(|(_, data)| needless(data, tables));
        found.extend(letters.map(|(id, _)| id.to_string()));
    }
}

fn needless(data: &[u8], tables: &[(&str, Lsn)]) -> bool {
    let Ok(letter) = serde_json::from_slice::<StoredLetter>(data) else { return false };
    let table = tables.iter().find(|(table, _)| *table == letter.table);
    let position = letter.position.parse().map(|at: EpochPosition| at.position);
    match (table, position) {
        (Some((_, load_lsn)), Ok(Position::Wal { commit_lsn, .. })) => commit_lsn < *load_lsn,
        (Some(_), Ok(Position::Bootstrap(_))) => letter.op == Op::Read.name(),
        (None, _) | (_, Err(_)) => false,
    }
}

/// What waits to be written down with the entries around it.
#[derive(Debug, Default)]
pub(super) struct Aside {
    letters: Vec<Letter>,
    closings: Vec<Closing>,
    limit: u64,
}

impl Aside {
    /// With room for this many letters in Redis.
    pub(super) fn new(limit: u64) -> Aside {
        Aside { limit, ..Aside::default() }
    }

    /// Takes the letters of a batch over.
    pub(super) fn take(&mut self, letters: &[Letter], closings: &[Closing]) {
        self.letters.extend_from_slice(letters);
        self.closings.extend(closings.iter().filter(|closing| closing.closes).cloned());
        // A chain goes through a batch table by table.
        self.letters.sort_by_key(|letter| letter.position);
        self.closings.sort_by_key(|closing| closing.position);
    }

    /// What belongs into a step after which everything up to `position` is published or
    /// dropped, and `newest` is the newest entry.
    ///
    /// Of a transaction that is dropped so far, and goes on, nothing is written yet: after a
    /// crash all of it is read anew, by whatever chain is in force then.
    ///
    /// # Errors
    /// There are more of one transaction than there may be at all.
    pub(super) fn through(
        &self,
        epoch: Epoch,
        position: Position,
        newest: Id,
    ) -> Result<Dead, SinkError> {
        let open = match position {
            Position::Wal { commit_lsn, ordinal }
                if (1..Position::LAST).contains(&ordinal)
                    && (newest.high != commit_lsn.0 || newest.low == 0) =>
            {
                Some(commit_lsn)
            }
            _ => None,
        };
        // A message outside may stand at the very address of the transaction behind it.
        let of = |at: Position| match at {
            Position::Wal { commit_lsn, ordinal: 1.. } => Some(commit_lsn),
            Position::Wal { .. } | Position::Bootstrap(_) => None,
        };
        let ripe = |at: Position| at <= position && (open.is_none() || of(at) != open);
        let waits = |at: Position| at <= position && !ripe(at);
        let waiting = self.letters.iter().filter(|letter| waits(letter.position)).count() as u64;
        if let Some(lsn) = open.filter(|_| waiting > self.limit) {
            return Err(SinkError::TooManyLetters { lsn, limit: self.limit });
        }
        let letters = self.letters.iter().filter(|letter| ripe(letter.position));
        let letters = letters.map(|letter| StoredLetter::encode(letter, epoch, letter.position));
        let closed = self.closings.iter().filter(|closing| ripe(closing.position));
        Ok(Dead {
            letters: letters.collect(),
            closed: closed.map(|closing| closing.letter.clone()).collect(),
            limit: self.limit,
        })
    }

    /// So many wait that no entry is to be held back any more for which they do.
    pub(super) fn presses(&self) -> bool {
        self.letters.len() as u64 > self.limit
    }

    /// Forgets what [`Aside::through`] gave, for it is written.
    pub(super) fn written(&mut self, dead: &Dead) {
        // They lie in the order of the stream, and what was given is what comes first.
        self.letters.drain(..dead.letters.len());
        self.closings.drain(..dead.closed.len());
    }
}

/// The letters of a slice of the load, behind entry number `last`.
pub(super) fn of_load(letters: &[Letter], epoch: Epoch, last: u64, limit: u64) -> Dead {
    let position = Position::Bootstrap(last);
    let letters = letters.iter().map(|letter| StoredLetter::encode(letter, epoch, position));
    Dead { letters: letters.collect(), closed: Vec::new(), limit }
}

/// Waits a moment, and says why. What waits has passed its rules already, and so has
/// whatever would come behind it: neither another rule nor `kasho dead retry` makes room.
pub(super) async fn wait_for_room(dead: &Dead, there: u64, status: &Status) {
    let added = dead.letters.len().saturating_sub(dead.closed.len());
    let limit = dead.limit;
    status.pause(Some(format!(
        "there are {there} dead letters, the next step adds {added}, and redis.dead_letters allows \
         {limit}: let go of some (`kasho dead forget`); or mend the rule that their rows fail on, \
         or raise the limit, and restart"
    )));
    tokio::time::sleep(FULL_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64, ordinal: u64) -> Position {
        Position::Wal { commit_lsn: Lsn(lsn), ordinal }
    }

    fn letter(position: Position) -> Letter {
        Letter {
            position,
            op: Op::Update,
            oid: 16_400,
            table: "public.t".into(),
            binding: "mask".into(),
            plugin: "mask.wasm".into(),
            sha256: "00".into(),
            index: Some(0),
            reason: "not an e-mail".into(),
            key: vec![0, 255, 16],
            again: None,
        }
    }

    #[test]
    fn a_letter_waits_for_an_entry_of_its_transaction_or_its_end() {
        let mut aside = Aside { limit: 10, ..Aside::default() };
        let all = [at(10, 2), at(20, 0), at(20, 1), at(20, 3)].map(letter);
        aside.take(&all, &[]);
        let count = |aside: &Aside, position, newest: (u64, u64)| {
            let newest = Id { high: newest.0, low: newest.1 };
            aside.through(Epoch(1), position, newest).unwrap().letters.len()
        };
        assert_eq!(count(&aside, at(10, 1), (10, 1)), 0, "its row is still to come");
        assert_eq!(count(&aside, at(20, 2), (10, 1)), 2, "nothing of the second is published");
        assert_eq!(count(&aside, at(20, 2), (20, 0)), 2, "a message is none of it");
        assert_eq!(count(&aside, at(20, 2), (20, 2)), 3);
        assert_eq!(count(&aside, at(20, 4), (20, 2)), 4);
        assert_eq!(count(&aside, Position::after(Lsn(20)), (10, 1)), 4, "it has ended");
        let dead = aside.through(Epoch(1), at(20, 2), Id { high: 20, low: 2 }).unwrap();
        aside.written(&dead);
        assert_eq!(aside.letters, [letter(at(20, 3))]);
    }

    #[test]
    fn a_transaction_of_letters_only_is_bounded() {
        let mut aside = Aside { limit: 1, ..Aside::default() };
        aside.take(&[letter(at(20, 1)), letter(at(20, 2))], &[]);
        let error = aside.through(Epoch(1), at(20, 3), Id::ZERO).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("redis.dead_letters") && text.contains("at 0/14 "), "{text}");
        assert!(aside.through(Epoch(1), Position::after(Lsn(20)), Id::ZERO).is_ok());
        // What is still to come may come with an entry of its transaction.
        for before in [at(19, 0), at(10, Position::LAST)] {
            assert!(aside.through(Epoch(1), before, Id::ZERO).is_ok());
        }
        assert!(aside.presses());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_says_how_much_is_missing() {
        let status = Status::default();
        let letters = vec![Vec::new(); 5];
        let dead = Dead { letters, closed: vec!["1-0".into()], limit: 10 };
        wait_for_room(&dead, 7, &status).await;
        let told = status.get().paused.unwrap();
        assert!(
            told.contains("are 7 dead") && told.contains("adds 4") && told.contains("allows 10")
        );
    }

    #[test]
    fn a_later_load_makes_letters_of_what_it_holds_needless() {
        let is = |op, position, tables: &[(&str, Lsn)]| {
            let letter = Letter { op, ..letter(position) };
            needless(&StoredLetter::encode(&letter, Epoch(1), position), tables)
        };
        let loaded = [("public.s", Lsn(90)), ("public.t", Lsn(20))];
        assert!(is(Op::Read, Position::Bootstrap(7), &loaded));
        assert!(is(Op::Update, at(19, 4), &loaded), "it is in the snapshot");
        assert!(!is(Op::Update, at(20, 1), &loaded), "it comes after it");
        assert!(!is(Op::Read, Position::Bootstrap(7), &loaded[..1]), "of another table");
        assert!(!needless(b"somebody else's", &loaded));
    }

    #[test]
    fn a_stored_letter_reads_as_it_was_written() {
        let data = StoredLetter::encode(&letter(at(10, 2)), Epoch(3), at(10, 2));
        let stored: StoredLetter = serde_json::from_slice(&data).unwrap();
        assert_eq!((stored.position.as_str(), stored.op.as_str()), ("e3:0/A:2", "update"));
        assert_eq!(stored.sealed(), Some(vec![0, 255, 16]));
        assert_eq!(StoredLetter { key: "0g".into(), ..stored }.sealed(), None);
    }
}
