//! The joiner moves nothing, and what it joins does as one statement, in whatever order the
//! server takes its rows, what the changes do one by one: with a model of a table that has a
//! primary key and a unique column.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::apply::table::{Column, Key};
use crate::position::{Epoch, EpochPosition, Position};

const ID: usize = 0;
const UNIQUE: usize = 1;
const PLAIN: usize = 2;

fn table() -> Arc<Table> {
    Arc::new(Table { alone: true, ..not_alone() })
}

fn not_alone() -> Table {
    let column = |name: &str, unique| Column {
        name: name.to_owned(),
        cast: "integer".to_owned(),
        equal: Some("OPERATOR(pg_catalog.=)".to_owned()),
        exact: true,
        unique,
        ..Column::default()
    };
    let key = Key { columns: vec![ID], equal: vec!["OPERATOR(pg_catalog.=)".to_owned()] };
    Table {
        name: "public.t".to_owned(),
        sql: "public.t".to_owned(),
        columns: vec![column("id", true), column("u", true), column("p", false)],
        keys: vec![key],
        ..Table::default()
    }
}

/// What a change does: to one of few tables.
#[derive(Clone, Debug)]
enum Op {
    Insert(u8, u8, u8),
    Unique(u8, u8),
    Plain(u8, u8),
    Key(u8, u8),
    Delete(u8),
}

fn change(table: &Arc<Table>, n: usize, op: &Op) -> Change {
    let text = |n: u8| Some(n.to_string().into());
    let by = |id: u8| (Find::Key(0), vec![(ID, false)], vec![text(id)]);
    let (verb, (find, by, key), set, values) = match *op {
        Op::Insert(id, unique, plain) => (
            Verb::Insert,
            (Find::New, Vec::new(), Vec::new()),
            vec![ID, UNIQUE, PLAIN],
            vec![text(id), text(unique), text(plain)],
        ),
        Op::Unique(id, to) => (Verb::Update, by(id), vec![UNIQUE], vec![text(to)]),
        Op::Plain(id, to) => (Verb::Update, by(id), vec![PLAIN], vec![text(to)]),
        Op::Key(id, to) => (Verb::Update, by(id), vec![ID], vec![text(to)]),
        Op::Delete(id) => (Verb::Delete, by(id), Vec::new(), Vec::new()),
    };
    let position = Position::Bootstrap(n as u64);
    Change {
        at: EpochPosition { epoch: Some(Epoch(1)), position },
        table: Arc::clone(table),
        shape: Arc::new(Shape { verb, find, set, by }),
        values,
        key,
        miss: false,
        whole: false,
    }
}

/// Rows of one table: id, unique, plain. None after a violation, or a row that was not there.
type Rows = Option<Vec<[Value; 3]>>;

/// A statement: its rows in this order, each found as the table was before the statement, and
/// uniqueness looked at with each row, as the server does.
fn execute(rows: Rows, changes: &[&Change]) -> Rows {
    let before = rows?;
    let mut rows = before.clone();
    for change in changes {
        let place = |rows: &[[Value; 3]]| rows.iter().position(|row| row[ID] == change.key[0]);
        match change.shape.verb {
            Verb::Insert => {
                let values = <[Value; 3]>::try_from(change.values.clone()).ok()?;
                rows.push(values);
            }
            Verb::Delete => {
                place(&before)?;
                let at = place(&rows)?;
                rows.remove(at);
            }
            Verb::Update => {
                place(&before)?;
                let at = place(&rows)?;
                for (column, value) in change.shape.set.iter().zip(&change.values) {
                    rows[at][*column].clone_from(value);
                }
            }
        }
        let newest = rows.last().cloned();
        let twice = |column: usize| {
            let mut seen = HashSet::new();
            rows.iter().any(|row| !seen.insert(row[column].clone()))
        };
        if newest.is_some() && (twice(ID) || twice(UNIQUE)) {
            return None;
        }
    }
    Some(rows)
}

fn runs(changes: &[Change]) -> Vec<Run> {
    let mut joiner = Joiner::default();
    let mut runs: Vec<Run> =
        changes.iter().flat_map(|change| joiner.push(change.clone())).collect();
    runs.extend(joiner.take());
    runs
}

