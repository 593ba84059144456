//! A candidate, tried on recent rows before anybody relies on it.
//!
//! Both generations, the running one and the candidate, are run in throw-away instances
//! under the limits of production. Their imports are stand-ins: log lines and counters go
//! nowhere, and keyed hashes are made with a key of this one probe, so that what comes out
//! is no fake of anybody's; and names stay the source's, whoever gives others, so that the
//! two can be compared. Only numbers come out of it. What can go wrong is the candidate's to
//! be refused for: it fails, or stops, where the running generation does not; it leaves as
//! they are the values that it masks; or it says of a row that it is another. Rows that the
//! candidate's rules do not fit say nothing: tables change, and the stream decides. Where
//! there are no random numbers, or no rows, nothing is tried.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use kasho_plugin_sdk::Relation;
use sha2::{Digest, Sha256};

use crate::batch::{Batch, Image};

use super::chain::Chain;
use super::coverage::Action;
use super::error::{LoadError, TransformError};
use super::generation::{Bound, Generation};
use super::keys::Key;
use super::rename::Renames;
use super::samples::Samples;

/// So many values have to be there before a share of them says anything.
const FEW: usize = 8;
/// Of a hundred values of a masked column that are left as they were: a mask may hit upon
/// the same value where there are few, but no mask does so nearly always.
const UNCHANGED_PERCENT: usize = 90;

/// What a probe found.
#[derive(Debug, Default)]
pub(super) struct Probed {
    /// Why the candidate is not taken, unless it is accepted as it is.
    pub(super) errors: Vec<LoadError>,
    /// Numbers that an operator should know.
    pub(super) notes: Vec<String>,
    /// Tables whose rows may become others: they are loaded again.
    may_move: BTreeSet<String>,
}

/// Runs both on what is held. Rows of the tables `may_move` may become others.
pub(super) fn probe(
    running: &Generation,
    candidate: &Generation,
    samples: &Samples,
    may_move: &BTreeSet<String>,
) -> Probed {
    let mut probed = Probed { may_move: may_move.clone(), ..Probed::default() };
    let batches = samples.batches();
    let mut salt = [0; 32];
    if batches.is_empty() || getrandom::fill(&mut salt).is_err() {
        return probed;
    }
    let (mut before, mut after) = (stand_in(running, &salt), stand_in(candidate, &salt));
    for batch in &batches {
        let (old, new) = (run(&mut before, batch), run(&mut after, batch));
        probed.compare(batch, candidate, &old, &new);
    }
    probed
}

/// Adds how the candidate with this digest is taken all the same.
pub(super) fn ways_on(reasons: &mut [LoadError], digest: &str) {
    for reason in reasons {
        let how = format!("; if that is meant, confirm with accept = \"{digest}\"");
        reason.text.push_str(&how);
    }
}

/// A chain of the same bindings whose imports are stand-ins.
fn stand_in(generation: &Generation, salt: &[u8; 32]) -> Chain {
    let bound = generation.bound.iter().map(|bound| {
        let key = bound.key.as_deref().and_then(|key| key_for_now(key, salt));
        Arc::new(Bound::stand_in(bound, key))
    });
    Chain::new(Arc::new(Generation {
        run: generation.run.clone(),
        number: generation.number,
        digest: generation.digest.clone(),
        since: generation.since,
        host: Arc::clone(&generation.host),
        bound: bound.collect(),
        policy: generation.policy,
        // Both are looked at under the source's names, whoever gives others.
        renames: Renames::none(),
        coverage: generation.coverage.clone(),
        warnings: Vec::new(),
        plans: Vec::new(),
        ready: Mutex::new(None),
        kept: Arc::clone(&generation.kept),
        dead: generation.dead.clone(),
        seen: Arc::default(),
        told: 0,
    }))
}

/// The same one for the same key in one probe, and another in every other.
fn key_for_now(key: &Key, salt: &[u8; 32]) -> Option<Arc<Key>> {
    let hash = Sha256::new().chain_update(salt).chain_update(key.check_value());
    Key::new(key.name(), hash.finalize().into()).ok().map(Arc::new)
}

