//! One text of SQL read to its end: statements one by one, rows by the batch.
//!
//! What is found waits in `ready`; an error comes after what was found before it, so that
//! a load loses nothing and goes on exactly there. What can go wrong: see
//! [`DumpError`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Options;
use super::Policy;
use super::builder::Builder;
use super::error::{DumpError, Place};
use super::lexer::{Cut, Item, Lexer, Step};
use super::mark::Spot;
use super::report::{Report, add};
use super::settings;
use super::statement::{Named, Statement, classify};
use super::targets::{Found, Target, Targets};
use super::text::Text;
use crate::batch::Batch;

mod copying;
mod inserting;

/// The comments around what pg_dump writes, in every version that is read.
const FIRST: &[u8] = b"-- PostgreSQL database dump";
const LAST: &[u8] = b"-- PostgreSQL database dump complete";
const MISSING: &str = "its statements (the line \"PostgreSQL database dump complete\" is missing)";

/// What a text has to say next, and where to go on after it.
pub(super) struct Said {
    pub(super) what: What,
    pub(super) spot: Spot,
}

/// As [`super::Piece`], without the mark.
pub(super) enum What {
    Rows { table: u32, batch: Batch, bytes: u64 },
    Ddl { tag: String, text: String },
    Sequence { schema: String, name: String, value: i64, is_called: bool },
}

/// What is being read.
enum Mode {
    /// Statements.
    Statements,
    /// Lines of COPY.
    Copy(Rows),
    /// Rows of an INSERT.
    Insert(Rows),
}

/// The rows of one statement.
struct Rows {
    /// Where it begins.
    statement: Place,
    /// Offset of its first row.
    first: u64,
    take: Take,
}

/// What becomes of rows.
#[derive(Clone)]
enum Take {
    /// They are handed out.
    All(Arc<Target>),
    /// No publication carries them.
    Skip(String),
    /// So many were handed out already.
    Beyond(Arc<Target>),
    /// A COPY in a format that is not read, by policy.
    Unread,
}

/// Everything that several texts of one dump share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) targets: Arc<Targets>,
    pub(super) options: Arc<Options>,
}

/// A text being read.
pub(super) struct Stream {
    text: Text,
    shared: Shared,
    lexer: Lexer,
    mode: Mode,
    builder: Builder,
    report: Report,
    ready: VecDeque<Said>,
    failed: Option<DumpError>,
    done: bool,
    /// The file's lines end in CR LF.
    crlf: bool,
    search_path: String,
    connected: bool,
    /// pg_dump's first line was seen, and not its last one.
    unfinished: bool,
    /// Rows handed out by table.
    counts: HashMap<u32, u64>,
    /// The table whose rows came last.
    last_table: u32,
    /// The last INSERT's head, and its table: most look like the one before.
    last_head: Option<(Vec<u8>, Take)>,
    /// Bytes of the window without a line end.
    searched: usize,
}

impl Stream {
    /// Reads `text` from its beginning, or from a spot that an earlier one handed out.
    pub(super) fn open(
        text: Text,
        shared: Shared,
        crlf: bool,
        from: Option<&Spot>,
    ) -> Result<Stream, DumpError> {
        let mut stream = Stream {
            text,
            shared,
            lexer: Lexer::default(),
            mode: Mode::Statements,
            builder: Builder::default(),
            report: Report::default(),
            ready: VecDeque::new(),
            failed: None,
            done: false,
            crlf,
            search_path: String::new(),
            connected: false,
            unfinished: false,
            counts: HashMap::new(),
            last_table: 0,
            last_head: None,
            searched: 0,
        };
        if let Some(spot) = from {
            stream.go_to(spot)?;
        }
        Ok(stream)
    }

    /// What was found in this text so far.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// The place that has been reached.
    pub(super) fn place(&self) -> Place {
        self.text.place()
    }