fn any_op() -> impl Strategy<Value = Op> {
    let small = || 0u8..6;
    prop_oneof![
        (small(), small(), small()).prop_map(|(id, u, p)| Op::Insert(id, u, p)),
        (small(), small()).prop_map(|(id, to)| Op::Unique(id, to)),
        (small(), small()).prop_map(|(id, to)| Op::Plain(id, to)),
        (small(), small()).prop_map(|(id, to)| Op::Key(id, to)),
        small().prop_map(Op::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn runs_do_what_their_changes_do_one_by_one_in_any_order(
        ops in proptest::collection::vec((any_op(), 0usize..2), 0..24),
        start in proptest::collection::vec(0u8..6, 0..6),
        turn in any::<usize>(),
    ) {
        let tables = [table(), table()];
        let changes: Vec<Change> = ops.iter().enumerate()
            .map(|(n, (op, of))| change(&tables[*of], n, op)).collect();
        let joined = runs(&changes);
        let all: u64 = joined.iter().map(|run| run.changes.len() as u64 + run.replaced).sum();
        prop_assert_eq!(all, changes.len() as u64, "nothing is lost");

        let mut ids: Vec<u8> = start;
        ids.sort_unstable();
        ids.dedup();
        let rows: Vec<[Value; 3]> =
            ids.iter().map(|id| [id, id, id].map(|n| Some(n.to_string().into()))).collect();
        for table in &tables {
            let (mut one, mut many) = (Some(rows.clone()), Some(rows.clone()));
            for change in changes.iter().filter(|change| Arc::ptr_eq(&change.table, table)) {
                one = execute(one, &[change]);
            }
            for run in joined.iter().filter(|run| Arc::ptr_eq(run.table(), table)) {
                let mut any: Vec<&Change> = run.changes.iter().collect();
                let middle = turn % any.len();
                any.rotate_left(middle);
                many = execute(many, &any);
            }
            let sorted = |rows: Rows| rows.map(|mut rows| { rows.sort(); rows });
            prop_assert_eq!(sorted(one), sorted(many));
        }
    }

    #[test]
    fn nothing_is_moved_past_a_table_that_is_not_alone(
        ops in proptest::collection::vec((any_op(), 0usize..3), 0..24),
    ) {
        let tables = [table(), table(), Arc::new(not_alone())];
        let changes: Vec<Change> = ops.iter().enumerate()
            .map(|(n, (op, of))| change(&tables[*of], n, op)).collect();
        let place = |at: EpochPosition| changes.iter().position(|change| change.at == at).unwrap();
        let order: Vec<usize> =
            runs(&changes).iter().flat_map(|run| &run.changes).map(|c| place(c.at)).collect();
        for (n, at) in order.iter().enumerate() {
            if !changes[*at].table.alone {
                prop_assert!(order[..n].iter().all(|before| before < at));
                prop_assert!(order[n..].iter().all(|after| after >= at));
            }
        }
    }
}

#[test]
fn unique_values_that_move_on_are_not_joined() {
    let table = table();
    let ops = [Op::Unique(1, 9), Op::Unique(2, 1), Op::Unique(3, 2)];
    let changes: Vec<Change> =
        ops.iter().enumerate().map(|(n, op)| change(&table, n, op)).collect();
    assert_eq!(runs(&changes).len(), 3);
    let plain = [Op::Plain(1, 9), Op::Plain(2, 1), Op::Plain(1, 2)];
    let changes: Vec<Change> =
        plain.iter().enumerate().map(|(n, op)| change(&table, n, op)).collect();
    let sizes: Vec<usize> = runs(&changes).iter().map(|run| run.changes.len()).collect();
    assert_eq!(sizes, [2], "of the same row the later one counts");
    let joined = runs(&changes);
    assert_eq!(joined[0].changes[0].values, [Some("2".into())]);
    assert_eq!(joined[0].replaced, 1);
}

#[test]
fn a_run_is_bounded() {
    let table = table();
    let inserts = (0..2_500).map(|n| change(&table, n, &Op::Insert(1, 1, 1)));
    let sizes: Vec<usize> =
        runs(&inserts.collect::<Vec<_>>()).iter().map(|run| run.changes.len()).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    let wide = |n| {
        let mut wide = change(&table, n, &Op::Insert(1, 1, 1));
        wide.values[2] = Some("x".repeat(300 << 10).into());
        wide
    };
    assert_eq!(runs(&[wide(0), wide(1), wide(2)]).len(), 3);
}
