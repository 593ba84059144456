//! Transitions: decide, store, adopt, act, in this order. A phase that cannot be stored
//! is not adopted, and none of its effects happen.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Engine, Event, Running, Starting, Streaming, loading};
use crate::bootstrap::{
    self, Command, Effect, Facts, LoadMode, Phase, Refusal, RefusalCode, SlotFact, Snapshot,
    StartRequest, State, Transition,
};
use crate::control::Answer;
use crate::load;
use crate::position::{Epoch, Lsn};
use crate::sink::SinkError;
use crate::sink::publisher::{NewEpoch, begin_epoch_from};
use crate::sink::store::Registry;
use crate::source::snapshot::{Holder, HolderSpec, Report, drop_slot, release};
use crate::source::wal::ReplSession;
use crate::sync::Stored;

/// An effect or a look at a server that failed, for the caller to read.
pub(super) fn unavailable(error: impl std::fmt::Display) -> Refusal {
    Refusal { code: RefusalCode::Unavailable, text: error.to_string() }
}

impl Engine {
    /// Decides about `command`, stores the next phase, adopts it, and acts.
    pub(super) async fn transition(&mut self, command: Command) -> Result<(), Refusal> {
        let facts = self.facts().await?;
        let Transition { next, effects } = bootstrap::on(&self.phase, command, &facts)?;
        match effects.iter().find(|effect| matches!(effect, Effect::WriteEnd { .. })) {
            Some(Effect::WriteEnd { start_lsn, load_points, after }) => {
                self.store_with_end(&next, (*start_lsn, load_points, *after)).await?;
            }
            _ => self.store(&next).await?,
        }
        let holder = self.holder();
        self.phase = next;
        self.act(effects, holder).await
    }

    /// Who keeps the snapshots of the load under way.
    pub(super) fn holder(&self) -> Option<String> {
        match &self.phase {
            Phase::Accumulating(load) => load.holder.clone(),
            Phase::Streaming(streaming) => {
                streaming.reload.as_ref().and_then(|reload| reload.load.holder.clone())
            }
            Phase::Waiting(_) => None,
        }
    }

    /// What the state machine has to know of the world.
    pub(super) async fn facts(&self) -> Result<Facts, Refusal> {
        let slot = self.world.slot_fact().await.map_err(unavailable)?;
        let found = self.world.inspect().await.map_err(unavailable)?;
        let loader = self.external_loader().await.map_err(unavailable)?;
        Ok(Facts {
            slot: self.world.slot.to_string(),
            slot_exists: slot != SlotFact::Absent,
            starting: self.starting.is_some(),
            rows_loaded: found.bootstrap.high,
            changes: found.entries,
            checkpoint_epoch: found.checkpoint.map_or(0, |checkpoint| checkpoint.epoch.0),
            no_initial_data: self.world.config.bootstrap.no_initial_data,
            loader_done: loader.done,
            loader_partial: loader.partial,
        })
    }

    /// What the loader of a dump file has stored, if such a load is under way.
    async fn external_loader(&self) -> Result<Stored, SinkError> {
        match self.phase.external_load() {
            Some(load) => {
                let mut store = self.world.redis_store().await?;
                Ok(Stored::read(&store.progress(load.epoch).await?))
            }
            None => Ok(Stored::default()),
        }
    }

    /// Stores a phase over the one that was read or stored last.
    pub(super) async fn store(&mut self, next: &Phase) -> Result<(), Refusal> {
        let text = bootstrap::store(next).into_bytes();
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        self.world
            .swap_state(&mut store, self.stored.as_deref(), &text)
            .await
            .map_err(unavailable)?;
        self.stored = Some(text);
        self.unstored = false;
        Ok(())
    }

