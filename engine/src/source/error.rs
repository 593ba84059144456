//! What can end or refuse a source, and whether trying again can help.
//!
//! What can go wrong here is saying too much: PostgreSQL's own words may quote a row. Of
//! an error it reports only the SQLSTATE and the names of table, column and constraint
//! are kept; its primary message only where one of our own set-up statements caused it.

use std::fmt;
use std::io;

use postgres_protocol::message::backend::ErrorResponseBody;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::conninfo::ConninfoError;
use super::wal::pgoutput::DecodeError;
use crate::error::Class;
use crate::position::Lsn;

/// An error that PostgreSQL itself reported, without anything that may hold row data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// Five characters; the PostgreSQL manual, appendix A.
    pub sqlstate: String,
    /// The primary message, only if no row can have caused it.
    pub message: Option<String>,
    /// Schema-less name of the table concerned.
    pub table: Option<String>,
    /// The column concerned.
    pub column: Option<String>,
    /// The constraint concerned.
    pub constraint: Option<String>,
}

impl ServerError {
    /// Reads an ErrorResponse; `with_message` only for statements that touch no row.
    pub(crate) fn from_response(body: &ErrorResponseBody, with_message: bool) -> ServerError {
        let mut error = ServerError::default();
        let mut fields = body.fields();
        // A malformed rest is left out: what was read of it is still an error.
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.sqlstate = text,
                b'M' if with_message => error.message = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
        }
        error
    }

    fn from_db(error: &tokio_postgres::error::DbError) -> ServerError {
        let message = Some(error.message().to_owned());
        ServerError { message, ..ServerError::without_words(error) }
    }

    /// Of a statement about rows: its words may quote one.
    pub(crate) fn without_words(error: &tokio_postgres::error::DbError) -> ServerError {
        ServerError {
            sqlstate: error.code().code().to_owned(),
            message: None,
            table: error.table().map(str::to_owned),
            column: error.column().map(str::to_owned),
            constraint: error.constraint().map(str::to_owned),
        }
    }

    /// Retry what heals by itself: a busy slot, a server that stops, starts or is short
    /// of something, a lost race. Everything else needs a person.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.sqlstate.as_str() {
            // configuration_limit_exceeded: no slot or sender is free, nor will one be.
            "53400" => Class::Halt,
            "55006" | "55P03" | "25P03" => Class::Retry,
            state if ["08", "40", "53", "57", "58030"].iter().any(|c| state.starts_with(c)) => {
                Class::Retry
            }
            _ => Class::Halt,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLSTATE {}", self.sqlstate)?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        let named =
            [("table", &self.table), ("column", &self.column), ("constraint", &self.constraint)];
        for (what, name) in named {
            if let Some(name) = name {
                write!(f, ", {what} {name:?}")?;
            }
        }
        Ok(())
    }
}

