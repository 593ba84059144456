//! What stays and what begins again, table by table and name by name.

use super::*;
use crate::bootstrap::{LATER, LoadMode, Snapshot};
use crate::position::Epoch;

fn table(oid: u32, name: &str, shape: &str) -> TableLoad {
    TableLoad {
        oid,
        relation: oid,
        table: format!("{name}_{oid}"),
        published_as: name.into(),
        snapshot: 0,
        ranges: 2,
        attempt: 1,
        done: false,
        rows: 0,
        rows_estimated: 10,
        bytes_estimated: 8192,
        shape: shape.into(),
        definition: String::new(),
        gone: false,
    }
}

fn done(oid: u32, name: &str, shape: &str) -> TableLoad {
    TableLoad { done: true, rows: 10, ..table(oid, name, shape) }
}

fn load(points: &[u64], tables: Vec<TableLoad>) -> Load {
    let snapshot = |lsn: &u64| Snapshot { name: format!("s{lsn}"), lsn: Lsn(*lsn), by: None };
    Load {
        epoch: Epoch(1),
        slot: "kasho_slot".into(),
        start_lsn: Lsn(100),
        mode: LoadMode::Direct,
        snapshots: points.iter().map(snapshot).collect(),
        holder: points.last().map(|lsn| format!("holder {lsn}")),
        range_blocks: 8,
        tables,
        loaded: false,
        published: vec![],
        again: vec![],
        planned: None,
        later: vec![],
        renamed: None,
        renames: Vec::new(),
        called: [].into(),
    }
}

fn onward(load: &Load, found: &Load) -> Load {
    resumed(load, found, 0)
}

/// `(published name, oid, load LSN, attempt, done)` of every table.
fn seen(load: &Load) -> Vec<(&str, u32, u64, u32, bool)> {
    let mut seen: Vec<_> = load
        .tables
        .iter()
        .map(|t| (t.published_as.as_str(), t.oid, load.load_lsn(t).0, t.attempt, t.done))
        .collect();
    seen.sort_unstable();
    seen
}

#[test]
fn finished_tables_stay_and_the_others_get_the_later_snapshot() {
    let before = load(&[100], vec![done(1, "a", "x"), table(2, "b", "x"), table(3, "c", "x")]);
    let found = load(
        &[200, 250],
        vec![
            table(1, "a", "x"),
            table(2, "b", "x"),
            TableLoad { snapshot: 1, ..table(3, "c", "y") },
        ],
    );
    let next = onward(&before, &found);
    assert_eq!(
        seen(&next),
        [("a", 1, 100, 1, true), ("b", 2, 200, 2, false), ("c", 3, 250, 2, false)]
    );
    assert_eq!(next.holder.as_deref(), Some("holder 250"));
    let points = [("b".to_owned(), Lsn(200)), ("c".to_owned(), Lsn(250))];
    assert_eq!(next.load_points(), points.into());
    // Again, and what was loaded meanwhile stays with its own load point.
    let mut second = next;
    second.tables.iter_mut().find(|t| t.oid == 2).unwrap().done = true;
    let found =
        load(&[300], found.tables.into_iter().map(|t| TableLoad { snapshot: 0, ..t }).collect());
    let next = onward(&second, &found);
    assert_eq!(
        seen(&next),
        [("a", 1, 100, 1, true), ("b", 2, 200, 2, true), ("c", 3, 300, 3, false)]
    );
}

#[test]
fn a_finished_table_that_is_not_the_same_begins_again() {
    for now in [table(1, "a", "y"), table(9, "a", "x")] {
        let before = load(&[100], vec![done(1, "a", "x")]);
        let next = onward(&before, &load(&[200], vec![now.clone()]));
        let open: Vec<_> = next.tables.iter().filter(|t| !t.done).collect();
        assert_eq!((open.len(), open[0].oid, open[0].attempt), (1, now.oid, 2));
        assert_eq!(next.load_points(), [("a".to_owned(), Lsn(200))].into());
    }
    // What an older program had stored names no shape: nothing is assumed.
    let before = load(&[100], vec![done(1, "a", "")]);
    assert!(!onward(&before, &load(&[200], vec![table(1, "a", "")])).tables[0].done);
}

#[test]
fn a_table_that_is_gone_stays_if_it_was_finished_and_is_emptied_if_not() {
    let before = load(&[100], vec![done(1, "a", "x"), table(2, "b", "x")]);
    let next = onward(&before, &load(&[200], vec![]));
    assert_eq!(seen(&next), [("a", 1, 100, 1, true), ("b", 2, 200, 2, true)]);
    let told = restarts(&next, |oid, attempt| (oid, attempt) == (2, 1));
    assert_eq!(told, [Restart { table: "b".into(), attempt: 2, load_lsn: Lsn(200) }]);
    // It is not begun over and over.
    let again = onward(&next, &load(&[300], vec![]));
    assert_eq!(seen(&again), seen(&next));
}