    /// What comes next, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Said>, DumpError> {
        loop {
            if let Some(said) = self.ready.pop_front() {
                return Ok(Some(said));
            }
            if let Some(error) = self.failed.take() {
                self.done = true;
                return Err(error);
            }
            if self.done {
                return Ok(None);
            }
            if let Err(error) = self.step() {
                self.failed = Some(error);
            }
        }
    }

    fn step(&mut self) -> Result<(), DumpError> {
        match &self.mode {
            Mode::Copy(rows) => {
                let take = rows.take.clone();
                self.copy(&take)
            }
            Mode::Statements | Mode::Insert(_) => self.lex(),
        }
    }

    /// Stands where an earlier reader stopped: in the middle of a statement by reading
    /// its beginning again.
    fn go_to(&mut self, spot: &Spot) -> Result<(), DumpError> {
        self.search_path.clone_from(&spot.search_path);
        (self.connected, self.unfinished) = (spot.connected, spot.unfinished);
        let place = Place { offset: spot.offset, line: spot.line };
        if let Some((offset, line)) = spot.statement {
            self.text.skip_to(offset, place)?;
            self.text.at_line(line);
            while matches!(self.mode, Mode::Statements) {
                self.lex()?;
                if self.done || self.text.place().offset > spot.offset {
                    return Err(DumpError::Changed { place });
                }
            }
        }
        // Only now: a statement that continues does not count its rows again.
        let (table, rows) = spot.rows;
        self.counts.insert(table, rows);
        self.last_table = table;
        self.text.go_to(spot)?;
        self.limit();
        Ok(())
    }

    /// One item of the text, outside COPY data.
    fn lex(&mut self) -> Result<(), DumpError> {
        let step = match self.lexer.next(self.text.window(), self.text.ended()) {
            Ok(step) => step,
            Err(Cut(what)) => {
                self.flush()?;
                let place = self.text.place_in(usize::MAX);
                return Err(DumpError::Cut { place, what });
            }
        };
        match step {
            Step::More => self.more("a statement"),
            Step::End => {
                self.flush()?;
                if self.unfinished {
                    let place = self.text.place();
                    return Err(DumpError::Cut { place, what: MISSING });
                }
                self.done = true;
                Ok(())
            }
            Step::Item(Item::Blank, len) => {
                self.frame(len);
                self.text.advance_over(len);
                Ok(())
            }
            Step::Item(Item::Meta, len) => self.meta(len),
            Step::Item(Item::Statement, len) => self.statement(len),
            Step::Item(Item::InsertHead, len) => self.insert_head(len),
            Step::Item(Item::Tuple, len) => self.tuple(len),
            Step::Item(Item::InsertTail, len) => self.insert_tail(len),
        }
    }

    /// Notes pg_dump's first and last words, which stand in comments: between the two
    /// a text that ends was cut, even where no statement shows it.
    fn frame(&mut self, len: usize) {
        if len < FIRST.len() {
            return;
        }
        for line in self.text.window()[..len].split(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\r").unwrap_or(line) {
                FIRST => self.unfinished = true,
                LAST => self.unfinished = false,
                _ => {}
            }
        }
    }

    /// Makes the window longer. Rows that were gathered are slices of the chunk that goes.
    fn more(&mut self, what: &'static str) -> Result<(), DumpError> {
        self.flush()?;
        self.text.more(what, self.shared.options.max_line)
    }

    /// A psql command.
    fn meta(&mut self, len: usize) -> Result<(), DumpError> {
        let place = self.text.place();
        let line = String::from_utf8_lossy(&self.text.window()[..len]).into_owned();
        let (word, rest) = line[1..]
            .split_at(line[1..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(line.len() - 1));
        match word {
            "restrict" | "unrestrict" => {}
            "connect" | "c" if self.connected => return Err(DumpError::Databases { place }),
            "connect" | "c" => self.connected = true,
            "encoding" => self.setting("client_encoding", rest.trim(), place)?,
            // Its name may be a row's, where the text is not what it seems.
            _ => self.unknown("a psql command".to_owned(), place)?,
        }
        self.text.advance_over(len);
        Ok(())
    }

    fn setting(&mut self, name: &str, value: &str, place: Place) -> Result<(), DumpError> {
        if name == "search_path" {
            value.clone_into(&mut self.search_path);
        }
        match settings::refusal(name, value) {
            None => Ok(()),
            Some(remedy) => {
                let (name, value) = (name.to_owned(), value.to_owned());
                Err(DumpError::Setting { place, name, value, remedy })
            }
        }
    }

    fn unknown(&mut self, kind: String, place: Place) -> Result<(), DumpError> {
        match self.shared.options.unknown {
            Policy::Pass => {
                self.report.unknown(&kind, place.line, 1);
                Ok(())
            }
            Policy::Halt => {
                let remedy = "let unknown statements pass by policy, if the copy can do without it";
                Err(DumpError::Unknown { place, kind, remedy })
            }
        }
    }

    /// A whole statement.
    fn statement(&mut self, len: usize) -> Result<(), DumpError> {
        let place = self.text.place();
        let statement = classify(&self.text.window()[..len]);
        match statement {
            Statement::Copy(named) => return self.copy_begins(&named, place, len),
            Statement::Empty(named) => return self.empty_row(&named, place, len),
            Statement::CopyOptions => {
                self.unknown("COPY WITH options".to_owned(), place)?;
                return self.copy_lines(place, Take::Unread, len);
            }
            Statement::Set { name, value } => self.setting(&name, &value, place)?,
            Statement::Transaction | Statement::Statistics => {}
            Statement::LargeObject { opened } => {
                if self.shared.options.large_objects == Policy::Halt {
                    return Err(DumpError::LargeObjects { place });
                }
                self.report.large_objects += u64::from(opened);
            }
            Statement::Unknown { kind } => self.unknown(kind, place)?,
            Statement::Sequence { schema, name, value, is_called } => {
                let schema =
                    schema.ok_or_else(|| DumpError::Unqualified { place, table: name.clone() })?;
                self.report.sequences += 1;
                return self.say(len, What::Sequence { schema, name, value, is_called });
            }
            Statement::Ddl { tag } => {
                let text = self.text.window()[..len - 1].to_vec();
                let text = String::from_utf8(text).map_err(|_| DumpError::Text {
                    place,
                    table: tag.clone(),
                    what: "bytes that are no UTF-8: take the dump with pg_dump --encoding=UTF8",
                })?;
                self.report.schema_statements += 1;
                return self.say(len, What::Ddl { tag, text });
            }
        }
        self.text.advance_over(len);
        Ok(())
    }

    /// Hands out what a statement of so many bytes says, after the rows before it.
    fn say(&mut self, len: usize, what: What) -> Result<(), DumpError> {
        self.flush()?;
        self.text.advance_over(len);
        let spot = self.spot();
        self.ready.push_back(Said { what, spot });
        Ok(())
    }

    /// What becomes of the rows of a statement.
    fn find(&mut self, named: &Named, place: Place) -> Result<Take, DumpError> {
        Ok(match self.shared.targets.find(named, &self.search_path, place)? {
            Found::Target(target) => Take::All(target),
            Found::Skip(name) => Take::Skip(name),
        })
    }

    /// How many rows of a table may still be handed out.
    fn left(&self, table: u32) -> u64 {
        let count = self.counts.get(&table).copied().unwrap_or(0);
        self.shared.options.max_rows.map_or(u64::MAX, |most| most.saturating_sub(count))
    }

    /// Takes no more rows of a table that has had as many as are wanted.
    fn limit(&mut self) {
        let (Mode::Copy(rows) | Mode::Insert(rows)) = &self.mode else { return };
        if let Take::All(target) = &rows.take
            && self.left(target.id) == 0
        {
            let take = Take::Beyond(Arc::clone(target));
            if let Mode::Copy(rows) | Mode::Insert(rows) = &mut self.mode {
                rows.take = take;
            }
        }
    }

    /// Counts rows that are not handed out.
    fn leave_out(&mut self, take: &Take, rows: u64, bytes: u64) {
        match take {
            Take::Skip(name) => add(&mut self.report.skipped, name, rows, bytes),
            Take::Beyond(target) => {
                add(&mut self.report.beyond_limit, &target.name, rows, bytes);
            }
            Take::All(_) | Take::Unread => {}
        }
    }

    /// Hands out the rows gathered so far. The window begins right behind the last one,
    /// blanks aside.
    fn flush(&mut self) -> Result<(), DumpError> {
        let Some(target) = self.builder.target().filter(|_| !self.builder.is_empty()) else {
            return Ok(());
        };
        let target = Arc::clone(target);
        let (rows, _) = self.builder.size();
        let begin = self.builder.start();
        let (chunk, _) = self.text.chunk();
        let taken = self.builder.take(chunk, self.shared.options.load_lsn);
        let (batch, bytes) = taken.map_err(|bad| {
            let place = self.text.place_before(begin + bad.at.unwrap_or(0));
            DumpError::Text { place, table: target.name.clone(), what: bad.what }
        })?;
        add(&mut self.report.tables, &target.name, rows as u64, bytes);
        let what = What::Rows { table: target.id, batch, bytes };
        let spot = self.spot();
        self.ready.push_back(Said { what, spot });
        Ok(())
    }

    /// Counts a row that was gathered; hands them out if they are enough.
    fn gathered(&mut self, table: u32, rows: u64) {
        *self.counts.entry(table).or_insert(0) += rows;
        self.last_table = table;
    }

    fn is_full(&self) -> bool {
        let (rows, bytes) = self.builder.size();
        rows >= self.shared.options.batch_rows || bytes >= self.shared.options.batch_bytes
    }

    /// The current place.
    fn spot(&self) -> Spot {
        let Place { offset, line } = self.text.place();
        let (statement, first) = match &self.mode {
            Mode::Statements => (None, 0),
            Mode::Copy(rows) | Mode::Insert(rows) => {
                (Some((rows.statement.offset, rows.statement.line)), rows.first)
            }
        };
        let count = self.counts.get(&self.last_table).copied().unwrap_or(0);
        Spot {
            offset,
            line,
            statement,
            rows: (self.last_table, count),
            search_path: self.search_path.clone(),
            tail: self.text.tail(first),
            connected: self.connected,
            unfinished: self.unfinished,
        }
    }
}

#[cfg(test)]
mod tests;
