//! The decoder of `pgoutput` messages, protocol version 1: borrowed, without allocation.
//!
//! What can go wrong: bytes that are no message. Every read is checked and every error
//! has its offset; nothing here panics on any input. No I/O, no clock.
//! Format: the PostgreSQL manual, 55.9 "Logical Replication Message Formats".

use kasho_plugin_sdk::Identity;

use crate::position::Lsn;

/// Microseconds from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const PG_EPOCH_US: i64 = 946_684_800_000_000;

/// A time on the wire as microseconds since 1970-01-01 UTC.
#[must_use]
pub fn unix_us(wire: i64) -> i64 {
    wire.saturating_add(PG_EPOCH_US)
}

/// Microseconds since 1970-01-01 UTC as a time on the wire.
#[must_use]
pub fn wire_us(unix: i64) -> i64 {
    unix.saturating_sub(PG_EPOCH_US)
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} of a {kind:?} message: {what}")]
pub struct DecodeError {
    /// Where in the message.
    pub offset: usize,
    /// Its first byte.
    pub kind: char,
    /// What was wrong.
    pub what: &'static str,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// LSN of its commit record.
        final_lsn: Lsn,
        /// Microseconds since 1970.
        commit_us: i64,
        /// Transaction id.
        xid: u32,
    },
    /// A transaction ends.
    Commit {
        /// LSN of its commit record.
        commit_lsn: Lsn,
        /// LSN after it.
        end_lsn: Lsn,
        /// Microseconds since 1970.
        commit_us: i64,
    },
    /// The transaction came to this server by replication.
    Origin,
    /// A table's description.
    Relation(RelationMessage<'a>),
    /// A data type's name; the catalog knows better.
    Type,
    /// A row.
    Insert {
        /// Table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// Table.
        relation: u32,
        /// Before.
        old: Option<Old<'a>>,
        /// After.
        new: Tuple<'a>,
    },
    /// A row that is gone.
    Delete {
        /// Table.
        relation: u32,
        /// Before.
        old: Old<'a>,
    },
    /// Emptied tables.
    Truncate {
        /// CASCADE.
        cascade: bool,
        /// RESTART IDENTITY.
        restart_identity: bool,
        /// Tables.
        relations: Oids<'a>,
    },
    /// `pg_logical_emit_message`.
    Message {
        /// Inside a transaction.
        transactional: bool,
        /// Where it stands in the log.
        lsn: Lsn,
        /// Its prefix.
        prefix: Bytes<'a>,
        /// Its content.
        content: Bytes<'a>,
    },
}

/// Bytes and where they stand in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes<'a> {
    /// Offset of the first.
    pub at: usize,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// The image before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// Key columns only; the others arrive as NULL and are absent.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// A table's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    /// `pg_class.oid`.
    pub id: u32,
    /// Schema; the wire's empty string is given as `pg_catalog`.
    pub schema: &'a str,
    /// Table.
    pub table: &'a str,
    /// `REPLICA IDENTITY`.
    pub identity: Identity,
    columns: u16,
    body: &'a [u8],
}

/// A column in a [`RelationMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the identity (all are under FULL).
    pub key: bool,
    /// Name.
    pub name: &'a str,
    /// Type.
    pub oid: u32,
    /// Type modifier.
    pub typmod: i32,
}

impl Message<'_> {
    /// Whether it changes rows, and so stands where they do.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Message::Insert { .. }
                | Message::Update { .. }
                | Message::Delete { .. }
                | Message::Truncate { .. }
        )
    }
}

impl<'a> RelationMessage<'a> {
    /// Its columns, in the order of the tuples.
    pub fn columns(&self) -> impl Iterator<Item = RelationColumn<'a>> + use<'a> {
        let mut reader = Reader { all: self.body, rest: self.body, kind: 'R' };
        // Checked when the message was decoded.
        (0..self.columns).map_while(move |_| reader.column().ok())
    }
}

/// The OIDs of a TRUNCATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oids<'a>(&'a [u8]);

