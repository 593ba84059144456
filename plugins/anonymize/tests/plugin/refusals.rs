//! What a rule cannot do for a column, and what it can.

use serde_json::json;

use super::run;

#[test]
fn what_cannot_hold_is_refused_with_the_way_on() {
    let unique = |transform: &str| json!({"transform": transform, "unique": true});
    for (rule, column, want) in [
        (json!("fake_email"), "a text unique", "add `unique = true`"),
        (json!("fake_name"), "a text key", "add `unique = true`"),
        (json!("fake_phone"), "a text unique", "add `unique = true`"),
        (unique("fake_email"), "a varchar(50)", "51 characters long, but varchar holds 50"),
        (json!("fake_name"), "a varchar(21)", "22 characters long"),
        (json!("fake_phone"), "a varchar(9)", "10 characters long"),
        (json!("hash"), "a bpchar(31)", "32 characters long"),
        (json!({"transform": "hash", "length": 16}), "a text unique", "`length` of 20"),
        (json!({"transform": "mask"}), "a text unique", "can make different values equal"),
        (json!({"transform": "constant", "value": "x"}), "a text unique", "different values equal"),
        (json!("null"), "a text not null", "NOT NULL"),
        (json!("null"), "a text key", "NOT NULL or a key"),
        (
            json!({"transform": "regex", "pattern": "a", "replacement": "b", "on_no_match": "null"}),
            "a text not null",
            "NOT NULL",
        ),
        (json!("fake_email"), "a int8", "cannot make a value of type int8"),
        (json!("mask"), "a int4[]", "cannot make a value of type int4"),
        (json!("fake_name"), "a varchar(21)[]", "22 characters long"),
        (json!({"transform": "hash", "length": 20}), "a uuid", "cannot make a value of type uuid"),
        (
            json!({"transform": "constant", "value": "x"}),
            "a int4",
            "is not a text form of type int4",
        ),
        (json!({"transform": "constant", "value": "c"}), "a enum(a|b)", "text form of type enum"),
        (json!({"transform": "constant", "value": "12345"}), "a varchar(4)", "5 characters"),
        (json!({"transform": "constant", "value": "2026-1-1"}), "a date", "text form of type date"),
        (
            json!({"transform": "fake_email", "unique": true, "normalise": "lower"}),
            "a text unique",
            "use \"exact\"",
        ),
    ] {
        let ran = run(json!({"s.t.a": rule.clone()}), &format!("s.t({column})"), &[]);
        let error = ran.expect_err(&format!("{rule} {column}")).to_string();
        assert!(error.starts_with("s.t.a: ") && error.contains(want), "{column}: {error}");
    }
}

