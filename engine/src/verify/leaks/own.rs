//! Whether a row of the target holds its own source row's value in a masked column: digests
//! of these columns. The target's rows are read as they come, and the source is asked for the
//! same keys, some at a time: one look at every row, whatever the key's type.
//!
//! What the plugins give is no leak, though it equals the original: of a small world of
//! values many do, by chance. These are told apart at once, so that they use up no room
//! among the suspects.

use std::collections::HashMap;
use std::sync::Arc;

use kasho_plugin_sdk::Relation;

use super::judge::{Place, Suspect, same};
use super::masker::Masker;
use super::{MOST, Watched, column};
use crate::source::catalog::Catalog;
use crate::verify::compare::{KEYS_AT_ONCE, Lookup, halves};
use crate::verify::error::VerifyError;
use crate::verify::meeting::Sides;
use crate::verify::plan::Pair;
use crate::verify::session::{Rows, key, texts};
use crate::verify::{Progress, sql};

/// Scans every table that has masked columns; says whether there were more suspects than are
/// judged.
pub(super) async fn scan(
    sides: &Sides,
    catalog: &Catalog,
    watched: &mut [Watched],
    masker: &mut Masker,
    progress: &dyn Progress,
) -> Result<(Vec<Suspect>, bool), VerifyError> {
    let (mut suspects, mut more) = (Vec::new(), false);
    let mut at = 0;
    while let Some(pair) = watched.get(at).map(|watched| Arc::clone(&watched.pair)) {
        let end = at + watched[at..].iter().take_while(|w| w.pair.id == pair.id).count();
        let mut own: Vec<&mut Watched> =
            watched[at..end].iter_mut().filter(|w| w.own && w.private.target.is_some()).collect();
        at = end;
        if pair.key.is_empty() {
            for watched in &mut own {
                let text = "rows cannot be paired: the table has no key, or it is rewritten";
                watched.looked.undecided.push(text.to_owned());
            }
            continue;
        }
        let Some(relation) = catalog.relation(pair.id).filter(|_| !own.is_empty()) else {
            continue;
        };
        progress.searches(&pair.source_name);
        let mut table = Own::new(sides, &pair, relation, own.len()).await?;
        table.scan(sides, &mut own, masker, &mut suspects).await?;
        more |= table.found.iter().any(|found| *found >= MOST);
    }
    Ok((suspects, more))
}

/// Keys of some rows, each with the digests of its columns: a target without the key's index
/// may have several rows of one key.
type Held = HashMap<Vec<String>, Vec<Vec<Option<String>>>>;

/// One table.
struct Own<'a> {
    pair: &'a Arc<Pair>,
    relation: &'a Arc<Relation>,
    lookup: Lookup<'a>,
    /// Suspects of each column.
    found: Vec<usize>,
}

