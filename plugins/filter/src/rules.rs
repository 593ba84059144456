//! The rules of a binding, read before any table is known.
//!
//! A rule is the word `drop` or `keep`, or a table with `keep` or `drop` (a condition),
//! `drop_ops` and `insert_only`. A condition is an expression, or the same as tables. What
//! is wrong names its rule.

use std::collections::BTreeMap;

use kasho_plugin_sdk::pattern::TablePattern;
use kasho_plugin_sdk::{Col, Error, Op, Result, Setup};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::expression::{Ask, Cmp, Column, Expr, Literal, parse};

/// Version of what conditions mean, for fingerprints.
const VERSION: u32 = 1;

/// What becomes of a table's rows, besides `drop_ops`.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// None goes on, TRUNCATE neither.
    Drop,
    /// All go on.
    Keep,
    /// Those go on for which this is true.
    Where(Expr),
}

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Its tables.
    pub(crate) pattern: TablePattern,
    /// What becomes of their rows.
    pub(crate) action: Action,
    /// Operations that never go on.
    pub(crate) drop_ops: Vec<Op>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    keep: Option<Json>,
    drop: Option<Json>,
    #[serde(default)]
    drop_ops: Vec<Op>,
    #[serde(default)]
    insert_only: bool,
}

/// Reads all rules and declares their tables and columns.
///
/// # Errors
/// What is wrong with the first that is wrong.
pub(crate) fn read(cx: &mut Setup<'_>) -> Result<Vec<Rule>> {
    let rules: BTreeMap<String, Json> = cx.rules()?;
    rules
        .into_iter()
        .map(|(table, written)| {
            let mut fingerprint = format!("filter/{VERSION};{written}");
            let rule = rule(cx, &table, written).map_err(|e| e.at(&table))?;
            if matches!(rule.action, Action::Keep) && rule.drop_ops.is_empty() {
                // It removes nothing, so to lose it is to loosen nothing.
                fingerprint.clear();
            }
            cx.filter(&table, fingerprint)?;
            Ok(rule)
        })
        .collect()
}

fn rule(cx: &mut Setup<'_>, table: &str, written: Json) -> Result<Rule> {
    let pattern = TablePattern::parse(table)?;
    let options: Options = match written {
        Json::String(word) => {
            let action = match word.as_str() {
                "drop" => Action::Drop,
                "keep" => Action::Keep,
                _ => {
                    return Err(Error::new(
                        "a rule is \"drop\", \"keep\" or a table, such as { keep = 'id > 100' }",
                    ));
                }
            };
            return Ok(Rule { pattern, action, drop_ops: Vec::new() });
        }
        written => serde_json::from_value(written).map_err(|e| Error::new(e.to_string()))?,
    };
    if let Some(op) = options.drop_ops.iter().find(|op| matches!(op, Op::Ddl | Op::Message)) {
        return Err(Error::new(format!(
            "`drop_ops`: {} is not of a table: take it out",
            op.name()
        )));
    }
    let action = match (options.keep, options.drop) {
        (None, None) => Action::Keep,
        (Some(keep), None) => Action::Where(condition(cx, &pattern, keep, "keep")?),
        // A row goes unless the condition is true: where it is unknown the row stays.
        (None, Some(drop)) => {
            Action::Where(Expr::NotTrue(Box::new(condition(cx, &pattern, drop, "drop")?)))
        }
        (Some(_), Some(_)) => {
            return Err(Error::new("either `keep` or `drop`; join conditions by && and ||"));
        }
    };
    let mut drop_ops = options.drop_ops;
    if options.insert_only {
        drop_ops.extend([Op::Update, Op::Delete, Op::Truncate]);
    }
    if matches!(action, Action::Keep) && drop_ops.is_empty() {
        return Err(Error::new("the rule does nothing: say `keep`, `drop` or `drop_ops`"));
    }
    Ok(Rule { pattern, action, drop_ops })
}

/// Declares a column of a rule's tables.
fn declare(cx: &mut Setup<'_>, table: &TablePattern, column: &str) -> Result<Col> {
    cx.read(&format!("{table}.\"{}\"", column.replace('"', "\"\"")))
}

/// A condition: an expression if it is a text.
fn condition(cx: &mut Setup<'_>, table: &TablePattern, written: Json, key: &str) -> Result<Expr> {
    match written {
        Json::String(text) => {
            let mut known = BTreeMap::new();
            let mut column = |name: &str| match known.get(name) {
                Some(col) => Ok(*col),
                None => {
                    let col = declare(cx, table, name)?;
                    known.insert(name.to_owned(), col);
                    Ok(col)
                }
            };
            parse(&text, &mut column).map_err(|e| Error::new(format!("`{key}`, {e}")))
        }
        written => tables(cx, table, written),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    column: Option<String>,
    equals: Option<Json>,
    r#in: Option<Vec<Json>>,
    not_in: Option<Vec<Json>>,
    is_null: Option<bool>,
    all: Option<Vec<Json>>,
    any: Option<Vec<Json>>,
    not: Option<Json>,
}

/// A condition as tables.
fn tables(cx: &mut Setup<'_>, table: &TablePattern, written: Json) -> Result<Expr> {
    let w: Written = serde_json::from_value(written).map_err(|e| Error::new(e.to_string()))?;
    let kinds = [
        w.equals.is_some(),
        w.r#in.is_some(),
        w.not_in.is_some(),
        w.is_null.is_some(),
        w.all.is_some(),
        w.any.is_some(),
        w.not.is_some(),
    ];
    let of_column = kinds[..4].contains(&true);
    if kinds.iter().filter(|kind| **kind).count() != 1 || of_column != w.column.is_some() {
        return Err(Error::new(
            "a condition is an expression, or one of: column with equals, in, not_in or is_null; \
             all; any; not",
        ));
    }
    let mut list = |conditions: Vec<Json>| -> Result<Vec<Expr>> {
        if conditions.is_empty() {
            return Err(Error::new("`all` and `any` need a condition at least"));
        }
        conditions.into_iter().map(|c| condition(cx, table, c, "condition")).collect()
    };
    if let Some(all) = w.all {
        return Ok(Expr::All(list(all)?));
    }
    if let Some(any) = w.any {
        return Ok(Expr::Any(list(any)?));
    }
    if let Some(not) = w.not {
        return Ok(condition(cx, table, not, "not")?.not());
    }
    let name = w.column.unwrap_or_default();
    let col = declare(cx, table, &name)?;
    let test = |ask| Expr::Column(Column { col, name: name.clone() }, ask);
    Ok(if let Some(null) = w.is_null {
        let is_null = test(Ask::Null);
        if null { is_null } else { is_null.not() }
    } else if let Some(values) = w.not_in {
        test(Ask::In(texts(values)?)).not()
    } else if let Some(value) = w.equals {
        test(Ask::Compare(Cmp::Eq, text(value)?))
    } else {
        test(Ask::In(texts(w.r#in.unwrap_or_default())?))
    })
}

/// Values as PostgreSQL prints them.
fn texts(values: Vec<Json>) -> Result<Vec<Literal>> {
    values.into_iter().map(text).collect()
}

fn text(value: Json) -> Result<Literal> {
    Ok(Literal::Loose(match value {
        Json::String(text) => text,
        Json::Number(number) => number.to_string(),
        Json::Bool(true) => "t".to_owned(),
        Json::Bool(false) => "f".to_owned(),
        Json::Null => return Err(Error::new("nothing equals NULL: use `is_null`")),
        Json::Array(_) | Json::Object(_) => {
            return Err(Error::new("a value is a text, number or boolean"));
        }
    }))
}
