//! load(v) == stream(v): one text for one value, whichever way it comes, for every type
//! in the catalogue that a column can have, their arrays, and types of users' own.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Postgres, Redis, python};
use crate::world::World;

const OWN_TYPES: &str = r#"
    CREATE EXTENSION hstore;
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('it''s fine', '"so, so"');
    CREATE DOMAIN posint AS integer CHECK (VALUE > 0);
    CREATE DOMAIN tags AS text[];
    CREATE TYPE pair AS (n integer, t text);
    CREATE TYPE floatrange AS RANGE (subtype = float8);
"#;

/// Types a column can have: what the catalogue calls base, domain, range and multirange,
/// without the arrays, which are made from these.
const CATALOGUE: &str = "
    SELECT n.nspname || '.' || t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('b', 'd', 'r', 'm') AND t.typname !~ '^_'
      AND n.nspname IN ('pg_catalog', 'information_schema')";

/// The lines of `values.txt` by type, unescaped.
fn values() -> BTreeMap<String, Vec<String>> {
    let mut by_type: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let lines = include_str!("values.txt").lines().filter(|line| !line.starts_with('#'));
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, text) = line.split_once('|').expect("type | text");
        let text = text.strip_prefix(' ').unwrap_or(text);
        by_type.entry(name.trim().to_owned()).or_default().push(text.to_owned());
    }
    by_type
}

/// `E'…'` understands the escapes of `values.txt` and adds none.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\'', "''"))
}

fn quoted(name: &str) -> String {
    let (schema, table) = name.split_once('.').expect("schema.type");
    format!("\"{schema}\".\"{table}\"")
}

/// The two statements of a type: a table, and its rows from `id` on.
fn table(number: usize, name: &str, values: &[String], array: bool) -> (String, String) {
    let base = quoted(name);
    let column = if array { format!("{base}[]") } else { base.clone() };
    let mut rows: Vec<String> = match array {
        false => values.iter().map(|v| format!("{}::{base}", literal(v))).collect(),
        true => {
            let all: Vec<String> =
                values.iter().map(|v| format!("{}::{base}", literal(v))).collect();
            let all = all.join(", ");
            vec![
                format!("ARRAY[{all}]::{column}"),
                format!("ARRAY[NULL, {all}]::{column}"),
                format!("ARRAY[ARRAY[{all}], ARRAY[{all}]]::{column}"),
                format!("'{{}}'::{column}"),
                format!("'[3:3]={{NULL}}'::{column}"),
            ]
        }
    };
    rows.push("NULL".to_owned());
    let create = format!("CREATE TABLE v{number} (id bigint PRIMARY KEY, v {column});");
    let rows: Vec<String> =
        rows.iter().enumerate().map(|(i, v)| format!("({} + {{base}}, {v})", i + 1)).collect();
    (create, format!("INSERT INTO v{number} (id, v) VALUES {};", rows.join(", ")))
}

/// Types of the catalogue whose input function refuses every text, as it says itself.
async fn refuses_input(pg: &Postgres, name: &str) -> bool {
    let client = pg.client().await;
    let error = client.batch_execute(&format!("SELECT 'x'::{}", quoted(name))).await.err();
    error.and_then(|e| e.code().cloned()).is_some_and(|code| code.code() == "0A000")
}

/// Makes a table for every type, and one for its arrays, with a row for every value.
/// Answers the statements that add the same values again.
pub(crate) async fn fill(pg: &Postgres) -> Vec<String> {
    for extension in ["hstore", "citext"] {
        let query = "SELECT count(*) FROM pg_available_extensions WHERE name = '";
        let there = pg.value(&format!("{query}{extension}'")).await;
        assert_eq!(there, "1", "no extension {extension}: add the contrib modules to this server");
    }
    pg.sql(OWN_TYPES).await;
    let mut values = values();
    if pg.version().await < 15 {
        // The text of such a value is no UTF-8 there, but a single byte of it.
        values.get_mut("pg_catalog.char").expect("listed").retain(|text| text.is_ascii());
    }
    let listed: BTreeSet<&str> = values.keys().map(String::as_str).collect();
    for row in pg.rows(CATALOGUE).await {
        let name = row[0].as_deref().expect("name");
        let covered = listed.contains(name) || refuses_input(pg, name).await;
        assert!(covered, "values.txt has no value of {name}");
    }
    let mut inserts = Vec::new();
    for (number, (name, values)) in values.iter().enumerate() {
        for (offset, array) in [(0, false), (1000, true)] {
            let (create, insert) = table(number + offset, name, values, array);
            pg.sql(&create).await;
            pg.sql(&insert.replace("{base}", "0")).await;
            inserts.push(insert.replace("{base}", "1000"));
        }
    }
    inserts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_has_one_text() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let inserts = fill(&pg).await;
    let world = World::with(pg, redis, 1, "").await;
    world.bootstrap().await;
    for insert in inserts {
        world.pg.sql(&insert).await;
    }
    world.settle(2).await;
    let program = include_str!("types.py");
    let output = python(program, &[&world.redis.url(), "1"]).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
}
