//! Which ranges of which tables are to be read, and how far each has come. Pure. A
//! mistake here would load a row twice or never: ranges cover each table exactly once,
//! and stay as they were cut for as long as the load lives.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kasho_plugin_sdk::Relation;

use crate::bootstrap::{Definitions, Load, TableLoad};
use crate::quote::identifier;
use crate::source::catalog::{Catalog, Table};

/// A block of PostgreSQL, in the default that nearly every server is built with; with
/// another one ranges are larger or smaller than asked for, and still right.
const BLOCK_BYTES: u64 = 8192;

/// One range of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeKey {
    /// `pg_class.oid`.
    pub oid: u32,
    /// The attempt at the table, from 1: progress of an earlier one is not progress.
    pub attempt: u32,
    /// From 0.
    pub range: u32,
}

/// How far a range has come: what is published, dropped rows included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeProgress {
    /// Rows read and dealt with, in the order of the range.
    pub rows: u64,
    /// There are no more.
    pub done: bool,
}

/// Progress of every range that was begun.
pub type Progress = BTreeMap<RangeKey, RangeProgress>;

impl fmt::Display for RangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.oid, self.attempt, self.range)
    }
}

impl FromStr for RangeKey {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (oid, rest) = text.split_once(':').unwrap_or((text, ""));
        let (attempt, range) = rest.split_once(':').unwrap_or((rest, ""));
        Ok(RangeKey { oid: oid.parse()?, attempt: attempt.parse()?, range: range.parse()? })
    }
}

impl fmt::Display for RangeProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.rows, if self.done { "." } else { "" })
    }
}

impl FromStr for RangeProgress {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rows, done) = text.strip_suffix('.').map_or((text, false), |rows| (rows, true));
        Ok(RangeProgress { rows: rows.parse()?, done })
    }
}

/// The tables of a load, largest first, so that the last worker is not left alone with
/// the largest. `snapshot` says at which of the load's snapshots each is read.
pub(super) fn tables(
    (catalog, definitions): (&Catalog, &Definitions),
    range_blocks: u32,
    snapshot: impl Fn(&Table) -> usize,
) -> Vec<TableLoad> {
    let mut tables: Vec<TableLoad> = catalog
        .tables
        .iter()
        .map(|table| {
            let blocks = table.bytes.div_ceil(BLOCK_BYTES);
            let ranges = blocks.div_ceil(u64::from(range_blocks.max(1))).max(1);
            let published_as = catalog.published_as(table);
            let mut defined = definitions.get(&published_as).into_iter().flatten();
            let defined = defined.find(|(oid, _)| *oid == table.oid);
            TableLoad {
                oid: table.oid,
                relation: table.relation,
                table: table.qualified(),
                published_as,
                snapshot: snapshot(table),
                ranges: u32::try_from(ranges).unwrap_or(u32::MAX),
                attempt: 1,
                done: false,
                rows: 0,
                rows_estimated: table.rows_estimated,
                bytes_estimated: table.bytes + table.bytes_toasted,
                shape: catalog.shape(table),
                definition: defined.map_or_else(String::new, |(_, own)| own.clone()),
                gone: false,
            }
        })
        .collect();
    tables.sort_by_key(|table| (std::cmp::Reverse(table.bytes_estimated), table.oid));
    tables
}

/// A range that is still to be read, from its row number `skip` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) key: RangeKey,
    /// Index into [`Load::tables`].
    pub(super) table: usize,
    pub(super) skip: u64,
}

/// Everything that is still to be read, in the order it is begun.
pub(super) fn units(load: &Load, progress: &Progress) -> Vec<Unit> {
    let tables = load.tables.iter().enumerate().filter(|(_, table)| !table.done);
    tables
        .flat_map(|(index, table)| {
            (0..table.ranges).filter_map(move |range| {
                let key = RangeKey { oid: table.oid, attempt: table.attempt, range };
                let so_far = progress.get(&key).copied().unwrap_or_default();
                (!so_far.done).then_some(Unit { key, table: index, skip: so_far.rows })
            })
        })
        .collect()
}

