//! Publishing over the fake: what stands in the stream after each history, and that a
//! stale writer changes nothing in any of them.

use std::collections::BTreeSet;

use super::*;
use crate::position::Epoch;
use crate::sink::config::{Budget, Config, Encoding, Retention, Share};
use crate::sink::consumers;
use crate::sink::contract::sample::{self, Part};
use crate::sink::entry::{Entry, EntryOp};
use crate::sink::memory::{Fault, MemoryServer, MemoryStore, Step};
use crate::sink::store::{Connect, Feed, Registry, Store};

mod fence_model;
mod marks;

pub(super) fn description() -> Description {
    Description { options: "o".into(), chain: "c".into(), key_fingerprint: "k".into() }
}

pub(super) fn opening(token: u64) -> Opening {
    Opening {
        slot: "kasho_slot".into(),
        system_id: "7000".into(),
        timeline: 1,
        history: Vec::new(),
        confirmed_flush: Lsn(100),
        token: WriterToken(token),
        accept_gap: false,
    }
}

pub(super) async fn server() -> MemoryServer {
    let server = MemoryServer::default();
    let new = NewEpoch {
        encoding: Encoding::Msgpack,
        load_rows: 500,
        slot: "kasho_slot",
        system_id: "7000",
        timeline: 1,
        start_lsn: Lsn(100),
        description: description(),
        generation: 1,
        state: None,
        catalog: None,
    };
    let mut store = server.connect().await.unwrap();
    assert_eq!(begin_epoch(&mut store, &new).await, Ok(Epoch(1)));
    server
}

pub(super) async fn try_open(
    server: &MemoryServer,
    config: &Config,
    opening: &Opening,
) -> Result<(Publisher<MemoryStore>, Opened), SinkError> {
    let store = server.connect().await?;
    let claim = Claim::new(store).await?;
    Publisher::open(claim, config, opening, Status::default()).await
}

pub(super) async fn open(server: &MemoryServer, token: u64) -> (Publisher<MemoryStore>, Opened) {
    try_open(server, &Config::default(), &opening(token)).await.unwrap()
}

/// Every entry as `lsn-ordinal`, with `!` where a transaction ends and `c` for a commit.
pub(super) async fn stream(server: &MemoryServer) -> Vec<String> {
    let mut store = server.connect().await.unwrap();
    let page = store.page(Epoch(1), Lane::Changes, Id::ZERO, 100_000).await.unwrap();
    let text = |raw| {
        let entry = Entry::decode(raw, Lane::Changes).unwrap();
        let commit = if entry.op == EntryOp::Commit { "c" } else { "" };
        let last = if entry.last { "!" } else { "" };
        format!("{}{commit}{last}", raw.id)
    };
    page.entries.iter().map(text).collect()
}

fn part(lsn: u64, rows: &[(u64, bool)], first: bool, ends: bool) -> Part {
    Part { lsn, rows: rows.to_vec(), first, ends }
}

async fn publish(
    sink: &mut Publisher<MemoryStore>,
    parts: &[Part],
    confirmed: u64,
) -> Result<(), SinkError> {
    let mut batch = sample::batch(parts);
    batch.skip_through(sink.progress);
    sink.publish(batch, 1, Lsn(confirmed)).await
}

