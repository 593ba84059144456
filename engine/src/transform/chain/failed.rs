//! What becomes of a row that a plugin failed on, or says is in error: the binding's
//! policy. A row that was set aside before and came again is never a reason to stop when it
//! fails: its letter is replaced by one that says how it failed this time, or stays if there
//! can be no such letter. A plugin that drops it now has it leave as a delete.
//!
//! What can go wrong: the policy is to halt; or a row is to be set aside, and nothing says
//! which one it is, or there is no key to seal that with.

use std::sync::Arc;

use kasho_plugin_sdk::Op;

use crate::batch::{Batch, Closing, Letter, Stays};

use super::super::config::OnError;
use super::super::error::{Stop, TransformError};
use super::super::exchange::Link;
use super::super::figures::Figures;
use super::super::outcome::Decided;
use super::super::plan::LinkPlan;
use super::super::rows::Plans;
use super::super::seal::row_key;
use super::{Chain, named};

/// Why a row is in error.
#[derive(Debug)]
pub(super) struct Reason {
    /// Which text of the plugin's; none if it failed.
    pub(super) index: Option<u16>,
    /// In words; no row's value is in them.
    pub(super) text: String,
}

impl Reason {
    /// A failure, or a refusal of the host's.
    pub(super) fn told(text: impl Into<String>) -> Reason {
        Reason { index: None, text: text.into() }
    }
}

impl Chain {
    /// Keeps what the batch's cells are before anybody rewrites them, if a row of it may
    /// have to be found again.
    pub(super) fn keep_originals(&mut self, batch: &Batch, plans: &Plans) {
        let sets_aside = |plan: &super::RelationPlan| {
            let links = plan.links.iter().zip(&self.links).filter(|(plan, _)| plan.is_some());
            links.map(|(_, link)| link).any(|l| l.bound.config.on_error == OnError::DeadLetter)
        };
        self.originals.clear();
        if !batch.aside.closings.is_empty() || plans.iter().flatten().any(|plan| sets_aside(plan)) {
            self.originals.extend_from_slice(batch.all_cells());
        }
    }

    /// The text that the plugin declared for an error, with the column.
    pub(super) fn reason(&self, at: usize, plan: &LinkPlan, decided: &Decided) -> Reason {
        let (index, slot) = decided.error.unwrap_or((u16::MAX, super::NO_SLOT));
        let text = self.links[at].bound.needs.texts.get(usize::from(index));
        let index = text.map(|_| index);
        let text = text.map_or("an error without a text", String::as_str);
        let text = match plan.slots.get(usize::from(slot)) {
            Some(slot) => format!("column {}: {text}", plan.relation.columns[slot.column].name),
            None => text.to_owned(),
        };
        Reason { index, text }
    }

    /// The binding's policy for one row.
    pub(super) fn row_error(
        &mut self,
        batch: &mut Batch,
        at: usize,
        plan: &Arc<LinkPlan>,
        row: u32,
        reason: Reason,
    ) -> Result<(), TransformError> {
        let figures = &self.links[at].bound.figures;
        Figures::add(&figures.errors, 1);
        let again = came_again(batch, row).map(|closing| closing.letter.clone());
        match self.links[at].bound.config.on_error {
            OnError::Pass => Figures::add(&figures.passed, 1),
            OnError::DeadLetter => self.set_aside(batch, at, plan, row, reason, again)?,
            _ if again.is_some() => self.set_aside(batch, at, plan, row, reason, again)?,
            OnError::Halt => {
                return Err(stop(&self.links[at], batch, plan, row, reason.text, Stop::Halt));
            }
            OnError::Drop => {
                Figures::add(&figures.lost, 1);
                batch.rows[row as usize].dropped = true;
            }
        }
        Ok(())
    }

