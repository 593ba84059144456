//! Where statements, rows of `INSERT`, meta-commands and comments begin and end: a state
//! machine over a growing window of the text, without a copy and without looking twice.
//!
//! The rules are psql's: a statement ends at a semicolon outside quotes, comments,
//! parentheses and `BEGIN ATOMIC … END`. Rows of `COPY` are not its business; whoever
//! sees a `COPY … FROM stdin` reads lines until `\.`. What can go wrong: the text ends in
//! the middle of something ([`Cut`]). Never panics, whatever the bytes.

use memchr::{memchr, memchr_iter, memchr2, memmem};

/// What an item of the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// White space and comments.
    Blank,
    /// A psql command, with its line's end.
    Meta,
    /// A statement, with its semicolon.
    Statement,
    /// An `INSERT` up to and with `VALUES`.
    InsertHead,
    /// One parenthesised row.
    Tuple,
    /// What follows the last row, with the semicolon.
    InsertTail,
}

/// What the window allows to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An item stands at the window's begin and has so many bytes.
    Item(Item, usize),
    /// The window ends within an item: show a longer one, with the same beginning.
    More,
    /// The text has ended, between statements.
    End,
}

/// The text ended within this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut(pub(super) &'static str);

/// Where the machine stands, within the item that begins the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Outside everything; the item may not have begun.
    Plain,
    /// From `--` to the line's end.
    LineComment,
    /// `/* … */`, nested so deep.
    BlockComment(u32),
    /// `'…'`; with backslashes of meaning after an `E`.
    Quoted { escapes: bool },
    /// `"…"`.
    Identifier,
    /// `$tag$ … $tag$`; the delimiter's place in the window.
    Dollar { start: usize, len: usize },
    /// From a backslash to the line's end.
    Meta,
}

/// Which items may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Statements.
    Statements,
    /// Rows of an `INSERT`.
    Rows,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Lexer {
    mode: Mode,
    state: State,
    /// The item has begun: what is blank now belongs to it.
    kind: Option<Item>,
    /// Bytes of the window dealt with.
    at: usize,
    parens: u32,
    words: Words,
}

impl Default for Lexer {
    fn default() -> Lexer {
        Lexer::in_mode(Mode::Statements)
    }
}

impl Lexer {
    fn in_mode(mode: Mode) -> Lexer {
        let words = Words::default();
        Lexer { mode, state: State::Plain, kind: None, at: 0, parens: 0, words }
    }

    /// A machine that stands between two rows of an `INSERT`.
    pub(super) fn among_rows() -> Lexer {
        Lexer::in_mode(Mode::Rows)
    }

    /// What stands at the beginning of `window`. `last`: nothing comes after it. After an
    /// item the next window begins behind it; after [`Step::More`] at the same place.
    pub(super) fn next(&mut self, window: &[u8], last: bool) -> Result<Step, Cut> {
        loop {
            let found = match self.state {
                State::Plain => self.plain(window, last),
                State::Meta => self.meta(window, last),
                State::LineComment => self.line_comment(window, last),
                State::BlockComment(depth) => self.block_comment(window, depth),
                State::Quoted { escapes } => self.quoted(window, last, escapes),
                State::Identifier => self.identifier(window, last),
                State::Dollar { start, len } => self.dollar(window, start, len),
            };
            match found {
                Found::Nothing => {}
                Found::Item(item, end) => return Ok(self.item(item, end)),
                Found::WindowEnd if last => return self.end(window),
                Found::WindowEnd => return Ok(self.wait()),
            }
        }
    }

    /// Hands out an item and stands where the next one begins.
    fn item(&mut self, item: Item, end: usize) -> Step {
        match item {
            Item::InsertHead => *self = Lexer::among_rows(),
            Item::Tuple => *self = Lexer::among_rows(),
            Item::Statement | Item::Meta | Item::InsertTail => *self = Lexer::default(),
            Item::Blank => self.at = 0,
        }
        Step::Item(item, end)
    }

    /// The window has ended. Blanks need not wait in it; a comment waits for its end, so
    /// that whoever goes on later does not begin inside one.
    fn wait(&mut self) -> Step {
        match (self.state, self.kind) {
            (State::Plain, None) if self.at > 0 => self.item(Item::Blank, self.at),
            _ => Step::More,
        }
    }

    /// The text has ended.
    fn end(&mut self, window: &[u8]) -> Result<Step, Cut> {
        let cut = match self.state {
            State::BlockComment(_) => "a comment",
            State::Quoted { .. } => "a string",
            State::Identifier => "a quoted identifier",
            State::Dollar { .. } => "a dollar-quoted string",
            State::Plain | State::LineComment | State::Meta => match (self.mode, self.kind) {
                (Mode::Rows, _) => "an INSERT",
                (Mode::Statements, Some(_)) => "a statement",
                (Mode::Statements, None) if window.is_empty() => return Ok(Step::End),
                (Mode::Statements, None) => return Ok(self.item(Item::Blank, window.len())),
            },
        };
        Err(Cut(cut))
    }

