//! What a rule cannot do for a column, and what it can.

use kasho_plugin_sdk::testing::Refusals;
use serde_json::{Value as Json, json};

use super::run;

/// What is refused of one rule for one column, or of several.
fn refused(rules: Json, relation: &str) -> String {
    match run(rules.clone(), relation, &[]) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{rules} is taken for {relation}"),
    }
}

#[test]
fn every_refused_rule_stands_in_the_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/refusals/anonymize.txt");
    let mut table = Refusals::new(file, "Rules that `anonymize` refuses.");
    table.section("Rules");
    for rule in rules() {
        table.case(rule.to_string(), refused(json!({"s.t.a": rule}), "s.t(a text)"));
    }
    table.section("Rules for a column");
    for (rule, column) in cannot_hold().into_iter().chain(moves_keys()) {
        let done = format!("{rule}, of {column}");
        table.case(done, refused(json!({"s.t.a": rule}), &format!("s.t({column})")));
    }
    table.section("Several rules");
    for rules in several() {
        table.case(rules.to_string(), refused(rules, "s.t(a text, b text)"));
    }
    table.finish();
}

/// Wrong whatever the column is.
fn rules() -> Vec<Json> {
    let mut all = texts_and_choices();
    all.extend(numbers_and_passwords());
    all
}

fn texts_and_choices() -> Vec<Json> {
    vec![
        json!("fake_mail"),
        json!(3),
        json!({"unique": true}),
        json!({"transform": "hash", "salt": "x"}),
        json!({"transform": "hash", "unique": true}),
        json!({"transform": "pass", "char": "x"}),
        json!({"transform": "hash", "length": 4}),
        json!({"transform": "hash", "length": "8"}),
        json!({"transform": "mask", "char": "xy"}),
        json!({"transform": "mask", "char": "\u{7}"}),
        json!("constant"),
        json!({"transform": "regex", "pattern": "(", "replacement": ""}),
        json!({"transform": "regex", "pattern": "a"}),
        json!({"transform": "regex", "pattern": "a", "replacement": "", "on_no_match": "x"}),
        json!({"transform": "regex", "pattern": "a", "replacement": "", "on_no_match": "constant"}),
        json!({"transform": "regex", "pattern": "a", "replacement": "", "constant": ""}),
        json!({"transform": "fake_email", "normalise": "upper"}),
        json!({"transform": "fake_email", "domain": ""}),
        json!({"transform": "fake_email", "unique": true, "by": "row"}),
        json!({"transform": "bool", "by": "row", "normalise": "trim"}),
        json!({"transform": "choice", "values": []}),
        json!({"transform": "choice", "values": [1]}),
        json!("template"),
        json!({"transform": "template", "template": "{{if}}"}),
        json!({"transform": "template", "template": "{{.a"}),
        json!("json"),
        json!({"transform": "json", "paths": {"a..b": "pass"}}),
        json!({"transform": "json", "paths": {"a": "template"}}),
        json!({"transform": "json", "paths": {"a": {"transform": "bool", "by": "row"}}}),
        json!({"transform": "json", "paths": {"who.*": "pass", "*.ssn": "mask"}}),
        json!({"transform": "json", "paths": {"$.ssn": "mask", "ssn": "pass"}}),
    ]
}

fn numbers_and_passwords() -> Vec<Json> {
    vec![
        json!({"transform": "shift_date", "days": 0}),
        json!({"transform": "fake_digits", "length": 99_999_999_999_999_999_u64}),
        json!({"transform": "noise", "ratio": 2}),
        json!({"transform": "noise", "ratio": 0.123_456_7}),
        json!({"transform": "noise", "ratio": 0.1, "amount": 1}),
        json!({"transform": "fake_date_of_birth", "from": 2000, "to": 1999}),
        json!({"transform": "fake_sentence", "max_length": 5}),
        json!("password_bcrypt"),
        json!({"transform": "password_scrypt", "cleartext": "x", "n": 1000}),
        json!({"transform": "password_pbkdf2", "cleartext": "x", "hash": "MD5"}),
        json!({"transform": "password_argon2id", "cleartext": "x", "memory": 8}),
        json!({"transform": "password_argon2id", "cleartext": "x", "format": "crypt"}),
        json!({"transform": "password_argon2id", "cleartext": "x", "use_salt": false,
               "salt_per_value": true}),
    ]
}

