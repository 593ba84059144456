//! Tables of tests, written as one line.

use crate::event::{Column, Identity, Relation};
use crate::pattern::TablePattern;

const TYPES: [(&str, u32); 24] = [
    ("bool", 16),
    ("bytea", 17),
    ("int8", 20),
    ("int2", 21),
    ("int4", 23),
    ("text", 25),
    ("json", 114),
    ("float4", 700),
    ("float8", 701),
    ("inet", 869),
    ("_text", 1009),
    ("bpchar", 1042),
    ("varchar", 1043),
    ("date", 1082),
    ("time", 1083),
    ("timestamp", 1114),
    ("timestamptz", 1184),
    ("interval", 1186),
    ("numeric", 1700),
    ("uuid", 2950),
    ("jsonb", 3802),
    ("name", 19),
    ("oid", 26),
    ("citext", 16_500),
];

/// A relation from one line:
/// `public.users(id int8 key, email varchar(20) unique not null, tags text[], bio text) full`.
///
/// Types have their names in `pg_type` (`char(n)` is `bpchar(n)`); `key` is the replica
/// identity (and NOT NULL, and unique if it is alone); after the parenthesis comes the
/// replica identity if it is not the default: `index`, `full` or `nothing`. An unknown
/// type gets an OID of its own; `enum(a|b)` is an enum.
///
/// # Panics
/// If the line is no such thing.
#[must_use]
pub fn table(line: &str) -> Relation {
    let (name, rest) = line.split_once('(').unwrap_or_else(|| panic!("{line}: `(` is missing"));
    let (columns, identity) =
        rest.rsplit_once(')').unwrap_or_else(|| panic!("{line}: `)` is missing"));
    let name = TablePattern::parse(name.trim()).unwrap_or_else(|e| panic!("{e}"));
    let identity = match identity.trim() {
        "" => Identity::Default,
        "index" => Identity::Index,
        "full" => Identity::Full,
        "nothing" => Identity::Nothing,
        other => panic!("{other}: no replica identity"),
    };
    let mut columns: Vec<Column> = columns.split(',').map(|c| column(c.trim())).collect();
    let alone = columns.iter().filter(|c| c.key).count() == 1;
    for column in &mut columns {
        column.unique |= column.key && alone;
        column.key |= identity == Identity::Full;
    }
    let (schema, table) = (name.schema.text().to_owned(), name.table.text().to_owned());
    let id = schema.bytes().chain(table.bytes());
    let id = id.fold(16_384, |id: u32, b| id.wrapping_mul(31).wrapping_add(u32::from(b)));
    Relation { id, version: 1, schema, table, identity, columns }
}

fn column(text: &str) -> Column {
    let mut words = text.split_whitespace();
    let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let rest: Vec<&str> = words.collect();
    assert!(!kind.is_empty(), "{text}: a column is `name type`");
    let has = |word: &str| rest.contains(&word);
    let (base, inside) = match kind.split_once('(') {
        Some((base, inside)) => (base, Some(inside.trim_end_matches(')'))),
        None => (kind, None),
    };
    let elem = base.strip_suffix("[]").map(str::to_owned);
    let labels = (base == "enum")
        .then(|| inside.unwrap_or_default().split('|').map(str::to_owned).collect());
    let type_name = elem.as_ref().map_or_else(|| base.to_owned(), |elem| format!("_{elem}"));
    let typmod = inside
        .filter(|_| labels.is_none())
        .map_or(-1, |n| n.parse::<i32>().unwrap_or_else(|_| panic!("{text}: not a length")) + 4);
    let oid = TYPES.iter().find(|(known, _)| *known == type_name).map_or(99_999, |(_, oid)| *oid);
    Column {
        name: name.to_owned(),
        oid,
        base: type_name.clone(),
        type_name,
        typmod,
        key: has("key"),
        not_null: has("key") || has("null"),
        unique: has("unique"),
        toastable: matches!(base, "text" | "varchar" | "bpchar" | "jsonb" | "json" | "bytea"),
        elem,
        labels,
    }
}
