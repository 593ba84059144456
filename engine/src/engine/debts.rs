//! The engine's own commands, and what a server that did not answer has left undone: a
//! change of state that could not be stored, or of which nobody knows whether it was; a
//! snapshot's holder that was not ended. Looked at with every look at the servers.
//!
//! What can go wrong: a step whose reply is lost may have been done, or may be done later.
//! What Redis holds tells, and every step compares that with what was stored before; so it
//! is known again whose text is found, and only a stranger's is refused.

use tokio::time::Duration;

use super::Engine;
use super::effects::unavailable;
use crate::bootstrap::{Command, Effect, Phase, Refusal, RefusalCode};
use crate::position::Epoch;
use crate::sink::SinkError;
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
    /// A load that was stopped for a change that did not come to pass.
    load: bool,
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

    /// Adopts a change that was given up and has been stored all the same.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) async fn catch_up(&mut self) -> Result<(), Refusal> {
        if self.debts.untold.is_empty() {
            return Ok(());
        }
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        let found = store.state().await.map_err(unavailable)?;
        let tried = |untold: &Untold| Some(&untold.text) == found.as_ref();
        if found != self.stored
            && let Some(at) = self.debts.untold.iter().position(tried)
        {
            let found = self.debts.untold[at].text.clone();
            let same = self.world.swap_state(&mut store, Some(&found), &found);
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
            return self.act(effects, holder).await;
        }
        if std::mem::take(&mut self.debts.load) && self.loading.is_none() {
            self.go_on_loading();
        }
        Ok(())
    }

    /// Does what was left undone, as far as the servers let it.
    pub(super) async fn pay(&mut self) {
        let debts = &self.debts;
        if !(debts.untold.is_empty() && debts.owed.is_empty()) && self.redis_answers().await {
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
        if let Err(refusal) = self.catch_up().await {
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
