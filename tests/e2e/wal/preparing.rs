//! Before the stream: slots, snapshots, timelines, and the checks that come first.

use kasho::position::Lsn;
use kasho::sink::publisher::Promotion;
use kasho::source::SourceError;
use kasho::source::conninfo::{Conninfo, sql_connect};
use kasho::source::preflight::{Finding, preflight};
use kasho::source::wal::{
    ReplSession, SlotName, Snapshot, copy_slot, slot_status, temporary_slots_at,
};

use super::info;
use crate::harness::{Postgres, eventually};

fn in_database(server: &Postgres, database: &str) -> String {
    format!("{}{database}", server.url().strip_suffix("postgres").unwrap())
}

fn name(text: &str) -> SlotName {
    SlotName::new(text).unwrap()
}

#[tokio::test]
async fn an_exported_snapshot_lives_as_long_as_its_guard() {
    let server = Postgres::start().await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut session = ReplSession::connect(&info(&server), "test").await.unwrap();
    let system = session.identify_system().await.unwrap();
    assert_eq!((system.timeline, system.dbname.as_str()), (1, "postgres"));
    assert_eq!(session.timeline_history(1).await.unwrap(), []);
    let mut slot = session.create_slot(&name("s"), Snapshot::Export, false).await.unwrap();
    assert!(slot.consistent_point >= system.xlogpos);
    let snapshot = slot.snapshot.clone().unwrap();
    server.sql("INSERT INTO t VALUES (2)").await;
    let import = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}';
         SELECT count(*) FROM t; COMMIT"
    );
    assert!(server.psql(&import).await.contains("\n1\n"));
    // Waiting for the loss of the session is no command.
    let waited = tokio::time::timeout(std::time::Duration::from_millis(1), slot.lost()).await;
    assert!(waited.is_err());
    assert!(server.psql(&import).await.contains("\n1\n"));
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    assert_eq!(slot.lost().await.sqlstate(), Some("57P01"));
}

#[tokio::test]
async fn slots_are_made_looked_at_copied_and_dropped() {
    let server = Postgres::start().await;
    let client = sql_connect(&info(&server), "test").await.unwrap();
    let mut session = ReplSession::connect(&info(&server), "test").await.unwrap();
    assert_eq!(slot_status(&client, &name("tmp")).await.unwrap(), None);
    let made = session.create_slot(&name("tmp"), Snapshot::Export, true).await.unwrap();
    let point = made.consistent_point;
    assert_eq!(temporary_slots_at(&client, point).await.unwrap(), [name("tmp")]);
    assert_eq!(temporary_slots_at(&client, Lsn(point.0 + 1)).await.unwrap(), []);
    server.sql("SELECT pg_logical_emit_message(false, 'x', repeat('y', 100000))").await;
    // With it the log is written, which the message alone does not wait for.
    server.sql("CHECKPOINT").await;
    // Held by another session, and copied all the same, to the same LSN.
    assert_eq!(copy_slot(&client, &name("tmp"), &name("lasting")).await.unwrap(), point);
    let status = slot_status(&client, &name("lasting")).await.unwrap().unwrap();
    assert_eq!(status.plugin.as_deref(), Some("pgoutput"));
    assert_eq!(status.database.as_deref(), Some("postgres"));
    assert_eq!((status.temporary, status.active_pid), (false, None));
    assert_eq!(status.confirmed_flush, Some(point));
    assert_eq!(status.wal_status.as_deref(), Some("reserved"));
    assert!(status.retained_bytes > 100_000);
    let missing = copy_slot(&client, &name("nope"), &name("x")).await.unwrap_err();
    assert!(matches!(missing, SourceError::SlotMissing { .. }), "{missing}");
    let again = session.create_slot(&name("lasting"), Snapshot::None, false).await;
    assert_eq!(again.err().unwrap().sqlstate(), Some("42710"));
    // After an error the session serves on.
    session.drop_slot(&name("lasting"), true).await.unwrap();
    assert_eq!(slot_status(&client, &name("lasting")).await.unwrap(), None);
    let gone = session.drop_slot(&name("lasting"), false).await.unwrap_err();
    assert!(matches!(gone, SourceError::SlotMissing { .. }), "{gone}");
}

#[tokio::test]
async fn a_new_timeline_says_where_the_old_one_ended() {
    let mut server = Postgres::builder().setting("restore_command", "/bin/false").start().await;
    let before: Lsn = server.value("SELECT pg_current_wal_lsn()").await.parse().unwrap();
    server.stop("fast").await;
    // Archive recovery that finds nothing ends at the end of the log, on a new timeline.
    std::fs::write(server.folder().join("data/recovery.signal"), "").unwrap();
    server.start_again().await;
    let mut session = ReplSession::connect(&info(&server), "test").await.unwrap();
    let system = session.identify_system().await.unwrap();
    assert_eq!(system.timeline, 2);
    let history = session.timeline_history(2).await.unwrap();
    assert_eq!((history.len(), history[0].timeline), (1, 1));
    let at = history[0].at;
    assert!(at > before);
    // The last record of the old timeline ends there, and the first of the new one begins.
    let promotion = Promotion { timeline: 1, at };
    assert!(!promotion.parts(at, before) && promotion.parts(Lsn(at.0 + 1), before));
    assert!(promotion.parts(before, at));
}

