//! What a generation keeps from leaving, so that the next one can be held against it, and how
//! rows have left before it, so that it is told of them until their tables are loaded again.
//!
//! Made of plans, and kept from start to start. How two of them are held against one
//! another is [`super::loosen`]'s. Nothing can go wrong here.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::event::quote_identifier;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::catalog::{Catalog, ForeignKey};
use super::config::Unruled;
use super::plan::{Fate, LinkPlan, Named, Policy, RelationPlan};

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
    /// How exactly the rules name it, of those that decided.
    #[serde(default)]
    pub named: Named,
}

impl ColumnCoverage {
    /// One that nobody speaks of.
    pub(super) fn bare() -> ColumnCoverage {
        let (identity, mapping, named) = (false, Vec::new(), Named::No);
        ColumnCoverage { action: Action::Open, identity, mapping, named }
    }

    /// How rows that leave now will have left, of the table with this id.
    pub(super) fn older(&self, id: u32, column: &str) -> Older {
        let mapping = Sha256::digest(self.mapping.join("\n"));
        let mapping = mapping[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Older { id, column: column.to_owned(), covered: self.action.covers(), mapping }
    }
}

/// What removes rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The binding.
    pub by: String,
    /// Its fingerprint, with those of whatever rewrites before it the columns that it reads.
    pub rule: String,
    /// How exactly its rules name the table.
    pub named: Named,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCoverage {
    /// Its id in the source, by which it is known under another name; 0 if it is not known.
    #[serde(default)]
    pub id: u32,
    /// None of its rows leaves.
    pub closed: bool,
    /// Because a plugin drops them all, and not for want of rules.
    #[serde(default)]
    pub dropped: bool,
    /// Because its first row stops the stream: whoever gives it rules decides about it.
    #[serde(default)]
    pub halts: bool,
    /// All this is the generation's before: what this one does could not be compared.
    #[serde(default)]
    pub kept: bool,
    /// Its columns.
    pub columns: BTreeMap<String, ColumnCoverage>,
    /// The name that it leaves under, if that is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_as: Option<String>,
    /// Columns that leave under another name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns_as: BTreeMap<String, String>,
    /// What may remove rows of it, in the order of the chain.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Bindings that speak of it, and how exactly.
    #[serde(default)]
    pub rules: BTreeMap<String, Named>,
    /// Rows of it may be lost, or have been: that does not end with the policy.
    #[serde(default)]
    pub lossy: bool,
    /// They may be by what is in force.
    #[serde(default)]
    pub loses: bool,
}

impl TableCoverage {
    /// Whether anything has to be held against it.
    pub(super) fn tells(&self) -> bool {
        let column = |c: &ColumnCoverage| c.action.covers() || !c.mapping.is_empty();
        let renames = self.leaves_as.is_some() || !self.columns_as.is_empty();
        self.lossy || renames || !self.filters.is_empty() || self.columns.values().any(column)
    }
}

/// What a column of rows that left before may carry: kept until its table is loaded again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Older {
    /// Its table's id, as in [`TableCoverage::id`].
    pub id: u32,
    /// The column.
    pub column: String,
    /// Its values did not leave, see [`Action::covers`].
    pub covered: bool,
    /// Digest of what rewrote it, hexadecimal.
    pub mapping: String,
}

/// What a generation masks, drops and filters. Names of tables are as in
/// [`kasho_plugin_sdk::Relation::qualified`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Tables that nobody names do not leave.
    pub closed: bool,
    /// They are dropped.
    #[serde(default)]
    pub drops: bool,
    /// The tables it was checked against.
    pub tables: BTreeMap<String, TableCoverage>,
    /// Where rows that left before it do not carry what it makes of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub older: BTreeSet<Older>,
}

