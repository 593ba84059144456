//! What rules are refused, and how the rules of one domain settle.

use serde_json::json;

use super::*;

fn rules(rules: Json) -> Result<Vec<(String, Rule)>> {
    read(serde_json::from_value(rules).unwrap())
}

#[test]
fn a_wrong_rule_names_itself() {
    for (rule, want) in [
        (json!("fake_mail"), "no transform `fake_mail`; there are pass, null"),
        (json!(3), "a rule is a transform's name"),
        (json!({"unique": true}), "missing field `transform`"),
        (json!({"transform": "hash", "salt": "x"}), "unknown field `salt`"),
        (json!({"transform": "hash", "unique": true}), "has no option `unique`; it has length"),
        (json!({"transform": "pass", "char": "x"}), "has no option `char`; it has none"),
        (json!({"transform": "hash", "length": 4}), "between 8 and 32"),
        (json!({"transform": "mask", "char": "xy"}), "one character"),
        (json!("constant"), "needs `value"),
        (json!({"transform": "regex", "pattern": "(", "replacement": ""}), "`pattern`"),
        (json!({"transform": "regex", "pattern": "a"}), "needs `replacement"),
        (
            json!({"transform": "regex", "pattern": "a", "replacement": "", "on_no_match": "x"}),
            "not one of error",
        ),
        (
            json!({"transform": "regex", "pattern": "a", "replacement": "", "on_no_match": "constant"}),
            "needs `constant",
        ),
        (
            json!({"transform": "regex", "pattern": "a", "replacement": "", "constant": ""}),
            "goes with",
        ),
        (json!({"transform": "fake_email", "normalise": "upper"}), "exact, trim, lower, numeric"),
        (json!({"transform": "fake_email", "domain": ""}), "plain word"),
    ] {
        let error = rules(json!({"s.t.a": rule})).unwrap_err().to_string();
        assert!(error.starts_with("s.t.a: ") && error.contains(want), "{error}");
    }
}

#[test]
fn fingerprints_say_what_fakes_depend_on() {
    let of = |rule: Json| rules(json!({"s.t.a": rule})).unwrap()[0].1.fingerprint.clone();
    assert_eq!(of(json!("fake_email")), "fake_email/1;dict=1;domain=email;norm=lower");
    assert_eq!(
        of(json!({"transform": "fake_name", "unique": true, "domain": "p"})),
        "fake_name/1;dict=1;domain=p;norm=exact;unique"
    );
    assert_eq!(of(json!("fake_phone")), "fake_phone/1;domain=phone;norm=trim");
    assert_eq!(of(json!("hash")), "hash/1;length=32;domain=hash;norm=exact");
    assert_eq!(of(json!({"transform": "mask", "keep_last": 4})), "mask/1;first=0;last=4;char='*'");
    assert_eq!(of(json!({"transform": "constant", "value": "x"})), "constant/1;value=\"x\"");
    assert_eq!(of(json!("null")), "null/1");
}

#[test]
fn a_domain_has_one_normaliser_and_its_strongest_need() {
    let settled = rules(json!({
        "s.a.email": "fake_email",
        "s.b.email": {"transform": "fake_email", "unique": true},
        "s.c.name": {"transform": "fake_name", "domain": "email"},
        "s.d.email": {"transform": "fake_email", "domain": "other"},
    }))
    .unwrap();
    let keying = |i: usize| settled[i].1.keying.clone().unwrap();
    assert_eq!((keying(0).unique, keying(0).normaliser), (true, Normaliser::Exact));
    assert_eq!((keying(1).unique, keying(1).normaliser), (true, Normaliser::Exact));
    assert_eq!((keying(2).unique, keying(2).normaliser), (false, Normaliser::Exact));
    assert_eq!((keying(3).unique, keying(3).normaliser), (false, Normaliser::Lower));
    let torn = rules(json!({
        "s.a.email": {"transform": "fake_email", "normalise": "exact"},
        "s.b.email": {"transform": "fake_email", "normalise": "lower"},
    }));
    let error = torn.unwrap_err().to_string();
    assert!(error.starts_with("s.b.email: ") && error.contains("s.a.email"), "{error}");
}