/// How one chain did with one batch.
struct Outcome {
    /// What is left of it; none if it did not fit, or came to an error.
    left: Option<Batch>,
    /// Why it stopped, as far as that is a plugin's doing.
    stopped: Option<String>,
    /// Calls that failed, and rows in error.
    failures: u64,
    errors: u64,
}

fn run(chain: &mut Chain, batch: &Batch) -> Outcome {
    let sums = |chain: &Chain| {
        let figures = chain.generation().bound.iter().map(|bound| &bound.figures);
        figures.fold((0, 0), |(failures, errors), figures| {
            // A call that was late once says more of the machine; one that is so again stops.
            let late = figures.late.load(Relaxed);
            let failed = figures.failures.load(Relaxed).saturating_sub(late);
            (failures + failed, errors + figures.errors.load(Relaxed))
        })
    };
    let before = sums(chain);
    let mut left = batch.clone();
    let (left, stopped) = match chain.apply(&mut left) {
        Ok(()) => (Some(left), None),
        // The table is another by now, or one that does not leave.
        Err(TransformError::Table { .. }) => (None, None),
        Err(
            TransformError::Row { reason, binding, .. }
            | TransformError::Deadline { reason, binding, .. }
            | TransformError::Start { reason, binding, .. },
        ) => (None, Some(format!("`{binding}`: {reason}"))),
        Err(error @ (TransformError::Ddl { .. } | TransformError::Internal(_))) => {
            (None, Some(error.to_string()))
        }
    };
    let after = sums(chain);
    Outcome { left, stopped, failures: after.0 - before.0, errors: after.1 - before.1 }
}

impl Probed {
    fn compare(&mut self, batch: &Batch, candidate: &Generation, old: &Outcome, new: &Outcome) {
        let rows = batch.rows.len();
        let Some(relation) = batch.relations.first() else { return };
        let table = relation.qualified();
        let moves = self.may_move.contains(&table);
        let mut refuse = |text: String| {
            let text = format!("tried on {rows} recent rows: {text}");
            self.errors.push(LoadError::whole(table.clone(), text));
        };
        match (&new.stopped, &old.stopped) {
            (Some(reason), None) => {
                return refuse(format!("it would have stopped the stream, {reason}"));
            }
            (Some(_), Some(_)) => return,
            _ if new.failures > old.failures => {
                return refuse(format!("{} calls of its plugins failed", new.failures));
            }
            _ => {}
        }
        let Some(left) = &new.left else { return };
        for (column, unchanged, of) in unchanged(batch, left, candidate, relation) {
            let was = old.left.as_ref().map_or(0, |old| same(batch, old, column).0);
            if of >= FEW && unchanged * 100 >= of * UNCHANGED_PERCENT && unchanged > was {
                refuse(format!(
                    "it masks column {column} and leaves {unchanged} of {of} values as they were"
                ));
            }
        }
        for (column, moved) in moved(old.left.as_ref().filter(|_| !moves), left, relation) {
            refuse(format!(
                "column {column} says where rows are, and {moved} of its values would become \
                 others than now"
            ));
        }
        let dropped = |left: &Batch| left.rows.iter().filter(|row| row.dropped).count();
        let was = old.left.as_ref().map_or(0, dropped);
        let (is, errors) = (dropped(left), new.errors.saturating_sub(old.errors));
        if is > was || errors > 0 {
            self.notes.push(format!(
                "{table}: of {rows} recent rows that it was tried on, {is} were dropped ({was} \
                 before), {errors} more were in error"
            ));
        }
    }
}

/// Masked columns, with the values that were left as they were, and all values.
fn unchanged<'a>(
    batch: &'a Batch,
    left: &'a Batch,
    candidate: &'a Generation,
    relation: &'a Relation,
) -> impl Iterator<Item = (&'a str, usize, usize)> {
    let name = relation.qualified();
    let covered = candidate.coverage.find(relation.id, &name).map(|(_, table)| table);
    let masked = move |column: &str| {
        covered.and_then(|t| t.columns.get(column)).is_some_and(|c| c.action == Action::Mask)
    };
    let columns = relation.columns.iter().filter(move |column| masked(&column.name));
    columns.map(move |column| {
        let (unchanged, of) = same(batch, left, &column.name);
        (column.name.as_str(), unchanged, of)
    })
}

