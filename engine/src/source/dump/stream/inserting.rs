//! Rows of INSERT: one parenthesis after the other, over as many statements as name the
//! same table.

use std::sync::Arc;

use super::super::builder::RowError;
use super::super::error::{DumpError, Place};
use super::super::insert::{InsertError, tuple};
use super::super::statement::{Named, insert_head, insert_tail};
use super::super::targets::Target;
use super::{Mode, Rows, Stream, Take};
use crate::source::copy::CopyError;

impl Stream {
    /// `INSERT INTO … VALUES`, of so many bytes.
    pub(super) fn insert_head(&mut self, len: usize) -> Result<(), DumpError> {
        let place = self.text.place();
        let head = &self.text.window()[..len];
        let take = match &self.last_head {
            Some((last, take)) if last == head => take.clone(),
            _ => {
                let head = head.to_vec();
                let what = "it is of no form that pg_dump writes";
                let named = insert_head(&head).ok_or_else(|| DumpError::Insert {
                    place,
                    table: "a table".to_owned(),
                    what: what.to_owned(),
                })?;
                let take = self.find(&named, place)?;
                self.last_head = Some((head, take.clone()));
                take
            }
        };
        let same = |target: &Target| {
            self.builder.target().is_some_and(|gathered| std::ptr::eq(gathered.as_ref(), target))
        };
        if !matches!(&take, Take::All(target) if same(target)) {
            self.flush()?;
        }
        self.text.advance_over(len);
        let first = self.text.place().offset;
        self.mode = Mode::Insert(Rows { statement: place, first, take });
        self.limit();
        Ok(())
    }

    /// A row of so many bytes.
    pub(super) fn tuple(&mut self, len: usize) -> Result<(), DumpError> {
        let Mode::Insert(rows) = &self.mode else {
            self.text.advance_over(len);
            return Ok(());
        };
        let take = rows.take.clone();
        match &take {
            Take::All(target) => self.row(target, len)?,
            Take::Skip(_) | Take::Beyond(_) | Take::Unread => {
                self.leave_out(&take, 1, len as u64);
                self.text.advance_over(len);
            }
        }
        Ok(())
    }

    fn row(&mut self, target: &Arc<Target>, len: usize) -> Result<(), DumpError> {
        let crlf = self.crlf;
        let (chunk, begin) = self.text.chunk();
        let taken = self.builder.insert_row(
            target,
            chunk,
            begin..begin + len,
            |text, fields, side, defaults| tuple(text, crlf, fields, side, defaults),
        );
        if let Err(error) = taken {
            self.flush()?;
            return Err(self.bad_row(target, &error));
        }
        self.text.advance_over(len);
        self.gathered(target.id, 1);
        if self.is_full() {
            self.flush()?;
        }
        self.limit();
        Ok(())
    }

    fn bad_row(&self, target: &Target, error: &InsertError) -> DumpError {
        let (place, table) = (self.text.place(), target.name.clone());
        let column = |to: usize| target.relation.columns[to].name.clone();
        let what = match error {
            InsertError::Row => "the row is no list in parentheses".to_owned(),
            InsertError::Literal(n) => format!(
                "value {} is no literal, and only a server could evaluate it: take the dump with \
                 pg_dump",
                n + 1
            ),
            InsertError::Taken(RowError::Copy(CopyError::FieldCount { found, expected })) => {
                format!(
                    "the row has {found} values, the table {expected} columns: the table was altered \
                     between the dump and StartBootstrap, or the dump is another database's"
                )
            }
            InsertError::Taken(RowError::Copy(error)) => error.to_string(),
            InsertError::Taken(RowError::Default { column: to }) => format!(
                "the value of the published column {:?} is not in the dump (it is generated): load \
                 with --direct",
                column(*to)
            ),
            InsertError::Taken(RowError::Value { column: to, expected }) => {
                return DumpError::Value { place, table, column: column(*to), expected };
            }
        };
        DumpError::Insert { place, table, what }
    }

    /// `ON CONFLICT DO NOTHING;`, or only the semicolon.
    pub(super) fn insert_tail(&mut self, len: usize) -> Result<(), DumpError> {
        let place = self.text.place();
        if !insert_tail(&self.text.window()[..len]) {
            self.flush()?;
            let what = "what follows its rows is of no form that pg_dump writes".to_owned();
            return Err(DumpError::Insert { place, table: "a table".to_owned(), what });
        }
        self.text.advance_over(len);
        self.mode = Mode::Statements;
        Ok(())
    }

    /// `INSERT INTO … DEFAULT VALUES` of so many bytes: a row without columns.
    pub(super) fn empty_row(
        &mut self,
        named: &Named,
        place: Place,
        len: usize,
    ) -> Result<(), DumpError> {
        self.flush()?;
        match self.find(named, place)? {
            Take::All(target) if self.left(target.id) == 0 => {
                self.leave_out(&Take::Beyond(target), 1, len as u64);
                self.text.advance_over(len);
            }
            Take::All(target) => {
                let (chunk, begin) = self.text.chunk();
                let taken = self.builder.copy_row(&target, chunk, begin..begin, begin);
                if taken.is_err() {
                    return Err(self.bad_row(&target, &InsertError::Row));
                }
                self.text.advance_over(len);
                self.gathered(target.id, 1);
                self.flush()?;
            }
            take => {
                self.leave_out(&take, 1, len as u64);
                self.text.advance_over(len);
            }
        }
        Ok(())
    }
}
