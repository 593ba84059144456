//! Load points: what of the changes is part of a table's loaded rows already. Pure.
//!
//! What can go wrong: a reader that begins behind the rename of a table or its schema, and before
//! the load point of it, knows the table by its name of before, if whoever wrote the points
//! did not know of the rename yet.

use std::collections::BTreeMap;

use crate::position::Lsn;
use crate::sink::entry::{Called, Content, Entry};
use crate::sink::id::Id;

/// The points as a reader knows them that has come to `cursor`. What it has not seen renamed is
/// called as before, and the new name may be another table's.
pub(super) fn known(
    mut points: BTreeMap<String, Lsn>,
    called: &Called,
    cursor: Id,
) -> BTreeMap<String, Lsn> {
    let came = |at: &(u64, u64)| (cursor.high, cursor.low) >= *at;
    points.retain(|table, _| called.get(table).is_none_or(came));
    points
}

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
        for renamed in detail.renames() {
            for (table, point) in std::mem::take(points) {
                let at = points.entry(renamed.moved(&table).unwrap_or(table)).or_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{DdlDetail, DdlObject};
    use crate::bootstrap::LATER;
    use crate::position::Position;
    use crate::sink::entry::EntryOp;
    use kasho_plugin_sdk::Op;

    fn points(points: &[(&str, Lsn)]) -> BTreeMap<String, Lsn> {
        points.iter().map(|(table, lsn)| ((*table).to_owned(), *lsn)).collect()
    }

    fn entry(op: Op, table: &str, ddl: Option<DdlDetail>) -> Entry {
        let content = Content::Row {
            columns: [].into(),
            oids: [].into(),
            new: None,
            old: None,
            key: Vec::new(),
            transactional: None,
            miss: false,
            ddl: ddl.map(Box::new),
        };
        Entry {
            position: Position::Wal { commit_lsn: Lsn(300), ordinal: 1 },
            op: EntryOp::Row(op),
            table: table.to_owned(),
            generation: 1,
            last: true,
            xid: 7,
            commit_us: 0,
            content,
            weight: 0,
        }
    }

    fn rename(points: &mut BTreeMap<String, Lsn>, from: (&str, &str), to: (&str, &str)) {
        let object = DdlObject {
            kind: "table".into(),
            schema: Some(to.0.into()),
            name: Some(to.1.into()),
            was: Some(from.1.into()),
            was_in: Some(from.0.into()),
            ..DdlObject::default()
        };
        let detail = DdlDetail { objects: vec![object], ..DdlDetail::default() };
        let told = entry(Op::Ddl, "kasho.ddl", Some(detail));
        assert!(past(points, told, Lsn(300)).is_some(), "the rename itself is for everybody");
    }

    #[test]
    fn what_is_skipped_of_a_table_is_skipped_under_its_next_name() {
        let mut all = points(&[("a.t", LATER), ("a.u", Lsn(200))]);
        let comes = |all: &mut BTreeMap<String, Lsn>, table| {
            past(all, entry(Op::Insert, table, None), Lsn(300)).is_some()
        };
        assert!(!comes(&mut all, "a.t") && comes(&mut all, "a.u"));
        // They swap their names, and one goes elsewhere.
        rename(&mut all, ("a", "t"), ("a", "x"));
        rename(&mut all, ("a", "u"), ("a", "t"));
        rename(&mut all, ("a", "x"), ("a", "u"));
        assert!(comes(&mut all, "a.t") && !comes(&mut all, "a.u"));
        rename(&mut all, ("a", "u"), ("B", "u"));
        assert!(comes(&mut all, "a.u") && !comes(&mut all, "\"B\".u"));
        assert_eq!(all, points(&[("a.t", Lsn(200)), ("\"B\".u", LATER)]));
    }

    /// Before that, another table has the name.
    #[test]
    fn a_name_counts_for_those_who_have_come_to_where_it_was_given() {
        let all = points(&[("a.t", LATER), ("a.x", LATER)]);
        let called = Called::from([("a.x".to_owned(), (300, 2))]);
        let at = |high, low| known(all.clone(), &called, Id { high, low });
        for (high, low) in [(0, 0), (299, u64::MAX), (300, 1)] {
            assert_eq!(at(high, low), points(&[("a.t", LATER)]), "{high}-{low}");
        }
        for (high, low) in [(300, 2), (300, u64::MAX), (301, 0)] {
            assert_eq!(at(high, low), all, "{high}-{low}");
        }
    }
}
