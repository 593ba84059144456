//! The `tokenize` plugin: tokens in place of values, which whoever has the masking key can
//! turn back.
//!
//! ```toml
//! [transform.rules]
//! "public.users.email"  = { transform = "tokenize", domain = "email", prefix = "tok_" }
//! "crm.leads.email"     = { transform = "tokenize", domain = "email", prefix = "tok_" }
//! "public.users.note"   = "tokenize"
//! "public.users.id"     = "pass"
//! ```
//!
//! The same value has the same token in every column of a domain, so tokens join as values
//! do; that also means that whoever sees them can count. What a token is made of is told in
//! `token.rs`. A column that cannot hold any token is refused when the table is met; a row
//! is in error only if its own token is too long for the column.

mod token;

use std::collections::BTreeMap;

use kasho_plugin_sdk::pattern::ColumnPattern;
use kasho_plugin_sdk::{
    Batch, Col, Column, Domain, Error, Plugin, Reason, Result, Setup, Table, export_plugin,
    metadata,
};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::token::{BLOCK, Encoding, Work, siv_domain, stream_domain};

/// Version of what a token is, for fingerprints.
const VERSION: u32 = 1;

/// A column that is tokenized.
struct Tokenized {
    col: Col,
    siv: Domain,
    stream: Domain,
    encoding: Encoding,
    prefix: String,
    domain: String,
    /// The column as its rule names it.
    rule: String,
}

/// The plugin.
pub struct Tokenize {
    columns: Vec<Tokenized>,
    too_long: Reason,
    /// By relation: the columns that it has, each with the most characters that it takes.
    tables: BTreeMap<u32, Vec<(usize, Option<usize>)>>,
    work: Work,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    transform: String,
    domain: Option<String>,
    prefix: Option<String>,
    encoding: Option<Encoding>,
}

impl Plugin for Tokenize {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let too_long = cx.reason(
            "the token is longer than the column: keep only short values in it, or make it text",
        );
        let rules: BTreeMap<String, Json> = cx.rules()?;
        let mut columns: Vec<Tokenized> = Vec::new();
        for (column, written) in rules {
            let Some(read) = rule(cx, &column, written).map_err(|e| e.at(&column))? else {
                continue;
            };
            agrees(&read, &columns).map_err(|e| e.at(&column))?;
            columns.push(read);
        }
        Ok(Tokenize { columns, too_long, tables: BTreeMap::new(), work: Work::default() })
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        let mut here = Vec::new();
        for (at, tokenized) in self.columns.iter().enumerate() {
            let Some(column) = table.column_of(tokenized.col) else { continue };
            let limit = tokenized
                .limit(column)
                .map_err(|e| e.at(format!("{}.{}", table.qualified(), column.name)))?;
            here.push((at, limit));
        }
        self.tables.insert(table.id, here);
        Ok(())
    }

    fn batch(&mut self, batch: &mut Batch<'_>) {
        let here = self.tables.get(&batch.table().id).map_or(&[][..], Vec::as_slice);
        for (at, limit) in here {
            let tokenized = &self.columns[*at];
            let (work, too_long) = (&mut self.work, self.too_long);
            batch.rewrite_hashed(tokenized.col, tokenized.siv, |value, siv, out| {
                if limit.is_some_and(|limit| tokenized.length(value.len()) > limit) {
                    return Err(too_long);
                }
                out.push_str(&tokenized.prefix);
                work.token(value, siv, tokenized.stream, tokenized.encoding, out);
                Ok(())
            });
        }
    }
}

/// Reads one rule and declares its column.
fn rule(cx: &mut Setup<'_>, column: &str, written: Json) -> Result<Option<Tokenized>> {
    let options: Options = match written {
        Json::String(transform) => {
            Options { transform, domain: None, prefix: None, encoding: None }
        }
        written => serde_json::from_value(written).map_err(|e| Error::new(e.to_string()))?,
    };
    match options.transform.as_str() {
        "tokenize" => {}
        word @ ("pass" | "drop") => {
            let none = options.domain.is_none() && options.prefix.is_none();
            if !none || options.encoding.is_some() {
                return Err(Error::new(format!("`{word}` has no options: write \"{word}\" alone")));
            }
            match word {
                "pass" => cx.pass(column)?,
                _ => cx.drop(column)?,
            }
            return Ok(None);
        }
        other => {
            return Err(Error::new(format!(
                "there is no transform `{other}`: there are tokenize, pass and drop"
            )));
        }
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let (prefix, encoding) =
        (options.prefix.unwrap_or_default(), options.encoding.unwrap_or_default());
    if !prefix.chars().all(fine) || prefix.len() > 32 {
        return Err(Error::new("`prefix` is at most 32 of A-Z, a-z, 0-9, `_`, `-`, `.` and `:`"));
    }
    let own = || ColumnPattern::parse(column).map(|pattern| pattern.column.text().to_owned());
    let domain = options.domain.map_or_else(own, Ok)?;
    if domain.is_empty() || domain.len() > 100 || domain.chars().any(char::is_control) {
        return Err(Error::new("`domain` is a name of at most 100 bytes"));
    }
    let col = cx.mask(column)?;
    let name = encoding.name();
    let how = format!("tokenize/{VERSION};domain={domain};encoding={name};prefix={prefix}");
    cx.fingerprint(col, how);
    let (siv, stream) = (cx.domain(&siv_domain(&domain)), cx.domain(&stream_domain(&domain)));
    Ok(Some(Tokenized { col, siv, stream, encoding, prefix, domain, rule: column.to_owned() }))
}

/// Whether a rule writes tokens as the first of its domain does: otherwise the same value
/// would have two.
fn agrees(tokenized: &Tokenized, others: &[Tokenized]) -> Result<()> {
    let Some(first) = others.iter().find(|other| other.domain == tokenized.domain) else {
        return Ok(());
    };
    let how =
        |t: &Tokenized| format!("prefix = \"{}\", encoding = \"{}\"", t.prefix, t.encoding.name());
    if how(first) == how(tokenized) {
        return Ok(());
    }
    Err(Error::new(format!(
        "domain {} has {} here, and {} in {}: give both rules the same, or this one another \
         `domain`; one value would have two tokens, which do not join",
        tokenized.domain,
        how(tokenized),
        how(first),
        first.rule
    )))
}

impl Tokenized {
    /// Characters of the token of a value of so many bytes.
    fn length(&self, bytes: usize) -> usize {
        self.prefix.len() + self.encoding.length(BLOCK + bytes)
    }

    /// The most characters that the column takes, if there is a most.
    fn limit(&self, column: &Column) -> Result<Option<usize>> {
        let refused = |why: String| Err(Error::new(why));
        match column.base.as_str() {
            "text" | "varchar" => {}
            "citext" | "bpchar" => {
                return refused(format!(
                    "values of {} can be equal and have two tokens, so they would no longer join: \
                     make the column text, or mask it otherwise",
                    column.type_name
                ));
            }
            _ => {
                return refused(format!(
                    "a token is text, which {} does not hold: make the column text, or mask it \
                     otherwise",
                    column.type_name
                ));
            }
        }
        let limit = usize::try_from(column.typmod - 4).ok().filter(|_| column.base == "varchar");
        let least = self.length(1);
        match limit.filter(|limit| *limit < least) {
            None => Ok(limit),
            Some(limit) => refused(format!(
                "a token has {least} characters at least, and {} holds {limit}: make it longer, or \
                 mask it otherwise",
                column.type_name
            )),
        }
    }
}

metadata!("../plugin.json");
export_plugin!(Tokenize);
