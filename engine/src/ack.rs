//! The ledger between "published" and "PostgreSQL may forget": the only maker of
//! [`Durable`], so nothing else can acknowledge anything.

use crate::position::Lsn;

/// Proof that everything up to an LSN is in the sink, as durable as configured, and
/// that the sink's checkpoint says so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(Lsn);

impl Durable {
    /// The LSN up to which PostgreSQL need not keep its log.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }
}
