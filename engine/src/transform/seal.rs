//! The keys of rows that were set aside, sealed: whoever reads Redis learns which tables
//! had trouble, and not whose rows. Authenticated encryption (ChaCha20-Poly1305, RFC 8439)
//! under a key of its own, made from `dead_letter_key`, with a nonce drawn for each letter:
//! 2^32 letters under one key is what such nonces allow, and no more than 100,000 lie there
//! at a time. The table's name is authenticated beside, and lengths are hidden in steps.
//!
//! What can go wrong: no random numbers; a letter that was sealed under another key, or
//! changed since, which opens as nothing.

use std::fmt;

use kasho_plugin_sdk::{Identity, Relation};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Cell, Image};

use super::config::KeySource;
use super::keys::{Key, KeyError};

/// Sealed texts are as long as a multiple of this, so that a key's length tells little.
const STEP: usize = 128;
/// Name under which errors speak of the key.
const NAME: &str = "dead_letter_key";

/// What says which row it was.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowKey {
    /// The columns.
    pub columns: Vec<String>,
    /// Their values after the change; none of a deleted row. NULL is none.
    pub new: Option<Vec<Option<String>>>,
    /// Their values before it, if they were others; of a deleted row, its values.
    pub old: Option<Vec<Option<String>>>,
}

impl fmt::Debug for RowKey {
    /// Values are row data: they stay out of logs even by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey({})", self.columns.join(", "))
    }
}

/// The key that letters are sealed under.
pub struct DeadKey {
    key: LessSafeKey,
    check: String,
}

impl fmt::Debug for DeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadKey({})", self.check)
    }
}

impl DeadKey {
    /// Reads `dead_letter_key`.
    ///
    /// # Errors
    /// As of any key.
    pub fn read(source: &KeySource) -> Result<DeadKey, KeyError> {
        let master = Key::read(NAME, source)?;
        // Domains of plugins cannot hold a zero byte, so this one is nobody else's, and the
        // letters' key tells nothing of the other should one file serve for both.
        let domain = master.domain("\0dead");
        let bytes = [domain.prf(b"0"), domain.prf(b"1")].concat();
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
        let key = key.map_err(|_| KeyError::NotAKey(NAME.to_owned()))?;
        Ok(DeadKey { key: LessSafeKey::new(key), check: master.check_value().to_owned() })
    }

    /// Says whether a key is the same, and nothing else about it.
    #[must_use]
    pub fn check_value(&self) -> &str {
        &self.check
    }

    /// Seals a key of a row of this table.
    ///
    /// # Errors
    /// There are no random numbers.
    pub(super) fn seal(&self, table: &str, key: &RowKey) -> Result<Vec<u8>, ()> {
        let mut text = serde_json::to_vec(key).map_err(drop)?;
        // What follows the JSON is white space.
        text.resize(text.len().next_multiple_of(STEP), b' ');
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(drop)?;
        let sealed = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(beside(table)),
            &mut text,
        );
        sealed.map_err(drop)?;
        Ok([&nonce[..], &text].concat())
    }

    /// The key of a row of this table; none if it was sealed under another key, or of
    /// another table, or is damaged.
    #[must_use]
    pub fn open(&self, table: &str, sealed: &[u8]) -> Option<RowKey> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), sealed.to_vec());
        let text = self.key.open_in_place(nonce, Aad::from(beside(table)), &mut text).ok()?;
        serde_json::from_slice(text).ok()
    }
}

fn beside(table: &str) -> Vec<u8> {
    [b"kasho/dead/1\0", table.as_bytes()].concat()
}