async fn findings(server: &Postgres, slot: &str, publications: &[&str]) -> Vec<Finding> {
    let client = sql_connect(&info(server), "test").await.unwrap();
    let publications: Vec<String> = publications.iter().map(|&p| p.to_owned()).collect();
    let mut found = preflight(&client, &name(slot), &publications).await.unwrap();
    found.retain(|finding| !finding.is_warning());
    found
}

#[tokio::test]
async fn tables_without_identity_are_found_and_mended_by_the_remedy() {
    let server = Postgres::start().await;
    server
        .sql(
            "CREATE TABLE fine (id int PRIMARY KEY);
             CREATE TABLE \"No Key\" (id int);
             CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE whole (id int); ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE generated (a int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY);
             CREATE TABLE root (id int, r int) PARTITION BY RANGE (r);
             CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
             CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root);
             CREATE TABLE later (id int);
             CREATE PUBLICATION inserts FOR TABLE later WITH (publish = 'insert')",
        )
        .await;
    server.sql("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE fine, \"No Key\", nothing, whole, generated, root WITH (publish_via_partition_root)").await;
    assert_eq!(findings(&server, "s", &["inserts"]).await, []);
    let found = findings(&server, "s", &["p", "inserts"]).await;
    let no_identity = |table: &str, reason| Finding::NoIdentity {
        table: table.to_owned(),
        publication: "p".to_owned(),
        reason,
    };
    let generated = Finding::GeneratedIdentity {
        table: "public.generated".into(),
        column: "g".into(),
        // From 18 on it could be published.
        publication: (server.version().await >= 18).then(|| "p".into()),
    };
    let expected = [
        no_identity("public.\"No Key\"", "no primary key"),
        generated,
        no_identity("public.leaf", "no primary key"),
        no_identity("public.nothing", "REPLICA IDENTITY NOTHING"),
    ];
    assert_eq!(found, expected);
    for finding in found {
        let remedy = finding.remedy();
        server.sql(&remedy[remedy.find("ALTER").unwrap()..]).await;
    }
    assert_eq!(findings(&server, "s", &["p"]).await, []);
}

#[tokio::test]
async fn server_role_publication_and_slot_are_checked() {
    let server = Postgres::builder()
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "1")
        .start()
        .await;
    server.sql("CREATE ROLE weak LOGIN PASSWORD 'pw'").await;
    server.sql("SELECT pg_create_physical_replication_slot('physical')").await;
    let weak = Conninfo::parse(&server.url_as("weak", "pw")).unwrap();
    let client = sql_connect(&weak, "test").await.unwrap();
    let found = preflight(&client, &name("s"), &["nope".to_owned()]).await.unwrap();
    let expected = [
        Finding::WalLevel("replica".into()),
        Finding::UnlimitedKeep,
        Finding::RoleLacksReplication("weak".into()),
        Finding::PublicationMissing("nope".into()),
        Finding::NoFreeSlot(1),
    ];
    assert_eq!(found, expected);
    for finding in &found {
        assert!(!finding.remedy().is_empty() && !finding.to_string().is_empty());
    }
    server.sql(&found[2].remedy()).await;
    server.sql(&found[3].remedy().replace("or FOR TABLE …", "")).await;
    let found = preflight(&client, &name("s"), &["nope".to_owned()]).await.unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
    // A role of Amazon RDS.
    server.sql("ALTER ROLE weak NOREPLICATION; CREATE ROLE rds_replication; GRANT rds_replication TO weak").await;
    let found = preflight(&client, &name("s"), &[]).await.unwrap();
    assert!(!found.iter().any(|f| matches!(f, Finding::RoleLacksReplication(_))));
    let found = preflight(&client, &name("physical"), &[]).await.unwrap();
    assert!(found.iter().any(|f| matches!(f, Finding::SlotPlugin { .. })), "{found:?}");
}

#[tokio::test]
async fn another_databases_and_another_plugins_slot_are_found() {
    let server = Postgres::builder().setting("max_wal_senders", "1").start().await;
    server.sql("CREATE DATABASE other").await;
    let other = Conninfo::parse(&in_database(&server, "other")).unwrap();
    let mut session = ReplSession::connect(&other, "test").await.unwrap();
    session.create_slot(&name("theirs"), Snapshot::None, false).await.unwrap();
    let found = findings(&server, "theirs", &[]).await;
    let expected = [
        Finding::SlotDatabase { slot: "theirs".into(), database: "other".into() },
        Finding::NoFreeSender(1),
    ];
    // The session holds the only sender; it is not streaming, so it may not show.
    assert!(found == expected || found == expected[..1], "{found:?}");
    drop(session);
    server.value("SELECT pg_create_logical_replication_slot('text', 'test_decoding')").await;
    let found = eventually("the sender to go", async || {
        let found = findings(&server, "text", &[]).await;
        (found.len() == 1).then_some(found)
    })
    .await;
    assert!(matches!(&found[0], Finding::SlotPlugin { plugin, .. } if plugin == "test_decoding"));
    // SQL_ASCII texts have no encoding to trust.
    server.sql("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'").await;
    let ascii = Conninfo::parse(&in_database(&server, "ascii")).unwrap();
    let client = sql_connect(&ascii, "test").await.unwrap();
    let found = preflight(&client, &name("s"), &[]).await.unwrap();
    assert!(found.contains(&Finding::SqlAscii), "{found:?}");
}
