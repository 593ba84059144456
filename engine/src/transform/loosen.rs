//! What a candidate would let out that the running generation does not.
//!
//! A lost line of a configuration must never be what unmasks a column: a candidate that
//! covers less than the running generation is refused unless its file passes the very
//! column by name and somebody confirmed it. What cannot be compared, because a table is
//! not there yet or stops the stream, is carried over: a generation that knows nothing of
//! a table does not make its successor free. Functions only; what they find is
//! [`super::load`]'s and [`super::chain`]'s to refuse.

use std::collections::BTreeSet;

use kasho_plugin_sdk::event::quote_identifier;

use super::catalog::Catalog;
use super::coverage::{Action, ColumnCoverage, Coverage, Older, TableCoverage, name};
use super::plan::Named;

/// One thing that would be let out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loosened {
    /// Column, table or setting.
    pub(super) at: String,
    /// The candidate's file says so itself.
    pub(super) said: bool,
    /// What it was.
    pub(super) was: String,
    /// How the file would say so.
    pub(super) say: Option<String>,
}

/// A table under its name.
type Table<'a> = (&'a str, &'a TableCoverage);

const MASKED: &str = "it was masked";
const RENAMED: &str =
    "it is new where a masked column is gone, and may be that one under a new name";

/// What `new` lets out and `old` does not. `unknown`: tables of which `new` cannot tell.
/// `pass_said`: its file says `unruled_tables = "pass"`. `gone`: what `new` does not know is
/// not published any more.
pub(super) fn loosened(
    old: &Coverage,
    new: &Coverage,
    unknown: &BTreeSet<String>,
    (pass_said, gone): (bool, bool),
) -> Vec<Loosened> {
    let mut all = Vec::new();
    if old.closed && !new.closed {
        let (at, was) = ("unruled_tables".to_owned(), "tables without a rule did not leave");
        let say = Some("unruled_tables = \"pass\"".to_owned());
        all.push(Loosened { at, said: pass_said, was: was.to_owned(), say });
    }
    for (table, before) in &old.tables {
        match new.find(before.id, table) {
            Some((name, after)) if !unknown.contains(name) => {
                all.extend(of_table((table, before), (name, after)));
            }
            Some(_) => {}
            None if new.closed => {}
            None => {
                let covered = before.columns.iter().filter(|(_, c)| c.action.covers());
                all.extend(covered.map(|(column, _)| passed(table, column, gone, MASKED)));
            }
        }
    }
    for (table, after) in new.tables.iter().filter(|_| old.drops) {
        if old.find(after.id, table).is_none() {
            all.extend(opened((table, after)));
        }
    }
    all
}

/// What one table lets out and did not.
pub(super) fn of_table((table, old): Table<'_>, (name, new): Table<'_>) -> Vec<Loosened> {
    if new.closed {
        return Vec::new();
    }
    if old.closed && !old.halts && !old.dropped {
        return opened((name, new)).into_iter().collect();
    }
    let (mut all, mut gone) = (Vec::new(), false);
    for (column, was) in old.columns.iter().filter(|(_, c)| c.action.covers()) {
        let Some(is) = new.columns.get(column) else {
            gone = true;
            continue;
        };
        let exact = if name == table { was.named.max(Named::Pattern) } else { Named::Exactly };
        if !is.action.covers() {
            all.push(passed(name, column, passes(is, exact), MASKED));
        }
    }
    if gone {
        let fresh = new.columns.iter().filter(|(column, _)| !old.columns.contains_key(*column));
        let open = fresh.filter(|(_, c)| !c.action.covers());
        all.extend(
            open.map(|(column, is)| passed(name, column, passes(is, Named::Exactly), RENAMED)),
        );
    }
    all.extend(lost_filters(old, (name, new)));
    all
}

/// That a table under a new description lets out nothing that it did not, unless the rules
/// say so by its new names.
///
/// # Errors
/// What it would let out.
pub(super) fn renames(old: Table<'_>, new: Table<'_>) -> Result<(), String> {
    let unsaid = of_table(old, new).into_iter().filter(|loosened| !loosened.said);
    let told: Vec<String> = unsaid
        .map(|l| match l.say {
            Some(say) => format!("{}: {} (mask it, or say {say})", l.at, l.was),
            None => format!("{}: {}", l.at, l.was),
        })
        .collect();
    match told.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "its description changed, and the rules would let out what did not leave before: {}",
            told.join("; ")
        )),
    }
}

