//! What it means that the stored phase is not the one that this engine stored last: Redis has
//! lost its last writes, or everything, or somebody else has written there. Pure.
//!
//! Wrong here would mean to go on with what is gone, or to overwrite what somebody else has
//! begun.

use crate::bootstrap::Phase;

/// What a stored phase is to the engine that finds it in the place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Of a later bootstrap: somebody else has begun it.
    Theirs,
    /// Of the bootstrap under way, at another moment: where Redis has gone back to.
    Earlier,
    /// Nothing of the bootstrap under way, which is lost to Redis.
    Lost,
    /// Nothing was under way: no matter what stands there.
    Idle,
}

/// Judges `stored`, which stands in the place of `ours`.
#[must_use]
pub fn found(ours: &Phase, stored: Option<&Phase>) -> Found {
    match (ours, stored) {
        (_, Some(stored)) if stored.last_epoch() > ours.last_epoch() => Found::Theirs,
        (Phase::Waiting(_), _) => Found::Idle,
        (_, Some(stored)) if stored.epoch() == ours.epoch() => Found::Earlier,
        _ => Found::Lost,
    }
}
