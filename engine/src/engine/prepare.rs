//! Before anything is opened: are both servers there and as they must be, does the chain
//! fit the tables, and where did we stop. Nothing is changed anywhere but what is kept of
//! the chain, on disk and in Redis, and the stored phase, that only where PostgreSQL says
//! otherwise.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use super::world::World;
use crate::bootstrap::{self, Phase, Reconciled, SlotFact, reconcile};
use crate::config::Config;
use crate::control::{ControlError, Status};
use crate::error::Class;
use crate::http::HttpError;
use crate::sink::SinkError;
use crate::sink::publisher;
use crate::sink::store::{Checkpoint, Registry, Store};
use crate::source::catalog::{Catalog, CatalogError};
use crate::source::error::SourceError;
use crate::source::preflight::{Finding, failover, preflight};
use crate::source::snapshot::{check_server, slot_fact};
use crate::transform::{self, Generation, LoadError, Rejected, Run};

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The gRPC listener.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The listener of metrics and health.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The text of the connection.
    #[error("source.url: {0}")]
    Url(#[source] SourceError),
    /// PostgreSQL.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The publications and their tables.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Redis.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// What has to be mended on the source, all of it.
    #[error("{}", findings(.0))]
    Findings(Vec<Finding>),
    /// What is wrong with plugins and rules, all of it.
    #[error("{}", lines(&.0.reasons))]
    Chain(Rejected),
    /// The WASM host cannot be set up.
    #[error("plugins: {0}")]
    Host(String),
    /// The stored phase.
    #[error(transparent)]
    State(#[from] bootstrap::StoreError),
}

fn findings(findings: &[Finding]) -> String {
    let told = findings.iter().map(|f| format!("{f}\n  to mend it: {}", f.remedy()));
    told.collect::<Vec<_>>().join("\n")
}

fn lines(errors: &[LoadError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl EngineError {
    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            EngineError::Url(e) | EngineError::Source(e) => e.class(),
            EngineError::Catalog(e) => e.class(),
            EngineError::Sink(e) => e.class(),
            EngineError::Control(_)
            | EngineError::Http(_)
            | EngineError::Findings(_)
            | EngineError::Chain(_)
            | EngineError::Host(_)
            | EngineError::State(_) => Class::Halt,
        }
    }
}

/// Looks at everything that a start would look at, and changes nothing.
///
/// # Errors
/// What would keep the service from starting.
pub async fn check(config: Config, path: PathBuf) -> Result<Vec<String>, EngineError> {
    config.grpc.check().map_err(ControlError::from)?;
    config.http.check().map_err(HttpError::from)?;
    let world = World::new(config, path, false)?;
    let warnings = world.look_at_source().await?;
    let mut store = world.redis_store().await?;
    publisher::check_server(&store.server().await.map_err(SinkError::from)?)?;
    let found = store.inspect().await.map_err(SinkError::from)?;
    let phase = world.stored_phase().await.unwrap_or_default();
    world.waiting.store(phase.epoch().is_none(), Relaxed);
    let number = found.checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.generation.max(1));
    let generation = world.load_chain(number, found.checkpoint.as_ref(), &phase).await?;
    Ok(warnings.into_iter().chain(generation.warnings().iter().cloned()).collect())
}

/// Findings that `run` leaves to the state machine, which can say more about them.
fn is_about_slot(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::SlotPlugin { .. }
            | Finding::SlotDatabase { .. }
            | Finding::SlotLost(_)
            | Finding::SlotActive { .. }
    )
}

