//! A load that goes on at a later snapshot: which tables stay, which begin again, and
//! what readers have to be told. Pure.
//!
//! What can go wrong here is silent: a table half of which is of one snapshot and half of
//! another, or a change that is neither in the rows nor after the load point. So the unit
//! is everything that goes by one published name, for that is all a reader can tell apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::bootstrap::{Called, Definitions, Load, LoadMode, TableLoad};
use crate::position::Lsn;

/// The load as it begins: tables that were made or altered between the consistent point and
/// what was found under their locks are put off.
pub(super) fn begun(mut load: Load) -> Load {
    let names = by_name(&load.tables);
    let unfit = |(name, tables): (&str, Vec<&TableLoad>)| {
        (!fits(load.planned.as_ref(), name, &tables)).then(|| name.to_owned())
    };
    let mut later: Vec<String> = names.into_iter().filter_map(unfit).collect();
    load.tables.retain(|table| !later.contains(&table.published_as));
    later.extend(gone(&load));
    load.later = once(later);
    load
}

fn once(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

/// Tables that nothing is known of any more but their names. Nobody has their rows: what readers
/// meet of them is about none that is there.
fn gone(load: &Load) -> Vec<String> {
    if load.mode != LoadMode::Direct {
        return Vec::new();
    }
    let planned = load.planned.iter().flat_map(Definitions::keys).chain(&load.later);
    let there: BTreeSet<&str> = load.tables.iter().map(|t| t.published_as.as_str()).collect();
    let gone: BTreeSet<&String> = planned.filter(|name| !there.contains(name.as_str())).collect();
    gone.into_iter().cloned().collect()
}

/// As [`resumed`], of the load of a bootstrap: names that are gone stay put off.
pub(super) fn resumed_first(load: &Load, found: &Load, used: u32) -> Load {
    let mut next = resumed(load, found, used);
    // Those that it was put off by until now, too, as readers at the consistent point know them.
    let mut later = load.later.clone();
    later.retain(|name| !load.called.contains_key(name));
    let known = Load { later, ..next.clone() };
    next.later.extend(gone(&known));
    next.later = once(next.later);
    next
}

/// The load as it goes on with what a new holder has `found`.
///
/// A name stays as it is if it was finished and its tables are the same still, or are gone
/// altogether: what happened to them stands in the changes. Everything else is read at the
/// new snapshot, under a new attempt, and so is what is to be loaded once more; but not what
/// readers cannot take where they meet it: a table that was made, altered or renamed since is
/// put off. No attempt up to `used` counts as a new one.
pub(super) fn resumed(load: &Load, found: &Load, used: u32) -> Load {
    let base = load.snapshots.len();
    let planned = load.planned.clone().unwrap_or_else(|| definitions(&load.tables));
    let (before, now) = (by_name(&load.tables), by_name(&found.tables));
    let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
    let (mut tables, mut later): (Vec<TableLoad>, Vec<String>) = Default::default();
    for name in names {
        let old = before.get(name).cloned().unwrap_or_default();
        let mut new = now.get(name).cloned().unwrap_or_default();
        let read = load.again.iter().chain(&load.later).all(|other| other != name);
        if read && stays(&old, &new) {
            tables.extend(old.into_iter().cloned());
            continue;
        }
        if !fits(Some(&planned), name, &new) {
            later.push(name.to_owned());
            new.clear();
        }
        // A table that was renamed counts on too, or its old progress would be taken for new.
        let oids: BTreeSet<u32> = new.iter().map(|table| table.oid).collect();
        let known = load.tables.iter().filter(|t| t.published_as == name || oids.contains(&t.oid));
        let attempt = known.map(|table| table.attempt).max().unwrap_or(0).max(used) + 1;
        let begun = new.iter().map(|&table| TableLoad {
            snapshot: base + table.snapshot,
            attempt,
            ..table.clone()
        });
        let gone = old.iter().filter(|table| !oids.contains(&table.oid));
        let gone = gone.map(|&table| TableLoad {
            snapshot: base,
            attempt,
            done: true,
            rows: 0,
            gone: true,
            ..table.clone()
        });
        tables.extend(begun.chain(gone));
    }
    tables.sort_by_key(|table| (std::cmp::Reverse(table.bytes_estimated), table.oid));
    let snapshots = load.snapshots.iter().chain(&found.snapshots).cloned().collect();
    let published = once(load.published.iter().chain(&found.published).cloned().collect());
    Load {
        snapshots,
        holder: found.holder.clone(),
        tables,
        range_blocks: found.range_blocks,
        published,
        again: Vec::new(),
        planned: Some(planned),
        later,
        called: Called::new(),
        ..load.clone()
    }
}

/// What tables are defined as, of those that are there.
fn definitions(tables: &[TableLoad]) -> Definitions {
    let mut all = Definitions::new();
    for table in tables.iter().filter(|table| !table.gone) {
        let own = all.entry(table.published_as.clone()).or_default();
        own.insert((table.oid, table.definition.clone()));
    }
    all
}

/// Whether readers can take rows of these tables where they meet them. Where nobody noted what
/// they are, nothing else is assumed.
fn fits(planned: Option<&Definitions>, name: &str, new: &[&TableLoad]) -> bool {
    let Some(planned) = planned else { return true };
    let before = planned.get(name);
    let unknown = before.into_iter().flatten().any(|(_, definition)| definition.is_empty())
        || new.iter().any(|table| table.definition.is_empty());
    let same = || {
        let now = new.iter().map(|table| (table.oid, table.definition.clone()));
        before.is_some_and(|before| *before == now.collect())
    };
    new.is_empty() || unknown || same()
}

fn by_name(tables: &[TableLoad]) -> BTreeMap<&str, Vec<&TableLoad>> {
    let mut names: BTreeMap<&str, Vec<&TableLoad>> = BTreeMap::new();
    for table in tables {
        names.entry(&table.published_as).or_default().push(table);
    }
    names
}

fn stays(old: &[&TableLoad], new: &[&TableLoad]) -> bool {
    let finished = !old.is_empty() && old.iter().all(|table| table.done);
    let shapes = |tables: &[&TableLoad]| -> BTreeSet<(u32, String)> {
        let there = tables.iter().filter(|table| !table.gone);
        there.map(|table| (table.oid, table.shape.clone())).collect()
    };
    let noted = old.iter().all(|table| !table.shape.is_empty());
    finished && (new.is_empty() || (noted && shapes(old) == shapes(new)))
}

/// A table of which an earlier attempt may have published rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The name its rows carry.
    pub table: String,
    /// The attempt that begins.
    pub attempt: u32,
    /// Changes below are part of it.
    pub load_lsn: Lsn,
}

/// What readers have to be told to empty, given the tables and attempts (`stale`) that
/// have published rows which are not those of the present attempt.
#[must_use]
pub fn restarts(load: &Load, stale: impl Fn(u32, u32) -> bool) -> Vec<Restart> {
    let names = by_name(&load.tables);
    let begun = names.into_iter().filter_map(|(name, tables)| {
        let published =
            tables.iter().any(|table| (1..table.attempt).any(|earlier| stale(table.oid, earlier)));
        let first = tables.first().filter(|_| published)?;
        let load_lsn = tables.iter().map(|table| load.load_lsn(table)).max()?;
        Some(Restart { table: name.to_owned(), attempt: first.attempt, load_lsn })
    });
    begun.collect()
}

#[cfg(test)]
mod tests;
