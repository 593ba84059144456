//! What comes out: every kind of change, every identity, every state of a value.

use kasho::batch::{Batch, Detail};
use kasho::position::{Lsn, Position};
use kasho::source::wal::{KnownRelations, WalSource};
use kasho::source::{MESSAGE_RELATION_ID, Received};
use kasho_plugin_sdk::{Identity, Op};

use super::{describe, durable, info, make_slot, next, open, options, prepare, reopen, rows};
use crate::harness::Postgres;

/// Long enough to be stored out of line.
const LONG: &str = "repeat(md5('x'), 200)";

#[tokio::test]
async fn every_kind_of_change_with_its_ordinal() {
    let server = Postgres::start().await;
    prepare(
        &server,
        "CREATE TABLE a (id int PRIMARY KEY, t text); CREATE TABLE b (id int PRIMARY KEY REFERENCES a);
         ALTER TABLE a ALTER t SET STORAGE EXTERNAL",
    )
    .await;
    let mut source = open(&server).await;
    server
        .sql(&format!(
            "BEGIN; INSERT INTO a VALUES (1, {LONG}), (2, ''), (3, NULL);
             UPDATE a SET id = 4 WHERE id = 1;
             SELECT pg_logical_emit_message(true, 'other', 'counted only');
             SELECT pg_logical_emit_message(true, 'app', 'inside');
             UPDATE a SET t = 'short' WHERE id = 2;
             SAVEPOINT s; INSERT INTO a VALUES (9, 'rolled back'); ROLLBACK TO s;
             DELETE FROM a WHERE id = 3;
             TRUNCATE a, b RESTART IDENTITY; COMMIT"
        ))
        .await;
    let expected = [
        "1 insert public.a  -> (1,[6400])",
        "2 insert public.a  -> (2,)",
        "3 insert public.a  -> (3,~)",
        "4 update public.a (1,-) -> (4,^)",
        "6 message kasho.message  -> (app,inside)",
        "7 update public.a  -> (2,short)",
        "8 delete public.a (3,-) ->",
        "9 truncate public.a  ->",
    ];
    assert_eq!(rows(&mut source, expected.len()).await, expected);
    // Outside a transaction: a position of its own, published only if listed.
    server.sql("SELECT pg_logical_emit_message(false, 'other', 'x')").await;
    server.sql("SELECT pg_logical_emit_message(false, 'app', 'outside')").await;
    server.sql("SELECT pg_logical_emit_message(false, 'app', '\\x00ff'::bytea)").await;
    let expected =
        ["0 message kasho.message  -> (app,outside)", "0 message kasho.message  -> (app,\\x00ff)"];
    assert_eq!(rows(&mut source, 2).await, expected);
}

#[tokio::test]
async fn truncate_and_messages_carry_their_details() {
    let server = Postgres::start().await;
    prepare(
        &server,
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)",
    )
    .await;
    let mut source = open(&server).await;
    server
        .sql("TRUNCATE a CASCADE; SELECT pg_logical_emit_message(true, 'app', '\\xff'::bytea)")
        .await;
    // In one batch, or in two.
    let mut batches = Vec::new();
    while batches.iter().map(|batch: &Batch| batch.rows.len()).sum::<usize>() < 2 {
        if let Received::Batch(batch) = next(&mut source).await.unwrap() {
            batches.push(batch);
        }
    }
    let batch = batches.iter().find(|batch| !batch.rows.is_empty()).unwrap();
    let Some(Detail::Truncate { relations, cascade, restart_identity }) =
        batch.rows[0].detail.as_deref()
    else {
        panic!("{:?}", batch.rows[0]);
    };
    let mut tables: Vec<_> =
        relations.iter().map(|&i| batch.relations[i as usize].table.as_str()).collect();
    tables.sort_unstable();
    assert_eq!(tables, ["a", "b"]);
    assert!(*cascade && !*restart_identity);
    let batch = batches.iter().rfind(|batch| !batch.rows.is_empty()).unwrap();
    let message = batch.rows.last().unwrap();
    assert_eq!(message.op, Op::Message);
    assert_eq!(message.detail.as_deref(), Some(&Detail::Message { transactional: true }));
    let relation = batch.relation_of(message);
    assert_eq!((relation.id, relation.columns[1].oid), (MESSAGE_RELATION_ID, 17));
}

