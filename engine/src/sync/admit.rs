//! May a dump be loaded now, and into what: read from what stands in Redis, decided here.
//!
//! Every way in which the moment is wrong is a [`Refusal`] that says what to do instead.

use crate::bootstrap::{self, Load, LoadMode, Phase};
use crate::sink::store::Checkpoint;
use crate::source::catalog::Catalog;

/// What stands in Redis.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// `redis.prefix`.
    pub(super) prefix: String,
    /// The stored phase.
    pub(super) state: Option<Vec<u8>>,
    /// The stored catalogue.
    pub(super) catalog: Option<Vec<u8>>,
    /// The checkpoint.
    pub(super) checkpoint: Option<Checkpoint>,
}

/// No dump can be loaded now.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No engine was ever there.
    #[error(
        "pg-bootstrap-sync refused in state WAITING: no bootstrap was ever begun in this Redis \
         (prefix {0:?}), so nothing captures the changes made since the dump. Begin one with \
         StartBootstrap or `kasho bootstrap --external`; is the engine's redis.url and redis.prefix \
         the same?"
    )]
    NoState(String),
    /// WAITING.
    #[error(
        "pg-bootstrap-sync refused in state WAITING: no bootstrap has begun, so nothing captures \
         the changes made since the dump. Call StartBootstrap with the LSN and the snapshot that \
         the dump is taken at (or `kasho bootstrap --external`), take the dump, and start this again"
    )]
    Waiting,
    /// STREAMING.
    #[error(
        "pg-bootstrap-sync refused in state STREAMING: the bootstrap of epoch {0} is complete, and \
         rows of a dump would come behind its end. To load again: `kasho reset`, then a new bootstrap"
    )]
    Streaming(u64),
    /// The engine loads.
    #[error(
        "pg-bootstrap-sync refused in state ACCUMULATING: the engine itself loads epoch {0} \
         directly from the database; watch it with `kasho status`. To load a dump instead: `kasho \
         reset`, then `kasho bootstrap --external` (or `kasho bootstrap --dump`)"
    )]
    Direct(u64),
    /// Nobody is to load.
    #[error(
        "pg-bootstrap-sync refused in state ACCUMULATING: epoch {0} was begun without initial data \
         (--no-initial-data). To load a dump: `kasho reset`, then `kasho bootstrap --external`"
    )]
    NoInitialData(u64),
    /// State and checkpoint are of different epochs.
    #[error(
        "pg-bootstrap-sync refused: the state in Redis belongs to epoch {state}, its checkpoint to \
         {checkpoint}. Is the engine just beginning a bootstrap? Try again; if it stays so, `kasho \
         reset`"
    )]
    OtherEpoch {
        /// Of the phase.
        state: u64,
        /// Of the checkpoint, or "none".
        checkpoint: String,
    },
    /// There is no catalogue.
    #[error(
        "pg-bootstrap-sync refused: Redis holds no catalogue of the tables ({{{0}}}:catalog), which \
         StartBootstrap writes: `kasho reset`, then a new bootstrap"
    )]
    NoCatalog(String),
    /// The catalogue cannot be read.
    #[error(
        "pg-bootstrap-sync refused: the catalogue in Redis cannot be read ({0}); is this program of \
         the engine's version? Otherwise `kasho reset`, then a new bootstrap"
    )]
    BadCatalog(#[source] serde_json::Error),
    /// The stored phase cannot be read.
    #[error(transparent)]
    State(#[from] bootstrap::StoreError),
}

/// What is loaded into.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    /// The phase.
    pub(super) load: Load,
    /// The tables.
    pub(super) catalog: Catalog,
    /// The checkpoint.
    pub(super) checkpoint: Checkpoint,
}

/// Decides.
///
/// # Errors
/// The first thing that is not as it must be.
pub(super) fn admit(found: &Found) -> Result<Admitted, Refusal> {
    let load = external(found)?;
    let checkpoint = match &found.checkpoint {
        Some(checkpoint) if checkpoint.epoch == load.epoch => checkpoint.clone(),
        other => {
            let checkpoint = other.as_ref().map_or("none".to_owned(), |c| c.epoch.0.to_string());
            return Err(Refusal::OtherEpoch { state: load.epoch.0, checkpoint });
        }
    };
    Ok(Admitted { load, catalog: catalog(found)?, checkpoint })
}

/// The stored catalogue, whatever the state.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn catalog(found: &Found) -> Result<Catalog, Refusal> {
    let text = found.catalog.as_ref().ok_or_else(|| Refusal::NoCatalog(found.prefix.clone()))?;
    serde_json::from_slice(text).map_err(Refusal::BadCatalog)
}

/// The load that is awaited from outside.
///
/// # Errors
/// There is none.
fn external(found: &Found) -> Result<Load, Refusal> {
    let text = found.state.as_ref().ok_or_else(|| Refusal::NoState(found.prefix.clone()))?;
    match bootstrap::load(&String::from_utf8_lossy(text))? {
        Phase::Waiting(_) => Err(Refusal::Waiting),
        Phase::Streaming(streaming) => Err(Refusal::Streaming(streaming.epoch.0)),
        Phase::Accumulating(load) => match load.mode {
            LoadMode::External => Ok(load),
            LoadMode::Direct => Err(Refusal::Direct(load.epoch.0)),
            LoadMode::None => Err(Refusal::NoInitialData(load.epoch.0)),
        },
    }
}