impl World {
    /// Both servers, the tables, the chain, and the phase to be in, with its stored text.
    pub(super) async fn prepare(&self) -> Result<(Phase, Option<Vec<u8>>), EngineError> {
        for warning in self.look_at_source().await? {
            tracing::warn!("{warning}");
        }
        let mut store = self.redis_store().await?;
        publisher::check_server(&store.server().await.map_err(SinkError::from)?)?;
        let found = store.inspect().await.map_err(SinkError::from)?;
        let checkpoint = found.checkpoint;
        let stored = store.state().await.map_err(SinkError::from)?;
        let mut phase = match &stored {
            None => Phase::default(),
            Some(text) => bootstrap::load(&String::from_utf8_lossy(text))?,
        };
        if let (Phase::Waiting(waiting), Some(checkpoint)) = (&mut phase, &checkpoint) {
            waiting.last_epoch = waiting.last_epoch.max(checkpoint.epoch.0);
        }
        let client = self.sql("kasho").await?;
        let slot = slot_fact(&client, &self.info, &self.slot).await?;
        if phase.epoch().is_some() && slot != SlotFact::Usable {
            // Before a bootstrap is given up, be sure that it is the server's own word.
            check_server(&client, checkpoint.as_ref().map(|c| c.system_id.as_str())).await?;
        }
        let Reconciled { phase: next, warning } = reconcile(phase, self.slot.as_str(), &slot);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        // Where the slot is gone a new epoch comes, for which nothing of this one counts.
        self.waiting.store(next.epoch().is_none(), Relaxed);
        let (generation, rejected) = self.first(checkpoint.as_ref(), &next).await?;
        for warning in generation.warnings() {
            tracing::warn!("{warning}");
        }
        let held = self.remember(&generation).await?;
        let number = generation.number();
        self.handle.publish(generation);
        drop(held);
        if let Some(Rejected { digest, reasons }) = rejected {
            for reason in &reasons {
                tracing::error!("not taken, generation {number} goes on: {reason}");
            }
            self.handle.degrade(digest, reasons);
        }
        let text = bootstrap::store(&next).into_bytes();
        let known = stored.is_some() || next != Phase::default();
        if known && stored.as_deref() != Some(&text) {
            self.swap_state(&mut store, stored.as_deref(), &text).await?;
            return Ok((next, Some(text)));
        }
        Ok((next, stored))
    }

    /// The phase that Redis holds, if it answers: what the state was when somebody last
    /// could say. Only a look; [`World::prepare`] decides.
    pub(super) async fn stored_phase(&self) -> Option<Phase> {
        let stored = self.redis_store().await.ok()?.state().await.ok()??;
        bootstrap::load(&String::from_utf8_lossy(&stored)).ok()
    }

    /// What GetStatus answers while not both servers have been looked at: the state as it
    /// is stored, if that is known, and in any case that it is not confirmed.
    pub(super) fn unseen(&self, stored: Option<&Phase>, why: &str) -> Status {
        let unknown = match stored {
            Some(_) => "the state is as stored in Redis",
            None => "the state is not known",
        };
        Status {
            state: stored.map(Phase::state),
            epoch: stored.and_then(Phase::epoch),
            start_lsn: stored.and_then(Phase::start_lsn),
            slot: self.slot.to_string(),
            publication: self.config.source.publications.join(","),
            last_error: format!("still connecting ({unknown}): {why}"),
            ..Status::default()
        }
    }

    /// The source's findings: errors together, or the warnings.
    async fn look_at_source(&self) -> Result<Vec<String>, EngineError> {
        let client = self.sql("kasho").await?;
        let publications = &self.config.source.publications;
        let mut found = preflight(&client, &self.slot, publications).await?;
        if self.config.source.failover {
            found.extend(failover(&client).await?);
        }
        // Without a slot nothing lags: what a rule names has to exist now.
        let caught_up = slot_fact(&client, &self.info, &self.slot).await? == SlotFact::Absent;
        let relevant = found.into_iter().filter(|finding| !is_about_slot(finding));
        // A table that somebody made on the way is no reason to leave the stream of all others.
        let goes_on =
            |finding: &Finding| finding.is_warning() || (!caught_up && finding.is_about_table());
        let (warnings, errors): (Vec<_>, Vec<_>) = relevant.partition(goes_on);
        if !errors.is_empty() {
            return Err(EngineError::Findings(errors));
        }
        self.take_catalog(&Catalog::read(&client, publications).await?, caught_up);
        Ok(warnings.iter().map(Finding::told).collect())
    }

