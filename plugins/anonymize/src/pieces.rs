//! Rules that need more than a value and its hash: permutations, elements of arrays, parts of
//! JSON, and results that depend on other columns.
//!
//! All texts of a column's batch are looked at together, so that the host is asked for
//! hashes a few times a batch and not for each value.

use std::borrow::Cow;

use kasho_plugin_sdk::batch::Image;
use kasho_plugin_sdk::{Batch, Patched, Reason, Value};

use crate::Bound;
use crate::check::Target;
use crate::leaf::{Leaf, Prepared, Reasons};
use crate::make::Make;
use crate::paths::Path;
use crate::rules::By;
use crate::split::{self, Edit, With};

/// What is to be done with a value.
type Split<'v> = Result<Vec<Edit<'v>>, Reason>;

/// Applies a rule to its column of a batch.
pub(crate) fn rewrite(bound: &Bound, target: &Target, reasons: &Reasons, batch: &mut Batch<'_>) {
    let mut values = Vec::new();
    batch.texts(bound.col, |value| values.push(value));
    let is_json = matches!(bound.leaf.rule.make, Make::Json);
    let mut splits: Vec<Split<'_>> = if is_json {
        parts(bound, &values, reasons)
    } else if target.array {
        values.iter().map(|value| split::array(value).ok_or(reasons.no_array)).collect()
    } else {
        values.iter().map(|value| Ok(split::whole(value))).collect()
    };
    let seeds = (!bound.by.is_empty()).then(|| seeds(bound, reasons, batch));
    let leaves = if is_json { &bound.inner[..] } else { std::slice::from_ref(&bound.leaf) };
    let inside = if is_json { Target::text() } else { target.clone() };
    let prepared = prepare(leaves, &mut splits, seeds, &inside, reasons);
    let mut splits = splits.iter();
    batch.rewrite(bound.col, |value, out| {
        // The values come in the order in which they were collected.
        let edits = match splits.next() {
            Some(Ok(edits)) => edits,
            Some(Err(reason)) => return Patched::Error(*reason),
            None => return Patched::Same,
        };
        let patched = split::join(value, edits, out, |(rule, at), text, out| {
            match (leaves.get(rule), prepared.get(rule)) {
                (Some(leaf), Some(known)) => leaf.write(text, at, known, &inside, reasons, out),
                _ => Patched::Same,
            }
        });
        if is_json { target.limited(patched, reasons.too_long, out) } else { patched }
    });
}

/// The parts of JSON values that rules are for.
fn parts<'v>(bound: &Bound, values: &[&'v str], reasons: &Reasons) -> Vec<Split<'v>> {
    let rules = &bound.leaf.rule.paths;
    let paths: Vec<&Path> = rules.iter().map(|(path, _)| path).collect();
    let passes: Vec<bool> = rules.iter().map(|(_, rule)| matches!(rule.make, Make::Pass)).collect();
    let split = |value: &&'v str| split::json(value, &paths, &passes).ok_or(reasons.no_json);
    values.iter().map(split).collect()
}

/// Numbers the texts of each rule, and lets it look at them.
fn prepare(
    leaves: &[Leaf],
    splits: &mut [Split<'_>],
    seeds: Option<Vec<Result<String, Reason>>>,
    target: &Target,
    reasons: &Reasons,
) -> Vec<Prepared> {
    let mut counts = vec![0; leaves.len()];
    let mut given = Vec::new();
    let by = seeds.is_some();
    let mut seeds_of = seeds.into_iter().flatten();
    for split in splits.iter_mut() {
        let seed = seeds_of.next();
        if let Some(Err(reason)) = seed {
            *split = Err(reason);
        }
        let Ok(edits) = split else { continue };
        let mut nth = 0;
        for edit in edits {
            let With::Made { rule, at, .. } = &mut edit.with else { continue };
            let Some(count) = counts.get_mut(*rule) else { continue };
            *at = *count;
            *count += 1;
            if let Some(Ok(seed)) = &seed {
                given.push(if nth == 0 { seed.clone() } else { format!("{seed}\0{nth}") });
                nth += 1;
            }
        }
    }
    let texts = |wanted: usize| -> Vec<Cow<'_, str>> {
        let edits = splits.iter().flatten().flatten();
        edits
            .filter_map(|edit| match &edit.with {
                With::Made { rule, text, .. } if *rule == wanted => Some(text.as_ref().into()),
                _ => None,
            })
            .collect()
    };
    let mut given = by.then_some(given);
    let prepare =
        |(rule, leaf): (usize, &Leaf)| leaf.prepare(&texts(rule), given.take(), target, reasons);
    leaves.iter().enumerate().map(prepare).collect()
}

/// What is hashed in place of each value.
fn seeds(bound: &Bound, reasons: &Reasons, batch: &Batch<'_>) -> Vec<Result<String, Reason>> {
    let keys = batch.table().columns.iter().filter(|column| column.key).count();
    // Two columns of a row must not be the same flag; two dates of a person move together.
    let (start, by) = match bound.leaf.rule.by() {
        By::Row => (format!("\0row/1\0{}", bound.name), &bound.by[..keys.min(bound.by.len())]),
        _ => ("\0by/1".to_owned(), &bound.by[..]),
    };
    let mut seeds = Vec::new();
    batch.places(bound.col, |row, image| {
        let mut seed = start.clone();
        for col in by {
            let other = if image == Image::New { Image::Old } else { Image::New };
            let found = [image, other].map(|image| batch.came(*col, row, image));
            match found.into_iter().find(|v| matches!(v, Value::Text(_) | Value::Null)) {
                Some(Value::Text(text)) => {
                    seed += "\0t";
                    seed += text;
                }
                Some(_) => seed += "\0n",
                None => return seeds.push(Err(reasons.no_by)),
            }
        }
        seeds.push(Ok(seed));
    });
    seeds
}
