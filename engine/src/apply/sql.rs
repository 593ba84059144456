//! The text of statements. Every identifier is quoted, every value a parameter with a cast,
//! so that it goes through its column's own input function. Pure.

use std::fmt::Write;

use super::change::{Find, Shape, Verb};
use super::table::Table;
use crate::quote::identifier;

/// What becomes of an insert whose row is there, or an update whose row is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Otherwise {
    /// It fails, or changes nothing.
    Nothing,
    /// The row is left as it is.
    Skip,
    /// The row is made what it should be.
    Upsert,
}

/// A statement for one row: its parameters are the values of `shape.set`, then the key's.
pub(super) fn one(table: &Table, shape: &Shape, otherwise: Otherwise) -> String {
    match (shape.verb, otherwise) {
        (Verb::Insert, Otherwise::Upsert) => match upsert(table, shape) {
            Some(sql) => sql,
            None => one(table, shape, Otherwise::Skip),
        },
        (Verb::Insert, otherwise) => {
            let mut sql = insert(table, &shape.set, 1);
            if otherwise == Otherwise::Skip {
                sql.push_str(" ON CONFLICT DO NOTHING");
            }
            sql
        }
        (Verb::Update, _) => {
            let rows = rows(table, shape, shape.set.len() + 1);
            format!(
                "UPDATE {} SET {} WHERE {rows}",
                table.only(),
                assignments(table, &shape.set, 1)
            )
        }
        (Verb::Delete, _) => {
            format!("DELETE FROM {} WHERE {}", table.only(), rows(table, shape, 1))
        }
    }
}

/// A statement for `count` rows of a run: the parameters row by row, of each the values of
/// `shape.set`, then the key's.
pub(super) fn many(table: &Table, shape: &Shape, count: usize) -> String {
    if shape.verb == Verb::Insert {
        return insert(table, &shape.set, count);
    }
    let Find::Key(at) = shape.find else { return one(table, shape, Otherwise::Nothing) };
    let key = &table.keys[at];
    let places: Vec<usize> =
        shape.set.iter().copied().chain(shape.by.iter().map(|(place, _)| *place)).collect();
    let names: Vec<String> = (0..places.len()).map(|n| format!("c{n}")).collect();
    let from = format!("(VALUES {}) AS v ({})", tuples(table, &places, count), names.join(", "));
    let width = shape.set.len();
    let mut found = String::new();
    for (n, (place, equal)) in key.columns.iter().zip(&key.equal).enumerate() {
        let and = if n == 0 { "" } else { " AND " };
        let _ = write!(found, "{and}t.{} {equal} v.c{}", column(table, *place), width + n);
    }
    if shape.verb == Verb::Delete {
        return format!("DELETE FROM {} AS t USING {from} WHERE {found}", table.only());
    }
    let set = shape.set.iter().enumerate();
    let set: Vec<String> =
        set.map(|(n, place)| format!("{} = v.c{n}", column(table, *place))).collect();
    format!("UPDATE {} AS t SET {} FROM {from} WHERE {found}", table.only(), set.join(", "))
}

/// The start of a COPY of these columns.
pub(super) fn copy(table: &Table, set: &[usize]) -> String {
    format!("COPY {} ({}) FROM STDIN", table.sql, columns(table, set))
}

/// An update of the row by its key, and an insert if there was none: one row inserted means
/// that there was none. Only where the new row says by which key it would be found.
fn upsert(table: &Table, shape: &Shape) -> Option<String> {
    let key = table.keys.iter().find(|key| key.columns.iter().all(|at| shape.set.contains(at)))?;
    let parameter = |place: usize| {
        let n = shape.set.iter().position(|at| *at == place).unwrap_or(0) + 1;
        format!("${n}::{}", table.columns[place].cast)
    };
    let found = key.columns.iter().zip(&key.equal);
    let found: Vec<String> = found
        .map(|(place, equal)| format!("{} {equal} {}", column(table, *place), parameter(*place)))
        .collect();
    let others =
        shape.set.iter().filter(|at| !key.columns.contains(at) && !table.columns[**at].always);
    let set: Vec<String> =
        others.map(|at| format!("{} = {}", column(table, *at), parameter(*at))).collect();
    let found = found.join(" AND ");
    let (only, name, names) = (table.only(), &table.sql, columns(table, &shape.set));
    let there = match set.is_empty() {
        true => format!("SELECT 1 FROM {only} WHERE {found}"),
        false => format!("UPDATE {only} SET {} WHERE {found} RETURNING 1", set.join(", ")),
    };
    let values: Vec<String> = shape.set.iter().map(|at| parameter(*at)).collect();
    Some(format!(
        "WITH there AS ({there}) INSERT INTO {name} ({names}) OVERRIDING SYSTEM VALUE \
         SELECT {} WHERE NOT EXISTS (SELECT FROM there)",
        values.join(", ")
    ))
}

