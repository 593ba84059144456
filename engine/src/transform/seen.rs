//! What rows have shown of tables since the generations were loaded: a table that was made
//! later, a column that came. The next description of the table is held against it,
//! whoever runs then: another chain, another generation, and by way of what is stored
//! another process.
//!
//! A stream that is opened again comes to changes a second time, so a description counts
//! for what stands behind it in the log, and not for what stands before. Rows of a load
//! have no place in the log: what they are of is what was seen last. Nothing can go wrong
//! here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::position::Position;

use super::coverage::{Coverage, TableCoverage};

/// Descriptions of one table that are remembered, the oldest of which is forgotten for a new
/// one. Every description is held against the one before it when it first comes by, which is
/// among the newest then; and what is written down of a table is the newest alone. Older ones
/// are for a stream that is opened again: it is described every table anew where it begins,
/// and what it comes to from there it has let out before. So that one is missing costs no
/// more than noting it again.
const VERSIONS: usize = 8;

/// One description of a table, as what was made of it.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// Its number among all, from 1.
    number: u64,
    /// Digest of the generation that let it pass.
    by: String,
    /// Its first row.
    position: Position,
    /// The table's name.
    pub(super) name: String,
    /// What was made of it.
    pub(super) covered: TableCoverage,
}

impl Sight {
    /// Whether it reads like this.
    fn is(&self, by: &str, name: &str, covered: &TableCoverage) -> bool {
        self.by == by && self.name == name && self.covered == *covered
    }
}

/// Whose eyes look: which sights count for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Viewer<'a> {
    /// Its digest.
    pub(super) digest: &'a str,
    /// Of sights up to this number it was told when it was loaded.
    pub(super) told: u64,
    /// What it was loaded with.
    pub(super) coverage: &'a Coverage,
}

impl Viewer<'_> {
    /// What a former generation saw was held against it, where it knows the table.
    fn counts(&self, id: u32, sight: &Sight) -> bool {
        sight.by == self.digest
            || sight.number > self.told
            || self.coverage.find(id, &sight.name).is_none()
    }
}

/// All that was seen, of all tables. Shared from generation to generation.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Sights>);

#[derive(Debug, Default)]
struct Sights {
    newest: u64,
    /// By id, in the order of their numbers.
    tables: BTreeMap<u32, Vec<Sight>>,
}

impl Seen {
    fn sights(&self) -> MutexGuard<'_, Sights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the newest sight; 0 if nothing was seen.
    pub(super) fn newest(&self) -> u64 {
        self.sights().newest
    }

    /// What a table was found to be before the row at this position.
    pub(super) fn before(&self, id: u32, position: Position, viewer: Viewer<'_>) -> Option<Sight> {
        let sights = self.sights();
        let counting = sights.tables.get(&id)?.iter().filter(|s| viewer.counts(id, s));
        let counting: Vec<&Sight> = counting.collect();
        let loaded = |s: &Sight| matches!(s.position, Position::Bootstrap(_));
        let found = match position {
            Position::Bootstrap(_) => counting.last(),
            Position::Wal { .. } => {
                let before = counting.iter().filter(|s| !loaded(s) && s.position <= position);
                before.max_by_key(|s| (s.position, s.number))
            }
        };
        // A load was the first to see it.
        let known = viewer.coverage.tables.values().any(|table| table.id == id);
        let first = || counting.iter().rfind(|s| loaded(s)).filter(|_| !known);
        found.or_else(first).map(|s| (*s).clone())
    }

    /// Notes what a generation let pass, unless that is what it was found to be `before`.
    pub(super) fn note(
        &self,
        by: &str,
        position: Position,
        (name, covered): (String, TableCoverage),
        before: Option<&Sight>,
    ) {
        if before.is_some_and(|before| before.is(by, &name, &covered)) {
            return;
        }
        let mut sights = self.sights();
        sights.newest += 1;
        let (number, by) = (sights.newest, by.to_owned());
        let table = sights.tables.entry(covered.id).or_default();
        if table.len() == VERSIONS {
            table.remove(0);
        }
        table.push(Sight { number, by, position, name, covered });
    }

    /// Tables that are loaded anew lack no row any more, but by what loses rows of them.
    pub(super) fn forget_losses(&self, loaded: impl Fn(u32) -> bool) {
        let mut sights = self.sights();
        for (_, sights) in sights.tables.iter_mut().filter(|(id, _)| loaded(**id)) {
            sights.iter_mut().for_each(|sight| sight.covered.lossy = sight.covered.loses);
        }
    }

