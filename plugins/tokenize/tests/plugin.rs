//! The plugin from rules to rows, as a host drives it, against vectors that another
//! implementation made.

#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use std::process::Command;

use kasho_plugin_sdk::testing::{Fixture, MASTER, Refusals, insert, table, update_from};
use kasho_plugin_sdk::{Result, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokenize::Tokenize;

const USERS: &str = "public.users(id int8 key, email text, code varchar(40), note text)";

fn rules(email: Json) -> Json {
    json!({
        "public.users.email": email,
        "public.users.id": "pass",
        "public.users.*": "drop",
    })
}

fn tokens(rule: Json, values: &[&str]) -> Vec<String> {
    let users = table(USERS);
    let mut fixture = Fixture::<Tokenize>::new(rules(rule)).unwrap();
    fixture.relation(&users).unwrap();
    let rows: Vec<_> = values.iter().map(|v| insert([("id", "1"), ("email", *v)])).collect();
    let text = |value: Value<'_>| match value {
        Value::Text(text) => text.to_owned(),
        other => panic!("{other:?}"),
    };
    fixture.run(&users, &rows).iter().map(|row| text(row.after("email"))).collect()
}

fn refusal(column: &str, rule: Json, relation: &str) -> String {
    let relation = table(relation);
    let load = || -> Result<()> {
        Fixture::<Tokenize>::new(json!({ column: rule }))?.relation(&relation).map(drop)
    };
    load().unwrap_err().to_string()
}

/// Made by `tests/reverse.py`, which shares no code with this; for ever.
const GOLDEN: [(&str, &str, &str, &str); 6] = [
    ("email", "base64url", "", "YZ6lkgoEwO30PitrQ3hrfQ"),
    ("email", "base64url", "ada@example.com", "RvCzVYgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJA"),
    ("email", "hex", "Grüße", "1c9ae423e0a768af12c4229f3e46c0869740e422272727"),
    ("person", "base64url", "ada@example.com", "fmLihrmNcXjSKQY61CMxk1U7VnbANDy6mlguZbYXOA"),
    ("email", "base64url", "exactly 16 bytes", "5DPQb4ED_IPZXB4C7GCOvyeiEnHGAPcfHbC43VoHaNY"),
    (
        "email",
        "hex",
        "a value of thirty-three bytes: 33",
        "ede7af37d07c95b6dfc650c27dfded8fff529c92e1c9e2ab908fceb06365f0d2698753f5a2dadfc6d592177935e7c9a5af",
    ),
];

#[test]
fn golden_vectors() {
    for (domain, encoding, value, want) in GOLDEN {
        let rule = json!({"transform": "tokenize", "domain": domain, "encoding": encoding});
        assert_eq!(tokens(rule, &[value]), [want], "{domain} {encoding} {value}");
    }
}

/// Python's `hmac` alone turns tokens back, and notices what was changed.
#[test]
fn another_implementation_turns_tokens_back() {
    let long = "Grüße 🦀 ".repeat(3000);
    let values = ["", "a", "ada@example.com", "sixteen bytes!!!", "seventeen bytes!!", &long];
    let key: String = MASTER.iter().map(|byte| format!("{byte:02x}")).collect();
    for encoding in ["base64url", "hex"] {
        let rule =
            json!({"transform": "tokenize", "domain": "e", "encoding": encoding, "prefix": "tok_"});
        let found = tokens(rule, &values);
        let output = Command::new("python3")
            .args(["-I", "tests/reverse.py", &key, "e", encoding, "tok_"])
            .args(&found)
            .output()
            .unwrap();
        let told: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told, values, "{}", String::from_utf8_lossy(&output.stderr));
        let mut changed = found[2].clone().into_bytes();
        changed[30] = if changed[30] == b'0' { b'1' } else { b'0' };
        let output = Command::new("python3")
            .args(["-I", "tests/reverse.py", &key, "e", encoding, "tok_"])
            .arg(String::from_utf8(changed).unwrap())
            .output()
            .unwrap();
        assert!(!output.status.success());
    }
}

#[test]
fn a_domain_joins_and_tells_apart() {
    let users = table(USERS);
    let leads = table("crm.leads(mail varchar(200) key, boss text)");
    let mut fixture = Fixture::<Tokenize>::new(json!({
        "public.users.email": "tokenize",
        "public.users.*": "pass",
        "crm.leads.mail": {"transform": "tokenize", "domain": "email"},
        "crm.leads.boss": "tokenize",
    }))
    .unwrap();
    let wanted = fixture.relation(&users).unwrap().unwrap();
    let email = wanted.columns.iter().find(|column| column.name == "email").unwrap();
    let fingerprint = "tokenize/1;domain=email;encoding=base64url;prefix=";
    assert_eq!(email.fingerprint.as_deref(), Some(fingerprint));
    fixture.relation(&leads).unwrap();
    let user = fixture.run(&users, &[insert([("email", Some("a@b")), ("note", None)])]);
    let moved = update_from([("mail", "a@b")], [("mail", "c@d"), ("boss", "a@b")]);
    let lead = fixture.run(&leads, &[moved]);
    assert_eq!(user[0].after("email"), lead[0].before("mail"));
    assert_ne!(lead[0].after("mail"), lead[0].before("mail"));
    assert_ne!(lead[0].after("boss"), lead[0].before("mail"), "another domain");
    assert_eq!(user[0].after("note"), Value::Null);
}

