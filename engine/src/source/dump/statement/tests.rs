//! Statements as several versions of pg_dump write them.

use proptest::prelude::*;

use super::*;

fn named(schema: Option<&str>, name: &str, columns: Option<&[&str]>) -> Named {
    let columns = columns.map(|columns| columns.iter().map(|c| (*c).to_owned()).collect());
    Named { schema: schema.map(str::to_owned), name: name.to_owned(), columns }
}

fn set(name: &str, value: &str) -> Statement {
    Statement::Set { name: name.to_owned(), value: value.to_owned() }
}

#[test]
fn data_and_settings() {
    let sequence = |schema: Option<&str>, name: &str, value, is_called| Statement::Sequence {
        schema: schema.map(str::to_owned),
        name: name.to_owned(),
        value,
        is_called,
    };
    for (text, expected) in [
        (
            "COPY public.t (id, \"a.b\"\"c\", \"Select\") FROM stdin;",
            Statement::Copy(named(Some("public"), "t", Some(&["id", "a.b\"c", "Select"]))),
        ),
        ("copy ONLY t from STDIN ;", Statement::Copy(named(None, "t", None))),
        ("COPY public.empty  FROM stdin;", Statement::Copy(named(Some("public"), "empty", None))),
        (
            "COPY \"a.b\".\"C d\" (x) FROM stdin;",
            Statement::Copy(named(Some("a.b"), "C d", Some(&["x"]))),
        ),
        ("COPY t (a) FROM stdin WITH (FORMAT csv);", Statement::CopyOptions),
        ("COPY t (a) FROM stdin WITH OIDS;", Statement::CopyOptions),
        ("SET client_encoding = 'UTF8';", set("client_encoding", "UTF8")),
        ("SET TIME ZONE 'UTC';", set("timezone", "UTC")),
        (
            "SET search_path = public, \"My S\", pg_catalog;",
            set("search_path", "public,\"My S\",pg_catalog"),
        ),
        ("SET SESSION AUTHORIZATION 'x';", set("authorization", "")),
        ("SELECT pg_catalog.set_config('search_path', '', false);", set("search_path", "")),
        (
            "SELECT pg_catalog.setval('public.t_id_seq', 42, true);",
            sequence(Some("public"), "t_id_seq", 42, true),
        ),
        (
            "SELECT pg_catalog.setval('\"My.S\".\"a''b\"', -9223372036854775808, false);",
            sequence(Some("My.S"), "a'b", i64::MIN, false),
        ),
        ("SELECT setval('s', 1);", sequence(None, "s", 1, true)),
        ("SELECT pg_catalog.lo_create('16400');", Statement::LargeObject { opened: false }),
        ("SELECT pg_catalog.lo_open('16400', 131072);", Statement::LargeObject { opened: true }),
        ("ALTER LARGE OBJECT 16400 OWNER TO postgres;", Statement::LargeObject { opened: false }),
        ("GRANT ALL ON LARGE OBJECT 16400 TO x;", Statement::LargeObject { opened: false }),
        (
            "SELECT * FROM pg_catalog.pg_restore_relation_stats('version', '180000'::integer);",
            Statement::Statistics,
        ),
        ("BEGIN;", Statement::Transaction),
        (
            "INSERT INTO public.nothing DEFAULT VALUES;",
            Statement::Empty(named(Some("public"), "nothing", Some(&[]))),
        ),
    ] {
        assert_eq!(classify(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn schema_statements_have_their_command_tags() {
    for (text, tag) in [
        ("CREATE TABLE public.t (id integer);", "CREATE TABLE"),
        ("CREATE UNLOGGED TABLE public.t (id integer);", "CREATE TABLE"),
        ("CREATE UNIQUE INDEX i ON t (a);", "CREATE INDEX"),
        ("CREATE OR REPLACE VIEW v AS SELECT 1;", "CREATE VIEW"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1;", "CREATE MATERIALIZED VIEW"),
        ("CREATE FOREIGN TABLE f (a int) SERVER s;", "CREATE FOREIGN TABLE"),
        ("CREATE FOREIGN DATA WRAPPER w;", "CREATE FOREIGN DATA WRAPPER"),
        ("CREATE OPERATOR public.=== (LEFTARG = int4);", "CREATE OPERATOR"),
        (
            "CREATE OPERATOR CLASS public.c FOR TYPE int4 USING btree AS STORAGE int4;",
            "CREATE OPERATOR CLASS",
        ),
        ("CREATE TEXT SEARCH CONFIGURATION c (PARSER = p);", "CREATE TEXT SEARCH CONFIGURATION"),
        ("CREATE CONSTRAINT TRIGGER t AFTER INSERT ON t;", "CREATE TRIGGER"),
        ("CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;", "CREATE EXTENSION"),
        ("ALTER TABLE ONLY public.t ADD CONSTRAINT p PRIMARY KEY (id);", "ALTER TABLE"),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT ALL ON TABLES TO b;",
            "ALTER DEFAULT PRIVILEGES",
        ),
        ("CREATE USER MAPPING FOR a SERVER s;", "CREATE USER MAPPING"),
        ("COMMENT ON TABLE public.t IS 'secret';", "COMMENT"),
        ("GRANT SELECT ON TABLE public.t TO x;", "GRANT"),
        ("REFRESH MATERIALIZED VIEW public.v;", "REFRESH MATERIALIZED VIEW"),
    ] {
        assert_eq!(classify(text.as_bytes()), Statement::Ddl { tag: tag.to_owned() }, "{text}");
    }
}

#[test]
fn what_is_not_understood_is_told_without_its_values() {
    for (text, kind) in [
        ("DELETE FROM t WHERE a = 'secret';", "DELETE FROM"),
        ("INSERT INTO t SELECT 'secret';", "INSERT INTO"),
        ("COPY t FROM 'secret';", "COPY"),
        ("Alice Secret;", "something that is no statement"),
        ("'secret';", "something that is no statement"),
        ("SELECT 'secret';", "SELECT"),
        ("SELECT evil.setval('t', 1);", "SELECT"),
        ("SELECT pg_catalog.setval('a b', 1);", "SELECT"),
        ("\u{feff}SELECT 1;", "something that is no statement"),
    ] {
        assert_eq!(
            classify(text.as_bytes()),
            Statement::Unknown { kind: kind.to_owned() },
            "{text}"
        );
    }
}

#[test]
fn heads_and_tails_of_inserts() {
    for (text, expected) in [
        ("INSERT INTO public.t VALUES", named(Some("public"), "t", None)),
        (
            "INSERT INTO public.t (a, \"b c\") VALUES",
            named(Some("public"), "t", Some(&["a", "b c"])),
        ),
        ("INSERT INTO t (a) OVERRIDING SYSTEM VALUE VALUES", named(None, "t", Some(&["a"]))),
        ("INSERT INTO t OVERRIDING USER VALUE VALUES", named(None, "t", None)),
    ] {
        assert_eq!(insert_head(text.as_bytes()), Some(expected), "{text}");
    }
    assert_eq!(insert_head(b"INSERT INTO t AS x VALUES"), None);
    assert!(insert_tail(b";") && insert_tail(b"\n ON CONFLICT DO NOTHING;"));
    assert!(!insert_tail(b"RETURNING a;") && !insert_tail(b"ON CONFLICT (a) DO NOTHING;"));
}

proptest! {
    #[test]
    fn any_bytes_are_some_statement(text in proptest::collection::vec(any::<u8>(), 0..80)) {
        classify(&text);
        insert_head(&text);
    }

    #[test]
    fn any_statement_may_be_spoiled(
        start in proptest::sample::select(vec![
            "COPY public.t (a, b) FROM stdin;", "SELECT pg_catalog.setval('a.b', 1, true);",
            "SET x = 'a', \"b\";", "CREATE TEXT SEARCH PARSER a;", "SELECT E'\\x4\\u0041\\'' $a$;$a$;",
        ]),
        at in 0usize..40,
        with in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut text = start.as_bytes().to_vec();
        let at = at.min(text.len());
        text.splice(at..(at + 1).min(text.len()), with);
        classify(&text);
    }
}
