//! The `anonymize` plugin: a table of rules, one transform a column.
//!
//! ```toml
//! [transform.rules]
//! "public.users.email" = { transform = "fake_email", unique = true }
//! "public.users.name"  = "fake_name"
//! "public.users.ssn"   = { transform = "mask", keep_last = 4 }
//! "billing.*.phone"    = "fake_phone"
//! "public.users.id"    = "pass"
//! "public.plans.*"     = "pass"
//! ```
//!
//! Fakes are pure functions of the host's keyed hash: the same value has the same fake in
//! every column of its domain, for ever. NULL stays NULL. What cannot work (a wrong type, a
//! fake too long, a unique column whose fakes could collide) is refused when rules or
//! tables are read, with the way on; a row can only be in error where a value itself is the
//! reason: no match of a pattern, digits that are no phone number, a replacement that is too
//! long.

mod check;
mod dictionary;
mod fake;
mod permute;
mod rules;

use std::collections::BTreeMap;

use kasho_plugin_sdk::{
    Batch, Col, Domain, IntoPatch, Out, Patched, Plugin, Reason, Result, Setup, Table,
    export_plugin,
};

use crate::fake::{MOST_DIGITS, phone_digits};
use crate::rules::{Otherwise, Replace, Rule, Transform};

/// A rule bound to its column.
struct Bound {
    col: Col,
    rule: Rule,
    domain: Option<Domain>,
}

/// What rows can be in error with.
#[derive(Clone, Copy)]
struct Reasons {
    no_match: Reason,
    no_phone: Reason,
    too_long: Reason,
}

/// The plugin.
pub struct Anonymize {
    rules: Vec<Bound>,
    reasons: Reasons,
    /// By relation: the rules that hold there.
    tables: BTreeMap<u32, Vec<Holding>>,
}

/// A rule that holds for a column of a table.
struct Holding {
    /// Index of the rule.
    rule: usize,
    /// The most characters that the column takes.
    limit: Option<usize>,
    /// The column is a `uuid`.
    uuid: bool,
}

impl Plugin for Anonymize {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let reasons = Reasons {
            no_match: cx.reason("the pattern of `regex` is not in the value (on_no_match = error)"),
            no_phone: cx.reason("not a phone number of 4 to 38 digits, so it cannot stay unique"),
            too_long: cx.reason("the value that `regex` made is too long for the column"),
        };
        let mut rules = Vec::new();
        for (column, rule) in rules::read(cx.rules()?)? {
            if matches!(rule.transform, Transform::Pass) {
                cx.pass(&column)?;
                continue;
            }
            let mut col = cx.mask(&column)?;
            cx.fingerprint(col, rule.fingerprint.clone());
            let domain = rule.keying.as_ref().map(|keying| cx.domain(&keying.domain));
            if let Some(keying) = &rule.keying {
                col = col.normalised(keying.normaliser);
            }
            rules.push(Bound { col, rule, domain });
        }
        Ok(Anonymize { rules, reasons, tables: BTreeMap::new() })
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        let mut holding = Vec::new();
        for (rule, bound) in self.rules.iter().enumerate() {
            let Some(column) = table.column_of(bound.col) else { continue };
            let limit = check::check(&bound.rule, column, table)
                .map_err(|e| e.at(format!("{}.{}", table.qualified(), column.name)))?;
            holding.push(Holding { rule, limit, uuid: column.base == "uuid" });
        }
        self.tables.insert(table.id, holding);
        Ok(())
    }

    fn batch(&mut self, batch: &mut Batch<'_>) {
        let holding = self.tables.get(&batch.table().id).map_or(&[][..], Vec::as_slice);
        for holding in holding {
            if let Some(bound) = self.rules.get(holding.rule) {
                rewrite(bound, holding, self.reasons, batch);
            }
        }
    }
}

/// Applies one rule to its column of a batch.
fn rewrite(bound: &Bound, holding: &Holding, reasons: Reasons, batch: &mut Batch<'_>) {
    let Bound { col, rule, domain } = bound;
    let unique = rule.keying.as_ref().is_some_and(|keying| keying.unique);
    match (&rule.transform, *domain) {
        (Transform::Null, _) => batch.rewrite(*col, |_, _| Patched::Null),
        (Transform::Constant(value), _) => batch.rewrite(*col, |_, out| out.push_str(value)),
        (Transform::Mask { first, last, with }, _) => {
            batch.rewrite(*col, |value, out| fake::hide(value, *first, *last, *with, out));
        }
        (Transform::Regex(replace), _) => {
            batch.rewrite(*col, |value, out| regex(replace, holding.limit, reasons, value, out));
        }
        (Transform::Hash(_), Some(domain)) if holding.uuid => {
            batch.rewrite_hashed(*col, domain, |_, hash, out| fake::uuid(hash, out));
        }
        (Transform::Hash(length), Some(domain)) => {
            batch.rewrite_hashed(*col, domain, |_, hash, out| fake::hex(hash, *length, out));
        }
        (Transform::Words(words), Some(domain)) => {
            batch.rewrite_hashed(*col, domain, |_, hash, out| words.write(hash, unique, out));
        }
        (Transform::Phone, Some(domain)) if unique => unique_phone(*col, domain, reasons, batch),
        (Transform::Phone, Some(domain)) => {
            batch.rewrite_hashed(*col, domain, fake::phone);
        }
        // A keyed transform always has its domain; without one the host sees unmasked text.
        (_, None) | (Transform::Pass, _) => {}
    }
}

fn regex(
    replace: &Replace,
    limit: Option<usize>,
    reasons: Reasons,
    value: &str,
    out: &mut Out<'_>,
) -> Patched {
    // A pattern that can match nothing matches everywhere, and replaces nothing by that.
    let mut found = replace.pattern.find_iter(value);
    if !found.any(|hit| !hit.is_empty() || value.is_empty()) {
        return match &replace.otherwise {
            Otherwise::Error => Patched::Error(reasons.no_match),
            Otherwise::Null => Patched::Null,
            Otherwise::Constant(text) => text.as_str().into_patch(out),
        };
    }
    out.push_str(&replace.pattern.replace_all(value, replace.replacement.as_str()));
    match limit {
        Some(limit) if out.as_str().chars().count() > limit => Patched::Error(reasons.too_long),
        _ => Patched::Written,
    }
}

/// Whether `value` has digits that can be permuted.
fn permutable(value: &str) -> bool {
    phone_digits(value).is_some_and(|digits| (permute::FEWEST..=MOST_DIGITS).contains(&digits))
}

/// Permutes the digits of every value, in one go for the column.
fn unique_phone(col: Col, domain: Domain, reasons: Reasons, batch: &mut Batch<'_>) {
    let mut values = Vec::new();
    batch.texts(col, |value| values.push(value));
    let permutable_values = values.into_iter().filter(|value| permutable(value));
    let permuted = permute::permute(permutable_values, |texts, out| domain.hash_all(texts, out));
    let mut permuted = permuted.into_iter();
    batch.rewrite(col, |value, out| {
        // The texts come in the order in which they were collected.
        let Some(digits) = permutable(value).then(|| permuted.next()).flatten() else {
            return Err(reasons.no_phone);
        };
        let mut digits = digits.chars();
        for c in value.chars() {
            out.push(if c.is_ascii_digit() { digits.next().unwrap_or(c) } else { c });
        }
        Ok(())
    });
}

export_plugin!(Anonymize);