/// As [`one`] of an update by a key, and an insert of the whole row if there was none. Where rows
/// may be missing, one that has the new key already was read later than this: it is left.
pub(super) fn update_or_insert(table: &Table, shape: &Shape, miss: bool) -> String {
    let update = one(table, shape, Otherwise::Nothing);
    let key = shape.by.iter().map(|(place, _)| *place).enumerate();
    let key = key.map(|(n, place)| (shape.set.len() + n, place));
    let all = shape.set.iter().copied().enumerate();
    // Where the key changes, the new one counts.
    let all: Vec<(usize, usize)> =
        all.chain(key.filter(|(_, place)| !shape.set.contains(place))).collect();
    let values = all.iter().map(|(n, place)| format!("${}::{}", n + 1, table.columns[*place].cast));
    let values = values.collect::<Vec<_>>().join(", ");
    let places: Vec<usize> = all.iter().map(|(_, place)| *place).collect();
    let (name, names) = (&table.sql, columns(table, &places));
    let later = match shape.find {
        Find::Key(at) if miss => {
            let key = table.keys[at].columns.iter().zip(&table.keys[at].equal);
            let one = |(place, equal): (&usize, &String)| {
                let n = all.iter().find(|(_, at)| at == place).map_or(0, |(n, _)| n + 1);
                format!("{} {equal} ${n}::{}", column(table, *place), table.columns[*place].cast)
            };
            let found = key.map(one).collect::<Vec<_>>().join(" AND ");
            format!(" AND NOT EXISTS (SELECT FROM {} WHERE {found})", table.only())
        }
        _ => String::new(),
    };
    format!(
        "WITH there AS ({update} RETURNING 1) INSERT INTO {name} ({names}) OVERRIDING SYSTEM VALUE \
         SELECT {values} WHERE NOT EXISTS (SELECT FROM there){later}"
    )
}

fn insert(table: &Table, set: &[usize], count: usize) -> String {
    match set.is_empty() {
        true => format!("INSERT INTO {} DEFAULT VALUES", table.sql),
        false => format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES {}",
            table.sql,
            columns(table, set),
            tuples(table, set, count)
        ),
    }
}

fn tuples(table: &Table, places: &[usize], count: usize) -> String {
    let mut sql = String::new();
    for row in 0..count {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for (n, place) in places.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let _ = write!(
                sql,
                "{comma}${}::{}",
                row * places.len() + n + 1,
                table.columns[*place].cast
            );
        }
        sql.push(')');
    }
    sql
}

fn assignments(table: &Table, set: &[usize], first: usize) -> String {
    let one = |(n, place): (usize, &usize)| {
        let (name, cast) = (column(table, *place), &table.columns[*place].cast);
        format!("{name} = ${}::{cast}", first + n)
    };
    set.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

/// Which row: by its key, or the first that is alike in every column.
fn rows(table: &Table, shape: &Shape, first: usize) -> String {
    if let Find::Key(at) = shape.find {
        let key = &table.keys[at];
        let one = |(n, (place, equal)): (usize, (&usize, &String))| {
            let (name, cast) = (column(table, *place), &table.columns[*place].cast);
            format!("{name} {equal} ${}::{cast}", first + n)
        };
        let columns = key.columns.iter().zip(&key.equal).enumerate();
        return columns.map(one).collect::<Vec<_>>().join(" AND ");
    }
    let (mut alike, mut same) = (Vec::new(), Vec::new());
    for (n, (place, null)) in shape.by.iter().enumerate() {
        let (name, parameter) = (column(table, *place), first + n);
        let definition = &table.columns[*place];
        let cast = &definition.cast;
        match (&definition.equal, null) {
            // The parameter is named all the same, so that it has a type.
            (_, true) => alike.push(format!("{name} IS NULL AND ${parameter}::text IS NULL")),
            (Some(equal), false) => {
                alike.push(format!("{name} {equal} ${parameter}::{cast}"));
                // Of rows that are equal, such as 1.0 and 1.00, the one that is alike.
                let text = |what: &str| format!("pg_catalog.format('%s', {what})");
                let (mine, given) = (text(&name), text(&format!("${parameter}::{cast}")));
                same.push(format!("{mine} OPERATOR(pg_catalog.=) {given}"));
            }
            // A type without equality, such as json.
            (None, false) => alike.push(format!(
                "pg_catalog.format('%s', {name}) OPERATOR(pg_catalog.=) ${parameter}::text"
            )),
        }
    }
    let order = match same.is_empty() {
        true => String::new(),
        false => format!(" ORDER BY ({}) DESC", same.join(" AND ")),
    };
    let place = if table.partitioned { "(tableoid, ctid)" } else { "ctid" };
    let what = if table.partitioned { "tableoid, ctid" } else { "ctid" };
    let (only, alike) = (table.only(), alike.join(" AND "));
    format!("{place} = (SELECT {what} FROM {only} WHERE {alike}{order} LIMIT 1)")
}

fn column(table: &Table, place: usize) -> String {
    // Always in quotes: the target's keywords may be later ones than ours.
    identifier(&table.columns[place].name)
}

fn columns(table: &Table, set: &[usize]) -> String {
    set.iter().map(|place| column(table, *place)).collect::<Vec<_>>().join(", ")
}
