//! What every store must do, as one suite: run over the fake in unit tests and over real
//! servers in the end-to-end tests, so that what is shown of the fake is true of Redis.
//!
//! Not part of the product. A failing check panics, as a test does.
#![expect(clippy::unwrap_used, reason = "these are tests, compiled for two test programs")]

use std::time::Duration;

use super::id::{Id, Keys, Lane};
use super::store::{
    Acked, Answer, Append, Begin, Begun, Checkpoint, Connect, Dead, Feed, Fence, Finish, Finished,
    Guard, LEASE_UNTIL, Leased, Load, NewEntry, Registry, Store, StoreError, Trim,
};
use crate::position::{Epoch, Lsn, Position};
use crate::sink::config::Encoding;

mod bounds;
mod letters;
pub mod sample;

/// A server under test.
pub trait Rig: Send + Sync {
    /// Its connections.
    type Connect: Connect;

    /// Connections to keys that nobody used before.
    fn fresh(&self) -> (Self::Connect, Keys);

    /// Puts a sorted set under `key`, or deletes it.
    fn occupy(&self, key: &str, there: bool) -> impl Future<Output = ()> + Send;

    /// Sets the memory limit far below what is in use, or takes it away.
    fn fill(&self, full: bool) -> impl Future<Output = ()> + Send;
}

const E1: Epoch = Epoch(1);
/// What an entry holds: a row, and many of them.
const SMALL: &[u8] = b"\x81data";
const LARGE: &[u8] = &[b'x'; 40_000];
const LEASE: Duration = Duration::from_secs(30);

/// Runs every check.
pub async fn check<R: Rig>(rig: &R) {
    begins_an_epoch_once(rig).await;
    fences_only_what_was_read(rig).await;
    appends_all_or_nothing(rig).await;
    bounds::keeps_long_lsns_exact(rig).await;
    for data in [SMALL, LARGE] {
        refuses_growth_when_full(rig, data).await;
        leases_the_load_to_one(rig, data).await;
    }
    finishes_the_load_with_the_phase(rig).await;
    swaps_state_only_from_the_expected(rig).await;
    trims_what_all_consumers_have(rig).await;
    bounds::keeps_what_was_acknowledged_too_far(rig).await;
    bounds::trims_inside_a_transaction_under_pressure_only(rig).await;
    trims_the_load_to_its_end(rig).await;
    keeps_a_section_until_its_mark_is_passed(rig).await;
    bounds::ends_a_page_by_its_bytes(rig).await;
    bounds::reads_whatever_entries_weigh(rig).await;
    bounds::keeps_an_entry_until_its_last_row_is_acknowledged(rig).await;
    bounds::pages_and_waits(rig).await;
    bounds::names_a_key_of_another_type(rig).await;
    letters::are_written_with_what_is_around_them(rig).await;
}

/// A checkpoint as an epoch begins with it.
#[must_use]
pub fn checkpoint(epoch: Epoch) -> Checkpoint {
    Checkpoint {
        epoch,
        born: "b1".to_owned(),
        writer: "0-0".to_owned(),
        last: Id::ZERO,
        position: Position::after(Lsn(99)),
        confirmed: Lsn(100),
        slot: "kasho_slot".to_owned(),
        system_id: "7000".to_owned(),
        timeline: 1,
        options: "o1".to_owned(),
        generation: 1,
        chain: "c1".to_owned(),
        key_fingerprint: "k1".to_owned(),
        encoding: Some(Encoding::Json),
        load_rows: Some(7),
        trim: Id::ZERO,
        trim_bootstrap: Id::ZERO,
        mark: String::new(),
        budget: "0.5".to_owned(),
    }
}

fn entry(high: u64, low: u64, last: bool) -> NewEntry<'static> {
    NewEntry { id: Id { high, low }, op: "insert", table: "public.t", data: SMALL, last }
}

fn append<'a>(entries: Vec<NewEntry<'a>>, position: &str) -> Append<'a> {
    Append {
        generation: 3,
        entries,
        fields: vec![("position", position.to_owned())],
        dead: Dead::default(),
    }
}

