//! Checks of what is bounded: acknowledgements by the stream and by an entry's last row, a
//! transaction by the budget, a page by its bytes, an id by 64 bits.

use std::time::Duration;

use super::{E1, LEASE, Rig, append, begun, checkpoint, entry, guard, id, ids, load};
use crate::position::Epoch;
use crate::sink::entry::RawEntry;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{
    Acked, Answer, Append, Begin, Begun, Connect, Dead, Feed, Guard, Leased, Most, NewEntry,
    Registry, Store, StoreError, Trim,
};

pub(super) async fn keeps_what_was_acknowledged_too_far<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    store.add_consumer("c").await.unwrap();
    let far = id(9_000, u64::MAX);
    assert_eq!(store.acknowledge("c", E1, Lane::Changes, far).await, Ok(Acked::Done));
    assert_eq!(store.acknowledge("c", E1, Lane::Bootstrap, id(77, 1)).await, Ok(Acked::Done));
    let all = store.consumers().await.unwrap();
    assert_eq!((all[0].changes, all[0].bootstrap), (Id::ZERO, Id::ZERO), "there is nothing yet");
    let rows = vec![entry(200, 1, true), entry(300, 1, true), entry(400, 1, true)];
    store.append(&guard("w", Id::ZERO), &append(rows, "0/1")).await.unwrap();
    for pressed in [false, true] {
        assert_eq!(store.trim(Trim { epoch: E1, ceiling: None, pressed }).await, Ok(0));
    }
    store.acknowledge("c", E1, Lane::Changes, id(300, u64::MAX)).await.unwrap();
    store.acknowledge("c", E1, Lane::Changes, far).await.unwrap();
    assert_eq!(store.consumers().await.unwrap()[0].changes, id(400, 1));
    let more = vec![entry(500, 1, true), entry(600, 1, true)];
    store.append(&guard("w", id(400, 1)), &append(more, "0/1")).await.unwrap();
    assert_eq!(store.trim(Trim { epoch: E1, ceiling: None, pressed: true }).await, Ok(3));
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(500, 1), id(600, 1)]);
}

/// Entries of several rows have the number of the last: the numbers before it are nobody's.
pub(super) async fn keeps_an_entry_until_its_last_row_is_acknowledged<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    store.lease(E1, "a", "a1", LEASE).await.unwrap();
    let rows = |high| NewEntry { op: "rows", ..entry(high, 1, false) };
    let first = load(vec![rows(3), entry(4, 1, false), rows(10)]);
    assert_eq!(store.load(&guard("a1", Id::ZERO), &first).await, Ok(Answer::Done));
    // Whoever goes on is where the last row is, and nowhere before it.
    let more = || load(vec![rows(20)]);
    for before in [id(4, 1), id(9, 1)] {
        let moved = store.load(&guard("a1", before), &more()).await;
        assert!(matches!(moved, Ok(Answer::Moved { .. })), "{moved:?}");
    }
    assert_eq!(store.load(&guard("a1", id(10, 1)), &more()).await, Ok(Answer::Done));
    let page = store.page(E1, Lane::Bootstrap, id(6, u64::MAX), 1).await.unwrap();
    assert_eq!(page.entries[0].id, id(10, 1), "the rest of row 6 is there");
    let before = store.before(E1, Lane::Bootstrap, id(6, u64::MAX)).await.unwrap();
    assert_eq!(before.map(|raw| raw.id), Some(id(4, 1)));

    store.add_consumer("c").await.unwrap();
    let trim = Trim { epoch: E1, ceiling: None, pressed: true };
    for (acknowledged, gone) in [(2, 0), (3, 0), (4, 1), (6, 1), (9, 0), (10, 0), (11, 1)] {
        store.acknowledge("c", E1, Lane::Bootstrap, id(acknowledged, 1)).await.unwrap();
        assert_eq!(store.trim(trim).await, Ok(gone), "through {acknowledged}");
    }
    assert_eq!(ids(&mut store, Lane::Bootstrap).await, [id(20, 1)]);
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().trim_bootstrap, id(10, 1));
    store.acknowledge("c", E1, Lane::Bootstrap, id(99, 1)).await.unwrap();
    assert_eq!(store.consumers().await.unwrap()[0].bootstrap, id(20, 1));
}

