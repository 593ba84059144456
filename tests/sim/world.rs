//! What outlives every process of a run: both servers, who holds the slot, and what was
//! found to be wrong so far.

use std::sync::{Mutex, MutexGuard};

use kasho::position::{Lsn, Position};
use kasho::sink::config::{Config, Durability, Encoding};
use kasho::sink::dead::{StoredLetter, list};
use kasho::sink::id::Id;
use kasho::sink::publisher::{NewEpoch, Promotion, begin_epoch};
use kasho::sink::store::{Checkpoint, Connect};
use kasho::sink::{entry, memory, store};
use kasho::source::{Limits, RETRY_PREFIX, memory as source};

use crate::log::{Happened, Log};
use crate::stations::{Rule, Sabotage};
use crate::trace::Trace;

pub(crate) const SLOT: &str = "kasho_slot";
pub(crate) const SYSTEM: &str = "7000";
/// The log begins here.
pub(crate) const START: Lsn = Lsn(1_000);

/// Shared by every process.
pub(crate) struct World {
    pub(crate) redis: memory::MemoryServer,
    pub(crate) settings: Config,
    pub(crate) limits: Limits,
    pub(crate) trace: Trace,
    pub(crate) sabotage: Sabotage,
    state: Mutex<State>,
}

struct State {
    log: Log,
    history: Vec<Promotion>,
    holder: Option<u64>,
    sessions: u64,
    complaints: Vec<String>,
}

impl World {
    pub(crate) async fn new(
        settings: Config,
        limits: Limits,
        trace: &Trace,
        sabotage: Sabotage,
    ) -> World {
        let redis = memory::MemoryServer::new("kasho");
        let new = NewEpoch {
            encoding: Encoding::Msgpack,
            load_rows: 500,
            slot: SLOT,
            system_id: SYSTEM,
            timeline: 1,
            start_lsn: START,
            description: Rule(0).description(),
            generation: 1,
            state: None,
            catalog: None,
        };
        begin_epoch(&mut redis.connect().await.unwrap(), &new).await.unwrap();
        redis.remember(64);
        let log = Log::new(source::MemoryServer::new(START, &[crate::log::LISTED, RETRY_PREFIX]));
        let (history, complaints) = (Vec::new(), Vec::new());
        let state = State { log, history, holder: None, sessions: 0, complaints };
        let (trace, state) = (trace.clone(), Mutex::new(state));
        World { redis, settings, limits, trace, sabotage, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn postgres(&self) -> source::MemoryServer {
        self.state().log.server.clone()
    }

    /// Does something in the database.
    pub(crate) fn work<T>(&self, work: impl FnOnce(&mut Log) -> T) -> T {
        work(&mut self.state().log)
    }

    pub(crate) fn happened(&self) -> Vec<Happened> {
        self.state().log.happened.clone()
    }

    /// A standby that has the log up to `at` takes over, with what the slot was told.
    pub(crate) fn promote(&self, at: Lsn) {
        let mut state = self.state();
        let timeline = u32::try_from(state.history.len()).unwrap() + 1;
        state.history.push(Promotion { timeline, at });
        state.log.promote(at);
        state.holder = None;
    }

    pub(crate) fn timeline(&self) -> (u32, Vec<Promotion>) {
        let history = self.state().history.clone();
        (u32::try_from(history.len()).unwrap() + 1, history)
    }

    /// START_REPLICATION: one at a time.
    pub(crate) fn take_slot(&self, pid: u64) -> Option<u64> {
        let mut state = self.state();
        if state.holder.is_some() {
            return None;
        }
        state.sessions += 1;
        let session = pid << 32 | state.sessions;
        state.holder = Some(session);
        Some(session)
    }

    pub(crate) fn holder(&self) -> Option<u64> {
        self.state().holder
    }

    pub(crate) fn release(&self, session: u64) {
        let mut state = self.state();
        if state.holder == Some(session) {
            state.holder = None;
        }
    }

    /// The server gives up on whoever holds the slot.
    pub(crate) fn time_out_holder(&self) {
        self.state().holder = None;
    }

    pub(crate) fn complain(&self, complaint: String) {
        self.trace.say(format_args!("COMPLAINT {complaint}"));
        self.state().complaints.push(complaint);
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.state().complaints.clone()
    }

    /// The checkpoint as it would survive whatever `redis.durability` promises to survive.
    pub(crate) fn durable(&self) -> Option<Checkpoint> {
        self.redis.checkpoint(self.settings.durability != Durability::Reply)
    }

    /// PostgreSQL is being told that it may forget everything before `lsn`.
    pub(crate) fn acknowledged(&self, lsn: Lsn) {
        self.trace.say(format_args!("acknowledged {lsn}"));
        let Some(durable) = self.durable() else {
            return self.complain(format!("{lsn} is acknowledged and there is no checkpoint"));
        };
        if lsn > durable.confirmed {
            let stored = durable.confirmed;
            self.complain(format!("{lsn} is acknowledged, what is durable says {stored}"));
        }
        let state = self.state();
        let ended = state.log.happened.iter().rev().find(|happened| happened.end <= lsn);
        let last = ended.and_then(|happened| happened.events.last().map(|e| (happened.lsn, e)));
        let open = last.filter(|(commit_lsn, event)| {
            let (commit_lsn, ordinal) = (*commit_lsn, event.ordinal);
            Position::Wal { commit_lsn, ordinal } > durable.position
        });
        let open = open.map(|(commit_lsn, _)| commit_lsn);
        drop(state);
        if let Some(open) = open {
            self.complain(format!(
                "{lsn} is acknowledged, the transaction at {open} is not stored"
            ));
        }
    }

    /// Every row that is set aside, if Redis answers.
    pub(crate) async fn try_letters(&self) -> Option<Vec<StoredLetter>> {
        list(&mut self.redis.connect().await.ok()?).await.ok()
    }

    /// Every row that was set aside, read when all is over.
    pub(crate) async fn letters(&self) -> Vec<StoredLetter> {
        self.redis.no_plan();
        self.try_letters().await.unwrap()
    }

    /// `kasho dead forget`; whether it comes to pass is Redis's.
    pub(crate) async fn forget(&self, letters: &[StoredLetter]) {
        let ids: Vec<Id> = letters.iter().map(|letter| letter.id).collect();
        if let Ok(mut store) = self.redis.connect().await {
            let _ = store::Registry::forget(&mut store, &ids).await;
        }
    }

    /// Every entry, read when all is over.
    pub(crate) async fn entries(&self) -> Vec<entry::RawEntry> {
        use kasho::sink::id::Lane;
        use store::Feed;
        self.redis.no_plan();
        let mut store = self.redis.connect().await.unwrap();
        let epoch = kasho::position::Epoch(1);
        store.page(epoch, Lane::Changes, Id::ZERO, usize::MAX).await.unwrap().entries
    }
}
