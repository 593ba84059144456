//! The oracle: a function of what happened in the database and what stands in the stream.
//! It knows nothing of batches, processes and faults; what it does not know it cannot be
//! fooled by.

use std::collections::BTreeMap;

use kasho::position::Position;
use kasho::sink::entry::{Content, Entry, EntryOp, Field, RawEntry};
use kasho::sink::id::{Id, Lane};

use crate::log::{Event, Happened};
use crate::stations::Rule;

/// Everything that is wrong with a stream of which everything `through` a position has to
/// be there.
pub(crate) fn check(happened: &[Happened], raw: &[RawEntry], through: Position) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut groups: BTreeMap<(u64, bool), Vec<Entry>> = BTreeMap::new();
    let (mut newest, mut open) = (None, None);
    for raw in raw {
        let entry = match Entry::decode(raw, Lane::Changes) {
            Ok(entry) => entry,
            Err(error) => return vec![error.to_string()],
        };
        let key = (raw.id.high, raw.id.low != 0);
        if newest.is_some_and(|newest| raw.id <= newest) {
            wrong.push(format!("{} does not come after {newest:?}", raw.id));
        }
        if open.is_some_and(|open| open != key) {
            wrong.push(format!("{} begins before {open:?} was ended", raw.id));
        }
        newest = Some(raw.id);
        open = (!raw.closes()).then_some(key);
        groups.entry(key).or_default().push(entry);
    }
    if let Some(open) = open.filter(|open| Position::after(kasho::position::Lsn(open.0)) <= through)
    {
        wrong.push(format!("{open:?} was never ended"));
    }
    for happened in happened {
        let group = groups.remove(&(happened.lsn.0, happened.xid != 0)).unwrap_or_default();
        wrong.extend(transaction(happened, &group, through));
    }
    wrong.extend(groups.keys().map(|key| format!("{key:?} never happened")));
    wrong
}

fn transaction(happened: &Happened, group: &[Entry], through: Position) -> Vec<String> {
    let Happened { xid, lsn: commit_lsn, events, passed, retry, .. } = happened;
    if retry.is_some() && group.is_empty() {
        // Nobody expected it, or its row was set aside again: the letters tell.
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let mut say = |text: String| wrong.push(format!("transaction {xid} at {commit_lsn}: {text}"));
    let mut marks: Vec<&str> = group.iter().filter_map(mark).collect();
    let mut numbers: Vec<u64> = group.iter().map(|entry| entry.generation).collect();
    marks.dedup();
    numbers.dedup();
    if marks.len() > 1 || numbers.len() > 1 {
        say(format!("more than one generation: {marks:?}, {numbers:?}"));
    }
    for (at, entry) in group.iter().enumerate() {
        if entry.last != (at + 1 == group.len()) && (entry.last || whole(happened, through)) {
            say(format!("entry {} of {} is marked {}", at + 1, group.len(), entry.last));
        }
        if entry.xid != *xid {
            say(format!("xid {}", entry.xid));
        }
    }
    let position =
        |event: &&Event| Position::Wal { commit_lsn: *commit_lsn, ordinal: event.ordinal };
    let closed = group.last().is_some_and(|entry| entry.last);
    let told = |event: &&Event| closed || position(event) <= through;
    let rows: Vec<&Entry> = group.iter().filter(|entry| entry.op != EntryOp::Commit).collect();
    let fits = |rule: &Rule| {
        let marked = marks.first().is_none_or(|mark| *mark == rule.digest());
        let kept = || events.iter().filter(|event| rule.keeps(position(event)));
        // Beyond what has to be there something may be.
        let least = kept().filter(told).count();
        marked
            && (least..=kept().count()).contains(&rows.len())
            && kept().zip(&rows).all(|(event, entry)| same(position(&event), event, entry))
    };
    let untouched = group.is_empty() && !events.iter().any(|event| told(&event));
    if !untouched && !passed.iter().any(fits) {
        let found: Vec<Id> = group.iter().map(|entry| Id::of(entry.position)).collect();
        say(format!(
            "{found:?} under {marks:?} are not what any of {passed:?} keeps of {}",
            events.len()
        ));
    }
    wrong
}

/// Whether all of it has to be there.
fn whole(happened: &Happened, through: Position) -> bool {
    let ordinal = if happened.xid == 0 { 0 } else { Position::LAST };
    Position::Wal { commit_lsn: happened.lsn, ordinal } <= through
}

fn same(position: Position, event: &Event, entry: &Entry) -> bool {
    entry.position == position
        && entry.op == EntryOp::Row(event.op)
        && entry.table == event.table
        && event.id.as_deref() == value(entry, 0)
}

/// What the chain left in the row.
fn mark(entry: &Entry) -> Option<&str> {
    value(entry, 1)
}

fn value(entry: &Entry, column: usize) -> Option<&str> {
    let Content::Row { new, old, .. } = &entry.content else { return None };
    match new.as_ref().or(old.as_ref())?.get(column)? {
        Field::Text(text) => Some(&**text),
        _ => None,
    }
}
