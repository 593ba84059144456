//! The statements of a text, as PostgreSQL's own scanner would see them: where each begins
//! and ends, which words and literals it has, what of it is comment.
//!
//! What can go wrong: a text that ends within a quote or a comment, or whose strings depend
//! on a setting that is not known ([`Unclear`]). Whoever asks then knows nothing of it.
//! Never panics, whatever the text.
//!
//! The rules: the PostgreSQL manual, 4.1 "Lexical Structure".

use std::ops::Range;

/// The text is none that can be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclear;

/// A token that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A key word or a name without quotes, in capitals; so deep in parentheses.
    Word(String, u32),
    /// A name in quotes, and these.
    Name(String),
    /// A string of any kind.
    Literal(Content),
    /// A number of so many digits, as written.
    Number(String),
    /// Any other character.
    Other(char),
}

/// What a string could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A date, or a date and a time, in digits.
    Moment,
    /// A name: nothing in it looks like somebody's.
    Label,
    /// Anything.
    Data,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Where it stands, without comments and blanks around it, and without its semicolon.
    pub range: Range<usize>,
    /// The statement without comments.
    pub bare: String,
    /// Where the word CONCURRENTLY stands, if it says how this is done: behind INDEX, or behind the
    /// partition that is detached.
    pub concurrently: Option<Range<usize>>,
    tokens: Vec<Token>,
}

/// Words between a verb and its object.
const BETWEEN: [&str; 13] = [
    "OR",
    "REPLACE",
    "GLOBAL",
    "LOCAL",
    "TEMP",
    "TEMPORARY",
    "UNLOGGED",
    "UNIQUE",
    "RECURSIVE",
    "TRUSTED",
    "PROCEDURAL",
    "DEFAULT",
    "CONSTRAINT",
];
/// Ends of ranges, and numbers that everybody writes: they tell nothing of a row.
const LIMITS: [&str; 6] =
    ["32767", "32768", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808"];
/// A number of as many digits may be a card's, an account's, a telephone's.
const TELLING: usize = 7;

impl Scanned {
    /// Key words and names without quotes outside parentheses, in capitals.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Word(word, 0) => Some(word.as_str()),
            _ => None,
        })
    }

    /// Whether it holds something that could be data: a string, a number so long that it could
    /// be somebody's, or a name in quotes that looks like either. Dates that bound a partition
    /// and labels of an enumeration are structure: they are no row's.
    #[must_use]
    pub fn has_literal(&self) -> bool {
        let (bounds, labels) = (self.bounds(), self.has_labels());
        self.tokens.iter().enumerate().any(|(at, token)| match token {
            Token::Literal(Content::Moment) => bounds.is_none_or(|from| at < from),
            Token::Literal(Content::Label) => !labels,
            Token::Literal(Content::Data) => true,
            Token::Number(number) => {
                let digits = number.bytes().filter(u8::is_ascii_hexdigit).count();
                digits >= TELLING && !LIMITS.contains(&number.as_str())
            }
            Token::Name(name) => is_telling(name),
            _ => false,
        })
    }

    /// Behind which token the bounds of a partition by range stand.
    fn bounds(&self) -> Option<usize> {
        let mut head = self.head();
        let table = matches!((head.next(), head.next()), (Some("CREATE" | "ALTER"), Some("TABLE")));
        if !table || !self.words().any(|word| word == "PARTITION") {
            return None;
        }
        let is = |token: &Token, word| matches!(token, Token::Word(w, 0) if w == word);
        let from = |three: &[Token]| {
            three.iter().zip(["FOR", "VALUES", "FROM"]).all(|(token, word)| is(token, word))
        };
        self.tokens.windows(3).position(from).map(|at| at + 3)
    }

    /// Whether its strings are labels of an enumeration.
    fn has_labels(&self) -> bool {
        let words: Vec<&str> = self.words().collect();
        match words[..] {
            ["CREATE", "TYPE", .., "AS", "ENUM"] => true,
            ["ALTER", "TYPE", ref rest @ ..] => {
                rest.windows(2).any(|two| matches!(two, ["ADD" | "RENAME", "VALUE"]))
            }
            _ => false,
        }
    }

    /// Whether it begins, ends or cuts a transaction.
    #[must_use]
    pub fn ends_transactions(&self) -> bool {
        const WORDS: [&str; 8] =
            ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"];
        self.words().next().is_some_and(|first| WORDS.contains(&first))
    }

    /// Whether the next word may be CONCURRENTLY, which is no name there.
    fn may_wait(&self) -> bool {
        let index = matches!(self.tokens.last(), Some(Token::Word(word, 0)) if word == "INDEX");
        let mut words = self.words().skip_while(|word| *word != "DETACH");
        index || words.nth(1) == Some("PARTITION")
    }

    /// Its words without those between a verb and its object.
    fn head(&self) -> impl Iterator<Item = &str> {
        self.words().filter(|word| !BETWEEN.contains(word))
    }

    /// Whether it makes a table of a query's rows.
    #[must_use]
    pub fn is_query(&self) -> bool {
        let mut words = self.words();
        let first = words.next();
        match first {
            Some("CREATE") => {
                let table = self.head().nth(1) == Some("TABLE");
                table && self.words().any(|word| word == "AS" || word == "EXECUTE")
            }
            Some("SELECT" | "WITH") => words.any(|word| word == "INTO"),
            _ => false,
        }
    }

    /// Whether PostgreSQL gives a statement that begins like this the command tag `tag`.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        match tag {
            "SELECT INTO" => {
                return self.is_query() && self.words().next() != Some("CREATE");
            }
            "CREATE TABLE AS" => {
                return self.is_query() && self.words().next() == Some("CREATE");
            }
            "CREATE TABLE" if self.is_query() => return false,
            _ => {}
        }
        let mut words = self.head();
        tag.split(' ').filter(|word| !BETWEEN.contains(word)).all(|word| words.next() == Some(word))
    }
}