#[test]
fn what_moves_keys_or_reads_too_much_is_refused() {
    let unique = |transform: &str| json!({"transform": transform, "unique": true});
    for (rule, column, want) in [
        (unique("fake_email"), "a citext unique", "use \"citext\""),
        (unique("fake_email"), "a bpchar(60) key", "use \"char\""),
        (json!("hash"), "a bpchar(60) unique", "use \"char\""),
        (json!("token"), "a citext unique", "normalise = \"citext\""),
        (
            json!({"transform": "fake_email", "unique": true, "normalise": "trim"}),
            "a bpchar(60) unique",
            "use \"char\"",
        ),
        (json!("digits"), "a numeric", "without decimals"),
        (json!("digits"), "a numeric(655366)", "without decimals"),
        (json!("digits"), "a float8", "cannot make a value of type float8: use `noise`"),
        (json!("noise"), "a int4 unique", "can make different values equal"),
        (json!("fake_month_num"), "a int4 unique", "use `token`, `hash`, `digits`"),
        (json!("shift_date"), "a date key", "can make different values equal"),
        (json!({"transform": "bool", "by": "row"}), "a bool key", "may depend on nothing else"),
        (json!({"transform": "bool", "by": "row"}), "a bool", "needs a replica identity"),
        (json!({"transform": "bool", "by": "b"}), "a bool", "there is no column b"),
        (
            json!({"transform": "template", "template": "{{.b}}"}),
            "a text",
            "column b does not exist",
        ),
        (
            json!({"transform": "template", "template": "{{.b}}"}),
            "a text key, b text",
            "nothing else",
        ),
        (
            json!({"transform": "template", "template": "{{.id}}{{.id}}"}),
            "a text unique, id int8 key",
            "one field is the table's only key column",
        ),
        (json!({"transform": "template", "template": "x"}), "a text[]", "makes no arrays"),
        (json!({"transform": "choice", "values": ["a", "c"]}), "a enum(a|b)", "type enum"),
        (
            json!({"transform": "template", "template": "x{{.a}}"}),
            "a text",
            "holds all of its own column",
        ),
        (
            json!({"transform": "template", "template": "{{.a}}{{.a | before \"@\"}}"}),
            "a text",
            "holds all of its own column",
        ),
        (
            json!({"transform": "template", "template": "{{.a | lower}}"}),
            "a text",
            "holds all of its own column",
        ),
        (json!({"transform": "noise", "amount": 0.5}), "a int4", "give a larger one"),
        (json!({"transform": "noise", "amount": 0.5}), "a int4[]", "give a larger one"),
        // numeric(4, 2)
        (json!({"transform": "noise", "amount": 0.009}), "a numeric(262146)", "give a larger one"),
        (json!("fake_latitude"), "a numeric(524294)", "three digits before the point"),
        (json!("fake_paragraph"), "a varchar(99)", "give `max_length = 99`"),
    ] {
        let ran = run(json!({"s.t.a": rule.clone()}), &format!("s.t({column})"), &[]);
        let error = ran.expect_err(&format!("{rule} {column}")).to_string();
        assert!(error.starts_with("s.t.a: ") && error.contains(want), "{column}: {error}");
    }
}

#[test]
fn what_can_hold_is_not_refused() {
    let fake = |normalise: &str| json!({"transform": "fake_email", "unique": true, "normalise": normalise});
    for (rule, column) in [
        (json!({"transform": "fake_email", "unique": true}), "a varchar(51) unique"),
        (fake("citext"), "a citext unique"),
        (fake("char"), "a bpchar(51) key"),
        (json!({"transform": "hash", "normalise": "char"}), "a bpchar(32) key"),
        (json!("digits"), "a int4 key"),
        (json!("digits"), "a numeric(655360) key"),
        (json!("uuid"), "a uuid key"),
        (json!("token"), "a text key"),
        (json!({"transform": "FakeCreditCardNum", "unique": true}), "a text unique"),
        (json!({"transform": "template", "template": "u{{.id}}"}), "a text unique, id int8 key"),
        (
            json!({"transform": "template", "template": "{{.a | after \"@\"}}{{.b}}"}),
            "a text, b text",
        ),
        (json!({"transform": "noise", "amount": 0.01}), "a numeric(262146)"),
        (json!({"transform": "noise", "amount": 1}), "a int4"),
        (json!({"transform": "noise", "amount": 0.5}), "a float8"),
        (json!({"transform": "choice", "values": ["a", "b"]}), "a enum(a|b)"),
        (json!({"transform": "fake_paragraph", "max_length": 99}), "a varchar(99)"),
        (json!("fake_latitude"), "a numeric(589830)"),
        (json!("fake_date_of_birth"), "a timestamptz"),
        (json!("null"), "a text[]"),
        (json!("hash"), "a uuid key"),
        (json!({"transform": "hash", "length": 20}), "a text unique"),
        (json!("null"), "a int4[]"),
        (json!({"transform": "constant", "value": "0"}), "a numeric"),
        (json!({"transform": "constant", "value": "{}"}), "a jsonb"),
        (json!({"transform": "constant", "value": "2026-01-01 00:00:00+00"}), "a timestamptz"),
    ] {
        run(json!({"s.t.a": rule}), &format!("s.t({column})"), &[]).unwrap();
    }
    // Under FULL a column is part of the identity, but does not identify alone.
    run(json!({"s.t.a": "fake_email"}), "s.t(a text, b text) full", &[]).unwrap();
}
