//! What can end the reading of a dump: always with the place, never with a value.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::mark::Identity;
use crate::error::Class;
use crate::source::copy::CopyError;

/// A place in the text of a dump, uncompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Its line, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (byte {})", self.line, self.offset)
    }
}

/// A dump cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The operating system says no.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the file's name.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// Neither SQL text nor anything it could be packed into.
    #[error("{what}. {remedy}")]
    NotADump {
        /// What it looks like.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The text ends too early.
    #[error(
        "the dump ends at {place} in the middle of {what}: it was cut. Complete the file, or take \
         the dump again; a load goes on from where it stopped if what is there already stays"
    )]
    Cut {
        /// Where it ends.
        place: Place,
        /// In what.
        what: &'static str,
    },
    /// The packing is damaged.
    #[error(
        "the {format} data of the dump is damaged or cut after {place} ({source}): copy or take \
         the dump again"
    )]
    Packing {
        /// gzip, zstd, lz4.
        format: &'static str,
        /// The text that came out before it.
        place: Place,
        /// What the decoder says.
        source: io::Error,
    },
    /// A row or a statement is longer than allowed.
    #[error(
        "{what} that begins at {place} is longer than {limit} bytes: raise the limit of one line, \
         if memory allows"
    )]
    TooLong {
        /// A row, or a statement.
        what: &'static str,
        /// Where it begins.
        place: Place,
        /// The limit.
        limit: usize,
    },
    /// A row of COPY is none.
    #[error("{place}, COPY of {table}: {source}")]
    Row {
        /// Its line.
        place: Place,
        /// `schema.table`.
        table: String,
        /// What is wrong.
        source: CopyError,
    },
    /// Bytes that no database in UTF-8 holds, or line ends of another kind.
    #[error("{place}, {table}: {what}")]
    Text {
        /// Where.
        place: Place,
        /// `schema.table`.
        table: String,
        /// What is wrong and what to do.
        what: &'static str,
    },
    /// A row of INSERT is none.
    #[error("{place}, INSERT into {table}: {what}")]
    Insert {
        /// Where its row begins.
        place: Place,
        /// `schema.table`.
        table: String,
        /// What is wrong.
        what: String,
    },
    /// A value has not the form that its type has in a dump.
    #[error(
        "{place}, {table}, column {column:?}: this is no {expected} as pg_dump writes it (datestyle \
         ISO); was the dump made by another program?"
    )]
    Value {
        /// The row's line.
        place: Place,
        /// `schema.table`.
        table: String,
        /// The column.
        column: String,
        /// The type's name.
        expected: &'static str,
    },
    /// A setting under which values have another text than on the stream.
    #[error("{place}: the dump was made with {name} = {value}: {remedy}")]
    Setting {
        /// Where it is set.
        place: Place,
        /// The setting.
        name: String,
        /// As set.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The dump's table and the catalogue's are not the same.
    #[error("{place}, table {table}: {what}")]
    Shape {
        /// The statement.
        place: Place,
        /// `schema.table`.
        table: String,
        /// What differs and what to do.
        what: String,
    },
    /// The publication carries some of the rows only.
    #[error(
        "{place}: the publication carries rows of {table} only where its row filter holds, and \
         that takes PostgreSQL to tell: load with --direct, or leave the table out of the dump \
         (pg_dump --exclude-table-data)"
    )]
    Filter {
        /// The statement.
        place: Place,
        /// `schema.table`.
        table: String,
    },
    /// A table by name alone, and no search path to look it up in.
    #[error(
        "{place}: the dump names the table {table:?} without a schema, and sets no search_path"
    )]
    Unqualified {
        /// The statement.
        place: Place,
        /// The table.
        table: String,
    },
    /// Policy says to halt at what is not understood.
    #[error("{place}: a statement of a kind that is not understood ({kind}): {remedy}")]
    Unknown {
        /// Where it begins.
        place: Place,
        /// Its leading key words.
        kind: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Policy says to halt at large objects.
    #[error(
        "{place}: the dump holds large objects, which logical replication does not carry: let them \
         pass by policy, or dump with --no-large-objects (--no-blobs before 16)"
    )]
    LargeObjects {
        /// The first one.
        place: Place,
    },
    /// A dump of several databases.
    #[error(
        "{place}: the dump holds more than one database (pg_dumpall): dump the one that is \
         published by pg_dump"
    )]
    Databases {
        /// The second \connect.
        place: Place,
    },
    /// pg_restore could not be started.
    #[error(
        "cannot start {}, which reads pg_dump's archives: {source}; install PostgreSQL's client \
         programs, or name the program", program.display()
    )]
    NoPgRestore {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// pg_restore is older than the archive.
    #[error(
        "the archive is of format {archive}, which {version} does not read: install the client \
         programs of PostgreSQL {needed} or later, or name its pg_restore"
    )]
    OldPgRestore {
        /// `1.16`.
        archive: String,
        /// What `pg_restore --version` says.
        version: String,
        /// The first version that reads it.
        needed: u32,
    },
    /// pg_restore failed.
    #[error("pg_restore failed after {place} ({status}): {said}")]
    PgRestore {
        /// The text that came out before.
        place: Place,
        /// Its exit status.
        status: String,
        /// Its last words.
        said: String,
    },
    /// The mark belongs to another dump.
    #[error(
        "this is not the dump that the load began with ({found} here, {expected} then): give the \
         same one, or begin again (kasho reset)"
    )]
    OtherDump {
        /// Of the mark.
        expected: Box<Identity>,
        /// Of what was opened.
        found: Box<Identity>,
    },
    /// The text before the mark is not what it was.
    #[error(
        "the dump has changed before {place}, where the load stopped: give the same one, or begin \
         again (kasho reset)"
    )]
    Changed {
        /// The mark's place.
        place: Place,
    },
}

impl DumpError {
    /// Whether trying again can help: only a person can mend a dump.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            DumpError::Io { source, .. } if source.kind() == io::ErrorKind::Interrupted => {
                Class::Retry
            }
            _ => Class::Halt,
        }
    }

    /// Where in the dump, if it is about a place in it.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self {
            DumpError::Cut { place, .. }
            | DumpError::Packing { place, .. }
            | DumpError::TooLong { place, .. }
            | DumpError::Row { place, .. }
            | DumpError::Text { place, .. }
            | DumpError::Insert { place, .. }
            | DumpError::Value { place, .. }
            | DumpError::Setting { place, .. }
            | DumpError::Shape { place, .. }
            | DumpError::Filter { place, .. }
            | DumpError::Unqualified { place, .. }
            | DumpError::Unknown { place, .. }
            | DumpError::LargeObjects { place }
            | DumpError::Databases { place }
            | DumpError::PgRestore { place, .. }
            | DumpError::Changed { place } => Some(*place),
            DumpError::Io { .. }
            | DumpError::NotADump { .. }
            | DumpError::NoPgRestore { .. }
            | DumpError::OldPgRestore { .. }
            | DumpError::OtherDump { .. } => None,
        }
    }
}
