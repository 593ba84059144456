//! Rows from what `pg_dump` wrote: plain SQL, compressed or not, and archives through
//! `pg_restore`.
//!
//! A [`Dump`] blocks on its input and is meant for a thread of its own. It hands out
//! [`Piece`]s in the order of the file; each carries the [`Mark`] from which another one
//! goes on after it. Values leave in the text that the stream would show: the types come
//! from the catalogue, and what another session's settings made of them is undone.
//!
//! What can go wrong: the file is cut, corrupt, of a client we cannot read, made under
//! settings that lose something, or does not fit the catalogue ([`DumpError`], always with
//! the place). Memory is bounded by the longest row, and that by [`Options::max_line`].

use std::path::PathBuf;

use crate::batch::Batch;
use crate::position::Lsn;
use crate::source::catalog::Catalog;

mod archive;
mod archive_header;
mod builder;
mod compressed;
mod directory;
mod error;
mod input;
mod insert;
mod lexer;
mod mark;
mod opened;
mod report;
mod settings;
mod statement;
mod stream;
mod targets;
mod text;
mod token;
mod values;

pub use error::{DumpError, Place};
pub use mark::{Identity, Mark, MarkError};
pub use report::{Report, TableCount, Unknown};

/// What to do about something that is not understood, or not carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// An error that names the place.
    #[default]
    Halt,
    /// Count it in the report and go on.
    Pass,
}

/// How a dump is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Also the tables that no publication carries, as text: their columns' types are
    /// not in the catalogue. They get relation ids from the top of the range downwards.
    pub all_tables: bool,
    /// Rows to hand out of each table; the rest is counted as left out.
    pub max_rows: Option<u64>,
    /// Statements that are not understood.
    pub unknown: Policy,
    /// Large objects, which no publication carries.
    pub large_objects: Policy,
    /// Bytes of the longest row or statement.
    pub max_line: usize,
    /// Rows at which a batch is closed.
    pub batch_rows: usize,
    /// Bytes at which a batch is closed. A row is never cut.
    pub batch_bytes: usize,
    /// Tables of a directory archive that are read at once.
    pub jobs: usize,
    /// The program, if not the one on the PATH.
    pub pg_restore: Option<PathBuf>,
    /// What the rows' transaction says as its LSN: the load point.
    pub load_lsn: Lsn,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            all_tables: false,
            max_rows: None,
            unknown: Policy::Halt,
            large_objects: Policy::Halt,
            // What Redis takes as one value, unless told otherwise.
            max_line: 512 << 20,
            batch_rows: 1024,
            batch_bytes: 256 << 10,
            jobs: 2,
            pg_restore: None,
            load_lsn: Lsn::ZERO,
        }
    }
}

/// Where a dump comes from. What it is (plain, gzip, zstd, lz4, an archive) is recognised
/// by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file, or the folder that `pg_dump -Fd` made.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// What a dump has to say next.
#[derive(Debug)]
pub enum Piece {
    /// Rows of one table, in the order of the file.
    Rows {
        /// `pg_class.oid` of the table that holds them: of a leaf partition, unless the
        /// dump itself names its root. The batch's relation is what they are published as.
        table: u32,
        /// Operation `Read`, positions `Bootstrap(0)` for the publisher to number.
        batch: Batch,
        /// Bytes of the file's text that they stood in.
        bytes: u64,
        /// Where to go on after them.
        mark: Mark,
    },
    /// A statement of the schema.
    Ddl {
        /// As PostgreSQL tags it: `CREATE TABLE`.
        tag: String,
        /// The statement without its semicolon. Row data may stand in it (a default).
        text: String,
        /// Where to go on after it.
        mark: Mark,
    },
    /// A sequence's state.
    Sequence {
        /// Schema, unquoted.
        schema: String,
        /// Sequence, unquoted.
        name: String,
        /// Its last value.
        value: i64,
        /// That value was handed out; the next one is the one after it.
        is_called: bool,
        /// Where to go on after it.
        mark: Mark,
    },
}

impl Piece {
    /// Where to go on after this piece and everything before it.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        match self {
            Piece::Rows { mark, .. } | Piece::Ddl { mark, .. } | Piece::Sequence { mark, .. } => {
                mark
            }
        }
    }
}

/// A dump being read.
pub struct Dump {
    inner: opened::Opened,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").field("identity", self.identity()).finish_non_exhaustive()
    }
}

impl Dump {
    /// Opens a dump, at its beginning or after an earlier piece.
    ///
    /// # Errors
    /// It cannot be read; it is nothing that `pg_dump` writes; `from` belongs to another
    /// file, or to this one with another beginning.
    pub fn open(
        input: Input,
        catalog: &Catalog,
        options: Options,
        from: Option<&Mark>,
    ) -> Result<Dump, DumpError> {
        Ok(Dump { inner: opened::Opened::open(input, catalog, options, from)? })
    }

    /// What tells this dump from another one.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    /// The next piece, `None` after the last one.
    ///
    /// # Errors
    /// See [`DumpError`]. After one the dump is spent; the mark of the last piece tells
    /// where to go on once the cause is mended.
    #[expect(clippy::should_implement_trait, reason = "an error ends it, and says so with `?`")]
    pub fn next(&mut self) -> Result<Option<Piece>, DumpError> {
        self.inner.next()
    }

    /// What was found so far, by this reader: what lies before the mark it was opened at is
    /// not in it. Complete when [`Dump::next`] has answered `None`.
    #[must_use]
    pub fn report(&self) -> &Report {
        self.inner.report()
    }

    /// Bytes of the dump as it is stored, if that is known.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.inner.total_bytes()
    }

    /// How many of them were read.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.inner.read_bytes()
    }
}