/// That a table does all that the generation before did, which this one could not be held
/// against when it was loaded.
///
/// # Errors
/// What it does otherwise.
pub(super) fn breaks(old: Table<'_>, new: Table<'_>) -> Result<(), String> {
    if new.1.closed {
        return Ok(());
    }
    let loose = of_table(old, new).into_iter().map(|l| format!("{}: {}", l.at, l.was));
    let moved = differing(old.1, new).filter(|(.., keyed)| *keyed);
    let moved = moved.map(|(_, at, _)| format!("{at}: it says where rows are"));
    let told: Vec<String> = loose.chain(moved).collect();
    match told.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "when these rules were loaded, this table could not be compared with them, and they \
             differ from those before: {}. Restore them, or load the configuration again (SIGHUP), \
             which says how to confirm that",
            told.join("; ")
        )),
    }
}

/// Its file lets it pass, and names it so exactly.
fn passes(column: &ColumnCoverage, exact: Named) -> bool {
    column.action == Action::Pass && column.named >= exact
}

fn passed(table: &str, column: &str, said: bool, was: &str) -> Loosened {
    let at = format!("{table}.{}", quote_identifier(column));
    let say = Some(format!("{} = \"pass\"", toml::Value::String(at.clone())));
    Loosened { at, said, was: was.to_owned(), say }
}

/// A table whose rows were dropped, and that says nothing of it any more.
fn opened((table, new): Table<'_>) -> Option<Loosened> {
    let shows = !new.closed && new.columns.values().any(|c| !c.action.covers());
    let was = "its rows were dropped (unruled_tables = \"drop\")".to_owned();
    shows.then(|| Loosened { at: table.to_owned(), said: true, was, say: None })
}

fn lost_filters(old: &TableCoverage, (table, new): Table<'_>) -> Vec<Loosened> {
    let mut left: Vec<&str> = new.filters.iter().map(|f| f.rule.as_str()).collect();
    let mut lost = Vec::new();
    for filter in &old.filters {
        if let Some(at) = left.iter().position(|rule| *rule == filter.rule) {
            left.swap_remove(at);
            continue;
        }
        let said = new.rules.get(&filter.by).is_some_and(|named| *named >= filter.named);
        let rows = if old.dropped { "all rows" } else { "rows" };
        let was = format!(
            "a filter removed {}",
            if old.dropped { "every row of it" } else { "rows of it" }
        );
        lost.push(Loosened {
            at: format!("{table} ({rows} removed by `{}`)", filter.by),
            said,
            was,
            say: Some(format!("a rule of `{}` that keeps its rows", filter.by)),
        });
    }
    lost
}

/// Columns that say where rows are and whose mapping differs in `new`, with their tables.
pub(super) fn moved(
    old: &Coverage,
    new: &Coverage,
    unknown: &BTreeSet<String>,
    catalog: &Catalog,
) -> Vec<(String, String)> {
    let mut identity = Vec::new();
    for (table, before) in &old.tables {
        let Some((name, after)) = new.find(before.id, table) else { continue };
        if unknown.contains(name) || before.closed || after.closed {
            continue;
        }
        for (column, path, keyed) in differing(before, (name, after)) {
            if keyed || referred(catalog, name, column) {
                identity.push((name.clone(), path));
            }
        }
    }
    identity
}

/// Columns that are mapped in two ways, as they are called now; whether they identify rows.
pub(super) fn differing<'a>(
    old: &'a TableCoverage,
    (table, new): Table<'a>,
) -> impl Iterator<Item = (&'a str, String, bool)> {
    old.columns.iter().filter_map(move |(column, was)| {
        let is = new.columns.get(column).filter(|is| is.mapping != was.mapping)?;
        let path = format!("{table}.{}", quote_identifier(column));
        Some((column.as_str(), path, was.identity || is.identity))
    })
}

/// A table or column that leaves under another name than before.
pub(super) struct Renamed {
    /// The table, as it is called in the source.
    pub(super) table: String,
    /// What it is about: the table, or a column of it.
    pub(super) at: String,
    /// The name before.
    pub(super) was: String,
    /// The name now.
    pub(super) is: String,
}