/// The statements of `text`, without empty ones.
///
/// # Errors
/// It ends within something, or a string's end depends on `standard_conforming_strings`.
pub fn scan(text: &str) -> Result<Vec<Scanned>, Unclear> {
    scan_under(text, None)
}

/// The same where that setting may be known.
///
/// # Errors
/// As [`scan`].
pub fn scan_under(text: &str, standard: Option<bool>) -> Result<Vec<Scanned>, Unclear> {
    let (all, now) = (Vec::new(), None);
    let mut scanner = Scanner { text, standard, at: 0, depth: 0, atomic: 0, all, now };
    while scanner.at < text.len() {
        scanner.step()?;
    }
    scanner.close();
    Ok(scanner.all)
}

struct Scanner<'a> {
    text: &'a str,
    /// `standard_conforming_strings`, if it is known.
    standard: Option<bool>,
    at: usize,
    depth: u32,
    /// Within `BEGIN ATOMIC … END` and its `CASE … END`.
    atomic: u32,
    all: Vec<Scanned>,
    now: Option<Scanned>,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// One token, blank or comment.
    fn step(&mut self) -> Result<(), Unclear> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(()) };
        let second = rest[first.len_utf8()..].chars().next();
        match (first, second) {
            ('-', Some('-')) => {
                let len = rest.find(['\n', '\r']).unwrap_or(rest.len());
                self.blank(len);
            }
            ('/', Some('*')) => {
                let len = comment(rest)?;
                self.blank(len);
            }
            (blank, _) if blank.is_ascii_whitespace() || blank == '\u{b}' => {
                self.blank(first.len_utf8());
            }
            ('\'', _) => {
                let len = quoted(rest, '\'', self.standard == Some(false))?;
                // Where backslashes escape, it would end elsewhere.
                if self.standard.is_none() && rest[..len].contains('\\') {
                    return Err(Unclear);
                }
                let content = content(&rest[1..len - 1]);
                self.token(len, Token::Literal(content));
            }
            ('e' | 'E', Some('\'')) => {
                let len = 1 + quoted(&rest[1..], '\'', true)?;
                self.token(len, Token::Literal(Content::Data));
            }
            ('b' | 'B' | 'x' | 'X' | 'n' | 'N', Some('\'')) => {
                let len = 1 + quoted(&rest[1..], '\'', false)?;
                self.token(len, Token::Literal(Content::Data));
            }
            ('u' | 'U', Some('&')) if rest[2..].starts_with('\'') => {
                let len = 2 + quoted(&rest[2..], '\'', false)?;
                self.token(len, Token::Literal(Content::Data));
            }
            ('"', _) => {
                let len = quoted(rest, '"', false)?;
                let name = rest[..len].to_owned();
                self.token(len, Token::Name(name));
            }
            ('$', Some(c)) if c.is_ascii_digit() => {
                let len = 1 + rest[1..].bytes().take_while(u8::is_ascii_digit).count();
                self.token(len, Token::Other('$'));
            }
            ('$', _) => match dollar(rest)? {
                Some(len) => self.token(len, Token::Literal(Content::Data)),
                None => self.token(1, Token::Other('$')),
            },
            (';', _) if self.depth == 0 && self.atomic == 0 => {
                self.close();
                self.at += 1;
            }
            (c, _) if c.is_ascii_digit() => self.number(),
            (c, _) if c.is_alphabetic() || c == '_' || !c.is_ascii() => self.word(),
            (c, _) => {
                match c {
                    '(' | '[' => self.depth += 1,
                    ')' | ']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
                self.token(c.len_utf8(), Token::Other(c));
            }
        }
        Ok(())
    }

    fn number(&mut self) {
        let digit = |c: &char| c.is_ascii_alphanumeric() || *c == '.' || *c == '_';
        let number: String = self.rest().chars().take_while(digit).collect();
        self.token(number.len(), Token::Number(number));
    }

    fn word(&mut self) {
        let part = |c: &char| c.is_alphanumeric() || *c == '_' || *c == '$' || !c.is_ascii();
        let word: String = self.rest().chars().take_while(part).collect();
        let len = word.len();
        let word = word.to_ascii_uppercase();
        let begun = self.now.as_ref().and_then(|now| now.tokens.last());
        match word.as_str() {
            "ATOMIC" if matches!(begun, Some(Token::Word(b, _)) if b == "BEGIN") => self.atomic = 1,
            "CASE" if self.atomic > 0 => self.atomic += 1,
            "END" if self.atomic > 0 => self.atomic -= 1,
            _ => {}
        }
        let depth = self.depth + self.atomic;
        let concurrently = depth == 0
            && word == "CONCURRENTLY"
            && self.now.as_ref().is_some_and(|now| now.concurrently.is_none() && now.may_wait());
        let from = self.at;
        self.token(len, Token::Word(word, depth));
        if let Some(now) = self.now.as_mut().filter(|_| concurrently) {
            now.concurrently = Some(from..from + len);
        }
    }

    fn token(&mut self, len: usize, token: Token) {
        let (from, to) = (self.at, self.at + len);
        let now = self.now.get_or_insert_with(|| Scanned {
            range: from..to,
            bare: String::new(),
            concurrently: None,
            tokens: Vec::new(),
        });
        now.range.end = to;
        now.bare.push_str(&self.text[from..to]);
        now.tokens.push(token);
        self.at = to;
    }

    /// Blanks and comments: of both a blank remains, which may be the only thing between
    /// two words.
    fn blank(&mut self, len: usize) {
        if let Some(now) = &mut self.now {
            let lines = self.text[self.at..self.at + len].contains('\n');
            if !now.bare.ends_with([' ', '\n']) {
                now.bare.push(if lines { '\n' } else { ' ' });
            }
        }
        self.at += len;
    }

    fn close(&mut self) {
        self.depth = 0;
        if let Some(mut now) = self.now.take() {
            // No other blank: to the server they are part of names.
            now.bare.truncate(now.bare.trim_end_matches([' ', '\n']).len());
            self.all.push(now);
        }
    }
}

