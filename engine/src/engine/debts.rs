//! The engine's own commands, and what a server that did not answer has left undone: a
//! change of state that could not be stored, or of which nobody knows whether it was; a
//! snapshot's holder that was not ended. Looked at with every look at the servers.
//!
//! What can go wrong: a step whose reply is lost may have been done, or may be done later.
//! What Redis holds tells, and every step compares that with what was stored before; so it
//! is known again whose text is found. One that is not to be found among those that were
//! tried is what a Redis that lost its last writes, or all of them, has gone back to; or it
//! is a stranger's ([`found`]).

use tokio::time::Duration;

use super::effects::unavailable;
use super::{Engine, loading};
use crate::bootstrap::{
    self, Command, Effect, Found, Phase, Refusal, RefusalCode, Reload, State, Streaming, found,
};
use crate::position::Epoch;
use crate::sink::SinkError;
use crate::sink::redis::RedisStore;
use crate::sink::store::Registry;
use crate::source::snapshot::release_others;

/// Changes of unknown outcome that are remembered; they come one at a time.
const UNTOLD: usize = 16;
/// How long Redis may take to show that it answers again.
const PROBE: Duration = Duration::from_secs(1);

/// A change of state whose storing was given up.
struct Untold {
    text: Vec<u8>,
    next: Phase,
    effects: Vec<Effect>,
    holder: Option<String>,
}

/// A command of the engine's own that could not be carried out yet.
struct Owed {
    epoch: Option<Epoch>,
    command: Command,
    what: &'static str,
}

/// Everything that is left undone.
#[derive(Default)]
pub(super) struct Debts {
    untold: Vec<Untold>,
    owed: Vec<Owed>,
    /// A load that was stopped for a change that did not come to pass, or because Redis does
    /// not hold the state that it is of.
    pub(super) load: bool,
    /// Holders that the phase does not name may be left.
    pub(super) holders: bool,
}

impl Engine {
    /// A command of the engine's own. That it is refused means that it came too late; that a
    /// server does not answer, that it is tried again.
    pub(super) async fn apply(&mut self, command: Command, what: &'static str) {
        let epoch = self.phase.epoch();
        match self.transition(command.clone()).await {
            Ok(()) => tracing::info!(state = %self.phase.state(), "{what}"),
            Err(refusal) if refusal.code == RefusalCode::Unavailable => {
                if self.troubles.owed.is_none() {
                    tracing::warn!(%refusal, "{what}, and that cannot be stored yet: trying again");
                }
                self.owe(epoch, command, what, &refusal);
            }
            Err(refusal) => tracing::warn!(%refusal, "{what}, and that was refused"),
        }
    }

    /// Puts off a command until both servers answer.
    fn owe(
        &mut self,
        epoch: Option<Epoch>,
        command: Command,
        what: &'static str,
        refusal: &Refusal,
    ) {
        self.troubles.owed = Some(format!("{what}, and that cannot be stored yet: {refusal}"));
        if !self.debts.owed.iter().any(|owed| owed.command == command && owed.epoch == epoch) {
            self.debts.owed.push(Owed { epoch, command, what });
        }
    }

    /// The change was not stored, as far as is known: it may have been, or may be yet. The
    /// load that was `stopped` for it goes on once that is settled.
    pub(super) fn not_stored(
        &mut self,
        (text, next): (Vec<u8>, Phase),
        mut effects: Vec<Effect>,
        stopped: bool,
    ) {
        // Whoever asked for a slot was told that there is none.
        if effects.iter().any(|effect| matches!(effect, Effect::MakeSlot { .. })) {
            effects.clear();
        }
        self.debts.load |= stopped;
        let holder = self.holder();
        self.debts.untold.push(Untold { text, next, effects, holder });
        let excess = self.debts.untold.len().saturating_sub(UNTOLD);
        self.debts.untold.drain(..excess);
    }

    /// This text is stored: nothing that was tried before can be any more.
    pub(super) fn is_stored(&mut self, text: Vec<u8>) {
        self.stored = Some(text);
        self.unstored = false;
        self.debts.untold.clear();
    }

    /// Whether Redis holds this text, durably.
    pub(super) async fn holds(&self, text: &[u8]) -> Result<bool, SinkError> {
        let mut store = self.world.redis_store().await?;
        if store.state().await?.as_deref() != Some(text) {
            return Ok(false);
        }
        // A wait speaks for the writes of its own connection only.
        self.world.swap_state(&mut store, Some(text), text).await?;
        Ok(true)
    }

    /// Makes sure that Redis holds what was stored last, before `command` builds on it: adopts
    /// a change that was given up and has been stored all the same, and goes back with a Redis
    /// that has lost its last writes.
    ///
    /// # Errors
    /// Redis does not answer; or it holds something else that `command` cannot build on.
    pub(super) async fn catch_up(&mut self, command: Option<&Command>) -> Result<(), Refusal> {
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        let found = store.state().await.map_err(unavailable)?;
        if found == self.stored {
            if std::mem::take(&mut self.debts.load) && self.loading.is_none() {
                self.go_on_loading();
            }
            return Ok(());
        }
        let tried = |untold: &Untold| Some(&untold.text) == found.as_ref();
        match self.debts.untold.iter().position(tried) {
            Some(at) => self.adopt(&mut store, at).await,
            None => self.judge(found, command).await,
        }
    }

