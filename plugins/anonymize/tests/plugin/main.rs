//! The plugin from rules to rows, as a host drives it.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

mod refusals;
mod rows;

use anonymize::Anonymize;
use kasho_plugin_sdk::Value::{Null, Text, Unchanged};
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::testing::{
    Fixture, Outcome, TestRow, delete, insert, logged, read, table, update, update_from,
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

fn texts(rule: Json, column: &str, values: &[&'static str]) -> Vec<Option<String>> {
    let rows: Vec<TestRow> =
        values.iter().map(|value| insert([("id", "1"), ("a", *value)])).collect();
    let relation = format!("s.t(id int8 key, a {column})");
    let rules = json!({"s.t.a": rule, "s.t.id": "pass"});
    let out = run(rules, &relation, &rows).unwrap();
    let text = |out: &Outcome| match out.error() {
        Some(_) => None,
        None => match out.after("a") {
            Text(text) => Some(text.to_owned()),
            other => panic!("{other:?}"),
        },
    };
    out.iter().map(text).collect()
}

#[test]
fn what_is_one_to_one_stays_so_and_keeps_its_shape() {
    let card = json!({"transform": "fake_credit_card_num", "unique": true});
    let ssn = json!({"transform": "fake_ssn", "unique": true});
    for (rule, column, values) in [
        (json!("digits"), "int4", &["1234567", "1234568", "-5", "0", "2147483647"][..]),
        (json!("digits"), "text", &["AB-1234", "AB-1235", "X7", "X8"]),
        (json!("uuid"), "uuid", &["6ba7b810-9dad-41d1-80b4-00c04fd430c8"]),
        (json!("token"), "text", &["", "a", "b", "Grüße aus dem Norden, weit über 16 Bytes"]),
        (card, "text", &["4111-1111-1111-1111", "4111-1111-1111-1112", "378282246310005"]),
        (ssn, "text", &["123-45-6789", "123 45 6780", "123456789"]),
    ] {
        let out: Vec<String> =
            texts(rule.clone(), column, values).into_iter().map(Option::unwrap).collect();
        let mut different = out.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), values.len(), "{rule}");
        if rule == "token" {
            continue;
        }
        for (out, value) in out.iter().zip(values) {
            let shape = |text: &str| text.replace(|c: char| c.is_ascii_hexdigit(), "0");
            assert_eq!(shape(out), shape(value), "{rule}");
        }
    }
    for rule in ["fake_phone", "fake_ssn", "fake_credit_card_num"] {
        let rule = json!({"transform": rule, "unique": true});
        assert_eq!(texts(rule, "text", &[""]), [Some(String::new())], "nothing to hide");
    }
    for (rule, wrong) in
        [("digits", "none"), ("uuid", "none"), ("fake_ssn", "12"), ("fake_credit_card_num", "12")]
    {
        let rule = match rule {
            "digits" | "uuid" => json!(rule),
            _ => json!({"transform": rule, "unique": true}),
        };
        assert_eq!(texts(rule, "text", &[wrong]), [None]);
    }
}

/// Whether a card number's digits pass the check of Luhn.
fn luhn(number: &str) -> bool {
    let digits = number.chars().rev().filter_map(|c| c.to_digit(10));
    let doubled = digits.enumerate().map(|(i, d)| match i % 2 {
        0 => d,
        _ => 2 * d / 10 + 2 * d % 10,
    });
    doubled.sum::<u32>() % 10 == 0
}

#[test]
fn card_numbers_are_right_where_they_were() {
    let unique = json!({"transform": "fake_credit_card_num", "unique": true});
    let right = ["4111 1111 1111 1111", "5555555555554444", "378282246310005", "4222222222222"];
    for rule in [json!("FakeCreditCardNum"), unique.clone()] {
        for card in texts(rule, "text", &right) {
            assert!(luhn(card.as_ref().unwrap()), "{card:?}");
        }
    }
    for card in texts(unique, "text", &["4111111111111112", "378282246310006"]) {
        assert!(!luhn(card.as_ref().unwrap()), "{card:?}");
    }
}