/// Whether a name could be somebody's address or number.
fn is_telling(name: &str) -> bool {
    name.bytes().filter(u8::is_ascii_digit).count() >= TELLING || name.contains('@')
}

fn content(text: &str) -> Content {
    match text {
        moment if is_moment(moment) => Content::Moment,
        // As long as PostgreSQL lets a label be.
        label if label.len() < 64 && !is_telling(label) => Content::Label,
        _ => Content::Data,
    }
}

/// Whether a text is a date as `2026-11-30`, or with a time as `2026-11-30 00:00:00.5+00`.
fn is_moment(text: &str) -> bool {
    let within = |part: Option<&str>, most: u32| {
        part.and_then(|part| part.parse().ok()).is_some_and(|n: u32| n <= most)
    };
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(time) = shape.strip_prefix("0000-00-00") else { return false };
    if !within(text.get(5..7), 12) || !within(text.get(8..10), 31) {
        return false;
    }
    let Some(time) = time.strip_prefix([' ', 'T']) else { return time.is_empty() };
    let Some(rest) = time.strip_prefix("00:00") else { return false };
    let rest = rest.strip_prefix(":00").unwrap_or(rest);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(more) => more.split_at(more.len() - more.trim_start_matches('0').len()),
        None => ("", rest),
    };
    fraction.len() <= 6 && ["", "Z", "+00", "-00", "+00:00", "-00:00"].contains(&rest)
}