impl Coverage {
    /// The coverage that these plans make.
    pub(super) fn of<'p>(
        plans: impl Iterator<Item = &'p RelationPlan>,
        names: &[&str],
        policy: Policy,
    ) -> Coverage {
        let tables = plans.map(|p| (p.relation.qualified(), table(p, names))).collect();
        let unnamed = policy.unnamed();
        let (closed, drops) = (unnamed != Unruled::Pass, unnamed == Unruled::Drop);
        Coverage { closed, drops, tables, older: BTreeSet::new() }
    }

    /// Takes over what the same generation was found to cover before: of tables that were
    /// known then, that counts, whatever they have become.
    pub(super) fn recall(&mut self, before: &Coverage) {
        let known = |id: u32| id != 0 && before.tables.values().any(|table| table.id == id);
        self.tables.retain(|_, table| !known(table.id));
        let tables = before.tables.iter().map(|(name, table)| (name.clone(), table.clone()));
        self.tables.extend(tables);
        (self.closed, self.drops) = (before.closed, before.drops);
        self.older.clone_from(&before.older);
    }

    /// A column's coverage.
    #[must_use]
    pub fn column(&self, table: &str, column: &str) -> Option<&ColumnCoverage> {
        self.tables.get(table)?.columns.get(column)
    }

    /// Takes what a table is now in the place of what it was. One whose name it has taken is
    /// still known by its id, as long as that is not known under another.
    pub(super) fn replace(&mut self, name: &str, table: &TableCoverage) {
        self.tables.retain(|_, other| table.id == 0 || other.id != table.id);
        let other = self.tables.insert(name.to_owned(), table.clone());
        if let Some(other) = other.filter(|other| other.id != table.id && other.tells()) {
            // No table's name reads so: it would be quoted.
            self.tables.insert(format!("{name} (oid {})", other.id), other);
        }
    }

    /// The table with this id or, where no id says more, with this name.
    pub(super) fn find(&self, id: u32, name: &str) -> Option<(&String, &TableCoverage)> {
        let same = |(_, table): &(&String, &TableCoverage)| id != 0 && table.id == id;
        self.tables.iter().find(same).or_else(|| self.tables.get_key_value(name))
    }

    /// How rows left otherwise than they would now, of tables that do leave.
    fn differing(&self) -> impl Iterator<Item = &Older> {
        self.older.iter().filter(|older| {
            let now = self.find(older.id, "").filter(|(_, table)| !table.closed);
            let now = now.and_then(|(_, table)| table.columns.get(&older.column));
            now.is_some_and(|now| now.older(older.id, &older.column) != **older)
        })
    }

    /// The columns of which rows left with another fake: where one equals its original, that is
    /// chance. With the table's id.
    pub(crate) fn faked_before(&self) -> BTreeSet<(u32, &str)> {
        let fakes = self.differing().filter(|older| older.covered);
        fakes.map(|older| (older.id, older.column.as_str())).collect()
    }

    /// Whether values of a column that do not leave now have left.
    fn was_bare(&self, id: u32, column: &str) -> bool {
        let now = self.find(id, "").and_then(|(_, table)| table.columns.get(column));
        let bare = |older: &Older| older.id == id && older.column == column && !older.covered;
        now.is_some_and(|now| now.action.covers()) && self.older.iter().any(bare)
    }

    /// What an operator should know of rows that left before, and how they are had anew: of tables
    /// that can be.
    pub(super) fn told_of_older(&self, catalog: &Catalog) -> Vec<String> {
        let columns: BTreeSet<(u32, &str)> =
            self.differing().map(|older| (older.id, older.column.as_str())).collect();
        let known = columns.into_iter().filter_map(|(id, column)| {
            let table = catalog.relations.iter().find(|relation| relation.id == id)?.qualified();
            let (bare, name) = (self.was_bare(id, column), quote_identifier(column));
            let are = if bare { "are not masked" } else { "carry the old mapping" };
            Some(format!(
                "{table}.{name}: rows that left before {are}, until the table is loaded again (`kasho \
                 bootstrap --table {table}`)"
            ))
        });
        known.collect()
    }

    /// Foreign keys whose two sides would no longer agree. What is rewritten on one side has
    /// to be on the other, and so on from there: all of it is told at once.
    pub(super) fn broken_keys(&self, catalog: &Catalog) -> Vec<Broken> {
        let pairs = catalog.foreign_keys.iter().flat_map(|key| {
            let (table, referenced) = (name(&key.table), name(&key.referenced));
            let pairs = key.columns.iter().zip(&key.referenced_columns);
            pairs.map(move |(a, b)| (key, (table.clone(), a), (referenced.clone(), b)))
        });
        let pairs: Vec<_> = pairs
            .filter_map(|(key, from, to)| {
                let (a, b) = (self.column(&from.0, from.1)?, self.column(&to.0, to.1)?);
                let gone = [a, b].iter().any(|c| matches!(c.action, Action::Drop | Action::Null));
                let closed = self.closed_table(&from.0, &to.0);
                let path = |(table, column): (String, &String)| {
                    format!("{table}.{}", quote_identifier(column))
                };
                (!gone && !closed).then(|| (key, (path(from), a), (path(to), b)))
            })
            .collect();
        let mut broken = Vec::new();
        for (key, (from, a), (to, b)) in &pairs {
            if !a.mapping.is_empty() && !b.mapping.is_empty() && a.mapping != b.mapping {
                let text = format!(
                    "{}: they are rewritten in two ways; give both the same rule and \
                                    domain",
                    refers(key, from, to)
                );
                broken.push(Broken { at: from.clone(), text, add: None });
            }
        }
        // Columns that lack a rule, with the column whose rule they need.
        let mut needs: BTreeMap<&String, &String> = BTreeMap::new();
        loop {
            let before = broken.len();
            for (key, (from, a), (to, b)) in &pairs {
                for ((this, own), (other, theirs)) in [((from, a), (to, b)), ((to, b), (from, a))] {
                    let like =
                        if own.mapping.is_empty() { needs.get(this).copied() } else { Some(this) };
                    let bare = theirs.mapping.is_empty() && !needs.contains_key(other);
                    if let (Some(like), true) = (like, bare) {
                        needs.insert(other, like);
                        let text = format!(
                            "{}: only one of them is rewritten; add the same rule for \
                                            `{other}`",
                            refers(key, from, to)
                        );
                        let add = Some((like.clone(), other.clone()));
                        broken.push(Broken { at: from.clone(), text, add });
                    }
                }
            }
            if broken.len() == before {
                return broken;
            }
        }
    }

    fn closed_table(&self, a: &str, b: &str) -> bool {
        [a, b].iter().any(|name| self.tables.get(*name).is_some_and(|t| t.closed))
    }
}

