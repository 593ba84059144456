//! Whether a rule can hold for a column: asked when a table is announced.
//!
//! Whatever would fail at the target, or would not be told apart there, is refused here:
//! a type the transform cannot write, a fake that may be too long, NULL where it may not
//! be, fakes that are equal where values differ. Each refusal names the way on.

use kasho_plugin_sdk::{Column, Error, Identity, Normaliser, Result, Table};

use crate::fake::PLAIN_PHONE;
use crate::rules::{Otherwise, Rule, Transform};

/// Fewest hexadecimal digits (80 bits) that count as unique.
const UNIQUE_DIGITS: usize = 20;

/// Checks a rule against a column; gives the most characters its text may have.
pub(crate) fn check(rule: &Rule, column: &Column, table: &Table<'_>) -> Result<Option<usize>> {
    if matches!(rule.transform, Transform::Pass) {
        return Ok(None);
    }
    types(rule, column)?;
    nulls(rule, column)?;
    // Under FULL every column is part of the identity, and none of them alone identifies.
    let identifies = column.unique || (column.key && table.identity != Identity::Full);
    if identifies {
        unique(rule, column)?;
    }
    let limit = limit(column);
    if let (Some(limit), Some(longest)) = (limit, longest(rule))
        && longest > limit
    {
        return Err(Error::new(format!(
            "`{}` can be {longest} characters long, but {} holds {limit}: {}",
            rule.name,
            shown(column),
            "use `hash` with a `length` that fits, `mask` or `null`"
        )));
    }
    Ok(limit)
}

fn shown(column: &Column) -> String {
    if column.type_name == column.base {
        column.type_name.clone()
    } else {
        format!("{} (a domain over {})", column.type_name, column.base)
    }
}

fn is_text(column: &Column) -> bool {
    matches!(column.base.as_str(), "text" | "varchar" | "bpchar" | "citext" | "name")
}

fn types(rule: &Rule, column: &Column) -> Result<()> {
    let fits = match &rule.transform {
        Transform::Pass | Transform::Null => true,
        Transform::Constant(value) => return constant(value, column),
        Transform::Hash(32) if column.base == "uuid" => true,
        _ => is_text(column),
    };
    if fits {
        return Ok(());
    }
    let text = format!(
        "`{}` cannot make a value of type {}: use `null`, `constant`, `pass`, or drop the column",
        rule.name,
        shown(column)
    );
    Err(Error::new(text))
}

/// Whether a constant is a value of the column's type, as far as that is plain to see.
fn constant(value: &str, column: &Column) -> Result<()> {
    let ok = match column.base.as_str() {
        _ if is_text(column) => true,
        "bool" => matches!(value, "t" | "f"),
        "int2" => value.parse::<i16>().is_ok(),
        "int4" => value.parse::<i32>().is_ok(),
        "int8" => value.parse::<i64>().is_ok(),
        "numeric" | "float4" | "float8" => value.parse::<f64>().is_ok(),
        "uuid" => shape(value, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh"),
        "date" => shape(value, "dddd-dd-dd"),
        "timestamp" => shape(value, "dddd-dd-dd dd:dd:dd"),
        "timestamptz" => shape(value, "dddd-dd-dd dd:dd:dd+dd"),
        "json" | "jsonb" => serde_json::from_str::<serde_json::Value>(value).is_ok(),
        _ => match &column.labels {
            Some(labels) => labels.iter().any(|label| label == value),
            None => false,
        },
    };
    if ok {
        return Ok(());
    }
    Err(Error::new(format!(
        "the constant is not a text form of type {} that can be checked: write it as PostgreSQL \
         prints it, or use `null`",
        shown(column)
    )))
}

/// Whether a value has a digit where the shape has `d`, a hexadecimal one where it has
/// `h`, and its characters elsewhere.
fn shape(value: &str, shape: &str) -> bool {
    let fits = |(v, s): (u8, u8)| match s {
        b'd' => v.is_ascii_digit(),
        b'h' => v.is_ascii_digit() || (b'a'..=b'f').contains(&v),
        other => v == other,
    };
    value.len() == shape.len() && value.bytes().zip(shape.bytes()).all(fits)
}

fn nulls(rule: &Rule, column: &Column) -> Result<()> {
    let makes_null = match &rule.transform {
        Transform::Null => true,
        Transform::Regex(replace) => replace.otherwise == Otherwise::Null,
        _ => false,
    };
    if makes_null && (column.not_null || column.key) {
        let text =
            format!("the column is NOT NULL or a key, so `{}` cannot make it NULL", rule.name);
        return Err(Error::new(text));
    }
    Ok(())
}

/// Of a column whose values identify rows: different values need different fakes.
fn unique(rule: &Rule, column: &Column) -> Result<()> {
    let way_on = match &rule.transform {
        // NULL is never equal to NULL.
        Transform::Pass | Transform::Null => return Ok(()),
        Transform::Hash(length) if *length >= UNIQUE_DIGITS => None,
        Transform::Hash(_) => Some("give it a `length` of 20 at least"),
        Transform::Words(_) | Transform::Phone => {
            let unique = rule.keying.as_ref().is_some_and(|keying| keying.unique);
            (!unique).then_some("add `unique = true`, which makes different values differ")
        }
        Transform::Constant(_) | Transform::Mask { .. } | Transform::Regex(_) => {
            Some("use `hash`, a fake with `unique = true`, or `pass`")
        }
    };
    if let Some(way_on) = way_on {
        return Err(Error::new(format!(
            "the column is unique or a key, and `{}` can make different values equal: {way_on}",
            rule.name
        )));
    }
    let normaliser = rule.keying.as_ref().map_or(Normaliser::Exact, |keying| keying.normaliser);
    let equal_anyway = match normaliser {
        Normaliser::Exact => true,
        Normaliser::Trim => column.base == "bpchar",
        Normaliser::Lower => column.base == "citext",
        Normaliser::Numeric => false,
    };
    if equal_anyway {
        return Ok(());
    }
    Err(Error::new(format!(
        "the column is unique or a key, and normalise = \"{}\" makes different values equal: use \
         \"exact\" in its domain",
        normaliser.name()
    )))
}

/// The most characters the column's type takes; `typmod` counts four more.
fn limit(column: &Column) -> Option<usize> {
    match column.base.as_str() {
        "varchar" | "bpchar" if column.typmod > 4 => usize::try_from(column.typmod - 4).ok(),
        "name" => Some(63),
        _ => None,
    }
}

/// The most characters a transform writes, where that does not depend on the value.
fn longest(rule: &Rule) -> Option<usize> {
    match &rule.transform {
        Transform::Constant(value) => Some(value.chars().count()),
        Transform::Hash(length) => Some(*length),
        Transform::Words(words) => {
            Some(words.longest(rule.keying.as_ref().is_some_and(|keying| keying.unique)))
        }
        Transform::Phone if rule.keying.as_ref().is_some_and(|k| k.unique) => None,
        Transform::Phone => Some(PLAIN_PHONE),
        // As long as the value, or checked row by row.
        Transform::Mask { .. } | Transform::Regex(_) | Transform::Pass | Transform::Null => None,
    }
}
