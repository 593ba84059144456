//! What is said when something is wrong, and whether trying again is worth it.

use kasho::error::Class;
use kasho::position::Lsn;
use kasho::source::SourceError;
use kasho::source::conninfo::{Conninfo, sql_connect};
use kasho::source::wal::{KnownRelations, Options, ReplSession, WalSource};

use super::{error, info, open, open_with, options, prepare, reopen, rows};
use crate::harness::Postgres;

async fn refusal(server: &Postgres, options: &Options) -> SourceError {
    let known = KnownRelations::default();
    let opened = WalSource::open(options, &info(server), Lsn::ZERO, &known).await;
    opened.err().expect("a refusal")
}

#[tokio::test]
async fn a_missing_a_busy_and_an_impossible_slot() {
    let server = Postgres::start().await;
    let missing = refusal(&server, &options()).await;
    assert!(matches!(&missing, SourceError::SlotMissing { slot } if slot == super::SLOT));
    assert_eq!(missing.class(), Class::Halt);
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let _reader = open(&server).await;
    let busy = refusal(&server, &options()).await;
    assert!(matches!(busy, SourceError::SlotBusy { .. }), "{busy}");
    assert_eq!(busy.class(), Class::Retry);
    let named = Options { slot: "No Slot".to_owned(), ..options() };
    assert!(matches!(refusal(&server, &named).await, SourceError::SlotName(_)));
}

#[tokio::test]
async fn a_lost_slot() {
    let server = Postgres::builder().setting("max_slot_wal_keep_size", "1MB").start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let lost = "SELECT wal_status FROM pg_replication_slots";
    while server.value(lost).await != "lost" {
        server.sql("SELECT pg_logical_emit_message(false, 'x', repeat('y', 100000)) FROM generate_series(1, 100)").await;
        server.value("SELECT pg_switch_wal()").await;
        server.sql("CHECKPOINT").await;
    }
    let refused = refusal(&server, &options()).await;
    assert!(matches!(refused, SourceError::SlotLost { .. }), "{refused}");
    assert_eq!(refused.class(), Class::Halt);
}

#[tokio::test]
async fn a_missing_publication_is_named_at_the_first_change() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let wrong = Options { publications: vec!["it's \"nope\"".to_owned()], ..options() };
    let mut source = open_with(&server, &wrong).await;
    server.sql("INSERT INTO t VALUES (1)").await;
    let missing = error(&mut source).await;
    assert!(matches!(missing, SourceError::PublicationMissing { .. }), "{missing}");
    assert!(missing.to_string().contains("nope"));
    assert_eq!(missing.class(), Class::Halt);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated() {
    let server = Postgres::start().await;
    let wrong = Conninfo::parse(&server.url_as("postgres", "s3cret-and-wrong")).unwrap();
    let errors = [
        ReplSession::connect(&wrong, "test").await.err().unwrap(),
        sql_connect(&wrong, "test").await.err().unwrap(),
    ];
    for error in errors {
        assert_eq!(error.sqlstate(), Some("28P01"), "{error}");
        assert_eq!(error.class(), Class::Halt);
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
    let none = server.url().replace(&format!(":{}@", password(&server)), "@");
    let none = Conninfo::parse(&none).unwrap();
    let error = ReplSession::connect(&none, "test").await.err().unwrap();
    assert!(matches!(error, SourceError::Auth { .. }), "{error}");
}

fn password(server: &Postgres) -> String {
    let url = server.url();
    url.split_once("postgres:").unwrap().1.split_once('@').unwrap().0.to_owned()
}

#[tokio::test]
async fn a_password_is_not_given_in_clear() {
    let hba = ["password", "md5"].map(|m| format!("host all {m}_user 127.0.0.1/32 {m}"));
    let server = Postgres::builder().hba(&hba[0]).hba(&hba[1]).start().await;
    server
        .sql(
            "SET password_encryption = 'md5';
             CREATE ROLE password_user LOGIN REPLICATION PASSWORD 'pw';
             CREATE ROLE md5_user LOGIN REPLICATION PASSWORD 'pw'",
        )
        .await;
    for method in ["password", "md5"] {
        let url = server.url_as(&format!("{method}_user"), "pw");
        let info = Conninfo::parse(&url).unwrap();
        for error in [
            sql_connect(&info, "test").await.expect_err("refused"),
            ReplSession::connect(&info, "test").await.err().expect("refused"),
        ] {
            assert!(matches!(&error, SourceError::Auth { .. }), "{method}: {error}");
            assert!(error.to_string().contains("require_auth"), "{error}");
        }
        // Said in so many words, it is done.
        let info = Conninfo::parse(&format!("{url}?require_auth={method}")).unwrap();
        sql_connect(&info, "test").await.unwrap();
    }
}

#[tokio::test]
async fn a_change_beyond_the_limit_is_refused_before_it_is_buffered() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY, t text)").await;
    let limited = Options { max_message_bytes: 100_000, ..options() };
    let mut source = open_with(&server, &limited).await;
    server.sql("INSERT INTO t VALUES (1, 'small')").await;
    rows(&mut source, 1).await;
    server.sql("INSERT INTO t VALUES (2, repeat('x', 1000000))").await;
    let refused = error(&mut source).await;
    let SourceError::TooLarge { table, bytes, limit, .. } = &refused else { panic!("{refused}") };
    assert_eq!((table.as_str(), *limit), ("public.t", 100_000));
    assert!(*bytes > 1_000_000);
    assert_eq!(refused.class(), Class::Halt);
    drop(source);
    // With the limit raised nothing is lost.
    let mut source = reopen(&server, &options(), &KnownRelations::default()).await;
    assert_eq!(rows(&mut source, 2).await[1], "1 insert public.t  -> (2,[1000000])");
}

#[tokio::test]
async fn an_insert_without_its_values_names_what_mends_it() {
    let server = Postgres::start().await;
    server
        .sql("CREATE TABLE t (id int PRIMARY KEY, ok bool, t text); ALTER TABLE t ALTER t SET STORAGE EXTERNAL")
        .await;
    // 14 has no row filters, and so an UPDATE stays one.
    let filters = server.version().await >= 15;
    let filter = if filters { "WHERE (id > 5)" } else { "" };
    server.sql(&format!("CREATE PUBLICATION p FOR TABLE t {filter}")).await;
    super::make_slot(&server).await;
    let mut source = open(&server).await;
    server.sql("INSERT INTO t VALUES (1, false, repeat(md5('x'), 200))").await;
    server.sql("UPDATE t SET id = 6").await;
    if !filters {
        let rows = rows(&mut source, 2).await;
        assert!(rows[1].contains(" update public.t (1,"), "{rows:?}");
        return;
    }
    let halted = error(&mut source).await;
    let SourceError::UnchangedInsert { table, column, .. } = &halted else { panic!("{halted}") };
    assert_eq!((table.as_str(), column.as_str()), ("public.t", "t"));
    assert!(halted.to_string().contains("ALTER TABLE public.t REPLICA IDENTITY FULL"));
    assert_eq!(halted.class(), Class::Halt);
}

#[tokio::test]
async fn a_killed_sender_and_an_immediate_shutdown_are_worth_a_retry() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = open(&server).await;
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    let killed = error(&mut source).await;
    assert_eq!((killed.sqlstate(), killed.class()), (Some("57P01"), Class::Retry), "{killed}");
    drop(source);
    let mut source = reopen(&server, &options(), &KnownRelations::default()).await;
    server.stop("immediate").await;
    assert_eq!(error(&mut source).await.class(), Class::Retry);
    assert_eq!(refusal(&server, &options()).await.class(), Class::Retry);
}
