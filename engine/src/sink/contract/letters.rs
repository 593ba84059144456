//! Dead letters: written and closed in the very step that publishes what is around them,
//! bounded, and gone with their epoch.

use super::{E1, LEASE, Rig, append, begun, checkpoint, entry, guard, id};
use crate::position::Epoch;
use crate::sink::id::Id;
use crate::sink::store::{Answer, Append, Begin, Begun, Dead, Leased, Load, Registry, Store};

fn dead(letters: &[&[u8]], closed: &[Id], limit: u64) -> Dead {
    let letters = letters.iter().map(|letter| letter.to_vec()).collect();
    Dead { letters, closed: closed.iter().map(Id::to_string).collect(), limit }
}

async fn texts<S: Registry>(store: &mut S) -> Vec<Vec<u8>> {
    let all = store.letters(Id::ZERO, 10).await.unwrap();
    all.into_iter().map(|(_, text)| text).collect()
}

pub(super) async fn are_written_with_what_is_around_them<R: Rig>(rig: &R) {
    let (_, mut store, _) = begun(rig).await;
    let with = |entries, dead| Append { dead, ..append(entries, "0/64:1") };
    let one = with(vec![entry(100, 1, true)], dead(&[b"one\xff", b"two"], &[], 3));
    let stale = store.append(&guard("x", Id::ZERO), &one).await;
    assert!(matches!(stale, Ok(Answer::Fenced { .. })));
    assert!(texts(&mut store).await.is_empty(), "a refused step writes no letter");
    assert_eq!(store.append(&guard("w", Id::ZERO), &one).await, Ok(Answer::Done));
    assert_eq!(texts(&mut store).await, [b"one\xff".to_vec(), b"two".to_vec()]);
    assert_eq!(store.inspect().await.unwrap().letters, 2);

    // Without an entry, and closing one: as many as there may be, and no more.
    let first = store.letters(Id::ZERO, 1).await.unwrap()[0].0;
    let now = guard("w", id(100, 1));
    let swap = with(vec![], dead(&[b"three", b"four"], &[first], 3));
    assert_eq!(store.append(&now, &swap).await, Ok(Answer::Done));
    assert_eq!(texts(&mut store).await, [b"two".to_vec(), b"three".to_vec(), b"four".to_vec()]);
    let full = with(vec![entry(101, 1, true)], dead(&[b"five"], &[], 3));
    assert_eq!(store.append(&now, &full).await, Ok(Answer::Full { there: 3 }));
    assert_eq!(store.inspect().await.unwrap().changes, id(100, 1), "nothing was published");
    let second = store.letters(Id::ZERO, 1).await.unwrap()[0].0;
    assert_eq!(store.forget(&[second, first]).await, Ok(1));
    assert_eq!(store.append(&now, &full).await, Ok(Answer::Done));
    let after = store.letters(second, 2).await.unwrap();
    assert_eq!(after.len(), 2);

    // The load writes them with its progress.
    let leased = store.lease(E1, "a", "a1", LEASE).await.unwrap();
    assert!(matches!(leased, Leased::Yes { .. }));
    let load = |limit| Load {
        generation: 1,
        entries: vec![entry(1, 1, false)],
        progress: vec![("7".to_owned(), Some("1".to_owned()))],
        lease: LEASE,
        dead: dead(&[b"six"], &[], limit),
    };
    let writer = guard("a1", Id::ZERO);
    assert_eq!(store.load(&writer, &load(3)).await, Ok(Answer::Full { there: 3 }));
    assert!(!store.progress(E1).await.unwrap().contains_key("7"), "nor progress");
    assert_eq!(store.load(&writer, &load(4)).await, Ok(Answer::Done));
    assert_eq!(store.inspect().await.unwrap().letters, 4);

    // Another epoch loads their rows again.
    let fields = checkpoint(Epoch(2)).fields();
    let begin = Begin { epoch: Epoch(2), before: Some(E1), fields, state: None, catalog: None };
    assert_eq!(store.begin(&begin).await, Ok(Begun::Done));
    assert_eq!(store.inspect().await.unwrap().letters, 0);
}
