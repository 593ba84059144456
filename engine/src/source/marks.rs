//! The mark that the engine has announced: the stream knows it by its word when it comes
//! by, and only that one. Anybody with a session may write a message of our prefix; one
//! that was not announced is nothing. Nothing can go wrong here.

use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::Mark;

/// What the engine and the stream share of it.
#[derive(Clone, Debug, Default)]
pub struct Marks(Arc<Mutex<Option<Arc<Mark>>>>);

impl Marks {
    /// Expects this one from now on, or none.
    pub fn expect(&self, mark: Option<Mark>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mark.map(Arc::new);
    }

    /// Expects the one from now on only if `wanted` says so.
    pub fn keep(&self, wanted: impl FnOnce(&Mark) -> bool) {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        expected.take_if(|mark| !wanted(mark));
    }

    /// The expected one, if `content` is its word.
    pub(crate) fn matching(&self, content: &[u8]) -> Option<Arc<Mark>> {
        let expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        expected.as_ref().filter(|mark| mark.nonce.as_bytes() == content).cloned()
    }
}