fn load(entries: Vec<NewEntry<'_>>) -> Load<'_> {
    let (progress, lease, dead) = (Vec::new(), LEASE, Dead::default());
    Load { generation: 1, entries, progress, lease, dead }
}

fn guard(writer: &str, last: Id) -> Guard {
    Guard { epoch: E1, writer: writer.to_owned(), last }
}

fn id(high: u64, low: u64) -> Id {
    Id { high, low }
}

/// A store in epoch 1 whose writer is `w`.
async fn begun<R: Rig>(rig: &R) -> (R::Connect, <R::Connect as Connect>::Store, Keys) {
    let (connect, keys) = rig.fresh();
    let mut store = connect.connect().await.unwrap();
    let fields = Checkpoint { writer: "w".to_owned(), ..checkpoint(E1) }.fields();
    let begin = Begin { epoch: E1, before: None, fields, state: None, catalog: None };
    assert_eq!(store.begin(&begin).await, Ok(Begun::Done));
    (connect, store, keys)
}

async fn ids<S: Feed>(store: &mut S, lane: Lane) -> Vec<Id> {
    let mut ids: Vec<Id> = Vec::new();
    loop {
        // A page may end before the stream does.
        let after = ids.last().copied().unwrap_or(Id::ZERO);
        let page = store.page(E1, lane, after, 1000).await.unwrap();
        if page.entries.is_empty() {
            return ids;
        }
        ids.extend(page.entries.iter().map(|entry| entry.id));
    }
}

async fn begins_an_epoch_once<R: Rig>(rig: &R) {
    let (connect, _) = rig.fresh();
    let mut store = connect.connect().await.unwrap();
    assert_eq!(store.inspect().await.unwrap().checkpoint, None);
    store.add_consumer("early").await.unwrap();
    let fields = checkpoint(E1).fields();
    let state = Some((None, &b"ACCUMULATING"[..]));
    let begin = Begin { epoch: E1, before: None, fields, state, catalog: Some(b"cat\xff") };
    assert_eq!(store.begin(&begin).await, Ok(Begun::Done));
    assert_eq!(store.inspect().await.unwrap().checkpoint, Some(checkpoint(E1)));
    assert_eq!(store.state().await, Ok(Some(b"ACCUMULATING".to_vec())));
    assert_eq!(store.catalog().await, Ok(Some(b"cat\xff".to_vec())));

    assert_eq!(store.begin(&begin).await, Ok(Begun::Moved), "an epoch was found");
    let second = |before, state| Begin {
        epoch: Epoch(2),
        before: Some(before),
        fields: checkpoint(Epoch(2)).fields(),
        state: Some((state, b"WAITING")),
        catalog: None,
    };
    assert_eq!(store.begin(&second(Epoch(7), None)).await, Ok(Begun::Moved), "another epoch");
    assert_eq!(store.begin(&second(E1, None)).await, Ok(Begun::Moved), "another state");
    let old = Some(&b"ACCUMULATING"[..]);
    assert_eq!(store.begin(&second(E1, old)).await, Ok(Begun::Done));
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().epoch, Epoch(2));
    assert_eq!(store.discard(E1).await, Ok(()));
}

async fn fences_only_what_was_read<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    let position = store.inspect().await.unwrap().checkpoint.unwrap().position.to_string();
    let fence = |epoch, writer: &str, last: &str, top| Fence {
        epoch,
        writer: writer.to_owned(),
        last: last.to_owned(),
        position: position.clone(),
        top,
        fields: vec![("writer", "2-b".to_owned())],
    };
    let answer = store.fence(&fence(E1, "other", "0-0", Id::ZERO)).await.unwrap();
    assert_eq!(answer, Answer::Fenced { writer: "w".to_owned(), epoch: "1".to_owned() });
    assert!(matches!(
        store.fence(&fence(Epoch(2), "w", "0-0", Id::ZERO)).await,
        Ok(Answer::Fenced { .. })
    ));
    for (last, top) in [("5-1", Id::ZERO), ("0-0", id(5, 1))] {
        let answer = store.fence(&fence(E1, "w", last, top)).await.unwrap();
        assert_eq!(answer, Answer::Moved { top: "0-0".to_owned(), last: "0-0".to_owned() });
    }
    // Rows were set aside meanwhile, and nothing was published.
    let before = Fence { position: "0/7:1".to_owned(), ..fence(E1, "w", "0-0", Id::ZERO) };
    assert!(matches!(store.fence(&before).await, Ok(Answer::Moved { .. })));
    assert_eq!(store.fence(&fence(E1, "w", "0-0", Id::ZERO)).await, Ok(Answer::Done));
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().writer, "2-b");
}

