//! The plugin from rules to rows, as a host drives it.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use anonymize::Anonymize;
use kasho_plugin_sdk::Value::{Null, Text, Unchanged};
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::testing::{
    Fixture, Outcome, TestRow, delete, insert, read, table, update, update_from,
};
use kasho_plugin_sdk::{Result, Value};
use serde_json::{Value as Json, json};

fn run(rules: Json, relation: &str, rows: &[TestRow]) -> Result<Vec<Outcome>> {
    let relation = table(relation);
    let mut fixture = Fixture::<Anonymize>::new(rules)?;
    fixture.relation(&relation)?;
    Ok(fixture.run(&relation, rows))
}

#[test]
fn one_value_has_one_fake_everywhere() {
    let rules = json!({
        "public.users.email": "fake_email", "crm.*.mail": "fake_email", "crm.*.phone": "fake_phone",
        "public.users.id": "pass", "crm.leads.id": "pass",
    });
    let mut fixture = Fixture::<Anonymize>::new(rules).unwrap();
    let users = table("public.users(id int8 key, email text)");
    let leads = table("crm.leads(id int8, mail varchar(60), phone text) full");
    let wanted = fixture.relation(&users).unwrap().unwrap();
    assert_eq!(wanted.columns[0].usage, Use::Pass);
    let fingerprint = wanted.columns[1].fingerprint.as_deref();
    assert_eq!(fingerprint, Some("fake_email/1;dict=1;domain=email;norm=lower"));
    fixture.relation(&leads).unwrap();
    let out = fixture.run(&users, &[read([("id", "1"), ("email", "Ada@example.com ")])]);
    let Text(fake) = out[0].after("email") else { panic!() };
    let rows = [
        update_from([("id", "1"), ("mail", "ada@example.com")], [("id", "1"), ("mail", "b@c.d")]),
        delete([("id", "1"), ("mail", "ADA@EXAMPLE.COM")]),
        insert([("id", Some("2")), ("mail", None)]),
        update([("id", Text("2")), ("mail", Unchanged)]),
    ];
    let out = fixture.run(&leads, &rows);
    assert_eq!(out[0].before("mail"), Text(fake));
    assert_ne!(out[0].after("mail"), Text("b@c.d"));
    assert_ne!(out[0].after("mail"), Text(fake));
    assert_eq!(out[1].before("mail"), Text(fake));
    assert_eq!(out[2].after("mail"), Null);
    assert_eq!(out[3].after("mail"), Unchanged);
    assert_eq!(out[0].after("id"), Text("1"));
}

#[test]
fn every_transform_in_one_table() {
    let rules = json!({
        "s.t.id": "pass",
        "s.t.ssn": {"transform": "mask", "keep_last": 4},
        "s.t.note": "null",
        "s.t.kind": {"transform": "constant", "value": "b"},
        "s.t.uid": "hash",
        "s.t.card": {"transform": "regex", "pattern": r"\d{4}-(\d{4})", "replacement": "####-$1"},
        "s.t.soft": {"transform": "regex", "pattern": "x", "replacement": "y",
                     "on_no_match": "constant", "constant": "none"},
        "s.t.opt": {"transform": "regex", "pattern": "x", "replacement": "y", "on_no_match": "null"},
        "s.t.phone": {"transform": "fake_phone", "unique": true},
    });
    let relation = "s.t(id int8 key, ssn bpchar(11), note text, kind enum(a|b), uid uuid, \
                    card varchar(9), soft text, opt text, phone text unique)";
    let row = |card: &'static str, phone: &'static str| {
        insert([
            ("id", "1"),
            ("ssn", "123-45-6789"),
            ("note", "n"),
            ("kind", "a"),
            ("soft", "axb"),
            ("uid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            ("opt", "q"),
            ("card", card),
            ("phone", phone),
        ])
    };
    let rows = [row("1234-5678", "555-0100"), row("none", "1234"), row("1111-2222", "secret")];
    let out = run(rules, relation, &rows).unwrap();
    for (column, want) in [
        ("id", Text("1")),
        ("ssn", Text("*******6789")),
        ("note", Null),
        ("kind", Text("b")),
        ("card", Text("####-5678")),
        ("soft", Text("ayb")),
        ("opt", Null),
    ] {
        assert_eq!(out[0].after(column), want, "{column}");
    }
    let Text(uid) = out[0].after("uid") else { panic!() };
    assert_eq!((uid.len(), uid.matches('-').count()), (36, 4));
    assert!(matches!(out[0].after("phone"), Text(p) if p.len() == 8 && p != "555-0100"));
    assert_eq!(out[1].error_column(), Some("card"));
    assert_eq!(out[2].error_column(), Some("phone"));
}

#[test]
fn a_pattern_that_matches_nothing_masks_nothing() {
    let rule = |otherwise: &str| {
        let mut rule = json!({"transform": "regex", "pattern": "[0-9]*", "replacement": "#"});
        if otherwise == "null" {
            rule["on_no_match"] = otherwise.into();
        }
        json!({"s.t.a": rule})
    };
    let rows = [insert([("a", "alice")]), insert([("a", "al1ce")]), insert([("a", "")])];
    let out = run(rule("null"), "s.t(id int8 key, a text)", &rows).unwrap();
    assert_eq!(out[0].after("a"), Null, "the original between marks is the original");
    assert!(matches!(out[1].after("a"), Text(a) if !a.contains('1')));
    assert_eq!(out[2].after("a"), Text("#"));
    let out = run(rule("error"), "s.t(id int8 key, a text)", &rows[..1]).unwrap();
    assert_eq!(out[0].error_column(), Some("a"));
}

#[test]
fn a_replacement_must_fit() {
    let rules = json!({"s.t.a": {"transform": "regex", "pattern": "x", "replacement": "long"}});
    let rows = [insert([("a", "xx")]), insert([("a", "x")])];
    let out = run(rules, "s.t(id int8 key, a varchar(6))", &rows).unwrap();
    assert!(out[0].error().unwrap().contains("too long"));
    assert_eq!(out[1].after("a"), Text("long"));
}

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
        (json!("mask"), "a text[]", "cannot make a value of type _text"),
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
        let error = run(json!({"s.t.a": rule}), &format!("s.t({column})"), &[]).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("s.t.a: ") && error.contains(want), "{column}: {error}");
    }
}

#[test]
fn what_can_hold_is_not_refused() {
    let lower = json!({"transform": "fake_email", "unique": true, "normalise": "lower"});
    for (rule, column) in [
        (json!({"transform": "fake_email", "unique": true}), "a varchar(51) unique"),
        (lower, "a citext unique"),
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
#[test]
fn the_exact_rule_wins_over_the_pattern() {
    let rules = json!({
        "s.*.a": "fake_name", "s.plain.a": "pass", "s.t.*": "pass", "s.u.a": "null",
    });
    let of = |relation: &str| {
        let out = run(rules.clone(), relation, &[insert([("a", "x")])]).unwrap();
        match out[0].after("a") {
            Value::Text("x") => "pass",
            Value::Null => "null",
            _ => "fake",
        }
    };
    assert_eq!(of("s.plain(a text)"), "pass");
    assert_eq!(of("s.t(a text)"), "fake");
    assert_eq!(of("s.u(a text)"), "null");
    assert_eq!(of("s.v(a text)"), "fake");
    assert_eq!(of("other.v(a text)"), "pass");
}