/// The places of the columns that say which row a row is, for whoever looks for it in the
/// source. Under FULL every column identifies, and a letter holds no row: there, as where
/// nothing identifies, it is what has an index of its own and is never NULL, which holds
/// the primary key if there is one.
pub(super) fn key_columns(relation: &Relation) -> Vec<usize> {
    let by_key = matches!(relation.identity, Identity::Default | Identity::Index);
    let keys = |by_key: bool| {
        let all = relation.columns.iter().enumerate();
        let keys = all.filter(|(_, c)| if by_key { c.key } else { c.unique && c.not_null });
        keys.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let found = keys(by_key);
    if found.is_empty() && by_key { keys(false) } else { found }
}

/// The key of a row as it came, before anybody rewrote it; none if it is not known.
/// `cells` are all of the batch as they came.
pub(super) fn row_key(
    batch: &Batch,
    cells: &[Cell],
    relation: &Relation,
    (new, old): (Option<Image>, Option<Image>),
) -> Option<RowKey> {
    let places = key_columns(relation);
    if places.is_empty() || relation.is_virtual() {
        return None;
    }
    let cell = |image: Option<Image>, at: usize| {
        let cells = image.and_then(|image| cells.get(image.range()));
        cells.and_then(|cells| cells.get(at)).copied()
    };
    let text = |cell: Cell| match cell {
        Cell::Text(span) => Some(Some(String::from_utf8_lossy(batch.span(span)).into_owned())),
        Cell::Null => Some(None),
        Cell::Unchanged | Cell::Absent => None,
    };
    let before: Option<Vec<_>> = places.iter().map(|at| text(cell(old, *at)?)).collect();
    // What was not sent anew is as it was.
    let after = |at: &usize| text(cell(new, *at)?).or_else(|| text(cell(old, *at)?));
    let after: Option<Vec<_>> = new.and_then(|_| places.iter().map(after).collect());
    let (new, old) = match (new, after, before) {
        (Some(_), None, _) | (None, _, None) => return None,
        (Some(_), after, before) if after == before => (after, None),
        (_, after, before) => (after, before),
    };
    let columns = places.iter().map(|at| relation.columns[*at].name.clone()).collect();
    Some(RowKey { columns, new, old })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kasho_plugin_sdk::Op;

    use super::super::testing::{push, table, transaction};
    use super::*;

    fn dead_key(content: &str) -> DeadKey {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        DeadKey::read(&KeySource::File(file.path().to_owned())).unwrap()
    }

    #[test]
    fn only_the_right_key_and_table_open_a_letter() {
        let key = dead_key(&"0123456789abcdef".repeat(4));
        let other = dead_key(&"0123456789abcdee".repeat(4));
        let row = |id: &str| RowKey {
            columns: vec!["id".into(), "part".into()],
            new: Some(vec![Some(id.into()), None]),
            old: None,
        };
        let sealed = key.seal("public.t", &row("ada@lovelace.org")).unwrap();
        assert!(!sealed.windows(3).any(|bytes| bytes == b"ada"));
        assert_eq!(key.open("public.t", &sealed), Some(row("ada@lovelace.org")));
        assert_eq!(other.open("public.t", &sealed), None);
        assert_eq!(key.open("public.u", &sealed), None);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(key.open("public.t", &bad), None);
            assert_eq!(key.open("public.t", &sealed[..at]), None);
        }
        let again = key.seal("public.t", &row("ada@lovelace.org")).unwrap();
        assert_ne!(sealed, again, "equal keys do not look equal");
        assert_eq!(sealed.len(), key.seal("public.t", &row("7")).unwrap().len());
        assert!(!format!("{:?} {key:?}", row("ada")).contains("ada"));
    }

    fn keys(relation: &Arc<Relation>, new: &[&str], old: &[&str]) -> Option<RowKey> {
        let mut batch = transaction();
        push(&mut batch, relation, Op::Update, new, old);
        let cells = batch.all_cells().to_vec();
        row_key(&batch, &cells, relation, (batch.rows[0].new, batch.rows[0].old))
    }

    #[test]
    fn a_key_is_what_finds_the_row_again() {
        let own = table(7, "t", &["id!", "mail"]);
        let text = |values: &[&str]| Some(values.iter().map(|v| Some((*v).to_owned())).collect());
        let key = keys(&own, &["1", "m"], &[]).unwrap();
        assert_eq!((key.columns, key.new, key.old), (vec!["id".into()], text(&["1"]), None));
        let moved = keys(&own, &["2", "~"], &["1", "-"]).unwrap();
        assert_eq!((moved.new, moved.old), (text(&["2"]), text(&["1"])));
        let gone = keys(&own, &[], &["1", "-"]).unwrap();
        assert_eq!((gone.new, gone.old), (None, text(&["1"])));
        // Under FULL the primary key, and nothing else of the row.
        let mut full = Relation::clone(&table(7, "t", &["id!", "mail!"]));
        full.identity = Identity::Full;
        assert!(keys(&Arc::new(full.clone()), &["1", "m"], &["1", "n"]).is_none());
        (full.columns[0].unique, full.columns[0].not_null) = (true, true);
        let key = keys(&Arc::new(full), &["1", "m"], &["1", "n"]).unwrap();
        assert_eq!((key.columns, key.old), (vec!["id".into()], None));
    }
}