impl<'a> Oids<'a> {
    /// In the order of the statement.
    pub fn iter(self) -> impl Iterator<Item = u32> + use<'a> {
        self.0.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// A row image: its columns have been checked and can be walked without error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    at: usize,
    body: &'a [u8],
}

/// One column of a row image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Col<'a> {
    /// SQL NULL.
    Null,
    /// TOASTed, not touched, not sent.
    Unchanged,
    /// The type's text.
    Text(Bytes<'a>),
}

impl<'a> Tuple<'a> {
    /// How many columns it has.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.columns == 0
    }

    /// Its columns.
    pub fn iter(self) -> impl Iterator<Item = Col<'a>> + use<'a> {
        let mut reader = Reader { all: self.body, rest: self.body, kind: 'N' };
        // Checked when the message was decoded.
        (0..self.columns).map_while(move |_| reader.col(self.at).ok())
    }
}

/// Decodes one message.
///
/// # Errors
/// It ends too early or too late, or holds something that version 1 in text does not have.
pub fn decode(message: &[u8]) -> Result<Message<'_>, DecodeError> {
    let kind = message.first().map_or('?', |&b| char::from(b));
    let mut reader = Reader { all: message, rest: message, kind };
    let decoded = match reader.u8()? {
        b'B' => Message::Begin {
            final_lsn: reader.lsn()?,
            commit_us: unix_us(reader.i64()?),
            xid: reader.u32()?,
        },
        b'C' => {
            reader.u8()?;
            Message::Commit {
                commit_lsn: reader.lsn()?,
                end_lsn: reader.lsn()?,
                commit_us: unix_us(reader.i64()?),
            }
        }
        b'O' => {
            reader.lsn()?;
            reader.text()?;
            Message::Origin
        }
        b'R' => Message::Relation(reader.relation()?),
        b'Y' => {
            reader.u32()?;
            reader.text()?;
            reader.text()?;
            Message::Type
        }
        b'I' => {
            let relation = reader.u32()?;
            reader.expect(b'N', "expected the new row")?;
            Message::Insert { relation, new: reader.tuple()? }
        }
        b'U' => reader.update()?,
        b'D' => {
            let relation = reader.u32()?;
            let old = match reader.u8()? {
                b'K' => Old::Key(reader.tuple()?),
                b'O' => Old::Full(reader.tuple()?),
                _ => return Err(reader.error(1, "expected the old row or its key")),
            };
            Message::Delete { relation, old }
        }
        b'T' => reader.truncate()?,
        b'M' => Message::Message {
            transactional: reader.u8()? & 1 == 1,
            lsn: reader.lsn()?,
            prefix: reader.prefix()?,
            content: reader.content()?,
        },
        _ => return Err(reader.error(1, "there is no such message in protocol version 1")),
    };
    if reader.rest.is_empty() {
        Ok(decoded)
    } else {
        Err(reader.error(0, "the message goes on after its end"))
    }
}

struct Reader<'a> {
    all: &'a [u8],
    rest: &'a [u8],
    kind: char,
}

impl<'a> Reader<'a> {
    fn at(&self) -> usize {
        self.all.len() - self.rest.len()
    }