/// Tables and columns that leave under other names than before: what was loaded stands under
/// the former ones. A source that was renamed itself is none.
pub(super) fn renamed(old: &Coverage, new: &Coverage, unknown: &BTreeSet<String>) -> Vec<Renamed> {
    let mut all = Vec::new();
    for (table, before) in &old.tables {
        let Some((name, after)) = new.find(before.id, table) else { continue };
        if unknown.contains(name) || before.closed || after.closed {
            continue;
        }
        let mut tell = |at: String, was: String, is: String| {
            all.push(Renamed { table: name.clone(), at, was, is });
        };
        let renames = before.leaves_as.is_some() || after.leaves_as.is_some();
        let was = before.leaves_as.as_ref().unwrap_or(table);
        let is = after.leaves_as.as_ref().unwrap_or(name);
        if renames && was != is {
            tell(name.clone(), was.clone(), is.clone());
        }
        for column in before.columns.keys().filter(|column| after.columns.contains_key(*column)) {
            let was = before.columns_as.get(column).unwrap_or(column);
            let is = after.columns_as.get(column).unwrap_or(column);
            if was != is {
                let at = format!("{name}.{}", quote_identifier(column));
                tell(at, quote_identifier(was), quote_identifier(is));
            }
        }
    }
    all
}

/// What a generation has to answer for: its own coverage, and what it could not compare as
/// the one before had it. `strict`: nobody confirmed that it may differ there.
pub(super) fn carry(old: &Coverage, new: &mut Coverage, unknown: &BTreeSet<String>, strict: bool) {
    for (table, before) in &old.tables {
        let found = new.find(before.id, table).map(|(name, after)| (name.clone(), after.halts));
        let guards = !before.filters.is_empty()
            || before.columns.values().any(|column| column.action.covers());
        let name = match found {
            Some((name, halts)) if halts || unknown.contains(&name) => name,
            None => table.clone(),
            Some(_) => continue,
        };
        if guards {
            let id = new.tables.get(&name).map_or(before.id, |table| table.id);
            let kept = TableCoverage { id, kept: strict, ..before.clone() };
            new.tables.insert(name, kept);
        }
    }
}

/// Rows that were lost stay lost, and rows that left under another mapping carry that one,
/// whatever becomes of the rules: until their table is `loaded` again, by `old`.
pub(super) fn carry_rows(
    old: &Coverage,
    new: &mut Coverage,
    unknown: &BTreeSet<String>,
    loaded: impl Fn(u32) -> bool,
) {
    for (table, before) in old.tables.iter().filter(|(_, table)| table.lossy) {
        let name = new.find(before.id, table).map(|(name, _)| name.clone());
        if let Some(after) = name.and_then(|name| new.tables.get_mut(&name)) {
            after.lossy = after.loses || before.loses || !loaded(before.id);
        }
    }
    let mut all: BTreeSet<Older> =
        old.older.iter().filter(|older| !loaded(older.id)).cloned().collect();
    for (table, before) in old.tables.iter().filter(|(_, table)| table.id != 0 && !table.closed) {
        // How it leaves now, where it does and that is known.
        let after = new.find(before.id, table).filter(|(name, _)| !unknown.contains(*name));
        let after = after.map(|(_, after)| after).filter(|after| !after.closed);
        for (column, was) in &before.columns {
            let left = was.older(before.id, column);
            let other = match after.map(|after| after.columns.get(column)) {
                Some(Some(is)) => is.older(before.id, column) != left,
                // It is gone, or has another name.
                Some(None) => false,
                None => true,
            };
            if other {
                insert(&mut all, left);
            }
        }
    }
    // Of tables that the rules of before did not know rows may have left as they are.
    let fresh = new.tables.iter().filter(|(name, table)| {
        table.id != 0 && !table.closed && !unknown.contains(*name) && !loaded(table.id)
    });
    let fresh = fresh.filter(|(name, table)| !old.closed && old.find(table.id, name).is_none());
    for (_, table) in fresh {
        let bare = ColumnCoverage::bare();
        for (column, is) in &table.columns {
            let left = bare.older(table.id, column);
            if is.older(table.id, column) != left {
                insert(&mut all, left);
            }
        }
    }
    new.older = all;
}

/// Of two of one kind one is another than whatever is in force: no more are needed.
fn insert(all: &mut BTreeSet<Older>, left: Older) {
    let first = Older { mapping: String::new(), ..left.clone() };
    let same = |o: &&Older| (o.id, &o.column, o.covered) == (left.id, &left.column, left.covered);
    if all.range(first..).take_while(same).count() < 2 {
        all.insert(left);
    }
}

fn referred(catalog: &Catalog, table: &str, column: &str) -> bool {
    catalog.foreign_keys.iter().any(|key| {
        (name(&key.table) == table && key.columns.iter().any(|c| c == column))
            || (name(&key.referenced) == table
                && key.referenced_columns.iter().any(|c| c == column))
    })
}
