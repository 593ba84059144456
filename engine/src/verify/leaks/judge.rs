//! Judging what was found: by what the source holds in that row and what the plugins make of
//! it. A row is read again on both sides, and in the source once more, so that a change on
//! its way is not taken for a leak.
//!
//! A row of a table without key (or whose key is masked) cannot be found in the source; then
//! all its rows are passed through the plugins, to see whether any of them gives that text.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kasho_plugin_sdk::Relation;

use super::masker::{Left, Masker};
use super::search::Needles;
use crate::verify::compare::halves;
use crate::verify::error::VerifyError;
use crate::verify::meeting::Sides;
use crate::verify::plan::Pair;
use crate::verify::report::{How, Leak};
use crate::verify::session::texts;
use crate::verify::{Progress, sql};

const ROUNDS: usize = 10;

/// Something that may be a leak.
pub(super) struct Suspect {
    /// The column whose value it is.
    pub(super) column: String,
    /// Where it stands.
    pub(super) found: String,
    /// The table that it stands in, if that is one of ours.
    pub(super) pair: Option<Arc<Pair>>,
    /// The row's key, or its `ctid`.
    pub(super) row: Vec<String>,
    pub(super) target_column: String,
    pub(super) document: bool,
    /// One value of the column tells whose it is.
    pub(super) telling: bool,
    pub(super) place: Place,
}

/// Which rule it breaks.
pub(super) enum Place {
    /// A masked column equals its own original.
    Own { source_column: String },
    /// A private value stands in the text with this digest.
    Anywhere { text: u64 },
}

impl Suspect {
    fn leak(&self, how: How) -> Leak {
        let names: Vec<String> = match &self.pair {
            Some(pair) if !pair.key.is_empty() => {
                pair.key.iter().map(|column| column.target.clone()).collect()
            }
            _ => vec!["ctid".to_owned()],
        };
        let row = names.into_iter().zip(self.row.iter().cloned()).collect();
        Leak { column: self.column.clone(), found: self.found.clone(), row, how }
    }

    /// Nothing rewrites the column that it stands in.
    fn passes(&self) -> bool {
        let pair = self.pair.as_ref();
        pair.is_some_and(|pair| pair.columns.iter().any(|c| c.target == self.target_column))
    }
}

/// A row of the source.
type Values = Vec<Option<String>>;

enum Verdict {
    Leak(How),
    Innocent,
    /// It has changed meanwhile.
    Again,
}

/// The relation with an id.
pub(super) type Relations<'a> = &'a dyn Fn(u32) -> Option<&'a Arc<Relation>>;

/// Judges them all; answers with those that are leaks, and how many rows never stood still.
pub(super) async fn judge(
    sides: &mut Sides,
    masker: &mut Masker,
    relations: Relations<'_>,
    needles: &Needles,
    suspects: Vec<Suspect>,
    progress: &dyn Progress,
) -> Result<(Vec<Leak>, u64), VerifyError> {
    let mut leaks = Vec::new();
    let (mut left, mut nameless) = (Vec::new(), Vec::new());
    for suspect in suspects {
        match &suspect.pair {
            None => leaks.push(suspect.leak(How::Stray)),
            Some(pair) if pair.key.is_empty() => nameless.push(suspect),
            Some(_) => left.push(suspect),
        }
    }
    for _ in 0..ROUNDS {
        if left.is_empty() {
            break;
        }
        progress.settles(left.len());
        sides.meet(progress).await?;
        let mut read = Vec::with_capacity(left.len());
        for suspect in &left {
            let source = source_row(sides, suspect, relations).await?;
            read.push((source, target_text(sides, suspect).await?));
        }
        sides.read_source().await?;
        let mut again = Vec::new();
        for (suspect, (source, text)) in left.into_iter().zip(read) {
            let after = source_row(sides, &suspect, relations).await?;
            let verdict = match after == source {
                false => Verdict::Again,
                true => one(masker, relations, needles, &suspect, source.as_ref(), text.as_deref()),
            };
            match verdict {
                Verdict::Leak(how) => leaks.push(suspect.leak(how)),
                Verdict::Innocent => {}
                Verdict::Again => again.push(suspect),
            }
        }
        left = again;
    }
    leaks.extend(produced(sides, masker, relations, needles, nameless).await?);
    Ok((leaks, left.len() as u64))
}