#[tokio::test]
async fn every_identity_and_unchanged_values() {
    let server = Postgres::start().await;
    let tables = ["d", "i", "f", "n"].map(|name| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, k text NOT NULL UNIQUE, t text);
             ALTER TABLE {name} ALTER t SET STORAGE EXTERNAL;"
        )
    });
    let identities = "ALTER TABLE i REPLICA IDENTITY USING INDEX i_k_key;
                      ALTER TABLE f REPLICA IDENTITY FULL;
                      ALTER TABLE n REPLICA IDENTITY NOTHING";
    // A table that publishes nothing but inserts can do without identity.
    server.sql(&format!("{}{identities}", tables.concat())).await;
    server.sql("CREATE PUBLICATION p FOR TABLE d, i, f").await;
    server.sql("CREATE PUBLICATION p2 FOR TABLE n WITH (publish = 'insert')").await;
    make_slot(&server).await;
    let publications = vec!["p".to_owned(), "p2".to_owned()];
    let all = kasho::source::wal::Options { publications, ..options() };
    let mut source = super::open_with(&server, &all).await;
    for table in ["d", "i", "f"] {
        server
            .sql(&format!(
                "INSERT INTO {table} VALUES (1, 'a', {LONG}); UPDATE {table} SET id = 2;
                 UPDATE {table} SET k = 'b'; DELETE FROM {table}"
            ))
            .await;
    }
    server.sql("INSERT INTO n VALUES (1, 'a', 'b')").await;
    let expected = [
        "1 insert public.d  -> (1,a,[6400])",
        "2 update public.d (1,-,-) -> (2,a,^)",
        "3 update public.d  -> (2,b,^)",
        "4 delete public.d (2,-,-) ->",
        "1 insert public.i  -> (1,a,[6400])",
        "2 update public.i  -> (2,a,^)",
        "3 update public.i (-,a,-) -> (2,b,^)",
        "4 delete public.i (-,b,-) ->",
        "1 insert public.f  -> (1,a,[6400])",
        "2 update public.f (1,a,[6400]) -> (2,a,[6400])",
        "3 update public.f (2,a,[6400]) -> (2,b,[6400])",
        "4 delete public.f (2,b,[6400]) ->",
        "1 insert public.n  -> (1,a,b)",
    ];
    assert_eq!(rows(&mut source, expected.len()).await, expected);
}

#[tokio::test]
async fn relations_are_enriched_and_versioned() {
    let server = Postgres::start().await;
    prepare(
        &server,
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE DOMAIN small AS int CHECK (VALUE < 10);
         CREATE DOMAIN tiny AS small NOT NULL;
         CREATE TABLE \"T\" (id bigint PRIMARY KEY, m mood, s tiny, a text[] NOT NULL, v varchar(7) UNIQUE)",
    )
    .await;
    let known = KnownRelations::default();
    let info = info(&server);
    let mut source = WalSource::open(&options(), &info, Lsn::ZERO, &known).await.unwrap();
    let relation = async |source: &mut WalSource, insert: &str| {
        server.sql(insert).await;
        loop {
            if let Received::Batch(batch) = next(source).await.unwrap()
                && let Some(row) = batch.rows.first()
            {
                break batch.relation_of(row).clone();
            }
        }
    };
    let first = relation(&mut source, "INSERT INTO \"T\" VALUES (1, 'ok', 1, '{a}', 'v')").await;
    assert_eq!((first.version, first.identity), (1, Identity::Default));
    assert_eq!(first.qualified(), "public.\"T\"");
    let columns: Vec<String> = first
        .columns
        .iter()
        .map(|c| {
            format!(
                "{} {} {} {:?} {:?} {} key={} not_null={} unique={} toastable={}",
                c.name,
                c.type_name,
                c.base,
                c.elem,
                c.labels,
                c.typmod,
                c.key,
                c.not_null,
                c.unique,
                c.toastable
            )
        })
        .collect();
    let expected = [
        "id int8 int8 None None -1 key=true not_null=true unique=true toastable=false",
        "m mood mood None Some([\"sad\", \"ok\"]) -1 key=false not_null=false unique=false toastable=false",
        "s tiny int4 None None -1 key=false not_null=true unique=false toastable=false",
        "a _text _text Some(\"text\") None -1 key=false not_null=true unique=false toastable=true",
        "v varchar varchar None None 11 key=false not_null=false unique=true toastable=true",
    ];
    assert_eq!(columns, expected);
    server.sql("ALTER TABLE \"T\" ADD x int").await;
    let second =
        relation(&mut source, "INSERT INTO \"T\" VALUES (2, 'ok', 1, '{a}', 'w', 1)").await;
    assert_eq!((second.version, second.columns.len()), (2, 6));
    // A new connection begins before both: its versions go on counting all the same.
    drop(source);
    let mut source = reopen(&server, &options(), &known).await;
    let third = relation(&mut source, "SELECT 1").await;
    assert_eq!((third.version, &third.columns), (3, &first.columns));
}

