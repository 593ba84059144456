//! What the loader of a dump file stores beside its rows: which file, and how far. Read by
//! itself to go on, and by the engine, which learns here that the load has finished.
//!
//! Nothing can go wrong but that somebody else wrote these fields: what cannot be read
//! counts as not there, and a load that has not begun is then refused or begun anew.

use std::collections::HashMap;

use crate::sink::load::Progress;
use crate::sink::store::LEASE_UNTIL;

/// What every field begins with, apart from the progress of other loaders.
pub const DUMP_FIELDS: &str = "dump.";

/// The field in which the writer says why it waits.
pub const PAUSED_FIELD: &str = "dump.paused";

/// The stored progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The identity of the file, as [`crate::source::dump::Dump::identity`] words it.
    pub file: Option<String>,
    /// The options that decide what is taken from it.
    pub options: String,
    /// Where to go on in it.
    pub mark: Option<String>,
    /// Rows read of it, those that the chain dropped included.
    pub rows: u64,
    /// Bytes read of it.
    pub bytes: u64,
    /// Its size; 0 if that is not known.
    pub total: u64,
    /// Rows were left out because the caller asked for it.
    pub partial: bool,
    /// Everything is published.
    pub done: bool,
    /// Why it publishes nothing just now.
    pub paused: Option<String>,
    /// When its turn ends unless it is heard of again, milliseconds of Redis' clock.
    pub until_ms: u64,
}

impl Stored {
    /// From the fields of a loader.
    #[must_use]
    pub fn read(fields: &HashMap<String, String>) -> Stored {
        let text = |name: &str| fields.get(&format!("{DUMP_FIELDS}{name}")).cloned();
        let number = |name: &str| text(name).and_then(|n| n.parse().ok()).unwrap_or(0);
        Stored {
            file: text("file"),
            options: text("options").unwrap_or_default(),
            mark: text("mark"),
            rows: number("rows"),
            bytes: number("bytes"),
            total: number("total"),
            partial: text("partial").is_some(),
            done: text("done").is_some(),
            paused: text("paused"),
            until_ms: fields.get(LEASE_UNTIL).and_then(|n| n.parse().ok()).unwrap_or(0),
        }
    }

    /// Every field, as it is stored with a batch.
    #[must_use]
    pub fn fields(&self) -> Progress {
        let flag = |set: bool| set.then(|| "1".to_owned());
        let fields = [
            ("file", self.file.clone()),
            ("options", Some(self.options.clone())),
            ("mark", self.mark.clone()),
            ("rows", Some(self.rows.to_string())),
            ("bytes", Some(self.bytes.to_string())),
            ("total", Some(self.total.to_string())),
            ("partial", flag(self.partial)),
            ("done", flag(self.done)),
            // A batch that is published is the end of it.
            ("paused", None),
        ];
        fields.into_iter().map(|(name, value)| (format!("{DUMP_FIELDS}{name}"), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let stored = Stored {
            file: Some("plain 7 abc".into()),
            options: "max_rows=5".into(),
            mark: Some("1:2".into()),
            rows: 3,
            bytes: 4,
            total: 7,
            partial: true,
            done: true,
            ..Stored::default()
        };
        let fields = stored.fields().into_iter().filter_map(|(name, value)| Some((name, value?)));
        assert_eq!(Stored::read(&fields.collect()), stored);
        assert_eq!(
            Stored::read(&HashMap::from([("16384:0".into(), "7".into())])),
            Stored::default()
        );
    }
}
