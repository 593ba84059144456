//! Which table of the target holds which table of the source, what of it can be compared, and
//! how: pure, from the source's catalogue, the coverage of the rules in force, and what the
//! target has.
//!
//! What nothing rewrites is compared; everything else is named with the reason why not, so
//! that nobody takes a comparison for more than it was.

use std::collections::{BTreeMap, BTreeSet};

use kasho_plugin_sdk::Relation;
use serde::Serialize;

use super::sql;
use crate::source::catalog::{Catalog, ConstraintKind};
use crate::transform::{Action, Coverage, TableCoverage};

/// Types whose order is the same on every server: ranges of them are the same rows. Texts
/// are not among them, for their order is the collation's, which a server's C library makes;
/// nor is uuid, whose order has nothing to do with where rows are stored: every range would be
/// read from all over the table.
const ORDERED: [&str; 10] =
    ["int2", "int4", "int8", "oid", "date", "time", "timestamp", "timestamptz", "numeric", "bytea"];

/// A column on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pairing {
    pub(super) source: String,
    pub(super) target: String,
}

/// A column that is not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its name in the source.
    pub column: String,
    /// Why.
    pub reason: &'static str,
}

/// A column that never leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Private {
    pub(super) source: String,
    /// Its name in the target, unless it does not leave at all.
    pub(super) target: Option<String>,
    /// `pg_type.typname` beneath its domains.
    pub(super) base: String,
    /// It is an enumeration.
    pub(super) labels: bool,
}

/// A table on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The relation's id in the source.
    pub(super) id: u32,
    /// `schema.table` for people.
    pub(super) source_name: String,
    pub(super) target_name: String,
    /// As in FROM.
    pub(super) source: String,
    pub(super) target: String,
    /// Schema and table in the target.
    pub(super) target_parts: (String, String),
    /// The publication's row filter.
    pub(super) filter: Option<String>,
    /// What names a row on both sides; empty if nothing does.
    pub(super) key: Vec<Pairing>,
    /// The key has the same order on both sides.
    pub(super) ordered: bool,
    /// The target lets no key stand twice.
    pub(super) unique: bool,
    /// What is compared, the key included.
    pub(super) columns: Vec<Pairing>,
    /// What is not.
    pub(super) skipped: Vec<Skipped>,
    /// Rules may remove rows: the target may hold fewer.
    pub(super) fewer: bool,
    /// Columns whose values must not be found in the target.
    pub(super) private: Vec<Private>,
    /// By the planner's estimate.
    pub(super) rows_estimated: u64,
}

/// What becomes of a published table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Planned {
    Pair(Box<Pair>),
    /// It does not leave, for this reason: no row of it may be in the target.
    Closed {
        table: String,
        reason: &'static str,
        target: Option<Standing>,
    },
    /// The target lacks the table, or columns of it.
    Lacks {
        table: String,
        target: String,
        columns: Vec<String>,
    },
}

/// The table of the target that would hold a table, if it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) name: String,
    /// As in FROM.
    pub(super) from: String,
    parts: (String, String),
}

/// A table of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TargetTable {
    /// It is partitioned: its rows are in others.
    pub(super) partitioned: bool,
    /// Its columns; whether each is generated.
    pub(super) columns: BTreeMap<String, bool>,
    /// The columns of its ordered indexes, and whether each is unique.
    pub(super) indexes: Vec<(bool, Vec<String>)>,
}

impl TargetTable {
    /// An index finds ranges of this key. Without one every range costs a scan of the table.
    fn is_ordered_by(&self, key: &[Pairing]) -> bool {
        self.indexes.iter().any(|(_, columns)| {
            columns.len() >= key.len() && columns.iter().zip(key).all(|(a, b)| *a == b.target)
        })
    }

    /// No two rows have the same key.
    fn is_unique_by(&self, key: &[Pairing]) -> bool {
        let all = |columns: &[String]| {
            columns.iter().all(|column| key.iter().any(|pairing| pairing.target == *column))
        };
        self.indexes.iter().any(|(unique, columns)| *unique && all(columns))
    }
}

/// Tables of the target by schema and name.
pub(super) type Target = BTreeMap<(String, String), TargetTable>;

/// Pairs every published table.
pub(super) fn plan(catalog: &Catalog, coverage: &Coverage, target: &Target) -> Vec<Planned> {
    let one = |relation| one(catalog, relation, coverage, target);
    let mut all: Vec<Planned> = catalog.relations.iter().map(|relation| one(relation)).collect();
    // What stands under a closed table's name may be another one's by right, which a rule renames.
    let taken = |planned: &Planned| match planned {
        Planned::Pair(pair) => Some(pair.target_parts.clone()),
        _ => None,
    };
    let taken: BTreeSet<(String, String)> = all.iter().filter_map(taken).collect();
    for planned in &mut all {
        if let Planned::Closed { target, .. } = planned {
            target.take_if(|standing| taken.contains(&standing.parts));
        }
    }
    all
}