    /// Adopts a change that was given up and has been stored all the same.
    async fn adopt(&mut self, store: &mut RedisStore, at: usize) -> Result<(), Refusal> {
        let found = self.debts.untold[at].text.clone();
        let same = self.world.swap_state(store, Some(&found), &found);
        same.await.map_err(unavailable)?;
        let Untold { text, next, effects, holder } = self.debts.untold.swap_remove(at);
        if self.unstored {
            // The phase has moved on without Redis: it is stored over this one.
            self.stored = Some(text);
            self.debts.untold.clear();
            return Ok(());
        }
        self.is_stored(text);
        self.debts.load = false;
        self.phase = next;
        let state = self.phase.state();
        tracing::warn!(%state, "a change of state whose outcome was not known was made");
        self.act(effects, holder).await
    }

    /// Redis holds something that this engine has not stored last, nor tried to store.
    async fn judge(
        &mut self,
        stored: Option<Vec<u8>>,
        command: Option<&Command>,
    ) -> Result<(), Refusal> {
        let text = stored.as_deref().map(String::from_utf8_lossy);
        let phase = text.map(|text| bootstrap::load(&text)).transpose();
        let phase = phase.map_err(|error| Refusal::precondition(error.to_string()))?;
        // What ends the bootstrap needs nothing of it.
        let ends = matches!(command, Some(Command::Abort { .. } | Command::SlotLost { .. }));
        match (found(&self.phase, phase.as_ref()), phase) {
            (Found::Theirs, _) => {
                Err(Refusal::precondition(theirs(&self.world.config.redis.prefix)))
            }
            (Found::Earlier, Some(phase)) if !ends => Err(self.go_back(stored, phase).await),
            (Found::Lost, _) if !ends => Err(unavailable(lost(self.phase.state()))),
            _ => {
                self.stored = stored;
                self.debts.untold.clear();
                Ok(())
            }
        }
    }

    /// Redis has lost its last writes, and `phase` is what it holds of the bootstrap under way:
    /// the load goes on from there, as after a start. The stream looks for itself.
    async fn go_back(&mut self, stored: Option<Vec<u8>>, phase: Phase) -> Refusal {
        let text = format!(
            "Redis has lost its last writes (is redis.durability enough?), or another engine serves this \
             slot: the stored state is {}, and not the one that was stored last. It is taken up, and \
             the load goes on from what Redis holds; look at it (GetStatus), then ask again",
            phase.state()
        );
        tracing::warn!("{text}");
        if let Some(loading) = self.loading.take() {
            loading.end().await;
        }
        self.debts.untold.clear();
        self.debts.load = false;
        // Whatever was to be said of the load is found again by whoever goes on with it.
        self.debts.owed.clear();
        let before = std::mem::replace(&mut self.phase, phase);
        self.stored = stored;
        self.load = loading::Shared::default();
        self.world.marks.expect(None);
        if let (Phase::Streaming(before), Phase::Streaming(Streaming { reload: None, .. })) =
            (before, &self.phase)
            && let Some(Reload { tables, nonce, load, .. }) = before.reload.map(|reload| *reload)
        {
            // It was granted, and Redis has forgotten that.
            let planned = load.planned.unwrap_or_default();
            let command = Command::Reload { tables, nonce, planned };
            let epoch = self.phase.epoch();
            self.debts.owed.push(Owed { epoch, command, what: "tables are loaded again" });
        }
        self.go_on_loading();
        self.debts.holders = true;
        unavailable(text)
    }

    /// Does what was left undone, as far as the servers let it.
    pub(super) async fn pay(&mut self) {
        let debts = &self.debts;
        let owes = debts.load || !(debts.untold.is_empty() && debts.owed.is_empty());
        if owes && self.redis_answers().await {
            self.pay_redis().await;
        }
        // One that is being made has no name in the phase yet.
        let making = self.phase.open_load().is_some_and(|load| load.holder.is_none());
        if self.debts.holders && self.phase.epoch().is_some() && !making {
            self.end_left_holders().await;
        }
    }

    /// A Redis that hangs must not hold up whoever asks something else.
    async fn redis_answers(&self) -> bool {
        let found = tokio::time::timeout(PROBE, self.world.inspect()).await;
        matches!(found, Ok(Ok(_)))
    }

    async fn pay_redis(&mut self) {
        if let Err(refusal) = self.catch_up(None).await {
            tracing::debug!(%refusal, "the stored state cannot be looked at yet");
            return;
        }
        for Owed { epoch, command, what } in std::mem::take(&mut self.debts.owed) {
            let starting =
                matches!(command, Command::StartFailed { .. }) && self.starting.is_some();
            if epoch == self.phase.epoch() && !starting {
                self.apply(command, what).await;
            }
        }
        if self.debts.owed.is_empty() {
            self.troubles.owed = None;
        }
    }

    /// Ends every holder of our slot that the phase does not name.
    async fn end_left_holders(&mut self) {
        let keep = self.holder();
        let ended = async {
            let client = self.world.sql("kasho").await?;
            release_others(&client, &self.world.slot, keep.as_deref()).await
        };
        match ended.await {
            Ok(ended) => {
                self.debts.holders = false;
                if ended > 0 {
                    tracing::warn!(sessions = ended, "a snapshot holder was left over, and ended");
                }
            }
            Err(error) => tracing::debug!(%error, "left over holders cannot be looked for yet"),
        }
    }
}

/// Nothing of the bootstrap under way is left in Redis.
fn lost(state: State) -> String {
    format!(
        "Redis has lost its data (or was swapped): of the bootstrap under way, which is {state}, \
         nothing is stored there any more. Put the data back if you have it, or bootstrap again \
         (`kasho reset`, then `kasho bootstrap`)"
    )
}

/// Somebody else has begun a bootstrap.
fn theirs(prefix: &str) -> String {
    format!(
        "in Redis (prefix {prefix:?}) a later bootstrap is stored than this service has begun: \
         another one writes there, and nothing of it is touched. Give each service a redis.prefix of \
         its own; if the other one is gone for good, start this one again, and it takes up what is \
         stored"
    )
}
