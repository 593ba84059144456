//! Rows that were set aside and are read once more: what the engine has announced, and what
//! the stream found. Anybody with a session may write a message of our prefix; one that was
//! not announced is nothing. Nothing can go wrong here.
//!
//! Why the row's present state, published at the place of a message, is right. Let m be the
//! message's place in the log. The stream comes to m in commit order, and only then the row
//! is read (`wal::again`), in a snapshot T that sees every transaction that changed its
//! table and committed before m: one that is in the log already and not yet visible still
//! holds its lock on the table, and is waited for. So the row as read, S, is at least as new
//! as the row at m: nothing that the stream has passed is overwritten by something older.
//! S may hold changes that committed between m and T. They come behind m, each with the
//! whole new row but for unchanged out-of-line values, which S has: applied in their order,
//! as changes of a table that may miss (`miss`), they end at the state that they make of the
//! source, and from T on the target's row is the source's. If the engine ends before the
//! row is published, the message is nobody's any more, and the letter is still there; it is
//! closed in the very step that publishes its row. Of a row that is gone at T, nothing is
//! published but where the change that failed was what took it away. It may have another key by
//! then, which nobody knows: the change of the key stands in the stream, and has the whole new row
//! but for unchanged out-of-line values; who applies it inserts that row where it finds none.
//!
//! Whoever gave up waiting has said that the letter stays, and somebody else may deliver it:
//! so a row is published only if it is still waited for when it was found, and a letter
//! whose row was found is not taken up again before that is published or out of the way.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kasho_plugin_sdk::Op;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::position::{Lsn, Position};

/// A row that is to be read again.
#[derive(Clone, PartialEq, Eq)]
pub struct Again {
    /// The letter.
    pub letter: String,
    /// `pg_class.oid` of the relation that it is published as.
    pub oid: u32,
    /// Columns that say which row it is.
    pub columns: Vec<String>,
    /// Their values; NULL is none.
    pub values: Vec<Option<String>>,
    /// What the row, if it is there, is published as: an insert or an update.
    pub op: Op,
    /// If it is not there, that is published, as a delete.
    pub delete: bool,
    /// The letter is closed with it.
    pub closes: bool,
}

impl fmt::Debug for Again {
    /// Values are row data: they stay out of logs even by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Again({})", self.letter)
    }
}

/// What the stream has to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is there, and stands in the stream at this message.
    Read(Lsn),
    /// It is not there any more.
    Gone(Lsn),
    /// It could not be read; nothing stands in the stream.
    Failed(String),
}

#[derive(Debug, Default)]
struct Shared {
    /// By the word of each message.
    announced: HashMap<String, (Arc<Again>, Option<Told>)>,
    /// Letters that somebody is delivering.
    under_way: HashSet<String>,
    /// Where rows of letters stand that the stream has read, until they are published.
    read: HashMap<String, Lsn>,
}

/// What the engine and the stream share.
#[derive(Clone, Debug, Default)]
pub struct Retries(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    shared: Mutex<Shared>,
    told: Notify,
}

/// A letter that nobody else delivers until this is dropped.
#[derive(Debug)]
pub struct Claim {
    retries: Retries,
    letter: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.retries.lock().under_way.remove(&self.letter);
    }
}

impl Retries {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a letter for delivery, given how far the stream is published; none if somebody
    /// delivers it, or has given up waiting for a row that is on its way.
    #[must_use]
    pub fn claim(&self, letter: &str, published: Option<Position>) -> Option<Claim> {
        let mut shared = self.lock();
        let there = |lsn: Lsn| Position::Wal { commit_lsn: lsn, ordinal: 0 };
        shared.read.retain(|_, lsn| published.is_none_or(|published| published < there(*lsn)));
        let new = !shared.read.contains_key(letter) && shared.under_way.insert(letter.to_owned());
        new.then(|| Claim { retries: self.clone(), letter: letter.to_owned() })
    }

    /// Expects a message with this word from now on.
    pub fn expect(&self, word: &str, again: Again) {
        self.lock().announced.insert(word.to_owned(), (Arc::new(again), None));
    }

    /// Expects it no longer.
    pub fn forget(&self, word: &str) {
        self.lock().announced.remove(word);
    }

