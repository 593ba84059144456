//! Two databases, table by table: every row's text on either side, and what only one of them
//! has; and two dumps of structure, object by object.

use std::collections::BTreeMap;

use super::schema::Schema;

/// Rows that are shown of a difference.
const SHOWN: usize = 8;
const WIDTH: usize = 400;

/// All rows of a table, each with how often it is there.
type Rows = BTreeMap<String, i64>;

/// What differs between two databases in the tables of a schema; empty if nothing does.
pub(super) async fn difference(
    schema: &Schema,
    names: (&str, &str),
    sides: (&tokio_postgres::Client, &tokio_postgres::Client),
) -> String {
    let mut told = String::new();
    for table in &schema.tables {
        let label = format!("{} ({:?})", table.name, table.identity);
        told += &difference_of((&table.name, &label), names, sides).await;
    }
    told
}

/// What differs in one table, by its name in SQL and what it is called.
pub(super) async fn difference_of(
    (table, label): (&str, &str),
    (one, two): (&str, &str),
    (a, b): (&tokio_postgres::Client, &tokio_postgres::Client),
) -> String {
    let (left, right) = (rows(a, table).await, rows(b, table).await);
    if left == right {
        return String::new();
    }
    let count = |rows: &Rows| rows.values().sum::<i64>();
    let (here, there) = (count(&left), count(&right));
    let mut told = format!("{label}: {here} rows in {one}, {there} in {two}\n");
    let mut shown = 0;
    for row in left.keys().chain(right.keys()) {
        let (here, there) =
            (left.get(row).copied().unwrap_or(0), right.get(row).copied().unwrap_or(0));
        // Rows of the second side alone come after those of the first.
        if here == there || shown == SHOWN {
            continue;
        }
        shown += 1;
        let row: String = row.chars().take(WIDTH).collect();
        told += &format!("  {here} × in {one}, {there} × in {two}: {row}\n");
    }
    told
}

/// A dump without what servers of different versions tell each in its own way: the names of
/// NOT NULL, which those before 18 do not keep, and the table before a view's columns, which
/// those before 16 write even where there is no other.
pub(super) fn unversioned(dump: &str) -> String {
    let line = |line: &str| {
        let named = line.split_once(" NOT NULL").and_then(|(before, after)| {
            let (column, name) = before.rsplit_once(" CONSTRAINT ")?;
            (!name.contains('(')).then(|| format!("{column} NOT NULL{after}\n"))
        });
        named.unwrap_or_else(|| format!("{line}\n"))
    };
    let part = |part: &str| {
        let view = part.split_once("\n   FROM ").map(|(_, from)| from);
        let from = view.and_then(|from| from.split(['\n', ';']).next());
        match from.and_then(|from| from.split_once('.')) {
            Some((_, table)) => {
                let unqualified = part.replace(&format!(" {table}."), " ");
                unqualified.replace(&format!("({table}."), "(")
            }
            None => part.to_owned(),
        }
    };
    let parts: Vec<String> = dump.split(OBJECT).map(part).collect();
    parts.join(OBJECT).lines().map(line).collect()
}

/// What differs between two dumps of structure; objects named in `left_out` apart.
pub(super) fn structure_differs(one: &str, two: &str, left_out: &[String]) -> String {
    let (one, two) = (objects(one), objects(two));
    let mut told = String::new();
    for name in one.keys().chain(two.keys().filter(|name| !one.contains_key(*name))) {
        let (here, there) = (one.get(name), two.get(name));
        let named = |left: &String| name.starts_with(&format!("Name: {left};"));
        if here == there || left_out.iter().any(named) {
            continue;
        }
        let shown = |text: Option<&String>| text.map_or("nothing", |text| text.trim()).to_owned();
        told += &format!("{name}\n  the source: {}\n  the target: {}\n", shown(here), shown(there));
    }
    told
}

/// What a heading of a dump begins with.
const OBJECT: &str = "\n--\n-- ";

/// What stands under each heading of a dump.
fn objects(dump: &str) -> BTreeMap<String, String> {
    let mut objects = BTreeMap::<String, String>::new();
    for part in dump.split(OBJECT).skip(1) {
        let (name, text) = part.split_once("\n--\n").unwrap_or((part, ""));
        *objects.entry(name.to_owned()).or_default() += text;
    }
    objects
}

async fn rows(client: &tokio_postgres::Client, table: &str) -> Rows {
    let settings = "SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'";
    client.batch_execute(settings).await.expect("SET");
    // The name of the table a row stands in is no part of it.
    let query = format!("SELECT t::text, count(*) FROM {table} t GROUP BY 1");
    let rows = client.query(&query, &[]).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
