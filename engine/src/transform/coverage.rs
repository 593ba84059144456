//! What a generation keeps from leaving, so that the next one can be held against it.
//!
//! A lost line of a configuration must never be what unmasks a column: a candidate that
//! covers less than the running generation is refused unless its file passes the very
//! column by name and somebody confirmed it. Functions only; what they find is
//! [`super::load`]'s to refuse.

use std::collections::{BTreeMap, BTreeSet};

use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::event::quote_identifier;
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, ForeignKey};
use super::config::Unruled;
use super::plan::{Fate, Policy, RelationPlan};

/// What becomes of a column. The order is that of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nobody speaks of it, and it passes.
    Open,
    /// A rule says that it passes.
    Pass,
    /// A plugin may rewrite it.
    Write,
    /// It leaves as NULL.
    Null,
    /// Every value of it is rewritten.
    Mask,
    /// It never leaves.
    Drop,
}

impl Action {
    /// Whether its values do not leave.
    #[must_use]
    pub fn covers(self) -> bool {
        matches!(self, Action::Null | Action::Mask | Action::Drop)
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnCoverage {
    /// What becomes of it.
    pub action: Action,
    /// It says which row a row is.
    pub identity: bool,
    /// Fingerprints of what rewrites it, in the order of the chain.
    pub mapping: Vec<String>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCoverage {
    /// None of its rows leaves.
    pub closed: bool,
    /// Because a plugin drops them all, and not for want of rules.
    #[serde(default)]
    pub dropped: bool,
    /// Its columns.
    pub columns: BTreeMap<String, ColumnCoverage>,
    /// Bindings that may remove rows of it.
    pub filters: BTreeSet<String>,
}

/// What a generation masks, drops and filters. Names of tables are as in
/// [`kasho_plugin_sdk::Relation::qualified`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Tables that nobody names do not leave.
    pub closed: bool,
    /// The tables it was checked against.
    pub tables: BTreeMap<String, TableCoverage>,
}

/// What a candidate would let out that the running generation does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loosened {
    /// Column, table or setting.
    pub(super) at: String,
    /// The candidate's file says so itself.
    pub(super) said: bool,
    /// What it was.
    pub(super) was: &'static str,
}

impl Coverage {
    /// The coverage that these plans make.
    pub(super) fn of<'p>(
        plans: impl Iterator<Item = &'p RelationPlan>,
        names: &[&str],
        policy: Policy,
    ) -> Coverage {
        let tables = plans.map(|p| (p.relation.qualified(), table(p, names))).collect();
        Coverage { closed: policy.unnamed() != Unruled::Pass, tables }
    }

    /// A column's coverage.
    #[must_use]
    pub fn column(&self, table: &str, column: &str) -> Option<&ColumnCoverage> {
        self.tables.get(table)?.columns.get(column)
    }

    /// What `candidate` lets out and this does not. `pass_said`: its file says
    /// `unruled_tables = "pass"`.
    pub(super) fn loosened_by(&self, candidate: &Coverage, pass_said: bool) -> Vec<Loosened> {
        let mut all = Vec::new();
        if self.closed && !candidate.closed {
            let at = "unruled_tables".to_owned();
            all.push(Loosened { at, said: pass_said, was: "tables without a rule did not leave" });
        }
        for (name, old) in &self.tables {
            let Some(new) = candidate.tables.get(name) else {
                let covered =
                    old.columns.iter().filter(|(_, c)| c.action.covers() && !candidate.closed);
                all.extend(covered.map(|(column, _)| masked(name, column, false)));
                continue;
            };
            if new.closed {
                continue;
            }
            if old.dropped {
                let at = format!("{name} (all rows)");
                all.push(Loosened { at, said: true, was: "a filter removed every row of it" });
            }
            for (column, _) in old.columns.iter().filter(|(_, c)| c.action.covers()) {
                match new.columns.get(column).map(|c| c.action) {
                    Some(action) if action.covers() => {}
                    None => {}
                    Some(action) => all.push(masked(name, column, action == Action::Pass)),
                }
            }
            let lost = old.filters.difference(&new.filters).filter(|_| !old.dropped);
            all.extend(lost.map(|filter| Loosened {
                at: format!("{name} (rows removed by `{filter}`)"),
                said: true,
                was: "a filter removed rows of it",
            }));
        }
        all
    }

