//! The vocabulary of a change event, shared by engine and plugins.
//!
//! Nothing here interprets data: a value is the text PostgreSQL itself wrote, or one
//! of three ways of having none. What can go wrong is elsewhere: these types are
//! plain, and every text or number that comes from outside is checked where it
//! enters (the engine's decoder, the batch reader).

use serde::{Deserialize, Serialize};

use crate::abi::{DDL_RELATION, MESSAGE_RELATION};

/// What happened to a row. The numbers are those of ABI 1's `op` array.
///
/// ```
/// use kasho_plugin_sdk::Op;
///
/// assert_eq!(Op::from_number(1), Some(Op::Update));
/// assert_eq!(Op::Read.name(), "read");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Op {
    /// A row was inserted: `new` only.
    Insert = 0,
    /// A row was updated: `new`, and `old` where identity or REPLICA IDENTITY FULL gives it.
    Update = 1,
    /// A row was deleted: `old` only.
    Delete = 2,
    /// Tables were emptied: no image at all.
    Truncate = 3,
    /// A row of the initial load: `new` only.
    Read = 4,
    /// A schema change, as a row of the virtual relation `kasho.ddl`.
    Ddl = 5,
    /// A logical message, as a row of the virtual relation `kasho.message`.
    Message = 6,
}

impl Op {
    /// Every operation, in the order of its number.
    pub const ALL: [Op; 7] =
        [Op::Insert, Op::Update, Op::Delete, Op::Truncate, Op::Read, Op::Ddl, Op::Message];

    /// The operation with ABI number `n`, if there is one.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Op> {
        Op::ALL.get(usize::from(n)).copied()
    }

    /// The word used in configuration, in Redis (`o`) and in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Truncate => "truncate",
            Op::Read => "read",
            Op::Ddl => "ddl",
            Op::Message => "message",
        }
    }
}

/// One column of one image of one row.
///
/// The empty string is `Text("")`; it is not NULL, and neither is a value that
/// PostgreSQL did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// The type's text form, as `COPY` and `pgoutput` deliver it under pinned settings.
    Text(&'a str),
    /// SQL NULL.
    Null,
    /// An out-of-line (TOASTed) value that the UPDATE did not touch, and that was not sent.
    Unchanged,
    /// Not part of this image: a non-key column of a key image, or an image there is not.
    Absent,
}

/// Which columns identify a row in an UPDATE or DELETE (`REPLICA IDENTITY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    /// The columns of a chosen unique index.
    Index,
    /// The whole old row.
    Full,
    /// Nothing: only inserts can be published.
    Nothing,
}

/// One column of a relation, as a plugin is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name in the source, unquoted and case-sensitive.
    pub name: String,
    /// Name of its type (`pg_type.typname`), of the domain if it is one.
    #[serde(rename = "type")]
    pub type_name: String,
    /// OID of its type.
    pub oid: u32,
    /// Name of the type beneath all domains; equal to `type` otherwise.
    pub base: String,
    /// Type modifier as in `pg_attribute.atttypmod`; -1 = none.
    pub typmod: i32,
    /// Part of the replica identity.
    pub key: bool,
    /// Declared NOT NULL (or a domain that is).
    #[serde(default)]
    pub not_null: bool,
    /// Part of a unique index, also by an expression: values that become equal may collide.
    #[serde(default)]
    pub unique: bool,
    /// May be stored out of line, and so arrive as [`Value::Unchanged`].
    #[serde(default)]
    pub toastable: bool,
    /// Element type's name, if this is an array.
    #[serde(default)]
    pub elem: Option<String>,
    /// The labels in order, if this is an enum.
    #[serde(default)]
    pub labels: Option<Vec<String>>,
}

/// A table as its rows are described on the stream.
///
/// `id` and `version` are the engine's: the same table gets a new version whenever
/// its description changes, and a row belongs to exactly one version.
///
/// ```
/// let users = kasho_plugin_sdk::fixture::parse_table("public.\"Users\"(id int8 key, email text)").unwrap();
/// assert_eq!(users.qualified(), "public.\"Users\"");
/// assert_eq!(users.column("email"), Some(1));
/// assert!(users.columns[0].key && !users.is_virtual());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// `pg_class.oid` of the source table.
    pub id: u32,
    /// Counts the descriptions seen of this table, from 1.
    pub version: u32,
    /// Schema, unquoted.
    pub schema: String,
    /// Table, unquoted.
    pub table: String,
    /// Its replica identity.
    pub identity: Identity,
    /// Its published columns, in the order of the tuples.
    pub columns: Vec<Column>,
}

impl Relation {
    /// The place of the column called `name`.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// `schema.table`, each part quoted as SQL would where it must be.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }

    /// Whether it stands for events that are no rows: `kasho.ddl` or `kasho.message`, and not
    /// a table that somebody calls so.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        let name = (self.schema.as_str(), self.table.as_str());
        self.id < FIRST_TABLE_ID && [DDL_RELATION, MESSAGE_RELATION].contains(&name)
    }
}

/// Ids of tables begin here (PostgreSQL's `FirstNormalObjectId`, access/transam.h).
const FIRST_TABLE_ID: u32 = 16_384;

/// An identifier as SQL text: bare where lower case letters, digits and `_` suffice,
/// in double quotes otherwise. Reserved words are not quoted: this is for naming
/// things to people and in rules, not for building statements.
///
/// ```
/// use kasho_plugin_sdk::quote_identifier;
///
/// assert_eq!(quote_identifier("users"), "users");
/// assert_eq!(quote_identifier("Users"), "\"Users\"");
/// ```
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    let plain = name
        .bytes()
        .enumerate()
        .all(|(i, b)| b == b'_' || b.is_ascii_lowercase() || (i > 0 && b.is_ascii_digit()));
    if plain && !name.is_empty() {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