    /// Compiles the chain and asks it about every table, off the runtime. It is held
    /// against what the generation before covered, if there was one.
    pub(super) async fn load_chain(
        &self,
        number: u64,
        checkpoint: Option<&Checkpoint>,
        phase: &Phase,
    ) -> Result<Generation, EngineError> {
        if let Some(errors) = &self.config.chain_errors {
            let (binding, at) = (None, "configuration".to_owned());
            let error = LoadError { binding, at, text: errors.to_string() };
            return Err(EngineError::Chain(vec![error].into()));
        }
        let (host, config, tables) = (self.host.clone(), self.config.chain(), self.tables());
        let (confirmed, fresh) = (config.accept_unmask, self.waiting.load(Relaxed));
        let running = match checkpoint {
            Some(checkpoint) => self.remembered(&checkpoint.chain).await?,
            None => None,
        };
        let last = running.as_ref().map(|running| (running.digest.clone(), running.run.clone()));
        let unknown = checkpoint.filter(|_| running.is_none()).map(|c| c.chain.clone());
        // Whoever loaded tables may have ended before anybody took account of it.
        let run = running.as_ref().and_then(|running| running.run.as_ref());
        let loaded = run.map(|run| phase.passed(run));
        let keys = checkpoint.filter(|_| !fresh).map(|c| c.key_fingerprint.clone());
        let load = move || {
            let options = transform::Options {
                running: running.as_ref().map(|running| &running.coverage),
                digest: running.as_ref().map(|running| running.digest.as_str()),
                fresh,
                number,
                loaded: loaded.as_ref(),
                ..Default::default()
            };
            transform::candidate(&host, &config, &tables, options)
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|_| EngineError::Host("loading them panicked".to_owned()))?;
        let generation = going_on(loaded.map_err(EngineError::Chain)?, last);
        keys_belong(keys.as_deref().unwrap_or_default(), &generation)?;
        match unknown.filter(|chain| chain != generation.digest() && !confirmed) {
            Some(chain) => Err(EngineError::Chain(vec![unreadable(&chain)].into())),
            None => Ok(generation),
        }
    }
}

/// The same generation, in the run of the last one of another process if that was this one too.
pub(super) fn going_on(generation: Generation, last: Option<(String, Option<Run>)>) -> Generation {
    match last {
        Some((digest, Some(run))) if digest == generation.digest() => generation.going_on(run),
        _ => generation,
    }
}

/// What a changed configuration is refused with where nothing is left to hold it against.
fn unreadable(chain: &str) -> LoadError {
    LoadError {
        binding: None,
        at: "transform".to_owned(),
        text: format!(
            "rules or plugins are not those of the checkpoint (digest {chain}), and what those \
             masked cannot be read from Redis any more: whether these mask less cannot be said. \
             Put the former ones back, or confirm these with accept_unmask = true"
        ),
    }
}

/// One epoch has one masking key under a name: with another, one person would have two
/// fakes. A key may be added.
fn keys_belong(stored: &str, generation: &Generation) -> Result<(), EngineError> {
    let before = |name: &str| {
        let begins = format!("{name}:");
        let at = stored
            .match_indices(&begins)
            .find(|(at, _)| *at == 0 || stored.as_bytes().get(at.wrapping_sub(1)) == Some(&b','));
        let check = stored.get(at?.0 + begins.len()..)?;
        Some(check.split(',').next().unwrap_or_default().to_owned())
    };
    let checks = generation.key_checks();
    let other = checks.iter().filter_map(|(name, is)| {
        let was = before(name).filter(|was| was != is)?;
        Some(LoadError {
            binding: None,
            at: "keys".to_owned(),
            text: format!(
                "key `{name}` is not the one of this epoch (check values {is}, stored {was}): \
                 what is published would no longer match what was. Put the former one back, or \
                 begin a new epoch: `kasho reset`, then `kasho bootstrap`"
            ),
        })
    });
    let other: Vec<LoadError> = other.collect();
    if other.is_empty() { Ok(()) } else { Err(EngineError::Chain(other.into())) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_start_goes_on_with_a_run_only_where_nothing_else_was_kept_last() {
        let host = crate::transform::Host::new(None).unwrap();
        let load = || {
            let (config, tables) = (transform::Config::default(), transform::Catalog::default());
            let options = transform::Options { number: 7, ..Default::default() };
            transform::load(&host, &config, &tables, options).unwrap()
        };
        let before = load();
        let (digest, run) = (before.digest().to_owned(), before.run().clone());
        let goes_on = |last| going_on(load(), last).run() == &run;
        assert!(goes_on(Some((digest.clone(), Some(run.clone())))));
        // The same number and the same rules are not enough.
        assert!(!goes_on(Some(("another".to_owned(), Some(run.clone())))));
        assert!(!goes_on(Some((digest, None))) && !goes_on(None));
    }
}