/// Texts of a column in both, and how many of them are the same.
fn same(before: &Batch, after: &Batch, column: &str) -> (usize, usize) {
    let mut counted = (0, 0);
    for at in 0..before.rows.len() {
        // Nothing may stand for nothing.
        let was = value(before, at, column, false).filter(|text| !text.is_empty());
        if let (Some(was), Some(is)) = (was, value(after, at, column, false)) {
            counted.0 += usize::from(was == is);
            counted.1 += 1;
        }
    }
    counted
}

/// Columns that identify rows, with the values that differ, of rows that both let pass.
fn moved<'a>(
    old: Option<&'a Batch>,
    new: &'a Batch,
    relation: &'a Relation,
) -> impl Iterator<Item = (&'a str, usize)> {
    let keys = relation.columns.iter().filter(|column| column.key);
    keys.filter_map(move |column| {
        let (old, name) = (old?, column.name.as_str());
        let both = (0..new.rows.len()).flat_map(|at| [(at, false), (at, true)]);
        let differ = both.filter(|(at, image)| {
            let texts = value(old, *at, name, *image).zip(value(new, *at, name, *image));
            texts.is_some_and(|(was, is)| was != is)
        });
        Some((name, differ.count())).filter(|(_, count)| *count > 0)
    })
}

/// The text of a column in a row's new or old image, if the row is left and has one. Columns
/// that never leave are gone from it, so it goes by their names.
fn value<'a>(batch: &'a Batch, row: usize, column: &str, old: bool) -> Option<&'a [u8]> {
    let row = batch.rows.get(row).filter(|row| !row.dropped)?;
    let image: Option<Image> = if old { row.old } else { row.new };
    let column = batch.relation_of(row).column(column)?;
    batch.text(*batch.cells(image?).get(column)?)
}

#[cfg(test)]
mod tests {
    use kasho_plugin_sdk::batch::Image as Side;

    use super::super::testing::{Guest, Setup, catalog, insert, said, users};
    use super::*;

    const ROWS: u32 = 64;

    fn masks(fake: &str) -> Guest {
        Guest::new(&[("email", "mask"), ("id", "pass")]).masks(fake, &[Side::New])
    }

    fn generation(guest: &Guest) -> Generation {
        Setup::new(guest).load(&catalog(&[&users()])).unwrap()
    }

    /// Some rows whose e-mails are all this one.
    fn rows(email: &str, count: usize) -> Samples {
        let mut batch = insert(email);
        for _ in 1..count {
            let row = batch.rows[0].clone();
            batch.rows.push(row);
        }
        let samples = Samples::new(ROWS);
        samples.take(&batch);
        samples
    }

    fn refusal(running: &Guest, candidate: &Guest, samples: &Samples) -> String {
        let probed = probe(&generation(running), &generation(candidate), samples, &BTreeSet::new());
        said(&probed.errors)
    }

    #[test]
    fn a_candidate_that_does_as_the_one_before_is_fine() {
        let probed = probe(
            &generation(&masks("a")),
            &generation(&masks("b")),
            &rows("x@y", 20),
            &BTreeSet::new(),
        );
        assert!(probed.errors.is_empty() && probed.notes.is_empty(), "{probed:?}");
        assert_eq!(refusal(&masks("a"), &masks("b").body("unreachable"), &Samples::new(ROWS)), "");
    }

    #[test]
    fn a_candidate_that_traps_is_refused_and_shows_no_row() {
        let text = refusal(&masks("a"), &masks("b").body("unreachable"), &rows("x@secret", 3));
        assert!(text.contains("3 recent rows: it would have stopped the stream"), "{text}");
        assert!(text.contains("`mask`") && !text.contains("secret"), "{text}");
        // What fails already is not worse for failing.
        let fails = masks("a").body("unreachable");
        assert_eq!(refusal(&fails, &fails.clone().names("public.users", &[]), &rows("x", 3)), "");
        // Where rows are lost instead, so it is too.
        let mut setup = Setup::new(&masks("b").body("unreachable"));
        setup.binding().on_error = super::super::OnError::Drop;
        setup.binding().allow_misses = true;
        let candidate = setup.load(&catalog(&[&users()])).unwrap();
        let probed = probe(&generation(&masks("a")), &candidate, &rows("x", 3), &BTreeSet::new());
        assert!(said(&probed.errors).contains("calls of its plugins failed"));
    }