/// Each right by itself.
fn several() -> Vec<Json> {
    let email = |normalise: &str| json!({"transform": "fake_email", "normalise": normalise});
    let template = |text: &str| json!({"transform": "template", "template": text});
    vec![
        json!({"s.t.a": email("exact"), "s.t.b": email("lower")}),
        json!({"s.t.a": "fake_email", "s.t.b": {"transform": "fake_name", "domain": "email"}}),
        json!({"s.t.a": template("{{.b}}"), "s.t.b": template("{{.a}}")}),
        json!({"s.t": "pass"}),
        json!({"s.t.*": "hash"}),
        json!({"\"s\".t.a": "pass", "s.t.a": "hash"}),
    ]
}

/// What the column does not take.
fn cannot_hold() -> Vec<(Json, &'static str)> {
    let unique = |transform: &str| json!({"transform": transform, "unique": true});
    vec![
        (json!("fake_email"), "a text unique"),
        (json!("fake_name"), "a text key"),
        (json!("fake_phone"), "a text unique"),
        (unique("fake_email"), "a varchar(50)"),
        (json!("fake_name"), "a varchar(21)"),
        (json!("fake_phone"), "a varchar(9)"),
        (json!("hash"), "a bpchar(31)"),
        (json!({"transform": "hash", "length": 16}), "a text unique"),
        (json!({"transform": "mask"}), "a text unique"),
        (json!({"transform": "constant", "value": "x"}), "a text unique"),
        (json!("null"), "a text not null"),
        (json!("null"), "a text key"),
        (
            json!({"transform": "regex", "pattern": "a", "replacement": "b", "on_no_match": "null"}),
            "a text not null",
        ),
        (json!("fake_email"), "a int8"),
        (json!("mask"), "a int4[]"),
        (json!("fake_name"), "a varchar(21)[]"),
        (json!({"transform": "hash", "length": 20}), "a uuid"),
        (json!({"transform": "constant", "value": "x"}), "a int4"),
        (json!({"transform": "constant", "value": "c"}), "a enum(a|b)"),
        (json!({"transform": "constant", "value": "12345"}), "a varchar(4)"),
        (json!({"transform": "constant", "value": "2026-1-1"}), "a date"),
        (json!({"transform": "fake_email", "unique": true, "normalise": "lower"}), "a text unique"),
    ]
}

/// What moves keys, or reads too much.
fn moves_keys() -> Vec<(Json, &'static str)> {
    let unique = |transform: &str| json!({"transform": transform, "unique": true});
    vec![
        (unique("fake_email"), "a citext unique"),
        (unique("fake_email"), "a bpchar(60) key"),
        (json!("hash"), "a bpchar(60) unique"),
        (json!("token"), "a citext unique"),
        (json!("token"), "a bpchar(60) unique"),
        (json!("hash"), "a enum(a|b)"),
        (
            json!({"transform": "fake_email", "unique": true, "normalise": "trim"}),
            "a bpchar(60) unique",
        ),
        (json!("digits"), "a numeric"),
        (json!("digits"), "a numeric(655366)"),
        (json!("digits"), "a float8"),
        (json!("noise"), "a int4 unique"),
        (json!("fake_month_num"), "a int4 unique"),
        (json!("shift_date"), "a date key"),
        (json!({"transform": "bool", "by": "row"}), "a bool key"),
        (json!({"transform": "bool", "by": "row"}), "a bool"),
        (json!({"transform": "bool", "by": "b"}), "a bool"),
        (json!({"transform": "template", "template": "{{.b}}"}), "a text"),
        (json!({"transform": "template", "template": "{{.b}}"}), "a text key, b text"),
        (
            json!({"transform": "template", "template": "{{.id}}{{.id}}"}),
            "a text unique, id int8 key",
        ),
        (json!({"transform": "template", "template": "x"}), "a text[]"),
        (json!({"transform": "choice", "values": ["a", "c"]}), "a enum(a|b)"),
        (json!({"transform": "template", "template": "x{{.a}}"}), "a text"),
        (json!({"transform": "template", "template": "{{.a}}{{.a | before \"@\"}}"}), "a text"),
        (json!({"transform": "template", "template": "{{.a | lower}}"}), "a text"),
        (
            json!({"transform": "template", "template": "{{.a | before \"@\"}}@{{.a | after \"@\"}}"}),
            "a text",
        ),
        (json!({"transform": "template", "template": "{{.a | after \"\"}}"}), "a text"),
        (json!({"transform": "noise", "amount": 0.5}), "a int4"),
        (json!({"transform": "noise", "amount": 0.5}), "a int4[]"),
        // numeric(4, 2)
        (json!({"transform": "noise", "amount": 0.009}), "a numeric(262146)"),
        (json!("fake_latitude"), "a numeric(524294)"),
        (json!("fake_year"), "a numeric(196608)"),
        (json!("fake_paragraph"), "a varchar(99)"),
    ]
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
