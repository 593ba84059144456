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
//! published but where the change that failed was what took it away.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kasho_plugin_sdk::Op;

use crate::position::Lsn;

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

type Announced = HashMap<String, (Arc<Again>, Option<Told>)>;

/// What the engine and the stream share, by the word of each message.
#[derive(Clone, Debug, Default)]
pub struct Retries(Arc<Mutex<Announced>>);

impl Retries {
    fn lock(&self) -> MutexGuard<'_, Announced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects a message with this word from now on.
    pub fn expect(&self, word: &str, again: Again) {
        self.lock().insert(word.to_owned(), (Arc::new(again), None));
    }

    /// Expects it no longer.
    pub fn forget(&self, word: &str) {
        self.lock().remove(word);
    }

    /// What the stream has found.
    #[must_use]
    pub fn told(&self, word: &str) -> Option<Told> {
        self.lock().get(word)?.1.clone()
    }

    /// The row that is meant, if `content` is an expected word.
    pub(crate) fn matching(&self, content: &[u8]) -> Option<(String, Arc<Again>)> {
        let word = std::str::from_utf8(content).ok()?;
        self.lock().get(word).map(|(again, _)| (word.to_owned(), Arc::clone(again)))
    }

    /// Says what was found.
    pub(crate) fn tell(&self, word: &str, told: Told) {
        if let Some((_, there)) = self.lock().get_mut(word) {
            *there = Some(told);
        }
    }
}
