//! The model `fence_model.py` over the real publisher: a stale writer that has everything
//! in memory, and a rightful one that takes over at any moment; every interleaving.

use super::*;

/// T1 has four rows and arrives in two slices, T2 has one.
fn slices(keep: &[(u64, u64)]) -> [Part; 3] {
    let row = |lsn: u64, n: u64| (n, keep.contains(&(lsn, n)));
    [
        Part { lsn: 200, rows: vec![row(200, 1), row(200, 2)], first: true, ends: false },
        Part { lsn: 200, rows: vec![row(200, 3), row(200, 4)], first: false, ends: true },
        Part { lsn: 300, rows: vec![row(300, 1)], first: true, ends: true },
    ]
}

const OLD: &[(u64, u64)] = &[(200, 1), (200, 3), (200, 4), (300, 1)];
const NEW: &[(u64, u64)] = &[(200, 1), (200, 2), (200, 4), (300, 1)];

/// One step of a writer that goes on where it stands; `false` once it has ended.
async fn step(
    sink: &mut Publisher<MemoryStore>,
    part: &Part,
    generation: u64,
) -> Result<(), SinkError> {
    let mut batch = sample::batch(std::slice::from_ref(part));
    batch.skip_through(sink.progress);
    sink.publish(batch, generation, Lsn(100)).await
}

/// All orders of three steps of A, three of B and the take-over T before B's first.
fn orders() -> Vec<Vec<char>> {
    let mut all = BTreeSet::new();
    for mask in 0_u32..1 << 7 {
        if mask.count_ones() != 3 {
            continue;
        }
        let mut rest = "TBBB".chars();
        let order = (0..7).map(|i| match mask >> i & 1 {
            1 => 'A',
            _ => rest.next().unwrap(),
        });
        all.insert(order.collect::<Vec<_>>());
    }
    all.into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn a_stale_writer_changes_nothing_in_any_interleaving() {
    let orders = orders();
    assert_eq!(orders.len(), 35);
    for same in [true, false] {
        for order in &orders {
            interleave(order, same).await;
        }
    }
}

async fn interleave(order: &[char], same: bool) {
    let server = server().await;
    let (mut a, _) = open(&server, 1).await;
    let mut b: Option<Publisher<MemoryStore>> = None;
    let (mut a_next, mut b_next) = (0, 0);
    let old = slices(OLD);
    // Rules changed while A was frozen; a half published transaction keeps the old ones.
    let mut new = slices(if same { OLD } else { NEW });
    for who in order {
        match who {
            'A' if a_next < 3 => {
                let before = (b.is_some(), stream(&server).await, position(&server).await);
                let result = step(&mut a, &old[a_next], 1).await;
                a_next = if result.is_ok() { a_next + 1 } else { 3 };
                if before.0 {
                    // A slice that only drops or holds back rows sends nothing.
                    let ended = matches!(result, Ok(()) | Err(SinkError::Fenced { .. }));
                    assert!(ended, "{order:?}: {result:?}");
                    let after = (stream(&server).await, position(&server).await);
                    assert_eq!((before.1, before.2), after, "{order:?}: a stale writer wrote");
                }
            }
            'T' => {
                let (sink, opened) = open(&server, 2).await;
                if opened.unfinished.is_some() {
                    let [first, second, _] = slices(OLD);
                    (new[0], new[1]) = (first, second);
                }
                b = Some(sink);
            }
            'B' => {
                let sink = b.as_mut().unwrap();
                let result = step(sink, &new[b_next], 1).await;
                assert_eq!(result, Ok(()), "{order:?}: the rightful writer had to stop");
                b_next += 1;
            }
            _ => {}
        }
    }
    let all = stream(&server).await;
    let whole = |keep: &[(u64, u64)]| {
        let of = |lsn: u64| keep.iter().filter(move |k| k.0 == lsn).map(|k| k.1);
        let last = |lsn: u64| of(lsn).max().unwrap();
        let text =
            |(lsn, n): &(u64, u64)| format!("{lsn}-{n}{}", if *n == last(*lsn) { "!" } else { "" });
        keep.iter().map(text).collect::<Vec<_>>()
    };
    assert!(all == whole(OLD) || (!same && all == whole(NEW)), "{order:?}: {all:?}");
    assert_eq!(position(&server).await, Position::after(Lsn(300)), "{order:?}");
}

async fn position(server: &MemoryServer) -> Position {
    let mut store = server.connect().await.unwrap();
    store.inspect().await.unwrap().checkpoint.unwrap().position
}
