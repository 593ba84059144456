//! Transitions: decide, store, adopt, act, in this order. A phase that cannot be stored
//! is not adopted, and none of its effects happen.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Duration;

use super::reload::tell_later;
use super::{Engine, Event, Running, Starting, Streaming, loading};
use crate::bootstrap::{
    self, Command, Effect, Facts, LoadMode, Phase, Refusal, RefusalCode, SlotFact, Snapshot,
    StartRequest, State, Transition,
};
use crate::control::Answer;
use crate::load;
use crate::position::Epoch;
use crate::sink::SinkError;
use crate::sink::load::End;
use crate::sink::publisher::{NewEpoch, begin_epoch_from};
use crate::sink::redis::RedisStore;
use crate::sink::store::{LEASE_UNTIL, Registry, Store};
use crate::source::snapshot::{
    Holder, HolderSpec, Progress, Report, drop_slot, release, slot_fact,
};
use crate::source::wal::ReplSession;
use crate::sync::Stored;

/// How long Redis may take to write the end of a load, beside waits for durability.
const END: Duration = Duration::from_secs(20);

/// An effect or a look at a server that failed, for the caller to read.
pub(super) fn unavailable(error: impl std::fmt::Display) -> Refusal {
    Refusal { code: RefusalCode::Unavailable, text: error.to_string() }
}