#[test]
fn partitions_under_one_name_begin_again_together() {
    let before = load(&[100], vec![done(1, "p", "x"), table(2, "p", "x"), done(3, "q", "x")]);
    let found = load(&[200], vec![table(1, "p", "x"), table(2, "p", "x"), table(3, "q", "x")]);
    let next = onward(&before, &found);
    assert_eq!(
        seen(&next),
        [("p", 1, 200, 2, false), ("p", 2, 200, 2, false), ("q", 3, 100, 1, true)]
    );
    let told = restarts(&next, |oid, attempt| (oid, attempt) == (1, 1));
    assert_eq!(told.len(), 1, "once for the name: {told:?}");
    // A partition that is gone does not make the finished rest begin again for ever.
    let mut finished = onward(&before, &load(&[200], vec![table(2, "p", "x"), table(3, "q", "x")]));
    finished.tables.iter_mut().for_each(|table| table.done = true);
    let again = onward(&finished, &load(&[300], vec![table(2, "p", "x"), table(3, "q", "x")]));
    assert_eq!(seen(&again), seen(&finished));
}

#[test]
fn a_renamed_table_takes_no_old_progress_for_new() {
    let before = load(&[100], vec![table(1, "a", "x")]);
    let next = onward(&before, &load(&[200], vec![table(1, "b", "y")]));
    assert_eq!(seen(&next), [("a", 1, 200, 2, true), ("b", 1, 200, 2, false)]);
    // Its old name is emptied all the same.
    let told = restarts(&next, |oid, attempt| (oid, attempt) == (1, 1));
    assert!(told.iter().any(|restart| restart.table == "a"), "{told:?}");
}

#[test]
fn a_table_that_is_asked_for_begins_again_although_it_is_the_same() {
    let mut before = load(&[100], vec![done(1, "a", "x"), done(2, "b", "x")]);
    before.again = vec!["b".into()];
    let next = onward(&before, &load(&[200], vec![table(1, "a", "x"), table(2, "b", "x")]));
    assert_eq!(seen(&next), [("a", 1, 100, 1, true), ("b", 2, 200, 2, false)]);
    assert!(next.again.is_empty());
    let next = resumed(&load(&[], vec![]), &load(&[200], vec![table(1, "a", "x")]), 7);
    assert_eq!(seen(&next), [("a", 1, 200, 8, false)]);
}

fn defined(definition: &str, table: TableLoad) -> TableLoad {
    TableLoad { definition: definition.into(), ..table }
}

/// Names with a load point that is not known yet.
fn put_off(load: &Load) -> Vec<String> {
    let points = load.load_points();
    let later: Vec<_> = points.into_iter().filter(|(_, lsn)| *lsn == LATER).collect();
    let names: Vec<String> = later.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, load.later);
    names
}

#[test]
fn a_table_that_was_altered_since_is_emptied_and_put_off() {
    let all = |d: &str| [(1, "a"), (2, "b"), (3, "c")].map(|(n, t)| defined(d, table(n, t, d)));
    let mut before = load(&[100], all("x").into());
    before.tables[2].done = true;
    // One that is altered before it is loaded, one that is not, one afterwards.
    let [a, b, c] = all("y");
    let [_, same, _] = all("x");
    let next = onward(&before, &load(&[200], vec![a.clone(), same.clone(), c]));
    assert_eq!(put_off(&next), ["a", "c"]);
    assert_eq!(
        seen(&next),
        [("a", 1, 200, 2, true), ("b", 2, 200, 2, false), ("c", 3, 200, 2, true)]
    );
    let told = restarts(&next, |oid, attempt| (oid, attempt) == (1, 1));
    assert_eq!(told, [Restart { table: "a".into(), attempt: 2, load_lsn: Lsn(200) }]);
    // Once more: it is what it was at the last snapshot, and not what readers have; another one
    // is gone, with everything until then that they must not see.
    let again = onward(&next, &load(&[300], vec![a.clone(), b]));
    assert_eq!(put_off(&again), ["a", "b"]);
    assert_eq!(again.load_points()["c"], Lsn(300));
    // What readers have is asked of the first plan, and not of what was found since.
    let back = onward(&again, &load(&[400], vec![a, same]));
    assert_eq!(put_off(&back), ["a"]);
    assert_eq!(back.load_points()["b"], Lsn(400));
}

#[test]
fn a_table_that_was_renamed_or_made_since_is_put_off() {
    let before =
        load(&[100], vec![defined("x", table(1, "a", "x")), defined("x", done(2, "b", "x"))]);
    let now = [(1, "renamed"), (2, "too"), (3, "made")];
    let now = now.map(|(oid, name)| defined("x", table(oid, name, "y")));
    let next = onward(&before, &load(&[200], now.into()));
    assert_eq!(put_off(&next), ["made", "renamed", "too"]);
    // What was loaded stays by its old name, and is renamed in the changes.
    assert_eq!(seen(&next), [("a", 1, 200, 2, true), ("b", 2, 100, 1, true)]);
    // Where one takes the name of another, neither is what readers have.
    let swapped = [(1, "b"), (2, "a")].map(|(oid, name)| defined("x", table(oid, name, "y")));
    let next = onward(&before, &load(&[200], swapped.into()));
    assert_eq!(put_off(&next), ["a", "b"]);
    assert!(next.tables.iter().all(|table| table.gone), "{next:?}");
}