    /// Stores a phase together with the `end` entry of the bootstrap stream.
    async fn store_with_end(
        &mut self,
        next: &Phase,
        end: (Lsn, &BTreeMap<String, Lsn>, Option<Lsn>),
    ) -> Result<(), Refusal> {
        if let Some(loading) = self.loading.take() {
            loading.end().await;
        }
        let text = bootstrap::store(next).into_bytes();
        let epoch = next.epoch().ok_or_else(|| unavailable("no epoch to complete"))?;
        let opened = loading::writer(&self.world, epoch, &self.load).await;
        let (mut writer, resumed) = opened.map_err(unavailable)?;
        if let Phase::Accumulating(load) = &self.phase
            && load.mode == LoadMode::Direct
        {
            // Forced before the load went on: the load points told are those of the phase.
            let mut progress = load::progress(&resumed.progress).map_err(unavailable)?;
            let begun = load::begin_again(load, &mut progress, &mut writer);
            begun.await.map_err(unavailable)?;
        }
        let end = writer.finish(end, self.stored.as_deref(), &text);
        if let Err(error) = end.await {
            // The reply may be lost, and not the step.
            let mut store = self.world.redis_store().await.map_err(unavailable)?;
            if store.state().await.map_err(unavailable)?.as_deref() != Some(&text) {
                return Err(unavailable(error));
            }
        }
        self.stored = Some(text);
        Ok(())
    }

    /// `holder` is that of the phase before.
    pub(super) async fn act(
        &mut self,
        effects: Vec<Effect>,
        holder: Option<String>,
    ) -> Result<(), Refusal> {
        for effect in effects {
            match effect {
                Effect::MakeSlot { epoch, request } => self.make_slot(epoch, request),
                Effect::CancelStart => {
                    if let Some(starting) = self.starting.take() {
                        starting.task.abort();
                        let cancelled = "StartBootstrap was cancelled by AbortBootstrap";
                        let _ = starting.reply.send(Err(Refusal::precondition(cancelled)));
                    }
                }
                // Both are done by whoever brings the holder, or were done with the phase.
                Effect::AdoptHolder | Effect::WriteEnd { .. } => {}
                Effect::OpenStream => self.open_stream(),
                Effect::BeginLoad => self.begin_load(),
                Effect::Rehold => self.rehold(),
                Effect::Mark => self.mark(),
                Effect::ReleaseHolder => self.release(holder.as_deref()).await,
                Effect::StopLoad => {
                    if let Some(loading) = self.loading.take() {
                        loading.end().await;
                    }
                    self.troubles.load = None;
                }
                Effect::CloseStream => {
                    if let Some(streaming) = self.streaming.take() {
                        streaming.end().await;
                    }
                    (self.troubles.stream, self.stream_open) = (None, false);
                }
                Effect::DropSlot { terminate } => {
                    let client = self.world.sql("kasho").await.map_err(unavailable)?;
                    drop_slot(&client, &self.world.slot, terminate).await.map_err(unavailable)?;
                }
                // Its keys stay readable until the next epoch begins, and nobody writes them.
                Effect::EndEpoch(epoch) => tracing::info!(%epoch, "the epoch has ended"),
            }
        }
        Ok(())
    }

    pub(super) fn open_stream(&mut self) {
        let streaming = Streaming {
            world: Arc::clone(&self.world),
            shared: self.figures.clone(),
            events: self.events.clone(),
        };
        (self.troubles.stream, self.stream_open) = (None, false);
        let running = Running::spawn(|stop| streaming.run(stop)).publishing(&self.figures.sink);
        self.streaming = Some(running);
    }

    /// A holder is known by its name: this works after a restart of the engine too.
    async fn release(&self, holder: Option<&str>) {
        let Some(holder) = holder else { return };
        let released = async {
            let client = self.world.sql("kasho").await?;
            release(&client, holder).await
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the snapshot holder was not ended; it ends with the slot");
        }
    }

    fn spec(&self, epoch: Epoch, request: &StartRequest) -> HolderSpec {
        let name = request.snapshot_name.clone().unwrap_or_default();
        let given = request.start_lsn.map(|lsn| Snapshot { name, lsn });
        self.world.holder_spec(epoch, request.mode, given)
    }