impl Engine {
    /// Decides about `command`, stores the next phase, adopts it, and acts.
    pub(super) async fn transition(&mut self, command: Command) -> Result<(), Refusal> {
        self.catch_up(Some(&command)).await?;
        // What is decided by holds for what is stored: both go by one connection, and none
        // outlives a server that loses its last writes.
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        let facts = self.facts(&mut store, &command).await?;
        let Transition { next, effects } = bootstrap::on(&self.phase, command, &facts)?;
        let text = bootstrap::store(&next).into_bytes();
        let loading = self.loading.is_some();
        let stored = match effects.iter().find(|effect| matches!(effect, Effect::WriteEnd { .. })) {
            Some(Effect::WriteEnd { start_lsn, load_points, called, after, whole }) => {
                let (start_lsn, after, whole) = (*start_lsn, *after, *whole);
                let end = End { start_lsn, load_points, called, after, whole };
                self.store_with_end(&next, &text, end).await
            }
            _ => self.swap(&mut store, &text).await,
        };
        if let Err(error) = stored {
            // The reply may be lost, and not the step.
            if !self.holds(&text).await.unwrap_or(false) {
                let stopped = loading && self.loading.is_none();
                self.not_stored((text, next), effects, stopped);
                let _ = self.catch_up(None).await;
                return Err(error);
            }
        }
        self.is_stored(text);
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

    /// What the state machine has to know of the world to decide about `command`.
    pub(super) async fn facts(
        &self,
        store: &mut RedisStore,
        command: &Command,
    ) -> Result<Facts, Refusal> {
        let slot = self.world.slot_fact().await.map_err(unavailable)?;
        let found = store.inspect().await.map_err(unavailable)?;
        let loader = self.external_loader(store).await.map_err(unavailable)?;
        let marked = match command {
            Command::Marked { nonce } => found.checkpoint.as_ref().and_then(|c| c.marked(nonce)),
            _ => None,
        };
        let progress = match (command, self.phase.epoch()) {
            (Command::LoadDone | Command::Reheld(_), Some(epoch)) => {
                let mut stored = store.progress(epoch).await.map_err(unavailable)?;
                stored.remove(LEASE_UNTIL);
                load::progress(&stored).map_err(unavailable)?
            }
            _ => Progress::new(),
        };
        let whole = self.phase.open_load().map(|load| load::whole(load, &progress));
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
            marked,
            whole: whole.unwrap_or_default(),
            attempts: progress.keys().map(|key| key.attempt).max().unwrap_or(0),
            // An older look says too little, and not too much.
            restart_lsn: self.observed.restart_lsn(),
            run: Some(self.world.handle.newest().run().clone()),
        })
    }

    /// What the loader of a dump file has stored, if such a load is under way.
    async fn external_loader(&self, store: &mut RedisStore) -> Result<Stored, SinkError> {
        match self.phase.external_load() {
            Some(load) => Ok(Stored::read(&store.progress(load.epoch).await?)),
            None => Ok(Stored::default()),
        }
    }

    /// Stores a phase over the one that was read or stored last.
    pub(super) async fn store(
        &mut self,
        store: &mut RedisStore,
        next: &Phase,
    ) -> Result<(), Refusal> {
        let text = bootstrap::store(next).into_bytes();
        if let Err(error) = self.swap(store, &text).await
            && !self.holds(&text).await.unwrap_or(false)
        {
            self.not_stored((text, next.clone()), Vec::new(), false);
            return Err(error);
        }
        self.is_stored(text);
        Ok(())
    }

    async fn swap(&self, store: &mut RedisStore, text: &[u8]) -> Result<(), Refusal> {
        let swapped = self.world.swap_state(store, self.stored.as_deref(), text).await;
        swapped.map_err(unavailable)
    }

    /// Stores a phase together with the `end` entry of the bootstrap stream.
    async fn store_with_end(
        &mut self,
        next: &Phase,
        text: &[u8],
        end: End<'_>,
    ) -> Result<(), Refusal> {
        if let Some(loading) = self.loading.take() {
            loading.end().await;
        }
        // The engine does nothing else meanwhile, so this ends.
        let durability = Duration::from_millis(self.world.config.redis.durability_timeout_ms);
        let patience = END + 3 * durability;
        let beating = async {
            loop {
                self.shared.beat();
                tokio::time::sleep(super::LOOK).await;
            }
        };
        tokio::select! {
            biased;
            written = self.write_end(next, text, end) => return written,
            () = tokio::time::sleep(patience) => {}
            () = beating => {}
        }
        let why = self.load.sink.get().paused;
        self.load.sink.pause(None);
        Err(unavailable(end_not_written(self.phase.state(), patience, why)))
    }

    async fn write_end(&self, next: &Phase, text: &[u8], end: End<'_>) -> Result<(), Refusal> {
        let no_epoch = "the end of a load was to be written, and the next state has no epoch whose \
                        load it could be; nothing was written. This is a bug of Kasho, please \
                        report it";
        let epoch = next.epoch().ok_or_else(|| unavailable(no_epoch))?;
        let opened = loading::writer(&self.world, epoch, &self.load).await;
        let (mut writer, resumed) = opened.map_err(unavailable)?;
        if let Phase::Accumulating(load) = &self.phase
            && load.mode == LoadMode::Direct
        {
            // Forced before the load went on: the load points told are those of the phase.
            let mut progress = load::progress(&resumed.progress).map_err(unavailable)?;
            let name = |table: &str| self.world.handle.newest().leaves_as(table);
            let begun = load::begin_again(load, &name, &mut progress, &mut writer);
            begun.await.map_err(unavailable)?;
        }
        if let Phase::Streaming(streaming) = &self.phase
            && let Some(reload) = &streaming.reload
        {
            let progress = load::progress(&resumed.progress).map_err(unavailable)?;
            if reload.load.unfinished(&load::whole(&reload.load, &progress)).is_some() {
                return Err(unavailable("Redis has lost rows of the tables that are loaded again"));
            }
        }
        let chain = self.world.handle.newest();
        let points = end.load_points.iter();
        let points = points.map(|(table, lsn)| (chain.leaves_as(table), *lsn)).collect();
        let called = end.called.iter().map(|(table, at)| (chain.leaves_as(table), *at)).collect();
        let end = End { load_points: &points, called: &called, ..end };
        writer.finish(end, self.stored.as_deref(), text).await.map_err(unavailable)
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
                        starting.running.end().await;
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
                Effect::LoadedAnew => self.loaded_anew(),
                Effect::ReleaseHolder => self.release(holder.as_deref()).await,
                Effect::StopLoad => {
                    if let Some(loading) = self.loading.take() {
                        loading.end().await;
                    }
                    self.troubles.load = None;
                }
                Effect::CloseStream => {
                    for task in [self.streaming.take(), self.held.take()].into_iter().flatten() {
                        task.end().await;
                    }
                    (self.troubles.stream, self.stream_open) = (None, false);
                }
                Effect::DropSlot { terminate } => {
                    let client = self.world.sql("kasho").await.map_err(unavailable)?;
                    drop_slot(&client, &self.world.slot, terminate).await.map_err(unavailable)?;
                }
                Effect::DropLostSlot => self.drop_lost_slot().await?,
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
            held: self.held.take(),
        };
        (self.troubles.stream, self.stream_open) = (None, false);
        let running = Running::spawn(|stop| streaming.run(stop)).publishing(&self.figures.sink);
        self.streaming = Some(running);
    }

    /// One that is whole stays: whoever said that ours is lost has not seen this one.
    async fn drop_lost_slot(&self) -> Result<(), Refusal> {
        let (slot, info) = (&self.world.slot, &self.world.info);
        let client = self.world.sql("kasho").await.map_err(unavailable)?;
        match slot_fact(&client, info, slot).await.map_err(unavailable)? {
            SlotFact::Lost(_) => drop_slot(&client, slot, true).await.map_err(unavailable)?,
            SlotFact::Absent => {}
            SlotFact::Usable | SlotFact::Foreign(_) => {
                tracing::error!(%slot, "the slot is said to be lost and there is one: it is kept");
            }
        }
        Ok(())
    }

    /// A holder is known by its name: this works after a restart of the engine too.
    async fn release(&mut self, holder: Option<&str>) {
        let Some(holder) = holder else { return };
        let released = async {
            let client = self.world.sql("kasho").await?;
            release(&client, holder).await
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the snapshot holder was not ended yet");
            self.debts.holders = true;
        }
    }

    fn spec(&self, epoch: Epoch, request: &StartRequest) -> HolderSpec {
        let name = request.snapshot_name.clone().unwrap_or_default();
        let given = request.start_lsn.map(|lsn| Snapshot { name, lsn, by: None });
        self.world.holder_spec(epoch, request.mode, given)
    }

    /// Starts a holder and comes back with what it says.
    fn make_slot(&mut self, epoch: Epoch, request: StartRequest) {
        let spec = self.spec(epoch, &request);
        let events = self.events.clone();
        self.attempts += 1;
        let attempt = self.attempts;
        let running = Running::spawn(|stop| async move {
            let event = match loading::make(&spec, &events, attempt, &stop).await {
                Ok(None) => return,
                Ok(Some((report, holder))) => {
                    let (report, holder) = (Box::new(report), Box::new(holder));
                    Event::SlotMade { attempt, report, holder }
                }
                Err(error) => Event::SlotFailed { attempt, error: error.to_string() },
            };
            let _ = stop.run_until_cancelled(events.send(event)).await;
        });
        // Replaced by the caller's.
        let (reply, _) = oneshot::channel();
        self.starting = Some(Starting { attempt, running, reply, blocking: None });
    }

    /// Slot, snapshot and locks stand: the epoch begins.
    pub(super) async fn slot_made(&mut self, attempt: u64, report: Report, holder: Holder) {
        let Some(starting) = self.starting.take_if(|starting| starting.attempt == attempt) else {
            // That of a cancelled attempt.
            holder.give_up().await;
            return;
        };
        let previous = self.phase.state();
        let begun = self.begin(report, holder).await;
        if let Err(refusal) = &begun {
            // The holder undoes the slot when it is dropped without being adopted.
            let error = refusal.text.clone();
            tracing::error!(%error, "the bootstrap did not begin");
            self.apply(Command::StartFailed { error }, "nothing was begun").await;
        }
        self.tell(starting.reply, begun.map(|()| self.summary(previous)));
    }

    pub(super) async fn start_failed(&mut self, attempt: u64, error: String) {
        let Some(starting) = self.starting.take_if(|starting| starting.attempt == attempt) else {
            return;
        };
        tracing::error!(%error, "slot and snapshot could not be made");
        self.apply(Command::StartFailed { error: error.clone() }, "nothing was begun").await;
        self.tell(starting.reply, Err(Refusal::precondition(error)));
    }

    async fn begin(&mut self, report: Report, holder: Holder) -> Result<(), Refusal> {
        let load = Command::Started(Box::new(report.load.clone()));
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        let facts = Facts { starting: true, ..self.facts(&mut store, &load).await? };
        let Transition { next, effects } = bootstrap::on(&self.phase, load, &facts)?;
        let catalog = serde_json::to_vec(&report.catalog).map_err(unavailable)?;
        self.world.take_catalog(&report.catalog, false);
        tell_later(&next);
        let text = bootstrap::store(&next).into_bytes();
        let mut session =
            ReplSession::connect(&self.world.info, "kasho").await.map_err(unavailable)?;
        let system = session.identify_system().await.map_err(unavailable)?;
        let others = report.load.mode == LoadMode::External;
        let shown = others.then_some(&report.catalog);
        let generation = self.world.begins(shown).await.map_err(unavailable)?;
        let new = NewEpoch {
            slot: self.world.slot.as_str(),
            system_id: &system.system_identifier,
            timeline: system.timeline,
            start_lsn: report.load.start_lsn,
            description: self.world.description(&generation),
            encoding: self.world.config.redis.encoding,
            load_rows: self.world.config.redis.load_rows(),
            generation: generation.number(),
            state: Some((self.stored.as_deref(), &text)),
            catalog: Some(&catalog),
        };
        let begun = async {
            let epoch = begin_epoch_from(&mut store, &new, report.load.epoch).await?;
            let redis = &self.world.config.redis;
            let timeout = Duration::from_millis(redis.durability_timeout_ms);
            // A phase is acted upon when it can no longer be lost.
            store.durable(redis.durability, timeout).await?;
            Ok::<_, SinkError>(epoch)
        };
        match begun.await {
            Ok(epoch) if epoch == report.load.epoch => {}
            Ok(epoch) => {
                self.is_stored(text);
                let ours = report.load.epoch;
                return Err(unavailable(other_epoch(&self.world.config.redis.prefix, epoch, ours)));
            }
            Err(_) if self.holds(&text).await.unwrap_or(false) => {}
            Err(error) => {
                // The slot is undone: should the phase be stored, it is no more than that.
                let phase = self.phase.clone();
                self.not_stored((text, phase), Vec::new(), false);
                return Err(unavailable(error));
            }
        }
        self.is_stored(text);
        self.phase = next;
        self.load = loading::Shared::default();
        if let Err(error) = holder.adopt().await {
            // The phase stands; what is missing of it is told by whoever misses it.
            tracing::error!(%error, "the snapshot holder has ended");
        }
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

/// Why a load could not be ended, and what to do.
fn end_not_written(state: State, patience: Duration, why: Option<String>) -> String {
    let why = why.unwrap_or_else(|| "Redis does not answer (is redis.url reachable?)".to_owned());
    format!(
        "the end of the load was not written to the bootstrap stream in Redis within {} s, so the \
         state stays {state}, and nothing is lost: {why}. Once that is mended, the engine \
         tries again what it does by itself, and a CompleteBootstrap (`kasho bootstrap --yes`) has \
         to be called again",
        patience.as_secs()
    )
}

/// Somebody else has begun another epoch meanwhile.
fn other_epoch(prefix: &str, theirs: Epoch, ours: Epoch) -> String {
    format!(
        "the bootstrap made epoch {}, and in Redis (prefix {prefix:?}) epoch {} has begun: another \
         service writes there, and this bootstrap is given up. Give each service a redis.prefix of \
         its own, and bootstrap again",
        ours.0, theirs.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kept_a_load_from_ending_is_told_with_what_to_do() {
        let patience = Duration::from_secs(50);
        let told = |why: Option<&str>| {
            end_not_written(State::Accumulating, patience, why.map(str::to_owned))
        };
        let full = told(Some("Redis is out of memory"));
        for words in [
            "within 50 s",
            "stays ACCUMULATING",
            "nothing is lost: Redis is out",
            "bootstrap --yes",
        ] {
            assert!(full.contains(words), "no {words:?} in {full}");
        }
        assert!(told(None).contains("nothing is lost: Redis does not answer"));
        let other = other_epoch("kasho", Epoch(8), Epoch(7));
        for words in ["made epoch 7", "\"kasho\") epoch 8 has begun", "redis.prefix of its own"] {
            assert!(other.contains(words), "no {words:?} in {other}");
        }
    }
}
