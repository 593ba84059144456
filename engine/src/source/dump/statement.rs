//! What a complete statement of a dump is: data, settings, sequences, large objects,
//! schema. A pure function of its text.
//!
//! What is not recognised is [`Statement::Unknown`] with its leading key words, which
//! never hold a value.

use super::token::{Token, Tokens};
use crate::quote::identifier;

/// A table as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Unquoted; none: the search path's.
    pub(super) schema: Option<String>,
    /// Unquoted.
    pub(super) name: String,
    /// The columns named, none: all of them.
    pub(super) columns: Option<Vec<String>>,
}

/// A statement that was understood, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `COPY … FROM stdin`; rows follow.
    Copy(Named),
    /// The same with options, in another format: rows follow, and cannot be read.
    CopyOptions,
    /// `SET name = value`, and `set_config`; the value as text.
    Set { name: String, value: String },
    /// `setval`.
    Sequence { schema: Option<String>, name: String, value: i64, is_called: bool },
    /// A part of a large object; `opened`: of one more of them.
    LargeObject { opened: bool },
    /// Planner statistics (18 and later): nothing that a copy needs.
    Statistics,
    /// `BEGIN`, `COMMIT` and the like.
    Transaction,
    /// Schema, with its command tag.
    Ddl { tag: String },
    /// `INSERT INTO … DEFAULT VALUES`: a row without columns.
    Empty(Named),
    /// Anything else, by its leading key words.
    Unknown { kind: String },
}

/// Says what `text`, a whole statement, is.
pub(super) fn classify(text: &[u8]) -> Statement {
    let mut tokens = Tokens::new(text);
    let Some(Token::Word(first)) = tokens.next() else { return unknown(text) };
    let first = String::from_utf8_lossy(first).to_ascii_uppercase();
    let found = match first.as_str() {
        "COPY" => copy(&mut tokens),
        "INSERT" => empty(&mut tokens),
        "SET" => set(&mut tokens),
        "SELECT" => select(&mut tokens),
        "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => {
            Some(Statement::Transaction)
        }
        "ALTER" | "COMMENT" | "GRANT" | "REVOKE" if of_large_object(&tokens) => {
            Some(Statement::LargeObject { opened: false })
        }
        "CREATE" | "ALTER" | "DROP" | "COMMENT" | "GRANT" | "REVOKE" | "SECURITY" | "REFRESH"
        | "IMPORT" | "REASSIGN" => Some(Statement::Ddl { tag: tag(&first, &mut tokens) }),
        _ => None,
    };
    found.unwrap_or_else(|| unknown(text))
}

/// The table of an `INSERT` up to `VALUES`.
pub(super) fn insert_head(text: &[u8]) -> Option<Named> {
    let mut tokens = Tokens::new(text);
    if !(tokens.word("insert") && tokens.word("into")) {
        return None;
    }
    let named = named(&mut tokens)?;
    if tokens.word("overriding") {
        tokens.next();
        tokens.word("value");
    }
    tokens.word("values").then_some(named)
}

/// The rest of `INSERT INTO t DEFAULT VALUES`.
fn empty(tokens: &mut Tokens<'_>) -> Option<Statement> {
    let named = tokens.word("into").then(|| named(tokens))??;
    let whole = tokens.word("default") && tokens.word("values") && tail(tokens);
    whole.then_some(Statement::Empty(Named { columns: Some(Vec::new()), ..named }))
}

/// Whether what follows the rows is nothing, or `ON CONFLICT DO NOTHING`.
pub(super) fn insert_tail(text: &[u8]) -> bool {
    tail(&mut Tokens::new(text))
}

fn tail(tokens: &mut Tokens<'_>) -> bool {
    if tokens.word("on") {
        let words = ["conflict", "do", "nothing"];
        if !words.into_iter().all(|word| tokens.word(word)) {
            return false;
        }
    }
    tokens.mark(b';') && tokens.next().is_none()
}

