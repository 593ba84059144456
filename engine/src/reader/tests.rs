//! Reading over the fake: order, load points, torn transactions, trimmed positions.

use super::*;
use crate::sink::Sink;
use crate::sink::config::{Config, Encoding};
use crate::sink::contract::sample::{self, Part};
use crate::sink::load::{End, LoadWriter};
use crate::sink::memory::{MemoryServer, MemoryStore};
use crate::sink::publisher::{
    Claim, Description, NewEpoch, Opening, Publisher, WriterToken, begin_epoch,
};
use crate::sink::status::Status;
use crate::sink::store::{
    Append, Connect, Dead, Feed, Guard, NewEntry, Registry, Store, StoreError, Trim,
};

mod model;

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(60);

struct World {
    server: MemoryServer,
    sink: Publisher<MemoryStore>,
    load: LoadWriter<MemoryStore>,
}

async fn world() -> World {
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
        state: None,
        catalog: None,
    };
    begin_epoch(&mut server.connect().await.unwrap(), &new).await.unwrap();
    let opening = Opening {
        slot: "s".into(),
        system_id: "1".into(),
        timeline: 1,
        history: Vec::new(),
        confirmed_flush: Lsn(100),
        token: WriterToken(1),
        accept_gap: false,
    };
    // So that both entries of one row and of several are read.
    let config = Config { load_rows: Some(3), ..Config::default() };
    let store = server.connect().await.unwrap();
    let claim = Claim::new(store).await.unwrap();
    let (sink, _) = Publisher::open(claim, &config, &opening, Status::default()).await.unwrap();
    let store = server.connect().await.unwrap();
    let token = WriterToken(1);
    let load = LoadWriter::open(store, &config, Epoch(1), "e", token, Status::default()).await;
    World { server, sink, load: load.unwrap().0 }
}

impl World {
    async fn publish(&mut self, parts: &[Part]) {
        self.sink.publish(sample::batch(parts), 1, Lsn(100)).await.unwrap();
    }

    async fn loaded(&mut self, rows: u64) {
        let batch = sample::read("ledger", (1..=rows).map(|n| (n, format!("note {n}"))));
        self.load.append(&batch, 1, Vec::new()).await.unwrap();
    }

    async fn finish(&mut self, points: &[(&str, u64)]) {
        let points = points.iter().map(|(table, lsn)| ((*table).to_owned(), Lsn(*lsn))).collect();
        let (start_lsn, load_points, called) = (Lsn(100), &points, &[].into());
        let end = End { start_lsn, load_points, called, after: None, whole: true };
        self.load.finish(end, None, b"STREAMING").await.unwrap();
    }

    async fn try_reader(&self, from: From) -> Result<StreamReader<MemoryStore>, ReaderError> {
        StreamReader::open(self.server.connect().await.unwrap(), from, 1 << 20).await
    }

    async fn reader(&self, from: &str) -> StreamReader<MemoryStore> {
        self.try_reader(From::After(from.parse().unwrap())).await.unwrap()
    }
}

/// What is there now, as positions with the op where it is none of a row.
async fn all(reader: &mut StreamReader<MemoryStore>) -> Result<Vec<String>, ReaderError> {
    let mut seen = Vec::new();
    while let Some(entry) = reader.next(NOW).await? {
        let op = match entry.op {
            EntryOp::Row(_) => "",
            other => other.name(),
        };
        let last = if entry.last { "!" } else { "" };
        seen.push(format!("{}{op}{last}", entry.position));
    }
    Ok(seen)
}

