//! The fake keeps the contract, and does every fault on command.

use super::*;
use crate::position::{Epoch, Lsn};
use crate::sink::config::Durability;
use crate::sink::contract::{self, Rig};
use crate::sink::id::Id;
use crate::sink::store::{Answer, Append, Begin, Dead, Guard, NewEntry, Store};

struct Fake {
    server: MemoryServer,
}

impl Rig for Fake {
    type Connect = MemoryServer;

    fn fresh(&self) -> (MemoryServer, Keys) {
        self.server.empty();
        (self.server.clone(), self.server.keys.clone())
    }

    async fn occupy(&self, key: &str, there: bool) {
        self.server.set_wrong_type(key, there);
    }

    async fn fill(&self, full: bool) {
        self.server.set_limit(u64::from(full));
    }
}

#[tokio::test(start_paused = true)]
async fn the_contract_holds() {
    contract::check(&Fake { server: MemoryServer::default() }).await;
}

async fn begun() -> (MemoryServer, MemoryStore) {
    let server = MemoryServer::default();
    let mut store = server.connect().await.unwrap();
    let fields = contract::checkpoint(Epoch(1)).fields();
    let begin = Begin { epoch: Epoch(1), before: None, fields, state: None, catalog: None };
    store.begin(&begin).await.unwrap();
    (server, store)
}

async fn put(store: &mut MemoryStore, after: u64, lsn: u64) -> Result<Answer, StoreError> {
    let last = if after == 0 { Id::ZERO } else { Id { high: after, low: 1 } };
    let guard = Guard { epoch: Epoch(1), writer: "0-0".to_owned(), last };
    let id = Id { high: lsn, low: 1 };
    let entry = NewEntry { id, op: "insert", table: "t", data: b"x", last: true };
    let fields = vec![("confirmed", Lsn(lsn).to_string())];
    store
        .append(
            &guard,
            &Append { generation: 1, entries: vec![entry], fields, dead: Dead::default() },
        )
        .await
}

async fn top(server: &MemoryServer) -> u64 {
    server.connect().await.unwrap().inspect().await.unwrap().changes.high
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_done_and_a_cut_is_not() {
    for (fault, reached) in [(Fault::LoseReply, 200), (Fault::Cut, 0)] {
        let (server, mut store) = begun().await;
        server.plan(move |step| match step {
            Step::Append(_) => fault,
            _ => Fault::None,
        });
        assert!(matches!(put(&mut store, 0, 200).await, Err(StoreError::Unknown(_))));
        server.no_plan();
        assert!(matches!(put(&mut store, 0, 200).await, Err(StoreError::Unknown(_))), "spent");
        assert_eq!(top(&server).await, reached);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_change_nothing_and_end_nothing() {
    let (server, mut store) = begun().await;
    let faults = [Fault::Oom, Fault::ReadOnly, Fault::Loading];
    let mut planned = faults.into_iter();
    server.plan(move |_| planned.next().unwrap_or(Fault::None));
    assert_eq!(put(&mut store, 0, 200).await, Err(StoreError::Oom));
    assert_eq!(put(&mut store, 0, 200).await, Err(StoreError::ReadOnly));
    assert!(matches!(put(&mut store, 0, 200).await, Err(StoreError::NotNow(_))));
    assert_eq!(put(&mut store, 0, 200).await, Ok(Answer::Done));
}

#[tokio::test(start_paused = true)]
async fn a_fail_over_loses_what_no_wait_covered() {
    let (server, mut store) = begun().await;
    server.remember(10);
    put(&mut store, 0, 200).await.unwrap();
    store.durable(Durability::Replicas(1), Duration::from_secs(1)).await.unwrap();
    put(&mut store, 200, 300).await.unwrap();
    put(&mut store, 300, 400).await.unwrap();
    store.durable(Durability::Reply, Duration::from_secs(1)).await.unwrap();
    assert_eq!(server.fail_over(1), 1);
    assert_eq!(top(&server).await, 300);
    assert!(matches!(put(&mut store, 300, 400).await, Err(StoreError::Unknown(_))));
    assert_eq!(server.fail_over(10), 1);
    assert_eq!(top(&server).await, 200);
    assert_eq!(server.fail_over(10), 0);
    server.empty();
    assert_eq!(top(&server).await, 0);
}
