//! The loader's writer over the fake.

use super::*;
use crate::error::Class;
use crate::sink::config::{Config, Encoding};
use crate::sink::contract::sample::{self, Part};
use crate::sink::entry::{Content, Entry};
use crate::sink::memory::{Fault, MemoryServer, MemoryStore, Step};
use crate::sink::publisher::Description;
use crate::sink::publisher::{NewEpoch, begin_epoch};
use crate::sink::store::{Connect, Feed, Registry};

async fn server() -> MemoryServer {
    let server = MemoryServer::default();
    let description =
        Description { options: "o".into(), chain: "c".into(), key_fingerprint: "k".into() };
    let new = NewEpoch {
        encoding: Encoding::Msgpack,
        slot: "s",
        system_id: "1",
        timeline: 1,
        start_lsn: Lsn(100),
        description,
        generation: 1,
        state: Some((None, b"ACCUMULATING")),
        catalog: None,
    };
    begin_epoch(&mut server.connect().await.unwrap(), &new).await.unwrap();
    server
}

async fn open(
    server: &MemoryServer,
    owner: &str,
    token: u64,
) -> Result<(LoadWriter<MemoryStore>, Resumed), SinkError> {
    let store = server.connect().await?;
    let config = Config::default();
    LoadWriter::open(store, &config, Epoch(1), owner, WriterToken(token), Status::default()).await
}

async fn entries(server: &MemoryServer) -> Vec<Entry> {
    let mut store = server.connect().await.unwrap();
    let page = store.page(Epoch(1), Lane::Bootstrap, Id::ZERO, 1000).await.unwrap();
    page.entries.iter().map(|raw| Entry::decode(raw, Lane::Bootstrap).unwrap()).collect()
}

fn progress(field: &str, value: &str) -> Progress {
    vec![(field.to_owned(), Some(value.to_owned()))]
}

/// Rows of two ranges, whose own positions do not matter.
fn rows(count: u64) -> Batch {
    sample::batch(&[Part::whole(1, count)])
}

#[tokio::test(start_paused = true)]
async fn a_load_resumes_where_rows_and_progress_agree() {
    for fault in [Fault::LoseReply, Fault::Cut, Fault::Oom] {
        let server = server().await;
        let (mut load, resumed) = open(&server, "engine", 1).await.unwrap();
        assert_eq!(resumed, Resumed { entries: 0, progress: HashMap::new() });
        assert_eq!(load.append(&rows(3), 5, progress("t:0", "3")).await, Ok(3));
        let mut faults = Some(fault);
        server.plan(move |step| match step {
            Step::Load(1..) => faults.take().unwrap_or(Fault::None),
            _ => Fault::None,
        });
        let second = load.append(&rows(2), 5, progress("t:0", "5")).await;
        assert_eq!(second.is_ok(), fault == Fault::Oom, "{second:?}");
        server.no_plan();
        // The same owner needs no patience.
        let (mut load, resumed) = open(&server, "engine", 2).await.unwrap();
        let done = resumed.entries;
        assert_eq!(resumed.progress.get("t:0"), Some(&done.to_string()));
        if done == 3 {
            assert_eq!(load.append(&rows(2), 5, progress("t:0", "5")).await, Ok(5));
        }
        let all = entries(&server).await;
        assert_eq!(all.len(), 5);
        let positions: Vec<_> = all.iter().map(|entry| entry.position).collect();
        assert_eq!(positions, (1..=5).map(Position::Bootstrap).collect::<Vec<_>>());
        assert!(all.iter().all(|entry| entry.generation == 5));
    }
}