    /// Columns whose mapping differs in `candidate`: those that say where rows are, and
    /// the others.
    pub(super) fn moved_by(
        &self,
        candidate: &Coverage,
        catalog: &Catalog,
    ) -> (Vec<String>, Vec<String>) {
        let (mut identity, mut other) = (Vec::new(), Vec::new());
        for (table, old) in &self.tables {
            for (column, old) in &old.columns {
                let Some(new) = candidate.column(table, column) else { continue };
                if old.mapping == new.mapping {
                    continue;
                }
                let path = format!("{table}.{}", quote_identifier(column));
                let keyed = old.identity || new.identity || referred(catalog, table, column);
                if keyed { identity.push(path) } else { other.push(path) }
            }
        }
        (identity, other)
    }

    /// Foreign keys whose two sides would no longer agree, as sentences.
    pub(super) fn broken_keys(&self, catalog: &Catalog) -> Vec<(String, String)> {
        let mut broken = Vec::new();
        for key in &catalog.foreign_keys {
            let (table, referenced) = (name(&key.table), name(&key.referenced));
            let pairs = key.columns.iter().zip(&key.referenced_columns);
            for (column, target) in pairs {
                let (Some(a), Some(b)) =
                    (self.column(&table, column), self.column(&referenced, target))
                else {
                    continue;
                };
                let gone = [a, b].iter().any(|c| matches!(c.action, Action::Drop | Action::Null));
                if gone || a.mapping == b.mapping || self.closed_table(&table, &referenced) {
                    continue;
                }
                broken.push(sentence(key, (&table, column, a), (&referenced, target, b)));
            }
        }
        broken
    }

    fn closed_table(&self, a: &str, b: &str) -> bool {
        [a, b].iter().any(|name| self.tables.get(*name).is_some_and(|t| t.closed))
    }
}

fn masked(table: &str, column: &str, said: bool) -> Loosened {
    Loosened { at: format!("{table}.{}", quote_identifier(column)), said, was: "it was masked" }
}

fn name((schema, table): &(String, String)) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(table))
}

fn referred(catalog: &Catalog, table: &str, column: &str) -> bool {
    catalog.foreign_keys.iter().any(|key| {
        (name(&key.table) == table && key.columns.iter().any(|c| c == column))
            || (name(&key.referenced) == table
                && key.referenced_columns.iter().any(|c| c == column))
    })
}

fn sentence(
    key: &ForeignKey,
    (table, column, a): (&str, &str, &ColumnCoverage),
    (referenced, target, b): (&str, &str, &ColumnCoverage),
) -> (String, String) {
    let path = |t: &str, c: &str| format!("{t}.{}", quote_identifier(c));
    let (from, to) = (path(table, column), path(referenced, target));
    let add = if a.mapping.is_empty() { &from } else { &to };
    let how = match (a.mapping.is_empty(), b.mapping.is_empty()) {
        (false, false) => {
            "they are rewritten in two ways; give both the same rule and domain".to_owned()
        }
        _ => format!("only one of them is rewritten; add the same rule for `{add}`"),
    };
    (from.clone(), format!("foreign key {} refers from {from} to {to}: {how}", key.name))
}

fn table(plan: &RelationPlan, names: &[&str]) -> TableCoverage {
    let closed = plan.fate != Fate::Pass;
    let dropped = plan.links.iter().flatten().any(|link| link.drops);
    let columns = plan.relation.columns.iter().enumerate();
    let columns = columns.map(|(at, column)| (column.name.clone(), coverage(plan, at, column.key)));
    let mut filters = BTreeSet::new();
    for (link, name) in plan.links.iter().zip(names) {
        let Some(link) = link else { continue };
        // It reads and rewrites nothing, so removing rows is all it can do.
        let reads = link.slots.iter().any(|s| s.usage == Use::Read) || link.slots.is_empty();
        if reads && link.slots.iter().all(|s| matches!(s.usage, Use::Read | Use::Pass)) {
            filters.insert((*name).to_owned());
        }
    }
    TableCoverage { closed, dropped, columns: columns.collect(), filters }
}

fn coverage(plan: &RelationPlan, at: usize, identity: bool) -> ColumnCoverage {
    let mut action = if plan.nulled.contains(&at) { Action::Null } else { Action::Open };
    let mut mapping = Vec::new();
    for slot in plan.links.iter().flatten().flat_map(|l| &l.slots).filter(|s| s.column == at) {
        let by = match slot.usage {
            Use::Pass => Action::Pass,
            Use::Read => Action::Open,
            Use::Write => Action::Write,
            Use::Mask => Action::Mask,
            Use::Drop => Action::Drop,
        };
        action = action.max(by);
        if !slot.mapping.is_empty() {
            mapping.push(slot.mapping.clone());
        }
    }
    ColumnCoverage { action, identity, mapping }
}
