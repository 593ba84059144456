//! What the server is told, and that it never suffers of us.

use std::time::Duration;

use kasho::position::Lsn;
use kasho::source::wal::{Options, WalSource};
use kasho::source::{Received, Source};
use tokio::runtime::Builder;

use super::{consume, next, open, open_with, options, prepare, rows};
use crate::harness::{PATIENCE, Postgres, eventually};

/// Where the next transaction ends.
async fn end_of_next(source: &mut WalSource) -> Lsn {
    loop {
        if let Received::Batch(batch) = next(source).await.unwrap()
            && let Some(end) = batch.pieces.last().and_then(|piece| piece.end_lsn)
        {
            return end;
        }
    }
}

async fn confirmed_reaches(server: &Postgres, lsn: &str) {
    let query = format!(
        "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{}'",
        super::SLOT
    );
    eventually("the slot to advance", async || (server.value(&query).await == "t").then_some(()))
        .await;
}

#[tokio::test]
async fn an_unpublished_write_advances_the_slot() {
    let server = Postgres::start().await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int)").await;
    server.sql("CREATE PUBLICATION p FOR TABLE t").await;
    super::make_slot(&server).await;
    let source = open(&server).await;
    let figures = source.figures();
    let reader = tokio::spawn(consume(source));
    server.sql("INSERT INTO other SELECT generate_series(1, 1000)").await;
    let end = server.value("SELECT pg_current_wal_insert_lsn()").await;
    confirmed_reaches(&server, &end).await;
    assert!(figures.connected() && figures.wal_end() >= end.parse().unwrap());
    server.stop("fast").await;
    reader.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_heartbeat_advances_an_idle_database() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let end = server.value("SELECT pg_current_wal_insert_lsn()").await;
    let beating = Options { heartbeat: Duration::from_millis(50), ..options() };
    let source = open_with(&server, &beating).await;
    let reader = tokio::spawn(consume(source));
    // Nothing but heartbeats writes anything.
    let query = format!("SELECT confirmed_flush_lsn > '{end}'::pg_lsn FROM pg_replication_slots");
    eventually("heartbeats", async || (server.value(&query).await == "t").then_some(())).await;
    server.stop("fast").await;
    // A heartbeat may have been refused, the stream is not.
    reader.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stalled_consumer_keeps_its_connection() {
    let server = Postgres::builder().setting("wal_sender_timeout", "15s").start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY, t text)").await;
    let narrow = Options { queue_bytes: 64 << 10, ..options() };
    let mut source = open_with(&server, &narrow).await;
    let figures = source.figures();
    server.sql("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n").await;
    // The server's own clock: it has heard from us for two of its time limits.
    let heard = "SELECT reply_time - backend_start > interval '31 s' FROM pg_stat_replication";
    eventually("replies", async || (server.value(heard).await == "t").then_some(())).await;
    assert!(figures.queued_bytes() < (64 << 10) + (512 << 10), "{}", figures.queued_bytes());
    assert_eq!(rows(&mut source, 20_000).await.len(), 20_000);
    assert!(!server.log().contains("replication timeout"));
    assert_eq!(figures.queued_bytes(), 0);
}

#[tokio::test]
async fn a_fast_shutdown_with_everything_acknowledged_ends_the_stream_in_order() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = open(&server).await;
    // The table's description needs the catalog, which a server that stops refuses.
    server.sql("INSERT INTO t VALUES (0)").await;
    rows(&mut source, 1).await;
    let figures = source.figures();
    let reader = tokio::spawn(consume(source));
    server.sql("INSERT INTO t SELECT generate_series(1, 5000)").await;
    server.stop("fast").await;
    reader.await.unwrap().unwrap();
    assert!(!figures.connected());
    assert!(figures.acknowledged() > Lsn::ZERO);
}

#[tokio::test]
async fn a_fast_shutdown_is_not_held_up_by_what_is_not_acknowledged() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let impatient = Options { shutdown_grace: Duration::from_millis(500), ..options() };
    let mut source = open_with(&server, &impatient).await;
    let figures = source.figures();
    server.sql("INSERT INTO t VALUES (1)").await;
    let first = end_of_next(&mut source).await;
    // Something is durable, and nothing after it ever will be.
    source.acknowledge(super::durable(first));
    server.sql("INSERT INTO t SELECT generate_series(2, 1000)").await;
    let reader =
        tokio::spawn(
            async move { while !matches!(source.next().await.unwrap(), Received::Closed) {} },
        );
    server.stop("fast").await;
    reader.await.unwrap();
    // It was closed by us, after a pause between answers and not a storm of them.
    assert!(figures.status_updates() < 60, "{}", figures.status_updates());
    assert_eq!(figures.acknowledged(), first);
}

#[tokio::test]
async fn a_fast_shutdown_is_not_held_up_by_a_stalled_consumer() {
    for heartbeat_ms in [50, 0] {
        let server = Postgres::start().await;
        prepare(&server, "CREATE TABLE t (id int PRIMARY KEY, t text)").await;
        let stalled = Options {
            shutdown_grace: Duration::from_secs(600),
            queue_bytes: 64 << 10,
            heartbeat: Duration::from_millis(heartbeat_ms),
            ..options()
        };
        let mut source = open_with(&server, &stalled).await;
        server.sql("INSERT INTO t VALUES (0, '')").await;
        rows(&mut source, 1).await;
        // The session beside the stream, whose end is the only sign that gets through.
        eventually("a session", async || {
            let beside = "SELECT count(*) FROM pg_stat_activity
                          WHERE application_name = 'kasho heartbeat'";
            (server.value(beside).await == "1").then_some(())
        })
        .await;
        let rows = "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n";
        server.sql(rows).await;
        server.stop("fast").await;
        let drained = async { while !matches!(source.next().await.unwrap(), Received::Closed) {} };
        tokio::time::timeout(PATIENCE, drained).await.expect("closed");
    }
}

#[tokio::test]
async fn a_dropped_source_frees_its_slot() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    drop(open(&server).await);
    let query = "SELECT active FROM pg_replication_slots";
    eventually("a free slot", async || (server.value(query).await == "f").then_some(())).await;
}

/// As an engine does that ends: nothing of its process goes on behind that.
#[test]
fn a_closed_source_has_told_what_is_durable_and_freed_its_slot() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let lasting = runtime();
    let server = lasting.block_on(Postgres::start());
    lasting.block_on(prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)"));
    for n in 0..3 {
        lasting.block_on(server.sql(&format!("INSERT INTO t VALUES ({n})")));
        let (end, heard) = runtime().block_on(async {
            let mut source = open(&server).await;
            let end = end_of_next(&mut source).await;
            source.acknowledge(super::durable(end));
            let closing = std::time::Instant::now();
            source.close().await;
            (end, closing.elapsed() < Duration::from_secs(1))
        });
        let query = format!(
            "SELECT confirmed_flush_lsn >= '{end}' AND NOT active FROM pg_replication_slots"
        );
        // A server that needs longer than that to hang up is not waited for; it has it all.
        if heard {
            assert_eq!(lasting.block_on(server.value(&query)), "t");
        }
        let known = async || (server.value(&query).await == "t").then_some(());
        lasting.block_on(eventually("the last acknowledgement", known));
    }
}