#[tokio::test]
async fn a_table_that_is_gone_by_now_is_still_read() {
    let server = Postgres::start().await;
    prepare(
        &server,
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (id int PRIMARY KEY, m mood, old text)",
    )
    .await;
    server.sql("INSERT INTO t VALUES (1, 'ok', 'x')").await;
    server.sql("ALTER TABLE t DROP old").await;
    server.sql("INSERT INTO t VALUES (2, 'ok')").await;
    server.sql("DROP TABLE t").await;
    server.sql("DROP TYPE mood").await;
    let mut source = open(&server).await;
    let expected = ["1 insert public.t  -> (1,ok,x)", "1 insert public.t  -> (2,ok)"];
    assert_eq!(rows(&mut source, 2).await, expected);
}

#[tokio::test]
async fn text_is_pinned_whatever_the_role_prefers() {
    let server = Postgres::start().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, d date, ts timestamptz, i interval, b bytea, f float8, u text)";
    prepare(&server, schema).await;
    server
        .sql(
            "ALTER ROLE postgres SET datestyle = 'SQL, DMY';
             ALTER ROLE postgres SET timezone = 'America/New_York';
             ALTER ROLE postgres SET intervalstyle = 'iso_8601';
             ALTER ROLE postgres SET bytea_output = 'escape';
             ALTER ROLE postgres SET extra_float_digits = -10;
             ALTER ROLE postgres SET client_encoding = 'LATIN1';
             ALTER ROLE postgres SET statement_timeout = '10min'",
        )
        .await;
    let mut source = open(&server).await;
    server
        .sql(
            "SET client_encoding = 'UTF8';
             INSERT INTO t VALUES (1, '2026-03-04', '2026-03-04 05:06:07.123456+00',
                 '1 day 2:03:04', '\\xdead', 1.0/3, 'ä')",
        )
        .await;
    let text =
        "(1,2026-03-04,2026-03-04 05:06:07.123456+00,1 day 02:03:04,\\xdead,0.3333333333333333,ä)";
    assert_eq!(rows(&mut source, 1).await, [format!("1 insert public.t  -> {text}")]);
    let client = kasho::source::conninfo::sql_connect(&info(&server), "test").await.unwrap();
    let row = client.query_one("SELECT t::text FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0).replace('"', "").replace("\\\\", "\\"), text);
}

#[tokio::test]
async fn a_message_at_the_lsn_of_the_next_commit_swallows_nothing() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = open(&server).await;
    // The commit record follows the message's at once.
    server.sql("INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(false, 'app', 'x')").await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Received::Batch(mut batch) = next(&mut source).await.unwrap() {
            // As the pipeline does after the message was published.
            if let Some(&(last, _)) = seen.last() {
                batch.skip_through(last);
            }
            seen.extend(batch.rows.iter().map(|row| (row.position, describe(&batch, row))));
        }
    }
    let (Position::Wal { commit_lsn: a, ordinal: 0 }, Position::Wal { commit_lsn: b, ordinal: 1 }) =
        (seen[0].0, seen[1].0)
    else {
        panic!("{seen:?}");
    };
    assert_eq!(a, b, "the message has the LSN of the commit");
    assert!(seen[1].1.contains("insert"));
}

#[tokio::test]
async fn an_origin_changes_nothing() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = open(&server).await;
    server.sql("SELECT pg_replication_origin_create('elsewhere')").await;
    server
        .psql("SELECT pg_replication_origin_session_setup('elsewhere'); INSERT INTO t VALUES (1)")
        .await;
    assert_eq!(rows(&mut source, 1).await, ["1 insert public.t  -> (1)"]);
}

#[tokio::test]
async fn reading_resumes_from_what_is_durable() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = open(&server).await;
    server.sql("INSERT INTO t VALUES (1)").await;
    let end = loop {
        if let Received::Batch(batch) = next(&mut source).await.unwrap()
            && !batch.rows.is_empty()
        {
            break batch.pieces.last().unwrap().end_lsn.unwrap();
        }
    };
    super::Source::acknowledge(&mut source, durable(end));
    server.sql("INSERT INTO t VALUES (2)").await;
    rows(&mut source, 1).await;
    drop(source);
    let mut source = reopen(&server, &options(), &KnownRelations::default()).await;
    assert_eq!(rows(&mut source, 1).await, ["1 insert public.t  -> (2)"]);
}