#[tokio::test(start_paused = true)]
async fn the_last_kept_row_of_a_transaction_carries_the_mark() {
    let server = server().await;
    let (mut sink, opened) = open(&server, 1).await;
    assert_eq!(opened.published, Position::after(Lsn(99)));
    assert_eq!((opened.confirmed, opened.unfinished), (Lsn(100), None));
    let parts = [Part::whole(200, 2), part(300, &[(1, true), (2, false)], true, true)];
    publish(&mut sink, &parts, 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1", "200-2!", "300-1!"]);
    // All rows dropped: no entry, and the checkpoint moves.
    publish(&mut sink, &[part(400, &[(1, false)], true, true)], 208).await.unwrap();
    assert_eq!(stream(&server).await.len(), 3);
    let (_, opened) = open(&server, 2).await;
    assert_eq!((opened.published, opened.confirmed), (Position::after(Lsn(400)), Lsn(208)));
    assert_eq!(opened.checkpoint.last, Id { high: 300, low: 1 });
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_held_back_until_it_is_known_to_be_the_last() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[part(200, &[(1, true), (2, true)], true, false)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1"]);
    publish(&mut sink, &[part(200, &[(3, false)], false, false)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1"]);
    publish(&mut sink, &[part(200, &[(4, false)], false, true)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1", "200-2!"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_entry_closes_what_was_published_before_a_restart() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    let rows = [(1, true), (2, true), (3, true)];
    publish(&mut sink, &[part(200, &rows, true, false)], 100).await.unwrap();
    drop(sink);
    let (mut sink, opened) = open(&server, 2).await;
    assert_eq!(opened.unfinished, Some(Lsn(200)));
    assert_eq!(opened.published, Position::Wal { commit_lsn: Lsn(200), ordinal: 2 });
    // The chain drops the rest now.
    let replay = [(1, true), (2, true), (3, false), (4, false)];
    publish(&mut sink, &[part(200, &replay, true, true), Part::whole(300, 1)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1", "200-2", "200-4c!", "300-1!"]);
    drop(sink);
    // Replayed as a whole once more: nothing is repeated, nothing closed twice.
    let (mut sink, opened) = open(&server, 3).await;
    assert_eq!(opened.unfinished, None);
    publish(&mut sink, &[part(200, &replay, true, true), Part::whole(300, 1)], 100).await.unwrap();
    assert_eq!(stream(&server).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_of_which_all_was_dropped_so_far_is_begun_anew() {
    for message in [true, false] {
        let server = server().await;
        let (mut sink, _) = open(&server, 1).await;
        if message {
            sink.publish(sample::message(200, true), 1, Lsn(100)).await.unwrap();
        }
        publish(&mut sink, &[part(200, &[(1, false), (2, false)], true, false)], 100)
            .await
            .unwrap();
        let (_, opened) = open(&server, 2).await;
        let begin = Position::Wal { commit_lsn: Lsn(200), ordinal: 0 };
        assert_eq!((opened.published, opened.unfinished), (begin, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_at_the_lsn_of_the_next_transaction_swallows_nothing() {
    for kept in [true, false] {
        let server = server().await;
        let (mut sink, _) = open(&server, 1).await;
        sink.publish(sample::message(200, kept), 1, Lsn(100)).await.unwrap();
        drop(sink);
        let (mut sink, opened) = open(&server, 2).await;
        let message = Position::Wal { commit_lsn: Lsn(200), ordinal: 0 };
        assert_eq!((opened.published, opened.unfinished), (message, None));
        // Idle up to there, which is before whatever begins there.
        sink.confirm(Lsn(200), Lsn(150)).await.unwrap();
        let dropped = part(200, &[(1, false)], true, false);
        publish(&mut sink, &[dropped], 100).await.unwrap();
        publish(&mut sink, &[part(200, &[(2, true)], false, true)], 100).await.unwrap();
        let all = stream(&server).await;
        assert_eq!(all, if kept { vec!["200-0!", "200-2!"] } else { vec!["200-2!"] });
    }
}

#[tokio::test(start_paused = true)]
async fn confirming_an_idle_stream_is_not_a_loss() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)], 100).await.unwrap();
    sink.confirm(Lsn(5000), Lsn(4000)).await.unwrap();
    sink.flush().await.unwrap();
    let told = Opening { confirmed_flush: Lsn(4000), ..opening(2) };
    let (_, opened) = try_open(&server, &Config::default(), &told).await.unwrap();
    assert_eq!((opened.published, opened.confirmed), (Position::after(Lsn(4999)), Lsn(4000)));
    let told = Opening { confirmed_flush: Lsn(4001), ..opening(3) };
    let error = try_open(&server, &Config::default(), &told).await.unwrap_err();
    assert!(error.to_string().starts_with("Redis lost data (or was swapped): "), "{error}");
    assert!(error.to_string().contains("bootstrap again") && error.to_string().contains("gap"));
    assert_eq!(error.class(), crate::error::Class::Halt);
    let accepted = Opening { accept_gap: true, ..told };
    let (mut sink, opened) = try_open(&server, &Config::default(), &accepted).await.unwrap();
    assert_eq!((opened.published, opened.confirmed), (Position::after(Lsn(4000)), Lsn(4001)));
    publish(&mut sink, &[Part::whole(6000, 1)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1!", "6000-1!"]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_an_accepted_gap_cuts_is_closed() {
    for crash in [false, true] {
        let server = server().await;
        server.remember(10);
        let (mut sink, _) = open(&server, 1).await;
        let rows: Vec<(u64, bool)> = (1..=3).map(|n| (n, true)).collect();
        publish(&mut sink, &[part(300, &rows, true, false)], 100).await.unwrap();
        publish(&mut sink, &[part(300, &[(4, true)], false, true)], 100).await.unwrap();
        sink.confirm(Lsn(900), Lsn(800)).await.unwrap();
        // The end of the transaction is lost, and PostgreSQL was told that it is there.
        assert_eq!(server.fail_over(2), 2);
        assert_eq!(stream(&server).await, ["300-1", "300-2"]);
        let told = Opening { confirmed_flush: Lsn(800), ..opening(2) };
        let error = try_open(&server, &Config::default(), &told).await.unwrap_err();
        assert!(matches!(error, SinkError::LostData { .. }), "{error}");
        let accepted = Opening { accept_gap: true, token: WriterToken(3), ..told.clone() };
        if crash {
            // It ends between the fence and what closes the transaction.
            server.plan(|step| match step {
                Step::Append(_) => Fault::Cut,
                _ => Fault::None,
            });
            try_open(&server, &Config::default(), &accepted).await.unwrap_err();
            server.no_plan();
        }
        let again = Opening { accept_gap: !crash, token: WriterToken(4), ..told };
        let (mut sink, opened) = try_open(&server, &Config::default(), &again).await.unwrap();
        assert_eq!((opened.published, opened.unfinished), (Position::after(Lsn(799)), None));
        publish(&mut sink, &[Part::whole(900, 1)], 800).await.unwrap();
        assert_eq!(stream(&server).await, ["300-1", "300-2", "300-3c!", "900-1!"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_emptied_or_swapped_redis_halts() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)], 100).await.unwrap();
    server.empty();
    let error = publish(&mut sink, &[Part::whole(300, 1)], 100).await.unwrap_err();
    assert_eq!(error.class(), crate::error::Class::Retry, "{error}");
    let error = try_open(&server, &Config::default(), &opening(2)).await.unwrap_err();
    assert!(matches!(error, SinkError::LostData { .. }), "{error}");
    for change in
        [|o: &mut Opening| o.system_id = "8".into(), |o: &mut Opening| o.slot = "other".into()]
    {
        let server = self::server().await;
        let mut other = opening(1);
        change(&mut other);
        let error = try_open(&server, &Config::default(), &other).await.unwrap_err();
        assert!(matches!(error, SinkError::ForeignCheckpoint { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_or_tail_is_read_again_and_nothing_is_repeated() {
    for fault in [Fault::LoseReply, Fault::Cut] {
        let server = server().await;
        let (mut sink, _) = open(&server, 1).await;
        server.plan(move |step| match step {
            Step::Append(_) => fault,
            _ => Fault::None,
        });
        let error = publish(&mut sink, &[Part::whole(200, 3)], 100).await.unwrap_err();
        assert_eq!(error.class(), crate::error::Class::Retry);
        server.no_plan();
        assert_eq!(publish(&mut sink, &[Part::whole(200, 3)], 100).await, Err(SinkError::Spent));
        let (mut sink, _) = open(&server, 2).await;
        publish(&mut sink, &[Part::whole(200, 3), Part::whole(300, 1)], 100).await.unwrap();
        assert_eq!(stream(&server).await, ["200-1", "200-2", "200-3!", "300-1!"]);
    }
    // A tail that was not acknowledged heals by replay.
    let server = server().await;
    server.remember(10);
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[Part::whole(200, 1)], 100).await.unwrap();
    publish(&mut sink, &[Part::whole(300, 1)], 100).await.unwrap();
    assert_eq!(server.fail_over(1), 1);
    let (mut sink, opened) = open(&server, 2).await;
    assert_eq!(opened.published, Position::after(Lsn(200)));
    publish(&mut sink, &[Part::whole(200, 1), Part::whole(300, 1)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1!", "300-1!"]);
}

#[tokio::test(start_paused = true)]
async fn out_of_memory_waits_and_loses_nothing() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    let status = sink.status();
    let mut refusals = 3;
    server.plan(move |step| match step {
        Step::Append(_) if refusals > 0 => {
            refusals -= 1;
            Fault::Oom
        }
        _ => Fault::None,
    });
    let watch = async {
        while status.get().paused.is_none() {
            tokio::task::yield_now().await;
        }
        status.get().paused
    };
    let parts = [Part::whole(200, 2)];
    let (published, paused) = tokio::join!(publish(&mut sink, &parts, 100), watch);
    assert_eq!(published, Ok(()));
    assert!(paused.unwrap().contains("OOM"));
    assert_eq!(status.get().paused, None);
    assert_eq!(stream(&server).await, ["200-1", "200-2!"]);
}

#[tokio::test(start_paused = true)]
async fn a_used_up_budget_waits_for_consumers_and_names_them() {
    let server = server().await;
    let mut store = server.connect().await.unwrap();
    consumers::add(&mut store, "slow").await.unwrap();
    let changes = Share::Bytes(crate::config::Size(2_000));
    let budget = Budget { changes, ..Budget::default() };
    let config = Config { budget, ..Config::default() };
    let (mut sink, _) = try_open(&server, &config, &opening(1)).await.unwrap();
    let status = sink.status();
    let publishing = async {
        for lsn in 0..100 {
            publish(&mut sink, &[Part::whole(200 + lsn, 1)], 100).await.unwrap();
        }
    };
    let consuming = async {
        let mut reasons = BTreeSet::new();
        let mut acked = 0;
        while acked < 299 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            reasons.extend(status.get().paused);
            assert!(server.used() < 4_000);
            acked = store.inspect().await.unwrap().changes.high;
            if status.get().paused.is_some() {
                let position = Position::after(Lsn(acked));
                consumers::acknowledge(&mut store, "slow", Epoch(1), position).await.unwrap();
            }
        }
        reasons
    };
    let ((), reasons) = tokio::join!(publishing, consuming);
    assert!(reasons.iter().any(|reason| reason.contains("\"slow\"")), "{reasons:?}");
    assert!(status.get().trimmed > 50);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_larger_than_the_budget_finds_room_behind_who_acknowledges_inside_of_it() {
    let server = server().await;
    let mut store = server.connect().await.unwrap();
    consumers::add(&mut store, "c").await.unwrap();
    let changes = Share::Bytes(crate::config::Size(4_000));
    let budget = Budget { changes, ..Budget::default() };
    let config = Config { budget, ..Config::default() };
    let (mut sink, _) = try_open(&server, &config, &opening(1)).await.unwrap();
    let status = sink.status();
    let publishing = async {
        publish(&mut sink, &[Part::whole(200, 1)], 100).await.unwrap();
        for at in 0..100 {
            let rows: Vec<_> = (1..=5).map(|n| (at * 5 + n, true)).collect();
            let parts = [part(300, &rows, at == 0, at == 99)];
            publish(&mut sink, &parts, 100).await.unwrap();
        }
    };
    let consuming = async {
        let (mut reasons, mut seen) = (BTreeSet::new(), Vec::new());
        let mut cursor = Id::ZERO;
        while seen.len() < 501 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            reasons.extend(status.get().paused);
            assert!(server.used() < 12_000, "{} bytes", server.used());
            if status.get().paused.is_none() && seen.len() < 470 {
                continue;
            }
            let page = store.page(Epoch(1), Lane::Changes, cursor, 1000).await.unwrap();
            assert!(cursor >= page.trim || cursor == Id::ZERO, "it was trimmed unread");
            seen.extend(page.entries.iter().map(|entry| entry.id));
            cursor = *seen.last().unwrap();
            store.acknowledge("c", Epoch(1), Lane::Changes, cursor).await.unwrap();
        }
        (reasons, seen)
    };
    let within = tokio::time::timeout(Duration::from_secs(600), consuming);
    let ((), consumed) = tokio::join!(publishing, within);
    let (reasons, seen) = consumed.expect("it goes on");
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]) && seen.len() == 501);
    let inside = reasons.iter().filter(|reason| {
        reason.contains("the transaction at 0/12C is larger than that") && reason.contains("\"c\"")
    });
    assert!(inside.count() > 0, "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn memory_used_by_others_and_evicting_are_told_apart() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    let status = sink.status();
    server.set_limit(1_000_000);
    server.set_foreign(999_000);
    let watch = async {
        while status.get().paused.is_none() {
            tokio::task::yield_now().await;
        }
        server.set_foreign(0);
        status.get().paused.unwrap()
    };
    let parts = [Part::whole(200, 1)];
    let (published, reason) = tokio::join!(publish(&mut sink, &parts, 100), watch);
    assert_eq!(published, Ok(()));
    assert!(reason.starts_with("Redis is full of other data"), "{reason}");
    server.set_policy("allkeys-lru");
    tokio::time::advance(Duration::from_secs(2)).await;
    let error = sink.confirm(Lsn(300), Lsn(250)).await.unwrap_err();
    let evicting = SinkError::Evicting { policy: "allkeys-lru".into() };
    assert_eq!(error, evicting);
    let error = try_open(&server, &Config::default(), &opening(2)).await.unwrap_err();
    assert_eq!(error, evicting);
}

#[tokio::test(start_paused = true)]
async fn ceilings_cut_whoever_still_reads() {
    let server = server().await;
    let mut store = server.connect().await.unwrap();
    consumers::add(&mut store, "slow").await.unwrap();
    let retention = Retention { max_length: 4, ..Retention::default() };
    let config = Config { retention, ..Config::default() };
    let (mut sink, _) = try_open(&server, &config, &opening(1)).await.unwrap();
    for lsn in 1..=4 {
        publish(&mut sink, &[Part::whole(lsn * 200, 3)], 100).await.unwrap();
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    sink.confirm(Lsn(900), Lsn(100)).await.unwrap();
    // 8 of 12 too many; the cut is where the transaction of the ninth begins.
    assert_eq!(stream(&server).await.first().map(String::as_str), Some("600-1"));
    let retention = Retention { max_age_ms: 1, ..Retention::default() };
    let config = Config { retention, ..Config::default() };
    let (mut sink, _) = try_open(&server, &config, &opening(2)).await.unwrap();
    sink.confirm(Lsn(901), Lsn(100)).await.unwrap();
    assert_eq!(stream(&server).await, ["800-1", "800-2", "800-3!"], "the newest stays");
}

#[tokio::test(start_paused = true)]
async fn large_batches_are_split_and_every_part_can_be_the_last() {
    let parts: Vec<Part> = (0..6).map(|n| Part::whole(200 + n, 200)).collect();
    let padding = "x".repeat(10_000);
    for survived in 0..6 {
        let server = server().await;
        let (mut sink, _) = open(&server, 1).await;
        let mut left = survived;
        server.plan(move |step| match step {
            Step::Append(_) if left == 0 => Fault::LoseReply,
            Step::Append(_) => {
                left -= 1;
                Fault::None
            }
            _ => Fault::None,
        });
        let published = sink.publish(sample::batch_padded(&parts, &padding), 1, Lsn(150)).await;
        server.no_plan();
        let (mut sink, opened) = open(&server, 2).await;
        if published.is_err() {
            let told = if opened.published == Position::after(Lsn(205)) { 150 } else { 100 };
            assert_eq!(opened.confirmed, Lsn(told), "it goes with the last part");
            let mut batch = sample::batch_padded(&parts, &padding);
            batch.skip_through(opened.published);
            sink.publish(batch, 1, Lsn(150)).await.unwrap();
        }
        let all = stream(&server).await;
        assert_eq!(all.len(), 1200);
        assert_eq!(all.iter().filter(|id| id.ends_with('!')).count(), 6);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1200);
    }
}

#[tokio::test(start_paused = true)]
async fn bugs_are_refused_not_guessed_away() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[Part::whole(300, 1)], 100).await.unwrap();
    let early = sample::batch(&[Part::whole(200, 1)]);
    let error = sink.publish(early, 1, Lsn(100)).await.unwrap_err();
    assert!(matches!(error, SinkError::Disorder { .. }), "{error}");
    let (mut sink, _) = open(&server, 2).await;
    publish(&mut sink, &[part(400, &[(1, true)], true, false)], 100).await.unwrap();
    let rest = sample::batch(&[part(400, &[(2, true)], false, true)]);
    let error = sink.publish(rest, 2, Lsn(100)).await.unwrap_err();
    assert!(matches!(error, SinkError::TwoGenerations { began: 1, now: 2, .. }), "{error}");
    let (mut sink, _) = open(&server, 3).await;
    sink.max_bulk_len = 20;
    let error = publish(&mut sink, &[Part::whole(500, 1)], 100).await.unwrap_err();
    assert!(matches!(error, SinkError::TooLarge { limit: 20, .. }), "{error}");
    assert_eq!(stream(&server).await, ["300-1!"]);
}

#[tokio::test(start_paused = true)]
async fn a_promotion_goes_on_only_where_nothing_was_lost() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[Part::whole(200, 1), Part::whole(300, 2)], 100).await.unwrap();
    sink.confirm(Lsn(1000), Lsn(308)).await.unwrap();
    let promoted = |at, token| Opening {
        timeline: 2,
        history: vec![Promotion { timeline: 1, at: Lsn(at) }],
        ..opening(token)
    };
    let config = Config::default();
    let error = try_open(&server, &config, &promoted(250, 2)).await.unwrap_err();
    assert!(matches!(error, SinkError::Promoted { transactions: 1, .. }), "{error}");
    assert!(error.to_string().starts_with("Redis holds 1 transaction(s) that this server never"));
    let none = Opening { history: Vec::new(), ..promoted(400, 2) };
    let error = try_open(&server, &config, &none).await.unwrap_err();
    assert!(matches!(error, SinkError::NoHistory { found: 2, stored: 1 }), "{error}");
    // Idle addresses beyond the switch are used again by the new timeline.
    let (mut sink, opened) = try_open(&server, &config, &promoted(400, 3)).await.unwrap();
    assert_eq!(opened.published, Position::after(Lsn(307)));
    publish(&mut sink, &[Part::whole(500, 1)], 400).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1!", "300-1", "300-2!", "500-1!"]);
    let error = try_open(&server, &config, &opening(4)).await.unwrap_err();
    assert!(matches!(error, SinkError::NoHistory { found: 1, stored: 2 }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_record_that_begins_at_the_switch_point_was_never_the_new_servers() {
    let server = server().await;
    let (mut sink, _) = open(&server, 1).await;
    publish(&mut sink, &[Part::whole(200, 1), Part::whole(300, 2)], 208).await.unwrap();
    let promoted = |at| Opening {
        timeline: 2,
        history: vec![Promotion { timeline: 1, at: Lsn(at) }],
        ..opening(2)
    };
    for at in [208, 300] {
        let error = try_open(&server, &Config::default(), &promoted(at)).await.unwrap_err();
        assert!(matches!(error, SinkError::Promoted { transactions: 1, .. }), "{at}: {error}");
    }
    // What ends at the switch point is whole.
    let (_, opened) = try_open(&server, &Config::default(), &promoted(301)).await.unwrap();
    assert_eq!(opened.published, Position::after(Lsn(300)));
    let rule = Promotion { timeline: 1, at: Lsn(208) };
    assert!(!rule.parts(Lsn(208), Lsn(200)) && !rule.parts(Lsn(208), Lsn(207)));
    assert!(rule.parts(Lsn(209), Lsn(200)) && rule.parts(Lsn(100), Lsn(208)));
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_slot_before_raising_the_token_does_not_end_its_new_holder() {
    let server = server().await;
    // Frozen between START_REPLICATION and the fence; meanwhile another takes the slot.
    let late = Claim::new(server.connect().await.unwrap()).await.unwrap();
    let (mut rightful, _) = open(&server, 2).await;
    publish(&mut rightful, &[Part::whole(200, 1)], 100).await.unwrap();
    let thawed = Publisher::open(late, &Config::default(), &opening(1), Status::default()).await;
    let error = thawed.unwrap_err();
    assert!(matches!(error, SinkError::Overtaken { .. }), "{error}");
    // It has to ask for the slot again, which the other one holds.
    assert_eq!(error.class(), crate::error::Class::Retry);
    publish(&mut rightful, &[Part::whole(300, 1)], 100).await.unwrap();
    assert_eq!(stream(&server).await, ["200-1!", "300-1!"]);

    // The old writer that only empties its queue is no reason to give up.
    let next = Claim::new(server.connect().await.unwrap()).await.unwrap();
    publish(&mut rightful, &[Part::whole(400, 1)], 100).await.unwrap();
    let next = Publisher::open(next, &Config::default(), &opening(3), Status::default()).await;
    assert_eq!(next.unwrap().1.published, Position::after(Lsn(400)));
    let error = publish(&mut rightful, &[Part::whole(500, 1)], 100).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_ends_the_old_writer_and_keeps_its_consumers() {
    let server = server().await;
    let (mut old, _) = open(&server, 1).await;
    publish(&mut old, &[Part::whole(200, 1)], 100).await.unwrap();
    let mut store = server.connect().await.unwrap();
    consumers::add(&mut store, "c").await.unwrap();
    let new = NewEpoch {
        encoding: Encoding::Msgpack,
        load_rows: 500,
        slot: "kasho_slot",
        system_id: "7000",
        timeline: 1,
        start_lsn: Lsn(5000),
        description: description(),
        generation: 4,
        state: Some((None, b"ACCUMULATING")),
        catalog: Some(b"{}"),
    };
    assert_eq!(begin_epoch(&mut store, &new).await, Ok(Epoch(2)));
    assert_eq!(begin_epoch(&mut store, &new).await, Err(SinkError::OtherState));
    let error = publish(&mut old, &[Part::whole(300, 1)], 100).await.unwrap_err();
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    assert_eq!(error.class(), crate::error::Class::Halt);
    assert_eq!(store.consumers().await.unwrap().len(), 1);
    let opened = Opening { confirmed_flush: Lsn(5000), ..opening(2) };
    let (_, opened) = try_open(&server, &Config::default(), &opened).await.unwrap();
    assert_eq!((opened.checkpoint.epoch, opened.checkpoint.generation), (Epoch(2), 4));
    assert_eq!(opened.checkpoint.writer, format!("1-{:016x}", 2));
}
