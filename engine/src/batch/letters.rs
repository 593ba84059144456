//! What is known of a row that a plugin failed on and that was set aside: everything but
//! the row. It travels with the batch and is written down in the very step that publishes
//! what is around it. Nothing can go wrong here.

use std::fmt;

use kasho_plugin_sdk::Op;

use crate::position::Position;

/// A row that was set aside.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where it stood.
    pub position: Position,
    /// What had happened to it.
    pub op: Op,
    /// `pg_class.oid` of its table.
    pub oid: u32,
    /// Its table's qualified name in the source.
    pub table: String,
    /// The binding whose plugin failed on it.
    pub binding: String,
    /// The plugin's file.
    pub plugin: String,
    /// SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// Which of the texts that the plugin declared; none if it failed.
    pub index: Option<u16>,
    /// That text, or how it failed.
    pub reason: String,
    /// The row's key columns, sealed.
    pub key: Vec<u8>,
    /// The letter that was to be delivered again with this row.
    pub again: Option<String>,
}

impl fmt::Debug for Letter {
    /// The key is sealed, and still nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Letter({} {} at {})", self.op.name(), self.table, self.position)
    }
}

/// A letter that is closed when everything up to a position is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Where its row, as it is now, stands in the stream.
    pub position: Position,
    /// The letter.
    pub letter: String,
    /// Something of its row was read again and stands there.
    pub row: bool,
    /// It is closed by that; else more of it is to come.
    pub closes: bool,
}

/// A letter that stays although its row was read again: the row failed once more, and no
/// other letter can take this one's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stays {
    /// The letter.
    pub letter: String,
    /// Why, in words; no row's value is in them.
    pub why: String,
}

/// What is not published of a batch, and what is said of it.
#[derive(Clone, Debug, Default)]
pub struct Aside {
    /// Rows that the chain has set aside: they are dropped, and count.
    pub letters: Vec<Letter>,
    /// Letters whose rows come again here.
    pub closings: Vec<Closing>,
    /// Letters whose rows came again here and are lost once more.
    pub stays: Vec<Stays>,
    /// Relations of which the chain may have lost rows, so that a change of one may find
    /// none, in the order of their numbers.
    pub lossy: Vec<u32>,
}