#[tokio::test(start_paused = true)]
async fn the_load_comes_first_and_changes_wait_for_its_end() {
    let mut world = world().await;
    world.loaded(2).await;
    world.publish(&[Part::whole(0x200, 2)]).await;
    let mut reader = world.try_reader(From::Start).await.unwrap();
    let mut changes = world.reader("0/1").await;
    assert_eq!(all(&mut reader).await.unwrap(), ["bootstrap:1", "bootstrap:2"]);
    assert_eq!(all(&mut changes).await.unwrap(), [""; 0]);
    assert!(!changes.reads_changes());
    let (woken, ()) = tokio::join!(reader.next(SOON), world.loaded(1));
    assert_eq!(woken.unwrap().unwrap().position, Position::Bootstrap(3));
    let finished = async {
        world.finish(&[]).await;
    };
    let (woken, ()) = tokio::join!(changes.next(SOON), finished);
    assert_eq!(woken.unwrap().unwrap().position.to_string(), "0/200:1");
    assert_eq!(all(&mut reader).await.unwrap(), ["bootstrap:4end", "0/200:1", "0/200:2!"]);
    assert_eq!(reader.position().to_string(), "e1:0/200:2");
    let parts = [Part::whole(0x300, 1)];
    let (woken, ()) = tokio::join!(reader.next(SOON), world.publish(&parts));
    assert_eq!(woken.unwrap().unwrap().position.to_string(), "0/300:1");
    assert_eq!(reader.next(SOON).await, Ok(None), "it gives up when nothing comes");
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_strictly_after_any_position() {
    let mut world = world().await;
    world.loaded(3).await;
    world.publish(&[Part::whole(0x200, 3), Part::whole(0x300, 1)]).await;
    world.finish(&[]).await;
    let mut whole = world.try_reader(From::Start).await.unwrap();
    let everything = all(&mut whole).await.unwrap();
    assert_eq!(everything.len(), 8);
    for (i, text) in everything.iter().enumerate() {
        let at = text.trim_end_matches('!').trim_end_matches("end");
        let mut reader = world.reader(&format!("e1:{at}")).await;
        assert_eq!(all(&mut reader).await.unwrap(), everything[i + 1..], "after {at}");
    }
    assert_eq!(all(&mut world.reader("0/200").await).await.unwrap(), ["0/300:1!"]);
    let mut live = world.try_reader(From::Live).await.unwrap();
    assert_eq!(all(&mut live).await.unwrap(), [""; 0]);
    let other = world.try_reader(From::After("e7:0/200".parse().unwrap())).await.unwrap_err();
    assert_eq!(other, ReaderError::OtherEpoch { asked: Epoch(7), current: Epoch(1) });
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_strictly_after_every_row_of_an_entry() {
    let mut world = world().await;
    for rows in [7, 1, 3, 5] {
        world.loaded(rows).await;
    }
    world.finish(&[]).await;
    let mut store = world.server.connect().await.unwrap();
    let stored = store.page(Epoch(1), Lane::Bootstrap, Id::ZERO, 100).await.unwrap().entries;
    let ids: Vec<u64> = stored.iter().map(|raw| raw.id.high).collect();
    assert_eq!(ids, [3, 6, 7, 8, 11, 14, 16, 17], "the last of an entry names it");
    let all_rows: Vec<String> = (1..=16).map(|n| format!("bootstrap:{n}")).collect();
    let whole: Vec<String> = all_rows.into_iter().chain(["bootstrap:17end".to_owned()]).collect();
    // Pages of about one entry, and of all.
    for page_bytes in [1, 1 << 20] {
        for n in 0..=17 {
            let store = world.server.connect().await.unwrap();
            let from = From::After(format!("e1:bootstrap:{n}").parse().unwrap());
            let mut reader = StreamReader::open(store, from, page_bytes).await.unwrap();
            assert_eq!(all(&mut reader).await.unwrap(), whole[n..], "after {n}");
            assert!(reader.reads_changes());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_entries_undivided_gets_the_rest_of_the_one_he_stands_in() {
    let mut world = world().await;
    for rows in [7, 1, 3] {
        world.loaded(rows).await;
    }
    world.finish(&[]).await;
    for n in 0..=11 {
        let mut reader = world.reader(&format!("e1:bootstrap:{n}")).await.undivided();
        let (mut numbers, mut position) = (Vec::new(), n);
        while let Some(entry) = reader.next(NOW).await.unwrap() {
            assert_eq!(reader.position().position, entry.position);
            let Position::Bootstrap(at) = entry.position else { panic!("{entry:?}") };
            match &entry.content {
                Content::Rows(rows) => {
                    assert_eq!(rows.first + rows.count() as u64 - 1, at);
                    numbers.extend(rows.first..=at);
                }
                _ => numbers.push(at),
            }
            position = at;
        }
        assert_eq!((numbers, position), ((n + 1..=12).collect(), 12), "after {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_stands_within_the_first_entry_of_a_section_has_not_passed_the_end_before_it() {
    let mut world = world().await;
    world.loaded(2).await;
    world.finish(&[]).await;
    world.publish(&[Part::whole(0x200, 1)]).await;
    let store = world.server.connect().await.unwrap();
    let config = Config { load_rows: Some(10), ..Config::default() };
    let token = WriterToken(2);
    let opened = LoadWriter::open(store, &config, Epoch(1), "e", token, Status::default()).await;
    world.load = opened.unwrap().0;
    // Rows 4 to 8, right behind the end of the load, number 3.
    world.loaded(5).await;
    for (n, rest) in [(4, 4), (5, 3), (7, 1), (8, 0)] {
        let mut reader = world.reader(&format!("e1:bootstrap:{n}")).await;
        assert!(!reader.reads_changes(), "after {n}");
        let rows: Vec<String> = (n + 1..=8).map(|n| format!("bootstrap:{n}")).collect();
        assert_eq!((all(&mut reader).await.unwrap(), rows.len()), (rows, rest), "after {n}");
    }
    let mut behind = world.reader("e1:bootstrap:3").await;
    assert_eq!(all(&mut behind).await.unwrap(), ["0/200:1!"], "the load had ended there");
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_within_an_entry_keeps_the_rest_of_it() {
    let mut world = world().await;
    world.loaded(9).await;
    let mut store = world.server.connect().await.unwrap();
    store.add_consumer("c").await.unwrap();
    let mut read = Vec::new();
    for n in 1..=9 {
        let through = Id { high: n, low: 1 };
        store.acknowledge("c", Epoch(1), Lane::Bootstrap, through).await.unwrap();
        let trim = Trim { epoch: Epoch(1), ceiling: None, pressed: false };
        read.push(store.trim(trim).await.unwrap());
        let mut reader = world.reader(&format!("e1:bootstrap:{n}")).await;
        let rest: Vec<String> = (n + 1..=9).map(|n| format!("bootstrap:{n}")).collect();
        assert_eq!(all(&mut reader).await.unwrap(), rest, "after {n}");
    }
    assert_eq!(read, [0, 0, 0, 1, 0, 0, 1, 0, 0], "entries that went");
    for gone in ["bootstrap", "bootstrap:2", "bootstrap:5"] {
        let error = world.try_reader(From::After(gone.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, ReaderError::OutOfRange { .. }), "{gone}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn small_rows_of_large_entries_do_not_fill_the_memory() {
    let mut world = world().await;
    let store = world.server.connect().await.unwrap();
    let config = Config { load_rows: Some(10_000), ..Config::default() };
    let token = WriterToken(2);
    let opened = LoadWriter::open(store, &config, Epoch(1), "e", token, Status::default()).await;
    world.load = opened.unwrap().0;
    for _ in 0..20 {
        let rows = sample::read("ledger", (0..500).map(|n| (n, String::new())));
        world.load.append(&rows, 1, Vec::new()).await.unwrap();
    }
    let mut reader = world.try_reader(From::Start).await.unwrap();
    reader.page_bytes = 100_000;
    let (mut seen, mut most) = (0, 0);
    while let Some(entry) = reader.next(NOW).await.unwrap() {
        seen += 1;
        assert_eq!(entry.position, Position::Bootstrap(seen));
        most = most.max(reader.ready.len());
    }
    assert_eq!(seen, 10_000);
    assert!(most <= 1_100, "{most} rows at once");
}

#[tokio::test(start_paused = true)]
async fn changes_below_a_load_point_are_skipped_and_transactions_still_end() {
    let mut world = world().await;
    let mut batch = sample::batch(&[Part::whole(0x200, 3), Part::whole(0x400, 1)]);
    let other = batch.relation_index(&sample::relation("other"));
    batch.rows[0].relation = other;
    world.sink.publish(batch, 1, Lsn(100)).await.unwrap();
    world.publish(&[Part::whole(0x500, 1)]).await;
    world.finish(&[("public.ledger", 0x500)]).await;
    let mut reader = world.reader("0/1").await;
    let expected = ["0/200:1", "0/200:3commit!", "0/500:1!"];
    assert_eq!(all(&mut reader).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_torn_transaction_halts() {
    let mut world = world().await;
    world.finish(&[]).await;
    let mut store = world.server.connect().await.unwrap();
    let checkpoint = store.inspect().await.unwrap().checkpoint.unwrap();
    let entry = |high, last| NewEntry {
        id: Id { high, low: 1 },
        op: "insert",
        table: "public.ledger",
        data: b"\x80",
        last,
    };
    let guard = Guard { epoch: Epoch(1), writer: checkpoint.writer, last: Id::ZERO };
    let entries = vec![entry(0x200, false), entry(0x300, true)];
    let append = Append { generation: 1, entries, fields: Vec::new(), dead: Dead::default() };
    store.append(&guard, &append).await.unwrap();
    let torn = ReaderError::Torn { torn: Lsn(0x200), next: Lsn(0x300) };
    assert_eq!(all(&mut world.reader("0/1").await).await, Err(torn.clone()));
    assert_eq!(all(&mut world.reader("0/200:1").await).await, Err(torn));
    assert_eq!(all(&mut world.reader("0/200").await).await.unwrap(), ["0/300:1!"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_trimmed_is_refused_with_the_oldest_position() {
    let mut world = world().await;
    world.loaded(2).await;
    world.finish(&[]).await;
    world.publish(&[Part::whole(0x200, 2), Part::whole(0x300, 1), Part::whole(0x400, 1)]).await;
    let mut slow = world.reader("0/200:1").await;
    let mut store = world.server.connect().await.unwrap();
    store.add_consumer("c").await.unwrap();
    let through = Id { high: 0x200, low: u64::MAX };
    store.acknowledge("c", Epoch(1), Lane::Changes, through).await.unwrap();
    assert_eq!(store.trim(Trim { epoch: Epoch(1), ceiling: None, pressed: false }).await, Ok(3));
    let error = slow.next(NOW).await.unwrap_err();
    assert!(
        error.to_string().contains("the oldest position to go on from is e1:0/200:2"),
        "{error}"
    );
    for gone in ["bootstrap", "bootstrap:1", "0/1", "0/200:1"] {
        let error = world.try_reader(From::After(gone.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, ReaderError::OutOfRange { .. }), "{gone}: {error}");
    }
    // Exactly what was trimmed is what this reader has.
    for good in ["0/200:2", "0/200"] {
        assert_eq!(all(&mut world.reader(good).await).await.unwrap(), ["0/300:1!", "0/400:1!"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_inside_of_a_transaction_that_is_trimmed_so_far_sees_its_end() {
    let mut world = world().await;
    world.finish(&[]).await;
    let part = |rows: &[(u64, bool)], first, ends| {
        vec![Part { lsn: 0x200, rows: rows.to_vec(), first, ends }]
    };
    world.publish(&part(&[(1, true), (2, true), (3, true)], true, false)).await;
    let mut store = world.server.connect().await.unwrap();
    store.add_consumer("c").await.unwrap();
    let through = Id { high: 0x200, low: 2 };
    store.acknowledge("c", Epoch(1), Lane::Changes, through).await.unwrap();
    let trim = Trim { epoch: Epoch(1), ceiling: None, pressed: true };
    assert_eq!(store.trim(trim).await, Ok(1));
    world.publish(&part(&[(4, false)], false, true)).await;
    world.publish(&[Part::whole(0x300, 1)]).await;
    // Whoever stands at what was trimmed, or at what is left of it, is inside.
    let rest = ["0/200:2", "0/200:3!", "0/300:1!"];
    assert_eq!(all(&mut world.reader("0/200:1").await).await.unwrap(), rest);
    assert_eq!(all(&mut world.reader("0/200:2").await).await.unwrap(), rest[1..]);
    let points = [("public.ledger".to_owned(), Lsn(0x250))].into();
    for position in ["0/200:1", "0/200:2"] {
        // All that is left of the transaction is part of the load: its end is told.
        let mut reader = world.reader(position).await;
        reader.load_points = Some(BTreeMap::clone(&points));
        let end = ["0/200:3commit!", "0/300:1!"];
        assert_eq!(all(&mut reader).await.unwrap(), end, "from {position}");
    }
    let error = world.try_reader(From::After("0/1".parse().unwrap())).await.unwrap_err();
    assert!(matches!(error, ReaderError::OutOfRange { .. }), "{error}");
}

/// Nobody could acknowledge what fills Redis, or come to the mark behind it.
#[tokio::test(start_paused = true)]
async fn how_far_is_told_although_all_of_it_is_skipped() {
    let mut world = world().await;
    world.loaded(1).await;
    world.publish(&[Part::whole(0x200, 2), Part::whole(0x300, 3)]).await;
    world.finish(&[("public.ledger", u64::MAX)]).await;
    let mut reader = world.reader("0/1").await;
    assert_eq!(all(&mut reader).await.unwrap(), ["0/300:3commit!"]);
    assert_eq!(all(&mut reader).await.unwrap(), [""; 0], "once");
    world.publish(&[Part::whole(0x400, 1)]).await;
    assert_eq!(all(&mut reader).await.unwrap(), ["0/400:1commit!"]);
    assert_eq!(all(&mut world.reader("0/400").await).await.unwrap(), [""; 0]);
}

/// It may be larger than Redis's budget: then its rest comes once that is acknowledged.
#[tokio::test(start_paused = true)]
async fn how_far_is_told_inside_of_a_transaction_that_is_skipped() {
    let mut world = world().await;
    world.loaded(1).await;
    world.finish(&[("public.ledger", 0x400)]).await;
    let part = |rows: &[(u64, bool)], first, ends| {
        vec![Part { lsn: 0x200, rows: rows.to_vec(), first, ends }]
    };
    world.publish(&part(&[(1, true), (2, true)], true, false)).await;
    let mut reader = world.reader("0/1").await;
    // The newest row is held back until it is known whether it is the last.
    assert_eq!(all(&mut reader).await.unwrap(), ["0/200:1commit"]);
    assert_eq!(all(&mut reader).await.unwrap(), [""; 0], "once");
    assert!(reader.is_inside());
    world.publish(&part(&[(3, true)], false, false)).await;
    assert_eq!(all(&mut reader).await.unwrap(), ["0/200:2commit"]);
    world.publish(&part(&[(4, true), (5, true)], false, true)).await;
    world.publish(&[Part::whole(0x300, 1), Part::whole(0x400, 1)]).await;
    // Whoever has heard of its middle hears of its end, and the others need neither.
    assert_eq!(all(&mut reader).await.unwrap(), ["0/200:5commit!", "0/400:1!"]);
    let rest = ["0/200:5commit!", "0/400:1!"];
    assert_eq!(all(&mut world.reader("0/200:2").await).await.unwrap(), rest);
    assert_eq!(all(&mut world.reader("0/1").await).await.unwrap(), ["0/400:1!"]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_of_a_load_looks_now_and_then() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mut world = world().await;
    world.loaded(1).await;
    let mut reader = world.reader("0/1").await;
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    world.server.plan(move |step| {
        let read = step == crate::sink::memory::Step::Read;
        counted.fetch_add(usize::from(read), Ordering::Relaxed);
        crate::sink::memory::Fault::None
    });
    let loading = async {
        for _ in 0..2_000 {
            world.loaded(1).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What the budget of the load looks at is in this count, too.
        world.finish(&[]).await;
        world.publish(&[Part::whole(0x200, 1)]).await;
    };
    let (next, ()) = tokio::join!(reader.next(SOON), loading);
    assert_eq!(next.unwrap().unwrap().position.to_string(), "0/200:1");
    let reads = reads.load(Ordering::Relaxed);
    assert!(reads < 200, "{reads} reads in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_page_is_bounded_by_its_bytes_whatever_comes_after_small_rows() {
    let mut world = world().await;
    world.finish(&[]).await;
    world.publish(&[Part::whole(0x200, 200)]).await;
    let large = "x".repeat(100_000);
    let batch = sample::batch_padded(&[Part::whole(0x300, 50)], &large);
    world.sink.publish(batch, 1, Lsn(100)).await.unwrap();
    let mut reader = world.reader("0/1").await;
    reader.page_bytes = 250_000;
    let (mut seen, mut most) = (0, 0);
    while let Some(entry) = reader.next(NOW).await.unwrap() {
        seen += 1;
        let held: usize = reader.ready.iter().map(|entry| entry.weight).sum();
        most = most.max(held + entry.weight);
    }
    assert_eq!(seen, 250);
    assert!(most < 250_000 + 110_000, "{most} bytes at once");
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_ends_ends_its_readers() {
    let mut world = world().await;
    world.finish(&[]).await;
    let mut reader = world.try_reader(From::Start).await.unwrap();
    world.server.empty();
    let error = all(&mut reader).await.unwrap_err();
    assert!(matches!(error, ReaderError::Store(StoreError::Unknown(_))), "{error}");
    assert_eq!(world.try_reader(From::Start).await.unwrap_err(), ReaderError::NoEpoch);
}

#[tokio::test]
async fn a_row_that_the_load_never_came_to_is_refused() {
    let mut world = world().await;
    world.loaded(3).await;
    let beyond = world.try_reader(From::After("e1:bootstrap:4".parse().unwrap())).await;
    let error = beyond.unwrap_err();
    assert!(matches!(error, ReaderError::Beyond { .. }), "{error}");
    let reader = world.reader("e1:bootstrap:3").await;
    assert_eq!((reader.loaded(), reader.runs().of(3).is_empty()), (3, false));
}
