//! What can keep source and target from being compared. Never with a row's value in it.

use crate::sink::store::StoreError;
use crate::source::catalog::CatalogError;
use crate::source::error::SourceError;

/// The comparison cannot be made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// PostgreSQL did not answer or refused.
    #[error("{side}: {error}")]
    Server {
        /// `source` or `target`.
        side: &'static str,
        /// Without the server's words where they may quote a row.
        error: SourceError,
    },
    /// The source's catalogue cannot be used.
    #[error("source: {0}")]
    Catalog(#[from] CatalogError),
    /// Redis does not tell which rules are in force and how far the stream is.
    #[error("Redis does not tell which rules are in force: {0}")]
    Redis(#[from] StoreError),
    /// What is masked cannot be known.
    #[error("the rules that are in force cannot be had: {0}")]
    Rules(String),
    /// The target does not reach the position.
    #[error(
        "the target has not reached {wanted} after {seconds} s: it stands at {found}. Is its applier \
         running (`kasho apply`), and the engine (`kasho status`)? --wait gives it longer"
    )]
    Behind {
        /// Where the source was read.
        wanted: String,
        /// Where the target is.
        found: String,
        /// How long it was given.
        seconds: u64,
    },
    /// The target is of another bootstrap, or is being loaded.
    #[error("{0}")]
    NotComparable(String),
}

impl VerifyError {
    /// PostgreSQL's error without its message: that may quote a row.
    pub(super) fn rows(side: &'static str, doing: &str, error: &tokio_postgres::Error) -> Self {
        let mut error = SourceError::sql(doing, error);
        if let SourceError::Server { server, .. } = &mut error {
            server.message = None;
        }
        VerifyError::Server { side, error }
    }
}
