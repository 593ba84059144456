//! The stored form of a phase: JSON with a version of its own. What can go wrong is a
//! text that is none, or one that a newer program wrote; neither is guessed at.

use serde::{Deserialize, Serialize};

use crate::bootstrap::Phase;

/// Raised whenever an older program would misread what this one writes: from 2 on tables may be
/// put off, whose changes it would have readers skip for ever.
const VERSION: u32 = 2;
/// What every program knows.
const PLAIN: u32 = 1;

/// The stored phase cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not what this program writes.
    #[error(
        "the stored state is damaged ({0}); if the key was overwritten by something else, \
         delete it and bootstrap again"
    )]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer program.
    #[error(
        "the stored state has version {found}, this program knows {VERSION}: start the newer \
         kasho again, or `kasho reset` with it first"
    )]
    Version {
        /// As stored.
        found: u32,
    },
}

#[derive(Serialize)]
struct Out<'a> {
    version: u32,
    #[serde(flatten)]
    phase: &'a Phase,
}

/// The text to be stored. `epoch` stands at the top in every state but WAITING, where
/// consumers of Redis look for it.
#[must_use]
pub fn store(phase: &Phase) -> String {
    // A phase holds nothing that JSON cannot: no map with keys other than strings, no NaN.
    let version = if phase.put_off().next().is_some() { VERSION } else { PLAIN };
    serde_json::to_string(&Out { version, phase }).unwrap_or_default()
}

/// The phase of a stored text.
///
/// # Errors
/// The text is none, or of a newer version.
pub fn load(text: &str) -> Result<Phase, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_str(text).map_err(StoreError::Malformed)?;
    if !(PLAIN..=VERSION).contains(&version) {
        return Err(StoreError::Version { found: version });
    }
    serde_json::from_str(text).map_err(StoreError::Malformed)
}

/// LSNs as people read them.
pub(super) mod lsn {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::position::Lsn;

    pub(in crate::bootstrap) fn serialize<S: Serializer>(
        lsn: &Lsn,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_str(lsn)
    }

    pub(in crate::bootstrap) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Lsn, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// Load points: LSNs by table.
pub(super) mod lsns {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::position::Lsn;

    pub(in crate::bootstrap) fn serialize<S: Serializer>(
        points: &BTreeMap<String, Lsn>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_map(points.iter().map(|(table, lsn)| (table, lsn.to_string())))
    }

    pub(in crate::bootstrap) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<BTreeMap<String, Lsn>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(d)?;
        let point = |(table, lsn): (String, String)| Ok((table, lsn.parse()?));
        texts
            .into_iter()
            .map(point)
            .collect::<Result<_, _>>()
            .map_err(|error: crate::position::ParsePositionError| D::Error::custom(error))
    }
}

/// Epochs as numbers.
pub(super) mod epoch {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::position::Epoch;

    pub(in crate::bootstrap) fn serialize<S: Serializer>(
        epoch: &Epoch,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_u64(epoch.0)
    }

    pub(in crate::bootstrap) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Epoch, D::Error> {
        u64::deserialize(d).map(Epoch)
    }
}