    /// Ends when something is told after this call, even before it is waited for.
    pub fn telling(&self) -> Notified<'_> {
        self.0.told.notified()
    }

    /// What the stream has found.
    #[must_use]
    pub fn told(&self, word: &str) -> Option<Told> {
        self.lock().announced.get(word)?.1.clone()
    }

    /// The row that is meant, if `content`, in a message at `lsn`, is an expected word. A
    /// message that is written again since nobody had heard of the first one is nothing
    /// once that has come; the first one itself, read once more, is what it was.
    #[must_use]
    pub fn matching(&self, content: &[u8], lsn: Lsn) -> Option<(String, Arc<Again>)> {
        let word = std::str::from_utf8(content).ok()?;
        let shared = self.lock();
        let (again, told) = shared.announced.get(word)?;
        match told {
            Some(Told::Read(at) | Told::Gone(at)) if *at != lsn => None,
            _ => Some((word.to_owned(), Arc::clone(again))),
        }
    }

    /// The row of a letter was read, and is lost once more: the letter stays, for this reason.
    pub fn fail(&self, letter: &str, why: &str) {
        for (again, told) in self.lock().announced.values_mut() {
            if again.letter == letter && matches!(told, Some(Told::Read(_))) {
                *told = Some(Told::Failed(why.to_owned()));
            }
        }
        self.0.told.notify_waiters();
    }

    /// Says what was found, and answers whether anybody still waits for it. Who waited no
    /// longer has said that nothing was published, and somebody else may deliver the letter
    /// by now: then nothing may be.
    pub fn tell(&self, word: &str, told: Told) -> bool {
        let mut shared = self.lock();
        let Some((again, there)) = shared.announced.get_mut(word) else { return false };
        *there = Some(told.clone());
        let letter = again.letter.clone();
        if let Told::Read(lsn) | Told::Gone(lsn) = told {
            shared.read.insert(letter, lsn);
        }
        drop(shared);
        self.0.told.notify_waiters();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again() -> Again {
        Again {
            letter: "7-0".into(),
            oid: 1,
            columns: vec!["id".into()],
            values: vec![Some("1".into())],
            op: Op::Insert,
            delete: false,
            closes: true,
        }
    }

    #[test]
    fn a_message_that_came_a_second_time_is_nothing() {
        let retries = Retries::default();
        assert!(retries.matching(b"word", Lsn(10)).is_none(), "nobody has announced it");
        retries.expect("word", again());
        for told in [Told::Read(Lsn(10)), Told::Gone(Lsn(10))] {
            assert!(retries.matching(b"word", Lsn(10)).is_some());
            retries.tell("word", told);
            assert!(retries.matching(b"word", Lsn(20)).is_none(), "the first one has come");
            assert!(retries.matching(b"word", Lsn(10)).is_some(), "a stream that begins anew");
        }
        retries.tell("word", Told::Failed("no".into()));
        assert!(retries.matching(b"word", Lsn(20)).is_some(), "nothing has come of the first");
        retries.forget("word");
        assert!(retries.matching(b"word", Lsn(20)).is_none());
    }

    #[test]
    fn a_row_that_was_read_and_lost_again_is_told_as_such() {
        let retries = Retries::default();
        retries.expect("word", again());
        retries.expect("other", Again { letter: "8-0".into(), ..again() });
        retries.fail("7-0", "too early");
        assert_eq!(retries.told("word"), None, "nothing was read yet");
        for word in ["word", "other"] {
            retries.tell(word, Told::Read(Lsn(10)));
        }
        retries.fail("7-0", "not an e-mail");
        assert_eq!(retries.told("word"), Some(Told::Failed("not an e-mail".into())));
        assert_eq!(retries.told("other"), Some(Told::Read(Lsn(10))));
    }

    #[test]
    fn a_letter_is_delivered_by_one_at_a_time() {
        let retries = Retries::default();
        let claim = retries.claim("7-0", None);
        assert!(claim.is_some() && retries.claim("7-0", None).is_none());
        assert!(retries.claim("8-0", None).is_some());
        drop(claim);
        assert!(retries.claim("7-0", None).is_some());
    }

    #[test]
    fn a_row_that_nobody_waits_for_any_more_is_not_published() {
        let retries = Retries::default();
        let claim = retries.claim("7-0", None);
        retries.expect("word", again());
        assert!(retries.matching(b"word", Lsn(10)).is_some());
        // While the row is being read, whoever waited for it gives up.
        retries.forget("word");
        drop(claim);
        let second = retries.claim("7-0", None);
        assert!(second.is_some(), "nothing of the letter is on its way");
        assert!(!retries.tell("word", Told::Read(Lsn(10))));
    }

    #[test]
    fn a_row_that_is_on_its_way_is_waited_for_although_nobody_does() {
        let retries = Retries::default();
        let claim = retries.claim("7-0", None);
        retries.expect("word", again());
        retries.tell("word", Told::Read(Lsn(10)));
        retries.forget("word");
        drop(claim);
        for published in [None, Some(Position::after(Lsn(9)))] {
            assert!(retries.claim("7-0", published).is_none(), "{published:?}");
        }
        let published = Position::Wal { commit_lsn: Lsn(10), ordinal: 0 };
        assert!(retries.claim("7-0", Some(published)).is_some());
    }
}