#[test]
fn arrays_are_masked_element_by_element() {
    let values = ["{Ada,NULL,\"Grace H.\"}", "{}", "{{Ada},{Ada}}", "[0:0]={Ada}", "{oops"];
    let out = texts(json!("fake_name"), "text[]", &values);
    let Some(ada) = texts(json!("fake_name"), "text", &["Ada"]).remove(0) else { panic!() };
    assert!(out[0].as_ref().unwrap().starts_with(&format!("{{\"{ada}\",NULL,\"")), "{out:?}");
    assert_eq!(out[1].as_deref(), Some("{}"));
    assert_eq!(out[2], Some(format!("{{{{\"{ada}\"}},{{\"{ada}\"}}}}")));
    assert_eq!(out[3], Some(format!("[0:0]={{\"{ada}\"}}")));
    assert_eq!(out[4], None);
    let out = texts(json!("digits"), "int4[]", &["{1,22,-333,NULL}"]);
    let parts: Vec<usize> = out[0].as_ref().unwrap().split(',').map(str::len).collect();
    assert_eq!(parts, [2, 2, 4, 5], "{out:?}");
    let regex =
        json!({"transform": "regex", "pattern": "^a", "replacement": "x", "on_no_match": "null"});
    assert_eq!(texts(regex, "text[]", &["{ab,cd}"])[0].as_deref(), Some("{xb,NULL}"));
}

#[test]
fn json_lets_out_what_is_listed() {
    let rule = json!({"transform": "json", "paths": {
        "id": "pass", "who.name": "fake_name", "who.age": "noise", "tags[*]": "digits", "who.mail": "fake_email",
    }});
    let value = r#"{"id": 7, "who": {"name": "Ada", "age": 36, "ssn": "1", "mail": null}, "tags": ["a1", "b22"], "x": {}}"#;
    let out = texts(rule, "jsonb", &[value, "no json", "{}"]);
    let name = texts(json!("fake_name"), "text", &["Ada"]).remove(0).unwrap();
    let out_json = out[0].as_ref().unwrap();
    let start = format!("{{\"id\": 7, \"who\": {{\"name\": \"{name}\", \"age\": 3");
    assert!(out_json.starts_with(&start), "{out_json}");
    assert!(!out_json.contains("ssn") && !out_json.contains("\"x\""), "{out_json}");
    assert!(out_json.contains("\"mail\": null}, \"tags\": [\"a"), "{out_json}");
    assert_eq!(out[1], None);
    assert_eq!(out[2].as_deref(), Some("{}"));
}

#[test]
fn a_pass_lets_out_no_masked_member() {
    let rule = json!({"transform": "json", "paths": {"who": "pass", "who.ssn": "mask"}});
    let value = r#"{"who": {"name": "Ada", "ssn": "123"}, "x": 1}"#;
    let out = texts(rule, "jsonb", &[value]);
    assert_eq!(out[0].as_deref(), Some(r#"{"who": {"name": "Ada", "ssn": "***"}}"#));
}

#[test]
fn what_stands_behind_a_number_or_a_date_does_not_leave() {
    for (rule, value) in [
        (json!("noise"), "4eme rue de Paris"),
        (json!({"transform": "noise", "amount": 5}), "4e rue de Paris"),
        (json!("noise"), "12345678901234567890123456789"),
        (json!({"transform": "noise", "amount": 0.5}), "36"),
        (json!("shift_date"), "1987-06-05 born in Paris, SSN 123-45-6789"),
        (json!("shift_date"), "1987-06-05T12:00:00 Ada"),
    ] {
        assert_eq!(texts(rule.clone(), "text", &[value]), [None], "{rule} {value}");
    }
}

#[test]
fn what_hashing_costs_is_asked_for() {
    let needs = |rule: Json| {
        let fixture = Fixture::<Anonymize>::new(json!({"s.t.a": rule})).unwrap();
        let needs = fixture.needs();
        (needs.deadline_ms, needs.memory_mib, needs.max_rows)
    };
    let rule = |name: &str| json!({"transform": name, "cleartext": "test"});
    assert_eq!(needs(rule("password_bcrypt")), (Some(188), None, None));
    assert_eq!(needs(rule("password_scrypt")), (Some(674), Some(160), None));
    assert_eq!(needs(rule("password_pbkdf2")), (Some(324), None, None));
    assert_eq!(needs(rule("password_argon2id")), (Some(500), Some(96), None));
    let each = json!({"transform": "password_bcrypt", "cleartext": "test", "salt_per_value": true});
    assert_eq!(needs(each), (Some(22 * 88 + 100), None, Some(22)));
    assert_eq!(needs(json!("fake_name")), (None, None, None));
}

#[test]
fn what_everybody_should_know_is_said() {
    let said = |rule: Json| {
        let _ = logged();
        Fixture::<Anonymize>::new(json!({"s.t.a": rule})).unwrap();
        logged().concat()
    };
    assert!(said(json!("bool")).starts_with("s.t.a: the rule has fewer than 1,000 results"));
    assert!(said(json!("shift_date")).is_empty(), "a date has as many as there are dates");
    assert!(said(json!({"transform": "bool", "by": "row"})).is_empty());
    assert!(said(json!("fake_first_name")).contains("fewer than 1,000"));
    assert!(said(json!("fake_name")).is_empty());
    assert!(said(json!({"transform": "fake_email", "unique": true})).contains("odds of 1 : 2"));
}
