//! Where an event stands: log sequence numbers and positions, with one total order.
//!
//! A position is the commit LSN of the event's transaction and the event's place in
//! it, within an *epoch* (the number of the bootstrap). Every position of the initial
//! load sorts before every position of the stream; within an epoch `derive(Ord)` *is*
//! commit order. What can go wrong: a text that is no position ([`ParsePositionError`]).

use std::fmt;
use std::str::FromStr;

/// A byte address in PostgreSQL's write-ahead log, written `16/B374D848`.
///
/// Format: two hexadecimal halves of 32 bits, `pg_lsn` in the PostgreSQL manual, 8.20.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position: PostgreSQL itself uses 0/0 for "invalid".
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of log from `earlier` to here; 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParsePositionError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParsePositionError(s.to_owned());
        let (high, low) = s.split_once('/').ok_or_else(bad)?;
        let half = |text: &str| {
            let hex = !text.is_empty() && text.len() <= 8;
            let hex = hex && text.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let (high, low) = (half(high).ok_or_else(bad)?, half(low).ok_or_else(bad)?);
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// The number of the bootstrap that a position belongs to, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// The place of an event within an epoch. The order of the variants is the order of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// The n-th event of the initial load, from 1; 0 is before all of them.
    Bootstrap(u64),
    /// An event of the stream.
    Wal {
        /// LSN of the transaction's commit record, as Begin announces it.
        commit_lsn: Lsn,
        /// Place in the transaction, from 1, counted before any filtering.
        /// 0 is a message outside any transaction; [`Position::LAST`] the end of the transaction.
        ordinal: u64,
    },
}

impl Position {
    /// The ordinal that stands for "after everything in this transaction".
    pub const LAST: u64 = u64::MAX;
    /// Before everything.
    pub const START: Position = Position::Bootstrap(0);

    /// The position after the whole transaction that committed at `commit_lsn`.
    #[must_use]
    pub fn after(commit_lsn: Lsn) -> Position {
        Position::Wal { commit_lsn, ordinal: Position::LAST }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Bootstrap(n) => write!(f, "bootstrap:{n}"),
            Position::Wal { commit_lsn, ordinal: Position::LAST } => write!(f, "{commit_lsn}"),
            Position::Wal { commit_lsn, ordinal } => write!(f, "{commit_lsn}:{ordinal}"),
        }
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParsePositionError(s.to_owned());
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        if s == "bootstrap" {
            return Ok(Position::START);
        }
        if let Some(n) = s.strip_prefix("bootstrap:") {
            return number(n).map(Position::Bootstrap).ok_or_else(bad);
        }
        // The original's bootstrap positions: 0/BOOTSTRAP and a decimal count.
        if let Some(n) = s.strip_prefix("0/BOOTSTRAP") {
            return number(n).map(Position::Bootstrap).ok_or_else(bad);
        }
        match s.split_once(':') {
            None => Ok(Position::after(s.parse().map_err(|_| bad())?)),
            Some((lsn, ordinal)) => Ok(Position::Wal {
                commit_lsn: lsn.parse().map_err(|_| bad())?,
                ordinal: number(ordinal).ok_or_else(bad)?,
            }),
        }
    }
}

/// A position with the epoch it belongs to: `e2:16/B374D848:3`, `e2:bootstrap:42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochPosition {
    /// The epoch, or none where the text left it out.
    pub epoch: Option<Epoch>,
    /// The position in it.
    pub position: Position,
}

impl fmt::Display for EpochPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(epoch) = self.epoch {
            write!(f, "{epoch}:")?;
        }
        self.position.fmt(f)
    }
}

impl FromStr for EpochPosition {
    type Err = ParsePositionError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParsePositionError(s.to_owned());
        let Some((epoch, rest)) = s.strip_prefix('e').and_then(|rest| rest.split_once(':')) else {
            return Ok(EpochPosition { epoch: None, position: s.parse()? });
        };
        let digits = !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit());
        let epoch = digits.then(|| epoch.parse().ok()).flatten().ok_or_else(bad)?;
        let position = rest.parse().map_err(|_| bad())?;
        Ok(EpochPosition { epoch: Some(Epoch(epoch)), position })
    }
}

/// The text is no position. It holds the text: positions are not row data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no position: expected \"16/B374D848\", \"16/B374D848:3\" or \"bootstrap:42\", \
     with or without an epoch before it (\"e2:16/B374D848:3\")"
)]
pub struct ParsePositionError(pub String);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_position() -> impl Strategy<Value = Position> {
        prop_oneof![
            any::<u64>().prop_map(Position::Bootstrap),
            (any::<u64>(), any::<u64>())
                .prop_map(|(lsn, ordinal)| Position::Wal { commit_lsn: Lsn(lsn), ordinal }),
        ]
    }

    proptest! {
        #[test]
        fn text_form_round_trips(epoch in proptest::option::of(any::<u64>()), position in any_position()) {
            let whole = EpochPosition { epoch: epoch.map(Epoch), position };
            prop_assert_eq!(whole.to_string().parse::<EpochPosition>().unwrap(), whole);
        }

        #[test]
        fn any_text_is_a_position_or_an_error(text in "\\PC{0,40}") {
            let _ = text.parse::<EpochPosition>();
        }
    }

    #[test]
    fn bootstrap_sorts_before_the_stream() {
        let last_load = Position::Bootstrap(u64::MAX);
        let first_wal = Position::Wal { commit_lsn: Lsn(0), ordinal: 0 };
        assert!(last_load < first_wal);
        assert!(first_wal < Position::after(Lsn(0)));
        assert!(Position::after(Lsn(7)) < Position::Wal { commit_lsn: Lsn(8), ordinal: 0 });
    }

    #[test]
    fn the_originals_bootstrap_form_is_accepted() {
        assert_eq!("0/BOOTSTRAP0000000000000042".parse(), Ok(Position::Bootstrap(42)));
        assert_eq!("bootstrap".parse(), Ok(Position::START));
    }

    #[test]
    fn malformed_positions_are_refused() {
        for text in [
            "",
            "16",
            "16/",
            "/16",
            "+1/2",
            "16/B374D848:",
            "16/B374D848:-1",
            "e:1/2",
            "123456789/0",
        ] {
            assert!(text.parse::<EpochPosition>().is_err(), "{text}");
        }
    }
}