    /// What a generation covers, with all that was seen since.
    pub(super) fn over(&self, viewer: Viewer<'_>) -> Coverage {
        let mut all = viewer.coverage.clone();
        for (id, table) in &self.sights().tables {
            let newest = table.iter().rfind(|sight| viewer.counts(*id, sight));
            let Some(Sight { name, covered, .. }) = newest else { continue };
            let known = viewer.coverage.find(*id, name).is_some();
            if known || covered.tells() {
                all.replace(name, covered);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::coverage::{Action, ColumnCoverage};
    use super::super::plan::Named;
    use super::*;
    use crate::position::Lsn;

    fn table(id: u32, column: &str, action: Action) -> TableCoverage {
        let (identity, mapping, named) = (false, Vec::new(), Named::No);
        let column = (column.to_owned(), ColumnCoverage { action, identity, mapping, named });
        TableCoverage { id, columns: BTreeMap::from([column]), ..TableCoverage::default() }
    }

    fn at(lsn: u64) -> Position {
        Position::Wal { commit_lsn: Lsn(lsn), ordinal: 1 }
    }

    fn see(seen: &Seen, by: &str, position: Position, column: &str) {
        let covered = table(9, column, Action::Mask);
        seen.note(by, position, ("public.t".to_owned(), covered), None);
    }

    #[test]
    fn a_sight_counts_for_what_stands_behind_it() {
        let (seen, coverage) = (Seen::default(), Coverage::default());
        let viewer = Viewer { digest: "a", told: 0, coverage: &coverage };
        let column = |position: Position| {
            let sight = seen.before(9, position, viewer)?;
            sight.covered.columns.into_keys().next()
        };
        assert_eq!(column(at(5)), None);
        see(&seen, "a", at(10), "email");
        see(&seen, "a", at(20), "mail");
        assert_eq!(column(at(5)), None, "the stream was opened again");
        assert_eq!(column(at(10)).as_deref(), Some("email"));
        assert_eq!(column(at(19)).as_deref(), Some("email"));
        assert_eq!(column(at(30)).as_deref(), Some("mail"));
        assert_eq!(column(Position::Bootstrap(1)).as_deref(), Some("mail"));
        see(&seen, "a", Position::Bootstrap(1), "loaded");
        assert_eq!(column(at(5)).as_deref(), Some("loaded"), "a load saw it first");
        assert_eq!(column(at(30)).as_deref(), Some("mail"));
        let again = seen.before(9, at(30), viewer).unwrap();
        let newest = seen.newest();
        seen.note("a", at(31), (again.name.clone(), again.covered.clone()), Some(&again));
        assert_eq!(seen.newest(), newest, "nothing new");
    }

    #[test]
    fn the_oldest_of_many_descriptions_is_forgotten_and_the_newest_is_not() {
        let (seen, coverage) = (Seen::default(), Coverage::default());
        let viewer = Viewer { digest: "a", told: 0, coverage: &coverage };
        let columns: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
        for (lsn, column) in (10..).zip(&columns) {
            see(&seen, "a", at(lsn), column);
            let found = seen.before(9, at(lsn), viewer).unwrap();
            assert!(found.covered.columns.contains_key(column));
        }
        assert!(seen.before(9, at(11), viewer).is_none());
        let all = seen.over(viewer);
        assert!(all.find(9, "").unwrap().1.columns.contains_key("c19"));
    }

    #[test]
    fn what_a_generation_was_held_against_does_not_count_for_it_again() {
        let seen = Seen::default();
        see(&seen, "a", at(10), "email");
        let own = table(9, "mail", Action::Pass);
        let knows = Coverage {
            tables: BTreeMap::from([("public.t".to_owned(), own)]),
            ..Coverage::default()
        };
        let none = Coverage::default();
        let sees = |told, coverage| {
            seen.before(9, at(30), Viewer { digest: "b", told, coverage }).is_some()
        };
        assert!(!sees(1, &knows) && sees(0, &knows) && sees(1, &none));
    }

    #[test]
    fn nothing_is_forgotten_for_a_name_that_another_table_takes() {
        let seen = Seen::default();
        let own = table(5, "email", Action::Mask);
        let mut coverage = Coverage::default();
        coverage.tables.insert("public.t".to_owned(), own.clone());
        see(&seen, "a", at(10), "phone");
        let all = seen.over(Viewer { digest: "a", told: 0, coverage: &coverage });
        assert_eq!(all.find(5, "public.other").map(|(_, table)| table), Some(&own));
        assert_eq!(all.find(9, "").unwrap().0, "public.t");
        // The same table under another name is not there twice.
        seen.note("a", at(20), ("public.u".to_owned(), table(5, "mail", Action::Pass)), None);
        let all = seen.over(Viewer { digest: "a", told: 0, coverage: &coverage });
        assert_eq!(all.tables.keys().collect::<Vec<_>>(), ["public.t", "public.u"]);
    }
}