    /// Starts a holder and comes back with what it says.
    fn make_slot(&mut self, epoch: Epoch, request: StartRequest) {
        let spec = self.spec(epoch, &request);
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let event = match loading::make(&spec, &events).await {
                Ok((report, holder)) => Event::SlotMade(Box::new(report), Box::new(holder)),
                Err(error) => Event::SlotFailed(error.to_string()),
            };
            let _ = events.send(event).await;
        });
        // Replaced by the caller's.
        let (reply, _) = oneshot::channel();
        self.starting = Some(Starting { task, reply, blocking: None });
    }

    /// Slot, snapshot and locks stand: the epoch begins.
    pub(super) async fn slot_made(&mut self, report: Report, holder: Holder) {
        let Some(starting) = self.starting.take() else { return };
        let previous = self.phase.state();
        let begun = self.begin(report, holder).await;
        if let Err(refusal) = &begun {
            // The holder undoes the slot when it is dropped without being adopted.
            let error = refusal.text.clone();
            tracing::error!(%error, "the bootstrap did not begin");
            self.apply(Command::StartFailed { error }, "nothing was begun").await;
        }
        let _ = starting.reply.send(begun.map(|()| self.summary(previous)));
    }

    pub(super) async fn start_failed(&mut self, error: String) {
        let Some(starting) = self.starting.take() else { return };
        tracing::error!(%error, "slot and snapshot could not be made");
        self.apply(Command::StartFailed { error: error.clone() }, "nothing was begun").await;
        let _ = starting.reply.send(Err(Refusal::precondition(error)));
    }

    async fn begin(&mut self, report: Report, holder: Holder) -> Result<(), Refusal> {
        let facts = Facts { starting: true, ..self.facts().await? };
        let load = Command::Started(Box::new(report.load.clone()));
        let Transition { next, effects } = bootstrap::on(&self.phase, load, &facts)?;
        let catalog = serde_json::to_vec(&report.catalog).map_err(unavailable)?;
        self.world.take_catalog(&report.catalog, false);
        let text = bootstrap::store(&next).into_bytes();
        let mut session =
            ReplSession::connect(&self.world.info, "kasho").await.map_err(unavailable)?;
        let system = session.identify_system().await.map_err(unavailable)?;
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        let generation = self.world.handle.newest();
        self.world.remember(&generation).await.map_err(unavailable)?;
        let new = NewEpoch {
            slot: self.world.slot.as_str(),
            system_id: &system.system_identifier,
            timeline: system.timeline,
            start_lsn: report.load.start_lsn,
            description: self.world.description(&generation),
            generation: generation.number(),
            state: Some((self.stored.as_deref(), &text)),
            catalog: Some(&catalog),
        };
        let least = report.load.epoch;
        let epoch = begin_epoch_from(&mut store, &new, least).await.map_err(unavailable)?;
        if epoch != report.load.epoch {
            let text =
                format!("Redis is at {epoch}, the bootstrap at {}; try again", report.load.epoch);
            return Err(unavailable(text));
        }
        self.stored = Some(text);
        self.phase = next;
        self.load = loading::Shared::default();
        holder.adopt().await.map_err(unavailable)?;
        self.act(effects, report.load.holder.clone()).await
    }

    /// What the caller of a bootstrap command is told.
    pub(super) fn summary(&self, previous: State) -> Answer {
        let (ready, snapshot) = match &self.phase {
            Phase::Waiting(_) => (false, None),
            Phase::Accumulating(load) => {
                (load.loaded, load.snapshots.first().map(|snapshot| snapshot.name.clone()))
            }
            Phase::Streaming(_) => (true, None),
        };
        Answer {
            previous,
            current: self.phase.state(),
            accumulated_changes: self.accumulated(),
            ready_to_stream: ready,
            epoch: self.phase.epoch(),
            start_lsn: self.phase.start_lsn(),
            snapshot_name: snapshot,
        }
    }

    /// Changes captured while the initial data was loaded.
    pub(super) fn accumulated(&self) -> u64 {
        match &self.phase {
            Phase::Waiting(_) => 0,
            // What was seen of the epoch before is not this one's.
            Phase::Accumulating(_) if self.observed.epoch != self.phase.epoch() => 0,
            Phase::Accumulating(_) => self.observed.changes_entries,
            Phase::Streaming(streaming) => streaming.accumulated_changes,
        }
    }
}
