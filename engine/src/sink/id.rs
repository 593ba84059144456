//! Ids of stream entries, the names of our keys, and how a position becomes an id.
//!
//! An id *is* the position, so that "is it there already" and "where does a reader go
//! on" need no table beside the stream. What can go wrong: a text that is no id, which
//! only a foreign writer can have put there.

use std::fmt;
use std::str::FromStr;

use crate::position::{Epoch, Lsn, Position};

/// Id of a stream entry, `<high>-<low>` in decimal; ordered as Redis orders them.
///
/// Format: "Redis Streams", section "Entry IDs", in the Redis manual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Commit LSN, or the count of the load's entries.
    pub high: u64,
    /// Ordinal in the transaction; 1 in the load.
    pub low: u64,
}

impl Id {
    /// Before everything: the last id of a stream that never had an entry.
    pub const ZERO: Id = Id { high: 0, low: 0 };

    /// The id of the entry at `position`, or the greatest one at or before it.
    #[must_use]
    pub fn of(position: Position) -> Id {
        match position {
            Position::Bootstrap(n) => Id { high: n, low: 1 },
            Position::Wal { commit_lsn, ordinal } => Id { high: commit_lsn.0, low: ordinal },
        }
    }

    /// The position of this entry of `lane`.
    #[must_use]
    pub fn position(self, lane: Lane) -> Position {
        match lane {
            Lane::Bootstrap => Position::Bootstrap(self.high),
            Lane::Changes => Position::Wal { commit_lsn: Lsn(self.high), ordinal: self.low },
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.high, self.low)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(s: &str) -> Result<Id, ()> {
        let (high, low) = s.split_once('-').ok_or(())?;
        Ok(Id { high: high.parse().map_err(drop)?, low: low.parse().map_err(drop)? })
    }
}

/// Which of an epoch's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The rows of the initial load.
    Bootstrap,
    /// The changes since the consistent point.
    Changes,
}

impl Lane {
    /// The word in the key.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Lane::Bootstrap => "bootstrap",
            Lane::Changes => "changes",
        }
    }
}

/// The names of all keys. The braces keep one engine's keys in one Cluster slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    tag: String,
}

impl Keys {
    /// Keys under `{prefix}`.
    #[must_use]
    pub fn new(prefix: &str) -> Keys {
        Keys { tag: format!("{{{prefix}}}") }
    }

    /// One of an epoch's streams.
    #[must_use]
    pub fn stream(&self, epoch: Epoch, lane: Lane) -> String {
        format!("{}:{}:{}", self.tag, epoch.0, lane.name())
    }

    /// Token, last id and progress of an epoch's loader (hash).
    #[must_use]
    pub fn load(&self, epoch: Epoch) -> String {
        format!("{}:{}:load", self.tag, epoch.0)
    }

    /// What consumers acknowledged without a consumer group's help (hash).
    #[must_use]
    pub fn acks(&self, epoch: Epoch) -> String {
        format!("{}:{}:acks", self.tag, epoch.0)
    }

    /// The writer's token and what it published last (hash).
    #[must_use]
    pub fn checkpoint(&self) -> String {
        format!("{}:checkpoint", self.tag)
    }

    /// The persisted phase (string).
    #[must_use]
    pub fn state(&self) -> String {
        format!("{}:state", self.tag)
    }

    /// The relations as of StartBootstrap (string).
    #[must_use]
    pub fn catalog(&self) -> String {
        format!("{}:catalog", self.tag)
    }

    /// What the newest generations of the chain mask, by their digests (string).
    #[must_use]
    pub fn coverage(&self) -> String {
        format!("{}:coverage", self.tag)
    }

    /// Indexes of the source that were invalid when they were last looked at (string).
    #[must_use]
    pub fn indexes(&self) -> String {
        format!("{}:indexes", self.tag)
    }

    /// Rows that plugins failed on (stream), of the current epoch.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}:dead", self.tag)
    }

    /// The registered consumers (hash of name to time of registration).
    #[must_use]
    pub fn consumers(&self) -> String {
        format!("{}:consumers", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_positions_do() {
        let ids = ["0-1", "7-0", "7-1", "7-10", "10-1", "18446744073709551615-0"];
        let parsed: Vec<Id> = ids.iter().map(|text| text.parse().unwrap()).collect();
        assert!(parsed.is_sorted());
        for (id, text) in parsed.iter().zip(ids) {
            assert_eq!(id.to_string(), text);
        }
        assert!("7".parse::<Id>().is_err() && "-1".parse::<Id>().is_err());
    }

    #[test]
    fn keys_of_one_prefix_share_a_slot() {
        let keys = Keys::new("kasho");
        assert_eq!(keys.stream(Epoch(2), Lane::Changes), "{kasho}:2:changes");
        assert_eq!(keys.checkpoint(), "{kasho}:checkpoint");
    }
}