/// Bytes of a nested comment at the beginning of `text`.
fn comment(text: &str) -> Result<usize, Unclear> {
    let (bytes, mut depth, mut at) = (text.as_bytes(), 0, 0);
    while let [a, b] = bytes.get(at..at + 2).ok_or(Unclear)? {
        match (a, b) {
            (b'/', b'*') => (depth, at) = (depth + 1, at + 2),
            (b'*', b'/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Ok(at);
        }
    }
    Err(Unclear)
}

/// Bytes of a quoted thing at the beginning of `text`.
fn quoted(text: &str, quote: char, escapes: bool) -> Result<usize, Unclear> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + 1);
        }
    }
    Err(Unclear)
}

/// Bytes of a dollar-quoted string at the beginning of `text`, if one begins there.
fn dollar(text: &str) -> Result<Option<usize>, Unclear> {
    let Some(end) = text[1..].find('$') else { return Ok(None) };
    let tag = &text[..end + 2];
    let name = &tag[1..tag.len() - 1];
    if !name.chars().all(|c| c.is_alphanumeric() || c == '_' || !c.is_ascii()) {
        return Ok(None);
    }
    let body = &text[tag.len()..];
    let close = body.find(tag).ok_or(Unclear)?;
    Ok(Some(tag.len() + close + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Scanned {
        let mut all = scan(text).unwrap();
        assert_eq!(all.len(), 1, "{text}: {all:?}");
        all.remove(0)
    }

    #[test]
    fn statements_end_at_semicolons_of_their_own() {
        let text = "a ';' b; c \";\" ; $x$;$x$ ; ; /* ; /* ; */ ; */ d (;) -- ;\n e;";
        let all = scan(text).unwrap();
        let found: Vec<&str> = all.iter().map(|s| &text[s.range.clone()]).collect();
        assert_eq!(found, ["a ';' b", "c \";\"", "$x$;$x$", "d (;) -- ;\n e"]);
        assert_eq!(all[3].bare, "d (;) e");
        let body = "create function f() begin atomic select case when x then 1 end; end; drop x";
        assert_eq!(scan(body).unwrap().len(), 2);
    }

    #[test]
    fn what_could_be_data_is_seen() {
        for text in [
            "a 'x'",
            "a E'x\\'y'",
            "a $$x$$",
            "a $t$x$t$",
            "a N'x'",
            "a B'01'",
            "a X'1F'",
            "a U&'x'",
            "a ''",
            "a 4111111111111111",
            "a 555.1234",
            "a 0xDEADBEEF",
            "a 1_234_567",
            "a \"ada@example.com\"",
            "a \"+44 20 7946 0018\"",
            "a U&\"x@y\"",
        ] {
            assert!(one(text).has_literal(), "{text}");
        }
        for text in [
            "a varchar(120)",
            "a numeric(12,2)",
            "a -- 'x'",
            "a /* 'x' */",
            "a \"x'y\"",
            "a \"events 2026-11\"",
            "a 2147483647",
            "a 9223372036854775807",
            "a default 42",
            "a$1",
            "a $1",
        ] {
            assert!(!one(text).has_literal(), "{text}");
        }
    }

    #[test]
    fn dates_of_bounds_and_labels_are_structure() {
        for text in [
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM ('2026-12-01') TO ('2027-01-01')",
            "ALTER TABLE ledger ATTACH PARTITION m FOR VALUES FROM ('2026-12-01 00:00:00+00', 5) \
             TO (DATE '2027-01-01', MAXVALUE)",
            "CREATE TABLE IF NOT EXISTS m PARTITION OF ledger FOR VALUES FROM ('2026-12-01T00:00Z') \
             TO ('2026-12-01 12:00:00.25-07:30'::timestamptz) PARTITION BY LIST (kind)",
            "CREATE TYPE a.mood AS ENUM ('fine', 'very sad')",
            "CREATE TYPE a.mood AS ENUM ()",
            "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'so-so' BEFORE 'very sad'",
            "ALTER TYPE \"mood\" RENAME VALUE 'fine' TO 'good'",
        ] {
            assert!(!one(text).has_literal(), "{text}");
        }
        for text in [
            "CREATE TABLE m PARTITION OF ledger FOR VALUES IN ('ada')",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM ('ada') TO ('bob')",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM ('2026-12-01 ada') TO (MAXVALUE)",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM ('2026-99-01') TO (MAXVALUE)",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM ('2026-12-01 00:00+1234567') TO (MAXVALUE)",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM ('2026-12-01 00:00:00.4111111') TO (MAXVALUE)",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM (E'2026-12-01') TO (MAXVALUE)",
            "CREATE TABLE m PARTITION OF ledger FOR VALUES FROM (4111111111111111) TO (MAXVALUE)",
            "CREATE TABLE m PARTITION OF ledger (CHECK (born > '1979-03-02')) FOR VALUES FROM \
             ('2026-12-01') TO ('2027-01-01')",
            "CREATE TABLE t (born date DEFAULT '1979-03-02')",
            "ALTER TABLE t ADD born date DEFAULT '1979-03-02'",
            "CREATE INDEX i ON t (x) WHERE born = '1979-03-02'",
            "CREATE TYPE mood AS ENUM ('ada@example.com')",
            "CREATE TYPE mood AS ENUM ('+44 20 7946 0018')",
            "CREATE TYPE mood AS ENUM ('1979-03-02')",
            "ALTER TYPE mood ADD VALUE E'fine'",
            "CREATE TYPE r AS RANGE (subtype = text, collation = 'ada')",
            "ALTER TABLE t ADD value text DEFAULT 'ada'",
        ] {
            assert!(one(text).has_literal(), "{text}");
        }
    }

    #[test]
    fn comments_leave_and_keep_words_apart() {
        assert_eq!(one("a/* ada@example.com */b -- x").bare, "a b");
        assert_eq!(one("--x\na\n--y\n b").bare, "a\nb");
        // Of these blanks the server makes names.
        assert_eq!(one("drop table a\u{a0} ").bare, "drop table a\u{a0}");
        assert_eq!(one("\u{85}").bare, "\u{85}");
    }

    #[test]
    fn what_cannot_be_told_is_unclear() {
        for text in ["a 'x", "a \"x", "a $$x", "/* a", "a 'x\\'", "/* /* */"] {
            assert_eq!(scan(text), Err(Unclear), "{text}");
        }
        assert_eq!(scan(" ;; -- nothing"), Ok(vec![]));
    }

    #[test]
    fn tags_are_found_by_their_words() {
        for (text, tag) in [
            ("create unlogged table t ()", "CREATE TABLE"),
            ("Create Or Replace View v", "CREATE VIEW"),
            ("create unique index concurrently i", "CREATE INDEX"),
            ("drop index concurrently i", "DROP INDEX"),
            ("create materialized view m as select 1", "CREATE MATERIALIZED VIEW"),
            ("with x as (select 1) select * into t from x", "SELECT INTO"),
            ("create table t(a) as select 1", "CREATE TABLE AS"),
            ("create table t as execute q", "CREATE TABLE AS"),
        ] {
            assert!(one(text).has_tag(tag), "{text}");
        }
        let generated = one("create table t (a int generated always as (1) stored)");
        assert!(generated.has_tag("CREATE TABLE") && !generated.is_query());
        assert!(!one("insert into t select 1").has_tag("SELECT INTO"));
        assert!(!one("create function f() returns table (a int) as x").is_query());
        assert!(!one("create view v as select 1").has_tag("CREATE MATERIALIZED VIEW"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in ".{0,60}", odd in "[a'\"$;/*\\-()\\\\ xE0é]{0,40}") {
            for text in [text, odd] {
                if let Ok(all) = scan(&text) {
                    for one in all {
                        prop_assert!(!text[one.range.clone()].is_empty());
                        let again = scan(&one.bare).unwrap();
                        prop_assert_eq!(again.len(), 1);
                        prop_assert_eq!(one.has_literal(), again[0].has_literal());
                    }
                }
            }
        }
    }
}