    /// Drops a row, with a letter that says which one it was.
    fn set_aside(
        &mut self,
        batch: &mut Batch,
        at: usize,
        plan: &Arc<LinkPlan>,
        row: u32,
        reason: Reason,
        again: Option<String>,
    ) -> Result<(), TransformError> {
        let link = &self.links[at];
        let there = &batch.rows[row as usize];
        let (relation, images) = (&plan.relation, (there.new, there.old));
        let table = relation.qualified();
        let key = row_key(batch, &self.originals, relation, images).ok_or(Stop::NoKey);
        let key = key.and_then(|key| {
            let dead = self.generation.dead.as_ref().ok_or(Stop::NoDeadKey)?;
            dead.seal(&table, &key).map_err(|()| Stop::NoSeal)
        });
        let key = match (key, &again) {
            (Ok(key), _) => key,
            (Err(policy), None) => {
                return Err(stop(link, batch, plan, row, reason.text, policy));
            }
            (Err(policy), Some(letter)) => {
                // No letter can take the place of the one there is, so that one stays.
                Figures::add(&link.bound.figures.lost, 1);
                batch.aside.closings.retain(|closing| closing.letter != *letter);
                let why = format!(
                    "it failed once more ({}), and no new letter can be made of it, for {}",
                    reason.text,
                    policy.lacks()
                );
                batch.aside.stays.push(Stays { letter: letter.clone(), why });
                batch.rows[row as usize].dropped = true;
                return Ok(());
            }
        };
        let (binding, plugin) = named(link);
        Figures::add(&link.bound.figures.dead, 1);
        batch.aside.letters.push(Letter {
            position: there.position,
            op: there.op,
            oid: relation.id,
            table,
            binding,
            plugin,
            sha256: link.bound.compiled.sha256.clone(),
            index: reason.index,
            reason: reason.text,
            key,
            again,
        });
        batch.rows[row as usize].dropped = true;
        Ok(())
    }

    /// The same of a TRUNCATE of one table: whether it stands. It is no row, and cannot be
    /// set aside.
    pub(super) fn truncate_error(
        &self,
        batch: &Batch,
        at: usize,
        plan: &LinkPlan,
        row: u32,
        reason: Reason,
    ) -> Result<bool, TransformError> {
        let link = &self.links[at];
        Figures::add(&link.bound.figures.errors, 1);
        match link.bound.config.on_error {
            OnError::Halt => Err(stop(link, batch, plan, row, reason.text, Stop::Halt)),
            OnError::DeadLetter => Err(stop(link, batch, plan, row, reason.text, Stop::NoKey)),
            OnError::Drop => {
                Figures::add(&link.bound.figures.lost, 1);
                Ok(false)
            }
            OnError::Pass => {
                Figures::add(&link.bound.figures.passed, 1);
                Ok(true)
            }
        }
    }
}

/// What closes the letter of this row, if it was set aside before and came again.
pub(super) fn came_again(batch: &Batch, row: u32) -> Option<&Closing> {
    let position = batch.rows[row as usize].position;
    batch.aside.closings.iter().find(|closing| closing.row && closing.position == position)
}

/// The relations, as they leave, of which rows may be lost.
pub(super) fn mark_lossy(batch: &mut Batch, plans: &Plans) {
    for (at, plan) in (0..).zip(plans) {
        let Some(plan) = plan.as_ref().filter(|plan| plan.lossy) else { continue };
        let at = match &plan.leaves {
            Some(leaves) => batch.relation_index(&leaves.relation),
            None => at,
        };
        batch.aside.lossy.push(at);
    }
    // Whoever writes rows looks among them for each.
    batch.aside.lossy.sort_unstable();
}