/// What can end or refuse a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection text is unusable.
    #[error(transparent)]
    Conninfo(#[from] ConninfoError),
    /// No socket, or it broke before the session stood.
    #[error("cannot reach PostgreSQL at {host}: {source}")]
    Connect {
        /// Host and port, or the socket's path.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The session did not stand in time.
    #[error("PostgreSQL at {host} did not answer within {ms} ms")]
    Timeout {
        /// Host and port, or the socket's path.
        host: String,
        /// The limit (`connect_timeout`).
        ms: u128,
    },
    /// TLS was refused by one of the two sides, or its files are unusable.
    #[error("TLS to PostgreSQL at {host}: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// What to look at: never key material.
        reason: String,
    },
    /// The server wants an authentication that is not to be had.
    #[error("cannot authenticate to PostgreSQL as {user:?}: {reason}")]
    Auth {
        /// The role.
        user: String,
        /// Why, and what to do.
        reason: String,
    },
    /// `target_session_attrs` asks for a primary, and this is none.
    #[error("PostgreSQL at {host} is a standby, and target_session_attrs asks for a primary")]
    ReadOnly {
        /// Host and port, or the socket's path.
        host: String,
    },
    /// PostgreSQL refused a statement.
    #[error("PostgreSQL refused {doing}: {server}")]
    Server {
        /// What was being done.
        doing: String,
        /// What it said.
        server: Box<ServerError>,
    },
    /// The connection broke.
    #[error("the connection to PostgreSQL broke during {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server said something that the protocol does not have there.
    #[error("PostgreSQL broke the protocol during {doing}: {what}")]
    Protocol {
        /// What was being done.
        doing: String,
        /// What was wrong.
        what: String,
    },
    /// The slot does not exist.
    #[error(
        "replication slot {slot:?} does not exist: was it dropped? Begin a new bootstrap \
         (StartBootstrap), which makes it"
    )]
    SlotMissing {
        /// Its name.
        slot: String,
    },
    /// Another session reads the slot, perhaps our own of before, not yet given up.
    #[error("replication slot {slot:?} is being read by another session")]
    SlotBusy {
        /// Its name.
        slot: String,
    },
    /// The server threw away log that the slot needed.
    #[error(
        "replication slot {slot:?} is lost ({sqlstate}{}): the server removed log it still needed \
         or invalidated it (see max_slot_wal_keep_size, and from 18 on \
         idle_replication_slot_timeout). Drop it and begin a new bootstrap",
        reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default()
    )]
    SlotLost {
        /// Its name.
        slot: String,
        /// 55000 or 58P01.
        sqlstate: String,
        /// What the server's catalog says of it, once that was asked.
        reason: Option<String>,
    },
    /// The slot is whole, but not to be read now.
    #[error(
        "replication slot {slot:?} cannot be read now (55000), though its log is kept: is this \
         server a standby with a copy of it, to be read once it is promoted? It is tried again"
    )]
    SlotUnready {
        /// Its name.
        slot: String,
    },
    /// Somebody else answered where the slot's server was expected.
    #[error(
        "the PostgreSQL that answers is not the one that is being copied, it is {what}: what it says \
         of the slot does not count. It is tried again; see source.url"
    )]
    OtherServer {
        /// What it is.
        what: String,
    },
    /// A publication did not exist at the decoded point of the log.
    #[error(
        "a publication of {publications} did not exist at the point the slot stands at (after \
         {after}). A publication must be made before the slot: CREATE PUBLICATION …, then drop \
         the slot and begin a new bootstrap"
    )]
    PublicationMissing {
        /// The configured ones.
        publications: String,
        /// Last LSN received.
        after: Lsn,
    },
    /// A name that cannot be a slot's.
    #[error(
        "{0:?} is no slot name: 1 to 63 of the characters a-z, 0-9 and _ (source.slot, \
         REPLICATION_SLOT_NAME)"
    )]
    SlotName(String),
    /// One message is larger than allowed; nothing of it was buffered.
    #[error(
        "a change of {table} after {after} is {bytes} bytes, more than source.max_message_bytes \
         = {limit}: raise the limit, or take the table out of the publication"
    )]
    TooLarge {
        /// The table as far as it is known.
        table: String,
        /// Last LSN received.
        after: Lsn,
        /// Size of the message.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Bytes that are no `pgoutput` message.
    #[error("cannot decode the change at {at}: {source}")]
    Decode {
        /// LSN in the header of the message.
        at: Lsn,
        /// What and where.
        source: DecodeError,
    },
    /// An INSERT without all its values: PostgreSQL's row filter makes these out of an
    /// UPDATE that moves a row into the publication.
    #[error(
        "an insert into {table} at {at} lacks the unchanged value of column {column:?} (an UPDATE \
         moved the row into the publication's row filter). Mend it with: ALTER TABLE {table} \
         REPLICA IDENTITY FULL; rows changed before that need a new bootstrap of the table"
    )]
    UnchangedInsert {
        /// Qualified, quoted where needed.
        table: String,
        /// Its name.
        column: String,
        /// LSN of the commit.
        at: Lsn,
    },
    /// Nothing was heard although an answer was asked for.
    #[error("PostgreSQL has been silent for {ms} ms although asked to answer")]
    Silent {
        /// For how long.
        ms: u128,
    },
}

impl SourceError {
    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            SourceError::Connect { .. }
            | SourceError::Timeout { .. }
            | SourceError::ReadOnly { .. }
            | SourceError::Io { .. }
            | SourceError::SlotBusy { .. }
            | SourceError::SlotUnready { .. }
            | SourceError::OtherServer { .. }
            | SourceError::Silent { .. } => Class::Retry,
            SourceError::Server { server, .. } => server.class(),
            SourceError::Conninfo(_)
            | SourceError::Tls { .. }
            | SourceError::Auth { .. }
            | SourceError::Protocol { .. }
            | SourceError::SlotMissing { .. }
            | SourceError::SlotLost { .. }
            | SourceError::PublicationMissing { .. }
            | SourceError::SlotName(_)
            | SourceError::TooLarge { .. }
            | SourceError::Decode { .. }
            | SourceError::UnchangedInsert { .. } => Class::Halt,
        }
    }

    /// The SQLSTATE, where PostgreSQL gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            SourceError::Server { server, .. } => Some(&server.sqlstate),
            SourceError::SlotLost { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }

    pub(crate) fn io(doing: &str, source: io::Error) -> SourceError {
        SourceError::Io { doing: doing.to_owned(), source }
    }

    pub(crate) fn protocol(doing: &str, what: impl Into<String>) -> SourceError {
        SourceError::Protocol { doing: doing.to_owned(), what: what.into() }
    }

    /// An error of an ordinary connection, during one of our own statements.
    #[must_use]
    pub fn sql(doing: &str, error: &tokio_postgres::Error) -> SourceError {
        match error.as_db_error() {
            Some(db) => {
                let server = Box::new(ServerError::from_db(db));
                SourceError::Server { doing: doing.to_owned(), server }
            }
            // Without a server's error the text is the driver's or the system's.
            None => SourceError::io(doing, io::Error::other(error.to_string())),
        }
    }

    /// What a refusal means when it is about the slot called `slot`.
    pub(crate) fn about_slot(self, slot: &str) -> SourceError {
        let slot = slot.to_owned();
        match self.sqlstate() {
            Some("42704") => SourceError::SlotMissing { slot },
            Some("55006") => SourceError::SlotBusy { slot },
            Some(state @ ("55000" | "58P01")) => {
                SourceError::SlotLost { slot, sqlstate: state.to_owned(), reason: None }
            }
            _ => self,
        }
    }
}

impl crate::pipeline::Classified for SourceError {
    fn class(&self) -> Class {
        SourceError::class(self)
    }
}
