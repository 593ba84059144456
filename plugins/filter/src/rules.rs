//! The rules of a binding, read before any table is known.
//!
//! A rule is the word `drop` or `keep`, or a table with `keep` or `drop` (a condition),
//! `drop_ops` and `insert_only`. A condition is a table; a text is kept free for
//! expressions, and refused. What is wrong names its rule.

use std::collections::BTreeMap;

use kasho_plugin_sdk::pattern::TablePattern;
use kasho_plugin_sdk::{Error, Op, Result, Setup};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::condition::{Condition, Test};

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
    Where(Condition),
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
                _ => return Err(Error::new("a rule is \"drop\", \"keep\" or a table")),
            };
            return Ok(Rule { pattern, action, drop_ops: Vec::new() });
        }
        written => serde_json::from_value(written).map_err(|e| Error::new(e.to_string()))?,
    };
    if let Some(op) = options.drop_ops.iter().find(|op| matches!(op, Op::Ddl | Op::Message)) {
        return Err(Error::new(format!("`drop_ops`: {} is not of a table", op.name())));
    }
    let action = match (options.keep, options.drop) {
        (None, None) => Action::Keep,
        (Some(keep), None) => Action::Where(condition(cx, &pattern, keep)?),
        // A row goes unless the condition is true: where it is unknown the row stays.
        (None, Some(drop)) => {
            Action::Where(Condition::NotTrue(Box::new(condition(cx, &pattern, drop)?)))
        }
        (Some(_), Some(_)) => {
            return Err(Error::new("either `keep` or `drop`; join conditions by `all` and `any`"));
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

fn condition(cx: &mut Setup<'_>, table: &TablePattern, written: Json) -> Result<Condition> {
    if written.is_string() {
        return Err(Error::new(
            "expressions are not there yet: write { column = \"…\", in = [\"…\"] }",
        ));
    }
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
            "a condition is one of: column with equals, in, not_in or is_null; all; any; not",
        ));
    }
    let mut list = |conditions: Vec<Json>| -> Result<Vec<Condition>> {
        if conditions.is_empty() {
            return Err(Error::new("`all` and `any` need a condition at least"));
        }
        conditions.into_iter().map(|c| condition(cx, table, c)).collect()
    };
    if let Some(all) = w.all {
        return Ok(Condition::All(list(all)?));
    }
    if let Some(any) = w.any {
        return Ok(Condition::Any(list(any)?));
    }
    if let Some(not) = w.not {
        return Ok(Condition::Not(Box::new(condition(cx, table, not)?)));
    }
    let column = w.column.unwrap_or_default();
    let col = cx.read(&format!("{table}.\"{}\"", column.replace('"', "\"\"")))?;
    let test = |values| Test::new(col, column.clone(), values);
    Ok(if let Some(null) = w.is_null {
        let is_null = Condition::IsNull(test(Vec::new()));
        if null { is_null } else { Condition::Not(Box::new(is_null)) }
    } else if let Some(values) = w.not_in {
        Condition::Not(Box::new(Condition::In(test(texts(values)?))))
    } else {
        let values = w.r#in.or_else(|| w.equals.map(|value| vec![value]));
        Condition::In(test(texts(values.unwrap_or_default())?))
    })
}

/// Values as PostgreSQL prints them.
fn texts(values: Vec<Json>) -> Result<Vec<String>> {
    let text = |value| match value {
        Json::String(text) => Ok(text),
        Json::Number(number) => Ok(number.to_string()),
        Json::Bool(true) => Ok("t".to_owned()),
        Json::Bool(false) => Ok("f".to_owned()),
        Json::Null => Err(Error::new("nothing equals NULL: use `is_null`")),
        Json::Array(_) | Json::Object(_) => Err(Error::new("a value is a text, number or boolean")),
    };
    values.into_iter().map(text).collect()
}