fn stop(
    link: &Link,
    batch: &Batch,
    plan: &LinkPlan,
    row: u32,
    reason: String,
    policy: Stop,
) -> TransformError {
    let (binding, plugin) = named(link);
    let row = &batch.rows[row as usize];
    let (table, op, position): (_, Op, _) = (plan.relation.qualified(), row.op, row.position);
    TransformError::Row { binding, plugin, table, op, position, reason, policy }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use kasho_plugin_sdk::batch::Image as Side;

    use super::super::super::config::KeySource;
    use super::super::super::testing::{Guest, Setup, catalog, host, insert, push, shown, users};
    use super::super::super::testing::{said, table, transaction};
    use super::super::super::{DeadKey, Options, load};
    use super::*;
    use crate::position::Position;

    const SECRET: &str = "ada@lovelace.org";

    fn setup(guest: &Guest, policy: OnError) -> Setup {
        let mut setup = Setup::new(guest);
        setup.write("dead.key", "0123456789abcdef".repeat(4).as_bytes());
        let file = setup.folder.path().join("dead.key");
        setup.config.dead_letter_key = Some(KeySource::File(file));
        let binding = setup.binding();
        (binding.on_error, binding.allow_misses) = (policy, true);
        setup
    }

    fn fails() -> Guest {
        Guest::new(&[("email", "mask"), ("id", "pass")]).judges(2)
    }

    fn key(setup: &Setup) -> DeadKey {
        DeadKey::read(setup.config.dead_letter_key.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_dead_letter_says_everything_but_the_row() {
        let setup = setup(&fails(), OnError::DeadLetter);
        let users = users();
        let mut chain = setup.chain(&[&users]);
        let mut batch = transaction();
        push(&mut batch, &users, Op::Insert, &["1", SECRET], &[]);
        push(&mut batch, &users, Op::Update, &["3", SECRET], &["2", "-"]);
        push(&mut batch, &users, Op::Delete, &[], &["4", "-"]);
        chain.apply(&mut batch).unwrap();
        assert!(shown(&batch).is_empty() && batch.rows.iter().all(|row| row.dropped));
        let told: Vec<_> = batch
            .aside
            .letters
            .iter()
            .map(|l| (l.position, l.op, l.table.as_str(), l.reason.as_str(), l.index))
            .collect();
        let reason = ("public.users", "column email: not an e-mail", Some(0));
        let of = |at: usize, op| (batch.rows[at].position, op, reason.0, reason.1, reason.2);
        assert_eq!(told, [of(0, Op::Insert), of(1, Op::Update), of(2, Op::Delete)]);
        let opened =
            |at: usize| key(&setup).open("public.users", &batch.aside.letters[at].key).unwrap();
        let is = |id: &str| Some(vec![Some(id.to_owned())]);
        assert_eq!((opened(0).new, opened(0).old), (is("1"), None));
        assert_eq!((opened(1).new, opened(1).old), (is("3"), is("2")));
        assert_eq!((opened(2).new, opened(2).old), (None, is("4")));
        assert!(!format!("{:?}", batch.aside.letters).contains("ada"));
        assert_eq!(batch.aside.lossy, [0], "later changes of the table may miss");
        let generation = chain.generation();
        let figures = &generation.figures()["mask"];
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed);
        assert_eq!((count(&figures.errors), count(&figures.dead)), (3, 3));
    }

    #[test]
    fn a_letter_holds_the_key_as_it_came_whatever_was_made_of_it() {
        let masks = Guest::new(&[("id", "mask"), ("email", "pass")]);
        let masks = masks.masks("fake", &[Side::New]);
        let mut setup = setup(&masks, OnError::Halt);
        let policy = setup.bind("second", &fails(), &["public.users"]);
        (policy.on_error, policy.allow_misses) = (OnError::DeadLetter, true);
        let mut batch = insert(SECRET);
        setup.chain(&[&users()]).apply(&mut batch).unwrap();
        let opened = key(&setup).open("public.users", &batch.aside.letters[0].key).unwrap();
        assert_eq!(opened.new, Some(vec![Some("1".to_owned())]));
        assert_eq!(batch.aside.letters[0].binding, "second");
    }

    #[test]
    fn a_row_that_came_again_stops_nobody() {
        for policy in [OnError::Halt, OnError::Drop, OnError::DeadLetter] {
            let setup = setup(&fails(), policy);
            let mut batch = insert(SECRET);
            let position = batch.rows[0].position;
            let letter = "7-0".to_owned();
            batch.aside.closings.push(Closing { position, letter, row: true, closes: true });
            setup.chain(&[&users()]).apply(&mut batch).unwrap();
            assert_eq!(batch.aside.letters[0].again.as_deref(), Some("7-0"), "{policy:?}");
        }
    }

    #[test]
    fn a_row_that_came_again_and_is_filtered_now_leaves_as_a_delete() {
        let drops = Guest::new(&[("id", "read"), ("email", "read")]).judges(1);
        let setup = setup(&drops, OnError::Halt);
        let mut batch = insert(SECRET);
        setup.chain(&[&users()]).apply(&mut batch).unwrap();
        assert!(shown(&batch).is_empty(), "the plugin drops rows");
        let mut batch = insert(SECRET);
        let (position, letter) = (batch.rows[0].position, "7-0".to_owned());
        batch.aside.closings.push(Closing { position, letter, row: true, closes: true });
        setup.chain(&[&users()]).apply(&mut batch).unwrap();
        let shown = shown(&batch);
        assert!(shown.len() == 1 && shown[0].starts_with("delete public.users"), "{shown:?}");
        assert!(!shown[0].contains(SECRET), "{shown:?}");
    }

    #[test]
    fn what_cannot_be_found_again_is_not_set_aside() {
        let setup = setup(&fails(), OnError::DeadLetter);
        let bare = table(7, "users", &["id", "email"]);
        let told = setup.refusal(&[&bare]);
        assert!(told.contains("no primary key by which one could be found again"), "{told}");
        // Which a table may become later.
        let lags = super::super::super::Catalog { caught_up: false, ..catalog(&[&bare]) };
        let generation = setup.load(&lags).unwrap_or_else(|errors| panic!("{}", said(&errors)));
        let mut batch = transaction();
        push(&mut batch, &bare, Op::Insert, &["1", SECRET], &[]);
        let error = Chain::new(Arc::new(generation)).apply(&mut batch).unwrap_err().to_string();
        assert!(error.contains("nothing says which row it is"), "{error}");
        assert!(!error.contains("ada"), "{error}");
    }

    #[test]
    fn a_table_that_lost_rows_stays_marked() {
        let lossy = setup(&fails(), OnError::Drop);
        let before = lossy.load(&catalog(&[&users()])).unwrap();
        let masks = Guest::new(&[("email", "mask"), ("id", "pass")]).masks("x", &[Side::New]);
        let strict = setup(&masks, OnError::Halt);
        let options = Options { running: Some(before.coverage()), number: 2, ..Options::default() };
        let after = load(&host(), &strict.config, &catalog(&[&users()]), options);
        let after = after.unwrap_or_else(|errors| panic!("{}", said(&errors)));
        let mut batch = insert(SECRET);
        Chain::new(Arc::new(after)).apply(&mut batch).unwrap();
        assert_eq!((shown(&batch).len(), batch.aside.lossy), (1, vec![0]));
        let mut batch = insert(SECRET);
        strict.chain(&[&users()]).apply(&mut batch).unwrap();
        assert!(batch.aside.lossy.is_empty(), "nothing was ever lost");
        // Nor is anything lost of what is not loaded yet.
        let options = Options { fresh: true, ..options };
        let fresh = load(&host(), &strict.config, &catalog(&[&users()]), options);
        let fresh = fresh.unwrap_or_else(|errors| panic!("{}", said(&errors)));
        let mut batch = insert(SECRET);
        Chain::new(Arc::new(fresh)).apply(&mut batch).unwrap();
        assert!(batch.aside.lossy.is_empty(), "a new epoch loads it all");
    }

    #[test]
    fn a_table_that_lost_rows_stays_marked_without_any_binding() {
        let mut reads = Guest::new(&[("email", "read"), ("id", "read")]);
        reads.wanted["ok"]["rows"] = serde_json::json!("");
        let mut setup = setup(&reads, OnError::Drop);
        let before = setup.load(&catalog(&[&users()])).unwrap();
        setup.config.transform.clear();
        let options = Options { running: Some(before.coverage()), number: 2, ..Options::default() };
        let after = load(&host(), &setup.config, &catalog(&[&users()]), options);
        let after = after.unwrap_or_else(|errors| panic!("{}", said(&errors)));
        let mut chain = Chain::new(Arc::new(after));
        for _ in 0..2 {
            let mut batch = insert(SECRET);
            assert!(!chain.passes(&batch), "readers have to be told");
            chain.apply(&mut batch).unwrap();
            assert_eq!((shown(&batch).len(), batch.aside.lossy), (1, vec![0]));
        }
    }

    #[test]
    fn a_row_that_became_a_delete_is_set_aside_by_the_key_that_it_came_with() {
        let deletes = Guest::new(&[("id", "read"), ("email", "read")]).judges(4);
        let mut setup = setup(&deletes, OnError::Halt);
        let second = setup.bind("second", &fails(), &["public.users"]);
        (second.on_error, second.allow_misses) = (OnError::DeadLetter, true);
        let users = users();
        let mut batch = transaction();
        push(&mut batch, &users, Op::Update, &["1", SECRET], &[]);
        push(&mut batch, &users, Op::Update, &["3", SECRET], &["2", "-"]);
        setup.chain(&[&users]).apply(&mut batch).unwrap();
        let keys = batch.aside.letters.iter().map(|letter| {
            let key = key(&setup).open("public.users", &letter.key).unwrap();
            (letter.op, key.new, key.old)
        });
        let keys: Vec<_> = keys.collect();
        let is = |id: &str| Some(vec![Some(id.to_owned())]);
        assert_eq!(keys, [(Op::Delete, None, is("1")), (Op::Delete, None, is("2"))]);
    }

    #[test]
    fn a_row_that_came_again_keeps_its_letter_where_none_can_take_its_place() {
        let (users, bare) = (users(), table(7, "users", &["id", "email"]));
        for (relation, key) in [(&users, false), (&bare, true)] {
            let mut setup = setup(&fails(), OnError::Halt);
            if !key {
                setup.config.dead_letter_key = None;
            }
            let mut batch = transaction();
            push(&mut batch, relation, Op::Insert, &["1", SECRET], &[]);
            let position = batch.rows[0].position;
            for (letter, position) in [("7-0", position), ("8-0", Position::Bootstrap(1))] {
                let letter = letter.to_owned();
                batch.aside.closings.push(Closing { position, letter, row: true, closes: true });
            }
            setup.chain(&[relation]).apply(&mut batch).unwrap();
            assert!(shown(&batch).is_empty() && batch.aside.letters.is_empty());
            let closed: Vec<_> = batch.aside.closings.iter().map(|c| &*c.letter).collect();
            assert_eq!(closed, ["8-0"], "the letter stays, and others are closed");
            let [Stays { letter, why }] = &*batch.aside.stays else { panic!("one stays") };
            let lacks = if key { "nothing says which row" } else { "dead_letter_key cannot" };
            assert!(letter == "7-0" && why.contains("not an e-mail") && why.contains(lacks));
        }
    }

    #[test]
    fn policies_that_lose_rows_are_confirmed() {
        let mut setup = setup(&fails(), OnError::Drop);
        setup.binding().allow_misses = false;
        let told = setup.refusal(&[&users()]);
        assert!(told.contains("\"drop\" leaves rows out whose later changes will miss"), "{told}");
        setup.binding().on_error = OnError::DeadLetter;
        setup.config.dead_letter_key = None;
        let told = setup.refusal(&[&users()]);
        assert!(told.contains("\"dead_letter\" leaves rows out"), "{told}");
        assert!(told.contains("set dead_letter_key = { file ="), "{told}");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_told_with_everything_else() {
        let mut setup = setup(&fails(), OnError::DeadLetter);
        setup.write("dead.key", b"no key");
        setup.binding().plugin = "gone.wasm".to_owned();
        let told = setup.refusal(&[&users()]);
        assert!(told.contains("dead_letter_key: ") && told.contains("gone.wasm"), "{told}");
    }
}