pub(super) fn name((schema, table): &(String, String)) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(table))
}

fn refers(key: &ForeignKey, from: &str, to: &str) -> String {
    format!("foreign key {} refers from {from} to {to}", key.name)
}

/// A foreign key whose two sides would no longer agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The referencing column.
    pub(super) at: String,
    /// What is wrong, and what to do.
    pub(super) text: String,
    /// The column whose rule is needed, and for which one.
    pub(super) add: Option<(String, String)>,
}

/// What a plan makes of its table.
pub(super) fn table(plan: &RelationPlan, names: &[&str]) -> TableCoverage {
    let dropped = plan.links.iter().flatten().any(|link| link.drops);
    let columns = plan.relation.columns.iter().enumerate();
    let columns = columns.map(|(at, column)| (column.name.clone(), coverage(plan, at, column.key)));
    let (mut filters, mut rules) = (Vec::new(), BTreeMap::new());
    for (at, (link, by)) in plan.links.iter().zip(names).enumerate() {
        let Some(link) = link else { continue };
        rules.insert((*by).to_owned(), link.named);
        if let Some(rows) = &link.rows {
            let rule = format!("{rows}{}", rewritten(plan, at, link));
            let named = if link.declared { link.named } else { Named::No };
            filters.push(Filter { by: (*by).to_owned(), rule, named });
        }
    }
    let (own, leaving) = (&plan.relation, plan.leaving());
    let leaves_as = (own.qualified() != leaving.qualified()).then(|| leaving.qualified());
    let kept = plan.leaves.iter().flat_map(|leaves| leaves.kept.iter().zip(&leaving.columns));
    let columns_as = kept
        .map(|(place, column)| (own.columns[*place].name.clone(), column.name.clone()))
        .filter(|(own, leaving)| own != leaving)
        .collect();
    TableCoverage {
        id: plan.relation.id,
        closed: plan.fate != Fate::Pass,
        dropped,
        halts: matches!(plan.fate, Fate::Halt(_)),
        kept: false,
        columns: columns.collect(),
        leaves_as,
        columns_as,
        filters,
        rules,
        lossy: plan.lossy,
        loses: plan.loses,
    }
}

/// What a filter sees instead of originals: it removes other rows behind a mask than
/// before it.
fn rewritten(plan: &RelationPlan, at: usize, filter: &LinkPlan) -> String {
    let mut all = String::new();
    for column in filter.used(Use::Read) {
        let before = plan.links[..at].iter().flatten().flat_map(|l| &l.slots);
        for slot in before.filter(|s| s.column == column && !s.mapping.is_empty()) {
            let name = quote_identifier(&plan.relation.columns[column].name);
            all += &format!(";{name} after {}", slot.mapping);
        }
    }
    all
}

fn coverage(plan: &RelationPlan, at: usize, identity: bool) -> ColumnCoverage {
    let mut action = if plan.nulled.contains(&at) { Action::Null } else { Action::Open };
    let (mut mapping, mut named) = (Vec::new(), Named::No);
    for slot in plan.links.iter().flatten().flat_map(|l| &l.slots).filter(|s| s.column == at) {
        let by = match slot.usage {
            Use::Pass => Action::Pass,
            Use::Read if slot.passes => Action::Pass,
            Use::Read => Action::Open,
            Use::Write => Action::Write,
            Use::Mask => Action::Mask,
            Use::Drop => Action::Drop,
        };
        named = match by.cmp(&action) {
            Ordering::Greater => slot.named,
            Ordering::Equal => named.max(slot.named),
            Ordering::Less => named,
        };
        action = action.max(by);
        if !slot.mapping.is_empty() {
            mapping.push(slot.mapping.clone());
        }
    }
    ColumnCoverage { action, identity, mapping, named }
}
