//! What a condition is for one table and one operation: facts become constants, columns
//! get the ways in which their types compare.
//!
//! What can go wrong is a condition that does not fit the table: a column that is not
//! there, a constant that none of its values can equal, an order that its type has not,
//! and a column that the old row of an UPDATE or DELETE does not have.

use std::collections::BTreeSet;

use kasho_plugin_sdk::{Column, Error, Identity, Op, Result, Table, quote_identifier};

use crate::condition::{Ask, Condition, Test};
use crate::expression::{self as written, Expr, Fact};
use crate::value::Kind;

/// The condition for rows of this table and operation.
///
/// # Errors
/// Why it does not fit the table.
pub(crate) fn condition(expr: &Expr, table: &Table<'_>, op: Op) -> Result<Condition> {
    let all = |list: &[Expr]| list.iter().map(|c| condition(c, table, op)).collect::<Result<_>>();
    Ok(match expr {
        Expr::Const(truth) => Condition::Const(*truth),
        Expr::Fact(fact, texts) => {
            let is = match fact {
                Fact::Op => op.name(),
                Fact::Table => &table.table,
                Fact::Schema => &table.schema,
            };
            Condition::Const(texts.iter().any(|text| text == is))
        }
        Expr::Column(column, ask) => test(column, ask, table)?,
        Expr::All(list) => Condition::folded(all(list)?, false),
        Expr::Any(list) => Condition::folded(all(list)?, true),
        Expr::Not(inner) => condition(inner, table, op)?.not(),
        Expr::NotTrue(inner) => condition(inner, table, op)?.not_true(),
    })
}

/// A test of a column; one of a column that the table does not have stands until it is
/// known whether anything asks it.
fn test(column: &written::Column, ask: &written::Ask, table: &Table<'_>) -> Result<Condition> {
    let Some(found) = table.column_of(column.col) else {
        let ask = Ask::Null;
        return Ok(Condition::Test(Test { col: column.col, kind: Kind::Opaque, ask }));
    };
    let kind = Kind::of(found);
    let wrong = |what: &str| Error::new(format!("{} ({}) {what}", quote(found), found.type_name));
    let no_order = "has no order that could be told here: compare it by ==, != or in";
    let constant = |literal| kind.constant(literal).map_err(wrong);
    let ask = match ask {
        written::Ask::Compare(cmp, _) | written::Ask::Columns(cmp, _)
            if cmp.orders() && !kind.ordered() =>
        {
            return Err(wrong(no_order));
        }
        written::Ask::Compare(cmp, literal) => Ask::Compare(*cmp, constant(literal)?),
        written::Ask::In(list) => {
            Ask::In(list.iter().map(constant).collect::<Result<BTreeSet<_>>>()?)
        }
        written::Ask::Columns(cmp, other) => {
            let columns = table.column_of(other.col);
            if columns.is_some_and(|other| !comparable(found, other)) {
                return Err(wrong(&format!(
                    "is of another type than {}: compare each with a constant",
                    other.name
                )));
            }
            if columns.is_some_and(|other| narrower(found, other) || narrower(other, found)) {
                return Err(wrong(&format!(
                    "and {} are rounded to different lengths, so equal decimals differ in SQL: \
                     compare each with a number",
                    other.name
                )));
            }
            Ask::Columns(*cmp, other.col)
        }
        written::Ask::Null => Ask::Null,
        written::Ask::True if kind != Kind::Bool => {
            return Err(wrong("is not true or false: compare it with something"));
        }
        written::Ask::True => Ask::True,
    };
    Ok(Condition::Test(Test { col: column.col, kind, ask }))
}

/// Whether values of two columns compare with one another.
fn comparable(a: &Column, b: &Column) -> bool {
    let (left, right) = (Kind::of(a), Kind::of(b));
    let by_kind = matches!(left, Kind::Number | Kind::Text | Kind::Padded | Kind::Lower);
    left == right && (by_kind || a.base == b.base)
}

/// Whether SQL compares what is left of one after rounding to four bytes with what the other is.
fn narrower(a: &Column, b: &Column) -> bool {
    a.base == "float4" && matches!(b.base.as_str(), "float8" | "numeric")
}

/// Whether every column of a condition is there, and may be read where rows change.
///
/// # Errors
/// The first that is not.
pub(crate) fn check(
    expr: &Expr,
    condition: &Condition,
    table: &Table<'_>,
    changes: bool,
) -> Result<()> {
    let mut fault = Ok(());
    condition.each_column(&mut |col| {
        if fault.is_err() {
            return;
        }
        fault = match table.column_of(col) {
            None => {
                let name = name_of(expr, col).unwrap_or_default();
                Err(Error::new(format!(
                    "{} has no column {name}: mend the name, or take it out",
                    table.qualified()
                )))
            }
            Some(column) if changes && !column.key => Err(not_identity(column, table)),
            Some(_) => Ok(()),
        };
    });
    fault
}

fn name_of(expr: &Expr, col: kasho_plugin_sdk::Col) -> Option<&str> {
    let of = |column: &written::Column| column.col == col;
    match expr {
        Expr::Const(_) | Expr::Fact(..) => None,
        Expr::Column(column, _) if of(column) => Some(column.name.as_str()),
        Expr::Column(_, written::Ask::Columns(_, other)) if of(other) => Some(other.name.as_str()),
        Expr::Column(..) => None,
        Expr::All(list) | Expr::Any(list) => list.iter().find_map(|c| name_of(c, col)),
        Expr::Not(inner) | Expr::NotTrue(inner) => name_of(inner, col),
    }
}

fn quote(column: &Column) -> String {
    quote_identifier(&column.name)
}

fn not_identity(column: &Column, table: &Table<'_>) -> Error {
    let why = match table.identity {
        Identity::Nothing => "the table has no replica identity",
        Identity::Default | Identity::Index | Identity::Full => {
            "it is not part of the replica identity"
        }
    };
    Error::new(format!(
        "the condition reads {}, but {why}, so the old row of an UPDATE or DELETE does not \
         have it: ALTER TABLE {} REPLICA IDENTITY FULL, or set `insert_only = true`",
        quote(column),
        table.qualified()
    ))
}
