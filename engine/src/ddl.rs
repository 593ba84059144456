//! Schema changes as the source's event triggers write them into the log: one logical
//! message a statement, JSON in UTF-8, made by `config/sql/ddl.sql`.
//!
//! What can go wrong: a message that is none of ours, or of a later version
//! ([`MessageError`]); and a text that is not the statement's own. A client may send several
//! statements at once, and PostgreSQL then knows only all of them together: the one that a
//! message is of is cut out here, or nothing is, where that cannot be done for certain.

use std::collections::BTreeMap;

use kasho_plugin_sdk::event::quote_identifier;
use serde::Deserialize;

use crate::batch::{DdlDetail, DdlEvent, DdlObject};

mod kind;
mod scan;

pub use kind::{Kind, kind};
pub use scan::{Scanned, scan, scan_under};

/// Prefix of the messages of the event triggers.
pub const PREFIX: &str = "kasho:ddl";

/// The version of the message that is understood.
const VERSION: u32 = 1;

/// Settings of the session that a message may bring; whoever makes the change sets them.
const SETTINGS: [&str; 8] = [
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "bytea_output",
    "extra_float_digits",
    "standard_conforming_strings",
    "xmloption",
    "check_function_bodies",
];

/// Content that is no schema change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or other JSON.
    #[error("it is no schema change")]
    Malformed,
    /// Written by event triggers that are newer than this.
    #[error("it is of version {0}, which this version of Kasho does not know")]
    Version(u32),
}

/// What the triggers write.
#[derive(Deserialize)]
struct Message {
    v: u32,
    tag: String,
    /// Statement, or several of them; none where the triggers had no way to know it.
    text: Option<String>,
    /// It was run by a function or a DO block: the same text may run many times.
    #[serde(default)]
    inner: bool,
    /// The triggers made the text themselves.
    #[serde(default)]
    made: bool,
    /// Which one of this tag it is of the statements that the client sent; from 1.
    #[serde(default)]
    nth: usize,
    #[serde(default)]
    path: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    database: String,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default)]
    objects: Vec<DdlObject>,
    #[serde(default)]
    recomputed: Vec<Table>,
}

/// A table.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Table {
    /// Not quoted: SQL and the engine do not quote the same words.
    Apart { schema: String, name: String },
    /// As triggers of before wrote it.
    Quoted(String),
}

impl Table {
    /// As the engine calls it.
    fn quoted(&self) -> String {
        match self {
            Table::Apart { schema, name } => {
                format!("{}.{}", quote_identifier(schema), quote_identifier(name))
            }
            Table::Quoted(name) => name.clone(),
        }
    }
}

/// The schema change that a message of ours tells of; none where an extension's own script
/// did it, which stands for all that it does.
///
/// # Errors
/// It is none, or of a later version.
pub fn decode(content: &[u8]) -> Result<Option<DdlEvent>, MessageError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let versioned: Versioned =
        serde_json::from_slice(content).map_err(|_| MessageError::Malformed)?;
    if versioned.v != VERSION {
        return Err(MessageError::Version(versioned.v));
    }
    let mut message: Message =
        serde_json::from_slice(content).map_err(|_| MessageError::Malformed)?;
    debug_assert_eq!(message.v, VERSION);
    let text = match (&message.text, message.made) {
        (Some(text), false) => match own(text, &message) {
            Own::Text(text) => Some(text.to_owned()),
            Own::Unknown => None,
            Own::Extension => return Ok(None),
        },
        (text, _) => text.clone(),
    };
    let makes = ["CREATE TABLE", "CREATE TABLE AS", "SELECT INTO", "CREATE SCHEMA"]
        .contains(&message.tag.as_str());
    message.settings.retain(|name, _| SETTINGS.contains(&name.as_str()));
    let mut seen = Vec::new();
    message.objects.retain(|object| {
        let new = !seen.contains(object);
        if new {
            seen.push(object.clone());
        }
        new
    });
    let standard = standard_strings(&message.settings);
    if message.tag == "ALTER TABLE" && text.as_deref().is_some_and(|t| attaches(t, standard)) {
        // The rows that it has are the parent's from now on, without being inserted there.
        let tables = message.objects.iter().filter(|object| object.kind == "table");
        let table = |object: &DdlObject| {
            Some(Table::Apart { schema: object.schema.clone()?, name: object.name.clone()? })
        };
        message.recomputed.extend(tables.filter_map(table));
    }
    // A table above several partitions comes with each of them.
    let mut recomputed: Vec<String> = message.recomputed.iter().map(Table::quoted).collect();
    recomputed.sort();
    recomputed.dedup();
    // A table may come with its sequence before it.
    let named = |object: &&DdlObject| {
        let tag = message.tag.as_str();
        let made = ["CREATE TABLE AS", "SELECT INTO"].contains(&tag) && object.kind == "table";
        made || tag.ends_with(&format!(" {}", object.kind.to_uppercase()))
    };
    let first = message.objects.iter().find(named).or(message.objects.first());
    Ok(Some(DdlEvent {
        object_type: first.map(|object| object.kind.clone()).unwrap_or_default(),
        identity: first.map(|object| object.identity.clone()).unwrap_or_default(),
        text,
        detail: DdlDetail {
            search_path: message.path,
            username: message.username,
            database: message.database,
            settings: message.settings,
            objects: message.objects,
            recomputed,
            makes,
            done: false,
        },
        tag: message.tag,
    }))
}

