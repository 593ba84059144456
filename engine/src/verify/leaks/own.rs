//! Whether a row of the target holds its own source row's value in a masked column: digests
//! of these columns, joined by key, a part of the table at a time.

use std::collections::HashMap;

use super::judge::{Place, Suspect};
use super::{MOST, Watched, column};
use crate::verify::compare::{Half, halves};
use crate::verify::error::VerifyError;
use crate::verify::meeting::Sides;
use crate::verify::plan::Pair;
use crate::verify::session::{key, texts};
use crate::verify::{Progress, sql};

/// Rows whose digests are held at a time.
const ROWS: u64 = 16_384;

/// Scans every table with decidable columns.
pub(super) async fn scan(
    sides: &Sides,
    watched: &mut [Watched<'_>],
    progress: &dyn Progress,
    more: &mut bool,
) -> Result<Vec<Suspect>, VerifyError> {
    let mut suspects = Vec::new();
    let mut at = 0;
    while let Some(pair) = watched.get(at).map(|watched| watched.pair) {
        let end = at + watched[at..].iter().take_while(|w| w.pair.id == pair.id).count();
        let mut own: Vec<&mut Watched<'_>> = watched[at..end]
            .iter_mut()
            .filter(|w| w.decidable && w.private.target.is_some())
            .collect();
        if pair.key.is_empty() {
            for watched in &mut own {
                let text = "rows cannot be paired: the table has no key, or it is rewritten";
                watched.looked.undecided.push(text.to_owned());
            }
        } else if !own.is_empty() {
            progress.searches(&pair.source_name);
            *more |= table(sides, pair, &mut own, &mut suspects).await?;
        }
        at = end;
    }
    Ok(suspects)
}

/// Scans one table; says whether there were more suspects than are judged.
async fn table(
    sides: &Sides,
    pair: &Pair,
    own: &mut [&mut Watched<'_>],
    suspects: &mut Vec<Suspect>,
) -> Result<bool, VerifyError> {
    let (source, target) = halves(pair, &sides.source, &sides.target);
    let begun = suspects.len();
    let (mut after, mut more) = (None::<Vec<String>>, false);
    let buckets = if pair.ordered { 0 } else { (source.count().await? / ROWS).max(1) };
    let mut number = 0;
    loop {
        let mut last = true;
        let (here, there) = match buckets {
            0 => {
                let through = source.boundary(after.as_deref(), ROWS).await?;
                let (low, high) = (after.as_deref(), through.as_deref());
                let conditions =
                    (sql::range(&source.key, low, high), sql::range(&target.key, low, high));
                last = through.is_none();
                after = through;
                conditions
            }
            of => {
                let own = |half: &Half<'_>| {
                    Some(format!("{} = {number}", sql::bucket(half.named_by(), of)))
                };
                let conditions = (own(&source), own(&target));
                number += 1;
                last = number == of && last;
                conditions
            }
        };
        let part = (here.as_deref(), there.as_deref());
        for (key, place) in equal((&source, &target), own, part).await? {
            if suspects.len() - begun >= MOST {
                more = true;
                break;
            }
            suspects.push(suspect(pair, own[place], key));
        }
        if last {
            return Ok(more);
        }
    }
}

fn suspect(pair: &Pair, watched: &Watched<'_>, row: Vec<String>) -> Suspect {
    let target_column = watched.private.target.clone().unwrap_or_default();
    Suspect {
        column: watched.name(),
        found: column(&pair.target_name, &target_column),
        pair: Some(pair.clone()),
        row,
        target_column,
        document: false,
        place: Place::Own { source_column: watched.private.source.clone() },
    }
}

/// Keys whose value is the same on both sides, with the place of the column.
async fn equal(
    (source, target): (&Half<'_>, &Half<'_>),
    own: &mut [&mut Watched<'_>],
    (here, there): (Option<&str>, Option<&str>),
) -> Result<Vec<(Vec<String>, usize)>, VerifyError> {
    let digests = |names: Vec<&str>| {
        let digest = |name: &str| {
            let known = format!("{} IS NOT NULL", sql::quoted(name));
            format!("CASE WHEN {known} THEN {} END", sql::fingerprint(&[name]))
        };
        names.into_iter().map(digest).collect::<Vec<_>>().join(", ")
    };
    let sources: Vec<&str> = own.iter().map(|w| w.private.source.as_str()).collect();
    let targets = own.iter().filter_map(|w| w.private.target.as_deref()).collect();
    let statement = |half: &Half<'_>, names, condition| {
        format!("SELECT {}, {}{}", sql::list(&half.key), digests(names), half.rows(condition))
    };
    let width = source.key.len();
    let mut known: HashMap<Vec<String>, Vec<Option<String>>> = HashMap::new();
    let text = statement(source, sources, here);
    source
        .side
        .each(&source.doing, &text, |row| {
            known.insert(key(row, width), texts(row, width..row.len()).collect());
            Ok(())
        })
        .await?;
    let mut found = Vec::new();
    let text = statement(target, targets, there);
    target
        .side
        .each(&target.doing, &text, |row| {
            let key = key(row, width);
            let Some(values) = known.get(&key) else { return Ok(()) };
            for (at, (own, watched)) in values.iter().zip(own.iter_mut()).enumerate() {
                watched.looked.own_rows += u64::from(own.is_some());
                if own.is_some() && own.as_deref() == row.get(width + at) {
                    found.push((key.clone(), at));
                }
            }
            Ok(())
        })
        .await?;
    Ok(found)
}