#[test]
fn nulls_stay_and_too_long_is_an_error() {
    let users = table(USERS);
    let rules = json!({"public.users.code": "tokenize", "public.users.*": "pass"});
    let mut fixture = Fixture::<Tokenize>::new(rules).unwrap();
    fixture.relation(&users).unwrap();
    // 40 characters are 30 bytes: 16 of the synthetic IV, 14 of the value.
    let rows = [Some("fourteen bytes"), Some("fifteen bytes!!"), None];
    let out = fixture.run(&users, &rows.map(|code| insert([("code", code)])));
    assert!(matches!(out[0].after("code"), Value::Text(token) if token.len() == 40));
    assert!(out[1].error().is_some_and(|text| text.contains("longer than the column")));
    assert_eq!(out[2].after("code"), Value::Null);
}

#[test]
fn every_refused_rule_stands_in_the_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/refusals/tokenize.txt");
    let mut told = Refusals::new(file, "Rules that `tokenize` refuses.");
    told.section("Rules");
    for (column, rule) in [
        ("s.t.a", json!("tokenise")),
        ("s.t.a", json!({"transform": "tokenize", "salt": 1})),
        ("s.t.a", json!({"transform": "tokenize", "prefix": "a b"})),
        ("s.t.a", json!({"transform": "tokenize", "domain": ""})),
        ("s.t.a", json!({"transform": "tokenize", "encoding": "rot13"})),
        ("s.t.a", json!({"transform": "pass", "prefix": "x"})),
        ("s.t.a", json!({"transform": "pass", "prefix": ""})),
        ("s.t.a", json!({"transform": "drop", "encoding": "hex"})),
        ("s.t.*", json!("tokenize")),
        ("t.a", json!("tokenize")),
    ] {
        told.case(format!("{column:?} = {rule}"), refusal(column, rule, "s.t(a text)"));
    }
    told.section("Columns");
    for relation in ["s.t(a int8)", "s.t(a citext)", "s.t(a bpchar(90))", "s.t(a varchar(22))"] {
        told.case(format!("of {relation}"), refusal("s.t.a", json!("tokenize"), relation));
    }
    told.section("Several rules");
    let hex = json!({"transform": "tokenize", "prefix": "tok_", "encoding": "hex"});
    for lead in [json!("tokenize"), hex] {
        let user = json!({"transform": "tokenize", "prefix": "tok_"});
        let rules = json!({"crm.leads.email": lead, "public.users.email": user});
        let refused = Fixture::<Tokenize>::new(rules.clone()).map(drop).unwrap_err();
        told.case(rules.to_string(), refused);
    }
    told.finish();
}

#[test]
fn the_rules_of_a_domain_write_one_token() {
    let load = |lead: Json| {
        let user = json!({"transform": "tokenize", "prefix": "tok_"});
        Fixture::<Tokenize>::new(json!({"crm.leads.email": lead, "public.users.email": user}))
    };
    for lead in [
        json!("tokenize"),
        json!({"transform": "tokenize", "prefix": "t_"}),
        json!({"transform": "tokenize", "prefix": "tok_", "encoding": "hex"}),
    ] {
        let told = load(lead).map(|_| ()).unwrap_err().to_string();
        assert!(
            told.starts_with("public.users.email: domain email has prefix = \"tok_\""),
            "{told}"
        );
        assert!(told.contains("in crm.leads.email"), "{told}");
    }
    assert!(load(json!({"transform": "tokenize", "prefix": "tok_", "domain": "email"})).is_ok());
    assert!(load(json!({"transform": "tokenize", "domain": "lead"})).is_ok());
}

#[test]
fn the_description_tells_a_token_that_is_one() {
    let described: Json = serde_json::from_str(include_str!("../plugin.json")).unwrap();
    let example = &described["transforms"][0]["example"];
    let rule = json!({"transform": "tokenize", "domain": "email", "prefix": "tok_"});
    assert_eq!(
        tokens(rule, &[example["in"].as_str().unwrap()]),
        [example["out"].as_str().unwrap()]
    );
}

proptest! {
    /// Two values have two tokens, and one has one, in whatever batch.
    #[test]
    fn tokens_are_injective(values in prop::collection::btree_set(".{0,40}", 1..20)) {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let found = tokens(json!("tokenize"), &values);
        let distinct: std::collections::BTreeSet<&String> = found.iter().collect();
        prop_assert_eq!(distinct.len(), values.len());
        prop_assert_eq!(tokens(json!("tokenize"), &values[..1]), &found[..1]);
    }
}
