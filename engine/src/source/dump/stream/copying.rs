//! Rows of COPY: lines up to `\.`, inside which nothing else is special.

use std::sync::Arc;

use memchr::memchr;

use super::super::builder::RowError;
use super::super::error::{DumpError, Place};
use super::super::lexer::Lexer;
use super::super::statement::Named;
use super::super::targets::Target;
use super::{Mode, Rows, Stream, Take};
use crate::source::copy::CopyError;

const MIXED: &str = "the file's lines end in CR LF, and this one does not: it was changed on its \
                     way; take the dump with pg_dump -f, or copy it as binary";
const CARRIAGE: &str = "a line of COPY data ends in CR LF, and the file's do not: it was changed on \
                        its way; take the dump with pg_dump -f, or copy it as binary";

/// Why a run of lines ended.
enum Stop {
    /// The batch is full.
    Full,
    /// The window ends within a line.
    Open,
    /// `\.`
    End,
    /// As many rows as were wanted.
    Limit,
    /// A line that is no row.
    Bad(Bad),
}

/// What is wrong with a line.
enum Bad {
    Row(RowError),
    LineEnd(&'static str),
}

impl Stream {
    /// `COPY … FROM stdin;` of so many bytes.
    pub(super) fn copy_begins(
        &mut self,
        named: &Named,
        place: Place,
        len: usize,
    ) -> Result<(), DumpError> {
        let take = self.find(named, place)?;
        self.copy_lines(place, take, len)
    }

    /// Goes to the first line behind a COPY of so many bytes.
    pub(super) fn copy_lines(
        &mut self,
        statement: Place,
        take: Take,
        len: usize,
    ) -> Result<(), DumpError> {
        self.flush()?;
        self.text.advance_over(len);
        let end = loop {
            match memchr(b'\n', self.text.window()) {
                Some(end) => break end + 1,
                None if self.text.ended() => {
                    let place = self.text.place_in(usize::MAX);
                    return Err(DumpError::Cut { place, what: "a COPY" });
                }
                None => self.more("the line of a COPY")?,
            }
        };
        self.text.advance(end, 1);
        self.searched = 0;
        let first = self.text.place().offset;
        self.mode = Mode::Copy(Rows { statement, first, take });
        self.limit();
        Ok(())
    }

    /// Reads lines until something is to be said.
    pub(super) fn copy(&mut self, take: &Take) -> Result<(), DumpError> {
        let (stop, at, lines) = match take {
            Take::All(target) => self.take_lines(target),
            Take::Skip(_) | Take::Beyond(_) | Take::Unread => self.skip_lines(take),
        };
        if let Take::All(target) = take {
            let rows = lines - u64::from(matches!(stop, Stop::End));
            self.gathered(target.id, rows);
        }
        self.text.advance(at, lines);
        match stop {
            Stop::Full => self.flush(),
            Stop::Limit => {
                self.flush()?;
                self.limit();
                Ok(())
            }
            Stop::End => {
                self.mode = Mode::Statements;
                self.lexer = Lexer::default();
                // Before the next table, and where the spot needs no statement.
                self.flush()
            }
            Stop::Open => {
                self.flush()?;
                if self.text.ended() {
                    let place = self.text.place_in(usize::MAX);
                    return Err(DumpError::Cut { place, what: "the rows of a COPY" });
                }
                self.searched = self.text.window().len();
                self.more("a row")
            }
            Stop::Bad(bad) => {
                self.flush()?;
                Err(self.bad(take, bad))
            }
        }
    }

    /// Takes lines as rows: why it ended, and bytes and lines dealt with.
    fn take_lines(&mut self, target: &Arc<Target>) -> (Stop, usize, u64) {
        let left = self.left(target.id);
        let options = &self.shared.options;
        let (chunk, begin) = self.text.chunk();
        let (mut at, mut lines) = (begin, 0);
        let mut searched = std::mem::take(&mut self.searched);
        let stop = loop {
            let (rows, bytes) = self.builder.size();
            if rows >= options.batch_rows || bytes >= options.batch_bytes {
                break Stop::Full;
            }
            let from = at + std::mem::take(&mut searched);
            let Some(n) = memchr(b'\n', &chunk[from..]) else { break Stop::Open };
            let (mut end, next) = (from + n, from + n + 1);
            match (self.crlf, end > at && chunk[end - 1] == b'\r') {
                (true, true) => end -= 1,
                (false, false) => {}
                (true, false) => break Stop::Bad(Bad::LineEnd(MIXED)),
                (false, true) => break Stop::Bad(Bad::LineEnd(CARRIAGE)),
            }
            if &chunk[at..end] == b"\\." {
                (at, lines) = (next, lines + 1);
                break Stop::End;
            }
            if lines == left {
                break Stop::Limit;
            }
            if let Err(error) = self.builder.copy_row(target, chunk, at..end, next) {
                break Stop::Bad(Bad::Row(error));
            }
            (at, lines) = (next, lines + 1);
        };
        (stop, at - begin, lines)
    }

    /// Passes over lines: why it ended, and bytes and lines dealt with.
    fn skip_lines(&mut self, take: &Take) -> (Stop, usize, u64) {
        let (chunk, begin) = self.text.chunk();
        let (mut at, mut lines) = (begin, 0);
        let mut searched = std::mem::take(&mut self.searched);
        let stop = loop {
            let from = at + std::mem::take(&mut searched);
            let Some(n) = memchr(b'\n', &chunk[from..]) else { break Stop::Open };
            let line = &chunk[at..from + n];
            (at, lines) = (from + n + 1, lines + 1);
            if line == b"\\." || line == b"\\.\r" {
                break Stop::End;
            }
        };
        let rows = lines - u64::from(matches!(stop, Stop::End));
        self.leave_out(take, rows, (at - begin) as u64);
        (stop, at - begin, lines)
    }

    /// The error of the line that the window begins with.
    fn bad(&self, take: &Take, bad: Bad) -> DumpError {
        let place = self.text.place();
        let (Take::All(target) | Take::Beyond(target)) = take else {
            return DumpError::Text { place, table: String::new(), what: MIXED };
        };
        let table = target.name.clone();
        match bad {
            Bad::LineEnd(what) => DumpError::Text { place, table, what },
            Bad::Row(RowError::Copy(CopyError::FieldCount { found, expected }))
                if target.unnamed =>
            {
                let what = format!(
                    "the dump does not name its columns; its rows have {found} fields, the \
                     catalogue's table {expected} columns: take the dump from the snapshot of this \
                     bootstrap with pg_dump, which names them"
                );
                DumpError::Shape { place, table, what }
            }
            Bad::Row(RowError::Copy(source)) => DumpError::Row { place, table, source },
            Bad::Row(RowError::Value { column, expected }) => {
                let column = target.relation.columns[column].name.clone();
                DumpError::Value { place, table, column, expected }
            }
            Bad::Row(RowError::Default { column }) => {
                let column = &target.relation.columns[column].name;
                DumpError::Insert { place, table, what: format!("no value for {column:?}") }
            }
        }
    }
}