async fn appends_all_or_nothing<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    let one = append(vec![entry(200, 1, false), entry(200, 3, true)], "0/C8");
    let good = guard("w", Id::ZERO);
    assert_eq!(store.append(&good, &one).await, Ok(Answer::Done));
    let page = store.page(E1, Lane::Changes, Id::ZERO, 10).await.unwrap();
    let fields: Vec<(&[u8], &[u8])> =
        page.entries[1].fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let expected: [(&[u8], &[u8]); 5] =
        [(b"o", b"insert"), (b"t", b"public.t"), (b"d", b"\x81data"), (b"g", b"3"), (b"l", b"1")];
    assert_eq!(fields, expected);
    assert_eq!(page.entries[0].fields.len(), 4);

    let found = store.inspect().await.unwrap();
    let now = guard("w", id(200, 3));
    let more = || append(vec![entry(300, 1, true)], "0/12C");
    let other_epoch = Guard { epoch: Epoch(2), ..now.clone() };
    for stale in [guard("v", id(200, 3)), other_epoch] {
        let answer = store.append(&stale, &more()).await.unwrap();
        assert_eq!(answer, Answer::Fenced { writer: "w".to_owned(), epoch: "1".to_owned() });
    }
    // A batch sent a second time, whether its ids are there or greater ones would do.
    let (top, last) = ("200-3".to_owned(), "200-3".to_owned());
    let moved = Ok(Answer::Moved { top, last });
    assert_eq!(store.append(&good, &one).await, moved);
    assert_eq!(store.append(&good, &more()).await, moved);
    assert_eq!(store.append(&guard("w", id(250, 1)), &more()).await, moved);
    for refused in [vec![entry(200, 3, true)], vec![entry(301, 1, false), entry(300, 1, true)]] {
        let refused = store.append(&now, &append(refused, "x")).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    assert_eq!(store.inspect().await.unwrap(), found, "something was written");
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(200, 1), id(200, 3)]);

    assert_eq!(store.append(&now, &append(Vec::new(), "0/FFFF")).await, Ok(Answer::Done));
    let found = store.inspect().await.unwrap();
    assert_eq!(found.checkpoint.unwrap().position, Position::after(Lsn(0xFFFF)));
    assert_eq!(found.changes, id(200, 3));
    assert_eq!(store.append(&now, &more()).await, Ok(Answer::Done));
}

async fn refuses_growth_when_full<R: Rig>(rig: &R, data: &'static [u8]) {
    let (_, mut store, _) = begun(rig).await;
    let rows = || append(vec![entry(200, 1, true)], "0/C8");
    assert_eq!(store.append(&guard("w", Id::ZERO), &rows()).await, Ok(Answer::Done));
    let leased = store.lease(E1, "me", "l", LEASE).await;
    assert!(matches!(leased, Ok(Leased::Yes { .. })));
    let before = store.inspect().await.unwrap();

    rig.fill(true).await;
    let now = guard("w", id(200, 1));
    let more = || append(vec![entry(300, 1, true)], "0/12C");
    assert_eq!(store.append(&now, &more()).await, Err(StoreError::Oom));
    let loader = guard("l", Id::ZERO);
    let row = || load(vec![NewEntry { data, ..entry(1, 1, false) }]);
    assert_eq!(store.load(&loader, &row()).await, Err(StoreError::Oom));
    assert_eq!(store.inspect().await.unwrap(), before, "something was written");
    // What frees memory or hardly takes any goes on.
    assert_eq!(store.load(&loader, &load(Vec::new())).await, Ok(Answer::Done));
    assert_eq!(store.append(&now, &append(Vec::new(), "0/C9")).await, Ok(Answer::Done));
    assert_eq!(store.swap_state(None, b"s").await, Ok(true));
    assert_eq!(store.add_consumer("c").await, Ok(true));
    assert_eq!(store.trim(Trim { epoch: E1, ceiling: None, pressed: false }).await, Ok(0));
    rig.fill(false).await;
    assert_eq!(store.append(&now, &more()).await, Ok(Answer::Done));
    assert_eq!(store.load(&loader, &row()).await, Ok(Answer::Done));
    assert_eq!(ids(&mut store, Lane::Changes).await.len(), 2);
}