pub(super) async fn trims_inside_a_transaction_under_pressure_only<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    for name in ["a", "b"] {
        store.add_consumer(name).await.unwrap();
    }
    let rows = [(200, 1), (300, 1), (300, 2), (300, 5), (300, 6)];
    let rows = rows.map(|(lsn, n)| entry(lsn, n, lsn == 200));
    store.append(&guard("w", Id::ZERO), &append(rows.to_vec(), "0/1")).await.unwrap();
    let trim = |pressed| Trim { epoch: E1, ceiling: None, pressed };
    for (name, low) in [("a", 2), ("b", 6)] {
        store.acknowledge(name, E1, Lane::Changes, id(300, low)).await.unwrap();
    }
    assert_eq!(store.trim(trim(false)).await, Ok(1), "the transaction stays whole");
    assert_eq!(store.trim(trim(true)).await, Ok(1), "but for what everybody has");
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(300, 2), id(300, 5), id(300, 6)]);
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().trim, id(300, 1));
    // Everything that is there is acknowledged, and the rest is to come.
    store.acknowledge("a", E1, Lane::Changes, id(300, 6)).await.unwrap();
    assert_eq!(store.trim(trim(true)).await, Ok(2));
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(300, 6)], "it tells where one stands");
    assert_eq!(store.trim(trim(true)).await, Ok(0));
    let rest = vec![entry(300, 7, true), entry(400, 1, false), entry(400, 2, true)];
    store.append(&guard("w", id(300, 6)), &append(rest, "0/1")).await.unwrap();
    // A ceiling cuts where a transaction begins all the same.
    let ceiling = Trim { epoch: E1, ceiling: Some(id(400, 2)), pressed: true };
    assert_eq!(store.trim(ceiling).await, Ok(2));
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(400, 1), id(400, 2)]);
}

pub(super) async fn ends_a_page_by_its_bytes<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    let large = vec![b'x'; 10_000];
    let entries: Vec<NewEntry<'_>> = (1..=100)
        .map(|n| NewEntry {
            data: if n > 40 && n % 7 == 0 { &large } else { b"small" },
            ..entry(200, n, n == 100)
        })
        .collect();
    let all = Append { generation: 3, entries, fields: Vec::new(), dead: Dead::default() };
    assert_eq!(store.append(&guard("w", Id::ZERO), &all).await, Ok(Answer::Done));
    for bytes in [1, 100, 500, 10_000, 25_000, usize::MAX] {
        let (mut after, mut read) = (Id::ZERO, Vec::new());
        loop {
            let most = Most { entries: 30, bytes };
            let page = store.page(E1, Lane::Changes, after, most).await.unwrap();
            let Some(last) = page.entries.last() else { break };
            after = last.id;
            let before = &page.entries[..page.entries.len() - 1];
            let weight: usize = before.iter().map(RawEntry::weight).sum();
            assert!(weight < bytes, "{weight} bytes before the last entry of {bytes}");
            let whole = weight + last.weight();
            let full = page.entries.len() == 30 || whole >= bytes || last.id == id(200, 100);
            assert!(full, "{} entries, {whole} of {bytes} bytes", page.entries.len());
            read.extend(page.entries.iter().map(|entry| entry.id.low));
        }
        assert_eq!(read, (1..=100).collect::<Vec<u64>>(), "pages of {bytes} bytes");
    }
}

pub(super) async fn names_a_key_of_another_type<R: Rig>(rig: &R) {
    let (_, mut store, keys) = begun(rig).await;
    let fresh = [
        (keys.state(), "string"),
        (keys.catalog(), "string"),
        (keys.consumers(), "hash"),
        (keys.dead(), "stream"),
        (keys.stream(E1, Lane::Changes), "stream"),
        (keys.stream(E1, Lane::Bootstrap), "stream"),
        (keys.load(E1), "hash"),
    ];
    for (key, expected) in fresh {
        rig.occupy(&key, true).await;
        let found = "zset".to_owned();
        let wrong = StoreError::WrongType { key: key.clone(), found, expected };
        assert_eq!(store.inspect().await, Err(wrong));
        rig.occupy(&key, false).await;
    }
    assert!(store.inspect().await.unwrap().checkpoint.is_some());
}

pub(super) async fn keeps_long_lsns_exact<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    // Beyond 2^53, where a Lua number would round.
    let (a, b) = (u64::MAX - 2, u64::MAX - 1);
    let rows = vec![entry(a, 1, true), entry(b, u64::MAX - 1, true)];
    assert_eq!(store.append(&guard("w", Id::ZERO), &append(rows, "0/1")).await, Ok(Answer::Done));
    store.add_consumer("c").await.unwrap();
    store.acknowledge("c", E1, Lane::Changes, id(a, u64::MAX)).await.unwrap();
    assert_eq!(store.trim(Trim { epoch: E1, ceiling: None, pressed: false }).await, Ok(1));
    assert_eq!(ids(&mut store, Lane::Changes).await, [id(b, u64::MAX - 1)]);
    assert_eq!(store.inspect().await.unwrap().checkpoint.unwrap().trim, id(a, 1));
}