fn one(catalog: &Catalog, relation: &Relation, coverage: &Coverage, target: &Target) -> Planned {
    let name = relation.qualified();
    // By its id: it may have another name since.
    let by_id = coverage.tables.values().find(|table| table.id != 0 && table.id == relation.id);
    let covered = by_id.or_else(|| coverage.tables.get(&name));
    let leaves_as = covered.and_then(|table| table.leaves_as.clone());
    let own = || (relation.schema.clone(), relation.table.clone());
    let parts = leaves_as.as_deref().and_then(sql::parts).unwrap_or_else(own);
    let target_name = leaves_as.unwrap_or_else(|| name.clone());
    let there = target.get(&parts);
    if covered.map_or(coverage.closed, |table| table.closed) {
        let reason = match covered {
            Some(table) if table.dropped => "a rule drops its rows",
            _ => "no rule lets it leave",
        };
        let target = there.map(|there| Standing {
            name: target_name,
            from: from(&parts.0, &parts.1, there.partitioned),
            parts,
        });
        return Planned::Closed { table: name, reason, target };
    }
    let Some(there) = there else {
        return Planned::Lacks { table: name, target: target_name, columns: Vec::new() };
    };
    let columns = Columns::of(relation, covered, there);
    if !columns.lacking.is_empty() {
        return Planned::Lacks { table: name, target: target_name, columns: columns.lacking };
    }
    let stored: Vec<_> =
        catalog.tables.iter().filter(|table| table.relation == relation.id).collect();
    let partitioned = stored.iter().any(|table| table.oid != relation.id) || stored.is_empty();
    let (key, ordered) = key(catalog, relation, &columns.compared);
    let ordered = ordered && there.is_ordered_by(&key);
    let unique = there.is_unique_by(&key);
    Planned::Pair(Box::new(Pair {
        id: relation.id,
        source_name: name,
        target_name,
        source: from(&relation.schema, &relation.table, partitioned),
        target: from(&parts.0, &parts.1, there.partitioned),
        target_parts: parts,
        filter: stored.iter().find_map(|table| table.filter.clone()),
        key,
        ordered,
        unique,
        columns: columns.compared,
        skipped: columns.skipped,
        fewer: covered.is_some_and(|table| table.lossy || !table.filters.is_empty()),
        private: columns.private,
        rows_estimated: stored.iter().map(|table| table.rows_estimated).sum(),
    }))
}

fn from(schema: &str, table: &str, partitioned: bool) -> String {
    let only = if partitioned { "" } else { "ONLY " };
    format!("{only}{}.{}", sql::quoted(schema), sql::quoted(table))
}

#[derive(Default)]
struct Columns {
    compared: Vec<Pairing>,
    skipped: Vec<Skipped>,
    private: Vec<Private>,
    lacking: Vec<String>,
}

impl Columns {
    fn of(relation: &Relation, covered: Option<&TableCoverage>, there: &TargetTable) -> Columns {
        let mut found = Columns::default();
        for column in &relation.columns {
            let known = covered.and_then(|table| table.columns.get(&column.name));
            let action = known.map_or(Action::Open, |known| known.action);
            let renamed = covered.and_then(|table| table.columns_as.get(&column.name));
            let target = renamed.unwrap_or(&column.name).clone();
            if action.covers() {
                let target = (action != Action::Drop).then(|| target.clone());
                let (source, base) = (column.name.clone(), column.base.clone());
                let labels = column.labels.is_some();
                found.private.push(Private { source, target, base, labels });
            }
            let mut skip = |reason| {
                found.skipped.push(Skipped { column: column.name.clone(), reason });
            };
            let there = there.columns.get(&target);
            match (action, there) {
                (Action::Drop, _) => skip("it never leaves"),
                (_, None) => found.lacking.push(target),
                (Action::Mask, _) => skip("it is masked"),
                (Action::Null, _) => skip("it leaves as NULL"),
                (Action::Write, _) => skip("a plugin may rewrite it"),
                (Action::Open | Action::Pass, Some(true)) => {
                    skip("the target computes it (GENERATED ALWAYS AS)");
                }
                (Action::Open | Action::Pass, Some(false)) => {
                    found.compared.push(Pairing { source: column.name.clone(), target });
                }
            }
        }
        found
    }
}

/// What names a row: the primary key, else the index of the replica identity, if all of it
/// is compared; and whether it is in the same order everywhere.
fn key(catalog: &Catalog, relation: &Relation, compared: &[Pairing]) -> (Vec<Pairing>, bool) {
    let primary = catalog
        .constraints
        .iter()
        .find(|c| c.relation == relation.id && c.kind == ConstraintKind::PrimaryKey);
    let full = relation.identity == kasho_plugin_sdk::Identity::Full;
    let names: Vec<&str> = match primary {
        Some(primary) => primary.columns.iter().map(String::as_str).collect(),
        None if full => Vec::new(),
        None => relation.columns.iter().filter(|c| c.key).map(|c| c.name.as_str()).collect(),
    };
    let key: Vec<Pairing> = names
        .iter()
        .filter_map(|name| compared.iter().find(|pairing| pairing.source == *name).cloned())
        .collect();
    if key.len() != names.len() {
        return (Vec::new(), false);
    }
    // The index of an identity may have its columns in another order than the table.
    let ordered = (primary.is_some() || key.len() == 1)
        && !key.is_empty()
        && names.iter().all(|name| {
            relation
                .column(name)
                .is_some_and(|at| ORDERED.contains(&relation.columns[at].type_name.as_str()))
        });
    (key, ordered)
}

/// Names of one side.
pub(super) fn sources(columns: &[Pairing]) -> Vec<&str> {
    columns.iter().map(|column| column.source.as_str()).collect()
}

/// Names of the other.
pub(super) fn targets(columns: &[Pairing]) -> Vec<&str> {
    columns.iter().map(|column| column.target.as_str()).collect()
}