async fn leases_the_load_to_one<R: Rig>(rig: &R, data: &'static [u8]) {
    let (connect, mut store, _) = begun(rig).await;
    let mut other = connect.connect().await.unwrap();
    let yes = |entries: u64, progress: &[(&str, &str)]| {
        let progress = progress.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let last = if entries == 0 { Id::ZERO } else { id(entries, 1) };
        Ok(Leased::Yes { last, progress: progress.collect() })
    };
    let epoch = store.lease(Epoch(2), "a", "1", LEASE).await;
    assert_eq!(epoch, Ok(Leased::OtherEpoch("1".to_owned())));
    assert_eq!(store.lease(E1, "a", "a1", LEASE).await, yes(0, &[]));
    let held = other.lease(E1, "b", "b1", LEASE).await.unwrap();
    assert!(matches!(held, Leased::Held { owner, .. } if owner == "a"));

    let set = |field: &str, value: Option<&str>| (field.to_owned(), value.map(str::to_owned));
    let progress = vec![set("t:1", Some("5 rows")), set("t:2", Some("x"))];
    let entry = |n, low, last| NewEntry { data, ..entry(n, low, last) };
    let load = |entries, progress| Load {
        generation: 2,
        entries,
        progress,
        lease: LEASE,
        dead: Dead::default(),
    };
    let one = load(vec![entry(1, 1, false), entry(2, 1, false)], progress);
    assert_eq!(store.load(&guard("a1", Id::ZERO), &one).await, Ok(Answer::Done));
    let seen = other.progress(E1).await.unwrap();
    assert_eq!(seen.get("t:1").map(String::as_str), Some("5 rows"));
    let until: u64 = seen[LEASE_UNTIL].parse().unwrap();
    assert!(until > 0 && seen.len() == 3 && other.progress(Epoch(2)).await.unwrap().is_empty());
    // The same owner again: the old token is void, and goes on where it ended.
    let two = [("t:1", "5 rows"), ("t:2", "x")];
    assert_eq!(other.lease(E1, "a", "a2", LEASE).await, yes(2, &two));
    let more = || load(vec![entry(3, 1, false)], vec![set("t:2", None)]);
    let stale = store.load(&guard("a1", id(2, 1)), &more()).await;
    assert!(matches!(stale, Ok(Answer::Fenced { .. })));
    let moved = other.load(&guard("a2", id(1, 1)), &more()).await;
    assert!(matches!(moved, Ok(Answer::Moved { .. })));
    assert_eq!(other.load(&guard("a2", id(2, 1)), &more()).await, Ok(Answer::Done));
    // A lease that has run out, and one that was given up.
    other.lease(E1, "a", "a3", Duration::ZERO).await.unwrap();
    assert_eq!(store.lease(E1, "b", "b1", LEASE).await, yes(3, &two[..1]));
    store.release(E1, "not-mine").await.unwrap();
    assert!(matches!(store.lease(E1, "c", "c1", LEASE).await, Ok(Leased::Held { .. })));
    store.release(E1, "b1").await.unwrap();
    assert!(matches!(store.lease(E1, "c", "c1", LEASE).await, Ok(Leased::Yes { .. })));
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, [id(1, 1), id(2, 1), id(3, 1)]);
    // Who wrote what is told, without those who wrote nothing.
    let page = store.page(E1, Lane::Bootstrap, Id::ZERO, 1).await.unwrap();
    assert_eq!(page.runs, "0:a1 2:a2 3:c1");
}

async fn finishes_the_load_with_the_phase<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    store.lease(E1, "a", "a1", LEASE).await.unwrap();
    let end = || NewEntry { id: id(1, 1), op: "end", table: "", data: b"\x80", last: false };
    let finish =
        |old| Finish { end: end(), generation: 1, old_state: old, new_state: b"STREAMING" };
    let now = guard("a1", Id::ZERO);
    let other = store.finish(&now, &finish(Some(b"ACCUMULATING"))).await;
    assert_eq!(other, Ok(Finished::OtherState(None)));
    store.swap_state(None, b"WAITING").await.unwrap();
    let other = store.finish(&now, &finish(Some(b"ACCUMULATING"))).await;
    assert_eq!(other, Ok(Finished::OtherState(Some(b"WAITING".to_vec()))));
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, []);
    let done = store.finish(&now, &finish(Some(b"WAITING"))).await;
    assert_eq!(done, Ok(Finished::Answer(Answer::Done)));
    assert_eq!(store.state().await, Ok(Some(b"STREAMING".to_vec())));
    let raw = store.before(E1, Lane::Bootstrap, id(9, 9)).await.unwrap().unwrap();
    assert_eq!((raw.id, raw.field("o"), raw.field("t")), (id(1, 1), Some(&b"end"[..]), None));
    let late = load(vec![entry(2, 1, false)]);
    let late = store.load(&guard("a1", id(1, 1)), &late).await;
    assert!(matches!(late, Ok(Answer::Fenced { .. })));
}