    fn error(&self, back: usize, what: &'static str) -> DecodeError {
        DecodeError { offset: self.at().saturating_sub(back), kind: self.kind, what }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => Err(self.error(0, "the message ends in a number")),
        }
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), DecodeError> {
        if self.u8()? == byte { Ok(()) } else { Err(self.error(1, what)) }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error(0, "the message ends in a value")),
        }
    }

    /// Bytes up to a NUL.
    fn c_string(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = self.rest.iter().position(|&b| b == 0);
        let end = end.ok_or_else(|| self.error(0, "a text is not terminated"))?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let before = self.at();
        let text = self.c_string()?;
        let (kind, what) = (self.kind, "a name is not UTF-8");
        std::str::from_utf8(text).map_err(|_| DecodeError { offset: before, kind, what })
    }

    fn relation(&mut self) -> Result<RelationMessage<'a>, DecodeError> {
        let id = self.u32()?;
        let schema = self.text()?;
        let table = self.text()?;
        let identity = match self.u8()? {
            b'd' => Identity::Default,
            b'n' => Identity::Nothing,
            b'f' => Identity::Full,
            b'i' => Identity::Index,
            _ => return Err(self.error(1, "unknown replica identity")),
        };
        let columns = self.u16()?;
        let body = self.rest;
        for _ in 0..columns {
            self.column()?;
        }
        let schema = if schema.is_empty() { "pg_catalog" } else { schema };
        Ok(RelationMessage { id, schema, table, identity, columns, body })
    }

    fn column(&mut self) -> Result<RelationColumn<'a>, DecodeError> {
        Ok(RelationColumn {
            key: self.u8()? & 1 == 1,
            name: self.text()?,
            oid: self.u32()?,
            typmod: i32::from_be_bytes(self.array()?),
        })
    }

    fn update(&mut self) -> Result<Message<'a>, DecodeError> {
        let relation = self.u32()?;
        let old = match self.u8()? {
            b'K' => Some(Old::Key(self.tuple()?)),
            b'O' => Some(Old::Full(self.tuple()?)),
            b'N' => return Ok(Message::Update { relation, old: None, new: self.tuple()? }),
            _ => return Err(self.error(1, "expected an old or the new row")),
        };
        self.expect(b'N', "expected the new row")?;
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message<'a>, DecodeError> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let options = self.u8()?;
        let oids = self.take(count.saturating_mul(4))?;
        Ok(Message::Truncate {
            cascade: options & 1 != 0,
            restart_identity: options & 2 != 0,
            relations: Oids(oids),
        })
    }

    fn prefix(&mut self) -> Result<Bytes<'a>, DecodeError> {
        let at = self.at();
        Ok(Bytes { at, bytes: self.c_string()? })
    }

    fn content(&mut self) -> Result<Bytes<'a>, DecodeError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let at = self.at();
        Ok(Bytes { at, bytes: self.take(len)? })
    }

    /// Walks over a row once, so that it can be walked again without errors.
    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let columns = self.u16()?;
        let at = self.at();
        let body = self.rest;
        for _ in 0..columns {
            self.col(0)?;
        }
        let len = body.len() - self.rest.len();
        Ok(Tuple { columns, at, body: &body[..len] })
    }

    /// One column; `base` is where `all` begins in the message.
    #[inline]
    fn col(&mut self, base: usize) -> Result<Col<'a>, DecodeError> {
        match self.u8()? {
            b't' => {
                let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
                let at = base + self.at();
                Ok(Col::Text(Bytes { at, bytes: self.take(len)? }))
            }
            b'n' => Ok(Col::Null),
            b'u' => Ok(Col::Unchanged),
            b'b' => Err(self.error(1, "a binary value, which was not asked for")),
            _ => Err(self.error(1, "unknown kind of value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Messages that a PostgreSQL 15 sent, one a line: a name and the bytes in hex. The
    /// statements behind them stand in the file.
    const GOLDEN: &str = include_str!("../../../../tests/golden/pgoutput.txt");

    fn golden() -> Vec<(String, Vec<u8>)> {
        let lines = GOLDEN.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        lines
            .map(|line| {
                let (name, hex) = line.split_once(' ').unwrap();
                let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
                (name.to_owned(), (0..hex.len()).step_by(2).map(byte).collect())
            })
            .collect()
    }

    fn tuple(tuple: Tuple<'_>) -> String {
        let col = |col| match col {
            Col::Null => "~".to_owned(),
            Col::Unchanged => "^".to_owned(),
            Col::Text(text) if text.bytes.len() > 20 => format!("[{}]", text.bytes.len()),
            Col::Text(text) => String::from_utf8_lossy(text.bytes).into_owned(),
        };
        tuple.iter().map(col).collect::<Vec<_>>().join(",")
    }

    fn describe(message: &Message<'_>) -> String {
        let old = |old: &Old<'_>| match old {
            Old::Key(t) => format!("key({})", tuple(*t)),
            Old::Full(t) => format!("full({})", tuple(*t)),
        };
        match message {
            Message::Begin { .. } => "begin".into(),
            Message::Commit { commit_lsn, end_lsn, .. } => {
                assert!(end_lsn > commit_lsn);
                "commit".into()
            }
            Message::Origin => "origin".into(),
            Message::Type => "type".into(),
            Message::Relation(r) => {
                let column = |c: RelationColumn<'_>| {
                    format!("{}{}:{}", if c.key { "*" } else { "" }, c.name, c.typmod)
                };
                let columns: Vec<_> = r.columns().map(column).collect();
                format!("{}.{} {:?} {}", r.schema, r.table, r.identity, columns.join(","))
            }
            Message::Insert { new, .. } => format!("insert({})", tuple(*new)),
            Message::Update { old: before, new, .. } => {
                let before = before.as_ref().map_or(String::new(), old);
                format!("update {before}({})", tuple(*new))
            }
            Message::Delete { old: before, .. } => format!("delete {}", old(before)),
            Message::Truncate { cascade, restart_identity, relations } => {
                format!("truncate {} {cascade} {restart_identity}", relations.iter().count())
            }
            Message::Message { transactional, prefix, content, .. } => format!(
                "message {transactional} {} {}",
                String::from_utf8_lossy(prefix.bytes),
                String::from_utf8_lossy(content.bytes)
            ),
        }
    }

    #[test]
    fn what_a_server_sent_is_understood() {
        let described: Vec<String> =
            golden().iter().map(|(_, bytes)| describe(&decode(bytes).unwrap())).collect();
        let expected: Vec<&str> = GOLDEN.lines().filter_map(|l| l.strip_prefix("#= ")).collect();
        assert_eq!(described, expected);
    }

    #[test]
    fn offsets_are_those_of_the_message() {
        for (name, bytes) in golden() {
            let tuples = match decode(&bytes).unwrap() {
                Message::Insert { new, .. } => vec![new],
                Message::Update { old: Some(Old::Key(old) | Old::Full(old)), new, .. } => {
                    vec![old, new]
                }
                Message::Delete { old: Old::Key(old) | Old::Full(old), .. } => vec![old],
                _ => continue,
            };
            for col in tuples.into_iter().flat_map(Tuple::iter) {
                if let Col::Text(text) = col {
                    assert_eq!(&bytes[text.at..text.at + text.bytes.len()], text.bytes, "{name}");
                }
            }
        }
    }

    #[test]
    fn every_truncation_of_a_real_message_is_an_error_in_it() {
        for (name, bytes) in golden() {
            for end in 0..bytes.len().min(300) {
                let error = decode(&bytes[..end]).unwrap_err();
                assert!(error.offset <= end, "{name}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(decode(&longer).is_err(), "{name}");
        }
    }

    fn walk(bytes: &[u8]) {
        if let Ok(message) = decode(bytes) {
            // The walk must not cut short: what was checked is what is iterated.
            let tuples = match message {
                Message::Insert { new, .. } | Message::Update { old: None, new, .. } => vec![new],
                Message::Update { old: Some(Old::Key(old) | Old::Full(old)), new, .. } => {
                    vec![old, new]
                }
                Message::Delete { old: Old::Key(old) | Old::Full(old), .. } => vec![old],
                Message::Relation(relation) => {
                    assert_eq!(relation.columns().count(), usize::from(relation.columns));
                    vec![]
                }
                _ => vec![],
            };
            for tuple in tuples {
                assert_eq!(tuple.iter().count(), tuple.len());
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in proptest::sample::select(&b"BCORYIUDTMx"[..]),
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            walk(&[&[kind], &rest[..]].concat());
        }

        #[test]
        fn flipped_real_messages_never_panic(at in any::<proptest::sample::Index>(), which in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let all = golden();
            let mut bytes = which.get(&all).1.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            walk(&bytes);
        }
    }
}