/// Small entries and large ones, also those that come while it is read, and by whomever.
pub(super) async fn reads_whatever_entries_weigh<R: Rig>(rig: &R) {
    for lane in [Lane::Bootstrap, Lane::Changes] {
        let (connect, mut store, _) = begun(rig).await;
        let mut reader = connect.connect().await.unwrap();
        let leased = store.lease(E1, "o", "v", LEASE).await;
        assert!(matches!(leased, Ok(Leased::Yes { .. })), "{leased:?}");
        let (data, changes) = (vec![b'x'; 300_000], lane == Lane::Changes);
        let most = Most { entries: 40, bytes: 100_000 };
        let (mut last, mut after, mut read) = (Id::ZERO, Id::ZERO, Vec::new());
        let writes: [&[usize]; 10] = [
            &[10_000; 30],
            &[5],
            &[20_000; 12],
            &[10; 300],
            &[20_000, 7, 300_000],
            &[1; 50],
            &[1; 270],
            &[300_000, 300_000, 9],
            &[12; 280],
            &[],
        ];
        for (turn, sizes) in writes.into_iter().enumerate() {
            if turn % 3 == 2 {
                store = connect.connect().await.unwrap();
            }
            let entries = sizes.iter().zip(last.high + 1..);
            let entries =
                entries.map(|(size, n)| NewEntry { data: &data[..*size], ..entry(n, 1, changes) });
            let (before, entries) = (last, entries.collect());
            last = id(last.high + sizes.len() as u64, 1);
            let done = match lane {
                Lane::Bootstrap => store.load(&guard("v", before), &load(entries)).await,
                Lane::Changes => store.append(&guard("w", before), &append(entries, "0/1")).await,
            };
            assert_eq!(done, Ok(Answer::Done));
            // One page after each, and then the rest.
            loop {
                let page = reader.page(E1, lane, after, most).await.unwrap();
                let Some(newest) = page.entries.last() else { break };
                let weight: usize = page.entries.iter().map(RawEntry::weight).sum();
                assert!(weight - newest.weight() < most.bytes, "{weight} bytes");
                assert!(page.entries.len() <= most.entries);
                after = newest.id;
                read.extend(page.entries.iter().map(|entry| entry.id.high));
                if !sizes.is_empty() {
                    break;
                }
            }
        }
        assert_eq!(read, (1..=last.high).collect::<Vec<u64>>(), "{}", lane.name());
    }
}

/// Begins it after [`E1`], and loads its first row.
async fn next_epoch<S: Store>(store: &mut S) -> Answer {
    let (before, fields) = (Some(E1), checkpoint(Epoch(2)).fields());
    let begin = Begin { epoch: Epoch(2), before, fields, state: None, catalog: None };
    assert_eq!(store.begin(&begin).await, Ok(Begun::Done));
    let leased = store.lease(Epoch(2), "o", "v", LEASE).await;
    assert!(matches!(leased, Ok(Leased::Yes { .. })), "{leased:?}");
    let guard = Guard { epoch: Epoch(2), ..guard("v", Id::ZERO) };
    store.load(&guard, &load(vec![entry(1, 1, false)])).await.unwrap()
}

pub(super) async fn pages_and_waits<R: Rig>(rig: &R) {
    let (connect, mut store, _) = begun(rig).await;
    let mut reader = connect.connect().await.unwrap();
    let short = Duration::from_millis(20);
    reader.wait(E1, Lane::Changes, Id::ZERO, short).await.unwrap();
    let page = reader.page(E1, Lane::Changes, Id::ZERO, 2).await.unwrap();
    assert_eq!((page.epoch, page.trim, page.entries.len()), (Some(E1), Id::ZERO, 0));
    assert_eq!(reader.before(E1, Lane::Changes, id(9, 9)).await, Ok(None));

    let (now, three) = (guard("w", Id::ZERO), vec![(200, 1), (200, 2), (300, 1)]);
    let three = three.into_iter().map(|(lsn, n)| entry(lsn, n, false)).collect();
    let three = append(three, "0/1");
    let (woken, appended) =
        tokio::join!(reader.wait(E1, Lane::Changes, Id::ZERO, LEASE), store.append(&now, &three),);
    assert_eq!((woken, appended), (Ok(()), Ok(Answer::Done)));
    let page = reader.page(E1, Lane::Changes, id(200, 1), 1).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| e.id).collect::<Vec<_>>(), [id(200, 2)]);
    let page = reader.page(E1, Lane::Changes, id(200, u64::MAX), 9).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| e.id).collect::<Vec<_>>(), [id(300, 1)]);
    let before = reader.before(E1, Lane::Changes, id(299, 0)).await.unwrap();
    assert_eq!(before.map(|e| e.id), Some(id(200, 2)));

    let newest = id(300, 1);
    // As long as nobody would wait: the next epoch has to wake it.
    let waiting = reader.wait(E1, Lane::Changes, newest, LEASE * 20);
    let (woken, answer) =
        tokio::join!(tokio::time::timeout(LEASE, waiting), next_epoch(&mut store));
    assert_eq!((woken, answer), (Ok(Ok(())), Answer::Done), "none of this one comes any more");

    let usage = store.usage(E1).await.unwrap();
    assert_eq!((usage.length, usage.bootstrap, usage.policy.as_str()), (3, 0, "noeviction"));
    assert!(usage.changes > 0 && usage.used >= usage.changes && usage.now_ms > 0);
    let server = store.server().await.unwrap();
    assert!(server.primary && server.policy == "noeviction" && server.max_bulk_len > 1 << 20);
}