async fn swaps_state_only_from_the_expected<R: Rig>(rig: &R) {
    let (connect, _) = rig.fresh();
    let mut store = connect.connect().await.unwrap();
    assert_eq!(store.state().await, Ok(None));
    assert_eq!(store.swap_state(Some(b"a"), b"b").await, Ok(false));
    assert_eq!(store.swap_state(None, b"a").await, Ok(true));
    assert_eq!(store.swap_state(None, b"b").await, Ok(false));
    assert_eq!(store.swap_state(Some(b"a"), b"").await, Ok(true));
    assert_eq!(store.swap_state(Some(b""), b"c\0\xff").await, Ok(true));
    assert_eq!(store.state().await, Ok(Some(b"c\0\xff".to_vec())));
    assert_eq!(store.coverage().await, Ok(None));
    assert_eq!(store.swap_coverage(Some(b"a"), b"b").await, Ok(false));
    assert_eq!(store.swap_coverage(None, b"a").await, Ok(true));
    assert_eq!(store.swap_coverage(Some(b"a"), b"b\0").await, Ok(true));
    assert_eq!(store.coverage().await, Ok(Some(b"b\0".to_vec())));
    assert_eq!(store.set_catalog(b"one").await, Ok(()));
    assert_eq!(store.set_catalog(b"two").await, Ok(()));
    assert_eq!(store.catalog().await, Ok(Some(b"two".to_vec())));
}

async fn trims_what_all_consumers_have<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    let rows = [(200, 1), (200, 2), (300, 1), (300, 4), (400, 0), (400, 1), (400, 2)];
    let entries: Vec<_> = rows.iter().map(|(lsn, n)| entry(*lsn, *n, true)).collect();
    store.append(&guard("w", Id::ZERO), &append(entries, "0/1")).await.unwrap();
    let trim = Trim { epoch: E1, ceiling: None, pressed: false };
    assert_eq!(store.trim(trim).await, Ok(0), "nobody is registered");
    assert_eq!(store.add_consumer("a").await, Ok(true));
    assert_eq!(store.add_consumer("a").await, Ok(false));
    assert_eq!(store.add_consumer("b").await, Ok(true));
    let ack = |name: &'static str, high, low| (name, E1, Lane::Changes, id(high, low));
    for (name, epoch, lane, through) in [ack("a", 400, u64::MAX), ack("a", 200, 1)] {
        assert_eq!(store.acknowledge(name, epoch, lane, through).await, Ok(Acked::Done));
    }
    let all = store.consumers().await.unwrap();
    assert_eq!(all.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(all[0].changes, id(400, 2), "not back, and not beyond the stream");
    assert_eq!((all[1].changes, all[1].seen_ms), (Id::ZERO, None));
    assert!(all[0].seen_ms >= Some(all[0].since_ms));
    assert_eq!(store.trim(trim).await, Ok(0), "b has nothing yet");
    // In the middle of a transaction: it stays whole.
    store.acknowledge("b", E1, Lane::Changes, id(300, 1)).await.unwrap();
    assert_eq!(store.trim(trim).await, Ok(2));
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().trim, id(200, 2));
    store.acknowledge("b", E1, Lane::Changes, id(400, 2)).await.unwrap();
    assert_eq!(store.trim(trim).await, Ok(2), "the newest transaction stays");
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(400, 0), id(400, 1), id(400, 2)]);
    assert_eq!(store.inspect().await.unwrap().changes, id(400, 2));

    let other = store.acknowledge("a", Epoch(2), Lane::Changes, id(1, 1)).await;
    assert_eq!(other, Ok(Acked::OtherEpoch));
    assert_eq!(store.remove_consumer("a").await, Ok(true));
    assert_eq!(store.remove_consumer("a").await, Ok(false));
    let gone = store.acknowledge("a", E1, Lane::Changes, id(1, 1)).await;
    assert_eq!(gone, Ok(Acked::Unregistered));

    let more = vec![entry(500, 1, true), entry(600, 1, true), entry(700, 1, true)];
    store.append(&guard("w", id(400, 2)), &append(more, "0/1")).await.unwrap();
    let ceiling = |high| Trim { epoch: E1, ceiling: Some(id(high, 1)), pressed: false };
    assert_eq!(store.trim(Trim { epoch: Epoch(2), ..ceiling(600) }).await, Ok(0));
    assert_eq!(store.trim(ceiling(600)).await, Ok(4), "a ceiling holds whoever wants it");
    assert_eq!(store.trim(ceiling(900)).await, Ok(1), "but not against the newest transaction");
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(700, 1)]);
}