impl<'a> Own<'a> {
    async fn new(
        sides: &'a Sides,
        pair: &'a Arc<Pair>,
        relation: &'a Arc<Relation>,
        columns: usize,
    ) -> Result<Own<'a>, VerifyError> {
        let (source, _) = halves(pair, &sides.source, &sides.target);
        let lookup = Lookup::new(source, pair).await?;
        Ok(Own { pair, relation, lookup, found: vec![0; columns] })
    }

    async fn scan(
        &mut self,
        sides: &Sides,
        own: &mut [&mut Watched],
        masker: &mut Masker,
        suspects: &mut Vec<Suspect>,
    ) -> Result<(), VerifyError> {
        let (_, target) = halves(self.pair, &sides.source, &sides.target);
        let names = own.iter().filter_map(|w| w.private.target.as_deref());
        let (list, digests) = (sql::list(&target.key), digests(names));
        let statement = format!("SELECT {list}, {digests}{}", target.rows(None));
        let mut rows = target.side.rows(&target.doing, &statement).await?;
        loop {
            let held = self.read(&mut rows).await?;
            if held.is_empty() || self.found.iter().all(|found| *found >= MOST) {
                return Ok(());
            }
            let equal = self.equal(own, &held).await?;
            if !equal.is_empty() {
                self.suspect(own, masker, &equal, suspects).await?;
            }
        }
    }

    /// The next rows of the target.
    async fn read(&self, rows: &mut Rows) -> Result<Held, VerifyError> {
        let width = self.pair.key.len();
        let mut held = Held::with_capacity(KEYS_AT_ONCE);
        for _ in 0..KEYS_AT_ONCE {
            let Some(row) = rows.next().await? else { break };
            let digests = texts(&row, width..row.len()).collect();
            held.entry(key(&row, 0..width)).or_default().push(digests);
        }
        Ok(held)
    }

    /// Keys of rows whose value is the same on both sides, each with the column's place.
    async fn equal(
        &self,
        own: &mut [&mut Watched],
        held: &Held,
    ) -> Result<Vec<(Vec<String>, usize)>, VerifyError> {
        let width = self.pair.key.len();
        let list = sql::list(&self.lookup.half.key);
        let digests = digests(own.iter().map(|w| w.private.source.as_str()));
        let keys: Vec<Vec<String>> = held.keys().cloned().collect();
        let mut rows = self.lookup.rows(&format!("{list}, {digests}"), &keys).await?;
        let mut equal = Vec::new();
        while let Some(row) = rows.next().await? {
            let key = key(&row, 0..width);
            let Some(copies) = held.get(&key) else { continue };
            for (at, watched) in own.iter_mut().enumerate() {
                let Some(original) = row.get(width + at) else { continue };
                watched.looked.own_rows += 1;
                let value = |copy: &Vec<Option<String>>| copy[at].as_deref() == Some(original);
                if copies.iter().any(value) {
                    equal.push((key.clone(), at));
                }
            }
        }
        Ok(equal)
    }

    /// Takes those for suspects that the plugins do not explain.
    async fn suspect(
        &mut self,
        own: &[&mut Watched],
        masker: &mut Masker,
        equal: &[(Vec<String>, usize)],
        suspects: &mut Vec<Suspect>,
    ) -> Result<(), VerifyError> {
        let mut places: HashMap<&Vec<String>, Vec<usize>> = HashMap::new();
        for (key, at) in equal {
            places.entry(key).or_default().push(*at);
        }
        let keys: Vec<Vec<String>> = places.keys().map(|key| (*key).clone()).collect();
        let names: Vec<&str> = self.relation.columns.iter().map(|c| c.name.as_str()).collect();
        let mut rows = self.lookup.rows(&sql::list(&names), &keys).await?;
        while let Some(row) = rows.next().await? {
            let values: Vec<Option<String>> = texts(&row, 0..row.len()).collect();
            let value = |name: &str| {
                self.relation.column(name).and_then(|at| values.get(at).cloned().flatten())
            };
            let named = self.lookup.half.key.iter().map(|name| value(name).unwrap_or_default());
            let key: Vec<String> = named.collect();
            let left = masker.pass(self.relation, &values);
            for at in places.get(&key).into_iter().flatten() {
                // A row that does not leave as it is now may be there as it was.
                if left.is_none() && !own[*at].telling {
                    continue;
                }
                let private = &own[*at].private;
                let original = value(&private.source);
                let given = private.target.as_ref().and_then(|name| left.as_ref()?.get(name));
                let explained = match (original, given.cloned().flatten()) {
                    (Some(original), Some(given)) => same(&given, &original),
                    _ => false,
                };
                if explained || self.found[*at] >= MOST {
                    continue;
                }
                self.found[*at] += 1;
                suspects.push(suspect(self.pair, own[*at], key.clone()));
            }
        }
        Ok(())
    }
}

fn suspect(pair: &Arc<Pair>, watched: &Watched, row: Vec<String>) -> Suspect {
    let target_column = watched.private.target.clone().unwrap_or_default();
    Suspect {
        column: watched.name(),
        found: column(&pair.target_name, &target_column),
        pair: Some(Arc::clone(pair)),
        row,
        target_column,
        document: false,
        telling: watched.telling,
        place: Place::Own { source_column: watched.private.source.clone() },
    }
}

/// The digest of each column, NULL where it is.
fn digests<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let digest = |name: &str| {
        let known = format!("{} IS NOT NULL", sql::quoted(name));
        format!("CASE WHEN {known} THEN {} END", sql::fingerprint(&[name]))
    };
    names.map(digest).collect::<Vec<_>>().join(", ")
}
