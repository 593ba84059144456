//! The loader's writer over the fake.

use proptest::prelude::*;

use super::*;
use crate::error::Class;
use crate::sink::config::{Config, Encoding};
use crate::sink::contract::sample;
use crate::sink::entry::{Content, Entry, Field, RawEntry};
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
        load_rows: 500,
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
    open_with(server, owner, token, &Config::default()).await
}

async fn open_with(
    server: &MemoryServer,
    owner: &str,
    token: u64,
    config: &Config,
) -> Result<(LoadWriter<MemoryStore>, Resumed), SinkError> {
    let store = server.connect().await?;
    LoadWriter::open(store, config, Epoch(1), owner, WriterToken(token), Status::default()).await
}

async fn stored(server: &MemoryServer) -> Vec<RawEntry> {
    let mut store = server.connect().await.unwrap();
    store.page(Epoch(1), Lane::Bootstrap, Id::ZERO, 10_000).await.unwrap().entries
}

/// Every row and mark.
async fn entries(server: &MemoryServer) -> Vec<Entry> {
    let each = |raw: &RawEntry| match raw.has_rows() {
        true => Entry::rows(raw, Id::ZERO).unwrap(),
        false => vec![Entry::decode(raw, Lane::Bootstrap).unwrap()],
    };
    stored(server).await.iter().flat_map(each).collect()
}

fn progress(field: &str, value: &str) -> Progress {
    vec![(field.to_owned(), Some(value.to_owned()))]
}