/// The statement that reads a range: blocks `range * range_blocks` up to the next range,
/// the last one without end. Under one snapshot and the load's settings it gives the same
/// rows in the same order each time, so `skip` rows are exactly those that came before.
/// `name` is what SQL calls the table now; if it is another one's by then, there are no rows.
#[must_use]
pub fn copy_statement(
    (table, name): (&Table, &str),
    relation: &Relation,
    load: &TableLoad,
    range: u32,
    range_blocks: u32,
    skip: u64,
) -> String {
    let columns: Vec<String> = relation.columns.iter().map(|c| identifier(&c.name)).collect();
    let mut conditions = Vec::new();
    let block = |range: u32| u64::from(range) * u64::from(range_blocks);
    if range > 0 {
        conditions.push(format!("ctid >= '({},0)'", block(range)));
    }
    if range + 1 < load.ranges {
        conditions.push(format!("ctid < '({},0)'", block(range + 1)));
    }
    conditions.push(format!("tableoid = {}", table.oid));
    conditions.extend(table.filter.as_ref().map(|filter| format!("({filter})")));
    let offset = if skip > 0 { format!(" OFFSET {skip}") } else { String::new() };
    format!(
        "COPY (SELECT {} FROM ONLY {name} WHERE {}{offset}) TO STDOUT",
        columns.join(", "),
        conditions.join(" AND "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::LoadMode;
    use crate::position::{Epoch, Lsn};
    use kasho_plugin_sdk::{Column, Identity};
    use std::sync::Arc;

    fn table(oid: u32, bytes: u64, filter: Option<&str>) -> Table {
        Table {
            oid,
            schema: "public".into(),
            table: format!("t{oid}"),
            relation: oid,
            filenode: 1,
            filter: filter.map(str::to_owned),
            columns: vec![],
            all_columns: vec![],
            rows_estimated: 1,
            bytes,
            bytes_toasted: 0,
        }
    }

    fn relation(oid: u32) -> Relation {
        let column = |name: &str| Column {
            name: name.into(),
            type_name: "text".into(),
            oid: 25,
            base: "text".into(),
            typmod: -1,
            key: false,
            not_null: false,
            unique: false,
            toastable: true,
            elem: None,
            labels: None,
        };
        Relation {
            id: oid,
            version: 1,
            schema: "public".into(),
            table: format!("t{oid}"),
            identity: Identity::Default,
            columns: vec![column("id"), column("select\"")],
        }
    }

    fn load(catalog: &Catalog) -> Load {
        Load {
            epoch: Epoch(1),
            slot: "s".into(),
            start_lsn: Lsn(1),
            mode: LoadMode::Direct,
            snapshots: vec![],
            holder: None,
            range_blocks: 10,
            tables: tables((catalog, &Definitions::new()), 10, |_| 0),
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

    fn catalog() -> Catalog {
        Catalog {
            version: 1,
            server_version: 150_000,
            publications: vec![],
            stamp: String::new(),
            relations: [1, 2, 3].map(|oid| Arc::new(relation(oid))).to_vec(),
            tables: vec![table(1, 0, None), table(2, 21 * 8192, None), table(3, 80 * 1024, None)],
            constraints: vec![],
            shapes: BTreeMap::new(),
        }
    }

    #[test]
    fn ranges_cover_each_table_once() {
        let load = load(&catalog());
        let cut: Vec<_> = load.tables.iter().map(|t| (t.oid, t.ranges)).collect();
        assert_eq!(cut, [(2, 3), (3, 1), (1, 1)]);
        let (two, described) = (table(2, 0, None), relation(2));
        let conditions: Vec<String> = (0..3)
            .map(|range| {
                copy_statement((&two, "public.t2"), &described, &load.tables[0], range, 10, 0)
            })
            .map(|sql| sql.split_once(" WHERE ").unwrap().1.replace(") TO STDOUT", ""))
            .collect();
        assert_eq!(
            conditions,
            [
                "ctid < '(10,0)' AND tableoid = 2",
                "ctid >= '(10,0)' AND ctid < '(20,0)' AND tableoid = 2",
                "ctid >= '(20,0)' AND tableoid = 2"
            ]
        );
    }

    #[test]
    fn the_whole_statement() {
        let load = load(&catalog());
        let sql = copy_statement(
            (&table(3, 0, Some("region = 'eu'::text")), "\"New\".t3"),
            &relation(3),
            &load.tables[1],
            0,
            10,
            7,
        );
        assert_eq!(
            sql,
            "COPY (SELECT \"id\", \"select\"\"\" FROM ONLY \"New\".t3 \
             WHERE tableoid = 3 AND (region = 'eu'::text) OFFSET 7) TO STDOUT"
        );
    }

    #[test]
    fn what_is_published_is_not_read_again() {
        let mut load = load(&catalog());
        load.tables[1].done = true;
        let key = |oid, range| RangeKey { oid, attempt: 1, range };
        let progress: Progress = [
            (key(2, 0), RangeProgress { rows: 100, done: true }),
            (key(2, 1), RangeProgress { rows: 40, done: false }),
        ]
        .into();
        let rest: Vec<_> = units(&load, &progress).iter().map(|u| (u.key, u.skip)).collect();
        assert_eq!(rest, [(key(2, 1), 40), (key(2, 2), 0), (key(1, 0), 0)]);
    }

    #[test]
    fn progress_has_a_text_form() {
        for (rows, done) in [(0, false), (0, true), (12, true), (u64::MAX, false)] {
            let progress = RangeProgress { rows, done };
            assert_eq!(progress.to_string().parse(), Ok(progress));
        }
        let key = RangeKey { oid: 16384, attempt: 2, range: 3 };
        assert_eq!(key.to_string(), "16384:2:3");
        assert_eq!(key.to_string().parse(), Ok(key));
        for text in ["", "1", "1:", ":1", "a:1", "1:2", "1:2:", "1:2:3:4"] {
            assert!(text.parse::<RangeKey>().is_err(), "{text}");
        }
    }
}
