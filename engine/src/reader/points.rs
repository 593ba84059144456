//! Load points: what of the changes is part of a table's loaded rows already. Pure.
//!
//! What can go wrong: a reader that begins behind the rename of a schema, and before the load
//! point of a table in it, knows the table by its name of before.

use std::collections::BTreeMap;

use crate::batch::moved;
use crate::position::Lsn;
use crate::sink::entry::{Content, Entry};

/// The entry without what is part of the load already; none if that is all of it. Points are
/// those of the names that tables have where the reader is.
pub(super) fn past(
    points: &mut BTreeMap<String, Lsn>,
    mut entry: Entry,
    lsn: Lsn,
) -> Option<Entry> {
    if points.is_empty() {
        return Some(entry);
    }
    if let Content::Row { ddl: Some(detail), .. } = &entry.content {
        for renamed in detail.renamed_schemas() {
            for (table, point) in std::mem::take(points) {
                let at = points.entry(moved(&table, renamed).unwrap_or(table)).or_default();
                *at = point.max(*at);
            }
        }
    }
    let loaded = |table: &String| points.get(table).is_some_and(|point| lsn < *point);
    if let Content::Truncate { tables, .. } = &mut entry.content {
        tables.retain(|table| !loaded(table));
        entry.table = tables.join(",");
        return (!tables.is_empty()).then_some(entry);
    }
    (!loaded(&entry.table)).then_some(entry)
}
