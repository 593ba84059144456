//! The oracle of rows that were set aside: in these simulations every row that a chain
//! drops is, so what happened in the database says which letters there have to be. Each is
//! there once, whatever crashed, and made by the chain that let the rest of its transaction
//! through.

use std::collections::BTreeMap;

use kasho::position::{EpochPosition, Position};
use kasho::sink::dead::StoredLetter;
use kasho::sink::entry::{Content, Entry, Field, RawEntry};
use kasho::sink::id::Lane;

use crate::log::Happened;
use crate::stations::Rule;

/// A transaction, or a message at the same address.
type Key = (u64, bool);

/// Everything that is wrong with the letters of a stream of which everything `through` a
/// position has to be there.
pub(crate) fn check(
    happened: &[Happened],
    raw: &[RawEntry],
    letters: &[StoredLetter],
    through: Position,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found: BTreeMap<Key, BTreeMap<u64, &str>> = BTreeMap::new();
    for letter in letters {
        let position = letter.position.parse::<EpochPosition>().map(|at| at.position);
        let Ok(Position::Wal { commit_lsn, ordinal }) = position else {
            wrong.push(format!("a letter at {}", letter.position));
            continue;
        };
        let of = found.entry((commit_lsn.0, ordinal != 0)).or_default();
        if of.insert(ordinal, &letter.reason).is_some() {
            wrong.push(format!("two letters at {}", letter.position));
        }
    }
    let mut published: BTreeMap<Key, String> = BTreeMap::new();
    for raw in raw {
        let mark = Entry::decode(raw, Lane::Changes).ok().and_then(|entry| mark(&entry));
        published
            .entry((raw.id.high, raw.id.low != 0))
            .or_default()
            .push_str(&mark.unwrap_or_default());
    }
    for happened in happened {
        let key = (happened.lsn.0, happened.xid != 0);
        let letters = found.remove(&key).unwrap_or_default();
        let fits = |rule: &Rule| fits(*rule, happened, &letters, published.get(&key), through);
        let untold = happened.passed.is_empty() && letters.is_empty();
        if !untold && !happened.passed.iter().any(fits) {
            wrong.push(format!(
                "letters {letters:?} of the transaction {} at {} are not what any of {:?} drops",
                happened.xid, happened.lsn, happened.passed
            ));
        }
    }
    wrong.extend(found.keys().map(|key| format!("letters of {key:?}, which never happened")));
    wrong
}

/// Whether these are the letters that a chain makes of a transaction.
fn fits(
    rule: Rule,
    happened: &Happened,
    letters: &BTreeMap<u64, &str>,
    published: Option<&String>,
    through: Position,
) -> bool {
    let at = |ordinal| Position::Wal { commit_lsn: happened.lsn, ordinal };
    let whole = at(if happened.xid == 0 { 0 } else { Position::LAST }) <= through;
    // What is dropped at the beginning of a transaction waits for its first entry.
    let told = |ordinal| whole || (published.is_some() && at(ordinal) <= through);
    let dropped: Vec<u64> =
        happened.events.iter().map(|e| e.ordinal).filter(|n| !rule.keeps(at(*n))).collect();
    let same = letters.values().all(|made| *made == rule.digest());
    let one = published.is_none_or(|marks| marks.replace(&rule.digest(), "").is_empty());
    same && one
        && letters.keys().all(|ordinal| dropped.contains(ordinal))
        && dropped.iter().all(|ordinal| letters.contains_key(ordinal) || !told(*ordinal))
}

/// What the chain left in the row.
fn mark(entry: &Entry) -> Option<String> {
    let Content::Row { new, old, .. } = &entry.content else { return None };
    match new.as_ref().or(old.as_ref())?.get(1)? {
        Field::Text(text) => Some(text.clone()),
        _ => None,
    }
}
