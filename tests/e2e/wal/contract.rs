//! What every source owes its pipeline: the same script on a real server and in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use kasho::batch::Batch;
use kasho::position::{Lsn, Position};
use kasho::source::memory::{MemoryServer, MemorySource, Transaction};
use kasho::source::wal::{KnownRelations, Options, WalSource};
use kasho::source::{Limits, Received, Source};
use kasho_plugin_sdk::{Column, Identity, Relation, Value};

use super::{describe, durable, next, options, reopen};
use crate::harness::{Postgres, eventually};

const LIMITS: Limits = Limits { rows: 64, bytes: 256 << 10 };

/// A log that the contract writes to, and a slot on it.
trait World {
    type Source: Source;
    /// One transaction that inserts `count` rows into `t` from `first` on, with a message
    /// of an unlisted prefix, which counts, before the last of them.
    async fn insert(&self, first: usize, count: usize);
    /// A transaction of which nothing is published, then one listed message outside any.
    async fn noise(&self);
    /// Log that is nothing to the reader.
    async fn other_log(&self) -> Lsn;
    async fn open(&self) -> Self::Source;
    async fn confirmed(&self) -> Lsn;
    async fn shut_down(&self);
}

struct Real(Postgres);

impl World for Real {
    type Source = WalSource;

    async fn insert(&self, first: usize, count: usize) {
        let rows = |from, to| format!("INSERT INTO t SELECT generate_series({from}, {to});");
        let last = first + count - 1;
        let message = "SELECT pg_logical_emit_message(true, 'unlisted', '');";
        self.0.sql(&format!("{}{message}{}", rows(first, last - 1), rows(last, last))).await;
    }

    async fn noise(&self) {
        self.0.sql("SELECT pg_logical_emit_message(true, 'unlisted', 'x')").await;
        self.0.sql("SELECT pg_logical_emit_message(false, 'app', 'noise')").await;
    }

    async fn other_log(&self) -> Lsn {
        self.0.sql("INSERT INTO unpublished SELECT generate_series(1, 500)").await;
        self.0.value("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap()
    }

    async fn open(&self) -> WalSource {
        let options = Options { limits: LIMITS, ..options() };
        reopen(&self.0, &options, &KnownRelations::default()).await
    }

    async fn confirmed(&self) -> Lsn {
        let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
        self.0.value(sql).await.parse().unwrap()
    }

    async fn shut_down(&self) {
        self.0.stop("fast").await;
    }
}

struct Memory {
    server: MemoryServer,
    table: Arc<Relation>,
}

impl World for Memory {
    type Source = MemorySource;

    async fn insert(&self, first: usize, count: usize) {
        let mut transaction = Transaction::new();
        for id in first..first + count {
            if id == first + count - 1 {
                transaction = transaction.message("unlisted", b"");
            }
            transaction = transaction.insert(&self.table, &[Value::Text(&id.to_string())]);
        }
        self.server.commit(transaction);
    }

    async fn noise(&self) {
        self.server.commit(Transaction::new().message("unlisted", b"x"));
        self.server.emit("app", b"noise");
    }

    async fn other_log(&self) -> Lsn {
        self.server.advance(5_000)
    }

    async fn open(&self) -> MemorySource {
        self.server.open(Lsn::ZERO, LIMITS)
    }

    async fn confirmed(&self) -> Lsn {
        self.server.confirmed()
    }

    async fn shut_down(&self) {
        self.server.shut_down();
    }
}

/// Reads rows, checking the rule of batches, until `count` have come; returns them with
/// their positions, and the last end of a transaction.
struct Checked {
    rows: Vec<(Position, String)>,
    unended: Option<Lsn>,
    last_end: Option<Lsn>,
}

impl Checked {
    fn new() -> Checked {
        Checked { rows: Vec::new(), unended: None, last_end: None }
    }

    async fn read<S: Source>(&mut self, source: &mut S, count: usize) {
        while self.rows.len() < count || self.unended.is_some() {
            if let Received::Batch(batch) = next(source).await.unwrap() {
                self.check(&batch);
            }
        }
        assert_eq!(self.rows.len(), count);
    }

