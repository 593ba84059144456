//! Which dump it is, and where in it one stands: what a load stores with each piece, and
//! needs to go on.
//!
//! A mark tells a place in the *uncompressed* text (or in each of the texts of a folder
//! that is being read), and what the reader knew there: the statement whose rows it was
//! reading, the table's rows so far, the search path. What can go wrong: a text that is
//! no mark ([`MarkError`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Raised whenever an older reader would misread a mark.
const VERSION: &str = "1";

/// What tells one dump from another: how large it is and how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Bytes as stored; unknown of standard input.
    pub size: Option<u64>,
    /// SHA-256 of the first 64 KiB: of the text, of an archive's own bytes (pg_restore
    /// writes another text each time) with pg_restore's version.
    pub head: [u8; 32],
}

/// A text that is no mark, or no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place in a dump that this version of Kasho has written")]
pub struct MarkError(pub String);

impl Identity {
    /// Of a dump with that beginning.
    pub(super) fn of(size: Option<u64>, head: &[&[u8]]) -> Identity {
        let mut hash = Sha256::new();
        for part in head {
            hash.update(part);
        }
        Identity { size, head: hash.finalize().into() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            Some(size) => write!(f, "{size}/")?,
            None => f.write_str("-/")?,
        }
        self.head.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Identity {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Identity, MarkError> {
        let parse = || {
            let (size, head) = text.split_once('/')?;
            let size = if size == "-" { None } else { Some(size.parse().ok()?) };
            let hex = head.len() == 64 && head.bytes().all(|b| b.is_ascii_hexdigit());
            let byte = |n: usize| u8::from_str_radix(head.get(n * 2..n * 2 + 2)?, 16).ok();
            let mut bytes = [0; 32];
            for (n, out) in bytes.iter_mut().enumerate().filter(|_| hex) {
                *out = byte(n)?;
            }
            hex.then_some(Identity { size, head: bytes })
        };
        parse().ok_or_else(|| MarkError(text.to_owned()))
    }
}

/// Where to go on in a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mark {
    /// Of which dump.
    pub(super) identity: Identity,
    /// Texts up to this one were begun; the ones before it that `spots` does not list are
    /// finished. A single text is number 0.
    pub(super) next: u32,
    /// The places in texts that were begun.
    pub(super) spots: Vec<(u32, Spot)>,
}

/// A place in one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Its line, from 1; 0 at the very beginning.
    pub(super) line: u64,
    /// Offset and line of the statement whose rows come here.
    pub(super) statement: Option<(u64, u64)>,
    /// The table whose rows were read last, and how many of them there were.
    pub(super) rows: (u32, u64),
    /// The search path, unless it is empty.
    pub(super) search_path: String,
    /// So many bytes before the place, and a hash of them.
    pub(super) tail: (u32, u64),
    /// A psql `\connect` was seen.
    pub(super) connected: bool,
    /// pg_dump's first line was seen, and not its last one.
    pub(super) unfinished: bool,
}

/// The first bytes of a hash of `tail`.
pub(super) fn tail_hash(tail: &[u8]) -> u64 {
    let hash: [u8; 32] = Sha256::digest(tail).into();
    hash[..8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION},{},{}", self.identity, self.next)?;
        for (text, spot) in &self.spots {
            write!(f, ",{text}@{}:{}:", spot.offset, spot.line)?;
            if let Some((offset, line)) = spot.statement {
                write!(f, "{offset}.{line}")?;
            }
            let ((table, rows), (len, hash)) = (spot.rows, spot.tail);
            let flags = u8::from(spot.connected) + 2 * u8::from(spot.unfinished);
            write!(f, ":{table}.{rows}:{len}.{hash:x}:{flags}:{}", hex(&spot.search_path))?;
        }
        Ok(())
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<String> {
    let byte = |n: usize| u8::from_str_radix(text.get(n..n + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Mark, MarkError> {
        let parse = || {
            let mut parts = text.split(',');
            let version = parts.next()?;
            let identity = parts.next()?.parse().ok()?;
            let next = parts.next()?.parse().ok()?;
            let spots: Option<Vec<_>> = parts.map(spot).collect();
            (version == VERSION).then_some(Mark { identity, next, spots: spots? })
        };
        parse().ok_or_else(|| MarkError(text.to_owned()))
    }
}

fn spot(text: &str) -> Option<(u32, Spot)> {
    let (number, rest) = text.split_once('@')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let [offset, line, statement, rows, tail, flags, path] = parts.as_slice() else {
        return None;
    };
    let statement = match statement.split_once('.') {
        None if statement.is_empty() => None,
        pair => pair.and_then(|(a, b)| Some(Some((a.parse().ok()?, b.parse().ok()?))))?,
    };
    let flags: u8 = flags.parse().ok()?;
    let ((table, rows), (len, hash)) = (rows.split_once('.')?, tail.split_once('.')?);
    let spot = Spot {
        offset: offset.parse().ok()?,
        line: line.parse().ok()?,
        statement,
        rows: (table.parse().ok()?, rows.parse().ok()?),
        search_path: unhex(path)?,
        tail: (len.parse().ok()?, u64::from_str_radix(hash, 16).ok()?),
        connected: flags & 1 != 0,
        unfinished: flags & 2 != 0,
    };
    Some((number.parse().ok()?, spot))
}

impl From<Mark> for String {
    fn from(mark: Mark) -> String {
        mark.to_string()
    }
}

impl TryFrom<String> for Mark {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Mark, MarkError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spots() -> impl Strategy<Value = Spot> {
        let statement = proptest::option::of(any::<(u64, u64)>());
        (
            any::<(u64, u64)>(),
            statement,
            any::<(u32, u64)>(),
            ".*",
            any::<(u32, u64)>(),
            any::<(bool, bool)>(),
        )
            .prop_map(|((offset, line), statement, rows, search_path, tail, flags)| {
                let (connected, unfinished) = flags;
                Spot { offset, line, statement, rows, search_path, tail, connected, unfinished }
            })
    }

    proptest! {
        #[test]
        fn a_mark_is_its_text(
            size in proptest::option::of(any::<u64>()),
            head in any::<[u8; 32]>(),
            next in any::<u32>(),
            spots in proptest::collection::vec((any::<u32>(), spots()), 0..4),
        ) {
            let mark = Mark { identity: Identity { size, head }, next, spots };
            prop_assert_eq!(mark.to_string().parse(), Ok(mark.clone()));
            let json = serde_json::to_string(&mark).unwrap();
            prop_assert_eq!(serde_json::from_str::<Mark>(&json).unwrap(), mark);
        }

        #[test]
        fn any_text_is_a_mark_or_an_error(text in "[0-9a-f,@:./-]{0,120}|.*") {
            let _ = text.parse::<Mark>();
            let _ = text.parse::<Identity>();
        }
    }
}