    #[test]
    fn a_call_that_was_late_once_is_no_failed_call() {
        // Some hundred milliseconds: more than the deadline, less than ten of them.
        let mut slow = masks("b");
        let steps = "(local $i i32) (loop $again (local.set $i (i32.add (local.get $i) (i32.const 1))) \
                     (br_if $again (i32.lt_u (local.get $i) (i32.const 1200000000))))";
        slow.batch = format!("{steps} {}", slow.batch);
        let mut setup = Setup::new(&slow);
        setup.binding().deadline_ms = 100;
        let candidate = setup.load(&catalog(&[&users()])).unwrap();
        let said = (0..20).map(|_| {
            let none = BTreeSet::new();
            said(&probe(&generation(&masks("a")), &candidate, &rows("x@y", 1), &none).errors)
        });
        // A machine that is far too busy makes it late twice, which is another matter.
        let once = said.into_iter().find(|text| !text.contains("have stopped"));
        assert_eq!(once.as_deref(), Some(""));
    }

    #[test]
    fn a_mask_that_masks_nothing_is_refused() {
        let same = masks("kept@as.it.is");
        let text = refusal(&masks("a"), &same, &rows("kept@as.it.is", 20));
        assert!(text.contains("it masks column email and leaves 20 of 20 values"), "{text}");
        assert!(!text.contains("kept@"), "{text}");
        assert_eq!(refusal(&masks("a"), &same, &rows("kept@as.it.is", FEW - 1)), "", "too few");
        assert_eq!(refusal(&same, &same, &rows("kept@as.it.is", 20)), "", "nothing new");
    }

    #[test]
    fn names_that_plugins_give_hide_nothing() {
        let renaming = |guest: Guest, column: &str| {
            let mut guest = guest;
            guest.wanted["ok"]["rename"] = serde_json::json!({"columns": {column: "called"}});
            guest
        };
        let same = masks("kept@as.it.is");
        for (before, after) in [
            (masks("a"), renaming(same.clone(), "email")),
            (renaming(masks("a"), "email"), renaming(same.clone(), "email")),
        ] {
            let text = refusal(&before, &after, &rows("kept@as.it.is", 20));
            assert!(text.contains("it masks column email and leaves 20 of 20 values"), "{text}");
        }
        let kept = renaming(same, "email");
        assert_eq!(
            refusal(&kept, &kept.clone().names("public.users", &[]), &rows("kept@as.it.is", 20)),
            ""
        );
        let sides = [Side::New];
        let key = |fake: &str| Guest::new(&[("id", "mask"), ("email", "pass")]).masks(fake, &sides);
        let text = refusal(&key("7"), &renaming(key("8"), "id"), &rows("x", 5));
        assert!(text.contains("column id says where rows are, and 5 of its values"), "{text}");
    }

    #[test]
    fn an_identity_that_moves_although_it_says_no_such_thing_is_refused() {
        let sides = [Side::New];
        let key = |fake: &str| Guest::new(&[("id", "mask"), ("email", "pass")]).masks(fake, &sides);
        let text = refusal(&key("7"), &key("8"), &rows("x", 5));
        assert!(text.contains("column id says where rows are, and 5 of its values"), "{text}");
        assert_eq!(refusal(&key("7"), &key("7"), &rows("x", 5)), "");
    }

    #[test]
    fn rows_that_are_dropped_are_counted() {
        let drops = Guest::new(&[("email", "read"), ("id", "read")]).judges(1);
        let keeps = Guest::new(&[("email", "read"), ("id", "read")]);
        let probed =
            probe(&generation(&keeps), &generation(&drops), &rows("x", 5), &BTreeSet::new());
        assert_eq!(probed.errors, []);
        let note = &probed.notes[0];
        assert!(
            note.contains("of 5 recent rows that it was tried on, 5 were dropped (0"),
            "{note}"
        );
    }
}