#[tokio::test(start_paused = true)]
async fn two_loaders_at_once_are_refused_and_a_stale_one_changes_nothing() {
    let server = server().await;
    let (mut first, _) = open(&server, "engine", 1).await.unwrap();
    first.append(&rows(1), 1, Vec::new()).await.unwrap();
    let error = open(&server, "pg-bootstrap-sync", 2).await.unwrap_err();
    assert!(matches!(&error, SinkError::Leased { owner, .. } if owner == "engine"), "{error}");
    assert_eq!(error.class(), Class::Retry);
    // Frozen for longer than its lease, thawed after somebody else went on.
    tokio::time::advance(Duration::from_secs(31)).await;
    let (mut second, resumed) = open(&server, "pg-bootstrap-sync", 2).await.unwrap();
    assert_eq!(resumed.entries, 1);
    let error = first.append(&rows(1), 1, Vec::new()).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { lane: Lane::Bootstrap, .. }), "{error}");
    assert_eq!(second.append(&rows(1), 1, Vec::new()).await, Ok(2));
    second.close().await.unwrap();
    assert!(open(&server, "engine", 3).await.is_ok(), "a closed turn is free at once");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_table_loses_its_progress_in_the_same_step() {
    let server = server().await;
    let (mut load, _) = open(&server, "engine", 1).await.unwrap();
    load.append(&rows(2), 1, progress("t:0", "2")).await.unwrap();
    let mut reset = vec![("t:0".to_owned(), None)];
    reset.extend(progress("t:attempt", "2"));
    assert_eq!(load.restart(&[("public.t", 2, Lsn(900))], reset, Vec::new()).await, Ok(3));
    let restart = &entries(&server).await[2];
    assert_eq!(restart.content, Content::Restart { attempt: 2, load_lsn: Lsn(900) });
    assert_eq!(restart.table, "public.t");
    let (_, resumed) = open(&server, "engine", 2).await.unwrap();
    assert_eq!(resumed.progress, HashMap::from([("t:attempt".to_owned(), "2".to_owned())]));
}

#[tokio::test(start_paused = true)]
async fn the_end_and_the_phase_come_in_one_step() {
    let server = server().await;
    let (mut load, _) = open(&server, "engine", 1).await.unwrap();
    load.append(&rows(1), 1, Vec::new()).await.unwrap();
    let points = BTreeMap::from([("public.t".to_owned(), Lsn(900))]);
    let old = Some(&b"WAITING"[..]);
    assert_eq!(load.finish((Lsn(100), &points, None), old, b"x").await, Err(SinkError::OtherState));
    let (mut load, _) = open(&server, "engine", 2).await.unwrap();
    let old = Some(&b"ACCUMULATING"[..]);
    assert_eq!(load.finish((Lsn(100), &points, None), old, b"STREAMING").await, Ok(()));
    let all = entries(&server).await;
    let end = Content::End { start_lsn: Lsn(100), load_points: points, after: None };
    assert_eq!((all.len(), &all[1].content), (2, &end));
    let state = server.connect().await.unwrap().state().await.unwrap();
    assert_eq!(state, Some(b"STREAMING".to_vec()));
    assert_eq!(load.append(&rows(1), 1, Vec::new()).await, Err(SinkError::Spent));
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_wait_for_room() {
    let server = server().await;
    let (mut load, _) = open(&server, "engine", 1).await.unwrap();
    load.append(&rows(2), 1, progress("t:0", "2")).await.unwrap();
    // Full as far as we are concerned, and not so full that the server refuses.
    server.set_limit(100_000);
    server.set_foreign(96_000);
    let (mut load, _) = open(&server, "engine", 2).await.unwrap();
    let reset = vec![("t:0".to_owned(), None)];
    let told = load.restart(&[("public.t", 2, Lsn(900))], reset, Vec::new());
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    assert_eq!(told.expect("it waits"), Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_waits_for_memory_keeps_its_turn() {
    let server = server().await;
    let (mut load, _) = open(&server, "engine", 1).await.unwrap();
    let status = load.status();
    server.set_limit(1_000);
    server.set_foreign(990);
    let intruder = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        let error = open(&server, "other", 2).await.unwrap_err();
        assert!(matches!(error, SinkError::Leased { .. }), "{error}");
        assert!(status.get().paused.is_some());
        server.set_foreign(0);
    };
    let batch = rows(1);
    let (loaded, ()) = tokio::join!(load.append(&batch, 1, Vec::new()), intruder);
    assert_eq!(loaded, Ok(1));
}
