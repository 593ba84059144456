//! Columns whose values identify rows: different values need different results, and equal
//! ones equal results.
//!
//! What is "different" is the column's type's business: `char(n)` ignores spaces at the end,
//! `citext` ignores case. A rule that does not see it so is refused.

use kasho_plugin_sdk::{Column, Error, Identity, Normaliser, Result, Table};

use crate::catalog::Unique;
use crate::make::Make;
use crate::rules::Rule;

/// Checks a rule against a column that is unique or a key.
pub(super) fn check(rule: &Rule, column: &Column, table: &Table<'_>) -> Result<()> {
    if let Some(way_on) = way_on(rule, table) {
        return Err(Error::new(format!(
            "the column is unique or a key, and `{}` can make different values equal: {way_on}",
            rule.entry.name
        )));
    }
    normaliser(rule, column)
}

/// What to do about a rule whose results may meet; `None` if they do not.
fn way_on(rule: &Rule, table: &Table<'_>) -> Option<&'static str> {
    match rule.entry.unique {
        Unique::Null | Unique::Exact | Unique::Bits => None,
        Unique::Length => match &rule.make {
            // 80 bits count as unique.
            Make::Hash(length) if *length < 20 => Some("give it a `length` of 20 at least"),
            _ => None,
        },
        Unique::Suffix | Unique::Permutation if rule.unique() => None,
        Unique::Suffix | Unique::Permutation => {
            Some("add `unique = true`, which makes different values differ")
        }
        Unique::Field => match &rule.make {
            Make::Template(template) if template.only_field().is_some_and(|f| alone(f, table)) => {
                None
            }
            _ => Some(
                "use `hash` or a fake with `unique = true`, or a template whose one field is the \
                 table's only key column, as it is",
            ),
        },
        Unique::No => match &rule.make {
            Make::Text(_) | Make::Fake(_) | Make::Choice(_) => {
                Some("use `token`, `hash`, `digits`, or `pass`")
            }
            _ => Some("use `hash`, `token`, a fake with `unique = true`, or `pass`"),
        },
    }
}

/// Whether a column is the whole identity of its table.
fn alone(field: &str, table: &Table<'_>) -> bool {
    let mut keys = table.columns.iter().filter(|column| column.key);
    let only = match (keys.next(), keys.next()) {
        (Some(key), None) => key.name == field,
        _ => false,
    };
    only && matches!(table.identity, Identity::Default | Identity::Index)
}

/// What is equal for the column must be equal for the rule, and nothing else may be.
fn normaliser(rule: &Rule, column: &Column) -> Result<()> {
    let Some(keying) = &rule.keying else { return Ok(()) };
    let permutes = match &rule.make {
        Make::Token | Make::Permute | Make::Uuid => true,
        Make::Phone | Make::Ssn | Make::Card => rule.unique(),
        _ => false,
    };
    let needed = match column.base.as_str() {
        "bpchar" => Normaliser::Char,
        "citext" => Normaliser::Citext,
        _ => Normaliser::Exact,
    };
    if permutes && needed == Normaliser::Citext && matches!(rule.make, Make::Token) {
        return Err(Error::new(
            "the column ignores case, and `token` does not: use `hash` with normalise = \"citext\"",
        ));
    }
    if permutes && needed == Normaliser::Char && matches!(rule.make, Make::Token) {
        return Err(Error::new(
            "the column ignores spaces at the end, and `token` does not: use `hash` with \
             normalise = \"char\"",
        ));
    }
    if permutes || keying.normaliser == needed {
        return Ok(());
    }
    Err(Error::new(format!(
        "the column is unique or a key of type {}, and normalise = \"{}\" does not see its values \
         as that does: {} would make different values equal, or equal ones different; use \
         \"{}\" in its domain",
        column.type_name,
        keying.normaliser.name(),
        rule.entry.name,
        needed.name()
    )))
}