    fn check(&mut self, batch: &Batch) {
        assert!(!batch.pieces.is_empty() && batch.rows.len() <= LIMITS.rows);
        let mut at = 0;
        for (i, piece) in batch.pieces.iter().enumerate() {
            assert_eq!(piece.rows.start, at, "rows of pieces follow one another");
            at = piece.rows.end;
            assert_eq!(!piece.first, self.unended == Some(piece.commit_lsn));
            assert!(piece.first || batch.pieces.len() == 1, "the rest of one stands alone");
            assert!(piece.end_lsn.is_some() || i + 1 == batch.pieces.len());
            assert!(piece.end_lsn.is_some() || !piece.rows.is_empty());
            self.unended = piece.end_lsn.is_none().then_some(piece.commit_lsn);
            if let Some(end) = piece.end_lsn {
                assert!(end >= piece.commit_lsn && Some(end) > self.last_end);
                self.last_end = Some(end);
            }
        }
        assert_eq!(at, batch.rows.len());
        for row in &batch.rows {
            assert!(self.rows.last().is_none_or(|(last, _)| *last < row.position), "in order");
            self.rows.push((row.position, describe(batch, row)));
        }
    }
}

async fn contract(world: impl World) {
    let mut source = world.open().await;
    let mut seen = Checked::new();
    // Small, empty, and larger than a batch.
    world.insert(1, 3).await;
    world.noise().await;
    world.insert(4, 1000).await;
    world.insert(1004, 2).await;
    seen.read(&mut source, 1006).await;
    let texts: Vec<&str> = seen.rows.iter().map(|(_, text)| text.as_str()).collect();
    let row = |ordinal: usize, id: usize| format!("{ordinal} insert public.t  -> ({id})");
    // The message counts: the last row of each transaction comes one later.
    let three = [row(1, 1), row(2, 2), row(4, 3)];
    assert_eq!(texts[..3], three);
    assert_eq!(texts[3], "0 message kasho.message  -> (app,noise)");
    assert_eq!(texts[4..1003].to_vec(), (1..1000).map(|n| row(n, n + 3)).collect::<Vec<_>>());
    assert_eq!(texts[1003], row(1001, 1003));
    assert_eq!(texts[1004..], [row(1, 1004), row(3, 1005)]);
    assert_eq!(seen.rows.iter().map(|(p, _)| p).collect::<BTreeSet<_>>().len(), 1006);

    // Nothing was acknowledged: all of it comes again, the same at the same positions.
    drop(source);
    let mut source = world.open().await;
    let mut again = Checked::new();
    again.read(&mut source, 1006).await;
    assert_eq!(again.rows, seen.rows);
    idle_and_resume(world, source, again).await;
}

/// The second half: acknowledging, cancelling, resuming, and the end.
async fn idle_and_resume<W: World>(world: W, mut source: W::Source, mut again: Checked) {
    // Idle says how far the log was read, and what is acknowledged is confirmed.
    let end = world.other_log().await;
    let idle = loop {
        match next(&mut source).await.unwrap() {
            Received::Idle { wal_end } if wal_end >= end => break wal_end,
            Received::Idle { .. } => {}
            Received::Batch(batch) => again.check(&batch),
            Received::Closed => panic!("closed"),
        }
    };
    assert!(Some(idle) >= again.last_end);
    source.acknowledge(durable(idle));
    eventually("confirmation", async || (world.confirmed().await >= idle).then_some(())).await;

    // Cancelling `next` loses nothing.
    world.insert(2000, 500).await;
    let mut rest = Checked::new();
    while rest.rows.len() < 500 {
        tokio::select! {
            biased;
            received = source.next() => match received.unwrap() {
                Received::Batch(batch) => rest.check(&batch),
                Received::Idle { .. } | Received::Closed => {}
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(rest.rows.len(), 500);
    drop(source);

    // What was acknowledged does not come again, what was not does.
    let mut source = world.open().await;
    let mut resumed = Checked::new();
    resumed.read(&mut source, 500).await;
    assert_eq!(resumed.rows, rest.rows);
    source.acknowledge(durable(resumed.last_end.unwrap()));
    let reader = async {
        loop {
            match next(&mut source).await.unwrap() {
                Received::Idle { wal_end } => source.acknowledge(durable(wal_end)),
                Received::Closed => break,
                Received::Batch(batch) => {
                    let end = batch.pieces.last().and_then(|piece| piece.end_lsn);
                    source.acknowledge(durable(end.unwrap()));
                }
            }
        }
    };
    tokio::join!(reader, world.shut_down());
}

#[tokio::test]
async fn the_wal_source_keeps_the_contract() {
    let server = Postgres::start().await;
    server.sql("CREATE TABLE unpublished (id int)").await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t").await;
    super::make_slot(&server).await;
    contract(Real(server)).await;
}

#[tokio::test]
async fn the_memory_source_keeps_the_contract() {
    let column = Column {
        name: "id".into(),
        type_name: "int4".into(),
        oid: 23,
        base: "int4".into(),
        typmod: -1,
        key: true,
        not_null: true,
        unique: true,
        toastable: false,
        elem: None,
        labels: None,
    };
    let table = Arc::new(Relation {
        id: 16_384,
        version: 1,
        schema: "public".into(),
        table: "t".into(),
        identity: Identity::Default,
        columns: vec![column],
    });
    contract(Memory { server: MemoryServer::new(Lsn(0x0100_0000), &["app"]), table }).await;
}

#[tokio::test]
async fn the_memory_source_fails_as_told() {
    let server = MemoryServer::new(Lsn(100), &[]);
    let mut source = server.open(Lsn::ZERO, LIMITS);
    server.fail_next(kasho::error::Class::Retry);
    assert_eq!(source.next().await.unwrap_err().class(), kasho::error::Class::Retry);
    server.shut_down();
    assert!(matches!(source.next().await.unwrap(), Received::Closed));
}
