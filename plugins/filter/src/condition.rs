//! Conditions on a row, with SQL's three truth values.
//!
//! `Some(true)`, `Some(false)`, and `None` for unknown: a comparison with NULL is unknown,
//! NOT of unknown is unknown, AND and OR are as in SQL. A value that was not sent is
//! neither: it is an error, and an error anywhere is the error of the whole, even beside
//! something that would decide without it, so that a row's fate never depends on what
//! happened to be sent.

use std::collections::BTreeSet;

use kasho_plugin_sdk::{Col, Row, Value};

use crate::expression::Cmp;
use crate::value::{Key, Kind};

/// Why a condition has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A value that it needs was not sent.
    Unsent,
    /// A value is none of its column's type.
    Odd,
}

/// True, false or unknown.
pub(crate) type Truth = Option<bool>;

/// Which image is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// After the change.
    New,
    /// Before it.
    Old,
}

/// A column and what it is asked, as its type has it.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) col: Col,
    pub(crate) kind: Kind,
    pub(crate) ask: Ask,
}

/// What a column is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// How it stands to a constant.
    Compare(Cmp, Key<'static>),
    /// How it stands to another column.
    Columns(Cmp, Col),
    /// Whether it is one of these.
    In(BTreeSet<Key<'static>>),
    /// Whether it is NULL.
    Null,
    /// Whether it is true.
    True,
}

impl Test {
    fn holds(&self, row: &Row<'_, '_>, side: Side) -> Result<Truth, Fault> {
        let value = value(row, self.col, side);
        if matches!(self.ask, Ask::Null) {
            return match value {
                Value::Null => Ok(Some(true)),
                // Unchanged is out of line, which NULL never is.
                Value::Text(_) | Value::Unchanged => Ok(Some(false)),
                Value::Absent => Err(Fault::Unsent),
            };
        }
        let left = self.key(value)?;
        if let Ask::Columns(cmp, other) = &self.ask {
            let right = self.key(self::value(row, *other, side))?;
            let both = left.zip(right);
            return Ok(both.map(|(left, right)| cmp.holds(left.cmp(&right))));
        }
        let Some(left) = left else { return Ok(None) };
        Ok(Some(match &self.ask {
            Ask::Compare(cmp, right) => cmp.holds(left.cmp(right)),
            Ask::In(list) => list.contains(&left),
            Ask::True => left == Key::Bool(true),
            Ask::Null | Ask::Columns(..) => false,
        }))
    }

    /// None for NULL.
    fn key<'a>(&self, value: Value<'a>) -> Result<Option<Key<'a>>, Fault> {
        match value {
            Value::Text(text) => self.kind.key(text).map(Some).ok_or(Fault::Odd),
            Value::Null => Ok(None),
            Value::Unchanged | Value::Absent => Err(Fault::Unsent),
        }
    }
}

fn value<'a>(row: &Row<'_, 'a>, col: Col, side: Side) -> Value<'a> {
    match side {
        Side::New => row.get(col),
        Side::Old => row.old(col),
    }
}

/// A condition on a row of one table and one operation.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// Whatever the row is.
    Const(bool),
    /// A test of a column.
    Test(Test),
    /// All are true.
    All(Vec<Condition>),
    /// One is true.
    Any(Vec<Condition>),
    /// SQL's NOT.
    Not(Box<Condition>),
    /// SQL's IS NOT TRUE: true where the other is false or unknown.
    NotTrue(Box<Condition>),
}

impl Condition {
    /// All of these, or (`decides` true) any of these; a constant decides at once.
    pub(crate) fn folded(list: Vec<Condition>, decides: bool) -> Condition {
        let is = |c: &Condition, truth| matches!(c, Condition::Const(is) if *is == truth);
        if list.iter().any(|c| is(c, decides)) {
            return Condition::Const(decides);
        }
        let mut list: Vec<_> = list.into_iter().filter(|c| !is(c, !decides)).collect();
        match list.len() {
            0 => Condition::Const(!decides),
            1 => list.remove(0),
            _ if decides => Condition::Any(list),
            _ => Condition::All(list),
        }
    }

    /// Its negation.
    pub(crate) fn not(self) -> Condition {
        match self {
            Condition::Const(truth) => Condition::Const(!truth),
            other => Condition::Not(Box::new(other)),
        }
    }

    /// True where it is not.
    pub(crate) fn not_true(self) -> Condition {
        match self {
            Condition::Const(truth) => Condition::Const(!truth),
            other => Condition::NotTrue(Box::new(other)),
        }
    }

    /// Whether it holds for one image of a row.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn holds(&self, row: &Row<'_, '_>, side: Side) -> Result<Truth, Fault> {
        Ok(match self {
            Condition::Const(truth) => Some(*truth),
            Condition::Test(test) => test.holds(row, side)?,
            Condition::All(all) => fold(all, row, side, false)?,
            Condition::Any(any) => fold(any, row, side, true)?,
            Condition::Not(not) => not.holds(row, side)?.map(|truth| !truth),
            Condition::NotTrue(other) => Some(other.holds(row, side)? != Some(true)),
        })
    }

    /// Whether any column of it is in the old image.
    pub(crate) fn has_old(&self, row: &Row<'_, '_>) -> bool {
        let mut has = false;
        self.each_column(&mut |col| has |= row.old(col) != Value::Absent);
        has
    }

    /// Calls `f` with every column.
    pub(crate) fn each_column(&self, f: &mut impl FnMut(Col)) {
        match self {
            Condition::Const(_) => {}
            Condition::Test(test) => {
                f(test.col);
                if let Ask::Columns(_, other) = test.ask {
                    f(other);
                }
            }
            Condition::All(list) | Condition::Any(list) => {
                list.iter().for_each(|c| c.each_column(f));
            }
            Condition::Not(inner) | Condition::NotTrue(inner) => inner.each_column(f),
        }
    }
}

/// AND (`decides` false) and OR (`decides` true): one that decides does, else one unknown
/// makes it unknown.
fn fold(list: &[Condition], row: &Row<'_, '_>, side: Side, decides: bool) -> Result<Truth, Fault> {
    let mut folded = Some(!decides);
    for condition in list {
        match condition.holds(row, side)? {
            Some(truth) if truth == decides => folded = Some(decides),
            None if folded != Some(decides) => folded = None,
            _ => {}
        }
    }
    Ok(folded)
}
