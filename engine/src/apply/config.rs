//! `[apply]` of the configuration file: the target database, and what is done where it
//! differs from what its source was. What can go wrong: values that make no sense, which
//! `Config::invalid` names all at once.

use std::net::SocketAddr;

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::{Findings, Size, secret};
use crate::sink::consumers;

/// The least that a feed, a pipeline and a few buffers can work with.
const LEAST_MEMORY: u64 = 1 << 20;

/// `[apply]`: the streams are applied to a PostgreSQL database.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// libpq's connection URL or `key=value` text of the target. Required by `kasho apply`
    /// alone.
    #[serde(deserialize_with = "secret")]
    pub target: Option<SecretString>,
    /// Under which name it is registered, and its progress stands in the target.
    pub consumer: String,
    /// What happens where a change does not fit the target.
    pub conflict: Conflict,
    /// Which schema changes are made in the target.
    pub ddl: Ddl,
    /// Tables that are loaded at once.
    pub workers: u32,
    /// What may wait in memory: entries read ahead, statements under way, rows to be copied.
    pub memory: Size,
    /// Between two looks at the source's sequences; 0 = they are left alone.
    pub sequences_ms: u64,
    /// Where metrics and health are told.
    pub listen: SocketAddr,
}

/// `apply.conflict`: a row that is to be inserted is there, or one that is to be changed
/// is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// Stop, and say where.
    Halt,
    /// Make the row what it should be.
    Upsert,
    /// Leave the target as it is.
    Skip,
}

/// `apply.ddl`: which schema changes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ddl {
    /// Those of tables, indexes, types, sequences and schemas.
    Tables,
    /// Functions, views and triggers too: the source's code then runs with the rights of
    /// the applier's role.
    All,
    /// None: whoever looks after the target makes them.
    None,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            target: None,
            consumer: "apply".to_owned(),
            conflict: Conflict::Halt,
            ddl: Ddl::Tables,
            workers: 4,
            memory: Size::mib(32),
            sequences_ms: 60_000,
            listen: SocketAddr::from(([127, 0, 0, 1], 8052)),
        }
    }
}

impl Config {
    /// What makes no sense.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        let name = consumers::is_name(&self.consumer);
        found.must(
            name,
            "consumer",
            "is no name: 1 to 64 ASCII letters, digits, \"-\", \"_\", \".\"",
        );
        found.above_zero(&[("workers", u64::from(self.workers))]);
        found.must(self.memory.0 >= LEAST_MEMORY, "memory", "must be at least 1MiB");
        found
    }
}
