//! What rules are refused, and how the rules of one domain settle.

use serde_json::json;

use super::*;

fn rules(rules: Json) -> Result<Vec<(String, Rule)>> {
    read(serde_json::from_value(rules).unwrap())
}

#[test]
fn a_wrong_rule_names_itself() {
    for (rule, want) in [
        (json!("fake_mail"), "no transform `fake_mail`; there are fake_name, "),
        (json!(3), "a rule is a transform's name"),
        (json!({"unique": true}), "a rule needs `transform"),
        (
            json!({"transform": "hash", "salt": "x"}),
            "has no option `salt`; it has length, domain, normalise",
        ),
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
        (json!({"transform": "hash", "length": "8"}), "`length` is of kind integer"),
        (json!({"transform": "hash", "length": -8}), "`length` is of kind integer"),
        (json!({"transform": "fake_email", "unique": true, "by": "row"}), "exclude one another"),
        (json!({"transform": "bool", "by": "row", "normalise": "trim"}), "`normalise` is about"),
        (json!({"transform": "choice", "values": []}), "needs `values"),
        (json!({"transform": "choice", "values": [1]}), "of kind texts"),
        (json!({"transform": "shift_date", "days": 0}), "`days` is between 1 and"),
        (json!({"transform": "noise", "ratio": 2}), "`ratio` is above 0"),
        (json!({"transform": "noise", "ratio": 0.1, "amount": 1}), "not both"),
        (json!("template"), "needs `template"),
        (json!({"transform": "template", "template": "{{if}}"}), "is not understood"),
        (json!("json"), "needs `paths"),
        (json!({"transform": "json", "paths": {"a..b": "pass"}}), "is no path"),
        (json!({"transform": "json", "paths": {"a": "template"}}), "is for whole columns"),
        (
            json!({"transform": "json", "paths": {"a": {"transform": "bool", "by": "row"}}}),
            "no `by`",
        ),
        (
            json!({"transform": "json", "paths": {"who.*": "pass", "*.ssn": "mask"}}),
            "paths *.ssn and who.* lead to one value",
        ),
        (
            json!({"transform": "json", "paths": {"$.ssn": "mask", "ssn": "pass"}}),
            "paths $.ssn and ssn lead to one value",
        ),
        (json!("password_bcrypt"), "needs `cleartext"),
        (json!({"transform": "password_scrypt", "cleartext": "x", "n": 1000}), "power of two"),
        (json!({"transform": "password_pbkdf2", "cleartext": "x", "hash": "MD5"}), "SHA256"),
        (json!({"transform": "password_argon2id", "cleartext": "x", "memory": 8}), "8 for each"),
        (json!({"transform": "fake_date_of_birth", "from": 2000, "to": 1999}), "`to` is between"),
        (json!({"transform": "fake_sentence", "max_length": 5}), "`max_length` is 12 at least"),
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
    assert_eq!(of(json!("digits")), "digits/2;domain=digits");
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

#[test]
fn a_normaliser_is_not_chosen_by_the_alphabet() {
    let two = |written: Option<&str>| {
        let mut name = json!({"transform": "fake_name", "domain": "email"});
        if let Some(written) = written {
            name["normalise"] = written.into();
        }
        rules(json!({"s.a.email": "fake_email", "s.b.name": name}))
    };
    let error = two(None).unwrap_err().to_string();
    assert!(error.starts_with("s.b.name: ") && error.contains("\"lower\" in s.a.email"), "{error}");
    let settled = two(Some("lower")).unwrap();
    for (_, rule) in settled {
        assert_eq!(rule.keying.unwrap().normaliser, Normaliser::Lower);
    }
    // What is inside JSON belongs to its domain, too.
    let inside = json!({
        "s.a.email": {"transform": "fake_email", "unique": true},
        "s.b.doc": {"transform": "json", "paths": {"mail": "fake_email"}},
    });
    let inside = rules(inside).unwrap();
    assert!(inside[1].1.paths[0].1.unique());
}

#[test]
fn the_names_of_elsewhere_are_the_same_transforms() {
    let of = |rule: &str| rules(json!({"s.t.a": rule})).unwrap()[0].1.fingerprint.clone();
    assert_eq!(of("FakeEmail"), of("fake_email"));
    assert_eq!(of("Bool"), "bool/1;domain=bool;norm=exact");
    let by = json!({"s.t.a": {"transform": "Bool", "by": ["x", "y"]}});
    assert_eq!(rules(by).unwrap()[0].1.fingerprint, r#"bool/1;domain=bool;by=["x", "y"]"#);
    let words = json!({"s.t.a": {"transform": "FakeSentence", "words": 3}});
    assert_eq!(
        rules(words).unwrap()[0].1.fingerprint,
        "fake_sentence/1;dict=1;words=3;domain=text;norm=exact"
    );
}
