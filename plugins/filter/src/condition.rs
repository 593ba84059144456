//! Conditions on a row, with SQL's three truth values.
//!
//! `Some(true)`, `Some(false)`, and `None` for unknown: a comparison with NULL is unknown,
//! NOT of unknown is unknown, AND and OR are as in SQL. A value that was not sent is
//! neither: it is an error, and an error anywhere is the error of the whole, even beside
//! something that would decide without it, so that a row's fate never depends on what
//! happened to be sent.

use std::collections::BTreeSet;

use kasho_plugin_sdk::{Col, Normaliser, Row, Value};

/// A value the condition needs was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsent;

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

/// When two texts of a type are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    /// When they are the same.
    Exact,
    /// When they are the same number.
    Numeric,
    /// When they differ by spaces at the end.
    Padded,
    /// When they differ by case.
    Lower,
}

/// A column and the values it is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) col: Col,
    pub(crate) column: String,
    values: BTreeSet<String>,
    compare: Compare,
}

impl Test {
    /// A test that compares exactly.
    pub(crate) fn new(col: Col, column: String, values: Vec<String>) -> Test {
        Test { col, column, values: values.into_iter().collect(), compare: Compare::Exact }
    }

    /// Compares from now on as a type does.
    pub(crate) fn compare_as(&mut self, compare: Compare) {
        self.compare = compare;
        self.values = self.values.iter().map(|value| normal(compare, value).into_owned()).collect();
    }

    fn value<'a>(&self, row: &Row<'_, 'a>, side: Side) -> Value<'a> {
        match side {
            Side::New => row.get(self.col),
            Side::Old => row.old(self.col),
        }
    }
}

fn normal(compare: Compare, value: &str) -> std::borrow::Cow<'_, str> {
    match compare {
        Compare::Exact => value.into(),
        Compare::Numeric => Normaliser::Numeric.apply(value),
        Compare::Padded => value.trim_end_matches(' ').into(),
        Compare::Lower => value.to_lowercase().into(),
    }
}

/// A condition on a row.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// The value is one of these.
    In(Test),
    /// The value is NULL.
    IsNull(Test),
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
    /// Whether it holds for one image of a row.
    ///
    /// # Errors
    /// [`Unsent`].
    pub(crate) fn holds(&self, row: &Row<'_, '_>, side: Side) -> Result<Truth, Unsent> {
        Ok(match self {
            Condition::In(test) => match test.value(row, side) {
                Value::Text(text) => Some(test.values.contains(&*normal(test.compare, text))),
                Value::Null => None,
                Value::Unchanged | Value::Absent => return Err(Unsent),
            },
            Condition::IsNull(test) => match test.value(row, side) {
                Value::Null => Some(true),
                // Unchanged is out of line, which NULL never is.
                Value::Text(_) | Value::Unchanged => Some(false),
                Value::Absent => return Err(Unsent),
            },
            Condition::All(all) => fold(all, row, side, false)?,
            Condition::Any(any) => fold(any, row, side, true)?,
            Condition::Not(not) => not.holds(row, side)?.map(|truth| !truth),
            Condition::NotTrue(other) => Some(other.holds(row, side)? != Some(true)),
        })
    }

    /// Whether any column of it is in the old image.
    pub(crate) fn has_old(&self, row: &Row<'_, '_>) -> bool {
        let mut has = false;
        self.each(&mut |test| has |= row.old(test.col) != Value::Absent);
        has
    }

    /// Calls `f` with every test.
    pub(crate) fn each(&self, f: &mut impl FnMut(&Test)) {
        match self {
            Condition::In(test) | Condition::IsNull(test) => f(test),
            Condition::All(list) | Condition::Any(list) => list.iter().for_each(|c| c.each(f)),
            Condition::Not(inner) | Condition::NotTrue(inner) => inner.each(f),
        }
    }

    /// Calls `f` with every test, to change it.
    pub(crate) fn each_mut(&mut self, f: &mut impl FnMut(&mut Test)) {
        match self {
            Condition::In(test) | Condition::IsNull(test) => f(test),
            Condition::All(list) | Condition::Any(list) => {
                list.iter_mut().for_each(|c| c.each_mut(f));
            }
            Condition::Not(inner) | Condition::NotTrue(inner) => inner.each_mut(f),
        }
    }
}

/// AND (`decides` false) and OR (`decides` true): one that decides does, else one unknown
/// makes it unknown.
fn fold(list: &[Condition], row: &Row<'_, '_>, side: Side, decides: bool) -> Result<Truth, Unsent> {
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
