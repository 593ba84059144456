//! Golden fakes: another implementation (in Python) made them, nobody may change them.
//! What reaches `Out` is seen through a plugin, the only thing that can make one.

use kasho_plugin_sdk::Value;
use kasho_plugin_sdk::testing::{Fixture, insert, table};
use serde_json::json;

use super::*;
use crate::Anonymize;

/// What one rule makes of one value.
fn fake(rule: serde_json::Value, value: &str) -> String {
    let mut fixture = Fixture::<Anonymize>::new(json!({ "s.t.a": rule })).unwrap();
    let t = table("s.t(id int8 key, a text)");
    fixture.relation(&t).unwrap();
    match fixture.run(&t, &[insert([("id", "1"), ("a", value)])])[0].after("a") {
        Value::Text(fake) => fake.to_owned(),
        other => panic!("{other:?}"),
    }
}

fn unique(transform: &str) -> serde_json::Value {
    json!({ "transform": transform, "unique": true })
}

#[test]
fn words_are_for_ever() {
    for (value, email, suffix, name, name_suffix) in [
        ("", "serena.burgess", "2mv6vvgy5bx4goru@example.com", "Lars Weaver", "ldylsai7nb2vqzlq"),
        (
            "ada@example.com",
            "francis.peterson",
            "pli6zcwawuwrz3in@example.org",
            "Moira Hunt",
            "7cikmicclxj65v6i",
        ),
    ] {
        let host = &suffix[16..];
        assert_eq!(fake(json!("fake_email"), value), format!("{email}{host}"));
        assert_eq!(fake(unique("fake_email"), value), format!("{email}.{suffix}"));
        assert_eq!(fake(json!("fake_name"), value), name);
        assert_eq!(fake(unique("fake_name"), value), format!("{name} {name_suffix}"));
        assert_eq!(fake(json!("fake_first_name"), value), name.split(' ').next().unwrap());
    }
    assert_eq!(fake(json!("fake_last_name"), "Grüße"), "Schneider");
    assert_eq!(fake(unique("fake_last_name"), "Grüße"), "Schneider e2p6g7na5o74fpqw");
    assert_eq!(
        fake(json!({"transform": "fake_email", "normalise": "exact"}), "Grüße"),
        "laura.sawyer@example.net"
    );
}

#[test]
fn hashes_are_for_ever() {
    assert_eq!(fake(json!("hash"), "ada@example.com"), "9a6e74c7fd2ce080ba22aec36f8c09cb");
    assert_eq!(fake(json!({"transform": "hash", "length": 8}), "Grüße"), "9a281a8b");
}

#[test]
fn phones_are_for_ever() {
    for (value, want) in [
        ("+1 (415) 555-0132", "+6 (915) 635-9464"),
        ("call me", "5555512439"),
        ("12", "5550732681"),
        (&"1".repeat(38), "85410118924124597757886859274981444679"),
    ] {
        assert_eq!(fake(json!("fake_phone"), value), want);
    }
    assert_eq!(fake(unique("fake_phone"), "+1 (415) 555-0132"), "+0 (876) 378-9375");
    assert_eq!(fake(unique("fake_phone"), "0000"), "4986");
}

#[test]
fn masks_keep_only_what_they_say() {
    for (first, last, value, want) in [
        (0, 4, "123-45-6789", "*******6789"),
        (1, 1, "Grüße", "G***e"),
        (2, 2, "abcd", "****"),
        (0, 0, "", ""),
        (u32::MAX as usize, 4, "abc", "***"),
        (3, 0, "日本語文字", "日本語**"),
    ] {
        let rule = json!({"transform": "mask", "keep_first": first, "keep_last": last});
        assert_eq!(fake(rule, value), want);
    }
    assert_eq!(fake(json!({"transform": "mask", "char": "█"}), "ab"), "██");
}

#[test]
fn the_longest_fake_is_known() {
    let of = |name: &str| match crate::catalog::named(name).unwrap().maker {
        crate::catalog::Maker::Fake(parts) => parts,
        other => panic!("{other:?}"),
    };
    let longest = |name: &str| super::longest(of(name), false);
    assert_eq!(longest("fake_name"), 22);
    assert_eq!(longest("fake_first_name"), 10);
    assert_eq!(longest("FakeLastName"), 11);
    assert_eq!(super::longest(of("fake_email"), true), 22 + 17 + 12);
    assert_eq!(results(of("fake_month")), 12);
    assert_eq!(results(of("fake_zip")), 99_999);
    assert!(HOSTS.iter().all(|host| host.len() == HOSTS[0].len()));
}