fn named(tokens: &mut Tokens<'_>) -> Option<Named> {
    let (schema, name) = tokens.qualified()?;
    let mut columns = None;
    if tokens.mark(b'(') {
        let mut names = Vec::new();
        while !tokens.mark(b')') {
            if !names.is_empty() && !tokens.mark(b',') {
                return None;
            }
            names.push(tokens.name()?);
        }
        columns = Some(names);
    }
    Some(Named { schema, name, columns })
}

fn copy(tokens: &mut Tokens<'_>) -> Option<Statement> {
    tokens.word("only");
    let named = named(tokens)?;
    if !(tokens.word("from") && tokens.word("stdin")) {
        return None;
    }
    Some(match tokens.mark(b';') && tokens.next().is_none() {
        true => Statement::Copy(named),
        false => Statement::CopyOptions,
    })
}

fn set(tokens: &mut Tokens<'_>) -> Option<Statement> {
    if !tokens.word("session") {
        tokens.word("local");
    }
    let (mut name, mut value) = (tokens.name()?, String::new());
    if name == "time" && tokens.word("zone") {
        name = "timezone".to_owned();
    } else if name == "names" {
        name = "client_encoding".to_owned();
    } else if !(tokens.word("to") || tokens.mark(b'=')) {
        // SET SESSION AUTHORIZATION, SET ROLE, SET CONSTRAINTS: no value depends on them.
        return Some(Statement::Set { name, value });
    }
    for token in tokens.take_while(|token| *token != Token::Mark(b';')) {
        match token {
            Token::Word(text) | Token::Number(text) => value.push_str(&lossy(text)),
            Token::Name(name) => {
                value.push_str(&identifier(&lossy(&name)));
            }
            Token::Text(text) => value.push_str(&lossy(&text)),
            Token::Mark(mark) => value.push(char::from(mark)),
        }
    }
    Some(Statement::Set { name, value })
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn select(tokens: &mut Tokens<'_>) -> Option<Statement> {
    let mut ahead = tokens.clone();
    if ahead.mark(b'*') && ahead.word("from") {
        *tokens = ahead;
    }
    let (schema, function) = tokens.qualified()?;
    if schema.is_some_and(|schema| schema != "pg_catalog") || !tokens.mark(b'(') {
        return None;
    }
    match function.as_str() {
        "set_config" => set_config(tokens),
        "setval" => setval(tokens),
        "lo_create" | "lo_close" | "lowrite" | "lo_unlink" | "lo_from_bytea" | "lo_put" => {
            Some(Statement::LargeObject { opened: false })
        }
        "lo_open" => Some(Statement::LargeObject { opened: true }),
        "pg_restore_relation_stats" | "pg_restore_attribute_stats" => Some(Statement::Statistics),
        _ => None,
    }
}

fn set_config(tokens: &mut Tokens<'_>) -> Option<Statement> {
    let Some(Token::Text(name)) = tokens.next() else { return None };
    let value = match (tokens.mark(b','), tokens.next()) {
        (true, Some(Token::Text(value))) => value,
        _ => return None,
    };
    Some(Statement::Set { name: lossy(&name).to_ascii_lowercase(), value: lossy(&value) })
}

/// `setval('schema.name', value, is_called)`.
fn setval(tokens: &mut Tokens<'_>) -> Option<Statement> {
    let Some(Token::Text(sequence)) = tokens.next() else { return None };
    if !tokens.mark(b',') {
        return None;
    }
    let negative = tokens.mark(b'-');
    let Some(Token::Number(digits)) = tokens.next() else { return None };
    let sign = if negative { "-" } else { "" };
    let value = format!("{sign}{}", lossy(digits)).parse().ok()?;
    let is_called = !tokens.mark(b',') || tokens.word("true");
    let mut name = Tokens::new(&sequence);
    let (schema, name) = name.qualified().filter(|_| name.next().is_none())?;
    Some(Statement::Sequence { schema, name, value, is_called })
}

fn of_large_object(tokens: &Tokens<'_>) -> bool {
    // ALTER LARGE OBJECT …, COMMENT ON LARGE OBJECT …, GRANT ALL ON LARGE OBJECT ….
    let words: Vec<Token<'_>> = tokens.clone().take(6).collect();
    words.windows(2).any(|pair| pair[0].is("large") && pair[1].is("object"))
}

/// The command tag: the verb and what it is about, without modifiers.
fn tag(verb: &str, tokens: &mut Tokens<'_>) -> String {
    const MODIFIERS: [&str; 11] = [
        "OR",
        "REPLACE",
        "GLOBAL",
        "LOCAL",
        "TEMPORARY",
        "TEMP",
        "UNLOGGED",
        "UNIQUE",
        "TRUSTED",
        "PROCEDURAL",
        "RECURSIVE",
    ];
    // What is named by more than one word, by the first of them.
    const LONG: [(&str, usize); 9] = [
        ("MATERIALIZED", 2),
        ("FOREIGN", 2),
        ("ACCESS", 2),
        ("EVENT", 2),
        ("DEFAULT", 2),
        ("USER", 2),
        ("TEXT", 3),
        ("OPERATOR", 2),
        ("LARGE", 2),
    ];
    match verb {
        "COMMENT" | "GRANT" | "REVOKE" => return verb.to_owned(),
        "SECURITY" => return "SECURITY LABEL".to_owned(),
        _ => {}
    }
    let words = tokens.map_while(|token| match token {
        Token::Word(word) => Some(lossy(word).to_ascii_uppercase()),
        _ => None,
    });
    let words: Vec<String> =
        words.filter(|word| !MODIFIERS.contains(&word.as_str())).take(3).collect();
    let first = words.first().map_or("", String::as_str);
    let long = LONG.iter().find(|(word, _)| *word == first).map_or(1, |(_, n)| *n);
    let long = match (first, words.get(1).map_or("", String::as_str)) {
        // FOREIGN DATA WRAPPER, but FOREIGN TABLE; OPERATOR CLASS, but OPERATOR.
        ("FOREIGN", "DATA") => 3,
        ("OPERATOR", "CLASS" | "FAMILY") | ("USER", "MAPPING") => 2,
        ("OPERATOR" | "USER", _) => 1,
        ("CONSTRAINT", "TRIGGER") => return format!("{verb} TRIGGER"),
        _ => long,
    };
    let name = words.iter().take(long).map(String::as_str).collect::<Vec<_>>().join(" ");
    format!("{verb} {name}").trim_end().to_owned()
}

/// Words that may be told: what stands at the beginning of an SQL statement. Others may
/// be a row's, where the text is not what it seems.
const TELLABLE: [&str; 36] = [
    "ABORT",
    "ANALYZE",
    "CALL",
    "CHECKPOINT",
    "CLOSE",
    "CLUSTER",
    "COPY",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DISCARD",
    "DO",
    "EXECUTE",
    "EXPLAIN",
    "FETCH",
    "FROM",
    "INSERT",
    "INTO",
    "LISTEN",
    "LOAD",
    "LOCK",
    "MERGE",
    "MOVE",
    "NOTIFY",
    "PREPARE",
    "REINDEX",
    "RESET",
    "SELECT",
    "SET",
    "SHOW",
    "TABLE",
    "TRUNCATE",
    "UNLISTEN",
    "UPDATE",
    "VACUUM",
    "WITH",
];

/// By the leading key words.
fn unknown(text: &[u8]) -> Statement {
    let words = Tokens::new(text).map_while(|token| match token {
        Token::Word(word) => {
            TELLABLE.into_iter().find(|known| word.eq_ignore_ascii_case(known.as_bytes()))
        }
        _ => None,
    });
    let mut kind = words.take(2).collect::<Vec<_>>().join(" ");
    if kind.is_empty() {
        kind.push_str("something that is no statement");
    }
    Statement::Unknown { kind }
}

#[cfg(test)]
mod tests;