/// Rows of two ranges, whose own positions do not matter.
fn rows(count: u64) -> Batch {
    sample::read("ledger", (1..=count).map(|n| (n, format!("note {n}"))))
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
    let (start_lsn, called) = (Lsn(100), [("public.t".to_owned(), (950, 3))].into());
    let end = End { start_lsn, load_points: &points, called: &called, after: None, whole: true };
    assert_eq!(load.finish(end, old, b"x").await, Err(SinkError::OtherState));
    let (mut load, _) = open(&server, "engine", 2).await.unwrap();
    let old = Some(&b"ACCUMULATING"[..]);
    assert_eq!(load.finish(end, old, b"STREAMING").await, Ok(()));
    let all = entries(&server).await;
    let end = Content::End { start_lsn, load_points: points, called, after: None, whole: true };
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

fn config(encoding: Encoding, load_rows: Option<u64>) -> Config {
    Config { encoding, load_rows, ..Config::default() }
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_table_share_an_entry_numbered_as_the_last_of_them() {
    for (encoding, load_rows, highs) in [
        (Encoding::Msgpack, Some(4), &[4, 7, 11, 14, 15][..]),
        (Encoding::Json, Some(4), &[4, 7, 11, 14, 15]),
        (Encoding::Msgpack, None, &[7, 14, 15]),
        (Encoding::Msgpack, Some(1), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (Encoding::Json, None, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ] {
        let server = server().await;
        let config = config(encoding, load_rows);
        let (mut load, _) = open_with(&server, "engine", 1, &config).await.unwrap();
        // Entries end with the batch.
        assert_eq!(load.append(&rows(7), 5, progress("t:0", "7")).await, Ok(7));
        assert_eq!(load.append(&rows(7), 5, progress("t:0", "14")).await, Ok(14));
        assert_eq!(load.restart(&[("public.t", 2, Lsn(9))], vec![], vec![]).await, Ok(15));
        assert_eq!(load.status().get().entries, 15, "rows and marks are counted");
        let found: Vec<u64> = stored(&server).await.iter().map(|raw| raw.id.high).collect();
        assert_eq!(found, highs, "{encoding:?} {load_rows:?}");
        let positions: Vec<_> = entries(&server).await.iter().map(|e| e.position).collect();
        assert_eq!(positions, (1..=15).map(Position::Bootstrap).collect::<Vec<_>>());
        let (_, resumed) = open(&server, "engine", 2).await.unwrap();
        assert_eq!(resumed.entries, 15);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_with_its_bytes_its_table_and_what_is_no_row() {
    let server = server().await;
    let (mut load, _) = open(&server, "engine", 1).await.unwrap();
    let sizes = [10, 40_000, 30_000, 30_000, 200_000, 10, 10].into_iter().zip(1..);
    let batch = sample::read("ledger", sizes.map(|(bytes, n)| (n, "x".repeat(bytes))));
    load.append(&batch, 1, Vec::new()).await.unwrap();
    let mut batch = rows(6);
    let other = batch.relation_index(&sample::relation("other"));
    (batch.rows[2].relation, batch.rows[3].relation) = (other, other);
    // What the chain drops has no number.
    batch.rows[0].dropped = true;
    load.append(&batch, 1, Vec::new()).await.unwrap();
    let found: Vec<(u64, String)> = stored(&server)
        .await
        .iter()
        .map(|raw| {
            let table = String::from_utf8_lossy(raw.field("t").unwrap()).into_owned();
            assert!(raw.weight() < 66_000 || !raw.has_rows());
            (raw.id.high, table)
        })
        .collect();
    let ledger = [2, 4, 5, 7, 8].map(|high| (high, "public.ledger".to_owned()));
    let rest = [(10, "public.other".to_owned()), (12, "public.ledger".to_owned())];
    assert_eq!(found, ledger.into_iter().chain(rest).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_too_large_is_told_by_its_number() {
    let server = server().await;
    let (load, _) = open(&server, "engine", 1).await.unwrap();
    let mut encoder = Encoder { max_bulk_len: 100_000, ..load.encoder() };
    let sizes = [10, 10, 10, 100_001].into_iter().zip(1..);
    let batch = sample::read("ledger", sizes.map(|(bytes, n)| (n, "x".repeat(bytes))));
    assert_eq!(encoder.encode(&rows(2)).map(|encoded| encoded.entries.len()), Ok(1));
    let error = encoder.encode(&batch).unwrap_err();
    let SinkError::TooLarge { position, .. } = error else { panic!("{error}") };
    assert_eq!(position, Position::Bootstrap(6));
}

#[tokio::test(start_paused = true)]
async fn the_setting_may_change_in_the_middle_of_a_load() {
    let server = server().await;
    let settings =
        [(Encoding::Msgpack, 3), (Encoding::Json, 2), (Encoding::Msgpack, 1), (Encoding::Json, 5)];
    for (token, (encoding, rows)) in settings.into_iter().enumerate() {
        let config = config(encoding, Some(rows));
        let opened = open_with(&server, "engine", token as u64 + 1, &config).await;
        let (mut load, resumed) = opened.unwrap();
        let first = resumed.entries + 1;
        let slice = (first..first + 5).map(|n| (n, String::new()));
        load.append(&sample::read("ledger", slice), 1, Vec::new()).await.unwrap();
    }
    let all = entries(&server).await;
    for (entry, n) in all.iter().zip(1..) {
        let Content::Row { new: Some(new), .. } = &entry.content else { panic!("{entry:?}") };
        assert_eq!(new[0], Field::Text(format!("{n}").into()));
        assert_eq!(entry.position, Position::Bootstrap(n));
    }
    let found: Vec<u64> = stored(&server).await.iter().map(|raw| raw.id.high).collect();
    assert_eq!((all.len(), &found[..]), (20, &[3, 5, 7, 9, 10, 11, 12, 13, 14, 15, 20][..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Batches of two tables of which rows are dropped, whatever an entry may hold.
    #[test]
    fn however_many_share_an_entry_the_rows_are_the_same(
        batches in prop::collection::vec(
            prop::collection::vec((any::<bool>(), prop::bool::weighted(0.2), 0..30_000_usize), 0..30),
            1..5,
        ),
        most in 1..20_u64,
        json in any::<bool>(),
    ) {
        let encoding = if json { Encoding::Json } else { Encoding::Msgpack };
        let write = async |most| {
            let server = server().await;
            let config = config(encoding, Some(most));
            let (mut load, _) = open_with(&server, "engine", 1, &config).await.unwrap();
            for rows in &batches {
                let notes = rows.iter().map(|(_, _, bytes)| "x".repeat(*bytes));
                let mut batch = sample::read("ledger", (1..).zip(notes));
                let other = batch.relation_index(&sample::relation("other"));
                for (row, (in_other, dropped, _)) in batch.rows.iter_mut().zip(rows) {
                    row.relation = if *in_other { other } else { row.relation };
                    row.dropped = *dropped;
                }
                load.append(&batch, 1, Vec::new()).await.unwrap();
            }
            let all = entries(&server).await;
            let all: Vec<_> = all.into_iter().map(|entry| Entry { weight: 0, ..entry }).collect();
            (all, stored(&server).await.len())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (one, count) = runtime.block_on(write(1));
        let (many, fewer) = runtime.block_on(write(most));
        prop_assert_eq!((one.len(), fewer <= count), (count, true));
        prop_assert_eq!(one, many);
    }
}
