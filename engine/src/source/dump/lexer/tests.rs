//! Where things begin and end, whatever windows the text comes in.

use proptest::prelude::*;

use super::*;

/// The items of a text that is shown `step` more bytes at a time.
fn items(text: &[u8], step: usize) -> Result<Vec<(Item, Vec<u8>)>, Cut> {
    let mut lexer = Lexer::default();
    let (mut begin, mut end) = (0, step.min(text.len()));
    let mut found: Vec<(Item, Vec<u8>)> = Vec::new();
    loop {
        match lexer.next(&text[begin..end], end == text.len())? {
            Step::End => return Ok(found),
            Step::More => end = (end + step).min(text.len()),
            Step::Item(item, len) => {
                let bytes = text[begin..begin + len].to_vec();
                begin += len;
                match found.last_mut() {
                    // Blanks come in any number of pieces.
                    Some((Item::Blank, last)) if item == Item::Blank => last.extend(bytes),
                    _ => found.push((item, bytes)),
                }
            }
        }
    }
}

/// Kinds and texts of what is not blank.
fn parts(text: &str) -> Vec<(Item, String)> {
    let found = items(text.as_bytes(), text.len()).unwrap();
    let part = |(item, bytes): (Item, Vec<u8>)| (item, String::from_utf8(bytes).unwrap());
    found.into_iter().map(part).filter(|(item, _)| *item != Item::Blank).collect()
}

fn statements(text: &str) -> Vec<String> {
    parts(text).into_iter().map(|(_, text)| text).collect()
}

const NASTY: &str = r#"--
-- a comment; with a semicolon and a 'quote
--
\restrict wPfJhM12
SET a = 'b;c';
/* one /* nested; */ still; */ SELECT 1 -- end;
;
CREATE FUNCTION f() RETURNS text AS $a_1$ ; $$ ; ' " -- $a_1; $a_1$ LANGUAGE sql;
CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT CASE WHEN 1=1 THEN 1 END; SELECT 2; END;
CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);
COMMENT ON TABLE "we;ird""; t" IS 'it''s; so';
SELECT E'a\';b', 'c\', $1, a$b$c;
INSERT INTO "values" VALUES (1, 'a);b(', NULL), -- more
  ((2), E'\'', $$)$$)
ON CONFLICT DO NOTHING;
INSERT INTO t SELECT 1;
INSERT INTO t DEFAULT VALUES;
\connect "data base"
"#;

#[test]
fn every_kind_of_item_is_found() {
    let expected = [
        (Item::Meta, "\\restrict wPfJhM12\n"),
        (Item::Statement, "SET a = 'b;c';"),
        (Item::Statement, "SELECT 1 -- end;\n;"),
        (
            Item::Statement,
            "CREATE FUNCTION f() RETURNS text AS $a_1$ ; $$ ; ' \" -- $a_1; $a_1$ LANGUAGE sql;",
        ),
        (
            Item::Statement,
            "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT CASE WHEN 1=1 THEN 1 END; \
             SELECT 2; END;",
        ),
        (Item::Statement, "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);"),
        (Item::Statement, "COMMENT ON TABLE \"we;ird\"\"; t\" IS 'it''s; so';"),
        (Item::Statement, "SELECT E'a\\';b', 'c\\', $1, a$b$c;"),
        (Item::InsertHead, "INSERT INTO \"values\" VALUES"),
        (Item::Tuple, "(1, 'a);b(', NULL)"),
        (Item::Tuple, "((2), E'\\'', $$)$$)"),
        (Item::InsertTail, "ON CONFLICT DO NOTHING;"),
        (Item::Statement, "INSERT INTO t SELECT 1;"),
        (Item::Statement, "INSERT INTO t DEFAULT VALUES;"),
        (Item::Meta, "\\connect \"data base\"\n"),
    ];
    let found = parts(NASTY);
    let found: Vec<(Item, &str)> =
        found.iter().map(|(item, text)| (*item, text.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_size_of_windows_does_not_matter() {
    let whole = items(NASTY.as_bytes(), NASTY.len()).unwrap();
    for step in 1..40 {
        assert_eq!(items(NASTY.as_bytes(), step).unwrap(), whole, "{step} bytes at a time");
    }
}

#[test]
fn an_end_in_the_middle_says_of_what() {
    for (text, what) in [
        ("SELECT 1", "a statement"),
        ("SELECT 'a;", "a string"),
        ("SELECT \"a;", "a quoted identifier"),
        ("SELECT $x$;$$;", "a dollar-quoted string"),
        ("SELECT 1; /* /* */", "a comment"),
        ("INSERT INTO t VALUES (1), ", "an INSERT"),
        ("INSERT INTO t VALUES (1, 'a", "a string"),
        ("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;", "a statement"),
    ] {
        assert_eq!(items(text.as_bytes(), 3), Err(Cut(what)), "{text}");
    }
    assert_eq!(statements("SELECT 1; -- the end"), ["SELECT 1;"]);
    assert_eq!(statements(" \n"), Vec::<String>::new());
}

#[test]
fn words_inside_others_end_nothing() {
    for text in [
        "SELECT 1 AS begin;",
        "CREATE TABLE t (begin int);",
        "ALTER FUNCTION f() OWNER TO x;",
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END;",
        "CREATE FUNCTION f(a text DEFAULT 'begin'::text) RETURNS int AS $_$SELECT $1;$_$;",
    ] {
        assert_eq!(statements(text), [text]);
    }
}

/// Pieces that dumps are made of, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "'",
            "''",
            "\"",
            "$",
            "$$",
            "$a$",
            "E'",
            "\\",
            "--",
            "/*",
            "*/",
            "(",
            ")",
            ";",
            ",",
            "\n",
            "\r\n",
            " ",
            "INSERT INTO t VALUES ",
            "COPY t FROM stdin;",
            "BEGIN ",
            "END",
            "CREATE ",
            "FUNCTION ",
            "CASE ",
            "1",
            "e",
            "\0",
            "é",
            "\\.",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_items_or_a_cut_in_any_windows(text in soup(), step in 1usize..9) {
        let whole = items(&text, text.len().max(1));
        prop_assert_eq!(&items(&text, step), &whole);
        if let Ok(found) = whole {
            prop_assert_eq!(found.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>(), text);
        }
    }
}