/// Whether a backslash is a character like others in a plain string, if that is known.
#[must_use]
pub fn standard_strings(settings: &BTreeMap<String, String>) -> Option<bool> {
    settings.get("standard_conforming_strings").map(|value| value == "on")
}

/// Whether it attaches a partition.
fn attaches(text: &str, standard: Option<bool>) -> bool {
    let words = |one: &Scanned| {
        let words: Vec<&str> = one.words().collect();
        words.windows(2).any(|pair| pair == ["ATTACH", "PARTITION"])
    };
    scan_under(text, standard).is_ok_and(|all| all.iter().any(words))
}

/// What a text is to a message.
enum Own<'a> {
    /// This part of it is its statement.
    Text(&'a str),
    /// Nobody can tell which.
    Unknown,
    /// Its statement is none of it, but was run by an extension that it makes or changes.
    Extension,
}

/// The one statement of `text` that the message is of.
fn own<'a>(text: &'a str, message: &Message) -> Own<'a> {
    let standard = standard_strings(&message.settings);
    let Ok(statements) = scan_under(text, standard) else { return Own::Unknown };
    let tagged = || statements.iter().filter(|statement| statement.has_tag(&message.tag));
    let count = tagged().count();
    // Where one of them may have been rolled back, or the whole may run many times, counting
    // says nothing.
    let countable = !message.inner && !statements.iter().any(Scanned::ends_transactions);
    let found = match (count, message.nth) {
        (1, _) => tagged().next(),
        (_, nth @ 1..) if countable => tagged().nth(nth - 1),
        _ => None,
    };
    let extension =
        |one: &Scanned| one.has_tag("CREATE EXTENSION") || one.has_tag("ALTER EXTENSION");
    match found {
        Some(found) => Own::Text(&text[found.range.clone()]),
        None if count == 0 && statements.iter().any(extension) => Own::Extension,
        None => Own::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(text: &str, tag: &str, nth: usize, inner: bool) -> Option<String> {
        let message = json!({"v": 1, "tag": tag, "text": text, "nth": nth, "inner": inner});
        decode(message.to_string().as_bytes()).unwrap().unwrap().text
    }

    #[test]
    fn a_message_is_read_whole() {
        let message = json!({
            "v": 1, "tag": "DROP TABLE", "text": "drop table t;", "path": "a, b",
            "username": "u", "database": "d", "later": true,
            "settings": {"TimeZone": "UTC", "role": "other"},
            "objects": [{"type": "table", "identity": "a.t", "schema": "a", "name": "t",
                         "dropped": true}],
        });
        let event = decode(message.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!((event.tag.as_str(), event.object_type.as_str()), ("DROP TABLE", "table"));
        assert_eq!((event.identity.as_str(), event.text.as_deref()), ("a.t", Some("drop table t")));
        assert!(event.detail.objects[0].dropped);
        assert_eq!(event.detail.search_path, "a, b");
        // A message sets nothing but what statements depend on.
        let zone = ("TimeZone".to_owned(), "UTC".to_owned());
        assert_eq!(event.detail.settings, BTreeMap::from([zone]));
    }

    #[test]
    fn what_a_backslash_is_depends_on_the_session() {
        let of = |text: &str, standard: Option<&str>| {
            let mut message = json!({"v": 1, "tag": "CREATE TABLE", "text": text, "nth": 1});
            if let Some(standard) = standard {
                message["settings"] = json!({"standard_conforming_strings": standard});
            }
            decode(message.to_string().as_bytes()).unwrap().unwrap().text
        };
        let plain = "create table a (x text default '\\'); create table b ()";
        assert_eq!(of(plain, None), None);
        let first = "create table a (x text default '\\')";
        assert_eq!(of(plain, Some("on")).as_deref(), Some(first));
        let escaped = "create table a (x text default '\\'); create table b ()')";
        assert_eq!(of(escaped, Some("off")).as_deref(), Some(escaped));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in ["", "{}", "[1]", "\u{0}", r#"{"v":1}"#, r#"{"v":1,"tag":7}"#] {
            assert_eq!(decode(bad.as_bytes()), Err(MessageError::Malformed), "{bad}");
        }
        assert_eq!(decode(br#"{"v":2,"new":"form"}"#), Err(MessageError::Version(2)));
    }

    #[test]
    fn of_several_statements_the_right_one_is_cut_out() {
        let text = "create table a (x int); insert into a values (1);\n\
                    /* two */ alter table a add y int; create table \"b;\" (x int)";
        let cut = |tag, nth| event(text, tag, nth, false);
        assert_eq!(cut("CREATE TABLE", 1).as_deref(), Some("create table a (x int)"));
        assert_eq!(cut("CREATE TABLE", 2).as_deref(), Some("create table \"b;\" (x int)"));
        assert_eq!(cut("ALTER TABLE", 1).as_deref(), Some("alter table a add y int"));
        assert_eq!(cut("CREATE TABLE", 3), None);
        assert_eq!(cut("DROP TABLE", 1), None);
        // As a query in a loop may do.
        assert_eq!(event(text, "CREATE TABLE", 1, true), None);
        assert_eq!(event(text, "ALTER TABLE", 7, true).as_deref(), Some("alter table a add y int"));
    }

    #[test]
    fn what_an_extension_does_itself_is_left_to_it() {
        let of = |tag: &str, text: &str| {
            decode(json!({"v": 1, "tag": tag, "text": text}).to_string().as_bytes()).unwrap()
        };
        assert_eq!(of("DROP OPERATOR", "create extension hstore"), None);
        let own = of("CREATE EXTENSION", "create extension hstore").unwrap();
        assert_eq!(own.text.as_deref(), Some("create extension hstore"));
        let event = of("CREATE TABLE", "select make_tables()").unwrap();
        assert_eq!(event.text, None, "a statement of another kind is not its text");
    }

    #[test]
    fn a_table_comes_before_its_sequence_and_each_object_once() {
        let object = |kind: &str| json!({"type": kind, "identity": kind});
        let objects = ["sequence", "table", "index", "sequence"].map(object);
        let message = json!({"v": 1, "tag": "CREATE TABLE", "text": "create table t ()",
                             "objects": objects});
        let event = decode(message.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!((event.object_type.as_str(), event.detail.objects.len()), ("table", 3));
        let made = json!({"v": 1, "tag": "SELECT INTO", "made": true,
                          "text": "CREATE TABLE IF NOT EXISTS t (x integer)"});
        let event = decode(made.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(event.text.as_deref(), Some("CREATE TABLE IF NOT EXISTS t (x integer)"));
    }

    #[test]
    fn tables_are_called_as_the_engine_calls_them() {
        let object = |schema: &str, name: &str| {
            json!({"type": "table", "identity": format!("{schema}.\"{name}\""),
                   "schema": schema, "name": name, "dropped": false})
        };
        let message = json!({
            "v": 1, "tag": "ALTER TABLE", "nth": 1,
            "text": "ALTER TABLE \"order\" ATTACH PARTITION p DEFAULT",
            "objects": [object("public", "order")],
            "recomputed": [{"schema": "public", "name": "user"}, {"schema": "Odd", "name": "T"},
                           {"schema": "public", "name": "user"},
                           "public.before"],
        });
        let event = decode(message.to_string().as_bytes()).unwrap().unwrap();
        let expected = ["\"Odd\".\"T\"", "public.before", "public.order", "public.user"];
        assert_eq!(event.detail.recomputed, expected);
    }

    #[test]
    fn where_one_may_have_been_rolled_back_counting_ends() {
        let text = "begin; create table a (); rollback; create table b ()";
        assert_eq!(event(text, "CREATE TABLE", 1, false), None);
        let text = "begin; create table a (); commit; alter table a add x int";
        let found = event(text, "ALTER TABLE", 1, false);
        assert_eq!(found.as_deref(), Some("alter table a add x int"));
    }

    #[test]
    fn tables_made_by_queries_are_not_counted_as_tables() {
        let text = "create table a as select 1; select 2 as x into b; create table c (x int)";
        let found = event(text, "CREATE TABLE", 1, false);
        assert_eq!(found.as_deref(), Some("create table c (x int)"));
        assert_eq!(event(text, "SELECT INTO", 1, false).as_deref(), Some("select 2 as x into b"));
        let found = event(text, "CREATE TABLE AS", 1, false);
        assert_eq!(found.as_deref(), Some("create table a as select 1"));
    }
}