    /// Outside quotes and comments.
    fn plain(&mut self, window: &[u8], last: bool) -> Found {
        while let Some(&byte) = window.get(self.at) {
            let next = window.get(self.at + 1).copied();
            // Two bytes decide.
            if matches!(byte, b'-' | b'/') && next.is_none() && !last {
                return Found::WindowEnd;
            }
            match (byte, next) {
                (b'-', Some(b'-')) => return self.enter(State::LineComment, 2),
                (b'/', Some(b'*')) => return self.enter(State::BlockComment(1), 2),
                (byte, _) if byte.is_ascii_whitespace() || byte == 0x0B => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            if self.kind.is_none() {
                if self.at > 0 {
                    return Found::Item(Item::Blank, self.at);
                }
                if let Some(found) = self.begin(byte) {
                    return found;
                }
                continue;
            }
            if let Some(found) = self.inside(window, byte, last) {
                return found;
            }
        }
        Found::WindowEnd
    }

    fn enter(&mut self, state: State, bytes: usize) -> Found {
        self.state = state;
        self.at += bytes;
        Found::Nothing
    }

    /// The first byte of an item.
    fn begin(&mut self, byte: u8) -> Option<Found> {
        self.kind = Some(match (self.mode, byte) {
            (Mode::Statements, b'\\') => {
                self.kind = Some(Item::Meta);
                return Some(self.enter(State::Meta, 1));
            }
            (Mode::Statements, b';') => return Some(Found::Item(Item::Blank, 1)),
            (Mode::Statements, _) => Item::Statement,
            (Mode::Rows, b'(') => Item::Tuple,
            (Mode::Rows, b',') => return Some(Found::Item(Item::Blank, 1)),
            (Mode::Rows, _) => Item::InsertTail,
        });
        None
    }

    /// A byte of a statement or a row that is no blank.
    fn inside(&mut self, window: &[u8], byte: u8, last: bool) -> Option<Found> {
        match byte {
            b'\'' => return Some(self.enter(State::Quoted { escapes: self.words.escape }, 1)),
            b'"' => return Some(self.enter(State::Identifier, 1)),
            b'$' => return self.dollar_begins(window, last),
            b'(' => self.parens = self.parens.saturating_add(1),
            b')' => {
                self.parens = self.parens.saturating_sub(1);
                if self.kind == Some(Item::Tuple) && self.parens == 0 {
                    return Some(Found::Item(Item::Tuple, self.at + 1));
                }
            }
            b';' if self.kind != Some(Item::Tuple)
                && self.parens == 0
                && self.words.begins == 0 =>
            {
                return Some(Found::Item(self.kind.unwrap_or(Item::Statement), self.at + 1));
            }
            byte if word_start(byte) => return self.word(window, last),
            byte if byte.is_ascii_digit() => {
                let rest = &window[self.at..];
                self.at += rest.iter().take_while(|b| b.is_ascii_digit()).count();
                self.words.escape = false;
                return None;
            }
            _ => {}
        }
        self.words.escape = false;
        self.at += 1;
        None
    }

    /// A key word or a name.
    fn word(&mut self, window: &[u8], last: bool) -> Option<Found> {
        let rest = &window[self.at..];
        let len = rest.iter().take_while(|b| word_part(**b)).count();
        if len == rest.len() && !last {
            return Some(Found::WindowEnd);
        }
        self.at += len;
        let word = &rest[..len];
        self.words.escape = word.eq_ignore_ascii_case(b"e") && rest.get(len) == Some(&b'\'');
        if self.kind == Some(Item::Statement) {
            self.words.see(word, self.parens);
            let rows = self.words.insert
                && self.parens == 0
                && word.eq_ignore_ascii_case(b"values")
                && !self.words.default;
            self.words.default = word.eq_ignore_ascii_case(b"default");
            if rows {
                return Some(Found::Item(Item::InsertHead, self.at));
            }
        }
        None
    }

    /// `$tag$`, or a dollar that means nothing here.
    fn dollar_begins(&mut self, window: &[u8], last: bool) -> Option<Found> {
        self.words.escape = false;
        let rest = &window[self.at + 1..];
        let tag = rest.iter().take_while(|b| word_part(**b) && **b != b'$').count();
        match rest.get(tag) {
            None if !last => Some(Found::WindowEnd),
            Some(b'$') if !rest[0].is_ascii_digit() => {
                let (start, len) = (self.at, tag + 2);
                Some(self.enter(State::Dollar { start, len }, len))
            }
            _ => {
                self.at += 1;
                None
            }
        }
    }

    fn dollar(&mut self, window: &[u8], start: usize, len: usize) -> Found {
        let delimiter = &window[start..start + len];
        match memmem::find(&window[self.at..], delimiter) {
            Some(n) => {
                self.state = State::Plain;
                self.at += n + len;
                Found::Nothing
            }
            None => {
                // The delimiter's beginning may stand at the window's end.
                self.at = self.at.max(window.len().saturating_sub(len - 1));
                Found::WindowEnd
            }
        }
    }

    fn meta(&mut self, window: &[u8], last: bool) -> Found {
        match memchr(b'\n', &window[self.at..]) {
            Some(n) => Found::Item(Item::Meta, self.at + n + 1),
            None if last => Found::Item(Item::Meta, window.len()),
            None => {
                self.at = window.len();
                Found::WindowEnd
            }
        }
    }

    fn line_comment(&mut self, window: &[u8], last: bool) -> Found {
        let end = memchr(b'\n', &window[self.at..]);
        self.at = end.map_or(window.len(), |n| self.at + n + 1);
        if end.is_some() || last {
            self.state = State::Plain;
            return Found::Nothing;
        }
        Found::WindowEnd
    }

    fn block_comment(&mut self, window: &[u8], mut depth: u32) -> Found {
        while let Some(n) = memchr2(b'*', b'/', &window[self.at..]) {
            let at = self.at + n;
            match (window[at], window.get(at + 1)) {
                (_, None) => {
                    self.at = at;
                    self.state = State::BlockComment(depth);
                    return Found::WindowEnd;
                }
                (b'*', Some(b'/')) => {
                    self.at = at + 2;
                    depth -= 1;
                    if depth == 0 {
                        self.state = State::Plain;
                        return Found::Nothing;
                    }
                }
                (b'/', Some(b'*')) => {
                    self.at = at + 2;
                    depth = depth.saturating_add(1);
                }
                _ => self.at = at + 1,
            }
        }
        self.at = window.len();
        self.state = State::BlockComment(depth);
        Found::WindowEnd
    }

    fn quoted(&mut self, window: &[u8], last: bool, escapes: bool) -> Found {
        loop {
            let rest = &window[self.at..];
            let found = if escapes { memchr2(b'\'', b'\\', rest) } else { memchr(b'\'', rest) };
            let Some(n) = found else {
                self.at = window.len();
                return Found::WindowEnd;
            };
            let next = rest.get(n + 1).copied();
            self.at += n;
            match (rest[n], next) {
                // Two bytes decide.
                (b'\\', None) => return Found::WindowEnd,
                (_, None) if !last => return Found::WindowEnd,
                (b'\\', Some(_)) | (_, Some(b'\'')) => self.at += 2,
                (_, _) => {
                    self.words.escape = false;
                    return self.enter(State::Plain, 1);
                }
            }
        }
    }

    fn identifier(&mut self, window: &[u8], last: bool) -> Found {
        loop {
            let rest = &window[self.at..];
            let Some(n) = memchr(b'"', rest) else {
                self.at = window.len();
                return Found::WindowEnd;
            };
            self.at += n;
            match rest.get(n + 1) {
                None if !last => return Found::WindowEnd,
                Some(b'"') => self.at += 2,
                _ => return self.enter(State::Plain, 1),
            }
        }
    }
}

/// What one step of the machine came to.
enum Found {
    /// The state changed.
    Nothing,
    /// An item ends here.
    Item(Item, usize),
    /// Nothing more can be said of this window.
    WindowEnd,
}

/// The words of a statement, as far as they move its end.
#[derive(Debug, Default)]
struct Words {
    count: u32,
    /// First letters of the first four.
    first: [u8; 4],
    /// The statement is an `INSERT`.
    insert: bool,
    /// The last word was `DEFAULT`.
    default: bool,
    /// An `E` stands before the quote that comes.
    escape: bool,
    /// `BEGIN ATOMIC` and `CASE` in it that were not ended yet.
    begins: u32,
}

impl Words {
    fn see(&mut self, word: &[u8], parens: u32) {
        let is = |text: &str| word.eq_ignore_ascii_case(text.as_bytes());
        if let Some(first) = self.first.get_mut(self.count as usize) {
            let known = ["create", "function", "procedure", "or", "replace"];
            *first = if known.into_iter().any(is) { word[0].to_ascii_lowercase() } else { b'?' };
        }
        self.insert |= self.count == 0 && is("insert");
        self.count = self.count.saturating_add(1);
        let routine = |b: u8| matches!(b, b'f' | b'p');
        let [a, b, c, d] = self.first;
        let creates = a == b'c' && (routine(b) || (b == b'o' && c == b'r' && routine(d)));
        if !creates || parens > 0 {
            return;
        }
        if is("begin") || (is("case") && self.begins > 0) {
            self.begins = self.begins.saturating_add(1);
        } else if is("end") {
            self.begins = self.begins.saturating_sub(1);
        }
    }
}

fn word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn word_part(byte: u8) -> bool {
    word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Lines that end within `text`.
pub(super) fn newlines(text: &[u8]) -> u64 {
    memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
mod tests;