fn one(
    masker: &mut Masker,
    relations: Relations<'_>,
    needles: &Needles,
    suspect: &Suspect,
    source: Option<&Values>,
    text: Option<&str>,
) -> Verdict {
    // The row, or the value, is gone.
    let Some(text) = text else { return Verdict::Innocent };
    let relation = suspect.pair.as_ref().and_then(|pair| relations(pair.id));
    let left = match (source, relation) {
        (Some(values), Some(relation)) => masker.pass(relation, values),
        _ => None,
    };
    let expected =
        left.as_ref().and_then(|left: &Left| left.get(&suspect.target_column)).cloned().flatten();
    let as_expected = expected.as_deref().is_some_and(|expected| same(expected, text));
    match &suspect.place {
        Place::Own { source_column } => {
            let original = match (source, relation) {
                (Some(values), Some(relation)) => {
                    relation.column(source_column).and_then(|at| values.get(at).cloned().flatten())
                }
                _ => None,
            };
            let leaves = left.is_some() || suspect.telling;
            match original.as_deref() == Some(text) && !as_expected && leaves {
                true => Verdict::Leak(How::Own),
                false => Verdict::Innocent,
            }
        }
        Place::Anywhere { .. } => {
            let found = match suspect.document {
                true => needles.find_in_json(text),
                false => needles.find(text),
            };
            match (found, as_expected) {
                (None, _) => Verdict::Innocent,
                (Some(_), false) => Verdict::Leak(How::Stray),
                (Some(_), true) if suspect.passes() => Verdict::Leak(How::Passes),
                (Some(_), true) => Verdict::Innocent,
            }
        }
    }
}

/// Equal as far as the target's type may have written it otherwise.
pub(super) fn same(expected: &str, text: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    let truth = |text: &str| match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    };
    expected.trim_end() == text.trim_end()
        || number(expected).is_some_and(|expected| number(text) == Some(expected))
        || truth(expected).is_some_and(|expected| truth(text) == Some(expected))
}

async fn source_row(
    sides: &Sides,
    suspect: &Suspect,
    relations: Relations<'_>,
) -> Result<Option<Values>, VerifyError> {
    let Some(pair) = &suspect.pair else { return Ok(None) };
    let Some(relation) = relations(pair.id) else { return Ok(None) };
    let (half, _) = halves(pair, &sides.source, &sides.target);
    let names: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
    let condition = sql::any_of(&half.key, &[&suspect.row]);
    let statement = format!("SELECT {}{}", sql::list(&names), half.rows(Some(&condition)));
    Ok(half.side.all(&half.doing, &statement).await?.into_iter().next())
}

async fn target_text(sides: &Sides, suspect: &Suspect) -> Result<Option<String>, VerifyError> {
    let Some(pair) = &suspect.pair else { return Ok(None) };
    let (_, half) = halves(pair, &sides.source, &sides.target);
    let condition = sql::any_of(&half.key, &[&suspect.row]);
    let column = sql::quoted(&suspect.target_column);
    let statement = format!("SELECT {column}{}", half.rows(Some(&condition)));
    half.side.value(&half.doing, &statement).await
}

/// Judges suspects in tables whose rows have no name on both sides: whether any row of the
/// source gives that text there.
async fn produced(
    sides: &Sides,
    masker: &mut Masker,
    relations: Relations<'_>,
    needles: &Needles,
    suspects: Vec<Suspect>,
) -> Result<Vec<Leak>, VerifyError> {
    let mut tables: HashMap<u32, Vec<Suspect>> = HashMap::new();
    for suspect in suspects {
        let id = suspect.pair.as_ref().map_or(0, |pair| pair.id);
        tables.entry(id).or_default().push(suspect);
    }
    let mut leaks = Vec::new();
    for (id, suspects) in tables {
        let pair = suspects.first().and_then(|suspect| suspect.pair.clone());
        let (Some(pair), Some(relation)) = (pair, relations(id)) else { continue };
        let text = |suspect: &Suspect| match &suspect.place {
            Place::Anywhere { text } => Some((suspect.target_column.clone(), *text)),
            Place::Own { .. } => None,
        };
        let mut unexplained: BTreeSet<(String, u64)> = suspects.iter().filter_map(text).collect();
        explain(sides, &pair, relation, masker, &mut |column, text| {
            unexplained.remove(&(column, needles.digest(&text)));
        })
        .await?;
        for suspect in suspects {
            let Some(text) = text(&suspect) else { continue };
            match (unexplained.contains(&text), suspect.passes()) {
                (true, _) => leaks.push(suspect.leak(How::Stray)),
                (false, true) => leaks.push(suspect.leak(How::Passes)),
                (false, false) => {}
            }
        }
    }
    Ok(leaks)
}

/// Passes every row of a table of the source through the plugins, and hands over what leaves:
/// columns by their names in the target, and texts.
pub(super) async fn explain(
    sides: &Sides,
    pair: &Pair,
    relation: &Arc<Relation>,
    masker: &mut Masker,
    each: &mut impl FnMut(String, String),
) -> Result<(), VerifyError> {
    let (half, _) = halves(pair, &sides.source, &sides.target);
    let names: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
    let statement = format!("SELECT {}{}", sql::list(&names), half.rows(None));
    half.side
        .each(&half.doing, &statement, |row| {
            let values: Values = texts(row, 0..row.len()).collect();
            for (column, text) in masker.pass(relation, &values).unwrap_or_default() {
                if let Some(text) = text {
                    each(column, text);
                }
            }
            Ok(())
        })
        .await
}
