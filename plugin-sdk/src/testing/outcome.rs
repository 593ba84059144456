//! What became of a row, as a host would publish it.

use super::{Cell, TestRow};
use crate::abi::{Use, Wanted};
use crate::batch::{Decision, Image};
use crate::event::{Op, Relation, Value};
use crate::fixture::Became;

/// What became of a row. Its readers panic on a row that did not go on.
#[derive(Clone, Debug)]
pub struct Outcome {
    op: Op,
    names: Vec<String>,
    new: Vec<Cell>,
    old: Vec<Cell>,
    dropped: bool,
    error: Option<(String, Option<String>)>,
}

impl Outcome {
    pub(super) fn unchanged(row: &TestRow, relation: &Relation) -> Outcome {
        Outcome {
            op: row.op,
            names: relation.columns.iter().map(|c| c.name.clone()).collect(),
            new: row.image(Image::New, relation),
            old: row.image(Image::Old, relation),
            dropped: false,
            error: None,
        }
    }

    /// Whether it was dropped.
    #[must_use]
    pub fn dropped(&self) -> bool {
        self.dropped
    }

    /// The text of its error, if it is in error.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|(text, _)| text.as_str())
    }

    /// The column its error is about, if it is about one.
    #[must_use]
    pub fn error_column(&self) -> Option<&str> {
        self.error.as_ref().and_then(|(_, column)| column.as_deref())
    }

    /// The operation it goes on as.
    #[must_use]
    pub fn op(&self) -> Op {
        self.goes_on();
        self.op
    }

    /// A column after the change.
    #[must_use]
    pub fn after(&self, column: &str) -> Value<'_> {
        self.goes_on();
        self.new[self.place(column)].value()
    }

    /// A column before the change.
    #[must_use]
    pub fn before(&self, column: &str) -> Value<'_> {
        self.goes_on();
        self.old[self.place(column)].value()
    }

    /// As a fixture file judges it.
    pub(super) fn became(&self) -> Became {
        match (&self.error, self.dropped) {
            (Some((text, Some(column))), _) => Became::Error(format!("column {column}: {text}")),
            (Some((text, None)), _) => Became::Error(text.clone()),
            (None, true) => Became::Dropped,
            (None, false) => {
                Became::Leaves { op: self.op, new: self.new.clone(), old: self.old.clone() }
            }
        }
    }

    fn goes_on(&self) {
        assert!(!self.dropped, "the row was dropped");
        assert!(self.error.is_none(), "the row is in error: {:?}", self.error);
    }

    fn place(&self, column: &str) -> usize {
        let place = self.names.iter().position(|name| name == column);
        place.unwrap_or_else(|| panic!("there is no column {column}"))
    }

    pub(super) fn set(&mut self, image: Image, column: &str, cell: Cell) {
        let place = self.place(column);
        match image {
            Image::New => self.new[place] = cell,
            Image::Old => self.old[place] = cell,
        }
    }

    pub(super) fn fail(&mut self, text: String, column: Option<String>) {
        self.error = Some((text, column));
    }

    pub(super) fn decide(&mut self, decision: Decision) {
        match decision {
            Decision::Keep | Decision::Error => {}
            Decision::Drop => self.dropped = true,
            Decision::AsInsert => {
                if self.new.contains(&Cell::Unchanged) {
                    self.fail(
                        "an UPDATE with an unchanged column cannot be an INSERT".into(),
                        None,
                    );
                }
                self.op = Op::Insert;
                self.old.fill(Cell::Absent);
            }
            Decision::AsDelete => {
                self.op = Op::Delete;
                if self.old.iter().all(|cell| *cell == Cell::Absent) {
                    self.old = self.new.clone();
                }
                self.new.fill(Cell::Absent);
            }
        }
    }

    /// Takes away what a host never lets go.
    pub(super) fn strip(&mut self, wanted: &Wanted, relation: &Relation) {
        for (place, column) in relation.columns.iter().enumerate() {
            let usage = wanted.columns.iter().find(|c| c.name == column.name).map(|c| c.usage);
            if usage == Some(Use::Drop) {
                self.new[place] = Cell::Absent;
                self.old[place] = Cell::Absent;
            } else if usage == Some(Use::Mask) && !column.key {
                self.old[place] = Cell::Absent;
            }
            if self.op == Op::Delete && !column.key {
                self.old[place] = Cell::Absent;
            }
        }
    }
}