async fn trims_the_load_to_its_end<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    store.lease(E1, "a", "a1", LEASE).await.unwrap();
    let load = load((1..=4).map(|n| entry(n, 1, false)).collect());
    store.load(&guard("a1", Id::ZERO), &load).await.unwrap();
    store.add_consumer("c").await.unwrap();
    let trim = Trim { epoch: E1, ceiling: None, pressed: false };
    store.acknowledge("c", E1, Lane::Bootstrap, id(2, 1)).await.unwrap();
    // The entry acknowledged last stays: whoever stands on an `end` reads changes next.
    assert_eq!(store.trim(trim).await, Ok(1));
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().trim_bootstrap, id(1, 1));
    // Whoever reads changes has the load; its last entry says so to later readers.
    let change = append(vec![entry(200, 1, true)], "0/1");
    store.append(&guard("w", Id::ZERO), &change).await.unwrap();
    store.acknowledge("c", E1, Lane::Changes, id(200, 1)).await.unwrap();
    assert_eq!(store.trim(trim).await, Ok(2));
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, [id(4, 1)]);
    assert_eq!(store.trim(trim).await, Ok(0));
}

async fn keeps_a_section_until_its_mark_is_passed<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    store.add_consumer("c").await.unwrap();
    let trim = Trim { epoch: E1, ceiling: None, pressed: false };
    let end = |high| NewEntry { op: "end", ..entry(high, 1, false) };
    let (first, second): (&[u8], &[u8]) = (b"one", b"two");
    let finish =
        |high, old_state, new_state| Finish { end: end(high), generation: 1, old_state, new_state };
    assert_eq!(store.page(E1, Lane::Bootstrap, Id::ZERO, 9).await.unwrap().end, Id::ZERO);
    store.lease(E1, "a", "a1", LEASE).await.unwrap();
    store.finish(&guard("a1", Id::ZERO), &finish(1, None, first)).await.unwrap();
    // The changes up to a mark, and the section that belongs to it.
    let changes = [(200, 1), (300, 0), (400, 1), (500, 1)].map(|(lsn, n)| entry(lsn, n, true));
    store.append(&guard("w", Id::ZERO), &append(changes.to_vec(), "0/1")).await.unwrap();
    store.lease(E1, "a", "a2", LEASE).await.unwrap();
    let entries = (2..=4).map(|n| entry(n, 1, false)).collect();
    let progress = vec![("section:300".to_owned(), Some("2".to_owned()))];
    let load = Load { generation: 1, entries, progress, lease: LEASE, dead: Dead::default() };
    store.load(&guard("a2", id(1, 1)), &load).await.unwrap();
    let page = store.page(E1, Lane::Bootstrap, id(1, 1), 9).await.unwrap();
    assert_eq!((page.entries.len(), page.end), (3, id(1, 1)));
    store.acknowledge("c", E1, Lane::Bootstrap, id(1, 1)).await.unwrap();
    store.acknowledge("c", E1, Lane::Changes, id(200, 1)).await.unwrap();
    store.trim(trim).await.unwrap();
    let whole = [1, 2, 3, 4].map(|n| id(n, 1));
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, whole, "the mark is to come");
    // At the mark, and in the middle of the section: its end is not there yet.
    store.acknowledge("c", E1, Lane::Changes, id(300, 0)).await.unwrap();
    store.acknowledge("c", E1, Lane::Bootstrap, id(3, 1)).await.unwrap();
    store.trim(trim).await.unwrap();
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, whole, "the newest end stays");
    let behind = [id(300, 0), id(400, 1), id(500, 1)];
    assert_eq!(ids(&mut store, Lane::Changes).await, behind, "the mark stays, too");
    store.finish(&guard("a2", id(4, 1)), &finish(5, Some(first), second)).await.unwrap();
    store.trim(trim).await.unwrap();
    // And with it the rest of the section, for whoever has a part of it.
    assert_eq!(
        ids(&mut store, Lane::Bootstrap).await,
        whole[2..].iter().copied().chain([id(5, 1)]).collect::<Vec<_>>()
    );
    store.acknowledge("c", E1, Lane::Changes, id(400, 1)).await.unwrap();
    store.trim(trim).await.unwrap();
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, [id(5, 1)]);
    assert_eq!(store.page(E1, Lane::Bootstrap, id(5, 1), 9).await.unwrap().end, id(5, 1));
}
